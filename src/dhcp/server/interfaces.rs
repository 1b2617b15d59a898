//! Network interfaces of the host, as the kernel listed them some seconds ago.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use super::socket::Arrival;
use crate::dhcp::session::Network;

/// Age at which the list is read again: addresses change seldom, and a machine asks again.
const MAX_AGE: Duration = Duration::from_secs(10);
/// The same for a datagram from an interface that is not in the list.
const MAX_AGE_IF_UNKNOWN: Duration = Duration::from_secs(1);

/// Interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub name: String,
    pub index: u32,
    /// `None` for a link without hardware addresses: a tunnel.
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<Address>,
    /// True for Ethernet and similar links, false for loopback and tunnels.
    pub is_broadcast: bool,
}

/// IPv4 address with its netmask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub ip: Ipv4Addr,
    pub netmask: Ipv4Addr,
}

/// Interfaces of the host that are up.
#[derive(Debug)]
pub(super) struct Interfaces {
    list: Vec<Interface>,
    read: Instant,
    /// The only interface to serve; all if `None`.
    only: Option<String>,
}

impl Interfaces {
    /// Reads the list from the kernel.
    pub(super) fn read(only: Option<String>) -> io::Result<Self> {
        Ok(Self { list: read_list()?, read: Instant::now(), only })
    }

    fn served(&self) -> impl Iterator<Item = &Interface> {
        self.list.iter().filter(|interface| self.is_served(interface))
    }

    fn is_served(&self, interface: &Interface) -> bool {
        self.only.as_ref().is_none_or(|only| *only == interface.name)
    }

    /// Returns the interface on which a datagram arrived, if that is served. Reads the list again
    /// if it is old.
    pub(super) fn of(&mut self, arrival: &Arrival) -> Option<&Interface> {
        let is_known = self.position(arrival.interface).is_some();
        let max_age = if is_known { MAX_AGE } else { MAX_AGE_IF_UNKNOWN };
        if self.read.elapsed() > max_age
            && let Ok(list) = read_list()
        {
            (self.list, self.read) = (list, Instant::now());
        }
        let interface = self.list.get(self.position(arrival.interface)?)?;
        self.is_served(interface).then_some(interface)
    }

    fn position(&self, index: u32) -> Option<usize> {
        self.list.iter().position(|interface| interface.index == index)
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
        links.filter_map(|link| Some((link.clone(), link.address_in(network)?))).collect()
    }
}

impl Address {
    /// Returns whether `ip` is on the same network.
    fn is_neighbour(&self, ip: Ipv4Addr) -> bool {
        (u32::from(self.ip) ^ u32::from(ip)) & u32::from(self.netmask) == 0
    }
}

impl Interface {
    /// Returns our address for a datagram: its destination, or for a broadcast one of the
    /// interface, first those of networks on which addresses are leased.
    pub(super) fn local(&self, arrival: &Arrival, is_leased: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        if arrival.to == arrival.spec_dst {
            return Some(arrival.to);
        }
        // RFC 2131 §4.1: the server identifier is an address that the client can reach, so one on
        // the network of its lease. The kernel may name an address of another interface.
        self.ips()
            .find(|ip| is_leased(*ip))
            .or_else(|| self.ips().find(|ip| *ip == arrival.spec_dst))
            .or_else(|| self.ips().next())
    }

    fn address_in(&self, network: &Network) -> Option<Ipv4Addr> {
        self.ips().find(|ip| network.contains(*ip))
    }

    fn ips(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().map(|address| address.ip)
    }
}

fn read_list() -> io::Result<Vec<Interface>> {
    let entries: Vec<InterfaceAddress> = getifaddrs()?.collect();
    let mut list: Vec<Interface> = entries.iter().filter_map(interface).collect();
    for entry in &entries {
        // An address may have a label: `eth0:1` is an address of eth0.
        let name = entry.interface_name.split(':').next().unwrap_or_default();
        if let (Some(interface), Some(address)) = (list.iter_mut().find(|i| i.name == name), address(entry)) {
            interface.addresses.push(address);
        }
    }
    Ok(list)
}

/// Returns the interface of a link-layer entry, of which the kernel lists one for each interface.
fn interface(entry: &InterfaceAddress) -> Option<Interface> {
    let link = *entry.address?.as_link_addr()?;
    if !entry.flags.contains(InterfaceFlags::IFF_UP) {
        return None;
    }
    let is_broadcast = entry.flags.contains(InterfaceFlags::IFF_BROADCAST);
    Some(Interface {
        name: entry.interface_name.clone(),
        index: u32::try_from(link.ifindex()).ok()?,
        mac: link.addr().filter(|mac| is_broadcast && *mac != [0; 6]),
        addresses: Vec::new(),
        is_broadcast,
    })
}

fn address(entry: &InterfaceAddress) -> Option<Address> {
    Some(Address { ip: ipv4(entry.address)?, netmask: ipv4(entry.netmask)? })
}

fn ipv4(address: Option<SockaddrStorage>) -> Option<Ipv4Addr> {
    let address = address?;
    // The kernel may leave the family of a netmask at 0.
    address.family()?;
    address.as_sockaddr_in().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use super::*;

    const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

    #[test]
    fn loopback_has_no_hardware_address() {
        let interfaces = Interfaces::read(None).unwrap();
        let Some(lo) = interfaces.list.iter().find(|interface| interface.name == "lo") else {
            return println!("skipped: loopback is down in this network namespace");
        };
        assert_eq!((lo.mac, lo.is_broadcast), (None, false));
        assert!(interfaces.is_own(Ipv4Addr::LOCALHOST));
        assert!(!interfaces.is_own(Ipv4Addr::new(192, 0, 2, 1)));
    }

    #[test]
    fn local_address_is_one_of_the_network() {
        let [first, second, kernels] = [1, 2, 3].map(|n| Ipv4Addr::new(10, n, 0, 1));
        let addresses = [first, second, kernels].map(|ip| Address { ip, netmask: NETMASK }).to_vec();
        let interface =
            Interface { name: "eth0".into(), index: 2, mac: Some([2; 6]), addresses, is_broadcast: true };
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        let arrival = |to, spec_dst| Arrival { from, interface: 2, to, spec_dst };
        let network = Network { address: second, netmask: NETMASK, router: None, dns: vec![] };
        let broadcast = arrival(Ipv4Addr::BROADCAST, kernels);
        let leased = |ip| network.contains(ip);
        assert_eq!(interface.local(&broadcast, leased), Some(second));
        assert_eq!(interface.local(&broadcast, |_| false), Some(kernels));
        let foreign = arrival(Ipv4Addr::BROADCAST, Ipv4Addr::new(172, 16, 0, 1));
        assert_eq!(interface.local(&foreign, |_| false), Some(first), "another interface's address");
        assert_eq!(interface.local(&arrival(kernels, kernels), leased), Some(kernels));
        let bare = Interface { addresses: vec![], ..interface };
        assert_eq!(bare.local(&broadcast, leased), None);
    }
}
