//! Networks of the DHCP server: the keys before the first header, and `[[subnet]]`.

use std::net::Ipv4Addr;

use super::raw::RawValue;
use super::{Checker, ConfigError, value};
use crate::dhcp::lease::Pool;
use crate::dhcp::server::{DEFAULT_LEASE_SECONDS, SubnetConfig};
use crate::dhcp::session::ServerRole;

/// Key of the range of a network.
const RANGE: &str = "dhcp-range";

/// Most addresses of all ranges together: 256 networks with 1024 each. It bounds the memory of
/// leases.
const ADDRESSES_MAX: u32 = 4 * Pool::MAX_LEN;

/// Settings of one network, as they were typed.
struct RawSubnet<'a> {
    range: &'a RawValue,
    netmask: &'a Option<RawValue>,
    router: &'a Option<RawValue>,
    dns: &'a Option<Vec<RawValue>>,
    lease_time: &'a Option<RawValue>,
}

impl Checker<'_> {
    /// Returns the first range, by which isowire is a DHCP server.
    pub(super) fn first_range(&self) -> Option<&RawValue> {
        self.raw_subnets().next().map(|raw| raw.range)
    }

    fn raw_subnets(&self) -> impl Iterator<Item = RawSubnet<'_>> {
        let options = self.options;
        let simple = options.dhcp_range.iter().map(move |range| RawSubnet {
            range,
            netmask: &options.netmask,
            router: &options.router,
            dns: &options.dns,
            lease_time: &options.lease_time,
        });
        simple.chain(options.subnet.iter().map(move |subnet| RawSubnet {
            range: &subnet.dhcp_range,
            netmask: &subnet.netmask,
            router: &subnet.router,
            dns: if subnet.dns.is_some() { &subnet.dns } else { &options.dns },
            lease_time: if subnet.lease_time.is_some() { &subnet.lease_time } else { &options.lease_time },
        }))
    }

    /// Checks all networks.
    pub(super) fn subnets(&self) -> Result<Vec<SubnetConfig>, ConfigError> {
        self.require_range_of_one()?;
        let mut subnets: Vec<SubnetConfig> = Vec::new();
        for raw in self.raw_subnets() {
            if subnets.len() == ServerRole::MAX_SUBNETS {
                let why = format!("one range too many; at most {} fit", ServerRole::MAX_SUBNETS);
                return Err(self.wrong(RANGE, raw.range, &why));
            }
            let subnet = self.subnet(&raw)?;
            if let Some(position) = subnets.iter().position(|other| overlap(other, &subnet)) {
                return Err(self.overlapping(&raw, position));
            }
            subnets.push(subnet);
            if subnets.iter().map(|subnet| subnet.pool.len()).sum::<u32>() > ADDRESSES_MAX {
                let why = format!("more than {ADDRESSES_MAX} addresses in all ranges together; take fewer");
                return Err(self.wrong(RANGE, raw.range, &why));
            }
        }
        Ok(subnets)
    }

    /// Refuses a netmask and a router of one network that stand before all networks.
    fn require_range_of_one(&self) -> Result<(), ConfigError> {
        let options = self.options;
        let mut settings = [("netmask", &options.netmask), ("router", &options.router)].into_iter();
        let is_server = options.dhcp_range.is_none() && !options.subnet.is_empty();
        match settings.find_map(|(key, value)| Some((key, value.as_ref()?))) {
            Some((key, value)) if is_server => {
                Err(self.wrong(key, value, "is of one network; move it below its [[subnet]]"))
            }
            _ => Ok(()),
        }
    }

    fn subnet(&self, raw: &RawSubnet<'_>) -> Result<SubnetConfig, ConfigError> {
        let pool = self.parse(RANGE, raw.range, &value::range)?;
        let netmask = self.read("netmask", raw.netmask, value::netmask)?;
        let router = self.read("router", raw.router, value::host_address)?;
        // Without a netmask that of the interface counts, which is known only when the server
        // starts.
        if let Some(mask) = netmask {
            self.require_one_network(raw.range, pool, mask, router)?;
        }
        // A machine with such a lease could not load anything.
        if let Some(refused) = self.allowed()?.first_refused(pool.first(), pool.last()) {
            let why = format!("contains {refused}, which is not in `allow`; change one of them");
            return Err(self.wrong(RANGE, raw.range, &why));
        }
        let lease_seconds = self.read("lease-time", raw.lease_time, value::lease_time)?;
        Ok(SubnetConfig {
            pool,
            netmask,
            router,
            dns: self.read_all("dns", raw.dns, value::host_address)?,
            lease_seconds: lease_seconds.unwrap_or(DEFAULT_LEASE_SECONDS),
        })
    }

    fn require_one_network(
        &self,
        range: &RawValue,
        pool: Pool,
        mask: Ipv4Addr,
        router: Option<Ipv4Addr>,
    ) -> Result<(), ConfigError> {
        let network = pool.first() & mask;
        let mut others = [Some(pool.last()), router].into_iter().flatten();
        // A machine reaches its router only in its own network.
        match others.find(|&address| address & mask != network) {
            Some(outside) => {
                let why = format!("not in one network with {outside} by netmask {mask}; change one of them");
                Err(self.wrong(RANGE, range, &why))
            }
            None => Ok(()),
        }
    }

    /// Returns the error about a network that overlaps with the one at `position`.
    fn overlapping(&self, raw: &RawSubnet<'_>, position: usize) -> ConfigError {
        let other = self.raw_subnets().nth(position);
        let place = other.map(|other| self.place(RANGE, other.range)).unwrap_or_default();
        let why = format!("overlaps with the network of {place}; give each network one range");
        self.wrong(RANGE, raw.range, &why)
    }
}

/// Returns whether two networks have an address in common. Of a network without a netmask only the
/// range is known.
fn overlap(one: &SubnetConfig, other: &SubnetConfig) -> bool {
    let ((first, last), (other_first, other_last)) = (extent(one), extent(other));
    first <= other_last && other_first <= last
}

/// Returns the first and the last address that are known to be in the network.
fn extent(subnet: &SubnetConfig) -> (Ipv4Addr, Ipv4Addr) {
    let mask = subnet.netmask.unwrap_or(Ipv4Addr::BROADCAST);
    (subnet.pool.first() & mask, subnet.pool.last() | !mask)
}

#[cfg(test)]
mod tests;
