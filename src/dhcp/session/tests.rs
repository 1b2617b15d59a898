use std::sync::Arc;

use super::*;
use crate::boot::Rules;
use crate::boot::menu::{Ports, Root};
use crate::boot::rules::{Rule, Who};
use crate::boot::text::Word;
use crate::dhcp::lease::Leases;
use crate::dhcp::wire::{BootClass, SafeText};

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

const US: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 254);
const NOW: UnixTime = UnixTime(1_700_000_000);
const HOUR: u32 = 3600;
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn pool(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 80, 0, n)
}

fn boot_site() -> boot::Site {
    site(Ports { tftp: 69, http: Some(8080) }, Ok(vec![Root::Nbd]))
}

fn site(ports: Ports, roots: Result<Vec<Root>, boot::NoUefi>) -> boot::Site {
    let image = Word::new("one").unwrap();
    boot::Site::new(Some("boot/syslinux/lpxelinux.0"), ports).with_image(image, roots)
}

/// For an image that has no stub.
fn no_uefi() -> boot::Site {
    site(Ports { tftp: 69, http: Some(8080) }, Err(boot::uki::NoStub::NotArchiso.into()))
}

fn session(role: Role) -> Session {
    Session { role, boot: boot_site(), allowed: Allowed::default() }
}

fn proxy() -> Session {
    session(Role::Proxy)
}

/// Leases 10.80.0.50 to .59 for an hour.
fn authority() -> Session {
    let network =
        Network { address: pool(50), netmask: Ipv4Addr::new(255, 255, 255, 0), router: None, dns: vec![] };
    let leases = Leases::new("10.80.0.50-10.80.0.59".parse().unwrap(), HOUR, &[US]);
    session(Role::Authority(Box::new(Authority::new(network, leases))))
}

/// A PXE ROM that is not iPXE.
fn bios_rom() -> Message {
    Message { user_class: Vec::new(), ipxe_options: Vec::new(), ..captured!("ipxe-bios-discover") }
}

const MENU: &str = "::/isowire/52-54-00-4c-41-42/pxelinux.cfg";
const SCRIPT: &str = "http://10.80.0.1:8080/isowire/52-54-00-4c-41-42/boot.ipxe";

fn at(door: Door, message: Message) -> Question {
    let port = if door == Door::Dhcp { 68 } else { 4011 };
    let from = SocketAddrV4::new(message.header.ciaddr, port);
    Question { message, door, from, local: US, server: US }
}

fn ask(session: &mut Session, message: Message) -> Answer {
    session.answer(&at(Door::Dhcp, message), NOW)
}

#[track_caller]
fn sent(answer: Answer) -> (Reply, Destination) {
    match answer {
        Answer::Send { reply, to, .. } => (reply, to),
        Answer::Silence(silence) => panic!("silence: {silence}"),
    }
}

