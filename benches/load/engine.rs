//! Many connections of one protocol on one thread: keeps a number of requests in flight on each,
//! counts and times the replies.
//!
//! The kernel discards large payloads (`MSG_TRUNC`, tcp(7)), so that the client does not limit the
//! measurement. The pass that verifies keeps and compares everything.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::RecvFlags;
use serde_json::{Value, json};

use super::account;
use super::histogram::Histogram;

/// Payloads of at least this length are discarded unread.
const LARGE: usize = 16 << 10;

/// Most bytes taken by one call.
const BUFFER: usize = 512 << 10;

/// Bytes read to see the head of a reply whose payload is discarded.
const HEAD: usize = 512;

/// System calls on one connection before the next one has its turn.
const TURN: usize = 8;

/// Longest wait for the last replies.
const DRAIN: Duration = Duration::from_secs(5);

pub type LoadError = Box<dyn std::error::Error>;

/// A request under way.
#[derive(Debug, Clone, Copy)]
pub struct Pending {
    pub offset: u64,
    pub len: usize,
    pub since: Instant,
}

/// The head of a reply.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// Bytes of the head.
    pub head: usize,
    /// Slot of the request that it answers.
    pub slot: usize,
    /// Bytes that follow.
    pub body: usize,
}

/// One protocol, from the client's side.
pub trait ClientProtocol {
    /// Appends a request and returns it.
    fn ask(&mut self, slot: usize, out: &mut Vec<u8>) -> Pending;

    /// Reads the head of a reply; `None` if it is not complete yet.
    fn reply(&self, bytes: &[u8]) -> Result<Option<Reply>, LoadError>;

    /// Tells whether a whole reply is right.
    fn is_right(&self, asked: &Pending, head: &[u8], body: &[u8]) -> bool;

    /// Returns the longest payload of a reply, by which buffers are chosen.
    fn payload(&self) -> usize;
}

/// Parameters of a run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub depth: usize,
    /// Send each request in a segment of its own, as the kernel's NBD client does.
    pub one_per_segment: bool,
    pub warm_up: Duration,
    pub window: Duration,
    /// Process of the server.
    pub pid: u32,
}

pub struct Connection<T> {
    socket: TcpStream,
    talk: T,
    slots: Vec<Option<Pending>>,
    out: Vec<u8>,
    /// Part of a head.
    partial: Vec<u8>,
    body: Option<Body>,
    replies: u64,
    bytes: u64,
}

struct Body {
    slot: usize,
    left: usize,
    head: Vec<u8>,
    kept: Vec<u8>,
}

impl<T: ClientProtocol> Connection<T> {
    pub fn new(socket: TcpStream, talk: T) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let (slots, out, partial) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { socket, talk, slots, out, partial, body: None, replies: 0, bytes: 0 })
    }
}

pub struct Engine<T> {
    connections: Vec<Connection<T>>,
    epoll: rustix::fd::OwnedFd,
    buffer: Vec<u8>,
    latencies: Histogram,
    depth: usize,
    one_per_segment: bool,
    is_asking: bool,
    is_verifying: bool,
    /// Replies that differ from the file.
    pub wrong: u64,
    pub verified: u64,
}

