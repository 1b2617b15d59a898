//! The HTTP service: set-up, time limits, and the log lines of the files that a boot loads.

mod backend;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{self, Duration};

use bytes::BytesMut;
use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::info;

use self::backend::MachineBackend;
use super::session::{self, Backend, Finished, LoggedAnswer, Resources, Session};
use super::wire::StatusCode;
use crate::boot::{Files, Requester};
use crate::export::Batch;
use crate::image::FileChangedError;
use crate::locked::locked;
use crate::machines::{self, ConnectionTracker, Loss, RefusedBy, Registry, RootEnd};
use crate::metrics::{self, Door, Tally};
use crate::provision::OperatorFiles;
use crate::stream::{
    self, Admission, ConnectionLog, End, Listener, Place, ReadTotals, Refusal, TransmitError, Turn,
};
use crate::watched::Watched;

/// Time for a request to arrive once it has begun. An answer may take as long as its client reads.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// Time that a client may be silent between requests.
const IDLE: Duration = Duration::from_secs(60);

/// Time that the client has to close the connection after the last answer.
const LINGER: Duration = Duration::from_secs(2);

/// Interval at which downloads are looked for that hold up the end of the service.
const DOWNLOADS_INTERVAL: Duration = Duration::from_millis(50);

/// Serves `files` to every client that connects, until `shutdown` is ready and the downloads of
/// that moment have ended. If the future is dropped, they live on as long as the runtime does.
///
/// `advertise` is the address that generated files tell machines. Without it, each machine is told
/// the address at which it reached the server.
pub async fn run(
    listener: impl Into<Listener>,
    files: impl Into<Watched<Files>>,
    machines: Arc<Registry>,
    advertise: Option<Ipv4Addr>,
    shutdown: impl Future<Output = ()>,
) {
    run_with(listener, files, machines, None, advertise, shutdown).await;
}

/// Serves the operator's files too.
pub(crate) async fn run_with(
    listener: impl Into<Listener>,
    files: impl Into<Watched<Files>>,
    machines: Arc<Registry>,
    operator_files: Option<OperatorFiles>,
    advertise: Option<Ipv4Addr>,
    shutdown: impl Future<Output = ()>,
) {
    let backend = MachineBackend { machines: Arc::clone(&machines), files: operator_files };
    let shared = Arc::new(Shared::new(files.into(), machines, Arc::new(backend), advertise));
    stream::accept_until(listener.into(), "HTTP", shutdown, |socket, peer, admission| {
        serve(socket, peer, admission, Arc::clone(&shared))
    })
    .await;
    while Arc::strong_count(&shared.downloads) > 1 {
        tokio::time::sleep(DOWNLOADS_INTERVAL).await;
    }
}

/// State shared by all clients.
#[derive(Debug)]
struct Shared {
    files: Watched<Files>,
    /// Resources of the files that were current when a client last adopted a snapshot.
    resources: Mutex<Arc<Resources>>,
    backend: Arc<dyn Backend>,
    machines: Arc<Registry>,
    advertise: Option<Ipv4Addr>,
    /// Each download that takes more than one system call has a reference.
    downloads: Arc<()>,
}

impl Shared {
    fn new(
        files: Watched<Files>,
        machines: Arc<Registry>,
        backend: Arc<dyn Backend>,
        advertise: Option<Ipv4Addr>,
    ) -> Self {
        let resources = Resources::with_backend(files.current(), Arc::clone(&backend));
        let resources = Mutex::new(Arc::new(resources));
        Self { files, resources, backend, machines, advertise, downloads: Arc::default() }
    }

    /// Returns the resources of `files`, which are the same for all clients.
    fn resources(&self, files: &Arc<Files>) -> Arc<Resources> {
        // A panic while the lock is held leaves the old value or the new one.
        let mut resources = locked(&self.resources);
        if !Arc::ptr_eq(resources.files(), files) {
            *resources = Arc::new(Resources::with_backend(Arc::clone(files), Arc::clone(&self.backend)));
        }
        Arc::clone(&resources)
    }
}

