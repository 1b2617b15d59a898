//! Retransmission timer: from the measured round trip (RFC 6298), or as the client asked (RFC
//! 2349).
//!
//! RFC 1123 §4.2.3.2 demands an adaptive time-out with exponential backoff.

use std::time::{Duration, Instant};

/// Wait before the first retransmission, until a round trip was measured. RFC 6298 §2.1 has 1 s for
/// the Internet; a boot server is on the same LAN.
const INITIAL_WAIT: Duration = Duration::from_millis(250);

/// Shortest measured wait: firmware may be busy for some milliseconds.
const MIN_WAIT: Duration = Duration::from_millis(20);

/// Shortest wait after the end of a window whose beginning was sent before.
const MIN_SHORT_WAIT: Duration = Duration::from_millis(2);

/// Longest measured wait.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// Factor between one wait and the next.
const BACKOFF: f32 = 1.5;

/// Retransmissions after waits as short as measured, for lost packets. Later ones are for a client
/// that is busy.
const QUICK_TRIES: u8 = 2;

/// Largest number of retransmissions of a window without an answer.
const MAX_TRIES: u8 = 6;

/// Wait after the last retransmission. A client that repeats its ACK within it goes on.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Packets to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The whole window, after an ACK or at the end of the wait.
    Window,
    /// The blocks of the window that were not sent before: the others are still on their way.
    Unsent,
    /// The whole window, because the client repeated a packet.
    Repetition,
}

/// Time of the next retransmission.
#[derive(Debug)]
pub(super) struct Timer {
    agreed: Option<Duration>,
    smoothed: Option<Duration>,
    variance: Duration,
    wait: Duration,
    tries: u8,
    transmitted: Instant,
    /// The same, without the tries.
    first_transmitted: Instant,
    /// True during a wait of [`Timer::short_wait`].
    is_short: bool,
    deadline: Instant,
}

impl Timer {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            agreed: None,
            smoothed: None,
            variance: Duration::ZERO,
            wait: INITIAL_WAIT,
            tries: 0,
            transmitted: now,
            first_transmitted: now,
            is_short: false,
            deadline: now,
        }
    }

    /// Makes every wait as long as the `timeout` of the client (RFC 2349).
    pub(super) const fn agree(&mut self, seconds: u8) {
        self.agreed = Some(Duration::from_secs(seconds as u64));
    }

    pub(super) fn handle_transmit(&mut self, now: Instant, due: Due) {
        self.transmitted = now;
        if !self.is_retrying() && due != Due::Repetition {
            self.first_transmitted = now;
        }
        match due {
            Due::Window => self.wait_from(now, self.next_wait(), false),
            Due::Unsent => self.wait_from(now, self.next_wait().min(self.short_wait()), true),
            // The wait goes on: a client that repeats itself for ever must not keep the transfer
            // alive.
            Due::Repetition => {}
        }
    }

    fn wait_from(&mut self, now: Instant, wait: Duration, is_short: bool) {
        self.deadline = now + wait;
        self.is_short = is_short;
    }

    /// Returns the end of the wait for an answer.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns a wait of two round trips. By then the client has used the blocks that were on their
    /// way, or dropped them as out of order.
    pub(super) fn short_wait(&self) -> Duration {
        (self.smoothed.unwrap_or(INITIAL_WAIT) * 2).max(MIN_SHORT_WAIT)
    }

    fn next_wait(&self) -> Duration {
        let wait = self.agreed.unwrap_or_else(|| {
            let wait = self.wait.mul_f32(BACKOFF.powi(self.tries.into()));
            match self.tries.checked_sub(QUICK_TRIES) {
                None => wait,
                Some(slow) => wait.max(INITIAL_WAIT.mul_f32(BACKOFF.powi(slow.into()))),
            }
        });
        if self.tries == MAX_TRIES { wait.max(LAST_WAIT) } else { wait }
    }

    /// Counts a retransmission. Returns false when none is left.
    pub(super) fn handle_timeout(&mut self) -> bool {
        // The answer to an ACK inside the window was only put off. It says nothing about the path.
        if std::mem::take(&mut self.is_short) {
            return true;
        }
        if self.tries == MAX_TRIES {
            return false;
        }
        self.tries += 1;
        true
    }

    /// Handles an answer to the last packets.
    pub(super) fn handle_answer(&mut self, now: Instant) {
        // RFC 6298 §3 (Karn's algorithm): after a retransmission it is unknown which copy was
        // answered, so the round trip is not measured.
        if self.is_retrying() {
            return self.handle_early_answer(now);
        }
        self.measure(now.saturating_duration_since(self.transmitted));
    }

    /// Handles an answer to earlier packets.
    pub(super) fn handle_early_answer(&mut self, now: Instant) {
        if self.is_retrying() {
            // If this answers the first copy, the path has become slow. Only a wait that long lets
            // a round trip be measured again.
            let since_first = now.saturating_duration_since(self.first_transmitted);
            self.wait = since_first.clamp(MIN_WAIT, MAX_WAIT);
        }
        self.tries = 0;
    }

    /// Adjusts the wait to a measured round trip (RFC 6298 §2).
    fn measure(&mut self, round_trip: Duration) {
        let smoothed = match self.smoothed {
            // Rule 2.2.
            None => {
                self.variance = round_trip / 2;
                round_trip
            }
            // Rule 2.3: the variance first, from the old smoothed value.
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(round_trip)) / 4;
                (smoothed * 7 + round_trip) / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.wait = (smoothed + self.variance * 4).clamp(MIN_WAIT, MAX_WAIT);
    }

    /// Returns whether the last packets were a retransmission.
    pub(super) const fn is_retrying(&self) -> bool {
        self.tries > 0
    }

    /// Returns whether half of the measured wait is over.
    pub(super) fn is_half_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.transmitted) > self.wait / 2
    }

    /// Returns whether the last packets are still on their way, so that no packet can answer them.
    pub(super) fn is_in_flight(&self, now: Instant) -> bool {
        let round_trip = self.smoothed.unwrap_or_default();
        now.saturating_duration_since(self.transmitted) < round_trip / 2
    }
}
