//! The reads of a boot list, which have no client: they are begun while no other read waits. No I/O.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::{ColdRead, Queue, ReadState};
use crate::extent::Extent;

/// Most of these reads at the same time: half of the requests that all object stores get at once. A
/// client that waits finds the other half.
pub(in super::super) const AT_ONCE: usize = 8;

/// Time after which a list is gone through again: its blocks may have gone since.
const AGAIN: Duration = Duration::from_secs(60);

/// Ranges of a boot list that were not read yet.
#[derive(Debug, Default)]
pub(super) struct Listed {
    waiting: VecDeque<Extent>,
    under_way: Vec<Extent>,
    begun: Option<Instant>,
}

impl Listed {
    /// Takes the ranges of a list, unless that was done a moment ago. Returns the number of readers
    /// that can work on them.
    pub(super) fn begin(&mut self, list: &[Extent], now: Instant) -> usize {
        let is_early = self.begun.is_some_and(|begun| now.saturating_duration_since(begun) < AGAIN);
        if is_early || !self.waiting.is_empty() {
            return 0;
        }
        self.begun = Some(now);
        self.waiting.extend(list);
        self.ready()
    }

    /// Returns the number of ranges that could be read now.
    pub(super) fn ready(&self) -> usize {
        self.waiting.len().min(AT_ONCE.saturating_sub(self.under_way.len()))
    }

    /// Takes the next range.
    pub(super) fn pop(&mut self) -> Option<Extent> {
        if self.ready() == 0 {
            return None;
        }
        let extent = self.waiting.pop_front()?;
        self.under_way.push(extent);
        Some(extent)
    }

    /// Returns `true` if this is a read of the list that has not ended.
    pub(super) fn is_under_way(&self, extent: Extent) -> bool {
        self.under_way.contains(&extent)
    }

    /// Notes that a read has ended. Returns `true` if it was one of the list.
    pub(super) fn end(&mut self, extent: Extent) -> bool {
        let at = self.under_way.iter().position(|other| *other == extent);
        at.map(|at| self.under_way.swap_remove(at)).is_some()
    }

    /// Forgets the ranges that were not begun.
    pub(super) fn stop(&mut self) {
        self.waiting.clear();
    }
}

impl Queue {
    /// Has the ranges of a boot list read while no other read waits. Returns the number of readers
    /// that are needed for it.
    pub(in super::super) fn add_listed(&mut self, list: &[Extent], now: Instant) -> usize {
        if self.fault.is_some() { 0 } else { self.listed.begin(list, now) }
    }

    /// Returns `true` if this is a read of the boot list.
    pub(in super::super) fn is_listed(&self, extent: Extent) -> bool {
        self.listed.is_under_way(extent)
    }

    /// Leaves the rest of the boot list to the machine that reads it.
    pub(in super::super) fn stop_listed(&mut self) {
        self.listed.stop();
    }

    pub(super) fn pop_listed(&mut self, now: Instant) -> Option<Extent> {
        if self.fault.is_some() {
            self.listed.stop();
        }
        loop {
            let extent = self.listed.pop()?;
            if let Entry::Vacant(new) = self.reads.entry(extent) {
                let state = ReadState::Reading { since: now };
                new.insert(ColdRead { state, ..ColdRead::queued(Vec::new(), false) });
                self.under_way.push(extent);
                return Some(extent);
            }
            // Someone waits for the same.
            self.listed.end(extent);
        }
    }
}
