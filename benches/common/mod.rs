//! Parts that benchmarks share.

use std::path::Path;
use std::sync::Arc;

use isowire::export::Export;
use isowire::image::index::{Index, NodeAttributes};
use isowire::image::{Extent, Image, NodeId, NodeKind, Source};

/// Creates a file of `len` bytes, of an image of which only the index is used.
pub fn export(len: u64) -> Export {
    let attributes = NodeAttributes { mode: 0o644, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let kind = NodeKind::File { extents: vec![Extent { offset: 0, len }] };
    let node = index.add(NodeId::ROOT, b"airootfs.sfs", kind, attributes).unwrap();
    let image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
    Export::of_file(&Arc::new(image), node).unwrap()
}
