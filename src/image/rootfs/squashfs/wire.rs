//! The structures of squashfs 4.0 (`fs/squashfs/squashfs_fs.h` of Linux; "Squashfs Binary Format" of
//! `Documentation/filesystems/squashfs.rst`). All numbers are little-endian.

use crate::codec::{Reader, Truncated};
use crate::image::FormatError;

/// Bytes of the superblock.
pub const SUPERBLOCK: u64 = 96;
/// Largest metadata block, in bytes, unpacked and packed.
pub const METADATA_MAX: usize = 8192;
/// Bytes that all inodes begin with.
pub const INODE_HEADER: usize = 16;
/// Bytes of a directory header and of the fixed part of an entry.
pub const DIRECTORY_HEADER: usize = 12;
pub const DIRECTORY_ENTRY: usize = 8;
/// Bytes of an entry of the fragment table.
pub const FRAGMENT: usize = 16;

/// Sizes of data blocks that there are: 4 KiB to 1 MiB.
const BLOCK_LOG: std::ops::RangeInclusive<u16> = 12..=20;
/// A file without a fragment has this one.
const NO_FRAGMENT: u32 = u32::MAX;
/// A directory is empty when its size is this: for `.`, `..` and one.
const EMPTY_DIRECTORY: u32 = 3;
/// Entries behind one directory header.
const ENTRIES_MAX: u32 = 256;

/// What all blocks of an image are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Zlib,
    Xz,
    Lz4,
    Zstd,
    /// By its name: one that we do not read.
    Other(&'static str),
}

impl Compression {
    const fn of(id: u16) -> Self {
        match id {
            1 => Self::Zlib,
            2 => Self::Other("lzma"),
            3 => Self::Other("lzo"),
            4 => Self::Xz,
            5 => Self::Lz4,
            6 => Self::Zstd,
            _ => Self::Other("something unknown"),
        }
    }
}

/// Where a structure is: in the metadata block at `block`, from the start of its table, behind `offset` bytes of what
/// that block holds unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    pub block: u64,
    pub offset: u16,
}

impl Reference {
    const fn of(number: u64) -> Self {
        Self { block: number >> 16, offset: number as u16 }
    }
}

/// The start of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    pub block_size: u32,
    pub compression: Compression,
    pub root: Reference,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub fragments: u32,
}

impl Superblock {
    /// # Errors
    /// `FormatError` for anything but squashfs 4.0.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        if r.array()? != *b"hsqs" {
            return Err(FormatError("this is no squashfs"));
        }
        r.skip(8)?;
        let block_size = r.u32_le()?;
        let fragments = r.u32_le()?;
        let compression = Compression::of(r.u16_le()?);
        let block_log = r.u16_le()?;
        if !BLOCK_LOG.contains(&block_log) || block_size != 1 << block_log {
            return Err(FormatError("its block size is no power of two from 4 KiB to 1 MiB"));
        }
        r.skip(4)?;
        if (r.u16_le()?, r.u16_le()?) != (4, 0) {
            return Err(FormatError("its version is not 4.0"));
        }
        let root = Reference::of(r.u64_le()?);
        r.skip(24)?;
        let inode_table = r.u64_le()?;
        let directory_table = r.u64_le()?;
        let fragment_table = r.u64_le()?;
        Ok(Self { block_size, compression, root, inode_table, directory_table, fragment_table, fragments })
    }
}

/// The length in front of a metadata block, or in the list of a file's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the image.
    pub len: u32,
    pub is_compressed: bool,
}

impl Packed {
    /// The two bytes before a metadata block.
    pub const fn metadata(word: u16) -> Self {
        Self { len: (word & 0x7fff) as u32, is_compressed: word & 0x8000 == 0 }
    }

    /// The length of a data block: 0 stands for a block of zeros that is not there.
    pub const fn data(word: u32) -> Self {
        Self { len: word & 0x00ff_ffff, is_compressed: word & 0x0100_0000 == 0 }
    }
}

/// What an inode is of, with the number of bytes behind its header that say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InodeKind {
    Directory,
    LongDirectory,
    File,
    LongFile,
    Other,
}

impl InodeKind {
    /// Reads the header of an inode.
    pub fn parse(header: &[u8; INODE_HEADER]) -> Self {
        let [low, high, ..] = *header;
        match u16::from_le_bytes([low, high]) {
            1 => Self::Directory,
            2 => Self::File,
            8 => Self::LongDirectory,
            9 => Self::LongFile,
            _ => Self::Other,
        }
    }

