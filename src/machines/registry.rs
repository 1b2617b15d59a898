//! State shared by all services: the machine table behind a short lock, and the known images.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::boot_ranges::TrackedImage;
use super::carried::CarriedMachine;
use super::diagnosis::{FaultyImage, Surroundings, loading_rate};
use super::requests::FileRequest;
use super::server_status::ImageStatus;
use super::site::Site;
use super::status::{
    Clock, DrainStatus, FORMAT, FaultStatus, MachineStatus, StatusReport, StoryLine, VerificationStatus,
};
use super::table::{MACHINES_MAX, MachineTable};
use super::transfer_stats::TransferStats;
use super::up::{FinishedBoot, KnownMachine};
use super::{Mac, Protocol, RefusedBy, RootEnd, Step, UpReport};
use crate::boot;
use crate::guid::Guid;
use crate::image::Image;
use crate::images::{ImageSet, Verifications};
use crate::locked::locked;
use crate::panics;
use crate::recent_lines::{self, LogLine, Subject};

/// Machines that load at the same time, from which on there is a usual rate.
const LOADING_MIN: usize = 3;

/// Time between a line of the log and the record of what it tells.
const SAME_TIME: Duration = Duration::from_secs(1);

/// All machines. Every method briefly takes a lock, so none may be called per packet; a
/// [`ConnectionTracker`](super::ConnectionTracker) counts packets.
#[derive(Debug)]
pub struct Registry {
    table: Mutex<MachineTable>,
    images: Mutex<Vec<Arc<TrackedImage>>>,
    /// Set once, with `verify`.
    verifications: OnceLock<Arc<Verifications>>,
    site: Mutex<Arc<Site>>,
    /// Set once, so that the time of an event is the same in all reports.
    clock: OnceLock<Clock>,
    /// Time since which new machines are to go to other servers.
    draining: Mutex<Option<Instant>>,
}

/// An image, and the blocks that a machine read of it while it booted.
#[derive(Debug)]
pub(crate) struct LearnedBoot {
    pub(crate) name: Arc<str>,
    pub(crate) image: Arc<Image>,
    /// In the order of their first reads.
    pub(crate) blocks: Vec<u32>,
}

impl Registry {
    /// Creates an empty registry. `now` is the epoch of its counters.
    pub fn new(now: Instant) -> Self {
        Self::with_capacity(now, MACHINES_MAX)
    }

    /// Creates an empty registry of so many machines.
    pub(crate) fn with_capacity(now: Instant, machines: usize) -> Self {
        Self {
            table: Mutex::new(MachineTable::new(now, machines)),
            images: Mutex::default(),
            verifications: OnceLock::new(),
            site: Mutex::default(),
            clock: OnceLock::new(),
            draining: Mutex::default(),
        }
    }

    /// Lets new machines go to other servers, or no longer.
    pub(crate) fn set_draining(&self, is_draining: bool, now: Instant) {
        let mut draining = locked(&self.draining);
        *draining = is_draining.then(|| draining.unwrap_or(now));
    }

    /// Returns whether new machines are to go to other servers.
    pub(crate) fn is_draining(&self) -> bool {
        locked(&self.draining).is_some()
    }

    /// Has the status report these verifications too.
    pub(crate) fn report_verifications(&self, verifications: Arc<Verifications>) {
        // Called once, at the start.
        let _ = self.verifications.set(verifications);
    }

    /// Fixes the time of day that `now` is. Later changes of the system's clock are not followed.
    pub(crate) fn set_clock(&self, now: Instant, time: Timestamp) {
        self.clock.get_or_init(|| Clock::new(now, time));
    }

    /// Changes what is known of this server and its network.
    pub(crate) fn know(&self, change: impl FnOnce(&mut Site)) {
        change(Arc::make_mut(&mut locked(&self.site)));
    }

    /// Replaces the addresses of this host, whose clients are no machines. Those of loopback are
    /// always among them.
    pub(crate) fn set_own_addresses(&self, addresses: HashSet<IpAddr>) {
        self.table().set_own(addresses);
    }

    /// Replaces the images and their names. Earlier images stay known while a client reads them.
    pub fn serve(&self, images: &ImageSet) {
        self.know(|site| site.images = images.iter().map(|served| ImageStatus::new(served)).collect());
        let mut known_images = locked(&self.images);
        known_images.retain(|known| known.is_open());
        for served in images.iter() {
            if !known_images.iter().any(|known| known.is(&served.image) && *known.name == *served.name) {
                // At the front, so that a renamed image is found by its new name.
                known_images.insert(0, Arc::new(TrackedImage::new(&served.name, &served.image)));
            }
        }
    }

