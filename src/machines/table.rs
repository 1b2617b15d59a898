//! The table of machines: assigns events to machines and applies them. Pure; time is an argument.
//!
//! A machine is identified by its MAC address once that is known, and by its IP address before. A
//! DHCP message carries both; without one, the neighbour table ([`neighbours`](super::neighbours))
//! maps one to the other.

mod carried;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::transfer_stats::TransferStats;
use super::{Mac, Protocol, RootEnd, Stage, Step};
use crate::boot::{self, Firmware};

/// Capacity of the table unless the operator chose one.
pub(crate) const MACHINES_MAX: usize = 4096;

/// Part of the machines evicted at once from a full table. A search per eviction would be expensive
/// while an attacker invents MAC addresses.
const FORGET_PART: usize = 16;

/// Most recent addresses kept per machine.
const ADDRESSES_MAX: usize = 4;

/// Most counters per boot. A machine that was known by several IP addresses before its MAC address
/// has more than one.
const TRAFFIC_MAX: usize = 4;

/// Longest time from the last file of the boot to the root file system. Slow machines take half of
/// it to start the kernel.
pub(super) const ROOT_LIMIT: Duration = Duration::from_secs(60);

/// Longest reason that is kept, in characters.
const REASON_MAX: usize = 200;

/// The key of a machine record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Id(u64);

/// The machine records, with indexes by MAC and IP address.
#[derive(Debug)]
pub(super) struct MachineTable {
    epoch: Instant,
    capacity: usize,
    machines: HashMap<Id, MachineRecord>,
    by_mac: HashMap<Mac, Id>,
    by_address: HashMap<IpAddr, Id>,
    next: u64,
    forgotten: u64,
}

/// A machine and its last boot.
#[derive(Debug)]
pub(super) struct MachineRecord {
    pub mac: Option<Mac>,
    /// Most recent first.
    pub addresses: Vec<IpAddr>,
    /// The description in its last DHCP message.
    pub platform: Option<boot::Platform>,
    /// Time of the last boot file offer.
    offered: Option<Instant>,
    /// Reason why the last request for a boot file got none.
    pub refusal: Option<String>,
    /// Number of boots seen.
    pub boots: u32,
    /// The boot before ended with a whole boot program.
    had_no_root: bool,
    pub boot: MachineBoot,
}

/// The last boot of a machine.
#[derive(Debug)]
pub(super) struct MachineBoot {
    pub began: Instant,
    /// The firmware that asked first.
    began_as: Option<Firmware>,
    pub step: Step,
    /// First time of each step; `None` if a later step came before it.
    pub reached: [Option<Instant>; Step::ALL.len()],
    pub image: Option<Arc<str>>,
    pub root: Option<RootState>,
    /// Boot files that were offered.
    pub offers: u32,
    /// Time at which the last initramfs had been sent whole.
    loaded: Option<Instant>,
    /// Time at which the last composed boot program had been sent whole.
    program_sent: Option<Instant>,
    last_event: Instant,
    /// One to [`TRAFFIC_MAX`] counters; new connections add to the first.
    pub traffic: Vec<Arc<TransferStats>>,
}

/// The state of a machine's connections to its root file system.
#[derive(Debug, Clone, Copy)]
pub(super) struct RootState {
    /// Protocol of the last connection.
    pub protocol: Protocol,
    pub connections: u32,
    /// Stage after the last connection ended.
    end: Stage,
}

impl MachineTable {
    /// Creates an empty table of `capacity` machines; counters measure time from `epoch`.
    pub(super) fn new(epoch: Instant, capacity: usize) -> Self {
        let (machines, by_mac, by_address) = Default::default();
        Self { epoch, capacity, machines, by_mac, by_address, next: 0, forgotten: 0 }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MachineRecord> {
        self.machines.values()
    }

    /// Returns the number of machines dropped because the table was full.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn strangers(&self) -> Vec<IpAddr> {
        let strangers = self.iter().filter(|record| record.mac.is_none());
        strangers.flat_map(|record| &record.addresses).copied().collect()
    }

    pub(super) fn offered(
        &mut self,
        mac: Mac,
        platform: boot::Platform,
        address: Option<IpAddr>,
        now: Instant,
    ) {
        let Some(id) = self.of_mac(mac, now) else { return };
        self.asked(id, platform.firmware, now);
        if let Some(record) = self.machines.get_mut(&id) {
            record.platform = Some(platform);
            record.offered = Some(now);
            record.refusal = None;
            record.boot.offers = record.boot.offers.saturating_add(1);
            record.boot.reach(Step::Offered, now);
        }
        // Without an address of ours, another DHCP server gives it.
        if let Some(address) = address {
            self.bind(id, address, now);
        }
    }

