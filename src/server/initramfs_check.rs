//! A check of initramfs images for archiso's hooks: a machine without them stops at a shell, and
//! the server cannot see that.

use std::sync::Arc;

use tracing::warn;

use crate::bootable::{Root, initramfs, shortfall};
use crate::images::ServedImage;

/// Warns of each root that an initramfs cannot mount. Unpacking takes up to a second for each
/// initramfs.
pub(super) fn check(images: &[Arc<ServedImage>], roots: &[Root]) {
    for served in images {
        let (name, image) = (&served.name, &served.image);
        // The kernels of an image can have different initramfs images.
        for (path, contents) in initramfs(image) {
            for root in roots {
                if let Some(shortfall) = shortfall(&contents, *root) {
                    warn!(image = %name, "machines with their root over {root} may stop at a shell: {path} {shortfall}");
                }
            }
        }
    }
}
