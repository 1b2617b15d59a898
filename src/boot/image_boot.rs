//! The parts of one image that generated files are made of, read once for a set of images.

use super::config::BootConfig;
use super::menu::{MenuImage, MenuSettings};
use super::rules::Rule;
use super::uefi::{Programs, UefiError};
use crate::bootable;
use crate::bootable::{Bootable, Look};
use crate::images::{ImageSet, ServedImage};
use crate::text::PlainPath;
use crate::uki::Stub;

/// A bootable image.
#[derive(Debug)]
pub(super) struct ImageBoot {
    pub(super) bootable: Bootable,
    /// The operator's settings with the overrides for this image.
    pub(super) settings: MenuSettings,
    pub(super) programs: Result<Programs, UefiError>,
}

/// PXELINUX in the tree that machines load from.
#[derive(Debug)]
pub(super) struct Pxelinux {
    /// From the root, without a leading `/`.
    pub(super) path: PlainPath,
    /// The look of its image's own menu.
    pub(super) look: Look,
    /// That menu, if its image is the default: its entries name files from the root of the tree.
    pub(super) stock: Option<PlainPath>,
}

impl ImageBoot {
    /// Reads an image; `None` if it is not bootable.
    pub(super) fn of(served: &ServedImage, config: &BootConfig) -> Option<Self> {
        let bootable = bootable::survey(&served.name, &served.versioned_name(), &served.image)?;
        let settings = match config.overrides.get(&served.name) {
            Some(overrides) => config.settings.with_overrides(overrides),
            None => config.settings.clone(),
        };
        let stub = config.stub.clone().map_or_else(|| Stub::of_image(&served.image), Ok);
        let programs = Programs::new(&served.image, &bootable, &settings.roots, stub, config.signer.as_ref());
        Some(Self { bootable, settings, programs })
    }

    /// Returns the image as the menu of a machine with this rule shows it. `seed` and `script` are
    /// the URLs of the machine's seed for cloud-init and of its script.
    pub(super) fn for_rule(
        &self,
        rule: Option<&Rule>,
        seed: Option<String>,
        script: Option<String>,
    ) -> MenuImage<'_> {
        let settings = match rule {
            Some(rule) => self.settings.with_overrides(&rule.overrides),
            None => self.settings.clone(),
        };
        MenuImage { image: &self.bootable, settings, seed, script }
    }
}

impl Pxelinux {
    /// Finds PXELINUX in the first image that has it; it then loads the menus of all images.
    pub(super) fn find(images: &ImageSet, image_boots: &[ImageBoot]) -> Option<Self> {
        images.iter().enumerate().find_map(|(position, served)| {
            let ServedImage { name, image, .. } = &**served;
            let path = bootable::bios_loader(image)?;
            let ImageBoot { bootable, .. } =
                image_boots.iter().find(|image| image.bootable.name.as_str() == name)?;
            let (look, stock) = (bootable.look.clone(), bootable.stock.clone());
            Some(match position {
                0 => Self { path, look, stock },
                // Beside the tree of the default image, the tree of an image is below its name.
                _ => Self { path: PlainPath::new(&format!("{name}/{path}"))?, look, stock: None },
            })
        })
    }
}
