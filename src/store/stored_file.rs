//! An image's view of its cache file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::budget::Room;
use super::cache::{BlockCache, RUN};
use super::gate::Pass;
use super::ledger;
use super::object::Object;
use crate::extent::Extent;

/// Times that a block is brought again for one read, since it was evicted meanwhile.
const TRIES: u32 = 64;

/// An open cache file, for an image.
#[derive(Debug, Clone)]
pub(crate) struct StoredFile(pub(super) Arc<BlockCache>);

/// Error of a range of which a block was evicted: it has to be fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a block is not in the cache file any more")]
pub(crate) struct AbsentError;

impl AbsentError {
    /// Tells whether this is the cause of `error`.
    pub(crate) fn caused(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Self>())
    }
}

impl From<AbsentError> for io::Error {
    fn from(error: AbsentError) -> Self {
        io::Error::other(error)
    }
}

impl StoredFile {
    pub(crate) fn object(&self) -> &Object {
        self.0.object()
    }

    /// Returns the cache file, of the length of the object. Blocks that are not there are holes.
    pub(crate) fn file(&self) -> &Arc<File> {
        self.0.file()
    }

    /// Returns the bytes that are there.
    pub(crate) fn held(&self) -> u64 {
        self.0.held()
    }

    /// Enters the gate, to send: blocks that [`StoredFile::check`] finds stay until the pass is
    /// dropped.
    pub(crate) fn enter(&self) -> Option<Pass<'_>> {
        self.0.enter()
    }

    /// Checks that all blocks of `extent` are there.
    ///
    /// # Errors
    /// [`AbsentError`]
    pub(crate) fn check(&self, extent: Extent) -> Result<(), AbsentError> {
        if self.0.blocks().hold(extent) { Ok(()) } else { Err(AbsentError) }
    }

    /// Tells whether all blocks of `extent` are there, and has them stay a while.
    pub(crate) fn holds(&self, extent: Extent) -> bool {
        self.0.blocks().use_held(extent)
    }

    /// Notes that a reader waits for `extent`. Returns what is to be fetched ahead for it.
    pub(crate) fn ahead(&self, extent: Extent) -> Option<Extent> {
        if self.check(extent).is_ok() { None } else { self.0.ahead(extent) }
    }

    /// Fetches the blocks of `extent` that are not there. Waits for the store.
    ///
    /// # Errors
    /// The error of the store, a [`FetchError`] in it; that of the cache folder's disk.
    pub(crate) fn bring(&self, extent: Extent) -> io::Result<()> {
        Ok(self.0.bring(extent)?)
    }

    /// Returns the bytes of the blocks of `extent` that have to be fetched.
    pub(crate) fn absent(&self, extent: Extent) -> u64 {
        self.0.absent(extent)
    }

    /// Waits until no client waits for a request to a store, and reserves space for the blocks of
    /// `extent`. Returns `None` if blocks that are in use would have to go for them.
    pub(crate) fn make_room(&self, extent: Extent) -> Option<Room<'_>> {
        self.0.make_room(extent)
    }

    /// Calls `read` while all blocks of `extent`, a few at most, are there. Waits for the store.
    ///
    /// # Errors
    /// As [`StoredFile::bring`]; `ResourceBusy` if they are evicted again and again.
    pub(crate) fn with_blocks<R>(
        &self,
        extent: Extent,
        read: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        for _ in 0..TRIES {
            let pass = self.enter();
            if self.holds(extent) && self.check(extent).is_ok() {
                return read();
            }
            drop(pass);
            self.bring(extent)?;
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Reads from `offset` until `buf` is full. Waits for the store.
    ///
    /// # Errors
    /// As [`StoredFile::bring`]; `UnexpectedEof` behind the end.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.object().size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut offset = offset;
        for part in buf.chunks_mut((RUN * ledger::BLOCK) as usize) {
            let extent = Extent { offset, len: part.len() as u64 };
            self.with_blocks(extent, || self.file().read_exact_at(part, offset))?;
            offset += extent.len;
        }
        Ok(())
    }
}
