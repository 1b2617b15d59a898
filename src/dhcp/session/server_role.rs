//! DHCP server role: leases addresses as the only server of its network (RFC 2131 §4.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Boot, Decision, Destination, NoReply, Outcome, Request, relay, reply};
use crate::boot::Firmware;
use crate::dhcp::lease::{ClaimError, Leases, UnixTime};
use crate::dhcp::wire::{CLIENT_PORT, Message, MessageType, Reply, ReplyOption};

/// Sub-option of option 82: the subnet of the client (RFC 3527 §3).
const LINK_SELECTION: u8 = 5;

/// Seconds after which a conflicting server counts as gone if it was not seen again: three probes.
const CONFLICT_SECONDS: u32 = 900;

/// Network parameters that clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// An address of the network: the first of the pool.
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    /// Router; our own address if `None`, since a network that is for booting only has no router.
    pub router: Option<Ipv4Addr>,
    /// DNS servers; our own address if empty.
    pub dns: Vec<Ipv4Addr>,
}

impl Network {
    /// Returns whether `address` is on this network.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.address)) & u32::from(self.netmask) == 0
    }

    fn options(&self, server: Ipv4Addr) -> [ReplyOption; 3] {
        // Without option 6 klibc's ipconfig takes the server for the DNS server anyway.
        let dns = if self.dns.is_empty() { vec![server] } else { self.dns.clone() };
        [
            ReplyOption::Netmask(self.netmask),
            ReplyOption::Router(self.router.unwrap_or(server)),
            ReplyOption::Dns(dns),
        ]
    }
}

/// Another DHCP server on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ConflictingServer {
    address: Ipv4Addr,
    last_seen: UnixTime,
}

