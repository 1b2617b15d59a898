//! DHCP server role: finds the network of a client, which leases addresses as the only server there
//! (RFC 2131 §4.3).

use std::net::Ipv4Addr;

use super::carried::CarriedConflict;
use super::{Boot, ConflictSeen, Decision, NoReply, Request, Subnet};
use crate::dhcp::lease::{Declined, Event, EventError, UnixTime, events_of};
use crate::dhcp::wire::{Message, MessageType};

/// Sub-option of option 82: the subnet of the client (RFC 3527 §3).
const LINK_SELECTION: u8 = 5;

/// State of the DHCP server role.
#[derive(Debug)]
pub struct ServerRole {
    /// Networks that do not overlap, at most [`ServerRole::MAX_SUBNETS`].
    pub subnets: Vec<Subnet>,
}

impl ServerRole {
    /// Most networks: each message is compared with all of them.
    pub(crate) const MAX_SUBNETS: usize = 256;

    /// Creates the state for networks that do not overlap.
    pub fn new(subnets: Vec<Subnet>) -> Self {
        Self { subnets }
    }

    /// Decides the reply to a message at port 67.
    pub(super) fn answer(&mut self, request: &Request, boot: Boot, now: UnixTime) -> Decision {
        let Message { header, kind, .. } = &request.message;
        // RFC 4390 §2.1: a client on InfiniBand has none. Leases are kept by hardware address.
        if header.hardware().is_empty() {
            return Err(NoReply::NoHardwareAddress);
        }
        match kind {
            MessageType::Discover => self.of_client(request)?.discover(request, boot, now),
            MessageType::Request => self.of_client(request)?.request(request, boot, now),
            // The reply goes to ciaddr, which a stranger may have forged: it has to be on a network
            // of ours.
            MessageType::Inform => {
                Ok(self.of(header.ciaddr).ok_or(NoReply::OtherNetwork)?.inform(request, boot))
            }
            MessageType::Release => Err(self.release(request)),
            MessageType::Decline => Err(self.decline(request, now)),
            kind => Err(NoReply::NotAnswered(*kind)),
        }
    }

    /// Returns the subnet that the client is on.
    fn of_client(&mut self, request: &Request) -> Result<&mut Subnet, NoReply> {
        let header = &request.message.header;
        let position = if header.giaddr.is_unspecified() {
            // A RENEWING client writes to us directly, also from behind a relay agent (RFC 2131
            // §4.3.2), so its own address counts before the link that the message arrived on.
            let own = self.position(header.ciaddr);
            own.filter(|&own| self.renews(own, request)).or_else(|| self.position(request.local)).or(own)
        } else {
            self.position(selected(&request.message).unwrap_or(header.giaddr))
        };
        // The netmask that is still unknown may be that of the client's network.
        let is_unknown = self.subnets.iter().any(|subnet| subnet.network.netmask.is_none());
        let otherwise = if is_unknown { NoReply::UnknownNetwork } else { NoReply::OtherNetwork };
        position.and_then(|position| self.subnets.get_mut(position)).ok_or(otherwise)
    }

    /// Returns whether the client renews its lease in the subnet at `position`.
    fn renews(&self, position: usize, request: &Request) -> bool {
        let Message { header, kind, .. } = &request.message;
        let subnet = self.subnets.get(position).filter(|_| *kind == MessageType::Request);
        subnet.is_some_and(|subnet| subnet.leases.has_lease(&header.hardware(), header.ciaddr))
    }

    fn position(&self, address: Ipv4Addr) -> Option<usize> {
        self.subnets.iter().position(|subnet| subnet.network.contains(address))
    }

