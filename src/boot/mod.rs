//! Boot plans: from what a machine says of itself to the program its firmware loads and the menu that program shows.
//!
//! Everything here is a pure decision. `dhcp` asks [`plan`] what to offer; `tftp` serves what was offered.

pub mod files;
pub mod generated;
mod image_boot;
pub mod leased;
pub mod menu;
mod quirks;
pub mod rules;
mod targets;
pub mod uefi;

use std::fmt;
use std::net::Ipv4Addr;

use generated::{GeneratedKind, GeneratedPath, Recipient};
use menu::{Root, Server};
use rules::{Client, Rule};

pub use crate::mac::{Mac, MacError, MacPrefix};
pub use files::Files;
pub use leased::Leased;
pub use quirks::{Quirk, Quirks, UnknownQuirkError};
pub use rules::Rules;
pub use targets::{BootTargets, UefiBy};
pub use uefi::UefiError;

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

/// True for text that may stand in a DHCP reply: it fits the BOOTP `file` field with its NUL (RFC 2131 §2), and its
/// characters mean nothing to the shell of an initramfs that sources what `ipconfig` wrote.
fn fits_dhcp(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/:-".contains(&b);
    text.len() < 128 && text.bytes().all(plain)
}

/// What stands before the path of the menu in option 209. PXELINUX puts its path prefix before any name that is no URL, a
/// leading `/` or not; the form `::name` names a file of the TFTP server itself (core/fs/pxe/urlparse.c).
pub const FROM_ROOT: &str = "::/";

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
    NoUefi(#[from] UefiError),
    #[error("UEFI HTTP boot needs HTTP, which is off: choose PXE in the firmware")]
    NoHttp,
    // It would hand the program its name for a command line, which systemd's stub takes in place of the one in it.
    #[error("its iPXE may run no script by a rule, and can load nothing else under UEFI")]
    NoScript,
}

/// Decides what `machine`, of this DHCP vendor class, boots, which reaches us at `server`.
///
/// # Errors
/// [`Refusal`] says, for the log, why there is nothing for this machine.
pub fn plan(
    machine: &Machine,
    vendor_class: &[u8],
    server: Ipv4Addr,
    site: &BootTargets,
) -> Result<BootPlan, Refusal> {
    let client = Client { mac: machine.mac, architecture: Some(machine.architecture), vendor_class };
    let rule = site.rules().find(&client);
    let server = Server { address: server, ports: site.ports };
    let planner = Planner { site, server, recipient: site.rules().recipient(&client), rule };
    planner.plan(machine)
}

struct Planner<'a> {
    site: &'a BootTargets,
    server: Server,
    recipient: Recipient,
    rule: Option<&'a Rule>,
}

impl Planner<'_> {
    fn plan(&self, machine: &Machine) -> Result<BootPlan, Refusal> {
        let runs_scripts = !self.quirks().has(Quirk::NoScript);
        match (machine.firmware, machine.architecture) {
            (Firmware::Ipxe, Architecture::BIOS | Architecture::UEFI | Architecture::EBC) if runs_scripts => {
                Ok(self.script())
            }
            (Firmware::Pxe | Firmware::Ipxe, Architecture::BIOS) => self.pxelinux(),
            (Firmware::Pxe, Architecture::UEFI | Architecture::EBC) => {
                self.program().map(|path| self.by_tftp(&path))
            }
            (Firmware::HttpBoot, Architecture::UEFI_HTTP) => {
                self.by_http(&self.program()?).ok_or(Refusal::NoHttp)
            }
            (Firmware::Ipxe, Architecture::UEFI | Architecture::EBC) => Err(Refusal::NoScript),
            (_, architecture) => Err(Refusal::Architecture(architecture)),
        }
    }

    fn quirks(&self) -> Quirks {
        self.rule.map(|rule| rule.quirks).unwrap_or_default()
    }

    fn pxelinux(&self) -> Result<BootPlan, Refusal> {
        let boot_file = self.site.boot_file().ok_or(Refusal::NoLoader)?.to_owned();
        let config_file = Some(format!("{FROM_ROOT}{}", self.made(GeneratedKind::Menu)));
        Ok(BootPlan { boot_file, config_file, quirks: self.quirks() })
    }

    /// By HTTP it comes faster, and the log tells of it in the words that kernels are told in.
    fn script(&self) -> BootPlan {
        let path = self.made(GeneratedKind::Script);
        self.by_http(&path).unwrap_or_else(|| self.by_tftp(&path))
    }

    /// What UEFI itself loads.
    fn program(&self) -> Result<GeneratedPath, Refusal> {
        Ok(self.made(match self.site.uefi_by {
            UefiBy::Ipxe => GeneratedKind::Ipxe,
            UefiBy::Composed => GeneratedKind::Program(self.root()?),
        }))
    }

    /// The root that the rule names, where there is a program with it, else the image's first.
    fn root(&self) -> Result<Root, UefiError> {
        let image = self.rule.and_then(|rule| rule.image.as_ref());
        let preferred = self.rule.and_then(|rule| rule.overrides.root);
        self.site.program_root(image, preferred)
    }

    fn made(&self, kind: GeneratedKind) -> GeneratedPath {
        GeneratedPath { recipient: self.recipient, kind }
    }

    fn by_tftp(&self, path: &GeneratedPath) -> BootPlan {
        BootPlan { boot_file: format!("/{path}"), config_file: None, quirks: self.quirks() }
    }

    fn by_http(&self, path: &GeneratedPath) -> Option<BootPlan> {
        let boot_file = format!("{}{path}", self.server.http_url()?);
        Some(BootPlan { boot_file, config_file: None, quirks: self.quirks() })
    }
}

#[cfg(test)]
pub(crate) mod tests;
