//! Start of the services: each takes its sockets and is a task that ends at shutdown.

use std::io;
use std::net::{TcpListener as StdListener, UdpSocket as StdSocket};
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::StartError;
use super::image_updater::ImageUpdater;
use super::service_sockets::{DhcpMark, PortmapService, ServiceSockets};
use super::snapshot::Snapshot;
use crate::boot::Files;
use crate::config::{Config, Dhcp, TftpPorts};
use crate::images::ImageSet;
use crate::machines::Registry;
use crate::machines::local::LocalSocket;
use crate::machines::server::StatusSocket;
use crate::stream::Listener;
use crate::watched::Watched;
use crate::{dhcp, http, machines, nbd, ndp, nfs, tftp};

/// The services of a run while they are started.
struct Services<'a> {
    config: &'a Config,
    /// The snapshot that is served; each service watches its part.
    snapshot: Watched<Snapshot>,
    machines: Arc<Registry>,
    stopping: &'a watch::Receiver<()>,
    tasks: JoinSet<io::Result<()>>,
}

/// Starts every service whose sockets are open. They stop when the sender of `stopping` is dropped.
///
/// # Errors
/// [`StartError`] of the DHCP server or of the system.
pub(super) async fn start(
    config: &Config,
    sockets: ServiceSockets,
    updater: ImageUpdater,
    machines: Arc<Registry>,
    hangup: Signal,
    stopping: &watch::Receiver<()>,
) -> Result<JoinSet<io::Result<()>>, StartError> {
    let (snapshot, tasks) = (updater.snapshot(), JoinSet::new());
    let mut services = Services { config, snapshot, machines, stopping, tasks };
    // First, since only this one can still fail for a reason on the network.
    services.start_dhcp(sockets.dhcp, sockets.dhcp_mark).await?;
    services.start_advertisement(sockets.advertisement);
    services.start_nbd(sockets.nbd)?;
    services.start_nfs(sockets.nfs, sockets.portmap)?;
    services.start_http(sockets.http)?;
    services.start_tftp(sockets.tftp)?;
    services.start_status(sockets.status_socket, sockets.status);
    let updates = updater.run(hangup, services.stop());
    services.tasks.spawn(unfailing(updates));
    Ok(services.tasks)
}

impl Services<'_> {
    /// Returns a future that is ready at shutdown.
    fn stop(&self) -> impl Future<Output = ()> + use<> {
        let mut stopping = self.stopping.clone();
        // No value is ever sent; the sender is dropped.
        async move { while stopping.changed().await.is_ok() {} }
    }

    fn machines(&self) -> Arc<Registry> {
        Arc::clone(&self.machines)
    }

    async fn start_dhcp(
        &mut self,
        sockets: Option<dhcp::server::Sockets>,
        mark: Option<DhcpMark>,
    ) -> Result<(), StartError> {
        let Some(sockets) = sockets else { return Ok(()) };
        let config = dhcp_config(self.config, &self.snapshot, &self.machines);
        let server = dhcp::server::Server::start(sockets, config).await?;
        let stop = self.stop();
        self.tasks.spawn(unfailing(async move {
            server.run(stop).await;
            // From here on another isowire may answer.
            drop(mark);
        }));
        Ok(())
    }

    fn start_advertisement(&mut self, listener: Option<ndp::server::SolicitationListener>) {
        let Some(listener) = listener else { return };
        self.tasks.spawn(ndp::server::run(listener, self.machines(), self.stop()));
    }

    fn start_nbd(&mut self, listener: Option<StdListener>) -> io::Result<()> {
        let Some(listener) = listener else { return Ok(()) };
        let (listener, images) = (stream(listener, self.config)?, self.images());
        self.tasks.spawn(unfailing(nbd::server::run(listener, images, self.machines(), self.stop())));
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
        let (listener, images) = (stream(listener, self.config)?, self.images());
        self.tasks.spawn(unfailing(nfs::server::run(listener, images, self.machines(), self.stop())));
        match portmap {
            Some(PortmapService::Ours { tcp, udp }) => {
                let (tcp, udp) = (stream(tcp, self.config)?, datagrams(udp)?);
                self.tasks.spawn(nfs::server::portmap::run(tcp, udp, port, self.stop()));
            }
            Some(PortmapService::Rpcbind(registration)) => {
                let stop = self.stop();
                self.tasks.spawn(async move {
                    stop.await;
                    // rpcbind keeps a registration after the end of the process that made it.
                    registration.withdraw();
                    Ok(())
                });
            }
            None => {}
        }
        Ok(())
    }

    fn start_http(&mut self, listener: Option<StdListener>) -> io::Result<()> {
        let Some(listener) = listener else { return Ok(()) };
        let (listener, files) = (stream(listener, self.config)?, self.files());
        let (machines, advertise) = (self.machines(), self.config.advertise);
        self.tasks.spawn(unfailing(http::server::run(listener, files, machines, advertise, self.stop())));
        Ok(())
    }

    fn start_tftp(&mut self, socket: Option<StdSocket>) -> io::Result<()> {
        let Some(socket) = socket else { return Ok(()) };
        let (socket, options) = (datagrams(socket)?, tftp_options(self.config));
        let (files, advertise) = (self.files(), self.config.advertise);
        // A generated file names the address that the client used, unless the operator chose one.
        self.tasks.spawn(tftp::server::run(
            socket,
            move |path: &[u8], local| files.current().open(path, advertise.unwrap_or(local)),
            self.machines(),
            options,
            self.stop(),
        ));
        Ok(())
    }

    fn start_status(&mut self, local: Option<LocalSocket>, tcp: Option<StdListener>) {
        let tcp = tcp.map(|listener| StatusSocket::Tcp(listener, self.config.allowed.clone()));
        let sockets = local.map(StatusSocket::Local).into_iter().chain(tcp).collect();
        self.tasks.spawn(machines::server::run(sockets, self.machines(), self.stop()));
    }

    fn images(&self) -> Watched<ImageSet> {
        self.snapshot.project(|snapshot| Arc::clone(&snapshot.images))
    }

    fn files(&self) -> Watched<Files> {
        self.snapshot.project(|snapshot| Arc::clone(&snapshot.files))
    }
}

/// Adapts a service that cannot fail to the tasks that may.
async fn unfailing(service: impl Future<Output = ()>) -> io::Result<()> {
    service.await;
    Ok(())
}

fn stream(listener: StdListener, config: &Config) -> io::Result<Listener> {
    // `from_std` expects a socket that does not block.
    listener.set_nonblocking(true)?;
    Ok(Listener::new(TcpListener::from_std(listener)?, config.allowed.clone()))
}

fn datagrams(socket: StdSocket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn dhcp_config(
    config: &Config,
    snapshot: &Watched<Snapshot>,
    machines: &Arc<Registry>,
) -> dhcp::server::DhcpConfig {
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
    }
}

fn tftp_options(config: &Config) -> tftp::server::Options {
    let ports = match config.tftp_ports {
        TftpPorts::Many => tftp::server::PortMode::PerTransfer,
        TftpPorts::Single => tftp::server::PortMode::Single,
    };
    tftp::server::Options { ports, allowed: config.allowed.clone(), ..tftp::server::Options::default() }
}
