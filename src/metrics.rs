//! Counters of the process, for `/metrics`. They are the same for all services of a process, so they
//! are static: a service counts where it works, and needs no handle for it.
//!
//! Each thread adds to counters of its own, so that no two processors share a cache line on the data
//! path. They are statistics only, so every access is relaxed.

#[expect(clippy::disallowed_methods, reason = "the shell reads files")]
pub(crate) mod process;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Sets of counters: more than a host has processors, in most cases.
const SHARDS: usize = 16;

/// Upper bounds of the buckets of latencies, in microseconds. The last one has none.
pub(crate) const BUCKETS: [u64; 12] =
    [100, 250, 500, 1000, 2500, 5000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];

/// A service, as the label `door` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Nbd,
    Nfs,
    Http,
    Tftp,
    Dhcp,
}

impl Door {
    pub(crate) const ALL: [Door; 5] = [Door::Nbd, Door::Nfs, Door::Http, Door::Tftp, Door::Dhcp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Door::Nbd => "nbd",
            Door::Nfs => "nfs",
            Door::Http => "http",
            Door::Tftp => "tftp",
            Door::Dhcp => "dhcp",
        }
    }
}

/// A count of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tally {
    /// Connections, or transfers of TFTP, that began.
    Opened,
    /// Those that ended.
    Closed,
    /// Requests that were answered, or messages of DHCP that arrived.
    Requests,
    /// Bytes of images sent.
    Bytes,
    /// Connections that the peer or the network ended early, and requests that were refused.
    PeerErrors,
    /// Connections that ended, and requests that were refused, since an image could not be read.
    ImageErrors,
    /// Ranges that the page cache held when they were asked for.
    CacheHits,
    /// Ranges that it did not hold.
    CacheMisses,
}

const TALLIES: usize = 8;

/// A count of rare events, of no single service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A read of an image file failed. It is repeated.
    ReadFailed,
    /// A read of an image file had no answer of the disk for five seconds.
    ReadHung,
    /// A client got an error, as its read lasted longer than `stall-timeout`.
    ReadGivenUp,
    /// A DHCP lease was granted or renewed.
    Leased,
    /// A request to an object store failed. It is repeated.
    FetchFailed,
}

const EVENTS: usize = 5;

/// A value that is set, not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gauge {
    /// Addresses of all DHCP ranges.
    PoolAddresses,
    /// Those that are leased, offered or in quarantine.
    UsedAddresses,
    Images,
    /// Replaced images that clients may still use.
    RetainedImages,
    /// 1 if this process took over from another one.
    TakenOver,
    /// Bytes that the cache folder takes, and may take.
    CacheUsed,
    CacheLimit,
}

const GAUGES: usize = 7;

/// Counters of one thread, or of a few. The alignment is that of two cache lines, which processors
/// fetch together.
#[repr(align(128))]
struct Shard {
    doors: [DoorShard; Door::ALL.len()],
    cold_reads: HistogramShard,
    fetches: HistogramShard,
    fetched_bytes: AtomicU64,
}

struct DoorShard {
    tallies: [AtomicU64; TALLIES],
    replies: HistogramShard,
}

struct HistogramShard {
    /// One for each bound, and one for what is longer.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl HistogramShard {
    const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS.len() + 1], micros: AtomicU64::new(0) }
    }

    fn observe(&self, time: Duration) {
        // A reply takes no thousand years.
        let micros = time.as_micros() as u64;
        let bucket = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(micros, Relaxed);
    }
}

impl Shard {
    const fn new() -> Self {
        Self {
            doors: [const {
                DoorShard { tallies: [const { AtomicU64::new(0) }; TALLIES], replies: HistogramShard::new() }
            }; Door::ALL.len()],
            cold_reads: HistogramShard::new(),
            fetches: HistogramShard::new(),
            fetched_bytes: AtomicU64::new(0),
        }
    }
}

static COUNTERS: [Shard; SHARDS] = [const { Shard::new() }; SHARDS];

static HAPPENED: [AtomicU64; EVENTS] = [const { AtomicU64::new(0) }; EVENTS];

static VALUES: [AtomicU64; GAUGES] = [const { AtomicU64::new(0) }; GAUGES];

/// Number of the next thread that counts.
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: usize = NEXT.fetch_add(1, Relaxed) % SHARDS;
}

fn own() -> Option<&'static Shard> {
    COUNTERS.get(OWN.try_with(|own| *own).unwrap_or(0))
}

/// Adds to a count of a service.
pub(crate) fn count(door: Door, tally: Tally, number: u64) {
    let counter = own().and_then(|shard| shard.doors.get(door as usize)?.tallies.get(tally as usize));
    if let Some(counter) = counter {
        counter.fetch_add(number, Relaxed);
    }
}

/// Records the time that a service took for its replies.
pub(crate) fn observe(door: Door, time: Duration) {
    if let Some(shard) = own().and_then(|shard| shard.doors.get(door as usize)) {
        shard.replies.observe(time);
    }
}

/// Records the time that a range took to be read from the disk.
pub(crate) fn observe_cold_read(time: Duration) {
    if let Some(shard) = own() {
        shard.cold_reads.observe(time);
    }
}

/// Records the time that some bytes took to come from an object store.
pub(crate) fn observe_fetch(time: Duration, bytes: u64) {
    if let Some(shard) = own() {
        shard.fetches.observe(time);
        shard.fetched_bytes.fetch_add(bytes, Relaxed);
    }
}

