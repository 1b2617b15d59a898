//! Recorded sequences of boots, and arbitrary orders of events.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::boot::Architecture;
use crate::machines::Loss;
use crate::machines::boot::TRAFFIC_MAX;

pub(in crate::machines) const BIOS_PXE: boot::Platform =
    boot::Platform { firmware: Firmware::Pxe, architecture: Architecture::BIOS };
const IPXE: boot::Platform = boot::Platform { firmware: Firmware::Ipxe, architecture: Architecture(7) };
pub(in crate::machines) const UEFI: boot::Platform =
    boot::Platform { firmware: Firmware::Pxe, architecture: Architecture(7) };

/// A machine table and a clock that advances a second per event.
pub(in crate::machines) struct Site {
    pub(in crate::machines) table: MachineTable,
    pub(in crate::machines) now: Instant,
}

impl Site {
    pub(in crate::machines) fn new() -> Self {
        let now = Instant::now();
        Self { table: MachineTable::new(now, MACHINES_MAX), now }
    }

    pub(in crate::machines) fn tick(&mut self) -> Instant {
        self.now += Duration::from_secs(1);
        self.now
    }

    pub(in crate::machines) fn offered(&mut self, mac: Mac, platform: boot::Platform) {
        let now = self.tick();
        self.table.offered(mac, platform, None, now);
    }

    pub(in crate::machines) fn leased(&mut self, mac: Mac, address: IpAddr) {
        let now = self.tick();
        self.table.leased(mac, address, now);
    }

    /// Opens a new connection and takes `step` on it.
    pub(in crate::machines) fn load(&mut self, address: IpAddr, step: Step) -> Arc<TransferStats> {
        let now = self.tick();
        let traffic = self.table.join(address, step, now).unwrap();
        self.table.reached(address, &traffic, step, None, now);
        traffic
    }

    pub(in crate::machines) fn attach(&mut self, address: IpAddr, protocol: Protocol) -> Arc<TransferStats> {
        let now = self.tick();
        let traffic = self.table.join(address, Step::Root, now).unwrap();
        self.table.attached(address, &traffic, protocol, None, now);
        traffic
    }

    pub(in crate::machines) fn release(
        &mut self,
        address: IpAddr,
        traffic: &Arc<TransferStats>,
        end: RootEnd,
    ) {
        let now = self.tick();
        self.table.released(address, traffic, end, now);
    }

    /// Returns the only machine.
    pub(in crate::machines) fn only(&self) -> &MachineRecord {
        let all: Vec<_> = self.table.iter().collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0]
    }

    fn stage(&self) -> Stage {
        self.only().boot.stage()
    }
}

pub(in crate::machines) fn mac(number: u16) -> Mac {
    let [high, low] = number.to_be_bytes();
    Mac::new(&[0x52, 0x54, 0, 0, high, low]).unwrap()
}

pub(in crate::machines) fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

#[test]
fn boot_passes_all_stages() {
    let mut site = Site::new();
    site.offered(mac(1), BIOS_PXE);
    assert_eq!(site.stage(), Stage::Offered);
    site.leased(mac(1), address(1));
    assert_eq!(site.stage(), Stage::Leased);
    for (step, stage) in [
        (Step::Loader, Stage::Loader),
        (Step::Menu, Stage::Menu),
        // lpxelinux loads its menu system after the menu, and then the menu again.
        (Step::Loader, Stage::Menu),
        (Step::Menu, Stage::Menu),
        (Step::Kernel, Stage::Kernel),
        (Step::Initramfs, Stage::Initramfs),
        // iPXE may load the kernel twice when its script says so.
        (Step::Kernel, Stage::Initramfs),
    ] {
        site.load(address(1), step);
        assert_eq!(site.stage(), stage);
    }
    let root = site.attach(address(1), Protocol::Nbd);
    assert_eq!(site.stage(), Stage::Attached);
    site.release(address(1), &root, RootEnd::Lost(Loss::Reset));
    assert_eq!(site.stage(), Stage::Lost);
    let root = site.attach(address(1), Protocol::Nbd);
    assert_eq!(site.stage(), Stage::Attached);
    site.release(address(1), &root, RootEnd::Released);
    assert_eq!(site.stage(), Stage::Released);
    let record = site.only();
    assert_eq!((record.boots, record.addresses.as_slice()), (1, &[address(1)][..]));
    let reached: Vec<_> =
        record.boot.reached.iter().map(|at| at.map(|at| (at - record.boot.began).as_secs())).collect();
    assert_eq!(reached, [0, 0, 1, 2, 3, 6, 7, 9].map(Some));
}

