//! A listening socket, and the clients that it accepts.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

use crate::export::Allowed;

/// Pause after a failed accept: out of file descriptors is not over the next microsecond.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that vanished without a word is noticed after an hour of silence and some probes, or when it leaves data
/// unacknowledged for this long; the kernel counts one whose window stays shut among these. Neither ends a peer that
/// reads slowly or has nothing to ask.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(3600);
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(600);

/// A socket that clients connect to, and who of them may.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    allowed: Allowed,
}

impl Listener {
    /// Clients whose address is not `allowed` are sent away.
    pub(crate) fn new(socket: TcpListener, allowed: Allowed) -> Self {
        Self { socket, allowed }
    }

    /// Who may connect.
    pub(crate) fn allowed(&self) -> &Allowed {
        &self.allowed
    }
}

/// For everybody.
impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self::new(socket, Allowed::default())
    }
}

/// Takes every client that connects and may, and has a task of its own `serve` it.
pub(crate) async fn accept<F>(
    Listener { socket: listener, allowed }: Listener,
    door: &'static str,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
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
                    info!(%peer, "{door} client refused: its address is not in `allow`");
                    continue;
                }
                match set_options(&socket) {
                    Ok(()) => drop(tokio::spawn(serve(socket, peer))),
                    Err(error) => debug!(%peer, %error, "{door} client gone at once"),
                }
            }
            Err(error) => {
                // One line, not one for each try.
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(%error, "{door} cannot take new clients for now; those it has are served");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn set_options(socket: &TcpStream) -> io::Result<()> {
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
    async fn who_may_not_come_is_sent_away_unread() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap();
        let listener = Listener::new(socket, Allowed::only(vec!["127.0.0.2/32".parse().unwrap()]));
        tokio::spawn(accept(listener, "test", |mut socket, _| async move {
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
