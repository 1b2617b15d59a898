use std::sync::Arc;

use super::*;
use crate::boot::rules::{ClientFilter, Rule};
use crate::boot::{Architecture, Ports, Rules};
use crate::bootable::Root;
use crate::dhcp::lease::Leases;
use crate::dhcp::wire::BootClass;
use crate::text::{SafeText, Word};

macro_rules! captured {
    ($name:literal) => {
        Message::parse(include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/data/dhcp/",
            $name,
            ".bin"
        )))
        .unwrap()
    };
}

// Behind the macro, which they use.
mod boot_server;
mod proxy_role;
mod quirks;
mod server_role;
mod subnets;

const US: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 254);
const NOW: UnixTime = UnixTime(1_700_000_000);
const HOUR: u32 = 3600;
const NO_ADDRESS: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn pool(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 80, 0, n)
}

fn boot_targets() -> boot::BootTargets {
    targets(Ports { tftp: 69, http: Some(8080) }, Ok(vec![Root::Nbd]))
}

fn targets(ports: Ports, roots: Result<Vec<Root>, boot::UefiError>) -> boot::BootTargets {
    let image = Word::new("one").unwrap();
    boot::BootTargets::new(Some("boot/syslinux/lpxelinux.0"), ports).with_image(image, roots)
}

/// For an image that has no stub.
fn no_uefi() -> boot::BootTargets {
    targets(Ports { tftp: 69, http: Some(8080) }, Err(crate::uki::StubError::NotArchiso.into()))
}

fn session(role: Role) -> Session {
    Session {
        role,
        boot: boot_targets(),
        allowed: Allowed::default(),
        limited_ipxes: LimitedIpxes::default(),
    }
}

fn proxy() -> Session {
    session(Role::Proxy)
}

/// Leases 10.80.0.50 to .59 for an hour.
fn server_role() -> Session {
    let network = Network {
        address: pool(50),
        netmask: Some(Ipv4Addr::new(255, 255, 255, 0)),
        router: None,
        dns: vec![],
    };
    let leases = Leases::new("10.80.0.50-10.80.0.59".parse().unwrap(), HOUR, &[US]);
    session(Role::Server(ServerRole::new(vec![Subnet::new(network, leases)])))
}

/// A PXE ROM that is not iPXE.
fn bios_rom() -> Message {
    Message { user_class: Vec::new(), ipxe_options: Vec::new(), ..captured!("ipxe-bios-discover") }
}

const MENU: &str = "::/isowire/52-54-00-4c-41-42/pxelinux.cfg";
const SCRIPT: &str = "http://10.80.0.1:8080/isowire/52-54-00-4c-41-42/boot.ipxe";

fn at(port: DhcpPort, message: Message) -> Request {
    let source = if port == DhcpPort::Dhcp { 68 } else { 4011 };
    let from = SocketAddrV4::new(message.header.ciaddr, source);
    Request { message, port, from, local: US, server: US }
}

fn ask(session: &mut Session, message: Message) -> Outcome {
    session.answer(&at(DhcpPort::Dhcp, message), NOW)
}

#[track_caller]
fn sent(answer: Outcome) -> (Reply, Destination) {
    match answer {
        Outcome::Send { reply, to, .. } => (reply, to),
        Outcome::NoReply(reason) => panic!("no reply: {reason}"),
    }
}

#[track_caller]
fn no_reply(answer: Outcome) -> NoReply {
    match answer {
        Outcome::Send { reply, .. } => panic!("sent {reply:?}"),
        Outcome::NoReply(reason) => reason,
    }
}

/// An ordinary client.
fn plain(kind: MessageType, n: u8) -> Message {
    Message { kind, ..Message::discover(9, [0x52, 0x54, 0, 0, 0, n]) }
}

/// DISCOVER and REQUEST of an ordinary client; the address it got.
#[track_caller]
fn lease(session: &mut Session, n: u8) -> Ipv4Addr {
    let (offer, _) = sent(ask(session, plain(MessageType::Discover, n)));
    let request =
        Message { server: Some(US), requested: Some(offer.header.yiaddr), ..plain(MessageType::Request, n) };
    let (ack, to) = sent(ask(session, request));
    assert_eq!(
        (ack.kind, ack.header.yiaddr, to),
        (MessageType::Ack, offer.header.yiaddr, Destination::Broadcast)
    );
    ack.header.yiaddr
}

