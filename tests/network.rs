//! The program on a network of its own: behind address translation, with leases that end,
//! and for an iPXE that lacks features.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use common::iso;
use common::lan::{self, BRIDGE, Lan, Namespace};
use common::machine::{self, Machine, Uefi};
use common::needs::{needs, only_with_all, tool};
use common::running::{Running, output_of};
use isowire::dhcp::server::{Sharing, bind};
use isowire::dhcp::wire::{Message, MessageType};

const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The address that machines are told.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 7);
const SOON: Duration = Duration::from_secs(20);

const IPXE_DISCOVER: &[u8] = include_bytes!("data/dhcp/ipxe-bios-discover.bin");
const HTTP_BOOT_DISCOVER: &[u8] = include_bytes!("data/dhcp/ovmf-http-discover.bin");

/// Starts the program on a network; its state and its log are in `dir`.
fn serve(lan: &Lan, dir: &TempDir, options: &[&str]) -> Running {
    let mut command = lan.command(env!("CARGO_BIN_EXE_isowire"));
    command.arg("serve").arg(&iso::small().path).args(["--interface", BRIDGE, "--status", "off"]);
    command.args(options).env("HOME", dir.path()).env("XDG_STATE_HOME", dir.path());
    let mut server = Running::start(&mut command, &dir.path().join("log"));
    server.wait_for("\nready\n", SOON);
    server
}

/// Broadcasts a message as a client does, and returns the datagram of the reply; `None` if none
/// comes within `time`.
fn ask(host: &Namespace, datagram: &[u8], time: Duration) -> Option<Vec<u8>> {
    host.inside(|| {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        let socket: UdpSocket = bind(any, Some("eth0"), Sharing::Shared).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(time)).unwrap();
        let mut datagram = datagram.to_vec();
        // The flag for a broadcast reply: a socket on a host without an address gets no other.
        datagram[10] |= 0x80;
        socket.send_to(&datagram, (Ipv4Addr::BROADCAST, 67)).unwrap();
        let mut reply = vec![0; 2048];
        let len = socket.recv(&mut reply).ok()?;
        reply.truncate(len);
        Some(reply)
    })
}

/// Returns the text of an option.
fn option(datagram: &[u8], code: u8) -> String {
    let mut options = &datagram[240..];
    while let [found, len, rest @ ..] = options {
        let (value, rest) = rest.split_at((*len).into());
        if *found == code {
            return String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        }
        options = rest;
    }
    panic!("no option {code} in {datagram:?}");
}

/// Makes a host translate addresses: what it gets on these ports goes to the server, which sees the
/// host's address.
fn translate(gateway: &Namespace) {
    let rules = format!(
        "table ip nat {{
            chain in {{
                type nat hook prerouting priority -100;
                tcp dport 8080 dnat to {US}:80
                tcp dport 10809 dnat to {US}
                udp dport 69 dnat to {US}
            }}
            chain out {{ type nat hook postrouting priority 100; masquerade; }}
        }}"
    );
    output_of(gateway.command("nft").arg(rules));
    output_of(gateway.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]));
}

/// Returns the URLs in a menu or a script.
fn urls(text: &str) -> Vec<&str> {
    text.match_indices("http://")
        .map(|(at, _)| text[at..].split(|c: char| c.is_whitespace() || c == ',').next().unwrap())
        .collect()
}

