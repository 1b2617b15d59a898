//! Turns of servers that share machines: when this one answers a DISCOVER, and when it leaves it to
//! another. Pure; time is an argument.
//!
//! A server answers a second later for each server that comes before it, and only if the machine has
//! not gone on with one of those. First of all comes the server that the machine has chosen, so that a
//! boot stays where it began; then the servers in the order of their placement.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dhcp::wire::HardwareAddress;
use crate::placement::{Server, Servers};

/// Time that each server before this one has to answer. iPXE waits two seconds for the offer of a
/// proxy (src/config/dhcp.h), other firmware four (PXE 2.1 §2.2.3).
const TURN: Duration = Duration::from_secs(1);

/// Time within which the next stage of a boot asks: iPXE after the ROM that loaded it. A boot client
/// that asks later begins a boot.
const STAGE: Duration = Duration::from_secs(120);

/// Time for which a system has its root from the server that its machine chose.
const SYSTEM: Duration = Duration::from_secs(24 * 3600);

/// Time without a DISCOVER after which a machine asks anew. Clients repeat one after up to 16 seconds
/// (RFC 2131 §4.1; PXE 2.1 §2.2.3).
const ROUND: Duration = Duration::from_secs(20);

/// Time after the start in which a peer may have machines that this server knows nothing of: those
/// that it covered for while this one was down.
const SETTLING: Duration = Duration::from_secs(600);

/// Most machines that are remembered, as anybody can invent hardware addresses.
const MACHINES_MAX: usize = 8192;
/// Part of them that is forgotten at once.
const FORGET_PART: usize = 16;

/// A DISCOVER, as far as turns depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Discover<'a> {
    pub machine: &'a HardwareAddress,
    /// Our address, as the machine is told.
    pub own: Ipv4Addr,
    /// The sender wants a boot file: it is firmware or a loader, not a system.
    pub is_boot_client: bool,
    /// The machine has a connection to its root here.
    pub has_root: bool,
    /// The operator wants new machines to go elsewhere.
    pub is_draining: bool,
}

/// When this server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Now {
        /// Server that should have answered before this one.
        silent: Option<Ipv4Addr>,
    },
    Later {
        at: Instant,
        /// Server that answers before this one; `None` if it may be any.
        first: Option<Ipv4Addr>,
    },
}

/// Machines that ask, and the servers that they chose.
#[derive(Debug)]
pub struct Turns {
    servers: Arc<Servers>,
    /// Time of a start after which nothing is known of machines.
    started: Option<Instant>,
    machines: HashMap<HardwareAddress, Asking>,
}

/// What is known of one machine.
#[derive(Debug)]
struct Asking {
    /// DISCOVERs that no REQUEST has followed yet.
    round: Option<Round>,
    chosen: Option<Choice>,
    heard: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Round {
    first: Instant,
    last: Instant,
    /// Server that made the first offer, by its name.
    offered: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy)]
struct Choice {
    /// Name of the server.
    server: Ipv4Addr,
    at: Instant,
}

impl Turns {
    /// Begins without machines. `started` is `None` if this process goes on with another one's work.
    pub fn new(servers: Arc<Servers>, started: Option<Instant>) -> Self {
        Self { servers, started, machines: HashMap::new() }
    }

    /// Returns the servers.
    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Notes a DISCOVER, and returns when this server answers it.
    pub fn discover(&mut self, discover: Discover<'_>, now: Instant) -> Turn {
        let (places, first) = self.places(discover, now);
        let asking = self.asking(discover.machine, now);
        let is_over = |round: &Round| now.saturating_duration_since(round.last) > ROUND;
        let mut round = asking.round.filter(|round| !is_over(round)).unwrap_or(Round {
            first: now,
            last: now,
            offered: None,
        });
        round.last = now;
        asking.round = Some(round);
        let at = round.first + TURN * places;
        match places {
            0 => Turn::Now { silent: None },
            _ if at <= now => Turn::Now { silent: first },
            _ => Turn::Later { at, first },
        }
    }

    /// Notes that a server with this address offers something to a machine.
    pub fn offered(&mut self, machine: &HardwareAddress, server: Ipv4Addr, now: Instant) {
        let Some(server) = self.servers.of(server).map(Server::name) else { return };
        let asking = self.asking(machine, now);
        let round = asking.round.get_or_insert(Round { first: now, last: now, offered: None });
        round.offered.get_or_insert(server);
    }

