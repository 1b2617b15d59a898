//! Boot plans: from the description of a client to the program that its firmware loads and the menu
//! that the program shows.
//!
//! Everything here is a pure decision. `dhcp` offers the boot file of [`plan`]; `tftp` and `http`
//! serve it from [`Files`].

mod client;
mod config;
mod file;
mod file_server;
pub mod files;
pub(crate) mod generated;
mod generator;
mod image_boot;
pub(crate) mod leased;
pub mod menu;
pub(crate) mod next;
pub(crate) mod operator_path;
mod quirks;
mod requester;
pub(crate) mod rules;
pub(crate) mod seed;
mod targets;
pub(crate) mod uefi;

use std::net::Ipv4Addr;

use generated::{GeneratedKind, GeneratedPath, Recipient};
use next::NextBoot;
use rules::{Rule, Selection};

use crate::bootable::Root;
use crate::text::{SafeText, UnsafeTextError};

pub(crate) use crate::mac::{Mac, MacPrefix};
pub use client::{Architecture, Client, Firmware, Platform};
pub(crate) use config::ImageUserData;
pub use config::{BootConfig, UefiBy};
pub use file::{ServedFile, Version};
pub(crate) use file_server::FileServer;
pub use file_server::Ports;
pub use files::Files;
pub(crate) use generated::ImageNumber;
pub(crate) use leased::Leased;
pub(crate) use quirks::{Quirk, Quirks, UnknownQuirkError};
pub(crate) use requester::ADVICE;
pub use requester::Requester;
pub(crate) use rules::Rules;
pub use targets::BootTargets;
#[cfg(test)]
pub(crate) use targets::IpxePrograms;
pub(crate) use uefi::UefiError;

/// Prefix of the menu's path in option 209. PXELINUX puts its own path prefix before every name
/// that is not a URL, with or without a leading `/`; `::name` is a file of the TFTP server itself
/// (syslinux, core/fs/pxe/urlparse.c).
pub(crate) const FROM_ROOT: &str = "::/";

/// The boot file for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootPlan {
    /// The program to load, a path or for HTTP Boot a URL: `file` and option 67.
    pub boot_file: SafeText,
    /// The program's configuration: option 209 (RFC 5071 §4).
    pub config_file: Option<SafeText>,
    /// Deviations of the reply that the client's firmware needs.
    pub quirks: Quirks,
}

/// Reason why a client gets no boot plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{0} machines are not served: an Arch ISO boots x86-64 ones, by BIOS, UEFI PXE or UEFI HTTP boot"
    )]
    Architecture(Architecture),
    #[error("the image has no lpxelinux.0 to boot BIOS machines with")]
    NoLoader,
    #[error("no boot program for UEFI machines: {0}")]
    NoUefi(#[from] UefiError),
    #[error("UEFI HTTP boot needs HTTP, which is off: choose PXE in the firmware")]
    NoHttp,
    // Under UEFI, iPXE passes a boot program its own name as the command line. systemd-stub prefers
    // that to the command line inside the program.
    #[error("a rule forbids scripts for this iPXE, and under UEFI iPXE can load nothing else")]
    NoScript,
    #[error("it boots from its local disk, as `once` or `isowire next` says")]
    LocalDisk,
    #[error("name of the boot file: {0}")]
    UnsafeName(#[from] UnsafeTextError),
}

/// Plans the boot of a client that reaches us at `server`. `selection` is the result of
/// [`Rules::select`] for it.
///
/// # Errors
/// [`Refusal`] gives the reason for the log.
pub(crate) fn plan(
    platform: Platform,
    selection: &Selection<'_>,
    server: Ipv4Addr,
    targets: &BootTargets,
) -> Result<BootPlan, Refusal> {
    let server = FileServer { address: server, ports: targets.ports };
    let Selection { rule, recipient } = *selection;
    let next = targets.rules().next().of(recipient.machine);
    let planner = Planner { targets, server, recipient, rule, next };
    // A client that gets no file goes on by itself, with its next boot device.
    planner.plan(platform).map_err(|refusal| if planner.is_local() { Refusal::LocalDisk } else { refusal })
}

struct Planner<'a> {
    targets: &'a BootTargets,
    server: FileServer,
    recipient: Recipient,
    rule: Option<&'a Rule>,
    next: Option<NextBoot>,
}

