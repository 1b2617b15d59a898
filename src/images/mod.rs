//! The images of a server: the files they are opened from, their names, how a peer finds one, and
//! how long a replaced image is kept.
//!
//! `scan` turns paths into candidates, `open` turns candidates into [`ServedImage`]s, `name`
//! decides which image has a name. [`ImageSet`] holds the images of one moment; `change` derives
//! the set that follows it, `retention` decides when a replaced image is closed. A set never
//! changes, so services look images up without a lock. `watch` tells when to scan again, `verify`
//! verifies images before they are in a set.

pub(crate) mod carried;
mod change;
mod error;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod file_check;
pub(crate) mod name;
mod open;
mod retention;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod scan;
mod served;
pub(crate) mod set;
mod stamp;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub(crate) mod verify;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub(crate) mod watch;

#[cfg(test)]
mod tests;

use tracing::warn;

pub(crate) use change::ImageChange;
pub(crate) use error::ImageError;
pub(crate) use scan::SearchPath;
pub use served::{HiddenNameError, ServedImage};
pub use set::ImageSet;
pub(crate) use verify::{Verifications, VerifyPolicy};

use std::sync::Arc;

use self::open::Opening;
use crate::store::{Listing, Remote};

/// Finds and opens the images at these paths, the default image first. An image of `current` whose
/// file is unchanged is taken over, not opened again. With `verifications`, images that were not
/// verified yet are missing, and their verification has begun. With `remote`, URLs are places in
/// object stores. Waits for the disk and for stores.
pub(crate) fn find(
    paths: &[SearchPath],
    current: Option<&ImageSet>,
    verifications: Option<&Verifications>,
    remote: Option<&Remote>,
) -> (Vec<Arc<ServedImage>>, Vec<ImageError>) {
    let (scanned, mut errors) = scan::scan(paths, remote.map(|remote| remote as &dyn Listing));
    let opening = Opening { paths, current, verifications, remote };
    let mut opened = opening.open_all(scanned, &mut errors);
    if let Some(verifications) = verifications {
        opened = verifications.admit(opened, current);
    }
    let named = name::resolve_conflicts(opened, current, &mut errors);
    // Only for new images: each of these lines is logged once.
    named.iter().filter(|image| current.is_none_or(|set| !set.holds(image))).for_each(log_warnings);
    (named, errors)
}

/// Logs what is wrong with an image that is served nevertheless.
fn log_warnings(served: &Arc<ServedImage>) {
    let (image, name) = (&served.image, &served.name);
    for warning in &image.warnings {
        warn!(image = %name, "{warning}");
    }
    // Its files and the whole image are still exported, which may be all that is wanted.
    if image.archiso.is_none() {
        warn!(
            image = %name,
            "not an Arch ISO: its files are served, but no machine can boot it; for that give an ISO made by mkarchiso"
        );
    }
}
