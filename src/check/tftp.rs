//! TFTP client: negotiates `blksize`, `windowsize` and `tsize`, as UEFI firmware does.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::original::{CheckTally, Expected, Original, VerifyError};
use super::servers::CheckedServers;
use crate::boot::generated::MENU_PATH;
use crate::codec::Reader;
use crate::image::NodeId;
use crate::tftp::wire::{Packet, TftpRequest, TransferMode, TransferOption};

/// Largest block in an Ethernet frame; EDK2 asks for it too.
const BLKSIZE: u16 = 1468;
/// Blocks per acknowledgement (RFC 7440); EDK2 asks for 4.
const WINDOWSIZE: u16 = 16;

/// Largest accepted datagram: a block and its header, or an error with its text.
const DATAGRAM: usize = 2048;

/// Silence after which the last acknowledgement is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// Loads the menu and all files except root images, which no firmware loads.
///
/// # Errors
/// [`VerifyError`] of the first fault that is found.
pub(super) async fn check(
    servers: &CheckedServers,
    original: &Original,
    tally: &mut CheckTally,
) -> Result<(), VerifyError> {
    let menu = original.generated(MENU_PATH, servers.menu());
    *tally += load(servers.tftp, MENU_PATH.as_bytes(), menu, original).await?;
    for node in files(servers, original) {
        let path = original.image.index.path(node);
        *tally += load(servers.tftp, &path, original.file(node), original).await?;
    }
    Ok(())
}

/// Returns the number of bytes that [`check`] loads.
pub(super) fn work(servers: &CheckedServers, original: &Original) -> u64 {
    files(servers, original).map(|node| original.image.index.node(node).size()).sum()
}

fn files(servers: &CheckedServers, original: &Original) -> impl Iterator<Item = NodeId> {
    original.boot_files().filter(|&node| servers.is_reachable(&original.image.index.path(node)))
}

async fn load(
    server: SocketAddr,
    path: &[u8],
    expected: Expected<'_>,
    original: &Original,
) -> Result<CheckTally, VerifyError> {
    Download::open(server, path, expected, original.patience).await?.run().await
}

/// Running download.
struct Download<'a> {
    socket: UdpSocket,
    /// Address of the server; its port is the transfer identifier (RFC 1350 §4).
    peer: SocketAddr,
    expected: Expected<'a>,
    patience: Duration,
    blksize: usize,
    windowsize: u16,
    /// Last acknowledged block, modulo 65536.
    acknowledged: u16,
    /// Last block received in order, modulo 65536.
    block: u16,
}

/// Meaning of a received datagram.
enum ReceivedBlock {
    /// A block in order.
    Block { is_last: bool },
    /// A repeated block, or one after a gap; the server has to go back.
    Stray,
}

