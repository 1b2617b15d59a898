//! The table of machines: assigns events to machines and applies them. Pure; time is an argument.
//!
//! A machine is identified by its MAC address once that is known, and by its IP address before. A
//! DHCP message carries both; without one, the neighbour table ([`neighbours`](super::neighbours))
//! maps one to the other.

mod carried;
mod up;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::boot::{MachineBoot, RootState};
use super::refused::Refused;
use super::requests::FileRequest;
use super::transfer_stats::TransferStats;
use super::{Mac, Protocol, RefusedBy, RootEnd, Stage, Step};
use crate::boot::{self, Firmware};
use crate::guid::Guid;

/// Capacity of the table unless the operator chose one.
pub(crate) const MACHINES_MAX: usize = 4096;

/// Part of the machines evicted at once from a full table. A search per eviction would be expensive
/// while an attacker invents MAC addresses.
const FORGET_PART: usize = 16;

/// Most recent addresses kept per machine.
const ADDRESSES_MAX: usize = 4;

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
    /// Addresses of this host. Its own clients are no machines.
    own: HashSet<IpAddr>,
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
    /// Reason why its last request was refused.
    pub refusal: Option<Refused>,
    /// The host name that it sent by DHCP.
    pub host_name: Option<Box<str>>,
    /// The UUID that it sent by DHCP.
    pub uuid: Option<Guid>,
    /// Number of boots seen.
    pub boots: u32,
    /// The boot before ended with a whole boot program.
    had_no_root: bool,
    /// When the machine asked what to boot, for the last boot before this one that was done, and whether
    /// its system said so.
    done_before: Option<(Instant, bool)>,
    pub boot: MachineBoot,
}

