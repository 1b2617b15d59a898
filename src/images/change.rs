//! From one image set to the next: what changes, and which images are retained.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::retention::{self, Retained};
use super::{ImageSet, ServedImage};

/// A change of an image from one set to the next.
#[derive(Debug)]
pub(crate) enum ImageChange {
    Added(Arc<ServedImage>),
    Replaced(Arc<ServedImage>),
    /// The file of the old image has another content now: clients of the old image wait until it is
    /// restored.
    Overwritten(Arc<ServedImage>),
    Removed(Arc<ServedImage>),
    /// The retention period of a replaced or removed image is over.
    Expired(Arc<ServedImage>),
    /// The image is now the one that is meant where none is named.
    MadeDefault(Arc<ServedImage>),
}

impl ImageSet {
    /// Returns the set in which these images are current, and the changes; `None` if nothing
    /// changes or there is no image. Images that are no longer current are retained.
    pub(crate) fn succeed(
        &self,
        images: Vec<Arc<ServedImage>>,
        now: Instant,
    ) -> Option<(Self, Vec<ImageChange>)> {
        let mut next = Self::of(images)?;
        let (mut retained, mut changes) = (self.retained.clone(), Vec::new());
        // An image whose file came back is current again.
        retained.retain(|old| !next.is_current(&old.image));
        for old in self.iter().filter(|&old| !next.is_current(old)) {
            // An overwritten one as well: its clients wait for its file.
            retained.push(Retained { image: Arc::clone(old), since: now });
            changes.push(next.change_of(old));
        }
        next.retained = retained;
        // An image at the path of an old one was reported as its replacement.
        let added = next.iter().filter(|&new| !self.is_current(new) && !self.has_path_of(new));
        changes.extend(added.cloned().map(ImageChange::Added));
        if !Arc::ptr_eq(self.default_image(), next.default_image()) {
            changes.push(ImageChange::MadeDefault(Arc::clone(next.default_image())));
        }
        changes.extend(next.expire_retained(now));
        // Menus and lists of exports show the images in this order.
        (!changes.is_empty() || !next.has_order_of(self)).then_some((next, changes))
    }

    /// Returns the set without the images whose retention period is over, and those; `None` if
    /// there are none.
    pub(crate) fn expire(&self, now: Instant) -> Option<(Self, Vec<ImageChange>)> {
        let mut next = self.clone();
        let changes = next.expire_retained(now);
        (!changes.is_empty()).then_some((next, changes))
    }

    /// Dates the calls of NFS clients that were noted since this was last called.
    pub(crate) fn date_calls(&self, now: Instant) {
        self.known().for_each(|image| image.date_calls(now));
    }

    /// Returns what happened to an image that is not current in this set any more.
    fn change_of(&self, old: &Arc<ServedImage>) -> ImageChange {
        match self.iter().find(|new| new.path() == old.path()) {
            Some(new) if old.was_overwritten_by(new) => ImageChange::Overwritten(Arc::clone(new)),
            Some(new) => ImageChange::Replaced(Arc::clone(new)),
            None => ImageChange::Removed(Arc::clone(old)),
        }
    }

    fn expire_retained(&mut self, now: Instant) -> Vec<ImageChange> {
        retention::expire(&mut self.retained, now).into_iter().map(ImageChange::Expired).collect()
    }

    fn is_current(&self, image: &Arc<ServedImage>) -> bool {
        self.iter().any(|current| Arc::ptr_eq(current, image))
    }

    fn has_path_of(&self, image: &ServedImage) -> bool {
        self.iter().any(|current| current.path() == image.path())
    }

    /// Tells whether the same images are current in the same order.
    fn has_order_of(&self, other: &Self) -> bool {
        self.iter().map(Arc::as_ptr).eq(other.iter().map(Arc::as_ptr))
    }
}

impl ImageChange {
    /// Returns the image that clients may not know yet.
    pub(crate) const fn new_image(&self) -> Option<&Arc<ServedImage>> {
        match self {
            Self::Added(image) | Self::Replaced(image) | Self::Overwritten(image) => Some(image),
            Self::Removed(_) | Self::Expired(_) | Self::MadeDefault(_) => None,
        }
    }

