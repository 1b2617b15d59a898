//! Settings of this host's interfaces and addresses.

use std::net::Ipv4Addr;

use super::{Asked, Checker, Config, ConfigError, Dhcp, value};
use crate::interfaces::{self, Interface};

/// Most interfaces that an error lists.
const LISTED_MAX: usize = 12;

impl Checker<'_> {
    /// Returns whether a missing interface is waited for.
    pub(super) fn wait_interface(&self, interface: Option<&str>, dhcp: &Dhcp) -> Result<bool, ConfigError> {
        let wait = &self.options.wait_interface;
        match (self.read("wait-interface", wait, value::truth)?, wait) {
            (Some(true), Some(value)) if interface.is_none() && !matches!(dhcp, Dhcp::Server(_)) => {
                Err(self.wrong("wait-interface", value, "needs `interface`; add it, or remove this"))
            }
            // At boot, services of systemd start before all interfaces are there (sd_notify(3)).
            (wait, _) => Ok(wait.unwrap_or_else(|| {
                (self.variables)("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty())
            })),
        }
    }

    /// Refuses an interface that this host does not have, unless it is waited for.
    pub(super) fn require_interface(&self, config: &Config) -> Result<(), ConfigError> {
        let (Some(name), Some(value)) = (&config.interface, &self.options.interface) else { return Ok(()) };
        if config.wait_interface || interfaces::exists(name) {
            return Ok(());
        }
        let list = list(&interfaces::list().unwrap_or_default());
        let why = format!("no such interface; {list}; choose one, or add `wait-interface` to wait for it");
        Err(self.wrong("interface", value, &why))
    }

    /// Returns the address to listen on.
    pub(super) fn bind(&self, dhcp: &Dhcp, advertise: Option<Ipv4Addr>) -> Result<Ipv4Addr, ConfigError> {
        let bind = self.read("bind", &self.options.bind, value::address)?;
        let is_dhcp_asked = matches!(dhcp, Dhcp::Proxy(Asked::ByOperator) | Dhcp::Server(_));
        match (&self.options.bind, bind) {
            (Some(value), Some(bind)) if bind.is_loopback() && advertise.is_none() && is_dhcp_asked => {
                let why = "no machine can reach this address, so DHCP has none to tell; choose another, or add \
                           `advertise`";
                Err(self.wrong("bind", value, why))
            }
            _ => Ok(bind.unwrap_or(Ipv4Addr::UNSPECIFIED)),
        }
    }
}

/// Describes the interfaces that machines may be on.
fn list(interfaces: &[Interface]) -> String {
    // Loopback and tunnels have no machines to boot.
    let names: Vec<_> =
        interfaces.iter().filter(|link| link.is_broadcast).map(|link| link.name.as_str()).collect();
    match names.get(..LISTED_MAX) {
        _ if names.is_empty() => "this host has none yet".to_owned(),
        Some(first) if names.len() > LISTED_MAX => {
            format!("this host has {} and {} more", first.join(", "), names.len() - LISTED_MAX)
        }
        _ => format!("this host has {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{loaded, wrong};
    use super::*;

    fn link(name: String, is_broadcast: bool) -> Interface {
        Interface {
            name,
            index: 1,
            is_up: false,
            has_carrier: false,
            mac: None,
            addresses: vec![],
            is_broadcast,
            is_multicast: true,
        }
    }

    #[test]
    fn list_has_links_with_machines() {
        let mut links = vec![link("lo".into(), false)];
        assert_eq!(list(&links), "this host has none yet");
        links.extend((0..2).map(|n| link(format!("eth{n}"), true)));
        assert_eq!(list(&links), "this host has eth0, eth1");
        links.extend((2..99).map(|n| link(format!("eth{n}"), true)));
        assert!(list(&links).ends_with("eth10, eth11 and 87 more"), "{}", list(&links));
    }

    #[test]
    fn missing_interface_is_refused_or_waited_for() {
        let error = wrong("interface = 'no-such'\ndhcp = 'off'");
        let says = "isowire.toml:1: interface: `no-such`: no such interface; this host has ";
        assert!(error.starts_with(says), "{error}");
        assert!(error.ends_with("; choose one, or add `wait-interface` to wait for it"), "{error}");
        let error = loaded(&["x.iso", "-i", "no-such"], None).unwrap_err();
        assert!(error.starts_with("--interface: `no-such`: no such interface; "), "{error}");
        let waits = loaded(&["x.iso", "-i", "no-such", "--wait-interface"], None).unwrap();
        assert_eq!((waits.interface.as_deref(), waits.wait_interface), (Some("no-such"), true));
        assert!(!loaded(&["x.iso", "-i", "lo"], None).unwrap().wait_interface);
    }

    #[test]
    fn wait_needs_something_to_wait_for() {
        let says = "isowire.toml:1: wait-interface: `true`: needs `interface`; add it, or remove this";
        assert_eq!(wrong("wait-interface = true"), says);
        let server = "wait-interface = true\ndhcp-range = '10.0.0.50-10.0.0.60'";
        assert!(loaded(&["x.iso"], Some(server)).unwrap().wait_interface);
    }

    #[test]
    fn loopback_is_not_told_by_dhcp() {
        let says = "isowire.toml:2: bind: `127.0.0.1`: no machine can reach this address, so DHCP has none to tell; \
                    choose another, or add `advertise`";
        assert_eq!(wrong("dhcp = 'proxy'\nbind = '127.0.0.1'"), says);
        for (file, passes) in [
            ("bind = '127.0.0.1'", true),
            ("bind = '127.0.0.1'\ndhcp = 'off'", true),
            ("bind = '127.0.0.1'\ndhcp = 'proxy'\nadvertise = '10.0.0.1'", true),
            ("bind = '127.0.0.9'\nrouter-advertisement = true", false),
            ("bind = '127.0.0.1'\ndhcp-range = '10.0.0.50-10.0.0.60'", false),
        ] {
            assert_eq!(loaded(&["x.iso"], Some(file)).is_ok(), passes, "{file}");
        }
    }
}
