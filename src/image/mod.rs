//! The image: one ISO file, opened once, indexed once, never copied.

pub mod index;
mod residency;
pub mod source;

pub use index::{Index, Kind, Node, NodeId};
pub use source::Source;

use crate::export::Export;

/// A byte range of the image file. Inside [`Index`] every extent was checked against the size of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte, from the start of the image file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// The first byte behind the extent. Never overflows for an extent that was checked against an image.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// An open image: its bytes and its tree.
#[derive(Debug)]
pub struct Image {
    pub source: Source,
    pub index: Index,
}

impl Image {
    /// An image of this file and this tree, whose extents were checked against the file.
    pub const fn new(source: Source, index: Index) -> Self {
        Self { source, index }
    }

    /// The whole file, every byte of it.
    pub fn whole(&self) -> Export {
        Export::of_extents(&[Extent { offset: 0, len: self.source.len() }])
    }

    /// The content of a file; `None` for anything else.
    pub fn export(&self, node: NodeId) -> Option<Export> {
        match &self.index.node(node).kind {
            Kind::File { extents } => Some(Export::of_extents(extents)),
            _ => None,
        }
    }
}
