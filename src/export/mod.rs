//! Exports: the bytes a peer may have, as an ordered list of regions, and the only way to a checked range of them.

pub(crate) mod allowed;
pub(crate) mod batch;
pub(crate) mod content;
pub(crate) mod path;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::image::{Extent, Image, NodeId};
use crate::sys::Span;

pub use allowed::Allowed;
pub use batch::Batch;
pub(crate) use content::Content;

/// A byte range of an image that was checked against an export: whoever holds one checks nothing again.
///
/// It knows its image, so nobody can read it from another one.
#[derive(Clone, Copy)]
pub struct ImageRange<'a> {
    image: &'a Arc<Image>,
    /// Never empty.
    extent: Extent,
}

impl<'a> ImageRange<'a> {
    /// The caller checked `extent` against an export of `image`; it is not empty.
    const fn new(image: &'a Arc<Image>, extent: Extent) -> Self {
        Self { image, extent }
    }

    /// Returns the image that this is a range of.
    pub(crate) const fn image(&self) -> &'a Arc<Image> {
        self.image
    }

    /// Returns where the range lies in the image file.
    pub(crate) const fn extent(&self) -> Extent {
        self.extent
    }

    /// Returns the range as memory for the kernel; `None` when the image file was shorter when it was opened.
    pub(crate) fn span(&self) -> Option<Span<'a>> {
        self.image.source.span(self.extent)
    }

    /// Returns the first byte, from the start of the image file.
    pub const fn offset(&self) -> u64 {
        self.extent.offset
    }

    /// Returns the number of bytes, never 0.
    #[expect(clippy::len_without_is_empty, reason = "an empty range is never made")]
    pub const fn len(&self) -> u64 {
        self.extent.len
    }

    /// Returns the range cut to at most `max` bytes, and to one at least.
    #[must_use]
    pub(crate) const fn truncate(self, max: u64) -> Self {
        Self { image: self.image, extent: self.extent.truncate(if max == 0 { 1 } else { max }) }
    }
}

impl PartialEq for ImageRange<'_> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.image, other.image) && self.extent == other.extent
    }
}

impl fmt::Debug for ImageRange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageRange({}+{} of {:?})", self.offset(), self.len(), self.image)
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
#[derive(Debug, Clone, PartialEq)]
pub enum Piece<'a> {
    Image(ImageRange<'a>),
    Memory(Bytes),
}

/// The request leaves the export: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request ends behind the export")]
pub struct OutOfRange;

/// Ranges of two images were to be joined, or sent together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ranges of two images cannot be mixed")]
pub struct MixedImagesError;

/// Bytes that a peer may have: a whole image, one file of it, or a file made by us. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Export {
    /// The image that the image regions are regions of; `None` where there are no such.
    image: Option<Arc<Image>>,
    regions: Arc<[Region]>,
    len: u64,
}

impl Export {
    /// The content of a file, in place; `None` for anything but a file.
    pub fn of_file(image: &Arc<Image>, node: NodeId) -> Option<Self> {
        let regions = image.extents(node)?.iter().map(|&extent| Region::Image(extent));
        Some(Self::of_regions(Some(image), regions))
    }

    /// The image file itself, every byte of it.
    pub(crate) fn whole(image: &Arc<Image>) -> Self {
        let extent = Extent { offset: 0, len: image.source.len() };
        Self::of_regions(Some(image), [Region::Image(extent)])
    }

    /// A file made by us.
    pub(crate) fn of_memory(bytes: impl Into<Bytes>) -> Self {
        Self::of_regions(None, [Region::Memory(bytes.into())])
    }

    /// `len` zero bytes, for padding: they take no memory beside a list entry for each page.
    pub(crate) fn of_zeros(len: usize) -> Self {
        let page = |at| Region::Memory(Bytes::from_static(&ZEROS).slice(..ZEROS.len().min(len - at)));
        Self::of_regions(None, (0..len).step_by(ZEROS.len()).map(page))
    }

    /// Joins these exports, one behind the other.
    ///
    /// # Errors
    /// [`MixedImagesError`] when they have ranges of different images.
    pub(crate) fn concat(parts: impl IntoIterator<Item = Self>) -> Result<Self, MixedImagesError> {
        let parts: Vec<_> = parts.into_iter().collect();
        let mut images = parts.iter().filter_map(|part| part.image.as_ref());
        let image = images.next();
        if images.any(|other| !image.is_some_and(|image| Arc::ptr_eq(image, other))) {
            return Err(MixedImagesError);
        }
        Ok(Self::of_regions(image, parts.iter().flat_map(|part| part.regions.iter().cloned())))
    }

    fn of_regions(image: Option<&Arc<Image>>, regions: impl IntoIterator<Item = Region>) -> Self {
        let regions: Arc<[Region]> = regions.into_iter().filter(|region| region.len() > 0).collect();
        let len = regions.iter().map(Region::len).sum();
        Self { image: image.cloned(), regions, len }
    }

