//! What machines say of themselves: names, and that their system is up.

use std::net::IpAddr;
use std::time::Instant;

use super::MachineTable;
use crate::guid::Guid;
use crate::machines::{KnownMachine, Mac, Step, UpReport};
use crate::recent_lines::Subject;

impl MachineTable {
    /// Returns whether the machine at this address is known, and not by another MAC address than
    /// this.
    pub(in crate::machines) fn is_machine(&self, mac: Option<Mac>, address: IpAddr) -> bool {
        let record = self.by_address.get(&address).and_then(|id| self.machines.get(id));
        record.is_some_and(|record| record.mac.is_none_or(|own| mac.is_none_or(|mac| mac == own)))
    }

    /// Iterates over the boots that are done, as far as it shows here: the last of each machine,
    /// and the last before that, which may have ended just now. Each has the time at which the machine
    /// asked what to boot, and whether its system said itself that it is up.
    pub(in crate::machines) fn finished(&self) -> impl Iterator<Item = (Mac, Instant, bool)> {
        self.iter().flat_map(|record| {
            let (mac, done) = (record.mac, [record.done_before, record.boot.done()]);
            done.into_iter().flatten().filter_map(move |(asked, by_call)| Some((mac?, asked, by_call)))
        })
    }

    /// Returns the machine at this address.
    pub(in crate::machines) fn known(&self, address: IpAddr) -> Option<KnownMachine> {
        let record = self.machines.get(self.by_address.get(&address)?)?;
        let has_lease = record.boot.reached.get(Step::Leased as usize).is_some_and(Option::is_some);
        Some(KnownMachine {
            mac: record.mac,
            host_name: record.host_name.as_deref().map(str::to_owned),
            uuid: record.uuid,
            image: record.boot.image.as_deref().map(str::to_owned),
            boots_from_here: has_lease || record.boot.step >= Step::Kernel,
        })
    }

    pub(in crate::machines) fn knows(&self, mac: Mac) -> bool {
        self.by_mac.contains_key(&mac)
    }

    pub(in crate::machines) fn named(&mut self, mac: Mac, host_name: &str) {
        let record = self.by_mac.get(&mac).and_then(|id| self.machines.get_mut(id));
        if let Some(record) = record.filter(|record| record.host_name.as_deref() != Some(host_name)) {
            record.host_name = Some(host_name.into());
        }
    }

    pub(in crate::machines) fn identified(&mut self, mac: Mac, uuid: Guid) {
        let record = self.by_mac.get(&mac).and_then(|id| self.machines.get_mut(id));
        if let Some(record) = record {
            record.uuid = Some(uuid);
        }
    }

    /// Returns the names by which the log may know a machine, and the start of its last boot.
    pub(in crate::machines) fn subjects(&self, machine: Subject) -> Option<(Vec<Subject>, Instant)> {
        let id = match machine {
            Subject::Mac(mac) => self.by_mac.get(&mac)?,
            Subject::Address(address) => self.by_address.get(&address)?,
        };
        let record = self.machines.get(id)?;
        let addresses = record.addresses.iter().map(|&address| Subject::Address(address));
        Some((record.mac.map(Subject::Mac).into_iter().chain(addresses).collect(), record.boot.began))
    }

    /// Takes the secret of the machine at this address; returns false if it was taken in this boot.
    pub(in crate::machines) fn take_secret(&mut self, address: IpAddr) -> bool {
        let Some(record) = self.record_at(address) else { return false };
        !std::mem::replace(&mut record.boot.secret_taken, true)
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
    use crate::machines::{Protocol, RootEnd, Running, Stage};

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
    fn secret_is_taken_once_in_each_boot() {
        let (now, address) = (Instant::now(), IpAddr::from(ADDRESS));
        let mut table = MachineTable::new(now, 16);
        assert!(!table.take_secret(address), "no machine");
        let stats = table.join(address, Step::Kernel, now).unwrap();
        assert_eq!([table.take_secret(address), table.take_secret(address)], [true, false]);
        let mut next = MachineTable::new(now, 16);
        next.add_carried(table.carried(now), now, |_| None);
        assert!(!next.take_secret(address), "in the next process too");
        table.reached(address, &stats, Step::Kernel, None, now);
        table.join(address, Step::Loader, now).unwrap();
        assert!(table.take_secret(address), "it boots again");
    }

    #[test]
    fn machine_boots_from_here_with_a_lease_or_a_kernel() {
        let (now, address) = (Instant::now(), IpAddr::from(ADDRESS));
        let boots_from_here = |table: &MachineTable| table.known(address).map(|known| known.boots_from_here);
        let mut table = MachineTable::new(now, 16);
        assert_eq!(boots_from_here(&table), None);
        let stats = table.join(address, Step::Menu, now).unwrap();
        table.reached(address, &stats, Step::Menu, None, now);
        assert_eq!(boots_from_here(&table), Some(false), "anybody can look at a menu");
        table.reached(address, &stats, Step::Kernel, None, now);
        assert_eq!(boots_from_here(&table), Some(true));
        let mac = Mac::new(&[2, 0, 0, 0, 0, 9]).unwrap();
        let other = IpAddr::from([10, 0, 0, 9]);
        table.met(mac, other, now);
        table.leased(mac, other, now);
        assert!(table.knows(mac) && table.known(other).unwrap().boots_from_here);
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
    fn boot_counts_from_its_menu() {
        let (began, address) = (Instant::now(), IpAddr::from(ADDRESS));
        let [loaded, asked, later] = [3600, 3601, 3610].map(|s| began + std::time::Duration::from_secs(s));
        let mac = Mac::new(&[2, 0, 0, 0, 0, 7]).unwrap();
        let mut table = MachineTable::new(began, 16);
        // Firmware that is not answered asks on, here for an hour.
        table.met(mac, address, began);
        let stats = table.join(address, Step::Loader, loaded).unwrap();
        table.reached(address, &stats, Step::Loader, None, loaded);
        table.reached(address, &stats, Step::Menu, None, loaded);
        // It was reset, and another DHCP server named the file.
        let stats = table.join(address, Step::Menu, asked).unwrap();
        table.reached(address, &stats, Step::Menu, None, asked);
        table.reached(address, &stats, Step::Kernel, None, later);
        table.phoned_home(address, report(), later);
        assert_eq!(table.finished().collect::<Vec<_>>(), [(mac, asked, true)]);
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
        assert_eq!(table.finished().count(), 0, "its MAC address is unknown");
        let mac = Mac::new(&[2, 0, 0, 0, 0, 7]).unwrap();
        table.met(mac, address, now);
        assert_eq!(table.finished().collect::<Vec<_>>(), [(mac, now, true)]);
        let mut next = MachineTable::new(now, 16);
        next.add_carried(table.carried(now), now, |_| None);
        let record = next.iter().next().unwrap();
        assert!(record.boot.says_it_is_up(), "in the next process too");
        assert_eq!(record.boot.system.as_ref().unwrap().host_keys, report().host_keys);
        let later = now + std::time::Duration::from_secs(9);
        table.join(address, Step::Loader, later).unwrap();
        assert_eq!(table.finished().collect::<Vec<_>>(), [(mac, now, true)], "it has begun again");
    }
}
