//! The only DHCP server of its network (RFC 2131 §4.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Answer, Boot, Decision, Destination, Question, Silence, reply};
use crate::boot::Firmware;
use crate::dhcp::lease::{Leases, NotGranted, UnixTime};
use crate::dhcp::wire::{CLIENT_PORT, Message, MessageType, Reply, ReplyOption, SERVER_PORT};

/// Sub-options of option 82.
const LINK_SELECTION: u8 = 5;
const RELAY_SOURCE_PORT: u8 = 19;

/// How long another DHCP server is taken to be there after it was last seen: three probes of five minutes.
const RIVAL_SECONDS: u32 = 900;

/// What clients are told of their network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Any address of it: the pool's first.
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    /// `None`: we stand in, since a network that is only there for booting has no other.
    pub router: Option<Ipv4Addr>,
    /// Empty: we stand in; klibc would guess so anyway.
    pub dns: Vec<Ipv4Addr>,
}

impl Network {
    /// True when `address` is one of this network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let prefix = |address: Ipv4Addr| u32::from(address) & u32::from(self.netmask);
        prefix(address) == prefix(self.address)
    }

    fn options(&self, server: Ipv4Addr) -> [ReplyOption; 3] {
        let dns = if self.dns.is_empty() { vec![server] } else { self.dns.clone() };
        [
            ReplyOption::Netmask(self.netmask),
            ReplyOption::Router(self.router.unwrap_or(server)),
            ReplyOption::Dns(dns),
        ]
    }
}

/// Another DHCP server on our network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rival {
    address: Ipv4Addr,
    last_seen: UnixTime,
}

/// What the sight of another DHCP server means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// A proxy stands beside one.
    Expected,
    /// From now on nothing is offered.
    First,
    /// It is known.
    Again,
}

/// Network, leases, and whether we are alone.
#[derive(Debug)]
pub struct Authority {
    pub network: Network,
    pub leases: Leases,
    rival: Option<Rival>,
}

impl Authority {
    /// Nobody else was seen yet.
    pub fn new(network: Network, leases: Leases) -> Self {
        Self { network, leases, rival: None }
    }

    /// Two servers with two pools give one address to two machines, or two routers to one network. So we stop to
    /// offer, and go on serving those who have a lease from us.
    pub(super) fn saw_rival(&mut self, address: Ipv4Addr, now: UnixTime) -> Sighting {
        let known = self.rival(now).is_some();
        self.rival = Some(Rival { address, last_seen: now });
        if known { Sighting::Again } else { Sighting::First }
    }

    /// The other DHCP server, unless it is long gone.
    fn rival(&self, now: UnixTime) -> Option<Ipv4Addr> {
        self.rival.filter(|rival| now < rival.last_seen.after(RIVAL_SECONDS)).map(|rival| rival.address)
    }

    pub(super) fn answer(&mut self, question: &Question, boot: Boot, now: UnixTime) -> Decision {
        let message = &question.message;
        if message.header.hardware().is_empty() {
            return Err(Silence::NoHardwareAddress);
        }
        if !self.serves(question) {
            return Err(Silence::OtherNetwork);
        }
        match message.kind {
            MessageType::Discover => self.discover(question, boot, now),
            MessageType::Request => self.request(question, boot, now),
            MessageType::Inform => self.inform(question, boot),
            MessageType::Release => Err(self.release(question)),
            MessageType::Decline => Err(self.decline(question, now)),
            kind => Err(Silence::NotAnswered(kind)),
        }
    }

