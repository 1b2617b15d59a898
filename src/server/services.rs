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
use super::service_sockets::{Portmap, ServiceSockets};
use super::snapshot::Snapshot;
use crate::config::{Config, Dhcp, TftpPorts};
use crate::machines::Registry;
use crate::machines::server::StatusSocket;
use crate::stream::Listener;
use crate::watched::Watched;
use crate::{dhcp, http, machines, nbd, ndp, nfs, tftp};

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
    let mut services = JoinSet::new();
    let snapshot = updater.snapshot();
    let images = snapshot.project(|snapshot| Arc::clone(&snapshot.images));
    let files = snapshot.project(|snapshot| Arc::clone(&snapshot.files));
    let stop = || {
        let mut stopping = stopping.clone();
        // Nothing is ever sent.
        async move { while stopping.changed().await.is_ok() {} }
    };
    // First, since only this one can still fail for a reason on the network.
    if let Some(sockets) = sockets.dhcp {
        let server = dhcp::server::Server::start(sockets, dhcp_config(config, &snapshot, &machines)).await?;
        services.spawn(unfailing(server.run(stop())));
    }
    if let Some(listener) = sockets.advertisement {
        services.spawn(ndp::server::run(listener, Arc::clone(&machines), stop()));
    }
    if let Some(listener) = sockets.nbd {
        services.spawn(unfailing(nbd::server::run(
            stream(listener, config)?,
            images.clone(),
            Arc::clone(&machines),
            stop(),
        )));
    }
    if let Some(listener) = sockets.nfs {
        let port = listener.local_addr()?.port();
        services.spawn(unfailing(nfs::server::run(
            stream(listener, config)?,
            images,
            Arc::clone(&machines),
            stop(),
        )));
        match sockets.portmap {
            Some(Portmap::Ours { tcp, udp }) => {
                let (tcp, udp) = (stream(tcp, config)?, datagrams(udp)?);
                services.spawn(nfs::server::portmap::run(tcp, udp, port, stop()));
            }
            Some(Portmap::Rpcbind(registration)) => {
                let stop = stop();
                services.spawn(async move {
                    stop.await;
                    registration.withdraw();
                    Ok(())
                });
            }
            None => {}
        }
    }
    if let Some(listener) = sockets.http {
        let (listener, files) = (stream(listener, config)?, files.clone());
        services.spawn(unfailing(http::server::run(
            listener,
            files,
            Arc::clone(&machines),
            config.advertise,
            stop(),
        )));
    }
    if let Some(socket) = sockets.tftp {
        let advertise = config.advertise;
        let open = move |path: &[u8], local| files.current().open(path, advertise.unwrap_or(local));
        services.spawn(tftp::server::run(
            datagrams(socket)?,
            open,
            Arc::clone(&machines),
            tftp_options(config),
            stop(),
        ));
    }
    let tcp = sockets.status.map(|listener| StatusSocket::Tcp(listener, config.allowed.clone()));
    let status = sockets.status_socket.map(StatusSocket::Local).into_iter().chain(tcp);
    services.spawn(machines::server::run(status.collect(), machines, stop()));
    services.spawn(unfailing(updater.run(hangup, stop())));
    Ok(services)
}

/// Makes a service that only shutdown ends look like one that may fail.
async fn unfailing(service: impl Future<Output = ()>) -> io::Result<()> {
    service.await;
    Ok(())
}

fn stream(listener: StdListener, config: &Config) -> io::Result<Listener> {
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
) -> dhcp::server::Config {
    let mode = match &config.dhcp {
        Dhcp::Server(authority) => dhcp::server::Mode::Authority(authority.clone()),
        Dhcp::Proxy(_) | Dhcp::Off => dhcp::server::Mode::Proxy,
    };
    dhcp::server::Config {
        interface: config.interface.clone(),
        advertise: config.advertise,
        mode,
        boot: snapshot.project(|snapshot| Arc::clone(&snapshot.targets)),
        leased: Arc::clone(snapshot.current().files.leased()),
        machines: Arc::clone(machines),
        allowed: config.allowed.clone(),
    }
}

fn tftp_options(config: &Config) -> tftp::server::Options {
    let ports = match config.tftp_ports {
        TftpPorts::Many => tftp::server::Ports::PerTransfer,
        TftpPorts::Single => tftp::server::Ports::Single,
    };
    tftp::server::Options { ports, allowed: config.allowed.clone(), ..tftp::server::Options::default() }
}
