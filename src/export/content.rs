//! The content of a file, read from where the index has it: for protocols whose every request names a file anew.

use super::ImageRange;
use crate::image::Extent;

/// The bytes of one file of an image. Unlike an [`Export`](super::Export) it costs nothing to make.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    extents: &'a [Extent],
}

impl<'a> Content<'a> {
    /// The bytes of these extents, one behind the other. The caller took them from an index, which checked them
    /// against the size of the image.
    pub const fn of_extents(extents: &'a [Extent]) -> Self {
        Self { extents }
    }

    /// The stretches that make up `len` bytes from `offset`, or as many as there are before the end of the file.
    pub fn range(self, offset: u64, len: u64) -> impl Iterator<Item = ImageRange> + use<'a> {
        let (mut skip, mut left) = (offset, len);
        self.extents.iter().filter_map(move |extent| {
            let from = skip.min(extent.len);
            skip -= from;
            let len = left.min(extent.len - from);
            left -= len;
            (len > 0).then(|| ImageRange { offset: extent.offset + from, len })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Export, Piece};

    const EXTENTS: &[Extent] = &[
        Extent { offset: 100, len: 10 },
        Extent { offset: 300, len: 0 },
        Extent { offset: 500, len: 7 },
        Extent { offset: 50, len: 3 },
    ];

    #[test]
    fn it_is_the_export_of_the_file() {
        let export = Export::of_extents(EXTENTS);
        for offset in 0..=export.len() {
            for len in 0..=export.len() - offset {
                let ranges = Content::of_extents(EXTENTS).range(offset, len).map(Piece::Image);
                assert!(ranges.eq(export.range(offset, len).unwrap()), "{len} bytes from {offset}");
            }
        }
    }

    #[test]
    fn it_ends_where_the_file_ends() {
        let content = Content::of_extents(EXTENTS);
        let len = |offset, len| content.range(offset, len).map(|range| range.len()).sum::<u64>();
        assert_eq!(len(15, u64::MAX), 5);
        assert_eq!(len(20, 1), 0);
        assert_eq!(len(u64::MAX, u64::MAX), 0);
        assert_eq!(Content::of_extents(&[]).range(0, 1).count(), 0);
    }
}
