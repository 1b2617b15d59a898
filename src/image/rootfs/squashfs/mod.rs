//! Reading of one file by its path from squashfs 4.0.
//!
//! Only the superblock, the directories on the path, their inodes and the blocks of the file are
//! read. For any image these are at most a few thousand blocks of 8 KiB and the file.

mod metadata;
#[cfg(test)]
mod tests;
mod unpack;
pub(crate) mod wire;

use std::cell::Cell;
use std::cmp::Ordering;

use self::metadata::Metadata;
use self::unpack::unpack;
use self::wire::{
    Compression, FRAGMENT, FileInode, Fragment, FragmentPart, Inode, InodeKind, LISTING_ENTRY,
    LISTING_HEADER, ListingEntry, ListingHeader, Packed, Reference, SUPERBLOCK, Superblock,
};
use super::RootfsError;
use crate::image::{Extent, FormatError, Media};

/// Most metadata blocks that are read for one file: directories of 32 MiB.
const METADATA_BLOCKS_MAX: u32 = 4096;
/// Entries of a metadata block of the fragment table.
const FRAGMENTS_PER_BLOCK: u32 = 512;

/// Squashfs image.
#[derive(Debug)]
pub struct Squashfs<'a, M: ?Sized> {
    media: &'a M,
    superblock: Superblock,
    /// Metadata blocks that may still be read.
    budget: Cell<u32>,
}

impl<'a, M: Media + ?Sized> Squashfs<'a, M> {
    /// Opens an image: reads its superblock and nothing else.
    ///
    /// # Errors
    /// [`RootfsError`] for anything but squashfs 4.0, and for an unsupported compression.
    pub fn open(media: &'a M) -> Result<Self, RootfsError> {
        let bytes = media.read(Extent { offset: 0, len: SUPERBLOCK })?;
        let superblock = Superblock::parse(&bytes.ok_or(CUT_OFF)?)?;
        if let Compression::Other(name) = superblock.compression {
            return Err(RootfsError::Compression(name));
        }
        Ok(Self { media, superblock, budget: Cell::new(METADATA_BLOCKS_MAX) })
    }

    /// Reads the file at `path`, which has no leading `/`. Symlinks are not followed.
    ///
    /// # Errors
    /// [`RootfsError`], also for a file of more than `limit` bytes.
    pub fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>, RootfsError> {
        // One budget for the whole path: the directories of a hostile image can be endless.
        self.budget.set(METADATA_BLOCKS_MAX);
        let at = self.find(path)?.ok_or_else(|| RootfsError::Missing(path.to_owned()))?;
        match self.inode(at)? {
            (Inode::File(file), _) if file.size > limit => {
                Err(RootfsError::TooLarge { path: path.to_owned(), size: file.size, limit })
            }
            (Inode::File(file), blocks) => self.content(file, blocks),
            _ => Err(RootfsError::NotAFile(path.to_owned())),
        }
    }

    /// Finds the inode of the file at `path`; `None` if a part of the path does not exist.
    fn find(&self, path: &str) -> Result<Option<Reference>, RootfsError> {
        let mut at = self.superblock.root;
        for name in path.split('/') {
            let (Inode::Directory { at: listing, len }, _) = self.inode(at)? else { return Ok(None) };
            let Some(entry) = self.entry(listing, len, name.as_bytes())? else { return Ok(None) };
            at = entry;
        }
        Ok(Some(at))
    }

    /// Reads the inode at `at`, and returns it with the reader of the data after it.
    fn inode(&self, at: Reference) -> Result<(Inode, Metadata<'_, 'a, M>), RootfsError> {
        let mut inode = Metadata::new(self, self.superblock.inode_table, at)?;
        let kind = InodeKind::parse(&inode.array()?);
        let body = inode.take(kind.body_len())?;
        Ok((Inode::parse(kind, &body).map_err(FormatError::from)?, inode))
    }

