//! The table as plain data: written for the process that follows this one, and read from the one
//! before it.

use std::sync::Arc;
use std::time::Instant;

use super::{ADDRESSES_MAX, Id, MachineBoot, MachineRecord, MachineTable, RootState};
use crate::image::Identity;
use crate::machines::Protocol;
use crate::machines::ages::Ages;
use crate::machines::boot_ranges::TrackedImage;
use crate::machines::carried::{CarriedBoot, CarriedMachine, CarriedStats};
use crate::machines::rate::Rate;
use crate::machines::requests::Requests;
use crate::machines::story::Story;
use crate::machines::transfer_stats::TransferStats;
use crate::machines::up::{HostKey, SystemUp};

impl MachineTable {
    /// Returns all machines as plain data.
    pub(in crate::machines) fn carried(&self, now: Instant) -> Vec<CarriedMachine> {
        self.iter().map(|record| record.carried(Ages(now))).collect()
    }

    /// Adds the machines that another process had, up to the capacity.
    pub(in crate::machines) fn add_carried(
        &mut self,
        machines: Vec<CarriedMachine>,
        now: Instant,
        find: impl Fn(Identity) -> Option<Arc<TrackedImage>>,
    ) {
        for carried in machines.into_iter().take(self.capacity) {
            let id = Id(self.next);
            self.next += 1;
            self.by_address.extend(carried.addresses.iter().map(|&address| (address, id)));
            self.by_mac.extend(carried.mac.map(|mac| (mac, id)));
            let record = MachineRecord::of_carried(carried, self.epoch, Ages(now), &find);
            self.machines.insert(id, record);
        }
    }
}

impl MachineRecord {
    fn carried(&self, ages: Ages) -> CarriedMachine {
        CarriedMachine {
            mac: self.mac,
            addresses: self.addresses.clone(),
            platform: self.platform,
            offered: self.offered.map(|then| ages.of(then)),
            refusal: self.refusal.clone(),
            host_name: self.host_name.as_deref().map(str::to_owned),
            uuid: self.uuid,
            boots: self.boots,
            had_no_root: self.had_no_root,
            boot: self.boot.carried(ages),
        }
    }

    fn of_carried(
        carried: CarriedMachine,
        epoch: Instant,
        ages: Ages,
        find: impl Fn(Identity) -> Option<Arc<TrackedImage>>,
    ) -> Self {
        let mut addresses = carried.addresses;
        addresses.truncate(ADDRESSES_MAX);
        Self {
            mac: carried.mac,
            addresses,
            platform: carried.platform,
            offered: carried.offered.map(|age| ages.moment(age)),
            refusal: carried.refusal,
            host_name: carried.host_name.map(String::into),
            uuid: carried.uuid,
            boots: carried.boots,
            had_no_root: carried.had_no_root,
            done_before: None,
            boot: MachineBoot::of_carried(carried.boot, epoch, ages, find),
        }
    }
}

impl MachineBoot {
    fn carried(&self, ages: Ages) -> CarriedBoot {
        let last_seen = self.traffic.iter().filter_map(|stats| stats.last_seen()).max();
        CarriedBoot {
            began: ages.of(self.began),
            began_as: self.began_as,
            step: self.step,
            reached: self.reached.map(|reached| reached.map(|then| ages.of(then))),
            image: self.image.as_deref().map(str::to_owned),
            root: self.root.map(|root| (root.protocol, root.end, root.loss)),
            offers: self.offers,
            offered_file: self.offered_file.as_deref().map(str::to_owned),
            loaded: self.loaded.map(|then| ages.of(then)),
            program_sent: self.program_sent.map(|then| ages.of(then)),
            is_up: self.is_up,
            system: self.system.as_ref().map(|system| {
                let keys = system.host_keys.iter().map(|key| key.as_str().to_owned());
                (ages.of(system.since), keys.collect())
            }),
            secret_taken: self.secret_taken,
            last_event: ages.of(self.last_event),
            story: self.story.carried(ages),
            stats: CarriedStats {
                bytes: Protocol::ALL.map(|protocol| self.bytes_sent(protocol)),
                last_seen: last_seen.map(|then| ages.of(then)),
                root: self.traffic.iter().find_map(|stats| stats.root()?.carried()),
            },
        }
    }

    fn of_carried(
        carried: CarriedBoot,
        epoch: Instant,
        ages: Ages,
        find: impl Fn(Identity) -> Option<Arc<TrackedImage>>,
    ) -> Self {
        let root =
            carried.root.map(|(protocol, end, loss)| RootState { protocol, connections: 0, end, loss });
        Self {
            began: ages.moment(carried.began),
            began_as: carried.began_as,
            step: carried.step,
            reached: carried.reached.map(|reached| reached.map(|age| ages.moment(age))),
            image: carried.image.map(Arc::from),
            root,
            offers: carried.offers,
            offered_file: carried.offered_file.map(String::into),
            loaded: carried.loaded.map(|age| ages.moment(age)),
            program_sent: carried.program_sent.map(|age| ages.moment(age)),
            is_up: carried.is_up,
            system: carried.system.map(|(age, keys)| {
                let host_keys = keys.iter().filter_map(|key| HostKey::new(key)).collect();
                SystemUp { since: ages.moment(age), host_keys }
            }),
            asked: None,
            secret_taken: carried.secret_taken,
            last_event: ages.moment(carried.last_event),
            // A transfer ends with its process, and asks again.
            requests: Requests::default(),
            story: Story::of_carried(carried.story, ages),
            rate: Rate::default(),
            traffic: vec![Arc::new(TransferStats::of_carried(&carried.stats, epoch, ages, find))],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;
    use crate::guid::Guid;
    use crate::machines::{Mac, RootEnd, Stage, Step};

    #[test]
    fn machine_goes_on_in_the_next_process() {
        let now = Instant::now();
        let address = IpAddr::from([10, 0, 0, 7]);
        let mac = Mac::new(&[2, 0, 0, 0, 0, 7]).unwrap();
        let mut before = MachineTable::new(now, 4096);
        before.met(mac, address, now);
        before.identified(mac, Guid([7; 16]));
        let stats = before.join(address, Step::Root, now).unwrap();
        before.attached(address, &stats, Protocol::Nbd, None, now);
        stats.add(Protocol::Nbd, 4096, now + Duration::from_secs(5));

        let later = now + Duration::from_secs(60);
        let carried = before.carried(later);
        let mut after = MachineTable::new(now, 4096);
        after.add_carried(carried, later, |_| None);
        let record = after.iter().next().unwrap();
        assert_eq!((record.mac, &record.addresses[..]), (Some(mac), &[address][..]));
        assert_eq!(record.uuid, Some(Guid([7; 16])));
        assert_eq!((record.boot.began, record.boot.bytes_sent(Protocol::Nbd)), (now, 4096));
        assert_eq!(record.last_seen(), now + Duration::from_secs(5));
        assert!(!after.is_on_root(address), "its connection has not gone on yet");

        let stats = after.join(address, Step::Root, later).unwrap();
        after.attached(address, &stats, Protocol::Nbd, None, later);
        assert!(after.is_on_root(address));
        after.released(address, &stats, RootEnd::Released, later);
        let record = after.iter().next().unwrap();
        assert_eq!((record.boots, record.boot.stage()), (1, Stage::Released), "the same boot");
    }
}
