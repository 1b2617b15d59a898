use super::*;
use crate::boot::IpxePrograms;

#[test]
fn offer_has_options_for_all_firmware() {
    let message = bios_rom();
    let (reply, to) = sent(ask(&mut proxy(), message.clone()));
    assert_eq!(to, Destination::Broadcast);
    assert_eq!(reply.kind, MessageType::Offer);
    assert_eq!((reply.header.yiaddr, reply.header.siaddr), (NO_ADDRESS, US));
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

/// A message of an iPXE that lacks a feature.
fn without_feature(message: &Message, feature: u8) -> Message {
    let mut lesser = message.clone();
    let position = lesser.ipxe_options.windows(2).position(|option| option == [feature, 1]).unwrap();
    lesser.ipxe_options[position] = 0x7f;
    lesser
}

fn boot_file(session: &mut Session, message: Message) -> String {
    sent(ask(session, message)).0.boot_file().unwrap().to_string()
}

/// VirtualBox's iPXE lists no bzImage, and ends our scripts with "Exec format error".
#[test]
fn bios_ipxe_without_needed_feature_gets_pxelinux() {
    let whole = captured!("ipxe-bios-discover");
    assert_eq!(boot_file(&mut proxy(), whole.clone()), SCRIPT);
    for feature in [0x13, 0x18, 0x27] {
        let file = boot_file(&mut proxy(), without_feature(&whole, feature));
        assert_eq!(file, "/boot/syslinux/lpxelinux.0", "{feature:#x}");
    }
    let silent = Message { ipxe_options: vec![], ..whole };
    assert_eq!(boot_file(&mut proxy(), silent), SCRIPT, "an iPXE that lists nothing");
}

#[test]
fn efi_ipxe_without_http_gets_script_by_tftp() {
    let whole = captured!("ipxe-efi-discover");
    let script = boot_file(&mut proxy(), whole.clone());
    assert!(script.starts_with("http://") && script.ends_with("/boot.ipxe"), "without bzImage: {script}");
    let script = boot_file(&mut proxy(), without_feature(&whole, 0x13));
    assert!(script.starts_with("/isowire/") && script.ends_with("/tftp.ipxe"), "{script}");
}

#[test]
fn limited_ipxe_loads_ipxe_once() {
    let ipxe = IpxePrograms { bios: true, uefi: true };
    let mut session = Session { boot: boot_targets().with_ipxe(ipxe), ..proxy() };
    // A BIOS ROM that was built without bzImage, and one for UEFI without HTTP.
    for (rom, ipxe, without) in [
        (captured!("ipxe-limited-bios-discover"), "/undionly.kpxe", "/lpxelinux.0"),
        (captured!("ipxe-limited-efi-discover"), "/ipxe.efi", "/tftp.ipxe"),
    ] {
        for _ in 0..2 {
            let file = boot_file(&mut session, rom.clone());
            assert!(file.ends_with(ipxe), "{file}");
        }
        // What it loaded lacks the feature as well.
        let mut loaded = rom;
        loaded.header.xid ^= 1;
        let file = boot_file(&mut session, loaded);
        assert!(file.ends_with(without), "{file}");
        session.limited_ipxes = LimitedIpxes::default();
    }
}

#[test]
fn other_client_gets_no_reply() {
    let mut proxy = proxy();
    let initramfs = captured!("ipconfig-discover");
    let lookalike = Message { vendor_class: b"xPXEClient".to_vec(), ..plain(MessageType::Discover, 1) };
    let user_class_only = Message { user_class: b"iPXE".to_vec(), ..plain(MessageType::Discover, 1) };
    for message in [initramfs, lookalike, user_class_only, plain(MessageType::Discover, 1)] {
        for kind in (0..=20).map(MessageType::from) {
            for port in [DhcpPort::Dhcp, DhcpPort::BootServer] {
                let request = at(port, Message { kind, ..message.clone() });
                assert_eq!(no_reply(proxy.answer(&request, NOW)), NoReply::NotABootClient);
            }
        }
    }
}

#[test]
fn server_gets_no_reply() {
    assert_eq!(no_reply(ask(&mut proxy(), captured!("dnsmasq-proxy-offer"))), NoReply::NotARequest);
    assert_eq!(no_reply(ask(&mut proxy(), captured!("dnsmasq-offer"))), NoReply::NotARequest);
}

#[test]
fn request_reports_taken_address() {
    let taken = no_reply(ask(&mut proxy(), captured!("ipxe-bios-request-beside-proxy")));
    let server = Ipv4Addr::new(192, 168, 77, 3);
    assert_eq!(taken, NoReply::TakesAddress { address: Ipv4Addr::new(192, 168, 77, 90), server });
}

#[test]
fn relayed_client_gets_offer_by_relay_agent() {
    let mut message = captured!("ipxe-bios-discover");
    let relay = Ipv4Addr::new(10, 81, 0, 1);
    message.header.giaddr = relay;
    assert!(!message.header.flags.broadcast());
    for (relay_info, port) in [(vec![1, 2, 9, 9], 67), (vec![19, 0], 68)] {
        let (reply, to) =
            sent(ask(&mut proxy(), Message { relay_info: relay_info.clone(), ..message.clone() }));
        assert_eq!(to, Destination::Unicast(SocketAddrV4::new(relay, port)));
        assert_eq!(
            (reply.kind, reply.header.giaddr, &reply.relay_info),
            (MessageType::Offer, relay, &relay_info)
        );
        assert_eq!((reply.header.yiaddr, reply.header.siaddr), (NO_ADDRESS, US));
        assert!(reply.header.flags.broadcast(), "the client has no address that the relay agent could use");
        // It is the address that the client asks at port 4011.
        assert!(reply.options.contains(&ReplyOption::ServerIdentifier(US)));
        assert_eq!(reply.boot_file().unwrap().as_str(), SCRIPT);
    }
    let plain = Message { vendor_class: vec![], ..message };
    assert_eq!(no_reply(ask(&mut proxy(), plain)), NoReply::NotABootClient);
}

#[test]
fn uefi_offer_names_program_of_machine() {
    let message = captured!("ovmf-pxe-discover");
    let mac = mac(&message.header.hardware()).unwrap();
    let (reply, to) = sent(ask(&mut proxy(), message.clone()));
    assert_eq!((to, reply.header.yiaddr, reply.header.siaddr), (Destination::Broadcast, NO_ADDRESS, US));
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
fn http_boot_offer_names_url() {
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
                SafeText::new(&format!("http://10.80.0.1:8080/isowire/{}/nbd.efi", mac.dashed())).unwrap()
            ),
        ]
    );
}

