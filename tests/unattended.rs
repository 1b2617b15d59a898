//! Machines that nobody stands at, in QEMU: a script that runs, cloud-init that sets a system up, boots
//! that happen once, and the page meanwhile.

mod common;
#[path = "boot/site.rs"]
#[allow(dead_code)] // the tests of boots use the rest
mod site;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use common::browser::{self, Browser};
use common::lan;
use common::machine::{self, Card, MAC, Machine, Report, UUID, Uefi};
use common::needs::{needs, only_with_all};
use common::running::{Running, output_of};
use common::{debian, iso};
use site::{PLAIN_PXE, RANGE, SERVER, SSH_KEYS, Site, tells};

const SYSTEMD_BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
/// Debian's iPXE for UEFI without drivers of its own.
const SNPONLY: &str = "/usr/lib/ipxe/snponly.efi";

const LONG: Duration = Duration::from_secs(300);

/// A script as an operator writes it, for the busybox of the userland.
const SCRIPT: &str = "#!/bin/busybox sh\n\
    echo 'isowire-test: script for {{ name }} {{ hostname }} {{ mac }} {{ uuid }} {{ image }} {{ server }}'\n\
    curl -fsS http://{{ server }}/isowire/files/told?serial=S-7\n\
    curl -fsS -X POST -d hostname=by-script http://{{ server }}/isowire/{{ mac|replace(':', '-') }}/up\n";

fn command(site: &Site, arguments: &[&str]) -> String {
    let mut command = site.lan.command(env!("CARGO_BIN_EXE_isowire"));
    output_of(command.args(arguments).env("XDG_RUNTIME_DIR", site.state()))
}

#[test]
fn script_is_fetched_and_run() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("script", iso::small());
    let files = site.stage.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("install.sh.j2"), SCRIPT).unwrap();
    fs::write(files.join("told.j2"), "isowire-test: told {{ serial }} {{ uuid }}\n").unwrap();
    let configuration = format!(
        "files = '{}'\n[[machine]]\nmac = '{MAC}'\nname = 'lab1'\nscript = 'install.sh'\n",
        files.display()
    );
    let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
    let server = site.serve_by(&configuration, &options);
    let report = site.boot(Card::Virtio);
    site.check(&report, "root=nbd copytoram=n verified=cms");
    let script = format!(" script=http://{SERVER}/isowire/52-54-00-12-34-56/files/install.sh ");
    assert!(report.value("command line:").contains(&script), "{}", report.value("command line:"));
    // The firmware's UUID by DHCP, and as the kernel reads it.
    let uuid = format!("{UUID}525400123456");
    assert_eq!(report.value("product-uuid"), uuid);
    assert_eq!(report.value("script for"), format!("lab1 lab1 {MAC} {uuid} small {SERVER}"));
    assert_eq!(report.value("told"), format!("S-7 {uuid}"));
    assert!(report.console().contains("noted: this machine is up"), "{}", report.console());
    assert_eq!(report.value("script ended with"), "0");
    site.check_story(
        server,
        &[&[
            &["sent over HTTP", "/files/install.sh\"", "curl"],
            &["system of the machine is up", "by-script"],
        ]],
    );
}

/// Writes a disk from which BIOS boots a program that says a word on the serial line.
fn disk(site: &Site) -> PathBuf {
    const WORD_AT: usize = 0x40;
    // cli; xor ax, ax; mov ds, ax; mov si, 0x7c40; cld
    let mut sector = vec![0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0xbe, WORD_AT as u8, 0x7c, 0xfc];
    // lodsb; test al, al; jz the end; mov ah, al; mov dx, 0x3fd
    sector.extend([0xac, 0x84, 0xc0, 0x74, 0x12, 0x88, 0xc4, 0xba, 0xfd, 0x03]);
    // in al, dx; test al, 0x20; jz back: until the line is free
    sector.extend([0xec, 0xa8, 0x20, 0x74, 0xfb]);
    // mov al, ah; mov dx, 0x3f8; out dx, al; jmp to lodsb
    sector.extend([0x88, 0xe0, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xe9]);
    // the end: hlt; jmp back
    sector.extend([0xf4, 0xeb, 0xfd]);
    sector.resize(WORD_AT, 0);
    sector.extend(b"\r\nisowire-test: LOCAL DISK\r\n\0");
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    let path = site.stage.path().join("disk.img");
    fs::write(&path, sector).unwrap();
    path
}

