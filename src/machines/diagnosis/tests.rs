//! One machine for each way to fail, and some that only take their time.

use std::time::Duration;

use super::*;
use crate::machines::RootEnd;
use crate::machines::table::tests::{BIOS_PXE, Site, UEFI, address, mac};

/// Returns the diagnosis of the only machine after a silence.
fn after(seconds: u64, happened: impl FnOnce(&mut Site)) -> Option<Diagnosis> {
    let mut site = Site::new();
    happened(&mut site);
    Diagnosis::of(site.only(), site.now + Duration::from_secs(seconds))
}

fn offered(site: &mut Site) {
    site.offered(mac(1), BIOS_PXE);
}

fn leased(site: &mut Site) {
    offered(site);
    site.leased(mac(1), address(1));
}

fn loading(step: Step) -> impl FnOnce(&mut Site) {
    move |site| {
        leased(site);
        site.load(address(1), step);
    }
}

fn loaded(site: &mut Site) {
    loading(Step::Kernel)(site);
    let traffic = site.load(address(1), Step::Initramfs);
    let now = site.tick();
    site.table.loaded(address(1), &traffic, now);
}

fn program_sent(site: &mut Site) {
    site.offered(mac(1), UEFI);
    site.leased(mac(1), address(1));
    let traffic = site.load(address(1), Step::Initramfs);
    let now = site.tick();
    site.table.program_sent(address(1), &traffic, now);
}

fn ended(end: RootEnd) -> impl FnOnce(&mut Site) {
    move |site| {
        leased(site);
        let root = site.attach(address(1), Protocol::Nbd);
        site.release(address(1), &root, end);
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
    let idle = |site: &mut Site| {
        leased(site);
        site.attach(address(1), Protocol::Nbd);
    };
    assert_eq!(after(9999, idle), None, "a root that is not read");
}

#[test]
fn each_failure_has_its_reason() {
    assert_eq!(after(31, offered), Some(Diagnosis::OfferIgnored { offers: 1 }));
    let again_and_again = |site: &mut Site| (0..4).for_each(|_| offered(site));
    assert_eq!(after(0, again_and_again), Some(Diagnosis::OfferIgnored { offers: 4 }));
    assert_eq!(after(31, leased), Some(Diagnosis::NoFileAskedFor));
    for loading_step in [Step::Loader, Step::Kernel, Step::Initramfs] {
        let stalled = Diagnosis::TransferStalled { loading: loading_step, seconds: 21 };
        assert_eq!(after(21, loading(loading_step)), Some(stalled));
    }
    assert_eq!(after(61, loaded), Some(Diagnosis::NoRootAskedFor));
    assert_eq!(after(61, program_sent), Some(Diagnosis::NothingAfterProgram));
    assert_eq!(after(0, ended(RootEnd::Lost)), Some(Diagnosis::RootLost { protocol: Protocol::Nbd }));
    let refused = |site: &mut Site| {
        offered(site);
        let now = site.tick();
        site.table.refused(mac(1), "no loader", now);
    };
    assert_eq!(after(0, refused), Some(Diagnosis::Refused));
}

#[test]
fn program_is_refused_when_the_firmware_begins_again() {
    let again = |site: &mut Site| {
        program_sent(site);
        site.offered(mac(1), UEFI);
    };
    assert_eq!(after(0, again), Some(Diagnosis::ProgramRefused));
    let then_booted = |site: &mut Site| {
        again(site);
        site.load(address(1), Step::Kernel);
        let root = site.attach(address(1), Protocol::Nbd);
        site.release(address(1), &root, RootEnd::Released);
        site.offered(mac(1), UEFI);
    };
    assert_eq!(after(0, then_booted), None, "the boot before had a root");
}

#[test]
fn texts_say_what_to_do() {
    let text = Diagnosis::NoFileAskedFor.to_string();
    assert!(text.contains("firewall") && text.contains("UDP port 69"), "{text}");
    let text = Diagnosis::TransferStalled { loading: Step::Kernel, seconds: 21 }.to_string();
    assert_eq!(text, "stopped loading its kernel 21 s ago: it hangs, is off, or lost the network");
    let json = serde_json::to_string(&Diagnosis::OfferIgnored { offers: 4 }).unwrap();
    assert_eq!(json, r#"{"kind":"offer-ignored","offers":4}"#);
}
