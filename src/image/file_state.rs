//! State of the image file: whether it is as it was when the image was opened.
//!
//! A file that is truncated or overwritten in place has the bytes of another image, in the page
//! cache as on the disk. While it is sent, its size and its time of modification are looked at
//! again and again, so that those bytes do not leave as bytes of this image.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::locked::locked;

/// Time for which the result of a look is used. A look takes 0.7 us.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

/// Error of an image whose file was changed after it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the file of this image was changed in place on the server: restore it there")]
pub struct FileChangedError;

/// Properties of a file that change with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileMark {
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, u32),
}

impl FileMark {
    fn of(file: impl AsFd, sync: AtFlags) -> io::Result<Self> {
        let wanted = StatxFlags::SIZE | StatxFlags::MTIME;
        let stat = statx(file, c"", AtFlags::EMPTY_PATH | sync, wanted)?;
        Ok(Self { size: stat.stx_size, modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec) })
    }
}

/// State of one file.
#[derive(Debug)]
pub(super) struct FileState {
    epoch: Instant,
    /// Time of the last look that has ended, in nanoseconds since `epoch`.
    looked: AtomicU64,
    has_changed: AtomicBool,
    marks: Mutex<Marks>,
}

#[derive(Debug)]
struct Marks {
    /// The file has the content of the image.
    good: FileMark,
    /// It has another content.
    bad: Option<FileMark>,
    /// Of the last [check](FileState::check).
    last: FileMark,
    /// The last two checks found the same.
    rests: bool,
}

impl FileState {
    /// Creates the state of a file from which the image is opened now.
    ///
    /// # Errors
    /// The error of statx(2).
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let good = FileMark::of(file, AtFlags::empty())?;
        Ok(Self {
            epoch: Instant::now(),
            looked: AtomicU64::new(0),
            has_changed: AtomicBool::new(false),
            marks: Mutex::new(Marks { good, bad: None, last: good, rests: false }),
        })
    }

    /// Returns `true` if the file was found to be changed.
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed.load(Ordering::Relaxed)
    }

    /// Looks at the file, unless it was looked at just now. Returns the change if this look is the
    /// first that finds one. Does not wait for the server of a network file system.
    pub(super) fn look(&self, file: &File, now: Instant) -> Option<String> {
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        if self.has_changed() || now < self.looked.load(Ordering::Acquire) + LOOK_INTERVAL.as_nanos() as u64 {
            return None;
        }
        let mark = FileMark::of(file, AtFlags::STATX_DONT_SYNC);
        let change = mark.ok().and_then(|mark| self.change(&self.marks(), mark));
        // Only now: another thread that finds a look so recent uses its result.
        self.looked.store(now, Ordering::Release);
        change
    }

    /// Looks at the file, which may have to wait for a disk. Returns the change as
    /// [`FileState::look`].
    pub(super) fn check(&self, file: &File) -> Option<String> {
        let mark = FileMark::of(file, AtFlags::empty()).ok()?;
        let mut marks = self.marks();
        marks.rests = std::mem::replace(&mut marks.last, mark) == mark;
        self.change(&marks, mark)
    }

    /// Notes a change of the file, if there is one that is not known.
    fn change(&self, marks: &Marks, mark: FileMark) -> Option<String> {
        if mark == marks.good || self.has_changed.swap(true, Ordering::Relaxed) {
            return None;
        }
        let (is, was) = (mark.size, marks.good.size);
        let change =
            if is == was { "it was written to".into() } else { format!("it has {is} bytes, not {was}") };
        Some(format!("its file was changed in place ({change}); restore it"))
    }

    /// Returns the state to compare with the image: the file was changed, was the same at the last
    /// two checks, and was not compared in this state.
    pub(super) fn rested(&self) -> Option<FileMark> {
        let marks = self.marks();
        let is_due = self.has_changed() && marks.rests && marks.bad != Some(marks.last);
        is_due.then_some(marks.last)
    }

    /// Notes whether the file has the content of the image in this state. Returns `true` if it is
    /// as it was.
    pub(super) fn compared(&self, file: &File, mark: FileMark, is_same: bool) -> bool {
        // It may have been written to while it was compared. Connections wait for the marks, so no
        // disk is waited for with them.
        let is_over = is_same && FileMark::of(file, AtFlags::empty()).is_ok_and(|now| now == mark);
        let mut marks = self.marks();
        if is_over {
            marks.good = mark;
            self.has_changed.store(false, Ordering::Relaxed);
        } else if !is_same {
            marks.bad = Some(mark);
        }
        is_over
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // Each change leaves the marks whole.
        locked(&self.marks)
    }
}
