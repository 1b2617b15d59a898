//! The open image file, its mapping and the residency of its pages.
//!
//! Payload is sent from the [mapping](crate::sys::Mapping). Metadata and checksums are read with
//! `pread` into owned memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::boot_list::BootList;
use super::file_state::{FileChangedError, FileMark};
use super::readers::{CHECK_INTERVAL, ImageFault, Patience, ReadClient, Readers};
use super::residency::Residency;
use crate::extent::Extent;
use crate::metrics;
use crate::store::{AbsentError, Object, Pass, StoredFile};
use crate::sys::{Mapping, Span};

/// Time for which clients wait for a read that fails or hangs, unless the operator sets another.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Image file, opened read-only and mapped; or the cache file of an object in a store, of which
/// blocks come and go.
#[derive(Debug)]
pub struct Source {
    file: Arc<File>,
    /// The object that `file` is the cache of.
    stored: Option<StoredFile>,
    residency: Residency,
    readers: Readers,
    /// In seconds.
    stall_timeout: AtomicU64,
    map: Option<Mapping>,
    len: u64,
    is_character_device: bool,
    /// Ranges that a boot reads, once that is known.
    boot_list: OnceLock<Vec<Extent>>,
}

impl Source {
    /// Opens and maps the file at `path`, without reading from it.
    ///
    /// # Errors
    /// The error of stat(2), open(2) or mmap(2); `IsADirectory` for a directory, `InvalidInput` for
    /// a FIFO.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file_type = path.metadata()?.file_type();
        if file_type.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if file_type.is_fifo() {
            // open(2) of a FIFO waits for a writer (fifo(7)).
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a FIFO"));
        }
        if file_type.is_socket() {
            // open(2) says ENXIO, "no such device or address".
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a socket"));
        }
        Self::of_file(File::open(path)?)
    }

    /// Maps an open file, which another process may have opened.
    ///
    /// # Errors
    /// The error of statx(2) or mmap(2).
    pub(crate) fn of_file(file: File) -> io::Result<Self> {
        let is_character_device = file.metadata()?.file_type().is_char_device();
        // stat(2) does not tell the size of a block device, such as an optical drive.
        let len = (&file).seek(SeekFrom::End(0))?;
        let file = Arc::new(file);
        let readers = Readers::of_file(Arc::clone(&file))?;
        Ok(Self { is_character_device, ..Self::new(file, len, readers)? })
    }

    /// Maps the cache file of an object, without fetching from the object.
    ///
    /// # Errors
    /// The error of mmap(2).
    pub(super) fn of_stored(stored: StoredFile) -> io::Result<Self> {
        let (file, len) = (Arc::clone(stored.file()), stored.object().size);
        let readers = Readers::of_stored(stored.clone());
        Ok(Self { stored: Some(stored), ..Self::new(file, len, readers)? })
    }

    fn new(file: Arc<File>, len: u64, readers: Readers) -> io::Result<Self> {
        let map_len = usize::try_from(len).map_err(io::Error::other)?;
        // mmap(2) refuses a length of 0.
        let map = (len > 0).then(|| Mapping::of(&file, map_len)).transpose()?;
        let residency = Residency::new(Arc::clone(&file), len);
        let stall_timeout = AtomicU64::new(STALL_TIMEOUT.as_secs());
        let (stored, is_character_device, boot_list) = (None, false, OnceLock::new());
        Ok(Self { file, stored, residency, readers, stall_timeout, map, len, is_character_device, boot_list })
    }

    /// Returns the cache file that the image is in, if it is in an object store.
    pub(crate) const fn stored(&self) -> Option<&StoredFile> {
        self.stored.as_ref()
    }

    /// Returns the bytes of a stored image that need not be fetched.
    pub(crate) fn cached(&self) -> Option<u64> {
        self.stored().map(StoredFile::held)
    }

    /// Returns the object that the image is, if it is in an object store.
    pub(crate) fn object(&self) -> Option<&Object> {
        self.stored().map(StoredFile::object)
    }

    /// Enters the gate of a stored image, to send from it: blocks that [`Source::check_blocks`]
    /// finds stay until the pass is dropped. `None` for a file, of which nothing goes.
    pub(crate) fn enter(&self) -> Option<Pass<'_>> {
        self.stored.as_ref()?.enter()
    }

    /// Checks that the blocks of `extent` are there, if the image is a stored one.
    ///
    /// # Errors
    /// [`AbsentError`]: the range is cold again.
    pub(crate) fn check_blocks(&self, extent: Extent) -> Result<(), AbsentError> {
        self.stored.as_ref().map_or(Ok(()), |stored| stored.check(extent))
    }

    /// Calls `read`, which reads `extent` of the file. Its blocks, a few at most, are fetched first
    /// if the image is a stored one; that waits for the store.
    ///
    /// # Errors
    /// The error of `read`, or of the store.
    pub(crate) fn with_blocks<R>(
        &self,
        extent: Extent,
        read: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        match &self.stored {
            Some(stored) => stored.with_blocks(extent, read),
            None => read(),
        }
    }

    /// Returns the size in bytes at the time when the file was opened.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns `true` for an empty file.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns `true` for a device that is read as a stream and has no size, such as `/dev/zero`.
    pub(super) const fn is_character_device(&self) -> bool {
        self.is_character_device
    }

    /// Reads from `offset` until `buf` is full. Blocks of a stored image are fetched first.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; otherwise the error of pread(2) or of the store.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.stored {
            Some(stored) => stored.read_exact_at(buf, offset),
            None => self.file.read_exact_at(buf, offset),
        }
    }

    /// Returns `true` if `extent` is in the page cache, and the file is as it was. Of a stored image
    /// the blocks have to be there, too.
    pub(crate) fn is_cached(&self, extent: Extent, now: Instant) -> bool {
        let is_complete = |extent| {
            // Without cold reads there are no pages that are not complete, but for rare moments.
            !self.readers.is_busy() || self.map.as_ref().is_some_and(|map| map.is_resident(extent))
        };
        extent.is_empty()
            || (self.is_unchanged(now)
                && self.stored.as_ref().is_none_or(|stored| stored.holds(extent))
                && self.residency.holds(extent, now, is_complete))
    }

    /// Returns `true` unless the file was changed after it was opened. Reads wait until it is as it
    /// was.
    pub(crate) fn is_unchanged(&self, now: Instant) -> bool {
        self.readers.is_unchanged(now)
    }

    /// Refuses new clients of a file that was changed, as is known without another look.
    ///
    /// # Errors
    /// [`FileChangedError`]
    pub(crate) fn admit(&self) -> Result<(), FileChangedError> {
        if self.readers.has_changed() { Err(FileChangedError) } else { Ok(()) }
    }

    /// Looks at the file, which may have to wait for a disk. Returns the state of a changed file
    /// that has to be compared with the image: it has not changed since the last call.
    pub(crate) fn check_file(&self, now: Instant) -> Option<FileMark> {
        self.readers.check_file(now)
    }

    /// Notes whether the file has the content of the image in this state. Reads go on if it has.
    pub(crate) fn compared(&self, mark: FileMark, is_same: bool, now: Instant) {
        self.readers.compared(mark, is_same, now);
    }

    /// Sets the time for which clients wait for a read that fails or hangs.
    pub(crate) fn set_stall_timeout(&self, timeout: Duration) {
        self.stall_timeout.store(timeout.as_secs(), Ordering::Relaxed);
    }

    /// Returns the time for which clients wait for a read that fails or hangs.
    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_secs(self.stall_timeout.load(Ordering::Relaxed))
    }

    /// Has one thread at least that reads from the disk, if the system permits it. It stays until the
    /// file is closed, so that reading needs no other.
    pub(crate) fn have_reader(&self) {
        self.readers.have_one();
    }

    /// Returns the fault of the disk or of the file, if there is one.
    pub(crate) fn fault(&self) -> Option<ImageFault> {
        self.readers.fault()
    }

    /// Has `extent` read into the page cache for `client`, which is told the result as `number`.
    /// Until then it calls [`Source::check_reads`] at times.
    pub(crate) fn read_cold(&self, extent: Extent, client: &ReadClient, number: u64) {
        self.readers.read(extent, client, number);
    }

    /// Looks for reads that hang. Those who wait call this every [`CHECK_INTERVAL`].
    pub(crate) fn check_reads(&self, now: Instant) {
        self.readers.check(now);
    }

    /// Notes that `client` does not wait any longer for this read.
    pub(crate) fn give_up(&self, extent: Extent, client: &ReadClient, number: u64) {
        self.readers.give_up(extent, client, number);
    }

    /// Has `extent` read into the page cache, unless there is too much to do.
    pub(crate) fn read_ahead(&self, extent: Extent) {
        self.readers.read_ahead(extent);
    }

    /// Sets what a boot reads of this image, unless that is known.
    pub(crate) fn set_boot_list(&self, list: &BootList) {
        // The first one stays.
        let _ = self.boot_list.set(list.extents());
    }

    /// Returns `true` if it is known what a boot reads.
    pub(crate) fn has_boot_list(&self) -> bool {
        self.boot_list.get().is_some()
    }

    /// Has what a boot reads fetched and read into the page cache, while no client waits for a
    /// read.
    pub(crate) fn read_boot_list(&self, now: Instant) {
        if let Some(list) = self.boot_list.get() {
            self.readers.read_listed(list, now);
        }
    }

    /// Reads `extent` into the page cache, whether it is there or not. A read that fails is
    /// repeated.
    ///
    /// # Errors
    /// `TimedOut` if reading fails or hangs for longer than [`Source::stall_timeout`].
    pub(crate) async fn reread(&self, extent: Extent) -> io::Result<()> {
        let (client, mut done) = ReadClient::new(Patience::Waits);
        self.readers.read(extent, &client, 0);
        let began = Instant::now();
        let deadline = began + self.stall_timeout();
        loop {
            match tokio::time::timeout(CHECK_INTERVAL, done.recv()).await {
                Ok(Some(done)) => {
                    metrics::observe_cold_read(began.elapsed());
                    return done.result;
                }
                _ if Instant::now() >= deadline => {
                    self.readers.give_up(extent, &client, 0);
                    return Err(io::ErrorKind::TimedOut.into());
                }
                _ => self.readers.check(Instant::now()),
            }
        }
    }

    /// Returns the part of the mapping for `extent`; `None` if it is outside the file as it was
    /// opened.
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
    fn source_refuses_directories_and_fifos() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(Source::open(&fifo).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let socket = dir.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(Source::open(&socket).unwrap_err().to_string(), "it is a socket");
        assert_eq!(Source::open(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(Source::open(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Source::open(Path::new("/dev/null")).unwrap().is_empty());
    }
}
