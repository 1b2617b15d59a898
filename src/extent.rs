//! Byte ranges of an image file: the range type below every other room.

use serde::{Deserialize, Serialize};

/// Byte range of the image file. Every extent in an [`Index`](crate::image::Index) was checked
/// against the size of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// First byte, from the start of the image file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// Returns the offset of the first byte after the extent. It is exact for an extent that was
    /// checked against an image.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// Returns `true` for an extent of no bytes.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the extent without its first `n` bytes; empty if it has no more.
    #[must_use]
    pub(crate) const fn skip(self, n: u64) -> Self {
        // `Ord::min` cannot be called in a const function.
        let n = if n < self.len { n } else { self.len };
        Self { offset: self.offset + n, len: self.len - n }
    }

    /// Returns the first `max` bytes of the extent, or all of it.
    #[must_use]
    pub(crate) const fn truncate(self, max: u64) -> Self {
        Self { offset: self.offset, len: if self.len < max { self.len } else { max } }
    }
}
