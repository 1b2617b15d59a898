//! The scan: from the paths of the operator to the files that are to be opened. A folder stands for
//! its `*.iso`, the newest of several versions first.

mod places;

use std::cmp::{Ordering, Reverse};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::places::scan_place;
use super::error::ImageError;
use super::name::name_of;
use super::served::CandidateOrigin;
use crate::store::{FetchError, Listing, Object, Place};

/// A path or URL that the operator named: an ISO or a folder of ISOs. This may change while isowire
/// runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SearchPath {
    pub path: PathBuf,
    /// Name of the ISO; `None` for the one of its file.
    pub name: Option<String>,
}

/// A file or object that is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// URL of an object.
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) origin: CandidateOrigin,
    /// `None` for a file.
    pub(super) object: Option<Object>,
}

/// Result of the scan of a path.
#[derive(Debug)]
pub(super) enum Scanned {
    File(Candidate),
    /// A folder that cannot be listed: the images opened from it before stay.
    UnlistedFolder(PathBuf),
    /// A place in a store that does not answer: the images opened from it before stay, else those
    /// that the cache folder knows are opened.
    SilentPlace {
        path: PathBuf,
        is_folder: bool,
        error: FetchError,
        known: Vec<Candidate>,
    },
}

/// Scans these paths in their order. Without a listing there are no object stores.
pub(super) fn scan(paths: &[SearchPath], listing: Option<&dyn Listing>) -> (Vec<Scanned>, Vec<ImageError>) {
    let (mut scanned, mut errors) = (Vec::new(), Vec::new());
    for search in paths {
        if let Some((place, listing)) = Place::of(&search.path).zip(listing) {
            scan_place(search, &place, listing, paths, &mut scanned, &mut errors);
        } else if search.path.is_dir() {
            scan_folder(search, paths, &mut scanned, &mut errors);
        } else {
            let (path, name) = (search.path.clone(), search.name.clone());
            let name = name.unwrap_or_else(|| name_of(&path));
            let origin = CandidateOrigin::Named;
            scanned.push(Scanned::File(Candidate { path, name, origin, object: None }));
        }
    }
    (scanned, errors)
}

fn scan_folder(
    SearchPath { path, name }: &SearchPath,
    paths: &[SearchPath],
    scanned: &mut Vec<Scanned>,
    errors: &mut Vec<ImageError>,
) {
    if let Some(name) = name {
        errors.push(ImageError::NamedFolder { path: path.clone(), name: name.clone() });
    }
    match list(path) {
        Ok(files) => {
            if files.is_empty() {
                errors.push(ImageError::EmptyFolder(path.clone()));
            }
            let files = files.into_iter().filter(|file| !is_named(file, paths));
            scanned.extend(files.map(|path| {
                let (name, origin) = (name_of(&path), CandidateOrigin::Folder);
                Scanned::File(Candidate { path, name, origin, object: None })
            }));
        }
        Err(error) => {
            errors.push(ImageError::Unlisted { path: path.clone(), error });
            scanned.push(Scanned::UnlistedFolder(path.clone()));
        }
    }
}

/// Tells whether the operator named a file of a folder itself. It is scanned there, with the name it
/// has there.
pub(super) fn is_named(file: &Path, paths: &[SearchPath]) -> bool {
    paths.iter().any(|search| search.path == file)
}

/// Lists the ISOs of a folder in the order in which they are served.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // A dangling symlink is an error when it is opened.
        if is_iso(&path) && path.metadata().map_or(true, |metadata| metadata.is_file()) {
            files.push(path);
        }
    }
    files.sort_by(|a, b| path_order(a, b));
    Ok(files)
}

/// Compares two files of a folder. The whole path decides between equal stems, so that the order is
/// always the same.
pub(super) fn path_order(a: &Path, b: &Path) -> Ordering {
    order(&stem(a), &stem(b)).then_with(|| a.cmp(b))
}

/// Tells whether a file of this name in a folder is to be served.
pub(super) fn is_iso(path: &Path) -> bool {
    // macOS writes `._NAME.iso` beside a file on other file systems; it is not an ISO.
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("iso"))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Compares two names: ascending up to the first digit and descending from there, so that the
/// newest version of each kind comes first.
fn order(a: &str, b: &str) -> Ordering {
    split_version(a).cmp(&split_version(b))
}

/// Splits a name before its first digit.
fn split_version(name: &str) -> (&str, Reverse<&str>) {
    let digit = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
    let (kind, version) = name.split_at(digit);
    (kind, Reverse(version))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn newest_version_comes_first() {
        let mut names = [
            "zfs-rescue",
            "archlinux-2025.12.01-x86_64",
            "archlinux-2026.10.01-x86_64",
            "archlinux",
            "debian-13",
            "archlinux-2026.11.01-x86_64",
            "archlinux-x86_64",
            "1st",
        ];
        names.sort_by(|a, b| order(a, b));
        let sorted = [
            "1st",
            "archlinux",
            "archlinux-2026.11.01-x86_64",
            "archlinux-2026.10.01-x86_64",
            "archlinux-2025.12.01-x86_64",
            "archlinux-x86_64",
            "debian-13",
            "zfs-rescue",
        ];
        assert_eq!(names, sorted);
    }

    fn search_path(path: &Path, name: Option<&str>) -> SearchPath {
        SearchPath { path: path.to_owned(), name: name.map(str::to_owned) }
    }

    /// Returns the name, the file and the origin of each candidate.
    fn scanned(paths: &[SearchPath]) -> Vec<String> {
        let text = |scanned| match scanned {
            Scanned::File(Candidate { path, name, origin, .. }) => {
                format!("{name} {} {origin:?}", path.file_name().unwrap().display())
            }
            Scanned::UnlistedFolder(path) | Scanned::SilentPlace { path, .. } => {
                format!("? {}", path.display())
            }
        };
        scan(paths, None).0.into_iter().map(text).collect()
    }

    #[test]
    fn folder_stands_for_its_isos() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["b-1.iso", "b-2.ISO", "a b.iso", ".hidden.iso", "b.iso.part", "iso", "b.txt"] {
            fs::write(path(name), "").unwrap();
        }
        fs::create_dir(path("folder.iso")).unwrap();
        fs::create_dir(path("deeper")).unwrap();
        fs::write(path("deeper/c.iso"), "").unwrap();
        symlink(path("deeper/c.iso"), path("link.iso")).unwrap();
        symlink(path("deeper"), path("directory.iso")).unwrap();
        symlink(path("nothing"), path("nowhere.iso")).unwrap();
        let files = ["a-b a b.iso", "b-2 b-2.ISO", "b-1 b-1.iso", "link link.iso", "nowhere nowhere.iso"];
        let files = files.map(|file| format!("{file} Folder"));
        assert_eq!(scanned(&[search_path(dir.path(), None)]), files);
        let named = scanned(&[search_path(&path("b-1.iso"), Some("mine")), search_path(dir.path(), None)]);
        assert_eq!(named[0], "mine b-1.iso Named");
        assert_eq!(named[1..], [&files[..2], &files[3..]].concat(), "a named file is not scanned twice");
    }

    #[test]
    fn bad_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let errors = |name| {
            let (_, errors) = scan(&[search_path(dir.path(), name)], None);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(errors(None).ends_with(": folder without *.iso: put one there, or name another folder"));
        fs::write(dir.path().join("a.iso"), "").unwrap();
        assert_eq!(errors(None), "");
        assert!(errors(Some("x")).contains(": a folder of ISOs cannot have a name (`x`): "));
    }
}
