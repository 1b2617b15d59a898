//! The client of object stores: lists folders of them, and fetches parts of objects.
//!
//! Requests run on threads of their own, so that any thread may wait for one. No credential reaches
//! a log or an error: errors are made of the status of an answer or of the innermost cause.

#[cfg(feature = "store")]
mod backend;
#[cfg(feature = "store")]
mod failure;
#[cfg(feature = "store")]
mod listing;
#[cfg(feature = "store")]
mod requests;
#[cfg(not(feature = "store"))]
#[path = "absent.rs"]
mod requests;
#[cfg(feature = "store")]
mod service;
#[cfg(feature = "store")]
mod signing;

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use self::requests::Requester;
use super::object::{Fetch, FetchError, Object};
use super::place::Place;

/// A client with its threads.
#[derive(Debug)]
pub(crate) struct Client {
    /// `None` while the threads are ended.
    requester: RwLock<Option<Arc<Requester>>>,
}

impl Client {
    /// Starts the threads of a client. No request is made yet.
    ///
    /// # Errors
    /// The error of starting threads.
    pub(crate) fn start() -> io::Result<Self> {
        let client = Self { requester: RwLock::new(None) };
        client.go_on()?;
        Ok(client)
    }

    /// Ends the threads, and waits for that. Requests fail until [`Client::go_on`].
    ///
    /// A thread keeps the privileges that the others give up.
    pub(crate) fn pause(&self) {
        let requester = self.requester.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(requester) = requester.and_then(Arc::into_inner) {
            requester.end();
        }
    }

    /// Starts the threads, also after a pause.
    ///
    /// # Errors
    /// The error of starting threads.
    pub(crate) fn go_on(&self) -> io::Result<()> {
        let requester = Arc::new(Requester::start()?);
        *self.requester.write().unwrap_or_else(PoisonError::into_inner) = Some(requester);
        Ok(())
    }

    /// Lists the ISOs of a folder, or finds the one object that a place names.
    ///
    /// # Errors
    /// [`FetchError`], after the few repetitions and the few seconds of one request.
    pub(crate) fn list(&self, place: &Place) -> Result<Vec<Object>, FetchError> {
        let requester = self.requester()?;
        if place.is_folder() {
            requester.list(place)
        } else {
            requester.find(place).map(|object| vec![object])
        }
    }

    fn requester(&self) -> Result<Arc<Requester>, FetchError> {
        let requester = self.requester.read().unwrap_or_else(PoisonError::into_inner).clone();
        requester.ok_or_else(|| FetchError::Unreachable("its client is not running".into()))
    }
}

impl Fetch for Client {
    fn fetch(&self, object: &Object, range: Range<u64>) -> Result<Bytes, FetchError> {
        self.requester()?.fetch(object, range)
    }
}

#[cfg(all(test, feature = "store"))]
mod tests;
