//! The handover at both ends of a run: from the process before this one, and to the next.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::Uid;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{debug, error, info, warn};

use super::StartError;
use super::service_sockets::{DhcpMark, PortmapService, ServiceSockets};
use super::sockets::Inherited;
use crate::config::Config;
use crate::dhcp::server::KnownConflicts;
use crate::handover::store::{self, Manager, Stored};
use crate::handover::takeover::{Predecessor, Successor, TakeoverError};
use crate::handover::{Outgoing, Parcel};
use crate::images::ImageSet;
use crate::machines::Registry;
use crate::machines::local::LocalSocket;
use crate::metrics::{self, Gauge};
use crate::nbd;
use crate::nbd::server::Connection;
use crate::store::{Remote, Store};
use crate::stream::ACCEPT_PAUSE;
use crate::watched::Watched;

/// What came from the process before this one.
#[derive(Debug)]
pub(super) enum Arrival {
    /// This process is the first.
    Nothing,
    /// Out of systemd's file descriptor store, where it has these names.
    Stored { parcel: Option<Parcel>, names: Vec<String> },
    /// The other process still runs.
    Offered(Successor),
}

/// What a start begins with.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) arrival: Arrival,
    pub(super) inherited: Inherited,
    /// Images that are open already.
    pub(super) images: Option<ImageSet>,
    /// The way to images in object stores, if there are any.
    pub(super) remote: Option<Arc<Remote>>,
}

impl Arrival {
    /// Takes what systemd stored, or what a running process offers if the operator wants that, and
    /// opens the cache folder, which that process lets go of or shares from then on.
    ///
    /// # Errors
    /// [`StartError::Takeover`] without a process that can be taken over, [`StartError::Remote`].
    pub(super) fn take(config: &Config, inherited: Inherited) -> Result<Beginning, StartError> {
        let (mut inherited, mut images) = (inherited, Vec::new());
        let arrival = if config.takeover {
            let (successor, offer) = Successor::connect(&config.handover_socket)?;
            inherited = Inherited::of_offer(offer.sockets, config)?;
            images = offer.images;
            Self::Offered(successor)
        } else {
            let stored = std::mem::take(&mut inherited.stored);
            let names = stored.names();
            let mut parcel = open(stored);
            if let Some(parcel) = &mut parcel {
                images = std::mem::take(&mut parcel.images);
            }
            if names.is_empty() { Self::Nothing } else { Self::Stored { parcel, names } }
        };
        let cache = config.cache.as_ref();
        let remote = cache.map(|cache| Remote::open(&cache.directory, cache.size, config.takeover));
        let remote = remote.transpose()?;
        let store = remote.as_ref().map(|remote| &**remote.cache());
        let images = ImageSet::of_carried(images, store, Instant::now(), |name, error| {
            error!(image = name, "image of the process before this one not taken over: {error}");
        });
        Ok(Beginning { arrival, inherited, images, remote })
    }

    /// Goes on with the machines of the other process. From here on they are ours. Returns what it
    /// knew of other DHCP servers.
    ///
    /// # Errors
    /// [`StartError::Takeover`]: the other process goes on.
    pub(super) async fn resume(
        self,
        nbd: &nbd::server::Server,
        machines: &Registry,
    ) -> Result<KnownConflicts, StartError> {
        let mut conflicts = None;
        match self {
            Self::Nothing => {}
            Self::Stored { parcel, names } => {
                if let Some(parcel) = parcel {
                    conflicts = parcel.dhcp_conflicts.clone();
                    resume(parcel, nbd, machines);
                }
                // What this process may put there must not be forgotten.
                let _ = spawn_blocking(move || forget(&names)).await;
            }
            Self::Offered(mut successor) => {
                let taken = spawn_blocking(move || successor.take().map(|parcel| (successor, parcel)));
                let (successor, parcel) = taken.await.map_err(io::Error::other)??;
                conflicts = parcel.dhcp_conflicts.clone();
                resume(parcel, nbd, machines);
                resume_late(successor, nbd, machines).await;
            }
        }
        Ok(KnownConflicts::new(conflicts, Instant::now()))
    }
}

fn forget(names: &[String]) {
    if let Err(error) = store::forget(names) {
        warn!("systemd keeps copies of connections: {error}; their clients may not see that they are closed");
    }
}

