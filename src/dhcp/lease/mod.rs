//! Leases: which machine has which address of the pool until when.
//!
//! Pure: time is an argument, and what must survive a restart comes out as [`Event`]s, one line of text each. Every
//! look-up is O(1) or O(log n); the pool bounds the memory, whatever number of machines ask.

mod event;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{AddrParseError, Ipv4Addr};
use std::str::FromStr;

use super::wire::HardwareAddress;

pub(crate) use event::Event;

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The time `seconds` later.
    pub(crate) const fn after(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds as u64))
    }
}

/// How long an offered address waits for its REQUEST: more than any firmware takes (iPXE and OVMF: under 15 s), and
/// short, so that a flood of DISCOVERs frees the pool soon.
const OFFER_SECONDS: u32 = 30;
/// How long an address rests that a machine found in use by somebody else (DECLINE).
const QUARANTINE_SECONDS: u32 = 600;

/// The addresses to lease, `FIRST-LAST`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// The operator's pool is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPool {
    #[error("{0:?} is no address range: write FIRST-LAST, as 192.168.1.100-192.168.1.199")]
    Form(String),
    #[error("address range {first}-{last} ends before it begins")]
    Reversed { first: Ipv4Addr, last: Ipv4Addr },
    #[error("address range {first}-{last} has more than {max} addresses", max = Pool::MAX_LEN)]
    TooLarge { first: Ipv4Addr, last: Ipv4Addr },
}

impl Pool {
    /// Most addresses: a network of 16 bits. It bounds the memory of [`Leases`].
    pub(crate) const MAX_LEN: u32 = 1 << 16;

    /// # Errors
    /// [`BadPool`] when `last` lies before `first` or more than [`Pool::MAX_LEN`] addresses behind.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Result<Self, BadPool> {
        match u32::from(last).checked_sub(u32::from(first)) {
            None => Err(BadPool::Reversed { first, last }),
            Some(Self::MAX_LEN..) => Err(BadPool::TooLarge { first, last }),
            Some(_) => Ok(Self { first, last }),
        }
    }

    /// The lowest address.
    pub(crate) const fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// The highest address.
    pub(crate) const fn last(&self) -> Ipv4Addr {
        self.last
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }

    /// Where the search for a machine's address begins: the same address after a restart and without any lease file.
    fn home(&self, machine: &HardwareAddress) -> Ipv4Addr {
        let len = u32::from(self.last) - u32::from(self.first) + 1;
        Ipv4Addr::from(u32::from(self.first) + crc32fast::hash(machine.bytes()) % len)
    }
}

impl FromStr for Pool {
    type Err = BadPool;

