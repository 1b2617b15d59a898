//! Readers that go through an object from block to block: their next blocks are fetched before they
//! ask. No I/O.

use std::ops::Range;

/// Readers of an object that are remembered.
const STREAMS: usize = 8;

/// One block is fetched ahead for so many that were read in a row. What is fetched in vain, at the
/// end of what is read, stays a thirtieth of it: a boot reads short stretches of a large image.
const SHARE: u64 = 32;

/// Most blocks that are fetched ahead.
const AHEAD: u64 = 4;

/// Blocks by which a reader may be out of order, as one with several requests on their way is.
const DISORDER: u64 = 2;

/// Places that readers have come to; the last used is the first.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Stream>);

#[derive(Debug, Clone, Copy)]
struct Stream {
    /// First block that it did not read.
    next: u64,
    /// Blocks in a row.
    len: u64,
    /// End of what was fetched ahead.
    ahead: u64,
}

impl Streams {
    /// Notes that a reader waits for these blocks. Returns those that it will read next.
    pub(super) fn note(&mut self, blocks: Range<u64>) -> Option<Range<u64>> {
        let found = self.0.iter().position(|stream| stream.is_near(blocks.start));
        let mut stream = match found {
            Some(at) => self.0.remove(at),
            None => Stream { next: blocks.start, len: 0, ahead: 0 },
        };
        let ahead = stream.advance(blocks.end);
        self.0.insert(0, stream);
        self.0.truncate(STREAMS);
        ahead
    }
}

impl Stream {
    fn is_near(&self, block: u64) -> bool {
        let last = self.next.max(self.ahead);
        (self.next.saturating_sub(DISORDER)..=last + 1).contains(&block)
    }

    fn advance(&mut self, end: u64) -> Option<Range<u64>> {
        if end <= self.next {
            return None;
        }
        self.len += end - self.next;
        self.next = end;
        let from = end.max(self.ahead);
        let to = end + (self.len / SHARE).min(AHEAD);
        self.ahead = from.max(to);
        (from < to).then_some(from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads as a client does that waits for a block only if it was not fetched ahead; returns the
    /// blocks that were fetched.
    fn fetched(blocks: impl Iterator<Item = u64>) -> Vec<bool> {
        let (mut streams, mut fetched) = (Streams::default(), vec![false; 2000]);
        for block in blocks {
            if !std::mem::replace(&mut fetched[block as usize], true) {
                for ahead in streams.note(block..block + 1).into_iter().flatten() {
                    fetched[ahead as usize] = true;
                }
            }
        }
        fetched
    }

    fn count(fetched: &[bool]) -> usize {
        fetched.iter().filter(|fetched| **fetched).count()
    }

    #[test]
    fn long_reader_is_ahead_and_little_is_in_vain() {
        for len in 1..1000 {
            let count = count(&fetched(0..len));
            assert!(count as u64 <= len + (len / SHARE).min(AHEAD), "{count} for {len}");
        }
        assert_eq!(count(&fetched(0..31)), 31);
        assert!(count(&fetched((0..900).chain(1000..1020))) <= 920 + 4);
    }

    #[test]
    fn long_reader_waits_for_one_block_of_some() {
        let (mut streams, mut waits, mut there) = (Streams::default(), 0, 0);
        for block in 0..1000 {
            if block >= there {
                waits += 1;
                there = streams.note(block..block + 1).map_or(block + 1, |ahead| ahead.end);
            }
        }
        assert!(waits < 400, "{waits}");
    }

    #[test]
    fn readers_in_other_places_do_not_disturb() {
        let mut streams = Streams::default();
        for block in 0..200 {
            for reader in 0..4 {
                let from = reader * 500 + block;
                let ahead = streams.note(from..from + 1);
                assert_eq!(ahead.is_some(), block + 1 >= SHARE, "{block}: {ahead:?}");
            }
        }
        // Requests that overtake each other.
        let mut streams = Streams::default();
        let swapped = (0..200_u64).map(|block| block ^ 1);
        assert!(swapped.filter(|&block| streams.note(block..block + 1).is_some()).count() > 50);
    }
}
