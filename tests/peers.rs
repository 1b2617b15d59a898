//! Servers that share the machines of a network: each answers its own, and another one those of a
//! server that is gone.

mod common;

use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::process::Command;
use std::time::{Duration, Instant};

use common::dhcp::{Udhcpc, broadcast, client_socket, newcomer, router, shout, value};
use common::lan::{self, BRIDGE, Lan, Namespace};
use common::nbd::{attach_to, read_request, reply, request};
use common::needs::needs;
use common::running::{Running, output_of};
use common::stage::{PROGRAM, Stage};
use isowire::dhcp::wire::{Message, MessageType};
use isowire::placement::{Server, Servers};

/// Addresses of the two servers.
const TWO: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
const THREE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 3);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
const PEERS: &str = "192.168.77.2,192.168.77.3";

/// Halves of a range.
const HALVES: [&str; 2] = ["192.168.77.50-192.168.77.59", "192.168.77.60-192.168.77.69"];

const SOON: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
/// Time that the answer itself may take, on a loaded host.
const SLACK: Duration = Duration::from_millis(900);

const PXE_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipxe-bios-discover.bin");

/// A segment with two servers, and a machine without an address.
struct Room {
    lan: Lan,
    hosts: [Namespace; 2],
    machine: Namespace,
    stage: Stage,
}

/// A server of the room that runs.
struct Serving {
    process: Running,
    number: usize,
}

impl Room {
    fn new() -> Self {
        let mut lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
        let hosts = [lan.host(TWO), lan.host(THREE)];
        let (machine, stage) = (newcomer(&mut lan, BRIDGE), Stage::new());
        for number in 0..2 {
            DirBuilder::new().mode(0o700).create(stage.path(&format!("run{number}"))).unwrap();
        }
        Self { lan, hosts, machine, stage }
    }

    fn command(&self, number: usize, arguments: &[&str]) -> Command {
        let mut command = self.hosts[number].command(PROGRAM);
        let directory = self.stage.path(&format!("run{number}"));
        command.args(arguments).env_remove("RUNTIME_DIRECTORY");
        command.env("XDG_RUNTIME_DIR", &directory).env("XDG_STATE_HOME", directory);
        command
    }

    fn start(&self, number: usize, options: &[&str]) -> Running {
        let log = format!("log-{}", fs::read_dir(self.stage.dir.path()).unwrap().count());
        let iso = self.stage.path("arch.iso");
        let mut command = self.command(number, &["serve", iso.to_str().unwrap(), "--peers", PEERS]);
        command.args(["--portmap", "off", "--nfs", "off", "--status", "socket"]).args(options);
        let mut server = Running::start(&mut command, &self.stage.path(&log));
        server.wait_for("\nready\n", SOON);
        server
    }

    /// Starts a server that has just come up, and knows nothing of what was before.
    fn serve(&self, number: usize, options: &[&str]) -> Serving {
        Serving { process: self.start(number, options), number }
    }

    /// Starts a server, and one that takes over from it: it goes on with what that one knows.
    fn serve_on(&self, number: usize, options: &[&str]) -> Serving {
        let first = self.serve(number, options);
        self.take_over(first, options)
    }

    fn take_over(&self, mut before: Serving, options: &[&str]) -> Serving {
        let number = before.number;
        let options = [options, &["--takeover"]].concat();
        let process = self.start(number, &options);
        assert!(before.process.wait(SOON).unwrap().success(), "{}", before.process.log());
        Serving { process, number }
    }

    /// Returns the address of the next card of which `server` is first.
    fn mac_of(&self, server: Ipv4Addr, skip: usize) -> [u8; 6] {
        let servers = Servers::new(vec![Server::new(TWO, []), Server::new(THREE, [])]);
        let macs = (1..=250).map(|last| [0x52, 0x54, 0, 0x12, 0x34, last]);
        let mut own = macs.filter(|mac| servers.order(mac)[0].name() == server);
        own.nth(skip).unwrap()
    }

    fn status(&self, number: usize) -> String {
        output_of(&mut self.command(number, &["status"]))
    }
}

impl Serving {
    fn log(&self) -> String {
        self.process.log()
    }
}

/// A DISCOVER of firmware with this card.
fn discover(mac: [u8; 6]) -> Vec<u8> {
    let mut message = broadcast(PXE_DISCOVER);
    message[28..34].copy_from_slice(&mac);
    message
}

/// Its REQUEST for the offer of another DHCP server.
fn request_of(mac: [u8; 6], server: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let mut message = Message::parse(&discover(mac)).unwrap();
    (message.kind, message.server, message.requested) = (MessageType::Request, Some(server), Some(address));
    message.emit()
}

