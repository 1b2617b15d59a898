//! What a connection at rest has of its image, as plain data for another process: the unsent end of
//! a batch, and the ranges of an export.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::Chunk;
use super::{Batch, Export, ImageRange, Piece, Region};
use crate::image::{Extent, Image};

/// A stretch of a batch that has not left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UnsentPart {
    Bytes(Vec<u8>),
    /// Of the image of the connection.
    Range(Extent),
}

impl Batch {
    /// Returns what has not left yet.
    pub(crate) fn unsent(&self) -> Vec<UnsentPart> {
        let part = |chunk| match chunk {
            Chunk::Bytes(bytes) => UnsentPart::Bytes(bytes.to_vec()),
            Chunk::Image(range) => UnsentPart::Range(range.extent()),
        };
        self.chunks().map(part).collect()
    }

    /// Queues what another batch had not sent. Ranges are of `image`.
    ///
    /// Returns `None` for a range that is not in the image.
    pub(crate) fn push_unsent(&mut self, image: Option<&Arc<Image>>, parts: &[UnsentPart]) -> Option<()> {
        for part in parts {
            match part {
                UnsentPart::Bytes(bytes) => self.push_bytes(bytes),
                UnsentPart::Range(extent) => {
                    let image = image.filter(|image| is_inside(image, *extent))?;
                    self.push_piece(Piece::Image(ImageRange::new(image, *extent))).ok()?;
                }
            }
        }
        Some(())
    }
}

impl Export {
    /// Returns the ranges of the image that the export consists of.
    pub(crate) fn extents(&self) -> Vec<Extent> {
        let extent = |region: &Region| match region {
            Region::Image(extent) => Some(*extent),
            Region::Memory(_) => None,
        };
        self.regions.iter().filter_map(extent).collect()
    }

    /// Makes an export of these ranges; `None` if one of them is not in the image.
    pub(crate) fn of_extents(image: &Arc<Image>, extents: &[Extent]) -> Option<Self> {
        let regions = extents.iter().map(|&extent| Region::Image(extent));
        let is_whole = extents.iter().all(|&extent| is_inside(image, extent));
        is_whole.then(|| Self::of_regions(Some(image), regions))
    }
}

/// Tells whether `extent` has a byte at least and lies inside the image file.
fn is_inside(image: &Image, extent: Extent) -> bool {
    let end = extent.offset.checked_add(extent.len);
    extent.len > 0 && end.is_some_and(|end| end <= image.source.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::samples;

    #[test]
    fn unsent_end_of_a_batch_is_queued_again() {
        let image = samples::image(1 << 20, []);
        let export = Export::whole(&image);
        let mut batch = Batch::of_export(&export);
        batch.push_bytes(b"header");
        for piece in export.range(4096, 8192).unwrap() {
            batch.push_piece(piece).unwrap();
        }
        batch.advance(6 + 100);
        batch.push_bytes(b"next");
        let unsent = batch.unsent();
        let rest = Extent { offset: 4196, len: 8092 };
        assert_eq!(unsent, [UnsentPart::Range(rest), UnsentPart::Bytes(b"next".to_vec())]);

        let mut again = Batch::default();
        again.push_unsent(Some(&image), &unsent).unwrap();
        assert!(again.chunks().eq(batch.chunks()));
        let outside = [UnsentPart::Range(Extent { offset: 1 << 20, len: 1 })];
        assert_eq!(Batch::default().push_unsent(Some(&image), &outside), None);
        assert_eq!(Batch::default().push_unsent(None, &unsent), None);
    }

    #[test]
    fn export_is_made_again_of_its_extents() {
        let image = samples::image(1 << 20, []);
        let export = Export::whole(&image);
        assert_eq!(Export::of_extents(&image, &export.extents()), Some(export));
        let overflow = Extent { offset: 4096, len: u64::MAX };
        assert_eq!(Export::of_extents(&image, &[overflow]), None);
    }
}
