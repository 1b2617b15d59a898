//! One machine for each way to fail, and some that only take their time.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::machines::site::{DhcpSettings, InitramfsKnowledge};
use crate::machines::table::tests::{BIOS_PXE, Site as Room, UEFI, address, mac};
use crate::machines::{FileRequest, RootEnd};

const MIB: u64 = 1 << 20;

/// A server in proxy mode.
fn site() -> Site {
    Site {
        tftp_port: 69,
        http_port: Some(80),
        has_other_dhcp: true,
        dhcp_settings: Some(DhcpSettings {
            address: Ipv4Addr::new(10, 0, 0, 1),
            bios_file: "/lpxelinux.0".into(),
            uefi_file: Some("/nbd.efi".into()),
            lines: vec!["dhcp-boot=/lpxelinux.0,,10.0.0.1".into()],
        }),
        ..Site::default()
    }
}

/// Returns the diagnosis of the only machine after a silence.
fn after_at(
    site: &Site,
    seconds: u64,
    usual_rate: Option<u64>,
    happened: impl FnOnce(&mut Room),
) -> Option<Diagnosis> {
    let mut room = Room::new();
    happened(&mut room);
    let around = Surroundings { site, usual_rate, faulty: &[] };
    Diagnosis::of(room.only(), around, room.now + Duration::from_secs(seconds))
}

fn after(seconds: u64, happened: impl FnOnce(&mut Room)) -> Option<Diagnosis> {
    after_at(&site(), seconds, None, happened)
}

/// Checks the diagnosis, and words that its text has to have.
fn check(seconds: u64, happened: impl FnOnce(&mut Room), expected: Diagnosis, words: &[&str]) {
    check_at(&site(), None, seconds, happened, expected, words);
}

fn check_at(
    site: &Site,
    usual_rate: Option<u64>,
    seconds: u64,
    happened: impl FnOnce(&mut Room),
    expected: Diagnosis,
    words: &[&str],
) {
    let text = expected.to_string();
    assert_eq!(after_at(site, seconds, usual_rate, happened), Some(expected));
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(text.len() < 240, "two lines of a terminal: {text}");
}

fn offered(room: &mut Room) {
    room.offered(mac(1), BIOS_PXE);
}

fn leased(room: &mut Room) {
    offered(room);
    room.leased(mac(1), address(1));
}

fn leased_uefi(room: &mut Room, file: &str) {
    room.offered(mac(1), UEFI);
    room.table.boot_file(mac(1), file);
    room.leased(mac(1), address(1));
}

fn loading(step: Step) -> impl FnOnce(&mut Room) {
    move |room| {
        leased(room);
        room.load(address(1), step);
    }
}

/// Asks for a file of 10 MiB, and is sent a part of it.
fn open(room: &mut Room, step: Step, path: &str, kind: FileKind, sent: u64) {
    let now = room.tick();
    let traffic = room.table.join(address(1), step, now).unwrap();
    let request = FileRequest { path, kind, protocol: Protocol::Tftp, size: 10 * MIB };
    room.table.opened(address(1), &traffic, request, now);
    room.table.reached(address(1), &traffic, step, None, now);
    traffic.add(Protocol::Tftp, sent, now);
}

fn kernel(room: &mut Room) {
    leased(room);
    open(room, Step::Kernel, "/vmlinuz", FileKind::Kernel, 4 * MIB + 1);
}

/// Gets so many bytes in each of twenty samples.
fn at_rate(bytes: u64) -> impl FnOnce(&mut Room) {
    move |room| {
        kernel(room);
        let traffic = Arc::clone(&room.only().boot.traffic[0]);
        for _ in 0..20 {
            let _ = room.tick();
            let now = room.tick();
            room.table.sample(now);
            traffic.add(Protocol::Tftp, bytes, now);
        }
    }
}

fn missed(path: &'static str) -> impl Fn(&mut Room) {
    move |room| {
        let now = room.tick();
        room.table.missed(address(1), path, Protocol::Tftp, true, now);
    }
}

fn loaded(room: &mut Room) {
    loading(Step::Kernel)(room);
    let traffic = room.load(address(1), Step::Initramfs);
    let now = room.tick();
    let image: Arc<str> = "arch".into();
    room.table.reached(address(1), &traffic, Step::Initramfs, Some(&image), now);
    room.table.loaded(address(1), &traffic, now);
}

fn program_sent(room: &mut Room) {
    leased_uefi(room, "/nbd.efi");
    let traffic = room.load(address(1), Step::Initramfs);
    let now = room.tick();
    room.table.program_sent(address(1), &traffic, now);
}

