//! The cache file of one object: its blocks are fetched, verified and evicted here.
//!
//! The bytes of a block are written first, and then its record. A process that is killed between
//! the two leaves a block that is fetched again; a host that loses power may keep the record and
//! lose the bytes, so a block that was there at the start is compared with its checksum before its
//! first use.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};

use super::ahead::Streams;
use super::blocks::{BlockState, Blocks};
use super::budget::{Budget, Chances, Evict, Evicted, Room};
use super::fetcher::Fetcher;
use super::gate::{Gate, Pass};
use super::ledger::{self, RECORD_LEN};
use super::object::{FetchError, Object};
use crate::extent::Extent;
use crate::locked::locked;

/// Most blocks of one request. More would keep the first of them waiting, and take memory.
pub(super) const RUN: u64 = 4;

/// Error of a block that could not be brought.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BlockError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The disk of the cache folder.
    #[error("cache folder: {text}")]
    Disk { kind: io::ErrorKind, text: String },
}

impl From<io::Error> for BlockError {
    fn from(error: io::Error) -> Self {
        Self::Disk { kind: error.kind(), text: error.to_string() }
    }
}

impl From<BlockError> for io::Error {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::Fetch(error) => error.into(),
            BlockError::Disk { kind, .. } => io::Error::new(kind, error),
        }
    }
}

/// Files of an object in the cache folder.
#[derive(Debug)]
pub(super) struct Files {
    /// Sparse, with the length of the object.
    pub(super) blocks: File,
    pub(super) ledger: File,
}

/// Cache file of one object, shared by all images that were opened from it.
#[derive(Debug)]
pub(super) struct BlockCache {
    object: Object,
    /// Name of its files in the folder.
    key: String,
    file: Arc<File>,
    ledger: File,
    blocks: Blocks,
    /// Bytes of the blocks that are there.
    held: AtomicU64,
    gate: Gate,
    /// Blocks that are being fetched, verified or evicted.
    busy: Mutex<Busy>,
    /// A block is not busy any more.
    landed: Condvar,
    streams: Mutex<Streams>,
    fetcher: Arc<Fetcher>,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Busy {
    blocks: HashMap<u64, Arc<Flight>>,
    /// Block at which the next search for blocks to evict begins.
    hand: u64,
}

/// Work on a run of blocks, with its outcome for all who wait for one of them.
type Flight = OnceLock<Result<(), BlockError>>;

/// Next step towards a range that is there.
enum Step<'a> {
    Done,
    /// Another does what is needed.
    Wait(Arc<Flight>),
    Fetch(Claim<'a>),
    Verify(Claim<'a>),
}

/// Blocks that one thread works on. The others wait until it is dropped.
struct Claim<'a> {
    cache: &'a BlockCache,
    blocks: Range<u64>,
    outcome: Result<(), BlockError>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut busy = self.cache.busy();
        for block in self.blocks.clone() {
            if let Some(flight) = busy.blocks.remove(&block) {
                // One flight for all blocks; the first sets it.
                let _ = flight.set(self.outcome.clone());
            }
        }
        self.cache.landed.notify_all();
    }
}

impl BlockCache {
    /// Creates the cache of open files. `records` is what the ledger holds behind its head.
    pub(super) fn new(
        object: Object,
        key: String,
        files: Files,
        records: &[u8],
        fetcher: Arc<Fetcher>,
        budget: Arc<Budget>,
    ) -> Self {
        let blocks = Blocks::new(object.size, |block| is_held(records, block));
        // The kernel reads ahead by itself otherwise, in pieces of memory that may hold parts of two
        // blocks: see `write_block`.
        let _ = fadvise(&files.blocks, 0, None, Advice::Random);
        let cache = Self {
            object,
            key,
            file: Arc::new(files.blocks),
            ledger: files.ledger,
            held: AtomicU64::new(0),
            blocks,
            gate: Gate::default(),
            busy: Mutex::default(),
            landed: Condvar::new(),
            streams: Mutex::default(),
            fetcher,
            budget,
        };
        let held = (0..cache.blocks.count()).filter(|&block| cache.blocks.state(block) != BlockState::Absent);
        let bytes = held.map(|block| cache.blocks.extent(block..block + 1).len).sum();
        cache.held.store(bytes, Ordering::Relaxed);
        cache
    }

