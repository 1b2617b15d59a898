//! Interfaces and addresses that come, go and change while the server runs, and the one that it is
//! bound to.

mod common;

use std::fs;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use common::dhcp::{Udhcpc, broadcast, collect, router, shout, value};
use common::lan::{self, BRIDGE, Lan, Namespace, give_to_nobody};
use common::needs::needs;
use common::running::{Running, output_of, text_of};
use isowire::check::sample;
use isowire::dhcp::wire::{Message, MessageType};

const SOON: Duration = Duration::from_secs(20);
/// Longer than any answer takes within one machine.
const SILENCE: Duration = Duration::from_millis(700);

/// Address of the bridge.
const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// Address of the card.
const CARD: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const RANGE: &str = "10.7.0.1-10.7.0.2";

const PXE_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipxe-bios-discover.bin");
const PXE_4011_REQUEST: &[u8] = include_bytes!("data/dhcp/ipxe-bios-4011-request.bin");
const PLAIN_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipconfig-discover.bin");

/// A host with a bridge, a card that is plugged in and pulled out, and a machine at the card.
struct Stage {
    lan: Lan,
    machine: Namespace,
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let stage = Self { lan: Lan::new(US), machine: Namespace::new(), dir };
        fs::create_dir(stage.path("state")).unwrap();
        give_to_nobody(&stage.path("state"));
        fs::copy(env!("CARGO_BIN_EXE_isowire"), stage.path("isowire")).unwrap();
        fs::write(stage.path("arch.iso"), sample::image()).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Creates the command of a server without any privilege.
    fn serve(&self, options: &[&str]) -> Command {
        let mut command = self.lan.command_as_nobody(self.path("isowire"));
        command.arg("serve").arg(self.path("arch.iso")).args(["--portmap", "off", "--status", "off"]);
        command.args(options).env("STATE_DIRECTORY", self.path("state")).env_remove("NOTIFY_SOCKET");
        command
    }

    fn start(&self, options: &[&str]) -> Running {
        let mut server = Running::start(&mut self.serve(options), &self.path("log"));
        server.wait_for("\nready\n", SOON);
        server
    }

    /// Plugs the card in, as `usb0` of the host and `eth0` of the machine.
    fn plug_in(&self) {
        self.connect();
        self.lan.server().ip(&["address", "add", &format!("{CARD}/24"), "dev", "usb0"]);
    }

    /// The same without an address.
    fn connect(&self) {
        let host = self.lan.server();
        let to = ["name", "eth0", "address", "02:00:00:00:00:07", "netns", self.machine.name()];
        host.ip(&[&["link", "add", "usb0", "type", "veth", "peer"], &to[..]].concat());
        host.ip(&["link", "set", "usb0", "up"]);
        self.machine.ip(&["link", "set", "eth0", "up"]);
    }

    fn pull_out(&self) {
        self.lan.server().ip(&["link", "delete", "usb0"]);
    }

    /// Leases an address to the machine.
    fn leased(&self) -> String {
        value(&Udhcpc::start(&self.machine, self.dir.path(), &["-q"]).told("bound"), "ip").to_owned()
    }

    /// Returns the kinds of the replies to one message for port 4011.
    fn boot_server_replies(&self) -> Vec<MessageType> {
        let replies = self.machine.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:4011").unwrap();
            socket.send_to(PXE_4011_REQUEST, (CARD, 4011)).unwrap();
            collect(&socket, SILENCE)
        });
        replies.iter().map(|(reply, _)| reply.kind).collect()
    }
}