/// Serves one client from its first request to its last.
async fn serve(socket: TcpStream, peer: SocketAddr, admission: Admission, shared: Arc<Shared>) {
    let place = match admission {
        Admission::Admitted(place) => place,
        Admission::Refused(refused) => return refuse(socket, &refused.why).await,
    };
    let Some(local) = shared.advertise.or_else(|| local_address(&socket)) else { return };
    let mut client = Client::new(peer, local, place, shared);
    let since = time::Instant::now();
    let end = stream::drive(&socket, &mut client, &mut BytesMut::new(), &mut Batch::default()).await;
    // Over HTTP a root is never let go: it was read as a whole, or the download broke off.
    let root_end = match stream::root_end(&end) {
        RootEnd::Released => RootEnd::Lost(Loss::Closed),
        lost => lost,
    };
    client.tracker.ended(root_end, time::Instant::now());
    ConnectionLog { protocol: "HTTP", peer, export: None, totals: ReadTotals::default(), since }.closed(&end);
    if let Ok(End::Session(Finished)) = end {
        stream::close_in_stages(socket, LINGER).await;
    }
}

/// Tells a client that there is no place for it.
async fn refuse(mut socket: TcpStream, why: &Refusal) {
    let answer = session::without_place(why, Timestamp::now());
    if socket.write_all(&answer).await.is_ok() {
        stream::close_in_stages(socket, LINGER).await;
    }
}

