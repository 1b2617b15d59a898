//! DHCP of `isowire serve`: several networks with real clients on each, hostile clients and servers,
//! a full disk, and two servers on one host.

mod common;

use std::fs::{self, DirBuilder};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use common::dhcp::{Received, Udhcpc, ask, behind_relay, broadcast, newcomer, router, shout, value};
use common::iso;
use common::lan::{self, BRIDGE, Lan};
use common::needs::{needs, tool};
use common::running::{Running, output_of, text_of};
use isowire::dhcp::wire::{Message, MessageType};

/// Our address on the first network.
const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The same on the second network.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 1);
const SECOND_BRIDGE: &str = "br1";
/// Host of a relay agent.
const RELAY: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
const SOON: Duration = Duration::from_secs(30);
/// Time for a reply that may not come.
const SHORT: Duration = Duration::from_millis(700);

/// The third network is behind a relay agent.
const SUBNETS: &str = "lease-time = '1h'\n\
    [[subnet]]\ndhcp-range = '192.168.77.50-192.168.77.59'\nrouter = '192.168.77.254'\n\
    [[subnet]]\ndhcp-range = '192.168.78.50-192.168.78.59'\ndns = ['9.9.9.9']\nlease-time = '2h'\n\
    [[subnet]]\ndhcp-range = '10.9.0.50-10.9.0.59'\nnetmask = '255.255.255.0'\nrouter = '10.9.0.1'\n";

