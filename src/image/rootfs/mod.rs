//! Reading of one small file from the root file system in an image. Nothing is mounted or unpacked;
//! only the tables on the path to that file are read.

pub mod erofs;
pub(crate) mod squashfs;

use std::io;

use super::arch::{Airootfs, AirootfsFormat};
use super::{FormatError, Image};

pub use squashfs::Squashfs;

/// Reads the file at `path` in a root file system of `image`.
///
/// `path` has no leading `/`. Symlinks are not followed. Some blocks are decompressed, which takes
/// some ten milliseconds, so an asynchronous task may not call it.
///
/// # Errors
/// [`RootfsError`], also for a file of more than `limit` bytes.
pub(crate) fn read_file(
    image: &Image,
    root: &Airootfs,
    path: &str,
    limit: u64,
) -> Result<Vec<u8>, RootfsError> {
    let content = image.content(root.node).ok_or(RootfsError::UnknownFormat)?;
    match root.format {
        AirootfsFormat::Squashfs => Squashfs::open(&content)?.read_file(path, limit),
        AirootfsFormat::Erofs => erofs::read_file(&content, path, limit),
        AirootfsFormat::Unknown => Err(RootfsError::UnknownFormat),
    }
}

/// Error of reading a file from a root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("/{0} does not exist")]
    Missing(String),
    #[error("/{0} is not a regular file")]
    NotAFile(String),
    #[error("/{path} has {size} bytes, more than the limit of {limit}")]
    TooLarge { path: String, size: u64, limit: u64 },
    #[error("it is neither squashfs nor erofs")]
    UnknownFormat,
    #[error("it is compressed with {0}, which isowire does not read")]
    Compression(&'static str),
    #[error("it is damaged: {0}")]
    Damaged(#[from] FormatError),
    #[error("it cannot be decompressed: {0}")]
    Unpack(io::Error),
    #[error(transparent)]
    Read(#[from] io::Error),
}
