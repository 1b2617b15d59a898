//! The test ISOs, built once by `tests/iso/build` and `tests/iso/odd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

use super::needs::tool;
use super::running::output_of;

/// The programs that `tests/iso/build` calls.
pub const NEEDS: [&str; 17] = [
    "xorriso",
    "mksquashfs",
    "mkfs.erofs",
    "busybox",
    "curl",
    "nbd-client",
    "openssl",
    "cpio",
    "zstd",
    "depmod",
    "modprobe",
    "mkfs.fat",
    "mcopy",
    "/usr/lib/klibc/bin/ipconfig",
    "/usr/lib/PXELINUX/lpxelinux.0",
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/systemd/boot/efi/systemd-bootx64.efi",
];

/// An ISO laid out as mkarchiso does it, that boots to a userland which hashes `/content`.
pub struct ArchIso {
    pub path: PathBuf,
    /// SHA-256 of `/content` in the root file system, in hexadecimal.
    pub content_sha256: String,
}

/// Builds an image like releng's, but small: about 64 MiB, 24 of them airootfs.sfs.
pub fn small() -> ArchIso {
    built("small", &[])
}

/// Builds [`small`] without a CMS signature.
pub fn without_cms() -> ArchIso {
    built("no-cms", &["--no-cms"])
}

/// Builds [`small`] with airootfs.erofs instead of airootfs.sfs.
pub fn erofs() -> ArchIso {
    built("erofs", &["--erofs"])
}

/// Builds [`small`] with an initramfs of about 280 MiB, larger than that of a real ISO.
pub fn heavy() -> ArchIso {
    built("heavy", &["--initramfs-mib", "280"])
}

/// Builds an image whose root file system is this Debian system with systemd, which reports and powers
/// off when cloud-init is done.
pub fn of_system(system: &Path) -> ArchIso {
    let system = system.to_str().expect("no odd names in target");
    built("system", &["--no-cms", "--system", system])
}

/// Builds an image of about 600 MiB, the size of older real ones.
pub fn large() -> ArchIso {
    built("large", &["--airootfs-mib", "563"])
}

/// Builds [`small`] in the layout of another distribution: install directory `other`, a kernel in
/// `/boot`, and an entry for systemd-boot as its only menu. PXELINUX is there.
pub fn other_distribution() -> ArchIso {
    const ENTRY: &str = "title Other Linux\nlinux /boot/vmlinuz-other\ninitrd /boot/other.img\n\
                         options archisobasedir=other archisolabel=OTHER console=ttyS0,115200 panic=1\n";
    let small = small();
    let _building = BUILDING.lock();
    let path = directory().join("other-distribution.iso");
    let scratch = tempfile::tempdir_in(directory()).expect("cargo's directory for tests is writable");
    let tree = scratch.path().join("tree");
    output_of(
        tool("xorriso")
            .args(["-no_rc", "-osirrox", "on", "-indev"])
            .arg(&small.path)
            .args(["-extract", "/"])
            .arg(&tree),
    );
    output_of(Command::new("chmod").args(["-R", "u+w"]).arg(&tree));
    for (from, to) in [
        ("arch/boot/x86_64/vmlinuz-linux", "boot/vmlinuz-other"),
        ("arch/boot/x86_64/initramfs-linux.img", "boot/other.img"),
        ("arch", "other"),
    ] {
        fs::rename(tree.join(from), tree.join(to)).expect("it was extracted");
    }
    for menu in fs::read_dir(tree.join("boot/syslinux")).expect("it was extracted") {
        let menu = menu.expect("readable").path();
        if menu.extension().is_some_and(|extension| extension == "cfg") {
            fs::remove_file(menu).expect("it is ours");
        }
    }
    fs::write(tree.join("loader/entries/01-archiso-linux.conf"), ENTRY).expect("it is ours");
    output_of(
        tool("xorriso")
            .args(["-no_rc", "-report_about", "SORRY", "-as", "mkisofs", "-rational-rock", "-volid", "OTHER"])
            .arg("-output")
            .arg(&path)
            .arg(&tree),
    );
    ArchIso { path, ..small }
}

/// Builds an image in which nothing boots, by xorriso alone.
pub fn bare(dir: &Path) -> PathBuf {
    let (tree, iso) = (dir.join("tree"), dir.join("arch.iso"));
    fs::create_dir(&tree).expect("the test's own directory");
    fs::write(tree.join("file"), "text").expect("the test's own directory");
    let mut xorriso = tool("xorriso");
    output_of(xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V", "BARE", "-o"]).arg(&iso).arg(tree));
    iso
}

/// Builds an image in which nothing boots, with `len` bytes in `/arch/noise` that no other `seed` has.
pub fn noise(iso: &Path, seed: u8, len: usize) {
    let tree = iso.with_extension("tree");
    fs::create_dir_all(tree.join("arch")).expect("the test's own directory");
    let words = (0..len as u32 / 4).map(|n| n.wrapping_mul(2_654_435_761 + u32::from(seed)));
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    fs::write(tree.join("arch/noise"), bytes).expect("the test's own directory");
    let mut xorriso = tool("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V"]).arg(format!("SEED{seed}"));
    output_of(xorriso.arg("-o").arg(iso).arg(&tree));
    fs::remove_dir_all(tree).expect("it was made here");
}

/// Builds the image of this name by `tests/iso/odd`.
pub fn odd(name: &str) -> PathBuf {
    let _building = BUILDING.lock();
    let (dir, script) = (directory().join("odd"), script("odd"));
    let iso = dir.join(name).with_extension("iso");
    if modified(&iso) < modified(&script) {
        output_of(Command::new(script).arg(&dir).arg(name));
    }
    iso
}

/// Lock for building: tests run in parallel, and two of them may need the same image.
static BUILDING: Mutex<()> = Mutex::new(());

fn built(name: &str, options: &[&str]) -> ArchIso {
    let _building = BUILDING.lock();
    let path = directory().join(name).with_extension("iso");
    output_of(Command::new(script("build")).arg(&path).args(options));
    let sum = fs::read_to_string(path.with_extension("iso.sha256")).expect("written by tests/iso/build");
    ArchIso { path, content_sha256: sum.trim().to_owned() }
}

/// Returns when a file was changed last; `None` if it does not exist.
fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|file| file.modified()).ok()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/iso").join(name)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("iso")
}