/// Returns our address that the client chose.
fn local_address(socket: &TcpStream) -> Option<Ipv4Addr> {
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        // An inherited IPv6 socket shows IPv4 addresses as mapped ones (RFC 4291 §2.5.5.2).
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

/// A connection of a client, with its clocks.
struct Client {
    session: Session,
    resources: Arc<Resources>,
    shared: Arc<Shared>,
    /// Newer files than those of `resources`, if there are any.
    files: Watched<Files>,
    tracker: ConnectionTracker,
    place: Place,
    /// A download is under way.
    download: Option<Arc<()>>,
    peer: SocketAddr,
    turn_began: Instant,
    /// An answer was queued since the server last waited for the client, which gets its time anew.
    has_answered: bool,
    /// The client was between two requests when the server began to wait for it.
    was_idle: bool,
    deadline: Instant,
}

impl Client {
    fn new(peer: SocketAddr, local: Ipv4Addr, place: Place, shared: Arc<Shared>) -> Self {
        let (now, files) = (Instant::now(), shared.files.clone());
        let machines = Arc::clone(&shared.machines);
        Self {
            session: Session::new(Requester::new(local, peer.ip(), Timestamp::now())),
            resources: shared.resources(&files.current()),
            shared,
            files,
            tracker: ConnectionTracker::new(machines, peer.ip(), machines::Protocol::Http, now.into_std()),
            place,
            download: None,
            peer,
            turn_began: now,
            has_answered: false,
            was_idle: false,
            deadline: now + IDLE,
        }
    }
}

impl Client {
    /// Reports a file of a boot, and one that is refused.
    fn report_request(&mut self) {
        let (machines, peer, now) = (&self.shared.machines, self.peer.ip(), self.turn_began.into_std());
        let Some(LoggedAnswer { path, status, bytes, .. }) = self.session.logged() else { return };
        match *status {
            StatusCode::NOT_FOUND => {
                metrics::count(Door::Http, Tally::PeerErrors, 1);
                // Browsers ask for files of their own.
                machines.missed(peer, path, machines::Protocol::Http, false, now);
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                metrics::count(Door::Http, Tally::ImageErrors, 1);
                machines.refused_at(peer, RefusedBy::Image, &FileChangedError.to_string(), now);
            }
            _ => self.tracker.open_file(path, self.session.file_kind(), *bytes, now),
        }
    }
}

impl stream::Session for Client {
    type Reason = Finished;

    const DOOR: Door = Door::Http;

    fn adopt(&mut self) {
        if let Some(files) = self.files.update() {
            self.resources = self.shared.resources(&files);
        }
    }

    fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn<Finished> {
        self.turn_began = Instant::now();
        if std::mem::take(&mut self.was_idle) {
            // The first bytes of a request have arrived.
            self.deadline = self.turn_began + REQUEST_DEADLINE;
        }
        let before = self.session.answered();
        let turn = self.session.handle(&self.resources, input, Timestamp::now(), out);
        metrics::count(Door::Http, Tally::Requests, self.session.answered() - before);
        // A turn after a full one may queue nothing.
        self.has_answered |= !out.is_empty();
        self.tracker.open(self.session.file_kind());
        self.report_request();
        turn
    }

    fn bytes_sent(&mut self, batch: &Batch, len: u64, now: time::Instant) {
        self.place.settle();
        self.tracker.sent(batch, len, now);
        if len < batch.len() && self.download.is_none() {
            self.download = Some(Arc::clone(&self.shared.downloads));
        }
    }

    fn replies_sent(&mut self, result: &Result<(), TransmitError>, unsent: u64, _: &BytesMut) {
        self.download = None;
        if let Some(answer) = self.session.take_logged() {
            if result.is_ok() && answer.status == StatusCode::OK {
                self.tracker.delivered(Instant::now().into_std());
            }
            log_answer(&answer, self.peer, self.turn_began.elapsed(), result, unsent);
        }
    }

    fn deadline(&mut self, input: &BytesMut) -> Option<Instant> {
        self.was_idle = self.session.is_between_requests(input);
        // Bytes alone do not extend the deadline: a client could send one every few seconds.
        if std::mem::take(&mut self.has_answered) {
            self.deadline = Instant::now() + if self.was_idle { IDLE } else { REQUEST_DEADLINE };
        }
        Some(self.deadline)
    }

    fn handle_timeout(&mut self, input: &BytesMut, out: &mut Batch) -> Turn<Finished> {
        self.session.handle_timeout(input, Timestamp::now(), out)
    }
}

/// Logs an answer that belongs to a boot. It was the last of its batch, so `unsent` bytes of it are
/// still here.
fn log_answer(
    answer: &LoggedAnswer,
    peer: SocketAddr,
    elapsed: Duration,
    result: &Result<(), TransmitError>,
    unsent: u64,
) {
    let LoggedAnswer { path, status, bytes, agent, .. } = answer;
    let (status, ms) = (status.0, elapsed.as_millis());
    match result {
        Ok(()) if status == StatusCode::NOT_FOUND.0 => {
            info!(%peer, ?path, ?agent, "HTTP refused: no such file");
        }
        Ok(()) if status == StatusCode::SERVICE_UNAVAILABLE.0 => {
            info!(%peer, ?path, ?agent, "HTTP refused: {FileChangedError}");
        }
        Ok(()) => info!(%peer, ?path, status, bytes, ms, ?agent, "file sent over HTTP"),
        Err(error) => {
            let sent = bytes.saturating_sub(unsent);
            info!(%peer, ?path, status, bytes, sent, ms, ?agent, "HTTP download broken off: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::boot::menu::{Cms, CopyToRam, MenuSettings};
    use crate::boot::{BootConfig, Ports};
    use crate::bootable::Root;
    use crate::image::index::{Index, NodeAttributes};
    use crate::image::{Image, Source};
    use crate::images::{ImageSet, ServedImage};

    /// Connects to a server whose image is empty.
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

    // The clock of these tests is paused: when all tasks wait, it jumps to the next timer.

    #[tokio::test(start_paused = true)]
    async fn silent_client_is_closed() {
        let mut socket = connect().await;
        let since = Instant::now();
        assert_eq!(read_to_end(&mut socket).await, "");
        assert!(since.elapsed() >= IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn answer_gives_time_anew() {
        let mut socket = connect().await;
        tokio::time::sleep(IDLE / 2).await;
        let since = Instant::now();
        // Its answer is logged, and so fills its turn.
        socket.write_all(b"GET /missing HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
        assert!(read_to_end(&mut socket).await.starts_with("HTTP/1.1 404 "));
        assert!(since.elapsed() >= IDLE, "{:?}", since.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_request_gets_408() {
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