impl Planner<'_> {
    fn plan(&self, platform: Platform) -> Result<BootPlan, Refusal> {
        let runs_scripts = !self.quirks().has(Quirk::NoScript);
        match (platform.firmware, platform.architecture) {
            // iPXE under UEFI names the architecture as the firmware does.
            (Firmware::Ipxe, Architecture::BIOS | Architecture::UEFI | Architecture::EBC) if runs_scripts => {
                self.script()
            }
            (Firmware::LimitedIpxe { is_retry }, Architecture::BIOS)
                if runs_scripts && self.targets.ipxe.bios && !is_retry =>
            {
                self.by_tftp(&self.generated(GeneratedKind::BiosIpxe))
            }
            (Firmware::LimitedIpxe { is_retry }, Architecture::UEFI | Architecture::EBC) if runs_scripts => {
                // Scripts run on every iPXE. Without ours, this one boots by the little that it
                // has.
                let is_replaced = self.targets.ipxe.uefi && !is_retry;
                let kind = if is_replaced { GeneratedKind::Ipxe } else { GeneratedKind::TftpScript };
                self.by_tftp(&self.generated(kind))
            }
            (Firmware::Pxe | Firmware::Ipxe | Firmware::LimitedIpxe { .. }, Architecture::BIOS) => {
                self.pxelinux()
            }
            // RFC 4578 §2.1 has 7 for EBC and 9 for x86-64, its erratum 4624 and IANA the reverse:
            // x86-64 firmware sends either.
            (Firmware::Pxe, Architecture::UEFI | Architecture::EBC) => self.by_tftp(&self.program()?),
            (Firmware::HttpBoot, Architecture::UEFI_HTTP) => {
                self.by_http(&self.program()?)?.ok_or(Refusal::NoHttp)
            }
            (Firmware::Ipxe | Firmware::LimitedIpxe { .. }, Architecture::UEFI | Architecture::EBC) => {
                Err(Refusal::NoScript)
            }
            (_, architecture) => Err(Refusal::Architecture(architecture)),
        }
    }

    /// Returns true if the client boots from its local disk. Menus and scripts lead there too.
    fn is_local(&self) -> bool {
        self.next == Some(NextBoot::Local)
    }

    fn quirks(&self) -> Quirks {
        self.rule.map(|rule| rule.quirks).unwrap_or_default()
    }

    fn pxelinux(&self) -> Result<BootPlan, Refusal> {
        let boot_file = self.targets.bios_loader().ok_or(Refusal::NoLoader)?.clone();
        let menu = format!("{FROM_ROOT}{}", self.generated(GeneratedKind::Menu));
        Ok(BootPlan { boot_file, config_file: Some(SafeText::new(&menu)?), quirks: self.quirks() })
    }

    /// Names the script by its HTTP URL if HTTP is on, which is faster than TFTP.
    fn script(&self) -> Result<BootPlan, Refusal> {
        let path = self.generated(GeneratedKind::Script);
        match self.by_http(&path)? {
            Some(plan) => Ok(plan),
            None => self.by_tftp(&path),
        }
    }

    /// Returns the path of the first program that UEFI firmware loads.
    fn program(&self) -> Result<GeneratedPath, Refusal> {
        Ok(self.generated(match self.targets.uefi_by {
            UefiBy::Composed if self.is_local() => GeneratedKind::NextDevice,
            UefiBy::Ipxe => GeneratedKind::Ipxe,
            UefiBy::Composed => GeneratedKind::Program(self.root()?),
        }))
    }

    /// Returns the root that the rule names if it has a boot program, else the image's first.
    fn root(&self) -> Result<Root, UefiError> {
        let of_rule = self.rule.and_then(|rule| rule.image.as_ref());
        let image = self.next.as_ref().and_then(NextBoot::image).or(of_rule);
        let preferred = self.rule.and_then(|rule| rule.overrides.root);
        self.targets.program_root(image, preferred)
    }

    fn generated(&self, kind: GeneratedKind) -> GeneratedPath {
        GeneratedPath { recipient: self.recipient, kind }
    }

    fn by_tftp(&self, path: &GeneratedPath) -> Result<BootPlan, Refusal> {
        self.load(&format!("/{path}"))
    }

    /// Returns `None` if HTTP is off.
    fn by_http(&self, path: &GeneratedPath) -> Result<Option<BootPlan>, Refusal> {
        self.server.http_url().map(|root| self.load(&format!("{root}{path}"))).transpose()
    }

    fn load(&self, name: &str) -> Result<BootPlan, Refusal> {
        Ok(BootPlan { boot_file: SafeText::new(name)?, config_file: None, quirks: self.quirks() })
    }
}

#[cfg(test)]
pub(crate) mod tests;
