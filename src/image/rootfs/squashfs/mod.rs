//! Reads one file by its path out of squashfs 4.0.
//!
//! It reads the superblock, the directories on the path up to the entry that is looked for, one inode for each of them,
//! and the blocks of the file. Whatever the image says, this is at most a few thousand blocks of 8 KiB and the file.

mod metadata;
#[cfg(test)]
mod tests;
mod unpack;
pub mod wire;

use std::cell::Cell;
use std::cmp::Ordering;

use self::metadata::Metadata;
use self::unpack::unpack;
use self::wire::{
    Compression, DIRECTORY_ENTRY, DIRECTORY_HEADER, DirectoryEntry, DirectoryHeader, FRAGMENT, File,
    Fragment, FragmentPart, Inode, InodeKind, Packed, Reference, SUPERBLOCK, Superblock,
};
use super::RootfsError;
use crate::image::{Extent, FormatError, Media};

/// Metadata blocks that are read in search of one file: directories of 32 MiB.
const METADATA_BLOCKS_MAX: u32 = 4096;
/// Entries of a metadata block of the fragment table.
const FRAGMENTS_PER_BLOCK: u32 = 512;

/// An image of squashfs.
#[derive(Debug)]
pub struct Squashfs<'a, M: ?Sized> {
    media: &'a M,
    superblock: Superblock,
    /// Metadata blocks that may still be read.
    budget: Cell<u32>,
}

impl<'a, M: Media + ?Sized> Squashfs<'a, M> {
    /// Reads the superblock, and nothing else.
    ///
    /// # Errors
    /// [`RootfsError`] for anything but squashfs 4.0, and for a compression that we do not read.
    pub fn open(media: &'a M) -> Result<Self, RootfsError> {
        let bytes = media.read(Extent { offset: 0, len: SUPERBLOCK })?;
        let superblock = Superblock::parse(&bytes.ok_or(CUT_OFF)?)?;
        if let Compression::Other(name) = superblock.compression {
            return Err(RootfsError::Compression(name));
        }
        Ok(Self { media, superblock, budget: Cell::new(METADATA_BLOCKS_MAX) })
    }

    /// The content of the file at `path`, from the root and without a leading `/`. Symlinks are not followed.
    ///
    /// # Errors
    /// [`RootfsError`], also for a file of more than `limit` bytes.
    pub fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>, RootfsError> {
        self.budget.set(METADATA_BLOCKS_MAX);
        let mut at = self.superblock.root;
        for name in path.split('/') {
            let missing = || RootfsError::Missing(path.to_owned());
            let (Inode::Directory { at: listing, len }, _) = self.inode(at)? else { return Err(missing()) };
            at = self.entry(listing, len, name.as_bytes())?.ok_or_else(missing)?;
        }
        match self.inode(at)? {
            (Inode::File(file), _) if file.size > limit => {
                Err(RootfsError::TooLarge { path: path.to_owned(), size: file.size, limit })
            }
            (Inode::File(file), blocks) => self.content(file, blocks),
            _ => Err(RootfsError::NotAFile(path.to_owned())),
        }
    }

    /// The inode at a place, and what follows it.
    fn inode(&self, at: Reference) -> Result<(Inode, Metadata<'_, 'a, M>), RootfsError> {
        let mut inode = Metadata::new(self, self.superblock.inode_table, at)?;
        let kind = InodeKind::parse(&inode.array()?);
        let body = inode.take(kind.body_len())?;
        Ok((Inode::parse(kind, &body).map_err(FormatError::from)?, inode))
    }

    /// Where the inode is of the entry called `name`, in the directory of `len` bytes at `listing`.
    fn entry(&self, listing: Reference, len: u32, name: &[u8]) -> Result<Option<Reference>, RootfsError> {
        let mut directory = Metadata::new(self, self.superblock.directory_table, listing)?;
        let mut left = len as usize;
        while left > 0 {
            let header = DirectoryHeader::parse(&directory.array()?)?;
            left = left.saturating_sub(DIRECTORY_HEADER);
            for _ in 0..header.entries {
                let entry = DirectoryEntry::parse(&directory.array()?)?;
                let found = directory.take(entry.name_len)?;
                left = left.saturating_sub(DIRECTORY_ENTRY + entry.name_len);
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

    /// `blocks` reads from the list of the file's blocks on. The caller has bounded the size of the file.
    fn content(&self, file: File, mut blocks: Metadata<'_, 'a, M>) -> Result<Vec<u8>, RootfsError> {
        let mut content = Vec::new();
        let mut start = file.start;
        for _ in 0..file.blocks(self.superblock.block_size) {
            let packed = Packed::data(u32::from_le_bytes(blocks.array()?));
            let left = file.size - content.len() as u64;
            content.extend(self.data_block(start, packed, left)?);
            start = start.checked_add(packed.len.into()).ok_or(FormatError("a block is behind all"))?;
        }
        if let Some(part) = file.fragment {
            let left = file.size - content.len() as u64;
            content.extend(self.fragment(part, left)?);
        }
        Ok(content)
    }

    /// A whole block of a file of which `left` bytes are still to come.
    fn data_block(&self, start: u64, packed: Packed, left: u64) -> Result<Vec<u8>, RootfsError> {
        // Less than a block's size, which is 1 MiB at most.
        let len = left.min(self.superblock.block_size.into()) as usize;
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

    /// The last `len` bytes of a file, fewer than a block.
    fn fragment(&self, part: FragmentPart, len: u64) -> Result<Vec<u8>, RootfsError> {
        let outside = FormatError("the end of a file is outside of its fragment");
        let Fragment { start, packed } = self.fragment_entry(part.index)?;
        let block = self.block(start, packed, self.superblock.block_size as usize)?;
        let end = part.offset as usize + len as usize;
        Ok(block.get(part.offset as usize..end).ok_or(outside)?.to_vec())
    }

    fn fragment_entry(&self, index: u32) -> Result<Fragment, RootfsError> {
        if index >= self.superblock.fragments {
            return Err(FormatError("a file ends in a fragment that does not exist").into());
        }
        let table =
            u64::from(index / FRAGMENTS_PER_BLOCK) * 8 + self.superblock.fragment_table.min(u64::MAX / 2);
        let block = self.media.read(Extent { offset: table, len: 8 })?.ok_or(CUT_OFF)?;
        let block = block.try_into().map(u64::from_le_bytes).map_err(|_| CUT_OFF)?;
        // At most 511 * 16.
        let offset = (index % FRAGMENTS_PER_BLOCK) as u16 * FRAGMENT as u16;
        let entry = Metadata::new(self, block, Reference { block: 0, offset })?.take(FRAGMENT)?;
        Ok(Fragment::parse(&entry).map_err(FormatError::from)?)
    }

    /// A block of the image, unpacked to at most `max` bytes; packed it has no more either.
    fn block(&self, start: u64, packed: Packed, max: usize) -> Result<Vec<u8>, RootfsError> {
        if packed.len as usize > max {
            return Err(FormatError("a block is longer than blocks are").into());
        }
        let bytes = self.media.read(Extent { offset: start, len: packed.len.into() })?.ok_or(CUT_OFF)?;
        if !packed.is_compressed {
            return Ok(bytes);
        }
        unpack(self.superblock.compression, &bytes, max).map_err(RootfsError::Unpack)
    }
}

const CUT_OFF: FormatError = FormatError("it is cut off");
