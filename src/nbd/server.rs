//! The NBD service: set-up, and the log lines of a client's life.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use super::session::{Attached, Handshake, HandshakeEnd, Transmission, TransmissionEnd};
use super::wire;
use crate::export::{Batch, ColdRange, Export, Piece};
use crate::images::ImageSet;
use crate::machines::{self, ConnectionTracker, Registry};
use crate::stream::{self, ConnectionLog, End, Listener, PageCacheNow, TransmitError, Turn};
use crate::watched::Watched;

/// Time a client has to choose an export. The transmission phase has no such limit: a booted
/// machine may be silent for days.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);

/// State shared by all clients.
#[derive(Debug)]
struct Shared {
    images: Watched<ImageSet>,
    machines: Arc<Registry>,
    /// Number of attached clients.
    attached: AtomicUsize,
}

/// Serves `images` to every client that connects, until `shutdown` is ready. Attached clients then
/// live on as long as the runtime does.
pub async fn run(
    listener: impl Into<Listener>,
    images: impl Into<Watched<ImageSet>>,
    machines: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared { images: images.into(), machines, attached: AtomicUsize::new(0) });
    stream::accept_until(listener.into(), "NBD", shutdown, |socket, peer| {
        serve(socket, peer, Arc::clone(&shared))
    })
    .await;
    let machines = shared.attached.load(Ordering::Relaxed);
    if machines > 0 {
        warn!(machines, "shutting down: NBD clients lose their root file system");
    }
}

/// Serves one client from its first byte to its last.
async fn serve(socket: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let mut input = BytesMut::new();
    let handshake = shake_hands(&socket, &mut input, shared.images.current());
    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(End::Session(HandshakeEnd::Attached(attached)))) => {
            shared.attached.fetch_add(1, Ordering::Relaxed);
            transmit(&socket, peer, &mut input, *attached, &shared.machines).await;
            shared.attached.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(Ok(End::Session(HandshakeEnd::Rejected(error)))) => info!(%peer, "NBD client rejected: {error}"),
        Ok(Ok(End::Session(HandshakeEnd::Aborted) | End::Closed)) => {
            debug!(%peer, "NBD client left without an export");
        }
        Ok(Err(error)) => debug!(%peer, "NBD handshake broken off: {error}"),
        Err(_) => info!(%peer, "NBD client rejected: no export chosen within {HANDSHAKE_DEADLINE:?}"),
    }
}

/// Runs the handshake. What the client sent after it stays in `input`.
async fn shake_hands(
    socket: &TcpStream,
    input: &mut BytesMut,
    images: Arc<ImageSet>,
) -> Result<End<HandshakeEnd>, TransmitError> {
    let mut batch = Batch::default();
    // "Newstyle negotiation": the server speaks first.
    batch.push_bytes(&wire::GREETING);
    stream::drive(socket, &mut Handshake::new(&images), input, &mut batch).await
}

/// Runs the transmission phase until the client leaves.
async fn transmit(
    socket: &TcpStream,
    peer: SocketAddr,
    input: &mut BytesMut,
    Attached { export, transmission, name }: Attached,
    machines: &Arc<Registry>,
) {
    info!(%peer, export = name, size = export.len(), "root attached over NBD");
    let since = Instant::now();
    let mut tracker = ConnectionTracker::new(Arc::clone(machines), peer.ip(), machines::Protocol::Nbd, since);
    if let Some(image) = export.image() {
        tracker.attached(image, since);
    }
    let mut batch = Batch::of_export(&export);
    let mut client = Client { transmission, export, tracker };
    let end = stream::drive(socket, &mut client, input, &mut batch).await;
    let fate = if end.is_ok() { machines::RootEnd::Released } else { machines::RootEnd::Lost };
    client.tracker.ended(fate, Instant::now());
    let totals = client.transmission.totals();
    ConnectionLog { protocol: "NBD", peer, export: Some(&name), totals, since }.closed(&end);
}

impl stream::Session for Handshake<'_> {
    type Reason = HandshakeEnd;

    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<HandshakeEnd> {
        self.handle(input, out)
    }
}

/// An attached client.
struct Client {
    transmission: Transmission,
    export: Export,
    tracker: ConnectionTracker,
}

impl stream::Session for Client {
    type Reason = TransmissionEnd;

    const CHECKS_PAGE_CACHE: bool = true;

    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<TransmissionEnd> {
        let turn = self.transmission.handle(&self.export, input, &PageCacheNow::new(), out);
        if let Some((offset, len)) = self.transmission.take_prefetch() {
            prefetch(&self.export, offset, len);
        }
        turn
    }

    fn take_cold(&mut self) -> Vec<ColdRange> {
        self.transmission.take_cold()
    }

    fn range_read(&mut self, ticket: u64) {
        self.transmission.range_read(ticket);
    }

    fn bytes_sent(&mut self, batch: &Batch, len: u64, now: Instant) {
        self.tracker.sent(batch, len, now);
    }
}

/// Has the kernel read `len` bytes of `export` ahead.
fn prefetch(export: &Export, offset: u64, len: u32) {
    for piece in export.range(offset, len.into()).into_iter().flatten() {
        if let Piece::Image(range) = piece {
            range.image().source.read_ahead(range.extent());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::image::index::{Index, NodeAttributes};
    use crate::image::{Image, Source};
    use crate::images::ServedImage;

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