    /// Returns the image that ranges of this export are ranges of; `None` for a file made by us alone.
    pub(crate) const fn image(&self) -> Option<&Arc<Image>> {
        self.image.as_ref()
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
        Ok(Pieces { image: self.image.as_ref(), regions: self.regions.iter(), skip: offset, left: len })
    }
}

/// The same bytes of the same image, or the same bytes in memory.
impl PartialEq for Export {
    fn eq(&self, other: &Self) -> bool {
        self.image.as_ref().map(Arc::as_ptr) == other.image.as_ref().map(Arc::as_ptr)
            && self.regions == other.regions
    }
}

/// See [`Export::range`].
#[derive(Debug, Clone)]
pub struct Pieces<'a> {
    image: Option<&'a Arc<Image>>,
    regions: std::slice::Iter<'a, Region>,
    /// Bytes to pass over before the first piece.
    skip: u64,
    left: u64,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        while self.left > 0 {
            let region = self.regions.next()?;
            if self.skip >= region.len() {
                self.skip -= region.len();
                continue;
            }
            let from = std::mem::take(&mut self.skip);
            let len = self.left.min(region.len() - from);
            self.left -= len;
            return self.cut(region, from, len);
        }
        None
    }
}

impl<'a> Pieces<'a> {
    /// Returns `len` bytes of `region` from its byte `from`, both of which were checked.
    fn cut(&self, region: &Region, from: u64, len: u64) -> Option<Piece<'a>> {
        match region {
            Region::Image(extent) => {
                let extent = Extent { offset: extent.offset + from, len };
                Some(Piece::Image(ImageRange::new(self.image?, extent)))
            }
            // A region in memory is far smaller than the address space, so the casts keep the value.
            Region::Memory(bytes) => Some(Piece::Memory(bytes.slice(from as usize..(from + len) as usize))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::samples;

    /// Ten bytes of an image, five of memory, and seven of the image.
    fn composed(image: &Arc<Image>) -> Export {
        let [first, last] = [1, 2].map(|node| Export::of_file(image, NodeId(node)).unwrap());
        Export::concat([first, Export::of_memory("abcde"), last]).unwrap()
    }

    fn image() -> Arc<Image> {
        let file = |offset, len| vec![Extent { offset, len }];
        samples::image(1000, [file(100, 10), file(500, 7), file(5, 0)])
    }

    /// Bytes of memory as they are, a range as `[offset+len]`.
    fn shown(pieces: Pieces<'_>) -> String {
        let show = |piece| match piece {
            Piece::Memory(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Piece::Image(range) => format!("[{}+{}]", range.offset(), range.len()),
        };
        pieces.map(show).collect()
    }

    #[test]
    fn a_range_is_cut_at_the_seams() {
        let image = image();
        let export = composed(&image);
        assert_eq!(shown(export.range(8, 8).unwrap()), "[108+2]abcde[500+1]");
        for piece in export.range(0, export.len()).unwrap() {
            if let Piece::Image(range) = piece {
                assert!(Arc::ptr_eq(range.image(), &image));
            }
        }
    }

    #[test]
    fn the_end_is_a_wall() {
        let export = composed(&image());
        assert_eq!(export.len(), 22);
        assert!(export.range(0, 22).is_ok());
        assert_eq!(export.range(22, 0).unwrap().next(), None);
        assert_eq!(export.range(0, 23).unwrap_err(), OutOfRange);
        assert_eq!(export.range(23, 0).unwrap_err(), OutOfRange);
        assert_eq!(export.range(u64::MAX, 2).unwrap_err(), OutOfRange);
    }

    #[test]
    fn parts_are_joined_in_their_order() {
        let parts = [composed(&image()), Export::of_zeros(3), Export::of_zeros(0), Export::of_memory("z")];
        let joined = Export::concat(parts).unwrap();
        assert_eq!(joined.len(), 22 + 3 + 1);
        assert_eq!(shown(joined.range(21, 5).unwrap()), "[506+1]\0\0\0z");
    }

    #[test]
    fn parts_of_two_images_cannot_be_joined() {
        let [one, other] = [image(), image()];
        let parts = || [Export::whole(&one), Export::of_zeros(1), Export::whole(&other)];
        assert_eq!(Export::concat(parts()).unwrap_err(), MixedImagesError);
        assert!(Export::concat(parts().into_iter().skip(1)).is_ok());
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
        let export = Export::of_file(&image(), NodeId(3)).unwrap();
        assert!(export.is_empty());
        assert_eq!(export.range(0, 0).unwrap().count(), 0);
    }

    #[test]
    fn only_a_file_has_content() {
        assert!(Export::of_file(&image(), NodeId::ROOT).is_none());
    }
}
