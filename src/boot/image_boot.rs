//! What there is of each image to boot, and the loader that all share: made once for a set of images.

use super::files::BootConfig;
use super::menu::{MenuImage, MenuSettings};
use super::rules::Rule;
use super::uefi::{Programs, UefiError};
use crate::bootable;
use crate::bootable::{Bootable, Look};
use crate::images::{ImageSet, ServedImage};
use crate::text::PlainPath;
use crate::uki::Stub;

/// An image that machines boot.
#[derive(Debug)]
pub(super) struct ImageBoot {
    pub(super) bootable: Bootable,
    /// Those of all machines, but for what is otherwise for this image.
    pub(super) settings: MenuSettings,
    pub(super) programs: Result<Programs, UefiError>,
}

/// PXELINUX in the tree that machines load from.
#[derive(Debug)]
pub(super) struct Loader {
    /// From the root, without a leading `/`.
    pub(super) path: PlainPath,
    /// The look of its image's own menu.
    pub(super) look: Look,
    /// That menu, where its image is the default one: its entries name files from the root of the tree.
    pub(super) stock: Option<PlainPath>,
}

impl ImageBoot {
    /// What there is of an image; `None` where there is nothing to boot.
    pub(super) fn of(served: &ServedImage, terms: &BootConfig) -> Option<Self> {
        let bootable = bootable::survey(&served.name, &served.versioned_name(), &served.image)?;
        let settings = match terms.overrides.get(&served.name) {
            Some(overrides) => terms.settings.with_overrides(overrides),
            None => terms.settings.clone(),
        };
        let stub = terms.stub.clone().map_or_else(|| Stub::of_image(&served.image), Ok);
        let programs = Programs::new(&served.image, &bootable, &settings.roots, stub);
        Some(Self { bootable, settings, programs })
    }

    /// The image as a machine is shown it that this rule is for.
    pub(super) fn shown(&self, rule: Option<&Rule>) -> MenuImage<'_> {
        let settings = match rule {
            Some(rule) => self.settings.with_overrides(&rule.overrides),
            None => self.settings.clone(),
        };
        MenuImage { image: &self.bootable, settings }
    }
}

impl Loader {
    /// The first image that has PXELINUX gives it to all.
    pub(super) fn find(images: &ImageSet, image_boots: &[ImageBoot]) -> Option<Self> {
        images.iter().enumerate().find_map(|(position, served)| {
            let ServedImage { name, image, .. } = &**served;
            let path = bootable::bios_loader(image)?;
            let offer = image_boots.iter().find(|offer| offer.bootable.name.as_str() == name)?;
            let (look, stock) = (offer.bootable.look.clone(), offer.bootable.stock.clone());
            Some(match position {
                0 => Self { path, look, stock },
                _ => Self { path: PlainPath::new(&format!("{name}/{path}"))?, look, stock: None },
            })
        })
    }
}
