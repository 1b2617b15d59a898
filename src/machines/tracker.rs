//! The tracker of one connection or transfer: it counts the bytes that leave, and reports the steps
//! of the boot that they belong to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::boot_ranges::{RangeKind, TrackedImage};
use super::learner::Learner;
use super::transfer_stats::TransferStats;
use super::{FileRequest, Loss, Protocol, Registry, RootEnd, Step};
use crate::bootable::FileKind;
use crate::export::Batch;
use crate::export::batch::Chunk;
use crate::image::{Extent, Image};
use crate::metrics::{self, Tally};

/// Reports the progress of one connection or transfer to the registry.
///
/// A peer becomes a machine with the first byte that belongs to a boot: a client that only browses
/// leaves no record.
#[derive(Debug)]
pub struct ConnectionTracker {
    registry: Arc<Registry>,
    peer: IpAddr,
    protocol: Protocol,
    /// Kind of the file that is being sent.
    kind: FileKind,
    /// The image that the last bytes were from.
    image: Option<Arc<TrackedImage>>,
    /// The counters of the machine, once the peer is known as one.
    stats: Option<Arc<TransferStats>>,
    /// `stats` belong to the boot that this connection has taken a step of.
    has_joined: bool,
    /// The last step that was reported.
    step: Option<Step>,
    /// The registry counts this connection as one to the root.
    is_root: bool,
    last_seen: Instant,
}

impl ConnectionTracker {
    /// Creates a tracker for a connection of `peer` that begins now.
    pub fn new(registry: Arc<Registry>, peer: IpAddr, protocol: Protocol, now: Instant) -> Self {
        // An IPv4 client of a socket for both families has the same record as by IPv4.
        let peer = peer.to_canonical();
        let stats = registry.known_machine(peer);
        Self {
            registry,
            peer,
            protocol,
            kind: FileKind::Other,
            image: None,
            stats,
            has_joined: false,
            step: None,
            is_root: false,
            last_seen: now,
        }
    }

    /// Sets the kind of the file that the next bytes are of. NBD and NFS leave it at
    /// [`FileKind::Other`]: over them, reads of a kernel come from a booted system.
    pub const fn open(&mut self, kind: FileKind) {
        self.kind = kind;
    }

    /// Sets the kind of the file that the next bytes are of, and reports it: a machine asked for it.
    /// A file of another kind than [`FileKind::Other`] makes its client a machine.
    pub(crate) fn open_file(&mut self, path: &str, kind: FileKind, size: u64, now: Instant) {
        self.kind = kind;
        self.last_seen = now;
        let step = match kind {
            FileKind::Program => Some(Step::Loader),
            kind => Step::of_file(kind),
        };
        if let Some(step) = step {
            self.join(step);
        }
        if let Some(stats) = &self.stats {
            let request = FileRequest { path, kind, protocol: self.protocol, size };
            self.registry.opened(self.peer, stats, request, now);
        }
    }

    /// Counts the first `len` bytes of `batch`, which have left. Call it before [`Batch::advance`].
    pub fn sent(&mut self, batch: &Batch, len: u64, now: Instant) {
        self.last_seen = now;
        let payload = match batch.image() {
            Some(image) => self.count_ranges(image, batch, len),
            None => {
                // Generated files, and replies without content.
                self.load(None);
                0
            }
        };
        if payload > 0 {
            metrics::count(self.protocol.door(), Tally::Bytes, payload);
        }
        if let Some(stats) = &self.stats {
            stats.add(self.protocol, payload, now);
        }
    }

    /// Counts the ranges of `image` in the first `len` bytes of `batch`, and returns their length.
    fn count_ranges(&mut self, image: &Image, batch: &Batch, len: u64) -> u64 {
        let Some(tracked) = self.turn_to(image) else { return 0 };
        let (mut left, mut payload) = (len, 0);
        for chunk in batch.chunks() {
            let len = chunk.len().min(left);
            if let Chunk::Image(range) = chunk {
                payload += len;
                self.pass(&tracked, range.offset(), len);
            }
            left -= len;
            if left == 0 {
                break;
            }
        }
        if payload > 0 {
            self.load(Some(&tracked));
        }
        self.image = Some(tracked);
        payload
    }

