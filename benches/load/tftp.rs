//! TFTP clients: downloads of one file, one after the other by each client, with windows, losses
//! and duplicates (RFC 1350, 2347, 2348, 7440).

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use serde_json::{Value, json};

use super::account;
use super::engine::{LoadError, Plan};
use super::histogram::Histogram;
use super::random::Random;

/// Silence after which a client repeats its last packet. PXE firmware waits longer.
const SILENCE: Duration = Duration::from_millis(200);

/// Time after which a download has failed.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Block size that fills an Ethernet frame: 1500 bytes less the headers of IP, UDP and TFTP.
const BLOCK: usize = 1468;

/// Options of downloads.
#[derive(Debug, Clone)]
pub struct Options {
    pub path: String,
    pub window: u16,
    /// Number of DATA packets of which one is lost; 0 for no loss.
    pub lose_one_of: u64,
    /// Send every ACK twice.
    pub twice: bool,
}

/// Figures of all downloads.
#[derive(Debug, Default)]
struct Tally {
    files: u64,
    bytes: u64,
    blocks: u64,
    /// DATA packets that a client had already.
    extra: u64,
    wrong: u64,
    latencies: Histogram,
}

struct Download<'a> {
    server: SocketAddr,
    options: &'a Options,
    socket: UdpSocket,
    peer: Option<SocketAddr>,
    since: Instant,
    heard: Instant,
    /// Window that the server agreed to.
    window: u64,
    block: usize,
    /// Blocks received in order: all, and those since the last ACK.
    got: u64,
    unacknowledged: u64,
    /// The present gap was acknowledged once.
    has_acknowledged_gap: bool,
    last: Vec<u8>,
    random: Random,
}

/// Runs downloads for the time of the plan (at least one to its end where `plan.window` is zero).
pub fn run(
    server: SocketAddr,
    options: &Options,
    file: &File,
    plan: &Plan,
    clients: usize,
) -> Result<Value, LoadError> {
    let timed = download(server, options, None, plan, clients)?;
    let (tally, seconds, cpu) = timed;
    let once = Plan { window: Duration::ZERO, warm_up: Duration::ZERO, ..*plan };
    let faultless = Options { lose_one_of: 0, twice: false, ..options.clone() };
    let (verified, ..) = download(server, &faultless, Some(file), &once, 1)?;
    let quantile = |q| (tally.files > 0).then(|| tally.latencies.quantile(q));
    Ok(json!({
        "requests": tally.files, "bytes": tally.bytes, "seconds": seconds, "cpu": cpu.as_secs_f64(),
        "p50": quantile(0.5), "p99": quantile(0.99), "extra": tally.extra,
        "anonymous": account::anonymous(plan.pid),
        "verified": verified.blocks, "wrong": verified.wrong,
    }))
}

fn download(
    server: SocketAddr,
    options: &Options,
    file: Option<&File>,
    plan: &Plan,
    clients: usize,
) -> Result<(Tally, f64, Duration), LoadError> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut downloads = Vec::new();
    for i in 0..clients {
        let download = Download::new(server, options, i as u64)?;
        epoll::add(&epoll, &download.socket, EventData::new_u64(i as u64), EventFlags::IN)?;
        downloads.push(download);
    }
    let mut tally = Tally::default();
    let (cpu, since) = (account::cpu(plan.pid), Instant::now());
    let mut packet = vec![0; 65536];
    let is_over =
        |tally: &Tally| since.elapsed() >= plan.window && (tally.files > 0 || !plan.window.is_zero());
    while !is_over(&tally) {
        let mut events = Vec::with_capacity(64);
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit))?;
        for event in events {
            let i = event.data.u64() as usize;
            if downloads[i].receive(&mut packet, file, &mut tally)? {
                // RFC 1350 §4: each transfer has a TID, and so a socket, of its own.
                epoll::delete(&epoll, &downloads[i].socket)?;
                downloads[i] = Download::new(server, options, tally.blocks + i as u64)?;
                epoll::add(&epoll, &downloads[i].socket, EventData::new_u64(i as u64), EventFlags::IN)?;
            }
        }
        downloads.iter_mut().try_for_each(Download::handle_timeout)?;
    }
    // The sum can shrink: the time of children that a server does not wait for is lost.
    Ok((tally, since.elapsed().as_secs_f64(), account::cpu(plan.pid).saturating_sub(cpu)))
}

