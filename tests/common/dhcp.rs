//! Clients of DHCP, another DHCP server, and a relay agent's network.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use isowire::dhcp::server::{Sharing, bind};
use isowire::dhcp::wire::Message;

use super::lan::{BRIDGE, Lan, Namespace};
use super::needs::tool;
use super::running::{Running, output_of};

/// Time for packets that may have to be sent twice.
const SOON: Duration = Duration::from_secs(20);

/// Adds a host without an address to a segment.
pub fn newcomer(lan: &mut Lan, bridge: &str) -> Namespace {
    let host = lan.host_on(bridge, Ipv4Addr::LOCALHOST);
    host.ip(&["address", "flush", "dev", "eth0"]);
    host
}

/// dnsmasq as the DHCP server of a router. It probes an address for three seconds before it offers it.
pub fn router(host: &Namespace, dir: &Path, range: &str) -> Running {
    let mut command = host.command("dnsmasq");
    command
        .args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--log-dhcp",
            "--conf-file=/dev/null",
            "--user=root",
        ])
        .args(["--port=0", "--interface=eth0", "--bind-interfaces", "--dhcp-authoritative"])
        .args(["--pid-file=", &format!("--dhcp-range={range}")])
        .arg(format!("--dhcp-leasefile={}", dir.join("dnsmasq.leases").display()));
    let mut dnsmasq = Running::start(&mut command, &dir.join("dnsmasq.log"));
    dnsmasq.wait_for("DHCP, IP range", SOON);
    dnsmasq
}

/// Writes a program.
pub fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Returns the value in lines of `NAME=value` or `NAME='value'`.
pub fn value<'a>(lines: &'a str, name: &str) -> &'a str {
    let line = lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name} in:\n{lines}")).trim_matches('\'')
}

/// DHCP client of busybox. Its script keeps the environment of each event and configures the
/// interface.
pub struct Udhcpc {
    client: Running,
    dir: PathBuf,
}

impl Udhcpc {
    pub fn start(host: &Namespace, dir: &Path, options: &[&str]) -> Self {
        let dir = dir.join(format!("udhcpc-{}", fs::read_dir(dir).unwrap().count()));
        fs::create_dir(&dir).unwrap();
        let script = format!(
            "#!/bin/sh\ncase $1 in\ndeconfig) ip address flush dev $interface ;;\n\
             bound|renew) ip address replace $ip/$mask broadcast + dev $interface ;;\nesac\n\
             env > {0}/new && mv {0}/new {0}/$1\n",
            dir.display()
        );
        executable(&dir.join("script"), &script);
        let mut command = host.command("udhcpc");
        command.args(["-f", "-i", "eth0", "-t", "10", "-T", "1", "-s"]).arg(dir.join("script"));
        command.arg("-p").arg(dir.join("pid")).args(options);
        Self { client: Running::start(&mut command, &dir.join("log")), dir }
    }

    /// Waits for an event and returns its environment.
    pub fn told(&mut self, event: &str) -> String {
        let (file, end) = (self.dir.join(event), Instant::now() + SOON);
        while !file.exists() {
            assert!(Instant::now() < end, "no {event}:\n{}", self.client.log());
            thread::sleep(Duration::from_millis(20));
        }
        fs::read_to_string(&file).unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.dir.join("pid")).unwrap();
        output_of(tool("kill").args([signal, pid.trim()]));
    }
}

/// Returns a captured DISCOVER that asks for a broadcast reply: a UDP socket on a host without an
/// address receives no other.
pub fn broadcast(captured: &[u8]) -> Vec<u8> {
    let mut datagram = captured.to_vec();
    datagram[10] |= 0x80;
    datagram
}

/// Messages with their senders.
pub type Received = Vec<(Message, SocketAddr)>;

/// Broadcasts `datagrams` to port 67, as a client without an address does, and collects the messages
/// to port 68 for `time`.
pub fn shout(host: &Namespace, datagrams: &[Vec<u8>], time: Duration) -> Received {
    host.inside(|| collect(&broadcasting(datagrams), time))
}

/// Broadcasts a datagram as [`shout`] does, and waits for this number of messages.
pub fn ask(host: &Namespace, datagram: &[u8], count: usize) -> Received {
    host.inside(|| replies(&broadcasting(&[datagram.to_vec()]), count))
}

fn broadcasting(datagrams: &[Vec<u8>]) -> UdpSocket {
    let socket = client_socket();
    for datagram in datagrams {
        socket.send_to(datagram, (Ipv4Addr::BROADCAST, 67)).unwrap();
    }
    socket
}

pub fn client_socket() -> UdpSocket {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
    let socket = bind(any, Some("eth0"), Sharing::Shared).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
}

/// Waits for `count` messages, and a moment for others that should not come.
pub fn replies(socket: &UdpSocket, count: usize) -> Received {
    let mut received = collect_some(socket, SOON, count);
    received.extend(collect(socket, Duration::from_millis(300)));
    received
}

pub fn collect(socket: &UdpSocket, time: Duration) -> Received {
    collect_some(socket, time, usize::MAX)
}

/// Collects up to `count` messages.
fn collect_some(socket: &UdpSocket, time: Duration, count: usize) -> Received {
    let end = Instant::now() + time;
    let mut received = Vec::new();
    let mut bytes = [0; 2048];
    while received.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        if let Ok((len, from)) = socket.recv_from(&mut bytes) {
            received.push((Message::parse(&bytes[..len]).unwrap(), from));
        }
    }
    received
}

/// Address of the relay agent on the other network.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// Returns a host on another network, and that of a relay agent with the address `near`, between
/// that network and the segment.
pub fn behind_relay(lan: &mut Lan, near: Ipv4Addr) -> (Namespace, Namespace) {
    let (relay, host) = (lan.host(near), newcomer(lan, BRIDGE));
    // The client's cable goes from the segment to the relay agent.
    host.ip(&["link", "delete", "eth0"]);
    host.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth1", "netns", relay.name()]);
    host.ip(&["link", "set", "eth0", "up"]);
    relay.ip(&["address", "add", &format!("{FAR}/24"), "dev", "eth1"]);
    relay.ip(&["link", "set", "eth1", "up"]);
    output_of(relay.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]));
    lan.server().ip(&["route", "add", "10.9.0.0/24", "via", &near.to_string()]);
    (host, relay)
}
