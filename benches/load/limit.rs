//! What is reachable: an NBD server that does nothing but batch. One thread, no limits, no look at the page cache, no
//! counting; trusts its client and its file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use memmap2::Mmap;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::SendFlags;

use super::engine::Fault;

/// How payload leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// One `writev` of headers and parts of a mapping.
    Mapping,
    /// A header with `MSG_MORE`, then `sendfile`.
    Sendfile,
}

/// Memory areas of one `writev` (`IOV_MAX`).
const AREAS: usize = 1024;

/// Bytes of one `writev` at most, as for the real server: others want their turn.
const TURN: usize = 1 << 20;

const LISTENER: u64 = u64::MAX;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

struct Client {
    socket: TcpStream,
    is_attached: bool,
    input: Vec<u8>,
    /// Header and place of each reply that has not left.
    replies: VecDeque<([u8; 16], u64, usize)>,
    /// Bytes of the first that have left.
    sent: usize,
    is_blocked: bool,
}

/// Serves `file` for ever.
pub fn serve(port: u16, file: &File, way: Way) -> Result<(), Fault> {
    // SAFETY: nobody truncates the file of a benchmark; that the mapping is a slice here is what makes this server
    // unfit for anything else.
    let map = unsafe { Mmap::map(file)? };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut input = vec![0; 64 << 10];
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let i = event.data.u64();
            if i == LISTENER {
                accept(&listener, &epoll, &mut clients, map.len() as u64)?;
                continue;
            }
            let Some(client) = &mut clients[i as usize] else { continue };
            let lives = client.work(&mut input, &map, file, way);
            if !matches!(lives, Ok(true)) {
                clients[i as usize] = None;
                continue;
            }
            let is_blocked = !client.replies.is_empty();
            if is_blocked != std::mem::replace(&mut client.is_blocked, is_blocked) {
                let wanted = if is_blocked { EventFlags::OUT } else { EventFlags::IN };
                epoll::modify(&epoll, &client.socket, EventData::new_u64(i), wanted)?;
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    epoll: &rustix::fd::OwnedFd,
    clients: &mut Vec<Option<Client>>,
    size: u64,
) -> Result<(), Fault> {
    loop {
        let mut socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        // Fixed newstyle, no zeroes.
        let _ = socket.write(b"NBDMAGICIHAVEOPT\0\x03")?;
        epoll::add(epoll, &socket, EventData::new_u64(clients.len() as u64), EventFlags::IN)?;
        let (input, replies) = (size.to_be_bytes().to_vec(), VecDeque::new());
        let client = Client { socket, is_attached: false, input, replies, sent: 0, is_blocked: false };
        clients.push(Some(client));
    }
}

impl Client {
    /// False when the client is gone.
    fn work(&mut self, buffer: &mut [u8], map: &Mmap, file: &File, way: Way) -> io::Result<bool> {
        if !self.is_blocked {
            match self.socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(n) if self.is_attached => self.take(&buffer[..n]),
                Ok(n) => self.greet(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let sent = match way {
            Way::Mapping => self.send_mapping(map),
            Way::Sendfile => self.send_file(file),
        };
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(true),
        }
    }

    /// Answers `NBD_OPT_GO`, whatever it names, once flags, header and data are there. The size waits in the input.
    fn greet(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.extend_from_slice(bytes);
        let Some(header) = self.input.get(8 + 4..8 + 4 + 16) else { return Ok(()) };
        let len = u32::from_be_bytes([header[12], header[13], header[14], header[15]]) as usize;
        if self.input.len() < 28 + len {
            return Ok(());
        }
        let reply = |kind: u32, data: &[u8]| {
            let head =
                [OPTION_REPLY_MAGIC.to_be_bytes(), (7_u64 << 32 | u64::from(kind)).to_be_bytes()].concat();
            [&head, &(data.len() as u32).to_be_bytes()[..], data].concat()
        };
        // NBD_INFO_EXPORT: size, and flags that say read-only.
        let info = [&[0, 0], &self.input[..8], &[0, 3]].concat();
        self.socket.write_all(&[reply(3, &info), reply(1, &[])].concat())?;
        self.is_attached = true;
        self.input.clear();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        let whole = self.input.len() / 28 * 28;
        for request in self.input[..whole].chunks_exact(28) {
            let mut header = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            header[8..].copy_from_slice(&request[8..16]);
            let [offset, rest] = [&request[16..24], &request[24..28]];
            let offset = offset.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            let len = rest.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
            self.replies.push_back((header, offset, len));
        }
        self.input.drain(..whole);
    }

    fn send_mapping(&mut self, map: &Mmap) -> io::Result<()> {
        while !self.replies.is_empty() {
            let mut areas = Vec::with_capacity(AREAS);
            let (mut skip, mut wanted) = (self.sent, 0);
            for (header, offset, len) in &self.replies {
                if areas.len() + 2 > AREAS || wanted >= TURN {
                    break;
                }
                let payload = &map[*offset as usize..*offset as usize + len];
                for area in [&header[..], payload] {
                    let skipped = skip.min(area.len());
                    skip -= skipped;
                    wanted += area.len() - skipped;
                    areas.push(IoSlice::new(&area[skipped..]));
                }
            }
            let sent = (&self.socket).write_vectored(&areas)?;
            self.advance(sent);
        }
        Ok(())
    }

    fn send_file(&mut self, file: &File) -> io::Result<()> {
        while let Some((header, offset, len)) = self.replies.front() {
            let sent = if self.sent < header.len() {
                rustix::net::send(&self.socket, &header[self.sent..], SendFlags::MORE | SendFlags::NOSIGNAL)?
            } else {
                let sent = self.sent - header.len();
                rustix::fs::sendfile(&self.socket, file, Some(&mut (offset + sent as u64)), len - sent)?
            };
            self.advance(sent);
        }
        Ok(())
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent;
        while let Some((header, _, len)) = self.replies.front() {
            let whole = header.len() + len;
            if self.sent < whole {
                return;
            }
            self.sent -= whole;
            self.replies.pop_front();
        }
    }
}
