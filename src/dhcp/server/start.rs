//! Start of the DHCP service: from its configuration to a server that is ready to run.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use tracing::warn;

use super::conflict::{self, Conflict};
use super::interfaces::{Interface, Interfaces};
use super::lease_file::LeaseFile;
use super::log::DhcpLog;
use super::socket::Socket;
use super::subnets::{self, SubnetConfig, SubnetError};
use super::{Clock, Server, Sockets};
use crate::boot::leased::Lease;
use crate::boot::{BootTargets, Leased};
use crate::dhcp::lease::{Event, UnixTime};
use crate::dhcp::session::{LimitedIpxes, Role, ServerRole, Session, Subnet, mac};
use crate::export::Allowed;
use crate::machines::Registry;
use crate::watched::Watched;

/// Length of a lease: one day. The initramfs takes its address once and never renews it, so a lease
/// must outlast a boot and the work that follows.
pub const DEFAULT_LEASE_SECONDS: u32 = 86_400;

/// Configuration of the DHCP service.
#[derive(Debug, Clone)]
pub struct DhcpConfig {
    /// The only interface to serve; all if `None`.
    pub interface: Option<String>,
    /// Address that clients are told; ours on their interface if `None`.
    pub advertise: Option<Ipv4Addr>,
    pub mode: DhcpMode,
    /// Programs, menus and rules that machines boot by.
    pub boot: Watched<BootTargets>,
    /// Table of leases for the boot files of each machine.
    pub leased: Arc<Leased>,
    /// Records of the machines that boot.
    pub machines: Arc<Registry>,
    /// Addresses whose clients get replies.
    pub allowed: Allowed,
}

/// Role of the service on its network.
#[derive(Debug, Clone)]
pub enum DhcpMode {
    /// Beside another DHCP server.
    Proxy,
    /// As the only DHCP server.
    Server(ServerConfig),
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
    /// servers, which takes four seconds; one that answers on every network is an error.
    ///
    /// # Errors
    /// [`DhcpStartError`].
    pub async fn start(sockets: Sockets, config: DhcpConfig) -> Result<Self, DhcpStartError> {
        let DhcpConfig { interface, advertise, mode, boot, machines, leased, allowed } = config;
        let interfaces = Interfaces::read(interface).map_err(DhcpStartError::Interfaces)?;
        let (clock, targets) = (Clock::start(), boot.current());
        let (role, lease_file) = match mode {
            DhcpMode::Proxy => (Role::Proxy, None),
            DhcpMode::Server(config) => {
                let mut server_role = subnets::server_role(&config.subnets, targets.rules(), &interfaces)?;
                // After the fixed addresses, against which the lease file is checked.
                let file = config.lease_file;
                let file =
                    file.map(|path| open_lease_file(path, &mut server_role, clock.now())).transpose()?;
                yield_to_others(&mut server_role, &interfaces, clock.now()).await?;
                fill_leased(&leased, &server_role);
                (Role::Server(server_role), file)
            }
        };
        Ok(Self {
            dhcp: take(sockets.dhcp)?,
            boot_server: sockets.boot_server.map(take).transpose()?,
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
            leased,
            lease_file,
            clock,
            log: DhcpLog::default(),
        })
    }
}

fn take(socket: UdpSocket) -> Result<Socket, DhcpStartError> {
    Socket::new(socket).map_err(DhcpStartError::Socket)
}

/// Fills the table of leases for boot files: a machine that boots now may have its lease from an
/// earlier run.
fn fill_leased(leased: &Leased, server_role: &ServerRole) {
    let mut events: Vec<_> = server_role.snapshot().collect();
    // Of a machine with leases on two networks, the later one counts.
    events.sort_by_key(Event::until);
    events.iter().for_each(|event| update_leased(leased, server_role, event));
}

/// Applies an event to the table of leases for boot files.
pub(super) fn update_leased(leased: &Leased, server_role: &ServerRole, event: &Event) {
    let Event::Leased { address, machine, .. } = *event else { return leased.free(event.address()) };
    if let (Some(machine), Some(Subnet { network, .. })) = (mac(&machine), server_role.of(address)) {
        leased.grant(machine, Lease { address, netmask: network.netmask, router: network.router });
    }
}

fn open_lease_file(
    path: PathBuf,
    server_role: &mut ServerRole,
    now: UnixTime,
) -> Result<LeaseFile, DhcpStartError> {
    LeaseFile::open(&path, server_role, now).map_err(|source| DhcpStartError::LeaseFile { path, source })
}

/// Returns the interfaces on which other DHCP servers would be, each with our address there.
pub(super) fn probed(server_role: &ServerRole, interfaces: &Interfaces) -> Vec<(Interface, Ipv4Addr)> {
    server_role.subnets.iter().flat_map(|subnet| interfaces.in_network(&subnet.network)).collect()
}

/// Probes for other DHCP servers and records them. Fails if they leave no network to lease
/// addresses on.
async fn yield_to_others(
    server_role: &mut ServerRole,
    interfaces: &Interfaces,
    now: UnixTime,
) -> Result<(), DhcpStartError> {
    let conflicts = conflict::find_all(probed(server_role, interfaces)).await;
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
