//! Servers that share machines: `peers`, and `[[server]]`.

use std::net::Ipv4Addr;

use super::raw::{RawValue, ValueOrigin};
use super::{Checker, Config, ConfigError, Dhcp, value};
use crate::interfaces;
use crate::placement::{Server, Servers};

/// Key of the list on the command line.
const PEERS: &str = "peers";
/// Key of the addresses of a server.
const ADDRESS: &str = "address";

impl Checker<'_> {
    /// Returns the servers that share machines; `None` if this one has no others.
    pub(super) fn servers(&self, dhcp: &Dhcp) -> Result<Option<Servers>, ConfigError> {
        let Some((key, first)) = self.first_server() else { return Ok(None) };
        // Machines are shared by who answers their DHCP messages.
        if !dhcp.is_on() {
            return Err(self.wrong(key, first, "needs `dhcp`, which is off; turn it on, or remove this"));
        }
        let mut servers: Vec<Server> = Vec::new();
        for (raw, server) in if key == PEERS { self.peers() } else { self.tables() }? {
            let all = servers.iter().flat_map(Server::addresses);
            let twice = server.addresses().iter().find(|&address| all.clone().any(|other| other == address));
            if twice.is_some() {
                return Err(self.wrong(key, raw, "address of another server too; give each its own"));
            }
            self.require_no_lease(key, raw, &server, dhcp)?;
            if servers.len() == Servers::MAX {
                return Err(self.wrong(
                    key,
                    raw,
                    &format!("one server too many; at most {} fit", Servers::MAX),
                ));
            }
            servers.push(server);
        }
        Ok(Some(Servers::new(servers)))
    }

    /// Returns the first address that was typed, and its key. The command line wins.
    fn first_server(&self) -> Option<(&'static str, &RawValue)> {
        let peers = self.options.peers.iter().flatten().next();
        let table = self.options.server.iter().flat_map(|server| server.address.iter().flatten()).next();
        peers.map(|value| (PEERS, value)).or(table.map(|value| (ADDRESS, value)))
    }

    /// Reads the servers of `peers`.
    fn peers(&self) -> Result<Vec<(&RawValue, Server)>, ConfigError> {
        if let (Some(value), Some(_)) = (
            self.options.peers.iter().flatten().find(|value| value.origin != ValueOrigin::CommandLine),
            self.options.server.first(),
        ) {
            return Err(self.wrong(PEERS, value, "there are [[server]] tables too; remove one of the two"));
        }
        let values = self.options.peers.iter().flatten();
        values.map(|value| Ok((value, self.parse(PEERS, value, &peer)?))).collect()
    }

    /// Reads the `[[server]]` tables.
    fn tables(&self) -> Result<Vec<(&RawValue, Server)>, ConfigError> {
        let mut servers = Vec::new();
        for options in &self.options.server {
            let mut addresses = self.read_all(ADDRESS, &options.address, value::host_address)?.into_iter();
            let first = options.address.iter().flatten().next();
            let (Some(raw), Some(address)) = (first, addresses.next()) else {
                return Err(ConfigError::new(
                    "[[server]]: no `address`; give it the one that machines are told",
                ));
            };
            let weight = self.read("weight", &options.weight, weight)?.unwrap_or(1);
            let is_draining = self.read("drain", &options.drain, value::truth)?.unwrap_or(false);
            let server = Server::new(address, addresses).with_weight(weight).draining(is_draining);
            servers.push((raw, server));
        }
        Ok(servers)
    }

    /// Refuses a server whose address could be leased to a machine.
    fn require_no_lease(
        &self,
        key: &str,
        raw: &RawValue,
        server: &Server,
        dhcp: &Dhcp,
    ) -> Result<(), ConfigError> {
        let Dhcp::Server(config) = dhcp else { return Ok(()) };
        let mut pools = config.subnets.iter().map(|subnet| subnet.pool);
        match pools.find(|pool| server.addresses().iter().any(|&address| pool.contains(address))) {
            Some(pool) => {
                let why = format!("is in the DHCP range {pool}, so a machine may get it; change one of them");
                Err(self.wrong(key, raw, &why))
            }
            None => Ok(()),
        }
    }

    /// Refuses a list of servers in which this one is not, or is twice.
    pub(super) fn require_own_server(&self, config: &Config) -> Result<(), ConfigError> {
        let (Some(servers), Some((key, first))) = (&config.servers, self.first_server()) else {
            return Ok(());
        };
        let own = own_addresses(config);
        let mut here = servers.iter().filter(|server| own.iter().any(|&address| server.has(address)));
        match (here.next(), here.next()) {
            (Some(one), Some(other)) => {
                let why = format!(
                    "{} and {} are both addresses of this server; leave one out, or list both as its `address`",
                    one.name(),
                    other.name()
                );
                Err(self.wrong(key, first, &why))
            }
            (Some(_), None) => Ok(()),
            // Its address may come later, with its interface.
            (None, _) if config.wait_interface && config.advertise.is_none() => Ok(()),
            (None, _) => {
                let own = own.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", ");
                let own = if own.is_empty() { "it has none yet".to_owned() } else { own };
                let why = format!(
                    "no server in the list has an address of this one ({own}); add it, or set `advertise` to one of \
                     the list"
                );
                Err(self.wrong(key, first, &why))
            }
        }
    }
}

