//! What the doors share: the records behind a short lock, and the images by their landmarks.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;

use super::landmarks::Known;
use super::status::{MachineStatus, StatusReport};
use super::table::MachineTable;
use super::transfer_stats::TransferStats;
use super::{Mac, Protocol, RootEnd, Step};
use crate::boot;
use crate::image::Image;
use crate::images::ImageSet;

/// All machines. Every method takes a lock for a moment: none is to be called for each packet; that is what a
/// [`Meter`](super::Meter) is for.
#[derive(Debug)]
pub struct Registry {
    records: Mutex<MachineTable>,
    images: Mutex<Vec<Arc<Known>>>,
}

impl Registry {
    /// No machine and no image is known yet. `now` is where its time begins.
    pub fn new(now: Instant) -> Self {
        Self { records: Mutex::new(MachineTable::new(now)), images: Mutex::default() }
    }

    /// From now on these are the images, by these names. Those before are known as long as somebody reads them.
    pub fn serve(&self, images: &ImageSet) {
        let mut known_images = locked(&self.images);
        known_images.retain(|known| known.is_open());
        for served in images.iter() {
            if !known_images.iter().any(|known| known.is(&served.image) && *known.name == *served.name) {
                // In front: an image that is served by another name now has that one.
                known_images.insert(0, Arc::new(Known::new(&served.name, &served.image)));
            }
        }
    }

    /// DHCP offered a boot file to a machine, and an address unless that is another server's to give.
    pub fn offered(&self, mac: Mac, machine: boot::Machine, address: Option<Ipv4Addr>, now: Instant) {
        self.records().offered(mac, machine, address.map(IpAddr::V4), now);
    }

    /// When DHCP last offered a boot file to this machine.
    pub fn last_offered(&self, mac: Mac) -> Option<Instant> {
        self.records().last_offered(mac)
    }

    /// A machine asked for a boot file, and there is none for it.
    pub fn refused(&self, mac: Mac, why: &str, now: Instant) {
        self.records().refused(mac, why, now);
    }

    /// A machine took an address, be it one of ours or of another DHCP server. Means something only for machines that
    /// asked for a boot file before.
    pub fn leased(&self, mac: Mac, address: Ipv4Addr, now: Instant) {
        self.records().leased(mac, IpAddr::V4(address), now);
    }

    /// It turned out that this machine has this address.
    pub fn met(&self, mac: Mac, address: IpAddr, now: Instant) {
        self.records().met(mac, address.to_canonical(), now);
    }

    /// Addresses of machines whose MAC address is not known.
    pub fn strangers(&self) -> Vec<IpAddr> {
        self.records().strangers()
    }

    /// What the machines are doing; the one whose boot began last comes first. `now` and `time` are one moment.
    pub fn status(&self, now: Instant, time: Timestamp) -> StatusReport {
        let records = self.records();
        let mut machines: Vec<_> =
            records.iter().map(|record| MachineStatus::new(record, now, time)).collect();
        let forgotten = records.forgotten();
        drop(records);
        machines.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.key().cmp(&b.key())));
        StatusReport {
            isowire: env!("CARGO_PKG_VERSION").to_owned(),
            time: time.as_second(),
            forgotten,
            machines,
        }
    }

    pub(super) fn known_image(&self, image: &Image) -> Option<Arc<Known>> {
        locked(&self.images).iter().find(|known| known.is(image)).cloned()
    }

    pub(super) fn known_machine(&self, address: IpAddr) -> Option<Arc<TransferStats>> {
        self.records().at(address)
    }

    pub(super) fn join(&self, address: IpAddr, step: Step, now: Instant) -> Option<Arc<TransferStats>> {
        self.records().join(address, step, now)
    }

    pub(super) fn reached(
        &self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        step: Step,
        known: Option<&Arc<Known>>,
        now: Instant,
    ) {
        let image = known.map(|known| &known.name);
        self.records().reached(address, traffic, step, image, now);
    }

    pub(super) fn attached(
        &self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        door: Protocol,
        known: Option<&Arc<Known>>,
        now: Instant,
    ) {
        let image = known.map(|known| &known.name);
        self.records().attached(address, traffic, door, image, now);
    }

    pub(super) fn released(&self, address: IpAddr, traffic: &Arc<TransferStats>, end: RootEnd, now: Instant) {
        self.records().released(address, traffic, end, now);
    }

    fn records(&self) -> MutexGuard<'_, MachineTable> {
        locked(&self.records)
    }
}

/// A panic elsewhere leaves nothing half done that would matter to a statistic.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Registry {
    /// The names of all images that are known.
    pub(crate) fn images(&self) -> Vec<String> {
        locked(&self.images).iter().map(|known| known.name.to_string()).collect()
    }
}
