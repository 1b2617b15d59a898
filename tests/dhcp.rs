//! DHCP with real clients and beside a real DHCP server, each in its own network namespace.

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use common::dhcp::{
    FAR, Udhcpc, ask, behind_relay, broadcast, client_socket, executable, newcomer, replies, router, shout,
    value,
};
use common::lan::{self, BRIDGE, Lan, Namespace};
use common::needs::needs;
use common::running::{Running, output_of, text_of};
use isowire::boot;
use isowire::boot::Ports;
use isowire::bootable::Root;
use isowire::dhcp::server::{
    DhcpConfig, DhcpMode, DhcpStartError, Server, ServerConfig, Sharing, Sockets, SubnetConfig, bind,
};
use isowire::dhcp::wire::{Message, MessageType};
use isowire::export::Allowed;
use isowire::text::Word;

const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// Host of another DHCP server, or of a relay agent.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 7);
const RANGE: &str = "192.168.77.50-192.168.77.99";
/// Time for packets that may have to be sent twice.
const SOON: Duration = Duration::from_secs(20);

const PXE_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipxe-bios-discover.bin");
const PXE_4011_REQUEST: &[u8] = include_bytes!("data/dhcp/ipxe-bios-4011-request.bin");
const PLAIN_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipconfig-discover.bin");

/// Server on a thread in a namespace. Stops when dropped.
struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(host: &Namespace, mode: DhcpMode) -> Result<Self, DhcpStartError> {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let thread = thread::scope(|scope| {
            // The namespace outlives the thread's entry to it, which is all that needs it.
            let entered = scope.spawn(move || {
                host.enter();
                thread::spawn(move || serve(mode, &ready, stopped))
            });
            entered.join().unwrap()
        });
        started.recv().expect("the server starts or says why not")?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the server panicked");
    }
}

fn serve(mode: DhcpMode, ready: &mpsc::Sender<Result<(), DhcpStartError>>, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let port = |port| {
            let sharing = if matches!(mode, DhcpMode::Proxy) { Sharing::Shared } else { Sharing::Alone };
            bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port), Some(BRIDGE), sharing).unwrap()
        };
        let sockets = Sockets { dhcp: port(67), boot_server: Some(port(4011)) };
        let ports = Ports { tftp: 69, http: Some(80) };
        let boot = boot::BootTargets::new(Some("boot/syslinux/lpxelinux.0"), ports)
            .with_image(Word::new("arch").unwrap(), Ok(vec![Root::Nbd]));
        let interface = Some(BRIDGE.to_owned());
        let mode = mode.clone();
        let machines = Arc::new(isowire::machines::Registry::new(std::time::Instant::now()));
        let config = DhcpConfig {
            interface,
            wait: false,
            advertise: None,
            bind: None,
            mode,
            boot: Arc::new(boot).into(),
            machines,
            leased: Arc::default(),
            allowed: Allowed::default(),
            known_conflicts: Arc::default(),
            servers: None,
            is_successor: false,
        };
        match Server::start(sockets, config).await {
            Ok(server) => {
                ready.send(Ok(())).unwrap();
                server.run(async { drop(stopped.await) }).await;
            }
            Err(error) => ready.send(Err(error)).unwrap(),
        }
    });
}

fn subnet(range: &str) -> SubnetConfig {
    SubnetConfig {
        pool: range.parse().unwrap(),
        netmask: None,
        router: Some(ROUTER),
        dns: vec![Ipv4Addr::new(9, 9, 9, 9)],
        lease_seconds: 3600,
    }
}

fn server_role(lease_file: Option<PathBuf>) -> DhcpMode {
    DhcpMode::Server(ServerConfig { subnets: vec![subnet(RANGE)], lease_file })
}

/// The senders of what was received.
fn servers(received: &[(Message, SocketAddr)]) -> Vec<Ipv4Addr> {
    let mut servers: Vec<_> = received.iter().filter_map(|(message, _)| message.server).collect();
    servers.sort_unstable();
    servers.dedup();
    servers
}

