//! Which calls are duplicates: those that were sent before the answer to the same call had left.
//!
//! A client that waits too long sends its call again on the same connection (the kernel's, as archiso mounts, after
//! 0.7 s). To answer both doubles the load of a server that is too slow already. But a stream loses nothing, so while
//! the first answer is queued the second can be dropped. Once the answer has left, the number may be that of a new
//! call.

use std::collections::VecDeque;

/// Calls of one connection that were answered a moment ago.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// In the order of the answers, which is that of `until`.
    calls: VecDeque<Answered>,
    /// Bytes of the stream that were parsed.
    taken: u64,
}

#[derive(Debug)]
struct Answered {
    xid: u32,
    /// The bytes of the stream before this one came before the answer had left.
    until: u64,
}

impl Unsettled {
    /// True when the call that begins at the front of the input was sent before the answer to its number had left.
    pub fn contains(&self, xid: u32) -> bool {
        self.calls.iter().any(|answered| answered.xid == xid)
    }

    /// An answer was queued.
    pub fn answered(&mut self, xid: u32) {
        self.calls.push_back(Answered { xid, until: u64::MAX });
    }

    /// The front of the input was parsed.
    pub fn took(&mut self, len: usize) {
        self.taken += len as u64;
        self.forget();
    }

    /// Every answer has left, when `unread` bytes of input had come that are not parsed yet.
    pub fn sent(&mut self, unread: usize) {
        let until = self.taken + unread as u64;
        self.calls.iter_mut().rev().take_while(|answered| answered.until == u64::MAX).for_each(|answered| {
            answered.until = until;
        });
        self.forget();
    }

    fn forget(&mut self) {
        while self.calls.front().is_some_and(|answered| answered.until <= self.taken) {
            self.calls.pop_front();
        }
        if self.calls.is_empty() {
            self.calls.shrink_to(KEPT);
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
            assert!(unsettled.calls.len() <= 512 + 4096 / 40 + 1);
        }
        unsettled.sent(0);
        assert!(unsettled.calls.capacity() <= 2 * KEPT);
    }
}