    /// Logs the change.
    pub(crate) fn log(&self) {
        let (Self::Added(served)
        | Self::Replaced(served)
        | Self::Overwritten(served)
        | Self::Removed(served)
        | Self::Expired(served)
        | Self::MadeDefault(served)) = self;
        let (image, path) = (served.versioned_name(), served.path().display());
        match self {
            Self::Added(_) => info!(image, %path, "image added"),
            Self::Replaced(_) => {
                info!(image, %path, "image replaced; connected clients keep using the old one")
            }
            Self::Overwritten(_) => warn!(
                image, %path,
                "image overwritten in place: clients of the old one wait until it is restored. Copy to another name, then rename"
            ),
            Self::Removed(_) => info!(image, %path, "image removed; connected clients keep using it"),
            Self::Expired(_) => info!(image, %path, "replaced image closed: retention period is over"),
            Self::MadeDefault(_) => info!(image, %path, "image made the default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{overwriting, served, set_of};
    use super::*;
    use crate::image::Identity;

    fn described(changes: &[ImageChange]) -> Vec<String> {
        let describe = |change: &ImageChange| match change {
            ImageChange::Added(image) => format!("added {}", image.name),
            ImageChange::Replaced(image) => format!("replaced {}", image.name),
            ImageChange::Overwritten(image) => format!("overwritten {}", image.name),
            ImageChange::Removed(image) => format!("removed {}", image.name),
            ImageChange::Expired(image) => format!("expired {}", image.name),
            ImageChange::MadeDefault(image) => format!("default {}", image.name),
        };
        changes.iter().map(describe).collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn replaced_image_is_found_until_it_expires() {
        let now = Instant::now();
        let (one, two, other) = (served("a.iso", 1), served("b.iso", 2), served("a.iso", 3));
        let first = set_of(&[Arc::clone(&one), Arc::clone(&two)]);
        let (second, changes) = first.succeed(vec![Arc::clone(&other)], now).unwrap();
        assert_eq!(described(&changes), ["replaced a", "removed b", "default a"]);
        assert!(first.succeed(first.iter().cloned().collect(), now).is_none());
        for old in [&one, &two] {
            assert!(second.identified(old.image.identity).is_some());
            assert!(second.image(old.versioned_name().as_bytes()).is_some());
        }
        assert_eq!(second.image(b"a").map(|found| found.image.identity), Some(other.image.identity));
        assert!(second.image(b"b").is_none() && second.names().all(|name| name != "b"));
        let (third, changes) = second.succeed(vec![Arc::clone(&two), other], now + MINUTE).unwrap();
        assert_eq!(described(&changes), ["added b", "default b"], "the same image as before");
        assert_eq!(third.known().count(), 3);
        // `identified` above was a client with a handle.
        third.date_calls(now + MINUTE);
        assert!(third.expire(now + 60 * MINUTE).is_none());
        let (last, changes) = third.expire(now + 7 * 24 * 60 * MINUTE + MINUTE).unwrap();
        assert_eq!(described(&changes), ["expired a"]);
        assert!(last.identified(one.image.identity).is_none());
    }

    #[test]
    fn changed_order_makes_another_set() {
        let now = Instant::now();
        let [a, b, c] = [("a.iso", 1), ("b.iso", 2), ("c.iso", 3)].map(|(path, n)| served(path, n));
        let set = set_of(&[Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)]);
        let (next, changes) = set.succeed(vec![a, c, b], now).unwrap();
        assert_eq!(described(&changes), [""; 0]);
        assert!(next.names().eq(["archiso", "a", "c", "b"]));
        assert!(set.succeed(Vec::new(), now).is_none(), "the last images stay");
    }

    #[test]
    fn image_overwritten_in_place_is_retained() {
        let now = Instant::now();
        let old = served("a.iso", 1);
        let new = overwriting(&old, 2);
        let (next, changes) = set_of(&[Arc::clone(&old)]).succeed(vec![new], now).unwrap();
        assert_eq!(described(&changes), ["overwritten a", "default a"]);
        assert!(next.identified(old.image.identity).is_some());
        let (last, changes) = next.succeed(vec![Arc::clone(&old)], now).unwrap();
        assert_eq!(described(&changes), ["overwritten a", "default a"], "restored");
        assert!(Arc::ptr_eq(last.default_image(), &old));
    }

    #[test]
    fn image_in_use_is_retained() {
        let now = Instant::now();
        let (one, two) = (served("a.iso", 1), served("a.iso", 2));
        let client = Arc::clone(&one.image);
        let (set, _) = set_of(&[one]).succeed(vec![two], now).unwrap();
        assert!(set.expire(now + 60 * MINUTE).is_none());
        drop(client);
        let (set, changes) = set.expire(now + 60 * MINUTE).unwrap();
        assert_eq!(described(&changes), ["expired a"]);
        assert!(set.identified(Identity(7)).is_none());
    }
}
