//! The facts about a snapshot that boot plans depend on.

use std::sync::Arc;

use super::config::UefiBy;
use super::file_server::Ports;
use super::generated::{GeneratedKind, GeneratedPath, Recipient};
use super::rules::Rules;
use super::uefi::UefiError;
use crate::bootable::Root;
use crate::text::{SafeText, Word};

/// The programs that machines boot, and the rules by which they get them: plain data for DHCP,
/// without the files themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTargets {
    bios_loader: Option<SafeText>,
    /// The roots of the boot programs of each image, the default first.
    images: Vec<(Word, Result<Vec<Root>, UefiError>)>,
    pub(super) uefi_by: UefiBy,
    pub(super) ipxe: IpxePrograms,
    pub(super) ports: Ports,
    rules: Arc<Rules>,
}

/// The firmware for which there is an iPXE, for machines whose own iPXE lacks features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct IpxePrograms {
    pub bios: bool,
    pub uefi: bool,
}

impl BootTargets {
    /// Creates targets without images. `bios_loader` is the path of `lpxelinux.0` from the root of
    /// the TFTP tree, without a leading `/`. A path that does not fit a DHCP reply is dropped.
    pub fn new(bios_loader: Option<&str>, ports: Ports) -> Self {
        let bios_loader = bios_loader.and_then(|path| SafeText::new(&format!("/{path}")).ok());
        let bios_loader = bios_loader.filter(SafeText::fits_file_field);
        let rules = Arc::default();
        let (uefi_by, ipxe) = (UefiBy::Composed, IpxePrograms::default());
        Self { bios_loader, images: Vec::new(), uefi_by, ipxe, ports, rules }
    }

    /// Adds an image with the roots of its boot programs, the default root first.
    #[must_use]
    pub fn with_image(mut self, image: Word, roots: Result<Vec<Root>, UefiError>) -> Self {
        self.images.push((image, roots));
        self
    }

    #[must_use]
    pub(crate) fn with_uefi_by(self, uefi_by: UefiBy) -> Self {
        Self { uefi_by, ..self }
    }

    #[must_use]
    pub(crate) fn with_ipxe(self, ipxe: IpxePrograms) -> Self {
        Self { ipxe, ..self }
    }

    #[must_use]
    pub(crate) fn with_rules(self, rules: Arc<Rules>) -> Self {
        Self { rules, ..self }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns the boot file of BIOS machines.
    pub(crate) fn boot_file(&self) -> Option<&str> {
        self.bios_loader.as_ref().map(SafeText::as_str)
    }

    pub(super) fn bios_loader(&self) -> Option<&SafeText> {
        self.bios_loader.as_ref()
    }

    /// Returns a boot file for any UEFI machine with one network card.
    pub(crate) fn uefi_boot_file(&self) -> Option<String> {
        let kind = match self.uefi_by {
            UefiBy::Ipxe => GeneratedKind::Ipxe,
            UefiBy::Composed => GeneratedKind::Program(self.program_root(None, None).ok()?),
        };
        Some(format!("/{}", GeneratedPath { recipient: Recipient::default(), kind }))
    }

    /// Returns the root of the boot program for a machine that gets this image, else the default
    /// one, and prefers this root.
    pub(super) fn program_root(
        &self,
        image: Option<&Word>,
        preferred: Option<Root>,
    ) -> Result<Root, UefiError> {
        let named = self.images.iter().find(|(name, _)| Some(name) == image);
        let (_, roots) = named.or(self.images.first()).ok_or_else(UefiError::no_image)?;
        let roots = roots.as_ref().map_err(UefiError::clone)?;
        let root = preferred.filter(|root| roots.contains(root)).or(roots.first().copied());
        root.ok_or_else(UefiError::no_root)
    }
}
