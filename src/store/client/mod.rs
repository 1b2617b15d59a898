//! The client of object stores: lists folders of them, and fetches parts of objects.
//!
//! Requests run on threads of their own, so that any thread may wait for one. What AWS's own files say is
//! read once, when the client starts: its user and what it may open change after that. No credential reaches
//! a log or an error: errors are made of the status of an answer or of the innermost cause.

#[cfg(feature = "store")]
mod backend;
#[cfg(feature = "store")]
mod failure;
#[cfg(feature = "store")]
mod listing;
#[cfg(feature = "store")]
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod profile;
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

use bytes::Bytes;

use self::requests::Requester;
use super::object::{Fetch, FetchError, Object};
use super::place::Place;

/// A client with its threads.
#[derive(Debug)]
pub(crate) struct Client(Requester);

impl Client {
    /// Starts the threads of a client. No request is made yet.
    ///
    /// # Errors
    /// The error of starting threads.
    pub(crate) fn start() -> io::Result<Self> {
        Requester::start().map(Self)
    }

    /// Ends the threads, and waits for that. Requests fail until [`Client::go_on`].
    ///
    /// A thread keeps the privileges that the others give up.
    pub(crate) fn pause(&self) {
        self.0.pause();
    }

    /// Starts the threads again.
    ///
    /// # Errors
    /// The error of starting threads.
    pub(crate) fn go_on(&self) -> io::Result<()> {
        self.0.go_on()
    }

    /// Lists the ISOs of a folder, or finds the one object that a place names.
    ///
    /// # Errors
    /// [`FetchError`], after the few repetitions and the few seconds of one request.
    pub(crate) fn list(&self, place: &Place) -> Result<Vec<Object>, FetchError> {
        if place.is_folder() { self.0.list(place) } else { self.0.find(place).map(|object| vec![object]) }
    }
}

impl Fetch for Client {
    fn fetch(&self, object: &Object, range: Range<u64>) -> Result<Bytes, FetchError> {
        self.0.fetch(object, range)
    }
}

#[cfg(all(test, feature = "store"))]
mod tests;
