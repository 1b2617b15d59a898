//! TFTP from one port: every ACK is answered by a window, which the kernel cuts into packets
//! (`UDP_SEGMENT`, udp(7)).

use std::collections::HashMap;
use std::fs::File;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::Mmap;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use super::super::engine::LoadError;

/// A repeated ACK is answered again after this time: the window was lost.
const PATIENCE: Duration = Duration::from_millis(100);

/// A transfer of a file.
struct Transfer {
    map: Mmap,
    block: usize,
    window: usize,
    /// The last ACK, and the time of its answer.
    acked: usize,
    since: Option<Instant>,
}

/// Serves the files in `directory` for ever.
pub fn serve(port: u16, directory: &Path) -> Result<(), LoadError> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    let mut transfers = HashMap::new();
    let mut packet = [0; 1500];
    loop {
        let (len, SocketAddr::V4(peer)) = socket.recv_from(&mut packet)? else { continue };
        match &packet[..len] {
            [0, 1, request @ ..] => {
                let transfer = Transfer::new(request, directory)?;
                let Transfer { block, window, .. } = transfer;
                let answer = format!("\0\x06blksize\0{block}\0windowsize\0{window}\0");
                socket.send_to(answer.as_bytes(), peer)?;
                transfers.insert(peer, transfer);
            }
            [0, 4, high, low] => {
                let Some(transfer) = transfers.get_mut(&peer) else { continue };
                if transfer.advance(u16::from_be_bytes([*high, *low])) {
                    transfer.send(&socket, peer)?;
                }
                if transfer.is_over() {
                    transfers.remove(&peer);
                }
            }
            _ => {}
        }
    }
}

impl Transfer {
    fn new(request: &[u8], directory: &Path) -> Result<Self, LoadError> {
        let words: Vec<&str> = std::str::from_utf8(request)?.split('\0').collect();
        let path = directory.join(words[0].trim_start_matches('/'));
        // RFC 1350 §2: blocks have 512 bytes, if no option says otherwise.
        let block = option(&words, "blksize").unwrap_or(512);
        let window = option(&words, "windowsize").unwrap_or(1);
        // SAFETY: the file of a benchmark is not truncated.
        let map = unsafe { Mmap::map(&File::open(path)?)? };
        Ok(Self { map, block, window, acked: 0, since: None })
    }

    /// Takes an ACK; returns true if it is to be answered.
    fn advance(&mut self, number: u16) -> bool {
        let ahead = usize::from(number.wrapping_sub(self.acked as u16));
        let is_new = (1..=self.window).contains(&ahead);
        let is_repeated = ahead == 0 && self.since.is_none_or(|since| since.elapsed() > PATIENCE);
        if is_new || is_repeated {
            self.acked += ahead;
            self.since = Some(Instant::now());
        }
        is_new || is_repeated
    }

    fn last_block(&self) -> usize {
        self.map.len() / self.block + 1
    }

    fn is_over(&self) -> bool {
        self.acked >= self.last_block()
    }

    fn send(&self, socket: &UdpSocket, peer: SocketAddrV4) -> Result<(), LoadError> {
        let last = (self.acked + self.window).min(self.last_block());
        let headers: Vec<[u8; 4]> =
            (self.acked + 1..=last).map(|block| [0, 3, (block >> 8) as u8, block as u8]).collect();
        let payload = self.map.get(self.acked * self.block..).unwrap_or_default();
        let payload = payload.chunks(self.block).chain([&[][..]]);
        let areas: Vec<IoSlice<'_>> = headers
            .iter()
            .zip(payload)
            .flat_map(|(header, data)| [IoSlice::new(header), IoSlice::new(data)])
            .collect();
        // udp(7), UDP_SEGMENT: one call sends at most 64 datagrams. Together they are no longer
        // than one datagram may be: 65,507 bytes of payload.
        let segment = 4 + self.block;
        for message in areas.chunks(2 * (65_507 / segment).min(64)) {
            let control = [ControlMessage::UdpGsoSegments(&(segment as u16))];
            let control = &control[..usize::from(message.len() > 2)];
            sendmsg(socket.as_raw_fd(), message, control, MsgFlags::empty(), Some(&SockaddrIn::from(peer)))?;
        }
        Ok(())
    }
}

/// Reads the value of an option of a request.
fn option(words: &[&str], name: &str) -> Option<usize> {
    let at = words.iter().position(|word| *word == name)?;
    words.get(at + 1)?.parse().ok()
}