fn open(stored: Stored) -> Option<Parcel> {
    stored.open().unwrap_or_else(|error| {
        error!("connections of the process before this one not taken over: {error}; machines on NBD lose their root");
        None
    })
}

fn resume(parcel: Parcel, nbd: &nbd::server::Server, machines: &Registry) {
    metrics::set(Gauge::TakenOver, 1);
    machines.add_carried(parcel.machines, Instant::now());
    machines.set_draining(parcel.is_draining, Instant::now());
    if parcel.lost > 0 {
        error!(
            connections = parcel.lost,
            "NBD connections lost in the handover: their sockets did not come. Raise LimitNOFILE= of the unit"
        );
    }
    let mut resumed = 0;
    for (connection, socket) in parcel.connections {
        let peer = connection.peer;
        match nbd.resume(connection, socket) {
            Ok(()) => resumed += 1,
            Err(error) => error!(%peer, "NBD connection lost in the handover: {error}"),
        }
    }
    if resumed > 0 {
        info!(connections = resumed, "NBD connections taken over");
    }
}

/// Takes over the connections that the other process accepted in the last moment, and waits until
/// its services have stopped.
async fn resume_late(mut successor: Successor, nbd: &nbd::server::Server, machines: &Registry) {
    loop {
        let taken = spawn_blocking(move || successor.take_more().map(|parcel| (successor, parcel)));
        match taken.await.map_err(io::Error::other) {
            Ok(Ok((left, Some(parcel)))) => {
                successor = left;
                resume(parcel, nbd, machines);
            }
            Ok(Ok((_, None))) => return,
            Ok(Err(error)) => return debug!("the process before this one ended early: {error}"),
            Err(error) => return debug!("the process before this one was not heard to its end: {error}"),
        }
    }
}

/// Returns the listening sockets that another process may take over, by the names that they are
/// offered by.
pub(super) fn offered_sockets(sockets: &ServiceSockets) -> io::Result<Vec<(&'static str, OwnedFd)>> {
    let (mut offered, dhcp) = (Vec::new(), sockets.dhcp.as_ref());
    let mut offer = |name, socket: Option<&dyn AsFd>| -> io::Result<()> {
        if let Some(socket) = socket {
            offered.push((name, socket.as_fd().try_clone_to_owned()?));
        }
        Ok(())
    };
    offer("nbd", sockets.nbd.as_ref().map(|socket| socket as _))?;
    offer("nfs", sockets.nfs.as_ref().map(|socket| socket as _))?;
    offer("http", sockets.http.as_ref().map(|socket| socket as _))?;
    offer("tftp", sockets.tftp.as_ref().map(|socket| socket as _))?;
    offer("dhcp", dhcp.map(|sockets| &sockets.dhcp as _))?;
    offer("pxe", dhcp.and_then(|sockets| Some(sockets.boot_server.as_ref()? as _)))?;
    let mark = sockets.dhcp_mark.as_ref().and_then(DhcpMark::socket);
    offer("dhcp-mark", mark.map(|socket| socket as _))?;
    offer("status", sockets.status.as_ref().map(|socket| socket as _))?;
    if let Some(PortmapService::Ours { tcp, udp }) = &sockets.portmap {
        offer("portmap-tcp", Some(tcp))?;
        offer("portmap-udp", Some(udp))?;
    }
    Ok(offered)
}

/// Offers everything to each process of `owner` that asks at `socket`, one after the other, and
/// sends those that are ready to take it. From then on they may have the `cache` folder too.
pub(super) async fn offer_to_successors(
    socket: LocalSocket,
    owner: Uid,
    sockets: Vec<(&'static str, OwnedFd)>,
    images: Watched<ImageSet>,
    cache: Option<Arc<Store>>,
    ready: mpsc::Sender<Predecessor>,
) -> io::Result<()> {
    let (listener, _name) = socket.into_parts();
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let sockets = Arc::new(sockets);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("no process can take over for now: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The directory of the socket is closed to other users; root has no such limit, and neither
        // has another program of the user that this process became.
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == owner.as_raw()) {
            warn!("take-over refused: the other isowire runs as another user");
            continue;
        }
        let (sockets, images, shared) = (Arc::clone(&sockets), images.current(), cache.clone());
        let offer = spawn_blocking(move || {
            shared.iter().for_each(|cache| cache.set_shared(true));
            offer(stream.into_std()?, &sockets, &images)
        });
        match offer.await {
            // If that one leaves after all, the next poll of the stores finds that.
            Ok(Ok(predecessor)) => drop(ready.send(predecessor).await),
            Ok(Err(error)) => warn!("not taken over: {error}"),
            Err(error) => warn!("not taken over: {error}"),
        }
    }
}

