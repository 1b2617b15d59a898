//! Empty router advertisements on a network of its own: which hosts receive one, and which do not.

mod common;

use std::io::IoSliceMut;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::Ipv6RecvHopLimit;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use common::iso;
use common::lan::{self, BRIDGE, Lan, Namespace};
use common::needs::needs;
use common::running::{Running, output_of};
use isowire::dhcp::server::{Sharing, bind};
use isowire::ndp::wire::{EMPTY_ADVERTISEMENT, ROUTER_ADVERTISEMENT};

const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const SOON: Duration = Duration::from_secs(20);
/// Longer than any answer takes within one machine.
const SILENCE: Duration = Duration::from_millis(700);

const PXE_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipxe-bios-discover.bin");
const PLAIN_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipconfig-discover.bin");
/// Offset of the client's hardware address in a DHCP message (RFC 2131 §2).
const CHADDR: usize = 28;

/// A host of the network that solicits routers through a raw socket.
struct Asker {
    host: Namespace,
    mac: [u8; 6],
    socket: UdpSocket,
}

/// The checked parts of an advertisement.
#[derive(Debug, PartialEq, Eq)]
struct Advertisement {
    /// With a checksum of zero: the kernel has verified it.
    message: Vec<u8>,
    hop_limit: i32,
    is_from_link: bool,
}

impl Asker {
    fn new(lan: &mut Lan, number: u8) -> Self {
        let host = lan.host(Ipv4Addr::new(192, 168, 77, number));
        let mac = [0x52, 0x54, 0, 0xfe, 0, number];
        // Its address is there before the kernel has made sure that nobody else has it.
        output_of(host.command("sysctl").args(["-qw", "net.ipv6.conf.eth0.accept_dad=0"]));
        host.ip(&["link", "set", "eth0", "down"]);
        host.ip(&["link", "set", "eth0", "address", &text(mac), "up"]);
        let socket = host.inside(|| {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
            socket.bind_device(Some(b"eth0")).unwrap();
            setsockopt(&socket, Ipv6RecvHopLimit, &true).unwrap();
            socket.set_read_timeout(Some(SILENCE / 10)).unwrap();
            socket.into()
        });
        Self { host, mac, socket }
    }

    /// Broadcasts a captured DISCOVER as its own.
    fn discover(&self, captured: &[u8]) {
        let mut datagram = captured.to_vec();
        datagram[CHADDR..CHADDR + 6].copy_from_slice(&self.mac);
        self.host.inside(|| {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
            let socket = bind(any, Some("eth0"), Sharing::Shared).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(&datagram, (Ipv4Addr::BROADCAST, 67)).unwrap();
        });
    }

    /// Solicits routers, with `mac` in the option, and returns the advertisement, if any.
    fn solicit(&self, mac: [u8; 6], hop_limit: u32) -> Option<Advertisement> {
        let message = [&[133, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &mac].concat();
        SockRef::from(&self.socket).set_multicast_hops_v6(hop_limit).unwrap();
        let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        self.socket.send_to(&message, SocketAddrV6::new(all_routers, 0, 0, 0)).unwrap();
        let end = Instant::now() + SILENCE;
        while Instant::now() < end {
            if let Some(advertisement) = self.receive() {
                return Some(advertisement);
            }
        }
        None
    }

    /// Solicits routers until it is answered.
    fn told(&self, server: &Running) -> Advertisement {
        // The bridge may not be sure of its address yet; machines ask several times too.
        let end = Instant::now() + SOON;
        loop {
            if let Some(told) = self.solicit(self.mac, 255) {
                return told;
            }
            assert!(Instant::now() < end, "{}", server.log());
            sleep(SILENCE);
        }
    }

    /// Receives the next message, if it is an advertisement and not another kind of ICMPv6.
    fn receive(&self) -> Option<Advertisement> {
        let (mut bytes, mut control) = ([0; 128], nix::cmsg_space!(i32));
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let fd = self.socket.as_raw_fd();
        let received = recvmsg::<SockaddrIn6>(fd, &mut slices, Some(&mut control), MsgFlags::empty()).ok()?;
        let hop_limit = received.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::Ipv6HopLimit(limit) => Some(limit),
            _ => None,
        });
        let (len, from) = (received.bytes, received.address.unwrap().ip());
        let (hop_limit, is_from_link) = (hop_limit.unwrap(), from.is_unicast_link_local());
        let mut message = bytes[..len].to_vec();
        message[2..4].fill(0);
        (message[0] == ROUTER_ADVERTISEMENT).then_some(Advertisement { message, hop_limit, is_from_link })
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn advertisement_needs_a_fresh_offer() {
    needs!(lan::NEEDS, iso::NEEDS);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let machine = Asker::new(&mut lan, 7);
    let [installed, neighbour] = [8, 9].map(|number| Asker::new(&mut lan, number));
    let mut command = lan.command(env!("CARGO_BIN_EXE_isowire"));
    command.arg("serve").arg(iso::small().path).args(["--interface", BRIDGE, "--portmap", "off"]);
    command.args(["--dhcp", "proxy", "--router-advertisement", "--status", "off"]);
    command.env("RUST_LOG", "isowire=debug");
    let mut server = Running::start(&mut command, &dir.path().join("log"));
    server.wait_for("\nready\n", SOON);
    let row = "\nIPv6 RA  -                     telling booting machines that there is no router, on br0\n";
    assert!(server.log().contains(row), "{}", server.log());

    assert_eq!(machine.solicit(machine.mac, 255), None, "it has not asked for a boot file yet");
    server.wait_for(&format!("{} was not offered a boot file", text(machine.mac)), SOON);
    machine.discover(PXE_DISCOVER);
    server.wait_for(&format!("DHCP offer machine={}", text(machine.mac)), SOON);
    installed.discover(PLAIN_DISCOVER);

    let empty = Advertisement { message: EMPTY_ADVERTISEMENT.to_vec(), hop_limit: 255, is_from_link: true };
    assert_eq!(machine.told(&server), empty);

    assert_eq!(installed.solicit(installed.mac, 255), None, "it asked for an address only");
    assert_eq!(neighbour.solicit(neighbour.mac, 255), None, "it asked nothing");
    assert_eq!(neighbour.solicit(machine.mac, 255), None, "it claims to be another one");
    assert_eq!(machine.solicit(neighbour.mac, 255), None, "it claims to be another one");
    assert_eq!(machine.solicit(machine.mac, 254), None, "it came through a router");
    server.wait_for("not answered: not from this link", SOON);
    assert!(machine.solicit(machine.mac, 255).is_some(), "nothing of that was held against it");
    assert!([&installed, &neighbour].iter().all(|other| other.receive().is_none()));

    // The interface is made again, as by a script that sets up virtual machines.
    lan.replace_bridge(US);
    server.wait_for("interface br0 is there: DHCP is answered on it", SOON);
    let (offer, end) = (format!("DHCP offer machine={}", text(machine.mac)), Instant::now() + SOON);
    while server.log().matches(&offer).count() < 2 {
        assert!(Instant::now() < end, "{}", server.log());
        // Repeated, as firmware does: the server may not have seen the address of the interface yet.
        machine.discover(PXE_DISCOVER);
        sleep(Duration::from_millis(500));
    }
    machine.told(&server);
    assert!(server.stop().success());
}
