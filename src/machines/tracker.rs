//! What a door tells of one connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::boot_ranges::{RangeKind, TrackedImage};
use super::transfer_stats::TransferStats;
use super::{Protocol, Registry, RootEnd, Step};
use crate::export::Batch;
use crate::export::batch::Chunk;
use crate::image::Image;

/// Tells the registry what one connection, or one transfer, is sent.
///
/// A peer becomes a machine with the first byte that belongs to a boot: whoever only looks around leaves no record.
#[derive(Debug)]
pub struct ConnectionTracker {
    registry: Arc<Registry>,
    peer: IpAddr,
    door: Protocol,
    /// The image that was sent of last.
    known: Option<Arc<TrackedImage>>,
    /// The counters of the machine, once it is one.
    traffic: Option<Arc<TransferStats>>,
    /// They are those of the boot that this connection belongs to: it said what it is about.
    has_joined: bool,
    /// The step that was last told.
    step: Option<Step>,
    /// The registry counts this connection as one to the root.
    is_root: bool,
    last_seen: Instant,
}

impl ConnectionTracker {
    /// For a connection of `peer` that begins now.
    pub fn new(registry: Arc<Registry>, peer: IpAddr, door: Protocol, now: Instant) -> Self {
        let peer = peer.to_canonical();
        let traffic = registry.known_machine(peer);
        Self {
            registry,
            peer,
            door,
            known: None,
            traffic,
            has_joined: false,
            step: None,
            is_root: false,
            last_seen: now,
        }
    }

    /// Counts the first `len` bytes of `batch`, which left: to be called before [`Batch::advance`].
    pub fn sent(&mut self, batch: &Batch, len: u64, now: Instant) {
        self.last_seen = now;
        let payload = batch.image().map_or(0, |image| self.pass_ranges(image, batch, len));
        if let Some(traffic) = &self.traffic {
            traffic.add(self.door, payload, now);
        }
    }

    /// Counts the ranges of `image` in the first `len` bytes of `batch`, and returns how many bytes they have.
    fn pass_ranges(&mut self, image: &Image, batch: &Batch, len: u64) -> u64 {
        let Some(known) = self.turn_to(image) else { return 0 };
        let (mut left, mut payload) = (len, 0);
        for chunk in batch.chunks() {
            let len = chunk.len().min(left);
            if let Chunk::Image(range) = chunk {
                payload += len;
                self.pass(&known, range.offset(), len);
            }
            left -= len;
            if left == 0 {
                break;
            }
        }
        self.known = Some(known);
        payload
    }

    /// The machine got something that is not in an image and belongs to this step: a menu, a boot program.
    pub fn reached(&mut self, step: Step, now: Instant) {
        self.last_seen = now;
        self.reach(step, None);
    }

    /// The machine chose `image` for its root, and has read nothing of it yet.
    pub(crate) fn attached(&mut self, image: &Image, now: Instant) {
        self.last_seen = now;
        let known = self.turn_to(image);
        self.attach(known.as_ref());
        self.known = known;
    }

    /// The connection is over. One that is dropped instead was lost.
    pub(crate) fn ended(mut self, end: RootEnd, now: Instant) {
        self.last_seen = now;
        self.release(end);
    }

    /// What is known of an image. It is taken out while bytes are counted: to clone it would have all connections of
    /// this server write to one counter.
    fn turn_to(&mut self, image: &Image) -> Option<Arc<TrackedImage>> {
        self.known.take().filter(|known| known.is(image)).or_else(|| self.registry.known_image(image))
    }

    fn pass(&mut self, known: &Arc<TrackedImage>, offset: u64, len: u64) {
        for (place, from, len) in known.ranges.within(offset, len) {
            match place {
                RangeKind::File(step) if self.door.loads_files() => self.reach(step, Some(known)),
                // Nobody takes a root by TFTP.
                RangeKind::Root { airootfs, at } if self.door != Protocol::Tftp => {
                    self.attach(Some(known));
                    if let Some(traffic) = &self.traffic {
                        traffic.cover(known, airootfs, at + from, len);
                    }
                }
                RangeKind::File(_) | RangeKind::Root { .. } => {}
            }
        }
    }

