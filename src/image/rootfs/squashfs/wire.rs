//! Structures of squashfs 4.0 (Linux, `fs/squashfs/squashfs_fs.h`; their use is described in
//! `Documentation/filesystems/squashfs.rst`). All numbers are little-endian.

use crate::codec::{Reader, Truncated};
use crate::image::FormatError;

/// Bytes of the superblock.
pub(crate) const SUPERBLOCK: u64 = 96;
/// Largest metadata block, in bytes, unpacked and packed.
pub(crate) const METADATA_MAX: usize = 8192;
/// Bytes of the header that all inodes have.
pub(crate) const INODE_HEADER: usize = 16;
/// Bytes of a directory header and of the fixed part of an entry.
pub(crate) const LISTING_HEADER: usize = 12;
pub(crate) const LISTING_ENTRY: usize = 8;
/// Bytes of an entry of the fragment table.
pub(crate) const FRAGMENT: usize = 16;

/// Valid sizes of data blocks: 4 KiB to 1 MiB.
const BLOCK_LOG: std::ops::RangeInclusive<u16> = 12..=20;
/// Fragment number of a file without a fragment (Linux, `SQUASHFS_INVALID_FRAG`).
const NO_FRAGMENT: u32 = u32::MAX;
/// Size of an empty directory: it counts three bytes for `.` and `..` (Linux, `fs/squashfs/dir.c`).
const EMPTY_DIRECTORY: u32 = 3;
/// Most entries after a directory header (Linux, `SQUASHFS_DIR_COUNT`).
const ENTRIES_MAX: u32 = 256;

/// Compression of all blocks of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Zlib,
    Xz,
    Lz4,
    Zstd,
    /// Name of a compression that isowire does not read.
    Other(&'static str),
}

impl Compression {
    const fn of(id: u16) -> Self {
        match id {
            // ZLIB_COMPRESSION and the others of squashfs_fs.h.
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

/// Reference to a structure: the position of its metadata block in the table, and its offset in the
/// decompressed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference {
    pub block: u64,
    pub offset: u16,
}

impl Reference {
    const fn of(number: u64) -> Self {
        Self { block: number >> 16, offset: number as u16 }
    }
}

/// Superblock, the start of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub block_size: u32,
    pub compression: Compression,
    pub root: Reference,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub fragments: u32,
}

impl Superblock {
    /// Parses the superblock.
    ///
    /// # Errors
    /// [`FormatError`] for anything but squashfs 4.0.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        // SQUASHFS_MAGIC of `linux/magic.h`, in little-endian order.
        if r.array()? != *b"hsqs" {
            return Err(FormatError("its magic number is not that of squashfs"));
        }
        r.skip(4 + 4)?; // number of inodes, time of creation
        let block_size = r.u32_le()?;
        let fragments = r.u32_le()?;
        let compression = Compression::of(r.u16_le()?);
        let block_log = r.u16_le()?;
        if !BLOCK_LOG.contains(&block_log) || block_size != 1 << block_log {
            return Err(FormatError("its block size is not a power of two from 4 KiB to 1 MiB"));
        }
        r.skip(2 + 2)?; // flags, number of user and group ids
        if (r.u16_le()?, r.u16_le()?) != (4, 0) {
            return Err(FormatError("its version is not 4.0"));
        }
        let root = Reference::of(r.u64_le()?);
        r.skip(8 + 8 + 8)?; // bytes used, tables of ids and of extended attributes
        let inode_table = r.u64_le()?;
        let directory_table = r.u64_le()?;
        let fragment_table = r.u64_le()?;
        Ok(Self { block_size, compression, root, inode_table, directory_table, fragment_table, fragments })
    }
}

/// Length of a block, from the start of a metadata block or from the list of a file's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Bytes of the image.
    pub len: u32,
    pub is_compressed: bool,
}

impl Packed {
    /// Parses the two bytes before a metadata block (Linux, `SQUASHFS_COMPRESSED`).
    pub(crate) const fn metadata(word: u16) -> Self {
        Self { len: (word & 0x7fff) as u32, is_compressed: word & 0x8000 == 0 }
    }

    /// Parses the length of a data block (Linux, `SQUASHFS_COMPRESSED_BLOCK`). The length 0 means a
    /// block of zeros, which is not stored.
    pub(crate) const fn data(word: u32) -> Self {
        Self { len: word & 0x00ff_ffff, is_compressed: word & 0x0100_0000 == 0 }
    }
}

/// Type of an inode, which determines the length of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InodeKind {
    Directory,
    LongDirectory,
    File,
    LongFile,
    Other,
}

impl InodeKind {
    /// Parses the header of an inode.
    pub(crate) fn parse(header: &[u8; INODE_HEADER]) -> Self {
        // SQUASHFS_DIR_TYPE, SQUASHFS_REG_TYPE and their extended forms; the rest of the header is
        // not needed.
        let [low, high, ..] = *header;
        match u16::from_le_bytes([low, high]) {
            1 => Self::Directory,
            2 => Self::File,
            8 => Self::LongDirectory,
            9 => Self::LongFile,
            _ => Self::Other,
        }
    }