    /// Records that DHCP offered a boot file, and an address unless another server assigns it.
    pub fn offered(&self, mac: Mac, platform: boot::Platform, address: Option<Ipv4Addr>, now: Instant) {
        self.table().offered(mac, platform, address.map(IpAddr::V4), now);
    }

    /// Returns the time of the last boot file offer to this machine.
    pub(crate) fn last_offered(&self, mac: Mac) -> Option<Instant> {
        self.table().last_offered(mac)
    }

    /// Records the boot file of the last offer, a path or a URL.
    pub(crate) fn boot_file(&self, mac: Mac, file: &str) {
        self.table().boot_file(mac, file);
    }

    /// Records that a machine asked for a boot file and got none.
    pub(crate) fn refused(&self, mac: Mac, by: RefusedBy, why: &str, now: Instant) {
        self.table().refused(mac, by, why, now);
    }

    /// Records that a service refused the machine at this address; unknown addresses are ignored.
    pub(crate) fn refused_at(&self, address: IpAddr, by: RefusedBy, why: &str, now: Instant) {
        self.table().refused_at(address.to_canonical(), by, why, now);
    }

    /// Records a DHCP message of a system that was booted: it is up, or it gives its address back.
    pub(crate) fn heard(&self, mac: Mac, is_up: bool, now: Instant) {
        self.table().heard(mac, is_up, now);
    }

    /// Returns whether the machine at this address is known, and not by another MAC address than
    /// this.
    pub(crate) fn is_machine(&self, mac: Option<Mac>, address: IpAddr) -> bool {
        self.table().is_machine(mac, address)
    }

    /// Returns the boots that are done.
    pub(crate) fn finished(&self) -> Vec<FinishedBoot> {
        let Some(clock) = self.clock.get() else { return Vec::new() };
        let table = self.table();
        let finished = table.finished().map(|(machine, asked, by_call)| FinishedBoot {
            machine,
            asked: clock.seconds(asked),
            by_call,
        });
        finished.collect()
    }

    /// Returns `now`, which is also `time`, in seconds since 1970. In this process times of boots are
    /// comparable with it, whatever is done to the system's clock; they would not be with `time`.
    pub(crate) fn seconds(&self, now: Instant, time: Timestamp) -> i64 {
        self.clock.get_or_init(|| Clock::new(now, time)).seconds(now)
    }

    /// Returns the machine at this address.
    pub(crate) fn known(&self, address: IpAddr) -> Option<KnownMachine> {
        self.table().known(address)
    }

    /// Returns whether there is a machine with this MAC address.
    pub(crate) fn knows(&self, mac: Mac) -> bool {
        self.table().knows(mac)
    }

    /// Takes the secret of the machine at this address; returns false if it was taken in this boot.
    pub(crate) fn take_secret(&self, address: IpAddr) -> bool {
        self.table().take_secret(address)
    }

    /// Records that the system of the machine at this address says that it is up.
    pub(crate) fn phoned_home(&self, address: IpAddr, report: UpReport, now: Instant) {
        self.table().phoned_home(address, report, now);
    }

    /// Records the UUID that a machine sent by DHCP.
    pub(crate) fn identified(&self, mac: Mac, uuid: Guid) {
        self.table().identified(mac, uuid);
    }

    /// Records the host name that a machine sent by DHCP.
    pub(crate) fn named(&self, mac: Mac, host_name: &str) {
        self.table().named(mac, host_name);
    }

    /// Records a request for a file that is not there. Only a request that firmware or a loader
    /// makes, `is_boot`, makes its client a machine.
    pub(crate) fn missed(
        &self,
        address: IpAddr,
        path: &str,
        protocol: Protocol,
        is_boot: bool,
        now: Instant,
    ) {
        self.table().missed(address.to_canonical(), path, protocol, is_boot, now);
    }

    /// Takes a sample of what each machine was sent, from which rates follow.
    pub(crate) fn sample(&self, now: Instant) {
        self.table().sample(now);
    }

    /// Records the address that a machine got from this or another DHCP server. Ignored for
    /// machines that never asked for a boot file.
    pub(crate) fn leased(&self, mac: Mac, address: Ipv4Addr, now: Instant) {
        self.table().leased(mac, IpAddr::V4(address), now);
    }

    /// Records that this machine has this address.
    pub(crate) fn met(&self, mac: Mac, address: IpAddr, now: Instant) {
        self.table().met(mac, address.to_canonical(), now);
    }

