use super::*;

/// The plan of this machine, as if it had these quirks.
fn quirky(request: &Request, quirks: &[Quirk]) -> Boot {
    let boot = boot_offer::decide(request, &boot_targets(), false)
        .expect("an answer")
        .expect("a boot client")
        .expect("a plan");
    Some(Ok(BootOffer { quirks: quirks.iter().copied().collect(), ..boot }))
}

fn offer(message: &Message, quirks: &[Quirk]) -> Reply {
    let request = at(DhcpPort::Dhcp, message.clone());
    sent(super::super::proxy(&request, quirky(&request, quirks)).unwrap()).0
}

/// Codes of options that tell PXE from plain DHCP, in what leaves.
fn pxe_options(reply: &Reply) -> (bool, bool, bool) {
    let message = Message::parse(&reply.emit()).unwrap();
    let has = |wanted: fn(&ReplyOption) -> bool| reply.options.iter().any(wanted);
    let skips = has(|option| matches!(option, ReplyOption::SkipDiscovery { .. }));
    (!message.vendor_class.is_empty(), skips, !message.machine_id.is_empty())
}

#[test]
fn plain_reply_has_no_pxe_options() {
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
fn plain_reply_of_server_role_has_address() {
    let mut session = server_role();
    let Role::Server(server_role) = &mut session.role else { unreachable!() };
    let request = at(DhcpPort::Dhcp, captured!("ovmf-pxe-discover"));
    let answer = server_role.answer(&request, quirky(&request, &[Quirk::Plain]), NOW);
    let (reply, _) = sent(answer.unwrap());
    assert!(!reply.header.yiaddr.is_unspecified());
    assert!(reply.boot_file().unwrap().as_str().ends_with("/nbd.efi"));
    assert_eq!(pxe_options(&reply), (false, false, false));
    assert!(reply.options.contains(&ReplyOption::Router(US)));
}

/// It takes no file from a reply that does not say `HTTPClient`.
#[test]
fn http_boot_reply_ignores_quirks() {
    let message = captured!("ovmf-http-discover");
    assert_eq!(offer(&message, &Quirk::ALL), offer(&message, &[]));
}

#[test]
fn no43_reply_lacks_only_option_43() {
    let message = captured!("ovmf-pxe-discover");
    assert_eq!(pxe_options(&offer(&message, &[Quirk::No43])), (true, false, true));
    let mut as_usual = offer(&message, &[]);
    as_usual.options.retain(|option| !matches!(option, ReplyOption::SkipDiscovery { .. }));
    assert_eq!(offer(&message, &[Quirk::No43]), as_usual, "nothing else is missing");

    // Then it asks here.
    let mut request = Message { kind: MessageType::Request, ..message };
    request.header.ciaddr = pool(7);
    let request = at(DhcpPort::BootServer, request);
    let (ack, _) = sent(boot_server(&request, quirky(&request, &[Quirk::No43])).unwrap());
    assert!(ack.boot_file().unwrap().as_str().ends_with("/nbd.efi"));
    assert_eq!(pxe_options(&ack), (true, false, true));
}

#[test]
fn chosen_boot_item_is_confirmed() {
    let request = at(DhcpPort::BootServer, captured!("ipxe-bios-4011-request"));
    let (ack, _) = sent(boot_server(&request, quirky(&request, &[Quirk::No43])).unwrap());
    assert!(ack.options.contains(&ReplyOption::SkipDiscovery { boot_item: Some([0x80, 0, 0, 0]) }));
}

#[test]
fn answered_request_gets_boot_file_only() {
    let message = captured!("ipxe-bios-request-beside-proxy");
    let request = at(DhcpPort::Dhcp, message.clone());
    let answered = super::super::proxy(&request, quirky(&request, &[Quirk::AnswerRequest])).unwrap();
    let (ack, to) = sent(answered);
    assert_eq!((ack.kind, to), (MessageType::Ack, Destination::Broadcast));
    assert_eq!((ack.header.yiaddr, ack.header.ciaddr, ack.header.siaddr), (NO_ADDRESS, NO_ADDRESS, US));
    assert_eq!(ack.boot_file().unwrap().as_str(), SCRIPT);
    assert_eq!(pxe_options(&ack), (true, true, true));
    for quirks in [&[][..], &[Quirk::Plain, Quirk::No43]] {
        let silent = super::super::proxy(&request, quirky(&request, quirks));
        assert!(matches!(silent, Err(NoReply::TakesAddress { .. })), "{quirks:?}");
    }
}

#[test]
fn other_message_is_not_answered() {
    let ask = |message: Message| {
        let request = at(DhcpPort::Dhcp, message);
        super::super::proxy(&request, quirky(&request, &Quirk::ALL)).map(|_| ())
    };
    let request = captured!("ipxe-bios-request-beside-proxy");
    for kind in [MessageType::Decline, MessageType::Release, MessageType::Inform] {
        let message = Message { kind, ..request.clone() };
        assert_eq!(ask(message), Err(NoReply::NotAnswered(kind)));
    }
}
