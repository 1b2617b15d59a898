//! Readers of an image: threads that read ranges from the disk into the page cache.
//!
//! Each reads one range at a time, so as many ranges are read at once as there are readers. A range
//! that several clients ask for is read once. Clients are served in turn, one range each: one that
//! asks for much does not keep the others from their turn. Each image has readers of its own, so an
//! image on a slow disk does not slow the others.
//!
//! A read that fails is repeated, with growing pauses, until it succeeds: a disk or a network file
//! system may come back. A read that hangs takes its reader with it, so another one is started in
//! its place; reads near it wait, so that they do not hang as well.
//!
//! Readers of an image in an object store first have its blocks fetched into the cache file. A store
//! that fails or is silent is like such a disk.

mod queue;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Advice;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{debug, info, warn};

use self::queue::{Change, Medium, Queue, Waiter};
use super::file_state::{FileMark, FileState};
use super::residency;
use crate::extent::Extent;
use crate::locked::locked;
use crate::metrics::{self, Event};
use crate::store::{FetchError, StoredFile};

/// Most readers of one image, without those that hang: a disk with a deep queue is kept busy.
const READERS: usize = 64;

/// Readers of all images from which on an image gets no more than [`ENTITLED`].
const ALL_READERS: usize = 512;

/// Readers that an image may have however many the others have.
const ENTITLED: usize = 4;

/// Time for which a reader without work is kept, but for the last one: no other may be had later.
const IDLE: Duration = Duration::from_secs(5);

/// Interval at which those who wait call [`Readers::check`].
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes that a reader takes with one `pread`.
const STEP: usize = 128 << 10;

/// Stack of a reader, in bytes: it calls `pread`, and formats a log line at times.
const STACK: usize = 256 << 10;

/// Number of readers in this process.
static READERS_RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Origin of cold reads: a connection, or a transfer.
#[derive(Debug, Clone)]
pub(crate) struct ReadClient {
    id: u64,
    done: UnboundedSender<ReadDone>,
    patience: Patience,
}

/// A client's way with reads that fail or hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It waits until the read succeeds.
    Waits,
    /// It is told at once.
    AsksAgain,
}

/// A cold read that ended.
#[derive(Debug)]
pub(crate) struct ReadDone {
    /// Number by which the client knows the read.
    pub number: u64,
    pub result: io::Result<()>,
}

impl ReadClient {
    /// Id of hints, which belong to no client.
    const NOBODY: u64 = 0;

    /// Makes a client, and the queue in which its reads end. Reads of a client that drops the queue
    /// are not begun any more.
    pub(crate) fn new(patience: Patience) -> (Self, UnboundedReceiver<ReadDone>) {
        static NEXT: AtomicU64 = AtomicU64::new(ReadClient::NOBODY + 1);
        let (done, queue) = unbounded_channel();
        (Self { id: NEXT.fetch_add(1, Ordering::Relaxed), done, patience }, queue)
    }
}

/// A disk that does not do what it should, or a file that someone changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageFault {
    pub kind: FaultKind,
    pub since: Instant,
    /// Description for the operator.
    pub text: String,
}

/// Kind of the first fault of an image; others may have followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// The file was changed in place. All reads wait until it is restored.
    Changed,
    /// Reads fail.
    Failing,
    /// Reads get no answer.
    Hanging,
    /// No thread can be started that reads.
    NoThread,
    /// The object store cannot be reached, or is in trouble. The bytes in the cache are served.
    StoreUnreachable,
    /// The object store refuses the credentials.
    StoreRefused,
    /// The object is not in the store any more.
    ObjectMissing,
    /// Another object has its place in the store.
    ObjectReplaced,
    /// A kind of another version of isowire.
    #[default]
    #[serde(other)]
    Unknown,
}

impl FaultKind {
    /// All kinds that there are here.
    pub(crate) const ALL: [FaultKind; 8] = [
        Self::Changed,
        Self::Failing,
        Self::Hanging,
        Self::NoThread,
        Self::StoreUnreachable,
        Self::StoreRefused,
        Self::ObjectMissing,
        Self::ObjectReplaced,
    ];

