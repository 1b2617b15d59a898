//! The way to the objects, for as many requests at a time as memory may hold.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;

use super::object::{Fetch, FetchError, Object};
use crate::locked::locked;
use crate::metrics::{self, Event};

/// Most requests at the same time. Each holds a run of blocks in memory, and a store gives little
/// more with more of them.
const REQUESTS: usize = 16;

/// Requests to the stores of this process.
#[derive(Debug)]
pub(super) struct Fetcher {
    fetch: Arc<dyn Fetch>,
    free: Mutex<usize>,
    freed: Condvar,
}

/// Permission for a request, as long as its bytes are in memory.
#[derive(Debug)]
struct Permit<'a>(&'a Fetcher);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *locked(&self.0.free) += 1;
        // All: one that only waits for its turn takes none.
        self.0.freed.notify_all();
    }
}

impl Fetcher {
    pub(super) fn new(fetch: Arc<dyn Fetch>) -> Self {
        Self { fetch, free: Mutex::new(REQUESTS), freed: Condvar::new() }
    }

    /// Fetches a part of an object, and has it written by `write` before another request gets
    /// its permit.
    ///
    /// # Errors
    /// [`FetchError`], also for an answer of another length.
    pub(super) fn fetch<R>(
        &self,
        object: &Object,
        range: Range<u64>,
        write: impl FnOnce(&Bytes) -> R,
    ) -> Result<R, FetchError> {
        let _permit = self.permit();
        let began = Instant::now();
        let wanted = range.end - range.start;
        let fetched = self.fetch.fetch(object, range).and_then(|bytes| match bytes.len() as u64 {
            len if len == wanted => Ok(bytes),
            len => Err(FetchError::Unreachable(format!("the answer has {len} bytes, not {wanted}"))),
        });
        match fetched {
            Ok(bytes) => {
                metrics::observe_fetch(began.elapsed(), wanted);
                Ok(write(&bytes))
            }
            Err(error) => {
                metrics::happened(Event::FetchFailed);
                Err(error)
            }
        }
    }

    /// Waits until a request would begin at once.
    pub(super) fn wait_until_free(&self) {
        drop(self.free());
    }

    fn permit(&self) -> Permit<'_> {
        *self.free() -= 1;
        Permit(self)
    }

    /// Waits until there is a permit, and returns how many.
    fn free(&self) -> MutexGuard<'_, usize> {
        let mut free = locked(&self.free);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        free
    }
}
