//! Boot plans: from what a machine says of itself to the program its firmware loads and the menu that program shows.
//!
//! Everything here is a pure decision. `dhcp` asks [`plan`] what to offer; `tftp` serves what was offered.

pub mod bootable;
pub mod files;
pub mod leased;
mod mac;
pub mod menu;
mod quirks;
pub mod syslinux;
pub mod text;
pub mod uefi;
pub mod uki;

use std::fmt;
use std::net::Ipv4Addr;

use menu::{Ports, Root, Server};
use uefi::ProgramName;

pub use files::Files;
pub use leased::Leased;
pub use mac::{BadMac, Mac};
pub use quirks::{Quirk, Quirks, UnknownQuirk};
pub use uefi::NoUefi;

/// A machine, as far as its boot depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Machine {
    pub firmware: Firmware,
    pub architecture: Architecture,
    /// `None` where its link has none, as InfiniBand.
    pub mac: Option<Mac>,
}

/// The program that asks for a boot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// A PXE ROM or UEFI PXE (vendor class `PXEClient`).
    Pxe,
    /// UEFI HTTP Boot (vendor class `HTTPClient`).
    HttpBoot,
    /// iPXE (user class `iPXE`), be it the network card's ROM or a program loaded before.
    Ipxe,
}

/// Client system architecture: the number in DHCP option 93 (RFC 4578 §2.1, and IANA's "Processor Architecture
/// Types", where later numbers are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Architecture(pub u16);

impl Architecture {
    /// Intel x86 with a BIOS; also what a machine is that does not send option 93.
    pub const BIOS: Architecture = Architecture(0);
    /// x86-64 with UEFI.
    pub const UEFI: Architecture = Architecture(7);
    /// EFI byte code by the registry; much firmware of x86-64 machines says so.
    pub const EBC: Architecture = Architecture(9);
    /// x86-64 with UEFI HTTP Boot.
    pub const UEFI_HTTP: Architecture = Architecture(16);

    /// The registry's word for the number.
    const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "x86 BIOS",
            1 => "NEC PC-98",
            2 => "Itanium",
            6 => "x86 UEFI",
            7 => "x64 UEFI",
            9 => "EBC",
            10 => "ARM 32-bit UEFI",
            11 => "ARM 64-bit UEFI",
            15 => "x86 UEFI boot from HTTP",
            16 => "x64 UEFI boot from HTTP",
            17 => "EBC boot from HTTP",
            18 => "ARM 32-bit UEFI boot from HTTP",
            19 => "ARM 64-bit UEFI boot from HTTP",
            20 => "x86 BIOS boot from HTTP",
            25 => "RISC-V 32-bit UEFI",
            27 => "RISC-V 64-bit UEFI",
            _ => return None,
        })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "architecture {}", self.0),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.firmware {
            Firmware::Pxe | Firmware::HttpBoot => write!(f, "{}", self.architecture),
            Firmware::Ipxe => write!(f, "{}, iPXE", self.architecture),
        }
    }
}

/// What this site has to boot machines with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    bios_loader: Option<String>,
    uefi: Result<Uefi, NoUefi>,
}

/// What UEFI machines are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uefi {
    /// The root file system they get.
    pub root: Root,
    pub ports: Ports,
}

impl Site {
    /// `bios_loader`: path of `lpxelinux.0` from the root of the TFTP tree, without a leading `/`; `None` where the
    /// image has none. A path that cannot go into a DHCP reply counts as none. `uefi`: what there is for UEFI machines,
    /// or why there is nothing.
    pub fn new(bios_loader: Option<&str>, uefi: Result<Uefi, NoUefi>) -> Self {
        let bios_loader = bios_loader.map(|path| format!("/{path}")).filter(|path| fits_dhcp(path));
        Self { bios_loader, uefi }
    }

    /// What BIOS machines load, as in their boot plan.
    pub fn boot_file(&self) -> Option<&str> {
        self.bios_loader.as_deref()
    }

    /// What every UEFI machine with one network card can load, as in a boot plan.
    pub fn uefi_boot_file(&self) -> Option<String> {
        let Uefi { root, .. } = self.uefi.as_ref().ok()?;
        Some(format!("/{}", ProgramName { machine: None, root: *root }))
    }
}

