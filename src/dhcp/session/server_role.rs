//! The DHCP server role: leases addresses as the only server of its network (RFC 2131 §4.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Boot, Decision, Destination, NoReply, Outcome, Request, reply};
use crate::boot::Firmware;
use crate::dhcp::lease::{Leases, NotGranted, UnixTime};
use crate::dhcp::wire::{CLIENT_PORT, Message, MessageType, Reply, ReplyOption, SERVER_PORT};

/// Sub-options of option 82.
const LINK_SELECTION: u8 = 5;
const RELAY_SOURCE_PORT: u8 = 19;

/// Seconds after which a conflicting server that was not seen again counts as gone: three probes.
const CONFLICT_SECONDS: u32 = 900;

/// The network parameters that clients are told.
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
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
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
struct ConflictingServer {
    address: Ipv4Addr,
    last_seen: UnixTime,
}

/// The meaning of a DHCP server that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictSeen {
    /// In proxy mode another server is expected.
    Expected,
    /// The first sight of it: offers stop.
    First,
    /// It was seen before.
    Again,
}

/// State of the DHCP server role.
#[derive(Debug)]
pub struct ServerRole {
    pub network: Network,
    pub leases: Leases,
    conflict: Option<ConflictingServer>,
}

impl ServerRole {
    /// Creates the state before any other server was seen.
    pub fn new(network: Network, leases: Leases) -> Self {
        Self { network, leases, conflict: None }
    }

    /// Two servers with two pools give one address to two machines, or two routers to one network. So we stop to
    /// offer, and go on serving those who have a lease from us.
    pub(super) fn saw_conflict(&mut self, address: Ipv4Addr, now: UnixTime) -> ConflictSeen {
        let known = self.conflict(now).is_some();
        self.conflict = Some(ConflictingServer { address, last_seen: now });
        if known { ConflictSeen::Again } else { ConflictSeen::First }
    }

    /// Returns the conflicting server, unless it is long gone.
    fn conflict(&self, now: UnixTime) -> Option<Ipv4Addr> {
        self.conflict
            .filter(|conflict| now < conflict.last_seen.after(CONFLICT_SECONDS))
            .map(|conflict| conflict.address)
    }

    pub(super) fn answer(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        let message = &request.message;
        if message.header.hardware().is_empty() {
            return Err(NoReply::NoHardwareAddress);
        }
        if !self.serves(request) {
            return Err(NoReply::OtherNetwork);
        }
        match message.kind {
            MessageType::Discover => self.discover(request, boot, now),
            MessageType::Request => self.request(request, boot, now),
            MessageType::Inform => self.inform(request, boot),
            MessageType::Release => Err(self.release(request)),
            MessageType::Decline => Err(self.decline(request, now)),
            kind => Err(NoReply::NotAnswered(kind)),
        }
    }