#[test]
fn refusal_has_its_reason() {
    let reason = |session: &mut Session, message| match no_reply(ask(session, message)) {
        NoReply::NoBootFile(why) => why.to_string(),
        another => panic!("{another}"),
    };
    let arm = Message { architectures: vec![11], ..captured!("ovmf-pxe-discover") };
    assert!(reason(&mut proxy(), arm).starts_with("ARM 64-bit UEFI machines are not served"));
    let mut without_stub = Session {
        role: Role::Proxy,
        boot: no_uefi(),
        allowed: Allowed::default(),
        limited_ipxes: LimitedIpxes::default(),
    };
    for message in [captured!("ovmf-pxe-discover"), captured!("ovmf-http-discover")] {
        assert!(reason(&mut without_stub, message).contains("give one with --stub FILE"));
    }
    let boot = targets(Ports { tftp: 69, http: None }, Ok(vec![Root::Nbd]));
    let mut without_http = Session {
        role: Role::Proxy,
        boot,
        allowed: Allowed::default(),
        limited_ipxes: LimitedIpxes::default(),
    };
    let why = reason(&mut without_http, captured!("ovmf-http-discover"));
    assert!(why.contains("HTTP, which is off"), "{why}");
}

#[test]
fn first_bootable_architecture_wins() {
    let message = Message { architectures: vec![7, 0], ..captured!("ovmf-pxe-discover") };
    assert!(matches!(ask(&mut proxy(), message), Outcome::Send { .. }));
}

#[test]
fn class_names_architecture_without_option_93() {
    let file = |message, class: &[u8]| {
        let message = Message { architectures: vec![], vendor_class: class.to_vec(), ..message };
        sent(ask(&mut proxy(), message)).0.boot_file().unwrap().to_string()
    };
    for class in ["PXEClient:Arch:00007:UNDI:003016", "PXEClient:Arch:9"] {
        let file = file(captured!("ovmf-pxe-discover"), class.as_bytes());
        assert!(file.starts_with("/isowire/") && file.ends_with("/nbd.efi"), "{class}: {file}");
    }
    // HTTP Boot is that of UEFI, also of firmware that does not say so.
    for class in ["HTTPClient:Arch:00016:UNDI:003001", "HTTPClient", "HTTPClient:Arch:"] {
        let url = file(captured!("ovmf-http-discover"), class.as_bytes());
        assert!(url.starts_with("http://") && url.ends_with("/nbd.efi"), "{class}: {url}");
    }
    // A ROM that is older than option 93 is for a BIOS.
    for class in ["PXEClient", "PXEClient:Arch:00000:UNDI:002001", "PXEClient:Arch:", "PXEClient:Arch:x:7"] {
        assert_eq!(file(bios_rom(), class.as_bytes()), "/boot/syslinux/lpxelinux.0", "{class}");
    }
}

#[test]
fn option_93_comes_before_class() {
    let message = Message { architectures: vec![0], ..bios_rom() };
    let message = Message { vendor_class: b"PXEClient:Arch:00007:UNDI:003016".to_vec(), ..message };
    let (reply, _) = sent(ask(&mut proxy(), message));
    assert_eq!(reply.boot_file().unwrap().as_str(), "/boot/syslinux/lpxelinux.0");
}

#[test]
fn conflict_is_expected_by_proxy() {
    assert_eq!(proxy().saw_conflict(OTHER, US, NOW), ConflictSeen::Expected);
}
