//! Detection of duplicate calls: those that were sent before the reply to the same call had left.
//!
//! A client that waits too long sends its call again on the same connection. The Linux kernel does
//! after 0.7 s as archiso mounts. Answering both would double the load of a server that is too slow
//! already. A stream loses nothing, so the second call can be dropped while the first reply is
//! queued. Once the reply has left, the same xid may be that of a new call.

use std::collections::VecDeque;

/// Calls of one connection whose duplicates may still arrive.
#[derive(Debug, Default)]
pub(super) struct DuplicateCalls {
    /// Their xids, in the order of the replies; side by side, since every call is compared with
    /// all.
    xids: VecDeque<u32>,
    /// The first of them, whose replies have left.
    sent: VecDeque<SentReplies>,
    /// Number of the others, whose replies have not.
    queued: usize,
    /// Bytes of the stream that were parsed.
    parsed: u64,
}

/// Replies that left together.
#[derive(Debug)]
struct SentReplies {
    count: usize,
    /// Bytes of the stream that had arrived by then: a call within them may be a duplicate.
    arrived: u64,
}

impl DuplicateCalls {
    /// Returns `true` if the call at the front of the input was sent before the reply to its xid
    /// had left.
    pub(super) fn contains(&self, xid: u32) -> bool {
        self.xids.contains(&xid)
    }

    /// Records a queued reply.
    pub(super) fn answered(&mut self, xid: u32) {
        self.xids.push_back(xid);
        self.queued += 1;
    }

    /// Records that the first `len` bytes of the input were parsed.
    pub(super) fn parsed(&mut self, len: usize) {
        self.parsed += len as u64;
        self.expire();
    }

    /// Records that every reply has left, while `unparsed` bytes of input were waiting.
    pub(super) fn sent(&mut self, unparsed: usize) {
        let count = std::mem::take(&mut self.queued);
        if count > 0 {
            self.sent.push_back(SentReplies { count, arrived: self.parsed + unparsed as u64 });
            self.expire();
        }
    }

    /// Forgets the calls whose duplicates would have been parsed by now.
    fn expire(&mut self) {
        while let Some(&SentReplies { count, arrived }) = self.sent.front()
            && arrived <= self.parsed
        {
            // Replies leave in the order of their calls, so these are the first ones.
            self.xids.drain(..count);
            self.sent.pop_front();
        }
        if self.xids.is_empty() {
            self.xids.shrink_to(IDLE_CAPACITY);
        }
    }
}

/// Capacity that an idle connection keeps. Thousands of machines are idle for most of the time.
const IDLE_CAPACITY: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xid_is_duplicate_until_reply_left() {
        let mut calls = DuplicateCalls::default();
        calls.answered(7);
        calls.parsed(40);
        assert!(calls.contains(7) && !calls.contains(8));
        calls.sent(0);
        assert!(!calls.contains(7));
    }

    #[test]
    fn call_before_reply_left_is_duplicate() {
        let mut calls = DuplicateCalls::default();
        calls.answered(7);
        calls.parsed(40);
        // Two more calls have arrived, of 40 bytes each.
        calls.sent(80);
        assert!(calls.contains(7));
        calls.parsed(40);
        calls.answered(8);
        assert!(calls.contains(7));
        calls.parsed(40);
        assert!(!calls.contains(7), "the next call came after the reply");
        assert!(calls.contains(8));
        calls.sent(0);
        assert!(!calls.contains(8));
    }

    #[test]
    fn old_xids_are_forgotten() {
        let mut calls = DuplicateCalls::default();
        for xid in 0..100_000 {
            calls.answered(xid);
            calls.parsed(40);
            if xid % 512 == 0 {
                calls.sent(4096);
            }
            assert!(calls.xids.len() <= 512 + 4096 / 40 + 1);
        }
        calls.sent(0);
        assert!(calls.xids.capacity() <= 2 * IDLE_CAPACITY && calls.sent.is_empty());
    }
}
