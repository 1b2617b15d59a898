//! Residency: what is not in the page cache is read by a blocking thread first, so that one client's cold read never
//! stalls the runtime, and so that a thousand machines that boot at once cause one disk read.
//!
//! The page cache of an idle image is not for ever: the check stands in front of every send. What was found there is
//! believed for a moment, [granule](GRANULE) by granule: to ask the kernel for each 4 KiB costs a third of sending them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;
use tokio::sync::{OnceCell, Semaphore};

use crate::extent::Extent;
use crate::sys;

/// Cold reads that may occupy a blocking thread at the same time.
const READERS: usize = 64;

/// Bytes a blocking reader touches with one `pread`.
const STEP: usize = 128 << 10;

/// log2 of the page size that cachestat(2) counts in. Larger pages make a warm range look cold, which is only slow.
const PAGE_BITS: u32 = 12;

/// Bytes that are asked for at once, and remembered as one.
const GRANULE: u64 = 64 << 10;

/// Time is told in steps of this length: what was found in the page cache in this step or the last is taken to be there.
/// The kernel lets go first of what nobody used for longer.
const STEP_OF_TIME: Duration = Duration::from_secs(1);

type ColdReads = HashMap<Extent, Arc<OnceCell<()>>>;

/// Which parts of a file are in the page cache, and which are being read into it right now.
#[derive(Debug)]
pub(super) struct Residency {
    file: Arc<File>,
    /// Size of the file in bytes.
    len: u64,
    cold: Mutex<ColdReads>,
    readers: Semaphore,
    /// cachestat(2) does not work here: do not ask again.
    no_cachestat: AtomicBool,
    /// Where time begins.
    epoch: Instant,
    /// For each granule the step of time in which all of it was last found in the page cache; 0 for never.
    seen: Box<[AtomicU32]>,
}

impl Residency {
    /// For a file of `len` bytes.
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

    /// The present step of time, never less than 2.
    fn step(&self, now: Instant) -> u32 {
        let steps = now.saturating_duration_since(self.epoch).as_millis() / STEP_OF_TIME.as_millis();
        // It comes round after 136 years.
        (steps as u32).saturating_add(2)
    }

    /// Returns once `extent` is in the page cache.
    ///
    /// # Errors
    /// What the disk says; `UnexpectedEof` when the file ends before the range does.
    pub(super) async fn warm(&self, extent: Extent, now: Instant) -> io::Result<()> {
        if extent.is_empty() || self.was_warm(extent, now) || self.is_present(extent) {
            return Ok(());
        }
        let read = Arc::clone(self.cold_reads().entry(extent).or_default());
        let result = read.get_or_try_init(|| self.read_ahead(extent)).await.copied();
        self.cold_reads().remove(&extent);
        result
    }

    /// Asks the kernel to read `extent` in the background.
    pub(super) fn prefetch(&self, extent: Extent) {
        let file = Arc::clone(&self.file);
        // fadvise(2) may wait for a free slot of the disk's queue. A hint that is lost does no harm.
        tokio::task::spawn_blocking(move || advise_will_need(&file, extent));
    }