    /// Returns the name, as in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Failing => "failing",
            Self::Hanging => "hanging",
            Self::NoThread => "no-thread",
            Self::StoreUnreachable => "store-unreachable",
            Self::StoreRefused => "store-refused",
            Self::ObjectMissing => "object-missing",
            Self::ObjectReplaced => "object-replaced",
            Self::Unknown => "unknown",
        }
    }
}

impl From<&FetchError> for FaultKind {
    fn from(error: &FetchError) -> Self {
        match error {
            FetchError::Replaced => Self::ObjectReplaced,
            FetchError::NotFound => Self::ObjectMissing,
            FetchError::Refused(_) | FetchError::Credentials(_) => Self::StoreRefused,
            FetchError::Certificate(_) | FetchError::Unreachable(_) => Self::StoreUnreachable,
        }
    }
}

/// Origin of the bytes of an image.
#[derive(Debug)]
enum Origin {
    /// The file, which someone may change.
    File(FileState),
    /// An object. Nobody but this process changes its cache file.
    Stored(StoredFile),
}

impl Origin {
    const fn file(&self) -> Option<&FileState> {
        match self {
            Self::File(state) => Some(state),
            Self::Stored(_) => None,
        }
    }
}

/// The readers of one file.
#[derive(Debug)]
pub(super) struct Readers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Arc<File>,
    origin: Origin,
    queue: Mutex<Queue>,
    /// Tells idle readers of a new read, or of the end.
    changed: Condvar,
    /// Some reads are queued, under way or have failed.
    is_busy: AtomicBool,
}

impl Readers {
    /// Creates the readers of a file from which the image is opened now.
    ///
    /// # Errors
    /// The error of statx(2).
    pub(super) fn of_file(file: Arc<File>) -> io::Result<Self> {
        let origin = Origin::File(FileState::of(&file)?);
        Ok(Self::new(file, origin, Medium::Disk))
    }

    /// Creates the readers of an object.
    pub(super) fn of_stored(stored: StoredFile) -> Self {
        Self::new(Arc::clone(stored.file()), Origin::Stored(stored), Medium::Store)
    }

    fn new(file: Arc<File>, origin: Origin, medium: Medium) -> Self {
        let (queue, changed) = (Mutex::new(Queue::of(medium)), Condvar::new());
        Self(Arc::new(Shared { file, origin, queue, changed, is_busy: AtomicBool::new(false) }))
    }

    /// Returns `true` unless the file was changed after it was opened.
    pub(super) fn is_unchanged(&self, now: Instant) -> bool {
        self.0.is_unchanged(now)
    }

    /// Returns `true` if the file was found to be changed.
    pub(super) fn has_changed(&self) -> bool {
        self.0.has_changed()
    }

    /// Looks at the file, which may have to wait for a disk. Returns the state of a changed file
    /// that has to be compared with the image.
    pub(super) fn check_file(&self, now: Instant) -> Option<FileMark> {
        let state = self.0.origin.file()?;
        if let Some(text) = state.check(&self.0.file) {
            self.0.file_changed(text, now);
        }
        state.rested()
    }

    /// Notes whether the file has the content of the image in this state.
    pub(super) fn compared(&self, mark: FileMark, is_same: bool, now: Instant) {
        let is_restored = |state: &FileState| state.compared(&self.0.file, mark, is_same);
        if self.0.origin.file().is_some_and(is_restored) {
            let mut queue = self.0.queue();
            // It may have been changed again since, and that is told already or soon.
            if self.has_changed() {
                return;
            }
            let change = queue.file_restored(now);
            let count = queue.ready_reads(now);
            self.0.wake_readers(queue, count);
            self.0.log(change);
        }
    }

    /// Has `extent` read into the page cache for `client`, which is told the result as `number`.
    pub(super) fn read(&self, extent: Extent, client: &ReadClient, number: u64) {
        let waiter = Waiter { done: client.done.clone(), number, patience: client.patience };
        let mut queue = self.0.queue();
        self.0.is_busy.store(true, Ordering::Relaxed);
        if queue.add(extent, client.id, waiter, Instant::now()) {
            self.0.wake_readers(queue, 1);
        }
    }

