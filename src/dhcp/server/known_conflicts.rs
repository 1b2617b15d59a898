//! Other DHCP servers that are known in this process, for the one after it.

use std::sync::Mutex;
use std::time::Instant;

use crate::dhcp::session::carried::CarriedConflict;
use crate::locked::locked;

/// Other DHCP servers on the networks of the server role. Nothing is known before this process, or
/// one before it in that role, has looked for them.
#[derive(Debug, Default)]
pub struct KnownConflicts(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    /// Time to which the ages of `conflicts` are counted.
    at: Instant,
    conflicts: Vec<CarriedConflict>,
}

impl KnownConflicts {
    /// Takes what the process before this one knew.
    pub(crate) fn new(conflicts: Option<Vec<CarriedConflict>>, now: Instant) -> Self {
        Self(Mutex::new(conflicts.map(|conflicts| Known { at: now, conflicts })))
    }

    /// Replaces them as a whole.
    pub(super) fn set(&self, conflicts: Vec<CarriedConflict>, now: Instant) {
        *locked(&self.0) = Some(Known { at: now, conflicts });
    }

    /// Returns them with their ages now; `None` if nobody has looked.
    pub(crate) fn at(&self, now: Instant) -> Option<Vec<CarriedConflict>> {
        let known = locked(&self.0);
        let Known { at, conflicts } = known.as_ref()?;
        // A server counts as gone long before the seconds of u32 are over.
        let later = now.saturating_duration_since(*at).as_secs() as u32;
        let aged = |conflict: &CarriedConflict| CarriedConflict {
            age: conflict.age.saturating_add(later),
            ..*conflict
        };
        Some(conflicts.iter().map(aged).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn conflict_ages_while_it_is_known() {
        let (now, ip) = (Instant::now(), Ipv4Addr::new(10, 0, 0, 1));
        let known = KnownConflicts::default();
        assert_eq!(known.at(now), None);
        let conflict = CarriedConflict { server: ip, on: ip, age: 3 };
        known.set(vec![conflict], now);
        let later = known.at(now + Duration::from_secs(5)).unwrap();
        assert_eq!(later, [CarriedConflict { age: 8, ..conflict }]);
        known.set(Vec::new(), now);
        assert_eq!(KnownConflicts::new(known.at(now), now).at(now), Some(Vec::new()), "alone, as was found");
    }
}
