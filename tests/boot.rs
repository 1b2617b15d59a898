//! A machine boots by PXE from firmware to a userland whose root comes from `isowire serve`, which runs as nobody.

mod common;
#[path = "boot/site.rs"]
mod site;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::iso;
use common::lan;
use common::machine::{self, Card, DOWN, ENTER, Machine, Uefi};
use common::needs::{needs, only_with_all};
use common::object_store::{self, ObjectStore};
use common::reads::Reads;
use common::running::output_of;
use site::{Chapter, PLAIN_PXE, RANGE, SERVER, SSH_KEYS, Site, tells};

/// Debian's iPXE for UEFI without drivers of its own.
const SNPONLY: &str = "/usr/lib/ipxe/snponly.efi";

const LEASE: [Chapter; 2] = [&["DHCP offer", "x86 BIOS"], &["DHCP lease"]];
const OFFER_BESIDE_ANOTHER: [Chapter; 2] =
    [&["DHCP offer", "x86 BIOS"], &["takes its address from another DHCP server"]];
/// The menu is ours, or that of a machine without option 209.
const MENU: [Chapter; 2] =
    [&["over TFTP", "path=\"/boot/syslinux/lpxelinux.0\""], &["over TFTP", "pxelinux.cfg"]];
const STOCK_MENU: [Chapter; 3] =
    [MENU[0], MENU[1], &["over TFTP", "path=\"/boot/syslinux/archiso_pxe.cfg\""]];
const SCRIPT: [Chapter; 1] = [&["sent over HTTP", "path=\"/isowire/52-54-00-12-34-56/boot.ipxe\"", "iPXE"]];
const KERNEL_BY_HTTP: [Chapter; 2] = [
    &["sent over HTTP", "status=200", "/arch/boot/x86_64/vmlinuz-linux\""],
    &["sent over HTTP", "status=200", "/arch/boot/x86_64/initramfs-linux.img\""],
];
const KERNEL_BY_TFTP: [Chapter; 2] = [
    &["over TFTP", "/arch/boot/x86_64/vmlinuz-linux\""],
    &["over TFTP", "/arch/boot/x86_64/initramfs-linux.img\""],
];
const NBD: Chapter = &["root attached over NBD"];
const NBD_RELEASED: Chapter = &["NBD connection closed"];
const NBD_TAKEN_AWAY: Chapter = &["shutting down: NBD clients lose their root", "machines=1"];
const NFS: Chapter = &["mounted over NFS"];
const NFS_RELEASED: Chapter = &["NFS connection closed"];
const NFS_WAITS: Chapter = &["NFS clients wait", "connections=1"];
const SQUASHFS: Chapter = &["sent over HTTP", "status=200", "/arch/x86_64/airootfs.sfs\""];
const EROFS: [Chapter; 2] = [
    &["HTTP refused: no such file", "/arch/x86_64/airootfs.sfs\""],
    &["sent over HTTP", "status=200", "/arch/x86_64/airootfs.erofs\""],
];

// ---- our menu

#[test]
fn nbd_root_copied_to_ram() {
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("nbd-ram", iso::small());
    let server = site.serve_by(
        &[SSH_KEYS, PLAIN_PXE].concat(),
        &["--dhcp-range", RANGE, "--copytoram", "yes", "--menu-timeout", "1"],
    );
    let report = site.boot(Card::E1000);
    site.check(&report, "root=nbd copytoram=y verified=cms");
    site.check_seed(&report);
    site.check_story(server, &[&LEASE[..], &MENU, &KERNEL_BY_HTTP, &[NBD, NBD_RELEASED]]);
}

#[test]
fn nbd_root_stays_on_the_server() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, ["dnsmasq"]);
    let mut site = Site::new("nbd-attached", iso::small());
    let _router = site.router(&[]);
    let server = site.serve_by(PLAIN_PXE, &["--copytoram", "no", "--menu-timeout", "1"]);
    let reads = Reads::overhear(site.lan.server());
    let report = site.boot(Card::Virtio);
    site.check(&report, "root=nbd copytoram=n verified=cms");
    site.keep(&reads.heard());
    site.check_story(server, &[&OFFER_BESIDE_ANOTHER, &MENU, &KERNEL_BY_HTTP, &[NBD, NBD_TAKEN_AWAY]]);
}

