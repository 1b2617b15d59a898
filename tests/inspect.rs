//! `isowire inspect`: its page for people and its JSON for programs.

mod common;

use std::fs;
use std::path::Path;

use isowire::inspect::{self, Format, InspectError};

use common::iso;
use common::needs::{needs, tool};
use common::running::output_of;

fn inspected(path: &Path, format: Format) -> (String, Result<(), InspectError>) {
    let mut out = Vec::new();
    let result = inspect::run(path, None, format, &mut out);
    (String::from_utf8(out).expect("text"), result)
}

#[test]
fn page_describes_an_archiso_image() {
    needs!(iso::NEEDS);
    let image = iso::small();
    let (page, result) = inspected(&image.path, Format::Text);
    result.expect("an archiso image");
    for line in [
        "  label           ARCH_202601",
        "  UUID            2026-01-02-03-04-05-00",
        "  install dir     arch",
        "  kernel          linux for x86_64: /arch/boot/x86_64/vmlinuz-linux",
        "    initramfs     /arch/boot/x86_64/initramfs-linux.img",
        "  airootfs        squashfs for x86_64: /arch/x86_64/airootfs.sfs",
        "    SHA-512       /arch/x86_64/airootfs.sha512",
        "    CMS signature /arch/x86_64/airootfs.sfs.cms.sig",
        "  uuid file       /boot/2026-01-02-03-04-05-00.uuid",
        "  lpxelinux       /boot/syslinux/lpxelinux.0",
        "    checksums     header good, array good, backup good",
        "  entries         3, from its PXELINUX menu",
        "  BIOS            yes, by /boot/syslinux/lpxelinux.0",
        // The test bed's init does by itself what archiso's hooks do.
        "  root over NBD   /arch/boot/x86_64/initramfs-linux.img lacks hook archiso_pxe_common, hook archiso_pxe_nbd",
        "  drivers         /arch/boot/x86_64/initramfs-linux.img has drivers for network cards: virtio_net; not bnx2x, \
         e1000e, i40e, igb, igc, ixgbe, mlx5_core, r8169, tg3, vmxnet3",
    ] {
        assert!(page.lines().any(|have| have == line), "no line {line:?} in:\n{page}");
    }
    let uefi = "  UEFI            yes, by /isowire/nbd.efi, composed with the EFI stub of systemd ";
    let line = page.lines().find(|line| line.starts_with(uefi));
    assert!(
        line.is_some_and(
            |line| line.ends_with("; Secure Boot has to be off, or `--secure-boot-key` be given to `serve`")
        ),
        "{page}"
    );
    assert!(!page.contains("Warnings"), "{page}");
}

#[test]
fn json_matches_the_page() {
    needs!(iso::NEEDS);
    let image = iso::without_cms();
    let (json, result) = inspected(&image.path, Format::Json);
    result.expect("an archiso image");
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let size = fs::metadata(&image.path).expect("there").len();
    assert_eq!(report["size"], size);
    assert_eq!(report["volume"]["label"], "ARCH_202601");
    assert_eq!(report["tree"]["names"], "Rock Ridge");
    assert_eq!(report["boot_records"]["el_torito"][1]["platform"], "UEFI");
    assert_eq!(report["boot_records"]["gpt"]["array_checksum"], "good");
    let root = &report["archiso"]["airootfs"][0];
    assert_eq!((&root["format"], &root["path"]), (&"squashfs".into(), &"/arch/x86_64/airootfs.sfs".into()));
    assert!(root["cms_signature"].is_null());
    assert_eq!(report["entries"]["origin"], "its PXELINUX menu");
    assert_eq!(report["entries"]["entries"][2]["root"], "HTTP");
    assert_eq!(report["network_boot"][0]["boot_file"], "/boot/syslinux/lpxelinux.0");
    assert_eq!(report["network_boot"][1]["boot_file"], "/isowire/nbd.efi");
    assert_eq!(report["roots"][1]["root"], "NFS");
    let shortfall = report["roots"][1]["shortfall"].as_str().expect("a line");
    assert_eq!(shortfall, "lacks hook archiso_pxe_common, hook archiso_pxe_nfs");
    assert_eq!(report["warnings"], serde_json::json!([]));
}

