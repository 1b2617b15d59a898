//! Networks of the server role: from the operator's settings, the interfaces and the rules.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use tracing::{info, warn};

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

/// Creates the server role without leases. With `wait`, a network that no interface is on yet stays
/// unknown.
///
/// # Errors
/// [`SubnetError`] of the first network or fixed address that does not fit.
pub(super) fn server_role(
    configs: &[SubnetConfig],
    rules: &Rules,
    interfaces: &Interfaces,
    wait: bool,
) -> Result<ServerRole, SubnetError> {
    let mut subnets: Vec<Subnet> = Vec::new();
    let mut fixed: Vec<(Mac, Ipv4Addr)> = rules.fixed_addresses().collect();
    for config in configs {
        let netmask = config.netmask.or_else(|| interfaces.netmask_of(config.pool.first()));
        let network = network(config.pool, netmask, config.router, &config.dns)?;
        if netmask.is_none() {
            require_waiting(wait, config.pool)?;
        }
        if let Some(other) = subnets.iter().find(|other| other.network.overlaps(&network)) {
            return Err(SubnetError::OneNetwork { pool: config.pool, other: other.leases.pool() });
        }
        let reserved = reserved(&network, interfaces);
        let fixed = fixed_addresses(&mut fixed, &network, &reserved)?;
        let leases = Leases::new(config.pool, config.lease_seconds, &reserved).with_fixed(fixed);
        subnets.push(Subnet::new(network, leases));
    }
    // An address on none of them may be on one that is unknown.
    let is_unknown = subnets.iter().any(|subnet| subnet.network.netmask.is_none());
    match fixed.first().filter(|_| !is_unknown) {
        Some(&(_, address)) => Err(SubnetError::FixedAddressOutside { address, networks: names(&subnets) }),
        None => Ok(ServerRole::new(subnets)),
    }
}

fn require_waiting(wait: bool, pool: Pool) -> Result<(), SubnetError> {
    if !wait {
        return Err(SubnetError::NoNetwork(pool));
    }
    warn!(range = %pool, "waiting for an interface with an address in the network of the DHCP range");
    Ok(())
}

/// Takes over what the interfaces tell: netmasks that were unknown, and the addresses of this host,
/// which are not leased any more. Returns whether a network is new, and the first range whose network
/// does not fit. Such networks stay unknown.
pub(super) fn update(
    server_role: &mut ServerRole,
    rules: &Rules,
    interfaces: &Interfaces,
) -> (bool, Option<(Pool, SubnetError)>) {
    for subnet in &mut server_role.subnets {
        subnet.leases.reserve(reserved(&subnet.network, interfaces));
    }
    let networks: Vec<_> = server_role.subnets.iter().map(range).collect();
    let (mut is_new, mut first_unfit) = (false, None);
    for subnet in server_role.subnets.iter_mut().filter(|subnet| subnet.network.netmask.is_none()) {
        match learn(subnet, &networks, rules, interfaces) {
            Ok(is_known) => is_new |= is_known,
            Err(error) => drop(first_unfit.get_or_insert((subnet.leases.pool(), error))),
        }
    }
    (is_new, first_unfit)
}

/// Takes over the netmask of the interface that is on the network of a subnet. Returns whether
/// there is one.
fn learn(
    subnet: &mut Subnet,
    others: &[(Pool, Network)],
    rules: &Rules,
    interfaces: &Interfaces,
) -> Result<bool, SubnetError> {
    let (pool, Network { router, dns, .. }) = range(subnet);
    let Some(netmask) = interfaces.netmask_of(pool.first()) else { return Ok(false) };
    let network = network(pool, Some(netmask), router, &dns)?;
    let is_other = |(other, known): &&(Pool, Network)| *other != pool && known.overlaps(&network);
    if let Some((other, _)) = others.iter().find(is_other) {
        return Err(SubnetError::OneNetwork { pool, other: *other });
    }
    let reserved = reserved(&network, interfaces);
    subnet.leases.fix(fixed_addresses(&mut rules.fixed_addresses().collect(), &network, &reserved)?);
    subnet.leases.reserve(reserved);
    subnet.network = network;
    info!(range = %pool, %netmask, "network of the DHCP range is there");
    Ok(true)
}

/// Returns the range and the network of a subnet.
fn range(subnet: &Subnet) -> (Pool, Network) {
    (subnet.leases.pool(), subnet.network.clone())
}

fn network(
    pool: Pool,
    netmask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    dns: &[Ipv4Addr],
) -> Result<Network, SubnetError> {
    let network = Network { address: pool.first(), netmask, router, dns: dns.to_vec() };
    match netmask {
        Some(netmask) if !network.contains(pool.last()) => {
            Err(SubnetError::PoolLeavesNetwork { pool, netmask })
        }
        _ => Ok(network),
    }
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
    let address = u32::from(network.address);
    // RFC 3021 §2.1: with a prefix of 31 bits both addresses are host addresses.
    let mask = network.netmask.map(u32::from).filter(|mask| !mask > 1);
    let ends = mask.into_iter().flat_map(|mask| [address & mask, address | !mask]).map(Ipv4Addr::from);
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

#[cfg(test)]
mod tests {
    use super::super::interfaces::tests::with_addresses;
    use super::*;

    #[test]
    fn range_that_does_not_fit_leaves_the_others() {
        let ranges = ["10.1.0.10-10.1.0.20", "10.2.0.200-10.2.1.20", "10.3.0.10-10.3.0.20"];
        let pools: [Pool; 3] = ranges.map(|range| range.parse().unwrap());
        let config =
            |pool| SubnetConfig { pool, netmask: None, router: None, dns: Vec::new(), lease_seconds: 600 };
        let rules = Rules::new(Vec::new());
        let mut role = server_role(&pools.map(config), &rules, &with_addresses(&[]), true).unwrap();
        for is_new in [true, false] {
            let updated = update(&mut role, &rules, &with_addresses(&[1, 2, 3]));
            let (found_new, Some((pool, SubnetError::PoolLeavesNetwork { .. }))) = updated else {
                panic!("{updated:?}")
            };
            assert_eq!((found_new, pool), (is_new, pools[1]));
        }
        let is_known = |subnet: &Subnet| subnet.network.netmask.is_some();
        assert_eq!(role.subnets.iter().map(is_known).collect::<Vec<_>>(), [true, false, true]);
    }
}
