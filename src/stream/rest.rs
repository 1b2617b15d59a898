//! Bringing the connections of a service to rest, between two system calls.
//!
//! A connection that waits for its client or for the image is plain data, so the task that drives
//! it can be stopped at any point at which it waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// Time for all connections to come to rest. One may sit in a system call that waits for a disk which
/// hangs, and the others have stopped by then.
const REST_WITHIN: Duration = Duration::from_secs(1);

/// The connections of a service, each of which gives a `C` when it comes to rest.
#[derive(Debug)]
pub(crate) struct Connections<C>(Mutex<Members<C>>);

#[derive(Debug)]
struct Members<C> {
    next: u64,
    requests: HashMap<u64, oneshot::Sender<mpsc::UnboundedSender<C>>>,
}

/// A connection among the others of its service, until this is dropped.
#[derive(Debug)]
pub(crate) struct Membership<C> {
    number: u64,
    connections: Arc<Connections<C>>,
    /// A channel of its own: a signal that all connections share would make them wait for each
    /// other's lock each time that one of them is woken.
    request: oneshot::Receiver<mpsc::UnboundedSender<C>>,
}

impl<C> Default for Connections<C> {
    fn default() -> Self {
        Self(Mutex::new(Members { next: 0, requests: HashMap::new() }))
    }
}

impl<C> Connections<C> {
    /// Adds a connection.
    pub(crate) fn join(self: &Arc<Self>) -> Membership<C> {
        let (sender, request) = oneshot::channel();
        let mut members = self.members();
        let number = members.next;
        members.next += 1;
        members.requests.insert(number, sender);
        Membership { number, connections: Arc::clone(self), request }
    }

    /// Returns the number of connections.
    pub(crate) fn len(&self) -> usize {
        self.members().requests.len()
    }

    /// Brings all connections to rest and returns them. Those that end meanwhile are missing; those
    /// that join later go on. One that takes longer than a second cannot send itself any more, and goes on
    /// until this process ends.
    pub(crate) async fn rest(&self) -> Vec<C> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let requests: Vec<_> = self.members().requests.drain().collect();
        for (_, request) in requests {
            // A connection that has ended does not listen any more.
            let _ = request.send(sender.clone());
        }
        drop(sender);
        let mut resting = Vec::new();
        let end = Instant::now() + REST_WITHIN;
        while let Ok(received) = timeout_at(end, receiver.recv()).await {
            let Some(connection) = received else { return resting };
            resting.push(connection);
        }
        receiver.close();
        let connections = receiver.sender_strong_count();
        warn!(
            connections,
            "connections not handed over, as they do not come to rest: the disk of their image may hang. They end with this process"
        );
        // What came before it was closed.
        while let Some(connection) = receiver.recv().await {
            resting.push(connection);
        }
        resting
    }

    fn members(&self) -> MutexGuard<'_, Members<C>> {
        // No method panics between two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Membership<C> {
    /// Waits until the connection is to rest, and returns where to send it.
    pub(crate) async fn rest_requested(&mut self) -> mpsc::UnboundedSender<C> {
        match (&mut self.request).await {
            Ok(collector) => collector,
            Err(_) => std::future::pending().await,
        }
    }
}

impl<C> Drop for Membership<C> {
    fn drop(&mut self) {
        self.connections.members().requests.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_come_to_rest_once() {
        let connections = Arc::new(Connections::default());
        for n in 0..3 {
            let mut member = connections.join();
            tokio::spawn(async move {
                let collector = member.rest_requested().await;
                let _ = collector.send(n);
            });
        }
        drop(connections.join());
        let mut resting = connections.rest().await;
        resting.sort_unstable();
        assert_eq!(resting, [0, 1, 2]);
        assert_eq!(connections.len(), 0);
        assert!(connections.rest().await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_hangs_keeps_no_other_at_rest() {
        let connections = Arc::new(Connections::default());
        let [mut quick, mut slow] = [(); 2].map(|()| connections.join());
        let hanging = tokio::spawn(async move {
            let collector = slow.rest_requested().await;
            tokio::time::sleep(2 * REST_WITHIN).await;
            collector.send("late").is_err()
        });
        tokio::spawn(async move {
            let collector = quick.rest_requested().await;
            let _ = collector.send("quick");
        });
        assert_eq!(connections.rest().await, ["quick"]);
        assert!(hanging.await.unwrap(), "it keeps what it has");
    }

    #[tokio::test]
    async fn connection_that_ends_is_not_waited_for() {
        let connections = Arc::new(Connections::<u8>::default());
        let member = connections.join();
        let (resting, ()) = tokio::join!(connections.rest(), async { drop(member) });
        assert!(resting.is_empty());
    }
}