/// Returns how many lines of the log contain `text`.
fn count(server: &Running, text: &str) -> usize {
    server.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn interface_made_again_is_served_again() {
    needs!(lan::NEEDS, ["udhcpc"]);
    let stage = Stage::new();
    stage.plug_in();
    let mut server = stage.start(&["-i", "usb0", "--dhcp-range", RANGE]);
    assert_eq!(stage.leased(), "10.7.0.2", "the other address of the range is ours");
    assert_eq!(stage.boot_server_replies(), [MessageType::Ack]);
    for round in 1..=2 {
        stage.pull_out();
        server.wait_for_lines("waiting for interface usb0", round, SOON);
        stage.plug_in();
        server.wait_for_lines("interface usb0 is there: DHCP is answered on it", round, SOON);
        assert_eq!(stage.leased(), "10.7.0.2");
        assert_eq!(stage.boot_server_replies(), [MessageType::Ack]);
        assert_eq!(count(&server, "waiting for interface usb0"), round, "{}", server.log());
    }
    // Another card has its name now.
    stage.lan.server().ip(&["link", "set", "usb0", "name", "usb1"]);
    server.wait_for_lines("waiting for interface usb0", 3, SOON);
    assert_eq!(shout(&stage.machine, &[broadcast(PLAIN_DISCOVER)], SILENCE), []);
    assert!(server.stop().success());
}

#[test]
fn later_interface_is_waited_for() {
    needs!(lan::NEEDS, ["udhcpc"]);
    let stage = Stage::new();
    let mut server = stage.start(&["-i", "usb0", "--wait-interface", "--dhcp-range", RANGE]);
    let log = server.log();
    assert!(log.contains("DHCP     0.0.0.0:67            waiting for interface usb0\n"), "{log}");
    assert_eq!(count(&server, "waiting for"), 3, "the row, the interface, its network: {log}");
    stage.lan.server().inside(|| TcpStream::connect((US, 80)).unwrap());

    stage.plug_in();
    server.wait_for("network of the DHCP range is there range=10.7.0.1-10.7.0.2", SOON);
    assert_eq!(stage.leased(), "10.7.0.2");
    assert_eq!(stage.boot_server_replies(), [MessageType::Ack]);
    // An address that this host takes is not leased, and the machine that had it gets none.
    stage.lan.server().ip(&["address", "add", "10.7.0.2/24", "dev", "usb0"]);
    let leases = stage.path("state").join("leases");
    let end = Instant::now() + SOON;
    while !text_of(&leases).contains("free 10.7.0.2") {
        assert!(Instant::now() < end, "{}", server.log());
        sleep(Duration::from_millis(20));
    }
    assert_eq!(shout(&stage.machine, &[broadcast(PLAIN_DISCOVER)], SILENCE), []);
    assert!(server.stop().success());
}

/// Its machines get no address from here before dnsmasq has answered, which takes it three seconds.
#[test]
fn other_server_at_a_later_interface_is_found_before_an_offer() {
    needs!(lan::NEEDS, ["dnsmasq"]);
    let stage = Stage::new();
    let mut server = stage.start(&["-i", "usb0", "--wait-interface", "--dhcp-range", "10.7.0.10-10.7.0.20"]);
    stage.connect();
    stage.machine.ip(&["address", "add", "10.7.0.2/24", "dev", "eth0"]);
    let _dnsmasq = router(&stage.machine, stage.dir.path(), "10.7.0.200,10.7.0.209");
    stage.lan.server().ip(&["address", "add", &format!("{CARD}/24"), "dev", "usb0"]);
    // Dnsmasq probes for one client at a time; the first is to be our server.
    server.wait_for("network of the DHCP range is there", SOON);
    sleep(Duration::from_millis(300));
    for _ in 0..7 {
        let replies = shout(&stage.machine, &[broadcast(PLAIN_DISCOVER)], Duration::from_secs(1));
        assert!(replies.iter().all(|(reply, _)| reply.server != Some(CARD)), "{replies:?}");
    }
    let log = server.log();
    assert!(log.contains("another DHCP server found: no offers on its network"), "{log}");
    assert!(log.contains("another DHCP server is looked for first"), "{log}");
}

#[test]
fn service_of_systemd_waits_by_itself() {
    needs!(lan::NEEDS);
    let stage = Stage::new();
    let mut command = stage.serve(&["-i", "usb0"]);
    // systemd's own place, where nothing listens.
    command.env("NOTIFY_SOCKET", stage.path("notify"));
    let mut server = Running::start(&mut command, &stage.path("log"));
    server.wait_for("\nready\n", SOON);
    server.wait_for("waiting for interface usb0", SOON);
    stage.plug_in();
    server.wait_for("interface usb0 is there: DHCP is answered on it", SOON);
    // The card gets its address a moment after it is there; machines ask several times too.
    let end = Instant::now() + SOON;
    while servers(&shout(&stage.machine, &[broadcast(PXE_DISCOVER)], SILENCE)) != [CARD] {
        assert!(Instant::now() < end, "{}", server.log());
    }
    assert!(server.stop().success());
}

#[test]
fn privilege_is_needed_before_the_interface_exists() {
    needs!(lan::NEEDS);
    let stage = Stage::new();
    output_of(stage.lan.command("sysctl").args(["-qw", "net.ipv4.ip_unprivileged_port_start=1024"]));
    let options = ["-i", "usb0", "--wait-interface", "--dhcp", "proxy"];
    let mut server = Running::start(&mut stage.serve(&options), &stage.path("log"));
    assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{}", server.log());
    assert!(server.log().starts_with("isowire: dhcp: 0.0.0.0:67 cannot be used: Permission denied"));
}

#[test]
fn unknown_interface_is_an_error() {
    needs!(lan::NEEDS);
    let stage = Stage::new();
    for dhcp in ["proxy", "off"] {
        let mut server =
            Running::start(&mut stage.serve(&["-i", "eht0", "--dhcp", dhcp]), &stage.path("log"));
        assert_eq!(server.wait(SOON).unwrap().code(), Some(2), "{}", server.log());
        assert_eq!(
            server.log(),
            "isowire: --interface: `eht0`: no such interface; this host has br0; choose one, or add \
             `wait-interface` to wait for it\n"
        );
    }
}

/// Returns the servers that the messages name.
fn servers(received: &[(Message, std::net::SocketAddr)]) -> Vec<Ipv4Addr> {
    received.iter().filter_map(|(message, _)| message.server).collect()
}

#[test]
fn bound_address_is_told_where_it_is() {
    needs!(lan::NEEDS);
    let mut stage = Stage::new();
    stage.plug_in();
    let second = Ipv4Addr::new(192, 168, 77, 2);
    stage.lan.server().ip(&["address", "add", &format!("{second}/24"), "dev", BRIDGE]);
    let host = stage.lan.host(Ipv4Addr::new(192, 168, 77, 7));
    let mut server = stage.start(&["--bind", "192.168.77.2", "--dhcp", "proxy"]);

    let offers = shout(&host, &[broadcast(PXE_DISCOVER)], SILENCE);
    let [(offer, from)] = &offers[..] else { panic!("not one offer: {offers:?}") };
    assert_eq!((offer.server, offer.header.siaddr, from.ip()), (Some(second), second, second.into()));

    // Asked twice, and by a machine that wants nothing of a proxy.
    let other = [broadcast(PXE_DISCOVER), broadcast(PXE_DISCOVER), broadcast(PLAIN_DISCOVER)];
    assert_eq!(shout(&stage.machine, &other, SILENCE), []);
    let why = "DHCP message dropped: isowire is bound to 192.168.77.2, which is not on the interface of the machine";
    assert_eq!(count(&server, why), 1, "{}", server.log());
    // A relay agent on that network: its machines come through routers.
    let mut relayed = broadcast(PXE_DISCOVER);
    relayed[24..28].copy_from_slice(&[10, 7, 0, 9]);
    stage.machine.ip(&["address", "add", "10.7.0.9/24", "dev", "eth0"]);
    let offers = stage.machine.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
        socket.send_to(&relayed, (CARD, 67)).unwrap();
        collect(&socket, SILENCE)
    });
    assert_eq!(servers(&offers), [second]);
    assert!(server.stop().success());
}

