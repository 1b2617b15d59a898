//! Reports the steps of DHCP to the registry of machines.

use std::net::IpAddr;
use std::time::Instant;

use crate::dhcp::session::{DhcpPort, NoReply, Outcome, Request, mac};
use crate::dhcp::wire::{MessageType, Reply};
use crate::mac::Mac;
use crate::machines::Registry;

/// Reports one step of one machine. A machine that only leases an address gets no record.
pub(super) fn tell(machines: &Registry, request: &Request, answer: &Outcome, now: Instant) {
    let Some(mac) = mac(&request.message.header.hardware()) else { return };
    match answer {
        Outcome::Send { boot: Some(Err(why)), .. } | Outcome::NoReply(NoReply::NoBootFile(why)) => {
            machines.refused(mac, &why.to_string(), now);
        }
        Outcome::Send { reply, boot, .. } => {
            let address = Some(reply.header.yiaddr).filter(|address| !address.is_unspecified());
            if let (MessageType::Offer, Some(Ok(boot))) = (reply.kind, boot) {
                machines.offered(mac, boot.platform, address, now);
            }
            if let Some(address) = address.filter(|_| reply.kind == MessageType::Ack) {
                machines.leased(mac, address, now);
            }
            tell_boot_server(machines, mac, request, reply, now);
            tell_beside_server(machines, mac, request, reply, now);
        }
        Outcome::NoReply(NoReply::TakesAddress { address, .. }) => machines.leased(mac, *address, now),
        Outcome::NoReply(_) => {}
    }
}

/// Reports the address of a client of port 4011, which has one already.
fn tell_boot_server(machines: &Registry, mac: Mac, request: &Request, reply: &Reply, now: Instant) {
    if request.port == DhcpPort::BootServer && reply.kind == MessageType::Ack {
        machines.met(mac, IpAddr::V4(*request.from.ip()), now);
    }
}

/// Reports the address of a client that we acknowledge in proxy mode; it is the other server's.
fn tell_beside_server(machines: &Registry, mac: Mac, request: &Request, reply: &Reply, now: Instant) {
    let message = &request.message;
    let is_proxied = request.port == DhcpPort::Dhcp
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
    use crate::boot::Ports;
    use crate::dhcp::lease::{Leases, UnixTime};
    use crate::dhcp::session::{Network, Role, ServerRole, Session};
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

        fn hear(&mut self, port: DhcpPort, from: Ipv4Addr, message: Message) {
            let from = SocketAddrV4::new(from, 68);
            let request = Request { message, port, from, local: US, server: US };
            let answer = self.session.answer(&request, UnixTime(1));
            tell(&self.machines, &request, &answer, Instant::now());
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

    fn server_role() -> Role {
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        let network = Network { address: CLIENT, netmask, router: None, dns: Vec::new() };
        let leases = Leases::new("10.80.0.50-10.80.0.50".parse().unwrap(), 3600, &[US]);
        Role::Server(Box::new(ServerRole::new(network, leases)))
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
        let mut site = Site::new(server_role());
        site.hear(DhcpPort::Dhcp, NOBODY, discover(0));
        assert_eq!(site.only(), (Stage::Offered, Some(CLIENT.into())));
        site.hear(DhcpPort::Dhcp, NOBODY, request(0, US));
        assert_eq!(site.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn a_proxy_hears_who_takes_which_address() {
        let mut site = Site::new(Role::Proxy);
        site.hear(DhcpPort::Dhcp, NOBODY, discover(0));
        assert_eq!(site.only(), (Stage::Offered, None));
        site.hear(DhcpPort::Dhcp, NOBODY, request(0, Ipv4Addr::new(10, 80, 0, 254)));
        assert_eq!(site.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn a_request_that_is_answered_takes_its_address_too() {
        let mut site = Site::new(Role::Proxy);
        site.hear(DhcpPort::Dhcp, NOBODY, discover(0));
        let message = request(0, Ipv4Addr::new(10, 80, 0, 254));
        let from = SocketAddrV4::new(NOBODY, 68);
        let request = Request { message, port: DhcpPort::Dhcp, from, local: US, server: US };
        let Outcome::Send { mut reply, to, boot } =
            site.session.answer(&Request { message: discover(0), ..request.clone() }, UnixTime(1))
        else {
            panic!("no offer")
        };
        reply.kind = MessageType::Ack;
        tell(&site.machines, &request, &Outcome::Send { reply, to, boot }, Instant::now());
        assert_eq!(site.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn who_asks_the_boot_server_has_its_address() {
        let mut site = Site::new(Role::Proxy);
        site.hear(DhcpPort::Dhcp, NOBODY, discover(0));
        site.hear(DhcpPort::BootServer, CLIENT, request(0, US));
        assert_eq!(site.only(), (Stage::Offered, Some(CLIENT.into())));
    }

    #[test]
    fn why_there_is_no_boot_file_is_told() {
        let mut site = Site::new(server_role());
        // An architecture that nobody has.
        site.hear(DhcpPort::Dhcp, NOBODY, discover(999));
        assert_eq!(site.only().0, Stage::Seen);
        let refusal = site.machines().remove(0).refusal.unwrap();
        assert!(refusal.contains("999"), "{refusal}");
    }

    #[test]
    fn who_only_leases_is_no_machine_of_ours() {
        let mut site = Site::new(server_role());
        site.hear(DhcpPort::Dhcp, NOBODY, Message::discover(7, MAC));
        let message = Message { vendor_class: Vec::new(), ..request(0, US) };
        site.hear(DhcpPort::Dhcp, NOBODY, Message { architectures: Vec::new(), ..message });
        assert_eq!(site.machines(), []);
    }
}