#[test]
fn nfs_root_stays_on_the_server_by_ipxe() {
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, ["dnsmasq"]);
    let mut site = Site::new("nfs-attached", iso::small());
    let _router = site.router(&[]);
    let server = site.serve_by(SSH_KEYS, &["--root", "nfs", "--copytoram", "no", "--menu-timeout", "1"]);
    let report = site.boot(Card::Virtio);
    site.check(&report, "root=nfs copytoram=n verified=cms");
    site.check_seed(&report);
    site.check_story(server, &[&OFFER_BESIDE_ANOTHER, &SCRIPT, &KERNEL_BY_HTTP, &[NFS, NFS_WAITS]]);
}

#[test]
fn nfs_root_copied_to_ram() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("nfs-ram", iso::small());
    let server = site.serve_by(
        PLAIN_PXE,
        &["--root", "nfs", "--dhcp-range", RANGE, "--copytoram", "yes", "--menu-timeout", "1"],
    );
    let report = site.boot(Card::E1000);
    site.check(&report, "root=nfs copytoram=y verified=cms");
    site.check_story(server, &[&LEASE, &MENU, &KERNEL_BY_HTTP, &[NFS, NFS_RELEASED]]);
}

#[test]
fn http_root_from_squashfs() {
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("http-squashfs", iso::small());
    let server = site.serve_by(PLAIN_PXE, &["--root", "http", "--dhcp-range", RANGE, "--menu-timeout", "1"]);
    let report = site.boot(Card::E1000);
    site.check(&report, "root=http copytoram=y verified=cms");
    site.check_story(server, &[&LEASE, &MENU, &KERNEL_BY_HTTP, &[SQUASHFS]]);
}

/// On another port than 80, which only our menu can tell machines.
#[test]
fn http_root_from_erofs() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("http-erofs", iso::erofs());
    let server = site.serve_by(
        PLAIN_PXE,
        &["--root", "http", "--http", "8080", "--dhcp-range", RANGE, "--menu-timeout", "1"],
    );
    let report = site.boot(Card::Virtio);
    site.check(&report, "root=http copytoram=y verified=cms");
    site.check_story(server, &[&LEASE[..], &MENU, &KERNEL_BY_HTTP, &EROFS]);
}

/// A DHCP server that names us and the boot file, and knows nothing of option 209; and everything by TFTP.
#[test]
fn foreign_dhcp_and_no_http() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, ["dnsmasq"]);
    let mut site = Site::new("foreign-dhcp", iso::small());
    let boot = format!("--dhcp-boot=/boot/syslinux/lpxelinux.0,,{SERVER}");
    let _router = site.router(&[&boot]);
    let server = site.serve_by(
        PLAIN_PXE,
        &["--dhcp", "off", "--http", "off", "--copytoram", "auto", "--menu-timeout", "1"],
    );
    let report = site.boot(Card::E1000);
    site.check(&report, "root=nbd copytoram=y verified=cms");
    site.check_story(server, &[&MENU, &KERNEL_BY_TFTP, &[NBD, NBD_RELEASED]]);
}

#[test]
fn an_image_without_a_cms_signature() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("no-cms", iso::without_cms());
    let server =
        site.serve_by(PLAIN_PXE, &["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"]);
    let report = site.boot(Card::Virtio);
    site.check(&report, "root=nbd copytoram=n verified=none");
    site.check_story(server, &[&LEASE[..], &MENU, &KERNEL_BY_HTTP, &[NBD, NBD_TAKEN_AWAY]]);
}

#[test]
fn an_image_of_another_distribution() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("other-distribution", iso::other_distribution());
    let server =
        site.serve_by(PLAIN_PXE, &["--dhcp-range", RANGE, "--copytoram", "yes", "--menu-timeout", "1"]);
    let report = site.boot(Card::E1000);
    site.check(&report, "root=nbd copytoram=y verified=cms");
    let kernel: [Chapter; 2] = [
        &["sent over HTTP", "status=200", "/boot/vmlinuz-other\""],
        &["sent over HTTP", "status=200", "/boot/other.img\""],
    ];
    site.check_story(server, &[&LEASE, &MENU, &kernel, &[NBD, NBD_RELEASED]]);
}

// ---- UEFI, with a program composed of the image's own EFI stub

