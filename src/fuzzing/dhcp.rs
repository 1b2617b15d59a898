//! Properties of DHCP: messages, and a network of clients against one session.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use dhcproto::v4::{self, DhcpOption, OptionCode, UnknownOption};
use dhcproto::{Decodable, Decoder};

use crate::boot::rules::{ClientFilter, Rule};
use crate::boot::{self, Client, Ports, Quirk, Rules};
use crate::bootable::Root;
use crate::codec::{Reader, Truncated};
use crate::dhcp::lease::{Leases, UnixTime};
use crate::dhcp::session::{
    Destination, DhcpPort, LimitedIpxes, Network, Outcome, Request, Role, ServerRole, Session, Subnet, mac,
};
use crate::dhcp::wire::{Flags, HardwareAddress, Message, MessageType, Opcode, Reply};
use crate::export::Allowed;
use crate::text::Word;

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Pool of few addresses on each network, so that machines compete for them.
const POOL: [u8; 2] = [8, 11];
/// Third bytes of the networks, with our address on each: 10.0.0.1 and 10.0.1.1.
const NETWORKS: [u8; 2] = [0, 1];
const LEASE_SECONDS: u32 = 100;
const START: UnixTime = UnixTime(1_700_000_000);

/// Checks that a parsed message is written so that it parses to the same.
pub fn message(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    let emitted = message.emit();
    assert!(emitted.len() >= 300);
    assert_eq!(Message::parse(&emitted), Ok(message));
}

/// Checks a session against eight clients, a clock and other servers: a proxy for an even first
/// byte, a server role for an odd one, rules for some clients if its second bit is set, and a
/// second network if its third bit is set.
pub fn session(data: &[u8]) {
    let mut input = Reader::new(data);
    let Ok(first) = input.u8() else { return };
    let rules = if first & 2 == 0 { Rules::default() } else { rules() };
    let role = match first & 1 {
        0 => Role::Proxy,
        _ => Role::Server(server_role(&rules, 1 + usize::from(first & 4 != 0))),
    };
    let mut run = DhcpRun::new(role, rules);
    while run.step(&mut input).is_ok() {}
    run.check_restart();
}

/// Session, and the leases that its replies promised.
struct DhcpRun {
    session: Session,
    now: UnixTime,
    /// Leases by the ACKs that were sent.
    promised: HashMap<Ipv4Addr, (HardwareAddress, UnixTime)>,
}

impl DhcpRun {
    fn new(role: Role, rules: Rules) -> Self {
        let ports = Ports { tftp: 69, http: Some(80) };
        let image = Word::new("i").expect("one word");
        let boot = boot::BootTargets::new(Some("boot/syslinux/lpxelinux.0"), ports)
            .with_image(image, Ok(vec![Root::Nbd]))
            .with_rules(rules.into());
        Self {
            session: Session {
                role,
                boot,
                allowed: Allowed::default(),
                limited_ipxes: LimitedIpxes::default(),
            },
            now: START,
            promised: HashMap::new(),
        }
    }

    /// Handles one message, after some time.
    fn step(&mut self, input: &mut Reader<'_>) -> Result<(), Truncated> {
        self.now = self.now.after(u32::from(input.u8()? / 4));
        let request = request(input)?;
        self.disturb(&request);
        let outcome = self.session.answer(&request, self.now);
        match &outcome {
            Outcome::Send { reply, to, .. } => self.check_reply(&request, reply, *to),
            Outcome::NoReply(_) => self.note_end(&request.message),
        }
        if let Role::Server(server_role) = &mut self.session.role {
            // A flood of messages grows neither the table nor the lease file.
            let pool = usize::from(POOL[1] - POOL[0] + 1);
            assert!(server_role.subnets.iter().all(|subnet| subnet.leases.len() <= pool));
            assert!(server_role.take_events().len() <= 1);
        }
        Ok(())
    }

    /// Lets the shell find what it may find on the network.
    fn disturb(&mut self, request: &Request) {
        let address = request.message.requested.unwrap_or(request.local);
        let event = request.from.port() % 64;
        if event == 0 {
            self.session.saw_conflict(Ipv4Addr::new(10, 0, 0, 2), request.local, self.now);
        }
        let Role::Server(server_role) = &mut self.session.role else { return };
        match (event, server_role.of_mut(address)) {
            (60, _) => server_role.note_booted(|booted| booted != address),
            (61, Some(subnet)) => subnet.leases.withdraw_used(address, self.now),
            (62, Some(subnet)) => subnet.leases.end_quarantine(address),
            _ => {}
        }
        server_role.take_events();
    }