impl<'a> Download<'a> {
    fn new(server: SocketAddr, options: &'a Options, seed: u64) -> Result<Self, LoadError> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let mut request = b"\0\x01".to_vec();
        for word in [&options.path, "octet", "blksize", &BLOCK.to_string()] {
            request.extend_from_slice(word.as_bytes());
            request.push(0);
        }
        if options.window > 1 {
            request.extend_from_slice(format!("windowsize\0{}\0", options.window).as_bytes());
        }
        socket.send_to(&request, server)?;
        let now = Instant::now();
        Ok(Self {
            server,
            options,
            socket,
            peer: None,
            since: now,
            heard: now,
            window: 1,
            block: 512,
            got: 0,
            unacknowledged: 0,
            has_acknowledged_gap: false,
            last: request,
            random: Random::new(seed),
        })
    }

    /// Receives packets; returns true once the file is complete.
    fn receive(
        &mut self,
        packet: &mut [u8],
        file: Option<&File>,
        tally: &mut Tally,
    ) -> Result<bool, LoadError> {
        for _ in 0..64 {
            let (len, peer) = match self.socket.recv_from(packet) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            if *self.peer.get_or_insert(peer) != peer {
                continue;
            }
            match packet.get(..len) {
                Some([0, 3, high, low, data @ ..]) => {
                    if self.options.lose_one_of > 0 && self.random.below(self.options.lose_one_of) == 0 {
                        continue;
                    }
                    if self.take(u16::from_be_bytes([*high, *low]), data, file, tally)? {
                        return Ok(true);
                    }
                }
                Some([0, 6, options @ ..]) => self.agree(options)?,
                Some([0, 5, _, _, text @ ..]) => return Err(String::from_utf8_lossy(text).into()),
                _ => return Err("no TFTP".into()),
            }
        }
        Ok(false)
    }

    fn agree(&mut self, options: &[u8]) -> Result<(), LoadError> {
        self.heard = Instant::now();
        let words: Vec<_> = options.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
        for pair in words.chunks_exact(2) {
            match pair[0].to_ascii_lowercase().as_str() {
                "blksize" => self.block = pair[1].parse()?,
                "windowsize" => self.window = pair[1].parse()?,
                _ => {}
            }
        }
        self.acknowledge()
    }

    fn take(
        &mut self,
        number: u16,
        data: &[u8],
        file: Option<&File>,
        tally: &mut Tally,
    ) -> Result<bool, LoadError> {
        if number != (self.got + 1) as u16 {
            // RFC 7440 §4: at a gap, acknowledge the last block in order. Once, or the server's
            // answers would multiply.
            let is_ahead = number.wrapping_sub(self.got as u16) < 1 << 15;
            if is_ahead && self.window > 1 && !std::mem::replace(&mut self.has_acknowledged_gap, true) {
                self.acknowledge()?;
            }
            tally.extra += u64::from(!is_ahead);
            return Ok(false);
        }
        self.heard = Instant::now();
        self.has_acknowledged_gap = false;
        if let Some(file) = file {
            let mut expected = vec![0; data.len()];
            let is_right =
                file.read_exact_at(&mut expected, self.got * self.block as u64).is_ok() && data == expected;
            tally.wrong += u64::from(!is_right);
        }
        self.got += 1;
        self.unacknowledged += 1;
        tally.bytes += data.len() as u64;
        tally.blocks += 1;
        let is_last = data.len() < self.block;
        if is_last || self.unacknowledged >= self.window {
            self.acknowledge()?;
        }
        if is_last {
            tally.files += 1;
            tally.latencies.add(self.since.elapsed());
        }
        Ok(is_last)
    }

    fn acknowledge(&mut self) -> Result<(), LoadError> {
        self.unacknowledged = 0;
        let [high, low] = (self.got as u16).to_be_bytes();
        self.last = vec![0, 4, high, low];
        let times = if self.options.twice { 2 } else { 1 };
        (0..times).try_for_each(|_| self.repeat())
    }

    fn repeat(&self) -> Result<(), LoadError> {
        // A full buffer counts as a lost packet.
        match self.socket.send_to(&self.last, self.peer.unwrap_or(self.server)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn handle_timeout(&mut self) -> Result<(), LoadError> {
        if self.since.elapsed() > GIVE_UP {
            return Err(format!("a download took more than {GIVE_UP:?}").into());
        }
        if self.heard.elapsed() < SILENCE {
            return Ok(());
        }
        self.heard = Instant::now();
        self.has_acknowledged_gap = false;
        self.repeat()
    }
}
