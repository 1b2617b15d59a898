//! The images that are served, each with the file it was opened from: which files have to be opened anew, and which name
//! each image gets.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::problem::Problem;
use super::scan::{Candidate, Found};
use crate::boot::files;
use crate::image::{Image, OpenError};
use crate::images::set::ARCHISO;
use crate::images::{Listed, ServedImage};

/// An image, and the file it was opened from.
#[derive(Debug, Clone)]
pub struct Volume {
    pub path: PathBuf,
    stamp: Stamp,
    pub listed: Arc<Listed>,
    /// When somebody last came for it by NFS, as far as that was asked.
    pub last_call: Option<Instant>,
}

/// Tells the contents of a path from those it had before, without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        Ok(Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

impl Volume {
    pub fn served(&self) -> &ServedImage {
        self.listed.served()
    }

    fn is_called(&self, candidate: &Candidate) -> bool {
        self.served().name == candidate.name.as_str()
    }

    pub fn is(&self, other: &Volume) -> bool {
        Arc::ptr_eq(&self.listed, &other.listed)
    }

    /// Whether somebody wrote `newer` over the very file that this image is in.
    pub fn was_overwritten_by(&self, newer: &Volume) -> bool {
        self.stamp.file == newer.stamp.file && self.served().image.identity != newer.served().image.identity
    }

    /// Asks whether somebody came for it by NFS meanwhile.
    pub fn look(&mut self, now: Instant) {
        if self.listed.take_called() {
            self.last_call = Some(now);
        }
    }
}

/// Opens what is not open yet: `shelf` is what is served so far, `retired` what was. Waits for the disk.
pub fn stock(found: Vec<Found>, shelf: &[Volume], retired: &[Volume]) -> (Vec<Volume>, Vec<Problem>) {
    let (mut stocked, mut problems) = (Vec::new(), Vec::new());
    for found in found {
        match found {
            Found::File(candidate) => match volume(&candidate, shelf, retired) {
                Ok(volume) => stocked.extend(volume),
                Err(error) => {
                    let old = shelf.iter().find(|old| old.path == candidate.path);
                    stocked.extend(old.cloned());
                    let (origin, stays) = (candidate.origin, old.is_some());
                    problems.push(Problem::Unopened { error, origin, stays });
                }
            },
            Found::Unknown(folder) => {
                let lay_there = |old: &&Volume| old.path.parent() == Some(&*folder);
                stocked.extend(shelf.iter().filter(lay_there).cloned());
            }
        }
    }
    let named = named(stocked, shelf, &mut problems);
    let is_new = |volume: &&Volume| shelf.iter().chain(retired).all(|old| !old.is(volume));
    named.iter().filter(is_new).for_each(warn);
    (named, problems)
}

/// Tells what is wrong with an image that is served all the same.
fn warn(volume: &Volume) {
    let ServedImage { name, image } = volume.served();
    for warning in &image.warnings {
        warn!(image = %name, "{warning}");
    }
    if image.archiso.is_none() {
        warn!(image = %name, "this is no archiso image: it is served, and no machine boots from it");
    }
}

/// The image in a file: the one that was opened before where that is the same; `None` where the file has gone.
fn volume(candidate: &Candidate, shelf: &[Volume], retired: &[Volume]) -> Result<Option<Volume>, OpenError> {
    let Candidate { path, name, .. } = candidate;
    let of_path = |old: &&Volume| old.path == *path;
    let old = shelf.iter().find(of_path);
    let stamp = match Stamp::of(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && old.is_some() => return Ok(None),
        stamp => stamp.ok(),
    };
    let is_same = |old: &&Volume| Some(old.stamp) == stamp && of_path(old) && old.is_called(candidate);
    if let Some(same) = shelf.iter().chain(retired).find(is_same) {
        return Ok(Some(same.clone()));
    }
    let image = Image::open(path)?;
    let Some(stamp) = stamp else { return Ok(None) };
    // Somebody touched it.
    let is_as_before = |old: &&Volume| {
        old.stamp.file == stamp.file
            && old.served().image.identity == image.identity
            && old.is_called(candidate)
    };
    if let Some(old) = old.filter(is_as_before) {
        return Ok(Some(Volume { stamp, ..old.clone() }));
    }
    let listed = Arc::new(Listed::new(ServedImage { name: name.to_string(), image: Arc::new(image) }));
    Ok(Some(Volume { path: path.clone(), stamp, listed, last_call: None }))
}

/// Those that can be served by their names. Whoever is served by its name so far keeps it.
fn named(stocked: Vec<Volume>, shelf: &[Volume], problems: &mut Vec<Problem>) -> Vec<Volume> {
    let claims: Vec<_> = stocked
        .iter()
        .map(|volume| {
            let had_it = |old: &Volume| old.path == volume.path && old.served().name == volume.served().name;
            Claim { name: &volume.served().name, is_old: shelf.iter().any(had_it) }
        })
        .collect();
    let rivals = rivals(&claims);
    let mut named: Vec<Volume> = Vec::new();
    for (volume, rival) in stocked.iter().zip(rivals) {
        let taken = rival.and_then(|rival| stocked.get(rival)).map(|rival| rival.path.display().to_string());
        // `archiso` is what archiso's hook calls the default image.
        let is_reserved = !named.is_empty() && volume.served().name == ARCHISO;
        if let Some(other) = taken.or_else(|| is_reserved.then(|| "the default image".to_owned())) {
            let (path, name) = (volume.path.clone(), volume.served().name.clone());
            problems.push(Problem::SameName { path, name, other });
            continue;
        }
        match named.first().map(|default| files::reachable(&volume.served().name, default.served())) {
            Some(Err(taken)) => problems.push(Problem::Hidden { path: volume.path.clone(), taken }),
            Some(Ok(())) | None => named.push(volume.clone()),
        }
    }
    named
}

