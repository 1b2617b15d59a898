//! Recorder of a machine's reads of its root over NBD: it listens on the wire.

use std::collections::HashSet;
use std::fmt::Write;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::lan::Namespace;

/// The EtherType of IPv4 in network byte order (packet(7)).
const ETH_P_IP: u16 = 0x0800_u16.to_be();

const NBD_PORT: u16 = 10809;

/// Length of an NBD request: magic, flags, type, cookie, offset, length.
const REQUEST: usize = 28;
/// Magic, no flags, `NBD_CMD_READ`.
const READ: [u8; 8] = [0x25, 0x60, 0x95, 0x13, 0, 0, 0, 0];

/// One read request.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    pub at: Instant,
    pub offset: u64,
    pub len: u64,
}

/// A running recorder.
pub struct Reads {
    is_over: Arc<AtomicBool>,
    listener: JoinHandle<Vec<Read>>,
}

impl Reads {
    /// Records all requests that reach this host. Needs root.
    pub fn overhear(host: &Namespace) -> Reads {
        let socket = host.inside(|| {
            Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETH_P_IP))))
                .expect("root may listen")
        });
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time that is not zero");
        socket.set_recv_buffer_size(4 << 20).expect("the kernel takes what it wants of that");
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        Reads { is_over, listener: thread::spawn(move || listen(&socket, &ends)) }
    }

    /// Stops and returns the reads in the order of their requests.
    pub fn heard(self) -> Vec<Read> {
        self.is_over.store(true, Ordering::Relaxed);
        self.listener.join().expect("the listener does not panic")
    }
}

/// Formats reads as `benches/peers storm` replays them: milliseconds since the read before, offset
/// and length in units of 512 bytes.
pub fn trace(reads: &[Read]) -> String {
    let mut trace = String::new();
    let mut before = reads.first().map(|read| read.at);
    for read in reads {
        let pause = read.at - before.replace(read.at).unwrap_or(read.at);
        writeln!(trace, "{} {} {}", pause.as_millis(), read.offset / 512, read.len / 512)
            .expect("a string takes everything");
    }
    trace
}

fn listen(mut socket: &Socket, is_over: &AtomicBool) -> Vec<Read> {
    let (mut reads, mut cookies) = (Vec::new(), HashSet::new());
    let mut packet = vec![0; 64 << 10];
    while !is_over.load(Ordering::Relaxed) {
        let Ok(len) = socket.read(&mut packet) else { continue };
        let at = Instant::now();
        for request in payload(&packet[..len]).unwrap_or_default().chunks_exact(REQUEST) {
            // The socket gets each packet twice: from the bridge, and from its port.
            if request.starts_with(&READ) && cookies.insert(number(&request[8..16])) {
                reads.push(Read { at, offset: number(&request[16..24]), len: number(&request[24..]) });
            }
        }
    }
    reads
}

/// Reads a big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Returns the payload of a TCP segment to the port of NBD. The kernel's client begins each segment
/// with a request.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let (ip, is_tcp) = (usize::from(packet.first()? & 15) * 4, *packet.get(9)? == 6);
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let tcp = packet.get(ip..total)?;
    let port = u16::from_be_bytes([*tcp.get(2)?, *tcp.get(3)?]);
    tcp.get(usize::from(tcp.get(12)? >> 4) * 4..).filter(|_| is_tcp && port == NBD_PORT)
}
