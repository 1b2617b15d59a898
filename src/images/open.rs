//! Opening of candidates: takes over the images whose files or objects are unchanged, and opens the
//! others.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::scan::{Candidate, Scanned, SearchPath, is_named};
use super::stamp::Stamp;
use super::verify::Refusal;
use super::{ImageError, ImageSet, ServedImage, Verifications};
use crate::image::{Image, OpenError};
use crate::store::{Object, Remote};

/// What is open already, and the way to objects.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opening<'a> {
    /// The paths that were scanned.
    pub(super) paths: &'a [SearchPath],
    pub(super) current: Option<&'a ImageSet>,
    pub(super) verifications: Option<&'a Verifications>,
    pub(super) remote: Option<&'a Remote>,
}

impl Opening<'_> {
    /// Opens the candidates whose file is not open yet. Waits for the disk.
    pub(super) fn open_all(
        &self,
        scanned: Vec<Scanned>,
        errors: &mut Vec<ImageError>,
    ) -> Vec<Arc<ServedImage>> {
        let mut opened = Vec::new();
        for scanned in scanned {
            match scanned {
                Scanned::File(candidate) => opened.extend(self.open_or_keep(candidate, errors)),
                Scanned::UnlistedFolder(folder) => opened.extend(self.opened_from(&folder, true)),
                Scanned::SilentPlace { path, is_folder, error, known } => {
                    let mut images = self.opened_from(&path, is_folder);
                    if images.is_empty() {
                        images.extend(known.into_iter().flat_map(|one| self.open_or_keep(one, errors)));
                    }
                    let is_kept = !images.is_empty();
                    errors.push(ImageError::Unreachable { path, error, is_folder, is_kept });
                    opened.extend(images);
                }
            }
        }
        opened
    }

    /// Opens a candidate. If that fails, the image that was opened from its file before stays.
    fn open_or_keep(&self, candidate: Candidate, errors: &mut Vec<ImageError>) -> Option<Arc<ServedImage>> {
        let fault = match self.open(&candidate) {
            Ok(image) => return image,
            Err(fault) => fault,
        };
        let old = self.current.and_then(|set| set.by_path(&candidate.path)).filter(|old| !fault.is_of(old));
        errors.push(fault.error(candidate, old.is_some()));
        old.cloned()
    }

    /// Returns the images that were opened from a file or a folder before. A file of the folder that
    /// is named is not one of them, as in the scan.
    fn opened_from(&self, path: &Path, is_folder: bool) -> Vec<Arc<ServedImage>> {
        let is_from = |old: &&Arc<ServedImage>| match is_folder {
            true => old.path().parent() == Some(path) && !is_named(old.path(), self.paths),
            false => old.path() == path,
        };
        self.current.into_iter().flat_map(ImageSet::iter).filter(is_from).cloned().collect()
    }
}

/// Reason for which a candidate is not served.
enum Fault {
    Unopened(OpenError),
    Unverified(Refusal),
}

impl Fault {
    /// Tells whether this image has the fault, and not only a newer one in its place.
    fn is_of(&self, image: &ServedImage) -> bool {
        match self {
            Self::Unopened(_) => false,
            // A disk that fails says nothing against an image that is served.
            Self::Unverified(refusal) => refusal.is_final && image.stamp() == Some(refusal.stamp),
        }
    }

    fn error(self, Candidate { path, origin, .. }: Candidate, is_kept: bool) -> ImageError {
        match self {
            Self::Unopened(error) => ImageError::Unopened { error, origin, is_kept },
            Self::Unverified(Refusal { why, .. }) => ImageError::Unverified { path, why, is_kept },
        }
    }
}

