//! Settings of DHCP, and of router advertisements to its clients.

use std::path::PathBuf;

use super::value::{self, DhcpMode};
use super::{Asked, Checker, ConfigError, Environment};
use crate::dhcp::server::ServerConfig;

/// Key of a setting that two functions read.
const ROUTER_ADVERTISEMENT: &str = "router-advertisement";

/// Role in DHCP.
#[derive(Debug, Clone)]
pub enum Dhcp {
    Off,
    /// Answers machines that boot from the network, beside another DHCP server.
    Proxy(Asked),
    /// Is the DHCP server.
    Server(ServerConfig),
}

/// Treatment of router solicitations (RFC 4861 §6.2.6) from machines that boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solicitations {
    Ignored,
    /// Answered with an advertisement that there is no router.
    Answered,
}

impl Dhcp {
    pub(crate) const fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }
}

impl Checker<'_> {
    pub(super) fn dhcp(&self) -> Result<Dhcp, ConfigError> {
        let options = self.options;
        let mode = self.read("dhcp", &options.dhcp, value::dhcp_mode)?;
        let subnets = self.subnets()?;
        match (mode, self.first_range(), &options.dhcp) {
            // A range makes sense for a server only, so it implies one.
            (None | Some(DhcpMode::Server), Some(_), _) => {
                Ok(Dhcp::Server(ServerConfig { subnets, lease_file: Some(self.lease_file()?) }))
            }
            (Some(DhcpMode::Server), None, Some(value)) => {
                Err(self.wrong("dhcp", value, "has no addresses to lease; add `dhcp-range`, FIRST-LAST"))
            }
            (_, Some(range), _) => {
                Err(self.wrong("dhcp-range", range, "needs `dhcp = server`; remove one of the two"))
            }
            (mode, None, _) => self.without_range(mode),
        }
    }

    fn without_range(&self, mode: Option<DhcpMode>) -> Result<Dhcp, ConfigError> {
        self.require_no_server_settings()?;
        let is_answering = self.solicitations()? == Solicitations::Answered;
        match (mode, &self.options.router_advertisement) {
            // Only machines that were offered a boot file by DHCP are told.
            (Some(DhcpMode::Off), Some(value)) if is_answering => {
                let why = "needs DHCP, which is off; remove one of the two";
                Err(self.wrong(ROUTER_ADVERTISEMENT, value, why))
            }
            (Some(DhcpMode::Off), _) => Ok(Dhcp::Off),
            (None, _) if !is_answering => Ok(Dhcp::Proxy(Asked::ByDefault)),
            // A wish for advertisements is one for DHCP: without it nobody would be answered.
            _ => Ok(Dhcp::Proxy(Asked::ByOperator)),
        }
    }

    /// Refuses settings that only a DHCP server uses.
    fn require_no_server_settings(&self) -> Result<(), ConfigError> {
        let options = self.options;
        let settings = [
            ("netmask", options.netmask.as_ref()),
            ("router", options.router.as_ref()),
            ("dns", options.dns.iter().flatten().next()),
            ("lease-time", options.lease_time.as_ref()),
            ("lease-file", options.lease_file.as_ref()),
        ];
        match settings.into_iter().find_map(|(key, value)| Some((key, value?))) {
            Some((key, value)) => {
                Err(self.wrong(key, value, "needs a DHCP server; add `dhcp-range` or remove it"))
            }
            None => Ok(()),
        }
    }

    fn lease_file(&self) -> Result<PathBuf, ConfigError> {
        let path = self.read("lease-file", &self.options.lease_file, |text| Ok(self.resolve(text)))?;
        Ok(path.unwrap_or_else(|| state_directory(self.variables).join("leases")))
    }

    pub(super) fn solicitations(&self) -> Result<Solicitations, ConfigError> {
        let answered = self.read(ROUTER_ADVERTISEMENT, &self.options.router_advertisement, value::truth)?;
        Ok(if answered == Some(true) { Solicitations::Answered } else { Solicitations::Ignored })
    }
}

/// Returns the directory of state: systemd's, else that of the XDG Base Directory Specification.
pub(super) fn state_directory(variables: Environment<'_>) -> PathBuf {
    // systemd.exec(5): StateDirectory= sets STATE_DIRECTORY.
    directory(variables, "STATE_DIRECTORY")
        .or_else(|| directory(variables, "XDG_STATE_HOME").map(|state| state.join("isowire")))
        // The default of XDG_STATE_HOME is ~/.local/state.
        .or_else(|| directory(variables, "HOME").map(|home| home.join(".local/state/isowire")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/isowire"))
}

/// Returns the directory in an environment variable.
pub(super) fn directory(variables: Environment<'_>, name: &str) -> Option<PathBuf> {
    // XDG Base Directory Specification: an empty variable counts as unset.
    variables(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}