    fn reach(&mut self, step: Step, known: Option<&Arc<TrackedImage>>) {
        if self.step == Some(step) {
            return;
        }
        self.step = Some(step);
        // The loader and the menu are those of the default image, whatever is chosen then.
        let known = known.filter(|_| step >= Step::Kernel);
        self.join(step);
        if let Some(traffic) = &self.traffic {
            self.registry.reached(self.peer, traffic, step, known, self.last_seen);
        }
    }

    fn attach(&mut self, known: Option<&Arc<TrackedImage>>) {
        if self.is_root {
            return;
        }
        // Where the registry has no room, the next bytes need not ask again.
        self.is_root = true;
        self.join(Step::Root);
        if let Some(traffic) = &self.traffic {
            self.registry.attached(self.peer, traffic, self.door, known, self.last_seen);
        }
    }

    /// Finds out which boot this connection belongs to, if any, by the first step it takes.
    fn join(&mut self, step: Step) {
        if !self.has_joined {
            self.traffic = self.registry.join(self.peer, step, self.last_seen);
            self.has_joined = self.traffic.is_some();
        }
    }

    fn release(&mut self, end: RootEnd) {
        if let (true, Some(traffic)) = (std::mem::take(&mut self.is_root), &self.traffic) {
            self.registry.released(self.peer, traffic, end, self.last_seen);
        }
    }
}

