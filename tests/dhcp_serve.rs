//! DHCP of `isowire serve`: several networks with real clients on each, and two servers on one host.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use common::dhcp::{Udhcpc, behind_relay, newcomer, router, value};
use common::iso;
use common::lan::{self, BRIDGE, Lan};
use common::needs::needs;
use common::running::{Running, text_of};

/// Our address on the first network.
const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The same on the second network.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 78, 1);
const SECOND_BRIDGE: &str = "br1";
/// Host of a relay agent.
const RELAY: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
const SOON: Duration = Duration::from_secs(30);

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
        Self { lan, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `isowire serve` with [`SUBNETS`] and further tables of the configuration file.
    fn run(&self, tables: &str) -> Running {
        let config = self.path().join("isowire.toml");
        let leases = self.path().join("leases");
        fs::write(&config, format!("lease-file = '{}'\n{SUBNETS}{tables}", leases.display())).unwrap();
        let mut command = self.lan.command(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(self.path().join("arch.iso")).arg("--config").arg(config);
        command.args(["--portmap", "off", "--nfs", "off", "--status", "off"]);
        Running::start(&mut command, &self.path().join("log"))
    }

    /// Runs `isowire serve` on any free ports with these options; its log has this name.
    fn beside(&self, log: &str, options: &[&str]) -> Running {
        let mut command = self.lan.command(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(self.path().join("arch.iso")).args(["--portmap", "off", "--status", "off"]);
        command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0"]).args(options);
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
