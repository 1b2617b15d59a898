//! Residency of an image in the page cache.
//!
//! A range outside the page cache is first read by a blocking task, so that a cold read of one
//! client does not stall the runtime. Requests for the same range share the task: a thousand
//! machines that boot together cause one read from the disk.
//!
//! The kernel may evict pages at any time, so residency is checked before each send. A positive
//! result is trusted for one or two ticks, per [granule](GRANULE): to ask the kernel for each 4 KiB
//! costs a third of the time of sending them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;
use tokio::sync::{OnceCell, Semaphore};

use crate::extent::Extent;
use crate::locked::locked;
use crate::sys;

/// Most cold reads at the same time: each takes a blocking thread.
const READERS: usize = 64;

/// Bytes that a cold read takes with one `pread`.
const STEP: usize = 128 << 10;

/// log2 of the page size in which cachestat(2) counts. With larger pages a warm range looks cold,
/// which is slow but correct.
const PAGE_BITS: u32 = 12;

/// Bytes whose residency is asked for and remembered together.
const GRANULE: u64 = 64 << 10;

/// Resolution of the time stamps. A granule that was found in the page cache in this tick or in the
/// one before is trusted to be there: the kernel first evicts pages that were not used for longer.
const TICK: Duration = Duration::from_secs(1);

/// Cold reads under way, by their range.
type ColdReads = HashMap<Extent, Arc<OnceCell<()>>>;

/// Residency of a file: the granules that were found in the page cache, and the cold reads under
/// way.
#[derive(Debug)]
pub(super) struct Residency {
    file: Arc<File>,
    /// Size of the file in bytes.
    len: u64,
    cold: Mutex<ColdReads>,
    readers: Semaphore,
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
            cold: Mutex::default(),
            readers: Semaphore::new(READERS),
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

    /// Waits until `extent` is in the page cache.
    ///
    /// # Errors
    /// The error of the disk; `UnexpectedEof` if the file ends before the range does.
    pub(super) async fn warm(&self, extent: Extent, now: Instant) -> io::Result<()> {
        if extent.is_empty() || self.was_warm(extent, now) || self.is_present(extent) {
            return Ok(());
        }
        // The first request for a range reads it; the others wait for its result.
        let read = Arc::clone(self.cold_reads().entry(extent).or_default());
        let result = read.get_or_try_init(|| self.read_ahead(extent)).await.copied();
        // Removed after an error too, so that the next request tries again.
        self.cold_reads().remove(&extent);
        result
    }

    /// Asks the kernel to read `extent` in the background.
    pub(super) fn prefetch(&self, extent: Extent) {
        let file = Arc::clone(&self.file);
        // fadvise(2) may wait for a free slot in the queue of the disk. A lost hint does no harm.
        tokio::task::spawn_blocking(move || advise_will_need(&file, extent));
    }

    fn cold_reads(&self) -> MutexGuard<'_, ColdReads> {
        // A panic leaves the map usable: at worst an entry stays in it.
        locked(&self.cold)
    }

    async fn read_ahead(&self, extent: Extent) -> io::Result<()> {
        // Reads beyond the limit wait here, where they do not take a thread.
        let _permit = self.readers.acquire().await.map_err(io::Error::other)?;
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || touch(&file, extent)).await?
    }

    /// Returns `true` if all granules of `extent` are in the page cache, by a recent check or by a
    /// new one.
    fn was_warm(&self, extent: Extent, now: Instant) -> bool {
        let tick = self.tick(now);
        let granules = extent.offset / GRANULE..=(extent.end() - 1) / GRANULE;
        granules.into_iter().all(|granule| self.is_granule_warm(granule, tick))
    }

    fn is_granule_warm(&self, granule: u64, tick: u32) -> bool {
        // No extent of this image ends after the last granule.
        let Some(seen) = self.seen.get(granule as usize) else { return false };
        // Relaxed: a stale value only causes one more question to the kernel.
        if seen.load(Ordering::Relaxed) >= tick - 1 {
            return true;
        }
        let offset = granule * GRANULE;
        let is_warm = self.is_present(Extent { offset, len: GRANULE.min(self.len - offset) });
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
            // EOPNOTSUPP if the file system does not know RWF_NOWAIT (readv(2)): the blocking read
            // that follows is slow, but always right.
            match rustix::io::preadv2(self.file.as_fd(), &mut buf, extent.offset, ReadWriteFlags::NOWAIT) {
                Ok(read) if read as u64 == step => {}
                _ => return false,
            }
            extent = extent.skip(step);
        }
        true
    }
}

/// Counts the pages of `extent`, which has at least one byte.
fn pages_of(extent: Extent) -> u64 {
    ((extent.end() - 1) >> PAGE_BITS) - (extent.offset >> PAGE_BITS) + 1
}

fn advise_will_need(file: &File, extent: Extent) {
    let len = std::num::NonZeroU64::new(extent.len);
    // Only a hint: `touch` reads the range anyway.
    let _ = rustix::fs::fadvise(file, extent.offset, len, Advice::WillNeed);
}

/// Reads `extent` into the page cache, and drops the bytes.
fn touch(file: &File, mut extent: Extent) -> io::Result<()> {
    // The kernel reads the whole range ahead while the loop below waits for its first bytes.
    advise_will_need(file, extent);
    let mut scratch = vec![0; STEP.min(usize::try_from(extent.len).unwrap_or(STEP))];
    while !extent.is_empty() {
        let step = extent.len.min(STEP as u64);
        let (scratch, _) = scratch.split_at_mut(step as usize);
        file.read_exact_at(scratch, extent.offset)?;
        extent = extent.skip(step);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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

    #[tokio::test]
    async fn cold_range_is_read_and_forgotten() {
        let residency = residency_of(1 << 20);
        let now = Instant::now();
        rustix::fs::fadvise(residency.file.as_fd(), 0, None, Advice::DontNeed).unwrap();
        for (offset, len) in [(0, 1 << 20), (2048, 4096), ((1 << 20) - 1, 1)] {
            residency.warm(extent(offset, len), now).await.unwrap();
            assert!(
                residency.is_present(extent(offset, len)) && residency.can_read_at_once(extent(offset, len))
            );
        }
        assert!(residency.cold_reads().is_empty());
    }

    #[tokio::test]
    async fn residency_is_trusted_for_two_ticks() {
        let residency = residency_of(3 * GRANULE as usize + 5);
        let (now, granules) = (Instant::now(), 0..4);
        residency.warm(extent(0, residency.len), now).await.unwrap();
        assert!(residency.was_warm(extent(0, residency.len), now));
        let seen = || granules.clone().map(|n| residency.seen[n].load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(seen(), [residency.tick(now); 4]);
        // The kernel, which would give another answer, is not asked.
        residency.seen[1].store(0, Ordering::Relaxed);
        rustix::fs::fadvise(residency.file.as_fd(), 0, None, Advice::DontNeed).unwrap();
        for (moment, is_trusted) in [(now, true), (now + TICK, true), (now + 3 * TICK, false)] {
            assert_eq!(residency.was_warm(extent(0, 1), moment), is_trusted);
            assert!(!residency.was_warm(extent(GRANULE, 1), moment), "nothing is known of this granule");
        }
    }

    #[tokio::test]
    async fn range_beyond_the_end_is_an_error() {
        let residency = residency_of(4096);
        let error = residency.warm(extent(0, 1 << 20), Instant::now()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(residency.cold_reads().is_empty());
    }
}