#[test]
fn advertised_address_is_told_everywhere() {
    needs!(lan::NEEDS);
    let stage = Stage::new();
    stage.plug_in();
    let told = Ipv4Addr::new(192, 0, 2, 1);
    let options = ["--bind", "127.0.0.1", "--advertise", "192.0.2.1", "--dhcp", "proxy"];
    let mut server = stage.start(&options);
    assert_eq!(servers(&shout(&stage.machine, &[broadcast(PXE_DISCOVER)], SILENCE)), [told]);
    assert!(server.stop().success());
}

#[test]
fn dhcp_is_off_on_loopback() {
    needs!(lan::NEEDS);
    let stage = Stage::new();
    let mut server = stage.start(&["--bind", "127.0.0.1"]);
    let log = server.log();
    let row = "DHCP     -                     off: bound to 127.0.0.1, which no machine can reach\n";
    assert!(log.contains(row), "{log}");
    assert!(!log.contains("set the DHCP server of their network"), "{log}");
    assert!(server.stop().success());
    let options = ["--bind", "127.0.0.1", "--dhcp", "proxy"];
    let mut server = Running::start(&mut stage.serve(&options), &stage.path("log"));
    assert_eq!(server.wait(SOON).unwrap().code(), Some(2), "{}", server.log());
    assert!(server.log().starts_with("isowire: --bind: `127.0.0.1`: no machine can reach this address, so"));
}