    fn check_reply(&mut self, request: &Request, reply: &Reply, to: Destination) {
        let message = &request.message;
        let is_boot_client =
            [&b"PXEClient"[..], b"HTTPClient"].iter().any(|c| message.vendor_class.starts_with(c));
        assert!(is_boot_client || matches!(self.session.role, Role::Server(_)), "a proxy spoke to others");
        assert!(is_boot_client || reply.boot_file().is_none());
        check_bytes(message, &reply.emit());
        check_destination(request, to);
        let machine = message.header.hardware();
        let rule = self.session.boot.rules().find(&Client { mac: mac(&machine), ..Client::default() });
        assert!(rule.is_none_or(|rule| !rule.is_ignored), "a machine that is ignored was answered");
        let address = reply.header.yiaddr;
        if address.is_unspecified() {
            return;
        }
        let [a, b, network, host] = address.octets();
        assert!([a, b] == [10, 0] && NETWORKS.contains(&network) && (POOL[0]..=POOL[1]).contains(&host));
        self.check_network(request, network);
        let owner = self.session.boot.rules().fixed_addresses().find(|(_, fixed)| *fixed == address);
        assert!(owner.is_none_or(|(owner, _)| Some(owner) == mac(&machine)), "{address} is another's own");
        let holder = self.promised.get(&address).filter(|(_, until)| *until > self.now);
        assert!(holder.is_none_or(|(holder, _)| *holder == machine), "{address} for two machines");
        if reply.kind == MessageType::Ack {
            self.promised.insert(address, (machine, self.now.after(LEASE_SECONDS)));
        }
    }

    /// Checks that an address is of the network that its machine is on.
    fn check_network(&self, request: &Request, network: u8) {
        let Message { header, kind, .. } = &request.message;
        // A RENEWING client writes to us past its relay agent, so it may be anywhere.
        if *kind == MessageType::Discover && header.giaddr.is_unspecified() {
            assert!(request.local.octets()[2] == network || !self.session.role.leases_on(request.local));
        }
        if !header.giaddr.is_unspecified() && request.message.relay_info.first() != Some(&5) {
            assert_eq!(header.giaddr.octets()[2], network);
        }
    }

    /// Forgets a lease that its machine released or declined.
    fn note_end(&mut self, message: &Message) {
        let address = match message.kind {
            MessageType::Release => message.header.ciaddr,
            MessageType::Decline => message.requested.unwrap_or(Ipv4Addr::UNSPECIFIED),
            _ => return,
        };
        let Role::Server(server_role) = &self.session.role else { return };
        let machine = message.header.hardware();
        if !server_role.of(address).is_some_and(|subnet| subnet.leases.has_lease(&machine, address)) {
            self.promised.remove(&address);
        }
    }

    /// Checks that a session that reads the lease file keeps every promise.
    fn check_restart(&self) {
        let Role::Server(before) = &self.session.role else { return };
        let text: String = before.snapshot().map(|event| format!("{event}\n")).collect();
        let mut after = server_role(self.session.boot.rules(), before.subnets.len());
        assert_eq!(after.replay_text(&text, self.now), 0);
        for (&address, (machine, until)) in &self.promised {
            let has_lease = |subnet: &Subnet| subnet.leases.has_lease(machine, address);
            let is_kept = [before, &after].iter().all(|role| role.of(address).is_some_and(has_lease));
            assert!(is_kept || *until <= self.now, "{address} of {machine} is lost");
        }
    }
}

/// Creates rules for three of the eight clients: the last is ignored, one has a fixed address, one
/// has quirks.
fn rules() -> Rules {
    let fixed = Some(Ipv4Addr::new(10, 0, 0, POOL[0]));
    Rules::new(vec![
        Rule { is_ignored: true, ..rule_for(7) },
        Rule { address: fixed, ..rule_for(6) },
        Rule { quirks: Quirk::ALL.into_iter().collect(), ..rule_for(5) },
    ])
}

fn rule_for(machine: u8) -> Rule {
    let prefix = format!("00:00:00:00:00:{machine:02x}").parse().expect("a MAC address");
    Rule { who: ClientFilter { macs: vec![prefix], ..ClientFilter::default() }, ..Rule::default() }
}

fn server_role(rules: &Rules, networks: usize) -> ServerRole {
    ServerRole::new(NETWORKS.into_iter().take(networks).map(|network| subnet(rules, network)).collect())
}

fn subnet(rules: &Rules, network: u8) -> Subnet {
    let [first, last] = POOL.map(|n| Ipv4Addr::new(10, 0, network, n));
    let network = Network { address: first, netmask: Some(NETMASK), router: None, dns: vec![] };
    let pool = format!("{first}-{last}").parse().expect("a pool");
    let fixed = rules.fixed_addresses().filter(|(_, address)| network.contains(*address));
    let fixed = fixed.map(|(mac, address)| (HardwareAddress::ethernet(mac.octets()), address)).collect();
    Subnet::new(network, Leases::new(pool, LEASE_SECONDS, &[US]).with_fixed(fixed))
}

