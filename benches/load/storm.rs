//! Many machines that boot at nearly the same time: each replays the recorded reads of one boot.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use isowire::placement::{Server, Servers};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use serde_json::{Value, json};

use super::account;
use super::engine::LoadError;
use super::histogram::Histogram;
use super::nbd;

/// Reads of one boot.
#[derive(Debug)]
pub struct Trace(Vec<Step>);

#[derive(Debug, Clone, Copy)]
struct Step {
    /// Time from the reply to the last read until this one.
    pause: Duration,
    offset: u64,
    len: u32,
}

/// Time after which a boot has failed.
const GIVE_UP: Duration = Duration::from_secs(120);

impl Trace {
    /// Reads a trace. Each line is a read: milliseconds since the last one, offset and length in
    /// units of 512 bytes. Offsets are taken modulo the image's size, which may be smaller than
    /// that of the recorded image.
    pub fn read(path: &Path, size: u64) -> Result<Self, LoadError> {
        let mut steps = Vec::new();
        for line in fs::read_to_string(path)?.lines().filter(|line| !line.starts_with('#')) {
            let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let [pause, offset, len] = numbers[..] else {
                return Err(format!("invalid line of a trace: {line}").into());
            };
            let len = len * 512;
            let offset = offset * 512 % (size - len) / 512 * 512;
            steps.push(Step { pause: Duration::from_millis(pause), offset, len: len as u32 });
        }
        Ok(Self(steps))
    }
}

struct Machine {
    socket: TcpStream,
    since: Instant,
    asked: Instant,
    step: usize,
    left: usize,
    finished: Option<Duration>,
}

/// A server and its process.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub server: SocketAddr,
    pub pid: u32,
}

/// Parses `ADDRESS:PORT=PID`.
impl FromStr for Process {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts =
            text.split_once('=').and_then(|(server, pid)| Some((server.parse().ok()?, pid.parse().ok()?)));
        parts.map(|(server, pid)| Self { server, pid }).ok_or("expected ADDRESS:PORT=PID")
    }
}

/// Attaches each machine to the server that the placement of isowire gives it, as the servers of a
/// network would share them. Cards have numbers in a row. Returns the number of machines of each.
fn attach(
    processes: &[Process],
    export: &str,
    machines: usize,
) -> Result<(Vec<TcpStream>, Vec<usize>), LoadError> {
    let name = |n: usize| Ipv4Addr::new(10, 0, 0, n as u8 + 1);
    let servers = Servers::new((0..processes.len()).map(|n| Server::new(name(n), [])).collect());
    let mut shares = vec![0; processes.len()];
    for card in 0..machines as u32 {
        let [_, a, b, c] = card.to_be_bytes();
        let first = servers.order(&[0x52, 0x54, 0, a, b, c])[0].name();
        shares[(0..).position(|n| name(n) == first).ok_or("no server")?] += 1;
    }
    let mut sockets = Vec::new();
    for (process, &share) in processes.iter().zip(&shares) {
        sockets.push(nbd::attach(process.server, export, share)?.into_iter());
    }
    // In turn, as they are switched on.
    let mut mixed = Vec::new();
    while mixed.len() < machines {
        mixed.extend(sockets.iter_mut().filter_map(Iterator::next));
    }
    Ok((mixed, shares))
}

