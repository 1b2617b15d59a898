//! The addresses that machines were leased: what their kernel is told a second time, on its command line.
//!
//! Our DHCP server fills the table, and a boot program that is composed for a machine reads it. Where another server
//! gives the addresses, it is empty.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::mac::Mac;

/// What a machine was told of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    /// `None` where we stand in for it.
    pub router: Option<Ipv4Addr>,
}

/// The leases of machines by their MAC addresses. There is one at most for each address of the pool, which bounds them.
#[derive(Debug, Default)]
pub struct Leased(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    leases: HashMap<Mac, Lease>,
    holders: HashMap<Ipv4Addr, Mac>,
}

impl Leased {
    /// Notes that the machine has this lease, and nobody else the address.
    pub(crate) fn grant(&self, machine: Mac, lease: Lease) {
        let mut table = self.table();
        table.free(lease.address);
        if let Some(old) = table.leases.insert(machine, lease) {
            table.holders.remove(&old.address);
        }
        table.holders.insert(lease.address, machine);
    }

    /// Notes that nobody has this address any more.
    pub(crate) fn free(&self, address: Ipv4Addr) {
        self.table().free(address);
    }

    /// What the machine was last leased. Its time may be over, but nobody else was given the address since.
    pub(crate) fn of(&self, machine: Mac) -> Option<Lease> {
        self.table().leases.get(&machine).copied()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Whoever panicked with the lock left nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
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
    fn each_address_and_each_machine_is_there_once() {
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
