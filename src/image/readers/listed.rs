//! The reads of a boot list, which have no client: they are begun while no other read waits. No I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::extent::Extent;

/// Most of these reads at the same time: half of the requests that all object stores get at once. A
/// client that waits finds the other half.
pub(super) const AT_ONCE: usize = 8;

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