impl<T: ClientProtocol> Engine<T> {
    pub fn new(connections: Vec<Connection<T>>, depth: usize, one_per_segment: bool) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (i, connection) in connections.iter().enumerate() {
            epoll::add(&epoll, &connection.socket, EventData::new_u64(i as u64), EventFlags::IN)?;
        }
        Ok(Self {
            connections,
            epoll,
            buffer: vec![0; BUFFER],
            latencies: Histogram::default(),
            depth,
            one_per_segment,
            is_asking: true,
            is_verifying: false,
            wrong: 0,
            verified: 0,
        })
    }

    /// Sends requests until every connection has all of its slots in flight.
    pub fn begin(&mut self) -> Result<(), LoadError> {
        for i in 0..self.connections.len() {
            for slot in 0..self.depth {
                self.connections[i].slots.push(None);
                self.ask(i, slot)?;
            }
            self.flush(i)?;
        }
        Ok(())
    }

    /// Warms up, measures for the time of the plan, and returns the figures.
    pub fn measure(&mut self, plan: &Plan) -> Result<Value, LoadError> {
        self.run(Instant::now() + plan.warm_up)?;
        self.latencies = Histogram::default();
        self.connections.iter_mut().for_each(|connection| (connection.replies, connection.bytes) = (0, 0));
        let (cpu, since) = (account::cpu(plan.pid), Instant::now());
        self.run(since + plan.window)?;
        let (seconds, cpu) = (since.elapsed().as_secs_f64(), account::cpu(plan.pid) - cpu);
        let replies: u64 = self.connections.iter().map(|connection| connection.replies).sum();
        let bytes: u64 = self.connections.iter().map(|connection| connection.bytes).sum();
        if bytes == 0 {
            return Err("nothing came".into());
        }
        Ok(json!({
            "requests": replies, "bytes": bytes, "seconds": seconds, "cpu": cpu.as_secs_f64(),
            "p50": self.latencies.quantile(0.5), "p99": self.latencies.quantile(0.99),
            "jain": self.fairness(), "anonymous": account::anonymous(plan.pid),
        }))
    }

    /// Returns Jain's index over the connections: 1 if all got the same, 1/n if one got all.
    fn fairness(&self) -> f64 {
        let shares = self.connections.iter().map(|connection| connection.bytes as f64);
        let (sum, squares) = shares.fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        sum * sum / (self.connections.len() as f64 * squares)
    }

    /// Stops requesting and waits for the replies; returns false if some did not come.
    pub fn drain(&mut self) -> Result<bool, LoadError> {
        self.is_asking = false;
        let end = Instant::now() + DRAIN;
        while !self.is_idle() {
            if Instant::now() > end {
                return Ok(false);
            }
            self.turn(Duration::from_millis(50))?;
        }
        Ok(true)
    }

    fn is_idle(&self) -> bool {
        self.connections.iter().all(|connection| connection.slots.iter().all(Option::is_none))
    }

    /// Compares replies until their number or the time is reached.
    pub fn verify(&mut self, replies: u64, limit: Duration) -> Result<(), LoadError> {
        self.is_verifying = true;
        self.is_asking = true;
        let end = Instant::now() + limit;
        self.begin()?;
        while self.verified < replies && Instant::now() < end {
            self.turn(Duration::from_millis(50))?;
        }
        Ok(())
    }

    /// Runs for a time and returns the number of replies.
    pub fn count(&mut self, time: Duration) -> Result<u64, LoadError> {
        self.run(Instant::now() + time)?;
        Ok(self.connections.iter().map(|connection| connection.replies).sum())
    }

    fn run(&mut self, until: Instant) -> Result<(), LoadError> {
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            self.turn((until - now).min(Duration::from_millis(20)))?;
        }
    }

    fn turn(&mut self, limit: Duration) -> Result<(), LoadError> {
        let mut events = Vec::with_capacity(512);
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit))?;
        for event in events {
            let i = event.data.u64() as usize;
            self.take(i)?;
            self.flush(i)?;
        }
        Ok(())
    }

    /// Receives on one connection.
    fn take(&mut self, i: usize) -> Result<(), LoadError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let taken = (0..TURN).try_for_each(|_| match self.take_once(i, &mut buffer) {
            Ok(true) => Ok(()),
            Ok(false) => Err(None),
            Err(error) => Err(Some(error)),
        });
        self.buffer = buffer;
        match taken {
            Err(Some(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Receives by one system call; returns true if there may be more.
    fn take_once(&mut self, i: usize, buffer: &mut [u8]) -> Result<bool, LoadError> {
        let connection = &mut self.connections[i];
        let is_large = connection.talk.payload() >= LARGE && !self.is_verifying;
        if let (Some(body), true) = (&mut connection.body, is_large) {
            let wanted = body.left.min(buffer.len());
            let Some(n) =
                received(rustix::net::recv(&connection.socket, &mut buffer[..wanted], RecvFlags::TRUNC))?
            else {
                return Ok(false);
            };
            body.left -= n;
            connection.bytes += n as u64;
            if body.left == 0 {
                self.complete(i)?;
            }
            return Ok(n == wanted);
        }
        let wanted = if is_large { HEAD } else { buffer.len() };
        let n = match (&connection.socket).read(&mut buffer[..wanted]) {
            Ok(0) => return Err("the server closed a connection".into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.digest(i, &buffer[..n])?;
        Ok(n == wanted)
    }

    fn digest(&mut self, i: usize, bytes: &[u8]) -> Result<(), LoadError> {
        let partial = std::mem::take(&mut self.connections[i].partial);
        if partial.is_empty() {
            self.digest_all(i, bytes)
        } else {
            self.digest_all(i, &[&partial, bytes].concat())
        }
    }

    fn digest_all(&mut self, i: usize, mut bytes: &[u8]) -> Result<(), LoadError> {
        while !bytes.is_empty() {
            let is_verifying = self.is_verifying;
            let connection = &mut self.connections[i];
            if let Some(body) = &mut connection.body {
                let n = body.left.min(bytes.len());
                if is_verifying {
                    body.kept.extend_from_slice(&bytes[..n]);
                }
                body.left -= n;
                connection.bytes += n as u64;
                bytes = &bytes[n..];
            } else {
                let Some(Reply { head, slot, body: left }) = connection.talk.reply(bytes)? else {
                    connection.partial = bytes.to_vec();
                    return Ok(());
                };
                let (head, rest) = bytes.split_at(head);
                let head = if is_verifying { head.to_vec() } else { Vec::new() };
                connection.body = Some(Body { slot, left, head, kept: Vec::new() });
                bytes = rest;
            }
            if self.connections[i].body.as_ref().is_some_and(|body| body.left == 0) {
                self.complete(i)?;
            }
        }
        Ok(())
    }

    /// Counts a complete reply and sends the next request.
    fn complete(&mut self, i: usize) -> Result<(), LoadError> {
        let connection = &mut self.connections[i];
        let Some(body) = connection.body.take() else { return Ok(()) };
        let slot = connection.slots.get_mut(body.slot).ok_or("a reply to no request")?;
        let asked = slot.take().ok_or("a reply to no request")?;
        connection.replies += 1;
        self.latencies.add(asked.since.elapsed());
        if self.is_verifying {
            self.verified += 1;
            self.wrong += u64::from(!connection.talk.is_right(&asked, &body.head, &body.kept));
        }
        if self.is_asking { self.ask(i, body.slot) } else { Ok(()) }
    }

    fn ask(&mut self, i: usize, slot: usize) -> Result<(), LoadError> {
        let connection = &mut self.connections[i];
        connection.slots[slot] = Some(connection.talk.ask(slot, &mut connection.out));
        if self.one_per_segment { self.flush(i) } else { Ok(()) }
    }

    /// Sends queued requests.
    fn flush(&mut self, i: usize) -> Result<(), LoadError> {
        let connection = &mut self.connections[i];
        while !connection.out.is_empty() {
            match (&connection.socket).write(&connection.out) {
                Ok(n) => drop(connection.out.drain(..n)),
                // The rest leaves after the next reply. One is under way, or the server would have
                // read.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Reads the result of a receive call; `None` if nothing has come yet.
fn received(result: rustix::io::Result<(usize, usize)>) -> Result<Option<usize>, LoadError> {
    match result {
        Ok((0, 0)) => Err("the server closed a connection".into()),
        Ok((_, n)) => Ok(Some(n)),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects, measures, and then verifies on other connections. `connect` makes a number of them.
pub fn run<T: ClientProtocol>(
    plan: &Plan,
    connections: usize,
    mut connect: impl FnMut(usize, Pass) -> Result<Vec<Connection<T>>, LoadError>,
) -> Result<Value, LoadError> {
    let mut engine = Engine::new(connect(connections, Pass::Timed)?, plan.depth, plan.one_per_segment)?;
    engine.begin()?;
    let mut figures = engine.measure(plan)?;
    figures["drained"] = engine.drain()?.into();
    drop(engine);
    verify(&mut figures, connect(connections.min(16), Pass::Verified)?, plan.depth.min(8))?;
    Ok(figures)
}

/// Compares replies on these connections, and adds to the figures how many were right.
pub fn verify<T: ClientProtocol>(
    figures: &mut Value,
    few: Vec<Connection<T>>,
    depth: usize,
) -> Result<(), LoadError> {
    let mut engine = Engine::new(few, depth, false)?;
    engine.verify(256, Duration::from_secs(3))?;
    engine.drain()?;
    figures["verified"] = engine.verified.into();
    figures["wrong"] = engine.wrong.into();
    Ok(())
}

/// Purpose of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Timed,
    Verified,
}