    /// Returns whether the machine at this address has a connection to its root.
    pub(crate) fn is_on_root(&self, address: Ipv4Addr) -> bool {
        self.table().is_on_root(IpAddr::V4(address))
    }

    /// Returns the MAC address, if it is known, of the machine that has a connection to its root
    /// from this address; `None` if there is no such machine.
    pub(crate) fn root_at(&self, address: Ipv4Addr) -> Option<Option<Mac>> {
        self.table().root_at(IpAddr::V4(address))
    }

    /// Returns whether the machine with this MAC address has a connection to its root.
    pub(crate) fn has_root(&self, mac: Mac) -> bool {
        self.table().has_root(mac)
    }

    /// Returns whether the machine at this address loaded a kernel from here in its last boot.
    pub(crate) fn has_booted(&self, address: impl Into<IpAddr>) -> bool {
        self.table().has_booted(address.into())
    }

    /// Returns the addresses of machines whose MAC address is unknown.
    pub(crate) fn strangers(&self) -> Vec<IpAddr> {
        self.table().strangers()
    }

    /// Reports all machines, the latest boot first. `now` and `time` are the same moment.
    pub(crate) fn status(&self, now: Instant, time: Timestamp) -> StatusReport {
        let clock = *self.clock.get_or_init(|| Clock::new(now, time));
        let site = Arc::clone(&locked(&self.site));
        let faulty = self.faulty_images();
        let table = self.table();
        let around = Surroundings { site: &site, usual_rate: usual_rate(&table, now), faulty: &faulty };
        let machines = table.iter().map(|record| MachineStatus::new(record, around, clock, now));
        let mut machines: Vec<_> = machines.collect();
        let forgotten = table.forgotten();
        drop(table);
        machines.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.key().cmp(&b.key())));
        let draining = locked(&self.draining).map(|since| DrainStatus {
            since: clock.seconds(since),
            left: machines.iter().filter(|machine| machine.needs_this_server(clock.seconds(now))).count(),
        });
        StatusReport {
            draining,
            format: FORMAT,
            isowire: env!("CARGO_PKG_VERSION").to_owned(),
            time: clock.seconds(now),
            forgotten,
            panics: panics::count(),
            faults: faulty.iter().map(|faulty| FaultStatus::new(faulty, clock)).collect(),
            verifications: self.verifications(),
            services: site.services.clone(),
            advice: site.advice.clone(),
            images: self.image_reports(&site),
            machines,
        }
    }

    /// Returns the lines of the log about the last boot of a machine; `None` if it is unknown. `now`
    /// and `time` are the same moment.
    pub(crate) fn log_of(&self, machine: Subject, now: Instant, time: Timestamp) -> Option<Vec<StoryLine>> {
        let clock = *self.clock.get_or_init(|| Clock::new(now, time));
        let (subjects, began) = self.table().subjects(machine)?;
        let lines = recent_lines::about(subjects.into_iter());
        // An address may have been another machine's before.
        let of_boot = lines.into_iter().filter(|line| line.at + SAME_TIME >= began);
        let line =
            |line: LogLine| StoryLine { time: clock.seconds(line.at), text: line.text.into(), times: 1 };
        Some(of_boot.map(line).collect())
    }

    /// Returns all machines as plain data, for the process that follows this one.
    pub(crate) fn carried(&self, now: Instant) -> Vec<CarriedMachine> {
        self.table().carried(now)
    }

    /// Adds the machines that another process had. Call it when the images are served.
    pub(crate) fn add_carried(&self, machines: Vec<CarriedMachine>, now: Instant) {
        let images = locked(&self.images).clone();
        let find = |identity| images.iter().find(|known| known.identity() == Some(identity)).cloned();
        self.table().add_carried(machines, now, find);
    }

    fn image_reports(&self, site: &Site) -> Vec<ImageStatus> {
        let (known_images, mut images) = (locked(&self.images), site.image_reports());
        // It grows while machines read.
        for image in images.iter_mut().filter(|image| image.cached.is_some()) {
            let known = known_images.iter().find(|known| *known.name == *image.name);
            image.cached = known.and_then(|known| known.cached()).or(image.cached);
        }
        images
    }

    fn faulty_images(&self) -> Vec<FaultyImage> {
        let known_images = locked(&self.images);
        let faulty = known_images
            .iter()
            .filter_map(|known| Some(FaultyImage { name: Arc::clone(&known.name), fault: known.fault()? }));
        faulty.collect()
    }

    fn verifications(&self) -> Vec<VerificationStatus> {
        let reports = self.verifications.get().map(|verifications| verifications.report());
        reports.into_iter().flatten().map(VerificationStatus::from).collect()
    }

    /// Takes what was learned of boots since the last call.
    pub(crate) fn learned(&self, now: Instant) -> Vec<LearnedBoot> {
        let known_images = locked(&self.images);
        let learned = known_images.iter().filter_map(|known| {
            let (image, blocks) = known.learned(now)?;
            Some(LearnedBoot { name: Arc::clone(&known.name), image, blocks })
        });
        learned.collect()
    }

    pub(super) fn known_image(&self, image: &Image) -> Option<Arc<TrackedImage>> {
        locked(&self.images).iter().find(|known| known.is(image)).cloned()
    }

    pub(super) fn known_machine(&self, address: IpAddr) -> Option<Arc<TransferStats>> {
        self.table().at(address)
    }

    pub(super) fn join(&self, address: IpAddr, step: Step, now: Instant) -> Option<Arc<TransferStats>> {
        self.table().join(address, step, now)
    }

    pub(super) fn reached(
        &self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        step: Step,
        known: Option<&Arc<TrackedImage>>,
        now: Instant,
    ) {
        let image = known.map(|known| &known.name);
        self.table().reached(address, traffic, step, image, now);
    }

    pub(super) fn opened(
        &self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        request: FileRequest<'_>,
        now: Instant,
    ) {
        self.table().opened(address, traffic, request, now);
    }

    pub(super) fn delivered(&self, address: IpAddr, traffic: &Arc<TransferStats>, now: Instant) {
        self.table().delivered(address, traffic, now);
    }

    pub(super) fn program_sent(&self, address: IpAddr, traffic: &Arc<TransferStats>, now: Instant) {
        self.table().program_sent(address, traffic, now);
    }

    pub(super) fn loaded(&self, address: IpAddr, traffic: &Arc<TransferStats>, now: Instant) {
        self.table().loaded(address, traffic, now);
    }

    pub(super) fn attached(
        &self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        protocol: Protocol,
        known: Option<&Arc<TrackedImage>>,
        now: Instant,
    ) {
        let image = known.map(|known| &known.name);
        self.table().attached(address, traffic, protocol, image, now);
    }

    pub(super) fn released(&self, address: IpAddr, traffic: &Arc<TransferStats>, end: RootEnd, now: Instant) {
        self.table().released(address, traffic, end, now);
    }

    fn table(&self) -> MutexGuard<'_, MachineTable> {
        locked(&self.table)
    }
}