    /// Has `extent` read into the page cache, unless there is too much to do.
    pub(super) fn read_ahead(&self, extent: Extent) {
        self.0.read_ahead(extent);
    }

    /// Has the ranges of a boot list read while no other read waits, unless that was done a moment
    /// ago.
    pub(super) fn read_listed(&self, list: &[Extent], now: Instant) {
        self.0.read_listed(list, now);
    }

    /// Starts a reader if there is none.
    pub(super) fn have_one(&self) {
        let mut queue = self.0.queue();
        if queue.readers() == 0 {
            // Without a thread the first read says so.
            let _ = self.0.start_reader(&mut queue);
        }
    }

    /// Notes that `client` does not wait any longer for this read, which has failed or hangs.
    pub(super) fn give_up(&self, extent: Extent, client: &ReadClient, number: u64) {
        metrics::happened(Event::ReadGivenUp);
        let change = self.0.queue().give_up(extent, &client.done, number);
        self.0.log(change);
    }

    /// Looks for reads that hang, and starts readers in the place of theirs. Those who wait call
    /// this every [`CHECK_INTERVAL`].
    pub(super) fn check(&self, now: Instant) {
        let mut queue = self.0.queue();
        let change = queue.check(now);
        let count = queue.ready_reads(now);
        self.0.wake_readers(queue, count);
        self.0.log(change);
    }

    /// Returns `true` if a reader may be about to read some page.
    pub(super) fn is_busy(&self) -> bool {
        self.0.is_busy.load(Ordering::Relaxed)
    }

    /// Returns the fault of the disk, if there is one.
    pub(super) fn fault(&self) -> Option<ImageFault> {
        self.0.queue().fault().cloned()
    }
}

