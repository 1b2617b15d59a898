//! Names of images: valid names, the name that a file gives its image, and conflicts between
//! images.

use std::path::Path;
use std::sync::Arc;

use super::served::CandidateOrigin;
use super::set::ARCHISO;
use super::{ImageError, ImageSet, ServedImage};

/// Longest name of an image, in bytes.
pub(crate) const NAME_MAX: usize = 64;

/// Tells whether a character may stand in a name: it means the same in a path, in a URL and in a
/// menu.
pub(crate) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// Tells whether an image may have this name. The directory of generated files is called `isowire`.
pub(crate) fn is_image_name(text: &str) -> bool {
    // No leading dot: a name is a part of paths, so it must not be `.` or `..`.
    let fits = (1..=NAME_MAX).contains(&text.len()) && !text.starts_with('.') && text.chars().all(is_plain);
    fits && !text.eq_ignore_ascii_case("isowire")
}

/// Returns the name of an image to which the operator gave none: its file's stem, in plain
/// characters.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // Each other character becomes one `-`, so that the name can be recognised.
    let plain = stem.chars().map(|c| if is_plain(c) { c } else { '-' });
    let name: String = plain.take(NAME_MAX).collect();
    if is_image_name(&name) { name } else { "image".to_owned() }
}

/// Returns the images that can be served by their names. An image that is served by its name
/// already keeps it.
pub(super) fn resolve_conflicts(
    opened: Vec<Arc<ServedImage>>,
    current: Option<&ImageSet>,
    errors: &mut Vec<ImageError>,
) -> Vec<Arc<ServedImage>> {
    let claims: Vec<_> = opened.iter().map(|image| Claim::new(image, current)).collect();
    let mut named: Vec<Arc<ServedImage>> = Vec::new();
    for (position, image) in opened.iter().enumerate() {
        let holder = holder(&claims, position).and_then(|holder| opened.get(holder));
        match conflict(image, holder, named.first()) {
            Some(error) => errors.push(error),
            None => named.push(Arc::clone(image)),
        }
    }
    named
}

/// Returns what keeps an image from being served by its name; `holder` is the image that has the
/// name.
fn conflict(
    image: &ServedImage,
    holder: Option<&Arc<ServedImage>>,
    default: Option<&Arc<ServedImage>>,
) -> Option<ImageError> {
    let holder = holder.map(|holder| holder.path().display().to_string());
    // `archiso` is the default image's name for archiso's hook.
    let reserved = default.filter(|_| image.name == ARCHISO).map(|_| "the default image".to_owned());
    if let Some(other) = holder.or(reserved) {
        let (path, name, origin) = (image.path().to_owned(), image.name.clone(), image.origin());
        return Some(ImageError::SameName { path, name, other, origin });
    }
    let default = default?;
    let hidden = default.reachable(&image.name).err()?;
    // A folder may get a new default image at any time, so the operator named neither tree nor
    // clash.
    let origin = image.origin().max(default.origin());
    Some(ImageError::Hidden { path: image.path().to_owned(), hidden, origin })
}

/// An image's claim to a name.
struct Claim<'a> {
    name: &'a str,
    /// True if the image of this file is served by this name already.
    is_old: bool,
    origin: CandidateOrigin,
}

impl<'a> Claim<'a> {
    fn new(image: &'a ServedImage, current: Option<&ImageSet>) -> Self {
        let mut served = current.into_iter().flat_map(ImageSet::iter);
        let is_old = served.any(|old| old.path() == image.path() && old.name == image.name);
        Self { name: &image.name, is_old, origin: image.origin() }
    }
}