/// Reads a request from ten bytes and the two options whose lengths follow. Each byte chooses among
/// a few values, so that machines meet.
fn request(input: &mut Reader<'_>) -> Result<Request, Truncated> {
    let [machine, kind, requested, server, ciaddr, giaddr, class, size, relay, port] = input.array()?;
    let hardware = [0, 0, 0, 0, 0, machine % 8];
    let mut message = Message::discover(1, hardware);
    message.header.hardware_len = if machine == 255 { 0 } else { 6 };
    message.header.opcode = if machine == 254 { Opcode::BootReply } else { Opcode::BootRequest };
    message.header.flags = Flags::new(u16::from(machine) << 8);
    message.header.ciaddr = address(ciaddr).unwrap_or(Ipv4Addr::UNSPECIFIED);
    message.header.giaddr = address(giaddr).unwrap_or(Ipv4Addr::UNSPECIFIED);
    message.kind = MessageType::from(kind % 10);
    message.requested = address(requested);
    message.server = [None, Some(US), Some(Ipv4Addr::new(10, 0, 0, 2))][usize::from(server % 3)];
    message.max_size = (size % 2 == 1).then_some(u16::from(size) * 8);
    message.vendor_class = [&b""[..], b"PXEClient:Arch:00000", b"HTTPClient:Arch:00016", b"udhcp"]
        [usize::from(class % 4)]
    .into();
    message.architectures = [vec![], vec![0], vec![7, 0], vec![16]][usize::from(class / 4 % 4)].clone();
    message.user_class = [&b""[..], b"iPXE"][usize::from(class / 16 % 2)].into();
    message.ipxe_options = [&b""[..], &[0x13, 1, 1, 0x27, 1, 1]][usize::from(class / 32 % 2)].into();
    for option in [&mut message.client_id, &mut message.machine_id] {
        let len = usize::from(input.u8()?);
        *option = input.take(len.min(input.remaining()))?.to_vec();
    }
    message.relay_info =
        [vec![], vec![5, 4, 10, 0, 0, 0], vec![19, 0], vec![7; 255]][usize::from(relay % 4)].clone();
    let dhcp_port = if port % 4 == 3 { DhcpPort::BootServer } else { DhcpPort::Dhcp };
    let from = SocketAddrV4::new(message.header.ciaddr, u16::from(port));
    let local = match relay / 4 % 8 {
        7 => Ipv4Addr::new(172, 16, 0, 1),
        6 => Ipv4Addr::new(10, 0, 1, 1),
        _ => US,
    };
    Ok(Request { message, port: dhcp_port, from, local, server: US })
}

/// Returns no address, one around the pool of a network, or one of another network.
fn address(choice: u8) -> Option<Ipv4Addr> {
    match choice % 16 {
        0 => None,
        15 => Some(Ipv4Addr::new(8, 8, 8, 8)),
        n => Some(Ipv4Addr::new(10, 0, choice / 16 % 2, n)),
    }
}

/// Checks size, address and text of a reply with another decoder: the initramfs reads some of the
/// text as shell code.
fn check_bytes(request: &Message, bytes: &[u8]) {
    // RFC 2132 §9.10: 576 is the minimum, and includes the headers of IP and UDP.
    let limit = usize::from(request.max_size.unwrap_or(0).max(576)) - 28;
    assert!((300..=limit).contains(&bytes.len()), "{} bytes", bytes.len());
    let reply = v4::Message::decode(&mut Decoder::new(bytes)).expect("a reply that dhcproto reads");
    let is_nak = reply.opts().msg_type() == Some(MessageType::Nak);
    // RFC 2131 §4.3.1, table 3: a NAK names no server of boot files.
    let siaddr = if is_nak { Ipv4Addr::UNSPECIFIED } else { US };
    assert_eq!((reply.siaddr(), reply.xid()), (siaddr, request.header.xid));
    // klibc and old ROMs misread options in `sname` and `file`.
    assert_eq!(reply.sname(), None);
    let file = reply.fname().unwrap_or_default();
    let codes = [OptionCode::TFTPServerName, OptionCode::BootfileName, OptionCode::Unknown(209)];
    for text in codes.map(|code| option_text(&reply, code)).into_iter().chain([file]) {
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        assert!(text.iter().all(|&b| b.is_ascii_alphanumeric() || b"._/:-".contains(&b)), "{text:?}");
    }
    // ipconfig of mkinitcpio-nfs-utils writes these without quotes to a file that a shell sources.
    for code in [OptionCode::Hostname, OptionCode::DomainName, OptionCode::RootPath, OptionCode::NisDomain] {
        assert_eq!(reply.opts().get(code), None);
    }
}

fn option_text(reply: &v4::Message, code: OptionCode) -> &[u8] {
    match reply.opts().get(code) {
        Some(DhcpOption::TFTPServerName(text) | DhcpOption::BootfileName(text)) => text,
        Some(DhcpOption::Unknown(option)) => UnknownOption::data(option),
        _ => &[],
    }
}

/// Checks that a reply goes to the relay agent, to the sender at the port of boot servers, or to
/// our network. Otherwise a forged request could make us write to a stranger.
fn check_destination(request: &Request, to: Destination) {
    let Destination::Unicast(to) = to else { return };
    let is_relay = *to.ip() == request.message.header.giaddr;
    let is_sender = request.port == DhcpPort::BootServer && to == request.from;
    assert!(is_relay || is_sender || to.ip().octets().starts_with(&[10, 0]), "written to {to}");
}
