//! A trial of the start, for `isowire doctor`: does what `serve` does first, and lets go of it.

use std::path::Path;
use std::sync::Arc;

use super::image_updater::{ends_start, search_paths};
use super::sandbox::{self, Identity, files};
use super::service_sockets::ServiceSockets;
use super::{ServiceRow, StartError};
use crate::bootable::Root;
use crate::config::Config;
use crate::images::{self, ImageError, SearchPath, ServedImage};
use crate::store::{self, Place};

/// Services that would be up.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) rows: Vec<ServiceRow>,
    /// Errors of which `serve` would report the first and end.
    pub(crate) errors: Vec<StartError>,
    /// True if a service is off for lack of a privilege only.
    pub(crate) lacks_privilege: bool,
    pub(crate) roots: Vec<Root>,
}

impl Trial {
    /// Opens the sockets of the services, on the ports that `serve` would use with images of these
    /// names, and closes them.
    pub(crate) fn of_services(config: &Config, names: &[&str]) -> Self {
        let identity = Identity::unchanged();
        let (mut sockets, mut errors) = ServiceSockets::open_possible(config, names, &identity);
        let (roots, lacks_privilege) = (sockets.roots(), sockets.lacks_privilege);
        let mut rows = std::mem::take(&mut sockets.rows);
        rows.push(sandbox::try_out(config));
        errors.extend(sandbox::require(config).err().map(StartError::from));
        Self { rows, errors, lacks_privilege, roots }
    }
}

/// Images that would be served.
#[derive(Debug)]
pub(crate) struct FoundImages {
    pub(crate) images: Vec<Arc<ServedImage>>,
    /// Errors, each with whether `serve` would not start.
    pub(crate) errors: Vec<(ImageError, bool)>,
    /// Places in object stores that were asked, each with the number of its images. They are not
    /// opened: only one process can have the cache folder.
    pub(crate) places: Vec<(String, usize)>,
}

impl FoundImages {
    /// Finds and opens the images, without verifying them.
    pub(crate) fn of(config: &Config) -> Self {
        let paths = search_paths(&config.images);
        let (remote, local): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(|search| Place::is_url(&search.path));
        let (images, mut errors) = images::find(&local, None, None, None);
        let places = asked(&remote, &mut errors);
        let is_nothing_left = images.is_empty() && places.is_empty();
        let errors = errors.into_iter().map(|error| {
            let is_fatal = ends_start(&error, is_nothing_left);
            (error, is_fatal)
        });
        Self { errors: errors.collect(), images, places }
    }
}

/// Asks the object stores. Returns the places that have images, and how many.
fn asked(paths: &[SearchPath], errors: &mut Vec<ImageError>) -> Vec<(String, usize)> {
    let mut places = Vec::new();
    for path in paths.iter().map(|search| &search.path) {
        let Some(place) = Place::of(path) else { continue };
        let is_folder = place.is_folder();
        match store::look_at(&place) {
            Ok(0) => errors.push(ImageError::EmptyFolder(path.clone())),
            Ok(count) => places.push((place.to_string(), count)),
            Err(error) => {
                errors.push(ImageError::Unreachable { path: path.clone(), error, is_folder, is_kept: false });
            }
        }
    }
    places
}

/// Directory that `serve` writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrittenDirectory<'a> {
    pub(crate) path: &'a Path,
    pub(crate) content: DirectoryContent,
}

/// What `serve` writes into a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirectoryContent {
    Leases,
    /// Next boots of machines, for rules with `once`.
    NextBoots,
    /// Local sockets.
    Sockets,
    /// What was fetched from object stores.
    Cache,
}

impl<'a> WrittenDirectory<'a> {
    /// Returns the directories of this configuration.
    pub(crate) fn all(config: &'a Config) -> impl Iterator<Item = Self> {
        let of = |content| move |path| Self { path, content };
        let leases = files::lease_directory(config).map(of(DirectoryContent::Leases));
        let has_once = config.rules.iter().any(|rule| rule.is_once);
        let next = has_once.then(|| of(DirectoryContent::NextBoots)(&config.state_directory));
        let sockets = of(DirectoryContent::Sockets)(files::socket_directory(config));
        let cache = config.cache.as_ref().map(|cache| &*cache.directory).map(of(DirectoryContent::Cache));
        leases.into_iter().chain(next).chain([sockets]).chain(cache)
    }
}
