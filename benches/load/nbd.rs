//! The NBD client: fixed newstyle handshake with `NBD_OPT_GO`, then simple replies.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::{ClientProtocol, Connection, Engine, LoadError, Pending, Reply};
use super::random::Random;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const CMD_READ: u16 = 0;
pub const CMD_DISC: u16 = 2;

/// Connections whose handshakes overlap: fewer than the backlog of nbd-server.
const TOGETHER: usize = 8;

/// Longest wait for a server.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Order of reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    Random,
    Sequential,
    /// Far apart, and no block twice as long as there are others: for a disk that is not cached.
    Scattered,
}

/// Distance of scattered reads, in blocks of the client: a prime number.
const STRIDE: u64 = 1_000_003;

/// Reads of a load.
#[derive(Debug, Clone)]
pub struct Reads {
    pub file: Arc<File>,
    /// The part of the file that is read, in bytes.
    pub area: std::ops::Range<u64>,
    pub len: usize,
    pub pattern: Pattern,
    /// Number of clients, of which each has scattered reads of its own.
    pub clients: usize,
}

pub struct Nbd {
    reads: Reads,
    random: Random,
    next: u64,
    number: u64,
}

impl Nbd {
    /// Makes the `i`th client; each begins at another place.
    pub fn new(reads: &Reads, i: usize) -> Self {
        let blocks = (reads.area.end - reads.area.start) / reads.len as u64;
        let number = i as u64;
        Self { reads: reads.clone(), random: Random::new(number), next: number * 7919 % blocks, number }
    }

    fn next_offset(&mut self) -> u64 {
        let blocks = (self.reads.area.end - self.reads.area.start) / self.reads.len as u64;
        let block = match self.reads.pattern {
            Pattern::Random => self.random.below(blocks),
            Pattern::Sequential => {
                self.next = (self.next + 1) % blocks;
                self.next
            }
            Pattern::Scattered => {
                let clients = self.reads.clients as u64;
                self.next = (self.next + STRIDE) % (blocks / clients);
                self.next * clients + self.number % clients
            }
        };
        self.reads.area.start + block * self.reads.len as u64
    }
}

impl ClientProtocol for Nbd {
    fn ask(&mut self, slot: usize, out: &mut Vec<u8>) -> Pending {
        let (offset, len) = (self.next_offset(), self.reads.len);
        out.extend_from_slice(&request(CMD_READ, slot as u64, offset, len as u32));
        Pending { offset, len, since: Instant::now() }
    }

    fn reply(&self, bytes: &[u8]) -> Result<Option<Reply>, LoadError> {
        let Some(head) = bytes.get(..16) else { return Ok(None) };
        if head[..4] != REPLY_MAGIC.to_be_bytes() || head[4..8] != [0; 4] {
            return Err(format!("not a simple reply without error: {head:?}").into());
        }
        let slot = u64::from_be_bytes(head[8..].try_into()?) as usize;
        Ok(Some(Reply { head: 16, slot, body: self.reads.len }))
    }

    fn is_right(&self, asked: &Pending, _: &[u8], body: &[u8]) -> bool {
        let mut expected = vec![0; asked.len];
        self.reads.file.read_exact_at(&mut expected, asked.offset).is_ok() && body == expected
    }

    fn payload(&self) -> usize {
        self.reads.len
    }
}

pub fn request(command: u16, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// That many clients attached to the export, a few at a time.
pub fn attach(server: SocketAddr, export: &str, count: usize) -> Result<Vec<TcpStream>, LoadError> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        sockets.extend(attach_together(server, export, TOGETHER.min(count - sockets.len()))?);
    }
    Ok(sockets)
}

