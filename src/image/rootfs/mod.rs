//! One small file out of the root file system that an image carries: nothing of it is mounted or unpacked, only the
//! tables on the way to that file are read.

pub mod erofs;
pub mod squashfs;

use std::io;

use super::arch::{Airootfs, Format};
use super::{Image, Malformed};

pub use squashfs::Squashfs;

/// The content of the file at `path` in a root file system of `image`.
///
/// `path` has no leading `/`. Symlinks are not followed. Some blocks are unpacked on the way, which takes some ten
/// milliseconds: this is nothing for an asynchronous task.
///
/// # Errors
/// [`NoFile`], also for a file of more than `limit` bytes.
pub fn read_file(image: &Image, root: &Airootfs, path: &str, limit: u64) -> Result<Vec<u8>, NoFile> {
    let content = image.content(root.node).ok_or(NoFile::Format)?;
    match root.format {
        Format::Squashfs => Squashfs::open(&content)?.read_file(path, limit),
        Format::Erofs => erofs::read_file(&content, path, limit),
        Format::Unknown => Err(NoFile::Format),
    }
}

/// Why a file cannot be had from a root file system.
#[derive(Debug, thiserror::Error)]
pub enum NoFile {
    #[error("/{0} is not there")]
    Missing(String),
    #[error("/{0} is no regular file")]
    NotAFile(String),
    #[error("/{path} has {size} bytes, and at most {limit} are read")]
    TooLarge { path: String, size: u64, limit: u64 },
    #[error("it is neither squashfs nor erofs")]
    Format,
    #[error("it is compressed with {0}, which isowire does not read")]
    Compression(&'static str),
    #[error("it is damaged: {0}")]
    Damaged(#[from] Malformed),
    #[error("it cannot be unpacked: {0}")]
    Unpack(io::Error),
    #[error(transparent)]
    Read(#[from] io::Error),
}