fn ended(end: RootEnd) -> impl FnOnce(&mut Room) {
    move |room| {
        leased(room);
        let root = room.attach(address(1), Protocol::Nbd);
        room.release(address(1), &root, end);
    }
}

fn refused(by: RefusedBy, why: &'static str) -> impl FnOnce(&mut Room) {
    move |room| {
        let now = room.tick();
        room.table.refused(mac(1), by, why, now);
    }
}

#[test]
fn machine_that_gets_on_has_no_diagnosis() {
    assert_eq!(after(5, offered), None);
    assert_eq!(after(30, leased), None);
    assert_eq!(after(20, loading(Step::Kernel)), None);
    assert_eq!(after(9999, loading(Step::Menu)), None, "somebody may be choosing");
    assert_eq!(after(60, loaded), None, "a kernel takes its time");
    assert_eq!(after(60, program_sent), None);
    assert_eq!(after(9999, ended(RootEnd::Released)), None);
    let idle = |room: &mut Room| {
        leased(room);
        room.attach(address(1), Protocol::Nbd);
    };
    assert_eq!(after(9999, idle), None, "a root that is not read");
    assert_eq!(after(1, at_rate(2 * MIB)), None);
    assert_eq!(after_at(&site(), 1, Some(2 * MIB), at_rate(MIB)), None, "not far below");
}

#[test]
fn offers_and_leases_that_nothing_follows() {
    let enter = Some(("10.0.0.1".to_owned(), "/lpxelinux.0".to_owned()));
    let ignored = |offers| Diagnosis::OfferIgnored { offers, enter: enter.clone() };
    check(31, offered, ignored(1), &["next server 10.0.0.1, boot file /lpxelinux.0"]);
    check(0, |room| (0..4).for_each(|_| offered(room)), ignored(4), &["none of 4 offers"]);
    let uefi = |room: &mut Room| room.offered(mac(1), UEFI);
    let enter = Some(("10.0.0.1".to_owned(), "/nbd.efi".to_owned()));
    check(31, uefi, Diagnosis::OfferIgnored { offers: 1, enter }, &["boot file /nbd.efi"]);

    let waited = |transport: &str, port| Diagnosis::NoFileAskedFor {
        transport: transport.into(),
        port,
        has_other_dhcp: true,
    };
    check(31, leased, waited("UDP", 69), &["UDP port 69", "firewall", "other DHCP server"]);
    let by_http = |room: &mut Room| leased_uefi(room, "http://10.0.0.1/nbd.efi");
    check(31, by_http, waited("TCP", 80), &["TCP port 80"]);
}

#[test]
fn file_that_is_not_there() {
    let not_found = |path: &str| Diagnosis::FileNotFound { path: path.into(), protocol: Protocol::Tftp };
    check(11, missed("/pxelinux.0"), not_found("/pxelinux.0"), &["/pxelinux.0", "TFTP", "DHCP server"]);
    assert_eq!(after(9, missed("/pxelinux.0")), None, "it may look elsewhere");
    let three_times = |room: &mut Room| (0..3).for_each(|_| missed("/a")(room));
    check(0, three_times, not_found("/a"), &[]);
    let found_another = |room: &mut Room| {
        missed("/a")(room);
        room.load(address(1), Step::Loader);
    };
    assert_eq!(after(15, found_another), None);
    let without_picture = |room: &mut Room| {
        loading(Step::Menu)(room);
        missed("/splash.png")(room);
    };
    assert_eq!(after(9999, without_picture), None, "a menu does without");
}

#[test]
fn file_that_is_asked_for_again_and_again() {
    let again = |times| {
        move |room: &mut Room| {
            leased(room);
            (0..times).for_each(|_| open(room, Step::Loader, "/lpxelinux.0", FileKind::Loader, 9));
        }
    };
    let expected = Diagnosis::AskedAgain { path: "/lpxelinux.0".into(), times: 5 };
    check(0, again(5), expected, &["/lpxelinux.0 5 times"]);
    assert_eq!(after(0, again(2)), None, "OVMF asks twice");
}

#[test]
fn transfer_that_stalls_or_is_slow() {
    for loading_step in [Step::Loader, Step::Kernel, Step::Initramfs] {
        let stalled =
            Diagnosis::TransferStalled { loading: loading_step, path: None, percent: None, seconds: 21 };
        check(21, loading(loading_step), stalled, &["21 s ago"]);
    }
    let stalled = Diagnosis::TransferStalled {
        loading: Step::Kernel,
        path: Some("/vmlinuz".into()),
        percent: Some(40),
        seconds: 21,
    };
    check(21, kernel, stalled, &["/vmlinuz at 40 %, 21 s ago"]);
    // 40 kB in two seconds each.
    let slow = Diagnosis::Slow { rate: 20_689, usual: None };
    check(1, at_rate(40_000), slow, &["20 kB/s", "cable"]);
    let far_below = Diagnosis::Slow { rate: 103_448, usual: Some(2_000_000) };
    check_at(&site(), Some(2_000_000), 1, at_rate(200_000), far_below, &["103 kB/s, others 2000 kB/s"]);
}

