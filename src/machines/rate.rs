//! Bytes per second, from samples of a counter. Pure; time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time between two samples.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// Time over which the shown rate is measured.
const SHORT: Duration = Duration::from_secs(10);

/// Time over which a slow machine is told from one that pauses: a block of 256 KiB takes eight
/// seconds at 30 kB/s.
const LONG: Duration = Duration::from_secs(30);

/// Samples that the longer time has.
const SAMPLES_MAX: usize = 16;

/// The last samples of a counter of bytes.
#[derive(Debug, Default)]
pub(super) struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    pub(super) fn sample(&mut self, bytes: u64, now: Instant) {
        if self.0.len() >= SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, bytes));
    }

    /// Returns the bytes per second of the last ten seconds.
    pub(super) fn current(&self, bytes: u64, now: Instant) -> u64 {
        self.since(SHORT, bytes, now).map_or(0, |(rate, _)| rate)
    }

    /// Returns the bytes per second of half a minute; `None` before two thirds of it are over.
    pub(super) fn lasting(&self, bytes: u64, now: Instant) -> Option<u64> {
        self.since(LONG, bytes, now).filter(|(_, time)| *time >= LONG * 2 / 3).map(|(rate, _)| rate)
    }

    fn since(&self, window: Duration, bytes: u64, now: Instant) -> Option<(u64, Duration)> {
        let age = |then: Instant| now.saturating_duration_since(then);
        let (then, before) = *self.0.iter().find(|(then, _)| age(*then) <= window)?;
        let millis = age(then).as_millis();
        let sent = u128::from(bytes.saturating_sub(before));
        // Less than what a counter of 64 bits holds, unless it jumps.
        let rate = u64::try_from((sent * 1000).checked_div(millis)?).unwrap_or(u64::MAX);
        Some((rate, age(then)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_that_of_its_time() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        assert_eq!((rate.current(9, start), rate.lasting(9, start)), (0, None));
        let at = |second| start + Duration::from_secs(second);
        for second in (0..40).step_by(2) {
            rate.sample(second * 1000, at(second));
        }
        assert_eq!((rate.current(40_000, at(40)), rate.lasting(40_000, at(40))), (1000, Some(1000)));
        assert_eq!(rate.current(38_000, at(60)), 0, "no sample of the last ten seconds");
        assert_eq!([rate.current(38_000, at(45)), rate.current(38_000, at(48))], [222, 0], "it paused");
    }
}
