//! A client of DHCP, as its message describes it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mac::Mac;

/// The properties of a client that its boot depends on, read once from its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Client<'a> {
    /// `None` on a link without MAC addresses, such as InfiniBand.
    pub mac: Option<Mac>,
    /// `None` if unknown, as for a client that asks for no boot file.
    pub architecture: Option<Architecture>,
    /// `None` for a client that asks for no boot file.
    pub firmware: Option<Firmware>,
    /// DHCP option 60; empty if unknown.
    pub vendor_class: &'a [u8],
}

impl Client<'_> {
    /// Returns a client of which only the MAC address is known, as in a path.
    pub(crate) fn with_mac(mac: Option<Mac>) -> Self {
        Self { mac, ..Self::default() }
    }

    /// Returns what the client boots on; `None` if it asks for no boot file.
    pub(crate) fn platform(&self) -> Option<Platform> {
        Some(Platform { firmware: self.firmware?, architecture: self.architecture? })
    }
}

/// The firmware and the processor that load a boot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    pub firmware: Firmware,
    pub architecture: Architecture,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.firmware {
            Firmware::Pxe | Firmware::HttpBoot => write!(f, "{}", self.architecture),
            Firmware::Ipxe => write!(f, "{}, iPXE", self.architecture),
            Firmware::LimitedIpxe { .. } => write!(f, "{}, limited iPXE", self.architecture),
        }
    }
}

/// The program that asks for a boot file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Firmware {
    /// A PXE ROM or UEFI PXE (vendor class `PXEClient`).
    Pxe,
    /// UEFI HTTP Boot (vendor class `HTTPClient`).
    HttpBoot,
    /// iPXE (user class `iPXE`): the network card's ROM or a program that was loaded before.
    Ipxe,
    /// iPXE without a feature that our scripts need, such as the ROM of VirtualBox.
    LimitedIpxe {
        /// It asks for the second time within two minutes: what it loaded lacks the feature as
        /// well.
        is_retry: bool,
    },
}

/// Client system architecture: the number in DHCP option 93 (RFC 4578 §2.1, and IANA's "Processor
/// Architecture Types", where later numbers are).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Architecture(pub u16);

impl Architecture {
    /// Intel x86 with a BIOS; also a machine that does not send option 93.
    pub(crate) const BIOS: Architecture = Architecture(0);
    /// x86-64 with UEFI.
    pub(crate) const UEFI: Architecture = Architecture(7);
    /// EFI byte code by the registry; much firmware of x86-64 machines sends it.
    pub(crate) const EBC: Architecture = Architecture(9);
    /// x86-64 with UEFI HTTP Boot.
    pub(crate) const UEFI_HTTP: Architecture = Architecture(16);

    /// Returns the registry's name of the number.
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
