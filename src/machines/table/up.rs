//! Machines that say that their system is up.

use std::net::IpAddr;
use std::time::Instant;

use super::MachineTable;
use crate::machines::{Mac, UpReport};

impl MachineTable {
    /// Returns whether the machine at this address is known, and not by another MAC address than this.
    pub(in crate::machines) fn is_machine(&self, mac: Option<Mac>, address: IpAddr) -> bool {
        let record = self.by_address.get(&address).and_then(|id| self.machines.get(id));
        record.is_some_and(|record| record.mac.is_none_or(|own| mac.is_none_or(|mac| mac == own)))
    }

    /// Records that the system of the machine at this address is up.
    pub(in crate::machines) fn phoned_home(&mut self, address: IpAddr, report: UpReport, now: Instant) {
        let Some(record) = self.record_at(address) else { return };
        if let Some(name) = &report.host_name {
            record.host_name = Some(name.as_str().into());
        }
        record.boot.phoned_home(report, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::up::HostKey;
    use crate::machines::up::tests::KEY;
    use crate::machines::{Protocol, RootEnd, Running, Stage, Step};

    const ADDRESS: [u8; 4] = [10, 0, 0, 7];

    fn report() -> UpReport {
        UpReport { host_name: Some("lab1".into()), host_keys: HostKey::new(KEY).into_iter().collect() }
    }

    #[test]
    fn machine_is_known_by_its_address() {
        let now = Instant::now();
        let [mac, other] = [7, 8].map(|n| Mac::new(&[2, 0, 0, 0, 0, n]).unwrap());
        let mut table = MachineTable::new(now, 16);
        let address = IpAddr::from(ADDRESS);
        assert!(!table.is_machine(Some(mac), address));
        table.join(address, Step::Kernel, now).unwrap();
        assert!(table.is_machine(Some(mac), address), "its MAC address is unknown");
        table.met(mac, address, now);
        assert!(table.is_machine(Some(mac), address) && table.is_machine(None, address));
        assert!(!table.is_machine(Some(other), address));
    }

    #[test]
    fn machine_is_up_until_it_lets_its_root_go() {
        let (now, address) = (Instant::now(), IpAddr::from(ADDRESS));
        let mut table = MachineTable::new(now, 16);
        let stats = table.join(address, Step::Root, now).unwrap();
        table.attached(address, &stats, Protocol::Nbd, None, now);
        table.phoned_home(address, report(), now);
        table.phoned_home(address, report(), now);
        let record = table.iter().next().unwrap();
        assert!(record.boot.says_it_is_up());
        assert_eq!((record.boot.running(), record.boot.stage()), (Some(Running::Up), Stage::Attached));
        assert_eq!(record.host_name.as_deref(), Some("lab1"));
        let event = record.boot.story.iter().last().unwrap();
        assert_eq!(event.to_string(), "its system is up: host name lab1, SSH keys ssh-ed25519 (2 times)");
        table.released(address, &stats, RootEnd::Released, now);
        let record = table.iter().next().unwrap();
        assert_eq!((record.boot.says_it_is_up(), record.boot.running()), (false, Some(Running::Off)));
    }

    #[test]
    fn machine_copied_to_memory_is_up_after_its_root() {
        let (now, address) = (Instant::now(), IpAddr::from(ADDRESS));
        let mut table = MachineTable::new(now, 16);
        let stats = table.join(address, Step::Root, now).unwrap();
        table.attached(address, &stats, Protocol::Nbd, None, now);
        table.released(address, &stats, RootEnd::Released, now);
        table.phoned_home(address, report(), now);
        assert_eq!(table.iter().next().unwrap().boot.running(), Some(Running::Up));
        let mut next = MachineTable::new(now, 16);
        next.add_carried(table.carried(now), now, |_| None);
        let record = next.iter().next().unwrap();
        assert!(record.boot.says_it_is_up(), "in the next process too");
        assert_eq!(record.boot.system.as_ref().unwrap().host_keys, report().host_keys);
    }
}