/// Boots `machines`, which are switched on evenly over the time `ramp`.
pub fn run(
    processes: &[Process],
    export: &str,
    Trace(steps): &Trace,
    (machines, ramp): (usize, Duration),
) -> Result<Value, LoadError> {
    let all_cpu = || processes.iter().map(|process| account::cpu(process.pid)).sum::<Duration>();
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut crowd = Vec::new();
    let (sockets, shares) = attach(processes, export, machines)?;
    for (i, socket) in sockets.into_iter().enumerate() {
        socket.set_nonblocking(true)?;
        epoll::add(&epoll, &socket, EventData::new_u64(i as u64), EventFlags::IN)?;
        let now = Instant::now();
        crowd.push(Machine { socket, since: now, asked: now, step: 0, left: 0, finished: None });
    }
    let begin = Instant::now();
    let cpu = all_cpu();
    let mut latencies = Histogram::default();
    // The next request of each machine, by its time.
    let mut agenda = BinaryHeap::new();
    for (i, machine) in crowd.iter_mut().enumerate() {
        machine.since = begin + ramp * i as u32 / machines as u32;
        agenda.push(Reverse((machine.since, i)));
    }
    let mut buffer = vec![0; 256 << 10];
    let mut running = machines;
    while running > 0 {
        if begin.elapsed() > GIVE_UP {
            return Err(format!("{running} machines are not up after {GIVE_UP:?}").into());
        }
        let wait = agenda.peek().map_or(Duration::from_millis(100), |Reverse((at, _))| {
            at.saturating_duration_since(Instant::now())
        });
        let wait = wait.min(Duration::from_millis(100));
        let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut events = Vec::with_capacity(256);
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&limit))?;
        for event in events {
            let i = event.data.u64() as usize;
            if !crowd[i].receive(&mut buffer, steps)? {
                continue;
            }
            latencies.add(crowd[i].asked.elapsed());
            crowd[i].step += 1;
            match steps.get(crowd[i].step) {
                Some(step) => agenda.push(Reverse((Instant::now() + step.pause, i))),
                None => {
                    crowd[i].finished = Some(crowd[i].since.elapsed());
                    running -= 1;
                }
            }
        }
        while let Some(&Reverse((at, i))) = agenda.peek() {
            if at > Instant::now() {
                break;
            }
            agenda.pop();
            let step = crowd[i].step;
            crowd[i].ask(&steps[step])?;
        }
    }
    let cpu = (all_cpu() - cpu).as_secs_f64();
    let seconds = begin.elapsed().as_secs_f64();
    let mut times: Vec<f64> =
        crowd.iter().filter_map(|machine| Some(machine.finished?.as_secs_f64())).collect();
    times.sort_by(f64::total_cmp);
    let (sum, squares) = times.iter().fold((0.0, 0.0), |(sum, squares), t| (sum + t, squares + t * t));
    let bytes: u64 = steps.iter().map(|step| u64::from(step.len)).sum::<u64>() * machines as u64;
    Ok(json!({
        "requests": steps.len() * machines, "bytes": bytes, "seconds": seconds, "cpu": cpu,
        "p50": latencies.quantile(0.5), "p99": latencies.quantile(0.99),
        "first": times[0], "middle": times[times.len() / 2], "last": times[times.len() - 1],
        "alone": steps.iter().map(|step| step.pause.as_secs_f64()).sum::<f64>(),
        "jain": sum * sum / (times.len() as f64 * squares), "anonymous": processes.iter().map(|process| account::anonymous(process.pid)).sum::<u64>(),
        "shares": shares,
    }))
}

impl Machine {
    fn ask(&mut self, step: &Step) -> Result<(), LoadError> {
        self.asked = Instant::now();
        self.left = 16 + step.len as usize;
        Ok(self.socket.write_all(&nbd::request(0, self.step as u64, step.offset, step.len))?)
    }

    /// Receives a reply; returns true once it is complete.
    fn receive(&mut self, buffer: &mut [u8], steps: &[Step]) -> Result<bool, LoadError> {
        let wanted = buffer.len().min(self.left);
        match self.socket.read(&mut buffer[..wanted]) {
            Ok(0) => Err("the server closed a connection".into()),
            Ok(n) => {
                let is_first = steps.get(self.step).is_some_and(|step| self.left == 16 + step.len as usize);
                if is_first && buffer.get(4..8) != Some(&[0; 4]) {
                    return Err("an error reply".into());
                }
                self.left -= n;
                Ok(self.left == 0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
