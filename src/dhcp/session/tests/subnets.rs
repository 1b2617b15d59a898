//! Server role on several networks.

use super::*;

/// Our address on the second network.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 1);
/// Relay agent on the third network, on which we have no address.
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 82, 0, 1);

/// Leases .50 to .59 of 10.80.0.0/24, 10.81.0.0/24 and 10.82.0.0/24.
fn three() -> Session {
    let subnet = |n| {
        let [first, last] = [50, 59].map(|host| Ipv4Addr::new(10, n, 0, host));
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        let network = Network { address: first, netmask: Some(netmask), router: None, dns: vec![] };
        Subnet::new(network, Leases::new(Pool::new(first, last).unwrap(), HOUR, &[US, SECOND, RELAY]))
    };
    session(Role::Server(ServerRole::new([80, 81, 82].map(subnet).into())))
}

/// A message that arrived on the interface with the address `local`.
fn ask_on(session: &mut Session, local: Ipv4Addr, message: Message) -> Outcome {
    session.answer(&Request { local, server: local, ..at(DhcpPort::Dhcp, message) }, NOW)
}

fn relayed(mut message: Message) -> Message {
    message.header.giaddr = RELAY;
    message
}

/// DISCOVER and REQUEST on an interface; the address.
#[track_caller]
fn lease_on(session: &mut Session, local: Ipv4Addr, n: u8) -> Ipv4Addr {
    let offer = sent(ask_on(session, local, plain(MessageType::Discover, n))).0;
    let requested = Some(offer.header.yiaddr);
    let request = Message { server: Some(local), requested, ..plain(MessageType::Request, n) };
    let ack = sent(ask_on(session, local, request)).0;
    assert_eq!((ack.kind, ack.header.yiaddr), (MessageType::Ack, offer.header.yiaddr));
    ack.header.yiaddr
}

fn network(address: Ipv4Addr) -> u8 {
    address.octets()[1]
}

fn requesting(n: u8, requested: Ipv4Addr) -> Message {
    Message { requested: Some(requested), ..plain(MessageType::Request, n) }
}

fn renewing(n: u8, ciaddr: Ipv4Addr) -> Message {
    let mut message = plain(MessageType::Request, n);
    message.header.ciaddr = ciaddr;
    message
}

#[test]
fn address_follows_interface_or_relay_agent() {
    let mut session = three();
    assert_eq!(network(lease_on(&mut session, US, 1)), 80);
    assert_eq!(network(lease_on(&mut session, SECOND, 2)), 81);
    let (offer, to) = sent(ask_on(&mut session, US, relayed(plain(MessageType::Discover, 3))));
    assert_eq!(network(offer.header.yiaddr), 82);
    assert_eq!(to, Destination::Unicast(SocketAddrV4::new(RELAY, 67)));
    // RFC 3527: the link selection counts, not the relay agent's own address.
    let selecting =
        Message { relay_info: vec![5, 4, 10, 81, 0, 0], ..relayed(plain(MessageType::Discover, 4)) };
    assert_eq!(network(sent(ask_on(&mut session, US, selecting)).0.header.yiaddr), 81);
    let elsewhere = Ipv4Addr::new(10, 83, 0, 1);
    assert_eq!(
        no_reply(ask_on(&mut session, elsewhere, plain(MessageType::Discover, 5))),
        NoReply::OtherNetwork
    );
}

#[test]
fn machine_holds_a_lease_on_each_network() {
    let mut session = three();
    let (first, second) = (lease_on(&mut session, US, 1), lease_on(&mut session, SECOND, 1));
    assert_eq!([network(first), network(second)], [80, 81]);
    for own in [first, second] {
        assert_eq!(sent(ask_on(&mut session, US, renewing(1, own))).0.kind, MessageType::Ack, "{own}");
    }
    // Back at the first network, it gets what it had there.
    assert_eq!(lease_on(&mut session, US, 1), first);
}

/// RFC 2131 §4.3.2, INIT-REBOOT: the address is on the wrong network.
#[test]
fn moved_machine_gets_nak() {
    let mut session = three();
    let first = lease_on(&mut session, US, 1);
    assert_eq!(sent(ask_on(&mut session, SECOND, requesting(1, first))).0.kind, MessageType::Nak);
    let (nak, to) = sent(ask_on(&mut session, US, relayed(requesting(1, first))));
    assert_eq!(nak.kind, MessageType::Nak);
    assert_eq!(to, Destination::Unicast(SocketAddrV4::new(RELAY, 67)));
    assert_eq!(sent(ask_on(&mut session, US, requesting(1, first))).0.kind, MessageType::Ack);
}

