//! Residency of an image in the page cache.
//!
//! The kernel may evict pages at any time, so residency is checked before each send. A positive
//! result is trusted for one or two ticks, per [granule](GRANULE): to ask the kernel for each 4 KiB
//! costs a third of the time of sending them.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::ReadWriteFlags;

use crate::extent::Extent;
use crate::sys;

/// log2 of the page size in which cachestat(2) counts. With larger pages a warm range looks cold,
/// which is slow but correct.
const PAGE_BITS: u32 = 12;

/// Bytes whose residency is asked for and remembered together.
const GRANULE: u64 = 64 << 10;

/// Resolution of the time stamps. A granule that was found in the page cache in this tick or in the
/// one before is trusted to be there: the kernel first evicts pages that were not used for longer.
const TICK: Duration = Duration::from_secs(1);

/// Residency of a file: the granules that were found in the page cache.
#[derive(Debug)]
pub(super) struct Residency {
    file: Arc<File>,
    /// Size of the file in bytes.
    len: u64,
    /// Set when cachestat(2) failed; it is not called again.
    no_cachestat: AtomicBool,
    /// Start of the first tick.
    epoch: Instant,
    /// For each granule the tick in which all of it was last found in the page cache; 0 for never.
    seen: Box<[AtomicU32]>,
}

impl Residency {
    /// Creates the state for a file of `len` bytes.
    pub(super) fn new(file: Arc<File>, len: u64) -> Self {
        Self {
            file,
            len,
            no_cachestat: AtomicBool::new(false),
            epoch: Instant::now(),
            seen: (0..len.div_ceil(GRANULE)).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Returns the current tick, at least 2: so 0 is never recent.
    fn tick(&self, now: Instant) -> u32 {
        let ticks = now.saturating_duration_since(self.epoch).as_millis() / TICK.as_millis();
        // The cast wraps after 136 years.
        (ticks as u32).saturating_add(2)
    }

    /// Returns `true` if `extent`, which is not empty, is in the page cache.
    ///
    /// cachestat(2) counts pages that are still read, and those whose read failed. `is_complete` is
    /// asked about ranges whose pages it counts.
    pub(super) fn holds(&self, extent: Extent, now: Instant, is_complete: impl Fn(Extent) -> bool) -> bool {
        let is_present = |extent| self.is_present(extent) && is_complete(extent);
        self.was_warm(extent, now, &is_present) || is_present(extent)
    }

    /// Returns `true` if all granules of `extent` are in the page cache, by a recent check or by a
    /// new one.
    fn was_warm(&self, extent: Extent, now: Instant, is_present: &impl Fn(Extent) -> bool) -> bool {
        let tick = self.tick(now);
        let granules = extent.offset / GRANULE..=(extent.end() - 1) / GRANULE;
        granules.into_iter().all(|granule| self.is_granule_warm(granule, tick, is_present))
    }

    fn is_granule_warm(&self, granule: u64, tick: u32, is_present: &impl Fn(Extent) -> bool) -> bool {
        // No extent of this image ends after the last granule.
        let Some(seen) = self.seen.get(granule as usize) else { return false };
        // Relaxed: a stale value only causes one more question to the kernel.
        if seen.load(Ordering::Relaxed) >= tick - 1 {
            return true;
        }
        let offset = granule * GRANULE;
        let is_warm = is_present(Extent { offset, len: GRANULE.min(self.len - offset) });
        if is_warm {
            seen.store(tick, Ordering::Relaxed);
        }
        is_warm
    }

    /// Returns `true` if every page of `extent` is in the page cache.
    fn is_present(&self, extent: Extent) -> bool {
        if self.no_cachestat.load(Ordering::Relaxed) {
            return self.can_read_at_once(extent);
        }
        match sys::cached_pages(self.file.as_fd(), extent) {
            Ok(pages) => pages >= pages_of(extent),
            // ENOSYS before Linux 6.5; EPERM if the file is not ours to write.
            Err(_) => {
                self.no_cachestat.store(true, Ordering::Relaxed);
                self.can_read_at_once(extent)
            }
        }
    }

    /// Checks residency by a read that does not wait for the disk, and drops the bytes.
    fn can_read_at_once(&self, mut extent: Extent) -> bool {
        let mut scratch = [0; GRANULE as usize];
        while !extent.is_empty() {
            let step = GRANULE.min(extent.len);
            let (scratch, _) = scratch.split_at_mut(step as usize);
            let mut buf = [IoSliceMut::new(scratch)];
            // EOPNOTSUPP if the file system does not know RWF_NOWAIT (readv(2)): a reader
            // is slow, but always right.
            match rustix::io::preadv2(self.file.as_fd(), &mut buf, extent.offset, ReadWriteFlags::NOWAIT) {
                Ok(read) if read as u64 == step => {}
                _ => return false,
            }
            extent = extent.skip(step);
        }
        true
    }
}

/// Returns `true` if the kernel says that every page of `extent`, which is not empty, is in the page
/// cache or on its way there.
pub(super) fn is_cached(file: &File, extent: Extent) -> bool {
    sys::cached_pages(file.as_fd(), extent).is_ok_and(|pages| pages >= pages_of(extent))
}

/// Counts the pages of `extent`, which has at least one byte.
fn pages_of(extent: Extent) -> u64 {
    ((extent.end() - 1) >> PAGE_BITS) - (extent.offset >> PAGE_BITS) + 1
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use rustix::fs::Advice;

    use super::*;

    const fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    fn residency_of(len: usize) -> Residency {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; len]).unwrap();
        file.sync_all().unwrap();
        Residency::new(Arc::new(file), len as u64)
    }

    #[test]
    fn pages_of_a_range_are_counted() {
        assert_eq!(pages_of(extent(0, 1)), 1);
        assert_eq!(pages_of(extent(4095, 2)), 2);
        assert_eq!(pages_of(extent(2048, 4096)), 2);
        assert_eq!(pages_of(extent(4096, 4096)), 1);
    }

    #[test]
    fn evicted_range_is_cold_until_it_is_read() {
        let residency = residency_of(1 << 20);
        let now = Instant::now();
        rustix::fs::fadvise(residency.file.as_fd(), 0, None, Advice::DontNeed).unwrap();
        for (offset, len) in [(0, 1 << 20), (2048, 4096), ((1 << 20) - 1, 1)] {
            let extent = extent(offset, len);
            residency.file.read_exact_at(&mut vec![0; len as usize], offset).unwrap();
            assert!(residency.is_present(extent) && residency.can_read_at_once(extent));
            assert!(residency.holds(extent, now, |_| true));
        }
    }

    #[test]
    fn residency_is_trusted_for_two_ticks() {
        let residency = residency_of(3 * GRANULE as usize + 5);
        let was_warm = |extent, now| residency.was_warm(extent, now, &|extent| residency.is_present(extent));
        let (now, granules) = (Instant::now(), 0..4);
        assert!(was_warm(extent(0, residency.len), now));
        let seen = || granules.clone().map(|n| residency.seen[n].load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(seen(), [residency.tick(now); 4]);
        // The kernel, which would give another answer, is not asked.
        residency.seen[1].store(0, Ordering::Relaxed);
        rustix::fs::fadvise(residency.file.as_fd(), 0, None, Advice::DontNeed).unwrap();
        for (moment, is_trusted) in [(now, true), (now + TICK, true), (now + 3 * TICK, false)] {
            assert_eq!(was_warm(extent(0, 1), moment), is_trusted);
            assert!(!was_warm(extent(GRANULE, 1), moment), "nothing is known of this granule");
        }
    }
}
