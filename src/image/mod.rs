//! The image: one ISO file, opened once, indexed once, never copied.

pub mod index;
mod residency;
pub mod source;

pub use index::{Index, Node, NodeId};
pub use source::Source;

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
