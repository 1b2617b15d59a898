//! Reports the steps of DHCP to the registry of machines.

use std::net::IpAddr;
use std::time::Instant;

use crate::dhcp::session::{DhcpPort, NoReply, Outcome, Request, mac};
use crate::dhcp::wire::{MessageType, Reply};
use crate::mac::Mac;
use crate::machines::Registry;

/// Reports one step of one machine. A machine that only leases an address gets no record.
pub(super) fn report(machines: &Registry, request: &Request, outcome: &Outcome, now: Instant) {
    let Some(mac) = mac(&request.message.header.hardware()) else { return };
    match outcome {
        Outcome::Send { boot: Some(Err(refusal)), .. } | Outcome::NoReply(NoReply::NoBootFile(refusal)) => {
            machines.refused(mac, &refusal.to_string(), now);
        }
        Outcome::Send { reply, boot, .. } => {
            let address = Some(reply.header.yiaddr).filter(|address| !address.is_unspecified());
            if let (MessageType::Offer, Some(Ok(boot))) = (reply.kind, boot) {
                machines.offered(mac, boot.platform, address, now);
            }
            if let Some(address) = address.filter(|_| reply.kind == MessageType::Ack) {
                machines.leased(mac, address, now);
            }
            report_boot_server_client(machines, mac, request, reply, now);
            report_proxied_client(machines, mac, request, reply, now);
        }
        // A proxy sees the REQUEST to the other server, since clients broadcast it (RFC 2131
        // §4.4.4).
        Outcome::NoReply(NoReply::TakesAddress { address, .. }) => machines.leased(mac, *address, now),
        Outcome::NoReply(_) => {}
    }
}

/// Reports the address of a client of port 4011, which has one already.
fn report_boot_server_client(machines: &Registry, mac: Mac, request: &Request, reply: &Reply, now: Instant) {
    if request.port == DhcpPort::BootServer && reply.kind == MessageType::Ack {
        machines.met(mac, IpAddr::V4(*request.from.ip()), now);
    }
}

/// Reports the address of a client that we acknowledge in proxy mode.
fn report_proxied_client(machines: &Registry, mac: Mac, request: &Request, reply: &Reply, now: Instant) {
    let message = &request.message;
    // The address is the other server's, so our ACK does not hold it, but the REQUEST does.
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
    use crate::dhcp::session::{LimitedIpxes, Network, Role, ServerRole, Session, Subnet};
    use crate::dhcp::wire::Message;
    use crate::export::Allowed;
    use crate::machines::Stage;
    use crate::machines::status::MachineStatus;

    const US: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 50);
    const MAC: [u8; 6] = [0x52, 0x54, 0, 0xfe, 0, 0xb0];

    struct Service {
        session: Session,
        machines: Registry,
    }

    impl Service {
        fn new(role: Role) -> Self {
            let ports = Ports { tftp: 69, http: None };
            let boot = boot::BootTargets::new(Some("boot/syslinux/lpxelinux.0"), ports);
            Self {
                session: Session {
                    role,
                    boot,
                    allowed: Allowed::default(),
                    limited_ipxes: LimitedIpxes::default(),
                },
                machines: Registry::new(Instant::now()),
            }
        }

        fn receive(&mut self, port: DhcpPort, from: Ipv4Addr, message: Message) {
            let from = SocketAddrV4::new(from, 68);
            let request = Request { message, port, from, local: US, server: US };
            let outcome = self.session.answer(&request, UnixTime(1));
            report(&self.machines, &request, &outcome, Instant::now());
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
        let netmask = Some(Ipv4Addr::new(255, 255, 255, 0));
        let network = Network { address: CLIENT, netmask, router: None, dns: Vec::new() };
        let leases = Leases::new("10.80.0.50-10.80.0.50".parse().unwrap(), 3600, &[US]);
        Role::Server(ServerRole::new(vec![Subnet::new(network, leases)]))
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

    const NO_ADDRESS: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    #[test]
    fn server_role_reports_offer_and_lease() {
        let mut service = Service::new(server_role());
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(0));
        assert_eq!(service.only(), (Stage::Offered, Some(CLIENT.into())));
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, request(0, US));
        assert_eq!(service.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn proxy_reports_address_of_other_server() {
        let mut service = Service::new(Role::Proxy);
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(0));
        assert_eq!(service.only(), (Stage::Offered, None));
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, request(0, Ipv4Addr::new(10, 80, 0, 254)));
        assert_eq!(service.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn acknowledged_request_reports_its_address() {
        let mut service = Service::new(Role::Proxy);
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(0));
        let message = request(0, Ipv4Addr::new(10, 80, 0, 254));
        let from = SocketAddrV4::new(NO_ADDRESS, 68);
        let request = Request { message, port: DhcpPort::Dhcp, from, local: US, server: US };
        let Outcome::Send { mut reply, to, boot } =
            service.session.answer(&Request { message: discover(0), ..request.clone() }, UnixTime(1))
        else {
            panic!("no offer")
        };
        reply.kind = MessageType::Ack;
        report(&service.machines, &request, &Outcome::Send { reply, to, boot }, Instant::now());
        assert_eq!(service.only(), (Stage::Leased, Some(CLIENT.into())));
    }

    #[test]
    fn boot_server_client_reports_its_address() {
        let mut service = Service::new(Role::Proxy);
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(0));
        service.receive(DhcpPort::BootServer, CLIENT, request(0, US));
        assert_eq!(service.only(), (Stage::Offered, Some(CLIENT.into())));
    }

    #[test]
    fn missing_boot_file_reports_its_reason() {
        let mut service = Service::new(server_role());
        // An unassigned architecture.
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(999));
        assert_eq!(service.only().0, Stage::Seen);
        let refusal = service.machines().remove(0).refusal.unwrap();
        assert!(refusal.contains("999"), "{refusal}");
    }

    #[test]
    fn client_without_boot_request_is_not_reported() {
        let mut service = Service::new(server_role());
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, Message::discover(7, MAC));
        let message = Message { vendor_class: Vec::new(), ..request(0, US) };
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, Message { architectures: Vec::new(), ..message });
        assert_eq!(service.machines(), []);
    }
}