#[test]
fn kernel_that_asks_for_no_root() {
    let none = |lacks: Option<&str>, is_known, runs| Diagnosis::NoRootAskedFor {
        lacks: lacks.map(str::to_owned),
        is_known,
        drivers: None,
        runs,
    };
    check(61, loaded, none(None, false, false), &["isowire inspect"]);
    let knowing = |lacks: Option<&str>, drivers: Option<&str>| {
        let [lacks, drivers] = [lacks, drivers].map(|text| text.map(str::to_owned));
        Site { initramfs: [("arch".to_owned(), InitramfsKnowledge { lacks, drivers })].into(), ..site() }
    };
    let known = |lacks| knowing(lacks, None);
    let lacks = "for a root over NBD, initramfs-linux.img lacks hook archiso_pxe_nbd";
    check_at(&known(Some(lacks)), None, 61, loaded, none(Some(lacks), true, false), &[lacks]);
    check_at(&known(None), None, 61, loaded, none(None, true, false), &["has archiso's hooks", "driver"]);
    let drivers = "network cards: e1000e, igb; not tg3";
    let expected = Diagnosis::NoRootAskedFor {
        lacks: None,
        is_known: true,
        drivers: Some(drivers.to_owned()),
        runs: false,
    };
    let words =
        ["lacks the driver of the network card", "It has drivers for network cards: e1000e, igb; not tg3"];
    check_at(&knowing(None, Some(drivers)), None, 61, loaded, expected, &words);
    let heard = |room: &mut Room| {
        loaded(room);
        let now = room.tick();
        room.table.heard(mac(1), true, now);
    };
    check_at(&known(None), None, 61, heard, none(None, true, true), &["its kernel runs", "command line"]);
    check(61, program_sent, Diagnosis::NothingAfterProgram, &["Secure Boot"]);
}

#[test]
fn root_that_is_lost_says_by_whom() {
    for (by, word) in [
        (Loss::Reset, "reset the connection"),
        (Loss::Silent, "switched off"),
        (Loss::Closed, "closed"),
        (Loss::Image, "image cannot be read"),
        (Loss::Server, "isowire"),
    ] {
        check(0, ended(RootEnd::Lost(by)), Diagnosis::RootLost { protocol: Protocol::Nbd, by }, &[word]);
    }
}

#[test]
fn refusal_has_words_of_its_own() {
    let mut texts = std::collections::BTreeSet::new();
    // It does what it is to do.
    assert_eq!(after(0, refused(RefusedBy::LocalDisk, "it is so")), None);
    let faults = RefusedBy::ALL.into_iter().filter(|&by| by != RefusedBy::LocalDisk);
    for by in faults.clone() {
        let expected = Diagnosis::Refused { by, why: "it is so".into() };
        texts.insert(expected.to_string());
        check(0, refused(by, "it is so"), expected, &["it is so"]);
    }
    assert_eq!(texts.len(), faults.count());
    // Also one that has booted before, and now gets no boot file.
    let booted = |room: &mut Room| {
        ended(RootEnd::Released)(room);
        refused(RefusedBy::Pool, "every address is in use")(room);
    };
    let expected = Diagnosis::Refused { by: RefusedBy::Pool, why: "every address is in use".into() };
    check(0, booted, expected, &["dhcp-range"]);
    let then_offered = |room: &mut Room| {
        refused(RefusedBy::Pool, "every address is in use")(room);
        offered(room);
    };
    assert_eq!(after(0, then_offered), None);
    let at_a_door = |room: &mut Room| {
        loaded(room);
        let now = room.tick();
        room.table.refused_at(address(1), RefusedBy::Export, "no export named 'x'", now);
        room.table.refused_at(IpAddr::from([10, 9, 9, 9]), RefusedBy::Export, "a stranger", now);
    };
    let expected = Diagnosis::Refused { by: RefusedBy::Export, why: "no export named 'x'".into() };
    check(0, at_a_door, expected, &["archiso_nbd_name="]);
}