    /// Returns the subnet with this address.
    pub(crate) fn of(&self, address: Ipv4Addr) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.network.contains(address))
    }

    /// The same, to change it.
    pub(crate) fn of_mut(&mut self, address: Ipv4Addr) -> Option<&mut Subnet> {
        self.subnets.iter_mut().find(|subnet| subnet.network.contains(address))
    }

    /// Returns the subnet that keeps the lease of an address, though its netmask may be unknown.
    fn keeper_of(&mut self, address: Ipv4Addr) -> Option<&mut Subnet> {
        let keeps = |subnet: &Subnet| match subnet.network.netmask {
            Some(_) => subnet.network.contains(address),
            None => subnet.leases.pool().contains(address),
        };
        self.subnets.iter_mut().find(|subnet| keeps(subnet))
    }

    fn release(&mut self, request: &Request) -> NoReply {
        let Message { header, kind, .. } = &request.message;
        let Some(subnet) = self.of_mut(header.ciaddr) else { return NoReply::OtherNetwork };
        if is_for_us(request) && subnet.leases.release(&header.hardware(), header.ciaddr) {
            return NoReply::Released(header.ciaddr);
        }
        NoReply::NotAnswered(*kind)
    }

    fn decline(&mut self, request: &Request, now: UnixTime) -> NoReply {
        let Message { header, kind, requested, .. } = &request.message;
        let Some(address) = requested.filter(|_| is_for_us(request)) else {
            return NoReply::NotAnswered(*kind);
        };
        let Some(subnet) = self.of_mut(address) else { return NoReply::OtherNetwork };
        match subnet.leases.decline(&header.hardware(), address, now) {
            Some(Declined::Quarantined) => NoReply::Declined(address),
            Some(Declined::Disbelieved) => NoReply::DeclineDisbelieved(address),
            None => NoReply::NotAnswered(*kind),
        }
    }

    /// Records a conflicting server on the network with the address `on`. The other networks are
    /// not concerned.
    pub(crate) fn saw_conflict(&mut self, server: Ipv4Addr, on: Ipv4Addr, now: UnixTime) -> ConflictSeen {
        self.of_mut(on).map_or(ConflictSeen::Expected, |subnet| subnet.saw_conflict(server, now))
    }

    /// Notes that until then another server is being looked for on the network with the address `on`,
    /// which is new.
    pub(crate) fn look_first(&mut self, on: Ipv4Addr, until: UnixTime) {
        if let Some(subnet) = self.of_mut(on) {
            subnet.look_first(until);
        }
    }

    /// Returns the conflicting servers for the process after this one.
    pub(crate) fn carried_conflicts(&self, now: UnixTime) -> Vec<CarriedConflict> {
        self.subnets.iter().filter_map(|subnet| subnet.carried_conflict(now)).collect()
    }

    /// Records the conflicting servers that the process before this one knew of.
    pub(crate) fn recall_conflicts(&mut self, conflicts: &[CarriedConflict], now: UnixTime) {
        for conflict in conflicts {
            if let Some(subnet) = self.of_mut(conflict.on) {
                subnet.recall_conflict(*conflict, now);
            }
        }
    }

    /// Returns whether there is a network without a conflicting server.
    pub(crate) fn offers(&self, now: UnixTime) -> bool {
        self.subnets.iter().any(|subnet| subnet.conflict(now).is_none())
    }

    /// Renews the leases that end within half of their length and whose address is in use.
    pub(crate) fn renew_used(&mut self, is_used: impl Fn(Ipv4Addr) -> bool, now: UnixTime) {
        for subnet in &mut self.subnets {
            subnet.leases.renew_used(&is_used, now);
        }
    }

    /// Notes which leases are of machines that booted from here.
    pub(crate) fn note_booted(&mut self, has_booted: impl Fn(Ipv4Addr) -> bool) {
        for subnet in &mut self.subnets {
            subnet.leases.note_booted(&has_booted);
        }
    }

    /// Takes the events since the last call; those of one subnet are in their order.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.subnets.iter_mut().flat_map(|subnet| subnet.leases.take_events()).collect()
    }

    /// Returns the events that make new tables equal to these, without their offers.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = Event> {
        self.subnets.iter().flat_map(|subnet| subnet.leases.snapshot())
    }

    /// Returns the number of addresses that are leased, offered or in quarantine.
    pub(crate) fn len(&self) -> usize {
        self.subnets.iter().map(|subnet| subnet.leases.len()).sum()
    }

    /// Returns the number of addresses of all ranges.
    pub(crate) fn pool_len(&self) -> u64 {
        self.subnets.iter().map(|subnet| u64::from(subnet.leases.pool().len())).sum()
    }

    /// Applies the text of a lease file and returns the number of lines that are neither events nor
    /// comments. An event of an address that is in no subnet any more is dropped.
    pub(crate) fn replay_text(&mut self, text: &str, now: UnixTime) -> usize {
        let mut unreadable = 0;
        for event in events_of(text) {
            match event.map(|event| (event, self.keeper_of(event.address()))) {
                Ok((event, Some(subnet))) => subnet.leases.replay(event, now),
                Ok((_, None)) => {}
                Err(EventError) => unreadable += 1,
            }
        }
        unreadable
    }

    /// Returns the length of the shortest lease in seconds.
    pub(crate) fn shortest_lease(&self) -> Option<u32> {
        self.subnets.iter().map(|subnet| subnet.leases.lease_seconds()).min()
    }
}

/// Returns the subnet that a relay agent selects in place of its own address (RFC 3527 §3).
fn selected(message: &Message) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = message.relay_sub_option(LINK_SELECTION)?.try_into().ok()?;
    Some(octets.into())
}

/// Returns whether the message names us as its server.
fn is_for_us(request: &Request) -> bool {
    // RFC 2131 table 5 demands the server identifier in a RELEASE and a DECLINE. For a message
    // without it the lease decides.
    request.message.server.is_none_or(|server| server == request.server)
}
