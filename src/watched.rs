//! What is served right now. A new one takes the place of the old one as a whole, while clients go on: each goes over to
//! it when it is between two requests.

use std::sync::Arc;

use tokio::sync::watch;

/// The one that is served right now, for somebody who serves it.
#[derive(Debug)]
pub struct Watched<T>(watch::Receiver<Arc<T>>);

/// Says which one is served.
#[derive(Debug)]
pub struct WatchSender<T>(watch::Sender<Arc<T>>);

impl<T> Watched<T> {
    /// The present one. Takes a lock that all share for a moment: for a connection, not for each request.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// The present one where it is another than the last time; else no more than a look at a number that nobody writes.
    pub fn update(&mut self) -> Option<Arc<T>> {
        // The publisher is gone when we are being stopped: then nothing changes any more.
        let has_changed = self.0.has_changed().unwrap_or(false);
        has_changed.then(|| Arc::clone(&self.0.borrow_and_update()))
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// One that stays.
impl<T> From<Arc<T>> for Watched<T> {
    fn from(only: Arc<T>) -> Self {
        WatchSender::new(only).subscribe()
    }
}

impl<T> WatchSender<T> {
    pub fn new(first: Arc<T>) -> Self {
        Self(watch::Sender::new(first))
    }

    pub fn subscribe(&self) -> Watched<T> {
        Watched(self.0.subscribe())
    }

    /// From now on it is this one.
    pub fn publish(&self, next: Arc<T>) {
        self.0.send_replace(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sees_a_new_one_once() {
        let publisher = WatchSender::new(Arc::new(1));
        let [mut first, mut second] = [publisher.subscribe(), publisher.subscribe()];
        assert_eq!((first.update(), *first.current()), (None, 1));
        publisher.publish(Arc::new(2));
        publisher.publish(Arc::new(3));
        assert_eq!(first.update().as_deref(), Some(&3));
        assert_eq!((first.update(), *second.current()), (None, 3));
        assert_eq!(second.update().as_deref(), Some(&3));
    }

    #[test]
    fn the_last_one_stays_without_its_publisher() {
        let publisher = WatchSender::new(Arc::new(1));
        let mut live = publisher.subscribe();
        drop(publisher);
        assert_eq!((live.update(), *live.current()), (None, 1));
        assert_eq!(*Watched::from(Arc::new(7)).current(), 7);
    }
}
