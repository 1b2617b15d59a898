//! Crowds of NBD clients: some only connect, some are idle, some never read. Measures their effect
//! on the others.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use serde_json::{Value, json};

use super::account;
use super::engine::{self, Connection, Engine, LoadError, Plan};
use super::nbd::{self, CMD_DISC, Nbd, Pattern, Reads};

/// Requests of 128 KiB of a client that then reads no reply.
const STALLED: u64 = 32;
const STALLED_LEN: u32 = 128 << 10;

/// Connects, negotiates, reads once and leaves, a few clients at a time. With one client, both
/// sides wait for each other to wake up; more than 8 do not fit in the backlog of nbd-server.
pub fn few_by_few(
    server: SocketAddr,
    export: &str,
    reads: &Reads,
    plan: &Plan,
    few: usize,
) -> Result<Value, LoadError> {
    let (cpu, since) = (account::cpu(plan.pid), Instant::now());
    let mut count = 0;
    while since.elapsed() < plan.window {
        let sockets = nbd::attach_together(server, export, few)?;
        nbd::read_once(&sockets, reads, count)?;
        for mut socket in sockets {
            socket.write_all(&nbd::request(CMD_DISC, 0, 0, 0))?;
        }
        count += few;
    }
    let seconds = since.elapsed().as_secs_f64();
    // The work of the server after clients have left counts too.
    std::thread::sleep(Duration::from_millis(200));
    let cpu = (account::cpu(plan.pid) - cpu).as_secs_f64();
    Ok(json!({ "requests": count, "seconds": seconds, "cpu": cpu, "verified": count, "wrong": 0 }))
}

/// Connects all clients at once; each reads once and is idle then.
pub fn all_at_once(
    server: SocketAddr,
    export: &str,
    reads: &Reads,
    plan: &Plan,
    count: usize,
) -> Result<Value, LoadError> {
    let before = account::anonymous(plan.pid);
    let (cpu, since) = (account::cpu(plan.pid), Instant::now());
    let sockets = nbd::attach_together(server, export, count)?;
    nbd::read_once(&sockets, reads, 0)?;
    let seconds = since.elapsed().as_secs_f64();
    let cpu = (account::cpu(plan.pid) - cpu).as_secs_f64();
    std::thread::sleep(Duration::from_millis(500));
    let anonymous = account::anonymous(plan.pid);
    Ok(json!({
        "requests": count, "seconds": seconds, "cpu": cpu, "anonymous": anonymous,
        "each": anonymous.saturating_sub(before) / count as u64, "verified": count, "wrong": 0,
    }))
}

/// Measures some clients that read: alone, and then beside many idle ones and some that request
/// much and never read.
pub fn beside_the_idle(
    server: SocketAddr,
    export: &str,
    reads: &Reads,
    plan: &Plan,
    (active, idle, stalled): (usize, usize, usize),
) -> Result<Value, LoadError> {
    let mut engine = Engine::new(nbd::connections(server, export, reads, active)?, plan.depth, false)?;
    engine.begin()?;
    let alone = engine.measure(plan)?;
    let before = account::anonymous(plan.pid);
    let idle_sockets = nbd::attach(server, export, idle)?;
    std::thread::sleep(Duration::from_millis(500));
    let each = account::anonymous(plan.pid).saturating_sub(before) / idle as u64;
    let stalled_sockets = nbd::attach(server, export, stalled)?;
    stalled_sockets.iter().try_for_each(request_without_reading)?;
    let mut figures = engine.measure(plan)?;
    engine.drain()?;
    figures["alone"] = alone["p99"].clone();
    figures["each"] = each.into();
    // Idle clients are served as before.
    nbd::read_once(&idle_sockets, reads, 0)?;
    figures["verified"] = idle.into();
    figures["wrong"] = 0.into();
    Ok(figures)
}

fn request_without_reading(mut socket: &TcpStream) -> Result<(), LoadError> {
    let requests =
        (0..STALLED).flat_map(|cookie| nbd::request(0, cookie, cookie * u64::from(STALLED_LEN), STALLED_LEN));
    Ok(socket.write_all(&requests.collect::<Vec<_>>())?)
}

/// Measures clients that read cached data: alone, and then beside one that reads the rest of the
/// file, which is not in the page cache.
pub fn beside_the_cold(
    server: SocketAddr,
    export: &str,
    reads: &Reads,
    plan: &Plan,
    active: usize,
) -> Result<Value, LoadError> {
    let size = reads.file.metadata()?.len();
    let cold = Reads { area: reads.area.end..size, len: 64 << 10, pattern: Pattern::Random, ..reads.clone() };
    let mut engine = Engine::new(nbd::connections(server, export, reads, active)?, plan.depth, false)?;
    engine.begin()?;
    let alone = engine.measure(plan)?;
    chill(&cold.file, &cold.area)?;
    let socket = nbd::attach(server, export, 1)?.pop().ok_or("no socket")?;
    let mut connections = Engine::new(vec![Connection::new(socket, Nbd::new(&cold, 1))?], 4, false)?;
    let window = plan.window;
    let reader = std::thread::spawn(move || -> Result<u64, String> {
        connections.begin().map_err(|error| error.to_string())?;
        connections.count(window + Duration::from_millis(500)).map_err(|error| error.to_string())
    });
    let mut figures = engine.measure(plan)?;
    figures["cold"] = reader.join().map_err(|_| "the cold reader failed")??.into();
    engine.drain()?;
    figures["alone"] = alone["p99"].clone();
    engine::verify(&mut figures, nbd::connections(server, export, &cold, 16)?, 1)?;
    Ok(figures)
}

/// Drops a part of the file from the page cache. Pages that a process has mapped and touched stay.
fn chill(file: &File, area: &std::ops::Range<u64>) -> Result<(), LoadError> {
    let len = std::num::NonZeroU64::new(area.end - area.start);
    Ok(rustix::fs::fadvise(file, area.start, len, Advice::DontNeed)?)
}
