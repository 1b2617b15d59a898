//! States of the blocks of one object. No I/O.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use super::ledger::{BLOCK, blocks_of};
use crate::extent::Extent;

/// The block has to be fetched.
const ABSENT: u8 = 0;

/// The ledger says that the block is there. Its content was not compared with its checksum yet.
const UNVERIFIED: u8 = 1;

/// The block is there.
const PRESENT: u8 = 2;

/// It was used since the last search for blocks to evict: it gets a second chance.
const REFERENCED: u8 = 4;

/// State of a block, for one who wants to use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockState {
    Absent,
    Unverified,
    Present,
}

/// States of the blocks of one object.
///
/// A sender enters the gate and looks at a state; an evictor changes the state and looks at the gate.
/// One of them has to see the other, so these accesses have one order for all (`SeqCst`).
#[derive(Debug)]
pub(super) struct Blocks {
    /// Bytes of the object.
    size: u64,
    states: Box<[AtomicU8]>,
}

impl Blocks {
    /// Creates the states of an object of `size` bytes; `is_held` tells what the ledger says of a
    /// block.
    pub(super) fn new(size: u64, is_held: impl Fn(u64) -> bool) -> Self {
        let state = |block| AtomicU8::new(if is_held(block) { UNVERIFIED } else { ABSENT });
        Self { size, states: (0..blocks_of(size)).map(state).collect() }
    }

    /// Returns the number of blocks.
    pub(super) fn count(&self) -> u64 {
        self.states.len() as u64
    }

    /// Returns the numbers of the blocks that `extent` touches.
    pub(super) fn touched(extent: Extent) -> Range<u64> {
        if extent.is_empty() {
            return 0..0;
        }
        extent.offset / BLOCK..(extent.end() - 1) / BLOCK + 1
    }

    /// Returns the bytes of these blocks, which may end with a short one.
    pub(super) fn extent(&self, blocks: Range<u64>) -> Extent {
        let offset = (blocks.start * BLOCK).min(self.size);
        Extent { offset, len: (blocks.end * BLOCK).min(self.size) - offset }
    }

    /// Returns `true` if all blocks of `extent` are there.
    pub(super) fn hold(&self, extent: Extent) -> bool {
        Self::touched(extent).all(|block| self.state(block) == BlockState::Present)
    }

    /// As [`Blocks::hold`], and notes that the blocks are used.
    pub(super) fn use_held(&self, extent: Extent) -> bool {
        Self::touched(extent).all(|block| {
            let Some(state) = self.cell(block) else { return false };
            let now = state.load(Ordering::Relaxed);
            // Usually it is noted already. Writing it again would make all processors wait for the
            // cache line.
            if now == PRESENT {
                // Another may have evicted the block since: then this changes nothing.
                let _ = state.compare_exchange(now, now | REFERENCED, Ordering::Relaxed, Ordering::Relaxed);
            }
            now & PRESENT != 0
        })
    }

    /// Returns the state of a block. One that does not exist is absent.
    pub(super) fn state(&self, block: u64) -> BlockState {
        match self.cell(block).map(|state| state.load(Ordering::SeqCst)) {
            Some(state) if state & PRESENT != 0 => BlockState::Present,
            Some(UNVERIFIED) => BlockState::Unverified,
            _ => BlockState::Absent,
        }
    }

    /// Notes that a block is there. Its bytes were written before.
    pub(super) fn arrived(&self, block: u64) {
        self.set(block, PRESENT | REFERENCED);
    }

    /// Notes that a block is not there.
    pub(super) fn lost(&self, block: u64) {
        self.set(block, ABSENT);
    }

    /// Notes that the ledger says by now that an absent block is there.
    pub(super) fn recorded(&self, block: u64) {
        self.set(block, UNVERIFIED);
    }

    fn set(&self, block: u64, state: u8) {
        if let Some(cell) = self.cell(block) {
            cell.store(state, Ordering::SeqCst);
        }
    }

    /// Returns `true` if a block was used since the last search for blocks to evict.
    pub(super) fn has_chance(&self, block: u64) -> bool {
        self.cell(block).is_some_and(|cell| cell.load(Ordering::Relaxed) & REFERENCED != 0)
    }

    /// Takes the next chance of a block. Returns `true` if it had none left, and is absent now.
    pub(super) fn evict(&self, block: u64) -> bool {
        let Some(cell) = self.cell(block) else { return false };
        let now = cell.load(Ordering::SeqCst);
        if now & REFERENCED != 0 {
            cell.fetch_and(!REFERENCED, Ordering::SeqCst);
            return false;
        }
        // One that was used just now stays.
        now != ABSENT && cell.compare_exchange(now, ABSENT, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn cell(&self, block: u64) -> Option<&AtomicU8> {
        self.states.get(usize::try_from(block).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn extent(offset: u64, len: u64) -> Extent {
        Extent { offset, len }
    }

    #[test]
    fn extent_touches_whole_blocks() {
        assert_eq!(Blocks::touched(extent(0, 1)), 0..1);
        assert_eq!(Blocks::touched(extent(BLOCK - 1, 2)), 0..2);
        assert_eq!(Blocks::touched(extent(BLOCK, BLOCK)), 1..2);
        assert!(Blocks::touched(extent(BLOCK, 0)).is_empty());
        let blocks = Blocks::new(2 * BLOCK + 7, |_| false);
        assert_eq!(blocks.count(), 3);
        assert_eq!(blocks.extent(1..3), extent(BLOCK, BLOCK + 7));
        assert_eq!(blocks.extent(2..3), extent(2 * BLOCK, 7));
    }

    #[test]
    fn recorded_block_is_held_once_it_is_verified() {
        let blocks = Blocks::new(3 * BLOCK, |block| block == 1);
        assert_eq!(blocks.state(1), BlockState::Unverified);
        assert!(!blocks.hold(extent(BLOCK, 1)) && !blocks.use_held(extent(BLOCK, 1)));
        blocks.arrived(1);
        assert!(blocks.hold(extent(BLOCK, BLOCK)) && blocks.use_held(extent(BLOCK, 1)));
        assert!(!blocks.hold(extent(BLOCK, BLOCK + 1)), "its neighbour is absent");
        assert!(!blocks.hold(extent(3 * BLOCK, 1)), "behind the end");
    }

    #[test]
    fn used_block_has_a_second_chance() {
        let blocks = Blocks::new(2 * BLOCK, |block| block == 1);
        assert!(!blocks.evict(0), "absent");
        blocks.arrived(0);
        assert!(!blocks.evict(0));
        assert!(!blocks.has_chance(0) && blocks.use_held(extent(0, 1)) && blocks.has_chance(0));
        assert!(!blocks.evict(0));
        assert!(blocks.evict(0) && !blocks.hold(extent(0, 1)));
        assert!(blocks.evict(1), "not used by this process");
    }
}