/// Sends a DISCOVER, and returns who offers something within some time, each with its delay.
fn offers(host: &Namespace, datagram: &[u8], time: Duration) -> Vec<(Ipv4Addr, Duration)> {
    host.inside(|| {
        let (socket, since, mut bytes) = (client_socket(), Instant::now(), [0; 2048]);
        socket.send_to(datagram, (Ipv4Addr::BROADCAST, 67)).unwrap();
        let mut offers = Vec::new();
        while let Some(left) = time.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left)).unwrap();
            if let Ok((len, _)) = socket.recv_from(&mut bytes) {
                let offer = Message::parse(&bytes[..len]).unwrap();
                offers.push((offer.server.unwrap(), since.elapsed()));
            }
        }
        offers
    })
}

/// Checks that exactly one server offers something, after this time.
#[track_caller]
fn assert_offer(offers: &[(Ipv4Addr, Duration)], server: Ipv4Addr, after: Duration) {
    let [(from, delay)] = offers else { panic!("not one offer: {offers:?}") };
    assert_eq!(*from, server, "{offers:?}");
    // A server counts from its own receipt, a little after the send.
    assert!((after..after + SLACK).contains(delay), "{offers:?}, expected after {after:?}");
}

#[test]
fn proxies_share_the_machines_beside_a_dhcp_server() {
    needs!(lan::NEEDS, ["xorriso", "dnsmasq"]);
    let mut room = Room::new();
    let other = room.lan.host(ROUTER);
    let dnsmasq = router(&other, room.stage.dir.path(), "192.168.77.200,192.168.77.209");
    let (two, three) = (room.serve_on(0, &[]), room.serve_on(1, &[]));
    let row = format!("machines are shared by {TWO}, {THREE}");
    assert!(two.log().contains(&row), "{}", two.log());

    for (server, skip) in [(TWO, 0), (THREE, 0), (TWO, 1), (THREE, 1)] {
        let datagram = discover(room.mac_of(server, skip));
        // dnsmasq takes three seconds for a new address.
        let seen = offers(&room.machine, &datagram, Duration::from_secs(4));
        let (proxies, of_router): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(from, _)| *from != ROUTER);
        assert_offer(&proxies, server, Duration::ZERO);
        assert_eq!(of_router.len(), 1);
    }
    let left = format!("DHCP message not answered: left to server {TWO}, which comes before this one for it");
    assert_eq!(three.log().matches(&left).count(), 2, "{}", three.log());

    // What waits is dropped when the machine goes on.
    let mac = room.mac_of(TWO, 2);
    two.process.kill();
    let datagrams = [discover(mac), request_of(mac, ROUTER, Ipv4Addr::new(192, 168, 77, 200))];
    let servers =
        |received: Vec<(Message, _)>| received.into_iter().filter_map(|(message, _)| message.server);
    let received = shout(&room.machine, &datagrams, 2 * SECOND);
    assert!(servers(received).all(|server| server == ROUTER), "{}", three.log());

    drop(dnsmasq);
    let mac = room.mac_of(TWO, 3);
    assert_offer(&offers(&room.machine, &discover(mac), 3 * SECOND), THREE, SECOND);
    let covered = "answered for another server, which stayed silent";
    let line = three.log().lines().find(|line| line.contains(covered)).unwrap().to_owned();
    assert!(line.contains(&format!("server={TWO}")), "{line}");
    assert_offer(&offers(&room.machine, &discover(room.mac_of(THREE, 2)), SECOND), THREE, Duration::ZERO);
}

