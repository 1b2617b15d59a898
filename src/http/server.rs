//! The shell of the HTTP door: accepts, moves bytes between sockets and sessions, logs the story of each boot.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::session::{Next, Resources, Session, Story, Turn};
use super::wire::Status;
use crate::boot::Files;
use crate::export::Batch;
use crate::machines::{self, Meter, Registry, Step};
use crate::stream::{self, Listener};
use crate::transmit::{self, Broken};
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
        let meter = Meter::new(Arc::clone(&machines), peer.ip(), machines::Protocol::Http, now);
        serve(socket, peer, Arc::clone(&shared), advertise, meter)
    };
    tokio::select! {
        () = shutdown => {}
        never = stream::accept(listener.into(), "HTTP", serve) => match never {},
    }
}

/// What all clients share.
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

/// One client from its first request to its last.
async fn serve(
    mut socket: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    advertise: Option<Ipv4Addr>,
    meter: Meter,
) {
    let Some(local) = advertise.or_else(|| local_address(&socket)) else { return };
    let session = Session::new(shared.resources(&shared.files.current()), local);
    match converse(&socket, peer, &shared, session, meter).await {
        Ok(End::Closed) => {}
        Ok(End::Answered) => {
            let _ = timeout(LINGER, part(&mut socket)).await;
        }
        Err(Broken::Peer(error)) => debug!(%peer, %error, "HTTP client gone"),
        Err(error @ Broken::Image(_)) => {
            warn!(%peer, "HTTP client turned away: {error}; put the file back as it was");
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

/// How a connection came to its end.
enum End {
    /// The client closed it, or had nothing more to ask.
    Closed,
    /// There was a last answer.
    Answered,
}

/// Requests and answers, in turns.
async fn converse(
    socket: &TcpStream,
    peer: SocketAddr,
    shared: &Shared,
    mut session: Session,
    mut meter: Meter,
) -> Result<End, Broken> {
    let (mut input, mut batch) = (BytesMut::new(), Batch::default());
    let mut files = shared.files.clone();
    let mut deadline = Instant::now() + IDLE;
    loop {
        if let Some(files) = files.update() {
            session.serve(shared.resources(&files));
        }
        let since = Instant::now();
        let turn = session.handle(&mut input, Timestamp::now(), &mut batch);
        let is_progress = !batch.is_empty();
        let sent = transmit::flush(&mut batch, socket, &mut meter).await;
        if turn.story.as_ref().is_some_and(|story| story.is_made && story.status == Status::OK) {
            meter.reached(Step::Menu, Instant::now().into_std());
        }
        tell(&turn, peer, since, &sent, batch.len());
        sent?;
        match turn.next {
            Next::Close => return Ok(End::Answered),
            Next::GoOn => tokio::task::yield_now().await,
            Next::Read => {
                let is_idle = session.is_between_requests(&input);
                if is_progress {
                    deadline = Instant::now() + if is_idle { IDLE } else { REQUEST_DEADLINE };
                }
                match timeout_at(deadline, stream::receive(socket, &mut input, &mut batch)).await {
                    Ok(Ok(0)) => return Ok(End::Closed),
                    Ok(Ok(_)) if is_idle => deadline = Instant::now() + REQUEST_DEADLINE,
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(Broken::Peer(error)),
                    Err(_) => return late(socket, &mut session, &input, &mut meter).await,
                }
            }
        }
    }
}

/// Nothing came for too long.
async fn late(
    socket: &TcpStream,
    session: &mut Session,
    input: &BytesMut,
    meter: &mut Meter,
) -> Result<End, Broken> {
    let mut batch = Batch::default();
    session.time_out(input, Timestamp::now(), &mut batch);
    transmit::flush(&mut batch, socket, meter).await?;
    Ok(End::Answered)
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
fn tell(turn: &Turn, peer: SocketAddr, since: Instant, sent: &Result<(), Broken>, unsent: u64) {
    let Some(Story { path, status, bytes, agent, .. }) = &turn.story else { return };
    let (status, ms) = (status.0, since.elapsed().as_millis());
    match sent {
        Ok(()) if status == Status::NOT_FOUND.0 => info!(%peer, ?path, ?agent, "HTTP refused: no such file"),
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
    use crate::boot::files::{BootConfig, Ports};
    use crate::boot::menu::{Cms, CopyToRam, MenuSettings, Root};
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
