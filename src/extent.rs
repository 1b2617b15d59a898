//! A byte range of an image file: the one range type below every other room.

/// A byte range of the image file. Inside an [`Index`](crate::image::Index) every extent was checked against the size
/// of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// First byte, from the start of the image file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

impl Extent {
    /// Returns the offset of the first byte behind the extent. It never overflows for an extent that was checked
    /// against an image.
    pub const fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    /// True for an extent of no bytes.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the extent without its first `n` bytes; it is empty when nothing is left.
    #[must_use]
    pub(crate) const fn skip(self, n: u64) -> Self {
        let n = if n < self.len { n } else { self.len };
        Self { offset: self.offset + n, len: self.len - n }
    }

    /// Returns the first `max` bytes of the extent, or all of it.
    #[must_use]
    pub(crate) const fn truncate(self, max: u64) -> Self {
        Self { offset: self.offset, len: if self.len < max { self.len } else { max } }
    }
}
