//! Start of the DHCP service: from its configuration to a server that is ready to run.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use super::address_use::AddressUse;
use super::conflict::{self, Conflict, DhcpProbe, Probes};
use super::interfaces::Interfaces;
use super::known_conflicts::KnownConflicts;
use super::lease_file::LeaseFile;
use super::log::DhcpLog;
use super::port_socket::{PortSocket, Presence};
use super::socket::Sharing;
use super::subnets::{self, SubnetConfig, SubnetError};
use super::turns::TurnQueue;
use super::{Clock, Server, Sockets};
use crate::boot::leased::Lease;
use crate::boot::{BootTargets, Leased, Rules};
use crate::dhcp::lease::{Event, UnixTime};
use crate::dhcp::session::{LimitedIpxes, Network, Role, ServerRole, Session, Subnet, mac};
use crate::export::Allowed;
use crate::interfaces::{Interface, InterfaceChanges};
use crate::machines::Registry;
use crate::placement::Servers;
use crate::watched::Watched;

/// Length of a lease: one day. The initramfs takes its address once and never renews it, so a lease
/// must outlast a boot and the work that follows.
pub const DEFAULT_LEASE_SECONDS: u32 = 86_400;

/// Configuration of the DHCP service.
#[derive(Debug, Clone)]
pub struct DhcpConfig {
    /// The only interface to serve; all if `None`.
    pub interface: Option<String>,
    /// Start without an interface on the network of a DHCP range, and wait for one.
    pub wait: bool,
    /// Address that clients are told; ours on their interface if `None`.
    pub advertise: Option<Ipv4Addr>,
    /// The only address that TFTP and HTTP listen on; all if `None`. Without `advertise`, only
    /// machines that reach it get replies.
    pub bind: Option<Ipv4Addr>,
    pub mode: DhcpMode,
    /// Programs, menus and rules that machines boot by.
    pub boot: Watched<BootTargets>,
    /// Table of leases for the boot files of each machine.
    pub leased: Arc<Leased>,
    /// Records of the machines that boot.
    pub machines: Arc<Registry>,
    /// Addresses whose clients get replies.
    pub allowed: Allowed,
    /// Other servers that the process before this one knew of. If it looked for them, this one
    /// answers at once, and looks again meanwhile.
    pub known_conflicts: Arc<KnownConflicts>,
    /// Servers that share machines with this one, which is among them.
    pub servers: Option<Arc<Servers>>,
    /// This process goes on with another one's work.
    pub is_successor: bool,
}

/// Role of the service on its network.
#[derive(Debug, Clone)]
pub enum DhcpMode {
    /// Beside another DHCP server.
    Proxy,
    /// As the only DHCP server.
    Server(ServerConfig),
}

impl DhcpMode {
    /// Returns how this role uses its ports.
    pub fn sharing(&self) -> Sharing {
        match self {
            Self::Proxy => Sharing::Shared,
            Self::Server(_) => Sharing::Alone,
        }
    }
}

/// Configuration of the server role.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Networks to lease addresses on, at least one.
    pub subnets: Vec<SubnetConfig>,
    /// File that keeps the leases over a restart.
    pub lease_file: Option<PathBuf>,
}

/// Error of starting the DHCP service.
#[derive(Debug, thiserror::Error)]
pub enum DhcpStartError {
    #[error("cannot set up the DHCP socket: {0}")]
    Socket(#[source] io::Error),
    #[error("cannot list the network interfaces: {0}")]
    Interfaces(#[source] io::Error),
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    #[error("cannot use lease file {}: {source}", path.display())]
    LeaseFile { path: PathBuf, source: io::Error },
    #[error(
        "another DHCP server ({server}) answers on {interface}; use proxy mode (leave out --dhcp-range) or stop it"
    )]
    ConflictingServer { server: Ipv4Addr, interface: String },
}

