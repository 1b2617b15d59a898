use super::*;

#[test]
fn boot_server_replies_to_source_port() {
    for port in [68, 4011] {
        let message = captured!("ipxe-bios-4011-request");
        let from = SocketAddrV4::new(message.header.ciaddr, port);
        let request = Request { from, ..at(DhcpPort::BootServer, message.clone()) };
        let (reply, to) = sent(proxy().answer(&request, NOW));
        assert_eq!(to, Destination::Unicast(from));
        assert_eq!(reply.kind, MessageType::Ack);
        assert_eq!((reply.header.ciaddr, reply.header.yiaddr), (message.header.ciaddr, NO_ADDRESS));
        assert_eq!(reply.boot_file().unwrap().as_str(), SCRIPT);
        let confirmed = ReplyOption::SkipDiscovery { boot_item: Some([0x80, 0, 0, 0]) };
        assert!(reply.options.contains(&confirmed));
    }
}

#[test]
fn boot_server_replies_in_either_role() {
    let request = at(DhcpPort::BootServer, captured!("ipxe-bios-4011-request"));
    let (reply, _) = sent(server_role().answer(&request, NOW));
    assert!(!reply.options.iter().any(|option| matches!(option, ReplyOption::LeaseTime(_))));
}

#[test]
fn boot_server_needs_request_with_address() {
    let discover = at(DhcpPort::BootServer, captured!("ipxe-bios-discover"));
    assert_eq!(no_reply(proxy().answer(&discover, NOW)), NoReply::NotAnswered(MessageType::Discover));
    let homeless = at(DhcpPort::BootServer, captured!("ipxe-bios-request"));
    assert_eq!(no_reply(proxy().answer(&homeless, NOW)), NoReply::NoAddress);
}