/// Two segments, and the files of a server on both.
struct Site {
    lan: Lan,
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let lan = Lan::new(US);
        lan.add_bridge(SECOND_BRIDGE, SECOND);
        let dir = tempfile::tempdir().unwrap();
        iso::bare(dir.path());
        DirBuilder::new().mode(0o700).create(dir.path().join("run")).unwrap();
        Self { lan, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn config(&self) -> PathBuf {
        self.path().join("isowire.toml")
    }

    /// Runs `isowire serve` with [`SUBNETS`] and further tables of the configuration file.
    fn run(&self, tables: &str) -> Running {
        let config = self.config();
        let leases = self.path().join("leases");
        fs::write(&config, format!("lease-file = '{}'\n{SUBNETS}{tables}", leases.display())).unwrap();
        self.run_again("log", &["--config", config.to_str().unwrap()])
    }

    /// Runs `isowire serve` with these options; its log has this name.
    fn run_again(&self, log: &str, options: &[&str]) -> Running {
        let mut command = self.lan.command(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(self.path().join("arch.iso")).args(options);
        command.args(["--portmap", "off", "--nfs", "off", "--status", "off"]);
        command.env("XDG_RUNTIME_DIR", self.path().join("run")).env_remove("RUNTIME_DIRECTORY");
        Running::start(&mut command, &self.path().join(log))
    }

    /// Runs `isowire serve` on any free ports with these options; its log has this name.
    fn beside(&self, log: &str, options: &[&str]) -> Running {
        let mut command = self.lan.command(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(self.path().join("arch.iso")).args(["--portmap", "off", "--status", "off"]);
        command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0"]).args(options);
        command.env("XDG_STATE_HOME", self.path());
        Running::start(&mut command, &self.path().join(log))
    }

    fn serve(&self) -> Running {
        let mut server = self.run("");
        server.wait_for("\nready\n", SOON);
        server
    }
}

#[test]
fn each_network_has_its_pool() {
    needs!(lan::NEEDS, ["xorriso", "udhcpc", "dhcrelay", "kill"]);
    let mut site = Site::new();
    let (near, other) = (newcomer(&mut site.lan, BRIDGE), newcomer(&mut site.lan, SECOND_BRIDGE));
    let (far, relay) = behind_relay(&mut site.lan, RELAY);
    let mut server = site.serve();
    assert!(server.log().contains("the DHCP server of its networks"), "{}", server.log());
    let mut command = relay.command("dhcrelay");
    command.args(["-4", "-d", "--no-pid", "-a", "-i", "eth1", "-i", "eth0", &US.to_string()]);
    let mut dhcrelay = Running::start(&mut command, &site.path().join("relay.log"));
    dhcrelay.wait_for("Sending on   Socket/fallback", SOON);

    let told: Vec<_> =
        [(&near, "192.168.77.", "192.168.77.254", US), (&other, "192.168.78.", "192.168.78.1", SECOND)]
            .into_iter()
            .chain([(&far, "10.9.0.", "10.9.0.1", US)])
            .map(|(host, network, router, server)| {
                let mut udhcpc = Udhcpc::start(host, site.path(), &[]);
                let bound = udhcpc.told("bound");
                assert!(value(&bound, "ip").starts_with(network), "{bound}");
                assert_eq!(value(&bound, "router"), router, "{bound}");
                assert_eq!(value(&bound, "siaddr"), server.to_string(), "{bound}");
                (udhcpc, bound)
            })
            .collect();
    assert_eq!((value(&told[0].1, "dns"), value(&told[1].1, "dns")), ("192.168.77.1", "9.9.9.9"));
    assert_eq!([0, 1, 2].map(|n| value(&told[n].1, "lease")), ["3600", "7200", "3600"]);

    // Renewing goes to us directly, past the relay agent.
    far.ip(&["route", "add", "default", "via", "10.9.0.1"]);
    let mut clients: Vec<_> =
        told.into_iter().map(|(udhcpc, bound)| (udhcpc, value(&bound, "ip").to_owned())).collect();
    for (udhcpc, address) in &mut clients {
        udhcpc.signal("-USR1");
        assert_eq!(value(&udhcpc.told("renew"), "ip"), address);
    }
    drop(clients.drain(1..));
    let (_, first) = clients.pop().unwrap();
    assert!(server.stop().success());
    let leases = text_of(&site.path().join("leases"));
    for network in [" 192.168.77.", " 192.168.78.", " 10.9.0."] {
        assert!(leases.contains(&format!("lease{network}")), "{leases}");
    }
    let _server = site.serve();
    assert_eq!(value(&Udhcpc::start(&near, site.path(), &[]).told("bound"), "ip"), first);
}

#[test]
fn other_server_stops_offers_on_its_network_only() {
    needs!(lan::NEEDS, ["xorriso", "udhcpc", "dnsmasq"]);
    let mut site = Site::new();
    let (near, second) = (newcomer(&mut site.lan, BRIDGE), newcomer(&mut site.lan, SECOND_BRIDGE));
    let host = site.lan.host_on(SECOND_BRIDGE, Ipv4Addr::new(192, 168, 78, 254));
    let _dnsmasq = router(&host, site.path(), "192.168.78.200,192.168.78.209");
    let server = site.serve();
    assert!(server.log().contains("another DHCP server found: no offers there"), "{}", server.log());
    let bound = Udhcpc::start(&near, site.path(), &[]).told("bound");
    assert_eq!(value(&bound, "serverid"), US.to_string());
    let bound = Udhcpc::start(&second, site.path(), &[]).told("bound");
    assert_eq!(value(&bound, "serverid"), "192.168.78.254");
}

/// A machine that asks just after a take-over is answered at once, but not where there was another
/// server a moment ago.
#[test]
fn successor_knows_of_the_other_server() {
    needs!(lan::NEEDS, ["xorriso", "dnsmasq", "kill"]);
    let mut site = Site::new();
    let (near, second) = (newcomer(&mut site.lan, BRIDGE), newcomer(&mut site.lan, SECOND_BRIDGE));
    let host = site.lan.host_on(SECOND_BRIDGE, Ipv4Addr::new(192, 168, 78, 254));
    let dnsmasq = router(&host, site.path(), "192.168.78.200,192.168.78.209");
    let config = site.config();
    let mut server = site.serve();
    assert!(server.log().contains("another DHCP server found"), "{}", server.log());
    // It answers nobody now, also no successor that looks for it.
    output_of(tool("kill").args(["-STOP", &dnsmasq.pid().as_raw_nonzero().to_string()]));
    for number in 1..=2 {
        let options = ["--config", config.to_str().unwrap(), "--takeover"];
        let mut next = site.run_again(&format!("log{number}"), &options);
        next.wait_for("\nready\n", SOON);
        let ready = Instant::now();
        let discover = |machine| message(MessageType::Discover, machine, None).emit();
        assert_eq!(ask(&near, &discover(2 * number), 1)[0].0.server, Some(US), "{}", next.log());
        // Looking for other servers first takes 3.5 seconds.
        assert!(ready.elapsed() < Duration::from_secs(3), "{:?}", ready.elapsed());
        let replies = shout(&second, &[discover(2 * number + 1)], Duration::from_secs(5));
        assert!(replies.is_empty(), "{replies:?}");
        assert!(server.wait(SOON).unwrap().success(), "{}", server.log());
        server = next;
    }
    // On one interface it could answer only when the other one has left.
    let options = ["--config", config.to_str().unwrap(), "--interface", BRIDGE, "--takeover"];
    let mut next = site.run_again("log3", &options);
    assert_eq!(next.wait(SOON).and_then(|status| status.code()), Some(1), "{}", next.log());
    assert!(next.log().contains("the other isowire has another `interface`; stop it"), "{}", next.log());
    assert!(server.wait(Duration::ZERO).is_none(), "{}", server.log());
}

#[test]
fn fixed_address_is_on_a_network() {
    needs!(lan::NEEDS, ["xorriso"]);
    let site = Site::new();
    for (address, why) in [
        (
            "10.8.0.7",
            "dhcp: `address` 10.8.0.7 of a [[machine]] is on none of the networks with a DHCP range (192.168.77.0/24, \
             192.168.78.0/24, 10.9.0.0/24); choose one there",
        ),
        (
            "10.9.0.1",
            "dhcp: `address` 10.9.0.1 of a [[machine]] is in use by this server, the router or a DNS",
        ),
    ] {
        let mut server =
            site.run(&format!("[[machine]]\nmac = '52:54:00:00:00:01'\naddress = '{address}'\n"));
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1));
        assert!(server.log().contains(why), "{}", server.log());
    }
}

/// Message of a client with this last byte of its MAC address.
fn message(kind: MessageType, machine: u8, requested: Option<Ipv4Addr>) -> Message {
    Message { kind, requested, ..Message::discover(u32::from(machine), [2, 0, 0, 0, 0, machine]) }
}

fn offered(replies: &Received) -> Ipv4Addr {
    replies.first().unwrap_or_else(|| panic!("no offer")).0.header.yiaddr
}

/// Offers of a DHCP server that runs, and of another one that comes later.
fn believes_a_server_that_answers(is_client_port_busy: bool) {
    let mut site = Site::new();
    let _client =
        is_client_port_busy.then(|| site.lan.server().inside(|| UdpSocket::bind("0.0.0.0:68").unwrap()));
    let host = newcomer(&mut site.lan, BRIDGE);
    let mut server = site.beside("log", &["--dhcp-range", "192.168.77.50-192.168.77.59"]);
    server.wait_for("\nready\n", SOON);
    let choice = Message { server: Some(RELAY), ..message(MessageType::Request, 1, Some(RELAY)) };
    let forged = vec![choice.emit(); 5];
    let discover = message(MessageType::Discover, 2, None).emit();
    // For longer than a probe takes.
    for _ in 0..3 {
        shout(&host, &forged, Duration::from_secs(2));
        assert_eq!(ask(&host, &discover, 1)[0].0.server, Some(US), "{}", server.log());
    }
    let other = site.lan.host(RELAY);
    let _dnsmasq = router(&other, site.path(), "192.168.77.200,192.168.77.209");
    let end = Instant::now() + 2 * SOON;
    while !server.log().contains("another DHCP server found: no offers on its network") {
        assert!(Instant::now() < end, "{}", server.log());
        shout(&host, &forged, Duration::from_secs(1));
    }
    let replies = shout(&host, &[discover], Duration::from_secs(5));
    assert!(replies.iter().all(|(reply, _)| reply.server == Some(RELAY)), "{replies:?}");
}

/// RFC 2131 §3.1 step 3: all servers hear whose offer a client takes, and anybody can say that.
#[test]
fn forged_choice_does_not_stop_offers() {
    needs!(lan::NEEDS, ["xorriso", "dnsmasq"]);
    believes_a_server_that_answers(false);
}

/// A service of systemd may not bind port 68, or a client of this host has it.
#[test]
fn other_server_is_found_without_client_port() {
    needs!(lan::NEEDS, ["xorriso", "dnsmasq"]);
    believes_a_server_that_answers(true);
}

#[test]
fn used_address_is_not_offered() {
    needs!(lan::NEEDS, ["xorriso"]);
    let mut site = Site::new();
    let [used, free] = [50, 51].map(|n| Ipv4Addr::new(192, 168, 77, n));
    let (_squatter, host) = (site.lan.host(used), newcomer(&mut site.lan, BRIDGE));
    let mut server = site.beside("log", &["--dhcp-range", "192.168.77.50-192.168.77.51"]);
    server.wait_for("\nready\n", SOON);
    let discover = message(MessageType::Discover, 1, Some(used)).emit();
    assert_eq!(offered(&ask(&host, &discover, 1)), free, "{}", server.log());
    assert!(
        server.log().contains("DHCP address not leased: a host without a lease uses it"),
        "{}",
        server.log()
    );
    // INIT-REBOOT of the other machine's address.
    let nak = ask(&host, &message(MessageType::Request, 2, Some(used)).emit(), 1);
    assert_eq!(nak[0].0.kind, MessageType::Nak);
}

/// One machine takes and declines address after address.
#[test]
fn declines_do_not_empty_the_pool() {
    needs!(lan::NEEDS, ["xorriso"]);
    let mut site = Site::new();
    let host = newcomer(&mut site.lan, BRIDGE);
    let mut server = site.beside("log", &["--dhcp-range", "192.168.77.50-192.168.77.53"]);
    server.wait_for("\nready\n", SOON);
    for _ in 0..12 {
        let Some((offer, _)) = shout(&host, &[message(MessageType::Discover, 1, None).emit()], SHORT).pop()
        else {
            continue;
        };
        let taken = Some(offer.header.yiaddr);
        let [request, decline] = [MessageType::Request, MessageType::Decline]
            .map(|kind| Message { server: Some(US), ..message(kind, 1, taken) }.emit());
        shout(&host, &[request], SHORT);
        shout(&host, &[decline], SHORT);
    }
    // More machines than would be left of the pool.
    for machine in 2..6 {
        let offer = ask(&host, &message(MessageType::Discover, machine, None).emit(), 1);
        let request =
            Message { server: Some(US), ..message(MessageType::Request, machine, Some(offered(&offer))) };
        assert_eq!(ask(&host, &request.emit(), 1)[0].0.kind, MessageType::Ack, "{}", server.log());
    }
}

/// A machine on its NBD root has an address of the range, but no lease: the lease file was lost. Behind
/// a relay agent there is no neighbour table to tell.
#[test]
fn address_of_a_live_root_is_not_leased() {
    needs!(lan::NEEDS, ["xorriso", "dhcrelay"]);
    let mut site = Site::new();
    let (far, relay) = behind_relay(&mut site.lan, RELAY);
    let [used, free] = [50, 51].map(|n| Ipv4Addr::new(10, 9, 0, n));
    far.ip(&["address", "add", &format!("{used}/24"), "dev", "eth0"]);
    far.ip(&["route", "add", "default", "via", "10.9.0.1"]);
    let server = site.serve();
    let mut command = relay.command("dhcrelay");
    command.args(["-4", "-d", "--no-pid", "-a", "-i", "eth1", "-i", "eth0", &US.to_string()]);
    let mut dhcrelay = Running::start(&mut command, &site.path().join("relay.log"));
    dhcrelay.wait_for("Sending on   Socket/fallback", SOON);
    let discover = message(MessageType::Discover, 1, Some(used)).emit();
    assert_eq!(offered(&ask(&far, &broadcast(&discover), 1)), used, "nothing is there yet");
    thread::sleep(Duration::from_secs(31));

    let nbd = far.inside(|| attach_nbd(SocketAddr::from((US, 10809))));
    let discover = message(MessageType::Discover, 2, Some(used)).emit();
    let offer = ask(&far, &broadcast(&discover), 1);
    assert_ne!(offered(&offer), used, "{}", server.log());
    assert!(offered(&offer) >= free);
    drop(nbd);
}

/// Attaches the default export by NBD's fixed newstyle handshake, and reads a block.
fn attach_nbd(server: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    // Flags of the client, then NBD_OPT_EXPORT_NAME with an empty name.
    stream.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").unwrap();
    // Size and flags; no zeroes, as the client's flags say.
    stream.read_exact(&mut [0; 10]).unwrap();
    let mut read = b"\x25\x60\x95\x13\0\0\0\0COOKIE01".to_vec();
    read.extend(0_u64.to_be_bytes());
    read.extend(512_u32.to_be_bytes());
    stream.write_all(&read).unwrap();
    stream.read_exact(&mut [0; 16 + 512]).unwrap();
    stream
}

/// File system of a few pages, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        output_of(tool("mount").args(["-t", "tmpfs", "-o", "size=16k", "tmpfs"]).arg(&path));
        Self(path)
    }

    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[7; 512]).is_ok() {}
        filler
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = tool("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn leases_of_a_full_disk_are_written_when_there_is_room() {
    needs!(lan::NEEDS, ["xorriso", "mount", "umount"]);
    let mut site = Site::new();
    let disk = SmallDisk::mount(site.path().join("isowire"));
    let filler = disk.fill();
    let host = newcomer(&mut site.lan, BRIDGE);
    let mut server = site.beside("log", &["--dhcp-range", "192.168.77.50-192.168.77.59"]);
    server.wait_for("\nready\n", SOON);
    assert!(server.log().contains("lease file not written: "), "{}", server.log());
    let lease = |machine| {
        let address = offered(&ask(&host, &message(MessageType::Discover, machine, None).emit(), 1));
        let request = Message { server: Some(US), ..message(MessageType::Request, machine, Some(address)) };
        assert_eq!(ask(&host, &request.emit(), 1)[0].0.kind, MessageType::Ack);
        format!("lease {address} 02:00:00:00:00:0{machine} until ")
    };
    let leases = [1, 2, 3].map(lease);
    fs::remove_file(filler).unwrap();
    let (file, end) = (disk.0.join("leases"), Instant::now() + SOON);
    while !leases.iter().all(|line| text_of(&file).contains(line)) {
        assert!(Instant::now() < end, "{}\n{}", text_of(&file), server.log());
        // Any message makes the server look.
        shout(&host, &[message(MessageType::Discover, 9, None).emit()], SHORT);
    }
    // It is full again in the middle of a line.
    let filler = disk.fill();
    let more = [4, 5].map(lease);
    fs::remove_file(filler).unwrap();
    assert!(server.stop().success(), "it writes what is missing at its end");
    let text = text_of(&file);
    assert!(leases.iter().chain(&more).all(|line| text.contains(line)), "{text}");
    assert!(
        text.lines().filter(|line| !line.starts_with('#')).all(|line| line.matches("lease").count() == 1)
    );
}

