//! The server: opens the images, binds or inherits every socket, runs the services, reports when
//! all are up, and shuts down in order.

mod boot_lists;
mod directory;
mod file_checks;
mod handover;
mod image_updater;
mod initramfs_check;
mod next_boots;
mod operator_control;
mod own_addresses;
mod report;
mod sandbox;
mod service_sockets;
mod services;
mod snapshot;
mod sockets;
mod stop_signals;
mod trial;
mod verification;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, Uid, geteuid, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::interval;
use tracing::{info, warn};

use self::boot_lists::BootLists;
use self::handover::{Arrival, Beginning, Legacy};
use self::image_updater::ImageUpdater;
use self::next_boots::NextFile;
use self::report::{ForeignDhcp, StartReport};
use self::sandbox::{Identity, IdentityError, SandboxError};
use self::service_sockets::{DhcpMarkError, ServiceSockets};
use self::sockets::{Inherited, SocketError};
use self::stop_signals::StopSignals;
use crate::boot::{BootConfig, Files, Ports};
use crate::bootable::Root;
use crate::config::{Config, Dhcp, Limits, SandboxMode, bios_ipxe_of_host, uefi_ipxe_of_host};
use crate::dhcp::server::DhcpStartError;
use crate::handover::store;
use crate::handover::takeover::{Predecessor, TakeoverError};
use crate::images::{HiddenNameError, ImageError, Verifications};
use crate::interfaces::{self, Interface};
use crate::machines::Registry;
use crate::machines::site::{DhcpSettings, Site};
use crate::nbd;
use crate::nfs::server::rpcbind::RegistrationError;
use crate::store::{Remote, RemoteError};
use crate::stream::{ClientLimits, Clients, Descriptors};
use crate::text::Word;
use crate::uki::Signer;
use crate::{output, runtime};

#[cfg(test)]
pub(crate) use report::Obstacle;
pub(crate) use report::ServiceRow;
pub(crate) use service_sockets::OTHER_PROGRAM;
pub(crate) use trial::{DirectoryContent, FoundImages, Trial, WrittenDirectory};

/// Time that transfers have to end at shutdown.
const DRAIN: Duration = Duration::from_secs(2);

/// Time that transfers have to end when systemd starts the next process after this one.
const RESTART_DRAIN: Duration = Duration::from_secs(10);

/// Time that transfers have to end beside the process that has taken over. PXELINUX takes a
/// download that is cut for a whole one and starts half a kernel, so a slow link gets its time.
const TAKEOVER_DRAIN: Duration = Duration::from_secs(600);

/// Interval at which the advice is looked over when images have changed.
const INTERVAL: Duration = Duration::from_secs(1);

/// What to do about another isowire that answers DHCP.
const SECOND_DHCP_FIX: &str = "stop it, set another `interface` for each, or `dhcp = off`";

