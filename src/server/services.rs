//! Start of the services: each takes its sockets and is a task that ends at shutdown.

use std::io;
use std::net::{TcpListener as StdListener, UdpSocket as StdSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Uid;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::boot_lists::BootLists;
use super::image_updater::ImageUpdater;
use super::next_boots::{NextBootControl, NextFile};
use super::operator_control::OperatorControl;
use super::service_sockets::{DhcpMark, PortmapService, ServiceSockets};
use super::snapshot::Snapshot;
use super::{StartError, handover, own_addresses};
use crate::boot::{Files, Requester};
use crate::config::{Config, Dhcp, StatusPage, StatusService, TftpPorts};
use crate::dhcp::server::{DhcpStartError, KnownConflicts};
use crate::handover::takeover::Predecessor;
use crate::images::ImageSet;
use crate::machines::Registry;
use crate::machines::local::LocalSocket;
use crate::panics::caught_task;
use crate::provision::OperatorFiles;
use crate::store::Store;
use crate::stream::{Clients, Descriptors, Listener};
use crate::watched::Watched;
use crate::web::{self, StatusSocket};
use crate::{dhcp, http, nbd, ndp, nfs, tftp};

/// What the services of a run share.
pub(super) struct Shared {
    /// The snapshot that is served; each service watches its part.
    pub(super) snapshot: Watched<Snapshot>,
    pub(super) machines: Arc<Registry>,
    /// Clients over TCP, which have common limits.
    pub(super) clients: Arc<Clients>,
    pub(super) nbd: nbd::server::Server,
    /// Machines live on this process by now, so it may not end for an error.
    pub(super) has_roots: bool,
    /// Other DHCP servers, at first those that the process before this one knew.
    pub(super) dhcp_conflicts: Arc<KnownConflicts>,
    /// Where processes go that are ready to take over from this one.
    pub(super) ready: mpsc::Sender<Predecessor>,
    /// User who started this process, and may start one that takes over.
    pub(super) owner: Uid,
    pub(super) next_file: Arc<NextFile>,
    pub(super) boot_lists: Arc<BootLists>,
    /// Cache folder of images in object stores.
    pub(super) cache: Option<Arc<Store>>,
}

/// The services of a run.
pub(super) struct Running {
    /// Tasks that may take some time to stop, and whose early end is a failure.
    pub(super) tasks: JoinSet<io::Result<()>>,
    /// Tasks that stop at once.
    pub(super) at_once: JoinSet<()>,
    /// Another process has what this one leaves behind on the host.
    pub(super) is_taken_over: Arc<AtomicBool>,
    /// Reason why DHCP is off, after a process whose machines live on here.
    pub(super) dhcp_error: Option<DhcpStartError>,
}

/// The services of a run while they are started.
struct Services<'a> {
    config: &'a Config,
    shared: Shared,
    stopping: &'a watch::Receiver<()>,
    tasks: JoinSet<io::Result<()>>,
    at_once: JoinSet<()>,
    is_taken_over: Arc<AtomicBool>,
    dhcp_error: Option<DhcpStartError>,
}

/// Starts every service whose sockets are open. They stop when the sender of `stopping` is dropped.
///
/// # Errors
/// [`StartError`] of the DHCP server or of the system.
pub(super) async fn start(
    config: &Config,
    sockets: ServiceSockets,
    updater: ImageUpdater,
    shared: Shared,
    hangup: Signal,
    stopping: &watch::Receiver<()>,
) -> Result<Running, StartError> {
    let (tasks, at_once, is_taken_over, dhcp_error) = Default::default();
    let mut offered = handover::offered_sockets(&sockets)?;
    let mut services = Services { config, shared, stopping, tasks, at_once, is_taken_over, dhcp_error };
    let (mut dhcp, has_roots) = (Some((sockets.dhcp, sockets.dhcp_mark)), services.shared.has_roots);
    // First, since only this one can still fail for a reason on the network.
    if let Some((sockets, mark)) = dhcp.take_if(|_| !has_roots) {
        services.start_dhcp(sockets, mark).await?;
    }
    services.start_advertisement(sockets.advertisement);
    // Before a machine comes, which would be one that nothing is known of.
    services.start_boot_lists();
    services.start_nbd(sockets.nbd)?;
    services.start_nfs(sockets.nfs, sockets.portmap)?;
    services.start_http(sockets.http)?;
    services.start_tftp(sockets.tftp)?;
    services.start_status(sockets.status_socket, sockets.status);
    services.start_own_addresses();
    let updates = updater.run(hangup, services.stop());
    services.spawn("images", unfailing(updates));
    // Last after another process, whose machines load on.
    if let Some((sockets, mark)) = dhcp {
        services.start_dhcp(sockets, mark).await?;
    }
    if services.dhcp_error.is_some() {
        // Another program may have them.
        offered.retain(|(name, _)| !["dhcp", "pxe", "dhcp-mark"].contains(name));
    }
    services.start_offers(offered);
    let Services { tasks, at_once, is_taken_over, dhcp_error, .. } = services;
    Ok(Running { tasks, at_once, is_taken_over, dhcp_error })
}

