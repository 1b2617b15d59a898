//! The scan of places in object stores.

use std::path::{Path, PathBuf};

use super::{Candidate, Scanned, SearchPath, is_iso, is_named, path_order};
use crate::images::error::ImageError;
use crate::images::name::name_of;
use crate::images::served::CandidateOrigin;
use crate::store::{FetchError, Listing, Object, Place};

/// Scans a place: a folder stands for its `*.iso`, in the order of those of a folder on a disk.
pub(super) fn scan_place(
    search: &SearchPath,
    place: &Place,
    listing: &dyn Listing,
    paths: &[SearchPath],
    scanned: &mut Vec<Scanned>,
    errors: &mut Vec<ImageError>,
) {
    let (path, is_folder) = (search.path.clone(), place.is_folder());
    if let Some(name) = search.name.as_ref().filter(|_| is_folder) {
        errors.push(ImageError::NamedFolder { path: path.clone(), name: name.clone() });
    }
    let candidates = |objects| candidates(objects, search, is_folder, paths);
    match listing.list(place) {
        Ok(objects) => {
            let found = candidates(objects);
            if found.is_empty() && is_folder {
                errors.push(ImageError::EmptyFolder(path));
            }
            scanned.extend(found.into_iter().map(Scanned::File));
        }
        // It was removed. At the start the operator named what is not there.
        Err(error @ FetchError::NotFound) if !is_folder => {
            errors.push(ImageError::Unreachable { path, error, is_folder, is_kept: false });
        }
        Err(error) => {
            let known = candidates(listing.known(place));
            scanned.push(Scanned::SilentPlace { path, is_folder, error, known });
        }
    }
}

/// Turns the objects of a place into candidates.
fn candidates(
    objects: Vec<Object>,
    search: &SearchPath,
    is_folder: bool,
    paths: &[SearchPath],
) -> Vec<Candidate> {
    if !is_folder {
        let candidate = |object| {
            let name = search.name.clone().unwrap_or_else(|| name_of(&search.path));
            candidate(object, name, CandidateOrigin::Named)
        };
        return objects.into_iter().map(candidate).collect();
    }
    let isos = objects.into_iter().filter(|object| {
        let path = Path::new(&object.url);
        is_iso(path) && !is_named(path, paths)
    });
    let named = isos.map(|object| {
        let name = name_of(Path::new(&object.url));
        candidate(object, name, CandidateOrigin::Folder)
    });
    let mut candidates: Vec<_> = named.collect();
    candidates.sort_by(|a, b| path_order(&a.path, &b.path));
    candidates
}

fn candidate(object: Object, name: String, origin: CandidateOrigin) -> Candidate {
    Candidate { path: PathBuf::from(&object.url), name, origin, object: Some(object) }
}

#[cfg(all(test, feature = "store"))]
mod tests {
    use super::super::scan;
    use super::*;

    /// A store with these objects, or with an error, and a cache folder.
    #[derive(Debug)]
    struct Fake {
        listed: Result<Vec<&'static str>, FetchError>,
        known: Vec<&'static str>,
    }

    fn objects(urls: &[&str]) -> Vec<Object> {
        urls.iter().map(|url| Object { url: (*url).into(), size: 1, etag: "\"1\"".into() }).collect()
    }

    impl Listing for Fake {
        fn list(&self, _: &Place) -> Result<Vec<Object>, FetchError> {
            self.listed.as_deref().map(objects).map_err(Clone::clone)
        }

        fn known(&self, _: &Place) -> Vec<Object> {
            objects(&self.known)
        }
    }

    /// Returns name, address and origin of each candidate, and the errors.
    fn scanned(store: &Fake, paths: &[(&str, Option<&str>)]) -> (Vec<String>, String) {
        let paths: Vec<_> = paths
            .iter()
            .map(|(path, name)| SearchPath { path: path.into(), name: name.map(str::to_owned) })
            .collect();
        let (scanned, errors) = scan(&paths, Some(store));
        let one = |candidate: &Candidate| {
            format!("{} {} {:?}", candidate.name, candidate.path.display(), candidate.origin)
        };
        let text = |scanned: &Scanned| match scanned {
            Scanned::File(candidate) => vec![one(candidate)],
            Scanned::SilentPlace { known, .. } => {
                [vec!["silent".to_owned()], known.iter().map(one).collect()].concat()
            }
            Scanned::UnlistedFolder(_) => vec!["unlisted".to_owned()],
        };
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        (scanned.iter().flat_map(text).collect(), errors.join("\n"))
    }

    #[test]
    fn place_stands_for_its_isos() {
        let listed = vec!["s3://b/x/a-1.iso", "s3://b/x/.a.iso", "s3://b/x/a-2.ISO", "s3://b/x/my.iso"];
        let store = Fake { listed: Ok(listed), known: Vec::new() };
        let (found, errors) = scanned(&store, &[("s3://b/x/", None)]);
        assert_eq!(
            found,
            ["a-2 s3://b/x/a-2.ISO Folder", "a-1 s3://b/x/a-1.iso Folder", "my s3://b/x/my.iso Folder"]
        );
        assert_eq!(errors, "");
        let (_, errors) =
            scanned(&Fake { listed: Ok(Vec::new()), known: Vec::new() }, &[("s3://b/x/", Some("n"))]);
        assert!(errors.starts_with("s3://b/x/: a folder of ISOs cannot have a name"), "{errors}");
        assert!(errors.ends_with("s3://b/x/: folder without *.iso: put one there, or name another folder"));
    }

    #[test]
    fn object_has_the_name_that_the_operator_gives() {
        let store = Fake { listed: Ok(vec!["https://h/a.iso"]), known: Vec::new() };
        let found = |name| scanned(&store, &[("https://h/a.iso", name)]).0;
        assert_eq!(found(None), ["a https://h/a.iso Named"]);
        assert_eq!(found(Some("mine")), ["mine https://h/a.iso Named"]);
    }

    #[test]
    fn silent_store_leaves_what_is_known() {
        let down = || FetchError::Unreachable("no answer in time".into());
        let store = Fake { listed: Err(down()), known: vec!["s3://b/a.iso"] };
        assert_eq!(scanned(&store, &[("s3://b", None)]).0, ["silent", "a s3://b/a.iso Folder"]);
        assert_eq!(scanned(&store, &[("s3://b/a.iso", Some("n"))]).0, ["silent", "n s3://b/a.iso Named"]);
        let gone = Fake { listed: Err(FetchError::NotFound), known: vec!["s3://b/a.iso"] };
        let (found, errors) = scanned(&gone, &[("s3://b/a.iso", None)]);
        assert_eq!(found, [""; 0]);
        assert!(errors.ends_with("check its name; that of a folder ends with `/`"), "{errors}");
        assert_eq!(scanned(&gone, &[("s3://b/", None)]).0[0], "silent", "a bucket that is gone");
    }
}
