//! What there is to boot machines with: all that a boot plan depends on besides the machine.

use std::sync::Arc;

use super::generated::{GeneratedKind, GeneratedPath, Recipient};
use super::menu::{Ports, Root};
use super::rules::Rules;
use super::uefi::UefiError;
use crate::text::{SafeText, Word};

/// What this site has to boot machines with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTargets {
    bios_loader: Option<SafeText>,
    /// What each image has for UEFI machines, the default first.
    images: Vec<Programs>,
    pub(super) uefi_by: UefiBy,
    pub(super) ports: Ports,
    rules: Arc<Rules>,
}

/// What firmware with UEFI is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UefiBy {
    /// A program with kernel and initramfs in it.
    #[default]
    Composed,
    /// iPXE, which asks for its script then.
    Ipxe,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Programs {
    image: Word,
    roots: Result<Vec<Root>, UefiError>,
}

impl BootTargets {
    /// `bios_loader`: path of `lpxelinux.0` from the root of the TFTP tree, without a leading `/`; `None` where no image
    /// has one. A path that cannot go into a DHCP reply counts as none.
    pub fn new(bios_loader: Option<&str>, ports: Ports) -> Self {
        let bios_loader = bios_loader.and_then(|path| SafeText::new(&format!("/{path}")).ok());
        let bios_loader = bios_loader.filter(SafeText::fits_file_field);
        let rules = Arc::default();
        Self { bios_loader, images: Vec::new(), uefi_by: UefiBy::Composed, ports, rules }
    }

    /// Adds an image: the roots that there are boot programs with, the default first, or why there are none.
    #[must_use]
    pub fn with_image(mut self, image: Word, roots: Result<Vec<Root>, UefiError>) -> Self {
        self.images.push(Programs { image, roots });
        self
    }

    #[must_use]
    pub(crate) fn with_uefi_by(self, uefi_by: UefiBy) -> Self {
        Self { uefi_by, ..self }
    }

    #[must_use]
    pub(crate) fn with_rules(self, rules: Arc<Rules>) -> Self {
        Self { rules, ..self }
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// What BIOS machines load, as in their boot plan.
    pub(crate) fn boot_file(&self) -> Option<&str> {
        self.bios_loader.as_ref().map(SafeText::as_str)
    }

    pub(super) fn bios_loader(&self) -> Option<&SafeText> {
        self.bios_loader.as_ref()
    }

    /// What every UEFI machine with one network card can load, as in a boot plan.
    pub(crate) fn uefi_boot_file(&self) -> Option<String> {
        let kind = match self.uefi_by {
            UefiBy::Ipxe => GeneratedKind::Ipxe,
            UefiBy::Composed => GeneratedKind::Program(self.program_root(None, None).ok()?),
        };
        Some(format!("/{}", GeneratedPath { recipient: Recipient::default(), kind }))
    }

    /// The root of the boot program for who is to get this image and prefers this root; without an image, or where there
    /// is none of this name, it is the default.
    pub(super) fn program_root(
        &self,
        image: Option<&Word>,
        preferred: Option<Root>,
    ) -> Result<Root, UefiError> {
        let named = self.images.iter().find(|programs| Some(&programs.image) == image);
        let programs = named.or(self.images.first()).ok_or_else(UefiError::no_image)?;
        let roots = programs.roots.as_ref().map_err(UefiError::clone)?;
        let root = preferred.filter(|root| roots.contains(root)).or(roots.first().copied());
        root.ok_or_else(UefiError::no_root)
    }
}
