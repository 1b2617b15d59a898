//! Network interfaces that the DHCP service answers on, and our addresses there.

use std::io;
use std::net::Ipv4Addr;

use super::socket::Arrival;
use crate::dhcp::session::Network;
use crate::interfaces::{self, Address, Interface};

/// Interfaces of the host, as they were when the list was last read.
#[derive(Debug)]
pub(super) struct Interfaces {
    list: Vec<Interface>,
    /// The only interface to serve; all if `None`.
    only: Option<String>,
}

/// Reason for answering nobody on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub(super) enum Unserved {
    #[error("its interface is not served")]
    OtherInterface,
    #[error("its interface has no IPv4 address")]
    NoAddress,
    #[error("isowire is bound to {0}, which is not on the interface of the machine")]
    BoundElsewhere(Ipv4Addr),
}

impl Interfaces {
    /// Reads the list from the kernel.
    pub(super) fn read(only: Option<String>) -> io::Result<Self> {
        Ok(Self { list: interfaces::list()?, only })
    }

    /// Reads the list again.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        self.list = interfaces::list()?;
        Ok(())
    }

    /// Returns whether this host has an interface of this name, up or down.
    pub(super) fn has(&self, name: &str) -> bool {
        self.list.iter().any(|interface| interface.name == name)
    }

    fn served(&self) -> impl Iterator<Item = &Interface> {
        self.list.iter().filter(|interface| interface.is_up && self.is_served(interface))
    }

    fn is_served(&self, interface: &Interface) -> bool {
        self.only.as_ref().is_none_or(|only| *only == interface.name)
    }

    /// Returns the interface on which a datagram arrived.
    ///
    /// # Errors
    /// [`Unserved::OtherInterface`] if it is not served.
    pub(super) fn of(&self, arrival: &Arrival) -> Result<&Interface, Unserved> {
        let interface = self.list.iter().find(|interface| interface.index == arrival.interface);
        interface.filter(|interface| self.is_served(interface)).ok_or(Unserved::OtherInterface)
    }

    /// Returns whether `ip` is an address of this host.
    pub(super) fn is_own(&self, ip: Ipv4Addr) -> bool {
        self.addresses().any(|address| address.ip == ip)
    }

    /// Returns whether an interface of this host has this hardware address.
    pub(super) fn is_own_mac(&self, mac: &[u8]) -> bool {
        self.list.iter().any(|interface| interface.mac.is_some_and(|own| own == mac))
    }

    /// Returns every address of this host.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.list.iter().flat_map(|interface| interface.addresses.iter().copied())
    }

    /// Returns the netmask of the served interface on whose network `ip` is.
    pub(super) fn netmask_of(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let mut addresses = self.served().flat_map(|interface| &interface.addresses);
        addresses.find(|address| address.is_neighbour(ip)).map(|address| address.netmask)
    }

    /// Returns the served interfaces on `network`, each with our address there.
    pub(super) fn in_network(&self, network: &Network) -> Vec<(Interface, Ipv4Addr)> {
        let links = self.served().filter(|interface| interface.is_broadcast);
        links.filter_map(|link| Some((link.clone(), address_in(link, network)?))).collect()
    }

    /// Returns the served interfaces that a DHCP server may be on, each with our first address there.
    pub(super) fn links(&self) -> Vec<(Interface, Ipv4Addr)> {
        let links = self.served().filter(|interface| interface.is_broadcast);
        links.filter_map(|link| Some((link.clone(), link.ips().next()?))).collect()
    }
}

/// Returns our address for a datagram: its destination, or for a broadcast one of the interface,
/// first those of networks on which addresses are leased.
pub(super) fn local(
    interface: &Interface,
    arrival: &Arrival,
    is_leased: impl Fn(Ipv4Addr) -> bool,
) -> Result<Ipv4Addr, Unserved> {
    if arrival.to == arrival.spec_dst {
        return Ok(arrival.to);
    }
    // RFC 2131 §4.1: the server identifier is an address that the client can reach, so one on the
    // network of its lease. The kernel may name an address of another interface.
    let local = interface
        .ips()
        .find(|ip| is_leased(*ip))
        .or_else(|| interface.ips().find(|ip| *ip == arrival.spec_dst));
    local.or_else(|| interface.ips().next()).ok_or(Unserved::NoAddress)
}

