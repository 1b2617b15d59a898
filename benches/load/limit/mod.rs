//! What is reachable: servers that do nothing but batch. One thread, no limits, no look at the page cache, no counting;
//! they trust their clients and their files.

mod nbd;
mod nfs;
mod tftp;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;

use memmap2::Mmap;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::SendFlags;

use super::engine::Fault;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Door {
    Nbd,
    Nfs,
    Tftp,
}

/// How payload leaves (of TFTP always from a mapping).
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

struct Client {
    socket: TcpStream,
    speech: Speech,
    input: Vec<u8>,
    /// What has not left.
    replies: VecDeque<Reply>,
    /// Bytes of the first that have left.
    sent: usize,
    is_blocked: bool,
}

/// What a client is to hear.
#[derive(Clone, Copy)]
enum Speech {
    /// The size of the export, once it asks.
    NbdGreeting(u64),
    Nbd,
    /// The size of the file.
    Nfs(u64),
}

/// A header, and where in the file the payload lies that follows it.
#[derive(Default)]
struct Reply {
    header: Header,
    offset: u64,
    len: usize,
}

/// Up to 160 bytes.
struct Header {
    bytes: [u8; 160],
    len: usize,
}

impl Default for Header {
    fn default() -> Self {
        Self { bytes: [0; 160], len: 0 }
    }
}

impl Header {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl std::ops::Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Serves the file at `path`, or for TFTP what lies below it, for ever.
pub fn serve(door: Door, port: u16, path: &Path, way: Way) -> Result<(), Fault> {
    match door {
        Door::Nbd => serve_streams(port, path, way, Speech::NbdGreeting),
        Door::Nfs => serve_streams(port, path, way, Speech::Nfs),
        Door::Tftp => tftp::serve(port, path),
    }
}

/// `speech` makes of the size of the file what every client hears first.
fn serve_streams(port: u16, path: &Path, way: Way, speech: fn(u64) -> Speech) -> Result<(), Fault> {
    let file = &File::open(path)?;
    // SAFETY: nobody truncates the file of a benchmark; that the mapping is a slice here is what makes this server
    // unfit for anything else.
    let map = unsafe { Mmap::map(file)? };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let speech = speech(map.len() as u64);
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
                accept(&listener, &epoll, &mut clients, speech)?;
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
    speech: Speech,
) -> Result<(), Fault> {
    loop {
        let mut socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        if matches!(speech, Speech::NbdGreeting(_)) {
            let _ = socket.write(nbd::GREETING)?;
        }
        epoll::add(epoll, &socket, EventData::new_u64(clients.len() as u64), EventFlags::IN)?;
        let (input, replies) = (Vec::new(), VecDeque::new());
        let client = Client { socket, speech, input, replies, sent: 0, is_blocked: false };
        clients.push(Some(client));
    }
}

impl Client {
    /// False when the client is gone.
    fn work(&mut self, buffer: &mut [u8], map: &Mmap, file: &File, way: Way) -> io::Result<bool> {
        if !self.is_blocked {
            match self.socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => self.hear(&buffer[..n])?,
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

    fn hear(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.extend_from_slice(bytes);
        match self.speech {
            Speech::NbdGreeting(size) => {
                if let Some(answer) = nbd::attach(&mut self.input, size) {
                    self.socket.write_all(&answer)?;
                    self.speech = Speech::Nbd;
                }
            }
            Speech::Nbd => nbd::take(&mut self.input, &mut self.replies),
            Speech::Nfs(size) => nfs::take(&mut self.input, &mut self.replies, size),
        }
        Ok(())
    }

    fn send_mapping(&mut self, map: &Mmap) -> io::Result<()> {
        while !self.replies.is_empty() {
            let mut areas = Vec::with_capacity(AREAS);
            let (mut skip, mut wanted) = (self.sent, 0);
            for Reply { header, offset, len } in &self.replies {
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
        while let Some(Reply { header, offset, len }) = self.replies.front() {
            let sent = if self.sent < header.len() {
                let more = if *len > 0 { SendFlags::MORE } else { SendFlags::empty() };
                rustix::net::send(&self.socket, &header[self.sent..], more | SendFlags::NOSIGNAL)?
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
        while let Some(Reply { header, len, .. }) = self.replies.front() {
            let whole = header.len() + len;
            if self.sent < whole {
                return;
            }
            self.sent -= whole;
            self.replies.pop_front();
        }
    }
}