const PROXY: &str = "proxy, beside the DHCP server of the network";
const SECOND_OFF: &str = "DHCP     -                     off: another isowire on this host answers DHCP\n";

#[test]
fn second_server_leaves_dhcp_off() {
    needs!(lan::NEEDS, ["xorriso"]);
    let site = Site::new();
    let ready = |log: &str, options: &[&str]| {
        let mut server = site.beside(log, options);
        server.wait_for("\nready\n", SOON);
        server
    };
    let mut first = ready("1", &[]);
    assert!(first.log().contains(PROXY), "{}", first.log());
    let second = ready("2", &[]);
    assert!(second.log().contains(SECOND_OFF), "{}", second.log());
    let third = ready("3", &["--interface", BRIDGE]);
    assert!(third.log().contains(SECOND_OFF), "{}", third.log());
    // Asked for, it has to start.
    for options in [&["--dhcp", "proxy"][..], &["--dhcp-range", "192.168.77.50-192.168.77.59"]] {
        let mut refused = site.beside("refused", options);
        assert_eq!(refused.wait(SOON).unwrap().code(), Some(1));
        let line =
            "dhcp: another isowire on this host answers DHCP: stop it, set another `interface` for each, or";
        assert!(refused.log().contains(line), "{}", refused.log());
    }
    // The mark ends with its process, however that ends.
    assert!(first.stop().success());
    let fourth = ready("4", &[]);
    assert!(fourth.log().contains(PROXY), "{}", fourth.log());
    fourth.kill();
    let fifth = ready("5", &["--interface", BRIDGE]);
    assert!(fifth.log().contains(PROXY), "{}", fifth.log());
    // Two on different interfaces do not meet.
    let sixth = ready("6", &["--interface", SECOND_BRIDGE]);
    assert!(sixth.log().contains(PROXY), "{}", sixth.log());
}
