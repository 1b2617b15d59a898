//! The boot list of an image: the blocks that a machine reads while it boots.
//!
//! ```text
//! 0     "isowire blocks 1"
//! 16    identity of the image (8 bytes), its size (8), size of a block (4), number of blocks (4)
//! 40    the number of each block (4), in the order in which a machine first read of them
//!       CRC-32 of all bytes before (4)
//! ```
//!
//! All numbers are little-endian. A list with anything else is not used.

use std::collections::HashSet;

use bytes::{BufMut, BytesMut};

use super::Identity;
use crate::codec::{Reader, Truncated};
use crate::extent::Extent;
use crate::store::ledger::{BLOCK, blocks_of};

/// Most blocks of a list: a machine that reads more of its image copies it.
pub(crate) const BLOCKS_MAX: usize = 1024;

/// Longest list, in bytes.
pub(crate) const LEN_MAX: usize = 40 + 4 * BLOCKS_MAX + 4;

const MAGIC: &[u8; 16] = b"isowire blocks 1";

/// Most blocks that are read together: those of one request to an object store.
const RUN: u64 = 4;

/// Reason for which a list is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BootListError {
    #[error("it is not a boot list of this version")]
    OtherVersion,
    #[error("it is of another image")]
    OtherImage,
    #[error("it is damaged")]
    Malformed,
}

impl From<Truncated> for BootListError {
    fn from(_: Truncated) -> Self {
        Self::Malformed
    }
}

/// Blocks of an image in the order in which a machine first read of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootList {
    identity: Identity,
    /// Bytes of the image.
    size: u64,
    blocks: Vec<u32>,
}

impl BootList {
    /// Creates the list of an image of `size` bytes. Blocks that the image does not have are left
    /// out, and so is what comes after [`BLOCKS_MAX`].
    pub(crate) fn new(identity: Identity, size: u64, blocks: &[u32]) -> Self {
        let blocks = blocks.iter().copied().filter(|&block| u64::from(block) < blocks_of(size));
        Self { identity, size, blocks: blocks.take(BLOCKS_MAX).collect() }
    }

    /// Returns the list without those blocks that stand in it again.
    ///
    /// # Errors
    /// [`BootListError`]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BootListError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<16>().as_ref() != Ok(MAGIC) {
            return Err(BootListError::OtherVersion);
        }
        let (identity, size) = (Identity(reader.u64_le()?), reader.u64_le()?);
        let (block, count) = (reader.u32_le()?, reader.u32_le()? as usize);
        if u64::from(block) != BLOCK {
            return Err(BootListError::OtherVersion);
        }
        if count > BLOCKS_MAX {
            return Err(BootListError::Malformed);
        }
        let mut numbers = reader.sub(count * 4)?;
        let checked = bytes.get(..bytes.len() - reader.remaining()).unwrap_or_default();
        if reader.u32_le()? != crc32fast::hash(checked) || !reader.is_empty() {
            return Err(BootListError::Malformed);
        }
        let (mut blocks, mut seen) = (Vec::with_capacity(count), HashSet::new());
        while let Ok(block) = numbers.u32_le() {
            if u64::from(block) >= blocks_of(size) || !seen.insert(block) {
                return Err(BootListError::Malformed);
            }
            blocks.push(block);
        }
        Ok(Self { identity, size, blocks })
    }

    /// Parses the list of this image.
    ///
    /// # Errors
    /// [`BootListError`]
    pub(crate) fn of_image(bytes: &[u8], identity: Identity, size: u64) -> Result<Self, BootListError> {
        let list = Self::parse(bytes)?;
        if (list.identity, list.size) == (identity, size) { Ok(list) } else { Err(BootListError::OtherImage) }
    }

    /// Writes the list, at most [`LEN_MAX`] bytes.
    pub(crate) fn emit(&self) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(LEN_MAX);
        bytes.put_slice(MAGIC);
        bytes.put_u64_le(self.identity.0);
        bytes.put_u64_le(self.size);
        // Both fit: a constant, and at most BLOCKS_MAX.
        bytes.put_u32_le(BLOCK as u32);
        bytes.put_u32_le(self.blocks.len() as u32);
        self.blocks.iter().for_each(|&block| bytes.put_u32_le(block));
        bytes.put_u32_le(crc32fast::hash(&bytes));
        bytes
    }

    /// Returns the ranges of the blocks in their order. Neighbours that follow each other are one
    /// range of a few blocks.
    pub(crate) fn extents(&self) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for &block in &self.blocks {
            let offset = u64::from(block) * BLOCK;
            let len = BLOCK.min(self.size.saturating_sub(offset));
            match extents.last_mut() {
                Some(last) if last.end() == offset && last.len < RUN * BLOCK => last.len += len,
                _ => extents.push(Extent { offset, len }),
            }
        }
        extents
    }

    /// Returns the number of bytes of the blocks.
    pub(crate) fn bytes(&self) -> u64 {
        self.extents().iter().map(|extent| extent.len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 10 * BLOCK + 7;

    fn list(blocks: &[u32]) -> BootList {
        BootList::new(Identity(0x1234), SIZE, blocks)
    }

    #[test]
    fn list_is_read_as_it_was_written() {
        for blocks in [&[][..], &[10, 0, 3, 4, 5]] {
            let bytes = list(blocks).emit();
            assert_eq!(bytes.len(), 44 + 4 * blocks.len());
            assert_eq!(BootList::of_image(&bytes, Identity(0x1234), SIZE), Ok(list(blocks)));
            assert_eq!(BootList::of_image(&bytes, Identity(0x1235), SIZE), Err(BootListError::OtherImage));
        }
        assert_eq!(list(&[3, 11, 4]).blocks, [3, 4], "the image has 11 blocks");
        let many: Vec<u32> = (0..2000).collect();
        let list = BootList::new(Identity(1), 4000 * BLOCK, &many);
        assert_eq!((list.blocks.len(), list.emit().len()), (BLOCKS_MAX, LEN_MAX));
    }

    #[test]
    fn torn_list_is_refused() {
        let bytes = list(&[10, 0, 3]).emit();
        for len in 0..bytes.len() {
            assert!(BootList::parse(&bytes[..len]).is_err(), "{len}");
            let mut other = bytes.clone();
            other[len] ^= 1;
            assert!(BootList::parse(&other).is_err(), "{len}");
        }
        assert_eq!(BootList::parse(&[&bytes[..], &[0]].concat()), Err(BootListError::Malformed));
        let mut next = bytes.clone();
        next[15] = b'2';
        assert_eq!(BootList::parse(&next), Err(BootListError::OtherVersion));
    }

    #[test]
    fn list_that_lies_is_refused() {
        // Written by something else, with the right checksum.
        for blocks in [vec![11], vec![4, 4]] {
            let bytes = BootList { blocks, ..list(&[]) }.emit();
            assert_eq!(BootList::parse(&bytes), Err(BootListError::Malformed));
        }
    }

    #[test]
    fn neighbours_are_one_range() {
        let extent = |from: u64, blocks: u64| Extent { offset: from * BLOCK, len: blocks * BLOCK };
        let list = list(&[1, 2, 0, 3, 4, 5, 6, 7, 10]);
        let last = Extent { offset: 10 * BLOCK, len: 7 };
        assert_eq!(list.extents(), [extent(1, 2), extent(0, 1), extent(3, 4), extent(7, 1), last]);
        assert_eq!(list.bytes(), 8 * BLOCK + 7);
    }
}