/// Error that keeps isowire from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Images(#[from] ImageError),
    #[error(transparent)]
    Name(#[from] HiddenNameError),
    #[error(
        "no bootable image called `{0}`, which a [[machine]] of the configuration file is to boot: change `image` there, \
         or give an [[image]] this `name`"
    )]
    UnknownImage(Word),
    #[error(transparent)]
    Inherited(#[from] SocketError),
    #[error("{service}: {address} cannot be used: {error}: {fix}")]
    Bind { service: &'static str, address: SocketAddrV4, error: io::Error, fix: String },
    #[error("router-advertisement: raw socket not opened: {error}: {fix}, or remove the setting")]
    Advertisement { error: io::Error, fix: String },
    #[error("dhcp: {0}")]
    Dhcp(#[from] DhcpStartError),
    #[error("dhcp: {0}: {SECOND_DHCP_FIX}")]
    SecondDhcp(#[from] DhcpMarkError),
    #[error("portmap: {0}")]
    Rpcbind(#[from] RegistrationError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("takeover: {0}")]
    Takeover(#[from] TakeoverError),
    #[error("threads cannot be started: {0}; raise `TasksMax=` of the unit, or `ulimit -u`")]
    Threads(io::Error),
    #[error("{0}")]
    NextBoots(String),
    #[error("sandbox: {0}")]
    Sandbox(#[from] SandboxError),
    #[error("user: {0}")]
    User(#[from] IdentityError),
    #[error("system call failed: {0}")]
    System(#[from] io::Error),
}

/// Open files for which there is room from the start.
const TABLE: u64 = 4096;

/// Has the kernel enlarge the table of this process's open files for thousands of clients. To be called
/// while there is one thread: with more, each time that the table has to be doubled, the kernel waits
/// until none of them can be reading it. For the 200 clients of a handover that took 20 ms, for which
/// they waited.
pub fn make_room_for_clients() {
    // If it cannot be raised, the start says so.
    let _ = raise_file_limit();
    let size = getrlimit(Resource::Nofile).current.map_or(TABLE, |limit| limit.min(TABLE));
    // A descriptor of a high number does that. Without it, the table is enlarged later.
    let _ = fcntl_dupfd_cloexec(io::stderr(), size.saturating_sub(1) as RawFd);
}

/// Serves until SIGINT, SIGTERM or the end of the terminal. SIGHUP makes it look for images again.
///
/// # Errors
/// [`StartError`] in one line, before anything was served.
pub fn run(config: &Config) -> Result<(), StartError> {
    // Before there are threads that read the environment, since it changes that.
    let inherited = Inherited::take()?;
    sandbox::require(config)?;
    if let Err(error) = raise_file_limit() {
        warn!(open_files = getrlimit(Resource::Nofile).current, "limit of open files not raised: {error}");
    }
    // It may be another one than that of the sockets later.
    let owner = geteuid();
    let Beginning { arrival, inherited, images, remote } = Arrival::take(config, inherited)?;
    let verifications = config.verify.clone().map(Verifications::start).transpose()?;
    let opened = image_updater::open(&config.images, images, verifications.clone(), remote.clone())?;
    let names: Vec<_> = opened.images.iter().map(|served| &*served.name).collect();
    let next_file = Arc::new(NextFile::open(config).map_err(StartError::NextBoots)?);
    let boot_lists = Arc::new(BootLists::open(config));
    let identity = Identity::choose(config, &opened.images, next_file.directory())?;
    let mut sockets = ServiceSockets::open(config, inherited, &names, &identity)?;
    let now = Instant::now();
    let machines = Arc::new(Registry::with_capacity(now, config.limits.machines));
    machines.set_clock(now, Timestamp::now());
    let (configs, roots) = (config.images.clone(), sockets.roots());
    if let Some(verifications) = &verifications {
        machines.report_verifications(Arc::clone(verifications));
    }
    let (boot_config, stall_timeout) = (boot_config(config, &sockets), config.stall_timeout);
    verifications.iter().for_each(|verifications| verifications.pause());
    remote.iter().for_each(|remote| remote.pause());
    let row = sandbox::enter(config, &opened.images, next_file.directory(), &identity)?;
    sockets.rows.push(row);
    if let Some(remote) = &remote {
        remote.go_on()?;
    }
    if let Some(verifications) = &verifications {
        verifications.go_on()?;
    }
    let mut updater =
        ImageUpdater::new(configs, opened, boot_config, roots, stall_timeout, Arc::clone(&machines))?;
    if config.sandbox != SandboxMode::Off {
        updater.confine();
    }
    let runtime = runtime::build().map_err(StartError::Threads)?;
    let outside = Outside { arrival, owner, next_file, boot_lists, remote };
    let served = runtime.block_on(serve(config, sockets, updater, machines, outside));
    // Sessions of NBD and NFS last for days; they end here. A blocking task would hold up the
    // process that follows.
    runtime.shutdown_background();
    served
}

/// Raises the limit of open files to the user's maximum: each machine takes one, and many systems
/// start a program with 1024.
fn raise_file_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // Up to the hard limit no privilege is needed (setrlimit(2)).
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// Returns the limits of clients, which follow from that of open files unless the operator chose.
fn client_limits(config: &Config) -> ClientLimits {
    let Limits { connections, connections_per_address, .. } = config.limits;
    ClientLimits::new(Descriptors::of_process(), connections, connections_per_address)
}

/// Returns the operator's choices about boots, with the roots that are served.
fn boot_config(config: &Config, sockets: &ServiceSockets) -> BootConfig {
    let mut menu = config.menu.clone();
    // A root that is not served would stop machines in the initramfs.
    menu.roots.retain(|&root| sockets.serves(root));
    // Behind address translation, machines reach HTTP by another port than the one that is served.
    let http = sockets.http_port().map(|port| config.advertised_http.unwrap_or(port));
    let ports = Ports { tftp: sockets.tftp_port(), http };
    BootConfig {
        stub: config.stub.clone(),
        signer: config.signing_pair.clone().map(|pair| Arc::new(Signer::new(pair, aside))),
        uefi_by: config.uefi,
        ipxe: config.ipxe.clone().or_else(uefi_ipxe_of_host),
        bios_ipxe: bios_ipxe_of_host(),
        rules: Arc::new(config.rules.clone()),
        seed: config.seed.clone(),
        ..BootConfig::new(menu, ports)
    }
}

/// Signs while another thread takes over the other tasks of this one, so that no connection waits
/// for it. Without an idle thread they wait.
fn aside(work: &mut dyn FnMut()) {
    tokio::task::block_in_place(work);
}

/// What a run has to do with other processes and files.
struct Outside {
    arrival: Arrival,
    /// User who started this process.
    owner: Uid,
    next_file: Arc<NextFile>,
    boot_lists: Arc<BootLists>,
    remote: Option<Arc<Remote>>,
}

async fn serve(
    config: &Config,
    sockets: ServiceSockets,
    updater: ImageUpdater,
    machines: Arc<Registry>,
    Outside { arrival, owner, next_file, boot_lists, remote }: Outside,
) -> Result<(), StartError> {
    let (mut stop_signals, hangup) = (StopSignals::new()?, signal(SignalKind::hangup())?);
    let snapshot = updater.snapshot();
    let images = snapshot.project(|snapshot| Arc::clone(&snapshot.images));
    // Before the services take the sockets.
    let (mut report, tftp) = (report(config, &sockets), udp_port(sockets.tftp.as_ref()));
    machines.know(|site| describe_site(site, config, &sockets, &report));
    let mut served = snapshot.clone();
    machines.know(|site| advise(site, config, tftp, &served.current().files, &mut report));
    let clients = Arc::new(Clients::new(client_limits(config), Arc::clone(&machines)));
    let nbd = nbd::server::Server::new(images.clone(), Arc::clone(&machines), Arc::clone(&clients));
    let has_roots = !matches!(arrival, Arrival::Nothing);
    // First of all: machines wait for their root.
    let dhcp_conflicts = Arc::new(arrival.resume(&nbd, &machines).await?);
    let cache = remote.map(|remote| Arc::clone(remote.cache()));
    // The process that this one took over from is gone.
    cache.iter().for_each(|cache| cache.set_shared(false));
    let (stop, stopping) = watch::channel(());
    let (ready, mut successors) = mpsc::channel(1);
    let shared = services::Shared {
        snapshot,
        machines: Arc::clone(&machines),
        clients,
        nbd: nbd.clone(),
        has_roots,
        dhcp_conflicts: Arc::clone(&dhcp_conflicts),
        ready,
        owner,
        next_file,
        boot_lists,
        cache,
    };
    let legacy = Legacy { nbd: nbd.clone(), images, machines, dhcp_conflicts };
    let started = tokio::select! {
        started = services::start(config, sockets, updater, shared, hangup, &stopping) => started.map(Some),
        // A DHCP server looks for other servers for some seconds before it starts.
        signal = stop_signals.received() => {
            info!("shutting down: {signal}");
            Ok(None)
        }
    };
    let mut services = match started {
        Ok(Some(services)) => services,
        ended => {
            legacy.leave().await;
            return ended.map(drop);
        }
    };
    if let Some(error) = &services.dhcp_error {
        report.turn_off_dhcp(error);
        legacy.machines.know(|site| {
            site.services = report.services();
            site.has_other_dhcp = true;
            advise(site, config, tftp, &served.current().files, &mut report);
        });
    }
    announce(&report);
    let mut looks = interval(INTERVAL);
    let end = loop {
        tokio::select! {
            _ = looks.tick() => {
                if let Some(snapshot) = served.update() {
                    legacy.machines.know(|site| advise(site, config, tftp, &snapshot.files, &mut report));
                }
            }
            signal = stop_signals.received() => {
                info!("shutting down: {signal}");
                break ServeEnd::Stopped;
            }
            Some(predecessor) = successors.recv() => {
                if let Some(predecessor) = legacy.hand_over(predecessor).await {
                    break ServeEnd::TakenOver(predecessor);
                }
            }
            Some(ended) = services.tasks.join_next() => {
                // The end of a service by a panic is logged, and the others go on.
                if let Ok(Err(error)) = ended {
                    break ServeEnd::Failed(error);
                }
            }
        }
    };
    notify(&[NotifyState::Stopping]);
    services.is_taken_over.store(matches!(end, ServeEnd::TakenOver(_)), Ordering::Relaxed);
    // Every service has a receiver of this channel, and ends when the sender is gone.
    drop((stop, stopping));
    let ended = async { while services.at_once.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, ended).await;
    let drained = async { while services.tasks.join_next().await.is_some() {} };
    match end {
        ServeEnd::TakenOver(predecessor) => {
            legacy.hand_over_late(predecessor).await;
            tokio::select! {
                _ = tokio::time::timeout(TAKEOVER_DRAIN, drained) => {}
                signal = stop_signals.received() => info!("shutting down: {signal}"),
            }
        }
        ServeEnd::Stopped => {
            // NBD clients are served meanwhile.
            let drain = if store::is_there() { RESTART_DRAIN } else { DRAIN };
            let _ = tokio::time::timeout(drain, drained).await;
            legacy.leave().await;
        }
        ServeEnd::Failed(error) => {
            legacy.leave().await;
            return Err(error.into());
        }
    }
    Ok(())
}

/// End of a run.
enum ServeEnd {
    /// The operator stopped it.
    Stopped,
    TakenOver(Predecessor),
    /// A service could not be set up.
    Failed(io::Error),
}

/// Describes the services that are up, and what to do about the others.
fn report(config: &Config, sockets: &ServiceSockets) -> StartReport {
    StartReport {
        rows: sockets.rows.clone(),
        other_root: other_root(config, sockets),
        has_nothing_to_boot: false,
        unprivileged: sockets.lacks_privilege.then(service_sockets::program),
        answers_dhcp: sockets.dhcp.is_some(),
        foreign_dhcp: None,
        signing_pair: config.signing_pair.clone(),
    }
}

/// Tells what to do with these files, in the report and in the table of machines.
fn advise(site: &mut Site, config: &Config, tftp: Option<u16>, files: &Files, report: &mut StartReport) {
    let foreign_dhcp = foreign_dhcp(config, tftp, files);
    site.dhcp_settings = foreign_dhcp.as_ref().map(|foreign| DhcpSettings {
        address: foreign.address,
        lines: foreign.to_string().lines().map(str::to_owned).collect(),
        bios_file: foreign.boot_file.clone(),
        uefi_file: foreign.uefi_boot_file.clone(),
    });
    report.has_nothing_to_boot = !files.has_boot_entry();
    // With our own DHCP, other servers need no settings.
    report.foreign_dhcp = foreign_dhcp.filter(|_| !report.answers_dhcp);
    site.advice = report.advice().to_string().trim().lines().map(str::to_owned).collect();
}

/// Returns the first root that is served, unless it is the first of the menu.
fn other_root(config: &Config, sockets: &ServiceSockets) -> Option<Root> {
    let wanted = config.menu.roots.first()?;
    let served = config.menu.roots.iter().find(|&&root| sockets.serves(root))?;
    (served != wanted).then_some(*served)
}

/// Tells the table of machines about this server.
fn describe_site(site: &mut Site, config: &Config, sockets: &ServiceSockets, report: &StartReport) {
    site.services = report.services();
    site.rules = config.rules.clone();
    site.names = config.rules.names().map(|(mac, name)| (mac, name.as_str().to_owned())).collect();
    site.tftp_port = sockets.tftp_port();
    site.http_port = sockets.http_port();
    site.has_other_dhcp = !matches!(config.dhcp, Dhcp::Server(_));
}

/// Returns the settings for another DHCP server; `None` if isowire has nothing to load.
fn foreign_dhcp(config: &Config, tftp: Option<u16>, files: &Files) -> Option<ForeignDhcp> {
    let tftp_port = tftp?;
    let boot_file = files.targets().boot_file()?.to_owned();
    let address = config.advertise.or_else(|| own_address(config))?;
    let uefi_boot_file = files.targets().uefi_boot_file();
    Some(ForeignDhcp { address, tftp_port, boot_file, uefi_boot_file })
}

fn udp_port(socket: Option<&UdpSocket>) -> Option<u16> {
    Some(socket?.local_addr().ok()?.port())
}

/// Returns an address of this host that machines probably reach. Their real one is known only when
/// a request arrives.
fn own_address(config: &Config) -> Option<Ipv4Addr> {
    if !config.bind.is_unspecified() {
        return Some(config.bind).filter(|bind| !bind.is_loopback());
    }
    let only = config.interface.as_deref();
    let served = |link: &Interface| link.is_up && only.is_none_or(|only| only == link.name);
    let served: Vec<_> = interfaces::list().ok()?.into_iter().filter(served).collect();
    served.iter().flat_map(Interface::ips).find(|address| !address.is_loopback())
}

/// Tells the user and systemd that all is up.
fn announce(report: &StartReport) {
    output::print(&format!("{report}\nready\n"));
    notify(&[NotifyState::Ready]);
}

/// Sends a state to systemd if it asked for that (`NOTIFY_SOCKET`, sd_notify(3)).
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("sd_notify failed: {error}");
    }
}
