//! Diskless machines in QEMU: with SeaBIOS, which boots by the iPXE ROM of the network card, or
//! with OVMF, which boots by itself.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::lan::Lan;
use super::running::{Running, output_of, text_of};

pub const NEEDS: [&str; 1] = ["qemu-system-x86_64"];
pub const UEFI_NEEDS: [&str; 2] = [OVMF, OVMF_VARIABLES];

const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

const SNAKEOIL_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd";

/// The key in its db, with the password `snakeoil`, and the certificate.
pub const SNAKEOIL_KEY: &str = "/usr/share/ovmf/PkKek-1-snakeoil.key";
pub const SNAKEOIL_CERTIFICATE: &str = "/usr/share/ovmf/PkKek-1-snakeoil.pem";
pub const SECURE_NEEDS: [&str; 4] = [OVMF, SNAKEOIL_VARIABLES, SNAKEOIL_KEY, "openssl"];

/// From power on to power off. Everything is emulated, perhaps on a loaded machine.
const BOOT_LIMIT: Duration = Duration::from_secs(420);

const BETWEEN_KEYS: Duration = Duration::from_secs(1);

/// Keys by QEMU's names.
pub const ENTER: &str = "ret";
pub const DOWN: &str = "down";
pub const END: &str = "end";
pub const UP: &str = "up";

/// The MAC address of a machine, unless it is given another.
pub const MAC: &str = "52:54:00:12:34:56";

/// The UUID of a machine, without its MAC address at the end.
pub const UUID: &str = "a0b1c2d3-e4f5-4678-9abc-";

/// Network cards, whose ROMs and drivers differ.
#[derive(Clone, Copy)]
pub enum Card {
    E1000,
    Virtio,
    VirtioWithoutRom,
    /// The same, before all disks.
    VirtioFirst,
}

