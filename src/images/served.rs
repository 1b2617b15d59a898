//! Images that are served: an image, its name, the file it was opened from, and the traces of its
//! users.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::stamp::Stamp;
use crate::bootable::{self, RootNames};
use crate::export::path;
use crate::image::Image;
use crate::locked::locked;

/// An image and its name. Several successive [`ImageSet`](super::ImageSet)s share it.
#[derive(Debug)]
pub struct ServedImage {
    pub name: String,
    pub image: Arc<Image>,
    /// File that the image was opened from; empty without [`ServedImage::with_file`].
    path: PathBuf,
    /// Names under which menus of the image ask for its root.
    root_names: RootNames,
    origin: CandidateOrigin,
    /// Set when a client used the image by NFS: handles belong to no connection, so nothing else
    /// shows that it is needed.
    is_called: AtomicBool,
    notes: Mutex<Notes>,
}

/// Reason for which a file is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CandidateOrigin {
    /// The operator named it.
    Named,
    /// It lies in a folder.
    Folder,
}

/// State of an image for the task that keeps the images up to date.
#[derive(Debug, Default)]
struct Notes {
    stamp: Option<Stamp>,
    last_call: Option<Instant>,
    verified: Option<Verified>,
}

/// A verification that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verified {
    /// State of the file at that time.
    pub(super) stamp: Stamp,
    /// [`VerifyPolicy::fingerprint`](super::verify::VerifyPolicy::fingerprint)
    pub(super) policy: [u8; 32],
}

/// Error of an image that cannot be reached by its name, because the default image has a file of
/// that name in its root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the image `{name}` would be hidden by `/{name}` of the image `{default}`: give it another `name` in an [[image]] \
     of the configuration file"
)]
pub struct HiddenNameError {
    name: String,
    default: String,
}

impl ServedImage {
    /// Creates an image of this name. Reads the menus of the image.
    pub fn new(name: impl Into<String>, image: impl Into<Arc<Image>>) -> Self {
        let image = image.into();
        Self {
            name: name.into(),
            root_names: bootable::root_names(&image),
            image,
            path: PathBuf::new(),
            origin: CandidateOrigin::Named,
            is_called: AtomicBool::new(false),
            notes: Mutex::default(),
        }
    }

    /// Remembers the file that the image was opened from, and the state in which the file was.
    pub(super) fn with_file(self, path: &Path, origin: CandidateOrigin, stamp: Stamp) -> Self {
        let notes = Mutex::new(Notes { stamp: Some(stamp), ..Notes::default() });
        Self { path: path.to_owned(), origin, notes, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn root_names(&self) -> &RootNames {
        &self.root_names
    }

    pub(super) const fn origin(&self) -> CandidateOrigin {
        self.origin
    }

    /// Returns `NAME~IDENTITY`: a name that always means this very image. No image's own name
    /// contains `~`.
    pub(crate) fn versioned_name(&self) -> String {
        format!("{}~{}", self.name, self.image.identity)
    }

    pub(super) fn has_versioned_name(&self, name: &[u8]) -> bool {
        let rest = name.strip_prefix(self.name.as_bytes()).and_then(|rest| rest.strip_prefix(b"~"));
        rest.is_some_and(|identity| identity == self.image.identity.to_string().as_bytes())
    }

    /// Checks that an image called `name` can be reached beside the tree of this image, the default
    /// one.
    ///
    /// # Errors
    /// [`HiddenNameError`]
    pub(crate) fn reachable(&self, name: &str) -> Result<(), HiddenNameError> {
        match path::resolve(&self.image.index, name.as_bytes()) {
            Ok(_) => Err(HiddenNameError { name: name.to_owned(), default: self.name.clone() }),
            Err(_) => Ok(()),
        }
    }

    /// Notes that a client mounted the image or used one of its handles.
    pub(super) fn note_call(&self) {
        // Usually it is noted already. Writing it again would make all processors wait for the
        // cache line.
        if !self.is_called.load(Ordering::Relaxed) {
            self.is_called.store(true, Ordering::Relaxed);
        }
    }

    /// Dates a noted call: `now` is the time of the last call if there was one since this was last
    /// asked.
    pub(crate) fn date_calls(&self, now: Instant) {
        if self.is_called.swap(false, Ordering::Relaxed) {
            self.notes().last_call = Some(now);
        }
    }

    /// Returns when a client last used the image by NFS, as of [`ServedImage::date_calls`].
    pub(super) fn last_call(&self) -> Option<Instant> {
        self.notes().last_call
    }

    /// Notes when a client last used the image by NFS.
    pub(super) fn set_last_call(&self, last_call: Option<Instant>) {
        self.notes().last_call = last_call;
    }

    /// Tells whether an NBD client or a transfer uses the image.
    pub(super) fn is_in_use(&self) -> bool {
        // One is ours; sessions and transfers have the others.
        Arc::strong_count(&self.image) > 1
    }

    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.notes().stamp
    }

    /// Notes that the file changed, and its content did not.
    pub(super) fn set_stamp(&self, stamp: Stamp) {
        self.notes().stamp = Some(stamp);
    }

    /// Returns the last verification that succeeded, which may be one of an earlier state.
    pub(super) fn verified(&self) -> Option<Verified> {
        self.notes().verified
    }

    pub(super) fn set_verified(&self, verified: Option<Verified>) {
        self.notes().verified = verified;
    }

    /// Tells whether the image was verified by this policy in the state in which its file is.
    pub(super) fn is_verified(&self, policy: [u8; 32]) -> bool {
        let notes = self.notes();
        notes.stamp.is_some_and(|stamp| notes.verified == Some(Verified { stamp, policy }))
    }

    /// Tells whether `newer` was written over the same file that this image is in.
    pub(super) fn was_overwritten_by(&self, newer: &ServedImage) -> bool {
        let is_same_file = self.stamp().zip(newer.stamp()).is_some_and(|(old, new)| old.is_same_file(&new));
        is_same_file && self.image.identity != newer.image.identity
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Each change is a single assignment: a panic leaves nothing half done.
        locked(&self.notes)
    }
}
