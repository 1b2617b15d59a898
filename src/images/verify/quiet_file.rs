//! Reads of a large file once, without pushing from memory what clients use.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Advice, fadvise};

use crate::extent::Extent;
use crate::sys::cached_pages;

/// Size of a page, in which cachestat(2) counts. Where pages are larger, some stay.
const PAGE: u64 = 4096;

/// A file of which no page stays in memory that was not there before.
pub(super) struct QuietFile(File);

impl QuietFile {
    /// Bytes of a read.
    pub(super) const STEP: usize = 256 << 10;

    /// Opens the file of an image anew, so that advice about its use does not change that of the
    /// image.
    ///
    /// # Errors
    /// The error of dup(2), if the file cannot be opened.
    pub(super) fn of(source: impl AsFd) -> io::Result<Self> {
        let source = source.as_fd();
        // proc(5): this path opens the same file, also if it has no name any more.
        let Ok(file) = File::open(format!("/proc/self/fd/{}", source.as_raw_fd())) else {
            let same: OwnedFd = source.try_clone_to_owned()?;
            return Ok(Self(same.into()));
        };
        // Without it, pages behind the next read come into memory, and would seem to be used.
        let _ = fadvise(&file, 0, None, Advice::Random);
        Ok(Self(file))
    }

    /// Reads some bytes from `offset`, at least one.
    ///
    /// # Errors
    /// The error of the disk; `UnexpectedEof` at the end of the file.
    pub(super) fn read<'a>(&self, buffer: &'a mut [u8], offset: u64) -> io::Result<&'a [u8]> {
        let Piece { extent, is_in_memory } = self.piece(offset, buffer.len() as u64);
        let part = buffer.get_mut(..extent.len as usize).unwrap_or_default();
        let len = loop {
            match self.0.read_at(part, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if !is_in_memory {
            // Whole pages: of one that is not, the kernel would leave all.
            let start = offset & !(PAGE - 1);
            let len = extent.end().next_multiple_of(PAGE) - start;
            let _ = fadvise(&self.0, start, len.try_into().ok(), Advice::DontNeed);
        }
        Ok(part.get(..len).unwrap_or_default())
    }

    /// Returns a piece of at most `max` bytes of which all pages are in memory, or none.
    fn piece(&self, offset: u64, max: u64) -> Piece {
        let last = offset + max;
        // The next piece shares no page with it.
        let mut end = Some(last & !(PAGE - 1)).filter(|&end| end > offset).unwrap_or(last);
        loop {
            let extent = Extent { offset, len: end - offset };
            let pages = end.div_ceil(PAGE) - offset / PAGE;
            match cached_pages(self.0.as_fd(), extent) {
                Ok(0) => return Piece { extent, is_in_memory: false },
                Ok(cached) if cached < pages => end = (offset / PAGE + pages.div_ceil(2)) * PAGE,
                // Also where the system does not tell: then pages stay.
                Ok(_) | Err(_) => return Piece { extent, is_in_memory: true },
            }
        }
    }
}

/// A part of a file.
struct Piece {
    extent: Extent,
    is_in_memory: bool,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Bytes of the file that are in memory.
    fn cached(file: &File, offset: u64, len: u64) -> Option<u64> {
        cached_pages(file.as_fd(), Extent { offset, len }).ok().map(|pages| pages * 4096)
    }

    #[test]
    fn pages_stay_as_they_were() {
        // A directory on a disk; files of a tmpfs are always in memory.
        let dir = tempfile::tempdir_in(Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))
            .or_else(|_| tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")))
            .unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..4_u32 << 20).map(|at| (at / 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        // Only where the system tells what is in memory, and obeys.
        if cached(&file, 0, 4 << 20) != Some(0) {
            return;
        }
        let hot = Extent { offset: 1 << 20, len: 1 << 20 };
        fadvise(&file, 0, None, Advice::Random).unwrap();
        file.read_exact_at(&mut vec![0; hot.len as usize], hot.offset).unwrap();
        let before = cached(&file, hot.offset, hot.len);
        let quiet = QuietFile::of(&file).unwrap();
        let (mut buffer, mut read) = (vec![0; QuietFile::STEP], Vec::new());
        while read.len() < content.len() {
            let part = quiet.read(&mut buffer, read.len() as u64).unwrap();
            read.extend_from_slice(part);
        }
        assert!(read == content);
        assert_eq!(cached(&file, hot.offset, hot.len), before);
        assert!(cached(&file, 0, 1 << 20).unwrap() <= 64 << 10);
        assert!(cached(&file, 2 << 20, 2 << 20).unwrap() <= 64 << 10);
        assert_eq!(quiet.read(&mut buffer, 4 << 20).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
