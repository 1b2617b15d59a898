//! The NBD service: accepts clients, runs their handshake and their transmission phase, logs how each ended.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use super::session::{Attached, Handshake, Next, Rejected, Tally, Transmission, Turn};
use super::wire::{self, NbdParseError};
use crate::export::{Batch, Piece};
use crate::images::ImageSet;
use crate::machines::{self, ConnectionTracker, Registry};
use crate::stream::{self, Listener, TransmitError};
use crate::watched::Watched;

/// Time a client has to attach to an export. The transmission phase has no such limit: a booted machine may be silent
/// for days.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);

/// State shared by all clients.
#[derive(Debug)]
struct Shared {
    images: Watched<ImageSet>,
    machines: Arc<Registry>,
    /// Number of attached clients.
    attached: AtomicUsize,
}

/// Serves `images` to every client that connects, until `shutdown` is ready. Clients that are attached then live on
/// as long as the runtime does.
pub async fn run(
    listener: impl Into<Listener>,
    images: impl Into<Watched<ImageSet>>,
    machines: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared { images: images.into(), machines, attached: AtomicUsize::new(0) });
    tokio::select! {
        () = shutdown => {}
        never = stream::accept(listener.into(), "NBD", |socket, peer| serve(socket, peer, Arc::clone(&shared))) => match never {},
    }
    let machines = shared.attached.load(Ordering::Relaxed);
    if machines > 0 {
        warn!(machines, "shutting down: NBD clients lose their root file system");
    }
}

/// Serves one client from its first byte to its last.
async fn serve(mut socket: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let mut input = BytesMut::new();
    let handshake = shake_hands(&mut socket, &mut input, shared.images.current());
    match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(Some(attached))) => {
            shared.attached.fetch_add(1, Ordering::Relaxed);
            transmit(&socket, peer, input, *attached, &shared.machines).await;
            shared.attached.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(Ok(None)) => debug!(%peer, "NBD client left without an export"),
        Ok(Err(HandshakeError::Rejected(reason))) => info!(%peer, "NBD client rejected: {reason}"),
        Ok(Err(HandshakeError::Socket(error))) => debug!(%peer, %error, "NBD handshake broken off"),
        Err(_) => info!(%peer, "NBD client rejected: no export chosen within {HANDSHAKE_DEADLINE:?}"),
    }
}

/// A client left, or was rejected, before it had an export.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Runs the handshake; `None` when the client left without an export.
async fn shake_hands(
    socket: &mut TcpStream,
    input: &mut BytesMut,
    images: Arc<ImageSet>,
) -> Result<Option<Box<Attached>>, HandshakeError> {
    let mut session = Handshake::new(images);
    let mut replies = BytesMut::from(&wire::GREETING[..]);
    loop {
        let next = session.handle(input, &mut replies);
        let is_waiting = replies.is_empty();
        socket.write_all_buf(&mut replies).await?;
        match next? {
            Next::Attach(attached) => return Ok(Some(attached)),
            Next::Part => return Ok(None),
            // Nothing was answered, so the input holds no complete option.
            Next::GoOn if is_waiting => {
                if socket.read_buf(input).await? == 0 {
                    return Ok(None);
                }
            }
            Next::GoOn => {}
        }
    }
}

/// Runs the transmission phase until the client leaves.
async fn transmit(
    socket: &TcpStream,
    peer: SocketAddr,
    input: BytesMut,
    attached: Attached,
    machines: &Arc<Registry>,
) {
    let Attached { transmission, name } = attached;
    let size = transmission.export().len();
    info!(%peer, export = name, size, "root attached over NBD");
    let since = Instant::now();
    let mut tracker = ConnectionTracker::new(Arc::clone(machines), peer.ip(), machines::Protocol::Nbd, since);
    if let Some(image) = transmission.export().image() {
        tracker.attached(image, since);
    }
    let batch = Batch::of_export(transmission.export());
    let mut client = Client(transmission);
    let end = stream::drive(socket, &mut client, input, batch, &mut tracker).await;
    let fate = if end.is_ok() { machines::RootEnd::Released } else { machines::RootEnd::Lost };
    tracker.ended(fate, Instant::now());
    let (Tally { reads, bytes }, seconds) = (client.0.tally(), since.elapsed().as_secs());
    match end {
        Ok(end) => info!(%peer, export = name, reads, bytes, seconds, "root released: {end}"),
        Err(TransmitError::Peer(error)) => {
            info!(%peer, export = name, reads, bytes, seconds, "root lost: {error}");
        }
        Err(error @ TransmitError::Image(_)) => {
            warn!(%peer, export = name, reads, bytes, seconds, "NBD connection closed: {error}. Restore the original file");
        }
    }
}

/// An attached client.
struct Client(Transmission);

/// Reason for which we end the transmission phase.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("the client disconnected")]
    Disconnected,
    #[error("the client broke the protocol: {0}")]
    Broken(NbdParseError),
    #[error("the client wants to write {0} bytes at once")]
    Flooded(u32),
}

impl stream::Session for Client {
    type Reason = Reason;

    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> stream::Turn<Reason> {
        match self.0.handle(input, out) {
            Turn::Drained => stream::Turn::Drained,
            Turn::Full => stream::Turn::Full,
            Turn::Prefetch { offset, len } => {
                prefetch(&self.0, offset, len);
                stream::Turn::Full
            }
            Turn::Disconnected => stream::Turn::End(Reason::Disconnected),
            Turn::Broken(malformed) => stream::Turn::End(Reason::Broken(malformed)),
            Turn::Flooded { len } => stream::Turn::End(Reason::Flooded(len)),
        }
    }
}

fn prefetch(session: &Transmission, offset: u64, len: u32) {
    for piece in session.export().range(offset, len.into()).into_iter().flatten() {
        if let Piece::Image(range) = piece {
            range.image().source.prefetch(range.extent());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::TcpListener;

    use super::*;
    use crate::image::index::{Index, NodeAttributes};
    use crate::image::{Image, Source};
    use crate::images::ServedImage;

    /// A client of a server whose image is empty.
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

    // The clock of these tests is paused: whenever everybody waits, it jumps to the next timer.

    #[tokio::test(start_paused = true)]
    async fn who_never_chooses_an_export_is_turned_away() {
        let mut socket = connect().await;
        let since = tokio::time::Instant::now();
        let mut said = Vec::new();
        socket.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, wire::GREETING);
        assert!(since.elapsed() >= HANDSHAKE_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_attached_may_be_silent_for_a_month() {
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