    /// Records that all of the opened file was sent.
    pub fn delivered(&mut self, now: Instant) {
        self.last_seen = now;
        if self.kind == FileKind::Program {
            self.reach(Step::Initramfs, self.image.clone().as_ref());
        }
        if let Some(stats) = &self.stats {
            self.registry.delivered(self.peer, stats, now);
        }
        match (self.kind, &self.stats) {
            (FileKind::Program, Some(stats)) => self.registry.program_sent(self.peer, stats, now),
            (FileKind::Initramfs, Some(stats)) => self.registry.loaded(self.peer, stats, now),
            _ => {}
        }
    }

    /// Records that the machine chose `image` for its root; it has read nothing of it yet.
    pub fn attached(&mut self, image: &Image, now: Instant) {
        self.last_seen = now;
        let tracked = self.turn_to(image);
        self.attach(tracked.as_ref());
        self.image = tracked;
    }

    /// Ends the connection. A tracker that is dropped instead reports [`RootEnd::Lost`].
    pub fn ended(mut self, end: RootEnd, now: Instant) {
        self.last_seen = now;
        self.release(end);
    }

    /// Takes out the tracked image, so that counting does not clone it: all connections of this
    /// server would write to its reference count.
    fn turn_to(&mut self, image: &Image) -> Option<Arc<TrackedImage>> {
        self.image.take().filter(|tracked| tracked.is(image)).or_else(|| self.registry.known_image(image))
    }

    /// Reports the parts of the image that `len` bytes from `offset` belong to.
    fn pass(&mut self, tracked: &Arc<TrackedImage>, offset: u64, len: u64) {
        self.learn(tracked, Extent { offset, len });
        for (kind, from, len) in tracked.ranges.within(offset, len) {
            match kind {
                RangeKind::Part(step) if self.kind == FileKind::Program => self.reach(step, Some(tracked)),
                // archiso has no root over TFTP.
                RangeKind::Root { airootfs, at } if self.protocol != Protocol::Tftp => {
                    self.attach(Some(tracked));
                    if let Some(stats) = &self.stats {
                        stats.cover(tracked, airootfs, at + from, len);
                    }
                }
                RangeKind::Part(_) | RangeKind::Root { .. } => {}
            }
        }
    }

    /// Notes what is sent to the machine from which is learned what a boot reads.
    fn learn(&self, tracked: &TrackedImage, extent: Extent) {
        if let Some(stats) = self.stats.as_ref().filter(|stats| tracked.learner.follows(stats.number)) {
            tracked.learner.note(stats.number, extent, self.last_seen);
        }
    }

    /// Reports the step that loading a file of this kind is.
    fn load(&mut self, tracked: Option<&Arc<TrackedImage>>) {
        if let Some(step) = Step::of_file(self.kind) {
            self.reach(step, tracked);
        }
    }

    fn reach(&mut self, step: Step, tracked: Option<&Arc<TrackedImage>>) {
        if self.step == Some(step) {
            return;
        }
        self.step = Some(step);
        // Loader and menu come from the default image, whichever image is chosen in the menu. A
        // composed program is of the chosen one.
        let is_chosen = step >= Step::Kernel || self.kind == FileKind::Program;
        let tracked = tracked.filter(|_| is_chosen);
        self.join(step);
        if let Some(stats) = &self.stats {
            self.registry.reached(self.peer, stats, step, tracked, self.last_seen);
        }
        self.boots(tracked, Learner::began);
    }

    fn attach(&mut self, tracked: Option<&Arc<TrackedImage>>) {
        if self.is_root {
            return;
        }
        // Also if the registry is full, so that the next bytes do not ask again.
        self.is_root = true;
        self.join(Step::Root);
        if let Some(stats) = &self.stats {
            self.registry.attached(self.peer, stats, self.protocol, tracked, self.last_seen);
        }
        self.boots(tracked, Learner::rooted);
    }