    /// Returns the bytes of the fixed part after the header.
    pub(crate) const fn body_len(self) -> usize {
        match self {
            Self::Directory | Self::File => 16,
            Self::LongDirectory => 24,
            Self::LongFile => 40,
            Self::Other => 0,
        }
    }
}

/// Inode without its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inode {
    Directory {
        at: Reference,
        /// Bytes of its headers and entries.
        len: u32,
    },
    File(FileInode),
    Other,
}

/// Inode of a regular file; the list of its blocks follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileInode {
    /// Position of its first block in the image.
    pub start: u64,
    pub size: u64,
    /// End of the file, if it is in a fragment.
    pub fragment: Option<FragmentPart>,
}

/// Part of a fragment block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FragmentPart {
    /// Number of the fragment.
    pub index: u32,
    /// Bytes before the file's end in what the block holds unpacked.
    pub offset: u32,
}

impl Inode {
    /// Parses the fixed part after the header.
    ///
    /// # Errors
    /// [`Truncated`] for fewer than [`InodeKind::body_len`] bytes.
    pub(crate) fn parse(kind: InodeKind, body: &[u8]) -> Result<Self, Truncated> {
        let mut r = Reader::new(body);
        match kind {
            InodeKind::Directory => {
                let block = r.u32_le()?.into();
                r.skip(4)?; // number of links
                let size = r.u16_le()?.into();
                Ok(Self::directory(size, Reference { block, offset: r.u16_le()? }))
            }
            InodeKind::LongDirectory => {
                r.skip(4)?; // number of links
                let size = r.u32_le()?;
                let block = r.u32_le()?.into();
                r.skip(4 + 2)?; // inode of the parent, entries of the index
                Ok(Self::directory(size, Reference { block, offset: r.u16_le()? }))
            }
            InodeKind::File => {
                let start = r.u32_le()?.into();
                let fragment = fragment(r.u32_le()?, r.u32_le()?);
                Ok(Self::File(FileInode { start, size: r.u32_le()?.into(), fragment }))
            }
            InodeKind::LongFile => {
                let start = r.u64_le()?;
                let size = r.u64_le()?;
                r.skip(8 + 4)?; // bytes of holes, number of links
                Ok(Self::File(FileInode { start, size, fragment: fragment(r.u32_le()?, r.u32_le()?) }))
            }
            InodeKind::Other => Ok(Self::Other),
        }
    }

    const fn directory(size: u32, at: Reference) -> Self {
        // A size below that of an empty directory is not valid, and means empty here.
        Self::Directory { at, len: size.saturating_sub(EMPTY_DIRECTORY) }
    }
}

impl FileInode {
    /// Returns the number of blocks, without the fragment.
    pub(crate) const fn blocks(&self, block_size: u32) -> u64 {
        match self.fragment {
            // The end of the file is in the fragment.
            Some(_) => self.size / block_size as u64,
            None => self.size.div_ceil(block_size as u64),
        }
    }
}

fn fragment(index: u32, offset: u32) -> Option<FragmentPart> {
    (index != NO_FRAGMENT).then_some(FragmentPart { index, offset })
}

/// Header of some entries of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListingHeader {
    /// Number of entries that follow.
    pub entries: u32,
    /// Metadata block of their inodes, from the start of the inode table.
    pub block: u32,
}

impl ListingHeader {
    /// Parses a directory header.
    ///
    /// # Errors
    /// [`FormatError`] if more than 256 entries follow.
    pub(crate) fn parse(bytes: &[u8; LISTING_HEADER]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        // The number is stored less one.
        let entries = r.u32_le()?.saturating_add(1);
        if entries > ENTRIES_MAX {
            return Err(FormatError("more than 256 entries follow a directory header"));
        }
        Ok(Self { entries, block: r.u32_le()? })
    }
}

/// Fixed part of a directory entry; the name follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListingEntry {
    /// Offset of the inode in its metadata block.
    pub offset: u16,
    /// Bytes of the name.
    pub name_len: usize,
}

impl ListingEntry {
    /// Parses the fixed part of an entry.
    ///
    /// # Errors
    /// [`FormatError`] for a name of more than 256 bytes.
    pub(crate) fn parse(bytes: &[u8; LISTING_ENTRY]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let offset = r.u16_le()?;
        r.skip(2 + 2)?; // number and type of the inode
        // The length is stored less one.
        let name_len = usize::from(r.u16_le()?) + 1;
        // Linux, SQUASHFS_NAME_LEN.
        if name_len > 256 {
            return Err(FormatError("a name has more than 256 bytes"));
        }
        Ok(Self { offset, name_len })
    }
}

/// Block that holds the ends of several files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// Position in the image.
    pub start: u64,
    pub packed: Packed,
}

impl Fragment {
    /// Parses an entry of the fragment table.
    ///
    /// # Errors
    /// [`Truncated`] for fewer than [`FRAGMENT`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Truncated> {
        let mut r = Reader::new(bytes);
        Ok(Self { start: r.u64_le()?, packed: Packed::data(r.u32_le()?) })
    }
}
