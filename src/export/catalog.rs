//! What this server offers: images by name, and the names a peer may ask for.

use std::sync::Arc;

use super::{Export, path};
use crate::image::Image;

/// The name archiso's hook asks for (`archiso_nbd_name`, mkinitcpio-archiso `archiso_pxe_nbd`).
pub const ARCHISO: &str = "archiso";

/// An image and the name it goes by.
#[derive(Debug, Clone)]
pub struct Served {
    pub name: String,
    pub image: Arc<Image>,
}

/// All images of this server. There is always at least one; the first is the default.
#[derive(Debug, Clone)]
pub struct Catalog {
    default: Served,
    others: Vec<Served>,
}

/// An export, and the image that its ranges are ranges of.
#[derive(Debug, Clone)]
pub struct Found {
    pub image: Arc<Image>,
    pub export: Export,
}

impl Catalog {
    /// A catalog of these images. The caller made sure that no two have the same name.
    pub const fn new(default: Served, others: Vec<Served>) -> Self {
        Self { default, others }
    }

    /// The image that is meant where none is named.
    pub const fn default_image(&self) -> &Served {
        &self.default
    }

    /// All images, the default first.
    pub fn images(&self) -> impl Iterator<Item = &Served> {
        std::iter::once(&self.default).chain(&self.others)
    }

    /// The image of this name; `archiso` and the empty name are the default image.
    pub fn image(&self, name: &[u8]) -> Option<&Served> {
        if name.is_empty() || name == ARCHISO.as_bytes() {
            return Some(&self.default);
        }
        self.images().find(|served| served.name.as_bytes() == name)
    }

    /// The export called `name`: `archiso`, an image's own name or the empty name is a whole image,
    /// `NAME:/path/of/a/file` one file of it.
    pub fn export(&self, name: &[u8]) -> Option<Found> {
        if let Some(Served { image, .. }) = self.image(name) {
            return Some(Found { image: Arc::clone(image), export: image.whole() });
        }
        let colon = name.windows(2).position(|pair| pair == b":/")?;
        let (name, file) = name.split_at_checked(colon)?;
        let Served { image, .. } = self.image(name)?;
        let node = path::resolve(&image.index, file.strip_prefix(b":")?).ok()?;
        Some(Found { image: Arc::clone(image), export: image.export(node)? })
    }

    /// The names of the whole images, as a list of exports shows them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(ARCHISO)
            .chain(self.images().map(|served| served.name.as_str()).filter(|&name| name != ARCHISO))
    }
}
