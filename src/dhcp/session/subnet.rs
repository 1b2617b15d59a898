//! Network on which the server role leases addresses, and its replies to the clients there (RFC
//! 2131 §4.3).

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use super::carried::CarriedConflict;
use super::{Boot, Decision, Destination, NoReply, Outcome, Request, relay, reply};
use crate::boot::Firmware;
use crate::dhcp::lease::{ClaimError, Leases, UnixTime};
use crate::dhcp::wire::{CLIENT_PORT, Message, MessageType, Reply, ReplyOption};

/// Seconds after which a conflicting server counts as gone if it was not seen again: three probes.
const CONFLICT_SECONDS: u32 = 900;

/// Network parameters that clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// An address of the network: the first of the pool.
    pub address: Ipv4Addr,
    /// `None` until an interface of this host has an address on the network. Nothing is leased
    /// before.
    pub netmask: Option<Ipv4Addr>,
    /// Router; our own address if `None`, since a network that is for booting only has no router.
    pub router: Option<Ipv4Addr>,
    /// DNS servers; our own address if empty.
    pub dns: Vec<Ipv4Addr>,
}

impl Network {
    /// Returns whether `address` is on this network; no address is while the netmask is unknown.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        let differs = u32::from(address) ^ u32::from(self.address);
        self.netmask.is_some_and(|netmask| differs & u32::from(netmask) == 0)
    }

    /// Returns whether an address is on both networks.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        // The wider network contains the other one whole.
        self.contains(other.address) || other.contains(self.address)
    }

    /// Returns its prefix, as in `10.0.0.0/24`; `None` for a netmask that is unknown
    /// or has a hole.
    pub(crate) fn prefix(&self) -> Option<Ipv4Net> {
        Ipv4Net::with_netmask(self.address, self.netmask?).ok().map(|network| network.trunc())
    }

    fn options(&self, server: Ipv4Addr) -> impl Iterator<Item = ReplyOption> {
        // Without option 6 klibc's ipconfig takes the server for the DNS server anyway.
        let dns = if self.dns.is_empty() { vec![server] } else { self.dns.clone() };
        let router = ReplyOption::Router(self.router.unwrap_or(server));
        self.netmask.map(ReplyOption::Netmask).into_iter().chain([router, ReplyOption::Dns(dns)])
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
    /// A proxy works beside another server, and a network that is not ours has its own.
    Expected,
    /// The server was not seen before: offers stop.
    First,
    /// The server was seen before.
    Again,
}

/// A network and its leases.
#[derive(Debug)]
pub struct Subnet {
    pub network: Network,
    pub leases: Leases,
    /// Other servers lease other addresses of the network.
    is_shared: bool,
    conflict: Option<ConflictingServer>,
    /// End of the time in which another server is looked for first.
    looks_until: UnixTime,
}

impl Subnet {
    /// Creates the state before any other server was seen or looked for.
    pub fn new(network: Network, leases: Leases) -> Self {
        Self { network, leases, is_shared: false, conflict: None, looks_until: UnixTime(0) }
    }

    /// Notes that other servers lease other addresses of the network.
    pub(crate) fn share(&mut self) {
        self.is_shared = true;
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
    pub(super) fn conflict(&self, now: UnixTime) -> Option<Ipv4Addr> {
        self.conflict
            .filter(|conflict| now < conflict.last_seen.after(CONFLICT_SECONDS))
            .map(|conflict| conflict.address)
    }

    /// Notes that another server is being looked for, and was not before. Until then nothing is offered;
    /// leases are still renewed.
    pub(super) fn look_first(&mut self, until: UnixTime) {
        self.looks_until = until;
    }

    /// Refuses new leases while there is another server, or may be one.
    fn require_alone(&self, now: UnixTime) -> Result<(), NoReply> {
        match self.conflict(now) {
            Some(conflict) => Err(NoReply::ConflictingServer(conflict)),
            None if now < self.looks_until => Err(NoReply::LooksFirst),
            None => Ok(()),
        }
    }

    /// Returns the conflicting server for the process after this one.
    pub(super) fn carried_conflict(&self, now: UnixTime) -> Option<CarriedConflict> {
        let server = self.conflict(now)?;
        let seen = self.conflict?.last_seen;
        // Less than `CONFLICT_SECONDS`, or it would be gone.
        Some(CarriedConflict { server, on: self.network.address, age: now.0.saturating_sub(seen.0) as u32 })
    }

    /// Records the conflicting server of the process before this one.
    pub(super) fn recall_conflict(
        &mut self,
        CarriedConflict { server, age, .. }: CarriedConflict,
        now: UnixTime,
    ) {
        let last_seen = UnixTime(now.0.saturating_sub(u64::from(age)));
        self.conflict = Some(ConflictingServer { address: server, last_seen });
    }

    pub(super) fn discover(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        self.require_alone(now)?;
        let Message { header, requested, .. } = &request.message;
        let address = self.leases.offer(header.hardware(), *requested, now);
        let address = address.ok_or_else(|| NoReply::PoolExhausted(self.leases.pool()))?;
        Ok(self.lease_reply(request, MessageType::Offer, address, boot))
    }

    /// Leases an address, or renews a lease (RFC 2131 §4.3.2).
    pub(super) fn request(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        let Message { header, requested, server, .. } = &request.message;
        let machine = header.hardware();
        // SELECTING: the server identifier is that of the server whose offer the client takes.
        if let Some(chosen) = server.filter(|&chosen| chosen != request.server) {
            self.leases.withdraw_offer(&machine);
            return Err(NoReply::ChoseAnother { server: chosen, network: self.network.address });
        }
        // SELECTING and INIT-REBOOT claim an address in option 50, RENEWING and REBINDING in
        // ciaddr.
        let ciaddr = Some(header.ciaddr).filter(|address| !address.is_unspecified());
        let claimed = requested.or(ciaddr).ok_or(NoReply::NothingClaimed)?;
        // The other server may have leased the address: a NAK would take it from the client.
        if !self.leases.has_lease(&machine, claimed) {
            self.require_alone(now)?;
        }
        // INIT-REBOOT after a move from another network: the NAK makes the client start over.
        if !self.network.contains(claimed) {
            return Ok(nak(request));
        }
        // It is another server's to lease, also to a machine that has an address of ours.
        if self.is_shared && server.is_none() && !self.leases.may_lease(&machine, claimed) {
            return Err(NoReply::NotInPool(claimed));
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

    /// Tells the parameters of the network to a client that has an address there (RFC 2131 §4.3.5).
    pub(super) fn inform(&self, request: &Request, boot: Boot) -> Outcome {
        let ciaddr = request.message.header.ciaddr;
        // No lease time: RFC 2131 §4.3.5 forbids it.
        let mut reply = reply(request, MessageType::Ack);
        reply.header.ciaddr = ciaddr;
        self.complete(&mut reply, request, &boot);
        let to = Destination::Unicast(SocketAddrV4::new(ciaddr, CLIENT_PORT));
        Outcome::Send { reply, to, boot }
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
