//! Images in an object store, or behind an HTTP server, each with a sparse cache file here.
//!
//! A cache file has the length of its object, and is what is mapped and sent. Beside it lies a
//! ledger, which says for each block whether it is there, and its checksum. A block that is not
//! there is fetched by a thread that may wait, once for all who wait for it.

mod ahead;
mod blocks;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod budget;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod cache;
mod client;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod fetcher;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod folder;
mod gate;
pub(crate) mod ledger;
mod object;
mod place;
mod remote;
#[cfg(test)]
pub(crate) mod samples;
mod stored_file;
#[cfg(test)]
mod tests;

pub(crate) use folder::FolderError;
pub(crate) use gate::Pass;
#[cfg(test)]
pub(crate) use ledger::BLOCK;
pub(crate) use object::{Fetch, FetchError, Object};
pub(crate) use place::{Place, without_secrets};
pub(crate) use remote::{Listing, Remote, RemoteError, look_at};
pub(crate) use stored_file::{AbsentError, StoredFile};

use std::io;
use std::path::Path;
use std::sync::Arc;

use self::folder::Folder;

/// The cache folder, and the way to the objects.
#[derive(Debug)]
pub(crate) struct Store(Folder);

impl Store {
    /// Opens the cache folder, which is made if it is not there, for this process alone. `budget` is
    /// the number of bytes that its blocks may take.
    ///
    /// # Errors
    /// [`FolderError`], also if another process has the folder.
    pub(crate) fn new(folder: &Path, budget: u64, fetch: Arc<dyn Fetch>) -> Result<Arc<Self>, FolderError> {
        Ok(Arc::new(Self(Folder::open(folder, budget, fetch, false)?)))
    }

    /// As [`Store::new`], for a process that takes over from one that has the folder and shares it.
    /// No block is evicted until that process is gone, which [`Store::set_shared`] finds.
    ///
    /// # Errors
    /// [`FolderError`], also if another process has the folder and does not share it.
    pub(crate) fn take_over(
        folder: &Path,
        budget: u64,
        fetch: Arc<dyn Fetch>,
    ) -> Result<Arc<Self>, FolderError> {
        Ok(Arc::new(Self(Folder::open(folder, budget, fetch, true)?)))
    }

    /// Returns the objects of which the folder has a cache file and whose address begins with
    /// `prefix`: for each address the one that was used last, in the order of their addresses.
    pub(crate) fn known(&self, prefix: &str) -> Vec<Object> {
        self.0.known(prefix)
    }

    /// Opens the cache file of an object, which is made if it is not there. Nothing is fetched.
    ///
    /// # Errors
    /// That of the file system; `InvalidInput` for an object whose address is too long for a ledger.
    pub(crate) fn open(&self, object: &Object) -> io::Result<StoredFile> {
        self.0.cache_of(object).map(StoredFile)
    }

    /// Lets a process that takes over have the folder too, or ends that if that process is gone.
    /// May be called again and again.
    pub(crate) fn set_shared(&self, is_shared: bool) {
        self.0.set_shared(is_shared);
    }
}
