//! Which files are to be served, as far as folders tell: every `*.iso` of a folder, in an order in which the newest of
//! several versions comes first.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::problem::Problem;
use crate::boot::text::Word;
use crate::config::{Place, name_of};

/// A file that is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub path: PathBuf,
    pub name: Word,
    pub origin: Origin,
}

/// Who wants it served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The operator named it.
    Named,
    /// It lies in a folder.
    Folder,
}

/// What a place has.
#[derive(Debug)]
pub enum Found {
    File(Candidate),
    /// A folder that cannot be listed: what was known of it goes on.
    Unknown(PathBuf),
}

/// Every file of these places, those of the first place first, and what is wrong with places.
pub fn look(places: &[Place]) -> (Vec<Found>, Vec<Problem>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for Place { path, name, .. } in places {
        if !path.is_dir() {
            let name = name.clone().unwrap_or_else(|| name_of(path));
            found.push(Found::File(Candidate { path: path.clone(), name, origin: Origin::Named }));
            continue;
        }
        if let Some(name) = name {
            problems.push(Problem::NamedFolder { path: path.clone(), name: name.clone() });
        }
        match list(path) {
            Ok(files) => {
                if files.is_empty() {
                    problems.push(Problem::EmptyFolder(path.clone()));
                }
                // What the operator named has the name that was given to it.
                let files = files.into_iter().filter(|file| places.iter().all(|place| place.path != *file));
                found.extend(files.map(|path| {
                    let name = name_of(&path);
                    Found::File(Candidate { path, name, origin: Origin::Folder })
                }));
            }
            Err(error) => {
                problems.push(Problem::Unlisted { path: path.clone(), error });
                found.push(Found::Unknown(path.clone()));
            }
        }
    }
    (found, problems)
}

/// The ISOs of a folder, in their order.
fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // A link that leads nowhere is told when it cannot be opened.
        if is_iso(&path) && path.metadata().map_or(true, |metadata| metadata.is_file()) {
            files.push(path);
        }
    }
    files.sort_by(|a, b| order(&stem(a), &stem(b)).then_with(|| a.cmp(b)));
    Ok(files)
}

/// Whether a file of this name in a folder is to be served.
pub fn is_iso(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !is_hidden && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("iso"))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// What comes before the first digit ascends, the rest descends: the newest of each kind comes first.
fn order(a: &str, b: &str) -> Ordering {
    let split = |name: &str| {
        let digit = name.find(|c: char| c.is_ascii_digit()).unwrap_or(name.len());
        let (kind, version) = name.split_at(digit);
        (kind.to_owned(), std::cmp::Reverse(version.to_owned()))
    };
    split(a).cmp(&split(b))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::boot::menu::Preferences;

    #[test]
    fn the_newest_of_each_kind_comes_first() {
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

    fn place(path: &Path, name: Option<&str>) -> Place {
        Place { path: path.to_owned(), name: name.and_then(Word::new), preferences: Preferences::default() }
    }

    /// The names of what is found, each with its file.
    fn found(places: &[Place]) -> Vec<String> {
        let text = |found| match found {
            Found::File(Candidate { path, name, origin }) => {
                format!("{name} {} {origin:?}", path.file_name().unwrap().display())
            }
            Found::Unknown(path) => format!("? {}", path.display()),
        };
        look(places).0.into_iter().map(text).collect()
    }

    #[test]
    fn a_folder_has_its_isos_and_nothing_else() {
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
        assert_eq!(found(&[place(dir.path(), None)]), files);
        let named = found(&[place(&path("b-1.iso"), Some("mine")), place(dir.path(), None)]);
        assert_eq!(named[0], "mine b-1.iso Named");
        assert_eq!(named[1..], [&files[..2], &files[3..]].concat(), "and not a second time");
    }

    #[test]
    fn places_that_cannot_be_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let problems = |name| {
            let (_, problems) = look(&[place(dir.path(), name)]);
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(
            problems(None).ends_with(": no *.iso is in this folder: put one there, or name another folder")
        );
        fs::write(dir.path().join("a.iso"), "").unwrap();
        assert_eq!(problems(None), "");
        assert!(problems(Some("x")).contains(": a folder of ISOs cannot have the name `x`: "));
    }
}
