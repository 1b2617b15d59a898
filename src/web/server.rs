//! The sockets of the status, and their clients.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::connection::{self, ByteStream};
use super::control::{self, Control};
use super::reports::Reports;
use super::routes;
use crate::export::Allowed;
use crate::machines::Registry;
use crate::machines::local::{LocalSocket, Name};
use crate::machines::rate::SAMPLE_EVERY;

/// Clients served at a time per socket; others wait to be accepted.
const CLIENTS_MAX: usize = 32;

/// Pause after a failed accept: a lack of file descriptors lasts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that the status server listens on.
#[derive(Debug)]
pub enum StatusSocket {
    Local(LocalSocket),
    /// Accepts only allowed addresses.
    Tcp(StdTcpListener, Allowed),
    /// On loopback. Answers only where it is asked by address or as `localhost`: a web page could give
    /// a name of its own this address, and read what is here (DNS rebinding).
    OfThisHost(StdTcpListener),
}

/// Serves the status on these sockets until `shutdown` completes.
///
/// # Errors
/// The error of the system from socket set-up. No client can end the server.
pub async fn run(
    sockets: Vec<StatusSocket>,
    registry: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    run_with(sockets, registry, None, shutdown).await
}

/// Lets programs that may use the local socket change something too.
///
/// # Errors
/// Those of [`run`].
pub(crate) async fn run_with(
    sockets: Vec<StatusSocket>,
    registry: Arc<Registry>,
    control: Option<Arc<dyn Control>>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let reports = Arc::new(Reports::new(Arc::clone(&registry)));
    let router = routes::router(Arc::clone(&reports));
    let mut listeners = JoinSet::new();
    for socket in sockets {
        let router = match socket {
            StatusSocket::OfThisHost(_) => routes::of_this_host(router.clone()),
            StatusSocket::Local(_) => match &control {
                Some(control) => router.clone().merge(control::router(Arc::clone(control))),
                None => router.clone(),
            },
            StatusSocket::Tcp(..) => router.clone(),
        };
        listeners.spawn(accept(StatusListener::new(socket)?, router));
    }
    tokio::select! {
        () = shutdown => {}
        () = sample(&registry) => {}
        () = reports.run() => {}
    }
    Ok(())
}

/// Takes the samples that rates follow from, without end.
async fn sample(registry: &Registry) {
    let mut clock = tokio::time::interval(SAMPLE_EVERY);
    loop {
        clock.tick().await;
        registry.sample(Instant::now());
    }
}

#[derive(Debug)]
enum StatusListener {
    Local(UnixListener, #[expect(dead_code, reason = "the name goes when this is dropped")] Name),
    Tcp(TcpListener, Allowed),
}

impl StatusListener {
    fn new(socket: StatusSocket) -> io::Result<Self> {
        Ok(match socket {
            StatusSocket::Local(LocalSocket { listener, name }) => {
                listener.set_nonblocking(true)?;
                Self::Local(UnixListener::from_std(listener)?, name)
            }
            StatusSocket::Tcp(listener, allowed) => Self::tcp(listener, allowed)?,
            StatusSocket::OfThisHost(listener) => Self::tcp(listener, Allowed::default())?,
        })
    }

    fn tcp(listener: StdTcpListener, allowed: Allowed) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(TcpListener::from_std(listener)?, allowed))
    }

    async fn accept(&self) -> io::Result<Box<dyn ByteStream>> {
        Ok(match self {
            Self::Local(listener, _) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener, allowed) => Box::new(accept_allowed(listener, allowed).await?),
        })
    }
}

async fn accept_allowed(listener: &TcpListener, allowed: &Allowed) -> io::Result<TcpStream> {
    loop {
        let (socket, peer) = listener.accept().await?;
        if allowed.contains(peer.ip()) {
            return Ok(socket);
        }
        info!(%peer, "status client rejected: address is not in `allow`");
    }
}

async fn accept(listener: StatusListener, router: Router) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    // Those who watch end with the listener.
    let mut clients = JoinSet::new();
    let mut is_failing = false;
    loop {
        while clients.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                is_failing = false;
                let router = router.clone();
                clients.spawn(async move {
                    let _place = place;
                    if let Err(error) = connection::serve(stream, router).await {
                        debug!(%error, "status connection failed");
                    }
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    warn!(%error, "status socket cannot accept clients");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