/// Meaning of another DHCP server that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictSeen {
    /// A proxy works beside another server.
    Expected,
    /// The server was not seen before: offers stop.
    First,
    /// The server was seen before.
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

    /// Records a conflicting server. Nothing is offered until it is gone; leases are still renewed.
    pub(super) fn saw_conflict(&mut self, address: Ipv4Addr, now: UnixTime) -> ConflictSeen {
        // Two servers with a pool each would give one address to two machines, or two routers to
        // one network.
        let known = self.conflict(now).is_some();
        self.conflict = Some(ConflictingServer { address, last_seen: now });
        if known { ConflictSeen::Again } else { ConflictSeen::First }
    }

    /// Returns the conflicting server, unless it is gone.
    fn conflict(&self, now: UnixTime) -> Option<Ipv4Addr> {
        self.conflict
            .filter(|conflict| now < conflict.last_seen.after(CONFLICT_SECONDS))
            .map(|conflict| conflict.address)
    }

    /// Decides the reply to a message at port 67.
    pub(super) fn answer(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        let message = &request.message;
        // RFC 4390 §2.1: a client on InfiniBand has none. Leases are kept by hardware address.
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

    /// Returns whether the client is on the network of the pool.
    fn serves(&self, request: &Request) -> bool {
        let Message { header, .. } = &request.message;
        if header.giaddr.is_unspecified() {
            // A RENEWING client writes to us directly, also from behind a relay agent (RFC 2131
            // §4.3.2), so its own address counts as well as the link that it is on.
            return self.network.contains(request.local) || self.network.contains(header.ciaddr);
        }
        // RFC 2131 §4.3.1: the relay agent's address tells the subnet. RFC 3527 §3: unless the
        // relay agent selects another one.
        let selected = request.message.relay_sub_option(LINK_SELECTION);
        let selected = selected.and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(Ipv4Addr::from);
        self.network.contains(selected.unwrap_or(header.giaddr))
    }

    fn discover(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        if let Some(conflict) = self.conflict(now) {
            return Err(NoReply::ConflictingServer(conflict));
        }
        let Message { header, requested, .. } = &request.message;
        let address = self.leases.offer(header.hardware(), *requested, now).ok_or(NoReply::PoolExhausted)?;
        Ok(self.lease_reply(request, MessageType::Offer, address, boot))
    }

    /// Leases an address, or renews a lease (RFC 2131 §4.3.2).
    fn request(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        let Message { header, requested, server, .. } = &request.message;
        let machine = header.hardware();
        // SELECTING: the server identifier is that of the server whose offer the client takes.
        if let Some(chosen) = server.filter(|&chosen| chosen != request.server) {
            self.leases.withdraw_offer(&machine);
            return Err(NoReply::ChoseAnother(chosen));
        }
        // SELECTING and INIT-REBOOT claim an address in option 50, RENEWING and REBINDING in
        // ciaddr.
        let ciaddr = Some(header.ciaddr).filter(|address| !address.is_unspecified());
        let claimed = requested.or(ciaddr).ok_or(NoReply::NothingClaimed)?;
        // The other server may have leased the address: a NAK would take it from the client.
        if let Some(conflict) = self.conflict(now).filter(|_| !self.leases.has_lease(&machine, claimed)) {
            return Err(NoReply::ConflictingServer(conflict));
        }
        // INIT-REBOOT after a move from another network: the NAK makes the client start over.
        if !self.network.contains(claimed) {
            return Ok(nak(request));
        }
        match self.leases.claim(machine, claimed, now) {
            Ok(()) => Ok(self.lease_reply(request, MessageType::Ack, claimed, boot)),
            // A server without a record of the client must remain silent, for coexistence with
            // others. The address is not in our pool, and the client does not claim that we gave
            // it.
            Err(ClaimError::NotInPool) if server.is_none() => Err(NoReply::NotInPool(claimed)),
            Err(_) => Ok(nak(request)),
        }
    }

    /// Tells the parameters of the network to a client that has an address (RFC 2131 §4.3.5).
    fn inform(&mut self, request: &Request, boot: Boot) -> Decision {
        let ciaddr = request.message.header.ciaddr;
        // The reply goes to ciaddr, which a stranger may have forged: it has to be on our network.
        if !self.network.contains(ciaddr) {
            return Err(NoReply::OtherNetwork);
        }
        // No lease time: RFC 2131 §4.3.5 forbids it.
        let mut reply = reply(request, MessageType::Ack);
        reply.header.ciaddr = ciaddr;
        self.complete(&mut reply, request, &boot);
        let to = Destination::Unicast(SocketAddrV4::new(ciaddr, CLIENT_PORT));
        Ok(Outcome::Send { reply, to, boot })
    }

    fn release(&mut self, request: &Request) -> NoReply {
        let Message { header, kind, .. } = &request.message;
        if is_for_us(request) && self.leases.release(&header.hardware(), header.ciaddr) {
            return NoReply::Released(header.ciaddr);
        }
        NoReply::NotAnswered(*kind)
    }

    fn decline(&mut self, request: &Request, now: UnixTime) -> NoReply {
        let Message { header, kind, requested, .. } = &request.message;
        match requested.filter(|_| is_for_us(request)) {
            Some(address) if self.leases.decline(&header.hardware(), address, now) => {
                NoReply::Declined(address)
            }
            _ => NoReply::NotAnswered(*kind),
        }
    }

    fn lease_reply(&self, request: &Request, kind: MessageType, address: Ipv4Addr, boot: Boot) -> Outcome {
        let mut reply = reply(request, kind);
        reply.header.yiaddr = address;
        // The reply goes to this address: it is only set to the leased one, since a stranger may
        // have forged that of the request.
        if kind == MessageType::Ack && request.message.header.ciaddr == address {
            reply.header.ciaddr = address;
        }
        let seconds = self.leases.lease_seconds();
        reply.options.push(ReplyOption::LeaseTime(seconds));
        self.complete(&mut reply, request, &boot);
        // RFC 2131 §4.4.5: T1 is half of the lease, T2 seven eighths. Last, because options that do
        // not fit are left out from the end, and these are the client's defaults anyway.
        reply.options.push(ReplyOption::Renewal(seconds / 2));
        reply.options.push(ReplyOption::Rebinding(seconds - seconds / 8));
        let to = destination(request, &reply);
        Outcome::Send { reply, to, boot }
    }

    /// Adds the parameters of the network, the boot file and the client identifier.
    fn complete(&self, reply: &mut Reply, request: &Request, boot: &Boot) {
        reply.options.extend(self.network.options(request.server));
        if let Some(Ok(boot)) = boot {
            reply.options.extend(boot.options(request));
            // This reply has both address and boot file: iPXE need not wait for a proxy.
            if matches!(boot.platform.firmware, Firmware::Ipxe | Firmware::LimitedIpxe { .. }) {
                reply.options.push(ReplyOption::NoPxeDhcp);
            }
        }
        reply.options.extend(client_identifier(request));
    }
}

/// Returns whether the message names us as its server.
fn is_for_us(request: &Request) -> bool {
    // RFC 2131 table 5 demands the server identifier in a RELEASE and a DECLINE. For a message
    // without it the lease decides.
    request.message.server.is_none_or(|server| server == request.server)
}

fn client_identifier(request: &Request) -> Option<ReplyOption> {
    // RFC 6842 §3: the client identifier, if sent, must be returned in every reply.
    let client_id = &request.message.client_id;
    (!client_id.is_empty()).then(|| ReplyOption::ClientIdentifier(client_id.clone()))
}

fn nak(request: &Request) -> Outcome {
    let mut reply = reply(request, MessageType::Nak);
    reply.options.extend(client_identifier(request));
    // RFC 2131 §4.3.1, table 3.
    reply.header.siaddr = Ipv4Addr::UNSPECIFIED;
    // RFC 2131 §4.3.2: the client may have a wrong address, so a NAK is broadcast. The flag makes a
    // relay agent do so.
    reply.header.flags = reply.header.flags.set_broadcast();
    let to = relay(request).map_or(Destination::Broadcast, Destination::Unicast);
    Outcome::Send { reply, to, boot: None }
}

fn destination(request: &Request, reply: &Reply) -> Destination {
    // RFC 2131 §4.1: to the relay agent, else to the address that the client has, else to all.
    let ciaddr = reply.header.ciaddr;
    let client = (!ciaddr.is_unspecified()).then(|| SocketAddrV4::new(ciaddr, CLIENT_PORT));
    relay(request).or(client).map_or(Destination::Broadcast, Destination::Unicast)
}
