//! When a transfer sends again: from the measured round trip (RFC 6298), or as the client asked (RFC 2349). Pure data.

use std::time::{Duration, Instant};

/// Wait before the first retransmission while no round trip was measured.
const INITIAL_WAIT: Duration = Duration::from_millis(250);

/// A measured wait is never shorter than that: firmware may look away for some milliseconds.
const MIN_WAIT: Duration = Duration::from_millis(20);

/// The same for a window of which only the end was sent.
const SHORTEST_WAIT: Duration = Duration::from_millis(2);

/// A measured wait is never longer than that.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// Each wait is longer than the one before by this factor.
const BACKOFF: f32 = 1.5;

/// Waits that are as short as measured, for packets that got lost. The others are for clients that are busy.
const QUICK_TRIES: u8 = 2;

/// How often a window is sent again without an answer.
const MAX_TRIES: u8 = 6;

/// How long a client may be silent after the last try. One that comes back and repeats its ACK goes on.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Why something is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It was acknowledged up to here, or the wait is over: what follows, whether it left before or not.
    Turn,
    /// A window went on while another is on its way: what did not leave before.
    Rest,
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
    /// The same, without the tries.
    first_transmitted: Instant,
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
            deadline: now,
        }
    }

    /// Takes the `timeout` of the client: every wait is that long.
    pub(super) const fn agree(&mut self, seconds: u8) {
        self.agreed = Some(Duration::from_secs(seconds as u64));
    }

    pub(super) fn handle_transmit(&mut self, now: Instant, due: Due) {
        self.transmitted = now;
        if !self.is_retrying() && due != Due::Reminder {
            self.first_transmitted = now;
        }
        match due {
            Due::Turn => self.deadline = now + self.next_wait(),
            Due::Rest => self.deadline = now + self.next_wait().min(self.short_wait()),
            Due::Reminder => {}
        }
    }

    /// When the wait for an answer is over.
    pub(super) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Two round trips: by then we know whether what was under way was of use, or thrown away as out of turn.
    fn short_wait(&self) -> Duration {
        (self.smoothed.unwrap_or(INITIAL_WAIT) * 2).max(SHORTEST_WAIT)
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

    /// Counts a try; false when there is none left.
    pub(super) fn handle_timeout(&mut self) -> bool {
        if self.tries == MAX_TRIES {
            return false;
        }
        self.tries += 1;
        true
    }

    /// Takes note of an answer to what was transmitted last. The round trip is measured unless it is unknown which of
    /// several copies was answered (RFC 6298 §3).
    pub(super) fn handle_answer(&mut self, now: Instant) {
        if self.is_retrying() {
            return self.handle_early_answer(now);
        }
        self.measure(now.saturating_duration_since(self.transmitted));
    }

    /// Takes note of an answer to something transmitted earlier. If it answers the first of several copies, the path
    /// has become slow, and the next wait has to be that long for a round trip to be measured again.
    pub(super) fn handle_early_answer(&mut self, now: Instant) {
        if self.is_retrying() {
            let since_first = now.saturating_duration_since(self.first_transmitted);
            self.wait = since_first.clamp(MIN_WAIT, MAX_WAIT);
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

    /// Whether what was transmitted last is still on its way, so that no answer can be one to it.
    pub(super) fn is_under_way(&self, now: Instant) -> bool {
        let round_trip = self.smoothed.unwrap_or_default();
        now.saturating_duration_since(self.transmitted) < round_trip / 2
    }
}
