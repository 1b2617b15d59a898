//! What the registry of machines is told of DHCP.

use std::net::IpAddr;
use std::time::Instant;

use crate::dhcp::session::{Answer, Door, Question, Silence, mac};
use crate::dhcp::wire::{MessageType, Reply};
use crate::mac::Mac;
use crate::machines::Registry;

/// One step of one machine. Only machines that boot from the network become known; those that merely lease do not.
pub(super) fn tell(machines: &Registry, question: &Question, answer: &Answer, now: Instant) {
    let Some(mac) = mac(&question.message.header.hardware()) else { return };
    match answer {
        Answer::Send { boot: Some(Err(why)), .. } | Answer::Silence(Silence::NoBootFile(why)) => {
            machines.refused(mac, &why.to_string(), now);
        }
        Answer::Send { reply, boot, .. } => {
            let address = Some(reply.header.yiaddr).filter(|address| !address.is_unspecified());
            if let (MessageType::Offer, Some(Ok(boot))) = (reply.kind, boot) {
                machines.offered(mac, boot.platform, address, now);
            }
            if let Some(address) = address.filter(|_| reply.kind == MessageType::Ack) {
                machines.leased(mac, address, now);
            }
            tell_boot_server(machines, mac, question, reply, now);
            tell_beside_server(machines, mac, question, reply, now);
        }
        Answer::Silence(Silence::TakesAddress { address, .. }) => machines.leased(mac, *address, now),
        Answer::Silence(_) => {}
    }
}

/// Who asks on port 4011 has its address already.
fn tell_boot_server(machines: &Registry, mac: Mac, question: &Question, reply: &Reply, now: Instant) {
    if question.door == Door::BootServer && reply.kind == MessageType::Ack {
        machines.met(mac, IpAddr::V4(*question.from.ip()), now);
    }
}

/// Whose request is answered beside the server that it was for takes an address of that one's all the same.
fn tell_beside_server(machines: &Registry, mac: Mac, question: &Question, reply: &Reply, now: Instant) {
    let message = &question.message;
    let is_proxied = question.door == Door::Dhcp
        && message.kind == MessageType::Request
        && reply.kind == MessageType::Ack
        && reply.header.yiaddr.is_unspecified();
    if let Some(address) = message.requested.filter(|_| is_proxied) {
        machines.leased(mac, address, now);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use jiff::Timestamp;

    use super::*;
    use crate::boot;
    use crate::boot::menu::Ports;
    use crate::dhcp::lease::{Leases, UnixTime};
    use crate::dhcp::session::{Authority, Network, Role, Session};
    use crate::dhcp::wire::Message;
    use crate::export::Allowed;
    use crate::machines::Stage;
    use crate::machines::status::MachineStatus;

    const US: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 50);
    const MAC: [u8; 6] = [0x52, 0x54, 0, 0xfe, 0, 0xb0];

    struct Site {
        session: Session,
        machines: Registry,
    }

    impl Site {
        fn new(role: Role) -> Self {
            let ports = Ports { tftp: 69, http: None };
            let boot = boot::BootTargets::new(Some("boot/syslinux/lpxelinux.0"), ports);
            Self {
                session: Session { role, boot, allowed: Allowed::default() },
                machines: Registry::new(Instant::now()),
            }
        }

        fn hear(&mut self, door: Door, from: Ipv4Addr, message: Message) {
            let from = SocketAddrV4::new(from, 68);
            let question = Question { message, door, from, local: US, server: US };
            let answer = self.session.answer(&question, UnixTime(1));
            tell(&self.machines, &question, &answer, Instant::now());
        }

        fn machines(&self) -> Vec<MachineStatus> {
            self.machines.status(Instant::now(), Timestamp::UNIX_EPOCH).machines
        }

        fn only(&self) -> (Stage, Option<IpAddr>) {
            let machines = self.machines();
            assert_eq!(machines.len(), 1, "{machines:?}");
            (machines[0].stage, machines[0].addresses.first().copied())
        }
    }

    fn authority() -> Role {
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        let network = Network { address: CLIENT, netmask, router: None, dns: Vec::new() };
        let leases = Leases::new("10.80.0.50-10.80.0.50".parse().unwrap(), 3600, &[US]);
        Role::Authority(Box::new(Authority::new(network, leases)))
    }

    fn discover(architecture: u16) -> Message {
        let mut message = Message::discover(7, MAC);
        message.vendor_class = b"PXEClient".to_vec();
        message.architectures = vec![architecture];
        message
    }

    fn request(architecture: u16, server: Ipv4Addr) -> Message {
        let mut message = discover(architecture);
        message.kind = MessageType::Request;
        (message.requested, message.server) = (Some(CLIENT), Some(server));
        message
    }

    const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    #[test]
    fn an_authority_knows_both_addresses() {
        let mut site = Site::new(authority());
        site.hear(Door::Dhcp, NOBODY, discover(0));
        assert_eq!(site.only(), (Stage::Offered, Some(CLIENT.into())));
        site.hear(Door::Dhcp, NOBODY, request(0, US));
        assert_eq!(site.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn a_proxy_hears_who_takes_which_address() {
        let mut site = Site::new(Role::Proxy);
        site.hear(Door::Dhcp, NOBODY, discover(0));
        assert_eq!(site.only(), (Stage::Offered, None));
        site.hear(Door::Dhcp, NOBODY, request(0, Ipv4Addr::new(10, 80, 0, 254)));
        assert_eq!(site.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn a_request_that_is_answered_takes_its_address_too() {
        let mut site = Site::new(Role::Proxy);
        site.hear(Door::Dhcp, NOBODY, discover(0));
        let message = request(0, Ipv4Addr::new(10, 80, 0, 254));
        let from = SocketAddrV4::new(NOBODY, 68);
        let question = Question { message, door: Door::Dhcp, from, local: US, server: US };
        let Answer::Send { mut reply, to, boot } =
            site.session.answer(&Question { message: discover(0), ..question.clone() }, UnixTime(1))
        else {
            panic!("no offer")
        };
        reply.kind = MessageType::Ack;
        tell(&site.machines, &question, &Answer::Send { reply, to, boot }, Instant::now());
        assert_eq!(site.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn who_asks_the_boot_server_has_its_address() {
        let mut site = Site::new(Role::Proxy);
        site.hear(Door::Dhcp, NOBODY, discover(0));
        site.hear(Door::BootServer, CLIENT, request(0, US));
        assert_eq!(site.only(), (Stage::Offered, Some(CLIENT.into())));
    }

    #[test]
    fn why_there_is_no_boot_file_is_told() {
        let mut site = Site::new(authority());
        // An architecture that nobody has.
        site.hear(Door::Dhcp, NOBODY, discover(999));
        assert_eq!(site.only().0, Stage::Seen);
        let refusal = site.machines().remove(0).refusal.unwrap();
        assert!(refusal.contains("999"), "{refusal}");
    }

    #[test]
    fn who_only_leases_is_no_machine_of_ours() {
        let mut site = Site::new(authority());
        site.hear(Door::Dhcp, NOBODY, Message::discover(7, MAC));
        let message = Message { vendor_class: Vec::new(), ..request(0, US) };
        site.hear(Door::Dhcp, NOBODY, Message { architectures: Vec::new(), ..message });
        assert_eq!(site.machines(), []);
    }
}