/// Counts a rare event.
pub(crate) fn happened(event: Event) {
    if let Some(counter) = HAPPENED.get(event as usize) {
        counter.fetch_add(1, Relaxed);
    }
}

/// Returns the number of these events.
pub(crate) fn events(event: Event) -> u64 {
    HAPPENED.get(event as usize).map_or(0, |counter| counter.load(Relaxed))
}

/// Sets a value.
pub(crate) fn set(gauge: Gauge, value: u64) {
    if let Some(cell) = VALUES.get(gauge as usize) {
        cell.store(value, Relaxed);
    }
}

/// Returns a value.
pub(crate) fn value(gauge: Gauge) -> u64 {
    VALUES.get(gauge as usize).map_or(0, |cell| cell.load(Relaxed))
}

/// Returns a count of all threads.
pub(crate) fn total(door: Door, tally: Tally) -> u64 {
    let of = |shard: &Shard| Some(shard.doors.get(door as usize)?.tallies.get(tally as usize)?.load(Relaxed));
    COUNTERS.iter().filter_map(of).fold(0, u64::wrapping_add)
}

/// Times, counted by their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Histogram {
    /// One for each of [`BUCKETS`], and one for what is longer.
    pub buckets: [u64; BUCKETS.len() + 1],
    pub micros: u64,
}

impl Histogram {
    fn add(&mut self, shard: &HistogramShard) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&shard.buckets) {
            *sum = sum.wrapping_add(bucket.load(Relaxed));
        }
        self.micros = self.micros.wrapping_add(shard.micros.load(Relaxed));
    }
}

/// Returns the times that a service took for its replies.
pub(crate) fn replies(door: Door) -> Histogram {
    let mut sum = Histogram::default();
    COUNTERS
        .iter()
        .filter_map(|shard| shard.doors.get(door as usize))
        .for_each(|door| sum.add(&door.replies));
    sum
}

/// Returns the times that ranges took to be read from the disk.
pub(crate) fn cold_reads() -> Histogram {
    let mut sum = Histogram::default();
    COUNTERS.iter().for_each(|shard| sum.add(&shard.cold_reads));
    sum
}

/// Returns the times that requests to object stores took, and the bytes that came.
pub(crate) fn fetches() -> (Histogram, u64) {
    let (mut sum, mut bytes) = (Histogram::default(), 0_u64);
    for shard in &COUNTERS {
        sum.add(&shard.fetches);
        bytes = bytes.wrapping_add(shard.fetched_bytes.load(Relaxed));
    }
    (sum, bytes)
}

/// Ranges that were looked for in the page cache. They are counted together, when this is dropped.
#[derive(Debug)]
pub(crate) struct PageCacheLooks {
    door: Door,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl PageCacheLooks {
    pub(crate) fn new(door: Door) -> Self {
        Self { door, hits: Cell::new(0), misses: Cell::new(0) }
    }

    /// Notes whether the page cache held a range.
    pub(crate) fn note(&self, is_held: bool) {
        let looks = if is_held { &self.hits } else { &self.misses };
        looks.set(looks.get() + 1);
    }
}

impl Drop for PageCacheLooks {
    fn drop(&mut self) {
        for (tally, looks) in [(Tally::CacheHits, &self.hits), (Tally::CacheMisses, &self.misses)] {
            if looks.get() > 0 {
                count(self.door, tally, looks.get());
            }
        }
    }
}

/// A connection, which counts as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Door);

impl OpenConnection {
    pub(crate) fn new(door: Door) -> Self {
        count(door, Tally::Opened, 1);
        Self(door)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        count(self.0, Tally::Closed, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Other tests count too, but DHCP has no connections and reads no image.

    #[test]
    fn counts_of_threads_add_up() {
        let before = total(Door::Dhcp, Tally::ImageErrors);
        let threads: Vec<_> =
            (0..40).map(|_| std::thread::spawn(|| count(Door::Dhcp, Tally::ImageErrors, 2))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(total(Door::Dhcp, Tally::ImageErrors) - before, 80);
    }

    #[test]
    fn times_are_in_the_bucket_of_their_bound() {
        let shard = HistogramShard::new();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            shard.observe(Duration::from_micros(micros));
        }
        let mut sum = Histogram::default();
        sum.add(&shard);
        assert_eq!((sum.buckets[0], sum.buckets[1], sum.buckets[11], sum.buckets[12]), (2, 1, 1, 1));
        assert_eq!(sum.micros, 20_000_202);
    }

    #[test]
    fn looks_are_counted_when_they_are_done() {
        let of = |tally| total(Door::Dhcp, tally);
        let looks = PageCacheLooks::new(Door::Dhcp);
        [true, false, true].into_iter().for_each(|is_held| looks.note(is_held));
        assert_eq!((of(Tally::CacheHits), of(Tally::CacheMisses)), (0, 0));
        drop(looks);
        assert_eq!((of(Tally::CacheHits), of(Tally::CacheMisses)), (2, 1));
    }

    #[test]
    fn connection_is_open_until_it_is_dropped() {
        let of = |tally| total(Door::Dhcp, tally);
        let (opened, closed) = (of(Tally::Opened), of(Tally::Closed));
        drop(OpenConnection::new(Door::Dhcp));
        assert!(of(Tally::Opened) > opened && of(Tally::Closed) > closed);
    }
}
