//! Exports: the bytes a peer may have, as an ordered list of regions, and the only way to a checked range of them.

pub mod allowed;
pub mod batch;

pub mod content;
pub mod path;

use std::sync::Arc;

use bytes::Bytes;

use crate::image::Extent;

pub use allowed::Allowed;
pub use batch::Batch;

pub use content::Content;

/// A byte range of the image that was checked against an export: whoever holds one checks nothing again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageRange {
    offset: u64,
    len: u64,
}

impl ImageRange {
    /// First byte, from the start of the image file.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of bytes, never 0.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Always false: an empty range is never made.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same range without its first `n` bytes; `None` when nothing is left.
    pub fn behind(self, n: u64) -> Option<ImageRange> {
        (n < self.len).then(|| ImageRange { offset: self.offset + n, len: self.len - n })
    }

    /// The same range, cut to at most `max` bytes (at least one).
    pub const fn up_to(self, max: u64) -> ImageRange {
        let max = if max == 0 { 1 } else { max };
        ImageRange { offset: self.offset, len: if self.len < max { self.len } else { max } }
    }
}

/// What padding is made of: the kernel sends the same page again and again.
static ZEROS: [u8; 4096] = [0; 4096];

/// One stretch of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Region {
    /// Bytes of the image.
    Image(Extent),
    /// Bytes made by us: a generated menu, padding.
    Memory(Bytes),
}

impl Region {
    fn len(&self) -> u64 {
        match self {
            Region::Image(extent) => extent.len,
            Region::Memory(bytes) => bytes.len() as u64,
        }
    }
}

/// A stretch of an export that a peer asked for and may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Image(ImageRange),
    Memory(Bytes),
}

/// The request leaves the export: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request ends behind the export")]
pub struct OutOfRange;

/// Bytes that a peer may have: the whole image, one file of it, or a file made by us. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    regions: Arc<[Region]>,
    len: u64,
}

impl Export {
    /// The bytes of these extents, one behind the other. The caller took them from an index, which checked them
    /// against the size of the image.
    pub fn of_extents(extents: &[Extent]) -> Self {
        Self::of_regions(extents.iter().map(|&extent| Region::Image(extent)))
    }

    /// A file made by us.
    pub fn of_memory(bytes: impl Into<Bytes>) -> Self {
        Self::of_regions([Region::Memory(bytes.into())])
    }

    /// `len` zero bytes, for padding: they take no memory beside a list entry for each page.
    pub fn of_zeros(len: usize) -> Self {
        let page = |at| Region::Memory(Bytes::from_static(&ZEROS).slice(..ZEROS.len().min(len - at)));
        Self::of_regions((0..len).step_by(ZEROS.len()).map(page))
    }

    /// The bytes of these exports, one behind the other. Their ranges have to be ranges of the same image.
    pub fn concat(parts: impl IntoIterator<Item = Self>) -> Self {
        let parts: Vec<_> = parts.into_iter().collect();
        Self::of_regions(parts.iter().flat_map(|part| part.regions.iter().cloned()))
    }

    fn of_regions(regions: impl IntoIterator<Item = Region>) -> Self {
        let regions: Arc<[Region]> = regions.into_iter().filter(|region| region.len() > 0).collect();
        let len = regions.iter().map(Region::len).sum();
        Self { regions, len }
    }

    /// Size in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// True for an empty file.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The stretches that make up `len` bytes from `offset`: on every file that mkarchiso writes exactly one.
    ///
    /// # Errors
    /// [`OutOfRange`] when the request ends behind the export. A request of no bytes inside it is fine and empty.
    pub fn range(&self, offset: u64, len: u64) -> Result<Pieces<'_>, OutOfRange> {
        let end = offset.checked_add(len).ok_or(OutOfRange)?;
        if end > self.len {
            return Err(OutOfRange);
        }
        Ok(Pieces { regions: self.regions.iter(), skip: offset, left: len })
    }
}

/// See [`Export::range`].
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    regions: std::slice::Iter<'a, Region>,
    /// Bytes to pass over before the first piece.
    skip: u64,
    left: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.left > 0 {
            let region = self.regions.next()?;
            if self.skip >= region.len() {
                self.skip -= region.len();
                continue;
            }
            let from = std::mem::take(&mut self.skip);
            let len = self.left.min(region.len() - from);
            self.left -= len;
            return Some(cut(region, from, len));
        }
        None
    }
}

/// `len` bytes of `region` from its byte `from`; both were checked by [`Pieces`].
fn cut(region: &Region, from: u64, len: u64) -> Piece {
    match region {
        Region::Image(extent) => Piece::Image(ImageRange { offset: extent.offset + from, len }),
        // A region in memory is far smaller than the address space, so the casts keep the value.
        Region::Memory(bytes) => Piece::Memory(bytes.slice(from as usize..(from + len) as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed() -> Export {
        Export::of_regions([
            Region::Image(Extent { offset: 100, len: 10 }),
            Region::Memory(Bytes::from_static(b"abcde")),
            Region::Image(Extent { offset: 500, len: 7 }),
        ])
    }

    #[test]
    fn a_range_is_cut_at_the_seams() {
        let pieces: Vec<_> = composed().range(8, 8).unwrap().collect();
        assert_eq!(
            pieces,
            [
                Piece::Image(ImageRange { offset: 108, len: 2 }),
                Piece::Memory(Bytes::from_static(b"abcde")),
                Piece::Image(ImageRange { offset: 500, len: 1 }),
            ]
        );
    }

    #[test]
    fn the_end_is_a_wall() {
        let export = composed();
        assert_eq!(export.len(), 22);
        assert!(export.range(0, 22).is_ok());
        assert_eq!(export.range(22, 0).unwrap().next(), None);
        assert_eq!(export.range(0, 23).unwrap_err(), OutOfRange);
        assert_eq!(export.range(23, 0).unwrap_err(), OutOfRange);
        assert_eq!(export.range(u64::MAX, 2).unwrap_err(), OutOfRange);
    }

    #[test]
    fn parts_are_joined_in_their_order() {
        let parts = [composed(), Export::of_zeros(3), Export::of_zeros(0), Export::of_memory("z")];
        let joined = Export::concat(parts);
        assert_eq!(joined.len(), 22 + 3 + 1);
        let pieces: Vec<_> = joined.range(21, 5).unwrap().collect();
        assert_eq!(
            pieces,
            [
                Piece::Image(ImageRange { offset: 506, len: 1 }),
                Piece::Memory(Bytes::from_static(&[0; 3])),
                Piece::Memory(Bytes::from_static(b"z")),
            ]
        );
    }

    #[test]
    fn padding_may_be_longer_than_a_page() {
        let lens = |len| Export::of_zeros(len).regions.iter().map(Region::len).collect::<Vec<_>>();
        assert_eq!(lens(4096), [4096]);
        assert_eq!(lens(8193), [4096, 4096, 1]);
        assert_eq!(Export::of_zeros(8193).len(), 8193);
    }

    #[test]
    fn empty_regions_vanish() {
        let export = Export::of_extents(&[Extent { offset: 5, len: 0 }]);
        assert!(export.is_empty());
        assert_eq!(export.range(0, 0).unwrap().count(), 0);
    }
}
