//! The space that all cache files of a folder may take together, and the choice of what goes when it
//! is used up: files that no image uses, and then blocks that were not used for long (second
//! chance).

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::locked::locked;
use crate::metrics::{self, Gauge};

/// Time after the start for which files stay that no image uses: their images may not be open yet.
const START: Duration = Duration::from_secs(60);

/// Blocks that one image evicts at a time: it waits once for those who send.
const EVICTED_TOGETHER: usize = 8;

/// A cache file of which blocks can be evicted.
pub(super) trait Evict: Debug + Send + Sync {
    /// Evicts at most `most` blocks, and goes on where the last call stopped.
    fn evict(&self, most: usize, chances: Chances) -> Evicted;
}

/// The second chances of blocks that were used since the last search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chances {
    /// The search takes them, and comes back.
    Taken,
    /// Such blocks stay.
    Kept,
}

/// Result of a search for blocks to evict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evicted {
    /// Bytes whose space is free now.
    pub(super) bytes: u64,
    /// The search came to the end of the file.
    pub(super) is_end: bool,
}

/// Removes the files of an object.
type Remove = Box<dyn Fn(&str) + Send + Sync>;

/// Space of a cache folder.
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
    /// Bytes of [`Room`].
    reserved: AtomicU64,
    started: Instant,
    files: Mutex<HashMap<String, FileUse>>,
    clock: Mutex<Clock>,
    /// Another process has the folder too, and may send any block.
    is_shared: AtomicBool,
    remove: Remove,
}

/// Use of the files of an object.
#[derive(Debug, Default)]
struct FileUse {
    /// Number of images that use them.
    users: usize,
    /// Space of files without users, in bytes.
    bytes: u64,
    last: Option<SystemTime>,
}

/// The cache files in the order in which blocks are looked for.
#[derive(Debug, Default)]
struct Clock {
    caches: Vec<Weak<dyn Evict>>,
    at: usize,
}

/// Space for bytes that are fetched although nobody waits for them.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.budget.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Budget({} of {})", self.used(), self.limit)
    }
}

impl Budget {
    pub(super) fn new(limit: u64, remove: Remove) -> Self {
        metrics::set(Gauge::CacheLimit, limit);
        Self {
            limit,
            used: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            started: Instant::now(),
            files: Mutex::default(),
            clock: Mutex::default(),
            is_shared: AtomicBool::new(false),
            remove,
        }
    }

    /// Returns the bytes that are used.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Notes whether another process has the folder. Waits for evictions that are under way.
    pub(super) fn set_shared(&self, is_shared: bool) {
        let _clock = locked(&self.clock);
        self.is_shared.store(is_shared, Ordering::SeqCst);
    }

    /// Calls `work`, which gives space back, unless another process has the folder: that one may send
    /// what is there.
    pub(super) fn while_alone(&self, work: impl FnOnce()) {
        let _clock = locked(&self.clock);
        if !self.is_shared() {
            work();
        }
    }

    fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::SeqCst)
    }

    /// Notes files of an object that no image uses, which take so many bytes.
    pub(super) fn found(&self, key: &str, bytes: u64, last: SystemTime) {
        self.add(bytes);
        let found = FileUse { users: 0, bytes, last: Some(last) };
        if let Some(before) = locked(&self.files).insert(key.to_owned(), found) {
            self.sub(before.bytes);
        }
    }

    /// Has `open` open the files of an object for an image. They are not removed meanwhile, and as
    /// long as an image uses them. `open` also returns the bytes that they take.
    pub(super) fn opened<T, E>(&self, key: &str, open: impl FnOnce() -> Result<(T, u64), E>) -> Result<T, E> {
        let mut files = locked(&self.files);
        let (opened, bytes) = open()?;
        self.add(bytes);
        let file = files.entry(key.to_owned()).or_default();
        self.sub(std::mem::take(&mut file.bytes));
        file.users += 1;
        Ok(opened)
    }

    /// Notes that an image does not use these files any more, which take so many bytes.
    pub(super) fn closed(&self, key: &str, bytes: u64, now: SystemTime) {
        let mut files = locked(&self.files);
        let file = files.entry(key.to_owned()).or_default();
        file.users = file.users.saturating_sub(1);
        if file.users > 0 {
            // Counted by the other user too.
            self.sub(bytes);
        } else {
            (file.bytes, file.last) = (bytes, Some(now));
        }
    }

    /// Has blocks of this file evicted when space is needed.
    pub(super) fn watch(&self, cache: Weak<dyn Evict>) {
        let mut clock = locked(&self.clock);
        clock.caches.retain(|cache| cache.strong_count() > 0);
        clock.caches.push(cache);
    }

    /// Takes space for so many bytes. Others have to go for them if there is not enough; while
    /// another process has the folder too, the limit may be passed.
    pub(super) fn take(&self, bytes: u64) {
        self.add(bytes);
        if self.used() > self.limit {
            self.shrink(Chances::Taken, || self.used() <= self.limit);
        }
    }

    /// Reserves space for so many bytes that nobody waits for. Blocks that are in use do not go for
    /// them: returns `None` if there is not enough without these.
    pub(super) fn make_room(&self, bytes: u64) -> Option<Room<'_>> {
        let reserved = self.reserved.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        // Given back when it is dropped.
        let room = Room { budget: self, bytes };
        let is_enough = || self.used().saturating_add(reserved) <= self.limit;
        (bytes == 0 || self.shrink(Chances::Kept, is_enough)).then_some(room)
    }

    /// Notes that so many more bytes are used.
    pub(super) fn count(&self, bytes: u64) {
        self.add(bytes);
    }

    /// Gives space back that was not used, or whose blocks were evicted.
    pub(super) fn give_back(&self, bytes: u64) {
        self.sub(bytes);
    }

    /// Frees some space, since the disk is full. Returns `true` if something went.
    pub(super) fn relieve(&self) -> bool {
        let before = self.used();
        self.shrink(Chances::Taken, || self.used() < before)
    }

    /// Removes files and evicts blocks until it is enough. Returns `false` if there was not enough.
    fn shrink(&self, chances: Chances, is_enough: impl Fn() -> bool) -> bool {
        let mut clock = locked(&self.clock);
        let is_start = self.started.elapsed() < START;
        while !self.is_shared() && !is_enough() {
            let is_freed = (!is_start && self.remove_oldest())
                || clock.evict(self, chances)
                || (chances == Chances::Taken && self.remove_oldest());
            if !is_freed {
                break;
            }
        }
        is_enough()
    }

    /// Removes the files that were used least recently of those that no image uses.
    fn remove_oldest(&self) -> bool {
        let mut files = locked(&self.files);
        let unused = files.iter().filter(|(_, file)| file.users == 0);
        let Some(key) = unused.min_by_key(|(_, file)| file.last).map(|(key, _)| key.clone()) else {
            return false;
        };
        (self.remove)(&key);
        if let Some(file) = files.remove(&key) {
            self.sub(file.bytes);
        }
        true
    }

    fn add(&self, bytes: u64) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        metrics::set(Gauge::CacheUsed, used);
    }

    /// Takes bytes off those that are used. A number that went below zero would look like a full
    /// cache for ever.
    fn sub(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let before = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        metrics::set(Gauge::CacheUsed, before.unwrap_or_default().saturating_sub(bytes));
    }
}

