//! Leases: which machine has which address of the pool, and until when.
//!
//! Pure: the time is an argument, and changes that must survive a restart come out as [`Event`]s.
//! Each look-up takes constant or logarithmic time. The pool bounds the memory, however many
//! machines ask.

mod declines;
mod event;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use self::declines::Declines;
use super::wire::HardwareAddress;

pub(crate) use event::{Event, EventError, events_of};

/// Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// Returns the time `seconds` later.
    pub(crate) const fn after(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds as u64))
    }
}

/// Seconds for which an offered address waits for its REQUEST. iPXE and OVMF send it within 15 s. A
/// longer wait would let a flood of DISCOVERs hold the whole pool.
const OFFER_SECONDS: u32 = 30;
/// Seconds for which a declined address is not leased: another host was found to use it.
const QUARANTINE_SECONDS: u32 = 600;
/// Seconds for which an address is not offered after we found it in use. The kernel needs eight to
/// find that a neighbour is gone (arp(7): `delay_first_probe_time`, `ucast_solicit`).
const USED_SECONDS: u32 = 10;

/// Range of addresses to lease, `FIRST-LAST`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// Error of a configured range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("invalid address range {0:?}; expected FIRST-LAST, as in 192.168.1.100-192.168.1.199")]
    Form(String),
    #[error("address range {first}-{last} ends before it starts; swap the two addresses")]
    Reversed { first: Ipv4Addr, last: Ipv4Addr },
    #[error("address range {first}-{last} has more than {max} addresses; take fewer", max = Pool::MAX_LEN)]
    TooLarge { first: Ipv4Addr, last: Ipv4Addr },
}

impl Pool {
    /// Largest number of addresses: a network with 16 host bits. It bounds the memory of
    /// [`Leases`].
    pub(crate) const MAX_LEN: u32 = 1 << 16;

    /// Creates a range.
    ///
    /// # Errors
    /// [`PoolError`] if `last` lies before `first`, or the range has more than [`Pool::MAX_LEN`]
    /// addresses.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Result<Self, PoolError> {
        match u32::from(last).checked_sub(u32::from(first)) {
            None => Err(PoolError::Reversed { first, last }),
            Some(Self::MAX_LEN..) => Err(PoolError::TooLarge { first, last }),
            Some(_) => Ok(Self { first, last }),
        }
    }

    /// Returns the lowest address.
    pub(crate) const fn first(&self) -> Ipv4Addr {
        self.first
    }

    /// Returns the highest address.
    pub(crate) const fn last(&self) -> Ipv4Addr {
        self.last
    }

    /// Returns whether `address` is in the range.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Returns the number of addresses.
    pub(crate) fn len(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        (u32::from(self.first)..=u32::from(self.last)).map(Ipv4Addr::from)
    }

    /// Returns the address at which the search for a free one starts. It follows from the hardware
    /// address, so that a machine finds its address again even without a lease file.
    fn preferred(&self, machine: &HardwareAddress) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first) + crc32fast::hash(machine.bytes()) % self.len())
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let ends = text
            .split_once('-')
            .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
        let (first, last) = ends.ok_or_else(|| PoolError::Form(text.to_owned()))?;
        Self::new(first, last)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// State of an address that is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Offered(HardwareAddress),
    Leased(HardwareAddress),
    /// Leased to a machine that booted from here.
    Known(HardwareAddress),
    /// Kept for a machine that booted from here, after its lease. So strangers who take all other
    /// addresses do not take this one.
    Kept(HardwareAddress),
    /// In quarantine: a client declined the address, as another host uses it.
    Declined,
    /// We found that a host without a lease uses the address.
    Used,
}

impl Hold {
    fn machine(&self) -> Option<&HardwareAddress> {
        match self {
            Hold::Offered(machine) | Hold::Leased(machine) | Hold::Known(machine) | Hold::Kept(machine) => {
                Some(machine)
            }
            Hold::Declined | Hold::Used => None,
        }
    }

    /// Returns the machine that the address is leased to.
    fn lessee(&self) -> Option<&HardwareAddress> {
        self.machine().filter(|_| matches!(self, Hold::Leased(_) | Hold::Known(_)))
    }
}

/// Effect of a declined address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declined {
    /// The address is in quarantine.
    Quarantined,
    /// The address is free: the machine declined too many.
    Disbelieved,
}

/// Reason why a machine does not get the address that it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimError {
    /// The machine holds this address.
    HoldsAnother(Ipv4Addr),
    /// Another machine holds the address, or the address is in quarantine.
    Taken,
    /// The address is never leased.
    NotInPool,
}

