//! From what the operator wants to a server that is ready to run.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::info;

use super::interfaces::{Interface, Interfaces};
use super::lease_file::LeaseFile;
use super::socket::Socket;
use super::story::Story;
use super::{Clock, Server, Sockets, conflict};
use crate::boot::leased::Lease;
use crate::boot::{self, Leased, Rules};
use crate::dhcp::lease::{Event, Leases, Pool, UnixTime};
use crate::dhcp::session::{Network, Role, ServerRole, Session, mac};
use crate::dhcp::wire::HardwareAddress;
use crate::export::Allowed;
use crate::machines::Registry;
use crate::watched::Watched;

/// A day: the initramfs takes its address once and never renews it, so a lease should outlast a boot and what is done
/// in it.
pub const DEFAULT_LEASE_SECONDS: u32 = 86_400;

/// What the operator wants.
#[derive(Debug, Clone)]
pub struct Config {
    /// Serve this interface only.
    pub interface: Option<String>,
    /// Tell clients this address; else ours on the interface they ask on.
    pub advertise: Option<Ipv4Addr>,
    pub mode: Mode,
    /// What machines boot with.
    pub boot: Watched<boot::BootTargets>,
    /// Where it is noted what machines are leased.
    pub leased: Arc<Leased>,
    /// Told of each machine's way.
    pub machines: Arc<Registry>,
    /// Who is answered, of those that have an address.
    pub allowed: Allowed,
}

/// How we stand to the network.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Beside another DHCP server.
    Proxy,
    /// As the only one.
    Server(ServerConfig),
}

/// What an authority leases.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub pool: Pool,
    /// Else that of the interface whose network the pool lies in.
    pub netmask: Option<Ipv4Addr>,
    /// Else our own address.
    pub router: Option<Ipv4Addr>,
    /// Else our own address.
    pub dns: Vec<Ipv4Addr>,
    pub lease_seconds: u32,
    /// Keeps leases over a restart.
    pub lease_file: Option<PathBuf>,
}

/// Why the server cannot start; each says what to do.
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
    #[error("the DHCP range {pool} leaves the network {first}, netmask {netmask}", first = pool.first())]
    PoolLeavesNetwork { pool: Pool, netmask: Ipv4Addr },
    #[error(
        "the `address` {address} of a [[machine]] is not one for machines of the network, netmask {netmask}, or somebody \
         has it: choose another"
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
    /// Reads the lease file, and makes sure that no other DHCP server answers (an authority takes four seconds for
    /// that).
    ///
    /// # Errors
    /// [`DhcpStartError`].
    pub async fn start(sockets: Sockets, config: Config) -> Result<Self, DhcpStartError> {
        let Config { interface, advertise, mode, boot, machines, leased, allowed } = config;
        let interfaces = Interfaces::read().map_err(DhcpStartError::Interfaces)?;
        let (clock, site) = (Clock::start(), boot.current());
        let (role, lease_file) = match mode {
            Mode::Proxy => (Role::Proxy, None),
            Mode::Server(config) => {
                let (server_role, file) =
                    server_role(config, site.rules(), &interfaces, interface.as_deref(), clock.now())?;
                refuse_conflicts(&serving(&interfaces, interface.as_deref(), &server_role.network)).await?;
                (Role::Server(Box::new(server_role)), file)
            }
        };
        if let Role::Server(server_role) = &role {
            let noted = server_role.leases.snapshot();
            noted.for_each(|event| note(&leased, &server_role.network, &event));
        }
        let adopt = |socket| Socket::new(socket).map_err(DhcpStartError::Socket);
        Ok(Self {
            dhcp: adopt(sockets.dhcp)?,
            boot_server: sockets.boot_server.map(adopt).transpose()?,
            session: Session { role, boot: boot::BootTargets::clone(&site), allowed },
            boot,
            machines,
            interfaces,
            interface,
            advertise,
            leased,
            lease_file,
            clock,
            story: Story::default(),
        })
    }
}

/// Keeps the table of what machines are leased in step with the leases.
pub(super) fn note(leased: &Leased, network: &Network, event: &Event) {
    let Event::Leased { address, machine, .. } = event else { return leased.free(event.address()) };
    if let Some(machine) = mac(machine) {
        leased.grant(machine, Lease { address: *address, netmask: network.netmask, router: network.router });
    }
}

