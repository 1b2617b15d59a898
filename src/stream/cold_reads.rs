//! The cold reads of one connection: the ranges that its replies wait for, all read at once.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::export::{ColdRange, ImageRange, PageCache};
use crate::image::{ReadClient, ReadDone};

/// Longest read that neighbours are merged to, in bytes. Several of these are read side by side, so
/// a longer one would only delay its first replies.
const MERGED_MAX: u64 = 256 << 10;

/// The page cache as the kernel tells about it.
#[derive(Debug)]
pub(crate) struct PageCacheNow(Instant);

impl PageCacheNow {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl PageCache for PageCacheNow {
    fn holds(&self, range: ImageRange<'_>) -> bool {
        range.image().source.is_cached(range.extent(), self.0)
    }
}

/// Cold reads of one connection that are under way. Costs nothing until there is one.
#[derive(Debug, Default)]
pub(super) struct ColdReads(Option<Box<Begun>>);

#[derive(Debug)]
struct Begun {
    client: ReadClient,
    done: UnboundedReceiver<ReadDone>,
    /// The tickets of replies that wait for each read, by its number.
    tickets: HashMap<u64, Vec<u64>>,
    next: u64,
}

impl ColdReads {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Begins to read `ranges`. Neighbours are read together.
    pub(super) fn begin(&mut self, ranges: Vec<ColdRange>) {
        if ranges.is_empty() {
            return;
        }
        let begun = self.0.get_or_insert_with(|| {
            let (client, done) = ReadClient::new();
            Box::new(Begun { client, done, tickets: HashMap::new(), next: 0 })
        });
        for (ColdRange { image, extent, .. }, tickets) in merged(ranges) {
            begun.tickets.insert(begun.next, tickets);
            image.source.read_cold(extent, &begun.client, begun.next);
            begun.next += 1;
        }
    }

    /// Waits until a range was read, and returns the tickets of the replies that waited for it.
    /// Never ready if nothing is read. No read is lost when the future is dropped.
    ///
    /// # Errors
    /// That of the read.
    pub(super) async fn next(&mut self) -> io::Result<Vec<u64>> {
        let Some(begun) = &mut self.0 else { return std::future::pending().await };
        // Not `None`: this connection's own `client` keeps the queue open.
        let Some(done) = begun.done.recv().await else { return Ok(Vec::new()) };
        self.ended(done)
    }

    /// Returns the tickets of a read that has ended already.
    ///
    /// # Errors
    /// That of the read.
    pub(super) fn try_next(&mut self) -> Option<io::Result<Vec<u64>>> {
        let done = self.0.as_mut()?.done.try_recv().ok()?;
        Some(self.ended(done))
    }

    fn ended(&mut self, done: ReadDone) -> io::Result<Vec<u64>> {
        let Some(begun) = &mut self.0 else { return Ok(Vec::new()) };
        let tickets = begun.tickets.remove(&done.number).unwrap_or_default();
        if begun.tickets.is_empty() {
            self.0 = None;
        }
        done.result.map(|()| tickets)
    }
}

/// Merges neighbours, and ranges that overlap; returns each with the tickets that wait for it.
fn merged(mut ranges: Vec<ColdRange>) -> Vec<(ColdRange, Vec<u64>)> {
    ranges.sort_by_key(|cold| (Arc::as_ptr(&cold.image), cold.extent.offset));
    let mut merged: Vec<(ColdRange, Vec<u64>)> = Vec::new();
    for cold in ranges {
        match merged.last_mut() {
            Some((last, tickets)) if last.may_take_in(&cold) => {
                last.extent.len = last.extent.len.max(cold.extent.end() - last.extent.offset);
                tickets.push(cold.ticket);
            }
            _ => {
                let tickets = vec![cold.ticket];
                merged.push((cold, tickets));
            }
        }
    }
    merged
}

impl ColdRange {
    /// Returns `true` if `next`, which begins no earlier, can be read together with this range.
    fn may_take_in(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.image, &next.image)
            && next.extent.offset <= self.extent.end()
            && (next.extent.end() <= self.extent.end()
                || next.extent.end() - self.extent.offset <= MERGED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Extent, samples};

    #[test]
    fn neighbours_are_read_together() {
        let [one, other] = [(); 2].map(|()| samples::image(1 << 30, []));
        let cold = |image: &Arc<_>, ticket, offset, len| ColdRange {
            image: Arc::clone(image),
            extent: Extent { offset, len },
            ticket,
        };
        let ranges = vec![
            cold(&one, 0, 8192, 4096),
            cold(&one, 1, 0, 4096),
            cold(&one, 2, 4096, 4096),
            cold(&other, 3, 4096, 4096),
            cold(&one, 4, 6144, 10),
            cold(&one, 5, 20_000, 1 << 20),
            cold(&one, 6, 20_000 + (1 << 20), 1),
            cold(&one, 7, 20_001, 5),
        ];
        let mut reads: Vec<_> = merged(ranges)
            .into_iter()
            .map(|(cold, tickets)| {
                (Arc::ptr_eq(&cold.image, &one), cold.extent.offset, cold.extent.len, tickets)
            })
            .collect();
        reads.sort_by_key(|read| (!read.0, read.1));
        let expected = [
            (true, 0, 12_288, vec![1, 2, 4, 0]),
            (true, 20_000, 1 << 20, vec![5, 7]),
            (true, 20_000 + (1 << 20), 1, vec![6]),
            (false, 4096, 4096, vec![3]),
        ];
        assert_eq!(reads, expected);
    }
}
