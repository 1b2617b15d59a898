//! Machines whose iPXE lacks features. They get another iPXE once, and not in a circle if that
//! lacks the features as well.

use std::collections::HashMap;

use crate::dhcp::lease::UnixTime;
use crate::mac::Mac;

/// Seconds within which a machine has loaded an iPXE and asks again.
const RETRY_SECONDS: u32 = 120;
/// Most machines that are remembered, as anybody can invent MAC addresses.
const MAX: usize = 4096;

/// Machines that asked lately, each with the transaction ID and the time of its first request.
#[derive(Debug, Default)]
pub struct LimitedIpxes(HashMap<Mac, (u32, UnixTime)>);

impl LimitedIpxes {
    /// Records a request, and returns whether the machine asks again after it loaded something.
    pub(super) fn is_retry(&mut self, machine: Mac, xid: u32, now: UnixTime) -> bool {
        if let Some(&(first_xid, first)) = self.0.get(&machine)
            && now < first.after(RETRY_SECONDS)
        {
            // iPXE takes a new transaction ID each time that it starts (src/net/udp/dhcp.c).
            return xid != first_xid;
        }
        self.make_room(now);
        if self.0.len() < MAX {
            self.0.insert(machine, (xid, now));
        }
        // A machine that cannot be remembered might load iPXE in a circle.
        !self.0.contains_key(&machine)
    }

    fn make_room(&mut self, now: UnixTime) {
        if self.0.len() >= MAX {
            self.0.retain(|_, (_, first)| now < first.after(RETRY_SECONDS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_700_000_000);

    fn mac(n: u32) -> Mac {
        let [a, b, c, d] = n.to_be_bytes();
        Mac::new(&[2, 0, a, b, c, d]).unwrap()
    }

    #[test]
    fn retry_is_another_transaction_within_two_minutes() {
        let mut limited = LimitedIpxes::default();
        assert!(!limited.is_retry(mac(1), 7, NOW));
        assert!(!limited.is_retry(mac(1), 7, NOW.after(8)), "the same DISCOVER again, and its REQUEST");
        assert!(limited.is_retry(mac(1), 8, NOW.after(20)));
        assert!(!limited.is_retry(mac(2), 8, NOW.after(20)), "another machine");
        assert!(limited.is_retry(mac(1), 9, NOW.after(119)));
        assert!(!limited.is_retry(mac(1), 9, NOW.after(120)), "a new boot");
    }

    #[test]
    fn flood_of_machines_is_bounded() {
        let mut limited = LimitedIpxes::default();
        for n in 0..MAX as u32 {
            assert!(!limited.is_retry(mac(n), 7, NOW));
        }
        assert!(limited.is_retry(mac(u32::MAX), 7, NOW), "no room: no iPXE in a circle");
        assert_eq!(limited.0.len(), MAX);
        assert!(!limited.is_retry(mac(u32::MAX), 7, NOW.after(RETRY_SECONDS)));
        assert_eq!(limited.0.len(), 1);
    }
}
