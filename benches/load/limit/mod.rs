//! Servers that show the limit: they only batch and send, on one thread, without limits, residency
//! checks and counting. They trust their clients and their files.

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

use super::engine::LoadError;

/// The protocol of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    Nbd,
    Nfs,
    Tftp,
}

/// Way in which payload is sent; TFTP always uses a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SendMethod {
    /// One `writev` of headers and parts of a mapping.
    Mapping,
    /// A header with `MSG_MORE`, then `sendfile`.
    Sendfile,
}

/// Memory areas of one `writev` (`IOV_MAX`).
const AREAS: usize = 1024;

/// Most bytes of one `writev`, so that other clients have their turn.
const TURN: usize = 1 << 20;

const LISTENER: u64 = u64::MAX;

struct Client {
    socket: TcpStream,
    state: PeerState,
    input: Vec<u8>,
    /// Replies that have not been sent in full.
    replies: VecDeque<Reply>,
    /// Bytes of the first reply that have been sent.
    sent: usize,
    is_blocked: bool,
}

/// State of a client's protocol.
#[derive(Clone, Copy)]
enum PeerState {
    /// NBD handshake; holds the size of the export.
    NbdGreeting(u64),
    Nbd,
    /// The size of the file.
    Nfs(u64),
}

/// A header, and the range of the file that follows it.
#[derive(Default)]
struct Reply {
    header: Header,
    offset: u64,
    len: usize,
}

/// A header of up to 160 bytes.
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

/// Serves the file at `path`, or for TFTP the files below it, for ever.
pub fn serve(protocol: Protocol, port: u16, path: &Path, method: SendMethod) -> Result<(), LoadError> {
    match protocol {
        Protocol::Nbd => serve_streams(port, path, method, PeerState::NbdGreeting),
        Protocol::Nfs => serve_streams(port, path, method, PeerState::Nfs),
        Protocol::Tftp => tftp::serve(port, path),
    }
}

/// Serves TCP clients. `state` makes the first state of a client from the size of the file.
fn serve_streams(
    port: u16,
    path: &Path,
    method: SendMethod,
    state: fn(u64) -> PeerState,
) -> Result<(), LoadError> {
    let file = &File::open(path)?;
    // SAFETY: the file of a benchmark is not truncated. Elsewhere a mapping as a slice would be
    // unsound.
    let map = unsafe { Mmap::map(file)? };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    let state = state(map.len() as u64);
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
                accept(&listener, &epoll, &mut clients, state)?;
                continue;
            }
            let Some(client) = &mut clients[i as usize] else { continue };
            let lives = client.work(&mut input, &map, file, method);
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
    state: PeerState,
) -> Result<(), LoadError> {
    loop {
        let mut socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        if matches!(state, PeerState::NbdGreeting(_)) {
            let _ = socket.write(nbd::GREETING)?;
        }
        epoll::add(epoll, &socket, EventData::new_u64(clients.len() as u64), EventFlags::IN)?;
        let (input, replies) = (Vec::new(), VecDeque::new());
        let client = Client { socket, state, input, replies, sent: 0, is_blocked: false };
        clients.push(Some(client));
    }
}

impl Client {
    /// Receives and sends; returns false once the client is gone.
    fn work(&mut self, buffer: &mut [u8], map: &Mmap, file: &File, method: SendMethod) -> io::Result<bool> {
        if !self.is_blocked {
            match self.socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => self.hear(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let sent = match method {
            SendMethod::Mapping => self.send_mapping(map),
            SendMethod::Sendfile => self.send_file(file),
        };
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(true),
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.extend_from_slice(bytes);
        match self.state {
            PeerState::NbdGreeting(size) => {
                if let Some(answer) = nbd::attach(&mut self.input, size) {
                    self.socket.write_all(&answer)?;
                    self.state = PeerState::Nbd;
                }
            }
            PeerState::Nbd => nbd::take(&mut self.input, &mut self.replies),
            PeerState::Nfs(size) => nfs::take(&mut self.input, &mut self.replies, size),
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
