//! Times as ages, which another process can use.

use std::time::{Duration, Instant};

/// Age of a moment, and the moment of an age.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ages(pub Instant);

impl Ages {
    pub(super) fn of(self, then: Instant) -> Duration {
        self.0.saturating_duration_since(then)
    }

    /// Returns the moment; now if the clock of this host does not reach back so far.
    pub(super) fn moment(self, age: Duration) -> Instant {
        self.0.checked_sub(age).unwrap_or(self.0)
    }
}
