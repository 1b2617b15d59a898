//! A store for tests: objects of which each byte follows from its place, with faults on request.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ledger::BLOCK;
use super::{Fetch, FetchError, Object, Store};
use crate::locked::locked;

/// Returns an object of so many blocks and bytes.
pub(crate) fn object(name: &str, blocks: u64, bytes: u64) -> Object {
    Object { url: format!("s3://images/{name}.iso"), size: blocks * BLOCK + bytes, etag: "\"1\"".into() }
}

/// Returns bytes of an object.
pub(crate) fn content(object: &Object, range: Range<u64>) -> Vec<u8> {
    let seed = object.etag.bytes().fold(object.url.len() as u64, |seed, byte| seed * 31 + u64::from(byte));
    let word = |at: u64| (at + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).to_le_bytes();
    let mut bytes: Vec<u8> = (range.start / 8..range.end.div_ceil(8)).flat_map(word).collect();
    bytes.truncate((range.end - range.start / 8 * 8) as usize);
    bytes.split_off((range.start % 8) as usize)
}

/// Waits until `condition` holds.
pub(crate) fn until(condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(20), "it takes too long");
        thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeStore {
    requests: Mutex<Vec<Range<u64>>>,
    fault: Mutex<Option<FetchError>>,
    is_cut: AtomicBool,
    held: Mutex<bool>,
    let_go: Condvar,
}

impl FakeStore {
    /// Opens a cache folder before this store.
    pub(crate) fn cache(self: &Arc<Self>, folder: &Path, blocks: u64) -> Arc<Store> {
        Store::new(folder, blocks * BLOCK, Arc::clone(self) as _).unwrap()
    }

    /// Has all requests fail, or succeed again.
    pub(crate) fn fail(&self, fault: Option<FetchError>) {
        *locked(&self.fault) = fault;
    }

    /// Has answers lack their last byte.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Has requests wait until this is called with `false`.
    pub(crate) fn hold(&self, is_held: bool) {
        *locked(&self.held) = is_held;
        self.let_go.notify_all();
    }

    /// Returns the requests, and forgets them.
    pub(crate) fn take_requests(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *locked(&self.requests))
    }

    /// Returns how often each block was fetched.
    pub(crate) fn fetched(&self) -> BTreeMap<u64, u32> {
        let mut fetched = BTreeMap::new();
        for request in locked(&self.requests).iter() {
            for block in request.start / BLOCK..request.end.div_ceil(BLOCK) {
                *fetched.entry(block).or_default() += 1;
            }
        }
        fetched
    }

    /// Returns the number of requests.
    pub(crate) fn requests(&self) -> usize {
        locked(&self.requests).len()
    }
}

impl Fetch for FakeStore {
    fn fetch(&self, object: &Object, range: Range<u64>) -> Result<Bytes, FetchError> {
        locked(&self.requests).push(range.clone());
        let held = locked(&self.held);
        drop(self.let_go.wait_while(held, |held| *held).unwrap());
        if let Some(fault) = locked(&self.fault).clone() {
            return Err(fault);
        }
        let mut bytes = content(object, range);
        if self.is_cut.load(Ordering::Relaxed) {
            bytes.pop();
        }
        Ok(bytes.into())
    }
}