    /// Notes the REQUEST of a machine, which names the DHCP server that it chose.
    pub fn chose(&mut self, machine: &HardwareAddress, server: Option<Ipv4Addr>, now: Instant) {
        let known = server.and_then(|server| self.servers.of(server)).map(Server::name);
        // Any client of the network sends one.
        if known.is_none() && !self.machines.contains_key(machine) {
            return;
        }
        let asking = self.asking(machine, now);
        // Beside another DHCP server, the machine goes on with the proxy that made it an offer.
        let offered = asking.round.take().and_then(|round| round.offered);
        if let Some(server) = known.or(offered) {
            asking.chosen = Some(Choice { server, at: now });
        }
    }

    /// Returns whether a message that waited for its turn is still to be answered: neither did the
    /// machine go on, nor did another server make it an offer.
    pub fn is_open(&self, machine: &HardwareAddress, own: Ipv4Addr) -> bool {
        let round = self.machines.get(machine).and_then(|asking| asking.round);
        round.is_some_and(|round| {
            round.offered.is_none_or(|offered| self.servers.of(own).is_some_and(|own| own.has(offered)))
        })
    }

    /// Returns the server that the machine goes on with, as far as can be seen.
    pub fn chosen_by(&self, machine: &HardwareAddress) -> Option<Ipv4Addr> {
        let chosen = self.machines.get(machine).and_then(|asking| asking.chosen);
        let first = || self.servers.order(machine.bytes()).first().map(|server| server.name());
        chosen.map(|choice| choice.server).or_else(first)
    }

    /// Returns how many turns pass before ours, and the server that has the first of them.
    fn places(&self, discover: Discover<'_>, now: Instant) -> (u32, Option<Ipv4Addr>) {
        let Discover { machine, own, has_root, is_boot_client, is_draining } = discover;
        let order = self.servers.order(machine.bytes());
        // An address that is not in the list has no peers.
        let Some(rank) = order.iter().position(|server| server.has(own)) else { return (0, None) };
        let chosen = self.chosen(machine, is_boot_client, now);
        let is_chosen = chosen.is_some_and(|chosen| order.get(rank).is_some_and(|own| own.has(chosen)));
        if is_chosen || has_root && !is_boot_client {
            return (0, None);
        }
        let before = if is_draining { order.len() } else { rank };
        let earlier = order.iter().take(before).filter(|server| !server.has(own));
        let first = chosen.or_else(|| earlier.clone().map(|server| server.name()).next());
        let jumps = chosen.is_some_and(|chosen| !earlier.clone().any(|server| server.has(chosen)));
        let is_unknown = chosen.is_none() && self.is_settling(now);
        (before as u32 + u32::from(jumps) + u32::from(is_unknown), first)
    }

    /// Returns the server that the machine chose, as long as that counts.
    fn chosen(&self, machine: &HardwareAddress, is_boot_client: bool, now: Instant) -> Option<Ipv4Addr> {
        let Choice { server, at } = self.machines.get(machine)?.chosen?;
        let counts = if is_boot_client { STAGE } else { SYSTEM };
        (now.saturating_duration_since(at) < counts).then_some(server)
    }

    fn is_settling(&self, now: Instant) -> bool {
        self.started.is_some_and(|started| now.saturating_duration_since(started) < SETTLING)
    }

    fn asking(&mut self, machine: &HardwareAddress, now: Instant) -> &mut Asking {
        if self.machines.len() >= MACHINES_MAX && !self.machines.contains_key(machine) {
            self.make_room();
        }
        let new = Asking { round: None, chosen: None, heard: now };
        let asking = self.machines.entry(*machine).or_insert(new);
        asking.heard = now;
        asking
    }

    /// Forgets the machines that were not heard for the longest time.
    fn make_room(&mut self) {
        let mut times: Vec<_> = self.machines.values().map(|asking| asking.heard).collect();
        times.sort_unstable();
        let Some(&last) = times.get(times.len() / FORGET_PART) else { return };
        self.machines.retain(|_, asking| asking.heard > last);
    }
}

#[cfg(test)]
mod tests;
