//! Reading of one file by its path from erofs, with the crate `erofs-rs`.
//!
//! The crate's interface for slices would need the mapping as a `&[u8]`. Its asynchronous interface
//! asks for ranges, which are read at once. So its futures never wait, and no runtime is needed.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use erofs_rs::Error;
use erofs_rs::r#async::EroFS;
use erofs_rs::backend::AsyncImage;

use super::RootfsError;
use crate::image::{FormatError, Media};

/// Most bytes that are read for one file: directories of some ten thousand entries.
const READ_MAX: u64 = 64 << 20;
/// Cost of a read in addition to its bytes: the time to decompress a block.
const READ_COST: u64 = 4096;
/// Bytes that are read from a file at a time.
const STEP: usize = 64 << 10;

/// Reads the file at `path`, which has no leading `/`. Symlinks are not followed.
///
/// # Errors
/// [`RootfsError`], also for a file of more than `limit` bytes.
pub fn read_file(
    media: &(impl Media + ?Sized + Sync),
    path: &str,
    limit: u64,
) -> Result<Vec<u8>, RootfsError> {
    let image = Ranges { media, left: AtomicU64::new(READ_MAX) };
    let mut reading = pin!(read(image, path, limit));
    match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        // `Ranges` answers at once, so the crate has nothing to wait for.
        Poll::Pending => Err(FormatError("it cannot be read in one go").into()),
    }
}

async fn read(image: impl AsyncImage, path: &str, limit: u64) -> Result<Vec<u8>, RootfsError> {
    let erofs = EroFS::new(image).await.map_err(|error| read_error(error, path))?;
    let mut file = erofs.open(format!("/{path}")).await.map_err(|error| read_error(error, path))?;
    let size = file.size();
    // Before any block is read and decompressed.
    if size > limit {
        return Err(RootfsError::TooLarge { path: path.to_owned(), size, limit });
    }
    let mut content = Vec::new();
    let mut buf = vec![0; STEP];
    loop {
        let n = file.read(&mut buf).await.map_err(|error| read_error(error, path))?;
        if n == 0 {
            break;
        }
        content.extend(buf.iter().take(n));
    }
    // A file of which blocks are missing would be a broken boot program.
    if content.len() as u64 == size {
        Ok(content)
    } else {
        Err(FormatError("a file ends before its size").into())
    }
}

fn read_error(error: Error, path: &str) -> RootfsError {
    match error {
        Error::PathNotFound(_) | Error::NotADirectory(_) => RootfsError::Missing(path.to_owned()),
        Error::NotAFile(_) => RootfsError::NotAFile(path.to_owned()),
        Error::Io(error) => RootfsError::Read(error),
        error => RootfsError::Unpack(io::Error::other(error)),
    }
}

/// Adapter from the image to the crate.
struct Ranges<'a, M: ?Sized> {
    media: &'a M,
    /// Bytes that may still be read.
    left: AtomicU64,
}

impl<M: Media + ?Sized + Sync> AsyncImage for Ranges<'_, M> {
    async fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> erofs_rs::Result<()> {
        // In a hostile image directories and blocks can be endless.
        let cost = READ_COST + buf.len() as u64;
        let spent =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(cost));
        if spent.is_err() {
            return Err(Error::OutOfBounds("its directories are too large".into()));
        }
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.media.size()) {
            return Err(Error::OutOfBounds("it is cut off".into()));
        }
        Ok(self.media.fill(buf, offset)?)
    }
}