    /// True when the client is on the network of the pool: its relay agent names the network (RFC 3527 §3, RFC 2131
    /// §4.3.1), or it is on our wire, or it writes from an address of the network.
    fn serves(&self, question: &Question) -> bool {
        let Message { header, .. } = &question.message;
        let selected = question.message.relay_sub_option(LINK_SELECTION);
        let selected = selected.and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from);
        let relay = Some(header.giaddr).filter(|giaddr| !giaddr.is_unspecified());
        match relay.map(|giaddr| selected.unwrap_or(giaddr)) {
            Some(link) => self.network.contains(link),
            None => self.network.contains(question.local) || self.network.contains(header.ciaddr),
        }
    }

    fn discover(&mut self, question: &Question, boot: Boot, now: UnixTime) -> Decision {
        if let Some(rival) = self.rival(now) {
            return Err(Silence::Rival(rival));
        }
        let Message { header, requested, .. } = &question.message;
        let address = self.leases.offer(header.hardware(), *requested, now).ok_or(Silence::PoolExhausted)?;
        Ok(self.lease_reply(question, MessageType::Offer, address, boot))
    }

    /// RFC 2131 §4.3.2. SELECTING names a server; INIT-REBOOT claims an address by option 50, RENEWING and REBINDING
    /// by `ciaddr`.
    fn request(&mut self, question: &Question, boot: Boot, now: UnixTime) -> Decision {
        let Message { header, requested, server, .. } = &question.message;
        let machine = header.hardware();
        if let Some(chosen) = server.filter(|&chosen| chosen != question.server) {
            self.leases.withdraw_offer(&machine);
            return Err(Silence::ChoseAnother(chosen));
        }
        let ciaddr = Some(header.ciaddr).filter(|address| !address.is_unspecified());
        let claimed = requested.or(ciaddr).ok_or(Silence::NothingClaimed)?;
        if let Some(rival) = self.rival(now).filter(|_| !self.leases.has_lease(&machine, claimed)) {
            return Err(Silence::Rival(rival));
        }
        if !self.network.contains(claimed) {
            return Ok(nak(question));
        }
        match self.leases.claim(machine, claimed, now) {
            Ok(()) => Ok(self.lease_reply(question, MessageType::Ack, claimed, boot)),
            // An address of the network that was never ours to give, and the client does not say that we did.
            Err(NotGranted::NotInPool) if server.is_none() => Err(Silence::NotInPool(claimed)),
            Err(_) => Ok(nak(question)),
        }
    }

    /// RFC 2131 §4.3.5: the client has its address from elsewhere and asks for the rest.
    fn inform(&mut self, question: &Question, boot: Boot) -> Decision {
        let ciaddr = question.message.header.ciaddr;
        // Also keeps us from sending to whatever address a stranger writes there.
        if !self.network.contains(ciaddr) {
            return Err(Silence::OtherNetwork);
        }
        let mut reply = reply(question, MessageType::Ack);
        reply.header.ciaddr = ciaddr;
        self.complete(&mut reply, question, &boot);
        let to = Destination::Unicast(SocketAddrV4::new(ciaddr, CLIENT_PORT));
        Ok(Answer::Send { reply, to, boot })
    }

    fn release(&mut self, question: &Question) -> Silence {
        let Message { header, kind, server, .. } = &question.message;
        let is_ours = server.is_none_or(|server| server == question.server);
        if is_ours && self.leases.release(&header.hardware(), header.ciaddr) {
            return Silence::Released(header.ciaddr);
        }
        Silence::NotAnswered(*kind)
    }

    fn decline(&mut self, question: &Question, now: UnixTime) -> Silence {
        let Message { header, kind, requested, server, .. } = &question.message;
        let is_ours = server.is_none_or(|server| server == question.server);
        match requested.filter(|_| is_ours) {
            Some(address) if self.leases.decline(&header.hardware(), address, now) => {
                Silence::Declined(address)
            }
            _ => Silence::NotAnswered(*kind),
        }
    }

    fn lease_reply(&self, question: &Question, kind: MessageType, address: Ipv4Addr, boot: Boot) -> Answer {
        let mut reply = reply(question, kind);
        reply.header.yiaddr = address;
        // Only an address that the client may have is written to.
        if kind == MessageType::Ack && question.message.header.ciaddr == address {
            reply.header.ciaddr = address;
        }
        let seconds = self.leases.lease_seconds();
        reply.options.push(ReplyOption::LeaseTime(seconds));
        self.complete(&mut reply, question, &boot);
        // RFC 2131 §4.4.5: a half, and 7/8.
        reply.options.push(ReplyOption::Renewal(seconds / 2));
        reply.options.push(ReplyOption::Rebinding(seconds - seconds / 8));
        let to = destination(question, &reply);
        Answer::Send { reply, to, boot }
    }

    /// Adds what every client is told, and what a boot client is.
    fn complete(&self, reply: &mut Reply, question: &Question, boot: &Boot) {
        reply.options.extend(self.network.options(question.server));
        if let Some(Ok(boot)) = boot {
            reply.options.extend(boot.options(question));
            if boot.platform.firmware == Firmware::Ipxe {
                reply.options.push(ReplyOption::NoPxeDhcp);
            }
        }
        reply.options.extend(client_identifier(question));
    }
}

/// RFC 6842 §3: a client that names itself finds its name in every reply.
fn client_identifier(question: &Question) -> Option<ReplyOption> {
    let client_id = &question.message.client_id;
    (!client_id.is_empty()).then(|| ReplyOption::ClientIdentifier(client_id.clone()))
}

fn nak(question: &Question) -> Answer {
    let mut reply = reply(question, MessageType::Nak);
    reply.options.extend(client_identifier(question));
    // RFC 2131 §4.3.2: the relay agent shall broadcast it; the client's own address is wrong.
    reply.header.flags = reply.header.flags.set_broadcast();
    let to = relay(question).map_or(Destination::Broadcast, Destination::Unicast);
    Answer::Send { reply, to, boot: None }
}

/// RFC 2131 §4.1: to the relay agent, else to the address the client has, else to all.
fn destination(question: &Question, reply: &Reply) -> Destination {
    let ciaddr = reply.header.ciaddr;
    let client = (!ciaddr.is_unspecified()).then(|| SocketAddrV4::new(ciaddr, CLIENT_PORT));
    relay(question).or(client).map_or(Destination::Broadcast, Destination::Unicast)
}

/// The relay agent, if the question came through one. RFC 8357 §3.1: one that says so listens where it wrote from.
fn relay(question: &Question) -> Option<SocketAddrV4> {
    let giaddr = question.message.header.giaddr;
    let port = match question.message.relay_sub_option(RELAY_SOURCE_PORT) {
        Some(_) => question.from.port(),
        None => SERVER_PORT,
    };
    (!giaddr.is_unspecified()).then(|| SocketAddrV4::new(giaddr, port))
}
