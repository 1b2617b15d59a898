//! The content of a file by the extents of its index entry, for protocols whose every request names
//! a file anew.

use std::sync::Arc;

use super::ImageRange;
use crate::image::{Extent, Image, NodeId};

/// Bytes of one file of an image. Unlike an [`Export`](super::Export) it costs no allocation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'a> {
    image: &'a Arc<Image>,
    extents: &'a [Extent],
}

impl<'a> Content<'a> {
    /// Returns the content of a file; `None` for anything but a file.
    pub(crate) fn of_file(image: &'a Arc<Image>, node: NodeId) -> Option<Self> {
        Some(Self { image, extents: image.extents(node)? })
    }

    /// Returns the stretches that make up `len` bytes from `offset`, or as many as there are before
    /// the end of the file.
    pub(crate) fn range(self, offset: u64, len: u64) -> impl Iterator<Item = ImageRange<'a>> + use<'a> {
        let Self { image, extents } = self;
        let (mut skip, mut left) = (offset, len);
        // A file longer than 4 GiB has several extents (ECMA-119 gives an extent 32 bits).
        extents.iter().filter_map(move |extent| {
            let from = skip.min(extent.len);
            skip -= from;
            let len = left.min(extent.len - from);
            left -= len;
            (len > 0).then(|| ImageRange::new(image, Extent { offset: extent.offset + from, len }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Export, Piece};
    use crate::image::samples;

    /// Returns an image of a file of 20 bytes and an empty one.
    fn image() -> Arc<Image> {
        let extents = [(100, 10), (300, 0), (500, 7), (50, 3)];
        samples::image(1000, [extents.map(|(offset, len)| Extent { offset, len }).to_vec(), Vec::new()])
    }

    #[test]
    fn content_equals_export_of_the_file() {
        let image = image();
        let export = Export::of_file(&image, NodeId(1)).unwrap();
        let content = Content::of_file(&image, NodeId(1)).unwrap();
        for offset in 0..=export.len() {
            for len in 0..=export.len() - offset {
                let ranges = content.range(offset, len).map(Piece::Image);
                assert!(ranges.eq(export.range(offset, len).unwrap()), "{len} bytes from {offset}");
            }
        }
    }

    #[test]
    fn content_ends_with_the_file() {
        let image = image();
        let [content, empty] = [1, 2].map(|node| Content::of_file(&image, NodeId(node)).unwrap());
        let len = |offset, len| content.range(offset, len).map(|range| range.len()).sum::<u64>();
        assert_eq!(len(15, u64::MAX), 5);
        assert_eq!(len(20, 1), 0);
        assert_eq!(len(u64::MAX, u64::MAX), 0);
        assert_eq!(empty.range(0, 1).count(), 0);
        assert!(Content::of_file(&image, NodeId::ROOT).is_none());
    }
}
