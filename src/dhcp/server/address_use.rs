//! Addresses that a host without a lease uses (RFC 2131 §2.2): a root of ours comes from it, or the
//! kernel's neighbour table has it.
//!
//! An ARP request of our own would need a privilege. A datagram to the address makes the kernel
//! send one, and the neighbour table shows the answer.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::socket::Arrival;
use crate::dhcp::session::DhcpPort;
use crate::dhcp::wire::Message;
use crate::machines::{Mac, Registry, neighbours};

/// Time for an answer by ARP. A host on the same link answers within milliseconds.
const ANSWER_WAIT: Duration = Duration::from_millis(300);
/// The same for a declined address, which nobody waits for.
const DECLINED_WAIT: Duration = Duration::from_secs(1);
/// Time for which an answer, or none, counts: as long as an offer.
const VALID: Duration = Duration::from_secs(30);
/// Shortest time between two readings of the neighbour table.
const READ_EVERY: Duration = Duration::from_millis(100);
/// Most addresses that are probed within [`VALID`]; others are offered without a probe. Each takes
/// an entry of the kernel's neighbour table, which holds 1024 (arp(7), `gc_thresh3`).
const PROBES_MAX: usize = 256;
/// Most messages that wait. More are answered without a probe.
const WAITING_MAX: usize = 1024;
/// Most declined addresses that wait. More stay in quarantine.
const DECLINED_MAX: usize = 64;
/// Most addresses of one hardware address. A router that answers ARP for all others (proxy ARP,
/// RFC 1027) has more, and is not on any of them.
const ADDRESSES_MAX: usize = 8;

/// Work that waits for the answer to a probe.
#[derive(Debug)]
pub(super) enum Waiting {
    /// Message that is to be offered a new address.
    Message(DhcpPort, Box<Message>, Arrival),
    /// Address in quarantine, and the machine that declined it.
    Declined(Ipv4Addr, Option<Mac>),
}

/// The neighbour table, and the probes of addresses that are not in it.
#[derive(Debug, Default)]
pub(super) struct AddressUse {
    neighbours: HashMap<Ipv4Addr, Mac>,
    read: Option<Instant>,
    probed: HashMap<Ipv4Addr, Instant>,
    /// In the order of their time.
    waiting: VecDeque<(Instant, Waiting)>,
    /// Declined addresses, which wait longer.
    declined: VecDeque<(Instant, Waiting)>,
}

impl AddressUse {
    /// Returns whether a root of ours comes from `address`, of another machine than this one.
    pub(super) fn is_root_of_another(
        &mut self,
        address: Ipv4Addr,
        machine: Option<Mac>,
        machines: &Registry,
        now: Instant,
    ) -> bool {
        let Some(owner) = machines.root_at(address) else { return false };
        let owner = owner.or_else(|| self.neighbour(address, now));
        owner.is_none() || owner != machine
    }

    /// Returns whether the neighbour table has `address`, with another machine than this one.
    pub(super) fn is_neighbour(&mut self, address: Ipv4Addr, machine: Option<Mac>, now: Instant) -> bool {
        self.neighbour(address, now).is_some_and(|owner| Some(owner) != machine)
    }

    fn neighbour(&mut self, address: Ipv4Addr, now: Instant) -> Option<Mac> {
        if self.read.is_none_or(|read| now.saturating_duration_since(read) >= READ_EVERY) {
            let table = neighbours::read().unwrap_or_default();
            self.neighbours = table.into_iter().filter_map(of_ipv4).collect();
            self.read = Some(now);
        }
        let mac = *self.neighbours.get(&address)?;
        let addresses = self.neighbours.values().filter(|&&other| other == mac).count();
        (addresses <= ADDRESSES_MAX).then_some(mac)
    }

    /// Notes that `address` is probed, and returns whether it was not probed lately.
    pub(super) fn begin(&mut self, address: Ipv4Addr, now: Instant) -> bool {
        if self.probed.len() >= PROBES_MAX {
            self.probed.retain(|_, begun| now.saturating_duration_since(*begun) < VALID);
        }
        let is_old = |begun: &Instant| now.saturating_duration_since(*begun) >= VALID;
        let is_new = self.probed.get(&address).is_none_or(is_old) && self.probed.len() < PROBES_MAX;
        if is_new {
            self.probed.insert(address, now);
        }
        is_new
    }

    /// Returns whether the answer to a probe of `address` may still come.
    pub(super) fn is_pending(&self, address: Ipv4Addr, now: Instant) -> bool {
        let begun = self.probed.get(&address);
        begun.is_some_and(|begun| now.saturating_duration_since(*begun) < ANSWER_WAIT)
    }