/// RENEWING goes to us directly, past the relay agent, and arrives on any interface.
#[test]
fn renewal_arrives_on_any_interface() {
    let mut session = three();
    let offer = sent(ask_on(&mut session, US, relayed(plain(MessageType::Discover, 1)))).0;
    let own = offer.header.yiaddr;
    sent(ask_on(&mut session, US, relayed(requesting(1, own))));
    for local in [US, SECOND, Ipv4Addr::new(172, 16, 0, 1)] {
        let (ack, to) = sent(ask_on(&mut session, local, renewing(1, own)));
        assert_eq!((ack.kind, ack.header.yiaddr), (MessageType::Ack, own));
        assert_eq!(to, Destination::Unicast(SocketAddrV4::new(own, 68)));
    }
    // Another machine has no lease there, so the interface counts.
    assert_eq!(sent(ask_on(&mut session, US, renewing(2, own))).0.kind, MessageType::Nak);
}

#[test]
fn release_and_decline_find_the_network_of_the_address() {
    let mut session = three();
    let (first, second) = (lease_on(&mut session, US, 1), lease_on(&mut session, SECOND, 1));
    let mut release = plain(MessageType::Release, 1);
    release.header.ciaddr = second;
    assert_eq!(no_reply(ask_on(&mut session, US, release.clone())), NoReply::Released(second));
    release.header.ciaddr = Ipv4Addr::new(10, 99, 0, 1);
    assert_eq!(no_reply(ask_on(&mut session, US, release)), NoReply::OtherNetwork);
    let decline = Message { requested: Some(first), ..plain(MessageType::Decline, 1) };
    assert_eq!(no_reply(ask_on(&mut session, SECOND, decline)), NoReply::Declined(first));
    assert_ne!(lease_on(&mut session, US, 1), first);
}

#[test]
fn conflict_stops_offers_on_its_network_only() {
    let mut session = three();
    assert_eq!(session.saw_conflict(OTHER, US, NOW), ConflictSeen::First);
    assert_eq!(session.saw_conflict(OTHER, RELAY, NOW), ConflictSeen::First);
    assert_eq!(session.saw_conflict(OTHER, Ipv4Addr::new(10, 99, 0, 1), NOW), ConflictSeen::Expected);
    let discover = plain(MessageType::Discover, 1);
    assert_eq!(no_reply(ask_on(&mut session, US, discover.clone())), NoReply::ConflictingServer(OTHER));
    assert_eq!(network(lease_on(&mut session, SECOND, 1)), 81);
    let Role::Server(server_role) = &session.role else { unreachable!() };
    assert!(server_role.offers(NOW));
    session.saw_conflict(OTHER, SECOND, NOW);
    let Role::Server(server_role) = &session.role else { unreachable!() };
    assert!(!server_role.offers(NOW));
}

#[test]
fn chosen_server_is_on_the_network_of_the_client() {
    let mut session = three();
    let request = Message { server: Some(OTHER), ..requesting(1, Ipv4Addr::new(10, 82, 0, 7)) };
    let network = Ipv4Addr::new(10, 82, 0, 50);
    let chosen = NoReply::ChoseAnother { server: OTHER, network };
    assert_eq!(no_reply(ask_on(&mut session, US, relayed(request))), chosen);
}

#[test]
fn inform_tells_the_network_of_its_address() {
    let mut session = three();
    let mut inform = plain(MessageType::Inform, 1);
    inform.header.ciaddr = Ipv4Addr::new(10, 81, 0, 7);
    let (ack, to) = sent(ask_on(&mut session, US, inform));
    assert_eq!(
        (ack.kind, to),
        (MessageType::Ack, Destination::Unicast(SocketAddrV4::new(Ipv4Addr::new(10, 81, 0, 7), 68)))
    );
}

/// One lease file holds the leases of all networks.
#[test]
fn lease_file_is_read_into_each_network() {
    let mut before = three();
    let leases =
        [lease_on(&mut before, US, 1), lease_on(&mut before, SECOND, 1), lease_on(&mut before, SECOND, 2)];
    let Role::Server(server_role) = &mut before.role else { unreachable!() };
    let text: String = server_role.snapshot().map(|event| format!("{event}\n")).collect();
    assert_eq!(server_role.take_events().len(), 3);
    let mut after = three();
    let Role::Server(server_role) = &mut after.role else { unreachable!() };
    let gone = "lease 10.99.0.1 52:54:00:00:00:01 until 1800000000\nnonsense\n";
    assert_eq!(server_role.replay_text(&(text + gone), NOW), 1);
    assert_eq!(server_role.len(), 3);
    for (n, own) in [(1, leases[0]), (1, leases[1]), (2, leases[2])] {
        assert_eq!(sent(ask_on(&mut after, own, renewing(n, own))).0.kind, MessageType::Ack);
    }
}