#[test]
fn uefi_pxe_to_an_nbd_root() {
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS);
    let mut site = Site::new("uefi-pxe-nbd", iso::small());
    let server = site.serve_by(SSH_KEYS, &["--dhcp-range", RANGE, "--copytoram", "no"]);
    let report = site.boot_uefi(Uefi::Pxe);
    site.check(&report, "root=nbd copytoram=n verified=cms");
    site.check_seed(&report);
    assert!(report.value("network:").contains(":192.168.77.1:192.168.77.1:255.255.255.0::eth0 gives"));
    let lease = [&["DHCP offer", "x64 UEFI"][..], &["DHCP lease"]];
    let program: Chapter = &["over TFTP", "path=\"/isowire/52-54-00-12-34-56/nbd.efi\""];
    site.check_story(server, &[&lease, &[program, NBD, NBD_TAKEN_AWAY]]);
}

#[test]
fn uefi_http_boot_to_an_http_root() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, ["dnsmasq"]);
    let mut site = Site::new("uefi-http-http", iso::small());
    let _router = site.router(&[]);
    let server = site.serve(&["--root", "http", "--http", "8080"]);
    let report = site.boot_uefi(Uefi::Http);
    site.check(&report, "root=http copytoram=y verified=cms");
    assert!(report.value("network:").starts_with("ip=:::::eth0:dhcp gives"));
    let offer = [&["DHCP offer", "x64 UEFI boot from HTTP"][..], OFFER_BESIDE_ANOTHER[1]];
    let program: Chapter =
        &["sent over HTTP", "status=200", "path=\"/isowire/52-54-00-12-34-56/http.efi\"", "UefiHttpBoot"];
    site.check_story(server, &[&offer, &[program, SQUASHFS]]);
}

#[test]
fn uefi_pxe_beside_another_dhcp_server_to_an_nfs_root() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, ["dnsmasq"]);
    let mut site = Site::new("uefi-pxe-nfs", iso::erofs());
    let _router = site.router(&[]);
    let server = site.serve(&["--root", "nfs", "--copytoram", "no"]);
    let report = site.boot_uefi(Uefi::Pxe);
    site.check(&report, "root=nfs copytoram=n verified=cms");
    let offer = [&["DHCP offer", "x64 UEFI"][..], OFFER_BESIDE_ANOTHER[1]];
    let program: Chapter = &["over TFTP", "path=\"/isowire/52-54-00-12-34-56/nfs.efi\""];
    site.check_story(server, &[&offer, &[program, NFS, NFS_WAITS]]);
}

// ---- UEFI with Secure Boot, whose firmware knows Debian's snakeoil key

const SECURE_BOOT: &str = "secureboot: Secure boot enabled";

#[test]
fn secure_boot_by_pxe_starts_a_signed_program() {
    needs!(lan::NEEDS, machine::NEEDS, machine::SECURE_NEEDS, iso::NEEDS);
    let mut site = Site::new("secure-pxe", iso::small());
    let server = site.serve_signed(&["--dhcp-range", RANGE, "--copytoram", "no"]);
    let report = site.boot_uefi(Uefi::SecurePxe);
    site.check(&report, "root=nbd copytoram=n verified=cms");
    assert!(report.console().contains(SECURE_BOOT), "{}", report.console());
    let signed: Chapter = &["UEFI machines boot by the EFI stub", "signed for Secure Boot by `SnakeOil`"];
    let program: Chapter = &["over TFTP", "path=\"/isowire/52-54-00-12-34-56/nbd.efi\""];
    site.check_story(server, &[&[signed, program, NBD, NBD_TAKEN_AWAY]]);
}

#[test]
fn secure_boot_by_http_starts_a_signed_program() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::SECURE_NEEDS, iso::NEEDS);
    let mut site = Site::new("secure-http", iso::small());
    let server = site.serve_signed(&["--dhcp-range", RANGE, "--root", "http"]);
    let report = site.boot_uefi(Uefi::SecureHttp);
    site.check(&report, "root=http copytoram=y verified=cms");
    assert!(report.console().contains(SECURE_BOOT), "{}", report.console());
    let program: Chapter = &["sent over HTTP", "status=200", "/http.efi\"", "UefiHttpBoot"];
    site.check_story(server, &[&[program, SQUASHFS]]);
}