#[test]
fn boots_are_counted() {
    let mut site = Site::new();
    for boots in 1..4 {
        site.offered(mac(1), BIOS_PXE);
        site.offered(mac(1), BIOS_PXE);
        site.leased(mac(1), address(1));
        assert_eq!((site.stage(), site.only().boots), (Stage::Leased, boots));
        site.load(address(1), Step::Loader);
        site.load(address(1), Step::Kernel);
        site.attach(address(1), Protocol::Nbd);
        assert_eq!(site.only().boot.root.unwrap().connections, 1, "the last boot's does not count");
    }
}

#[test]
fn boots_are_counted_without_dhcp() {
    let mut site = Site::new();
    site.load(address(1), Step::Loader);
    site.load(address(1), Step::Kernel);
    let root = site.attach(address(1), Protocol::Nfs);
    site.load(address(1), Step::Kernel);
    assert_eq!(site.only().boots, 1, "who lives on its root and looks at a kernel does not boot");
    site.load(address(1), Step::Loader);
    assert_eq!((site.only().boots, site.stage()), (2, Stage::Loader));
    site.release(address(1), &root, RootEnd::Lost(Loss::Reset));
    assert_eq!(site.stage(), Stage::Loader, "the end of the last boot is no news of this one");
}

#[test]
fn loaded_ipxe_continues_the_boot() {
    let mut site = Site::new();
    site.offered(mac(1), UEFI);
    site.load(address(9), Step::Loader);
    site.leased(mac(1), address(9));
    site.offered(mac(1), IPXE);
    assert_eq!((site.only().boots, site.stage()), (1, Stage::Loader));
    site.load(address(9), Step::Menu);
    site.load(address(9), Step::Kernel);
    site.offered(mac(1), IPXE);
    assert_eq!((site.only().boots, site.stage()), (2, Stage::Offered));
}

#[test]
fn ipxe_in_rom_begins_a_boot() {
    let mut site = Site::new();
    site.offered(mac(1), IPXE);
    site.leased(mac(1), address(1));
    site.load(address(1), Step::Loader);
    site.offered(mac(1), IPXE);
    assert_eq!((site.only().boots, site.stage()), (2, Stage::Offered));
}

#[test]
fn record_survives_a_new_address() {
    let mut site = Site::new();
    site.offered(mac(1), BIOS_PXE);
    for number in 1..=6 {
        site.leased(mac(1), address(number));
    }
    site.leased(mac(1), address(4));
    assert_eq!(site.only().addresses, [4, 6, 5, 3].map(address));
    site.load(address(3), Step::Loader);
    assert_eq!(site.stage(), Stage::Loader);
    site.load(address(1), Step::Loader);
    assert_eq!(site.table.iter().count(), 2, "an address of long ago may be anybody's");
}

#[test]
fn address_belongs_to_one_machine() {
    let mut site = Site::new();
    site.offered(mac(1), BIOS_PXE);
    site.leased(mac(1), address(1));
    let root = site.attach(address(1), Protocol::Nbd);
    site.offered(mac(2), BIOS_PXE);
    site.leased(mac(2), address(1));
    site.load(address(1), Step::Loader);
    // The connection belongs to the former owner of the address, not to the new one.
    site.release(address(1), &root, RootEnd::Lost(Loss::Reset));
    let mut stages: Vec<_> = site.table.iter().map(|record| (record.mac, record.boot.stage())).collect();
    stages.sort_by_key(|(mac, _)| *mac);
    assert_eq!(stages, [(Some(mac(1)), Stage::Lost), (Some(mac(2)), Stage::Loader)]);
}