/// Lease table of one pool.
#[derive(Debug)]
pub struct Leases {
    pool: Pool,
    lease_seconds: u32,
    /// Addresses reserved for one machine each, in the pool or outside it.
    fixed: HashMap<HardwareAddress, Ipv4Addr>,
    /// Values of `fixed`.
    fixed_addresses: HashSet<Ipv4Addr>,
    free: BTreeSet<Ipv4Addr>,
    holds: HashMap<Ipv4Addr, (Hold, UnixTime)>,
    by_machine: HashMap<HardwareAddress, Ipv4Addr>,
    by_end: BTreeSet<(UnixTime, Ipv4Addr)>,
    declines: Declines,
    /// Events since the last call of [`Leases::take_events`].
    events: Vec<Event>,
}

impl Leases {
    /// Creates a table in which all addresses of `pool` are free, except the `reserved` ones.
    pub fn new(pool: Pool, lease_seconds: u32, reserved: &[Ipv4Addr]) -> Self {
        Self {
            pool,
            lease_seconds,
            fixed: HashMap::new(),
            fixed_addresses: HashSet::new(),
            free: pool.addresses().filter(|address| !reserved.contains(address)).collect(),
            holds: HashMap::new(),
            by_machine: HashMap::new(),
            by_end: BTreeSet::new(),
            declines: Declines::default(),
            events: Vec::new(),
        }
    }

    /// Reserves an address for each of these machines.
    #[must_use]
    pub(crate) fn with_fixed(mut self, fixed: HashMap<HardwareAddress, Ipv4Addr>) -> Self {
        self.fix(fixed);
        self
    }

    /// Reserves an address for each of these machines, and for no others any more.
    pub(crate) fn fix(&mut self, fixed: HashMap<HardwareAddress, Ipv4Addr>) {
        self.fixed_addresses = fixed.values().copied().collect();
        self.free.retain(|address| !self.fixed_addresses.contains(address));
        self.fixed = fixed;
    }

    /// Returns the range of addresses.
    pub(crate) const fn pool(&self) -> Pool {
        self.pool
    }

    /// Withdraws these addresses for good: nobody is leased one any more. Frees one that a machine
    /// holds.
    pub(crate) fn reserve(&mut self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        for address in addresses {
            if self.holds.contains_key(&address) {
                self.free(address);
                self.events.push(Event::Freed { address });
            }
            self.fixed.retain(|_, fixed| *fixed != address);
            self.free.remove(&address);
        }
    }

    /// Returns the length of a lease in seconds.
    pub(crate) const fn lease_seconds(&self) -> u32 {
        self.lease_seconds
    }

    /// Returns the number of addresses that are leased, offered or in quarantine.
    pub(crate) fn len(&self) -> usize {
        self.holds.len()
    }

    /// Chooses the address to offer; `None` if no address is free.
    pub(crate) fn offer(
        &mut self,
        machine: HardwareAddress,
        requested: Option<Ipv4Addr>,
        now: UnixTime,
    ) -> Option<Ipv4Addr> {
        self.expire(now);
        // The address that the operator fixed, then the order of RFC 2131 §4.3.1: the machine's
        // current address, the one that it requests, a new one.
        let held = self.fixed_address(&machine).or_else(|| self.by_machine.get(&machine).copied());
        let requested = requested.filter(|address| self.free.contains(address));
        let address = held.or(requested).or_else(|| self.free_near_preferred(&machine))?;
        // An offer must not shorten a lease: the machine may never answer it.
        if !self.has_lease(&machine, address) && !self.keeps(&machine, address) {
            self.hold(address, Hold::Offered(machine), now.after(OFFER_SECONDS));
        }
        Some(address)
    }

    /// Leases `address` to the machine, or renews its lease.
    ///
    /// # Errors
    /// [`ClaimError`] if the machine holds another address, or `address` is not free for it.
    pub fn claim(
        &mut self,
        machine: HardwareAddress,
        address: Ipv4Addr,
        now: UnixTime,
    ) -> Result<(), ClaimError> {
        self.expire(now);
        match self.by_machine.get(&machine) {
            // A lease from before an address was fixed stays valid beside the fixed address.
            _ if self.has_lease(&machine, address) => {}
            Some(&held) if held != address => return Err(ClaimError::HoldsAnother(held)),
            Some(_) => {}
            None if self.fixed_address(&machine) == Some(address) => {}
            None if self.free.contains(&address) => {}
            None if self.holds.contains_key(&address) => return Err(ClaimError::Taken),
            None => return Err(ClaimError::NotInPool),
        }
        let until = now.after(self.lease_seconds);
        let known = matches!(self.holds.get(&address), Some((Hold::Known(_) | Hold::Kept(_), _)));
        self.hold(address, if known { Hold::Known(machine) } else { Hold::Leased(machine) }, until);
        self.events.push(Event::Leased { address, machine, until, known });
        Ok(())
    }