    fn cold_reads(&self) -> std::sync::MutexGuard<'_, ColdReads> {
        self.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_ahead(&self, extent: Extent) -> io::Result<()> {
        let _permit = self.readers.acquire().await.map_err(io::Error::other)?;
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || touch(&file, extent)).await?
    }

    /// True when all granules of `extent` are in the page cache, as far as that was asked a moment ago or is now.
    fn was_warm(&self, extent: Extent, now: Instant) -> bool {
        let step = self.step(now);
        let granules = extent.offset / GRANULE..=(extent.end() - 1) / GRANULE;
        granules.into_iter().all(|granule| self.is_granule_warm(granule, step))
    }

    fn is_granule_warm(&self, granule: u64, step: u32) -> bool {
        // A range of this image has no granule behind the last.
        let Some(seen) = self.seen.get(granule as usize) else { return false };
        if seen.load(Ordering::Relaxed) >= step - 1 {
            return true;
        }
        let offset = granule * GRANULE;
        let is_warm = self.is_present(Extent { offset, len: GRANULE.min(self.len - offset) });
        if is_warm {
            seen.store(step, Ordering::Relaxed);
        }
        is_warm
    }

    /// True when every page of these bytes is in the page cache.
    fn is_present(&self, extent: Extent) -> bool {
        if self.no_cachestat.load(Ordering::Relaxed) {
            return self.can_read_at_once(extent);
        }
        match sys::cached_pages(self.file.as_fd(), extent) {
            Ok(pages) => pages >= pages_of(extent),
            Err(_) => {
                self.no_cachestat.store(true, Ordering::Relaxed);
                self.can_read_at_once(extent)
            }
        }
    }

    /// The second-best check: a read that refuses to wait for a disk, and throws away what it gets.
    fn can_read_at_once(&self, mut extent: Extent) -> bool {
        let mut scratch = [0; GRANULE as usize];
        while !extent.is_empty() {
            let step = GRANULE.min(extent.len);
            let (scratch, _) = scratch.split_at_mut(step as usize);
            let mut buf = [IoSliceMut::new(scratch)];
            // A file system that cannot tell says so: a blocking read is slow and always right.
            match rustix::io::preadv2(self.file.as_fd(), &mut buf, extent.offset, ReadWriteFlags::NOWAIT) {
                Ok(read) if read as u64 == step => {}
                _ => return false,
            }
            extent = extent.skip(step);
        }
        true
    }
}

/// Number of pages that these bytes touch; there is at least one byte.
fn pages_of(extent: Extent) -> u64 {
    ((extent.end() - 1) >> PAGE_BITS) - (extent.offset >> PAGE_BITS) + 1
}

fn advise_will_need(file: &File, extent: Extent) {
    let len = std::num::NonZeroU64::new(extent.len);
    // Only a hint: a file system that ignores it is read by `touch` all the same.
    let _ = rustix::fs::fadvise(file, extent.offset, len, Advice::WillNeed);
}

/// Reads `extent` and throws the bytes away: they are in the page cache then.
fn touch(file: &File, mut extent: Extent) -> io::Result<()> {
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
    fn counts_the_pages_a_range_touches() {
        assert_eq!(pages_of(extent(0, 1)), 1);
        assert_eq!(pages_of(extent(4095, 2)), 2);
        assert_eq!(pages_of(extent(2048, 4096)), 2);
        assert_eq!(pages_of(extent(4096, 4096)), 1);
    }

    #[tokio::test]
    async fn cold_ranges_are_read_and_forgotten() {
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
    async fn what_was_there_is_believed_for_a_moment() {
        let residency = residency_of(3 * GRANULE as usize + 5);
        let (now, granules) = (Instant::now(), 0..4);
        residency.warm(extent(0, residency.len), now).await.unwrap();
        assert!(residency.was_warm(extent(0, residency.len), now));
        let seen = || granules.clone().map(|n| residency.seen[n].load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(seen(), [residency.step(now); 4]);
        // Nobody asks the kernel, which would say another thing.
        residency.seen[1].store(0, Ordering::Relaxed);
        rustix::fs::fadvise(residency.file.as_fd(), 0, None, Advice::DontNeed).unwrap();
        for (moment, is_believed) in
            [(now, true), (now + STEP_OF_TIME, true), (now + 3 * STEP_OF_TIME, false)]
        {
            assert_eq!(residency.was_warm(extent(0, 1), moment), is_believed);
            assert!(!residency.was_warm(extent(GRANULE, 1), moment), "of this one nothing is known");
        }
    }

    #[tokio::test]
    async fn a_range_behind_the_end_is_an_error() {
        let residency = residency_of(4096);
        let error = residency.warm(extent(0, 1 << 20), Instant::now()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(residency.cold_reads().is_empty());
    }
}