    /// Bytes of the fixed part behind the header.
    pub const fn body_len(self) -> usize {
        match self {
            Self::Directory | Self::File => 16,
            Self::LongDirectory => 24,
            Self::LongFile => 40,
            Self::Other => 0,
        }
    }
}

/// An inode without what all of them begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inode {
    Directory {
        at: Reference,
        /// Bytes of its headers and entries.
        len: u32,
    },
    File(File),
    Other,
}

/// A regular file; the list of its blocks follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Of its first block, from the start of the image.
    pub start: u64,
    pub size: u64,
    /// Where its end is, when it is in a fragment.
    pub fragment: Option<FragmentPart>,
}

/// Part of a fragment block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentPart {
    /// Number of the fragment.
    pub index: u32,
    /// Bytes before the file's end in what the block holds unpacked.
    pub offset: u32,
}

impl Inode {
    /// Reads the fixed part behind the header.
    ///
    /// # Errors
    /// `Truncated` when there are fewer than [`InodeKind::body_len`] bytes.
    pub fn parse(kind: InodeKind, body: &[u8]) -> Result<Self, Truncated> {
        let mut r = Reader::new(body);
        match kind {
            InodeKind::Directory => {
                let block = r.u32_le()?.into();
                r.skip(4)?;
                let size = r.u16_le()?.into();
                Ok(Self::directory(size, Reference { block, offset: r.u16_le()? }))
            }
            InodeKind::LongDirectory => {
                r.skip(4)?;
                let size = r.u32_le()?;
                let block = r.u32_le()?.into();
                r.skip(6)?;
                Ok(Self::directory(size, Reference { block, offset: r.u16_le()? }))
            }
            InodeKind::File => {
                let start = r.u32_le()?.into();
                let fragment = fragment(r.u32_le()?, r.u32_le()?);
                Ok(Self::File(File { start, size: r.u32_le()?.into(), fragment }))
            }
            InodeKind::LongFile => {
                let start = r.u64_le()?;
                let size = r.u64_le()?;
                r.skip(12)?;
                Ok(Self::File(File { start, size, fragment: fragment(r.u32_le()?, r.u32_le()?) }))
            }
            InodeKind::Other => Ok(Self::Other),
        }
    }

    const fn directory(size: u32, at: Reference) -> Self {
        Self::Directory { at, len: size.saturating_sub(EMPTY_DIRECTORY) }
    }
}

impl File {
    /// Number of blocks, without the fragment.
    pub const fn blocks(&self, block_size: u32) -> u64 {
        match self.fragment {
            Some(_) => self.size / block_size as u64,
            None => self.size.div_ceil(block_size as u64),
        }
    }
}

fn fragment(index: u32, offset: u32) -> Option<FragmentPart> {
    (index != NO_FRAGMENT).then_some(FragmentPart { index, offset })
}

/// What some entries of a directory have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryHeader {
    /// Entries that follow.
    pub entries: u32,
    /// Metadata block of their inodes, from the start of the inode table.
    pub block: u32,
}

impl DirectoryHeader {
    /// # Errors
    /// `FormatError` when more entries follow than may.
    pub fn parse(bytes: &[u8; DIRECTORY_HEADER]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let entries = r.u32_le()?.saturating_add(1);
        if entries > ENTRIES_MAX {
            return Err(FormatError("more than 256 entries follow a directory header"));
        }
        Ok(Self { entries, block: r.u32_le()? })
    }
}

/// The fixed part of an entry; the name follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Of the inode, in its metadata block.
    pub offset: u16,
    /// Bytes of the name.
    pub name_len: usize,
}

impl DirectoryEntry {
    /// # Errors
    /// `FormatError` for a name of more than 256 bytes.
    pub fn parse(bytes: &[u8; DIRECTORY_ENTRY]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let offset = r.u16_le()?;
        r.skip(4)?;
        let name_len = usize::from(r.u16_le()?) + 1;
        if name_len > 256 {
            return Err(FormatError("a name has more than 256 bytes"));
        }
        Ok(Self { offset, name_len })
    }
}

/// A block that holds the ends of several files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// From the start of the image.
    pub start: u64,
    pub packed: Packed,
}

impl Fragment {
    /// # Errors
    /// `Truncated` for fewer than [`FRAGMENT`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut r = Reader::new(bytes);
        Ok(Self { start: r.u64_le()?, packed: Packed::data(r.u32_le()?) })
    }
}