    /// Returns the time of the last boot file offer to this machine.
    pub(super) fn last_offered(&self, mac: Mac) -> Option<Instant> {
        self.machines.get(self.by_mac.get(&mac)?)?.offered
    }

    pub(super) fn refused(&mut self, mac: Mac, why: &str, now: Instant) {
        let Some(id) = self.of_mac(mac, now) else { return };
        if let Some(record) = self.machines.get_mut(&id) {
            record.refusal = Some(why.chars().take(REASON_MAX).collect());
            record.boot.last_event = now;
        }
    }

    pub(super) fn leased(&mut self, mac: Mac, address: IpAddr, now: Instant) {
        // A client that never asked for a boot file is not a machine.
        let Some(&id) = self.by_mac.get(&mac) else { return };
        self.bind(id, address, now);
        if let Some(record) = self.machines.get_mut(&id) {
            record.boot.reach(Step::Leased, now);
        }
    }

    pub(super) fn met(&mut self, mac: Mac, address: IpAddr, now: Instant) {
        if !self.by_mac.contains_key(&mac) {
            // A record without a MAC address at this IP address is the same machine.
            let stranger = self.by_address.get(&address).copied();
            let record = stranger.and_then(|id| Some((id, self.machines.get_mut(&id)?)));
            if let Some((id, record)) = record.filter(|(_, record)| record.mac.is_none()) {
                record.mac = Some(mac);
                self.by_mac.insert(mac, id);
                return;
            }
        }
        if let Some(id) = self.of_mac(mac, now) {
            self.bind(id, address, now);
        }
    }

    pub(super) fn is_on_root(&self, address: IpAddr) -> bool {
        self.root_at(address).is_some()
    }

    pub(super) fn root_at(&self, address: IpAddr) -> Option<Option<Mac>> {
        let record = self.machines.get(self.by_address.get(&address)?)?;
        record.boot.is_on_root().then_some(record.mac)
    }

    pub(super) fn has_booted(&self, address: IpAddr) -> bool {
        let record = self.by_address.get(&address).and_then(|id| self.machines.get(id));
        record.is_some_and(|record| record.boot.step >= Step::Kernel)
    }

    /// Returns the counters of the machine at `address`, if one is known.
    pub(super) fn at(&self, address: IpAddr) -> Option<Arc<TransferStats>> {
        self.machines.get(self.by_address.get(&address)?)?.boot.traffic.first().cloned()
    }

    /// Returns the counters for a new connection from `address` that begins with `step`. `None`
    /// when the table is full.
    pub(super) fn join(&mut self, address: IpAddr, step: Step, now: Instant) -> Option<Arc<TransferStats>> {
        let known = self.by_address.get(&address).copied();
        let id = known.or_else(|| self.add(None, address, now))?;
        let epoch = self.epoch;
        let record = self.machines.get_mut(&id)?;
        if record.boot.is_over(step) {
            record.begin(epoch, now);
        }
        record.boot.traffic.first().cloned()
    }

    /// Records a step of the boot that `traffic` belongs to. An event of an earlier boot is
    /// ignored.
    pub(super) fn reached(
        &mut self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        step: Step,
        image: Option<&Arc<str>>,
        now: Instant,
    ) {
        let Some(boot) = self.boot(address, traffic) else { return };
        boot.reach(step, now);
        if let Some(image) = image {
            boot.image = Some(Arc::clone(image));
        }
    }

    /// Records that a composed boot program was sent whole.
    pub(super) fn program_sent(&mut self, address: IpAddr, traffic: &Arc<TransferStats>, now: Instant) {
        if let Some(boot) = self.boot(address, traffic) {
            boot.last_event = now;
            boot.program_sent = Some(now);
        }
    }

    /// Records that an initramfs was sent whole.
    pub(super) fn loaded(&mut self, address: IpAddr, traffic: &Arc<TransferStats>, now: Instant) {
        if let Some(boot) = self.boot(address, traffic) {
            boot.last_event = now;
            boot.loaded = Some(now);
        }
    }

    pub(super) fn attached(
        &mut self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        protocol: Protocol,
        image: Option<&Arc<str>>,
        now: Instant,
    ) {
        self.reached(address, traffic, Step::Root, image, now);
        let Some(boot) = self.boot(address, traffic) else { return };
        let root = boot.root.get_or_insert(RootState { protocol, connections: 0, end: Stage::Attached });
        root.protocol = protocol;
        root.connections += 1;
    }