    /// Finds the inode of the entry `name` in the directory of `len` bytes at `listing`.
    fn entry(&self, listing: Reference, len: u32, name: &[u8]) -> Result<Option<Reference>, RootfsError> {
        let mut directory = Metadata::new(self, self.superblock.directory_table, listing)?;
        let mut left = len as usize;
        while left > 0 {
            // A length that does not fit the entries ends the loop, since each round uses some of
            // it.
            let header = ListingHeader::parse(&directory.array()?)?;
            left = left.saturating_sub(LISTING_HEADER);
            for _ in 0..header.entries {
                let entry = ListingEntry::parse(&directory.array()?)?;
                let found = directory.take(entry.name_len)?;
                left = left.saturating_sub(LISTING_ENTRY + entry.name_len);
                match found.as_slice().cmp(name) {
                    Ordering::Less => {}
                    Ordering::Equal => {
                        let (block, offset) = (header.block.into(), entry.offset);
                        return Ok(Some(Reference { block, offset }));
                    }
                    // Names are sorted, which Linux relies on as well (`squashfs_lookup`).
                    Ordering::Greater => return Ok(None),
                }
            }
        }
        Ok(None)
    }

    /// Reads the content of a file, whose size the caller has limited; `blocks` is at the list of
    /// its blocks.
    fn content(&self, file: FileInode, mut blocks: Metadata<'_, 'a, M>) -> Result<Vec<u8>, RootfsError> {
        let mut content = Vec::new();
        let mut start = file.start;
        for _ in 0..file.blocks(self.superblock.block_size) {
            let packed = Packed::data(u32::from_le_bytes(blocks.array()?));
            let left = file.size - content.len() as u64;
            content.extend(self.data_block(start, packed, left)?);
            start = start
                .checked_add(packed.len.into())
                .ok_or(FormatError("the position of a block is invalid"))?;
        }
        if let Some(part) = file.fragment {
            let left = file.size - content.len() as u64;
            content.extend(self.fragment(part, left)?);
        }
        Ok(content)
    }

    /// Reads a whole block of a file that has `left` bytes from this block on.
    fn data_block(&self, start: u64, packed: Packed, left: u64) -> Result<Vec<u8>, RootfsError> {
        // Less than a block's size, which is 1 MiB at most.
        let len = left.min(self.superblock.block_size.into()) as usize;
        // squashfs does not store a block of zeros.
        if packed.len == 0 {
            return Ok(vec![0; len]);
        }
        let block = self.block(start, packed, self.superblock.block_size as usize)?;
        if block.len() == len {
            Ok(block)
        } else {
            Err(FormatError("a block of a file has another length").into())
        }
    }

    /// Reads the last `len` bytes of a file, fewer than a block.
    fn fragment(&self, part: FragmentPart, len: u64) -> Result<Vec<u8>, RootfsError> {
        let outside = FormatError("the end of a file is outside of its fragment");
        let Fragment { start, packed } = self.fragment_entry(part.index)?;
        let block = self.block(start, packed, self.superblock.block_size as usize)?;
        // Both are below 4 GiB, so the sum does not overflow.
        let end = part.offset as usize + len as usize;
        Ok(block.get(part.offset as usize..end).ok_or(outside)?.to_vec())
    }

    /// Reads an entry of the fragment table.
    fn fragment_entry(&self, index: u32) -> Result<Fragment, RootfsError> {
        if index >= self.superblock.fragments {
            return Err(FormatError("a file ends in a fragment that does not exist").into());
        }
        // The limit keeps the sum in range; a table at such a place is outside the image.
        let table =
            u64::from(index / FRAGMENTS_PER_BLOCK) * 8 + self.superblock.fragment_table.min(u64::MAX / 2);
        let block = self.media.read(Extent { offset: table, len: 8 })?.ok_or(CUT_OFF)?;
        let block = block.try_into().map(u64::from_le_bytes).map_err(|_| CUT_OFF)?;
        // At most 511 * 16, so the casts keep the value.
        let offset = (index % FRAGMENTS_PER_BLOCK) as u16 * FRAGMENT as u16;
        let entry = Metadata::new(self, block, Reference { block: 0, offset })?.take(FRAGMENT)?;
        Ok(Fragment::parse(&entry).map_err(FormatError::from)?)
    }

    /// Reads a block of the image, which has at most `max` bytes, compressed or not.
    fn block(&self, start: u64, packed: Packed, max: usize) -> Result<Vec<u8>, RootfsError> {
        // Checked before the allocation: compression never makes a stored block longer.
        if packed.len as usize > max {
            return Err(FormatError("the length of a block is invalid").into());
        }
        let bytes = self.media.read(Extent { offset: start, len: packed.len.into() })?.ok_or(CUT_OFF)?;
        if !packed.is_compressed {
            return Ok(bytes);
        }
        unpack(self.superblock.compression, &bytes, max).map_err(RootfsError::Unpack)
    }
}

const CUT_OFF: FormatError = FormatError("it is cut off");