fn server_role(
    config: ServerConfig,
    rules: &Rules,
    interfaces: &Interfaces,
    only: Option<&str>,
    now: UnixTime,
) -> Result<(ServerRole, Option<LeaseFile>), DhcpStartError> {
    let ServerConfig { pool, netmask, router, dns, lease_seconds, lease_file } = config;
    let netmask = netmask.or_else(|| netmask_of(interfaces, only, pool.first()));
    let netmask = netmask.ok_or(DhcpStartError::NoNetwork(pool))?;
    let network = Network { address: pool.first(), netmask, router, dns };
    if !network.contains(pool.last()) {
        return Err(DhcpStartError::PoolLeavesNetwork { pool, netmask });
    }
    let reserved = reserved(&network, interfaces);
    let fixed = fixed(rules, &network, &reserved)?;
    let mut leases = Leases::new(pool, lease_seconds, &reserved).with_fixed(fixed);
    let open = |path: PathBuf| match LeaseFile::open(&path, &mut leases, now) {
        Ok(file) => Ok(file),
        Err(source) => Err(DhcpStartError::LeaseFile { path, source }),
    };
    let file = lease_file.map(open).transpose()?;
    Ok((ServerRole::new(network, leases), file))
}

/// The addresses that rules give to one machine each.
fn fixed(
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

/// The netmask of the interface whose network `address` lies in.
fn netmask_of(interfaces: &Interfaces, only: Option<&str>, address: Ipv4Addr) -> Option<Ipv4Addr> {
    let served = interfaces.iter().filter(|interface| only.is_none_or(|only| only == interface.name));
    let mut addresses = served.flat_map(|interface| &interface.addresses);
    let same =
        |mask: Ipv4Addr, a: Ipv4Addr, b: Ipv4Addr| (u32::from(a) ^ u32::from(b)) & u32::from(mask) == 0;
    addresses.find(|own| same(own.netmask, own.ip, address)).map(|own| own.netmask)
}

/// Addresses that no machine may have: ours, the router's, the DNS servers', and the network's first and last.
fn reserved(network: &Network, interfaces: &Interfaces) -> Vec<Ipv4Addr> {
    let (address, mask) = (u32::from(network.address), u32::from(network.netmask));
    // Networks of 31 and 32 bits have no address of their own (RFC 3021).
    let ends = [address & mask, address | !mask].map(Ipv4Addr::from);
    let ends = ends.into_iter().filter(|_| !mask > 1);
    let own = interfaces.addresses().map(|own| own.ip);
    own.chain(network.router).chain(network.dns.iter().copied()).chain(ends).collect()
}

/// The interfaces on `network`, with our address there.
pub(super) fn serving(
    interfaces: &Interfaces,
    only: Option<&str>,
    network: &Network,
) -> Vec<(Interface, Ipv4Addr)> {
    let served = interfaces.iter().filter(|interface| only.is_none_or(|only| only == interface.name));
    let local = |interface: &Interface| {
        let mut own = interface.addresses.iter().map(|own| own.ip);
        own.find(|&ip| network.contains(ip)).map(|ip| (interface.clone(), ip))
    };
    served.filter(|interface| interface.is_broadcast).filter_map(local).collect()
}

/// Asks on every wire at once.
async fn refuse_conflicts(serving: &[(Interface, Ipv4Addr)]) -> Result<(), DhcpStartError> {
    let mut probes = tokio::task::JoinSet::new();
    for (interface, local) in serving.iter().cloned() {
        probes.spawn(async move { (conflict::find(&interface, local).await, interface.name) });
    }
    while let Some(probed) = probes.join_next().await {
        match probed {
            Ok((Ok(Some(server)), interface)) => {
                return Err(DhcpStartError::ConflictingServer { server, interface });
            }
            Ok((Err(error), interface)) => {
                info!(%interface, "cannot look for other DHCP servers ({error}): make sure there is none");
            }
            Ok((Ok(None), _)) | Err(_) => {}
        }
    }
    Ok(())
}