#[test]
fn connection_attaches_its_machine_after_the_address_moved() {
    let mut site = Site::new();
    site.offered(mac(1), BIOS_PXE);
    site.leased(mac(1), address(1));
    let kernel = site.load(address(1), Step::Kernel);
    site.offered(mac(2), BIOS_PXE);
    site.leased(mac(2), address(1));
    let now = site.tick();
    site.table.attached(address(1), &kernel, Protocol::Http, None, now);
    assert!(site.table.has_root(mac(1)) && !site.table.has_root(mac(2)));
    site.release(address(1), &kernel, RootEnd::Released);
    assert!(!site.table.has_root(mac(1)));
}

#[test]
fn machine_of_many_addresses_lets_all_its_roots_go() {
    let mut site = Site::new();
    site.offered(mac(1), BIOS_PXE);
    let many = 1..=2 * TRAFFIC_MAX as u8;
    let roots: Vec<_> = many.clone().map(|n| (address(n), site.attach(address(n), Protocol::Nbd))).collect();
    many.for_each(|n| site.leased(mac(1), address(n)));
    assert_eq!(site.only().boot.root.unwrap().connections as usize, roots.len());
    roots.iter().for_each(|(at, root)| site.release(*at, root, RootEnd::Lost(Loss::Reset)));
    assert_eq!(site.stage(), Stage::Lost);
    drop(roots);
    site.load(address(100), Step::Kernel);
    site.leased(mac(1), address(100));
    assert_eq!(site.only().boot.traffic.len(), TRAFFIC_MAX);
}

#[test]
fn mac_address_may_be_learned_later() {
    let mut site = Site::new();
    let traffic = site.load(address(1), Step::Kernel);
    assert_eq!(site.table.strangers(), [address(1)]);
    let now = site.tick();
    site.table.met(mac(1), address(1), now);
    assert!(site.table.strangers().is_empty());
    assert_eq!((site.only().mac, site.stage()), (Some(mac(1)), Stage::Kernel));
    assert!(Arc::ptr_eq(&site.load(address(1), Step::Initramfs), &traffic));

    // The initramfs leases another address and is a machine of its own until its MAC is known.
    let second = site.attach(address(2), Protocol::Nfs);
    assert_eq!(site.table.iter().count(), 2);
    let now = site.tick();
    site.table.met(mac(1), address(2), now);
    assert_eq!(site.stage(), Stage::Attached);
    second.add(Protocol::Nfs, 100, now);
    traffic.add(Protocol::Nfs, 1, now);
    let sent: u64 = site.only().boot.traffic.iter().map(|traffic| traffic.bytes(Protocol::Nfs)).sum();
    assert_eq!(sent, 101);
    site.release(address(2), &second, RootEnd::Released);
    assert_eq!(site.stage(), Stage::Released);
}

#[test]
fn events_before_a_boot_are_dropped() {
    let mut site = Site::new();
    site.attach(address(1), Protocol::Nbd);
    site.offered(mac(1), BIOS_PXE);
    site.leased(mac(1), address(1));
    assert_eq!(site.stage(), Stage::Leased);
}

#[test]
fn lease_without_boot_is_ignored() {
    let mut site = Site::new();
    site.leased(mac(1), address(1));
    assert_eq!(site.table.iter().count(), 0);
}

#[test]
fn client_on_this_host_is_no_machine() {
    let mut site = Site::new();
    site.table.set_own([address(9)].into());
    let now = site.tick();
    for own in [address(9), IpAddr::from([127, 0, 0, 1]), "::1".parse().unwrap()] {
        assert!(site.table.join(own, Step::Kernel, now).is_none());
        site.table.missed(own, "/x", Protocol::Tftp, true, now);
    }
    assert_eq!(site.table.iter().count(), 0);
    // A virtual machine behind an address of the host.
    site.offered(mac(1), BIOS_PXE);
    site.leased(mac(1), address(9));
    site.load(address(9), Step::Loader);
    assert_eq!(site.stage(), Stage::Loader);
}

