//! The settings of DHCP, and of what is told to those who ask by it.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::raw::Value;
use super::value::{self, Mode};
use super::{Asked, Checker, Dhcp, Solicitations, Wrong, state_directory};
use crate::dhcp::lease::Pool;
use crate::dhcp::server::{DEFAULT_LEASE_SECONDS, ServerConfig};

/// A key that is told in more than one complaint.
const ROUTER_ADVERTISEMENT: &str = "router-advertisement";

impl Checker<'_> {
    pub(super) fn dhcp(&self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Dhcp, Wrong> {
        let raw = self.raw;
        let mode = self.read("dhcp", &raw.dhcp, value::dhcp_mode)?;
        let range = self.read("dhcp-range", &raw.dhcp_range, value::range)?;
        match (mode, range, &raw.dhcp, &raw.dhcp_range) {
            (None | Some(Mode::Server), Some(range), _, Some(value)) => {
                self.authority(range, value, variable).map(Dhcp::Server)
            }
            (Some(Mode::Server), None, Some(value), _) => {
                Err(self.wrong("dhcp", value, "has no addresses to lease: add `dhcp-range`, FIRST-LAST"))
            }
            (_, Some(_), _, Some(value)) => {
                Err(self.wrong("dhcp-range", value, "is for `dhcp = server`: leave out one of the two"))
            }
            (mode, ..) => {
                self.nothing_for_a_server()?;
                let is_needed = self.solicitations()? == Solicitations::Answered;
                match (mode, &raw.router_advertisement) {
                    (Some(Mode::Off), Some(value)) if is_needed => {
                        let why = "is for machines that ask by DHCP, which is off: leave out one of the two";
                        Err(self.wrong(ROUTER_ADVERTISEMENT, value, why))
                    }
                    (Some(Mode::Off), _) => Ok(Dhcp::Off),
                    (None, _) if !is_needed => Ok(Dhcp::Proxy(Asked::ByDefault)),
                    _ => Ok(Dhcp::Proxy(Asked::ByOperator)),
                }
            }
        }
    }

    /// Settings of a DHCP server do nothing where we are none.
    fn nothing_for_a_server(&self) -> Result<(), Wrong> {
        let raw = self.raw;
        let dns = raw.dns.iter().flat_map(|list| list.0.first()).next();
        let settings = [
            ("netmask", raw.netmask.as_ref()),
            ("router", raw.router.as_ref()),
            ("dns", dns),
            ("lease-time", raw.lease_time.as_ref()),
            ("lease-file", raw.lease_file.as_ref()),
        ];
        match settings.into_iter().find_map(|(key, value)| Some((key, value?))) {
            Some((key, value)) => {
                Err(self.wrong(key, value, "needs a DHCP server: add `dhcp-range`, or leave it out"))
            }
            None => Ok(()),
        }
    }

    fn authority(
        &self,
        pool: Pool,
        range: &Value,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<ServerConfig, Wrong> {
        let raw = self.raw;
        let netmask = self.read("netmask", &raw.netmask, value::netmask)?;
        let router = self.read("router", &raw.router, value::host_address)?;
        if let Some(mask) = netmask {
            let outside = |&address: &Ipv4Addr| (address & mask) != (pool.first() & mask);
            if let Some(outside) = [Some(pool.last()), router].into_iter().flatten().find(outside) {
                let why =
                    format!("is not in one network with {outside} by the netmask {mask}: change one of them");
                return Err(self.wrong("dhcp-range", range, &why));
            }
        }
        if let Some(refused) = self.allowed()?.first_refused(pool.first(), pool.last()) {
            let why = format!("has {refused}, which is not in `allow`: change one of them");
            return Err(self.wrong("dhcp-range", range, &why));
        }
        let lease_seconds = self.read("lease-time", &raw.lease_time, value::lease_time)?;
        Ok(ServerConfig {
            pool,
            netmask,
            router,
            dns: self.read_all("dns", &raw.dns, value::host_address)?,
            lease_seconds: lease_seconds.unwrap_or(DEFAULT_LEASE_SECONDS),
            lease_file: Some(self.lease_file(variable)?),
        })
    }

    fn lease_file(&self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, Wrong> {
        let path = self.read("lease-file", &self.raw.lease_file, |text| Ok(self.resolve(text)))?;
        Ok(path.unwrap_or_else(|| state_directory(variable).join("leases")))
    }

    pub(super) fn solicitations(&self) -> Result<Solicitations, Wrong> {
        let answered = self.read(ROUTER_ADVERTISEMENT, &self.raw.router_advertisement, value::truth)?;
        Ok(if answered == Some(true) { Solicitations::Answered } else { Solicitations::Ignored })
    }
}