/// Returns the only address that the services are bound to, if the sender reaches it.
pub(super) fn bound(
    interface: &Interface,
    arrival: &Arrival,
    bind: Ipv4Addr,
    is_relayed: bool,
) -> Result<Ipv4Addr, Unserved> {
    // The machines behind a relay agent come through routers, and so did a datagram to this very
    // address.
    let is_reached = is_relayed || arrival.to == bind || interface.ips().any(|ip| ip == bind);
    if is_reached { Ok(bind) } else { Err(Unserved::BoundElsewhere(bind)) }
}

fn address_in(interface: &Interface, network: &Network) -> Option<Ipv4Addr> {
    interface.ips().find(|ip| network.contains(*ip))
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::SocketAddrV4;

    use super::*;

    const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

    fn ip(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, n, 0, 1)
    }

    /// An interface with these addresses.
    pub(in crate::dhcp::server) fn eth(index: u32, addresses: &[u8]) -> Interface {
        let addresses = addresses.iter().map(|&n| Address { ip: ip(n), netmask: NETMASK });
        Interface {
            name: format!("eth{index}"),
            index,
            is_up: true,
            has_carrier: true,
            mac: Some([2; 6]),
            addresses: addresses.collect(),
            is_broadcast: true,
            is_multicast: true,
        }
    }

    /// One interface with these addresses, which is served.
    pub(in crate::dhcp::server) fn with_addresses(addresses: &[u8]) -> Interfaces {
        Interfaces { list: vec![eth(2, addresses)], only: None }
    }

    /// A datagram that arrived on `eth2`.
    fn arrival(to: Ipv4Addr, spec_dst: Ipv4Addr) -> Arrival {
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        Arrival { from, interface: 2, to, spec_dst }
    }

    #[test]
    fn own_addresses_are_those_of_every_interface() {
        let down = Interface { is_up: false, ..eth(3, &[3]) };
        let interfaces = Interfaces { list: vec![eth(2, &[1, 2]), down], only: Some("eth2".into()) };
        assert_eq!([1, 2, 3, 4].map(|n| interfaces.is_own(ip(n))), [true, true, true, false]);
        assert_eq!([1, 3].map(|n| interfaces.netmask_of(ip(n))), [Some(NETMASK), None]);
        assert!(interfaces.has("eth3") && !interfaces.has("eth4"));
        assert_eq!(interfaces.of(&arrival(ip(1), ip(1))).unwrap().name, "eth2");
        let renamed = Interfaces { only: Some("eth0".into()), ..interfaces };
        assert_eq!(renamed.of(&arrival(ip(1), ip(1))), Err(Unserved::OtherInterface));
    }

    #[test]
    fn local_address_is_one_of_the_network() {
        let interface = eth(2, &[1, 2, 3]);
        let network = Network { address: ip(2), netmask: Some(NETMASK), router: None, dns: vec![] };
        let leased = |ip| network.contains(ip);
        let broadcast = arrival(Ipv4Addr::BROADCAST, ip(3));
        assert_eq!(local(&interface, &broadcast, leased), Ok(ip(2)));
        assert_eq!(local(&interface, &broadcast, |_| false), Ok(ip(3)));
        let foreign = arrival(Ipv4Addr::BROADCAST, Ipv4Addr::new(172, 16, 0, 1));
        assert_eq!(local(&interface, &foreign, |_| false), Ok(ip(1)), "another interface's address");
        assert_eq!(local(&interface, &arrival(ip(3), ip(3)), leased), Ok(ip(3)));
        assert_eq!(local(&eth(2, &[]), &broadcast, leased), Err(Unserved::NoAddress));
    }

    #[test]
    fn bound_address_is_the_only_one() {
        let broadcast = arrival(Ipv4Addr::BROADCAST, ip(1));
        assert_eq!(bound(&eth(2, &[1, 2]), &broadcast, ip(2), false), Ok(ip(2)));
        let elsewhere = Err(Unserved::BoundElsewhere(ip(2)));
        assert_eq!(bound(&eth(2, &[1]), &broadcast, ip(2), false), elsewhere);
        assert_eq!(bound(&eth(2, &[1]), &arrival(ip(1), ip(1)), ip(2), false), elsewhere);
        assert_eq!(bound(&eth(2, &[1]), &arrival(ip(1), ip(1)), ip(2), true), Ok(ip(2)), "relayed");
        assert_eq!(bound(&eth(2, &[1]), &arrival(ip(2), ip(2)), ip(2), false), Ok(ip(2)), "routed");
    }
}
