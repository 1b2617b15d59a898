//! The images of a process as plain data, for the process that follows it. Their files go beside
//! it, open: a file that was replaced has no path any more.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::retention::Retained;
use super::served::{CandidateOrigin, Verified};
use super::stamp::Stamp;
use super::{ImageSet, ServedImage};
use crate::image::{Identity, Image, SurveyError};
use crate::store::{Object, Store};

/// An image without its open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CarriedImage {
    /// Path of the file when the image was opened; any bytes but 0.
    path: Vec<u8>,
    name: String,
    identity: Identity,
    /// Object of which the file is the cache.
    object: Option<Object>,
    origin: CandidateOrigin,
    /// Time since the image was replaced or removed; `None` for a current one.
    replaced: Option<Duration>,
    /// Time since the last call by NFS.
    last_call: Option<Duration>,
    verified: Option<Verified>,
}

/// Error of an image of another process that cannot be used here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarriedError {
    #[error("{0}")]
    Unusable(#[from] SurveyError),
    #[error("its file has another content now")]
    Changed,
    #[error("it is in an object store, and no image of this process is")]
    NoStore,
}

impl ImageSet {
    /// Returns the current images, the default first, and then the retained ones.
    pub(crate) fn carried(&self, now: Instant) -> Vec<(CarriedImage, Arc<Image>)> {
        self.date_calls(now);
        let current = self.iter().map(|served| (served, None));
        let retained = self.retained.iter().map(|old| (&old.image, Some(old.since)));
        let carried = |(served, replaced): (&Arc<ServedImage>, _)| {
            (CarriedImage::new(served, replaced, now), Arc::clone(&served.image))
        };
        current.chain(retained).map(carried).collect()
    }

    /// Makes the set of images that another process had; those of objects are opened from the cache
    /// folder of `store`. Those that cannot be used are missing, and reported; `None` if no current
    /// one is left.
    pub(crate) fn of_carried(
        carried: Vec<(CarriedImage, File)>,
        store: Option<&Store>,
        now: Instant,
        mut report: impl FnMut(&str, CarriedError),
    ) -> Option<Self> {
        let (mut current, mut retained) = (Vec::new(), Vec::new());
        for (carried, file) in carried {
            let since = carried.replaced.map(|age| before(now, age));
            match carried.open(file, store, now) {
                Ok(image) => match since {
                    Some(since) => retained.push(Retained { image: Arc::new(image), since }),
                    None => current.push(Arc::new(image)),
                },
                Err(error) => report(&carried.name, error),
            }
        }
        let mut images = Self::of(current)?;
        images.retained = retained;
        Some(images)
    }
}

impl CarriedImage {
    fn new(served: &ServedImage, replaced: Option<Instant>, now: Instant) -> Self {
        let age = |then: Instant| now.saturating_duration_since(then);
        Self {
            path: served.path().as_os_str().as_bytes().to_vec(),
            name: served.name.clone(),
            identity: served.image.identity,
            object: served.image.source.object().cloned(),
            origin: served.origin(),
            replaced: replaced.map(age),
            last_call: served.last_call().map(age),
            verified: served.verified(),
        }
    }

    fn open(&self, file: File, store: Option<&Store>, now: Instant) -> Result<ServedImage, CarriedError> {
        let (image, stamp) = match &self.object {
            Some(object) => (open_object(object, store)?, Stamp::of_object(object)),
            None => {
                let stamp = Stamp::of_file(&file).map_err(SurveyError::from)?;
                (Image::of_file(file)?, stamp)
            }
        };
        if image.identity != self.identity {
            return Err(CarriedError::Changed);
        }
        let path = PathBuf::from(OsString::from_vec(self.path.clone()));
        let served = ServedImage::new(self.name.as_str(), image).with_file(&path, self.origin, stamp);
        served.set_last_call(self.last_call.map(|age| before(now, age)));
        served.set_verified(self.verified);
        Ok(served)
    }
}

/// Opens an image from its files in the cache folder, which the other process may still use.
fn open_object(object: &Object, store: Option<&Store>) -> Result<Image, CarriedError> {
    let store = store.ok_or(CarriedError::NoStore)?;
    let file = store.open(object).map_err(SurveyError::from)?;
    Ok(Image::open_stored(file).map_err(|error| error.fault)?)
}

/// Returns the time `age` before `now`; `now` if the clock of this host does not reach back so far.
fn before(now: Instant, age: Duration) -> Instant {
    now.checked_sub(age).unwrap_or(now)
}