/// The firmware says so on its screen only; the server suspects it when the machine begins again.
#[test]
fn secure_boot_refuses_an_unsigned_program() {
    needs!(lan::NEEDS, machine::NEEDS, machine::SECURE_NEEDS, iso::NEEDS);
    let mut site = Site::new("secure-unsigned", iso::small());
    let status = format!("{SERVER}:8081");
    let mut server = site.serve(&["--dhcp-range", RANGE, "--status", &status]);
    let mut machine = Machine::power_on_uefi(&mut site.lan, Uefi::SecurePxe, &site.logs);
    machine.wait_for("Access Denied");
    server.wait_for("UefiHttpBoot", Duration::from_secs(120));
    let mut command = site.lan.command(env!("CARGO_BIN_EXE_isowire"));
    let table = output_of(command.args(["status", &format!("http://{status}/")]));
    assert!(table.contains("got its boot program, and began again: Secure Boot refused it"), "{table}");
    drop(machine);
    site.check_story(server, &[&[&["over TFTP", "path=\"/isowire/52-54-00-12-34-56/nbd.efi\""]]]);
}

// ---- UEFI by iPXE, which the firmware loads, or has already

#[test]
fn uefi_through_ipxe_to_an_nbd_root() {
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, [SNPONLY]);
    let mut site = Site::new("uefi-ipxe-nbd", iso::small());
    let ipxe = site.staged(Path::new(SNPONLY));
    let ipxe = ["--ipxe", ipxe.to_str().expect("no odd names in the temporary directory")];
    let server = site
        .serve(&[&ipxe[..], &["--dhcp-range", RANGE, "--copytoram", "yes", "--menu-timeout", "1"]].concat());
    let report = site.boot_uefi(Uefi::Pxe);
    site.check(&report, "root=nbd copytoram=y verified=cms");
    let ipxe: [Chapter; 3] = [
        &["DHCP offer", "architecture=\"x64 UEFI\"", "ipxe.efi"],
        &["over TFTP", "path=\"/isowire/52-54-00-12-34-56/ipxe.efi\""],
        &["DHCP offer", "architecture=\"x64 UEFI, iPXE\"", "boot.ipxe"],
    ];
    site.check_story(server, &[&ipxe, &SCRIPT, &KERNEL_BY_HTTP, &[NBD, NBD_RELEASED]]);
}

#[test]
fn uefi_with_ipxe_in_the_cards_rom_to_an_nfs_root() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, ["dnsmasq"]);
    let mut site = Site::new("uefi-rom-nfs", iso::small());
    let _router = site.router(&[]);
    let server = site.serve(&["--root", "nfs", "--copytoram", "no", "--menu-timeout", "1"]);
    let report = site.boot_uefi(Uefi::IpxeRom);
    site.check(&report, "root=nfs copytoram=n verified=cms");
    site.check_story(server, &[&OFFER_BESIDE_ANOTHER[1..], &SCRIPT, &KERNEL_BY_HTTP, &[NFS, NFS_WAITS]]);
}

#[test]
fn uefi_pxe_with_a_strict_firmware() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS, ["apt-get"]);
    let mut site = Site::new("uefi-strict", iso::small());
    let server = site.serve(&["--dhcp-range", RANGE, "--copytoram", "no"]);
    let report = site.boot_uefi(Uefi::StrictPxe);
    site.check(&report, "root=nbd copytoram=n verified=cms");
    let program: Chapter = &["over TFTP", "path=\"/isowire/52-54-00-12-34-56/nbd.efi\""];
    site.check_story(server, &[&[program, NBD, NBD_TAKEN_AWAY]]);
}

/// All of the program is in memory twice while the firmware starts it.
#[test]
fn uefi_boots_a_program_of_300_mb_in_1_gib() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, machine::UEFI_NEEDS, iso::NEEDS);
    let mut site = Site::new("uefi-heavy", iso::heavy());
    let server = site.serve(&["--dhcp-range", RANGE, "--copytoram", "no"]);
    let report = site.boot_uefi(Uefi::Http);
    site.check(&report, "root=nbd copytoram=n verified=cms");
    site.check_story(
        server,
        &[&[&["sent over HTTP", "status=200", "bytes=31", "nbd.efi"], NBD, NBD_TAKEN_AWAY]],
    );
}

// ---- one process after the other