#[test]
fn dhcp_servers_share_the_machines_and_a_range() {
    needs!(lan::NEEDS, ["xorriso", "udhcpc", "kill"]);
    let room = Room::new();
    let options = HALVES.map(|range| ["--dhcp-range", range]);
    let two = room.serve_on(0, &options[0]);
    let three = room.serve_on(1, &options[1]);
    let doctor = room.command(1, &["doctor", "--peers", PEERS, "--dhcp-range", HALVES[1]]).output().unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains(&format!("{TWO} shares machines with this one, and answers")), "{doctor}");

    let bound = |server: Ipv4Addr, half: &str| {
        let mac = room.mac_of(server, 0).map(|byte| format!("{byte:02x}")).join(":");
        room.machine.ip(&["link", "set", "eth0", "address", &mac]);
        let mut udhcpc = Udhcpc::start(&room.machine, room.stage.dir.path(), &[]);
        let bound = udhcpc.told("bound");
        assert_eq!(value(&bound, "serverid"), server.to_string(), "{bound}");
        let address: Ipv4Addr = value(&bound, "ip").parse().unwrap();
        let [first, last]: [Ipv4Addr; 2] =
            half.split('-').map(|end| end.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
        assert!((first..=last).contains(&address), "{address} {half}");
        udhcpc.signal("-USR1");
        assert_eq!(value(&udhcpc.told("renew"), "ip"), address.to_string());
    };
    bound(TWO, HALVES[0]);
    bound(THREE, HALVES[1]);
    two.process.kill();
    // It holds a new address for 0.3 seconds until nobody has it.
    let mac = room.mac_of(TWO, 1);
    assert_offer(&offers(&room.machine, &discover(mac), 3 * SECOND), THREE, SECOND);
    room.machine.ip(&["address", "flush", "dev", "eth0"]);

    // The first server is back, and knows nothing of the machine that was covered for.
    let mac = room.mac_of(TWO, 2).map(|byte| format!("{byte:02x}")).join(":");
    room.machine.ip(&["link", "set", "eth0", "address", &mac]);
    let mut udhcpc = Udhcpc::start(&room.machine, room.stage.dir.path(), &[]);
    assert_eq!(value(&udhcpc.told("bound"), "serverid"), THREE.to_string());
    let two = room.serve(0, &options[0]);
    drop(udhcpc);
    let mut udhcpc = Udhcpc::start(&room.machine, room.stage.dir.path(), &[]);
    assert_eq!(value(&udhcpc.told("bound"), "serverid"), THREE.to_string(), "{}", two.log());
    for log in [two.log(), three.log()] {
        assert!(!log.contains("another DHCP server"), "{log}");
    }
}

#[test]
fn drained_server_waits_for_its_last_machine() {
    needs!(lan::NEEDS, ["xorriso"]);
    let mut room = Room::new();
    let user = room.lan.host(Ipv4Addr::new(192, 168, 77, 7));
    let (two, three) = (room.serve_on(0, &[]), room.serve_on(1, &[]));
    let image = fs::read(room.stage.path("arch.iso")).unwrap();
    let mut root = user.inside(|| attach_to((TWO, 10809).into(), "archiso"));
    assert_eq!(read(&mut root, 32 << 10), image[32 << 10..][..4096]);

    let mut drain = Running::start(&mut room.command(0, &["drain"]), &room.stage.path("drain"));
    drain.wait_for("1 machine is left", SOON);
    assert!(drain.log().starts_with("new machines go to other servers"), "{}", drain.log());
    let mac = room.mac_of(TWO, 0);
    assert_offer(&offers(&room.machine, &discover(mac), 3 * SECOND), THREE, SECOND);
    let says = "new machines go to other servers since";
    assert!(room.status(0).contains(says), "{}", room.status(0));
    assert!(!room.status(1).contains(says), "{}", room.status(1));

    // Over a take-over, with the client.
    let two = room.take_over(two, &[]);
    assert_offer(&offers(&room.machine, &discover(room.mac_of(TWO, 1)), 3 * SECOND), THREE, SECOND);
    assert_eq!(read(&mut root, 64 << 10), image[64 << 10..][..4096]);
    root.write_all(&request(2, 0, 0)).unwrap();
    assert_eq!(root.read(&mut [0]).unwrap(), 0);
    assert!(drain.wait(SOON).unwrap().success(), "{}", drain.log());
    assert!(drain.log().ends_with("the last machine has left\n"), "{}", drain.log());
    // It still answers if nobody else does.
    three.process.kill();
    assert_offer(&offers(&room.machine, &discover(room.mac_of(TWO, 2)), 4 * SECOND), TWO, 2 * SECOND);
    let said = output_of(&mut room.command(0, &["drain", "--end"]));
    assert_eq!(said, "new machines are taken again\n");
    assert!(!room.status(0).contains(says), "{}", room.status(0));
    assert_offer(&offers(&room.machine, &discover(room.mac_of(TWO, 3)), 2 * SECOND), TWO, Duration::ZERO);
    assert!(two.log().contains("new machines are taken"), "{}", two.log());
}

#[test]
fn drain_needs_another_server() {
    needs!(lan::NEEDS, ["xorriso"]);
    let room = Room::new();
    let iso = room.stage.path("arch.iso");
    let mut command = room.command(0, &["serve", iso.to_str().unwrap(), "--portmap", "off", "--nfs", "off"]);
    let mut server = Running::start(&mut command, &room.stage.path("log0"));
    server.wait_for("\nready\n", SOON);
    let output = room.command(0, &["drain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.starts_with("isowire: no other server is known that could take its machines"), "{error}");
}

/// Reads 4 KiB of a root over NBD.
fn read(root: &mut TcpStream, offset: u64) -> Vec<u8> {
    root.write_all(&read_request(offset, 4096)).unwrap();
    let (cookie, data) = reply(root, |_| 4096);
    assert_eq!(cookie, offset);
    data
}
