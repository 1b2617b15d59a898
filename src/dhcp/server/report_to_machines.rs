//! Reports the steps of DHCP to the registry of machines.

use std::net::IpAddr;
use std::time::Instant;

use crate::boot::Refusal;
use crate::dhcp::session::{BootOffer, DhcpPort, NoReply, Outcome, Request, is_boot_client, mac};
use crate::dhcp::wire::{MessageType, Reply};
use crate::mac::Mac;
use crate::machines::up::is_common_name;
use crate::machines::{RefusedBy, Registry};

/// Longest host name (RFC 1123 §2.1: one label).
const HOST_NAME_MAX: usize = 63;

/// Reports one step of one machine. A machine that only leases an address gets no record.
pub(super) fn report(machines: &Registry, request: &Request, outcome: &Outcome, now: Instant) {
    let Some(mac) = mac(&request.message.header.hardware()) else { return };
    match outcome {
        Outcome::Send { boot: Some(Err(refusal)), .. } | Outcome::NoReply(NoReply::NoBootFile(refusal)) => {
            machines.refused(mac, refused_by(refusal), &refusal.to_string(), now);
        }
        Outcome::Send { reply, boot, .. } => {
            let address = Some(reply.header.yiaddr).filter(|address| !address.is_unspecified());
            if let (MessageType::Offer, Some(Ok(boot))) = (reply.kind, boot) {
                report_offer(machines, mac, boot, address, now);
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
        Outcome::NoReply(NoReply::Released(_)) => machines.heard(mac, false, now),
        Outcome::NoReply(reason) => report_silence(machines, mac, request, reason, now),
    }
    if let Some(host_name) = host_name(&request.message.host_name) {
        machines.named(mac, host_name);
    }
    if let Some(uuid) = request.message.uuid() {
        machines.identified(mac, uuid);
    }
    // The initramfs asks for an address before it has its root, and the booted system after that.
    if request.message.kind == MessageType::Request && !is_boot_client(&request.message) {
        machines.heard(mac, true, now);
    }
}

/// Returns the host name in option 12, unless it has other characters than a host name
/// (RFC 2132 §3.14, RFC 1123 §2.1) or is that of an image.
fn host_name(option: &[u8]) -> Option<&str> {
    // Some clients end it with a NUL (RFC 2132 §2).
    let name = str::from_utf8(option).ok()?.trim_end_matches('\0');
    let is_host_name = (1..=HOST_NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    Some(name).filter(|name| is_host_name && !is_common_name(name))
}

fn report_offer(
    machines: &Registry,
    mac: Mac,
    boot: &BootOffer,
    address: Option<std::net::Ipv4Addr>,
    now: Instant,
) {
    machines.offered(mac, boot.platform, address, now);
    machines.boot_file(mac, boot.file.as_str());
}

/// Reports a boot client that gets no reply. Other clients are no machines.
fn report_silence(machines: &Registry, mac: Mac, request: &Request, reason: &NoReply, now: Instant) {
    if let Some(by) = unanswered_by(reason).filter(|_| is_boot_client(&request.message)) {
        machines.refused(mac, by, &reason.to_string(), now);
    }
}

const fn refused_by(refusal: &Refusal) -> RefusedBy {
    match refusal {
        Refusal::Architecture(_) => RefusedBy::Architecture,
        Refusal::NoScript => RefusedBy::Rule,
        Refusal::LocalDisk => RefusedBy::LocalDisk,
        Refusal::NoLoader | Refusal::NoUefi(_) | Refusal::NoHttp | Refusal::UnsafeName(_) => {
            RefusedBy::BootFile
        }
    }
}

/// Returns `None` for messages that need no reply.
const fn unanswered_by(reason: &NoReply) -> Option<RefusedBy> {
    match reason {
        NoReply::NotAllowed(_) => Some(RefusedBy::Allow),
        NoReply::Ignored => Some(RefusedBy::Rule),
        NoReply::OtherNetwork | NoReply::UnknownNetwork => Some(RefusedBy::Network),
        NoReply::PoolExhausted(_) => Some(RefusedBy::Pool),
        NoReply::AddressesInUse => Some(RefusedBy::AddressesInUse),
        NoReply::ConflictingServer(_) => Some(RefusedBy::OtherDhcp),
        _ => None,
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
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::boot;
    use crate::boot::Ports;
    use crate::dhcp::lease::{Leases, UnixTime};
    use crate::dhcp::session::{LimitedIpxes, Network, Role, ServerRole, Session, Subnet};
    use crate::dhcp::wire::Message;
    use crate::export::Allowed;
    use crate::machines::diagnosis::Diagnosis;
    use crate::machines::status::MachineStatus;
    use crate::machines::{ConnectionTracker, Protocol, RootEnd, Running, Stage};

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
    fn host_name_names_a_machine() {
        let mut service = Service::new(server_role());
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(0));
        for (option, name) in [
            (&b"archiso"[..], None),
            (b"lab\x1b1", None),
            (&[b'a'; 64], None),
            (b"lab-1\0", Some("lab-1")),
            (b"", Some("lab-1")),
        ] {
            service.receive(
                DhcpPort::Dhcp,
                NO_ADDRESS,
                Message { host_name: option.into(), ..request(0, US) },
            );
            assert_eq!(service.machines()[0].name.as_deref(), name, "{option:?}");
        }
    }

    #[test]
    fn uuid_of_a_machine_is_kept() {
        let mut service = Service::new(server_role());
        let machine_id = [0; 17].map(|byte: u8| byte.wrapping_add(3)).to_vec();
        let with_id = |machine_id: Vec<u8>| Message { machine_id, ..discover(0) };
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, with_id(machine_id.clone()));
        assert_eq!(service.machines()[0].uuid, None, "of another type");
        let uuid = Some("03030303-0303-0303-0303-030303030303");
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, with_id([&[0], &machine_id[1..]].concat()));
        assert_eq!(service.machines()[0].uuid.as_deref(), uuid);
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, request(0, US));
        assert_eq!(service.machines()[0].uuid.as_deref(), uuid, "the initramfs sends none");
        let known = service.machines.known(CLIENT.into()).unwrap();
        assert_eq!(known.uuid.map(|uuid| uuid.to_string()).as_deref(), uuid);
    }

    #[test]
    fn refusal_of_dhcp_reports_its_kind() {
        let mut service = Service::new(server_role());
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, request(0, US));
        let mut other = discover(0);
        other.header = Message::discover(7, [0x52, 0x54, 0, 0xfe, 0, 0xb1]).header;
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, other);
        let reasons: Vec<_> =
            service.machines().into_iter().filter_map(|machine| machine.diagnosis).collect();
        let why = "every address of 10.80.0.50-10.80.0.50 is in use".to_owned();
        assert_eq!(reasons, [Diagnosis::Refused { by: RefusedBy::Pool, why }]);
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(999));
        let by = |machine: MachineStatus| match machine.diagnosis {
            Some(Diagnosis::Refused { by, .. }) => Some(by),
            _ => None,
        };
        let by: Vec<_> = service.machines().into_iter().filter_map(by).collect();
        assert!(by.contains(&RefusedBy::Architecture), "{by:?}");
    }

    #[test]
    fn system_that_gives_its_address_back_is_off() {
        let mut service = Service::new(server_role());
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, request(0, US));
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, discover(0));
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, request(0, US));
        let machines = Arc::new(std::mem::replace(&mut service.machines, Registry::new(Instant::now())));
        let mut tracker =
            ConnectionTracker::new(Arc::clone(&machines), CLIENT.into(), Protocol::Nbd, Instant::now());
        let image = crate::machines::tests::image();
        tracker.attached(&image, Instant::now());
        tracker.ended(RootEnd::Released, Instant::now());
        service.machines = Arc::into_inner(machines).unwrap();
        let system =
            |kind| Message { kind, vendor_class: Vec::new(), architectures: Vec::new(), ..request(0, US) };
        service.receive(DhcpPort::Dhcp, NO_ADDRESS, system(MessageType::Request));
        assert_eq!(service.machines()[0].running, Some(Running::Up));
        let mut release = system(MessageType::Release);
        release.header.ciaddr = CLIENT;
        service.receive(DhcpPort::Dhcp, CLIENT, release);
        assert_eq!(service.machines()[0].running, Some(Running::Off));
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