#[test]
fn refusal_is_kept_until_an_offer() {
    let mut site = Site::new();
    let now = site.tick();
    site.table.refused(mac(1), RefusedBy::BootFile, &"é".repeat(1000), now);
    assert_eq!(site.stage(), Stage::Seen);
    assert_eq!(site.only().refusal.as_ref().map(|refused| refused.why.chars().count()), Some(REASON_MAX));
    site.offered(mac(1), BIOS_PXE);
    assert_eq!(site.only().refusal, None);
}

#[test]
fn machines_on_a_root_are_never_evicted() {
    let mut site = Site::new();
    site.attach(address(1), Protocol::Nbd);
    site.load(address(2), Step::Loader);
    for number in 0..10_000 {
        site.offered(mac(number), BIOS_PXE);
        assert!(site.table.iter().count() <= MACHINES_MAX);
    }
    assert!(site.table.at(address(1)).is_some() && site.table.at(address(2)).is_some());
    assert!(site.table.by_mac.contains_key(&mac(9999)), "the last one is there");
    assert!(!site.table.by_mac.contains_key(&mac(0)));
    assert!(site.table.forgotten() >= 10_002 - MACHINES_MAX as u64);
}

#[test]
fn table_may_be_full() {
    let mut site = Site::new();
    for number in 0..MACHINES_MAX as u32 {
        site.attach(IpAddr::from(number.to_be_bytes()), Protocol::Nbd);
    }
    let now = site.tick();
    assert!(site.table.join(address(1), Step::Loader, now).is_none());
    site.offered(mac(1), BIOS_PXE);
    assert_eq!((site.table.iter().count(), site.table.forgotten()), (MACHINES_MAX, 0));
}

/// An event reported by a service.
#[derive(Debug, Clone)]
enum Event {
    Offered(u16, boot::Platform, Option<u8>),
    Refused(u16),
    Leased(u16, u8),
    Met(u16, u8),
    Load(u8, Step),
    Attach(u8, Protocol),
    /// A connection goes on or ends; its boot may be over.
    Reached(prop::sample::Index, Step),
    Release(prop::sample::Index, RootEnd),
}

fn event() -> impl Strategy<Value = Event> {
    use prop::sample::Index;
    let mac = || 0..6_u16;
    let address = || 0..8_u8;
    let machine = || prop::sample::select(vec![BIOS_PXE, UEFI, IPXE]);
    let step = || prop::sample::select(Step::ALL.to_vec());
    let protocol = prop::sample::select(Protocol::ALL.to_vec());
    let end = prop::sample::select(vec![RootEnd::Released, RootEnd::Lost(Loss::Reset)]);
    prop_oneof![
        (mac(), machine(), proptest::option::of(address())).prop_map(|(m, x, a)| Event::Offered(m, x, a)),
        mac().prop_map(Event::Refused),
        (mac(), address()).prop_map(|(m, a)| Event::Leased(m, a)),
        (mac(), address()).prop_map(|(m, a)| Event::Met(m, a)),
        (address(), step()).prop_map(|(a, s)| Event::Load(a, s)),
        (address(), protocol).prop_map(|(a, d)| Event::Attach(a, d)),
        (any::<Index>(), step()).prop_map(|(i, s)| Event::Reached(i, s)),
        (any::<Index>(), end).prop_map(|(i, e)| Event::Release(i, e)),
    ]
}

type Connections = Vec<(IpAddr, Arc<TransferStats>)>;

