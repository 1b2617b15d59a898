//! The HTTP service: accepts clients, runs a session for each, logs the files that a boot loads.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::session::{Next, Resources, Session, Story, Turn};
use super::wire::StatusCode;
use crate::boot::Files;
use crate::bootable::FileKind;
use crate::export::Batch;
use crate::machines::{self, ConnectionTracker, Registry};
use crate::stream::{self, End, Listener, TransmitError};
use crate::watched::Watched;

/// Time a request has to arrive once it has begun. An answer may take as long as its client reads.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// Time a client may be silent between requests.
const IDLE: Duration = Duration::from_secs(60);

/// Time the client has to close after the last answer. Closed at once with something of it unread, the connection would
/// be reset, and the answer lost on its way (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(2);

/// Bytes thrown away at once while the client closes.
const DISCARD: usize = 16 << 10;

/// Serves `files` to every client that connects, until `shutdown` is ready. Downloads that go on then live on as long
/// as the runtime does.
///
/// `advertise` is the address that files made by us tell machines; without it, each is told the one it reached us at.
pub async fn run(
    listener: impl Into<Listener>,
    files: impl Into<Watched<Files>>,
    machines: Arc<Registry>,
    advertise: Option<Ipv4Addr>,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(Shared::new(files.into()));
    let serve = |socket, peer: SocketAddr| {
        let now = Instant::now().into_std();
        let tracker = ConnectionTracker::new(Arc::clone(&machines), peer.ip(), machines::Protocol::Http, now);
        serve(socket, peer, Arc::clone(&shared), advertise, tracker)
    };
    tokio::select! {
        () = shutdown => {}
        never = stream::accept(listener.into(), "HTTP", serve) => match never {},
    }
}

/// State shared by all clients.
#[derive(Debug)]
struct Shared {
    files: Watched<Files>,
    /// Of the files that were live when somebody last looked.
    resources: Mutex<Arc<Resources>>,
}

impl Shared {
    fn new(files: Watched<Files>) -> Self {
        let resources = Mutex::new(Arc::new(Resources::new(files.current())));
        Self { files, resources }
    }

    /// The resources of `files`, which are the same for all.
    fn resources(&self, files: &Arc<Files>) -> Arc<Resources> {
        // Whoever panicked with the lock left nothing half done.
        let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(resources.files(), files) {
            *resources = Arc::new(Resources::new(Arc::clone(files)));
        }
        Arc::clone(&resources)
    }
}

/// Serves one client from its first request to its last.
async fn serve(
    mut socket: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    advertise: Option<Ipv4Addr>,
    mut tracker: ConnectionTracker,
) {
    let Some(local) = advertise.or_else(|| local_address(&socket)) else { return };
    let mut client = Client::new(peer, local, shared);
    match stream::drive(&socket, &mut client, BytesMut::new(), Batch::default(), &mut tracker).await {
        Ok(End::Closed) => {}
        Ok(End::Session(Answered)) => {
            let _ = timeout(LINGER, part(&mut socket)).await;
        }
        Err(TransmitError::Peer(error)) => debug!(%peer, %error, "HTTP client gone"),
        Err(error @ TransmitError::Image(_)) => {
            warn!(%peer, "HTTP connection closed: {error}. Restore the original file");
        }
    }
}