impl Services<'_> {
    /// Returns a future that is ready at shutdown.
    fn stop(&self) -> impl Future<Output = ()> + use<> {
        let mut stopping = self.stopping.clone();
        // No value is ever sent; the sender is dropped.
        async move { while stopping.changed().await.is_ok() {} }
    }

    /// Runs a service, which may take some time to stop.
    fn spawn(&mut self, name: &'static str, service: impl Future<Output = io::Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { alone(name, service).await.unwrap_or(Ok(())) });
    }

    /// Runs a service that stops at once.
    fn spawn_at_once(&mut self, name: &'static str, service: impl Future<Output = ()> + Send + 'static) {
        self.at_once.spawn(async move { alone(name, service).await.unwrap_or_default() });
    }

    fn machines(&self) -> Arc<Registry> {
        Arc::clone(&self.shared.machines)
    }

    async fn start_dhcp(
        &mut self,
        sockets: Option<dhcp::server::Sockets>,
        mark: Option<DhcpMark>,
    ) -> Result<(), StartError> {
        let Some(sockets) = sockets else { return Ok(()) };
        let config = dhcp_config(self.config, &self.shared);
        let server = match dhcp::server::Server::start(sockets, config).await {
            Ok(server) => server,
            Err(error) if self.shared.has_roots => {
                error!("DHCP is off: {error}");
                self.dhcp_error = Some(error);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let stop = self.stop();
        self.spawn_at_once("dhcp", async move {
            server.run(stop).await;
            // From here on another isowire may answer.
            drop(mark);
        });
        Ok(())
    }

    fn start_advertisement(&mut self, listener: Option<ndp::server::SolicitationListener>) {
        let Some(listener) = listener else { return };
        self.spawn("router-advertisement", ndp::server::run(listener, self.machines(), self.stop()));
    }

    fn start_nbd(&mut self, listener: Option<StdListener>) -> io::Result<()> {
        let Some(listener) = listener else { return Ok(()) };
        let (listener, stop, nbd) = (self.stream(listener)?, self.stop(), self.shared.nbd.clone());
        self.spawn_at_once("nbd", async move { nbd.run(listener, stop).await });
        Ok(())
    }

    fn start_nfs(
        &mut self,
        listener: Option<StdListener>,
        portmap: Option<PortmapService>,
    ) -> io::Result<()> {
        let Some(listener) = listener else { return Ok(()) };
        // The real port, which the system chose for port 0.
        let port = listener.local_addr()?.port();
        let (listener, images) = (self.stream(listener)?, self.images());
        let service = nfs::server::run(listener, images, self.machines(), self.stop());
        self.spawn("nfs", unfailing(service));
        match portmap {
            Some(PortmapService::Ours { tcp, udp }) => {
                let (tcp, udp) = (self.stream(tcp)?, datagrams(udp)?);
                self.spawn("portmap", nfs::server::portmap::run(tcp, udp, port, self.stop()));
            }
            Some(PortmapService::Rpcbind(registration)) => {
                let (stop, is_taken_over) = (self.stop(), Arc::clone(&self.is_taken_over));
                self.spawn("portmap", async move {
                    stop.await;
                    if is_taken_over.load(Ordering::Relaxed) {
                        registration.keep();
                    }
                    Ok(())
                });
            }
            None => {}
        }
        Ok(())
    }

    fn start_http(&mut self, listener: Option<StdListener>) -> io::Result<()> {
        let Some(listener) = listener else { return Ok(()) };
        let (listener, files) = (self.stream(listener)?, self.files());
        let (machines, advertise) = (self.machines(), self.config.advertise);
        let operator_files = self.config.files.as_ref().map(|files| OperatorFiles {
            folder: Arc::clone(&files.folder),
            rules: Arc::new(self.config.rules.clone()),
        });
        let service =
            http::server::run_with(listener, files, machines, operator_files, advertise, self.stop());
        self.spawn("http", unfailing(service));
        Ok(())
    }

    fn start_tftp(&mut self, socket: Option<StdSocket>) -> io::Result<()> {
        let Some(socket) = socket else { return Ok(()) };
        let (socket, options) = (datagrams(socket)?, tftp_options(self.config));
        let (files, advertise) = (self.files(), self.config.advertise);
        // A generated file names the address that the client used, unless the operator chose one.
        let open = move |path: &[u8], requester: Requester| {
            let server = advertise.unwrap_or(requester.server);
            files.current().open(path, Requester { server, ..requester })
        };
        self.spawn("tftp", tftp::server::run(socket, open, self.machines(), options, self.stop()));
        Ok(())
    }

    fn start_own_addresses(&mut self) {
        let (machines, stop) = (self.machines(), self.stop());
        self.spawn_at_once("own addresses", async move { own_addresses::follow(&machines, stop).await });
    }

    fn start_boot_lists(&mut self) {
        let (lists, machines) = (Arc::clone(&self.shared.boot_lists), self.machines());
        let (images, stop) = (self.images(), self.stop());
        let read = images.current();
        lists.read_all(&read);
        self.spawn_at_once("boot lists", async move { lists.run(&machines, images, read, stop).await });
    }

    /// Lets another process of this user take over from this one.
    fn start_offers(&mut self, sockets: Vec<(&'static str, OwnedFd)>) {
        let path = &self.config.handover_socket;
        let bound = if self.config.takeover { LocalSocket::replace(path) } else { LocalSocket::bind(path) };
        let socket = match bound {
            Ok(socket) => socket,
            Err(error) => return info!("no process can take over: {}: {error}", path.display()),
        };
        let (images, ready, stop) = (self.images(), self.shared.ready.clone(), self.stop());
        let (owner, cache) = (self.shared.owner, self.shared.cache.clone());
        self.spawn("takeover", async move {
            tokio::select! {
                () = stop => Ok(()),
                failed = handover::offer_to_successors(socket, owner, sockets, images, cache, ready) => failed,
            }
        });
    }

    fn start_status(&mut self, local: Option<LocalSocket>, tcp: Option<StdListener>) {
        let local = local.or_else(|| self.taken_over_status());
        let is_of_this_host =
            matches!(self.config.status, StatusService::On { page: StatusPage::OfThisHost, .. });
        let tcp = tcp.map(|listener| match is_of_this_host {
            true => StatusSocket::OfThisHost(listener),
            false => StatusSocket::Tcp(listener, self.config.allowed.clone()),
        });
        let sockets = local.map(StatusSocket::Local).into_iter().chain(tcp).collect();
        let next_boots = Arc::new(NextBootControl {
            file: Arc::clone(&self.shared.next_file),
            rules: self.config.rules.clone(),
            files: self.files(),
            machines: self.machines(),
            is_full: AtomicBool::new(false),
        });
        let control = Arc::new(OperatorControl {
            next_boots: Arc::clone(&next_boots),
            machines: self.machines(),
            servers: self.config.servers.clone(),
        });
        let stop = self.stop();
        self.spawn_at_once("next boots", async move { next_boots.run(stop).await });
        self.spawn("status", web::server::run_with(sockets, self.machines(), Some(control), self.stop()));
    }

    /// Returns the status socket in place of that of the process before this one.
    fn taken_over_status(&self) -> Option<LocalSocket> {
        let StatusService::On { socket, .. } = &self.config.status else { return None };
        let replaced = self.config.takeover.then(|| LocalSocket::replace(socket))?;
        replaced.inspect_err(|error| warn!("no status at {}: {error}", socket.display())).ok()
    }

    fn stream(&self, listener: StdListener) -> io::Result<Listener> {
        // `from_std` expects a socket that does not block.
        listener.set_nonblocking(true)?;
        let listener = Listener::new(TcpListener::from_std(listener)?, self.config.allowed.clone());
        Ok(listener.counted(Arc::clone(&self.shared.clients)))
    }

    fn images(&self) -> Watched<ImageSet> {
        self.shared.snapshot.project(|snapshot| Arc::clone(&snapshot.images))
    }

    fn files(&self) -> Watched<Files> {
        self.shared.snapshot.project(|snapshot| Arc::clone(&snapshot.files))
    }
}

/// Runs a service whose panic ends no other; returns `None` then.
async fn alone<T>(service: &'static str, task: impl Future<Output = T>) -> Option<T> {
    let ended = caught_task(task).await;
    if ended.is_none() {
        error!(service, "service ended by a fault of isowire: it takes no new clients. Restart isowire");
    }
    ended
}

/// Adapts a service that cannot fail to the tasks that may.
async fn unfailing(service: impl Future<Output = ()>) -> io::Result<()> {
    service.await;
    Ok(())
}

fn datagrams(socket: StdSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn dhcp_config(config: &Config, shared: &Shared) -> dhcp::server::DhcpConfig {
    let Shared { snapshot, machines, dhcp_conflicts, has_roots, .. } = shared;
    let mode = match &config.dhcp {
        Dhcp::Server(server) => dhcp::server::DhcpMode::Server(server.clone()),
        // `Off` has no sockets, so its mode is never used.
        Dhcp::Proxy(_) | Dhcp::Off => dhcp::server::DhcpMode::Proxy,
    };
    dhcp::server::DhcpConfig {
        interface: config.interface.clone(),
        wait: config.wait_interface,
        advertise: config.advertise,
        bind: Some(config.bind).filter(|bind| !bind.is_unspecified()),
        mode,
        boot: snapshot.project(|snapshot| Arc::clone(&snapshot.targets)),
        leased: Arc::clone(snapshot.current().files.leased()),
        machines: Arc::clone(machines),
        allowed: config.allowed.clone(),
        known_conflicts: Arc::clone(dhcp_conflicts),
        servers: config.servers.clone().map(Arc::new),
        is_successor: *has_roots,
    }
}

fn tftp_options(config: &Config) -> tftp::server::Options {
    let ports = match config.tftp_ports {
        TftpPorts::Many => tftp::server::PortMode::PerTransfer,
        TftpPorts::Single => tftp::server::PortMode::Single,
    };
    tftp::server::Options {
        ports,
        max_transfers: config.limits.transfers,
        descriptors: Descriptors::of_process(),
        allowed: config.allowed.clone(),
        ..tftp::server::Options::default()
    }
}