/// An image, as far as its name matters.
struct Claim<'a> {
    name: &'a str,
    /// Whether the image of this file is served by this name already.
    is_old: bool,
}

/// For each, the position of the one that has its name, unless it has it itself. Case makes no name another one.
fn rivals(claims: &[Claim<'_>]) -> Vec<Option<usize>> {
    let mut by_right: Vec<usize> = (0..claims.len()).collect();
    by_right.sort_by_key(|&position| claims.get(position).is_none_or(|claim| !claim.is_old));
    let holder = |claim: &Claim<'_>| {
        let same = |position: &&usize| {
            claims.get(**position).is_some_and(|other| other.name.eq_ignore_ascii_case(claim.name))
        };
        by_right.iter().find(same).copied()
    };
    claims.iter().enumerate().map(|(own, claim)| holder(claim).filter(|&holder| holder != own)).collect()
}

#[cfg(test)]
pub mod tests {
    use std::fs;

    use super::super::scan::Origin;
    use super::*;
    use crate::boot::text::Word;
    use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
    use crate::image::{Identity, Source};

    /// An image of this identity, whose root has a directory `arch`.
    pub fn volume(path: &str, identity: u64) -> Volume {
        let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let mut index = Index::new(attributes);
        let directory = NodeKind::Directory { entries: Vec::new() };
        index.add(NodeId::ROOT, b"arch", directory, attributes).unwrap();
        let mut image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
        image.identity = Identity(identity);
        let name = crate::config::name_of(Path::new(path)).to_string();
        let listed = Arc::new(Listed::new(ServedImage { name, image: Arc::new(image) }));
        let stamp = Stamp { file: (0, identity), size: 0, modified: (0, 0) };
        Volume { path: path.into(), stamp, listed, last_call: None }
    }

    /// The same image, in the file of another.
    pub fn written_over(volume: Volume, other: &Volume) -> Volume {
        Volume { stamp: Stamp { size: 1, ..other.stamp }, ..volume }
    }

    /// The names of what is served of these, and what is wrong.
    fn served(stocked: &[Volume], shelf: &[Volume]) -> (Vec<String>, String) {
        let mut problems = Vec::new();
        let named = named(stocked.to_vec(), shelf, &mut problems);
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        (named.iter().map(|volume| volume.served().name.clone()).collect(), problems.join("\n"))
    }

    #[test]
    fn no_two_images_have_one_name() {
        let (one, two) = (volume("a/x.iso", 1), volume("b/X.iso", 2));
        let (names, problem) = served(&[one.clone(), two.clone()], &[]);
        assert_eq!(names, ["x"]);
        assert_eq!(
            problem,
            "b/X.iso: its name `X` means a/x.iso already: give it another `name` in an [[image]] of the configuration \
             file, or rename it"
        );
        let (names, problem) = served(&[one, two.clone()], &[two]);
        assert_eq!(names, ["X"], "who has it keeps it");
        assert!(problem.starts_with("a/x.iso: its name `x` means b/X.iso already"), "{problem}");
    }

    #[test]
    fn a_name_means_nothing_else() {
        let (x, archiso, hidden) = (volume("x.iso", 1), volume("archiso.iso", 2), volume("ARCH.iso", 3));
        let (names, problem) = served(&[x.clone(), archiso.clone()], &[]);
        assert_eq!(names, ["x"]);
        assert!(problem.contains("means the default image already"), "{problem}");
        assert_eq!(served(&[archiso, x.clone()], &[]), (vec!["archiso".into(), "x".into()], String::new()));
        let (names, problem) = served(&[x.clone(), hidden.clone()], &[]);
        assert_eq!(names, ["x"]);
        assert!(problem.starts_with("ARCH.iso: the image `ARCH` would hide behind `/ARCH`"), "{problem}");
        assert_eq!(served(&[hidden], &[]).1, "", "the default image is at the root itself");
    }

    #[test]
    fn what_cannot_be_opened_is_told_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.iso");
        fs::write(&path, "no image").unwrap();
        let candidate =
            Candidate { path: path.clone(), name: Word::new("a").unwrap(), origin: Origin::Named };
        let found = || vec![Found::File(candidate.clone())];
        let (stocked, problems) = stock(found(), &[], &[]);
        assert!(stocked.is_empty() && problems.iter().all(Problem::is_fatal) && problems.len() == 1);
        let old = volume(path.to_str().unwrap(), 1);
        let shelf = [old.clone()];
        let (stocked, problems) = stock(found(), &shelf, &[]);
        assert!(stocked.len() == 1 && stocked[0].is(&old));
        assert!(problems[0].to_string().ends_with("; what was opened from it before is served on"));
        let unknown = || vec![Found::Unknown(dir.path().to_owned())];
        assert!(stock(unknown(), &shelf, &[]).0[0].is(&old));
        fs::remove_file(&path).unwrap();
        let (stocked, problems) = stock(found(), &shelf, &[]);
        assert!(stocked.is_empty() && problems.is_empty(), "it has gone, and that is no mistake");
    }
}
