//! Counters of the bytes sent to one machine in one boot; its connections add to them without a
//! lock.
//!
//! They are statistics only: no decision combines two counters, so every access is relaxed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::Protocol;
use super::ages::Ages;
use super::boot_ranges::{TrackedImage, TrackedRoot};
use super::carried::{CarriedCoverage, CarriedStats};
use crate::image::Identity;

/// Bytes of the root file system per bit.
const CHUNK: u64 = 256 << 10;

/// Most bits per boot (2 KiB). A root file system of more than 4 GiB gets larger chunks.
const CHUNKS_MAX: u64 = 16 << 10;

/// Bytes sent to a machine in one boot.
#[derive(Debug)]
pub(super) struct TransferStats {
    /// Number of the boot, from 1 on.
    pub(super) number: u64,
    /// Origin of `last_seen`, which counts milliseconds.
    epoch: Instant,
    last_seen: AtomicU64,
    /// Bytes of images, by [`Protocol`].
    bytes: [AtomicU64; Protocol::ALL.len()],
    /// The root file system that the machine reads.
    root: OnceLock<Coverage>,
}

impl TransferStats {
    pub(super) fn new(epoch: Instant) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (number, last_seen) = (NEXT.fetch_add(1, Relaxed), AtomicU64::new(0));
        Self { number, epoch, last_seen, bytes: Default::default(), root: OnceLock::new() }
    }

    /// Adds bytes of an image sent by `protocol`.
    pub(super) fn add(&self, protocol: Protocol, bytes: u64, now: Instant) {
        if let Some(counter) = self.bytes.get(protocol as usize) {
            counter.fetch_add(bytes, Relaxed);
        }
        // A day is less than 2^27 milliseconds.
        let now = now.saturating_duration_since(self.epoch).as_millis() as u64;
        self.last_seen.store(now, Relaxed);
    }

    /// Records `len` bytes sent of a root file system, from its byte `offset`.
    pub(super) fn cover(&self, known: &Arc<TrackedImage>, airootfs: TrackedRoot, offset: u64, len: u64) {
        let root = self.root.get_or_init(|| Coverage::new(Arc::clone(known), airootfs));
        // A boot has one root: reads of another image or architecture are not progress.
        if root.airootfs == airootfs && Arc::ptr_eq(&root.known, known) {
            root.add(offset, len);
        }
    }

    /// Returns the time of the last bytes sent.
    pub(super) fn last_seen(&self) -> Option<Instant> {
        let millis = self.last_seen.load(Relaxed);
        (millis > 0).then(|| self.epoch + Duration::from_millis(millis))
    }

    pub(super) fn bytes(&self, protocol: Protocol) -> u64 {
        self.bytes.get(protocol as usize).map_or(0, |counter| counter.load(Relaxed))
    }

    pub(super) fn root(&self) -> Option<&Coverage> {
        self.root.get()
    }

    /// Makes the counters that another process had. `find` returns an image that is served here.
    pub(super) fn of_carried(
        carried: &CarriedStats,
        epoch: Instant,
        ages: Ages,
        find: impl Fn(Identity) -> Option<Arc<TrackedImage>>,
    ) -> Self {
        let stats = Self::new(epoch);
        for (counter, &bytes) in stats.bytes.iter().zip(&carried.bytes) {
            counter.store(bytes, Relaxed);
        }
        let last_seen = carried.last_seen.map(|age| ages.moment(age).saturating_duration_since(epoch));
        stats.last_seen.store(last_seen.map_or(0, |since| since.as_millis() as u64), Relaxed);
        let root = carried.root.as_ref().and_then(|root| Coverage::of_carried(root, find));
        if let Some(root) = root {
            // The counters are new, so there is none yet.
            let _ = stats.root.set(root);
        }
        stats
    }
}

/// Upper bound of the part of a root file system that a machine was sent, at one bit per chunk. It
/// is exact for a sequential reader, such as archiso's hooks that copy or verify the image. A
/// machine that reads single blocks is credited with whole chunks, but never with more than it was
/// sent.
#[derive(Debug)]
pub(super) struct Coverage {
    known: Arc<TrackedImage>,
    airootfs: TrackedRoot,
    /// Bytes sent; bytes sent twice count twice.
    sent: AtomicU64,
    /// Binary logarithm of the chunk size.
    shift: u32,
    chunks: Box<[AtomicU64]>,
}

impl Coverage {
    fn new(known: Arc<TrackedImage>, airootfs: TrackedRoot) -> Self {
        let chunk = airootfs.size.div_ceil(CHUNKS_MAX).next_power_of_two().max(CHUNK);
        let words = airootfs.size.div_ceil(chunk).div_ceil(u64::BITS.into());
        let chunks = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { known, airootfs, sent: AtomicU64::new(0), shift: chunk.trailing_zeros(), chunks }
    }

    fn of_carried(
        carried: &CarriedCoverage,
        find: impl Fn(Identity) -> Option<Arc<TrackedImage>>,
    ) -> Option<Self> {
        let airootfs = TrackedRoot { node: carried.node, size: carried.size };
        let coverage = Self::new(find(carried.image)?, airootfs);
        for (word, &bits) in coverage.chunks.iter().zip(&carried.chunks) {
            word.store(bits, Relaxed);
        }
        coverage.sent.store(carried.sent, Relaxed);
        Some(coverage)
    }

