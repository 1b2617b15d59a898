//! The open image file: ranges become bytes here. The room of `unsafe` for the mapping.
//!
//! The mapping is an address for the kernel, never a `&[u8]`: a page that is gone because somebody truncated the file
//! then gives EFAULT from the system call instead of SIGBUS to the process. What we read ourselves (metadata,
//! checksums) is read with `pread` into owned memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::residency::Residency;
use crate::export::ImageRange;

/// An image file, opened read-only and mapped.
#[derive(Debug)]
pub struct Source {
    pub(super) file: Arc<File>,
    pub(super) residency: Residency,
    map: Option<MmapRaw>,
    len: u64,
}

/// Part of the mapping, for the kernel to read. It cannot be dereferenced in safe code, on purpose.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    address: *const u8,
    len: usize,
    source: PhantomData<&'a Source>,
}

impl Span<'_> {
    /// Where the range starts in our address space.
    pub const fn address(&self) -> *const u8 {
        self.address
    }

    /// Number of bytes, all of them inside the mapping.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True for a span of no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
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
        let map = (len > 0).then(|| MmapOptions::new().len(map_len).map_raw_read_only(&file)).transpose()?;
        Ok(Self { file: Arc::new(file), residency: Residency::new(len), map, len })
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

    /// Where `range` lies in the mapping; `None` when it was made from another, longer image.
    pub fn span(&self, range: ImageRange) -> Option<Span<'_>> {
        let map = self.map.as_ref()?;
        let offset = usize::try_from(range.offset()).ok()?;
        let len = usize::try_from(range.len()).ok()?;
        if offset.checked_add(len)? > map.len() {
            return None;
        }
        // The sum stays inside the mapping, as was just checked; nothing is dereferenced here.
        let address = map.as_ptr().wrapping_add(offset);
        Some(Span { address, len, source: PhantomData })
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
