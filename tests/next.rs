//! Boots that happen once: what loaders are told before and after, over a restart of the server.

mod common;

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::iso;
use common::lan::{self, Lan, Namespace};
use common::needs::needs;
use common::running::{Running, output_of};
use common::stage::serve_by;

const NEEDS: [&str; 1] = ["curl"];

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

/// Time for a boot to be noted as done.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a server on which three machines boot once; one of them has a seed.
fn serve(lan: &Lan, dir: &Path) -> Running {
    let rule = |last: u8, setting: &str| {
        format!("[[machine]]\nmac = '52:54:00:12:34:{last}'\n{setting}once = true\n")
    };
    let config = format!(
        "[[image]]\npath = '{}'\nname = 'arch'\n{}{}{}",
        iso::small().path.display(),
        rule(56, ""),
        rule(57, "name = 'lab2'\n"),
        rule(58, ""),
    );
    serve_by(lan, dir, &config)
}

fn mac(last: u8) -> String {
    format!("52:54:00:12:34:{last}")
}

fn machine(lan: &mut Lan, last: u8) -> Namespace {
    let machine = lan.host(Ipv4Addr::new(192, 168, 77, last));
    machine.ip(&["link", "set", "eth0", "address", &mac(last)]);
    machine
}

fn fetch(host: &Namespace, path: &str) -> String {
    let url = if path.starts_with("http") { path.to_owned() } else { format!("http://{SERVER}/{path}") };
    let output = host.command("curl").args(["-fsS", &url]).output().unwrap();
    assert!(output.status.success(), "{url}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn generated(host: &Namespace, last: u8, file: &str) -> String {
    fetch(host, &format!("isowire/52-54-00-12-34-{last}/{file}"))
}

/// Loads the kernel that the menu names, as a loader does.
fn boot(host: &Namespace, last: u8) {
    let menu = generated(host, last, "pxelinux.cfg");
    fetch(host, menu.lines().find_map(|line| line.strip_prefix("LINUX ")).expect("it has an entry"));
}

fn is_local(host: &Namespace, last: u8) -> bool {
    let menu = generated(host, last, "pxelinux.cfg");
    let is_local = menu.contains("\nLOCALBOOT 0") && !menu.contains("LINUX ");
    assert_eq!(is_local, menu.contains("\nPROMPT 0\nDEFAULT 1\n") && !menu.contains("LINUX "), "{menu}");
    is_local
}

fn wait_until_local(host: &Namespace, last: u8) {
    let since = Instant::now();
    while !is_local(host, last) {
        let menu = || generated(host, last, "pxelinux.cfg");
        assert!(since.elapsed() < PATIENCE, "it boots the image again:\n{}", menu());
        thread::sleep(Duration::from_millis(200));
    }
}

/// Runs `isowire next`; returns what it prints, or why it failed.
fn next(lan: &Lan, dir: &Path, last: u8, boot: &str) -> Result<String, String> {
    let mut command = lan.command(env!("CARGO_BIN_EXE_isowire"));
    let output = command.args(["next", &mac(last), boot]).env("XDG_RUNTIME_DIR", dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.code() {
        Some(0) => Ok(text(&output.stdout)),
        code => Err(format!("{code:?} {}", text(&output.stderr))),
    }
}

fn say_up(host: &Namespace, last: u8) {
    let url = format!("http://{SERVER}/isowire/52-54-00-12-34-{last}/up");
    output_of(host.command("curl").args(["-fsS", "-X", "POST", &url]));
}

#[test]
fn machine_boots_once_and_then_its_local_disk() {
    needs!(lan::NEEDS, iso::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let mut server = serve(&lan, dir.path());
    let one = machine(&mut lan, 56);
    boot(&one, 56);
    assert!(!is_local(&one, 56), "it is not done");
    say_up(&one, 56);
    wait_until_local(&one, 56);
    let mut status = lan.command(env!("CARGO_BIN_EXE_isowire"));
    let status = output_of(status.args(["status"]).env("XDG_RUNTIME_DIR", dir.path()));
    assert!(status.contains("NEXT BOOT") && status.contains("  local disk\n"), "{status}");
    let script = generated(&one, 56, "boot.ipxe");
    assert!(
        script.contains("\nsanboot") || script.contains("sanboot --no-describe --drive 0x80"),
        "{script}"
    );
    assert!(
        script.ends_with(&script[script.find("\n:failed").unwrap()..]) && !script.contains("kernel "),
        "{script}"
    );

    assert!(server.stop().success(), "{}", server.log());
    let _server = serve(&lan, dir.path());
    assert!(is_local(&one, 56), "over a restart");

    let said = next(&lan, dir.path(), 56, "arch").unwrap();
    assert_eq!(said, "52:54:00:12:34:56 boots arch next, and then from its local disk\n");
    let menu = generated(&one, 56, "pxelinux.cfg");
    assert!(menu.contains("\nPROMPT 0\n") && menu.contains("LINUX "), "{menu}");
    next(&lan, dir.path(), 56, "local").unwrap();
    assert!(is_local(&one, 56));
    next(&lan, dir.path(), 56, "rule").unwrap();
    let menu = generated(&one, 56, "pxelinux.cfg");
    assert!(!menu.contains("\nPROMPT 0\n") && menu.contains("LINUX "), "{menu}");
    let unknown = next(&lan, dir.path(), 56, "no ne/..").unwrap_err();
    assert_eq!(unknown, "Some(1) isowire: no bootable image called `no ne/..`; see `isowire status`\n");
    assert!(
        next(&lan, Path::new("/nowhere"), 56, "local")
            .unwrap_err()
            .starts_with("Some(1) isowire: no isowire server")
    );
}

#[test]
fn root_that_was_read_to_its_end_is_done_without_a_seed() {
    needs!(lan::NEEDS, iso::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let _server = serve(&lan, dir.path());
    let [two, three] = [57, 58].map(|last| machine(&mut lan, last));
    for (host, last) in [(&two, 57), (&three, 58)] {
        boot(host, last);
        // As archiso's hook for a root over HTTP does.
        fetch(host, "arch/arch/x86_64/airootfs.sfs");
    }
    // Nothing here saw a DHCP message, so isowire looks for the MAC addresses.
    wait_until_local(&three, 58);
    let mut status = lan.command(env!("CARGO_BIN_EXE_isowire"));
    let status = output_of(status.args(["status"]).env("XDG_RUNTIME_DIR", dir.path()));
    assert!(status.contains("root copied"), "{status}");
    thread::sleep(Duration::from_secs(3));
    assert!(!is_local(&two, 57), "cloud-init has not said that all is set up");
    say_up(&two, 57);
    wait_until_local(&two, 57);
}
