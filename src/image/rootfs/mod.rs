//! One small file out of the root file system that an image carries: nothing of it is mounted or unpacked, only the
//! tables on the way to that file are read.

pub mod erofs;
pub mod squashfs;

use std::io;

use super::arch::{Airootfs, AirootfsFormat};
use super::{FormatError, Image};

pub use squashfs::Squashfs;

/// The content of the file at `path` in a root file system of `image`.
///
/// `path` has no leading `/`. Symlinks are not followed. Some blocks are unpacked on the way, which takes some ten
/// milliseconds: this is nothing for an asynchronous task.
///
/// # Errors
/// [`RootfsError`], also for a file of more than `limit` bytes.
pub fn read_file(image: &Image, root: &Airootfs, path: &str, limit: u64) -> Result<Vec<u8>, RootfsError> {
    let content = image.content(root.node).ok_or(RootfsError::UnknownFormat)?;
    match root.format {
        AirootfsFormat::Squashfs => Squashfs::open(&content)?.read_file(path, limit),
        AirootfsFormat::Erofs => erofs::read_file(&content, path, limit),
        AirootfsFormat::Unknown => Err(RootfsError::UnknownFormat),
    }
}

/// Why a file cannot be had from a root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("/{0} is not there")]
    Missing(String),
    #[error("/{0} is no regular file")]
    NotAFile(String),
    #[error("/{path} has {size} bytes, and at most {limit} are read")]
    TooLarge { path: String, size: u64, limit: u64 },
    #[error("it is neither squashfs nor erofs")]
    UnknownFormat,
    #[error("it is compressed with {0}, which isowire does not read")]
    Compression(&'static str),
    #[error("it is damaged: {0}")]
    Damaged(#[from] FormatError),
    #[error("it cannot be unpacked: {0}")]
    Unpack(io::Error),
    #[error(transparent)]
    Read(#[from] io::Error),
}