    pub(super) fn released(
        &mut self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        end: RootEnd,
        now: Instant,
    ) {
        let Some(boot) = self.boot(address, traffic) else { return };
        boot.last_event = now;
        let is_whole = boot.traffic.iter().filter_map(|traffic| traffic.root()).any(|root| root.is_whole());
        let Some(root) = &mut boot.root else { return };
        root.connections = root.connections.saturating_sub(1);
        root.end = match (root.protocol, is_whole, end) {
            // archiso's HTTP hook downloads the image to memory, so any end after all of it is
            // fine.
            (Protocol::Http, true, _) | (_, true, RootEnd::Released) => Stage::Copied,
            (_, _, RootEnd::Released) => Stage::Released,
            (_, _, RootEnd::Lost) => Stage::Lost,
        };
    }

    fn boot(&mut self, address: IpAddr, traffic: &Arc<TransferStats>) -> Option<&mut MachineBoot> {
        let record = self.machines.get_mut(self.by_address.get(&address)?)?;
        let is_of_boot = record.boot.traffic.iter().any(|of_boot| Arc::ptr_eq(of_boot, traffic));
        is_of_boot.then_some(&mut record.boot)
    }

    /// Begins a new boot when firmware asks for a boot file, unless the current boot explains it.
    fn asked(&mut self, id: Id, firmware: Firmware, now: Instant) {
        let epoch = self.epoch;
        let Some(record) = self.machines.get_mut(&id) else { return };
        if record.boot.is_over_for(firmware) {
            record.begin(epoch, now);
        }
        record.boot.began_as.get_or_insert(firmware);
    }

    fn of_mac(&mut self, mac: Mac, now: Instant) -> Option<Id> {
        self.by_mac.get(&mac).copied().or_else(|| self.add(Some(mac), None, now))
    }

    /// Adds a record; `None` when the table is full of machines on a root.
    fn add(&mut self, mac: Option<Mac>, address: impl Into<Option<IpAddr>>, now: Instant) -> Option<Id> {
        if self.machines.len() >= self.capacity {
            self.forget();
        }
        if self.machines.len() >= self.capacity {
            return None;
        }
        let id = Id(self.next);
        self.next += 1;
        let addresses: Vec<_> = address.into().into_iter().collect();
        self.by_address.extend(addresses.iter().map(|&address| (address, id)));
        self.by_mac.extend(mac.map(|mac| (mac, id)));
        let boot = MachineBoot::new(self.epoch, now);
        let record = MachineRecord {
            mac,
            addresses,
            platform: None,
            offered: None,
            refusal: None,
            boots: 1,
            had_no_root: false,
            boot,
        };
        self.machines.insert(id, record);
        Some(id)
    }

    /// Evicts machines, the longest silent first. Machines on a root stay. Machines that only sent
    /// DHCP messages go first, as an attacker can invent MAC addresses.
    fn forget(&mut self) {
        let idle = self.machines.iter().filter(|(_, record)| !record.boot.is_on_root());
        let mut idle: Vec<_> =
            idle.map(|(&id, record)| (record.boot.step > Step::Offered, record.last_seen(), id)).collect();
        idle.sort_unstable();
        for (_, _, id) in idle.into_iter().take(self.capacity.div_ceil(FORGET_PART)) {
            self.remove(id);
            self.forgotten += 1;
        }
    }

    fn remove(&mut self, id: Id) -> Option<MachineRecord> {
        let record = self.machines.remove(&id)?;
        for address in &record.addresses {
            self.by_address.remove(address);
        }
        if let Some(mac) = &record.mac {
            self.by_mac.remove(mac);
        }
        Some(record)
    }

    /// Assigns `address` to this machine alone.
    fn bind(&mut self, id: Id, address: IpAddr, now: Instant) {
        let before = self.by_address.get(&address).copied().filter(|&before| before != id);
        if let Some(before) = before {
            self.take_away(before, address, id);
        }
        let Some(record) = self.machines.get_mut(&id) else { return };
        record.addresses.retain(|&other| other != address);
        record.addresses.insert(0, address);
        record.boot.last_event = now;
        for gone in record.addresses.split_off(record.addresses.len().min(ADDRESSES_MAX)) {
            self.by_address.remove(&gone);
        }
        self.by_address.insert(address, id);
    }

    /// Moves an address to another machine. A record known by that address alone is merged into the
    /// machine's boot, unless it began earlier: then it belongs to another boot or machine.
    fn take_away(&mut self, from: Id, address: IpAddr, to: Id) {
        let Some(record) = self.machines.get_mut(&from) else { return };
        record.addresses.retain(|&other| other != address);
        if record.mac.is_some() || !record.addresses.is_empty() {
            return;
        }
        let stranger = self.remove(from);
        if let (Some(stranger), Some(record)) = (stranger, self.machines.get_mut(&to))
            && stranger.boot.began >= record.boot.began
        {
            record.boot.join(stranger.boot);
        }
    }
}

impl MachineRecord {
    /// Returns the time of the last message from or to the machine.
    pub(super) fn last_seen(&self) -> Instant {
        let sent = self.boot.traffic.iter().filter_map(|traffic| traffic.last_seen());
        sent.fold(self.boot.last_event, Instant::max)
    }

