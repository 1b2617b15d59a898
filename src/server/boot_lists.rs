//! The boot lists of images: read when an image is new, and written when a machine has shown what it
//! reads while it boots.
//!
//! The list of an object is in the cache folder, that of a file in the directory of state. Where
//! nothing can be written a list lasts as long as the process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::directory::Directory;
use crate::config::Config;
use crate::image::boot_list::LEN_MAX;
use crate::image::{BootList, Image};
use crate::images::ImageSet;
use crate::machines::{LearnedBoot, Registry};
use crate::watched::Watched;

/// Interval at which new images and machines that are up are looked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// End of the name of a list, which begins with the identity of its image.
const END: &str = ".boot";

/// Lists that are kept in a directory.
const LISTS: usize = 64;

/// The directories of lists, opened before the user changes.
#[derive(Debug)]
pub(super) struct BootLists {
    /// For files; `None` if it is not there.
    state: Option<Directory>,
    /// For objects.
    cache: Option<Directory>,
}

impl BootLists {
    /// Opens the directories. One that cannot be opened keeps no lists.
    pub(super) fn open(config: &Config) -> Self {
        let cache = config.cache.as_ref().map(|cache| &*cache.directory);
        let open = |path: &Path| Directory::open(path).ok();
        Self { state: open(&config.state_directory), cache: cache.and_then(open) }
    }

    /// Reads the lists of new images, and writes those of machines that are up, until `stop` is ready.
    /// Those of `read` are read already.
    pub(super) async fn run(
        &self,
        machines: &Registry,
        images: Watched<ImageSet>,
        mut read: Arc<ImageSet>,
        stop: impl Future<Output = ()>,
    ) {
        let mut clock = interval(INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = clock.tick() => {}
            }
            let current = images.current();
            if !Arc::ptr_eq(&read, &current) {
                self.read_all(&current);
                read = current;
            }
            for learned in machines.learned(Instant::now()) {
                tokio::task::block_in_place(|| self.keep(&learned));
            }
        }
    }

    /// Reads the lists of images that have none yet.
    pub(super) fn read_all(&self, images: &ImageSet) {
        tokio::task::block_in_place(|| {
            images.iter().for_each(|served| self.read(&served.name, &served.image))
        });
    }

    fn directory(&self, image: &Image) -> Option<&Directory> {
        if image.source.object().is_some() { self.cache.as_ref() } else { self.state.as_ref() }
    }

    /// Reads the list of an image, if there is one.
    fn read(&self, name: &str, image: &Image) {
        let Some(directory) = self.directory(image).filter(|_| !image.source.has_boot_list()) else { return };
        let file = file_of(image);
        let Ok(Some(bytes)) = directory.read(&file, LEN_MAX as u64 + 1) else { return };
        match BootList::of_image(&bytes, image.identity, image.source.len()) {
            Ok(list) => image.source.set_boot_list(&list),
            Err(error) => {
                warn!(image = name, %file, "boot list ignored: {error}. The next boot makes a new one");
                directory.remove(&file);
            }
        }
    }

    fn keep(&self, LearnedBoot { name, image, blocks }: &LearnedBoot) {
        let list = BootList::new(image.identity, image.source.len(), blocks);
        image.source.set_boot_list(&list);
        let (mib, places) = (list.bytes() >> 20, list.extents().len());
        info!(image = %name, "learned what a boot reads: {mib} MiB in {places} places");
        let Some(directory) = self.directory(image) else { return };
        match directory.replace(&file_of(image), &list.emit()) {
            Ok(()) => directory.keep_newest(END, LISTS),
            Err(error) => debug!(image = %name, "boot list not kept: {error}"),
        }
    }
}

/// Tells whether a file is a list, or one that is being written.
pub(super) fn is_list(name: &str) -> bool {
    let list = name.strip_suffix(".new").unwrap_or(name);
    let identity = list.strip_suffix(END);
    identity.is_some_and(|identity| identity.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn file_of(image: &Image) -> String {
    format!("{}{END}", image.identity)
}