/// The address of ours that the client chose.
fn local_address(socket: &TcpStream) -> Option<Ipv4Addr> {
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

/// A connection of a client, and what its next turn has to know.
struct Client {
    session: Session,
    peer: SocketAddr,
    shared: Arc<Shared>,
    files: Watched<Files>,
    /// When the turn began, and the answer of it that is worth a line of the log.
    since: Instant,
    story: Option<Story>,
    /// The turn queued an answer.
    is_progress: bool,
    /// The client was between two requests when it was waited for.
    was_idle: bool,
    deadline: Instant,
}

/// The last answer has left: reason for which we end a connection.
struct Answered;

impl Client {
    fn new(peer: SocketAddr, local: Ipv4Addr, shared: Arc<Shared>) -> Self {
        let (now, files) = (Instant::now(), shared.files.clone());
        Self {
            session: Session::new(shared.resources(&files.current()), local),
            peer,
            shared,
            files,
            since: now,
            story: None,
            is_progress: false,
            was_idle: false,
            deadline: now + IDLE,
        }
    }
}

impl stream::Session for Client {
    type Reason = Answered;

    fn file_kind(&self) -> FileKind {
        self.session.file_kind()
    }

    fn adopt(&mut self) {
        if let Some(files) = self.files.update() {
            self.session.serve(self.shared.resources(&files));
        }
    }

    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> stream::Turn<Answered> {
        self.since = Instant::now();
        if std::mem::take(&mut self.was_idle) {
            // The first bytes of a request have arrived.
            self.deadline = self.since + REQUEST_DEADLINE;
        }
        let Turn { next, story } = self.session.handle(input, Timestamp::now(), out);
        self.story = story;
        self.is_progress = !out.is_empty();
        match next {
            Next::Read => stream::Turn::Drained,
            Next::GoOn => stream::Turn::Full,
            Next::Close => stream::Turn::End(Answered),
        }
    }

    fn sent(
        &mut self,
        result: &Result<(), TransmitError>,
        unsent: u64,
        _: &BytesMut,
        _: &mut ConnectionTracker,
    ) {
        let Some(story) = self.story.take() else { return };
        tell(&story, self.peer, self.since, result, unsent);
    }

    fn deadline(&mut self, input: &BytesMut) -> Option<Instant> {
        self.was_idle = self.session.is_between_requests(input);
        if std::mem::take(&mut self.is_progress) {
            self.deadline = Instant::now() + if self.was_idle { IDLE } else { REQUEST_DEADLINE };
        }
        Some(self.deadline)
    }

    fn handle_timeout(&mut self, input: &BytesMut, out: &mut Batch) -> stream::Turn<Answered> {
        self.session.time_out(input, Timestamp::now(), out);
        stream::Turn::End(Answered)
    }
}

/// Says goodbye, and waits until the client has read it.
async fn part(socket: &mut TcpStream) -> io::Result<()> {
    socket.shutdown().await?;
    let mut rest = BytesMut::with_capacity(DISCARD);
    while socket.read_buf(&mut rest).await? > 0 {
        rest.clear();
    }
    Ok(())
}

/// The boot as a story; `unsent` bytes of the batch are still here, and the answer in question was its last.
fn tell(story: &Story, peer: SocketAddr, since: Instant, sent: &Result<(), TransmitError>, unsent: u64) {
    let Story { path, status, bytes, agent, .. } = story;
    let (status, ms) = (status.0, since.elapsed().as_millis());
    match sent {
        Ok(()) if status == StatusCode::NOT_FOUND.0 => {
            info!(%peer, ?path, ?agent, "HTTP refused: no such file")
        }
        Ok(()) => info!(%peer, ?path, status, bytes, ms, ?agent, "file sent over HTTP"),
        Err(error) => {
            let sent = bytes.saturating_sub(unsent);
            info!(%peer, ?path, status, bytes, sent, ms, ?agent, "HTTP broken off: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::net::TcpListener;

    use super::*;
    use crate::boot::menu::{Cms, CopyToRam, MenuSettings};
    use crate::boot::{BootConfig, Ports};
    use crate::bootable::Root;
    use crate::image::index::{Index, NodeAttributes};
    use crate::image::{Image, Source};
    use crate::images::{ImageSet, ServedImage};

    /// A client of a server whose image is empty.
    async fn connect() -> TcpStream {
        let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let image =
            Image::new(Source::open(Path::new("/dev/null")).unwrap(), Index::new(attributes)).unwrap();
        let images = ImageSet::new(ServedImage::new("empty", image), Vec::new());
        let settings = MenuSettings {
            roots: vec![Root::Nbd],
            copytoram: CopyToRam::Auto,
            timeout: 0,
            cms: Cms::Verify,
            parameters: Vec::new(),
        };
        let machines = Arc::new(Registry::new(Instant::now().into_std()));
        let files =
            Files::new(Arc::new(images), BootConfig::new(settings, Ports { tftp: 69, http: Some(80) }))
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(run(listener, Arc::new(files), machines, None, std::future::pending()));
        TcpStream::connect(address).await.unwrap()
    }

    async fn read_to_end(socket: &mut TcpStream) -> String {
        let mut said = String::new();
        socket.read_to_string(&mut said).await.unwrap();
        said
    }

    // The clock of these tests is paused: whenever everybody waits, it jumps to the next timer.

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_left_after_a_while() {
        let mut socket = connect().await;
        let since = Instant::now();
        assert_eq!(read_to_end(&mut socket).await, "");
        assert!(since.elapsed() >= IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_request_byte_by_byte_is_cut_off() {
        let mut socket = connect().await;
        let since = Instant::now();
        for byte in b"GET / HTTP/1.1\r\nHost: slow" {
            if since.elapsed() < REQUEST_DEADLINE {
                socket.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        assert!(read_to_end(&mut socket).await.starts_with("HTTP/1.1 408 "));
    }
}