    pub(super) const fn object(&self) -> &Object {
        &self.object
    }

    pub(super) const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Returns the bytes of the blocks that are there.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) -> Option<Pass<'_>> {
        self.gate.enter()
    }

    pub(super) const fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Gives the space of blocks back that the ledger does not know: a process was killed before it
    /// recorded them.
    pub(super) fn punch_unrecorded(&self) -> io::Result<()> {
        let mut from = 0;
        for block in 0..=self.blocks.count() {
            let is_held = block < self.blocks.count() && self.blocks.state(block) != BlockState::Absent;
            if is_held || block == self.blocks.count() {
                self.punch(from..block)?;
                from = block + 1;
            }
        }
        Ok(())
    }

    /// Reads the ledger again: another process that had the folder too may have added blocks.
    pub(super) fn read_ledger_again(&self) {
        let Ok(records) = read_records(&self.ledger, &self.object) else { return };
        let busy = self.busy();
        for block in 0..self.blocks.count() {
            let is_new = self.blocks.state(block) == BlockState::Absent && !busy.blocks.contains_key(&block);
            if is_new && is_held(&records, block) {
                self.blocks.recorded(block);
                let len = self.blocks.extent(block..block + 1).len;
                self.held.fetch_add(len, Ordering::Relaxed);
                self.budget.count(len);
            }
        }
    }

    /// Notes that a reader waits for `extent`. Returns what it will read next, if it seems to go
    /// through the object.
    pub(super) fn ahead(&self, extent: Extent) -> Option<Extent> {
        let ahead = locked(&self.streams).note(Blocks::touched(extent))?;
        Some(self.blocks.extent(ahead)).filter(|ahead| !ahead.is_empty() && !self.blocks.hold(*ahead))
    }

    /// Returns the bytes of the blocks of `extent` that are not there.
    pub(super) fn absent(&self, extent: Extent) -> u64 {
        let absent = Blocks::touched(extent).filter(|&block| self.blocks.state(block) == BlockState::Absent);
        absent.map(|block| self.blocks.extent(block..block + 1).len).sum()
    }

    /// Waits until a request would begin at once, and reserves space for the blocks of `extent` that
    /// are not there. Returns `None` if blocks that are in use would have to go for them.
    pub(super) fn make_room(&self, extent: Extent) -> Option<Room<'_>> {
        let absent = self.absent(extent);
        if absent > 0 {
            self.fetcher.wait_until_free();
        }
        self.budget.make_room(absent)
    }

    /// Waits until all blocks of `extent` have been there at some moment: fetches those that are not,
    /// each once for all threads that wait for it.
    ///
    /// # Errors
    /// [`BlockError`]
    pub(super) fn bring(&self, extent: Extent) -> Result<(), BlockError> {
        // A block that was there a moment ago is not waited for again, so that a cache which is
        // smaller than the range does not go round in it.
        let touched = Blocks::touched(extent);
        let mut rest = touched.start..touched.end.min(self.blocks.count());
        while !rest.is_empty() {
            match self.next_step(&mut rest) {
                Step::Done => return Ok(()),
                Step::Wait(flight) => self.wait(&flight)?,
                Step::Verify(claim) => self.verify(claim)?,
                Step::Fetch(claim) => self.fetch(claim)?,
            }
        }
        Ok(())
    }

    /// Finds what is to be done first. Takes blocks that are there off the front of `rest`.
    fn next_step(&self, rest: &mut Range<u64>) -> Step<'_> {
        let mut busy = self.busy();
        while !rest.is_empty() && self.blocks.state(rest.start) == BlockState::Present {
            rest.start += 1;
        }
        let is_free = |busy: &Busy, block: u64, wanted| {
            self.blocks.state(block) == wanted && !busy.blocks.contains_key(&block)
        };
        for block in rest.clone() {
            if is_free(&busy, block, BlockState::Unverified) {
                return Step::Verify(self.claim(&mut busy, block..block + 1));
            }
            if is_free(&busy, block, BlockState::Absent) {
                let last = rest.end.min(block + RUN);
                let end = (block..last).find(|&next| !is_free(&busy, next, BlockState::Absent));
                return Step::Fetch(self.claim(&mut busy, block..end.unwrap_or(last)));
            }
        }
        let under_way = rest.clone().find_map(|block| busy.blocks.get(&block));
        under_way.map_or(Step::Done, |flight| Step::Wait(Arc::clone(flight)))
    }

    fn claim(&self, busy: &mut Busy, blocks: Range<u64>) -> Claim<'_> {
        let flight = Arc::new(Flight::new());
        for block in blocks.clone() {
            busy.blocks.insert(block, Arc::clone(&flight));
        }
        // The outcome of one that panics.
        let outcome = Err(BlockError::from(io::Error::from(io::ErrorKind::Interrupted)));
        Claim { cache: self, blocks, outcome }
    }

    fn wait(&self, flight: &Flight) -> Result<(), BlockError> {
        let mut busy = self.busy();
        loop {
            if let Some(outcome) = flight.get() {
                return outcome.clone();
            }
            busy = self.landed.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Compares a block with its checksum. One that differs is absent.
    fn verify(&self, mut claim: Claim<'_>) -> Result<(), BlockError> {
        let block = claim.blocks.start;
        let verified = self.is_intact(block);
        if let Ok(true) = verified {
            self.blocks.arrived(block);
        } else if let Ok(false) = verified {
            self.forget(block);
        }
        claim.outcome = verified.map(drop).map_err(BlockError::from);
        claim.outcome.clone()
    }

    /// Notes that a block has other bytes than it should, and gives its space back.
    fn forget(&self, block: u64) {
        self.blocks.lost(block);
        let len = self.blocks.extent(block..block + 1).len;
        self.held.fetch_sub(len, Ordering::Relaxed);
        self.budget.give_back(len);
        // It is written again next, and whoever finds the record before that compares the bytes.
        let _ = self.erase(block);
    }

    fn is_intact(&self, block: u64) -> io::Result<bool> {
        let mut record = [0; RECORD_LEN];
        self.ledger.read_exact_at(&mut record, ledger::record_offset(block))?;
        let Some(expected) = ledger::parse_record(&record, block) else { return Ok(false) };
        let extent = self.blocks.extent(block..block + 1);
        let mut bytes = vec![0; extent.len as usize];
        match self.file.read_exact_at(&mut bytes, extent.offset) {
            // The file is shorter than it was, or its disk has bad places: the store has the bytes.
            Err(_) => Ok(false),
            Ok(()) => Ok(crc32fast::hash(&bytes) == expected),
        }
    }

    fn fetch(&self, mut claim: Claim<'_>) -> Result<(), BlockError> {
        let extent = self.blocks.extent(claim.blocks.clone());
        let write = |bytes: &bytes::Bytes| self.write(claim.blocks.clone(), extent, bytes);
        let fetched = self.fetcher.fetch(&self.object, extent.offset..extent.end(), write);
        claim.outcome = match fetched {
            Ok(written) => written.map_err(BlockError::from),
            Err(error) => Err(error.into()),
        };
        claim.outcome.clone()
    }

    fn write(&self, blocks: Range<u64>, extent: Extent, bytes: &[u8]) -> io::Result<()> {
        for block in blocks {
            let Extent { offset, len } = self.blocks.extent(block..block + 1);
            let from = (offset - extent.offset) as usize;
            let content = bytes.get(from..from + len as usize).unwrap_or_default();
            self.write_block(block, content, offset)?;
        }
        Ok(())
    }

    /// Writes a block, and then its record.
    ///
    /// Each block is written alone. The kernel keeps what is written at once in pieces of memory as
    /// large as that (large folios); a hole for one block of such a piece would zero its part, also
    /// where it is on its way to a client.
    fn write_block(&self, block: u64, content: &[u8], offset: u64) -> io::Result<()> {
        let len = content.len() as u64;
        self.budget.take(len);
        if let Err(error) = self.write_bytes(content, offset) {
            self.budget.give_back(len);
            // Some bytes may have found space.
            self.budget.while_alone(|| drop(self.punch(block..block + 1)));
            return Err(error);
        }
        let record = ledger::emit_record(block, crc32fast::hash(content));
        // Without its record the block is fetched again by the next process, and no more.
        let _ = self.ledger.write_all_at(&record, ledger::record_offset(block));
        self.held.fetch_add(len, Ordering::Relaxed);
        self.blocks.arrived(block);
        Ok(())
    }

    /// Writes bytes of a block that is not there. On a full disk others go for them.
    fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        loop {
            match self.file.write_all_at(bytes, offset) {
                Err(error) if is_disk_full(&error) && self.budget.relieve() => {}
                written => return written,
            }
        }
    }

    /// Makes the record of a block one of an absent block.
    fn erase(&self, block: u64) -> io::Result<()> {
        self.ledger.write_all_at(&[0; RECORD_LEN], ledger::record_offset(block))
    }

    /// Gives the space of blocks back that are absent and that nobody sends.
    fn punch(&self, blocks: Range<u64>) -> io::Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        // In whole blocks, also behind the end: then no page is left of the last one.
        let (offset, len) = (blocks.start * ledger::BLOCK, (blocks.end - blocks.start) * ledger::BLOCK);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(&*self.file, flags, offset, len)?)
    }

    fn busy(&self) -> MutexGuard<'_, Busy> {
        // Each change leaves it whole.
        locked(&self.busy)
    }
}