impl MachineTable {
    /// Creates an empty table of `capacity` machines; counters measure time from `epoch`.
    pub(super) fn new(epoch: Instant, capacity: usize) -> Self {
        let (machines, by_mac, by_address, own) = Default::default();
        Self { epoch, capacity, machines, by_mac, by_address, next: 0, forgotten: 0, own }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &MachineRecord> {
        self.machines.values()
    }

    /// Replaces the addresses of this host.
    pub(super) fn set_own(&mut self, addresses: HashSet<IpAddr>) {
        self.own = addresses;
    }

    /// Returns whether a client at this address runs on this host.
    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.own.contains(&address)
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
            record.boot.story.tell(format_args!("boot file offered to {platform}"), now);
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

    /// Records the boot file of the last offer.
    pub(super) fn boot_file(&mut self, mac: Mac, file: &str) {
        let record = self.by_mac.get(&mac).and_then(|id| self.machines.get_mut(id));
        if let Some(record) = record {
            record.boot.offered_file = Some(file.into());
        }
    }

    pub(super) fn refused(&mut self, mac: Mac, by: RefusedBy, why: &str, now: Instant) {
        let Some(id) = self.of_mac(mac, now) else { return };
        let epoch = self.epoch;
        let Some(record) = self.machines.get_mut(&id) else { return };
        // A machine that had its kernel begins again.
        if record.boot.step >= Step::Kernel {
            record.begin(epoch, now);
        }
        record.refuse(by, why, now);
    }

    /// Records that a service refused the machine at an address; unknown ones are no machines.
    pub(super) fn refused_at(&mut self, address: IpAddr, by: RefusedBy, why: &str, now: Instant) {
        if let Some(record) = self.record_at(address) {
            record.refuse(by, why, now);
        }
    }

    /// Records a DHCP message of a system that runs, or that gives its address back.
    pub(super) fn heard(&mut self, mac: Mac, is_up: bool, now: Instant) {
        let record = self.by_mac.get(&mac).and_then(|id| self.machines.get_mut(id));
        if let Some(record) = record {
            record.boot.heard(is_up, now);
        }
    }

    /// Records a file that begins to be sent.
    pub(super) fn opened(
        &mut self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        request: FileRequest<'_>,
        now: Instant,
    ) {
        let Some(boot) = self.boot(address, traffic) else { return };
        boot.last_event = now;
        let sent = boot.bytes_sent(request.protocol);
        boot.requests.opened(request, sent, now);
        if let Some(file) = boot.requests.current() {
            boot.story.tell(format_args!("asked for {} over {}", file.path, file.protocol), now);
        }
    }

    /// Records that all of the file was sent that is being sent.
    pub(super) fn delivered(&mut self, address: IpAddr, traffic: &Arc<TransferStats>, now: Instant) {
        let Some(boot) = self.boot(address, traffic) else { return };
        boot.last_event = now;
        boot.requests.delivered();
        if let Some(file) = boot.requests.current() {
            boot.story.tell(format_args!("got all of {}", file.path), now);
        }
    }

    /// Records a request for a file that is not there. Only `is_boot` makes the client a machine.
    pub(super) fn missed(
        &mut self,
        address: IpAddr,
        path: &str,
        protocol: Protocol,
        is_boot: bool,
        now: Instant,
    ) {
        if is_boot {
            self.join(address, Step::Seen, now);
        }
        let Some(record) = self.record_at(address) else { return };
        record.boot.last_event = now;
        record.boot.requests.missed(path, protocol);
        if let Some(missing) = record.boot.requests.missing() {
            record
                .boot
                .story
                .tell(format_args!("asked for {} over {protocol}: not there", missing.path), now);
        }
    }

    /// Takes a sample of each machine's counters.
    pub(super) fn sample(&mut self, now: Instant) {
        for record in self.machines.values_mut() {
            let bytes = record.boot.all_bytes_sent();
            record.boot.rate.sample(bytes, now);
        }
    }

    pub(super) fn leased(&mut self, mac: Mac, address: IpAddr, now: Instant) {
        // A client that never asked for a boot file is not a machine.
        let Some(&id) = self.by_mac.get(&mac) else { return };
        self.bind(id, address, now);
        if let Some(record) = self.machines.get_mut(&id) {
            record.boot.reach(Step::Leased, now);
            record.boot.story.tell(format_args!("has the address {address}"), now);
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

    pub(super) fn has_root(&self, mac: Mac) -> bool {
        let record = self.by_mac.get(&mac).and_then(|id| self.machines.get(id));
        record.is_some_and(|record| record.boot.is_on_root())
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
    /// when the table is full, and for a client on this host, unless DHCP gave it the address.
    pub(super) fn join(&mut self, address: IpAddr, step: Step, now: Instant) -> Option<Arc<TransferStats>> {
        let known = self.by_address.get(&address).copied();
        let id = match known {
            Some(id) => id,
            None if self.is_own(address) => return None,
            None => self.add(None, address, now)?,
        };
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
        if let Some(boot) = self.boot(address, traffic) {
            boot.reach_with_image(step, image, now);
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

    /// Records a connection to the root; one of an earlier boot is ignored. The address may belong
    /// to another machine by now.
    pub(super) fn attached(
        &mut self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        protocol: Protocol,
        image: Option<&Arc<str>>,
        now: Instant,
    ) {
        let Some(record) = self.record_of(address, traffic) else { return };
        record.refusal = None;
        let boot = &mut record.boot;
        boot.reach_with_image(Step::Root, image, now);
        let new = RootState { protocol, connections: 0, end: Stage::Attached, loss: None };
        let root = boot.root.get_or_insert(new);
        root.protocol = protocol;
        root.connections += 1;
        root.loss = None;
        boot.is_up = None;
        boot.story.tell(format_args!("root attached over {protocol}"), now);
    }

    /// Records the end of a connection to the root, as [`Self::attached`] does its beginning.
    pub(super) fn released(
        &mut self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        end: RootEnd,
        now: Instant,
    ) {
        if let Some(record) = self.record_of(address, traffic) {
            record.boot.released(end, now);
        }
    }

    fn record_at(&mut self, address: IpAddr) -> Option<&mut MachineRecord> {
        self.machines.get_mut(self.by_address.get(&address)?)
    }

    fn boot(&mut self, address: IpAddr, traffic: &Arc<TransferStats>) -> Option<&mut MachineBoot> {
        let record = self.record_at(address)?;
        record.boot.has(traffic).then_some(&mut record.boot)
    }

    /// Returns the machine whose boot `traffic` belongs to. Looks through all of them if it is not
    /// the one at `address`.
    fn record_of(&mut self, address: IpAddr, traffic: &Arc<TransferStats>) -> Option<&mut MachineRecord> {
        let at_address = self.by_address.get(&address).copied();
        match at_address.filter(|id| self.machines.get(id).is_some_and(|record| record.boot.has(traffic))) {
            Some(id) => self.machines.get_mut(&id),
            None => self.machines.values_mut().find(|record| record.boot.has(traffic)),
        }
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
            host_name: None,
            uuid: None,
            boots: 1,
            had_no_root: false,
            done_before: None,
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

    fn refuse(&mut self, by: RefusedBy, why: &str, now: Instant) {
        let why: String = why.chars().take(REASON_MAX).collect();
        self.boot.story.tell(format_args!("refused: {why}"), now);
        self.refusal = Some(Refused { by, why });
        self.boot.last_event = now;
    }

    fn begin(&mut self, epoch: Instant, now: Instant) {
        self.refusal = None;
        self.boots = self.boots.saturating_add(1);
        self.had_no_root = self.boot.ended_with_program();
        self.done_before = self.boot.done().or(self.done_before);
        self.boot = MachineBoot::new(epoch, now);
    }
}

#[cfg(test)]
pub(super) mod tests;
