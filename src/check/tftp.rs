//! A client of the TFTP door: `blksize`, `windowsize` and `tsize` are negotiated, as good firmware does.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::doors::Doors;
use super::original::{Expected, Fault, Original, Tally};
use crate::boot::generated::MENU_PATH;
use crate::codec::Reader;
use crate::image::NodeId;
use crate::tftp::wire::{Mode, Packet, Request, TransferOption};

/// What an Ethernet frame has room for.
const BLKSIZE: u16 = 1468;
const WINDOWSIZE: u16 = 16;

/// Largest datagram that is understood: a block and its header, or an error with its text.
const DATAGRAM: usize = 2048;

/// After this silence the last acknowledgement is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// Loads the menu, and every file but the root images: whatever firmware may ask for.
///
/// # Errors
/// [`Fault`] says what is wrong with the door.
pub async fn check(doors: &Doors, original: &Original, tally: &mut Tally) -> Result<(), Fault> {
    let menu = original.made(MENU_PATH, doors.menu());
    *tally += load(doors.tftp, MENU_PATH.as_bytes(), menu, original).await?;
    for node in files(doors, original) {
        let path = original.image.index.path(node);
        *tally += load(doors.tftp, &path, original.file(node), original).await?;
    }
    Ok(())
}

/// Bytes of files that [`check`] loads.
pub fn work(doors: &Doors, original: &Original) -> u64 {
    files(doors, original).map(|node| original.image.index.node(node).size()).sum()
}

fn files(doors: &Doors, original: &Original) -> impl Iterator<Item = NodeId> {
    original.boot_files().filter(|&node| doors.is_reachable(&original.image.index.path(node)))
}

async fn load(
    server: SocketAddr,
    path: &[u8],
    expected: Expected<'_>,
    original: &Original,
) -> Result<Tally, Fault> {
    Transfer::open(server, path, expected, original.patience).await?.run().await
}

/// A file on its way.
struct Transfer<'a> {
    socket: UdpSocket,
    /// Where the server sends from: its transfer identifier.
    peer: SocketAddr,
    expected: Expected<'a>,
    patience: Duration,
    blksize: usize,
    windowsize: u16,
    /// The block that was acknowledged last, modulo 65536.
    acknowledged: u16,
    /// The last block in order, likewise.
    block: u16,
}

/// What a datagram was.
enum Step {
    /// A block in order.
    Block { is_last: bool },
    /// One that came before or comes too early: the server has to go back.
    Stray,
}