impl<'a> Download<'a> {
    /// Requests a file and negotiates the options.
    async fn open(
        server: SocketAddr,
        path: &[u8],
        expected: Expected<'a>,
        patience: Duration,
    ) -> Result<Self, VerifyError> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(VerifyError::Broken)?;
        let (blksize, windowsize) = (BLKSIZE.into(), WINDOWSIZE);
        let mut transfer =
            Self { socket, peer: server, expected, patience, blksize, windowsize, acknowledged: 0, block: 0 };
        let options = vec![
            TransferOption::Blksize(BLKSIZE),
            TransferOption::Windowsize(WINDOWSIZE),
            // RFC 2349: 0 asks for the size.
            TransferOption::Tsize(0),
        ];
        let request = Packet::Rrq(TftpRequest { filename: path, mode: TransferMode::Octet, options });
        let mut datagram = [0; DATAGRAM];
        let (len, peer) = transfer.exchange(&request, &mut datagram).await?;
        // RFC 1350 §4: the server's port of this transfer is the one that it answers from.
        transfer.peer = peer;
        transfer.agree(datagram.get(..len).unwrap_or_default())?;
        Ok(transfer)
    }

    /// Applies the options that the server acknowledged (RFC 2347).
    fn agree(&mut self, datagram: &[u8]) -> Result<(), VerifyError> {
        let options = match self.parse(datagram)? {
            Packet::Oack(options) => options,
            other => return Err(self.wrong(&format!("is answered with {other} instead of an OACK"))),
        };
        // lpxelinux gives up over an option that it did not request.
        for option in &options {
            match *option {
                // RFC 2348, RFC 7440 §3: the server may lower both values.
                TransferOption::Blksize(size) if size <= BLKSIZE => self.blksize = size.into(),
                TransferOption::Windowsize(blocks) if blocks <= WINDOWSIZE => self.windowsize = blocks,
                TransferOption::Tsize(size) => self.expected.has_size(size)?,
                other => return Err(self.wrong(&format!("is offered with {other}, which was not requested"))),
            }
        }
        if options.len() == 3 { Ok(()) } else { Err(self.wrong("is offered without the requested options")) }
    }

    /// Receives all blocks and returns the amount that matched.
    async fn run(mut self) -> Result<CheckTally, VerifyError> {
        let mut datagram = [0; DATAGRAM];
        let mut since = Instant::now();
        // RFC 2347: ACK 0 accepts the OACK.
        self.acknowledge().await?;
        while since.elapsed() < self.patience {
            let Some(len) = self.receive(&mut datagram).await? else {
                // A block or our ACK was lost: the same ACK makes the server send again.
                self.acknowledge().await?;
                continue;
            };
            match self.step(datagram.get(..len).unwrap_or_default())? {
                // An ACK for each would make the server send everything twice.
                ReceivedBlock::Stray => continue,
                ReceivedBlock::Block { is_last: false } => since = Instant::now(),
                ReceivedBlock::Block { is_last: true } => {
                    self.acknowledge().await?;
                    return self.expected.finish();
                }
            }
            // RFC 7440 §4: one ACK for a window.
            if self.block.wrapping_sub(self.acknowledged) >= self.windowsize {
                self.acknowledge().await?;
            }
        }
        Err(VerifyError::Stuck(self.patience))
    }

    /// Takes a datagram of the server.
    fn step(&mut self, datagram: &[u8]) -> Result<ReceivedBlock, VerifyError> {
        let (block, data) = match self.parse(datagram)? {
            Packet::Data { block, data } => (block, data),
            // RFC 2347: a repeated OACK means that our acknowledgement was late or lost.
            Packet::Oack(_) => return Ok(ReceivedBlock::Stray),
            other => return Err(self.wrong(&format!("is answered with {other}"))),
        };
        // Block numbers go on from 65535 with 0. No RFC says so, but files of more than 96 MB need
        // it.
        if block != self.block.wrapping_add(1) {
            return Ok(ReceivedBlock::Stray);
        }
        if data.len() > self.blksize {
            return Err(self.wrong("comes in blocks larger than agreed"));
        }
        self.expected.take(data)?;
        self.block = block;
        // RFC 1350 §6: a block that is not full ends the transfer.
        Ok(ReceivedBlock::Block { is_last: data.len() < self.blksize })
    }

    fn parse<'d>(&self, datagram: &'d [u8]) -> Result<Packet<'d>, VerifyError> {
        Packet::parse(&mut Reader::new(datagram))
            .map_err(|malformed| self.wrong(&format!("is answered with a malformed packet: {malformed}")))
    }

    fn wrong(&self, what: &str) -> VerifyError {
        VerifyError::Wrong { path: self.expected.path().to_owned(), what: what.to_owned() }
    }

    async fn acknowledge(&mut self) -> Result<(), VerifyError> {
        self.acknowledged = self.block;
        self.send(&Packet::Ack { block: self.block }).await
    }

    async fn send(&self, packet: &Packet<'_>) -> Result<(), VerifyError> {
        let mut out = BytesMut::new();
        packet.emit(&mut out);
        self.socket.send_to(&out, self.peer).await.map(drop).map_err(VerifyError::Broken)
    }

    /// Repeats a request until a reply arrives.
    async fn exchange(
        &self,
        packet: &Packet<'_>,
        datagram: &mut [u8; DATAGRAM],
    ) -> Result<(usize, SocketAddr), VerifyError> {
        let since = Instant::now();
        while since.elapsed() < self.patience {
            self.send(packet).await?;
            // Any port: the server answers from a new one.
            let received = tokio::time::timeout(self.turn(), self.socket.recv_from(datagram)).await;
            if let Ok(received) = received {
                return received.map_err(VerifyError::Broken);
            }
        }
        Err(VerifyError::Stuck(self.patience))
    }

    /// Receives a datagram of our peer; `None` after a silence.
    async fn receive(&self, datagram: &mut [u8; DATAGRAM]) -> Result<Option<usize>, VerifyError> {
        loop {
            match tokio::time::timeout(self.turn(), self.socket.recv_from(datagram)).await {
                Ok(Ok((len, peer))) if peer == self.peer => return Ok(Some(len)),
                // RFC 1350 §4: a datagram from another port belongs to another transfer.
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(VerifyError::Broken(error)),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Returns the time until a packet is repeated.
    fn turn(&self) -> Duration {
        REPEAT_AFTER.min(self.patience)
    }
}