    fn from_str(text: &str) -> Result<Self, BadPool> {
        let bad = || BadPool::Form(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(bad)?;
        let address = |text: &str| text.trim().parse().map_err(|_: AddrParseError| bad());
        Self::new(address(first)?, address(last)?)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Why an address of the pool is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Offered(HardwareAddress),
    Leased(HardwareAddress),
    /// Somebody else uses the address.
    Declined,
}

impl Hold {
    fn machine(&self) -> Option<&HardwareAddress> {
        match self {
            Hold::Offered(machine) | Hold::Leased(machine) => Some(machine),
            Hold::Declined => None,
        }
    }
}

/// Why a machine does not get the address it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotGranted {
    /// It holds this one.
    HoldsAnother(Ipv4Addr),
    /// Another machine has it, or somebody else was found to use it.
    Taken,
    /// Not an address of the pool that may be leased.
    NotInPool,
}

/// The lease table of one pool.
#[derive(Debug)]
pub struct Leases {
    pool: Pool,
    lease_seconds: u32,
    /// Addresses that one machine has and no other, in the pool or not.
    fixed: HashMap<HardwareAddress, Ipv4Addr>,
    /// The same addresses by themselves.
    taken: HashSet<Ipv4Addr>,
    free: BTreeSet<Ipv4Addr>,
    holds: HashMap<Ipv4Addr, (Hold, UnixTime)>,
    by_machine: HashMap<HardwareAddress, Ipv4Addr>,
    by_end: BTreeSet<(UnixTime, Ipv4Addr)>,
    /// What happened since [`Leases::take_events`] was last called.
    events: Vec<Event>,
}

impl Leases {
    /// All of `pool` is free but the `reserved` addresses: the server's own, the router's, the network's two.
    pub fn new(pool: Pool, lease_seconds: u32, reserved: &[Ipv4Addr]) -> Self {
        Self {
            pool,
            lease_seconds,
            fixed: HashMap::new(),
            taken: HashSet::new(),
            free: pool.addresses().filter(|address| !reserved.contains(address)).collect(),
            holds: HashMap::new(),
            by_machine: HashMap::new(),
            by_end: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    /// These machines get these addresses, and nobody else does.
    #[must_use]
    pub(crate) fn with_fixed(mut self, fixed: HashMap<HardwareAddress, Ipv4Addr>) -> Self {
        self.taken = fixed.values().copied().collect();
        self.free.retain(|address| !self.taken.contains(address));
        self.fixed = fixed;
        self
    }

    /// Seconds an address is leased for.
    pub(crate) const fn lease_seconds(&self) -> u32 {
        self.lease_seconds
    }

    /// Number of addresses that are leased, offered or in quarantine.
    pub(crate) fn len(&self) -> usize {
        self.holds.len()
    }

    /// The address to offer: the machine's own, else the one it holds, else the one it asks for, else the free one next to
    /// where its hardware address points. `None` when no address is free. What it holds besides its own it keeps.
    pub(crate) fn offer(
        &mut self,
        machine: HardwareAddress,
        requested: Option<Ipv4Addr>,
        now: UnixTime,
    ) -> Option<Ipv4Addr> {
        self.expire(now);
        let held = self.own(&machine).or_else(|| self.by_machine.get(&machine).copied());
        let requested = requested.filter(|address| self.free.contains(address));
        let address = held.or(requested).or_else(|| self.free_near(&machine))?;
        if !self.has_lease(&machine, address) {
            self.hold(address, Hold::Offered(machine), now.after(OFFER_SECONDS));
        }
        Some(address)
    }

    /// Leases `address` to the machine, or renews its lease.
    ///
    /// # Errors
    /// [`NotGranted`] when it holds another address, or this one is not free for it.
    pub fn claim(
        &mut self,
        machine: HardwareAddress,
        address: Ipv4Addr,
        now: UnixTime,
    ) -> Result<(), NotGranted> {
        self.expire(now);
        match self.by_machine.get(&machine) {
            _ if self.has_lease(&machine, address) => {}
            Some(&held) if held != address => return Err(NotGranted::HoldsAnother(held)),
            Some(_) => {}
            None if self.own(&machine) == Some(address) => {}
            None if self.free.contains(&address) => {}
            None if self.holds.contains_key(&address) => return Err(NotGranted::Taken),
            None => return Err(NotGranted::NotInPool),
        }
        let until = now.after(self.lease_seconds);
        self.hold(address, Hold::Leased(machine), until);
        self.events.push(Event::Leased { address, machine, until });
        Ok(())
    }

    /// Frees an address that was offered to the machine and not taken.
    pub(crate) fn withdraw_offer(&mut self, machine: &HardwareAddress) {
        let Some(&address) = self.by_machine.get(machine) else { return };
        if !self.has_lease(machine, address) {
            self.free(address);
        }
    }

    /// Frees the machine's lease of `address`; true when it had one.
    pub(crate) fn release(&mut self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        let had = self.has_lease(machine, address);
        if had {
            self.free(address);
            self.events.push(Event::Freed { address });
        }
        had
    }

    /// Puts `address`, which the machine holds, in quarantine; true when it held it. Nobody can take another
    /// machine's address away.
    pub(crate) fn decline(&mut self, machine: &HardwareAddress, address: Ipv4Addr, now: UnixTime) -> bool {
        let held = self.holds.get(&address).and_then(|(hold, _)| hold.machine()) == Some(machine);
        if held {
            let until = now.after(QUARANTINE_SECONDS);
            self.hold(address, Hold::Declined, until);
            self.events.push(Event::Declined { address, until });
        }
        held
    }

    /// True when `address` is leased to the machine, not only offered.
    pub(crate) fn has_lease(&self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        matches!(self.holds.get(&address), Some((Hold::Leased(holder), _)) if holder == machine)
    }

    /// What happened since the last call and must survive a restart, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The events that make a new table equal to this one, offers left out.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = Event> {
        self.holds.iter().filter_map(|(&address, &(hold, until))| match hold {
            Hold::Leased(machine) => Some(Event::Leased { address, machine, until }),
            Hold::Declined => Some(Event::Declined { address, until }),
            Hold::Offered(_) => None,
        })
    }

    /// Applies an event of an earlier run. What is over, or does not fit the pool and the fixed addresses (the operator
    /// changed them), is dropped.
    pub(crate) fn replay(&mut self, event: Event, now: UnixTime) {
        let address = event.address();
        let is_known = self.free.contains(&address) || self.holds.contains_key(&address);
        if !is_known && !self.taken.contains(&address) || self.is_anothers_own(&event) {
            return;
        }
        self.free(address);
        match event {
            Event::Leased { machine, until, .. } if until > now => {
                let own = self.fixed.get(&machine).copied();
                let other = self.by_machine.get(&machine).copied();
                if let Some(other) =
                    other.filter(|&other| own.is_none_or(|own| own != other && own != address))
                {
                    self.free(other);
                }
                self.hold(address, Hold::Leased(machine), until);
            }
            Event::Declined { until, .. } if until > now => self.hold(address, Hold::Declined, until),
            _ => {}
        }
    }

    /// True for a lease of a fixed address to another machine than that whose own it is.
    fn is_anothers_own(&self, event: &Event) -> bool {
        let Event::Leased { address, machine, .. } = event else { return false };
        self.taken.contains(address) && self.fixed.get(machine) != Some(address)
    }

    /// The address that this machine has and no other, unless somebody else was found to use it.
    fn own(&self, machine: &HardwareAddress) -> Option<Ipv4Addr> {
        let own = self.fixed.get(machine).copied();
        own.filter(|address| !matches!(self.holds.get(address), Some((Hold::Declined, _))))
    }

    fn free_near(&self, machine: &HardwareAddress) -> Option<Ipv4Addr> {
        let behind = self.free.range(self.pool.home(machine)..).next();
        behind.or_else(|| self.free.first()).copied()
    }

    /// Frees all that ended.
    fn expire(&mut self, now: UnixTime) {
        while let Some(&(until, address)) = self.by_end.first()
            && until <= now
        {
            self.free(address);
        }
    }

    fn hold(&mut self, address: Ipv4Addr, hold: Hold, until: UnixTime) {
        self.free(address);
        self.free.remove(&address);
        self.by_end.insert((until, address));
        if let Some(machine) = hold.machine() {
            self.by_machine.insert(*machine, address);
        }
        self.holds.insert(address, (hold, until));
    }

    /// Ends whatever holds `address`, which is one of the pool or a machine's own.
    fn free(&mut self, address: Ipv4Addr) {
        let Some((hold, until)) = self.holds.remove(&address) else { return };
        self.by_end.remove(&(until, address));
        if let Some(machine) = hold.machine()
            && self.by_machine.get(machine) == Some(&address)
        {
            self.by_machine.remove(machine);
        }
        if !self.taken.contains(&address) {
            self.free.insert(address);
        }
    }
}

#[cfg(test)]
mod tests;