/// Cold, which teaches what a boot reads; by a second server, with a cache of its own, after the first was
/// stopped; and by the first one's cache while the store is down.
#[test]
fn nbd_root_out_of_an_object_store() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, object_store::NEEDS);
    let mut site = Site::new("nbd-store", iso::small());
    // The store is on loopback of the server's host.
    site.lan.server().enter();
    let mut store = ObjectStore::start(&["images"]);
    store.put("images/arch.iso", &site.iso.path);
    for (boot, cache) in ["first", "second", "first"].into_iter().enumerate() {
        if boot == 2 {
            store.kill_gateway();
        }
        let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
        let mut server = site.serve_stored(&store, cache, &options);
        let report = site.boot(Card::Virtio);
        site.check(&report, "root=nbd copytoram=n verified=cms");
        if boot == 0 {
            server.wait_for("learned what a boot reads", Duration::from_secs(60));
        }
        site.check_story(server, &[&LEASE[..], &MENU, &KERNEL_BY_HTTP, &[NBD, NBD_TAKEN_AWAY]]);
    }
}

/// The machine reads its root file system, and goes on reading, while one process after the other
/// takes over.
#[test]
fn nbd_root_outlives_take_overs() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("nbd-taken-over", iso::small());
    let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
    let server = site.serve_by(PLAIN_PXE, &options);
    let machine = Machine::power_on(&mut site.lan, Card::Virtio, &site.logs);
    let (report, logs) = site.take_over_until_power_off(server, machine, &options, |server| {
        server.wait_for("root attached over NBD", Duration::from_secs(300));
    });
    site.check(&report, "root=nbd copytoram=n verified=cms");
    let carried = logs.iter().filter(|log| log.contains("NBD connections taken over connections=1"));
    assert!(carried.count() >= 2, "{logs:#?}");
}

/// One process after the other takes over from power on, so that each file that the machine loads is
/// another one's.
#[test]
fn machine_that_loads_outlives_take_overs() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("loading-taken-over", iso::small());
    let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
    let server = site.serve_by(PLAIN_PXE, &options);
    let machine = Machine::power_on(&mut site.lan, Card::E1000, &site.logs);
    let (report, logs) = site.take_over_until_power_off(server, machine, &options, |_| {});
    site.check(&report, "root=nbd copytoram=n verified=cms");
    assert!(logs.len() >= 10, "{logs:#?}");
}

/// The image that the machine lives on is no file any more when the first process ends.
#[test]
fn nfs_root_outlives_its_iso_and_its_process() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("nfs-replaced", iso::small());
    let options = ["--root", "nfs", "--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
    let server = site.serve_by(PLAIN_PXE, &options);
    let machine = Machine::power_on(&mut site.lan, Card::Virtio, &site.logs);
    let (served, other) = (site.stage.path().join("small.iso"), iso::erofs().path);
    let new = site.stage.path().join("new");
    let (report, logs) = site.take_over_until_power_off(server, machine, &options, |server| {
        server.wait_for("export mounted over NFS", Duration::from_secs(300));
        fs::copy(&other, &new).expect("the temporary directory has room");
        fs::rename(&new, &served).expect("it is there");
        server.wait_for("image replaced", Duration::from_secs(20));
    });
    site.check(&report, "root=nfs copytoram=n verified=cms");
    assert!(!logs.is_empty(), "it ended before another process took over");
}

/// From the firmware to the running system, with a root that stays on the server.
#[test]
fn nbd_root_over_a_bad_link() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, ["/dev/net/tun", "python3"]);
    let mut site = Site::new("bad-link", iso::small());
    let faults = ["loss=0.01", "duplicate=0.01", "reorder=0.05", "delay=0.002"];
    let _link = site.lan.worsen(&faults, 1500, &site.logs.join("link"));
    let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
    let _server = site.serve_by(PLAIN_PXE, &options);
    let machine = Machine::power_on(&mut site.lan, Card::E1000, &site.logs);
    site.check(&machine.run_to_power_off(), "root=nbd copytoram=n verified=cms");
}

// ---- many images, and rules

