//! Images for tests: a tree without bytes, or with zeros.

use std::path::Path;
use std::sync::Arc;

use super::index::NodeAttributes;
use super::{Extent, Image, Index, NodeId, NodeKind, Source};
use crate::store::StoredFile;

/// An image of `size` zeros. Its root has these files, the first of which is node 1.
pub(crate) fn image(size: u64, files: impl IntoIterator<Item = Vec<Extent>>) -> Arc<Image> {
    let medium = tempfile::NamedTempFile::new().unwrap();
    medium.as_file().set_len(size).unwrap();
    on(medium.path(), files)
}

/// The same of an image that has these bytes.
pub(crate) fn image_of(bytes: &[u8], files: impl IntoIterator<Item = Vec<Extent>>) -> Arc<Image> {
    let medium = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(medium.path(), bytes).unwrap();
    on(medium.path(), files)
}

/// An image in a store, with an empty tree.
pub(crate) fn stored(file: StoredFile) -> Arc<Image> {
    Arc::new(Image::new(Source::of_stored(file).unwrap(), index([])).unwrap())
}

fn on(medium: &Path, files: impl IntoIterator<Item = Vec<Extent>>) -> Arc<Image> {
    Arc::new(Image::new(Source::open(medium).unwrap(), index(files)).unwrap())
}

fn index(files: impl IntoIterator<Item = Vec<Extent>>) -> Index {
    let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    for (n, extents) in files.into_iter().enumerate() {
        let name = format!("file{n}");
        index.add(NodeId::ROOT, name.as_bytes(), NodeKind::File { extents }, attributes).unwrap();
    }
    index
}