/// Idle readers end at once, so that the file of an image that is not served any more is closed.
impl Drop for Readers {
    fn drop(&mut self) {
        self.0.queue().close();
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn is_unchanged(&self, now: Instant) -> bool {
        let Some(state) = self.origin.file() else { return true };
        if let Some(text) = state.look(&self.file, now) {
            self.file_changed(text, now);
        }
        !state.has_changed()
    }

    fn has_changed(&self) -> bool {
        self.origin.file().is_some_and(FileState::has_changed)
    }

    fn file_changed(&self, text: String, now: Instant) {
        let change = self.queue().file_changed(text, now);
        self.log(change);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held.
        locked(&self.queue)
    }

    /// Wakes idle readers, or starts more, for so many reads.
    fn wake_readers(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>, count: usize) {
        let mut started = Ok(true);
        for _ in 0..count {
            if queue.has_idle_readers() {
                self.changed.notify_one();
            } else if let Ok(true) = started {
                started = self.start_reader(&mut queue);
            }
        }
        // Otherwise the readers that there are come to it, or the next check starts one.
        if let Err(error) = started {
            let change = queue.thread_missing(&error, Instant::now());
            drop(queue);
            self.log(change);
        }
    }

    /// Starts a reader; returns `false` if there are as many as there may be.
    fn start_reader(self: &Arc<Self>, queue: &mut Queue) -> io::Result<bool> {
        let is_crowded = READERS_RUNNING.load(Ordering::Relaxed) >= ALL_READERS;
        if queue.active_readers() >= READERS || (is_crowded && queue.readers() >= ENTITLED) {
            return Ok(false);
        }
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("isowire-reader".into()).stack_size(STACK);
        builder.spawn(move || shared.run())?;
        queue.reader_began();
        READERS_RUNNING.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    fn read_ahead(self: &Arc<Self>, extent: Extent) {
        let mut queue = self.queue();
        if queue.add_hint(extent) {
            self.is_busy.store(true, Ordering::Relaxed);
            self.wake_readers(queue, 1);
        }
    }

    fn read_listed(self: &Arc<Self>, list: &[Extent], now: Instant) {
        let mut queue = self.queue();
        let readers = queue.add_listed(list, now);
        if readers == 0 {
            return;
        }
        let absent: u64 = match &self.origin {
            Origin::Stored(stored) => list.iter().map(|extent| stored.absent(*extent)).sum(),
            Origin::File(_) => 0,
        };
        self.is_busy.store(true, Ordering::Relaxed);
        self.wake_readers(queue, readers);
        if absent > 0 {
            info!(image = %self.name(), "fetching ahead what a boot reads: {} MiB", absent.div_ceil(1 << 20));
        } else {
            debug!(image = %self.name(), "reading ahead what a boot reads");
        }
    }

    /// Reads ranges until there are none for a while.
    fn run(self: &Arc<Self>) {
        let mut scratch = vec![0; STEP];
        while let Some(extent) = self.next() {
            let result = self.read(extent, &mut scratch);
            if result.is_err() {
                metrics::happened(Event::ReadFailed);
            }
            let change = self.queue().end(extent, result, Instant::now());
            self.log(change);
        }
    }

    fn read(self: &Arc<Self>, extent: Extent, scratch: &mut [u8]) -> io::Result<()> {
        // What is there are bytes of another image.
        if !self.is_unchanged(Instant::now()) {
            return Err(io::ErrorKind::StaleNetworkFileHandle.into());
        }
        let (is_waited_for, is_listed) = {
            let queue = self.queue();
            (queue.is_waited_for(extent), queue.is_listed(extent))
        };
        if let Origin::Stored(stored) = &self.origin {
            // A hint makes no further hints.
            if is_waited_for && let Some(ahead) = stored.ahead(extent) {
                self.read_ahead(ahead);
            }
            let room = if is_listed { stored.make_room(extent) } else { None };
            if is_listed && room.is_none() {
                // Blocks that are in use would go for it.
                self.queue().stop_listed();
                return Ok(());
            }
            stored.bring(extent)?;
            drop(room);
        }
        // Most of a list is there in most cases.
        if is_listed && residency::is_cached(&self.file, extent) {
            return Ok(());
        }
        touch(&self.file, extent, scratch)
    }

    /// Waits for the next read; `None` if the reader is not needed any more.
    fn next(&self) -> Option<Extent> {
        let (mut queue, mut has_timed_out) = (self.queue(), false);
        loop {
            let now = Instant::now();
            if queue.active_readers() <= READERS
                && let Some(extent) = queue.pop(now)
            {
                return Some(extent);
            }
            self.is_busy.store(!queue.is_empty(), Ordering::Relaxed);
            if queue.is_superfluous(has_timed_out) {
                queue.reader_ended();
                READERS_RUNNING.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
            let until = queue.next_retry().map_or(IDLE, |retry| retry.saturating_duration_since(now));
            queue.reader_idles(true);
            let (changed, wait) =
                self.changed.wait_timeout(queue, until.min(IDLE)).unwrap_or_else(PoisonError::into_inner);
            (queue, has_timed_out) = (changed, wait.timed_out());
            queue.reader_idles(false);
        }
    }

    /// Logs a change for the better or worse: once for the image, however many wait for it.
    fn log(&self, change: Option<Change>) {
        let Some(change) = change else { return };
        let image = self.name();
        match change {
            Change::Fault(text) => warn!(%image, "image cannot be read: {text}. Its clients wait"),
            Change::Over(seconds) => info!(%image, seconds, "image can be read again"),
            Change::GivenUp => {
                warn!(%image, "reads of the image given up after `stall-timeout`: clients get an error");
            }
        }
    }

    /// Returns the name of the image for the log.
    fn name(&self) -> String {
        match &self.origin {
            Origin::Stored(stored) => stored.object().url.clone(),
            // The path that the file has by now (proc(5)). The disk is not asked for that.
            Origin::File(_) => {
                let path = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
                path.unwrap_or_default().display().to_string()
            }
        }
    }
}

/// Reads `extent` into the page cache, and drops the bytes.
fn touch(file: &File, mut extent: Extent, scratch: &mut [u8]) -> io::Result<()> {
    // The kernel reads the whole range ahead while the loop below waits for its first bytes. Only a
    // hint, so an error does not matter.
    let _ = rustix::fs::fadvise(file, extent.offset, extent.len.try_into().ok(), Advice::WillNeed);
    while !extent.is_empty() {
        let step = extent.len.min(scratch.len() as u64);
        let (scratch, _) = scratch.split_at_mut(step as usize);
        file.read_exact_at(scratch, extent.offset)?;
        extent = extent.skip(step);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