    /// Has what a boot of the image reads read ahead, or learns it from this machine by `learn`.
    fn boots(&self, tracked: Option<&Arc<TrackedImage>>, learn: impl Fn(&Learner, u64, Instant)) {
        let Some(tracked) = tracked else { return };
        let is_known = tracked.read_boot_list(self.last_seen);
        if let Some(stats) = self.stats.as_ref().filter(|_| !is_known) {
            learn(&tracked.learner, stats.number, self.last_seen);
        }
    }

    /// Finds the boot that this connection belongs to by its first step.
    fn join(&mut self, step: Step) {
        if !self.has_joined {
            self.stats = self.registry.join(self.peer, step, self.last_seen);
            self.has_joined = self.stats.is_some();
        }
    }

    fn release(&mut self, end: RootEnd) {
        if let (true, Some(stats)) = (std::mem::take(&mut self.is_root), &self.stats) {
            self.registry.released(self.peer, stats, end, self.last_seen);
            if let Some(tracked) = &self.image {
                tracked.learner.released(stats.number);
            }
        }
    }
}

impl Drop for ConnectionTracker {
    fn drop(&mut self) {
        self.release(RootEnd::Lost(Loss::Server));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::export::Export;
    use crate::image::BootList;
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

        /// As a door would: replies of 256 KiB at most, each with a header, of which 100 bytes
        /// leave at a time first.
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
    fn boot_stages_follow_from_bytes() {
        let site = Site::new();
        let mut total = 0;
        let stages = [
            (LOADER, FileKind::Loader, Stage::Loader),
            (MENU, FileKind::Menu, Stage::Menu),
            (KERNEL, FileKind::Kernel, Stage::Kernel),
            (INITRAMFS, FileKind::Initramfs, Stage::Initramfs),
        ];
        for (extent, kind, stage) in stages {
            let mut tracker = site.tracker(Protocol::Tftp);
            tracker.open(kind);
            site.send(&mut tracker, extent);
            total += extent.len;
            let machine = site.only();
            assert_eq!((machine.stage, machine.sent.tftp, machine.boots), (stage, total, 1));
            assert_eq!(machine.image.is_some(), stage == Stage::Kernel || stage == Stage::Initramfs);
        }
        let has_booted = |n| site.registry.has_booted(Ipv4Addr::new(10, 0, 0, n));
        assert_eq!([has_booted(9), has_booted(8)], [true, false]);
        let root_at = |n| site.registry.root_at(Ipv4Addr::new(10, 0, 0, n));
        assert_eq!(root_at(9), None);
        let mut tracker = site.tracker(Protocol::Nbd);
        tracker.attached(&site.image, site.now);
        assert_eq!((site.only().stage, site.only().airootfs), (Stage::Attached, None));
        assert_eq!([root_at(9), root_at(8)], [Some(site.only().mac), None]);
        let is_on_root = |n| site.registry.is_on_root(Ipv4Addr::new(10, 0, 0, n));
        assert_eq!([is_on_root(9), is_on_root(8)], [true, false]);
        for extent in AIROOTFS {
            site.send(&mut tracker, extent);
        }
        let machine = site.only();
        assert_eq!(machine.airootfs, Some(RootProgress { size: 4 * MIB, read: 4 * MIB }));
        assert_eq!((machine.sent.nbd, machine.root), (4 * MIB, Some(Protocol::Nbd)));
        assert_eq!(machine.addresses, [IpAddr::from([10, 0, 0, 9])], "the same over IPv6 sockets");
        tracker.ended(RootEnd::Released, site.now);
        assert_eq!((site.only().stage, site.only().root_connections), (Stage::Copied, 0));
        assert!(!is_on_root(9));
    }

    #[test]
    fn boot_teaches_what_the_next_one_reads() {
        let site = Site::new();
        let learned = |seconds| site.registry.learned(site.now + Duration::from_secs(seconds));
        // The kernel, and then eight blocks, two of which the image lacks: it has 16.
        let mut loader = site.tracker(Protocol::Http);
        loader.open(FileKind::Kernel);
        site.send(&mut loader, KERNEL);
        let mut root = site.tracker(Protocol::Nbd);
        root.attached(&site.image, site.now);
        for block in [15, 4, 6, 5, 7, 8, 9, 10] {
            site.send(&mut root, Extent { offset: block * MIB + 5, len: 4096 });
        }
        // Another machine.
        let mut other =
            ConnectionTracker::new(Arc::clone(&site.registry), [10, 0, 0, 8].into(), Protocol::Nbd, site.now);
        other.attached(&site.image, site.now);
        site.send(&mut other, Extent { offset: 12 * MIB, len: MIB });
        assert!(learned(5).is_empty());
        let boots = learned(20);
        assert_eq!(boots.len(), 1);
        assert_eq!((&*boots[0].name, &boots[0].blocks[..]), ("arch", &[1, 15, 4, 6, 5, 7, 8, 9, 10][..]));
        assert!(learned(40).is_empty());
        // From now on it is read ahead, and nothing is learned.
        let list = BootList::new(site.image.identity, site.image.source.len(), &boots[0].blocks);
        site.image.source.set_boot_list(&list);
        let mut next = site.tracker(Protocol::Nfs);
        AIROOTFS.iter().for_each(|&extent| site.send(&mut next, extent));
        assert!(learned(60).is_empty());
        root.ended(RootEnd::Released, site.now);
    }

    #[test]
    fn composed_program_shows_its_steps() {
        let site = Site::new();
        let mut tracker = site.tracker(Protocol::Http);
        tracker.open(FileKind::Program);
        // In the order of a program: its headers and stub, the initramfs, the kernel.
        let mut batch = Batch::default();
        batch.push_bytes(b"headers");
        let export = Export::whole(&site.image);
        for Extent { offset, len } in [INITRAMFS, KERNEL] {
            let pieces = export.range(offset, len).unwrap();
            pieces.for_each(|piece| batch.push_piece(piece).unwrap());
        }
        tracker.sent(&batch, 7 + INITRAMFS.len, site.now);
        assert_eq!((site.only().stage, site.only().image.as_deref()), (Stage::Loader, Some("arch")));
        tracker.sent(&batch, 7 + INITRAMFS.len + 1, site.now);
        assert_eq!(site.only().stage, Stage::Kernel);
        tracker.delivered(site.now);
        assert_eq!((site.only().stage, site.only().boots), (Stage::Initramfs, 1));
    }

    #[test]
    fn generated_file_is_a_step_of_its_kind() {
        let site = Site::new();
        let mut batch = Batch::default();
        batch.push_bytes(b"a menu");
        for (kind, stage) in [(FileKind::Loader, Stage::Loader), (FileKind::Menu, Stage::Menu)] {
            let mut tracker = site.tracker(Protocol::Http);
            tracker.open(kind);
            tracker.sent(&batch, batch.len(), site.now);
            assert_eq!((site.only().stage, site.only().sent.http), (stage, 0));
        }
    }

    #[test]
    fn browsing_client_is_not_a_machine() {
        let site = Site::new();
        let mut tracker = site.tracker(Protocol::Http);
        site.send(&mut tracker, Extent { offset: 10 * MIB, len: MIB });
        // Its ranges mean nothing in a file of another kind, such as a whole image.
        site.send(&mut tracker, KERNEL);
        drop(tracker);
        // A booted system reads the kernel through its root.
        let mut tracker = site.tracker(Protocol::Nfs);
        site.send(&mut tracker, KERNEL);
        drop(tracker);
        assert_eq!(site.machines(), []);
    }

    #[test]
    fn http_hook_asks_for_a_byte_first() {
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
    fn connection_of_last_boot_is_ignored() {
        let site = Site::new();
        let mut root = site.tracker(Protocol::Nbd);
        root.attached(&site.image, site.now);
        site.send(&mut root, AIROOTFS[0]);
        let mut loader = site.tracker(Protocol::Tftp);
        loader.open(FileKind::Loader);
        site.send(&mut loader, LOADER);
        site.send(&mut root, AIROOTFS[1]);
        let machine = site.only();
        assert_eq!((machine.boots, machine.stage, machine.sent.nbd), (2, Stage::Loader, 0));
        drop(root);
        assert_eq!(site.only().stage, Stage::Loader);
    }

    #[test]
    fn replaced_image_is_known_while_used() {
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
