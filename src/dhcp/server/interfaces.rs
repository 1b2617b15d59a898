//! The host's network interfaces, as they are now or were some seconds ago.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use super::socket::Arrival;
use crate::dhcp::session::Network;

/// How long what was read stands: addresses change seldom, and a machine asks again.
const FRESH: Duration = Duration::from_secs(10);
/// An interface that was not there is looked for at most this often.
const RETRY: Duration = Duration::from_secs(1);

/// An interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub name: String,
    pub index: u32,
    /// `None` where the link has none: tunnels.
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<Address>,
    /// True for Ethernet and its like; false for loopback and tunnels.
    pub is_broadcast: bool,
}

/// An IPv4 address with its netmask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub ip: Ipv4Addr,
    pub netmask: Ipv4Addr,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Interfaces {
    list: Vec<Interface>,
    read: Instant,
}

impl Interfaces {
    /// Asks the kernel.
    pub(super) fn read() -> io::Result<Self> {
        let entries: Vec<InterfaceAddress> = getifaddrs()?.collect();
        let mut list: Vec<Interface> = entries.iter().filter_map(interface).collect();
        for entry in &entries {
            // An address may have a label of its own: eth0:1 is eth0.
            let name = entry.interface_name.split(':').next().unwrap_or_default();
            if let (Some(interface), Some(address)) =
                (list.iter_mut().find(|i| i.name == name), address(entry))
            {
                interface.addresses.push(address);
            }
        }
        Ok(Self { list, read: Instant::now() })
    }

    /// Those that are up.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.list.iter()
    }

    /// The interface a datagram came in on, asking the kernel anew when that was a while ago.
    pub(super) fn of(&mut self, arrival: &Arrival) -> Option<&Interface> {
        let limit = if self.position(arrival.interface).is_some() { FRESH } else { RETRY };
        if self.read.elapsed() > limit
            && let Ok(now) = Self::read()
        {
            *self = now;
        }
        self.list.get(self.position(arrival.interface)?)
    }

    fn position(&self, index: u32) -> Option<usize> {
        self.list.iter().position(|interface| interface.index == index)
    }

    /// True when `ip` is an address of this host.
    pub(super) fn is_own(&self, ip: Ipv4Addr) -> bool {
        self.addresses().any(|address| address.ip == ip)
    }

    /// True for the hardware address of an interface of this host.
    pub(super) fn is_own_mac(&self, mac: &[u8]) -> bool {
        self.iter().any(|interface| interface.mac.is_some_and(|own| own == mac))
    }

    /// Every address of this host.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.iter().flat_map(|interface| interface.addresses.iter().copied())
    }
}

impl Interface {
    /// Our address for a datagram: the one it was sent to; for a broadcast the one in the pool's network, else what
    /// the kernel would take if it is the interface's, else its first.
    pub(super) fn local(&self, arrival: &Arrival, network: Option<&Network>) -> Option<Ipv4Addr> {
        if arrival.to == arrival.spec_dst {
            return Some(arrival.to);
        }
        let find =
            |wanted: &dyn Fn(Ipv4Addr) -> bool| self.addresses.iter().map(|a| a.ip).find(|&ip| wanted(ip));
        let in_network = find(&|ip| network.is_some_and(|network| network.contains(ip)));
        in_network.or_else(|| find(&|ip| ip == arrival.spec_dst)).or_else(|| find(&|_| true))
    }
}

/// The entry of an interface itself: the kernel gives one for each.
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
    // The kernel leaves the family of a netmask at 0 now and then; glibc fills it in.
    let address = address?;
    address.family()?;
    address.as_sockaddr_in().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

    #[test]
    fn loopback_is_there_and_has_no_hardware_address() {
        let interfaces = Interfaces::read().unwrap();
        let Some(lo) = interfaces.iter().find(|interface| interface.name == "lo") else {
            return println!("skipped: loopback is down in this network namespace");
        };
        assert_eq!((lo.mac, lo.is_broadcast), (None, false));
        assert!(interfaces.is_own(Ipv4Addr::LOCALHOST));
        assert!(!interfaces.is_own(Ipv4Addr::new(192, 0, 2, 1)));
    }

    #[test]
    fn the_right_one_of_several_addresses() {
        let [first, second, kernels] = [1, 2, 3].map(|n| Ipv4Addr::new(10, n, 0, 1));
        let addresses = [first, second, kernels].map(|ip| Address { ip, netmask: NETMASK }).to_vec();
        let interface =
            Interface { name: "eth0".into(), index: 2, mac: Some([2; 6]), addresses, is_broadcast: true };
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        let arrival = |to, spec_dst| Arrival { from, interface: 2, to, spec_dst };
        let network = Network { address: second, netmask: NETMASK, router: None, dns: vec![] };
        let broadcast = arrival(Ipv4Addr::BROADCAST, kernels);
        assert_eq!(interface.local(&broadcast, Some(&network)), Some(second));
        assert_eq!(interface.local(&broadcast, None), Some(kernels));
        let foreign = arrival(Ipv4Addr::BROADCAST, Ipv4Addr::new(172, 16, 0, 1));
        assert_eq!(interface.local(&foreign, None), Some(first), "another interface's address");
        assert_eq!(interface.local(&arrival(kernels, kernels), Some(&network)), Some(kernels));
        let bare = Interface { addresses: vec![], ..interface };
        assert_eq!(bare.local(&broadcast, None), None);
    }

    use std::net::SocketAddrV4;
}