/// Tells whether there is no space left on the disk, or none that the user may take (quota).
fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Tells whether the ledger says that a block is there.
fn is_held(records: &[u8], block: u64) -> bool {
    let at = usize::try_from(block).ok().and_then(|block| block.checked_mul(RECORD_LEN));
    let record = at.and_then(|at| records.get(at..at + RECORD_LEN));
    record.is_some_and(|record| ledger::parse_record(record, block).is_some())
}

/// Reads the records of a ledger; those behind its end are missing.
pub(super) fn read_records(ledger: &File, object: &Object) -> io::Result<Vec<u8>> {
    let mut records = vec![0; ledger::blocks_of(object.size) as usize * RECORD_LEN];
    let mut filled = 0;
    while let Some(rest) = records.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match ledger.read_at(rest, ledger::record_offset(0) + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

impl Evict for BlockCache {
    fn evict(&self, most: usize, chances: Chances) -> Evicted {
        let (claims, is_end) = self.choose(most, chances);
        if claims.is_empty() {
            return Evicted { bytes: 0, is_end };
        }
        for claim in &claims {
            // A record that stays is one of other bytes, which the next process finds.
            let _ = self.erase(claim.blocks.start);
        }
        self.gate.wait();
        let mut bytes = 0;
        for mut claim in claims {
            let extent = self.blocks.extent(claim.blocks.clone());
            // Without a hole the space stays in use on the disk, but the budget is kept: the next
            // bytes of this block take the same space.
            let _ = self.punch(claim.blocks.clone());
            bytes += extent.len;
            claim.outcome = Ok(());
        }
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        Evicted { bytes, is_end }
    }
}

impl BlockCache {
    /// Chooses blocks to evict, which are absent from now on and busy as long as they are claimed.
    /// Tells whether it came to the end of the file.
    fn choose(&self, most: usize, chances: Chances) -> (Vec<Claim<'_>>, bool) {
        let mut busy = self.busy();
        let mut claims = Vec::new();
        let count = self.blocks.count();
        while busy.hand < count && claims.len() < most {
            let block = busy.hand;
            busy.hand += 1;
            let is_spared = chances == Chances::Kept && self.blocks.has_chance(block);
            if !is_spared && !busy.blocks.contains_key(&block) && self.blocks.evict(block) {
                claims.push(self.claim(&mut busy, block..block + 1));
            }
        }
        let is_end = busy.hand >= count;
        if is_end {
            busy.hand = 0;
        }
        (claims, is_end)
    }
}

impl Drop for BlockCache {
    fn drop(&mut self) {
        self.budget.closed(&self.key, self.held(), SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_at_a_quota_has_a_full_disk() {
        let is_full = |code| is_disk_full(&io::Error::from_raw_os_error(code));
        assert!(is_full(libc::ENOSPC) && is_full(libc::EDQUOT));
        assert!(!is_full(libc::EIO) && !is_full(libc::EFBIG));
    }
}