impl Clock {
    /// Evicts some blocks. Returns `false` if there is none that could go.
    fn evict(&mut self, budget: &Budget, chances: Chances) -> bool {
        self.caches.retain(|cache| cache.strong_count() > 0);
        // Once around takes the second chances, and once more the blocks; the first and the last
        // file are searched in part.
        for _ in 0..2 * self.caches.len() + 1 {
            let Some(cache) = self.caches.get(self.at).and_then(Weak::upgrade) else {
                self.at = if self.at + 1 < self.caches.len() { self.at + 1 } else { 0 };
                continue;
            };
            let evicted = cache.evict(EVICTED_TOGETHER, chances);
            if evicted.is_end {
                self.at = if self.at + 1 < self.caches.len() { self.at + 1 } else { 0 };
            }
            if evicted.bytes > 0 {
                budget.sub(evicted.bytes);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A block without a second chance.
    const UNUSED: u32 = 1;

    /// A file whose blocks of one byte are evicted in their order.
    #[derive(Debug)]
    struct Blocks(Mutex<Vec<u32>>);

    impl Evict for Blocks {
        fn evict(&self, most: usize, chances: Chances) -> Evicted {
            let mut blocks = locked(&self.0);
            let is_free = |block: &u32| chances == Chances::Taken || *block == UNUSED;
            let evicted = blocks.iter().take(most).take_while(|block| is_free(block)).count();
            blocks.drain(..evicted);
            Evicted { bytes: evicted as u64, is_end: evicted < most || blocks.is_empty() }
        }
    }

    fn removed() -> (Arc<Mutex<Vec<String>>>, Remove) {
        let removed = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&removed);
        (removed, Box::new(move |key| locked(&list).push(key.to_owned())))
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn later(budget: Budget) -> Budget {
        Budget { started: budget.started.checked_sub(START).unwrap(), ..budget }
    }

    #[test]
    fn file_without_an_image_goes_first() {
        let (removed, remove) = removed();
        let budget = later(Budget::new(100, remove));
        budget.found("new", 30, at(9));
        budget.found("old", 30, at(5));
        budget.opened("used", || Ok::<_, ()>(((), 30))).unwrap();
        let blocks: Arc<dyn Evict> = Arc::new(Blocks(Mutex::new(vec![0; 30])));
        budget.watch(Arc::downgrade(&blocks));
        budget.take(10);
        assert!(locked(&removed).is_empty());
        budget.take(30);
        assert_eq!((locked(&removed).as_slice(), budget.used()), (&["old".to_owned()][..], 100));
        budget.take(30);
        assert_eq!(locked(&removed).as_slice(), ["old", "new"]);
        budget.take(5);
        assert_eq!(budget.used(), 105 - EVICTED_TOGETHER as u64);
    }

    #[test]
    fn file_stays_at_the_start_as_long_as_blocks_can_go() {
        let (removed, remove) = removed();
        let budget = Budget::new(10, remove);
        budget.found("not open yet", 5, at(5));
        let blocks: Arc<dyn Evict> = Arc::new(Blocks(Mutex::new(vec![0; 5])));
        budget.watch(Arc::downgrade(&blocks));
        budget.opened("open", || Ok::<_, ()>(((), 5))).unwrap();
        budget.take(5);
        assert!(locked(&removed).is_empty() && budget.used() == 10);
        budget.take(5);
        assert_eq!((locked(&removed).len(), budget.used()), (1, 10));
        budget.take(100);
        assert_eq!(budget.used(), 110, "nothing is left that could go");
    }

    #[test]
    fn nothing_goes_as_long_as_two_processes_share() {
        let (removed, remove) = removed();
        let budget = later(Budget::new(10, remove));
        budget.found("other", 10, at(5));
        budget.set_shared(true);
        budget.take(5);
        assert!(!budget.relieve());
        assert!(locked(&removed).is_empty() && budget.used() == 15);
        budget.set_shared(false);
        assert!(budget.relieve());
        assert!(locked(&removed).len() == 1 && budget.used() == 5);
    }

    #[test]
    fn space_of_a_file_is_counted_once() {
        let budget = Budget::new(1000, Box::new(|_| ()));
        budget.found("a", 50, at(1));
        budget.opened("a", || Ok::<_, ()>(((), 60))).unwrap();
        assert_eq!(budget.used(), 60);
        assert_eq!(budget.opened("a", || Err::<((), u64), _>("no")), Err("no"));
        // It is opened again before the last user is gone.
        budget.opened("a", || Ok::<_, ()>(((), 60))).unwrap();
        budget.closed("a", 60, at(2));
        assert_eq!(budget.used(), 60);
        budget.closed("a", 60, at(3));
        assert_eq!((budget.used(), locked(&budget.files)["a"].bytes), (60, 60));
        budget.opened("a", || Ok::<_, ()>(((), 61))).unwrap();
        assert_eq!(budget.used(), 61);
    }

    #[test]
    fn room_for_what_nobody_waits_for_costs_no_block_in_use() {
        let (removed, remove) = removed();
        let budget = later(Budget::new(100, remove));
        budget.found("without an image", 10, at(5));
        let blocks: Arc<dyn Evict> = Arc::new(Blocks(Mutex::new([vec![UNUSED; 20], vec![0; 60]].concat())));
        budget.watch(Arc::downgrade(&blocks));
        budget.opened("open", || Ok::<_, ()>(((), 80))).unwrap();
        assert!(budget.make_room(10).is_some() && locked(&removed).is_empty());
        assert!(budget.make_room(20).is_some() && locked(&removed).len() == 1);
        let room = budget.make_room(40).unwrap();
        assert!(budget.used() <= 60 && budget.make_room(1).is_none(), "others have reserved the rest");
        drop(room);
        assert!(budget.make_room(41).is_none(), "those in use stay");
        assert_eq!((budget.used(), budget.reserved.load(Ordering::Relaxed)), (60, 0));
        budget.take(41);
        assert!(budget.used() <= 100, "as for one who waits");
    }

    #[test]
    fn space_that_is_given_back_twice_is_not_less_than_none() {
        let budget = Budget::new(100, Box::new(|_| ()));
        budget.take(10);
        budget.give_back(10);
        budget.give_back(10);
        assert_eq!(budget.used(), 0);
        budget.take(10);
        assert_eq!(budget.used(), 10);
    }
}