#[test]
fn udhcpc_leases_renews_and_releases() {
    needs!(lan::NEEDS, ["udhcpc", "kill"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let lease_file = dir.path().join("leases");
    let host = newcomer(&mut lan, BRIDGE);
    let _server = Serving::start(lan.server(), server_role(Some(lease_file.clone()))).unwrap();

    let mut udhcpc = Udhcpc::start(&host, dir.path(), &[]);
    let bound = udhcpc.told("bound");
    let address = value(&bound, "ip").to_owned();
    assert_eq!(value(&bound, "subnet"), "255.255.255.0");
    assert_eq!(value(&bound, "router"), ROUTER.to_string());
    assert_eq!(value(&bound, "dns"), "9.9.9.9");
    assert_eq!((value(&bound, "serverid"), value(&bound, "siaddr")), ("192.168.77.1", "192.168.77.1"));
    assert_eq!(value(&bound, "lease"), "3600");
    assert!(!bound.contains("boot_file"), "no boot file for others:\n{bound}");

    udhcpc.signal("-USR1");
    assert_eq!(value(&udhcpc.told("renew"), "ip"), address);
    udhcpc.signal("-USR2");
    wait_for(&lease_file, &format!("free {address}\n"));
}

fn wait_for(file: &Path, text: &str) {
    let end = Instant::now() + SOON;
    while !text_of(file).contains(text) {
        assert!(Instant::now() < end, "no {text:?} in:\n{}", text_of(file));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn leases_survive_a_restart() {
    needs!(lan::NEEDS, ["udhcpc"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let lease_file = dir.path().join("leases");
    let host = newcomer(&mut lan, BRIDGE);
    let server = Serving::start(lan.server(), server_role(Some(lease_file.clone()))).unwrap();
    // An address that the machine requests, not the one that follows from its hardware address.
    let homes = ["192.168.77.61", "192.168.77.62"];
    let mut addresses = Vec::new();
    for wish in homes {
        let mut udhcpc = Udhcpc::start(&host, dir.path(), &["-r", wish]);
        addresses.push(value(&udhcpc.told("bound"), "ip").to_owned());
    }
    assert_eq!(addresses, ["192.168.77.61"; 2], "a machine has one address");
    drop(server);
    let _server = Serving::start(lan.server(), server_role(Some(lease_file))).unwrap();
    let mut udhcpc = Udhcpc::start(&host, dir.path(), &[]);
    assert_eq!(value(&udhcpc.told("bound"), "ip"), "192.168.77.61");
}

#[test]
fn dhclient_reboots_and_releases() {
    needs!(lan::NEEDS, ["dhclient"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let lease_file = dir.path().join("leases");
    let host = newcomer(&mut lan, BRIDGE);
    let _server = Serving::start(lan.server(), server_role(Some(lease_file.clone()))).unwrap();
    let script = dir.path().join("script");
    executable(
        &script,
        "#!/bin/sh\n[ -z \"$new_ip_address\" ] || ip address replace $new_ip_address/24 dev $interface\n",
    );
    let dhclient = |options: &[&str]| {
        let mut command = host.command("dhclient");
        command.args(["-4", "-1", "-v"]).args(options).arg("-sf").arg(&script);
        command.arg("-lf").arg(dir.path().join("dhclient.leases")).arg("-pf").arg(dir.path().join("pid"));
        let output = command.arg("eth0").output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let first = dhclient(&[]);
    assert!(first.contains("DHCPDISCOVER on eth0") && first.contains("bound to 192.168.77."), "{first}");
    dhclient(&["-x"]);
    let again = dhclient(&[]);
    assert!(!again.contains("DHCPDISCOVER on eth0") && again.contains("bound to 192.168.77."), "{again}");
    let gone = dhclient(&["-r"]);
    assert!(gone.contains("DHCPRELEASE of 192.168.77."), "{gone}");
    wait_for(&lease_file, "free 192.168.77.");
}

const IPCONFIG: &str = "/usr/lib/klibc/bin/ipconfig";

/// Runs the client of the initramfs and returns what it writes for the hooks.
fn ipconfig(host: &Namespace) -> String {
    // It writes to a place of the machine's, by the interface's name.
    host.ip(&["link", "set", "eth0", "down"]);
    let name = format!("iw{}", std::process::id() % 100_000);
    host.ip(&["link", "set", "eth0", "name", &name]);
    host.ip(&["link", "set", &name, "up"]);
    let config = PathBuf::from(format!("/run/net-{name}.conf"));
    output_of(host.command(IPCONFIG).args(["-t", "20", "-c", "dhcp", "-d", &name]));
    let text = fs::read_to_string(&config).unwrap();
    fs::remove_file(config).unwrap();
    text
}

#[test]
fn ipconfig_finds_root_server() {
    needs!(lan::NEEDS, [IPCONFIG]);
    let mut lan = Lan::new(US);
    let host = newcomer(&mut lan, BRIDGE);
    let _server = Serving::start(lan.server(), server_role(None)).unwrap();
    let told = ipconfig(&host);
    assert_eq!(value(&told, "ROOTSERVER"), US.to_string());
    assert_eq!(value(&told, "IPV4GATEWAY"), ROUTER.to_string());
    assert_eq!(value(&told, "IPV4DNS0"), "9.9.9.9");
    assert!(value(&told, "IPV4ADDR").starts_with("192.168.77."));
    assert_eq!(value(&told, "filename"), "");
}

#[test]
fn offer_has_address_and_boot_file() {
    needs!(lan::NEEDS);
    let mut lan = Lan::new(US);
    let host = newcomer(&mut lan, BRIDGE);
    let _server = Serving::start(lan.server(), server_role(None)).unwrap();
    // It asks for unicast, and accepts broadcast.
    let received = ask(&host, PXE_DISCOVER, 1);
    let [(offer, from)] = &received[..] else { panic!("not one offer: {received:?}") };
    assert_eq!(*from, SocketAddr::from((US, 67)));
    assert_eq!((offer.kind, offer.header.siaddr), (MessageType::Offer, US));
    assert_eq!(offer.vendor_class, b"PXEClient");
}

#[test]
fn server_role_refuses_other_server() {
    needs!(lan::NEEDS, ["dnsmasq"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let other = lan.host(ROUTER);
    let _dnsmasq = router(&other, dir.path(), "192.168.77.200,192.168.77.209");
    let error = Serving::start(lan.server(), server_role(None)).err().expect("refused");
    assert_eq!(
        error.to_string(),
        "another DHCP server (192.168.77.254) answers on br0; use proxy mode (leave out --dhcp-range) or stop it"
    );
}

#[test]
fn proxy_answers_boot_clients_only() {
    needs!(lan::NEEDS, ["dnsmasq", "udhcpc"], [IPCONFIG]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let other = lan.host(ROUTER);
    let _dnsmasq = router(&other, dir.path(), "192.168.77.200,192.168.77.209");
    let _server = Serving::start(lan.server(), DhcpMode::Proxy).unwrap();
    let host = newcomer(&mut lan, BRIDGE);

    // dnsmasq takes three seconds for its first offer of an address.
    let received = ask(&host, &broadcast(PXE_DISCOVER), 2);
    assert_eq!(servers(&received), [US, ROUTER]);
    let (ours, from) = received.iter().find(|(offer, _)| offer.server == Some(US)).unwrap();
    assert_eq!(*from, SocketAddr::from((US, 67)));
    assert!(ours.header.yiaddr.is_unspecified() && ours.header.siaddr == US);

    let received = shout(&host, &[broadcast(PLAIN_DISCOVER)], Duration::from_secs(5));
    assert_eq!(servers(&received), [ROUTER], "the initramfs' own client must hear the router only");
    let bound = Udhcpc::start(&host, dir.path(), &["-q"]).told("bound");
    assert_eq!(value(&bound, "serverid"), ROUTER.to_string());
    let told = ipconfig(&host);
    assert_eq!(value(&told, "ROOTSERVER"), ROUTER.to_string());
}

#[test]
fn boot_server_replies_to_source_port() {
    needs!(lan::NEEDS);
    let mut lan = Lan::new(US);
    let host = lan.host(CLIENT);
    let _server = Serving::start(lan.server(), DhcpMode::Proxy).unwrap();
    let received = host.inside(|| {
        let socket = UdpSocket::bind((CLIENT, 4011)).unwrap();
        socket.send_to(PXE_4011_REQUEST, (US, 4011)).unwrap();
        replies(&socket, 1)
    });
    let [(ack, from)] = &received[..] else { panic!("not one reply: {received:?}") };
    assert_eq!((*from, ack.kind), (SocketAddr::from((US, 4011)), MessageType::Ack));
    assert_eq!(ack.boot_item, Some([0x80, 0, 0, 0]));
}

/// dhcrelay of ISC as a relay agent with option 82: a boot client of another network gets the offer of a
/// proxy, and at port 4011 the same file.
#[test]
fn relayed_client_gets_offer_of_proxy() {
    needs!(lan::NEEDS, ["dhcrelay"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let (host, relay) = behind_relay(&mut lan, ROUTER);
    let _server = Serving::start(lan.server(), DhcpMode::Proxy).unwrap();
    let mut command = relay.command("dhcrelay");
    command.args(["-4", "-d", "--no-pid", "-a", "-i", "eth1", "-i", "eth0", &US.to_string()]);
    let mut dhcrelay = Running::start(&mut command, &dir.path().join("relay.log"));
    dhcrelay.wait_for("Sending on   Socket/fallback", SOON);

    // As captured, without the flag for a broadcast reply.
    let offers = ask(&host, PXE_DISCOVER, 1);
    let (offer, _) = offers.first().unwrap_or_else(|| panic!("no offer:\n{}", dhcrelay.log()));
    assert_eq!((offer.kind, offer.server, offer.header.giaddr), (MessageType::Offer, Some(US), FAR));
    assert_eq!(offer.vendor_class, b"PXEClient");
    assert!(offer.relay_info.is_empty(), "dhcrelay takes its option back");
    assert!(shout(&host, &[broadcast(PLAIN_DISCOVER)], Duration::from_secs(1)).is_empty());

    // With an address of the DHCP server it asks the server identifier, past the relay agent.
    host.ip(&["address", "add", "10.9.0.7/24", "dev", "eth0"]);
    host.ip(&["route", "add", "default", "via", &FAR.to_string()]);
    let acks = host.inside(|| {
        let socket = client_socket();
        socket.send_to(PXE_4011_REQUEST, (US, 4011)).unwrap();
        replies(&socket, 1)
    });
    assert_eq!(acks.iter().map(|(ack, _)| ack.kind).collect::<Vec<_>>(), [MessageType::Ack]);
}

/// dnsmasq as a relay agent: a client of another network gets an address of that network.
#[test]
fn relayed_client_gets_lease() {
    needs!(lan::NEEDS, ["dnsmasq", "udhcpc"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let (host, relay) = behind_relay(&mut lan, ROUTER);
    let mut command = relay.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/dev/null",
        "--user=root",
        "--port=0",
    ]);
    command.args(["--pid-file=", &format!("--dhcp-relay={FAR},{US}")]);
    let mut dnsmasq = Running::start(&mut command, &dir.path().join("relay.log"));
    dnsmasq.wait_for("DHCP relay from", SOON);

    let netmask = Some(Ipv4Addr::new(255, 255, 255, 0));
    let remote = SubnetConfig { netmask, router: Some(FAR), ..subnet("10.9.0.50-10.9.0.99") };
    let remote = ServerConfig { subnets: vec![remote], lease_file: None };
    let _server = Serving::start(lan.server(), DhcpMode::Server(remote)).unwrap();
    let mut udhcpc = Udhcpc::start(&host, dir.path(), &[]);
    let bound = udhcpc.told("bound");
    assert!(value(&bound, "ip").starts_with("10.9.0."), "{bound}");
    assert_eq!((value(&bound, "router"), value(&bound, "siaddr")), ("10.9.0.1", "192.168.77.1"));
    // Renewing goes to us directly, past the relay agent.
    host.ip(&["route", "add", "default", "via", &FAR.to_string()]);
    udhcpc.signal("-USR1");
    udhcpc.told("renew");
}

#[test]
fn unusable_range_is_refused() {
    needs!(lan::NEEDS);
    let lan = Lan::new(US);
    let refused = |ranges: &[&str]| {
        let subnets = ranges.iter().map(|range| subnet(range)).collect();
        let mode = DhcpMode::Server(ServerConfig { subnets, lease_file: None });
        Serving::start(lan.server(), mode).err().expect("refused").to_string()
    };
    let outside = "no interface to serve has an address in the network";
    assert!(refused(&["10.0.0.5-10.0.0.9"]).contains(outside));
    assert!(refused(&[RANGE, "10.0.0.5-10.0.0.9"]).contains(outside));
    assert!(refused(&["192.168.77.200-192.168.78.9"]).contains("leaves the network"));
    // Only the netmask of the interface shows it.
    let both = refused(&[RANGE, "192.168.77.200-192.168.77.209"]);
    assert!(both.starts_with("the DHCP ranges 192.168.77.200-192.168.77.209 and 192.168.77.50-"), "{both}");
}
