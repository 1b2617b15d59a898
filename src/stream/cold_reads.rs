//! The cold reads of one connection: the ranges that its replies wait for, all read at once.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout_at;

use super::waiting::ReadOutcome;
use crate::export::{ColdRange, ImageRange, PageCache};
use crate::image::{CHECK_INTERVAL, Extent, Image, Patience, ReadClient, ReadDone};
use crate::metrics::{self, Door, PageCacheLooks};

/// Longest read that neighbours are merged to, in bytes. Several of these are read side by side, so
/// a longer one would only delay its first replies.
const MERGED_MAX: u64 = 256 << 10;

/// The page cache as the kernel tells about it.
#[derive(Debug)]
pub(crate) struct PageCacheNow {
    now: Instant,
    looks: PageCacheLooks,
}

impl PageCacheNow {
    /// The page cache in one turn of a service.
    pub(crate) fn new(door: Door) -> Self {
        Self { now: Instant::now(), looks: PageCacheLooks::new(door) }
    }
}

impl PageCache for PageCacheNow {
    fn holds(&self, range: ImageRange<'_>) -> bool {
        let is_held = range.image().source.is_cached(range.extent(), self.now);
        self.looks.note(is_held);
        is_held
    }
}

/// Cold reads of one connection that are under way. Costs nothing until there is one.
#[derive(Debug)]
pub(super) struct ColdReads {
    patience: Patience,
    begun: Option<Box<Begun>>,
}

#[derive(Debug)]
struct Begun {
    client: ReadClient,
    done: UnboundedReceiver<ReadDone>,
    /// The reads by their numbers.
    reads: HashMap<u64, PendingRead>,
    next_number: u64,
    next_check: Instant,
}

/// A read that has not ended.
#[derive(Debug)]
struct PendingRead {
    image: Arc<Image>,
    extent: Extent,
    /// Tickets of the replies that wait for it.
    tickets: Vec<u64>,
    since: Instant,
}

/// Replies that do not wait any longer for a range.
#[derive(Debug, Default)]
pub(super) struct RangeEnded {
    pub tickets: Vec<u64>,
    pub outcome: ReadOutcome,
}

impl ColdReads {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, begun: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_none()
    }

    /// Begins to read `ranges`. Neighbours are read together.
    pub(super) fn begin(&mut self, ranges: Vec<ColdRange>) {
        if ranges.is_empty() {
            return;
        }
        let (patience, now) = (self.patience, Instant::now());
        let begun = self.begun.get_or_insert_with(|| Box::new(Begun::new(patience, now)));
        for (ColdRange { image, extent, .. }, tickets) in merged(ranges) {
            let number = begun.next_number;
            begun.next_number += 1;
            image.source.read_cold(extent, &begun.client, number);
            begun.reads.insert(number, PendingRead { image, extent, tickets, since: now });
        }
    }

    /// Waits until a read has ended, or lasted too long. Never ready if nothing is read. No read is
    /// lost when the future is dropped.
    pub(super) async fn next(&mut self) -> RangeEnded {
        let Some(begun) = &mut self.begun else { return std::future::pending().await };
        loop {
            match timeout_at(begun.next_check.into(), begun.done.recv()).await {
                Ok(Some(done)) => return self.ended(done),
                // This connection's own `client` keeps the queue open.
                Ok(None) => return RangeEnded::default(),
                Err(_) => {
                    if let Some(done) = begun.check(Instant::now()) {
                        return self.ended(done);
                    }
                }
            }
        }
    }

    /// Returns the end of a read, if there is another one already.
    pub(super) fn try_next(&mut self) -> Option<RangeEnded> {
        let done = self.begun.as_mut()?.done.try_recv().ok()?;
        Some(self.ended(done))
    }

    fn ended(&mut self, ReadDone { number, result }: ReadDone) -> RangeEnded {
        let Some(begun) = &mut self.begun else { return RangeEnded::default() };
        let read = begun.reads.remove(&number);
        if let (Some(read), Ok(())) = (&read, &result) {
            metrics::observe_cold_read(read.since.elapsed());
        }
        let tickets = read.map(|read| read.tickets).unwrap_or_default();
        if begun.reads.is_empty() {
            self.begun = None;
        }
        let outcome = if result.is_ok() { ReadOutcome::Read } else { ReadOutcome::Failed };
        RangeEnded { tickets, outcome }
    }
}

impl Begun {
    fn new(patience: Patience, now: Instant) -> Self {
        let (client, done) = ReadClient::new(patience);
        Self { client, done, reads: HashMap::new(), next_number: 0, next_check: now + CHECK_INTERVAL }
    }

    /// Has the images look for reads that hang, and ends one that has lasted too long.
    fn check(&mut self, now: Instant) -> Option<ReadDone> {
        self.reads.values().for_each(|read| read.image.source.check_reads(now));
        let late = self.reads.iter().find(|(_, read)| now >= read.since + read.image.source.stall_timeout());
        let Some((&number, read)) = late else {
            self.next_check = now + CHECK_INTERVAL;
            return None;
        };
        read.image.source.give_up(read.extent, &self.client, number);
        Some(ReadDone { number, result: Err(io::ErrorKind::TimedOut.into()) })
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
    use crate::image::samples;

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
