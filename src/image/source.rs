//! The open image file: ranges become bytes here.
//!
//! Payload leaves from the [mapping](crate::sys::Mapping). What we read ourselves (metadata, checksums) is read with
//! `pread` into owned memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::residency::Residency;
use crate::extent::Extent;
use crate::sys::{Mapping, Span};

/// An image file, opened read-only and mapped.
#[derive(Debug)]
pub struct Source {
    file: Arc<File>,
    residency: Residency,
    map: Option<Mapping>,
    len: u64,
}

impl Source {
    /// Opens and maps `path`. Nothing is read yet.
    ///
    /// # Errors
    /// Whatever `stat`, opening or `mmap` say; a directory is `IsADirectory`, a FIFO `InvalidInput`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file_type = path.metadata()?.file_type();
        if file_type.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if file_type.is_fifo() {
            // To open it would wait until somebody writes.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a FIFO"));
        }
        let file = File::open(path)?;
        // The metadata of a block device, such as an optical drive, do not tell its size.
        let len = (&file).seek(SeekFrom::End(0))?;
        let map_len = usize::try_from(len).map_err(io::Error::other)?;
        // mmap(2) refuses a length of 0.
        let map = (len > 0).then(|| Mapping::of(&file, map_len)).transpose()?;
        let file = Arc::new(file);
        Ok(Self { residency: Residency::new(Arc::clone(&file), len), file, map, len })
    }

    /// Size in bytes when the file was opened.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// True for an empty file.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else what `pread` says.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Returns once `extent` is in the page cache. What is not there is read by a blocking thread, once for all that ask.
    ///
    /// # Errors
    /// What the disk says; `UnexpectedEof` when the file ends before the extent does.
    pub(crate) async fn warm(&self, extent: Extent, now: Instant) -> io::Result<()> {
        self.residency.warm(extent, now).await
    }

    /// Asks the kernel to read `extent` in the background.
    pub(crate) fn prefetch(&self, extent: Extent) {
        self.residency.prefetch(extent);
    }

    /// Returns the part of the mapping that `extent` is; `None` when it leaves the file as it was opened.
    pub(crate) fn span(&self, extent: Extent) -> Option<Span<'_>> {
        self.map.as_ref()?.span(extent)
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_an_image_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(Source::open(&fifo).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Source::open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(Source::open(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Source::open(Path::new("/dev/null")).unwrap().is_empty());
    }
}
