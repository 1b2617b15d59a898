//! Requests of one connection that wait for the disk: plain data without a socket, so that sessions
//! can use it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::export::{ColdRange, ImageRange};

/// Requests that may wait for the disk at the same time: more than the kernel's NBD client keeps in
/// flight (128).
const REQUESTS: usize = 256;

/// Bytes that requests may wait for, unless a single one waits for more.
const BYTES: u64 = 32 << 20;

/// Requests of a connection whose ranges are being read. A session answers all others meanwhile.
///
/// Nothing of a waiting request was answered, so it is as if it had not arrived yet: another
/// process that gets its bytes as input goes on with it.
#[derive(Debug, Clone)]
pub(crate) struct Waiting<R> {
    /// In the order of their arrival.
    requests: Vec<Entry<R>>,
    /// Those whose ranges are not read any more.
    ready: VecDeque<(R, ReadOutcome)>,
    /// Ranges that were not handed out yet.
    cold: Vec<ColdRange>,
    bytes: u64,
    next_ticket: u64,
}

#[derive(Debug, Clone)]
struct Entry<R> {
    ticket: u64,
    request: R,
    /// Number of ranges that are still read.
    ranges: usize,
    bytes: u64,
    outcome: ReadOutcome,
}

/// Outcome of reading the ranges of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum ReadOutcome {
    /// All are in memory.
    #[default]
    Read,
    /// The disk fails or hangs, and the client should not wait any longer.
    Failed,
}

impl<R> Default for Waiting<R> {
    fn default() -> Self {
        Self { requests: Vec::new(), ready: VecDeque::new(), cold: Vec::new(), bytes: 0, next_ticket: 0 }
    }
}

impl<R> Waiting<R> {
    /// Returns `true` if no request waits, and none is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.ready.is_empty()
    }

    /// Returns `true` if no more requests should be taken off the input.
    pub(crate) fn is_full(&self) -> bool {
        self.requests.len() + self.ready.len() >= REQUESTS || self.bytes >= BYTES
    }

    /// Returns the requests that were not answered.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &R> {
        self.ready.iter().map(|(request, _)| request).chain(self.requests.iter().map(|entry| &entry.request))
    }

    /// Keeps `request` until its `ranges`, one at least, were read.
    pub(crate) fn push<'a>(&mut self, request: R, ranges: impl Iterator<Item = ImageRange<'a>>) {
        let (ticket, outcome) = (self.next_ticket, ReadOutcome::Read);
        let mut entry = Entry { ticket, request, ranges: 0, bytes: 0, outcome };
        for range in ranges {
            let (image, extent) = (Arc::clone(range.image()), range.extent());
            self.cold.push(ColdRange { image, extent, ticket });
            entry.ranges += 1;
            entry.bytes += extent.len;
        }
        self.next_ticket += 1;
        self.bytes += entry.bytes;
        self.requests.push(entry);
    }

    /// Takes the ranges that are to be read.
    pub(crate) fn take_cold(&mut self) -> Vec<ColdRange> {
        std::mem::take(&mut self.cold)
    }

    /// Notes that a range of the request with this ticket is not read any more.
    pub(crate) fn range_ended(&mut self, ticket: u64, outcome: ReadOutcome) {
        let Some(at) = self.requests.iter().position(|entry| entry.ticket == ticket) else { return };
        let Some(entry) = self.requests.get_mut(at) else { return };
        entry.ranges -= 1;
        entry.outcome = entry.outcome.max(outcome);
        if entry.ranges == 0 {
            let Entry { request, bytes, outcome, .. } = self.requests.remove(at);
            self.bytes -= bytes;
            self.ready.push_back((request, outcome));
        }
    }

    /// Returns the first request whose ranges are not read any more, and their outcome.
    pub(crate) fn ready(&self) -> Option<(&R, ReadOutcome)> {
        self.ready.front().map(|(request, outcome)| (request, *outcome))
    }

    /// Forgets that request, which was answered.
    pub(crate) fn answered(&mut self) {
        self.ready.pop_front();
        if self.is_empty() {
            // Thousands of machines are idle for most of the time.
            *self = Self { next_ticket: self.next_ticket, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Export, Piece};
    use crate::image::samples;

    const SIZE: u64 = 64 << 20;

    fn push(waiting: &mut Waiting<u32>, request: u32, offsets: &[u64], len: u64) {
        let export = Export::whole(&samples::image(SIZE, []));
        let pieces = offsets.iter().flat_map(|&offset| export.range(offset, len).unwrap());
        let ranges = pieces.filter_map(|piece| match piece {
            Piece::Image(range) => Some(range),
            Piece::Memory(_) => None,
        });
        waiting.push(request, ranges);
    }

    fn drain(waiting: &mut Waiting<u32>) -> Vec<(u32, ReadOutcome)> {
        let ready = std::iter::from_fn(|| {
            let request = waiting.ready().map(|(request, outcome)| (*request, outcome));
            waiting.answered();
            request
        });
        ready.collect()
    }

    #[test]
    fn request_is_ready_when_all_its_ranges_were_read() {
        let mut waiting = Waiting::default();
        push(&mut waiting, 7, &[2 << 20, 3 << 20], 4096);
        push(&mut waiting, 8, &[4 << 20], 4096);
        let cold = waiting.take_cold();
        assert_eq!(cold.iter().map(|cold| cold.extent.offset >> 20).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(waiting.take_cold().is_empty());
        waiting.range_ended(cold[1].ticket, ReadOutcome::Failed);
        assert!(waiting.ready().is_none());
        waiting.range_ended(cold[2].ticket, ReadOutcome::Read);
        waiting.range_ended(cold[0].ticket, ReadOutcome::Read);
        assert_eq!(waiting.iter().copied().collect::<Vec<_>>(), [8, 7]);
        assert_eq!(drain(&mut waiting), [(8, ReadOutcome::Read), (7, ReadOutcome::Failed)]);
        assert!(waiting.is_empty() && waiting.bytes == 0);
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let mut many = Waiting::default();
        for request in 0..REQUESTS as u32 {
            assert!(!many.is_full());
            push(&mut many, request, &[2 << 20], 1);
        }
        assert!(many.is_full());
        let mut large = Waiting::default();
        push(&mut large, 0, &[1 << 20], BYTES - 1);
        assert!(!large.is_full());
        push(&mut large, 1, &[1 << 20], 1);
        assert!(large.is_full());
        large.take_cold().iter().for_each(|cold| large.range_ended(cold.ticket, ReadOutcome::Read));
        assert!(!large.is_full());
    }
}
