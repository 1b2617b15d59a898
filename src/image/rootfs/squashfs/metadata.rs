//! Metadata of squashfs: tables of inodes and directories, compressed in blocks of 8 KiB.
//! Structures may cross the borders of blocks.

use super::wire::{METADATA_MAX, Packed, Reference};
use super::{CUT_OFF, RootfsError, Squashfs};
use crate::codec::Reader;
use crate::image::{Extent, FormatError, Media};

/// Reader of a table, from some structure on.
pub(super) struct Metadata<'s, 'a, M: ?Sized> {
    squashfs: &'s Squashfs<'a, M>,
    /// Position of the next block in the image.
    next: u64,
    block: Vec<u8>,
    /// Bytes of the block that were read.
    at: usize,
}

impl<'s, 'a, M: Media + ?Sized> Metadata<'s, 'a, M> {
    /// Creates a reader at the structure at `reference` of the table that begins at `table`.
    pub(super) fn new(
        squashfs: &'s Squashfs<'a, M>,
        table: u64,
        reference: Reference,
    ) -> Result<Self, RootfsError> {
        let next = table.checked_add(reference.block).ok_or(CUT_OFF)?;
        let mut metadata = Self { squashfs, next, block: Vec::new(), at: 0 };
        metadata.advance()?;
        metadata.at = reference.offset.into();
        Ok(metadata)
    }

    /// Reads the next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RootfsError> {
        let bytes = self.take(N)?;
        Ok(Reader::new(&bytes).array().map_err(FormatError::from)?)
    }

    /// Reads the next `n` bytes, a few hundred at most.
    pub(super) fn take(&mut self, n: usize) -> Result<Vec<u8>, RootfsError> {
        let mut bytes = Vec::new();
        while bytes.len() < n {
            // A structure goes on in the next block where its block ends.
            if self.at >= self.block.len() {
                self.advance()?;
            }
            let rest = self.block.get(self.at..).unwrap_or_default();
            let taken = rest.get(..n - bytes.len()).unwrap_or(rest);
            bytes.extend_from_slice(taken);
            self.at += taken.len();
        }
        Ok(bytes)
    }

    /// Reads the next block.
    fn advance(&mut self) -> Result<(), RootfsError> {
        let budget = self.squashfs.budget.get().checked_sub(1);
        self.squashfs.budget.set(budget.ok_or(FormatError("its directories are too large"))?);
        let word = self.squashfs.media.read(Extent { offset: self.next, len: 2 })?.ok_or(CUT_OFF)?;
        let packed = Packed::metadata(Reader::new(&word).u16_le().map_err(FormatError::from)?);
        // Such a block holds nothing, and `take` would go from one to the next.
        if packed.len == 0 {
            return Err(FormatError("a metadata block is empty").into());
        }
        // Two bytes were read at `next`, so the sum is at most the size of the image.
        let start = self.next + 2;
        self.block = self.squashfs.block(start, packed, METADATA_MAX)?;
        self.next = start + u64::from(packed.len);
        self.at = 0;
        Ok(())
    }
}
