//! Images for the tests of this room.

use std::path::Path;
use std::sync::Arc;

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

/// An image of this identity in a file of its own.
pub(super) fn served(path: &str, identity: u64) -> Arc<ServedImage> {
    in_file(path, identity, Stamp { file: (0, identity), size: 0, modified: (0, 0) })
}

/// An image of this identity, written over the file of another one.
pub(super) fn overwriting(other: &ServedImage, identity: u64) -> Arc<ServedImage> {
    let stamp = Stamp { size: 1, ..other.stamp().unwrap() };
    in_file(other.path().to_str().unwrap(), identity, stamp)
}

fn in_file(path: &str, identity: u64, stamp: Stamp) -> Arc<ServedImage> {
    let path = Path::new(path);
    Arc::new(ServedImage::new(name::name_of(path), image(identity)).with_file(path, stamp))
}

pub(super) fn set_of(images: &[Arc<ServedImage>]) -> ImageSet {
    ImageSet::of(images.to_vec()).unwrap()
}
