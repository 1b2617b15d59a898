//! Object stores as the other rooms have them: the client, and the cache folder of what it fetched.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::client::Client;
use super::{FetchError, FolderError, Object, Place, Store, StoredFile};

/// Lists of objects.
pub(crate) trait Listing {
    /// Lists the ISOs of a folder, or finds the one object that a place names. Waits for the network.
    ///
    /// # Errors
    /// [`FetchError`]
    fn list(&self, place: &Place) -> Result<Vec<Object>, FetchError>;

    /// Returns the objects of a place of which the cache folder has something.
    fn known(&self, place: &Place) -> Vec<Object>;
}

/// Object stores, and the cache folder of what came from them.
#[derive(Debug)]
pub(crate) struct Remote {
    client: Arc<Client>,
    cache: Arc<Store>,
}

/// Error that keeps isowire from serving images of object stores.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("threads cannot be started: {0}; raise `TasksMax=` of the unit, or `ulimit -u`")]
    Threads(io::Error),
    #[error("{0}")]
    Folder(String),
}

impl From<FolderError> for RemoteError {
    fn from(error: FolderError) -> Self {
        Self::Folder(error.to_string())
    }
}

impl Remote {
    /// Starts the client, and opens the cache folder, whose blocks may take `budget` bytes. With
    /// `takes_over` the process that has the folder may have it still.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub(crate) fn open(folder: &Path, budget: u64, takes_over: bool) -> Result<Arc<Self>, RemoteError> {
        let client = Arc::new(Client::start().map_err(RemoteError::Threads)?);
        let open = if takes_over { Store::take_over } else { Store::new };
        let cache = open(folder, budget, Arc::clone(&client) as _)?;
        Ok(Arc::new(Self { client, cache }))
    }

    /// Returns the cache folder.
    pub(crate) const fn cache(&self) -> &Arc<Store> {
        &self.cache
    }

    /// Opens the cache file of an object.
    ///
    /// # Errors
    /// That of the file system.
    pub(crate) fn open_object(&self, object: &Object) -> io::Result<StoredFile> {
        self.cache.open(object)
    }

    /// Ends the threads of the client, which would keep privileges that the others give up.
    pub(crate) fn pause(&self) {
        self.client.pause();
    }

    /// Starts the threads again.
    ///
    /// # Errors
    /// [`RemoteError::Threads`]
    pub(crate) fn go_on(&self) -> Result<(), RemoteError> {
        self.client.go_on().map_err(RemoteError::Threads)
    }
}

/// Returns how many images a place has, with a client of its own.
///
/// # Errors
/// [`FetchError`]
pub(crate) fn look_at(place: &Place) -> Result<usize, FetchError> {
    let client = Client::start().map_err(|error| FetchError::Unreachable(error.to_string()))?;
    client.list(place).map(|objects| objects.len())
}

impl Listing for Remote {
    fn list(&self, place: &Place) -> Result<Vec<Object>, FetchError> {
        self.client.list(place)
    }

    fn known(&self, place: &Place) -> Vec<Object> {
        let url = place.to_string();
        let mut known = self.cache.known(&url);
        known.retain(|object| match object.url.strip_prefix(&url) {
            Some(name) if place.is_folder() => !name.contains('/'),
            Some(name) => name.is_empty(),
            None => false,
        });
        known
    }
}
