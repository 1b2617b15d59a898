//! Servers that share machines: messages that wait for this server's turn, and the word to the others
//! that it has made an offer.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use tracing::debug;

use super::Server;
use super::socket::Arrival;
use crate::dhcp::session::{
    DhcpPort, Discover, NoReply, Outcome, Request, Role, Turn, Turns, is_boot_client, mac,
};
use crate::dhcp::wire::{HardwareAddress, Message, MessageType, Opcode, SERVER_PORT};
use crate::placement::Servers;

/// Most machines that wait for their turn. Further ones are left to the server that comes first.
const WAITING_MAX: usize = 1024;

/// Turns of the servers, and the last message of each machine that waits.
#[derive(Debug)]
pub(super) struct TurnQueue {
    turns: Turns,
    due: BTreeSet<(Instant, HardwareAddress)>,
    messages: HashMap<HardwareAddress, (Message, Arrival)>,
}

impl TurnQueue {
    /// Creates an empty queue. `started` is `None` if this process goes on with another one's work.
    pub(super) fn new(servers: Arc<Servers>, started: Option<Instant>) -> Self {
        Self { turns: Turns::new(servers, started), due: BTreeSet::new(), messages: HashMap::new() }
    }

    /// Keeps a message until its time has come, in place of an earlier one of the machine.
    fn put_off(&mut self, at: Instant, machine: HardwareAddress, message: Message, arrival: Arrival) {
        let is_waiting = self.messages.contains_key(&machine);
        if is_waiting || self.messages.len() < WAITING_MAX {
            self.messages.insert(machine, (message, arrival));
        }
        if !is_waiting && self.messages.contains_key(&machine) {
            self.due.insert((at, machine));
        }
    }

    /// Waits for the next message whose time has come; without end if there is none.
    pub(super) async fn next(&mut self) -> (Message, Arrival) {
        loop {
            let Some(&(at, _)) = self.due.first() else { return std::future::pending().await };
            tokio::time::sleep_until(at.into()).await;
            // Nothing is taken before the time has come, so that a wait can be given up.
            let due = self.due.pop_first().and_then(|(_, machine)| self.messages.remove(&machine));
            if let Some(due) = due {
                return due;
            }
        }
    }
}

/// Waits for the next message whose turn has come, without end if nothing is shared.
pub(super) async fn next_turn(queue: &mut Option<TurnQueue>) -> (Message, Arrival) {
    match queue {
        Some(queue) => queue.next().await,
        None => std::future::pending().await,
    }
}

impl Server {
    /// Answers a message that waited for its turn, unless the machine went on with another server.
    pub(super) fn turn_came(&mut self, message: Message, arrival: Arrival) {
        let own = self.local(&arrival, !message.header.giaddr.is_unspecified());
        let own = own.map(|local| self.advertise.unwrap_or(local));
        let machine = message.header.hardware();
        let is_open =
            self.turns.as_ref().zip(own.ok()).is_some_and(|(queue, own)| queue.turns.is_open(&machine, own));
        match is_open {
            true => self.handle(DhcpPort::Dhcp, Ok(message), arrival),
            false => debug!(%machine, "DHCP message not answered: another server did"),
        }
    }

    /// Notes what a message of a machine, or of another server, tells about turns. Returns whether it
    /// was the word of another server.
    pub(super) fn note_turn(&mut self, message: &Message) -> bool {
        let Some(queue) = &mut self.turns else { return false };
        let (machine, now) = (message.header.hardware(), Instant::now());
        match (message.header.opcode, message.kind, message.server) {
            (Opcode::BootReply, MessageType::Offer, Some(server))
                if queue.turns.servers().of(server).is_some() =>
            {
                queue.turns.offered(&machine, server, now);
                queue.messages.remove(&machine);
                true
            }
            (Opcode::BootRequest, MessageType::Request, server) => {
                queue.turns.chose(&machine, server, now);
                queue.messages.remove(&machine);
                false
            }
            _ => false,
        }
    }

    /// Returns the server that should have answered before this one, if it is our turn.
    ///
    /// # Errors
    /// The reason for leaving the message to another server, or until later.
    pub(super) fn turn(&mut self, request: &Request, arrival: &Arrival) -> Result<Option<Ipv4Addr>, NoReply> {
        let Request { message, port, server: own, .. } = request;
        let is_shared = *port == DhcpPort::Dhcp
            && message.header.opcode == Opcode::BootRequest
            && message.kind == MessageType::Discover
            && (is_boot_client(message) || matches!(self.session.role, Role::Server(_)));
        let machine = message.header.hardware();
        let Some(queue) = self.turns.as_mut().filter(|_| is_shared) else { return Ok(None) };
        // Another server that looks whether it is alone: no machine.
        if queue.turns.servers().of(*request.from.ip()).is_some() {
            return Ok(None);
        }
        if queue.turns.servers().of(*own).is_none() {
            self.log.not_listed(*own);
        }
        let discover = Discover {
            machine: &machine,
            own: *own,
            is_boot_client: is_boot_client(message),
            has_root: mac(&machine).is_some_and(|mac| self.machines.has_root(mac)),
            is_draining: self.machines.is_draining(),
        };
        match queue.turns.discover(discover, Instant::now()) {
            Turn::Now { silent } => Ok(silent),
            Turn::Later { at, first } => {
                queue.put_off(at, machine, message.clone(), *arrival);
                Err(first.map_or(NoReply::Settling, NoReply::LeftTo))
            }
        }
    }

    /// Returns an outcome without the reply of a proxy to a REQUEST of a machine that goes on with
    /// another one.
    pub(super) fn without_strangers(&self, request: &Request, outcome: Outcome) -> Outcome {
        let is_reply = request.port == DhcpPort::Dhcp
            && request.message.kind == MessageType::Request
            && matches!((&self.session.role, &outcome), (Role::Proxy, Outcome::Send { .. }));
        let Some(queue) = self.turns.as_ref().filter(|_| is_reply) else { return outcome };
        let chosen = queue.turns.chosen_by(&request.message.header.hardware());
        let own = queue.turns.servers().of(request.server);
        match chosen.zip(own).filter(|(chosen, own)| !own.has(*chosen)) {
            Some((chosen, _)) => Outcome::NoReply(NoReply::LeftTo(chosen)),
            None => outcome,
        }
    }

    /// Tells the other servers of an offer, so that they make none. Without the word they would answer
    /// a second later as well.
    pub(super) fn tell_of_offer(&mut self, request: &Request, offer: &[u8]) {
        let Some(queue) = &mut self.turns else { return };
        let own = request.server;
        if queue.turns.servers().of(own).is_none() {
            return;
        }
        queue.turns.offered(&request.message.header.hardware(), own, Instant::now());
        for peer in queue.turns.servers().peers(own) {
            let to = SocketAddrV4::new(peer.name(), SERVER_PORT);
            if let Err(error) = self.dhcp.socket().send_from(offer, to, 0, request.local) {
                debug!(server = %peer.name(), "offer not told: {error}");
            }
        }
    }

    /// Returns whether this is another of the servers that share machines.
    pub(super) fn is_peer(&self, server: Ipv4Addr) -> bool {
        self.turns.as_ref().is_some_and(|queue| queue.turns.servers().of(server).is_some())
    }
}