#[test]
fn foreign_image_keeps_its_entries() {
    needs!(["xorriso", "cpio"]);
    let image = iso::odd("other");
    let (page, result) = inspected(&image, Format::Text);
    result.expect("an archiso image");
    let kernel = |name: &str| {
        format!(
            "/other/boot/x86_64/vmlinuz-{name}, /other/boot/intel-ucode.img, /other/boot/x86_64/initramfs-{name}.img"
        )
    };
    for line in [
        "  install dir     other".to_owned(),
        "  entries         2, from its systemd-boot entries".to_owned(),
        format!("    boots         Other Linux: {}", kernel("linux")),
        "      told        quiet".to_owned(),
        format!("    boots         Other Linux, LTS: {}", kernel("linux-lts")),
        "  BIOS            no: the image has no lpxelinux.0 to boot BIOS machines with".to_owned(),
    ] {
        assert!(page.lines().any(|have| have == line), "no line {line:?} in:\n{page}");
    }
    for name in ["linux", "linux-lts"] {
        let lacks = format!(
            "  root over HTTP  /other/boot/x86_64/initramfs-{name}.img lacks hook archiso_pxe_common, "
        );
        assert!(page.lines().any(|line| line.starts_with(&lacks)), "no line {lacks:?} in:\n{page}");
    }
    let (json, _) = inspected(&image, Format::Json);
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let entries = &report["entries"];
    assert_eq!(entries["origin"], "its systemd-boot entries");
    let [first, lts] = &entries["entries"].as_array().expect("a list")[..] else { panic!("{json}") };
    assert_eq!(first["title"], "Other Linux", "the one that systemd-boot takes by itself comes first");
    assert_eq!(
        (&first["parameters"], &first["root"]),
        (&serde_json::json!(["quiet"]), &serde_json::Value::Null)
    );
    assert_eq!(lts["kernel"], "/other/boot/x86_64/vmlinuz-linux-lts");
    assert_eq!(lts["architecture"], "x86_64");
}

#[test]
fn changed_partition_table_is_reported() {
    needs!(iso::NEEDS);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let changed = scratch.path().join("changed.iso");
    let mut bytes = fs::read(iso::small().path).expect("readable");
    bytes[1024 + 40] ^= 1; // in the partition array
    fs::write(&changed, bytes).expect("written");
    let (page, result) = inspected(&changed, Format::Text);
    result.expect("an archiso image");
    assert!(page.contains("checksums     header good, array bad, backup good"), "{page}");
    assert!(page.contains("Warnings\n  GPT: the checksum of the array is bad\n"), "{page}");
}

#[test]
fn truncated_image_error_is_one_line() {
    needs!(iso::NEEDS);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let cut = scratch.path().join("cut.iso");
    let whole = iso::small().path;
    let size = fs::metadata(&whole).expect("there").len();
    // Even when nothing but the backup of the partition table is missing.
    for len in [size / 2, size - 512] {
        fs::copy(&whole, &cut).expect("copied");
        fs::File::options().write(true).open(&cut).and_then(|file| file.set_len(len)).expect("cut");
        let (page, result) = inspected(&cut, Format::Text);
        let says = format!("{}: truncated: {len} of {size} bytes; ", cut.display());
        let line = result.expect_err("cut off").to_string();
        assert!(line.starts_with(&says) && line.lines().count() == 1, "{line}");
        assert_eq!(page, "");
    }
}

#[test]
fn foreign_iso_is_listed_and_refused() {
    let path = Path::new("/usr/lib/ipxe/ipxe.iso");
    needs!(["/usr/lib/ipxe/ipxe.iso"]);
    for format in [Format::Text, Format::Json] {
        let (report, result) = inspected(path, format);
        assert!(report.contains("ISOIMAGE") && report.contains("UEFI"), "{report}");
        let line = result.expect_err("not archiso's").to_string();
        assert!(line.starts_with("/usr/lib/ipxe/ipxe.iso: not an Arch ISO: "), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn missing_iso_error_is_one_line() {
    let (report, result) =
        inspected(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").as_path(), Format::Text);
    let line = result.expect_err("no ISO").to_string();
    assert!(line.contains("Cargo.toml: not an ISO 9660 image: the file "), "{line}");
    assert_eq!(report, "");
}

#[test]
fn parameters_without_their_files_are_reported() {
    needs!(["xorriso"]);
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let (tree, image) = (scratch.path().join("tree"), scratch.path().join("black.iso"));
    // As in BlackArch's menus; its images have a checksum and no signature.
    let menu = "LABEL a\nLINUX ::/black/boot/x86_64/vmlinuz-linux\n\
                INITRD ::/black/boot/x86_64/initramfs-linux.img\n\
                APPEND archisobasedir=black archiso_nbd_srv=${pxeserver} checksum verify\n";
    for (path, content) in [
        ("black/x86_64/airootfs.sfs", "hsqs"),
        ("black/x86_64/airootfs.sha512", "sum"),
        ("black/boot/x86_64/vmlinuz-linux", "kernel"),
        ("black/boot/x86_64/initramfs-linux.img", "initramfs"),
        ("boot/syslinux/lpxelinux.0", "loader"),
        ("boot/syslinux/black_pxe.cfg", menu),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().expect("below the tree")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    output_of(tool("xorriso").args(["-as", "mkisofs", "-quiet", "-R", "-o"]).args([&image, &tree]));
    let (page, result) = inspected(&image, Format::Text);
    result.expect("an archiso image");
    for line in
        ["      told        checksum", "      not told    verify, which needs /black/x86_64/airootfs.sfs.sig"]
    {
        assert!(page.lines().any(|have| have == line), "no line {line:?} in:\n{page}");
    }
    let (json, _) = inspected(&image, Format::Json);
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let entry = &report["entries"]["entries"][0];
    let left_out = serde_json::json!(["verify, which needs /black/x86_64/airootfs.sfs.sig"]);
    assert_eq!((&entry["parameters"], &entry["left_out"]), (&serde_json::json!(["checksum"]), &left_out));
}