#[track_caller]
fn silence(answer: Answer) -> Silence {
    match answer {
        Answer::Send { reply, .. } => panic!("sent {reply:?}"),
        Answer::Silence(silence) => silence,
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
fn an_address_that_is_not_allowed_gets_no_answer() {
    let list = || Allowed::only(vec!["10.80.0.0/24".parse().unwrap()]);
    let foreign = Ipv4Addr::new(10, 81, 0, 1);
    for mut session in [proxy(), authority()] {
        session.allowed = list();
        // It has no address yet.
        sent(ask(&mut session, captured!("ipxe-bios-discover")));
        for from in [pool(7), foreign] {
            let mut relayed = captured!("ipxe-bios-discover");
            let mut renewing = plain(MessageType::Request, 7);
            (relayed.header.giaddr, renewing.header.ciaddr) = (from, from);
            for message in [relayed, renewing] {
                let answer = ask(&mut session, message);
                assert_eq!(answer == Answer::Silence(Silence::NotAllowed(foreign)), from == foreign);
            }
        }
        let boot_server = Question {
            from: SocketAddrV4::new(foreign, 4011),
            ..at(Door::BootServer, captured!("ipxe-bios-discover"))
        };
        assert_eq!(silence(session.answer(&boot_server, NOW)), Silence::NotAllowed(foreign));
    }
}

#[test]
fn a_machine_that_a_rule_ignores_hears_nothing() {
    let ours = captured!("ipxe-bios-discover");
    let macs = vec!["52:54:00:4c:41:42".parse().unwrap()];
    let who = Who { macs, ..Who::default() };
    let rules = Arc::new(Rules::new(vec![Rule { who, is_ignored: true, ..Rule::default() }]));
    for mut session in [proxy(), authority()] {
        session.boot = session.boot.with_rules(Arc::clone(&rules));
        assert_eq!(silence(ask(&mut session, ours.clone())), Silence::Ignored);
        let plain = Message { vendor_class: Vec::new(), architectures: Vec::new(), ..ours.clone() };
        assert_eq!(silence(ask(&mut session, plain)), Silence::Ignored);
        let mut other = ours.clone();
        other.header.chaddr[5] ^= 1;
        assert!(matches!(ask(&mut session, other), Answer::Send { .. }));
    }
}

mod a_proxy {
    use super::*;

    #[test]
    fn makes_the_one_offer_that_all_firmware_takes() {
        let message = bios_rom();
        let (reply, to) = sent(ask(&mut proxy(), message.clone()));
        assert_eq!(to, Destination::Broadcast);
        assert_eq!(reply.kind, MessageType::Offer);
        assert_eq!((reply.header.yiaddr, reply.header.siaddr), (NOBODY, US));
        assert_eq!((reply.header.xid, reply.header.chaddr), (message.header.xid, message.header.chaddr));
        assert_eq!(
            reply.options,
            [
                ReplyOption::ServerIdentifier(US),
                ReplyOption::BootClass(BootClass::PxeClient),
                ReplyOption::MachineIdentifier(message.machine_id),
                ReplyOption::SkipDiscovery { boot_item: None },
                ReplyOption::BootFile(SafeText::new("/boot/syslinux/lpxelinux.0").unwrap()),
                ReplyOption::ConfigFile(SafeText::new(MENU).unwrap()),
                ReplyOption::TftpServer(US),
            ]
        );
    }

    #[test]
    fn takes_an_ipxe_without_menus_for_a_plain_rom() {
        let whole = captured!("ipxe-bios-discover");
        let file = |message| sent(ask(&mut proxy(), message)).0.boot_file().unwrap().as_str().to_owned();
        assert_eq!(file(whole.clone()), SCRIPT);
        let mut lesser = whole;
        let menus = lesser.ipxe_options.windows(2).position(|option| option == [0x27, 1]).unwrap();
        lesser.ipxe_options[menus] = 0x7f;
        assert_eq!(file(lesser), "/boot/syslinux/lpxelinux.0");
    }

    #[test]
    fn says_nothing_to_others() {
        let mut proxy = proxy();
        let initramfs = captured!("ipconfig-discover");
        let lookalike = Message { vendor_class: b"xPXEClient".to_vec(), ..plain(MessageType::Discover, 1) };
        let user_class_only = Message { user_class: b"iPXE".to_vec(), ..plain(MessageType::Discover, 1) };
        for message in [initramfs, lookalike, user_class_only, plain(MessageType::Discover, 1)] {
            for kind in (0..=20).map(MessageType::from) {
                for door in [Door::Dhcp, Door::BootServer] {
                    let question = at(door, Message { kind, ..message.clone() });
                    assert_eq!(silence(proxy.answer(&question, NOW)), Silence::NoBootClient);
                }
            }
        }
    }

    #[test]
    fn says_nothing_to_servers() {
        assert_eq!(silence(ask(&mut proxy(), captured!("dnsmasq-proxy-offer"))), Silence::NoRequest);
        assert_eq!(silence(ask(&mut proxy(), captured!("dnsmasq-offer"))), Silence::NoRequest);
    }

    #[test]
    fn only_notes_which_address_a_machine_takes() {
        let taken = silence(ask(&mut proxy(), captured!("ipxe-bios-request-beside-proxy")));
        let server = Ipv4Addr::new(192, 168, 77, 3);
        assert_eq!(taken, Silence::TakesAddress { address: Ipv4Addr::new(192, 168, 77, 90), server });
    }

    #[test]
    fn leaves_relayed_messages_to_others() {
        let mut message = captured!("ipxe-bios-discover");
        message.header.giaddr = OTHER;
        assert_eq!(silence(ask(&mut proxy(), message)), Silence::Relayed(OTHER));
    }

    #[test]
    fn names_a_uefi_machine_its_own_program() {
        let message = captured!("ovmf-pxe-discover");
        let mac = mac(&message.header.hardware()).unwrap();
        let (reply, to) = sent(ask(&mut proxy(), message.clone()));
        assert_eq!((to, reply.header.yiaddr, reply.header.siaddr), (Destination::Broadcast, NOBODY, US));
        let file = format!("/isowire/{}/nbd.efi", mac.dashed());
        assert_eq!(
            reply.options,
            [
                ReplyOption::ServerIdentifier(US),
                ReplyOption::BootClass(BootClass::PxeClient),
                ReplyOption::MachineIdentifier(message.machine_id.clone()),
                ReplyOption::SkipDiscovery { boot_item: None },
                ReplyOption::BootFile(SafeText::new(&file).unwrap()),
                ReplyOption::TftpServer(US),
            ]
        );
        // EDK2 takes an offer with a menu for one that it has to choose from, and hangs.
        assert!(reply.emit().windows(6).any(|option| option == [43, 4, 6, 1, 8, 255]));
        let byte_code = Message { architectures: vec![9], ..message };
        assert_eq!(sent(ask(&mut proxy(), byte_code)).0.boot_file().unwrap().as_str(), file);
    }

    #[test]
    fn names_http_boot_a_url() {
        let message = captured!("ovmf-http-discover");
        let mac = mac(&message.header.hardware()).unwrap();
        let (reply, _) = sent(ask(&mut proxy(), message.clone()));
        assert_eq!(
            reply.options,
            [
                ReplyOption::ServerIdentifier(US),
                ReplyOption::BootClass(BootClass::HttpClient),
                ReplyOption::MachineIdentifier(message.machine_id),
                ReplyOption::BootFile(
                    SafeText::new(&format!("http://10.80.0.1:8080/isowire/{}/nbd.efi", mac.dashed()))
                        .unwrap()
                ),
            ]
        );
    }

    #[test]
    fn says_why_there_is_nothing_for_a_machine() {
        let reason = |session: &mut Session, message| match silence(ask(session, message)) {
            Silence::NoBoot(why) => why.to_string(),
            another => panic!("{another}"),
        };
        let arm = Message { architectures: vec![11], ..captured!("ovmf-pxe-discover") };
        assert!(reason(&mut proxy(), arm).starts_with("ARM 64-bit UEFI machines are not served"));
        let mut without_stub = Session { role: Role::Proxy, boot: no_uefi(), allowed: Allowed::default() };
        for message in [captured!("ovmf-pxe-discover"), captured!("ovmf-http-discover")] {
            assert!(reason(&mut without_stub, message).contains("give one with --stub FILE"));
        }
        let boot = site(Ports { tftp: 69, http: None }, Ok(vec![Root::Nbd]));
        let mut without_http = Session { role: Role::Proxy, boot, allowed: Allowed::default() };
        let why = reason(&mut without_http, captured!("ovmf-http-discover"));
        assert!(why.contains("HTTP, which is off"), "{why}");
    }

    #[test]
    fn takes_the_first_architecture_it_can_boot() {
        let message = Message { architectures: vec![7, 0], ..captured!("ovmf-pxe-discover") };
        assert!(matches!(ask(&mut proxy(), message), Answer::Send { .. }));
        let old = Message { architectures: vec![], ..captured!("ovmf-pxe-discover") };
        assert!(matches!(ask(&mut proxy(), old), Answer::Send { .. }), "a BIOS ROM older than option 93");
    }

    #[test]
    fn survives_a_rival() {
        assert_eq!(proxy().saw_rival(OTHER, NOW), Sighting::Expected);
    }
}

/// The plan of this machine, as if it had these quirks.
fn quirky(question: &Question, quirks: &[Quirk]) -> Boot {
    let boot = boot_offer::plan(question, &boot_site()).expect("a boot client").expect("a plan");
    Some(Ok(BootOffer { quirks: quirks.iter().copied().collect(), ..boot }))
}

mod the_boot_server {
    use super::*;

    #[test]
    fn answers_where_the_question_came_from() {
        for port in [68, 4011] {
            let message = captured!("ipxe-bios-4011-request");
            let from = SocketAddrV4::new(message.header.ciaddr, port);
            let question = Question { from, ..at(Door::BootServer, message.clone()) };
            let (reply, to) = sent(proxy().answer(&question, NOW));
            assert_eq!(to, Destination::Unicast(from));
            assert_eq!(reply.kind, MessageType::Ack);
            assert_eq!((reply.header.ciaddr, reply.header.yiaddr), (message.header.ciaddr, NOBODY));
            assert_eq!(reply.boot_file().unwrap().as_str(), SCRIPT);
            let confirmed = ReplyOption::SkipDiscovery { boot_item: Some([0x80, 0, 0, 0]) };
            assert!(reply.options.contains(&confirmed));
        }
    }

    #[test]
    fn answers_in_either_role() {
        let question = at(Door::BootServer, captured!("ipxe-bios-4011-request"));
        let (reply, _) = sent(authority().answer(&question, NOW));
        assert!(!reply.options.iter().any(|option| matches!(option, ReplyOption::LeaseTime(_))));
    }

    #[test]
    fn needs_a_request_from_an_address() {
        let discover = at(Door::BootServer, captured!("ipxe-bios-discover"));
        assert_eq!(silence(proxy().answer(&discover, NOW)), Silence::NotAnswered(MessageType::Discover));
        let homeless = at(Door::BootServer, captured!("ipxe-bios-request"));
        assert_eq!(silence(proxy().answer(&homeless, NOW)), Silence::NoAddress);
    }
}

mod an_authority {
    use super::*;

    #[test]
    fn gives_a_boot_client_all_in_one_offer() {
        let message = captured!("ipxe-bios-discover");
        let (reply, to) = sent(ask(&mut authority(), message.clone()));
        assert_eq!(to, Destination::Broadcast);
        assert!(reply.header.yiaddr >= pool(50) && reply.header.yiaddr <= pool(59));
        assert_eq!(
            reply.options,
            [
                ReplyOption::ServerIdentifier(US),
                ReplyOption::LeaseTime(3600),
                ReplyOption::Netmask(Ipv4Addr::new(255, 255, 255, 0)),
                ReplyOption::Router(US),
                ReplyOption::Dns(vec![US]),
                ReplyOption::BootClass(BootClass::PxeClient),
                ReplyOption::MachineIdentifier(message.machine_id),
                ReplyOption::SkipDiscovery { boot_item: None },
                ReplyOption::BootFile(SafeText::new(SCRIPT).unwrap()),
                ReplyOption::TftpServer(US),
                ReplyOption::NoPxeDhcp,
                ReplyOption::ClientIdentifier(message.client_id),
                ReplyOption::Renewal(1800),
                ReplyOption::Rebinding(3150),
            ]
        );
    }

    #[test]
    fn names_no_boot_file_to_others() {
        let mut authority = authority();
        for message in [captured!("ipconfig-discover"), plain(MessageType::Discover, 1)] {
            let (reply, _) = sent(ask(&mut authority, message));
            assert_eq!((reply.boot_file(), reply.header.siaddr), (None, US));
            assert!(!reply.options.contains(&ReplyOption::BootClass(BootClass::PxeClient)));
        }
    }

    #[test]
    fn gives_a_machine_that_cannot_boot_an_address_and_a_reason() {
        let mut session = Session { boot: no_uefi(), ..authority() };
        let Answer::Send { reply, boot: Some(Err(why)), .. } =
            ask(&mut session, captured!("ovmf-http-discover"))
        else {
            panic!("no address, or no reason")
        };
        assert_eq!(reply.boot_file(), None);
        assert!(why.to_string().contains("--stub"));
    }

    #[test]
    fn gives_uefi_machines_address_and_program_at_once() {
        for message in [captured!("ovmf-pxe-discover"), captured!("ovmf-http-discover")] {
            let (reply, _) = sent(ask(&mut authority(), message));
            assert!(!reply.header.yiaddr.is_unspecified());
            assert!(reply.boot_file().unwrap().as_str().ends_with("/nbd.efi"));
            assert!(!reply.options.iter().any(|option| matches!(option, ReplyOption::ConfigFile(_))));
        }
    }

    #[test]
    fn tells_the_router_and_dns_it_was_given() {
        let mut session = authority();
        let Role::Authority(inner) = &mut session.role else { unreachable!() };
        inner.network.router = Some(OTHER);
        inner.network.dns = vec![OTHER, US];
        let (reply, _) = sent(ask(&mut session, plain(MessageType::Discover, 1)));
        assert!(reply.options.contains(&ReplyOption::Router(OTHER)));
        assert!(reply.options.contains(&ReplyOption::Dns(vec![OTHER, US])));
    }

    #[test]
    fn advertises_another_address_where_it_is_told_to() {
        let question = Question { server: OTHER, ..at(Door::Dhcp, captured!("ipxe-bios-discover")) };
        let (reply, _) = sent(authority().answer(&question, NOW));
        assert_eq!(reply.header.siaddr, OTHER);
        assert!(reply.options.contains(&ReplyOption::ServerIdentifier(OTHER)));
        assert!(reply.options.contains(&ReplyOption::TftpServer(OTHER)));
    }

    #[test]
    fn leases_what_it_offered() {
        let mut authority = authority();
        let first = lease(&mut authority, 1);
        assert_ne!(lease(&mut authority, 2), first);
        assert_eq!(lease(&mut authority, 1), first, "again");
    }

    #[test]
    fn hears_that_a_client_chose_another() {
        let mut authority = authority();
        let (offer, _) = sent(ask(&mut authority, plain(MessageType::Discover, 1)));
        let requested = Some(offer.header.yiaddr);
        let request = Message { server: Some(OTHER), requested, ..plain(MessageType::Request, 1) };
        assert_eq!(silence(ask(&mut authority, request)), Silence::ChoseAnother(OTHER));
        let wish = Message { requested, ..plain(MessageType::Discover, 2) };
        assert_eq!(sent(ask(&mut authority, wish)).0.header.yiaddr, offer.header.yiaddr, "free again");
    }

    #[test]
    fn refuses_what_it_did_not_offer() {
        let mut authority = authority();
        let taken = lease(&mut authority, 1);
        for requested in [taken, pool(99), Ipv4Addr::new(192, 168, 0, 1)] {
            let request =
                Message { server: Some(US), requested: Some(requested), ..plain(MessageType::Request, 2) };
            let (nak, to) = sent(ask(&mut authority, request));
            assert_eq!((nak.kind, to), (MessageType::Nak, Destination::Broadcast));
            assert_eq!((nak.header.yiaddr, nak.options), (NOBODY, vec![ReplyOption::ServerIdentifier(US)]));
        }
    }

    /// RFC 2131 §4.3.2, INIT-REBOOT: no server named, the address in option 50.
    #[test]
    fn knows_a_machine_that_reboots() {
        let mut authority = authority();
        let own = lease(&mut authority, 1);
        let reboot = |n, address| Message { requested: Some(address), ..plain(MessageType::Request, n) };
        assert_eq!(sent(ask(&mut authority, reboot(1, own))).0.kind, MessageType::Ack);
        let wrong_network = reboot(1, Ipv4Addr::new(192, 168, 0, 7));
        assert_eq!(sent(ask(&mut authority, wrong_network)).0.kind, MessageType::Nak);
        let another = if own == pool(50) { pool(51) } else { pool(50) };
        assert_eq!(
            sent(ask(&mut authority, reboot(1, another))).0.kind,
            MessageType::Nak,
            "it holds another"
        );
        assert_eq!(sent(ask(&mut authority, reboot(2, own))).0.kind, MessageType::Nak, "somebody holds it");
        assert_eq!(
            sent(ask(&mut authority, reboot(3, another))).0.kind,
            MessageType::Ack,
            "free: a lost lease file"
        );
        assert_eq!(silence(ask(&mut authority, reboot(4, pool(99)))), Silence::NotInPool(pool(99)));
        assert_eq!(silence(ask(&mut authority, plain(MessageType::Request, 5))), Silence::NothingClaimed);
    }

    /// RENEWING (unicast) and REBINDING (broadcast): the address in `ciaddr`.
    #[test]
    fn renews_to_the_address_itself() {
        let mut authority = authority();
        let own = lease(&mut authority, 1);
        let mut renew = plain(MessageType::Request, 1);
        renew.header.ciaddr = own;
        let late = NOW.after(HOUR - 1);
        let (ack, to) = sent(authority.answer(&at(Door::Dhcp, renew.clone()), late));
        assert_eq!((ack.kind, ack.header.yiaddr, ack.header.ciaddr), (MessageType::Ack, own, own));
        assert_eq!(to, Destination::Unicast(SocketAddrV4::new(own, 68)));
        let later = NOW.after(2 * HOUR - 2);
        let (ack, _) = sent(authority.answer(&at(Door::Dhcp, renew), later));
        assert_eq!(ack.kind, MessageType::Ack, "the first renewal counted");
    }

    #[test]
    fn writes_to_no_address_a_stranger_names() {
        let mut authority = authority();
        let mut request = Message { requested: Some(pool(50)), ..plain(MessageType::Request, 1) };
        request.header.ciaddr = Ipv4Addr::new(8, 8, 8, 8);
        assert_eq!(sent(ask(&mut authority, request)).1, Destination::Broadcast);
        let mut inform = plain(MessageType::Inform, 1);
        inform.header.ciaddr = Ipv4Addr::new(8, 8, 8, 8);
        assert_eq!(silence(ask(&mut authority, inform)), Silence::OtherNetwork);
    }

    #[test]
    fn informs_without_a_lease() {
        let mut authority = authority();
        let mut inform = plain(MessageType::Inform, 1);
        inform.header.ciaddr = pool(7);
        let (ack, to) = sent(ask(&mut authority, inform));
        assert_eq!(to, Destination::Unicast(SocketAddrV4::new(pool(7), 68)));
        assert_eq!((ack.kind, ack.header.yiaddr, ack.header.ciaddr), (MessageType::Ack, NOBODY, pool(7)));
        assert!(ack.options.contains(&ReplyOption::Router(US)));
        assert!(!ack.options.iter().any(|option| matches!(option, ReplyOption::LeaseTime(_))));
    }

    #[test]
    fn takes_back_and_puts_to_rest() {
        let mut authority = authority();
        let own = lease(&mut authority, 1);
        let mut release = Message { server: Some(US), ..plain(MessageType::Release, 2) };
        release.header.ciaddr = own;
        assert_eq!(silence(ask(&mut authority, release.clone())), Silence::NotAnswered(MessageType::Release));
        release.header.chaddr = plain(MessageType::Release, 1).header.chaddr;
        assert_eq!(silence(ask(&mut authority, release)), Silence::Released(own));

        let own = lease(&mut authority, 1);
        let decline = Message { server: Some(US), requested: Some(own), ..plain(MessageType::Decline, 1) };
        let not_ours = Message { server: Some(OTHER), ..decline.clone() };
        assert_eq!(silence(ask(&mut authority, not_ours)), Silence::NotAnswered(MessageType::Decline));
        assert_eq!(silence(ask(&mut authority, decline)), Silence::Declined(own));
        assert_ne!(lease(&mut authority, 1), own);
    }

    #[test]
    fn says_when_the_pool_is_empty() {
        let mut authority = authority();
        for n in 0..10 {
            lease(&mut authority, n);
        }
        assert_eq!(silence(ask(&mut authority, plain(MessageType::Discover, 10))), Silence::PoolExhausted);
    }

    #[test]
    fn serves_through_a_relay_agent() {
        let mut authority = authority();
        let mut message = Message { relay_info: vec![1, 1, 9], ..plain(MessageType::Discover, 1) };
        message.header.giaddr = OTHER;
        let (reply, to) = sent(ask(&mut authority, message.clone()));
        assert_eq!(to, Destination::Unicast(SocketAddrV4::new(OTHER, 67)));
        assert_eq!((reply.header.giaddr, &reply.relay_info), (OTHER, &message.relay_info));

        // RFC 8357: the port it wrote from.
        message.relay_info = vec![19, 0];
        let from = SocketAddrV4::new(OTHER, 1067);
        let question = Question { from, ..at(Door::Dhcp, message.clone()) };
        assert_eq!(sent(authority.answer(&question, NOW)).1, Destination::Unicast(from));

        // A NAK goes the same way, to be broadcast there.
        let wrong = Message {
            kind: MessageType::Request,
            requested: Some(Ipv4Addr::new(192, 168, 0, 7)),
            relay_info: vec![],
            ..message.clone()
        };
        let (nak, to) = sent(ask(&mut authority, wrong));
        assert_eq!(to, Destination::Unicast(SocketAddrV4::new(OTHER, 67)));
        assert!(nak.header.flags.broadcast());
    }

    #[test]
    fn knows_which_network_a_relay_agent_means() {
        let elsewhere = Ipv4Addr::new(10, 99, 0, 1);
        let mut message = plain(MessageType::Discover, 1);
        message.header.giaddr = elsewhere;
        assert_eq!(silence(ask(&mut authority(), message.clone())), Silence::OtherNetwork);
        // RFC 3527: link selection.
        message.relay_info = vec![5, 4, 10, 80, 0, 0];
        assert_eq!(
            sent(ask(&mut authority(), message.clone())).1,
            Destination::Unicast(SocketAddrV4::new(elsewhere, 67))
        );
        message.relay_info = vec![5, 4, 10, 99, 0, 0];
        message.header.giaddr = OTHER;
        assert_eq!(silence(ask(&mut authority(), message)), Silence::OtherNetwork);
    }

    #[test]
    fn is_silent_on_other_wires() {
        let question = Question {
            local: Ipv4Addr::new(172, 16, 0, 1),
            ..at(Door::Dhcp, plain(MessageType::Discover, 1))
        };
        assert_eq!(silence(authority().answer(&question, NOW)), Silence::OtherNetwork);
        let mut nameless = plain(MessageType::Discover, 1);
        nameless.header.hardware_len = 0;
        assert_eq!(silence(ask(&mut authority(), nameless)), Silence::NoHardwareAddress);
    }

    #[test]
    fn yields_to_another_server_but_keeps_its_word() {
        let mut authority = authority();
        let own = lease(&mut authority, 1);
        assert_eq!(authority.saw_rival(OTHER, NOW), Sighting::First);
        assert_eq!(authority.saw_rival(OTHER, NOW.after(300)), Sighting::Again);
        assert_eq!(silence(ask(&mut authority, plain(MessageType::Discover, 1))), Silence::Rival(OTHER));
        let mut renew = plain(MessageType::Request, 1);
        renew.header.ciaddr = own;
        assert_eq!(sent(ask(&mut authority, renew.clone())).0.kind, MessageType::Ack);
        renew.header.chaddr = [7; 16];
        assert_eq!(
            silence(ask(&mut authority, renew)),
            Silence::Rival(OTHER),
            "no NAK into another's network"
        );
        let gone = NOW.after(300 + 900);
        let question = at(Door::Dhcp, plain(MessageType::Discover, 2));
        assert!(matches!(authority.answer(&question, gone), Answer::Send { .. }), "alone again");
        assert_eq!(authority.saw_rival(OTHER, gone), Sighting::First);
    }
}

mod a_machine_with_quirks {
    use super::*;

    fn offer(message: &Message, quirks: &[Quirk]) -> Reply {
        let question = at(Door::Dhcp, message.clone());
        sent(super::super::proxy(&question, quirky(&question, quirks)).unwrap()).0
    }

    /// Codes of options that tell PXE from plain DHCP, in what leaves.
    fn pxe_options(reply: &Reply) -> (bool, bool, bool) {
        let message = Message::parse(&reply.emit()).unwrap();
        let has = |wanted: fn(&ReplyOption) -> bool| reply.options.iter().any(wanted);
        let skips = has(|option| matches!(option, ReplyOption::SkipDiscovery { .. }));
        (!message.vendor_class.is_empty(), skips, !message.machine_id.is_empty())
    }

    #[test]
    fn a_plain_one_hears_nothing_of_pxe() {
        let message = bios_rom();
        let reply = offer(&message, &[Quirk::Plain]);
        assert_eq!(
            reply.options,
            [
                ReplyOption::ServerIdentifier(US),
                ReplyOption::BootFile(SafeText::new("/boot/syslinux/lpxelinux.0").unwrap()),
                ReplyOption::ConfigFile(SafeText::new(MENU).unwrap()),
            ]
        );
        assert_eq!((reply.header.siaddr, pxe_options(&reply)), (US, (false, false, false)));
        assert_eq!(pxe_options(&offer(&message, &[])), (true, true, true));
        assert_eq!(pxe_options(&offer(&message, &[Quirk::Plain, Quirk::No43])), (false, false, false));
    }

    #[test]
    fn a_plain_one_gets_its_address_here_as_well() {
        let mut session = authority();
        let Role::Authority(authority) = &mut session.role else { unreachable!() };
        let question = at(Door::Dhcp, captured!("ovmf-pxe-discover"));
        let answer = authority.answer(&question, quirky(&question, &[Quirk::Plain]), NOW);
        let (reply, _) = sent(answer.unwrap());
        assert!(!reply.header.yiaddr.is_unspecified());
        assert!(reply.boot_file().unwrap().as_str().ends_with("/nbd.efi"));
        assert_eq!(pxe_options(&reply), (false, false, false));
        assert!(reply.options.contains(&ReplyOption::Router(US)));
    }

    /// It takes no file from a reply that does not say `HTTPClient`.
    #[test]
    fn http_boot_stays_as_it_is() {
        let message = captured!("ovmf-http-discover");
        assert_eq!(offer(&message, &Quirk::ALL), offer(&message, &[]));
    }

    #[test]
    fn without_43_it_is_a_pxe_client_all_the_same() {
        let message = captured!("ovmf-pxe-discover");
        assert_eq!(pxe_options(&offer(&message, &[Quirk::No43])), (true, false, true));
        let mut as_usual = offer(&message, &[]);
        as_usual.options.retain(|option| !matches!(option, ReplyOption::SkipDiscovery { .. }));
        assert_eq!(offer(&message, &[Quirk::No43]), as_usual, "nothing else is missing");

        // Then it asks here.
        let mut request = Message { kind: MessageType::Request, ..message };
        request.header.ciaddr = pool(7);
        let question = at(Door::BootServer, request);
        let (ack, _) = sent(boot_server(&question, quirky(&question, &[Quirk::No43])).unwrap());
        assert!(ack.boot_file().unwrap().as_str().ends_with("/nbd.efi"));
        assert_eq!(pxe_options(&ack), (true, false, true));
    }

    #[test]
    fn a_boot_item_that_it_chose_is_confirmed() {
        let question = at(Door::BootServer, captured!("ipxe-bios-4011-request"));
        let (ack, _) = sent(boot_server(&question, quirky(&question, &[Quirk::No43])).unwrap());
        assert!(ack.options.contains(&ReplyOption::SkipDiscovery { boot_item: Some([0x80, 0, 0, 0]) }));
    }

    #[test]
    fn a_request_is_answered_with_the_boot_file_and_no_address() {
        let message = captured!("ipxe-bios-request-beside-proxy");
        let question = at(Door::Dhcp, message.clone());
        let answered = super::super::proxy(&question, quirky(&question, &[Quirk::AnswerRequest])).unwrap();
        let (ack, to) = sent(answered);
        assert_eq!((ack.kind, to), (MessageType::Ack, Destination::Broadcast));
        assert_eq!((ack.header.yiaddr, ack.header.ciaddr, ack.header.siaddr), (NOBODY, NOBODY, US));
        assert_eq!(ack.boot_file().unwrap().as_str(), SCRIPT);
        assert_eq!(pxe_options(&ack), (true, true, true));
        for quirks in [&[][..], &[Quirk::Plain, Quirk::No43]] {
            let silent = super::super::proxy(&question, quirky(&question, quirks));
            assert!(matches!(silent, Err(Silence::TakesAddress { .. })), "{quirks:?}");
        }
    }

    #[test]
    fn other_messages_and_other_wires_are_not_answered() {
        let ask = |message: Message| {
            let question = at(Door::Dhcp, message);
            super::super::proxy(&question, quirky(&question, &Quirk::ALL)).map(|_| ())
        };
        let request = captured!("ipxe-bios-request-beside-proxy");
        for kind in [MessageType::Decline, MessageType::Release, MessageType::Inform] {
            let message = Message { kind, ..request.clone() };
            assert_eq!(ask(message), Err(Silence::NotAnswered(kind)));
        }
        let mut relayed = request;
        relayed.header.giaddr = OTHER;
        assert_eq!(ask(relayed), Err(Silence::Relayed(OTHER)));
    }
}
