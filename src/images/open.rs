//! Opening of candidates: takes over the images whose files are unchanged, and opens the others.

use std::io::ErrorKind;
use std::sync::Arc;

use super::scan::{Candidate, Scanned};
use super::stamp::Stamp;
use super::verify::Refusal;
use super::{ImageError, ImageSet, ServedImage, Verifications};
use crate::image::{Image, OpenError};

/// Opens the candidates whose file is not open yet. Waits for the disk.
pub(super) fn open_all(
    scanned: Vec<Scanned>,
    current: Option<&ImageSet>,
    verifications: Option<&Verifications>,
    errors: &mut Vec<ImageError>,
) -> Vec<Arc<ServedImage>> {
    let mut opened = Vec::new();
    for scanned in scanned {
        match scanned {
            Scanned::File(candidate) => match open(&candidate, current, verifications) {
                Ok(image) => opened.extend(image),
                Err(fault) => {
                    let old =
                        current.and_then(|set| set.by_path(&candidate.path)).filter(|old| !fault.is_of(old));
                    errors.push(fault.error(candidate, old.is_some()));
                    opened.extend(old.cloned());
                }
            },
            Scanned::UnlistedFolder(folder) => {
                let served = current.into_iter().flat_map(ImageSet::iter);
                opened.extend(served.filter(|old| old.path().parent() == Some(&*folder)).cloned());
            }
        }
    }
    opened
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

/// Opens the image in a file, or takes over the one that was opened from it; `None` if the file was
/// removed.
fn open(
    candidate: &Candidate,
    current: Option<&ImageSet>,
    verifications: Option<&Verifications>,
) -> Result<Option<Arc<ServedImage>>, Fault> {
    let Candidate { path, name, .. } = candidate;
    let is_current = current.is_some_and(|set| set.by_path(path).is_some());
    // Before the image is opened: if the file changes meanwhile, the next scan sees another stamp.
    let stamp = match Stamp::of(path) {
        // The operator removed it while isowire runs. At the start it is an error of `Image::open`.
        Err(error) if error.kind() == ErrorKind::NotFound && is_current => return Ok(None),
        stamp => stamp.ok(),
    };
    if let Some(refusal) = verifications.zip(stamp).and_then(|(all, stamp)| all.refusal(path, stamp)) {
        return Err(Fault::Unverified(refusal));
    }
    let is_same = |old: &&Arc<ServedImage>| old.path() == path && old.stamp() == stamp && old.name == *name;
    let known = || current.into_iter().flat_map(ImageSet::known);
    if let Some(same) = known().filter(|_| stamp.is_some()).find(is_same) {
        return Ok(Some(Arc::clone(same)));
    }
    // Those that are not served yet, since their verification goes on.
    let waiting = verifications.map(Verifications::images).unwrap_or_default();
    if let Some(same) = waiting.iter().find(is_same) {
        return Ok(Some(Arc::clone(same)));
    }
    let image = Image::open(path).map_err(Fault::Unopened)?;
    // It was created between the two calls; its IN_CLOSE_WRITE starts another scan.
    let Some(stamp) = stamp else { return Ok(None) };
    if let Some(old) = known().find(|old| is_as_before(old, candidate, &image, &stamp)) {
        old.set_stamp(stamp);
        return Ok(Some(Arc::clone(old)));
    }
    Ok(Some(Arc::new(ServedImage::new(name, image).with_file(path, candidate.origin, stamp))))
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
    use super::super::tests::{served, set_of};
    use super::*;

    #[test]
    fn unopened_file_keeps_its_old_image() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.iso");
        fs::write(&path, "no image").unwrap();
        let candidate = Candidate { path: path.clone(), name: "a".into(), origin: CandidateOrigin::Named };
        let found = || vec![Scanned::File(candidate.clone())];
        let open_all = |scanned, current: Option<&ImageSet>| {
            let mut errors = Vec::new();
            (super::open_all(scanned, current, None, &mut errors), errors)
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
}