    /// Returns the coverage as plain data; `None` if the image is closed by now.
    pub(super) fn carried(&self) -> Option<CarriedCoverage> {
        Some(CarriedCoverage {
            image: self.known.identity()?,
            node: self.airootfs.node,
            size: self.airootfs.size,
            sent: self.sent.load(Relaxed),
            chunks: self.chunks.iter().map(|word| word.load(Relaxed)).collect(),
        })
    }

    fn add(&self, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        self.sent.fetch_add(len, Relaxed);
        // Both lie within the image, so their sum does not overflow.
        for chunk in offset >> self.shift..=(offset + len - 1) >> self.shift {
            let bit = 1 << (chunk % u64::from(u64::BITS));
            let Some(word) = self.chunks.get((chunk / u64::from(u64::BITS)) as usize) else { return };
            // Most bits are set already; a load does not take the cache line from other cores.
            if word.load(Relaxed) & bit == 0 {
                word.fetch_or(bit, Relaxed);
            }
        }
    }

    /// Returns the size of the file system.
    pub(super) fn size(&self) -> u64 {
        self.airootfs.size
    }

    /// Returns an upper bound of the distinct bytes sent.
    pub(super) fn covered(&self) -> u64 {
        let chunks: u64 = self.chunks.iter().map(|word| u64::from(word.load(Relaxed).count_ones())).sum();
        // Each of the three is an upper bound.
        (chunks << self.shift).min(self.sent.load(Relaxed)).min(self.airootfs.size)
    }

    /// Returns true if the machine was sent the file system from its start, nearly without gaps: it
    /// copies or verifies it.
    pub(super) fn is_sequential(&self) -> bool {
        let words = || self.chunks.iter().map(|word| word.load(Relaxed));
        let sent: u64 = words().map(|word| u64::from(word.count_ones())).sum();
        let last = words().enumerate().filter(|(_, word)| *word != 0).last();
        let end = last.map_or(0, |(at, word)| {
            at as u64 * u64::from(u64::BITS) + u64::from(u64::BITS - word.leading_zeros())
        });
        // A mount has read the table at the end of a squashfs before.
        sent > 1 && end - sent <= end / 10
    }

    /// Returns true if the machine may have the whole file system.
    pub(super) fn is_whole(&self) -> bool {
        self.covered() == self.airootfs.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::boot_ranges::tests::{MIB, image};
    use crate::machines::boot_ranges::{RangeKind, TrackedImage};

    fn known() -> (Arc<TrackedImage>, TrackedRoot) {
        let known = TrackedImage::new("arch", &image());
        let place = known.ranges.within(0, u64::MAX).last().unwrap().0;
        let RangeKind::Root { airootfs, .. } = place else { panic!("{place:?}") };
        (Arc::new(known), airootfs)
    }

    fn coverage(size: u64) -> Coverage {
        let (known, airootfs) = known();
        Coverage::new(known, TrackedRoot { size, ..airootfs })
    }

    #[test]
    fn coverage_of_sequential_reader_is_exact() {
        let size = 812 * MIB + 4096;
        let coverage = coverage(size);
        for offset in (0..size).step_by(64 << 10) {
            assert_eq!(coverage.covered(), offset);
            coverage.add(offset, (size - offset).min(64 << 10));
        }
        assert!(coverage.is_whole());
        coverage.add(0, size);
        assert_eq!(coverage.covered(), size, "what is read twice is there once");
    }

    #[test]
    fn coverage_is_limited_by_bytes_sent() {
        let coverage = coverage(512 * MIB);
        for offset in (0..512 * MIB).step_by(1 << 20) {
            coverage.add(offset, 4096);
        }
        assert_eq!(coverage.covered(), 512 * 4096);
        for _ in 0..1000 {
            coverage.add(0, MIB);
        }
        assert_eq!(coverage.covered(), 512 * CHUNK + 3 * CHUNK, "the same megabyte again and again");
        assert!(!coverage.is_whole());
    }

    #[test]
    fn chunks_grow_with_the_image() {
        for size in [0, 1, CHUNK, CHUNK * CHUNKS_MAX, CHUNK * CHUNKS_MAX + 1, 100 << 30, 8 << 40] {
            let coverage = coverage(size);
            assert!(coverage.chunks.len() <= 256, "{size}");
            coverage.add(0, size);
            assert!(coverage.is_whole(), "{size}");
        }
        coverage(10).add(u64::MAX - 1, 1);
    }

    #[test]
    fn coverage_ignores_another_root() {
        let (epoch, (known, airootfs)) = (Instant::now(), known());
        let traffic = TransferStats::new(epoch);
        traffic.cover(&known, airootfs, 0, 10);
        traffic.cover(&known, TrackedRoot { size: 5, ..airootfs }, 0, 5);
        traffic.cover(&Arc::new(TrackedImage::new("other", &image())), airootfs, 10, 10);
        assert_eq!(traffic.root().map(Coverage::covered), Some(10));
    }

    #[test]
    fn protocols_are_counted_apart() {
        let epoch = Instant::now();
        let traffic = TransferStats::new(epoch);
        assert_eq!(traffic.last_seen(), None);
        traffic.add(Protocol::Nbd, 7, epoch + Duration::from_secs(2));
        traffic.add(Protocol::Nbd, 1, epoch + Duration::from_secs(3));
        traffic.add(Protocol::Tftp, 2, epoch + Duration::from_secs(3));
        assert_eq!(Protocol::ALL.map(|protocol| traffic.bytes(protocol)), [2, 0, 8, 0]);
        assert_eq!(traffic.last_seen(), Some(epoch + Duration::from_secs(3)));
    }
}
