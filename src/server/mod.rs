//! The shell of it all: opens the images, binds or takes over every socket, runs the services, tells when all is up
//! and ends in order.

mod image_updater;
mod initramfs_check;
mod report;
mod service_sockets;
mod services;
mod snapshot;
pub mod sockets;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use self::image_updater::ImageUpdater;
use self::report::{ForeignDhcp, StartReport};
use self::service_sockets::ServiceSockets;
use self::sockets::{Inherited, SocketError};
use crate::boot::files::{Files, Ports, Terms};
use crate::boot::menu::Root;
use crate::boot::text::Word;
use crate::config::Config;
use crate::dhcp::server::DhcpStartError;
use crate::images::{HiddenNameError, ImageError};
use crate::machines::Registry;
use crate::nfs::server::rpcbind::NotRegistered;

/// What is under way when we are told to stop has this long to come to its end.
const DRAIN: Duration = Duration::from_secs(2);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Images(#[from] ImageError),
    #[error(transparent)]
    Name(#[from] HiddenNameError),
    #[error(
        "a [[machine]] of the configuration file is to boot the image `{0}`, and no image of that name boots: change `image` \
         there, or give an [[image]] this `name`"
    )]
    UnknownImage(Word),
    #[error(transparent)]
    Inherited(#[from] SocketError),
    #[error("{service}: {address} cannot be used: {error}: {fix}")]
    Bind { service: &'static str, address: SocketAddrV4, error: io::Error, fix: String },
    #[error("router-advertisement: cannot be had: {error}: {fix}, or leave the setting out")]
    Advertisement { error: io::Error, fix: String },
    #[error("dhcp: {0}")]
    Dhcp(#[from] DhcpStartError),
    #[error("portmap: {0}")]
    Rpcbind(#[from] NotRegistered),
    #[error("the system does not let isowire run: {0}")]
    System(#[from] io::Error),
}

/// Serves until SIGINT, SIGTERM or the end of its terminal. SIGHUP has it look for images again.
///
/// # Errors
/// [`StartError`] in one line, before anything was served.
pub fn run(config: &Config) -> Result<(), StartError> {
    // First of all: it changes the environment, which other threads must not see.
    let inherited = Inherited::take()?;
    raise_file_limit();
    let opened = image_updater::open(&config.images)?;
    let names: Vec<_> = opened.images.iter().map(|served| &*served.name).collect();
    let sockets = ServiceSockets::open(config, inherited, &names)?;
    let machines = Arc::new(Registry::new(Instant::now()));
    let (places, roots) = (config.images.clone(), sockets.roots());
    let updater = ImageUpdater::new(places, opened, terms(config, &sockets), roots, Arc::clone(&machines))?;
    let runtime = runtime()?;
    let served = runtime.block_on(serve(config, sockets, updater, machines));
    // Sessions that live for days, like those of NBD, end here.
    runtime.shutdown_timeout(Duration::from_millis(200));
    served
}

/// tokio keeps 256 tasks that are ready in a worker's own queue and looks at the rest, which all workers share, every
/// 31 to 255 tasks. With a thousand machines at once some of them would wait for tens of rounds of the others. New
/// requests it looks for every 61 tasks; as seldom as the queue comes round, more of them are there at once.
fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().global_queue_interval(2).event_interval(256).build()
}

/// Allows as many open files as this user may have: each machine takes one, and many systems start a program with 1024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, open_files = limit.current, "cannot allow more open files");
    }
}

/// What the operator chose about boots; the menu offers the roots that are served.
fn terms(config: &Config, sockets: &ServiceSockets) -> Terms {
    let mut menu = config.menu.clone();
    menu.roots.retain(|&root| sockets.serves(root));
    let ports = Ports { tftp: sockets.tftp_port(), http: sockets.http_port() };
    Terms {
        stub: config.stub.clone(),
        uefi_by: config.uefi,
        ipxe: config.ipxe.clone(),
        rules: Arc::new(config.rules.clone()),
        ..Terms::new(menu, ports)
    }
}

async fn serve(
    config: &Config,
    sockets: ServiceSockets,
    updater: ImageUpdater,
    machines: Arc<Registry>,
) -> Result<(), StartError> {
    let (mut stop_signals, hangup) = (StopSignals::new()?, signal(SignalKind::hangup())?);
    let report = report(config, &sockets, &updater.snapshot().current().files);
    let (stop, stopping) = watch::channel(());
    let mut services = tokio::select! {
        started = services::start(config, sockets, updater, machines, hangup, &stopping) => started?,
        // A DHCP server looks around for seconds before it starts.
        _ = stop_signals.received() => return Ok(()),
    };
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
    ended.map_err(StartError::from)
}

/// SIGINT (Ctrl-C), SIGTERM, and the SIGHUP of a terminal that is closed.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    terminal: Terminal,
}

/// Where we were started from. Its end is a SIGHUP; any other has the images looked at.
struct Terminal {
    hangup: Signal,
    was_there: bool,
}

impl Terminal {
    async fn closed(&mut self) {
        loop {
            let signal = self.hangup.recv().await;
            if signal.is_some() && self.was_there && !io::stdin().is_terminal() {
                return;
            }
        }
    }
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            terminal: Terminal {
                hangup: signal(SignalKind::hangup())?,
                was_there: io::stdin().is_terminal(),
            },
        })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "asked to by SIGTERM",
            () = self.terminal.closed() => "its terminal was closed",
        }
    }
}

/// What is up, and what to do about what is not.
fn report(config: &Config, sockets: &ServiceSockets, files: &Files) -> StartReport {
    StartReport {
        rows: sockets.rows.clone(),
        other_root: other_root(config, sockets),
        unprivileged: sockets.lacks_privilege.then(service_sockets::program),
        foreign_dhcp: foreign_dhcp(config, sockets, files),
    }
}

/// The first root of the menu, where a default that nobody changed could not be served.
fn other_root(config: &Config, sockets: &ServiceSockets) -> Option<Root> {
    let wanted = config.menu.roots.first()?;
    let served = config.menu.roots.iter().find(|&&root| sockets.serves(root))?;
    (served != wanted).then_some(*served)
}

/// What to enter elsewhere, where nobody is told by us what to load, and there is something to load.
fn foreign_dhcp(config: &Config, sockets: &ServiceSockets, files: &Files) -> Option<ForeignDhcp> {
    let tftp = sockets.tftp.as_ref().filter(|_| sockets.dhcp.is_none())?;
    let boot_file = files.site().boot_file()?.to_owned();
    let address = config.advertise.or_else(|| own_address(config))?;
    let uefi_boot_file = files.site().uefi_boot_file();
    Some(ForeignDhcp { address, tftp_port: tftp.local_addr().ok()?.port(), boot_file, uefi_boot_file })
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
fn announce(report: &StartReport) {
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