    /// Notes which leases are of machines that booted from here.
    pub(crate) fn note_booted(&mut self, has_booted: &impl Fn(Ipv4Addr) -> bool) {
        for (&address, (hold, until)) in &mut self.holds {
            if let Hold::Leased(machine) = *hold
                && has_booted(address)
            {
                *hold = Hold::Known(machine);
                self.events.push(Event::Leased { address, machine, until: *until, known: true });
            }
        }
    }

    /// Renews the leases that end within half of their length and whose address is in use.
    pub(crate) fn renew_used(&mut self, is_used: &impl Fn(Ipv4Addr) -> bool, now: UnixTime) {
        let (half, until) = (now.after(self.lease_seconds / 2), now.after(self.lease_seconds));
        let ending = self.by_end.iter().take_while(|(end, _)| *end <= half);
        let used: Vec<_> = ending.map(|&(_, address)| address).filter(|&address| is_used(address)).collect();
        for address in used {
            self.extend(address, until);
        }
    }

    /// Moves the end of a lease. An offer and a quarantine keep theirs.
    fn extend(&mut self, address: Ipv4Addr, until: UnixTime) {
        let Some((hold, end)) = self.holds.get_mut(&address) else { return };
        let Some(&machine) = hold.lessee() else { return };
        self.by_end.remove(&(*end, address));
        self.by_end.insert((until, address));
        *end = until;
        let known = matches!(hold, Hold::Known(_));
        self.events.push(Event::Leased { address, machine, until, known });
    }

    /// Frees the address that was offered to the machine, unless it is leased by now.
    pub(crate) fn withdraw_offer(&mut self, machine: &HardwareAddress) {
        let Some(&address) = self.by_machine.get(machine) else { return };
        if self.has_offer(machine, address) {
            self.free(address);
        }
    }

    /// Frees the machine's lease of `address`, and returns whether it had one.
    pub(crate) fn release(&mut self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        let had = self.has_lease(machine, address);
        if had {
            self.free(address);
            self.events.push(Event::Freed { address });
        }
        had
    }

    /// Puts `address` in quarantine if it is leased or offered to the machine; `None` if it is not.
    pub(crate) fn decline(
        &mut self,
        machine: &HardwareAddress,
        address: Ipv4Addr,
        now: UnixTime,
    ) -> Option<Declined> {
        // Otherwise a machine could take away the addresses of all others.
        if !self.has_lease(machine, address) && !self.has_offer(machine, address) {
            return None;
        }
        if !self.declines.is_believed(machine, now) {
            self.free(address);
            self.events.push(Event::Freed { address });
            return Some(Declined::Disbelieved);
        }
        let until = now.after(QUARANTINE_SECONDS);
        self.hold(address, Hold::Declined, until);
        self.events.push(Event::Declined { address, until });
        Some(Declined::Quarantined)
    }

    /// Ends the quarantine of an address that nobody uses.
    pub(crate) fn end_quarantine(&mut self, address: Ipv4Addr) {
        if let Some((Hold::Declined, _)) = self.holds.get(&address) {
            self.free(address);
            self.events.push(Event::Freed { address });
        }
    }

    /// Withdraws an address that a host without a lease uses; a lease stays.
    pub(crate) fn withdraw_used(&mut self, address: Ipv4Addr, now: UnixTime) {
        let is_ours = self.free.contains(&address) || self.fixed_addresses.contains(&address);
        let is_free = match self.holds.get(&address) {
            None => is_ours,
            Some((hold, _)) => matches!(hold, Hold::Offered(_) | Hold::Kept(_)),
        };
        if is_free {
            self.hold(address, Hold::Used, now.after(USED_SECONDS));
        }
    }

    /// Returns whether `address` is leased to the machine, not only offered.
    pub(crate) fn has_lease(&self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        self.holds.get(&address).and_then(|(hold, _)| hold.lessee()) == Some(machine)
    }

    /// Returns whether `address` is offered to the machine, and not leased.
    pub(crate) fn has_offer(&self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        matches!(self.holds.get(&address), Some((Hold::Offered(holder), _)) if holder == machine)
    }

    /// Returns whether the address is the machine's own: leased to it, kept or fixed for it.
    pub(crate) fn is_own(&self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        self.has_lease(machine, address)
            || self.keeps(machine, address)
            || self.fixed.get(machine) == Some(&address)
    }

    /// Returns whether `address` is one that is leased here, to this machine or any.
    pub(crate) fn may_lease(&self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        self.pool.contains(address) || self.is_own(machine, address)
    }

