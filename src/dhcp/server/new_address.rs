//! Offers of new addresses: each is checked first, so that no host loses the address that it uses.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use super::Server;
use super::address_use::Waiting;
use super::socket::Arrival;
use crate::dhcp::session::{DhcpPort, NoReply, Outcome, Request, Role, ServerRole, mac};
use crate::dhcp::wire::MessageType;
use crate::machines::Mac;

/// Most addresses that are tried for one message. Those found in use are not tried again soon, so
/// the client's next message goes on from there.
const TRIES: usize = 16;

/// Port of the datagram that makes the kernel ask for a neighbour: discard (RFC 863).
const DISCARD_PORT: u16 = 9;

impl Server {
    /// Decides the reply to a message; `None` if it is put off until a probe has an answer.
    pub(super) fn decide(&mut self, request: &Request, arrival: &Arrival) -> Option<Outcome> {
        let now = Instant::now();
        if request.port == DhcpPort::BootServer {
            return Some(self.session.answer(request, self.clock.now()));
        }
        if let Some(address) = self.server_role().and_then(|server_role| new_claim(server_role, request)) {
            self.withdraw_if_used(address, request, arrival, now);
        }
        for _ in 0..TRIES {
            let outcome = self.session.answer(request, self.clock.now());
            let Some(address) = self.server_role().and_then(|role| new_offer(role, request, &outcome)) else {
                return Some(self.without_strangers(request, outcome));
            };
            if self.withdraw_if_used(address, request, arrival, now) {
                continue;
            }
            return (!self.waits_for_probe(address, request, arrival, now)).then_some(outcome);
        }
        Some(Outcome::NoReply(NoReply::AddressesInUse))
    }

    fn server_role(&self) -> Option<&ServerRole> {
        match &self.session.role {
            Role::Proxy => None,
            Role::Server(server_role) => Some(server_role),
        }
    }

    /// Withdraws an address that another host uses, and returns whether one does.
    fn withdraw_if_used(
        &mut self,
        address: Ipv4Addr,
        request: &Request,
        arrival: &Arrival,
        now: Instant,
    ) -> bool {
        let hardware = request.message.header.hardware();
        let machine = mac(&hardware);
        let subnet = self.server_role().and_then(|server_role| server_role.of(address));
        let is_own = subnet.is_some_and(|subnet| subnet.leases.is_own(&hardware, address));
        let is_root = self.address_use.is_root_of_another(address, machine, &self.machines, now);
        // The table may still have the machine's last network card, so for an address of its own it
        // is no evidence.
        let is_neighbour = !is_own && self.address_use.is_neighbour(address, machine, now);
        if is_neighbour && self.address_use.begin(address, now) {
            // The kernel finds out whether the neighbour is still there.
            self.send_probe(address, request, arrival);
        }
        if is_root || is_neighbour {
            self.log.address_in_use(address);
            self.withdraw(address);
        }
        is_root || is_neighbour
    }

    fn withdraw(&mut self, address: Ipv4Addr) {
        let now = self.clock.now();
        if let Role::Server(server_role) = &mut self.session.role
            && let Some(subnet) = server_role.of_mut(address)
        {
            subnet.leases.withdraw_used(address, now);
        }
    }

    /// Probes an address that is to be offered, and puts the message off until the probe has an
    /// answer.
    fn waits_for_probe(
        &mut self,
        address: Ipv4Addr,
        request: &Request,
        arrival: &Arrival,
        now: Instant,
    ) -> bool {
        let subnet = self.server_role().and_then(|server_role| server_role.of(address));
        let is_on_link =
            subnet.is_some_and(|subnet| is_on_link(request, subnet.network.contains(request.local)));
        // A known machine does not wait.
        let is_own =
            subnet.is_some_and(|subnet| subnet.leases.is_own(&request.message.header.hardware(), address));
        if !is_on_link || is_own {
            return false;
        }
        if self.address_use.begin(address, now) {
            self.send_probe(address, request, arrival);
        }
        let work = || Waiting::Message(request.port, Box::new(request.message.clone()), *arrival);
        self.address_use.is_pending(address, now) && self.address_use.put_off(work(), now)
    }

    /// Probes an address that a client declined, on its own link.
    pub(super) fn verify_decline(&mut self, address: Ipv4Addr, request: &Request, arrival: &Arrival) {
        let subnet = self.server_role().and_then(|server_role| server_role.of(address));
        let Some(subnet) = subnet else { return };
        let machine = mac(&request.message.header.hardware());
        if is_on_link(request, subnet.network.contains(request.local))
            && self.address_use.put_off(Waiting::Declined(address, machine), Instant::now())
        {
            self.send_probe(address, request, arrival);
        }
    }

    /// Ends the quarantine of a declined address if nobody uses it.
    pub(super) fn end_quarantine(&mut self, address: Ipv4Addr, declined_by: Option<Mac>) {
        let now = Instant::now();
        let is_used = self.address_use.is_neighbour(address, declined_by, now)
            || self.address_use.is_root_of_another(address, declined_by, &self.machines, now);
        if !is_used
            && let Role::Server(server_role) = &mut self.session.role
            && let Some(subnet) = server_role.of_mut(address)
        {
            subnet.leases.end_quarantine(address);
            self.record_leases();
        }
    }

    fn send_probe(&self, address: Ipv4Addr, request: &Request, arrival: &Arrival) {
        let to = SocketAddrV4::new(address, DISCARD_PORT);
        // Without one the address counts as free, as on a network behind a relay agent.
        let _ = self.dhcp.socket().send_from(&[], to, arrival.interface, request.local);
    }
}

/// Returns whether the client is on a link of ours, where hosts answer ARP.
fn is_on_link(request: &Request, is_our_network: bool) -> bool {
    is_our_network && request.message.header.giaddr.is_unspecified()
}

/// Returns the address that a client claims without an offer or a lease: that of INIT-REBOOT, after
/// the lease file was lost.
fn new_claim(server_role: &ServerRole, request: &Request) -> Option<Ipv4Addr> {
    let header = &request.message.header;
    let ciaddr = Some(header.ciaddr).filter(|address| !address.is_unspecified());
    let claimed = request.message.requested.or(ciaddr);
    let claimed = claimed.filter(|_| request.message.kind == MessageType::Request)?;
    // A RENEWING client writes from its address (RFC 2131 §4.3.2), so it is the host that uses it.
    if *request.from.ip() == claimed {
        return None;
    }
    let (leases, machine) = (&server_role.of(claimed)?.leases, header.hardware());
    let is_new = !leases.is_own(&machine, claimed) && !leases.has_offer(&machine, claimed);
    is_new.then_some(claimed)
}

/// Returns the address in an offer, unless it is leased to the machine already.
fn new_offer(server_role: &ServerRole, request: &Request, outcome: &Outcome) -> Option<Ipv4Addr> {
    let Outcome::Send { reply, .. } = outcome else { return None };
    let address = Some(reply.header.yiaddr).filter(|_| reply.kind == MessageType::Offer)?;
    let leases = &server_role.of(address)?.leases;
    (!leases.has_lease(&request.message.header.hardware(), address)).then_some(address)
}
