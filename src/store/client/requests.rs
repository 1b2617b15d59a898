//! The threads of the client, and the stores that it has asked.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::backend::Backend;
use super::profile::{self, Profile, ProfileError};
use super::{FetchError, Object, Place};
use crate::locked::locked;
use crate::runtime;

/// Threads that send requests. One alone reaches what a store on this host gives; the other goes on
/// while the first signs or decrypts.
const WORKERS: usize = 2;

/// Threads that look up names.
const BLOCKING: usize = 2;

/// Longest time of a request with its repetitions. The time-outs of the connection end it before.
const LONGEST: Duration = Duration::from_secs(60);

/// The threads, with connections that they keep.
pub(super) struct Requester {
    /// `None` while the threads are ended.
    runtime: RwLock<Option<Runtime>>,
    /// By bucket, or by URL.
    backends: Mutex<HashMap<String, Arc<Backend>>>,
    /// Only buckets need it.
    profile: Result<Profile, ProfileError>,
}

impl Requester {
    pub(super) fn start() -> io::Result<Self> {
        let requester =
            Self { runtime: RwLock::default(), backends: Mutex::default(), profile: profile::read() };
        requester.go_on()?;
        Ok(requester)
    }

    /// Ends the threads, and waits for that.
    pub(super) fn pause(&self) {
        let runtime = self.runtime_mut().take();
        // Without the lock: requests fail at once meanwhile.
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(LONGEST);
        }
        // Their connections ended with the threads.
        locked(&self.backends).clear();
    }

    pub(super) fn go_on(&self) -> io::Result<()> {
        let runtime = runtime::small("store", WORKERS, BLOCKING)?;
        *self.runtime_mut() = Some(runtime);
        Ok(())
    }

    fn runtime_mut(&self) -> RwLockWriteGuard<'_, Option<Runtime>> {
        self.runtime.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn list(&self, place: &Place) -> Result<Vec<Object>, FetchError> {
        let (place, backend) = (place.clone(), self.backend(place)?);
        self.run(async move { backend.list(&place).await })
    }

    pub(super) fn find(&self, place: &Place) -> Result<Object, FetchError> {
        let (place, backend) = (place.clone(), self.backend(place)?);
        self.run(async move { backend.find(&place).await })
    }

    pub(super) fn fetch(&self, object: &Object, range: Range<u64>) -> Result<Bytes, FetchError> {
        let place = Place::parse(&object.url).map_err(|error| FetchError::Unreachable(error.to_string()))?;
        let (object, backend) = (object.clone(), self.backend(&place)?);
        self.run(async move { backend.fetch(&place, &object, range).await })
    }

    /// Runs a request on the threads of the client, and waits for its result.
    fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, FetchError>> + Send + 'static,
    ) -> Result<T, FetchError> {
        let (sender, receiver) = sync_channel(1);
        let task = {
            let runtime = self.runtime.read().unwrap_or_else(PoisonError::into_inner);
            let ended = || FetchError::Unreachable("its client is not running".into());
            // Not `block_on`, which panics in a thread of another runtime.
            runtime.as_ref().ok_or_else(ended)?.spawn(async move { drop(sender.send(request.await)) })
        };
        receiver.recv_timeout(LONGEST).unwrap_or_else(|_| {
            task.abort();
            Err(FetchError::Unreachable("no answer in time".into()))
        })
    }

    fn backend(&self, place: &Place) -> Result<Arc<Backend>, FetchError> {
        let name = match place {
            Place::S3 { bucket, .. } => bucket,
            Place::Http(url) => url,
        };
        let mut backends = locked(&self.backends);
        if let Some(backend) = backends.get(name) {
            return Ok(Arc::clone(backend));
        }
        let backend = Arc::new(Backend::of(place, self.profile.as_ref())?);
        backends.insert(name.clone(), Arc::clone(&backend));
        Ok(backend)
    }
}

impl Drop for Requester {
    fn drop(&mut self) {
        // It would otherwise wait, and panic in a thread of another runtime.
        if let Some(runtime) = self.runtime_mut().take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest has credentials.
        f.write_str("Requester")
    }
}
