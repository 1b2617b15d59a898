//! Lines of the log that are written once for each machine and reason.

use std::collections::HashSet;
use std::mem::Discriminant;
use std::time::{Duration, Instant};

use super::interfaces::Unserved;
use crate::boot::Refusal;
use crate::dhcp::session::NoReply;
use crate::dhcp::wire::{DhcpParseError, HardwareAddress};

/// Most lines that are remembered. Anybody can invent hardware addresses.
const MAX: usize = 1024;
/// Shortest time in which so many lines are written.
const PERIOD: Duration = Duration::from_secs(600);

/// Reason why a machine gets nothing, without the values in it: a machine can choose those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    NoReply(Discriminant<NoReply>),
    NoBootFile(Discriminant<Refusal>),
    Malformed(Discriminant<DhcpParseError>),
    Unserved(Unserved),
}

/// The lines that were written.
#[derive(Debug, Default)]
pub(super) struct LoggedOnce {
    lines: HashSet<(Option<HardwareAddress>, Reason)>,
    /// Time of the first of `lines`.
    since: Option<Instant>,
}

impl LoggedOnce {
    /// Returns whether a line may be written, and counts it as written.
    pub(super) fn is_new(&mut self, machine: Option<HardwareAddress>, reason: Reason, now: Instant) -> bool {
        if self.lines.contains(&(machine, reason)) {
            return false;
        }
        if self.lines.len() >= MAX {
            if self.since.is_some_and(|since| now.duration_since(since) < PERIOD) {
                return false;
            }
            self.lines.clear();
        }
        if self.lines.is_empty() {
            self.since = Some(now);
        }
        self.lines.insert((machine, reason))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;
    use std::net::Ipv4Addr;

    use super::*;

    fn machine(n: u32) -> Option<HardwareAddress> {
        let [a, b, c, d] = n.to_be_bytes();
        Some(HardwareAddress::ethernet([2, 0, a, b, c, d]))
    }

    fn not_allowed(n: u8) -> Reason {
        Reason::NoReply(discriminant(&NoReply::NotAllowed(Ipv4Addr::new(10, 0, 0, n))))
    }

    #[test]
    fn line_is_new_once_for_each_machine_and_reason() {
        let (mut logged, now) = (LoggedOnce::default(), Instant::now());
        assert!(logged.is_new(machine(1), not_allowed(1), now));
        assert!(!logged.is_new(machine(1), not_allowed(1), now + PERIOD));
        assert!(!logged.is_new(machine(1), not_allowed(2), now), "the machine chooses its address");
        assert!(logged.is_new(machine(2), not_allowed(1), now));
        let refused = Reason::NoBootFile(discriminant(&Refusal::NoLoader));
        let unserved = Reason::Unserved(Unserved::NoAddress);
        for reason in [Reason::NoReply(discriminant(&NoReply::OtherNetwork)), refused, unserved] {
            assert!(logged.is_new(machine(1), reason, now), "{reason:?}");
        }
        let malformed = Reason::Malformed(discriminant(&DhcpParseError::NoCookie));
        assert_eq!([logged.is_new(None, malformed, now), logged.is_new(None, malformed, now)], [true, false]);
    }

    #[test]
    fn flood_of_machines_is_bounded() {
        let (mut logged, now) = (LoggedOnce::default(), Instant::now());
        let mut lines =
            |now| (0..3 * MAX as u32).filter(|&n| logged.is_new(machine(n), not_allowed(1), now)).count();
        assert_eq!(lines(now), MAX);
        assert_eq!(lines(now + PERIOD / 2), 0);
        assert_eq!(lines(now + PERIOD), MAX);
        assert!(logged.lines.len() <= MAX);
    }
}
