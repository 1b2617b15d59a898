//! Whether initramfs images have archiso's hooks: a machine without them stops at a shell, long after it left us.

use tracing::warn;

use crate::boot::bootable::{initramfs, shortfall};
use crate::boot::menu::Root;
use crate::images::ServedImage;

/// Warns of each root that some initramfs cannot get. It unpacks them, which takes up to a second for each.
pub fn check(images: &[ServedImage], roots: &[Root]) {
    for ServedImage { name, image } in images {
        for (path, contents) in initramfs(image) {
            for root in roots {
                if let Some(shortfall) = shortfall(&contents, *root) {
                    warn!(image = %name, "a machine with its root over {root} may stop at a shell: {path} {shortfall}");
                }
            }
        }
    }
}