fn tell(site: &mut Site, connections: &mut Connections, event: &Event) {
    let now = site.tick();
    match event {
        Event::Offered(number, machine, at) => {
            site.table.offered(mac(*number), *machine, at.map(address), now);
        }
        Event::Refused(number) => site.table.refused(mac(*number), RefusedBy::BootFile, "no loader", now),
        Event::Leased(number, at) => site.table.leased(mac(*number), address(*at), now),
        Event::Met(number, at) => site.table.met(mac(*number), address(*at), now),
        Event::Load(at, step) => {
            let traffic = site.load(address(*at), *step);
            connections.push((address(*at), traffic));
        }
        Event::Attach(at, protocol) => {
            let traffic = site.attach(address(*at), *protocol);
            connections.push((address(*at), traffic));
        }
        Event::Reached(which, step) if !connections.is_empty() => {
            let (at, traffic) = which.get(connections);
            site.table.reached(*at, traffic, *step, None, now);
        }
        Event::Release(which, end) if !connections.is_empty() => {
            let (at, traffic) = connections.remove(which.index(connections.len()));
            site.table.released(at, &traffic, *end, now);
        }
        Event::Reached(..) | Event::Release(..) => {}
    }
}

/// Asserts the invariants of the table.
fn check(table: &MachineTable) {
    let mut macs = 0;
    let mut addresses = 0;
    for (id, record) in &table.machines {
        assert!(record.mac.is_some() || !record.addresses.is_empty(), "nothing tells who it is: {record:?}");
        assert!(record.addresses.len() <= ADDRESSES_MAX);
        assert!(!record.boot.traffic.is_empty());
        assert!(record.boot.reached[record.boot.step as usize].is_some(), "{record:?}");
        assert!(record.boot.root.is_none() || record.boot.step == Step::Root, "{record:?}");
        for address in &record.addresses {
            assert_eq!(table.by_address.get(address), Some(id), "two have {address}");
        }
        if let Some(mac) = &record.mac {
            assert_eq!(table.by_mac.get(mac), Some(id), "two are {mac}");
            macs += 1;
        }
        addresses += record.addresses.len();
    }
    assert_eq!((macs, addresses), (table.by_mac.len(), table.by_address.len()));
    assert!(table.machines.len() <= MACHINES_MAX);
}

/// Returns the step of each boot; it never goes back.
fn steps(table: &MachineTable) -> HashMap<(Id, u32), Step> {
    table.machines.iter().map(|(&id, record)| ((id, record.boots), record.boot.step)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn table_invariants_hold_for_any_events(events in vec(event(), 0..200)) {
        let (mut site, mut connections) = (Site::new(), Connections::new());
        for event in &events {
            let before = steps(&site.table);
            tell(&mut site, &mut connections, event);
            check(&site.table);
            for (boot, step) in steps(&site.table) {
                let was = before.get(&boot).copied().unwrap_or(Step::Seen);
                prop_assert!(step >= was, "{boot:?} went from {was:?} to {step:?} by {event:?}");
            }
        }
        // After all connections ended, no machine is attached.
        for (at, traffic) in connections.drain(..) {
            site.release(at, &traffic, RootEnd::Lost(Loss::Reset));
        }
        check(&site.table);
        prop_assert!(site.table.iter().all(|record| !record.boot.is_on_root()), "{:?}", site.table);
    }
}

#[test]
fn last_offer_ignores_refusals() {
    let mut site = Site::new();
    let (mac, other) = (Mac::new(&[2, 0, 0, 0, 0, 1]).unwrap(), Mac::new(&[2, 0, 0, 0, 0, 2]).unwrap());
    assert_eq!(site.table.last_offered(mac), None);
    site.offered(mac, BIOS_PXE);
    assert_eq!(site.table.last_offered(mac), Some(site.now));
    site.offered(mac, BIOS_PXE);
    let now = site.now;
    site.leased(mac, IpAddr::from([10, 0, 0, 1]));
    site.table.refused(other, RefusedBy::BootFile, "no reason", now);
    assert_eq!([mac, other].map(|mac| site.table.last_offered(mac)), [Some(now), None]);
}