/// Ways in which UEFI boots from the network.
#[derive(Clone, Copy)]
pub enum Uefi<'a> {
    Pxe,
    Http,
    /// PXE, of a firmware that forbids memory that is both writable and executable.
    StrictPxe,
    /// PXE, of a firmware with Secure Boot that knows Debian's snakeoil key.
    SecurePxe,
    /// HTTP Boot of the same.
    SecureHttp,
    /// iPXE in the ROM of the card, which the firmware runs instead of its own PXE.
    IpxeRom,
    /// A program in this directory, `EFI/BOOT/BOOTX64.EFI`, before the network.
    Disk(&'a Path),
    /// The same, after PXE.
    PxeThenDisk(&'a Path),
}

pub struct Machine {
    qemu: Running,
    serial: PathBuf,
    monitor: PathBuf,
}

impl Machine {
    /// Powers on a machine on `lan` that boots by PXE. Its serial console is logged to `serial.log`
    /// in `dir`.
    pub fn power_on(lan: &mut Lan, card: Card, dir: &Path) -> Machine {
        Self::power_on_as(MAC, lan, card, dir)
    }

    /// Powers on a machine with this MAC address.
    pub fn power_on_as(mac: &str, lan: &mut Lan, card: Card, dir: &Path) -> Machine {
        Self::start(mac, lan, card, dir, &["-boot", "n"])
    }

    /// Powers on a machine with this MAC address that boots by PXE, and then from a disk.
    pub fn power_on_with_disk(mac: &str, lan: &mut Lan, card: Card, dir: &Path, disk: &Path) -> Machine {
        // Several machines may have the same disk: what they write goes nowhere.
        let disk = format!("if=ide,index=0,media=disk,format=raw,snapshot=on,file={}", disk.display());
        Self::start(mac, lan, card, dir, &["-boot", "order=nc", "-drive", &disk])
    }

    /// Powers on a machine with UEFI. Its card has a ROM only for [`Uefi::IpxeRom`], so that the
    /// firmware uses its own driver; it has none for QEMU's e1000.
    pub fn power_on_uefi(lan: &mut Lan, uefi: Uefi<'_>, dir: &Path) -> Machine {
        Self::power_on_uefi_as(MAC, lan, uefi, dir)
    }

    /// The same with this MAC address.
    pub fn power_on_uefi_as(mac: &str, lan: &mut Lan, uefi: Uefi<'_>, dir: &Path) -> Machine {
        let variables = dir.join("variables.fd");
        let (code, template) = match uefi {
            Uefi::StrictPxe => strict_firmware(),
            Uefi::SecurePxe | Uefi::SecureHttp => (OVMF.into(), SNAKEOIL_VARIABLES.into()),
            _ => (OVMF.into(), OVMF_VARIABLES.into()),
        };
        fs::copy(template, &variables).expect("cargo's directory for tests is writable");
        let flash = |file: &Path, more| format!("if=pflash,format=raw,file={}{more}", file.display());
        let (code, variables) = (flash(&code, ",readonly=on"), flash(&variables, ""));
        let mut boot = vec!["-drive", &code, "-drive", &variables];
        if let Uefi::StrictPxe = uefi {
            // This firmware keeps its variables where only system management mode may write.
            boot.extend([
                "-machine",
                "q35,smm=on",
                "-global",
                "driver=cfi.pflash01,property=secure,value=on",
            ]);
        }
        boot.extend(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
        if let Uefi::Http | Uefi::SecureHttp = uefi {
            boot.extend(["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]);
        }
        let disk = match uefi {
            Uefi::Disk(files) | Uefi::PxeThenDisk(files) => {
                format!("if=none,id=disk,format=raw,readonly=on,file=fat:{}", files.display())
            }
            _ => String::new(),
        };
        match uefi {
            Uefi::Disk(_) => {
                boot.extend(["-drive", &disk, "-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
            }
            Uefi::PxeThenDisk(_) => {
                boot.extend(["-drive", &disk, "-device", "virtio-blk-pci,drive=disk,bootindex=2"]);
            }
            _ => {}
        }
        let card = match uefi {
            Uefi::IpxeRom => Card::Virtio,
            Uefi::PxeThenDisk(_) => Card::VirtioFirst,
            _ => Card::VirtioWithoutRom,
        };
        Self::start(mac, lan, card, dir, &boot)
    }

    /// Powers on a machine that has its kernel and initramfs already, and runs `/init` of the
    /// initramfs.
    pub fn boot(lan: &mut Lan, dir: &Path, kernel: &Path, initramfs: &Path, command_line: &str) -> Machine {
        let path = |path: &Path| path.to_str().expect("no odd names in target").to_owned();
        let (kernel, initramfs) = (path(kernel), path(initramfs));
        let boot = ["-kernel", &kernel, "-initrd", &initramfs, "-append", command_line];
        Self::start(MAC, lan, Card::Virtio, dir, &boot)
    }

    fn start(mac: &str, lan: &mut Lan, card: Card, dir: &Path, boot: &[&str]) -> Machine {
        let serial = dir.join("serial.log");
        // Until QEMU opens the file, the log of an earlier machine would be taken for this one's.
        let _ = fs::remove_file(&serial);
        // A socket's path has to be short, and `dir` may be deep.
        let tap = lan.tap();
        let monitor = std::env::temp_dir().join(format!("{}-{tap}.monitor", lan.name()));
        let uuid = format!("{UUID}{}", mac.replace(':', ""));
        let model = match card {
            Card::E1000 => "e1000",
            Card::Virtio => "virtio-net-pci",
            Card::VirtioWithoutRom => "virtio-net-pci,romfile=",
            Card::VirtioFirst => "virtio-net-pci,romfile=,bootindex=1",
        };
        let mut command = lan.command("qemu-system-x86_64");
        command
            .args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-display", "none", "-no-reboot"])
            .args(["-nodefaults", "-vga", "std", "-uuid", &uuid])
            .args(boot)
            .args(["-serial", &format!("file:{}", serial.display())])
            .args(["-monitor", &format!("unix:{},server=on,wait=off", monitor.display())])
            .args(["-netdev", &format!("tap,id=lan,ifname={tap},script=no,downscript=no")])
            .args(["-device", &format!("{model},netdev=lan,mac={mac}")]);
        Machine { qemu: Running::start(&mut command, &dir.join("qemu.log")), serial, monitor }
    }

    /// Waits until `text` appears on the serial console.
    pub fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + BOOT_LIMIT;
        while !text_of(&self.serial).contains(text) {
            let ended = self.qemu.wait(Duration::from_millis(100)).is_some();
            assert!(!ended && Instant::now() < end, "no `{text}` on the console:\n{}", self.console());
        }
    }

    /// Presses keys as slowly as a person: a loader drops keys while it draws its menu.
    pub fn press(&self, keys: &[&str]) {
        let mut monitor = UnixStream::connect(&self.monitor).expect("QEMU listens to its monitor");
        for key in keys {
            sleep(BETWEEN_KEYS);
            writeln!(monitor, "sendkey {key}").expect("QEMU reads its monitor");
        }
        // If the connection were closed at once, the last key would be lost.
        sleep(BETWEEN_KEYS);
    }

    /// Waits until the machine has powered itself off.
    pub fn run_to_power_off(mut self) -> Report {
        if self.qemu.wait(BOOT_LIMIT).is_none() {
            panic!("still on after {BOOT_LIMIT:?}:\n{}\n{}", self.qemu.log(), self.console());
        }
        Report { console: self.console() }
    }

    /// Returns what stands on the serial console.
    pub fn console(&self) -> String {
        text_of(&self.serial)
    }
}

/// Returns a newer OVMF and its variables, which are downloaded once.
fn strict_firmware() -> (PathBuf, PathBuf) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ovmf");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/newer");
    output_of(Command::new(script).arg("ovmf").arg(&dir));
    (dir.join("strictnx.fd"), dir.join("variables.fd"))
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.monitor);
    }
}

/// Report of a booted guest on its console (`tests/iso/initramfs`).
pub struct Report {
    console: String,
}

impl Report {
    /// Returns everything that stood on the console.
    pub fn console(&self) -> &str {
        &self.console
    }

    /// Returns the rest of the guest's last line that begins with `name`.
    pub fn value(&self, name: &str) -> &str {
        self.console
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("isowire-test: ")?.strip_prefix(name))
            .map(str::trim_start)
            .next_back()
            .unwrap_or_else(|| panic!("the guest did not say `{name}`:\n{}", self.console))
    }
}
