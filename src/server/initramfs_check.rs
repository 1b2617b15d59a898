//! A check of initramfs images for archiso's hooks: a machine without them stops at a shell, and
//! the server cannot see that.

use std::sync::Arc;

use tracing::warn;

use crate::bootable::{Root, initramfs, shortfall};
use crate::images::ServedImage;
use crate::machines::Registry;

/// Warns of each root that an initramfs cannot mount, and tells the table of machines. Unpacking
/// takes up to a second for each initramfs.
pub(super) fn check(images: &[Arc<ServedImage>], roots: &[Root], machines: &Registry) {
    for served in images {
        let (name, image) = (&served.name, &served.image);
        let mut lacks = Vec::new();
        // The kernels of an image can have different initramfs images.
        for (path, contents) in initramfs(image) {
            for root in roots {
                if let Some(shortfall) = shortfall(&contents, *root) {
                    lacks.push(format!("for a root over {root}, {path} {shortfall}"));
                    warn!(image = %name, "machines with their root over {root} may stop at a shell: {path} {shortfall}");
                }
            }
        }
        let lacks = (!lacks.is_empty()).then(|| lacks.join("; "));
        machines.know(|site| drop(site.initramfs.insert(name.clone(), lacks)));
    }
}