fn offer(
    stream: StdStream,
    sockets: &[(&'static str, OwnedFd)],
    images: &ImageSet,
) -> Result<Predecessor, TakeoverError> {
    stream.set_nonblocking(false)?;
    Predecessor::offer(stream, sockets, images, Instant::now())
}

/// The parts of a run that outlive its process.
pub(super) struct Legacy {
    pub(super) nbd: nbd::server::Server,
    pub(super) images: Watched<ImageSet>,
    pub(super) machines: Arc<Registry>,
    pub(super) dhcp_conflicts: Arc<KnownConflicts>,
}

impl Legacy {
    /// Collects them, with these connections at rest.
    fn with(&self, connections: Vec<Connection>) -> Outgoing {
        let Self { images, machines, dhcp_conflicts, .. } = self;
        Outgoing::new(&images.current(), connections, machines, dhcp_conflicts, Instant::now())
    }

    /// Hands everything to a process that is ready. If it leaves, all goes on here, and `None` is
    /// returned.
    pub(super) async fn hand_over(&self, mut predecessor: Predecessor) -> Option<Predecessor> {
        if let Err(error) = predecessor.require(&self.images.current()) {
            warn!("not taken over: {error}");
            return None;
        }
        let outgoing = self.with(self.nbd.rest().await);
        let sent = spawn_blocking(move || {
            let result = predecessor.hand_over(&outgoing);
            (result, predecessor, outgoing)
        });
        // The task ends only with the runtime.
        let (result, predecessor, outgoing) = sent.await.ok()?;
        match result {
            Ok(()) => {
                info!(connections = outgoing.connections(), "taken over by another isowire");
                Some(predecessor)
            }
            Err(error) => {
                warn!("not taken over: {error}; going on");
                self.nbd.go_on(outgoing.into_connections());
                None
            }
        }
    }

    /// Hands over the connections that were accepted since, when no more are.
    pub(super) async fn hand_over_late(&self, mut predecessor: Predecessor) {
        let connections = self.nbd.rest().await;
        if connections.is_empty() {
            return;
        }
        let mut outgoing = self.with(connections);
        // It has them already, and has counted on.
        outgoing.state.machines.clear();
        if let Ok(Err(error)) = spawn_blocking(move || predecessor.hand_over_more(&outgoing)).await {
            error!("NBD connections lost in the handover: {error}");
        }
    }

    /// Leaves everything to the next process, if there is a manager that starts one.
    pub(super) async fn leave(&self) {
        match store::is_there() {
            true => self.put_into_store().await,
            false => self.nbd.warn_of_lost_clients(),
        }
    }

    /// Gives everything to systemd, for the next process.
    async fn put_into_store(&self) {
        if self.nbd.is_unused() && self.with(Vec::new()).is_needless() {
            return;
        }
        // Before the connections rest: their clients wait from then on.
        let manager = spawn_blocking(Manager::reach).await;
        let outgoing = self.with(self.nbd.rest().await);
        let connections = outgoing.connections();
        let manager = manager.map_err(io::Error::other).flatten();
        // Its sockets are closed by the end of the process, for which the clients wait: that is quicker
        // than one after the other.
        let outgoing = ManuallyDrop::new(outgoing);
        let stored = spawn_blocking(move || manager?.put(&outgoing)).await;
        match stored.map_err(|error| io::Error::other(error).into()).flatten() {
            Ok(()) => info!(connections, "NBD connections left to systemd for the next start"),
            Err(error) if connections == 0 => debug!("machines are not remembered: not stored: {error}"),
            Err(error) => error!(connections, "NBD clients lose their root file system: not stored: {error}"),
        }
    }
}
