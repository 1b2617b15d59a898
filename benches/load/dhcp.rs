//! DHCP clients: DISCOVER, OFFER, REQUEST, ACK (RFC 2131), each for a new machine.

use std::collections::HashSet;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use super::account;
use super::engine::{LoadError, Plan};
use super::histogram::Histogram;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

/// Number of machines that fit in a pool of a /16 network.
const MACHINES: u32 = 60_000;

/// An exchange under way.
struct Exchange {
    machine: u32,
    since: Instant,
    asked: Instant,
    offered: Ipv4Addr,
    packet: Vec<u8>,
}

/// Runs exchanges, `together` at a time, by broadcast on `interface`.
pub fn run(interface: &str, plan: &Plan, together: usize) -> Result<Value, LoadError> {
    let socket = open(interface)?;
    let first = Instant::now();
    let mut machines = 0..MACHINES;
    let mut exchanges: Vec<Exchange> = Vec::new();
    let (mut latencies, mut count, mut offer, mut lost) = (Histogram::default(), 0_u64, None, 0_u64);
    let (cpu, since) = (account::cpu(plan.pid), Instant::now());
    // An address that another machine has, or that was not offered, is wrong.
    let (mut given, mut wrong) = (HashSet::new(), 0_u64);
    let mut packet = [0; 1500];
    while since.elapsed() < plan.window {
        while exchanges.len() < together {
            let Some(machine) = machines.next() else { break };
            let (now, packet) = (Instant::now(), message(machine, DISCOVER, &[]));
            send(&socket, &packet)?;
            let offered = Ipv4Addr::UNSPECIFIED;
            exchanges.push(Exchange { machine, since: now, asked: now, offered, packet });
        }
        if exchanges.is_empty() {
            break;
        }
        let Ok(len) = (&socket).read(&mut packet) else {
            lost += repeat(&socket, &mut exchanges)?;
            continue;
        };
        let Some((xid, kind, server, yours)) = parse(&packet[..len]) else { continue };
        let Some(at) = exchanges.iter().position(|exchange| exchange.machine == xid) else { continue };
        let exchange = &mut exchanges[at];
        let is_offered = exchange.packet[242] == DISCOVER;
        if kind == OFFER && is_offered {
            offer.get_or_insert(first.elapsed());
            let options = [&[54, 4][..], &server.octets(), &[50, 4], &yours.octets()].concat();
            exchange.packet = message(xid, REQUEST, &options);
            (exchange.asked, exchange.offered) = (Instant::now(), yours);
            send(&socket, &exchange.packet)?;
        } else if kind == ACK && !is_offered {
            latencies.add(exchange.since.elapsed());
            count += 1;
            wrong += u64::from(yours != exchange.offered || !given.insert(yours));
            exchanges.swap_remove(at);
        }
    }
    let (seconds, cpu) = (since.elapsed().as_secs_f64(), account::cpu(plan.pid) - cpu);
    Ok(json!({
        "requests": count, "seconds": seconds, "cpu": cpu.as_secs_f64(),
        "p50": latencies.quantile(0.5), "p99": latencies.quantile(0.99),
        "offer": offer.map(|time| time.as_secs_f64()), "lost": lost, "anonymous": account::anonymous(plan.pid),
        "verified": count, "wrong": wrong,
    }))
}

fn open(interface: &str) -> Result<Socket, LoadError> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(250)))?;
    Ok(socket)
}

/// Repeats requests without a reply for a second, as clients do; returns their number.
fn repeat(socket: &Socket, exchanges: &mut [Exchange]) -> Result<u64, LoadError> {
    let mut count = 0;
    for exchange in exchanges.iter_mut().filter(|exchange| exchange.asked.elapsed() > Duration::from_secs(1))
    {
        exchange.asked = Instant::now();
        send(socket, &exchange.packet)?;
        count += 1;
    }
    Ok(count)
}

fn send(socket: &Socket, packet: &[u8]) -> Result<(), LoadError> {
    socket.send_to(packet, &SocketAddr::from((Ipv4Addr::BROADCAST, 67)).into())?;
    Ok(())
}

/// Encodes a message like klibc's ipconfig: no class, no client identifier. The transaction is the
/// machine's number. klibc reads raw frames; this client has to ask for replies by broadcast.
fn message(machine: u32, kind: u8, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 236];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&machine.to_be_bytes());
    bytes[10] = 0x80;
    bytes[28..30].copy_from_slice(&[0x52, 0x54]);
    bytes[30..34].copy_from_slice(&machine.to_be_bytes());
    bytes.extend_from_slice(&COOKIE);
    bytes.extend_from_slice(&[53, 1, kind]);
    bytes.extend_from_slice(options);
    bytes.extend_from_slice(&[55, 5, 1, 3, 6, 12, 17, 255]);
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

/// Reads transaction, message type, server and offered address.
fn parse(bytes: &[u8]) -> Option<(u32, u8, Ipv4Addr, Ipv4Addr)> {
    let address = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
    let xid = u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
    let yours = address(bytes.get(16..20)?)?;
    let mut options = bytes.get(240..)?;
    let (mut kind, mut server) = (0, Ipv4Addr::UNSPECIFIED);
    while let [code @ 1..=254, len, rest @ ..] = options {
        let (value, behind) = rest.split_at_checked(usize::from(*len))?;
        match code {
            53 => kind = *value.first()?,
            54 => server = address(value)?,
            _ => {}
        }
        options = behind;
    }
    Some((xid, kind, server, yours))
}