/// Returns the diagnosis of a machine that loads one of two images of one name, of which the other
/// or this one has a fault.
fn with_fault(kind: FaultKind, is_its: bool, seconds: u64, step: Step) -> Option<Diagnosis> {
    let mut room = Room::new();
    kernel(&mut room);
    let [image, other]: [Arc<str>; 2] = ["arch".into(), "arch".into()];
    let traffic = Arc::clone(&room.only().boot.traffic[0]);
    let now = room.tick();
    match step {
        Step::Root => room.table.attached(address(1), &traffic, Protocol::Nbd, Some(&image), now),
        step => room.table.reached(address(1), &traffic, step, Some(&image), now),
    }
    let fault = ImageFault { kind, since: now, text: "it is so".into() };
    let faulty = [FaultyImage { name: if is_its { image } else { other }, fault }];
    let around = Surroundings { site: &site(), usual_rate: None, faulty: &faulty };
    Diagnosis::of(room.only(), around, now + Duration::from_secs(seconds))
}

#[test]
fn machine_waits_for_an_image_that_cannot_be_read() {
    let waits = Diagnosis::ImageFault { fault: "it is so".into() };
    for kind in FaultKind::ALL {
        assert_eq!(with_fault(kind, true, 25, Step::Kernel).as_ref(), Some(&waits), "{kind:?}");
        let is_changed = kind == FaultKind::Changed;
        // What others read may be in memory, unless it is the memory of another file.
        assert_eq!(with_fault(kind, true, 1, Step::Kernel).is_some(), is_changed, "{kind:?}");
        assert_eq!(with_fault(kind, true, 99, Step::Root).is_some(), is_changed, "{kind:?}");
        assert_eq!(with_fault(kind, false, 99, Step::Root), None, "{kind:?}");
        let stalled = with_fault(kind, false, 25, Step::Kernel);
        assert!(matches!(stalled, Some(Diagnosis::TransferStalled { .. })), "{stalled:?}");
    }
    assert_eq!(waits.to_string(), "waits for its image, which cannot be read: it is so");
}

#[test]
fn program_is_refused_when_the_firmware_begins_again() {
    let again = |room: &mut Room| {
        program_sent(room);
        room.offered(mac(1), UEFI);
    };
    check(0, again, Diagnosis::ProgramRefused, &["Secure Boot refused it"]);
    let then_booted = |room: &mut Room| {
        again(room);
        room.load(address(1), Step::Kernel);
        let root = room.attach(address(1), Protocol::Nbd);
        room.release(address(1), &root, RootEnd::Released);
        room.offered(mac(1), UEFI);
    };
    assert_eq!(after(0, then_booted), None, "the boot before had a root");
}

#[test]
fn kind_has_a_stable_name() {
    let name = |diagnosis: &Diagnosis| serde_json::to_value(diagnosis).unwrap()["kind"].clone();
    assert_eq!(name(&Diagnosis::OfferIgnored { offers: 4, enter: None }), "offer-ignored");
    for diagnosis in [
        Diagnosis::Refused { by: RefusedBy::Pool, why: "no".into() },
        Diagnosis::OfferIgnored { offers: 4, enter: None },
        Diagnosis::NoFileAskedFor { transport: "UDP".into(), port: 69, has_other_dhcp: false },
        Diagnosis::FileNotFound { path: "/a".into(), protocol: Protocol::Http },
        Diagnosis::AskedAgain { path: "/a".into(), times: 5 },
        Diagnosis::TransferStalled { loading: Step::Kernel, path: None, percent: None, seconds: 1 },
        Diagnosis::Slow { rate: 1, usual: None },
        Diagnosis::ProgramRefused,
        Diagnosis::NothingAfterProgram,
        Diagnosis::NoRootAskedFor { lacks: None, is_known: false, drivers: None, runs: false },
        Diagnosis::ImageFault { fault: "no".into() },
        Diagnosis::RootLost { protocol: Protocol::Nbd, by: Loss::Reset },
    ] {
        assert_eq!(name(&diagnosis), diagnosis.kind());
        assert!(Diagnosis::KINDS.contains(&diagnosis.kind()));
    }
    for by in RefusedBy::ALL {
        assert_eq!(serde_json::to_value(by).unwrap(), by.name());
    }
    for stage in Stage::ALL {
        assert_eq!(serde_json::to_value(stage).unwrap(), stage.name());
    }
    let refused = Diagnosis::Refused { by: RefusedBy::NfsPath, why: "no".into() };
    let json = serde_json::to_string(&refused).unwrap();
    assert_eq!(json, r#"{"kind":"refused","by":"nfs-path","why":"no"}"#);
    let newer = r#"{"kind":"of-next-year","seconds":7}"#;
    assert_eq!(serde_json::from_str::<Diagnosis>(newer).unwrap(), Diagnosis::Other);
}