/// Returns the bytes per second of most machines that load at present.
fn usual_rate(table: &MachineTable, now: Instant) -> Option<u64> {
    let mut rates: Vec<_> = table.iter().filter_map(|record| loading_rate(&record.boot, now)).collect();
    rates.sort_unstable();
    // Of two, nobody can tell which is the usual one.
    rates.get(rates.len() / 2).copied().filter(|_| rates.len() >= LOADING_MIN)
}

#[cfg(test)]
impl Registry {
    /// Returns the names of all known images.
    pub(crate) fn images(&self) -> Vec<String> {
        locked(&self.images).iter().map(|known| known.name.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_boots_do_not_follow_the_clock() {
        let (start, time) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let registry = Registry::new(start);
        registry.set_clock(start, time);
        // The host slept meanwhile, or its clock was set.
        let set = Timestamp::from_second(9000).unwrap();
        assert_eq!(registry.seconds(start + Duration::from_secs(60), set), 60);
    }

    #[test]
    fn log_of_a_machine_begins_with_its_boot() {
        let (start, time) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let later = |seconds| start + Duration::from_secs(seconds);
        let mac = Mac::new(&[2, 0, 0x5e, 0, 0x53, 1]).unwrap();
        let address = IpAddr::from([203, 0, 113, 1]);
        let registry = Registry::new(start);
        registry.set_clock(start, time);
        let (by_mac, by_address) = (Subject::Mac(mac), Subject::Address(address));
        assert_eq!(registry.log_of(by_mac, start, time), None, "an unknown machine");
        recent_lines::note(by_address, "of the one that had the address before", start);
        registry.met(mac, address, later(60));
        recent_lines::note(by_mac, "DHCP lease", later(60));
        recent_lines::note(by_address, "file sent", later(61));
        for name in [by_mac, by_address] {
            let lines = registry.log_of(name, start, time).unwrap();
            let lines: Vec<_> = lines.iter().map(|line| (line.time, line.text.as_str())).collect();
            assert_eq!(lines, [(60, "DHCP lease"), (61, "file sent")]);
        }
    }
}
