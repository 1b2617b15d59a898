//! The NBD service: accepts clients, brings their connections to rest, and goes on with those of
//! another process.

mod connection;

use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc::error::SendError;
use tracing::warn;

use super::session::resting::RestingConnection;
use crate::images::ImageSet;
use crate::machines::Registry;
use crate::stream::{self, Admission, Clients, Connections, Listener};
use crate::watched::Watched;

pub(crate) use self::connection::{Connection, ResumeError};

/// Time a client has to choose an export. The transmission phase has no such limit: a booted
/// machine may be silent for days.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);

/// Serves `images` to every client that connects, until `shutdown` is ready. Attached clients then
/// live on as long as the runtime does.
pub async fn run(
    listener: impl Into<Listener>,
    images: impl Into<Watched<ImageSet>>,
    machines: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) {
    let listener = listener.into();
    let clients = Arc::clone(listener.clients());
    Server::new(images.into(), machines, clients).run(listener, shutdown).await;
}

/// The NBD service, shared by all its clients.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    images: Watched<ImageSet>,
    machines: Arc<Registry>,
    clients: Arc<Clients>,
    connections: Arc<Connections<Connection>>,
}

impl Server {
    pub(crate) fn new(images: Watched<ImageSet>, machines: Arc<Registry>, clients: Arc<Clients>) -> Self {
        Self { images, machines, clients, connections: Arc::default() }
    }

    /// Serves every client that connects, until `shutdown` is ready.
    pub(crate) async fn run(&self, listener: Listener, shutdown: impl Future<Output = ()>) {
        let serve = |socket, peer, admission| self.serve_new(socket, peer, admission);
        stream::accept_until(listener, "NBD", shutdown, serve).await;
    }

    fn serve_new(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        admission: Admission,
    ) -> impl Future<Output = ()> + use<> {
        let (images, machines) = (self.images.current(), Arc::clone(&self.machines));
        let connection = Connection::new(socket, peer, images, machines, admission);
        serve(connection, Arc::clone(&self.connections))
    }

    /// Brings all connections to rest and returns them.
    pub(crate) async fn rest(&self) -> Vec<Connection> {
        self.connections.rest().await
    }

    /// Goes on with connections that came to rest in this process.
    pub(crate) fn go_on(&self, connections: Vec<Connection>) {
        for mut connection in connections {
            connection.begin_again();
            tokio::spawn(serve(connection, Arc::clone(&self.connections)));
        }
    }

    /// Goes on with a connection that came to rest in another process.
    ///
    /// # Errors
    /// [`ResumeError`] if its image is not known here, or the socket cannot be used.
    pub(crate) fn resume(&self, resting: RestingConnection, socket: StdStream) -> Result<(), ResumeError> {
        let (images, machines) = (self.images.current(), Arc::clone(&self.machines));
        let place = self.clients.add(resting.peer.ip());
        let connection = Connection::resume(resting, socket, images, machines, place)?;
        self.go_on(vec![connection]);
        Ok(())
    }

    /// Tells whether nobody is connected.
    pub(crate) fn is_unused(&self) -> bool {
        self.connections.len() == 0
    }

    /// Warns of the clients that are left when the server ends.
    pub(crate) fn warn_of_lost_clients(&self) {
        let machines = self.connections.len();
        if machines > 0 {
            warn!(machines, "shutting down: NBD clients lose their root file system");
        }
    }
}

/// Serves a connection until it ends or comes to rest. It is one of `connections` from now on, also while
/// its task waits for its first turn.
fn serve(
    mut connection: Connection,
    connections: Arc<Connections<Connection>>,
) -> impl Future<Output = ()> + use<> {
    let mut member = connections.join();
    async move {
        loop {
            let collector = tokio::select! {
                biased;
                end = connection.run() => return connection.ended(&end),
                collector = member.rest_requested() => collector,
            };
            // The driver was stopped where it waited, so the connection is plain data now.
            let Err(SendError(late)) = collector.send(connection) else { return };
            // Nobody waits for it any more.
            connection = late;
            connection.begin_again();
            member = connections.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::image::index::{Index, NodeAttributes};
    use crate::image::{Image, Source};
    use crate::images::ServedImage;
    use crate::nbd::wire;

    /// Connects to a server whose image is empty.
    async fn connect() -> TcpStream {
        let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let image =
            Image::new(Source::open(Path::new("/dev/null")).unwrap(), Index::new(attributes)).unwrap();
        let served = ServedImage::new("empty", image);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let images = Arc::new(ImageSet::new(served, Vec::new()));
        let machines = Arc::new(Registry::new(Instant::now()));
        tokio::spawn(run(listener, images, machines, std::future::pending()));
        TcpStream::connect(address).await.unwrap()
    }

    /// It may come to rest before its task had a turn.
    #[tokio::test]
    async fn accepted_connection_belongs_to_the_service_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, peer) = listener.accept().await.unwrap();
        let image = ServedImage::new("one", crate::machines::tests::image());
        let images = Watched::from(Arc::new(ImageSet::new(image, Vec::new())));
        let (machines, clients) = (Arc::new(Registry::new(Instant::now())), Arc::new(Clients::default()));
        let place = clients.add(peer.ip());
        let server = Server::new(images, machines, clients);
        let task = server.serve_new(socket, peer, Admission::Admitted(place));
        assert!(!server.is_unused());
        drop(task);
        assert!(server.is_unused());
    }

    // The clock of these tests is paused: when all tasks wait, it jumps to the next timer.

    #[tokio::test(start_paused = true)]
    async fn client_without_export_is_rejected() {
        let mut socket = connect().await;
        let since = tokio::time::Instant::now();
        let mut said = Vec::new();
        socket.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, wire::GREETING);
        assert!(since.elapsed() >= HANDSHAKE_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_client_is_kept_for_a_month() {
        let mut socket = connect().await;
        socket.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x07archiso").await.unwrap();
        socket.read_exact(&mut [0; 18 + 10]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30 * 86_400)).await;
        let flush = [&wire::REQUEST_MAGIC.to_be_bytes()[..], b"\0\0\0\x03cookie42", &[0; 12]].concat();
        socket.write_all(&flush).await.unwrap();
        let mut reply = [0; 16];
        socket.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"\x67\x44\x66\x98\0\0\0\0cookie42");
    }
}
