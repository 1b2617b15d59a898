//! Networks of the server role: from the operator's settings, the interfaces and the rules.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::interfaces::Interfaces;
use crate::boot::Rules;
use crate::dhcp::lease::{Leases, Pool};
use crate::dhcp::session::{Network, ServerRole, Subnet};
use crate::dhcp::wire::HardwareAddress;
use crate::mac::Mac;

/// Most networks that an error names.
const NAMED_MAX: usize = 8;

/// Configuration of one network of the server role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetConfig {
    pub pool: Pool,
    /// Netmask of the network; that of the interface on the pool's network if `None`.
    pub netmask: Option<Ipv4Addr>,
    /// Router of the network; our own address if `None`.
    pub router: Option<Ipv4Addr>,
    /// DNS servers; our own address if empty.
    pub dns: Vec<Ipv4Addr>,
    pub lease_seconds: u32,
}

/// Error of the network of a DHCP range.
#[derive(Debug, thiserror::Error)]
pub enum SubnetError {
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
        "the DHCP ranges {pool} and {other} are in one network, by the netmask of their interface; leave one out, or \
         set their netmasks"
    )]
    OneNetwork { pool: Pool, other: Pool },
    #[error(
        "`address` {0} of a [[machine]] is in use by this server, the router or a DNS server, or no host can have it; \
         choose another"
    )]
    FixedAddressInUse(Ipv4Addr),
    #[error(
        "`address` {address} of a [[machine]] is on none of the networks with a DHCP range ({networks}); choose one there"
    )]
    FixedAddressOutside { address: Ipv4Addr, networks: String },
}

/// Creates the server role without leases.
///
/// # Errors
/// [`SubnetError`] of the first network or fixed address that does not fit.
pub(super) fn server_role(
    configs: &[SubnetConfig],
    rules: &Rules,
    interfaces: &Interfaces,
) -> Result<ServerRole, SubnetError> {
    let mut subnets: Vec<Subnet> = Vec::new();
    let mut fixed: Vec<(Mac, Ipv4Addr)> = rules.fixed_addresses().collect();
    for config in configs {
        let network = network(config, interfaces)?;
        if let Some(other) = subnets.iter().find(|other| other.network.overlaps(&network)) {
            return Err(SubnetError::OneNetwork { pool: config.pool, other: other.leases.pool() });
        }
        let reserved = reserved(&network, interfaces);
        let fixed = fixed_addresses(&mut fixed, &network, &reserved)?;
        let leases = Leases::new(config.pool, config.lease_seconds, &reserved).with_fixed(fixed);
        subnets.push(Subnet::new(network, leases));
    }
    match fixed.first() {
        Some(&(_, address)) => Err(SubnetError::FixedAddressOutside { address, networks: names(&subnets) }),
        None => Ok(ServerRole::new(subnets)),
    }
}

fn network(config: &SubnetConfig, interfaces: &Interfaces) -> Result<Network, SubnetError> {
    let pool = config.pool;
    let netmask = config.netmask.or_else(|| interfaces.netmask_of(pool.first()));
    let netmask = netmask.ok_or(SubnetError::NoNetwork(pool))?;
    let network = Network { address: pool.first(), netmask, router: config.router, dns: config.dns.clone() };
    if !network.contains(pool.last()) {
        return Err(SubnetError::PoolLeavesNetwork { pool, netmask });
    }
    Ok(network)
}

/// Takes those of `fixed` that are on this network, each the address of one machine.
fn fixed_addresses(
    fixed: &mut Vec<(Mac, Ipv4Addr)>,
    network: &Network,
    reserved: &[Ipv4Addr],
) -> Result<HashMap<HardwareAddress, Ipv4Addr>, SubnetError> {
    let here: Vec<_> = fixed.extract_if(.., |(_, address)| network.contains(*address)).collect();
    match here.iter().find(|(_, address)| reserved.contains(address)) {
        Some(&(_, address)) => Err(SubnetError::FixedAddressInUse(address)),
        None => Ok(here
            .into_iter()
            .map(|(mac, address)| (HardwareAddress::ethernet(mac.octets()), address))
            .collect()),
    }
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

/// Returns the networks as a list for a person.
fn names(subnets: &[Subnet]) -> String {
    let prefixes = subnets.iter().filter_map(|subnet| subnet.network.prefix());
    let named: Vec<_> = prefixes.take(NAMED_MAX).map(|prefix| prefix.to_string()).collect();
    match subnets.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
