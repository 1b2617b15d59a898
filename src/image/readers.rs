//! Readers of an image: threads that read ranges from the disk into the page cache.
//!
//! Each reads one range at a time, so as many ranges are read at once as there are readers. A range
//! that several clients ask for is read once. Clients are served in turn, one range each: one that
//! asks for much does not keep the others from their turn. Each image has readers of its own, so an
//! image on a slow disk does not slow the others.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::Advice;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::extent::Extent;
use crate::locked::locked;

/// Most readers of one image: a disk with a deep queue is kept busy.
const READERS: usize = 64;

/// Readers of all images from which on an image gets no more than [`ENTITLED`].
const ALL_READERS: usize = 512;

/// Readers that an image may have however many the others have.
const ENTITLED: usize = 4;

/// Time for which a reader without work is kept.
const IDLE: Duration = Duration::from_secs(5);

/// Bytes that a reader takes with one `pread`.
const STEP: usize = 128 << 10;

/// Stack of a reader, in bytes. It calls little more than `pread`.
const STACK: usize = 64 << 10;

/// Most hints that wait for a reader; more are dropped.
const HINTS: usize = 64;

/// Number of readers in this process.
static READERS_RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Origin of cold reads: a connection, or a transfer.
#[derive(Debug, Clone)]
pub(crate) struct ReadClient {
    id: u64,
    done: UnboundedSender<ReadDone>,
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
    pub(crate) fn new() -> (Self, UnboundedReceiver<ReadDone>) {
        static NEXT: AtomicU64 = AtomicU64::new(ReadClient::NOBODY + 1);
        let (done, queue) = unbounded_channel();
        (Self { id: NEXT.fetch_add(1, Ordering::Relaxed), done }, queue)
    }
}

/// The readers of one file.
#[derive(Debug)]
pub(super) struct Readers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Arc<File>,
    queue: Mutex<Queue>,
    /// Tells idle readers of a new read, or of the end.
    changed: Condvar,
}

/// Reads that are queued or under way, and the number of readers.
#[derive(Debug, Default)]
struct Queue {
    reads: HashMap<Extent, ColdRead>,
    /// Clients whose reads have not begun, in the order of their turns.
    turns: VecDeque<u64>,
    /// The reads of each of them.
    of_client: HashMap<u64, VecDeque<Extent>>,
    /// Number of reads that have not begun, and of hints among them.
    queued: usize,
    hints: usize,
    readers: usize,
    idle: usize,
    /// The image is closed.
    is_closed: bool,
}

/// A read that is queued or under way.
#[derive(Debug)]
struct ColdRead {
    /// Those who wait for it, and its number there.
    waiting: Vec<(UnboundedSender<ReadDone>, u64)>,
    /// Begun even if nobody waits.
    is_hint: bool,
}

impl ColdRead {
    fn is_wanted(&self) -> bool {
        self.is_hint || self.waiting.iter().any(|(done, _)| !done.is_closed())
    }
}

impl Readers {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self(Arc::new(Shared { file, queue: Mutex::default(), changed: Condvar::new() }))
    }

    /// Has `extent` read into the page cache for `client`, which is told the result as `number`.
    pub(super) fn read(&self, extent: Extent, client: &ReadClient, number: u64) {
        let waiting = (client.done.clone(), number);
        let mut queue = self.0.queue();
        match queue.reads.entry(extent) {
            Entry::Occupied(mut read) => return read.get_mut().waiting.push(waiting),
            Entry::Vacant(new) => new.insert(ColdRead { waiting: vec![waiting], is_hint: false }),
        };
        queue.push(client.id, extent);
        self.0.wake_reader(queue);
    }

    /// Has `extent` read into the page cache, unless there is too much to do.
    pub(super) fn read_ahead(&self, extent: Extent) {
        let mut queue = self.0.queue();
        if queue.hints >= HINTS || queue.reads.contains_key(&extent) {
            return;
        }
        queue.reads.insert(extent, ColdRead { waiting: Vec::new(), is_hint: true });
        queue.hints += 1;
        queue.push(ReadClient::NOBODY, extent);
        self.0.wake_reader(queue);
    }
}

/// Idle readers end at once, so that the file of an image that is not served any more is closed.
impl Drop for Readers {
    fn drop(&mut self) {
        self.0.queue().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while the lock is held.
        locked(&self.queue)
    }

    /// Wakes an idle reader for a read that was queued, or starts another one.
    fn wake_reader(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if queue.idle >= queue.queued {
            drop(queue);
            return self.changed.notify_one();
        }
        if !queue.may_grow() {
            return;
        }
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("isowire-reader".into()).stack_size(STACK);
        match builder.spawn(move || shared.run()) {
            Ok(_) => {
                queue.readers += 1;
                READERS_RUNNING.fetch_add(1, Ordering::Relaxed);
            }
            // The readers that there are will come to it.
            Err(_) if queue.readers > 0 => {}
            Err(error) => queue.fail_all(&error),
        }
    }

    /// Reads ranges until there are none for a while.
    fn run(&self) {
        let mut scratch = vec![0; STEP];
        while let Some(extent) = self.next() {
            let result = touch(&self.file, extent, &mut scratch);
            self.queue().end(extent, &result);
        }
    }