    /// Returns whether `address` is kept for the machine after its lease.
    fn keeps(&self, machine: &HardwareAddress, address: Ipv4Addr) -> bool {
        matches!(self.holds.get(&address), Some((Hold::Kept(holder), _)) if holder == machine)
    }

    /// Takes the events since the last call, in their order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Returns the events that make a new table equal to this one, without its offers.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = Event> {
        self.holds.iter().filter_map(|(&address, &(hold, until))| match hold {
            Hold::Leased(machine) => Some(Event::Leased { address, machine, until, known: false }),
            Hold::Known(machine) => Some(Event::Leased { address, machine, until, known: true }),
            // As long as the lease was.
            Hold::Kept(machine) => {
                let until = UnixTime(until.0.saturating_sub(self.lease_seconds.into()));
                Some(Event::Leased { address, machine, until, known: true })
            }
            Hold::Declined => Some(Event::Declined { address, until }),
            Hold::Offered(_) | Hold::Used => None,
        })
    }

    /// Applies an event of an earlier run. Drops a lease that has ended, and one that does not fit
    /// the pool and the fixed addresses, which the operator may have changed.
    pub(crate) fn replay(&mut self, event: Event, now: UnixTime) {
        let address = event.address();
        let is_known = self.free.contains(&address) || self.holds.contains_key(&address);
        let is_fixed = self.fixed_addresses.contains(&address);
        if !is_known && !is_fixed || self.is_fixed_for_another(&event) {
            return;
        }
        self.free(address);
        match event {
            Event::Leased { machine, until, known, .. } if until > now => {
                self.free_earlier_lease(&machine, address);
                self.hold(address, if known { Hold::Known(machine) } else { Hold::Leased(machine) }, until);
            }
            Event::Leased { machine, until, known: true, .. } if until.after(self.lease_seconds) > now => {
                self.free_earlier_lease(&machine, address);
                self.hold(address, Hold::Kept(machine), until.after(self.lease_seconds));
            }
            Event::Declined { until, .. } if until > now => self.hold(address, Hold::Declined, until),
            _ => {}
        }
    }

    /// Frees the address that the machine held before `address`, except for a fixed address and a
    /// lease that stands beside a fixed one.
    fn free_earlier_lease(&mut self, machine: &HardwareAddress, address: Ipv4Addr) {
        let fixed = self.fixed.get(machine).copied();
        let earlier = self.by_machine.get(machine).copied();
        let Some(earlier) = earlier else { return };
        if fixed.is_none_or(|fixed| fixed != earlier && fixed != address) {
            self.free(earlier);
        }
    }

    /// Returns whether the event leases an address to a machine that it is not fixed for.
    fn is_fixed_for_another(&self, event: &Event) -> bool {
        let Event::Leased { address, machine, .. } = event else { return false };
        self.fixed_addresses.contains(address) && self.fixed.get(machine) != Some(address)
    }

    /// Returns the address fixed for the machine, unless that is in quarantine.
    fn fixed_address(&self, machine: &HardwareAddress) -> Option<Ipv4Addr> {
        let fixed = self.fixed.get(machine).copied();
        fixed.filter(|address| !matches!(self.holds.get(address), Some((Hold::Declined | Hold::Used, _))))
    }

    /// Returns the first free address from the preferred one on, else the first of the pool.
    fn free_near_preferred(&self, machine: &HardwareAddress) -> Option<Ipv4Addr> {
        let next = self.free.range(self.pool.preferred(machine)..).next();
        next.or_else(|| self.free.first()).copied()
    }

    /// Frees all addresses whose time is over, and keeps those of known machines.
    fn expire(&mut self, now: UnixTime) {
        // Ordered by time: the first one ends next.
        while let Some(&(until, address)) = self.by_end.first()
            && until <= now
        {
            match self.holds.get(&address) {
                Some(&(Hold::Known(machine), _)) => {
                    self.hold(address, Hold::Kept(machine), until.after(self.lease_seconds));
                }
                _ => self.free(address),
            }
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

    /// Frees `address`, which is in the pool or fixed for a machine.
    fn free(&mut self, address: Ipv4Addr) {
        let Some((hold, until)) = self.holds.remove(&address) else { return };
        self.by_end.remove(&(until, address));
        if let Some(machine) = hold.machine()
            && self.by_machine.get(machine) == Some(&address)
        {
            self.by_machine.remove(machine);
        }
        // A fixed address is never free for other machines.
        if !self.fixed_addresses.contains(&address) {
            self.free.insert(address);
        }
    }
}

#[cfg(test)]
mod tests;
