//! The page cache, as a session sees it.

use std::sync::Arc;

use super::ImageRange;
use crate::image::{Extent, Image};

/// The page cache at the time of a turn: an argument of sessions, which do no I/O.
pub trait PageCache {
    /// Returns `true` if all of `range` can be sent without waiting for the disk.
    fn holds(&self, range: ImageRange<'_>) -> bool;
}

/// A page cache that holds everything.
#[derive(Debug, Clone, Copy)]
pub struct AllCached;

impl PageCache for AllCached {
    fn holds(&self, _: ImageRange<'_>) -> bool {
        true
    }
}

/// A range outside the page cache, which a reply waits for.
#[derive(Debug, Clone)]
pub(crate) struct ColdRange {
    pub image: Arc<Image>,
    pub extent: Extent,
    /// Number by which the session knows the reply.
    pub ticket: u64,
}