/// True for text that may stand in a DHCP reply: it fits the BOOTP `file` field with its NUL (RFC 2131 §2), and its
/// characters mean nothing to the shell of an initramfs that sources what `ipconfig` wrote.
fn fits_dhcp(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/:-".contains(&b);
    text.len() < 128 && text.bytes().all(plain)
}

/// Where the menu is in the tree that machines load from.
pub const MENU_PATH: &str = "isowire/pxelinux.cfg";

/// Option 209 of every PXELINUX plan. PXELINUX puts its path prefix before any name that is no URL, a leading `/` or
/// not; the form `::name` names a file of the TFTP server itself (core/fs/pxe/urlparse.c).
pub const MENU: &str = "::/isowire/pxelinux.cfg";

/// What to offer a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPlan {
    /// The program to load, a path or for HTTP Boot a URL: `file` and option 67. Only characters that are plain to a
    /// shell, at most 127.
    pub boot_file: String,
    /// The program's configuration: option 209 (RFC 5071 §4).
    pub config_file: Option<String>,
    /// In what way DHCP tells it, where the machine needs another one.
    pub quirks: Quirks,
}

/// Why a machine gets no boot plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{0} machines are not served: an Arch ISO boots x86-64 ones, by BIOS, UEFI PXE or UEFI HTTP boot"
    )]
    Architecture(Architecture),
    #[error("the image has no lpxelinux.0 to boot BIOS machines with")]
    NoLoader,
    #[error("nothing to boot UEFI machines with: {0}")]
    NoUefi(#[from] NoUefi),
    #[error("UEFI HTTP boot needs HTTP, which is off: choose PXE in the firmware")]
    NoHttp,
    // It would hand the program its name for a command line, which systemd's stub takes in place of the one in it.
    #[error("iPXE under UEFI is not served yet: let the firmware itself boot from the network")]
    UefiIpxe,
}

/// Decides what `machine` boots, which reaches us at `server`.
///
/// # Errors
/// [`Refusal`] says, for the log, why there is nothing for this machine.
pub fn plan(machine: &Machine, server: Ipv4Addr, site: &Site) -> Result<BootPlan, Refusal> {
    match (machine.firmware, machine.architecture) {
        // iPXE in a BIOS runs lpxelinux on its own UNDI like any PXE ROM, so the image's own loader serves both.
        (Firmware::Pxe | Firmware::Ipxe, Architecture::BIOS) => pxelinux(site),
        (Firmware::Pxe, Architecture::UEFI | Architecture::EBC) => program(machine, site),
        (Firmware::HttpBoot, Architecture::UEFI_HTTP) => program_by_http(machine, server, site),
        (Firmware::Ipxe, Architecture::UEFI | Architecture::EBC) => Err(Refusal::UefiIpxe),
        (_, architecture) => Err(Refusal::Architecture(architecture)),
    }
}

fn pxelinux(site: &Site) -> Result<BootPlan, Refusal> {
    let boot_file = site.bios_loader.clone().ok_or(Refusal::NoLoader)?;
    Ok(BootPlan { boot_file, config_file: Some(MENU.to_owned()), quirks: Quirks::default() })
}

fn program(machine: &Machine, site: &Site) -> Result<BootPlan, Refusal> {
    let Uefi { root, .. } = site.uefi.clone()?;
    let name = ProgramName { machine: machine.mac, root };
    Ok(BootPlan { boot_file: format!("/{name}"), config_file: None, quirks: Quirks::default() })
}

fn program_by_http(machine: &Machine, server: Ipv4Addr, site: &Site) -> Result<BootPlan, Refusal> {
    let Uefi { root, ports } = site.uefi.clone()?;
    let prefix = Server { address: server, ports }.http_prefix().ok_or(Refusal::NoHttp)?;
    let name = ProgramName { machine: machine.mac, root };
    Ok(BootPlan { boot_file: format!("{prefix}{name}"), config_file: None, quirks: Quirks::default() })
}

#[cfg(test)]
mod tests;