impl<'a> Transfer<'a> {
    /// Asks for a file and agrees on the options.
    async fn open(
        server: SocketAddr,
        path: &[u8],
        expected: Expected<'a>,
        patience: Duration,
    ) -> Result<Self, Fault> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Fault::Broken)?;
        let (blksize, windowsize) = (BLKSIZE.into(), WINDOWSIZE);
        let mut transfer =
            Self { socket, peer: server, expected, patience, blksize, windowsize, acknowledged: 0, block: 0 };
        let options = vec![
            TransferOption::Blksize(BLKSIZE),
            TransferOption::Windowsize(WINDOWSIZE),
            TransferOption::Tsize(0),
        ];
        let request = Packet::Rrq(Request { filename: path, mode: Mode::Octet, options });
        let mut datagram = [0; DATAGRAM];
        let (len, peer) = transfer.exchange(&request, &mut datagram).await?;
        transfer.peer = peer;
        transfer.agree(datagram.get(..len).unwrap_or_default())?;
        Ok(transfer)
    }

    /// RFC 2347: the server acknowledges what it takes of the options.
    fn agree(&mut self, datagram: &[u8]) -> Result<(), Fault> {
        let options = match self.parse(datagram)? {
            Packet::Oack(options) => options,
            other => return Err(self.wrong(&format!("is answered with {other} instead of an OACK"))),
        };
        for option in &options {
            match *option {
                TransferOption::Blksize(size) if size <= BLKSIZE => self.blksize = size.into(),
                TransferOption::Windowsize(blocks) if blocks <= WINDOWSIZE => self.windowsize = blocks,
                TransferOption::Tsize(size) => self.expected.has_size(size)?,
                other => return Err(self.wrong(&format!("is offered with {other}, which was not asked for"))),
            }
        }
        if options.len() == 3 {
            Ok(())
        } else {
            Err(self.wrong("is offered without the options that were asked for"))
        }
    }

    /// Takes block after block; returns how much was right.
    async fn run(mut self) -> Result<Tally, Fault> {
        let mut datagram = [0; DATAGRAM];
        let mut since = Instant::now();
        self.acknowledge().await?;
        while since.elapsed() < self.patience {
            let Some(len) = self.receive(&mut datagram).await? else {
                self.acknowledge().await?;
                continue;
            };
            match self.step(datagram.get(..len).unwrap_or_default())? {
                Step::Stray => continue,
                Step::Block { is_last: false } => since = Instant::now(),
                Step::Block { is_last: true } => {
                    self.acknowledge().await?;
                    return self.expected.finish();
                }
            }
            if self.block.wrapping_sub(self.acknowledged) >= self.windowsize {
                self.acknowledge().await?;
            }
        }
        Err(Fault::Stuck(self.patience))
    }

    fn step(&mut self, datagram: &[u8]) -> Result<Step, Fault> {
        let (block, data) = match self.parse(datagram)? {
            Packet::Data { block, data } => (block, data),
            // The OACK again: our acknowledgement was slow.
            Packet::Oack(_) => return Ok(Step::Stray),
            other => return Err(self.wrong(&format!("is answered with {other}"))),
        };
        if block != self.block.wrapping_add(1) {
            return Ok(Step::Stray);
        }
        if data.len() > self.blksize {
            return Err(self.wrong("comes in blocks larger than agreed"));
        }
        self.expected.take(data)?;
        self.block = block;
        Ok(Step::Block { is_last: data.len() < self.blksize })
    }

    fn parse<'d>(&self, datagram: &'d [u8]) -> Result<Packet<'d>, Fault> {
        Packet::parse(&mut Reader::new(datagram))
            .map_err(|malformed| self.wrong(&format!("is answered oddly: {malformed}")))
    }

    fn wrong(&self, what: &str) -> Fault {
        Fault::Wrong { path: self.expected.path().to_owned(), what: what.to_owned() }
    }

    async fn acknowledge(&mut self) -> Result<(), Fault> {
        self.acknowledged = self.block;
        self.send(&Packet::Ack { block: self.block }).await
    }

    async fn send(&self, packet: &Packet<'_>) -> Result<(), Fault> {
        let mut out = BytesMut::new();
        packet.emit(&mut out);
        self.socket.send_to(&out, self.peer).await.map(drop).map_err(Fault::Broken)
    }

    /// Sends a request until something comes back.
    async fn exchange(
        &self,
        packet: &Packet<'_>,
        datagram: &mut [u8; DATAGRAM],
    ) -> Result<(usize, SocketAddr), Fault> {
        let since = Instant::now();
        while since.elapsed() < self.patience {
            self.send(packet).await?;
            let received = tokio::time::timeout(self.turn(), self.socket.recv_from(datagram)).await;
            if let Ok(received) = received {
                return received.map_err(Fault::Broken);
            }
        }
        Err(Fault::Stuck(self.patience))
    }

    /// The length of a datagram of our peer's; `None` when there was silence.
    async fn receive(&self, datagram: &mut [u8; DATAGRAM]) -> Result<Option<usize>, Fault> {
        loop {
            match tokio::time::timeout(self.turn(), self.socket.recv_from(datagram)).await {
                Ok(Ok((len, peer))) if peer == self.peer => return Ok(Some(len)),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(Fault::Broken(error)),
                Err(_) => return Ok(None),
            }
        }
    }

    /// How long to wait before something is said again.
    fn turn(&self) -> Duration {
        REPEAT_AFTER.min(self.patience)
    }
}