    /// True when the client is on the network of the pool: its relay agent names the network (RFC 3527 §3, RFC 2131
    /// §4.3.1), or it is on our wire, or it writes from an address of the network.
    fn serves(&self, request: &Request) -> bool {
        let Message { header, .. } = &request.message;
        let selected = request.message.relay_sub_option(LINK_SELECTION);
        let selected = selected.and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from);
        let relay = Some(header.giaddr).filter(|giaddr| !giaddr.is_unspecified());
        match relay.map(|giaddr| selected.unwrap_or(giaddr)) {
            Some(link) => self.network.contains(link),
            None => self.network.contains(request.local) || self.network.contains(header.ciaddr),
        }
    }

    fn discover(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        if let Some(conflict) = self.conflict(now) {
            return Err(NoReply::ConflictingServer(conflict));
        }
        let Message { header, requested, .. } = &request.message;
        let address = self.leases.offer(header.hardware(), *requested, now).ok_or(NoReply::PoolExhausted)?;
        Ok(self.lease_reply(request, MessageType::Offer, address, boot))
    }

    /// RFC 2131 §4.3.2. SELECTING names a server; INIT-REBOOT claims an address by option 50, RENEWING and REBINDING
    /// by `ciaddr`.
    fn request(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        let Message { header, requested, server, .. } = &request.message;
        let machine = header.hardware();
        if let Some(chosen) = server.filter(|&chosen| chosen != request.server) {
            self.leases.withdraw_offer(&machine);
            return Err(NoReply::ChoseAnother(chosen));
        }
        let ciaddr = Some(header.ciaddr).filter(|address| !address.is_unspecified());
        let claimed = requested.or(ciaddr).ok_or(NoReply::NothingClaimed)?;
        if let Some(conflict) = self.conflict(now).filter(|_| !self.leases.has_lease(&machine, claimed)) {
            return Err(NoReply::ConflictingServer(conflict));
        }
        if !self.network.contains(claimed) {
            return Ok(nak(request));
        }
        match self.leases.claim(machine, claimed, now) {
            Ok(()) => Ok(self.lease_reply(request, MessageType::Ack, claimed, boot)),
            // An address of the network that was never ours to give, and the client does not say that we did.
            Err(NotGranted::NotInPool) if server.is_none() => Err(NoReply::NotInPool(claimed)),
            Err(_) => Ok(nak(request)),
        }
    }

    /// RFC 2131 §4.3.5: the client has its address from elsewhere and asks for the rest.
    fn inform(&mut self, request: &Request, boot: Boot) -> Decision {
        let ciaddr = request.message.header.ciaddr;
        // Also keeps us from sending to whatever address a stranger writes there.
        if !self.network.contains(ciaddr) {
            return Err(NoReply::OtherNetwork);
        }
        let mut reply = reply(request, MessageType::Ack);
        reply.header.ciaddr = ciaddr;
        self.complete(&mut reply, request, &boot);
        let to = Destination::Unicast(SocketAddrV4::new(ciaddr, CLIENT_PORT));
        Ok(Outcome::Send { reply, to, boot })
    }

    fn release(&mut self, request: &Request) -> NoReply {
        let Message { header, kind, server, .. } = &request.message;
        let is_ours = server.is_none_or(|server| server == request.server);
        if is_ours && self.leases.release(&header.hardware(), header.ciaddr) {
            return NoReply::Released(header.ciaddr);
        }
        NoReply::NotAnswered(*kind)
    }

    fn decline(&mut self, request: &Request, now: UnixTime) -> NoReply {
        let Message { header, kind, requested, server, .. } = &request.message;
        let is_ours = server.is_none_or(|server| server == request.server);
        match requested.filter(|_| is_ours) {
            Some(address) if self.leases.decline(&header.hardware(), address, now) => {
                NoReply::Declined(address)
            }
            _ => NoReply::NotAnswered(*kind),
        }
    }

    fn lease_reply(&self, request: &Request, kind: MessageType, address: Ipv4Addr, boot: Boot) -> Outcome {
        let mut reply = reply(request, kind);
        reply.header.yiaddr = address;
        // Only an address that the client may have is written to.
        if kind == MessageType::Ack && request.message.header.ciaddr == address {
            reply.header.ciaddr = address;
        }
        let seconds = self.leases.lease_seconds();
        reply.options.push(ReplyOption::LeaseTime(seconds));
        self.complete(&mut reply, request, &boot);
        // RFC 2131 §4.4.5: a half, and 7/8.
        reply.options.push(ReplyOption::Renewal(seconds / 2));
        reply.options.push(ReplyOption::Rebinding(seconds - seconds / 8));
        let to = destination(request, &reply);
        Outcome::Send { reply, to, boot }
    }

    /// Adds what every client is told, and what a boot client is.
    fn complete(&self, reply: &mut Reply, request: &Request, boot: &Boot) {
        reply.options.extend(self.network.options(request.server));
        if let Some(Ok(boot)) = boot {
            reply.options.extend(boot.options(request));
            if boot.platform.firmware == Firmware::Ipxe {
                reply.options.push(ReplyOption::NoPxeDhcp);
            }
        }
        reply.options.extend(client_identifier(request));
    }
}

/// RFC 6842 §3: a client that names itself finds its name in every reply.
fn client_identifier(request: &Request) -> Option<ReplyOption> {
    let client_id = &request.message.client_id;
    (!client_id.is_empty()).then(|| ReplyOption::ClientIdentifier(client_id.clone()))
}

fn nak(request: &Request) -> Outcome {
    let mut reply = reply(request, MessageType::Nak);
    reply.options.extend(client_identifier(request));
    // RFC 2131 §4.3.2: the relay agent shall broadcast it; the client's own address is wrong.
    reply.header.flags = reply.header.flags.set_broadcast();
    let to = relay(request).map_or(Destination::Broadcast, Destination::Unicast);
    Outcome::Send { reply, to, boot: None }
}

/// RFC 2131 §4.1: to the relay agent, else to the address the client has, else to all.
fn destination(request: &Request, reply: &Reply) -> Destination {
    let ciaddr = reply.header.ciaddr;
    let client = (!ciaddr.is_unspecified()).then(|| SocketAddrV4::new(ciaddr, CLIENT_PORT));
    relay(request).or(client).map_or(Destination::Broadcast, Destination::Unicast)
}

/// The relay agent, if the question came through one. RFC 8357 §3.1: one that says so listens where it wrote from.
fn relay(request: &Request) -> Option<SocketAddrV4> {
    let giaddr = request.message.header.giaddr;
    let port = match request.message.relay_sub_option(RELAY_SOURCE_PORT) {
        Some(_) => request.from.port(),
        None => SERVER_PORT,
    };
    (!giaddr.is_unspecified()).then(|| SocketAddrV4::new(giaddr, port))
}
