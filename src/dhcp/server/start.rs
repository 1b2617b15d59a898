//! Start of the DHCP service: from its configuration to a server that is ready to run.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracing::info;

use super::interfaces::{Interface, Interfaces};
use super::lease_file::LeaseFile;
use super::log::DhcpLog;
use super::socket::Socket;
use super::{Clock, Server, Sockets, conflict};
use crate::boot::leased::Lease;
use crate::boot::{BootTargets, Leased, Rules};
use crate::dhcp::lease::{Event, Leases, Pool, UnixTime};
use crate::dhcp::session::{LimitedIpxes, Network, Role, ServerRole, Session, mac};
use crate::dhcp::wire::HardwareAddress;
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
    pub pool: Pool,
    /// Netmask of the network; that of the interface on the pool's network if `None`.
    pub netmask: Option<Ipv4Addr>,
    /// Router of the network; our own address if `None`.
    pub router: Option<Ipv4Addr>,
    /// DNS servers; our own address if empty.
    pub dns: Vec<Ipv4Addr>,
    pub lease_seconds: u32,
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
    #[error(
        "no interface to serve has an address in the network of the DHCP range {0}; give it one, or choose a range in \
         its network (behind a relay agent: also set the netmask)"
    )]
    NoNetwork(Pool),
    #[error(
        "the DHCP range {pool} leaves the network {first}, netmask {netmask}; choose a smaller range",
        first = pool.first()
    )]
    PoolLeavesNetwork { pool: Pool, netmask: Ipv4Addr },
    #[error(
        "`address` {address} of a [[machine]] is outside the network (netmask {netmask}) or in use by this server, \
         the router or a DNS server; choose another"
    )]
    FixedAddress { address: Ipv4Addr, netmask: Ipv4Addr },
    #[error("cannot use lease file {}: {source}", path.display())]
    LeaseFile { path: PathBuf, source: io::Error },
    #[error(
        "another DHCP server ({server}) answers on {interface}; use proxy mode (leave out --dhcp-range) or stop it"
    )]
    ConflictingServer { server: Ipv4Addr, interface: String },
}

impl Server {
    /// Reads the lease file and prepares the service. The server role first probes for other DHCP
    /// servers, which takes four seconds.
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
                let (server_role, file) = server_role(config, targets.rules(), &interfaces, clock.now())?;
                refuse_conflicts(interfaces.in_network(&server_role.network)).await?;
                // A machine that boots now may have its lease from the earlier run.
                let snapshot = server_role.leases.snapshot();
                snapshot.for_each(|event| update_leased(&leased, &server_role.network, &event));
                (Role::Server(Box::new(server_role)), file)
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

/// Applies an event to the table of leases for boot files.
pub(super) fn update_leased(leased: &Leased, network: &Network, event: &Event) {
    let Event::Leased { address, machine, .. } = event else { return leased.free(event.address()) };
    if let Some(machine) = mac(machine) {
        leased.grant(machine, Lease { address: *address, netmask: network.netmask, router: network.router });
    }
}

/// Checks the configuration and reads the leases of an earlier run.
fn server_role(
    config: ServerConfig,
    rules: &Rules,
    interfaces: &Interfaces,
    now: UnixTime,
) -> Result<(ServerRole, Option<LeaseFile>), DhcpStartError> {
    let network = network(&config, interfaces)?;
    let reserved = reserved(&network, interfaces);
    let fixed = fixed_addresses(rules, &network, &reserved)?;
    // The fixed addresses come first: the lease file is checked against them.
    let mut leases = Leases::new(config.pool, config.lease_seconds, &reserved).with_fixed(fixed);
    let file = config.lease_file.map(|path| open_lease_file(path, &mut leases, now)).transpose()?;
    Ok((ServerRole::new(network, leases), file))
}

fn open_lease_file(path: PathBuf, leases: &mut Leases, now: UnixTime) -> Result<LeaseFile, DhcpStartError> {
    LeaseFile::open(&path, leases, now).map_err(|source| DhcpStartError::LeaseFile { path, source })
}

fn network(config: &ServerConfig, interfaces: &Interfaces) -> Result<Network, DhcpStartError> {
    let pool = config.pool;
    let netmask = config.netmask.or_else(|| interfaces.netmask_of(pool.first()));
    let netmask = netmask.ok_or(DhcpStartError::NoNetwork(pool))?;
    let network = Network { address: pool.first(), netmask, router: config.router, dns: config.dns.clone() };
    if !network.contains(pool.last()) {
        return Err(DhcpStartError::PoolLeavesNetwork { pool, netmask });
    }
    Ok(network)
}

/// Returns the addresses that rules give to one machine each.
fn fixed_addresses(
    rules: &Rules,
    network: &Network,
    reserved: &[Ipv4Addr],
) -> Result<HashMap<HardwareAddress, Ipv4Addr>, DhcpStartError> {
    let mut fixed = HashMap::new();
    for (mac, address) in rules.fixed_addresses() {
        if !network.contains(address) || reserved.contains(&address) {
            return Err(DhcpStartError::FixedAddress { address, netmask: network.netmask });
        }
        fixed.insert(HardwareAddress::ethernet(mac.octets()), address);
    }
    Ok(fixed)
}

/// Returns the addresses that are never leased: those of this host, of the router and of the DNS
/// servers, and the first and last of the network.
fn reserved(network: &Network, interfaces: &Interfaces) -> Vec<Ipv4Addr> {
    let (address, mask) = (u32::from(network.address), u32::from(network.netmask));
    let ends = [address & mask, address | !mask].map(Ipv4Addr::from);
    // RFC 3021 §2.1: with a prefix of 31 bits both addresses are host addresses.
    let ends = ends.into_iter().filter(|_| !mask > 1);
    let own = interfaces.addresses().map(|own| own.ip);
    own.chain(network.router).chain(network.dns.iter().copied()).chain(ends).collect()
}

/// Probes all interfaces at the same time, and fails if another DHCP server answers.
async fn refuse_conflicts(probed: Vec<(Interface, Ipv4Addr)>) -> Result<(), DhcpStartError> {
    let mut probes = JoinSet::new();
    for (interface, local) in probed {
        probes.spawn(async move { (conflict::find(&interface, local).await, interface.name) });
    }
    while let Some(probed) = probes.join_next().await {
        match probed {
            Ok((Ok(Some(server)), interface)) => {
                return Err(DhcpStartError::ConflictingServer { server, interface });
            }
            // Port 68 may need a privilege that the service lacks. It starts nevertheless, and
            // still yields to another server that a client chooses.
            Ok((Err(error), interface)) => {
                info!(%interface, "probe for other DHCP servers failed: {error}. Make sure that there is none");
            }
            Ok((Ok(None), _)) | Err(_) => {}
        }
    }
    Ok(())
}