/// That many clients attached to the export, all at once.
pub fn attach_together(server: SocketAddr, export: &str, count: usize) -> Result<Vec<TcpStream>, LoadError> {
    let sockets: Vec<_> = (0..count).map(|_| connect(server)).collect::<Result<_, _>>()?;
    // The steps of all, in turn, so that the server has them all at hand.
    sockets.iter().try_for_each(greet)?;
    sockets.iter().try_for_each(|socket| choose(socket, export))?;
    sockets.iter().try_for_each(settle)?;
    Ok(sockets)
}

fn connect(server: SocketAddr) -> Result<TcpStream, LoadError> {
    let socket = TcpStream::connect_timeout(&server, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn greet(mut socket: &TcpStream) -> Result<(), LoadError> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    if &greeting[..16] == b"NBDMAGICIHAVEOPT" { Ok(()) } else { Err("no NBD server".into()) }
}

fn choose(mut socket: &TcpStream, export: &str) -> Result<(), LoadError> {
    // Client flags: fixed newstyle, no zeroes. No information is asked for besides what always
    // comes.
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(b"IHAVEOPT");
    bytes.extend_from_slice(&OPT_GO.to_be_bytes());
    bytes.extend_from_slice(&(export.len() as u32 + 6).to_be_bytes());
    bytes.extend_from_slice(&(export.len() as u32).to_be_bytes());
    bytes.extend_from_slice(export.as_bytes());
    bytes.extend_from_slice(&[0; 2]);
    Ok(socket.write_all(&bytes)?)
}

fn settle(mut socket: &TcpStream) -> Result<(), LoadError> {
    loop {
        let mut head = [0; 20];
        socket.read_exact(&mut head)?;
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[..8] != OPTION_REPLY_MAGIC.to_be_bytes() {
            return Err("not a reply to an option".into());
        }
        let (kind, len) = (number(12), number(16));
        socket.read_exact(&mut vec![0; len.min(4096) as usize])?;
        match kind {
            REP_ACK => return Ok(()),
            3 => {} // NBD_REP_INFO
            _ => return Err(format!("the export was refused: {kind:#x}").into()),
        }
    }
}

/// Bytes asked for at a time when the whole area is read before it is measured.
const ONCE_OVER: usize = 128 << 10;

/// Reads the whole area once, in order: a server that has been up for a while has touched its
/// mapping.
pub fn read_over(server: SocketAddr, export: &str, reads: &Reads) -> Result<(), LoadError> {
    let reads = Reads { len: ONCE_OVER, pattern: Pattern::Sequential, ..reads.clone() };
    let blocks = (reads.area.end - reads.area.start) / ONCE_OVER as u64;
    let mut engine = Engine::new(connections(server, export, &reads, 1)?, 4, false)?;
    engine.begin()?;
    while engine.count(Duration::from_millis(50))? < blocks {}
    engine.drain()?;
    Ok(())
}

/// Connections for a load.
pub fn connections(
    server: SocketAddr,
    export: &str,
    reads: &Reads,
    count: usize,
) -> Result<Vec<Connection<Nbd>>, LoadError> {
    let sockets = attach(server, export, count)?.into_iter().enumerate();
    sockets.map(|(i, socket)| Ok(Connection::new(socket, Nbd::new(reads, i))?)).collect()
}

/// Each reads once, and compares. The first of them is the `first` client of all.
pub fn read_once(sockets: &[TcpStream], reads: &Reads, first: usize) -> Result<(), LoadError> {
    let mut asked = Vec::new();
    for (i, mut socket) in sockets.iter().enumerate() {
        let (mut talk, mut out) = (Nbd::new(reads, first + i), Vec::new());
        asked.push((talk.ask(0, &mut out), talk));
        socket.write_all(&out)?;
    }
    for (mut socket, (asked, talk)) in sockets.iter().zip(asked) {
        let mut reply = vec![0; 16 + asked.len];
        socket.read_exact(&mut reply)?;
        let (head, body) = reply.split_at(16);
        talk.reply(head)?;
        if !talk.is_right(&asked, head, body) {
            return Err("wrong bytes".into());
        }
    }
    Ok(())
}
