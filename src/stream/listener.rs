//! A listening socket and the clients that it accepts.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

use super::clients::{Admission, Clients, Departure};
use crate::export::Allowed;
use crate::panics::caught;

/// Pause after a failed accept: a lack of file descriptors (EMFILE) lasts longer than a
/// microsecond.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Silence after which the kernel probes whether the peer still exists (tcp(7), TCP_KEEPIDLE). A
/// booted machine may have nothing to ask for hours, and probes do not disturb it.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(3600);

/// Time that sent data may stay unacknowledged (tcp(7), TCP_USER_TIMEOUT). The kernel counts a peer
/// whose window stays closed, too. A peer that reads slowly is kept.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(600);

/// A listening socket, and the networks from which clients may connect.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    allowed: Allowed,
    clients: Arc<Clients>,
}

impl Listener {
    /// Closes connections from addresses that are not `allowed`.
    pub fn new(socket: TcpListener, allowed: Allowed) -> Self {
        Self { socket, allowed, clients: Arc::default() }
    }

    /// Counts its clients among these, which have limits.
    pub(crate) fn counted(self, clients: Arc<Clients>) -> Self {
        Self { clients, ..self }
    }

    /// Returns the clients among which its own are counted.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Returns the networks from which clients may connect.
    pub fn allowed(&self) -> &Allowed {
        &self.allowed
    }
}

/// Admits all clients.
impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self::new(socket, Allowed::default())
    }
}

/// Accepts clients like [`accept`], until `shutdown` is ready. Tasks of clients go on after that.
pub(crate) async fn accept_until<F>(
    listener: Listener,
    protocol: &'static str,
    shutdown: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr, Admission) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::select! {
        () = shutdown => {}
        never = accept(listener, protocol, serve) => match never {},
    }
}

/// Accepts every client that connects from an allowed address, and spawns a task with `serve` for
/// each, which ends when the client has to make room.
pub(crate) async fn accept<F>(
    Listener { socket: listener, allowed, clients }: Listener,
    protocol: &'static str,
    serve: impl Fn(TcpStream, SocketAddr, Admission) -> F,
) -> Infallible
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut is_failing = false;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                is_failing = false;
                if !allowed.contains(peer.ip()) {
                    info!(%peer, "{protocol} client refused: its address is not in `allow`");
                    clients.report_not_allowed(peer.ip());
                    continue;
                }
                let Some((admission, departure)) = clients.admit(peer.ip(), &socket, protocol) else {
                    continue;
                };
                match set_options(&socket) {
                    Ok(()) => {
                        let start = || tokio::spawn(until(departure, serve(socket, peer, admission)));
                        drop(caught(start));
                    }
                    // Linux refuses options of a connection that was reset meanwhile.
                    Err(error) => debug!(%peer, %error, "{protocol} client gone at once"),
                }
            }
            Err(error) => {
                // One line for a series of failures.
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(%error, "{protocol} cannot take new clients for now; connected clients are served");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Runs `task` until its client has to make room.
async fn until(departure: Departure, task: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = task => {}
        () = departure.requested() => {}
    }
}

fn set_options(socket: &TcpStream) -> io::Result<()> {
    // Replies leave in one piece; waiting for an acknowledgment first (Nagle) only delays them.
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_AFTER))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn panic_over_a_client_ends_that_client_alone() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let count = std::sync::atomic::AtomicUsize::new(0);
        tokio::spawn(accept(Listener::from(socket), "test", move |mut socket, _, _| {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert_ne!(n, 0, "a fault before the task");
            async move {
                assert_ne!(n, 1, "a fault in the task");
                socket.write_all(b"hello").await.unwrap();
            }
        }));
        for heard in [&b""[..], b"", b"hello"] {
            let mut bytes = Vec::new();
            TcpStream::connect(server).await.unwrap().read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, heard);
        }
    }

    #[tokio::test]
    async fn client_that_is_not_allowed_is_closed() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let listener = Listener::new(socket, Allowed::only(vec!["127.0.0.2/32".parse().unwrap()]));
        tokio::spawn(accept(listener, "test", |mut socket, _, _| async move {
            socket.write_all(b"hello").await.unwrap();
        }));
        for (client, heard) in [("127.0.0.1:0", &b""[..]), ("127.0.0.2:0", b"hello")] {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(client.parse().unwrap()).unwrap();
            let mut bytes = Vec::new();
            socket.connect(server).await.unwrap().read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, heard, "{client}");
        }
    }
}