impl Drop for ConnectionTracker {
    fn drop(&mut self) {
        self.release(RootEnd::Lost);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::export::Export;
    use crate::image::Extent;
    use crate::images::{ImageSet, ServedImage};
    use crate::machines::Stage;
    use crate::machines::boot_ranges::tests::{AIROOTFS, INITRAMFS, KERNEL, LOADER, MENU, MIB, image};
    use crate::machines::status::{MachineStatus, RootProgress};

    struct Site {
        registry: Arc<Registry>,
        image: Arc<Image>,
        now: Instant,
    }

    impl Site {
        fn new() -> Self {
            let (image, now) = (image(), Instant::now());
            let served = ServedImage::new("arch", Arc::clone(&image));
            let registry = Registry::new(now);
            registry.serve(&ImageSet::new(served, Vec::new()));
            Self { registry: Arc::new(registry), image, now: now + Duration::from_secs(1) }
        }

        fn tracker(&self, door: Protocol) -> ConnectionTracker {
            let peer = "::ffff:10.0.0.9".parse().unwrap();
            ConnectionTracker::new(Arc::clone(&self.registry), peer, door, self.now)
        }

        /// As a door would: replies of 256 KiB at most, each with a header, of which 100 bytes leave at a time first.
        fn send(&self, tracker: &mut ConnectionTracker, extent: Extent) {
            let export = Export::whole(&self.image);
            for offset in (0..extent.len).step_by(256 << 10) {
                let mut batch = Batch::default();
                batch.push_bytes(b"a header");
                let len = (extent.len - offset).min(256 << 10);
                let pieces = export.range(extent.offset + offset, len).unwrap();
                pieces.for_each(|piece| batch.push_piece(piece).unwrap());
                while !batch.is_empty() {
                    let sent = batch.len().min(100);
                    tracker.sent(&batch, sent, self.now);
                    batch.advance(sent);
                    tracker.sent(&batch, batch.len(), self.now);
                    batch.advance(batch.len());
                }
            }
        }

        fn machines(&self) -> Vec<MachineStatus> {
            self.registry.status(self.now, Timestamp::UNIX_EPOCH).machines
        }

        fn only(&self) -> MachineStatus {
            let machines = self.machines();
            assert_eq!(machines.len(), 1, "{machines:?}");
            machines.into_iter().next().unwrap()
        }
    }

    #[test]
    fn the_bytes_of_a_boot_tell_how_far_it_is() {
        let site = Site::new();
        let mut total = 0;
        let stages = [
            (LOADER, Stage::Loader),
            (MENU, Stage::Menu),
            (KERNEL, Stage::Kernel),
            (INITRAMFS, Stage::Initramfs),
        ];
        for (extent, stage) in stages {
            let mut tracker = site.tracker(Protocol::Tftp);
            site.send(&mut tracker, extent);
            total += extent.len;
            let machine = site.only();
            assert_eq!((machine.stage, machine.sent.tftp, machine.boots), (stage, total, 1));
            assert_eq!(machine.image.is_some(), stage == Stage::Kernel || stage == Stage::Initramfs);
        }
        let mut tracker = site.tracker(Protocol::Nbd);
        tracker.attached(&site.image, site.now);
        assert_eq!((site.only().stage, site.only().airootfs), (Stage::Attached, None));
        for extent in AIROOTFS {
            site.send(&mut tracker, extent);
        }
        let machine = site.only();
        assert_eq!(machine.airootfs, Some(RootProgress { size: 4 * MIB, read: 4 * MIB }));
        assert_eq!((machine.sent.nbd, machine.root), (4 * MIB, Some(Protocol::Nbd)));
        assert_eq!(machine.addresses, [IpAddr::from([10, 0, 0, 9])], "the same over IPv6 sockets");
        tracker.ended(RootEnd::Released, site.now);
        assert_eq!((site.only().stage, site.only().root_connections), (Stage::Copied, 0));
    }

    #[test]
    fn a_composed_program_shows_where_it_is() {
        let site = Site::new();
        let mut tracker = site.tracker(Protocol::Http);
        tracker.reached(Step::Loader, site.now);
        assert_eq!(site.only().stage, Stage::Loader);
        let both = Extent { offset: KERNEL.offset, len: KERNEL.len + INITRAMFS.len };
        let mut batch = Batch::default();
        let export = Export::whole(&site.image);
        let pieces = export.range(both.offset, both.len).unwrap();
        pieces.for_each(|piece| batch.push_piece(piece).unwrap());
        tracker.sent(&batch, KERNEL.len, site.now);
        assert_eq!(site.only().stage, Stage::Kernel);
        tracker.sent(&batch, KERNEL.len + 1, site.now);
        assert_eq!((site.only().stage, site.only().boots), (Stage::Initramfs, 1));
    }

    #[test]
    fn who_only_looks_around_is_no_machine() {
        let site = Site::new();
        let mut tracker = site.tracker(Protocol::Http);
        site.send(&mut tracker, Extent { offset: 10 * MIB, len: MIB });
        drop(tracker);
        // A booted system reads the kernel through its root.
        let mut tracker = site.tracker(Protocol::Nfs);
        site.send(&mut tracker, KERNEL);
        drop(tracker);
        assert_eq!(site.machines(), []);
    }

    #[test]
    fn the_hook_of_http_first_asks_for_a_byte() {
        let site = Site::new();
        let [first, second] = AIROOTFS;
        let mut probe = site.tracker(Protocol::Http);
        site.send(&mut probe, Extent { len: 1, ..first });
        drop(probe);
        assert_eq!(site.only().stage, Stage::Lost);
        let mut download = site.tracker(Protocol::Http);
        site.send(&mut download, first);
        assert_eq!((site.only().stage, site.only().root), (Stage::Attached, Some(Protocol::Http)));
        site.send(&mut download, second);
        drop(download);
        assert_eq!(site.only().stage, Stage::Copied);
    }

    #[test]
    fn a_connection_of_the_last_boot_is_not_of_this_one() {
        let site = Site::new();
        let mut root = site.tracker(Protocol::Nbd);
        root.attached(&site.image, site.now);
        site.send(&mut root, AIROOTFS[0]);
        site.send(&mut site.tracker(Protocol::Tftp), LOADER);
        site.send(&mut root, AIROOTFS[1]);
        let machine = site.only();
        assert_eq!((machine.boots, machine.stage, machine.sent.nbd), (2, Stage::Loader, 0));
        drop(root);
        assert_eq!(site.only().stage, Stage::Loader);
    }

    #[test]
    fn an_image_that_was_replaced_is_known_as_long_as_somebody_has_it() {
        let site = Site::new();
        let (new, old) = (image(), Arc::clone(&site.image));
        let serve = |name: &str, image: &Arc<Image>| {
            let served = ServedImage::new(name, Arc::clone(image));
            site.registry.serve(&ImageSet::new(served, Vec::new()));
        };
        serve("new", &new);
        let mut root = site.tracker(Protocol::Nfs);
        site.send(&mut root, AIROOTFS[0]);
        assert_eq!(site.only().image.as_deref(), Some("arch"));
        serve("renamed", &old);
        let names = |image| site.registry.known_image(image).map(|known| known.name.to_string());
        assert_eq!(names(&old).as_deref(), Some("renamed"));
        assert_eq!(names(&new).as_deref(), Some("new"));
        drop(new);
        serve("renamed", &old);
        assert_eq!(site.registry.images(), ["renamed", "arch"]);
    }
}
