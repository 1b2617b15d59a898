//! A value that is replaced as a whole while clients go on: each client adopts the new value
//! between two requests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// The receiving side: a value of which [`WatchSender`] publishes new versions, or a part of such a
/// value.
///
/// All receivers of one sender see a new version at the same moment, also those that watch a part.
pub struct Watched<T> {
    version: Arc<AtomicU64>,
    /// The version that [`Watched::update`] last returned.
    seen: u64,
    read: Arc<dyn Fn() -> Arc<T> + Send + Sync>,
}

/// The sending side: publishes new versions of a value.
#[derive(Debug)]
pub(crate) struct WatchSender<T> {
    version: Arc<AtomicU64>,
    value: Arc<RwLock<Arc<T>>>,
}

impl<T> Watched<T> {
    /// Returns the current value. This takes a lock shared by all receivers: call it per
    /// connection, not per request.
    pub(crate) fn current(&self) -> Arc<T> {
        (self.read)()
    }

    /// Returns the new value if it changed since the last call; otherwise costs one uncontended
    /// atomic load.
    pub(crate) fn update(&mut self) -> Option<Arc<T>> {
        let version = self.version.load(Ordering::Acquire);
        if version == self.seen {
            return None;
        }
        // A version published since is read here already, and returned once more by the next call.
        self.seen = version;
        Some(self.current())
    }

    /// Watches a part of the value. The part changes in the same moment as the whole.
    pub(crate) fn project<P: 'static>(
        &self,
        part: impl Fn(&T) -> Arc<P> + Send + Sync + 'static,
    ) -> Watched<P>
    where
        T: 'static,
    {
        let read = Arc::clone(&self.read);
        Watched { version: Arc::clone(&self.version), seen: self.seen, read: Arc::new(move || part(&read())) }
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self { version: Arc::clone(&self.version), seen: self.seen, read: Arc::clone(&self.read) }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("seen", &self.seen).finish_non_exhaustive()
    }
}

/// A value that never changes.
impl<T: Send + Sync + 'static> From<Arc<T>> for Watched<T> {
    fn from(only: Arc<T>) -> Self {
        WatchSender::new(only).subscribe()
    }
}

impl<T: Send + Sync + 'static> WatchSender<T> {
    /// Creates a sender whose current value is `first`.
    pub(crate) fn new(first: Arc<T>) -> Self {
        Self { version: Arc::default(), value: Arc::new(RwLock::new(first)) }
    }

    /// Returns a receiver that has seen the current value.
    pub(crate) fn subscribe(&self) -> Watched<T> {
        let value = Arc::clone(&self.value);
        Watched {
            version: Arc::clone(&self.version),
            seen: self.version.load(Ordering::Acquire),
            // A panic while the lock is held leaves the old value or the new one.
            read: Arc::new(move || Arc::clone(&value.read().unwrap_or_else(PoisonError::into_inner))),
        }
    }

    /// Replaces the current value.
    pub(crate) fn publish(&self, next: Arc<T>) {
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *value, next);
        // After the value, so that a receiver that sees the new version reads the new value.
        self.version.fetch_add(1, Ordering::Release);
        drop(value);
        // The last owner of a large value frees it; receivers need not wait for that.
        drop(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receiver_sees_new_value_once() {
        let sender = WatchSender::new(Arc::new(1));
        let [mut first, mut second] = [sender.subscribe(), sender.subscribe()];
        assert_eq!((first.update(), *first.current()), (None, 1));
        sender.publish(Arc::new(2));
        sender.publish(Arc::new(3));
        assert_eq!(first.update().as_deref(), Some(&3));
        assert_eq!((first.update(), *second.current()), (None, 3));
        assert_eq!(second.update().as_deref(), Some(&3));
    }

    #[test]
    fn value_outlives_its_sender() {
        let sender = WatchSender::new(Arc::new(1));
        let mut watched = sender.subscribe();
        drop(sender);
        assert_eq!((watched.update(), *watched.current()), (None, 1));
        assert_eq!(*Watched::from(Arc::new(7)).current(), 7);
    }

    #[test]
    fn parts_change_with_the_whole() {
        let sender = WatchSender::new(Arc::new((Arc::new(1), Arc::new('a'))));
        let whole = sender.subscribe();
        let mut number = whole.project(|pair| Arc::clone(&pair.0));
        let mut letter = whole.project(|pair| Arc::clone(&pair.1));
        assert_eq!((number.update(), letter.update()), (None, None));
        sender.publish(Arc::new((Arc::new(2), Arc::new('b'))));
        assert_eq!((*number.current(), *letter.current()), (2, 'b'));
        assert_eq!((number.update().as_deref(), letter.update().as_deref()), (Some(&2), Some(&'b')));
        assert_eq!((number.update(), letter.update()), (None, None));
    }
}
