//! The shell of it all: opens the images, binds or takes over every socket, runs the services, tells when all is up
//! and ends in order.

mod doors;
mod report;
pub mod sockets;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::doors::Doors;
use self::report::{ForeignDhcp, Report};
use self::sockets::{Inherited, Unfit};
use crate::boot::files::{Files, NameTaken, Ports};
use crate::config::{Config, Dhcp, ImageFile, TftpPorts};
use crate::export::{Catalog, Served};
use crate::image::{Image, OpenError};
use crate::{dhcp, nbd, tftp};

/// What is under way when we are told to stop has this long to come to its end.
const DRAIN: Duration = Duration::from_secs(2);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error(transparent)]
    Image(#[from] OpenError),
    #[error(transparent)]
    Name(#[from] NameTaken),
    #[error(transparent)]
    Inherited(#[from] Unfit),
    #[error("{service}: {address} cannot be used: {error}: {fix}")]
    Bind { service: &'static str, address: SocketAddrV4, error: io::Error, fix: String },
    #[error("dhcp: {0}")]
    Dhcp(#[from] dhcp::server::StartError),
    #[error("the system does not let isowire run: {0}")]
    System(#[from] io::Error),
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// [`Fatal`] in one line, before anything was served.
pub fn run(config: &Config) -> Result<(), Fatal> {
    // First of all: it changes the environment, which other threads must not see.
    let inherited = Inherited::take()?;
    raise_file_limit();
    let catalog = Arc::new(open(&config.images)?);
    let doors = Doors::open(config, inherited)?;
    let ports = Ports { tftp: doors.tftp_port(), http: 80 };
    let files = Arc::new(Files::new(Arc::clone(&catalog), config.menu.clone(), ports)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(serve(config, doors, catalog, files));
    // Sessions that live for days, like those of NBD, end here.
    runtime.shutdown_timeout(Duration::from_millis(200));
    served
}

/// Allows as many open files as this user may have: each machine takes one, and many systems start a program with 1024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, open_files = limit.current, "cannot allow more open files");
    }
}

/// Opens the images; there is at least one.
fn open(images: &[ImageFile]) -> Result<Catalog, OpenError> {
    let mut served = Vec::new();
    for ImageFile { path, name } in images {
        let image = Image::open(path)?;
        for warning in &image.warnings {
            warn!(image = %name, "{warning}");
        }
        if image.archiso.is_none() {
            warn!(image = %name, "this is no archiso image: it is served, and no machine boots from it");
        }
        served.push(Served { name: name.to_string(), image: Arc::new(image) });
    }
    let others = served.split_off(1);
    Ok(Catalog::new(served.remove(0), others))
}

async fn serve(config: &Config, doors: Doors, catalog: Arc<Catalog>, files: Arc<Files>) -> Result<(), Fatal> {
    let mut stop_signals = StopSignals::new()?;
    let report = report(config, &doors, &files);
    let (stop, stopping) = watch::channel(());
    let mut services = JoinSet::new();
    tokio::select! {
        started = start(&mut services, config, doors, catalog, files, &stopping) => started?,
        // A DHCP server looks around for seconds before it starts.
        _ = stop_signals.received() => return Ok(()),
    }
    announce(&report);
    let ended = tokio::select! {
        signal = stop_signals.received() => {
            info!("stopping: {signal}");
            Ok(())
        }
        Some(ended) = services.join_next() => ended.map_err(io::Error::other).and_then(|ended| ended),
    };
    notify(&[NotifyState::Stopping]);
    drop((stop, stopping));
    let drained = async { while services.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    ended.map_err(Fatal::from)
}

/// Starts every service that has its sockets.
async fn start(
    services: &mut JoinSet<io::Result<()>>,
    config: &Config,
    doors: Doors,
    catalog: Arc<Catalog>,
    files: Arc<Files>,
    stopping: &watch::Receiver<()>,
) -> Result<(), Fatal> {
    let stop = || {
        let mut stopping = stopping.clone();
        // The sender never sends: it is dropped.
        async move { while stopping.changed().await.is_ok() {} }
    };
    // First, since it is the one that may yet find a reason not to start.
    if let Some(sockets) = doors.dhcp {
        let (server, stop) =
            (dhcp::server::Server::start(sockets, dhcp_config(config, &files)).await?, stop());
        services.spawn(async move {
            server.run(stop).await;
            Ok(())
        });
    }
    if let Some(listener) = doors.nbd {
        listener.set_nonblocking(true)?;
        let (listener, stop) = (TcpListener::from_std(listener)?, stop());
        services.spawn(async move {
            nbd::server::run(listener, catalog, stop).await;
            Ok(())
        });
    }
    if let Some(socket) = doors.tftp {
        socket.set_nonblocking(true)?;
        let advertise = config.advertise;
        let open = move |path: &[u8], local| files.open(path, advertise.unwrap_or(local));
        services.spawn(tftp::server::run(UdpSocket::from_std(socket)?, open, tftp_options(config), stop()));
    }
    Ok(())
}

fn dhcp_config(config: &Config, files: &Files) -> dhcp::server::Config {
    let mode = match &config.dhcp {
        Dhcp::Server(authority) => dhcp::server::Mode::Authority(authority.clone()),
        Dhcp::Proxy(_) | Dhcp::Off => dhcp::server::Mode::Proxy,
    };
    dhcp::server::Config {
        interface: config.interface.clone(),
        advertise: config.advertise,
        mode,
        boot: files.site(),
    }
}

fn tftp_options(config: &Config) -> tftp::server::Options {
    let ports = match config.tftp_ports {
        TftpPorts::Many => tftp::server::Ports::PerTransfer,
        TftpPorts::Single => tftp::server::Ports::Single,
    };
    tftp::server::Options { ports, ..tftp::server::Options::default() }
}

/// SIGINT (Ctrl-C) and SIGTERM.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "asked to by SIGTERM",
        }
    }
}

/// What is up, and what to do about what is not.
fn report(config: &Config, doors: &Doors, files: &Files) -> Report {
    Report {
        rows: doors.rows.clone(),
        unprivileged: doors.lacks_privilege.then(doors::program),
        foreign_dhcp: foreign_dhcp(config, doors, files),
    }
}

/// What to enter elsewhere, where nobody is told by us what to load, and there is something to load.
fn foreign_dhcp(config: &Config, doors: &Doors, files: &Files) -> Option<ForeignDhcp> {
    let tftp = doors.tftp.as_ref().filter(|_| doors.dhcp.is_none())?;
    let boot_file = files.site().boot_file()?.to_owned();
    let address = config.advertise.or_else(|| own_address(config))?;
    Some(ForeignDhcp { address, tftp_port: tftp.local_addr().ok()?.port(), boot_file })
}

/// An address that machines can reach us at, as far as that can be known without one asking.
fn own_address(config: &Config) -> Option<Ipv4Addr> {
    if !config.bind.is_unspecified() {
        return Some(config.bind);
    }
    let wanted = |name: &str| config.interface.as_deref().is_none_or(|wanted| wanted == name);
    let own = getifaddrs().ok()?.filter(|own| wanted(&own.interface_name));
    own.filter_map(|own| Some(own.address?.as_sockaddr_in()?.ip())).find(|address| !address.is_loopback())
}

/// Tells the person at the terminal and systemd that all is up.
fn announce(report: &Report) {
    // Nobody may be reading any more; that is no reason to stop.
    let _ = write!(io::stdout().lock(), "{report}\nready\n");
    notify(&[NotifyState::Ready]);
}

/// Tells systemd, where it asked to be told (`NOTIFY_SOCKET`).
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd cannot be told");
    }
}
