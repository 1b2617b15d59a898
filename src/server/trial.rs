//! A trial of the start, for `isowire doctor`: does what `serve` does first, and lets go of it.

use std::path::Path;
use std::sync::Arc;

use super::image_updater::{ends_start, search_paths};
use super::sandbox::{self, Identity, files};
use super::service_sockets::{PortmapService, ServiceSockets};
use super::{ServiceRow, StartError};
use crate::bootable::Root;
use crate::config::Config;
use crate::images::{self, ImageError, ServedImage};

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
        if let Some(PortmapService::Rpcbind(registration)) = sockets.portmap.take() {
            registration.withdraw();
        }
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
}

impl FoundImages {
    /// Finds and opens the images, without verifying them.
    pub(crate) fn of(config: &Config) -> Self {
        let (images, errors) = images::find(&search_paths(&config.images), None, None);
        let is_nothing_left = images.is_empty();
        let errors = errors.into_iter().map(|error| {
            let is_fatal = ends_start(&error, is_nothing_left);
            (error, is_fatal)
        });
        Self { errors: errors.collect(), images }
    }
}

/// Directory that `serve` writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WrittenDirectory<'a> {
    pub(crate) path: &'a Path,
    /// True for that of the leases, false for that of the local sockets.
    pub(crate) is_of_leases: bool,
}

impl<'a> WrittenDirectory<'a> {
    /// Returns the directories of this configuration.
    pub(crate) fn all(config: &'a Config) -> impl Iterator<Item = Self> {
        let leases = files::lease_directory(config).map(|path| Self { path, is_of_leases: true });
        let sockets = Self { path: files::socket_directory(config), is_of_leases: false };
        leases.into_iter().chain([sockets])
    }
}