/// Writes a directory from which UEFI boots systemd-boot, which shows its menu.
fn efi_disk(site: &Site) -> PathBuf {
    let disk = site.stage.path().join("efi-disk");
    for (path, content) in [
        ("EFI/BOOT/BOOTX64.EFI", fs::read(SYSTEMD_BOOT).unwrap()),
        ("loader/loader.conf", b"timeout menu-force\n".to_vec()),
    ] {
        let path = disk.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    disk
}

/// By PXELINUX and by iPXE, each after the one boot of its machine; and by UEFI.
#[test]
fn machine_boots_once_and_then_its_disk() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, [SYSTEMD_BOOT]);
    let mut site = Site::new("once", iso::small());
    let by_pxelinux = MAC;
    let (by_ipxe, by_uefi) = ("52:54:00:12:34:57", "52:54:00:12:34:58");
    let configuration = format!(
        "[[machine]]\nmac = '{by_pxelinux}'\nonce = true\nquirks = 'no-script'\n\
         [[machine]]\nmac = '{by_ipxe}'\nonce = true\n"
    );
    let options = ["--dhcp-range", RANGE, "--copytoram", "yes", "--menu-timeout", "1"];
    let mut server = site.serve_by(&configuration, &options);
    let logs = site.logs.clone();
    let directory = |name: &str| {
        let directory = logs.join(name);
        fs::create_dir(&directory).unwrap();
        directory
    };
    let once = [(by_pxelinux, Card::E1000, "pxelinux"), (by_ipxe, Card::Virtio, "ipxe")];
    let mut boot = |(mac, card, name): (&str, Card, &str)| {
        Machine::power_on_as(mac, &mut site.lan, card, &directory(name))
    };
    let machines = once.map(&mut boot);
    let reports = machines.map(Machine::run_to_power_off);
    reports.iter().for_each(|report| site.check(report, "root=nbd copytoram=y verified=cms"));
    server.wait_for_lines("boot done: the machine boots from its local disk", 2, LONG);
    let table = command(&site, &["status"]);
    assert_eq!(table.matches("local disk").count(), 2, "{table}");

    let disk = disk(&site);
    let mut boot = |(mac, card, name): (&str, Card, &str)| {
        let logs = directory(&format!("{name}-disk"));
        Machine::power_on_with_disk(mac, &mut site.lan, card, &logs, &disk)
    };
    let machines = once.map(&mut boot);
    for mut machine in machines {
        machine.wait_for("isowire-test: LOCAL DISK");
    }

    boots_disk_by_uefi(&mut site, by_uefi, &directory("uefi"));
    let log = site.ended(server);
    // First by PXE, then by HTTP Boot.
    let programs = log.lines().filter(|line| line.contains("local-disk.efi") && line.contains("sent"));
    assert_eq!(programs.count(), 2, "{log}");
    let firmware_asked = log.lines().filter(|line| line.contains("nbd.efi") || line.contains("http.efi"));
    assert_eq!(firmware_asked.count(), 0, "{log}");
}

/// Its firmware loads iPXE, and that a script.
#[test]
fn machine_boots_its_disk_by_ipxe_for_uefi() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, [SYSTEMD_BOOT, SNPONLY]);
    let mut site = Site::new("local-by-ipxe", iso::small());
    let ipxe = site.staged(Path::new(SNPONLY));
    let configuration = format!("[[machine]]\nmac = '{MAC}'\nonce = true\n");
    let options = ["--dhcp-range", RANGE, "--ipxe", ipxe.to_str().unwrap()];
    let server = site.serve_by(&configuration, &options);
    let logs = site.logs.clone();
    boots_disk_by_uefi(&mut site, MAC, &logs);
    tells(&site.ended(server), &[&["over TFTP", "ipxe.efi"], &["sent over HTTP", "boot.ipxe"]]);
}

/// Has UEFI firmware that boots from the network go on to the disk.
fn boots_disk_by_uefi(site: &mut Site, mac: &str, logs: &Path) {
    command(site, &["next", mac, "local"]);
    let disk = efi_disk(site);
    let firmware = Uefi::PxeThenDisk(&disk);
    let mut machine = Machine::power_on_uefi_as(mac, &mut site.lan, firmware, logs);
    machine.wait_for("Reboot Into Firmware Interface");
    let status: Value = serde_json::from_str(&command(site, &["status", "--json"])).unwrap();
    let machines = status["machines"].as_array().unwrap();
    let record = machines.iter().find(|record| record["mac"] == *mac).expect("it asked for a program");
    assert_eq!(record["diagnosis"], Value::Null, "nothing is wrong with it: {record}");
}