/// Returns the position of the claim that has this one's name, unless it is this one. Names that
/// differ in case only are the same.
fn holder(claims: &[Claim<'_>], position: usize) -> Option<usize> {
    let name = claims.get(position)?.name;
    let same = claims.iter().enumerate().filter(|(_, claim)| claim.name.eq_ignore_ascii_case(name));
    // The first of those that have the name already; without one, the first that the operator
    // named.
    let (holder, _) = same.min_by_key(|(_, claim)| (!claim.is_old, claim.origin))?;
    Some(holder).filter(|&holder| holder != position)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{in_folder, served, set_of};
    use super::*;

    #[test]
    fn name_comes_from_the_file() {
        let long = "n".repeat(200);
        for (path, name) in [
            ("/x/archlinux-2026.11.01-x86_64.iso", "archlinux-2026.11.01-x86_64"),
            ("my arch $(x).iso", "my-arch---x-"),
            ("isowire.iso", "image"),
            ("..", "image"),
            (&long, &long[..NAME_MAX]),
        ] {
            assert_eq!(name_of(Path::new(path)), name);
        }
    }

    /// Returns the names of the images that are served of `opened`, and the errors.
    fn resolved(opened: &[Arc<ServedImage>], current: &[Arc<ServedImage>]) -> (Vec<String>, String) {
        let mut errors = Vec::new();
        let current = (!current.is_empty()).then(|| set_of(current));
        let named = resolve_conflicts(opened.to_vec(), current.as_ref(), &mut errors);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        (named.iter().map(|image| image.name.clone()).collect(), errors.join("\n"))
    }

    #[test]
    fn names_are_unique() {
        let (one, two) = (served("a/x.iso", 1), served("b/X.iso", 2));
        let (names, error) = resolved(&[one.clone(), two.clone()], &[]);
        assert_eq!(names, ["x"]);
        assert_eq!(
            error,
            "b/X.iso: the name `X` already means a/x.iso: give this image another `name` in an [[image]] of the \
             configuration file, or rename it"
        );
        let (names, error) = resolved(&[one, two.clone()], &[two]);
        assert_eq!(names, ["X"], "an image that has a name keeps it");
        assert!(error.starts_with("a/x.iso: the name `x` already means b/X.iso"), "{error}");
    }

    /// Returns for each error whether it ends the start.
    fn fatal(opened: &[Arc<ServedImage>]) -> Vec<bool> {
        let mut errors = Vec::new();
        resolve_conflicts(opened.to_vec(), None, &mut errors);
        errors.iter().map(ImageError::is_fatal).collect()
    }

    #[test]
    fn clash_in_a_folder_is_not_fatal() {
        let (x, upper) = (in_folder("f/x.iso", 1), in_folder("f/X.iso", 2));
        assert_eq!(fatal(&[x.clone(), upper]), [false]);
        assert_eq!(fatal(&[x.clone(), in_folder("f/arch.iso", 3)]), [false], "hidden by a directory");
        assert_eq!(fatal(&[x.clone(), in_folder("f/archiso.iso", 3)]), [false]);
        assert_eq!(fatal(&[served("x.iso", 1), served("y/x.iso", 2)]), [true]);
        assert_eq!(fatal(&[served("x.iso", 1), served("arch.iso", 2)]), [true]);
        assert_eq!(fatal(&[x, served("arch.iso", 2)]), [false], "the folder's image is the one that hides");
    }

    #[test]
    fn named_image_keeps_its_name_before_one_of_a_folder() {
        let (names, error) =
            resolved(&[in_folder("f/a.iso", 1), in_folder("f/x.iso", 2), served("x.iso", 3)], &[]);
        assert_eq!(names, ["a", "x"]);
        assert!(error.starts_with("f/x.iso: the name `x` already means x.iso"), "{error}");
    }

    #[test]
    fn name_with_another_meaning_is_refused() {
        let (x, archiso, hidden) = (served("x.iso", 1), served("archiso.iso", 2), served("ARCH.iso", 3));
        let (names, error) = resolved(&[x.clone(), archiso.clone()], &[]);
        assert_eq!(names, ["x"]);
        assert!(error.contains("already means the default image"), "{error}");
        assert_eq!(resolved(&[archiso, x.clone()], &[]), (vec!["archiso".into(), "x".into()], String::new()));
        let (names, error) = resolved(&[x, hidden.clone()], &[]);
        assert_eq!(names, ["x"]);
        assert!(error.starts_with("ARCH.iso: the image `ARCH` would be hidden by `/ARCH`"), "{error}");
        assert_eq!(resolved(&[hidden], &[]).1, "", "the default image is at the root itself");
    }
}
