//! A diskless PC: QEMU with SeaBIOS, whose network card's iPXE ROM boots by PXE, or with OVMF, which boots by itself.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::lan::Lan;
use super::running::{Running, text_of};

pub const NEEDS: [&str; 1] = ["qemu-system-x86_64"];
pub const UEFI_NEEDS: [&str; 2] = [OVMF, OVMF_VARIABLES];

const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

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

/// The network cards whose ROMs and drivers differ.
#[derive(Clone, Copy)]
pub enum Card {
    E1000,
    Virtio,
    VirtioWithoutRom,
}

/// What UEFI boots from the network by.
#[derive(Clone, Copy)]
pub enum Uefi {
    Pxe,
    Http,
    /// iPXE in the ROM of the card, which the firmware runs in its place.
    IpxeRom,
}

pub struct Machine {
    qemu: Running,
    serial: PathBuf,
    monitor: PathBuf,
}

impl Machine {
    /// Powers on a machine on `lan`, which boots by PXE; its serial console is logged to `serial.log` in `dir`.
    pub fn power_on(lan: &mut Lan, card: Card, dir: &Path) -> Machine {
        Self::power_on_as(MAC, lan, card, dir)
    }

    /// The same for a machine of this MAC address.
    pub fn power_on_as(mac: &str, lan: &mut Lan, card: Card, dir: &Path) -> Machine {
        Self::start(mac, lan, card, dir, &["-boot", "n"])
    }

    /// Powers on a machine with UEFI. Unless it is to be used, its card has no ROM, so that the firmware's own drivers are:
    /// it has none for QEMU's e1000.
    pub fn power_on_uefi(lan: &mut Lan, uefi: Uefi, dir: &Path) -> Machine {
        let variables = dir.join("variables.fd");
        std::fs::copy(OVMF_VARIABLES, &variables).expect("cargo's directory for tests is writable");
        let flash = |file: &str, more| format!("if=pflash,format=raw,file={file}{more}");
        let (code, variables) = (flash(OVMF, ",readonly=on"), flash(&variables.display().to_string(), ""));
        let mut boot = vec!["-drive", &code, "-drive", &variables];
        boot.extend(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
        if let Uefi::Http = uefi {
            boot.extend(["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]);
        }
        let card = if let Uefi::IpxeRom = uefi { Card::Virtio } else { Card::VirtioWithoutRom };
        Self::start(MAC, lan, card, dir, &boot)
    }

    /// Powers on a machine that has its kernel and initramfs already, and runs `/init` of the latter by `command_line`.
    pub fn boot(lan: &mut Lan, dir: &Path, kernel: &Path, initramfs: &Path, command_line: &str) -> Machine {
        let path = |path: &Path| path.to_str().expect("no odd names in target").to_owned();
        let (kernel, initramfs) = (path(kernel), path(initramfs));
        let boot = ["-kernel", &kernel, "-initrd", &initramfs, "-append", command_line];
        Self::start(MAC, lan, Card::Virtio, dir, &boot)
    }

    fn start(mac: &str, lan: &mut Lan, card: Card, dir: &Path, boot: &[&str]) -> Machine {
        let serial = dir.join("serial.log");
        // What a machine before this one said would be taken for its words until QEMU has opened the file.
        let _ = fs::remove_file(&serial);
        // A socket's path has to be short, and `dir` may be deep.
        let tap = lan.tap();
        let monitor = std::env::temp_dir().join(format!("{}-{tap}.monitor", lan.name()));
        let model = match card {
            Card::E1000 => "e1000",
            Card::Virtio => "virtio-net-pci",
            Card::VirtioWithoutRom => "virtio-net-pci,romfile=",
        };
        let mut command = lan.command("qemu-system-x86_64");
        command
            .args(["-accel", "tcg", "-cpu", "max", "-m", "1024", "-display", "none", "-no-reboot"])
            .args(["-nodefaults", "-vga", "std"])
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

    /// Presses keys, as slowly as a person: a loader drops what comes while it draws its menu.
    pub fn press(&self, keys: &[&str]) {
        let mut monitor = UnixStream::connect(&self.monitor).expect("QEMU listens to its monitor");
        for key in keys {
            sleep(BETWEEN_KEYS);
            writeln!(monitor, "sendkey {key}").expect("QEMU reads its monitor");
        }
        // Closed at once the last would be lost with the connection.
        sleep(BETWEEN_KEYS);
    }

    /// Waits until the machine has powered itself off.
    pub fn run_to_power_off(mut self) -> Report {
        if self.qemu.wait(BOOT_LIMIT).is_none() {
            panic!("still on after {BOOT_LIMIT:?}:\n{}\n{}", self.qemu.log(), self.console());
        }
        Report { console: self.console() }
    }

    fn console(&self) -> String {
        text_of(&self.serial)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.monitor);
    }
}

/// What a booted guest said of itself (`tests/iso/initramfs`).
pub struct Report {
    console: String,
}

impl Report {
    /// The rest of the guest's line that begins with `name`.
    pub fn value(&self, name: &str) -> &str {
        self.console
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("isowire-test: ")?.strip_prefix(name))
            .map(str::trim_start)
            .next_back()
            .unwrap_or_else(|| panic!("the guest did not say `{name}`:\n{}", self.console))
    }
}
