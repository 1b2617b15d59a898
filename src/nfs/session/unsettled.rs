//! Which calls are duplicates: those that were sent before the answer to the same call had left.
//!
//! A client that waits too long sends its call again on the same connection (the kernel's, as archiso mounts, after
//! 0.7 s). To answer both doubles the load of a server that is too slow already. But a stream loses nothing, so while
//! the first answer is queued the second can be dropped. Once the answer has left, the number may be that of a new
//! call.

use std::collections::VecDeque;

/// Calls of one connection that were answered a moment ago.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Their numbers, in the order of the answers; side by side, because every call is compared with all of them.
    xids: VecDeque<u32>,
    /// The first of them, whose answers have left.
    sent: VecDeque<Sent>,
    /// How many more of them there are, whose answers have not.
    queued: usize,
    /// Bytes of the stream that were parsed.
    taken: u64,
}

/// Answers that left together.
#[derive(Debug)]
struct Sent {
    count: usize,
    /// The bytes of the stream before this one came before the answers had left.
    until: u64,
}

impl Unsettled {
    /// True when the call that begins at the front of the input was sent before the answer to its number had left.
    pub(super) fn contains(&self, xid: u32) -> bool {
        self.xids.contains(&xid)
    }

    /// An answer was queued.
    pub(super) fn answered(&mut self, xid: u32) {
        self.xids.push_back(xid);
        self.queued += 1;
    }

    /// The front of the input was parsed.
    pub(super) fn took(&mut self, len: usize) {
        self.taken += len as u64;
        self.forget();
    }

    /// Every answer has left, when `unread` bytes of input had come that are not parsed yet.
    pub(super) fn sent(&mut self, unread: usize) {
        let count = std::mem::take(&mut self.queued);
        if count > 0 {
            self.sent.push_back(Sent { count, until: self.taken + unread as u64 });
            self.forget();
        }
    }

    fn forget(&mut self) {
        while let Some(&Sent { count, until }) = self.sent.front()
            && until <= self.taken
        {
            self.xids.drain(..count);
            self.sent.pop_front();
        }
        if self.xids.is_empty() {
            self.xids.shrink_to(KEPT);
        }
    }
}

/// Calls for which there is always room: an idle connection shall cost next to nothing.
const KEPT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_until_its_answer_has_left() {
        let mut unsettled = Unsettled::default();
        unsettled.answered(7);
        unsettled.took(40);
        assert!(unsettled.contains(7) && !unsettled.contains(8));
        unsettled.sent(0);
        assert!(!unsettled.contains(7));
    }

    #[test]
    fn what_came_before_the_answer_had_left_counts_and_what_comes_later_does_not() {
        let mut unsettled = Unsettled::default();
        unsettled.answered(7);
        unsettled.took(40);
        // Two more calls had come, of 40 bytes each.
        unsettled.sent(80);
        assert!(unsettled.contains(7));
        unsettled.took(40);
        unsettled.answered(8);
        assert!(unsettled.contains(7));
        unsettled.took(40);
        assert!(!unsettled.contains(7), "the next call came behind the answer");
        assert!(unsettled.contains(8));
        unsettled.sent(0);
        assert!(!unsettled.contains(8));
    }

    #[test]
    fn nothing_is_kept_for_ever() {
        let mut unsettled = Unsettled::default();
        for xid in 0..100_000 {
            unsettled.answered(xid);
            unsettled.took(40);
            if xid % 512 == 0 {
                unsettled.sent(4096);
            }
            assert!(unsettled.xids.len() <= 512 + 4096 / 40 + 1);
        }
        unsettled.sent(0);
        assert!(unsettled.xids.capacity() <= 2 * KEPT && unsettled.sent.is_empty());
    }
}