    /// Waits for the next read; `None` if the reader is not needed any more.
    fn next(&self) -> Option<Extent> {
        let (mut queue, mut has_timed_out) = (self.queue(), false);
        loop {
            if let Some(extent) = queue.pop() {
                return Some(extent);
            }
            if queue.is_closed || has_timed_out {
                queue.readers -= 1;
                READERS_RUNNING.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
            queue.idle += 1;
            let (changed, wait) =
                self.changed.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            (queue, has_timed_out) = (changed, wait.timed_out());
            queue.idle -= 1;
        }
    }
}

impl Queue {
    fn may_grow(&self) -> bool {
        let most = if READERS_RUNNING.load(Ordering::Relaxed) < ALL_READERS { READERS } else { ENTITLED };
        self.readers < most
    }

    /// Queues a read of a client.
    fn push(&mut self, client: u64, extent: Extent) {
        let reads = self.of_client.entry(client).or_default();
        if reads.is_empty() {
            self.turns.push_back(client);
        }
        reads.push_back(extent);
        self.queued += 1;
    }

    /// Takes a read of the client whose turn it is.
    fn pop(&mut self) -> Option<Extent> {
        while let Some(client) = self.turns.pop_front() {
            let Entry::Occupied(mut reads) = self.of_client.entry(client) else { continue };
            let Some(extent) = reads.get_mut().pop_front() else { continue };
            if reads.get().is_empty() {
                reads.remove();
            } else {
                self.turns.push_back(client);
            }
            self.queued -= 1;
            let Entry::Occupied(read) = self.reads.entry(extent) else { continue };
            if read.get().is_hint {
                self.hints -= 1;
            }
            if read.get().is_wanted() {
                return Some(extent);
            }
            read.remove();
        }
        None
    }

    /// Tells all that wait for a read how it ended.
    fn end(&mut self, extent: Extent, result: &io::Result<()>) {
        for (done, number) in self.reads.remove(&extent).into_iter().flat_map(|read| read.waiting) {
            // Nobody listens where the connection has ended.
            let _ = done.send(ReadDone { number, result: copy_of(result) });
        }
    }

    /// Ends all reads: no thread can be had.
    fn fail_all(&mut self, error: &io::Error) {
        let result = Err(copy(error));
        while let Some(extent) = self.pop() {
            self.end(extent, &result);
        }
    }
}

fn copy_of(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().map_err(copy).copied()
}

/// Returns an equal error for each of those who wait.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
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
mod tests {
    use super::*;

    const fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    fn queued(queue: &mut Queue, client: &ReadClient, offset: u64) {
        let waiting = vec![(client.done.clone(), offset)];
        queue.reads.insert(extent(offset, 1), ColdRead { waiting, is_hint: false });
        queue.push(client.id, extent(offset, 1));
    }

    fn order(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|extent| extent.offset).collect()
    }

    #[test]
    fn clients_are_served_in_turn() {
        let [(greedy, _g), (modest, _m)] = [(); 2].map(|()| ReadClient::new());
        let mut queue = Queue::default();
        (0..4).for_each(|offset| queued(&mut queue, &greedy, offset));
        (10..12).for_each(|offset| queued(&mut queue, &modest, offset));
        assert_eq!(order(&mut queue), [0, 10, 1, 11, 2, 3]);
        assert!(queue.of_client.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn read_of_a_client_that_left_is_not_begun() {
        let [(gone, left), (here, _h)] = [(); 2].map(|()| ReadClient::new());
        let mut queue = Queue::default();
        [0, 1].into_iter().for_each(|offset| queued(&mut queue, &gone, offset));
        queue.reads.get_mut(&extent(1, 1)).unwrap().waiting.push((here.done, 7));
        drop(left);
        assert_eq!(order(&mut queue), [1]);
        assert_eq!(queue.reads.len(), 1);
    }

    fn file_of(len: usize) -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; len], 0).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn range_is_read_once_for_all() {
        let readers = Readers::new(file_of(1 << 20));
        let (client, mut done) = ReadClient::new();
        let numbers = [3, 1, 2];
        for number in numbers {
            readers.read(extent(0, 1 << 20), &client, number);
        }
        for _ in numbers {
            let ReadDone { number, result } = done.recv().await.unwrap();
            assert!(numbers.contains(&number) && result.is_ok());
        }
        assert!(readers.0.queue().reads.is_empty());
    }

    #[tokio::test]
    async fn read_behind_the_end_is_an_error_for_all() {
        let readers = Readers::new(file_of(4096));
        let (client, mut done) = ReadClient::new();
        for number in 0..3 {
            readers.read(extent(0, 1 << 20), &client, number);
        }
        for _ in 0..3 {
            let error = done.recv().await.unwrap().result.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn closed_image_ends_its_readers() {
        let file = file_of(4096);
        let readers = Readers::new(Arc::clone(&file));
        readers.read_ahead(extent(0, 4096));
        drop(readers);
        let since = std::time::Instant::now();
        while Arc::strong_count(&file) > 1 {
            assert!(since.elapsed() < IDLE, "a reader keeps the file open");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