#[test]
fn address_not_allowed_gets_no_reply() {
    let list = || Allowed::only(vec!["10.80.0.0/24".parse().unwrap()]);
    let foreign = Ipv4Addr::new(10, 81, 0, 1);
    for mut session in [proxy(), server_role()] {
        session.allowed = list();
        // It has no address yet.
        sent(ask(&mut session, captured!("ipxe-bios-discover")));
        for from in [pool(7), foreign] {
            let mut relayed = captured!("ipxe-bios-discover");
            let mut renewing = plain(MessageType::Request, 7);
            (relayed.header.giaddr, renewing.header.ciaddr) = (from, from);
            for message in [relayed, renewing] {
                let answer = ask(&mut session, message);
                assert_eq!(answer == Outcome::NoReply(NoReply::NotAllowed(foreign)), from == foreign);
            }
        }
        let boot_server = Request {
            from: SocketAddrV4::new(foreign, 4011),
            ..at(DhcpPort::BootServer, captured!("ipxe-bios-discover"))
        };
        assert_eq!(no_reply(session.answer(&boot_server, NOW)), NoReply::NotAllowed(foreign));
    }
}

#[test]
fn rule_for_bios_ignores_rom_without_option_93() {
    let who = ClientFilter { architectures: vec![Architecture::BIOS], ..ClientFilter::default() };
    let rules = Arc::new(Rules::new(vec![Rule { who, is_ignored: true, ..Rule::default() }]));
    for mut session in [proxy(), server_role()] {
        session.boot = session.boot.with_rules(Arc::clone(&rules));
        let rom = Message { architectures: Vec::new(), ..bios_rom() };
        assert_eq!(no_reply(ask(&mut session, rom)), NoReply::Ignored);
        // A client that asks for no boot file has no architecture unless it says so.
        let plain = Message { vendor_class: Vec::new(), architectures: Vec::new(), ..bios_rom() };
        assert_ne!(ask(&mut session, plain), Outcome::NoReply(NoReply::Ignored));
    }
}

/// Of several architectures, one that a rule ignores is not offered in place of one that is
/// refused.
#[test]
fn ignored_architecture_is_not_offered() {
    let who = ClientFilter { architectures: vec![Architecture::UEFI], ..ClientFilter::default() };
    let rules = Arc::new(Rules::new(vec![Rule { who, is_ignored: true, ..Rule::default() }]));
    let x86_and_x64 = Message { architectures: vec![6, Architecture::UEFI.0], ..bios_rom() };
    assert!(matches!(ask(&mut proxy(), x86_and_x64.clone()), Outcome::Send { .. }));
    let mut session = proxy();
    session.boot = session.boot.with_rules(rules);
    let refusal = NoReply::NoBootFile(Refusal::Architecture(Architecture(6)));
    assert_eq!(no_reply(ask(&mut session, x86_and_x64)), refusal);
}

#[test]
fn client_ignored_by_rule_gets_no_reply() {
    let ours = captured!("ipxe-bios-discover");
    let macs = vec!["52:54:00:4c:41:42".parse().unwrap()];
    let who = ClientFilter { macs, ..ClientFilter::default() };
    let rules = Arc::new(Rules::new(vec![Rule { who, is_ignored: true, ..Rule::default() }]));
    for mut session in [proxy(), server_role()] {
        session.boot = session.boot.with_rules(Arc::clone(&rules));
        assert_eq!(no_reply(ask(&mut session, ours.clone())), NoReply::Ignored);
        let plain = Message { vendor_class: Vec::new(), architectures: Vec::new(), ..ours.clone() };
        assert_eq!(no_reply(ask(&mut session, plain)), NoReply::Ignored);
        let mut other = ours.clone();
        other.header.chaddr[5] ^= 1;
        assert!(matches!(ask(&mut session, other), Outcome::Send { .. }));
    }
}