/// At the same time, each machine boots what it is to boot.
#[test]
fn two_images_and_a_rule_for_one_machine() {
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let (mac, dashed) = ("52:54:00:12:34:57", "52-54-00-12-34-57");
    let mut site = Site::new("two-images", iso::small());
    let other = iso::erofs();
    let options = ["--dhcp-range", RANGE, "--copytoram", "no", "--menu-timeout", "1"];
    let server = site.serve_all(
        &[&other.path],
        &format!(
            "[[machine]]\nmac = '{mac}'\nimage = 'erofs'\nroot = 'http'\nmenu = false\n\
             copytoram = 'yes'\nkernel-parameters = 'its=own'\naddress = '192.168.77.200'\n"
        ),
        &options,
    );
    let logs = site.logs.join("other");
    fs::create_dir(&logs).expect("just made, so empty");
    let ruled = Machine::power_on_as(mac, &mut site.lan, Card::Virtio, &logs);
    let plain = site.boot(Card::E1000);
    let ruled = ruled.run_to_power_off();
    site.check(&plain, "root=nbd copytoram=n verified=cms");
    assert!(!plain.value("command line:").contains("its=own"));
    assert_eq!(ruled.value("READY"), "root=http copytoram=y verified=cms");
    assert_eq!(ruled.value("root-file-sha256"), other.content_sha256);
    let line = ruled.value("command line:");
    assert!(
        line.contains("/erofs~") && line.contains(" its=own ") && line.contains(" ip=192.168.77.200:"),
        "{line}"
    );
    let script = format!("path=\"/isowire/{dashed}/boot.ipxe\"");
    let ruled: [&[&str]; 3] =
        [&["DHCP lease", mac, "192.168.77.200"], &["sent over HTTP", &script], EROFS[1]];
    let log = site.ended(server);
    tells(&log, &ruled);
    tells(&log, &[&LEASE[..], &SCRIPT, &KERNEL_BY_HTTP, &[NBD, NBD_TAKEN_AWAY]].concat());
}

// ---- the image's own menu, which is served as it stands and asks `${pxeserver}` for everything

#[test]
fn the_stock_menu_over_nbd() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("stock-nbd", iso::small());
    let (server, report) = site.boot_by_stock_menu(&[ENTER]);
    site.check(&report, "root=nbd copytoram=y verified=cms");
    site.check_story(server, &[&LEASE[..], &STOCK_MENU, &KERNEL_BY_TFTP, &[NBD, NBD_RELEASED]]);
}

#[test]
fn the_stock_menu_over_nfs() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("stock-nfs", iso::small());
    let (server, report) = site.boot_by_stock_menu(&[DOWN, ENTER]);
    site.check(&report, "root=nfs copytoram=y verified=cms");
    site.check_story(server, &[&LEASE[..], &STOCK_MENU, &KERNEL_BY_TFTP, &[NFS, NFS_RELEASED]]);
}

/// The menu stays as it is: a person at the machine adds to one line of it, by Tab.
#[test]
fn the_stock_menu_over_nfs_without_a_copy() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("stock-nfs-attached", iso::small());
    let parameter = ["spc", "c", "o", "p", "y", "t", "o", "r", "a", "m", "equal", "n"];
    let keys = [&[DOWN, "tab"], &parameter[..], &[ENTER]].concat();
    let (server, report) = site.boot_by_stock_menu(&keys);
    site.check(&report, "root=nfs copytoram=n verified=cms");
    site.check_story(server, &[&LEASE[..], &STOCK_MENU, &KERNEL_BY_TFTP, &[NFS, NFS_WAITS]]);
}

#[test]
fn the_stock_menu_over_http() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("stock-http", iso::small());
    let (server, report) = site.boot_by_stock_menu(&[DOWN, DOWN, ENTER]);
    site.check(&report, "root=http copytoram=y verified=cms");
    site.check_story(server, &[&LEASE[..], &STOCK_MENU, &KERNEL_BY_TFTP, &[SQUASHFS]]);
}

#[test]
fn the_stock_menu_over_http_from_erofs() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS);
    let mut site = Site::new("stock-http-erofs", iso::erofs());
    let (server, report) = site.boot_by_stock_menu(&[DOWN, DOWN, ENTER]);
    site.check(&report, "root=http copytoram=y verified=cms");
    site.check_story(server, &[&LEASE[..], &STOCK_MENU, &KERNEL_BY_TFTP, &EROFS]);
}

/// The wiki's recipe in our place (with nbdkit for nbd-server), through the ISO's own menu: what fails here is the bed's fault, not the server's.
#[test]
fn the_bed_itself_by_the_wiki() {
    only_with_all!();
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, ["dnsmasq", "nbdkit"]);
    let mut site = Site::new("wiki", iso::small());
    let (_dnsmasq, _nbd) = site.follow_the_wiki();
    let mut machine = Machine::power_on(&mut site.lan, Card::E1000, &site.logs);
    machine.wait_for("Arch Linux install medium (x86_64, NBD)");
    machine.press(&[ENTER]);
    let report = machine.run_to_power_off();
    site.check(&report, "root=nbd copytoram=y verified=cms");
}
