use super::*;

#[test]
fn offer_has_address_and_boot_file() {
    let message = captured!("ipxe-bios-discover");
    let (reply, to) = sent(ask(&mut server_role(), message.clone()));
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
fn other_client_gets_no_boot_file() {
    let mut server_role = server_role();
    for message in [captured!("ipconfig-discover"), plain(MessageType::Discover, 1)] {
        let (reply, _) = sent(ask(&mut server_role, message));
        assert_eq!((reply.boot_file(), reply.header.siaddr), (None, US));
        assert!(!reply.options.contains(&ReplyOption::BootClass(BootClass::PxeClient)));
    }
}

#[test]
fn refused_machine_gets_address() {
    let mut session = Session { boot: no_uefi(), ..server_role() };
    let Outcome::Send { reply, boot: Some(Err(why)), .. } =
        ask(&mut session, captured!("ovmf-http-discover"))
    else {
        panic!("no address, or no reason")
    };
    assert_eq!(reply.boot_file(), None);
    assert!(why.to_string().contains("--stub"));
}

#[test]
fn uefi_offer_has_address_and_program() {
    for message in [captured!("ovmf-pxe-discover"), captured!("ovmf-http-discover")] {
        let (reply, _) = sent(ask(&mut server_role(), message));
        assert!(!reply.header.yiaddr.is_unspecified());
        assert!(reply.boot_file().unwrap().as_str().ends_with("/nbd.efi"));
        assert!(!reply.options.iter().any(|option| matches!(option, ReplyOption::ConfigFile(_))));
    }
}

#[test]
fn configured_router_and_dns_are_sent() {
    let mut session = server_role();
    let Role::Server(inner) = &mut session.role else { unreachable!() };
    inner.subnets[0].network.router = Some(OTHER);
    inner.subnets[0].network.dns = vec![OTHER, US];
    let (reply, _) = sent(ask(&mut session, plain(MessageType::Discover, 1)));
    assert!(reply.options.contains(&ReplyOption::Router(OTHER)));
    assert!(reply.options.contains(&ReplyOption::Dns(vec![OTHER, US])));
}

#[test]
fn advertised_address_is_sent() {
    let request = Request { server: OTHER, ..at(DhcpPort::Dhcp, captured!("ipxe-bios-discover")) };
    let (reply, _) = sent(server_role().answer(&request, NOW));
    assert_eq!(reply.header.siaddr, OTHER);
    assert!(reply.options.contains(&ReplyOption::ServerIdentifier(OTHER)));
    assert!(reply.options.contains(&ReplyOption::TftpServer(OTHER)));
}

#[test]
fn offered_address_is_leased() {
    let mut server_role = server_role();
    let first = lease(&mut server_role, 1);
    assert_ne!(lease(&mut server_role, 2), first);
    assert_eq!(lease(&mut server_role, 1), first, "again");
}

#[test]
fn offer_is_withdrawn_for_other_server() {
    let mut server_role = server_role();
    let (offer, _) = sent(ask(&mut server_role, plain(MessageType::Discover, 1)));
    let requested = Some(offer.header.yiaddr);
    let request = Message { server: Some(OTHER), requested, ..plain(MessageType::Request, 1) };
    assert_eq!(
        no_reply(ask(&mut server_role, request)),
        NoReply::ChoseAnother { server: OTHER, network: pool(50) }
    );
    let wish = Message { requested, ..plain(MessageType::Discover, 2) };
    assert_eq!(sent(ask(&mut server_role, wish)).0.header.yiaddr, offer.header.yiaddr, "free again");
}

#[test]
fn address_not_offered_gets_nak() {
    let mut server_role = server_role();
    let taken = lease(&mut server_role, 1);
    for requested in [taken, pool(99), Ipv4Addr::new(192, 168, 0, 1)] {
        let request =
            Message { server: Some(US), requested: Some(requested), ..plain(MessageType::Request, 2) };
        let (nak, to) = sent(ask(&mut server_role, request));
        assert_eq!((nak.kind, to), (MessageType::Nak, Destination::Broadcast));
        assert_eq!(nak.header.siaddr, NO_ADDRESS, "RFC 2131 table 3");
        assert_eq!((nak.header.yiaddr, nak.options), (NO_ADDRESS, vec![ReplyOption::ServerIdentifier(US)]));
    }
}

/// RFC 2131 §4.3.2, INIT-REBOOT: no server named, the address in option 50.
#[test]
fn rebooted_machine_keeps_address() {
    let mut server_role = server_role();
    let own = lease(&mut server_role, 1);
    let reboot = |n, address| Message { requested: Some(address), ..plain(MessageType::Request, n) };
    assert_eq!(sent(ask(&mut server_role, reboot(1, own))).0.kind, MessageType::Ack);
    let wrong_network = reboot(1, Ipv4Addr::new(192, 168, 0, 7));
    assert_eq!(sent(ask(&mut server_role, wrong_network)).0.kind, MessageType::Nak);
    let another = if own == pool(50) { pool(51) } else { pool(50) };
    assert_eq!(sent(ask(&mut server_role, reboot(1, another))).0.kind, MessageType::Nak, "it holds another");
    assert_eq!(
        sent(ask(&mut server_role, reboot(2, own))).0.kind,
        MessageType::Nak,
        "another machine holds it"
    );
    assert_eq!(
        sent(ask(&mut server_role, reboot(3, another))).0.kind,
        MessageType::Ack,
        "free: a lost lease file"
    );
    assert_eq!(no_reply(ask(&mut server_role, reboot(4, pool(99)))), NoReply::NotInPool(pool(99)));
    assert_eq!(no_reply(ask(&mut server_role, plain(MessageType::Request, 5))), NoReply::NothingClaimed);
}

/// Another server leases the rest of the network: it may have leased the address that is claimed.
#[test]
fn address_of_another_server_is_not_refused() {
    let mut session = server_role();
    let Role::Server(server_role) = &mut session.role else { panic!() };
    server_role.subnets.iter_mut().for_each(Subnet::share);
    let own = lease(&mut session, 1);
    let mut reboot = plain(MessageType::Request, 1);
    reboot.requested = Some(pool(99));
    assert_eq!(no_reply(ask(&mut session, reboot.clone())), NoReply::NotInPool(pool(99)));
    let mut rebinding = plain(MessageType::Request, 1);
    rebinding.header.ciaddr = pool(99);
    assert_eq!(no_reply(ask(&mut session, rebinding)), NoReply::NotInPool(pool(99)));
    // One of ours is.
    reboot.requested = [pool(50), pool(51)].into_iter().find(|&address| address != own);
    assert_eq!(sent(ask(&mut session, reboot)).0.kind, MessageType::Nak);
}

/// RENEWING (unicast) and REBINDING (broadcast): the address in `ciaddr`.
#[test]
fn renewal_is_unicast_to_address() {
    let mut server_role = server_role();
    let own = lease(&mut server_role, 1);
    let mut renew = plain(MessageType::Request, 1);
    renew.header.ciaddr = own;
    let late = NOW.after(HOUR - 1);
    let (ack, to) = sent(server_role.answer(&at(DhcpPort::Dhcp, renew.clone()), late));
    assert_eq!((ack.kind, ack.header.yiaddr, ack.header.ciaddr), (MessageType::Ack, own, own));
    assert_eq!(to, Destination::Unicast(SocketAddrV4::new(own, 68)));
    let later = NOW.after(2 * HOUR - 2);
    let (ack, _) = sent(server_role.answer(&at(DhcpPort::Dhcp, renew), later));
    assert_eq!(ack.kind, MessageType::Ack, "the first renewal counted");
}

#[test]
fn forged_address_gets_no_reply() {
    let mut server_role = server_role();
    let mut request = Message { requested: Some(pool(50)), ..plain(MessageType::Request, 1) };
    request.header.ciaddr = Ipv4Addr::new(8, 8, 8, 8);
    assert_eq!(sent(ask(&mut server_role, request)).1, Destination::Broadcast);
    let mut inform = plain(MessageType::Inform, 1);
    inform.header.ciaddr = Ipv4Addr::new(8, 8, 8, 8);
    assert_eq!(no_reply(ask(&mut server_role, inform)), NoReply::OtherNetwork);
}

#[test]
fn inform_gets_no_lease() {
    let mut server_role = server_role();
    let mut inform = plain(MessageType::Inform, 1);
    inform.header.ciaddr = pool(7);
    let (ack, to) = sent(ask(&mut server_role, inform));
    assert_eq!(to, Destination::Unicast(SocketAddrV4::new(pool(7), 68)));
    assert_eq!((ack.kind, ack.header.yiaddr, ack.header.ciaddr), (MessageType::Ack, NO_ADDRESS, pool(7)));
    assert!(ack.options.contains(&ReplyOption::Router(US)));
    assert!(!ack.options.iter().any(|option| matches!(option, ReplyOption::LeaseTime(_))));
}

#[test]
fn address_is_released_or_declined() {
    let mut server_role = server_role();
    let own = lease(&mut server_role, 1);
    let mut release = Message { server: Some(US), ..plain(MessageType::Release, 2) };
    release.header.ciaddr = own;
    assert_eq!(no_reply(ask(&mut server_role, release.clone())), NoReply::NotAnswered(MessageType::Release));
    release.header.chaddr = plain(MessageType::Release, 1).header.chaddr;
    assert_eq!(no_reply(ask(&mut server_role, release)), NoReply::Released(own));

    let own = lease(&mut server_role, 1);
    let decline = Message { server: Some(US), requested: Some(own), ..plain(MessageType::Decline, 1) };
    let not_ours = Message { server: Some(OTHER), ..decline.clone() };
    assert_eq!(no_reply(ask(&mut server_role, not_ours)), NoReply::NotAnswered(MessageType::Decline));
    assert_eq!(no_reply(ask(&mut server_role, decline)), NoReply::Declined(own));
    assert_ne!(lease(&mut server_role, 1), own);
}

#[test]
fn exhausted_pool_is_reported() {
    let mut server_role = server_role();
    for n in 0..10 {
        lease(&mut server_role, n);
    }
    let reason = no_reply(ask(&mut server_role, plain(MessageType::Discover, 10)));
    assert_eq!(reason.to_string(), "every address of 10.80.0.50-10.80.0.59 is in use");
}

#[test]
fn reply_goes_to_relay_agent() {
    let mut server_role = server_role();
    let mut message = Message { relay_info: vec![1, 1, 9], ..plain(MessageType::Discover, 1) };
    message.header.giaddr = OTHER;
    let (reply, to) = sent(ask(&mut server_role, message.clone()));
    assert_eq!(to, Destination::Unicast(SocketAddrV4::new(OTHER, 67)));
    assert_eq!((reply.header.giaddr, &reply.relay_info), (OTHER, &message.relay_info));

    // RFC 8357: the port it wrote from.
    message.relay_info = vec![19, 0];
    let from = SocketAddrV4::new(OTHER, 1067);
    let request = Request { from, ..at(DhcpPort::Dhcp, message.clone()) };
    assert_eq!(sent(server_role.answer(&request, NOW)).1, Destination::Unicast(from));

    // A NAK goes the same way, to be broadcast there.
    let wrong = Message {
        kind: MessageType::Request,
        requested: Some(Ipv4Addr::new(192, 168, 0, 7)),
        relay_info: vec![],
        ..message.clone()
    };
    let (nak, to) = sent(ask(&mut server_role, wrong));
    assert_eq!(to, Destination::Unicast(SocketAddrV4::new(OTHER, 67)));
    assert!(nak.header.flags.broadcast());
}

#[test]
fn relay_agent_selects_network() {
    let elsewhere = Ipv4Addr::new(10, 99, 0, 1);
    let mut message = plain(MessageType::Discover, 1);
    message.header.giaddr = elsewhere;
    assert_eq!(no_reply(ask(&mut server_role(), message.clone())), NoReply::OtherNetwork);
    // RFC 3527: link selection.
    message.relay_info = vec![5, 4, 10, 80, 0, 0];
    assert_eq!(
        sent(ask(&mut server_role(), message.clone())).1,
        Destination::Unicast(SocketAddrV4::new(elsewhere, 67))
    );
    message.relay_info = vec![5, 4, 10, 99, 0, 0];
    message.header.giaddr = OTHER;
    assert_eq!(no_reply(ask(&mut server_role(), message)), NoReply::OtherNetwork);
}

#[test]
fn client_of_other_network_gets_no_reply() {
    let request = Request {
        local: Ipv4Addr::new(172, 16, 0, 1),
        ..at(DhcpPort::Dhcp, plain(MessageType::Discover, 1))
    };
    assert_eq!(no_reply(server_role().answer(&request, NOW)), NoReply::OtherNetwork);
    let mut nameless = plain(MessageType::Discover, 1);
    nameless.header.hardware_len = 0;
    assert_eq!(no_reply(ask(&mut server_role(), nameless)), NoReply::NoHardwareAddress);
}

#[test]
fn new_network_is_looked_at_before_an_offer() {
    let mut server_role = server_role();
    let own = lease(&mut server_role, 1);
    server_role.look_first(US, NOW.after(5));
    let stranger = || at(DhcpPort::Dhcp, plain(MessageType::Discover, 2));
    assert_eq!(no_reply(server_role.answer(&stranger(), NOW.after(4))), NoReply::LooksFirst);
    let mut renew = plain(MessageType::Request, 1);
    renew.header.ciaddr = own;
    assert_eq!(sent(ask(&mut server_role, renew.clone())).0.kind, MessageType::Ack);
    renew.header.chaddr = [7; 16];
    assert_eq!(no_reply(ask(&mut server_role, renew)), NoReply::LooksFirst, "no NAK");
    assert!(matches!(server_role.answer(&stranger(), NOW.after(5)), Outcome::Send { .. }));
}

#[test]
fn conflict_stops_offers_but_not_renewals() {
    let mut server_role = server_role();
    let own = lease(&mut server_role, 1);
    assert_eq!(server_role.saw_conflict(OTHER, US, NOW), ConflictSeen::First);
    assert_eq!(server_role.saw_conflict(OTHER, US, NOW.after(300)), ConflictSeen::Again);
    assert_eq!(
        no_reply(ask(&mut server_role, plain(MessageType::Discover, 1))),
        NoReply::ConflictingServer(OTHER)
    );
    let mut renew = plain(MessageType::Request, 1);
    renew.header.ciaddr = own;
    assert_eq!(sent(ask(&mut server_role, renew.clone())).0.kind, MessageType::Ack);
    renew.header.chaddr = [7; 16];
    assert_eq!(
        no_reply(ask(&mut server_role, renew)),
        NoReply::ConflictingServer(OTHER),
        "no NAK into another's network"
    );
    let gone = NOW.after(300 + 900);
    let request = at(DhcpPort::Dhcp, plain(MessageType::Discover, 2));
    assert!(matches!(server_role.answer(&request, gone), Outcome::Send { .. }), "alone again");
    assert_eq!(server_role.saw_conflict(OTHER, US, gone), ConflictSeen::First);
}