/// Returns the addresses that machines may be told of this server.
fn own_addresses(config: &Config) -> Vec<Ipv4Addr> {
    if let Some(only) = config.advertise.or(Some(config.bind).filter(|bind| !bind.is_unspecified())) {
        return vec![only];
    }
    let only = config.interface.as_deref();
    let list = interfaces::list().unwrap_or_default();
    let served = list.iter().filter(|link| only.is_none_or(|only| only == link.name));
    served.flat_map(|link| link.ips()).filter(|address| !address.is_loopback()).collect()
}

/// Parses a server of the command line, `ADDRESS` or `ADDRESS=WEIGHT`.
fn peer(text: &str) -> Result<Server, String> {
    let (address, number) =
        text.split_once('=').map_or((text, None), |(address, weight)| (address, Some(weight)));
    let server = Server::new(value::host_address(address)?, []);
    Ok(server.with_weight(number.map_or(Ok(1), weight)?))
}

fn weight(text: &str) -> Result<u8, String> {
    let weight = text.parse().ok().filter(|weight| (1..=Server::WEIGHT_MAX).contains(weight));
    weight.ok_or_else(|| format!("invalid weight; expected a number from 1 to {}", Server::WEIGHT_MAX))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{loaded, wrong};
    use super::*;

    const TWO: &str =
        "advertise = '10.0.0.2'\n[[server]]\naddress = '10.0.0.2'\n[[server]]\naddress = '10.0.0.3'\n";

    fn list(arguments: &[&str], file: Option<&str>) -> Option<Vec<Ipv4Addr>> {
        let servers = loaded(&[&["x.iso"], arguments].concat(), file).unwrap().servers;
        servers.map(|servers| servers.iter().map(Server::name).collect())
    }

    fn ip(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, n)
    }

    #[test]
    fn servers_are_named_in_two_ways() {
        assert_eq!(list(&[], None), None);
        let own = ["--advertise", "10.0.0.2", "--peers", "10.0.0.2,10.0.0.4=3"];
        assert_eq!(list(&own, None), Some(vec![ip(2), ip(4)]));
        assert_eq!(list(&[], Some(TWO)), Some(vec![ip(2), ip(3)]));
        assert_eq!(list(&own, Some(TWO)), Some(vec![ip(2), ip(4)]), "the command line wins");
        let whole =
            format!("{TWO}weight = 7\ndrain = true\n[[server]]\naddress = ['10.0.0.9', '10.1.0.9']\n");
        let servers = loaded(&["x.iso"], Some(&whole)).unwrap().servers.unwrap();
        let expected = [
            Server::new(ip(2), []),
            Server::new(ip(3), []).with_weight(7).draining(true),
            Server::new(ip(9), [Ipv4Addr::new(10, 1, 0, 9)]),
        ];
        assert_eq!(servers, Servers::new(expected.to_vec()));
    }

    #[test]
    fn own_server_is_in_the_list() {
        let error = wrong(&TWO.replace("advertise = '10.0.0.2'", "advertise = '10.0.0.7'"));
        assert_eq!(
            error,
            "isowire.toml:3: address: `10.0.0.2`: no server in the list has an address of this one (10.0.0.7); add it, or \
             set `advertise` to one of the list"
        );
        let error =
            loaded(&["x.iso", "--bind", "10.0.0.7", "--peers", "10.0.0.2,10.0.0.3"], None).unwrap_err();
        assert!(error.starts_with("--peers: `10.0.0.2`: no server in the list has an address of"), "{error}");
        let error = loaded(&["x.iso", "--peers", "203.0.113.77,203.0.113.78"], None).unwrap_err();
        assert!(
            error.starts_with("--peers: `203.0.113.77`: no server in the list has an address of"),
            "{error}"
        );
    }

    #[test]
    fn wrong_servers_are_refused() {
        for (file, why) in [
            (
                "peers = ['10.0.0.2', '10.0.0.2']",
                "peers: `10.0.0.2`: address of another server too; give each its own",
            ),
            ("peers = '10.0.0.2=0'", "peers: `10.0.0.2=0`: invalid weight; expected a number from 1 to 100"),
            ("peers = '10.0.0.2=x'", "peers: `10.0.0.2=x`: invalid weight; expected a number from 1 to 100"),
            ("peers = 'a'", "peers: `a`: invalid IPv4 address of a host; expected one like 192.168.1.10"),
            (
                "peers = '10.0.0.2'\ndhcp = 'off'",
                "peers: `10.0.0.2`: needs `dhcp`, which is off; turn it on, or remove this",
            ),
            (
                "peers = '10.0.0.2'\ndhcp-range = '10.0.0.1-10.0.0.9'\nnetmask = '255.255.255.0'",
                "peers: `10.0.0.2`: is in the DHCP range 10.0.0.1-10.0.0.9, so a machine may get it; change one of them",
            ),
            (
                "peers = '10.0.0.2'\n[[server]]\naddress = '10.0.0.3'",
                "peers: `10.0.0.2`: there are [[server]] tables too; remove one of the two",
            ),
        ] {
            assert_eq!(wrong(file), format!("isowire.toml:1: {why}"));
        }
        assert!(wrong("[[server]]\nweight = 3").contains("missing field `address`"));
        let many: Vec<_> = (0..=Servers::MAX).map(|n| format!("'10.0.1.{n}'")).collect();
        assert!(
            wrong(&format!("peers = [{}]", many.join(","))).ends_with("one server too many; at most 64 fit")
        );
    }
}
