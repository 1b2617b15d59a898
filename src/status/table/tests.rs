//! Tables on paper and on terminals of several sizes.

use super::*;
use crate::image::FaultKind;
use crate::machines::status::{Progress, RootProgress, SentBytes};
use crate::machines::{Protocol, RefusedBy, Running, Stage};

pub(in crate::status) fn machine() -> MachineStatus {
    MachineStatus {
        name: None,
        host_name: None,
        uuid: None,
        up_since: None,
        host_keys: Vec::new(),
        mac: None,
        addresses: vec![[192, 168, 77, 90].into()],
        firmware: None,
        architecture: None,
        refusal: None,
        diagnosis: None,
        reason: None,
        advice: Vec::new(),
        secure_boot_suspected: false,
        stage: Stage::Menu,
        running: None,
        image: None,
        root: None,
        root_connections: 0,
        airootfs: None,
        next: None,
        progress: None,
        rate: 0,
        sent: SentBytes::default(),
        boots: 1,
        since: 990,
        last_seen: 1000,
        reached: BTreeMap::new(),
        story: Vec::new(),
    }
}

pub(in crate::status) fn report(machines: Vec<MachineStatus>) -> StatusReport {
    StatusReport {
        format: 1,
        isowire: "1".into(),
        time: 1000,
        forgotten: 0,
        panics: 0,
        faults: Vec::new(),
        verifications: Vec::new(),
        services: Vec::new(),
        advice: Vec::new(),
        images: Vec::new(),
        draining: None,
        machines,
    }
}

fn on_root() -> MachineStatus {
    MachineStatus {
        mac: "52:54:00:fe:00:b0".parse().ok(),
        addresses: vec![[192, 168, 77, 9].into(), [10, 0, 0, 1].into()],
        firmware: Some("x86 BIOS, iPXE".into()),
        stage: Stage::Attached,
        image: Some("archlinux".into()),
        root: Some(Protocol::Nbd),
        root_connections: 1,
        progress: Some(Progress {
            path: None,
            size: 1 << 30,
            sent: (1 << 30) - 1,
            percent: 99,
            seconds_left: Some(75),
        }),
        rate: 5 << 20,
        sent: SentBytes { tftp: 1 << 20, nbd: 3 << 20, ..SentBytes::default() },
        since: 927,
        ..machine()
    }
}

pub(in crate::status) fn stuck(name: &str) -> MachineStatus {
    let refused = Diagnosis::Refused { by: RefusedBy::BootFile, why: "\x1b[2Jno\u{9b}7m loader\n".into() };
    MachineStatus { name: Some(name.into()), diagnosis: Some(refused), ..machine() }
}

fn table(machines: Vec<MachineStatus>) -> String {
    StatusTable { report: report(machines), size: Size::UNLIMITED }.to_string()
}

fn fitted(machines: Vec<MachineStatus>, width: usize, height: usize) -> String {
    StatusTable { report: report(machines), size: Size { width, height } }.to_string()
}

#[test]
fn fault_of_an_image_stands_first() {
    let (image, fault) = ("arch\x1b".to_owned(), "Input/output error, at byte 7".to_owned());
    let faults = vec![FaultStatus { image, kind: FaultKind::Failing, fault, since: 925 }];
    let report = StatusReport { faults, ..report(Vec::new()) };
    let table = StatusTable { report, size: Size::UNLIMITED }.to_string();
    let expected =
        "arch?: cannot be read since 1m 15s: Input/output error, at byte 7\n\nno machine seen yet\n";
    assert_eq!(table, expected);
}

#[test]
fn table_has_a_row_per_machine() {
    assert_eq!(
        table(vec![machine(), on_root()]),
        "MACHINE            ADDRESS        FIRMWARE        STAGE          IMAGE      ROOT  DONE              RATE        LEFT    SENT      BEGAN   SEEN\n\
         192.168.77.90      192.168.77.90  -               menu           -          -     -                 -           -       0 B       10s     0s\n\
         52:54:00:fe:00:b0  192.168.77.9   x86 BIOS, iPXE  root attached  archlinux  NBD   99 % of 1.00 GiB  5.00 MiB/s  1m 15s  4.00 MiB  1m 13s  0s\n\
         \n\
         2 machines (1 menu, 1 root attached), 0 stuck, 1 with a connection to a root file system\n"
    );
    assert_eq!(table(Vec::new()), "no machine seen yet\n");
}

#[test]
fn stuck_machine_comes_first_with_its_reason() {
    let text = table(vec![machine(), stuck("lab1")]);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].starts_with("lab1 "), "{text}");
    assert_eq!(lines[2], "    no boot file: ?[2Jno?7m loader?", "without control characters");
    assert!(
        text.ends_with("\n2 machines (2 menu), 1 stuck, 0 with a connection to a root file system\n"),
        "{text}"
    );
}

#[test]
fn stage_tells_whether_the_system_runs() {
    let of = |stage, running, last_seen| {
        let machine = MachineStatus { stage, running, last_seen, ..machine() };
        table(vec![machine]).lines().nth(1).unwrap().to_owned()
    };
    assert!(of(Stage::Attached, Some(Running::Up), 1000).contains("root attached"));
    assert!(of(Stage::Attached, Some(Running::Up), 900).contains("root idle"));
    assert!(of(Stage::Copied, Some(Running::UpOrOff), 900).contains("root copied (up or off)"));
    assert!(of(Stage::Released, Some(Running::Off), 900).contains("root released (off)"));
    let told =
        |running| table(vec![MachineStatus { running, up_since: Some(950), last_seen: 900, ..machine() }]);
    assert!(told(Some(Running::Up)).contains("menu (up)"), "it said so itself");
    assert!(!told(None).contains("(up)"));
}

#[test]
fn table_fits_every_width() {
    let machines = || vec![machine(), on_root(), stuck("lab1")];
    for width in 1..200 {
        let text = fitted(machines(), width, 50);
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(width), "{width}:\n{text}");
    }
    let headings = |width| {
        let text = fitted(machines(), width, 50);
        text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(headings(131), "MACHINE ADDRESS STAGE IMAGE ROOT DONE RATE LEFT BEGAN SEEN");
    assert_eq!(headings(80), "MACHINE ADDRESS STAGE DONE RATE LEFT SEEN");
    assert_eq!(headings(40), "MACHINE STAGE DONE");
}

#[test]
fn table_fits_a_height_and_says_what_is_hidden() {
    let machines: Vec<_> = (0..50).map(|_| machine()).chain([stuck("lab1")]).collect();
    let text = fitted(machines, 80, 24);
    assert_eq!(text.lines().count(), 23, "{text}");
    assert!(text.lines().nth(1).unwrap().starts_with("lab1"), "{text}");
    assert!(text.contains("\n... and 33 more: `isowire status --watch`"), "{text}");
    assert!(!fitted(vec![machine()], 80, 24).contains("more"));
}

#[test]
fn root_progress_of_an_older_server_is_shown() {
    let airootfs = Some(RootProgress { size: 4 << 20, read: 1 << 20 });
    assert!(table(vec![MachineStatus { airootfs, ..machine() }]).contains("25 % of 4.00 MiB"));
}

#[test]
fn draining_server_says_how_many_are_left() {
    let draining = Some(DrainStatus { since: 940, left: 3 });
    let report = StatusReport { draining, ..report(vec![machine()]) };
    let text = StatusTable { report, size: Size::UNLIMITED }.to_string();
    let says = "new machines go to other servers since 1m 0s; machines that need this one still: 3\n";
    assert!(text.starts_with(says), "{text}");
}