/// What cloud-init made of a system, as that reports it.
fn check_cloud_init(site: &Site, report: &Report) {
    let words = format!("ds=nocloud;dsmode=net;s=http://{SERVER}/isowire/52-54-00-12-34-56/seed/ ");
    assert!(report.value("command line:").contains(&words), "{}", report.value("command line:"));
    assert!(report.value("cloud-init:").contains("status: done"), "{}", report.console());
    assert!(report.value("instance-id:").starts_with("isowire-52-54-00-12-34-56-"), "{}", report.console());
    let result = report.value("datasource:");
    assert!(result.contains("DataSourceNoCloudNet") && result.contains("\"errors\": []"), "{result}");
    assert_eq!(report.value("hostname:"), "lab1");
    let key = SSH_KEYS.split('\'').nth(1).unwrap();
    assert!(report.value("root-keys:").contains(key), "{}", report.console());
    let host_key: Vec<_> = report.value("host-key:").split(' ').take(2).collect();
    let known_hosts = command(site, &["status", "--known-hosts"]);
    assert!(known_hosts.contains(&format!(" {}\n", host_key.join(" "))), "{known_hosts}");
    assert!(known_hosts.starts_with("lab1,"), "{known_hosts}");
    let table = command(site, &["status"]);
    assert!(table.contains("root attached (up)"), "{table}");
}

/// By systemd, with the generator that decides by the kernel's command line whether cloud-init runs.
#[test]
fn cloud_init_sets_a_booted_system_up() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, debian::NEEDS, ["systemctl"]);
    let system = debian::system("cloud-init-systemd", &["systemd-sysv", "cloud-init", "openssh-client"]);
    let image = || iso::of_system(&system);
    let configuration =
        format!("{SSH_KEYS}[[machine]]\nmac = '{MAC}'\nname = 'lab1'\nquirks = 'no-script'\n");
    let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
    for (name, firmware) in [("cloud-init-pxe", None), ("cloud-init-uefi", Some(Uefi::Pxe))] {
        let mut site = Site::new(name, image());
        let mut server = site.serve_by(&configuration, &options);
        let report = match firmware {
            None => site.boot(Card::Virtio),
            Some(firmware) => site.boot_uefi(firmware),
        };
        check_cloud_init(&site, &report);
        server.wait_for("system of the machine is up", Duration::from_secs(1));
        site.ended(server);
    }
}

/// Notes each text that stands in the row of the machine as its stage.
const WATCH: &str = "
    window.stages = [];
    const note = () => {
      const cell = document.querySelector('#machines tbody tr .stage');
      if (cell && stages.at(-1) !== cell.textContent) stages.push(cell.textContent);
    };
    new MutationObserver(note).observe(document.body, { subtree: true, childList: true, characterData: true });";

/// The stages of a boot in the words of the page.
const STAGES: [&str; 7] = [
    "offered a boot file",
    "has an address",
    "loading the boot program",
    "at the menu",
    "loading the kernel",
    "loading the initramfs",
    "on its root",
];

fn wait_while_it_boots(page: &Browser, expression: &str, server: &Running) {
    let tries = LONG.as_secs() / 2;
    for _ in 0..tries {
        if page.run(&format!("return Boolean({expression})")) == true {
            return;
        }
        thread::sleep(Duration::from_secs(2));
    }
    panic!("`{expression}` does not come true: {}\n{}", page.run("return window.stages"), server.log());
}

#[test]
fn page_follows_a_boot() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, browser::NEEDS);
    let mut site = Site::new("page", iso::small());
    let address = format!("{SERVER}:8081");
    let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "3", "--status", &address];
    let server = site.serve_by(PLAIN_PXE, &options);
    // The browser runs on the host of the server.
    site.lan.server().enter();
    let page = Browser::start();
    page.resize(1280, 900);
    page.open(&format!("http://{address}/"));
    page.wait_for("document.body.dataset.ready");
    page.run(WATCH);
    let machine = Machine::power_on(&mut site.lan, Card::E1000, &site.logs);
    wait_while_it_boots(&page, "stages.includes('loading the initramfs')", &server);
    page.run("document.querySelector('#machines tbody tr button').click()");
    page.wait_for("document.getElementById('story').innerText.includes('Log of this boot')");
    page.screenshot(&picture("boot"));
    wait_while_it_boots(&page, "stages.includes('on its root')", &server);
    let stages: Vec<String> = serde_json::from_value(page.run("return stages")).unwrap();
    let steps: Vec<_> =
        stages.iter().map(|stage| STAGES.iter().position(|known| known == stage).expect(stage)).collect();
    assert!(steps.is_sorted() && steps.len() >= 4, "{stages:?}");
    for words in
        ["boot file offered to x86 BIOS", "root attached over NBD", "DHCP lease", "file sent over TFTP"]
    {
        page.wait_for(&format!("document.getElementById('story').innerText.includes('{words}')"));
    }
    page.screenshot(&picture("booted"));
    assert_eq!(page.run("return document.getElementById('map').children.length"), 1);
    assert_eq!(page.run("return document.getElementById('map').firstChild.className"), "good");
    assert_eq!(page.console(), serde_json::json!([]));
    site.check(&machine.run_to_power_off(), "root=nbd copytoram=n verified=cms");
    drop(page);
    site.ended(server);
}

/// Where pictures are kept that people look at.
fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"))
}