impl Opening<'_> {
    /// Opens the image in a file, or takes over the one that was opened from it; `None` if the file
    /// was removed.
    fn open(&self, candidate: &Candidate) -> Result<Option<Arc<ServedImage>>, Fault> {
        let Self { current, verifications, .. } = *self;
        let Candidate { path, name, object, .. } = candidate;
        let is_current = current.is_some_and(|set| set.by_path(path).is_some());
        // Before the image is opened: if the file changes meanwhile, the next scan sees another stamp.
        let stamp =
            match object.as_ref().map_or_else(|| Stamp::of(path), |object| Ok(Stamp::of_object(object))) {
                // The operator removed it while isowire runs. At the start it is an error of `Image::open`.
                Err(error) if error.kind() == ErrorKind::NotFound && is_current => return Ok(None),
                stamp => stamp.ok(),
            };
        if let Some(refusal) = verifications.zip(stamp).and_then(|(all, stamp)| all.refusal(path, stamp)) {
            return Err(Fault::Unverified(refusal));
        }
        let is_same =
            |old: &&Arc<ServedImage>| old.path() == path && old.stamp() == stamp && old.name == *name;
        let known = || current.into_iter().flat_map(ImageSet::known);
        if let Some(same) = known().filter(|_| stamp.is_some()).find(is_same) {
            return Ok(Some(Arc::clone(same)));
        }
        // Those that are not served yet, since their verification goes on.
        let waiting = verifications.map(Verifications::images).unwrap_or_default();
        if let Some(same) = waiting.iter().find(is_same) {
            return Ok(Some(Arc::clone(same)));
        }
        let image = match object {
            Some(object) => self.open_object(path, object),
            None => Image::open(path),
        };
        let image = image.map_err(Fault::Unopened)?;
        // It was created between the two calls; its IN_CLOSE_WRITE starts another scan.
        let Some(stamp) = stamp else { return Ok(None) };
        if let Some(old) = known().find(|old| is_as_before(old, candidate, &image, &stamp)) {
            old.set_stamp(stamp);
            return Ok(Some(Arc::clone(old)));
        }
        Ok(Some(Arc::new(ServedImage::new(name, image).with_file(path, candidate.origin, stamp))))
    }

    /// Opens the image in an object. What of it is read is fetched, unless it is cached.
    fn open_object(&self, path: &Path, object: &Object) -> Result<Image, OpenError> {
        let no_store = || io::Error::from(ErrorKind::Unsupported);
        let file = self.remote.ok_or_else(no_store).and_then(|remote| remote.open_object(object));
        let file = file.map_err(|error| OpenError { path: path.to_owned(), fault: error.into() })?;
        Image::open_stored(file)
    }
}

/// Tells whether only the time of the file changed, as by touch(1), or its content was restored.
fn is_as_before(old: &ServedImage, candidate: &Candidate, image: &Image, stamp: &Stamp) -> bool {
    old.path() == candidate.path
        && old.name == candidate.name
        && old.image.identity == image.identity
        && old.stamp().is_some_and(|old| old.is_same_file(stamp))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::served::CandidateOrigin;
    use super::super::tests::{in_folder, served, set_of};
    use super::*;
    use crate::store::FetchError;

    #[test]
    fn unopened_file_keeps_its_old_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.iso");
        fs::write(&path, "no image").unwrap();
        let origin = CandidateOrigin::Named;
        let candidate = Candidate { path: path.clone(), name: "a".into(), origin, object: None };
        let found = || vec![Scanned::File(candidate.clone())];
        let open_all = |scanned, current: Option<&ImageSet>| {
            let mut errors = Vec::new();
            (Opening { current, ..Opening::default() }.open_all(scanned, &mut errors), errors)
        };
        let (opened, errors) = open_all(found(), None);
        assert!(opened.is_empty() && errors.iter().all(ImageError::is_fatal) && errors.len() == 1);
        let old = served(path.to_str().unwrap(), 1);
        let current = set_of(&[Arc::clone(&old)]);
        let (opened, errors) = open_all(found(), Some(&current));
        assert!(opened.len() == 1 && Arc::ptr_eq(&opened[0], &old));
        assert!(errors[0].to_string().ends_with("; the image opened from it before is still served"));
        let unlisted = vec![Scanned::UnlistedFolder(dir.path().to_owned())];
        assert!(Arc::ptr_eq(&open_all(unlisted, Some(&current)).0[0], &old));
        fs::remove_file(&path).unwrap();
        let (opened, errors) = open_all(found(), Some(&current));
        assert!(opened.is_empty() && errors.is_empty(), "a removed file is not an error");
    }

    #[test]
    fn named_image_is_not_one_of_its_folder() {
        let (named, other) = (served("/a/named.iso", 1), in_folder("/a/other.iso", 2));
        let current = set_of(&[Arc::clone(&named), Arc::clone(&other)]);
        let paths = [SearchPath { path: named.path().to_owned(), name: None }];
        let opening = Opening { paths: &paths, current: Some(&current), ..Opening::default() };
        let silent = |path: &str, is_folder| {
            let error = FetchError::Unreachable("no answer in time".into());
            Scanned::SilentPlace { path: path.into(), is_folder, error, known: Vec::new() }
        };
        let cases = [
            (Scanned::UnlistedFolder("/a".into()), &other),
            (silent("/a/", true), &other),
            (silent("/a/named.iso", false), &named),
        ];
        for (scanned, expected) in cases {
            let opened = opening.open_all(vec![scanned], &mut Vec::new());
            assert!(opened.len() == 1 && Arc::ptr_eq(&opened[0], expected), "{opened:?}");
        }
    }
}
