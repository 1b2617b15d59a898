//! A check of initramfs images for archiso's hooks and for drivers of network cards: a machine
//! without them stops at a shell, and the server cannot see that.

use std::sync::Arc;

use tracing::warn;

use crate::bootable::{Root, initramfs, shortfall};
use crate::images::ServedImage;
use crate::machines::Registry;
use crate::machines::site::InitramfsKnowledge;

/// Warns of each root that an initramfs cannot mount, and tells the table of machines. Unpacking
/// takes some seconds for each initramfs.
pub(super) fn check(images: &[Arc<ServedImage>], roots: &[Root], machines: &Registry) {
    for served in images {
        let (name, image) = (&served.name, &served.image);
        let (mut lacks, mut drivers) = (Vec::new(), Vec::new());
        // The kernels of an image can have different initramfs images.
        for (path, contents) in initramfs(image) {
            for root in roots {
                if let Some(shortfall) = shortfall(&contents, *root) {
                    lacks.push(format!("for a root over {root}, {path} {shortfall}"));
                    warn!(image = %name, "machines with their root over {root} may stop at a shell: {path} {shortfall}");
                }
            }
            match contents.known_drivers() {
                // A kernel may have drivers built in, and list none.
                Some(none) if none.is_empty() => {
                    let lack = format!("{path} lists no driver of a network card");
                    warn!(image = %name, "machines may not find their network: {lack}");
                    lacks.push(lack);
                }
                Some(known) => drivers.push(known.to_string()),
                None => {}
            }
        }
        let lacks = (!lacks.is_empty()).then(|| lacks.join("; "));
        // Kernels of an image have the same drivers in most cases.
        drivers.dedup();
        let drivers = (!drivers.is_empty()).then(|| drivers.join("; "));
        let knowledge = InitramfsKnowledge { lacks, drivers };
        machines.know(|site| drop(site.initramfs.insert(name.clone(), knowledge)));
    }
}