#[test]
fn every_url_leads_through_address_translation() {
    needs!(lan::NEEDS, iso::NEEDS, ["nft", "curl", "nbdinfo"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let (gateway, host) = (lan.host(GATEWAY), lan.host(CLIENT));
    translate(&gateway);
    let base = format!("http://{GATEWAY}:8080/");
    // Through the gateway, replies must come from the port that was asked.
    let _server = serve(&lan, &dir, &["--advertise", &base, "--tftp-single-port"]);
    let curl = |arguments: &[&str]| {
        output_of(host.command("curl").args(["-sSf", "--max-time", "20"]).args(arguments))
    };

    let offer = ask(&host, IPXE_DISCOVER, SOON).expect("an offer");
    assert_eq!(Message::parse(&offer).unwrap().header.siaddr, GATEWAY);
    let script_url = option(&offer, 67);
    assert!(script_url.starts_with(&base) && script_url.ends_with("/boot.ipxe"), "{script_url}");
    let script = curl(&[&script_url]);
    let menu_url =
        format!("tftp://{GATEWAY}/{}", script_url[base.len()..].replace("boot.ipxe", "pxelinux.cfg"));
    let menu = curl(&[&menu_url]);
    for text in [&script, &menu] {
        assert!(!text.contains(&US.to_string()), "{text}");
        assert!(text.contains(&format!("archiso_nbd_srv={GATEWAY}")), "{text}");
        let urls = urls(text);
        assert!(urls.iter().any(|url| url.ends_with("vmlinuz-linux")), "{text}");
        for url in urls {
            assert!(url.starts_with(&base), "{url}");
            curl(&["-L", "-r", "0-0", "-o", "/dev/null", url]);
        }
    }
    let offer = ask(&host, HTTP_BOOT_DISCOVER, SOON).expect("an offer");
    let program = option(&offer, 67);
    assert!(program.starts_with(&base) && program.ends_with(".efi"), "{program}");
    assert_eq!(curl(&["-r", "0-1", &program]), "MZ");
    // A redirect to the directory stays on the way that it came.
    curl(&["-L", "-o", "/dev/null", &format!("{base}arch")]);
    let url = format!("nbd://{GATEWAY}/archiso");
    let size = output_of(host.command("nbdinfo").args(["--size", &url]));
    assert_eq!(size.trim(), fs::metadata(&iso::small().path).unwrap().len().to_string());
}

/// Leases an address as an initramfs does: the client ends, and never renews.
fn lease(host: &Namespace, dir: &Path) -> Ipv4Addr {
    host.ip(&["address", "flush", "dev", "eth0"]);
    let script = dir.join("script");
    fs::write(&script, "#!/bin/sh\n[ $1 != bound ] || ip address replace $ip/24 dev eth0\n").unwrap();
    output_of(tool("chmod").arg("+x").arg(&script));
    let mut udhcpc: Command = host.command("udhcpc");
    output_of(udhcpc.args(["-q", "-f", "-i", "eth0", "-t", "10", "-T", "1", "-s"]).arg(&script));
    let addresses = output_of(host.command("ip").args(["-4", "-br", "address", "show", "eth0"]));
    let address = addresses.split_whitespace().nth(2).and_then(|text| text.split('/').next());
    address.unwrap_or_else(|| panic!("no address: {addresses}")).parse().unwrap()
}

/// Opens an NBD export, as the initramfs does for its root.
fn attach(host: &Namespace) -> TcpStream {
    host.inside(|| {
        let mut nbd = TcpStream::connect((US, 10809)).unwrap();
        nbd.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x07archiso").unwrap();
        nbd.read_exact(&mut [0; 18 + 10]).unwrap();
        nbd
    })
}

#[test]
fn lease_lasts_while_its_machine_lives_on_its_root() {
    only_with_all!();
    needs!(lan::NEEDS, iso::NEEDS, ["udhcpc"]);
    let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
    let (booted, off, newcomer) = (lan.host(CLIENT), lan.host(CLIENT), lan.host(CLIENT));
    let config = dir.path().join("isowire.toml");
    fs::write(&config, "lease-time = '2m'\ndhcp-range = '192.168.77.50-192.168.77.51'\n").unwrap();
    let server = serve(&lan, &dir, &["--config", config.to_str().expect("no odd names")]);
    let (kept, freed) = (lease(&booted, dir.path()), lease(&off, dir.path()));
    assert_ne!(kept, freed);
    let nbd = attach(&booted);
    newcomer.ip(&["address", "flush", "dev", "eth0"]);
    let offered = |n: u8, time| {
        let reply = ask(&newcomer, &Message::discover(n.into(), [2, 0, 0, 0, 0, n]).emit(), time)?;
        let offer = Message::parse(&reply).unwrap();
        assert_eq!(offer.kind, MessageType::Offer);
        Some(offer.header.yiaddr)
    };
    assert_eq!(offered(1, Duration::from_secs(1)), None, "both addresses are leased");

    off.ip(&["link", "set", "eth0", "down"]);
    sleep(Duration::from_secs(125));
    // The kernel has to find out that the neighbour is gone, and clients ask again.
    let later = (0..10).find_map(|_| offered(2, Duration::from_secs(2)));
    assert_eq!(later, Some(freed), "the machine that is off lost its lease");
    assert_eq!(offered(3, Duration::from_secs(1)), None, "the other one lives on its root: {}", server.log());
    drop(nbd);
}

/// iPXE of Debian for UEFI. Its features, for option 175 of DHCP, stand in it uncompressed.
const IPXE: &str = "/usr/lib/ipxe/ipxe.efi";
const SNPONLY: &str = "/usr/lib/ipxe/snponly.efi";
/// The tail of a feature, the feature HTTP, and the head of the next one.
const HTTP_AMONG_FEATURES: [u8; 6] = [1, 1, 0x13, 1, 1, 0x11];

/// Writes an iPXE that does not say that it has HTTP to where firmware looks for a program.
fn limited_ipxe(disk: &Path) {
    let mut ipxe = fs::read(IPXE).unwrap();
    let at = ipxe.windows(HTTP_AMONG_FEATURES.len()).position(|bytes| bytes == HTTP_AMONG_FEATURES);
    // A feature that nobody knows.
    ipxe[at.expect("it has HTTP") + 2] = 0x7f;
    let directory = disk.join("EFI/BOOT");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("BOOTX64.EFI"), ipxe).unwrap();
}

/// First it is given the iPXE of the server. If that lacks the feature as well, it boots by TFTP.
#[test]
fn limited_ipxe_boots_by_another_one_or_by_tftp() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, [IPXE, SNPONLY]);
    for is_replaced in [true, false] {
        let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
        let disk = dir.path().join("disk");
        limited_ipxe(&disk);
        let limited = disk.join("EFI/BOOT/BOOTX64.EFI");
        let ipxe = if is_replaced { SNPONLY } else { limited.to_str().expect("no odd names") };
        let range = ["--dhcp-range", "192.168.77.50-192.168.77.99", "--menu-timeout", "1"];
        let mut server = serve(&lan, &dir, &[&range[..], &["--ipxe", ipxe, "--copytoram", "no"]].concat());
        let _machine = Machine::power_on_uefi(&mut lan, Uefi::Disk(&disk), dir.path());
        let limit = Duration::from_secs(300);
        server.wait_for("x64 UEFI, limited iPXE", limit);
        server.wait_for("/ipxe.efi\" bytes=", limit);
        if is_replaced {
            server.wait_for("/boot.ipxe\" status=200", limit);
        } else {
            server.wait_for("/tftp.ipxe\" bytes=", limit);
        }
        server.wait_for("root attached over NBD", limit);
    }
}
