//! Machines that declined addresses lately. A real conflict is rare; a machine that declines
//! address after address would empty the pool.

use std::collections::HashMap;

use super::UnixTime;
use crate::dhcp::wire::HardwareAddress;

/// Declines of one machine that are believed within [`PERIOD_SECONDS`]. A client that finds a host
/// on its address asks for another one, and may meet a second.
const BELIEVED: u8 = 3;
/// Seconds after which the declines of a machine are forgotten.
const PERIOD_SECONDS: u32 = 600;
/// Most machines that are remembered, as anybody can invent hardware addresses.
const MAX: usize = 1024;

/// Numbers of declines, each with the time of the first.
#[derive(Debug, Default)]
pub(super) struct Declines(HashMap<HardwareAddress, (u8, UnixTime)>);

impl Declines {
    /// Counts a decline, and returns whether it is believed.
    pub(super) fn is_believed(&mut self, machine: &HardwareAddress, now: UnixTime) -> bool {
        self.0.retain(|_, (_, first)| now < first.after(PERIOD_SECONDS));
        // A machine that cannot be counted could decline without end.
        if self.0.len() >= MAX && !self.0.contains_key(machine) {
            return false;
        }
        let (count, _) = self.0.entry(*machine).or_insert((0, now));
        *count = count.saturating_add(1);
        *count <= BELIEVED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);

    fn machine(n: u32) -> HardwareAddress {
        let [a, b, c, d] = n.to_be_bytes();
        HardwareAddress::ethernet([2, 0, a, b, c, d])
    }

    #[test]
    fn declines_are_counted_for_each_machine() {
        let mut declines = Declines::default();
        let believed = |declines: &mut Declines, n, now| declines.is_believed(&machine(n), now);
        let first: Vec<_> = (0..5).map(|n| believed(&mut declines, 1, NOW.after(n))).collect();
        assert_eq!(first, [true, true, true, false, false]);
        assert!(believed(&mut declines, 2, NOW));
        assert!(!believed(&mut declines, 1, NOW.after(599)));
        assert!(believed(&mut declines, 1, NOW.after(600)));
    }

    #[test]
    fn flood_of_machines_is_bounded() {
        let mut declines = Declines::default();
        let believed = (0..3 * MAX as u32).filter(|&n| declines.is_believed(&machine(n), NOW)).count();
        assert_eq!((believed, declines.0.len()), (MAX, MAX));
    }
}
