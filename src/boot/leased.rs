//! Leases of machines, which the command line of a boot program repeats for the kernel.
//!
//! Our DHCP server fills the table, and the generator of boot programs reads it. It stays empty if
//! another server gives the addresses.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard};

use crate::locked::locked;
use crate::mac::Mac;

/// The network parameters that a machine was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    /// `None` if this server is named as the router.
    pub router: Option<Ipv4Addr>,
}

/// The leases by MAC address: at most one for each address of the pool.
#[derive(Debug, Default)]
pub struct Leased(Mutex<LeaseTable>);

#[derive(Debug, Default)]
struct LeaseTable {
    leases: HashMap<Mac, Lease>,
    holders: HashMap<Ipv4Addr, Mac>,
}

impl Leased {
    /// Records the lease of a machine, and that no other machine has the address.
    pub(crate) fn grant(&self, machine: Mac, lease: Lease) {
        let mut table = self.table();
        table.free(lease.address);
        // A machine that moved to another address gives the old one back.
        if let Some(old) = table.leases.insert(machine, lease) {
            table.holders.remove(&old.address);
        }
        table.holders.insert(lease.address, machine);
    }

    /// Records that no machine has this address any more.
    pub(crate) fn free(&self, address: Ipv4Addr) {
        self.table().free(address);
    }

    /// Returns the last lease of a machine. It may have expired, but no other machine has got the
    /// address since.
    pub(crate) fn of(&self, machine: Mac) -> Option<Lease> {
        self.table().leases.get(&machine).copied()
    }

    fn table(&self) -> MutexGuard<'_, LeaseTable> {
        // A panic cannot leave the table inconsistent: no method panics between two changes.
        locked(&self.0)
    }
}

impl LeaseTable {
    fn free(&mut self, address: Ipv4Addr) {
        if let Some(holder) = self.holders.remove(&address) {
            self.leases.remove(&holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(n: u8) -> Mac {
        Mac::new(&[2, 0, 0, 0, 0, n]).unwrap()
    }

    fn lease(n: u8) -> Lease {
        Lease { address: Ipv4Addr::new(10, 0, 0, n), netmask: Ipv4Addr::new(255, 0, 0, 0), router: None }
    }

    #[test]
    fn lease_is_unique_by_address_and_machine() {
        let leased = Leased::default();
        assert_eq!(leased.of(mac(1)), None);
        leased.grant(mac(1), lease(1));
        leased.grant(mac(1), lease(1));
        assert_eq!(leased.of(mac(1)), Some(lease(1)));
        leased.grant(mac(1), lease(2));
        leased.grant(mac(2), lease(1));
        assert_eq!([leased.of(mac(1)), leased.of(mac(2))], [Some(lease(2)), Some(lease(1))]);
        leased.grant(mac(3), lease(2));
        assert_eq!([leased.of(mac(1)), leased.of(mac(3))], [None, Some(lease(2))]);
        leased.free(lease(2).address);
        leased.free(lease(9).address);
        assert_eq!([leased.of(mac(2)), leased.of(mac(3))], [Some(lease(1)), None]);
        let table = leased.table();
        assert_eq!((table.leases.len(), table.holders.len()), (1, 1));
    }
}
