//! Residency: what is not in the page cache is read by a blocking thread first, so that one client's cold read never
//! stalls the runtime, and so that a thousand machines that boot at once cause one disk read.
//!
//! The page cache of an idle image is not for ever: the check stands in front of every send.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::{OnceCell, Semaphore};

use super::Source;
use crate::export::ImageRange;
use crate::sys;

/// Cold reads that may occupy a blocking thread at the same time.
const READERS: usize = 64;

/// Bytes a blocking reader touches with one `pread`.
const STEP: usize = 128 << 10;

/// log2 of the page size that cachestat(2) counts in. Larger pages make a warm range look cold, which is only slow.
const PAGE_BITS: u32 = 12;

type ColdReads = HashMap<(u64, u64), Arc<OnceCell<()>>>;

/// Which cold ranges are being read right now.
#[derive(Debug)]
pub(super) struct Residency {
    cold: Mutex<ColdReads>,
    readers: Semaphore,
    /// cachestat(2) does not work here: do not ask again.
    no_cachestat: AtomicBool,
}

impl Default for Residency {
    fn default() -> Self {
        Self {
            cold: Mutex::default(),
            readers: Semaphore::new(READERS),
            no_cachestat: AtomicBool::new(false),
        }
    }
}

impl Source {
    /// Returns once `range` is in the page cache.
    ///
    /// # Errors
    /// What the disk says; `UnexpectedEof` when the file ends before the range does.
    pub async fn warm(&self, range: ImageRange) -> io::Result<()> {
        if self.is_warm(range) {
            return Ok(());
        }
        let key = (range.offset(), range.len());
        let read = Arc::clone(self.cold_reads().entry(key).or_default());
        let result = read.get_or_try_init(|| self.read_ahead(range)).await.copied();
        self.cold_reads().remove(&key);
        result
    }

    /// Asks the kernel to read `range` in the background.
    pub fn prefetch(&self, range: ImageRange) {
        let file = Arc::clone(&self.file);
        // fadvise(2) may wait for a free slot of the disk's queue. A hint that is lost does no harm.
        tokio::task::spawn_blocking(move || advise_will_need(&file, range));
    }

    fn cold_reads(&self) -> std::sync::MutexGuard<'_, ColdReads> {
        self.residency.cold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_ahead(&self, range: ImageRange) -> io::Result<()> {
        let _permit = self.residency.readers.acquire().await.map_err(io::Error::other)?;
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || touch(&file, range)).await?
    }

    /// True when every page of `range` is in the page cache.
    fn is_warm(&self, range: ImageRange) -> bool {
        if self.residency.no_cachestat.load(Ordering::Relaxed) {
            return self.is_warm_at_both_ends(range);
        }
        match sys::cached_pages(self.as_fd(), range.offset(), range.len()) {
            Ok(pages) => pages >= pages_of(range),
            Err(_) => {
                self.residency.no_cachestat.store(true, Ordering::Relaxed);
                self.is_warm_at_both_ends(range)
            }
        }
    }

    /// The second-best check: a read of the first and the last byte that refuses to wait for a disk.
    fn is_warm_at_both_ends(&self, range: ImageRange) -> bool {
        let last = range.offset() + range.len() - 1;
        [range.offset(), last].into_iter().all(|offset| self.can_read_at_once(offset))
    }

    fn can_read_at_once(&self, offset: u64) -> bool {
        let mut byte = [0];
        let mut buf = [IoSliceMut::new(&mut byte)];
        match rustix::io::preadv2(self.as_fd(), &mut buf, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => read == 1,
            // The file system cannot tell: a blocking read is slow and always right.
            Err(Errno::OPNOTSUPP | Errno::AGAIN | _) => false,
        }
    }
}

/// Number of pages that `range` touches.
fn pages_of(range: ImageRange) -> u64 {
    let last = range.offset() + range.len() - 1;
    (last >> PAGE_BITS) - (range.offset() >> PAGE_BITS) + 1
}

fn advise_will_need(file: &File, range: ImageRange) {
    let len = std::num::NonZeroU64::new(range.len());
    // Only a hint: a file system that ignores it is read by `touch` all the same.
    let _ = rustix::fs::fadvise(file, range.offset(), len, Advice::WillNeed);
}

/// Reads `range` and throws the bytes away: they are in the page cache then.
fn touch(file: &File, range: ImageRange) -> io::Result<()> {
    advise_will_need(file, range);
    let mut scratch = vec![0; STEP.min(usize::try_from(range.len()).unwrap_or(STEP))];
    let mut rest = Some(range);
    while let Some(range) = rest {
        let step = scratch.len().min(usize::try_from(range.len()).unwrap_or(STEP));
        let (scratch, _) = scratch.split_at_mut(step);
        file.read_exact_at(scratch, range.offset())?;
        rest = range.behind(step as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::export::{Export, Piece};
    use crate::image::Extent;

    fn range(offset: u64, len: u64) -> ImageRange {
        let export = Export::of_extents(&[Extent { offset, len }]);
        match export.range(0, len).unwrap().next() {
            Some(Piece::Image(range)) => range,
            other => panic!("{other:?}"),
        }
    }

    fn source_of(len: usize) -> Source {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; len]).unwrap();
        file.as_file().sync_all().unwrap();
        Source::open(file.path()).unwrap()
    }

    #[test]
    fn counts_the_pages_a_range_touches() {
        assert_eq!(pages_of(range(0, 1)), 1);
        assert_eq!(pages_of(range(4095, 2)), 2);
        assert_eq!(pages_of(range(2048, 4096)), 2);
        assert_eq!(pages_of(range(4096, 4096)), 1);
    }

    #[tokio::test]
    async fn cold_ranges_are_read_and_forgotten() {
        let source = source_of(1 << 20);
        rustix::fs::fadvise(source.as_fd(), 0, None, Advice::DontNeed).unwrap();
        for (offset, len) in [(0, 1 << 20), (2048, 4096), ((1 << 20) - 1, 1)] {
            source.warm(range(offset, len)).await.unwrap();
            assert!(source.is_warm(range(offset, len)));
            assert!(source.is_warm_at_both_ends(range(offset, len)));
        }
        assert!(source.cold_reads().is_empty());
    }

    #[tokio::test]
    async fn a_range_behind_the_end_is_an_error() {
        let source = source_of(4096);
        let error = source.warm(range(0, 1 << 20)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(source.cold_reads().is_empty());
    }
}