    /// Returns true if the boot before ended with a whole boot program, and this one has no root
    /// either. Firmware with Secure Boot says nothing to the server when it refuses a program.
    pub(super) fn had_no_root(&self) -> bool {
        self.had_no_root && self.boot.step < Step::Root
    }

    fn begin(&mut self, epoch: Instant, now: Instant) {
        self.boots = self.boots.saturating_add(1);
        self.had_no_root = self.boot.ended_with_program();
        self.boot = MachineBoot::new(epoch, now);
    }
}

impl MachineBoot {
    fn new(epoch: Instant, now: Instant) -> Self {
        let mut boot = Self {
            began: now,
            began_as: None,
            step: Step::Seen,
            reached: Default::default(),
            image: None,
            root: None,
            offers: 0,
            loaded: None,
            program_sent: None,
            last_event: now,
            traffic: vec![Arc::new(TransferStats::new(epoch))],
        };
        boot.reach(Step::Seen, now);
        boot
    }

    /// Returns true while the machine has a connection to its root.
    fn is_on_root(&self) -> bool {
        self.root.is_some_and(|root| root.connections > 0)
    }

    /// Returns true if a whole boot program was sent a while ago, and no root followed.
    pub(super) fn is_silent_after_program(&self, now: Instant) -> bool {
        let silence = self.program_sent.map(|sent| now.saturating_duration_since(sent));
        self.step < Step::Root && silence.is_some_and(|silence| silence > ROOT_LIMIT)
    }

    /// Returns true if the machine was sent all that it loads before its root.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.or(self.program_sent).is_some()
    }

    fn ended_with_program(&self) -> bool {
        self.program_sent.is_some() && self.step < Step::Root
    }

    /// Returns the bytes of images sent by `protocol`.
    pub(super) fn bytes_sent(&self, protocol: Protocol) -> u64 {
        self.traffic.iter().map(|stats| stats.bytes(protocol)).fold(0, u64::saturating_add)
    }

    pub(super) fn stage(&self) -> Stage {
        let root = self.root.map(|root| if root.connections > 0 { Stage::Attached } else { root.end });
        Stage::new(self.step, root)
    }

    fn reach(&mut self, step: Step, now: Instant) {
        self.last_event = now;
        if step < self.step {
            return;
        }
        self.step = step;
        if let Some(reached) = self.reached.get_mut(step as usize) {
            reached.get_or_insert(now);
        }
    }

    /// Returns true if a request of `firmware` for a boot file ends this boot. iPXE that was loaded
    /// as a boot program sends one more request in the same boot.
    fn is_over_for(&self, firmware: Firmware) -> bool {
        let is_loaded_ipxe = firmware == Firmware::Ipxe && self.began_as != Some(Firmware::Ipxe);
        self.step > Step::Leased && !(is_loaded_ipxe && self.step <= Step::Menu)
    }

    /// Returns true if `step` on a new connection ends this boot: a running kernel loads no boot
    /// program. With our own DHCP server the request for a boot file has already ended the boot.
    fn is_over(&self, step: Step) -> bool {
        match step {
            // nbd-client and Linux's NFS client connect again within a boot.
            Step::Seen | Step::Offered | Step::Leased | Step::Root => false,
            // PXELINUX and iPXE load menus and modules on many connections before a kernel.
            Step::Loader | Step::Menu => self.step >= Step::Kernel,
            Step::Kernel | Step::Initramfs => self.step == Step::Root && !self.is_on_root(),
        }
    }

    /// Returns the seconds from the start of the boot to `then`, in whole milliseconds.
    pub(super) fn seconds_until(&self, then: Instant) -> f64 {
        then.saturating_duration_since(self.began).as_millis() as f64 / 1000.0
    }

    /// Merges a boot that was recorded under another address.
    fn join(&mut self, other: MachineBoot) {
        self.step = self.step.max(other.step);
        self.last_event = self.last_event.max(other.last_event);
        self.offers = self.offers.saturating_add(other.offers);
        self.loaded = self.loaded.max(other.loaded);
        self.program_sent = self.program_sent.max(other.program_sent);
        for (mine, its) in self.reached.iter_mut().zip(other.reached) {
            *mine = [*mine, its].into_iter().flatten().min();
        }
        self.image = other.image.or(self.image.take());
        self.root = match (self.root, other.root) {
            (Some(mine), Some(its)) => {
                Some(RootState { connections: mine.connections + its.connections, ..its })
            }
            (mine, its) => its.or(mine),
        };
        self.traffic.extend(other.traffic);
        self.traffic.truncate(TRAFFIC_MAX);
    }
}

#[cfg(test)]
pub(super) mod tests;
