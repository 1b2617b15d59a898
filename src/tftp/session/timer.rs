//! When a transfer sends again: from the measured round trip (RFC 6298), or as the client asked (RFC 2349). Pure data.

use std::time::{Duration, Instant};

/// Wait before the first retransmission while no round trip was measured.
const INITIAL_WAIT: Duration = Duration::from_millis(250);

/// A measured wait is never shorter than that: firmware may look away for some milliseconds.
const MIN_WAIT: Duration = Duration::from_millis(20);

/// A measured wait is never longer than that.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// Each wait is longer than the one before by this factor.
const BACKOFF: f32 = 1.5;

/// How often a window is sent again without an answer.
const MAX_TRIES: u8 = 6;

/// How long a client may be silent after the last try. One that comes back and repeats its ACK goes on.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Why something is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It is new, or its wait is over.
    Turn,
    /// The client repeated itself. The wait goes on, so that repeating for ever keeps no transfer alive.
    Reminder,
}

/// When to send again.
#[derive(Debug)]
pub(super) struct Timer {
    agreed: Option<Duration>,
    smoothed: Option<Duration>,
    variance: Duration,
    wait: Duration,
    tries: u8,
    transmitted: Instant,
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
            deadline: now,
        }
    }

    /// Takes the `timeout` of the client: every wait is that long.
    pub(super) const fn agree(&mut self, seconds: u8) {
        self.agreed = Some(Duration::from_secs(seconds as u64));
    }

    pub(super) fn handle_transmit(&mut self, now: Instant, due: Due) {
        self.transmitted = now;
        if due == Due::Turn {
            self.deadline = now + self.next_wait();
        }
    }

    /// When the wait for an answer is over.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    fn next_wait(&self) -> Duration {
        let wait = self.agreed.unwrap_or_else(|| match self.tries {
            0 => self.wait,
            tries => self.wait.max(INITIAL_WAIT.mul_f32(BACKOFF.powi(i32::from(tries) - 1))),
        });
        if self.tries == MAX_TRIES { wait.max(LAST_WAIT) } else { wait }
    }

    /// Counts a try; false when there is none left.
    pub(super) fn handle_timeout(&mut self) -> bool {
        if self.tries == MAX_TRIES {
            return false;
        }
        self.tries += 1;
        // Kept until a round trip is measured again: else a path that became slow is never noticed.
        self.wait = self.wait.mul_f32(BACKOFF).min(MAX_WAIT);
        true
    }

    /// Measures a round trip, unless it is unknown which of several copies was answered (RFC 6298 §3).
    pub(super) fn handle_answer(&mut self, now: Instant) {
        if !self.is_retrying() {
            self.measure(now.saturating_duration_since(self.transmitted));
        }
        self.tries = 0;
    }

    /// RFC 6298 §2.
    fn measure(&mut self, round_trip: Duration) {
        let smoothed = match self.smoothed {
            None => {
                self.variance = round_trip / 2;
                round_trip
            }
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(round_trip)) / 4;
                (smoothed * 7 + round_trip) / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.wait = (smoothed + self.variance * 4).clamp(MIN_WAIT, MAX_WAIT);
    }

    /// Whether what we sent last was sent before.
    pub(super) const fn is_retrying(&self) -> bool {
        self.tries > 0
    }

    /// Whether half of the measured wait has passed since something was sent.
    pub(super) fn is_half_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.transmitted) > self.wait / 2
    }
}
