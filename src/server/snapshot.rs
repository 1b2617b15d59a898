//! The snapshot: everything that is served at one moment, published as a whole.

use std::sync::Arc;

use crate::boot::{BootConfig, BootTargets, Files};
use crate::images::{HiddenNameError, ImageSet};
use crate::machines::Registry;
use crate::metrics::{self, Gauge};
use crate::watched::{WatchSender, Watched};

/// Images of one moment and everything that is derived from them. Services watch the part that they
/// serve.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) images: Arc<ImageSet>,
    pub(super) files: Arc<Files>,
    /// Boot targets that DHCP offers.
    pub(super) targets: Arc<BootTargets>,
}

impl Snapshot {
    /// Derives everything from the images. Reads their boot menus and EFI stubs from the disk.
    ///
    /// # Errors
    /// [`HiddenNameError`] if an image cannot be reached by its name.
    pub(super) fn new(images: Arc<ImageSet>, boot_config: BootConfig) -> Result<Self, HiddenNameError> {
        let files = Arc::new(Files::new(Arc::clone(&images), boot_config)?);
        let targets = Arc::clone(files.targets());
        Ok(Self { images, files, targets })
    }
}

/// Sender of snapshots, which the table of machines follows as well.
#[derive(Debug)]
pub(super) struct SnapshotSender {
    sender: WatchSender<Snapshot>,
    machines: Arc<Registry>,
}

impl SnapshotSender {
    pub(super) fn new(first: Snapshot, machines: Arc<Registry>) -> Self {
        machines.serve(&first.images);
        count_images(&first.images);
        Self { sender: WatchSender::new(Arc::new(first)), machines }
    }

    /// Replaces the current snapshot, for all services at once.
    pub(super) fn publish(&self, next: Arc<Snapshot>) {
        // Before a client can read of a new image, so that its machine's record knows the image.
        self.machines.serve(&next.images);
        count_images(&next.images);
        self.sender.publish(next);
    }

    pub(super) fn machines(&self) -> Arc<Registry> {
        Arc::clone(&self.machines)
    }

    pub(super) fn snapshot(&self) -> Watched<Snapshot> {
        self.sender.subscribe()
    }
}

fn count_images(images: &ImageSet) {
    let (current, known) = (images.iter().count() as u64, images.known().count() as u64);
    metrics::set(Gauge::Images, current);
    metrics::set(Gauge::RetainedImages, known.saturating_sub(current));
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::boot::Ports;
    use crate::boot::menu::{Cms, CopyToRam, MenuSettings};
    use crate::bootable::Root;
    use crate::check::sample;
    use crate::image::Image;
    use crate::images::ServedImage;

    /// A snapshot of the sample image, called `name`.
    fn snapshot(name: &str) -> Snapshot {
        let iso = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(iso.path(), sample::image()).unwrap();
        let image = Image::open(iso.path()).unwrap();
        let images = ImageSet::new(ServedImage::new(name, image), Vec::new());
        let (roots, copytoram) = (Root::ALL.to_vec(), CopyToRam::Auto);
        let settings =
            MenuSettings { roots, copytoram, timeout: 1, cms: Cms::Verify, parameters: Vec::new() };
        Snapshot::new(Arc::new(images), BootConfig::new(settings, Ports { tftp: 69, http: Some(80) }))
            .unwrap()
    }

    #[test]
    fn snapshot_changes_all_services_at_once() {
        let machines = Arc::new(Registry::new(Instant::now()));
        let snapshots = SnapshotSender::new(snapshot("one"), Arc::clone(&machines));
        let watched = snapshots.snapshot();
        let mut images = watched.project(|snapshot| Arc::clone(&snapshot.images));
        let mut files = watched.project(|snapshot| Arc::clone(&snapshot.files));
        let mut targets = watched.project(|snapshot| Arc::clone(&snapshot.targets));
        let old = targets.current();
        assert!(images.update().is_none() && files.update().is_none() && targets.update().is_none());

        snapshots.publish(Arc::new(snapshot("two")));
        // NBD and NFS, HTTP and TFTP, DHCP, and the table of machines.
        let (images, files, targets) = (images.update().unwrap(), files.update().unwrap(), targets.update());
        assert_eq!(images.default_image().name, "two");
        assert!(Arc::ptr_eq(files.images(), &images));
        assert_eq!(files.programs().map(|(name, _)| name).collect::<Vec<_>>(), ["two"]);
        assert!(targets.is_some_and(|targets| targets != old && targets == *files.targets()));
        assert_eq!(machines.images()[0], "two");
    }
}
