//! Images for the tests of this room.

use std::path::Path;
use std::sync::Arc;

use super::served::CandidateOrigin;
use super::stamp::Stamp;
use super::{ImageSet, ServedImage, name};
use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use crate::image::{Identity, Image, Source};

/// An image of this identity, whose root has a directory `arch`.
fn image(identity: u64) -> Image {
    let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let directory = NodeKind::Directory { entries: Vec::new() };
    index.add(NodeId::ROOT, b"arch", directory, attributes).unwrap();
    let mut image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
    image.identity = Identity(identity);
    image
}

/// An image of this identity in a file of its own, which the operator named.
pub(super) fn served(path: &str, identity: u64) -> Arc<ServedImage> {
    in_file(path, identity, CandidateOrigin::Named, stamp(identity))
}

/// An image of this identity in a file of a folder.
pub(super) fn in_folder(path: &str, identity: u64) -> Arc<ServedImage> {
    in_file(path, identity, CandidateOrigin::Folder, stamp(identity))
}

fn stamp(identity: u64) -> Stamp {
    Stamp { file: (0, identity), size: 0, modified: (0, 0), changed: (0, 0) }
}

/// An image of this identity, written over the file of another one.
pub(super) fn overwriting(other: &ServedImage, identity: u64) -> Arc<ServedImage> {
    let stamp = Stamp { size: 1, ..other.stamp().unwrap() };
    in_file(other.path().to_str().unwrap(), identity, other.origin(), stamp)
}

fn in_file(path: &str, identity: u64, origin: CandidateOrigin, stamp: Stamp) -> Arc<ServedImage> {
    let path = Path::new(path);
    Arc::new(ServedImage::new(name::name_of(path), image(identity)).with_file(path, origin, stamp))
}

pub(super) fn set_of(images: &[Arc<ServedImage>]) -> ImageSet {
    ImageSet::of(images.to_vec()).unwrap()
}