impl Server {
    /// Reads the lease file and prepares the service. The server role first probes for other DHCP
    /// servers, unless the process before this one has. That takes four seconds; one that answers on
    /// every network is an error.
    ///
    /// # Errors
    /// [`DhcpStartError`].
    pub async fn start(sockets: Sockets, config: DhcpConfig) -> Result<Self, DhcpStartError> {
        let DhcpConfig {
            interface,
            wait,
            advertise,
            bind,
            mode,
            boot,
            machines,
            leased,
            allowed,
            known_conflicts,
            servers,
            is_successor,
        } = config;
        let (only, sharing) = (interface.as_deref(), mode.sharing());
        let take = |socket| PortSocket::new(socket, only, sharing).map_err(DhcpStartError::Socket);
        let (dhcp, boot_server) = (take(sockets.dhcp)?, sockets.boot_server.map(take).transpose()?);
        let presence = Presence::new(interface.clone().or_else(|| dhcp.device().map(str::to_owned)));
        // Before the list is read, so that no change is missed.
        let changes = InterfaceChanges::listen();
        let interfaces = Interfaces::read(interface).map_err(DhcpStartError::Interfaces)?;
        let peers = peer_addresses(servers.as_deref());
        let (clock, targets, mut probes) = (Clock::start(), boot.current(), Probes::new(Arc::clone(&peers)));
        let (role, lease_file) = match mode {
            DhcpMode::Proxy => (Role::Proxy, None),
            DhcpMode::Server(config) => {
                let mut server_role =
                    subnets::server_role(&config.subnets, targets.rules(), &interfaces, wait)?;
                if servers.is_some() {
                    server_role.subnets.iter_mut().for_each(Subnet::share);
                }
                // After the fixed addresses, against which the lease file is checked.
                let file = config.lease_file;
                let file =
                    file.map(|path| open_lease_file(path, &mut server_role, clock.now())).transpose()?;
                let links = probed(&server_role, &interfaces);
                if let Some(conflicts) = known_conflicts.at(Instant::now()) {
                    server_role.recall_conflicts(&conflicts, clock.now());
                    probes.start(links);
                } else {
                    probes.remember(&links);
                    yield_to_others(&mut server_role, links, &peers, clock.now()).await?;
                }
                fill_leased(&leased, &server_role);
                (Role::Server(server_role), file)
            }
        };
        let mut server = Self {
            dhcp,
            boot_server,
            presence,
            changes,
            probes,
            known_conflicts,
            network_error: None,
            session: Session {
                role,
                boot: BootTargets::clone(&targets),
                allowed,
                limited_ipxes: LimitedIpxes::default(),
            },
            boot,
            machines,
            interfaces,
            advertise,
            bind,
            leased,
            lease_file,
            address_use: AddressUse::default(),
            turns: servers.map(|servers| TurnQueue::new(servers, (!is_successor).then(Instant::now))),
            clock,
            log: DhcpLog::default(),
        };
        server.follow_interface();
        server.publish_conflicts();
        Ok(server)
    }
}

/// Fills the table of leases for boot files: a machine that boots now may have its lease from an
/// earlier run.
pub(super) fn fill_leased(leased: &Leased, server_role: &ServerRole) {
    let mut events: Vec<_> = server_role.snapshot().collect();
    // Of a machine with leases on two networks, the later one counts.
    events.sort_by_key(Event::until);
    events.iter().for_each(|event| update_leased(leased, server_role, event));
}

/// Applies an event to the table of leases for boot files.
pub(super) fn update_leased(leased: &Leased, server_role: &ServerRole, event: &Event) {
    let Event::Leased { address, machine, .. } = *event else { return leased.free(event.address()) };
    let network = server_role.of(address).map(|Subnet { network, .. }| network);
    if let (Some(machine), Some(Network { netmask: Some(netmask), router, .. })) = (mac(&machine), network) {
        leased.grant(machine, Lease { address, netmask: *netmask, router: *router });
    }
}

fn open_lease_file(
    path: PathBuf,
    server_role: &mut ServerRole,
    now: UnixTime,
) -> Result<LeaseFile, DhcpStartError> {
    LeaseFile::open(&path, server_role, now).map_err(|source| DhcpStartError::LeaseFile { path, source })
}

/// Looks for other DHCP servers on the networks that `mode` serves, which takes four seconds.
///
/// # Errors
/// [`DhcpStartError`] if the networks are not as the server role needs them.
pub(crate) async fn look_for_others(
    mode: &DhcpMode,
    interface: Option<String>,
    rules: &Rules,
    wait: bool,
    servers: Option<&Servers>,
) -> Result<Vec<DhcpProbe>, DhcpStartError> {
    let interfaces = Interfaces::read(interface).map_err(DhcpStartError::Interfaces)?;
    let links = match mode {
        DhcpMode::Proxy => interfaces.links(),
        DhcpMode::Server(config) => {
            probed(&subnets::server_role(&config.subnets, rules, &interfaces, wait)?, &interfaces)
        }
    };
    Ok(conflict::probe_all(links, &peer_addresses(servers)).await)
}

/// Returns all addresses of the servers that share machines.
fn peer_addresses(servers: Option<&Servers>) -> Arc<[Ipv4Addr]> {
    servers
        .into_iter()
        .flat_map(Servers::iter)
        .flat_map(|server| server.addresses().iter().copied())
        .collect()
}

/// Returns the interfaces on which other DHCP servers would be, each with our address there.
pub(super) fn probed(server_role: &ServerRole, interfaces: &Interfaces) -> Vec<(Interface, Ipv4Addr)> {
    server_role.subnets.iter().flat_map(|subnet| interfaces.in_network(&subnet.network)).collect()
}

/// Probes for other DHCP servers and records them. Fails if they leave no network to lease
/// addresses on.
async fn yield_to_others(
    server_role: &mut ServerRole,
    links: Vec<(Interface, Ipv4Addr)>,
    peers: &Arc<[Ipv4Addr]>,
    now: UnixTime,
) -> Result<(), DhcpStartError> {
    let conflicts = conflict::find_all(links, peers).await;
    for Conflict { server, local, .. } in &conflicts {
        server_role.saw_conflict(*server, *local, now);
    }
    let offers = server_role.offers(now);
    for Conflict { server, interface, .. } in conflicts {
        if !offers {
            return Err(DhcpStartError::ConflictingServer { server, interface });
        }
        warn!(%server, %interface, "another DHCP server found: no offers there until it is silent for 15 minutes");
    }
    Ok(())
}