    /// Puts work off until the probe of its address has an answer. Returns whether there was room.
    pub(super) fn put_off(&mut self, work: Waiting, now: Instant) -> bool {
        let (queue, max, wait) = match &work {
            Waiting::Message(..) => (&mut self.waiting, WAITING_MAX, ANSWER_WAIT),
            Waiting::Declined(..) => (&mut self.declined, DECLINED_MAX, DECLINED_WAIT),
        };
        let has_room = queue.len() < max;
        if has_room {
            queue.push_back((now + wait, work));
        }
        has_room
    }

    /// Waits for the next work whose time has come; without end if there is none.
    pub(super) async fn next(&mut self) -> Waiting {
        let due = |queue: &VecDeque<(Instant, Waiting)>| queue.front().map(|(due, _)| *due);
        let (first, declined) = (due(&self.waiting), due(&self.declined));
        let is_declined = first.is_none() || declined.is_some_and(|declined| Some(declined) < first);
        let Some(time) = (if is_declined { declined } else { first }) else {
            return std::future::pending().await;
        };
        tokio::time::sleep_until(time.into()).await;
        // Nothing is taken before the time has come, so that a wait can be given up.
        let queue = if is_declined { &mut self.declined } else { &mut self.waiting };
        match queue.pop_front() {
            Some((_, work)) => work,
            None => std::future::pending().await,
        }
    }
}

fn of_ipv4((address, mac): (IpAddr, Mac)) -> Option<(Ipv4Addr, Mac)> {
    match address {
        IpAddr::V4(address) => Some((address, mac)),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + n)
    }

    fn mac(n: u8) -> Mac {
        Mac::new(&[2, 0, 0, 0, 0, n]).unwrap()
    }

    /// A table that is not read again.
    fn with(neighbours: &[(u32, u8)], now: Instant) -> AddressUse {
        let neighbours = neighbours.iter().map(|&(n, owner)| (address(n), mac(owner))).collect();
        AddressUse { neighbours, read: Some(now), ..AddressUse::default() }
    }

    #[test]
    fn neighbour_is_another_machine() {
        let now = Instant::now();
        let mut table = with(&[(1, 1)], now);
        assert!(table.is_neighbour(address(1), Some(mac(2)), now));
        assert!(table.is_neighbour(address(1), None, now));
        assert!(!table.is_neighbour(address(1), Some(mac(1)), now), "its own address");
        assert!(!table.is_neighbour(address(2), Some(mac(2)), now));
    }

    #[test]
    fn proxy_arp_is_no_evidence() {
        let now = Instant::now();
        let answered: Vec<_> = (1..=ADDRESSES_MAX as u32).map(|n| (n, 9)).collect();
        assert!(with(&answered, now).is_neighbour(address(1), None, now));
        let all: Vec<_> = (1..=ADDRESSES_MAX as u32 + 1).map(|n| (n, 9)).collect();
        assert!(!with(&all, now).is_neighbour(address(1), None, now));
    }

    #[test]
    fn address_is_probed_once_for_an_offer() {
        let (mut table, now) = (AddressUse::default(), Instant::now());
        assert!(table.begin(address(1), now));
        assert!(table.is_pending(address(1), now));
        assert!(!table.begin(address(1), now + ANSWER_WAIT));
        assert!(!table.is_pending(address(1), now + ANSWER_WAIT));
        assert!(table.begin(address(1), now + VALID));
        let begun = (0..3 * PROBES_MAX as u32).filter(|&n| table.begin(address(n), now + VALID)).count();
        assert!(begun < PROBES_MAX && table.probed.len() == PROBES_MAX, "a flood is bounded");
        assert!(table.begin(address(PROBES_MAX as u32 * 2), now + 2 * VALID), "and over after a while");
    }

    #[tokio::test(start_paused = true)]
    async fn work_waits_for_its_answer() {
        let (mut table, start) = (AddressUse::default(), tokio::time::Instant::now());
        let declined = |n| Waiting::Declined(address(n), None);
        assert!(table.put_off(declined(1), start.into_std()));
        let Waiting::Declined(first, None) = table.next().await else { panic!("another") };
        assert_eq!((first, start.elapsed()), (address(1), DECLINED_WAIT));
        let kept =
            (0..3 * DECLINED_MAX as u32).filter(|&n| table.put_off(declined(n), start.into_std())).count();
        assert_eq!(kept, DECLINED_MAX);
    }
}
