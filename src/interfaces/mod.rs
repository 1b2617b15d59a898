//! Network interfaces of the host: the list, and news that it changed.

mod changes;

use std::io;
use std::net::Ipv4Addr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

pub(crate) use changes::InterfaceChanges;

/// Network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    /// Number that the kernel gave it. An interface that is deleted and made again has another one.
    pub index: u32,
    pub is_up: bool,
    /// True if it is connected: a cable, or a port of a bridge.
    pub has_carrier: bool,
    /// `None` for a link without hardware addresses: a tunnel.
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<Address>,
    /// True for Ethernet and similar links, false for loopback and tunnels.
    pub is_broadcast: bool,
    pub is_multicast: bool,
}

/// IPv4 address with its netmask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub ip: Ipv4Addr,
    pub netmask: Ipv4Addr,
}

impl Address {
    /// Returns whether `ip` is on the same network.
    pub(crate) fn is_neighbour(&self, ip: Ipv4Addr) -> bool {
        (u32::from(self.ip) ^ u32::from(ip)) & u32::from(self.netmask) == 0
    }
}

impl Interface {
    /// Returns its IPv4 addresses.
    pub(crate) fn ips(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.addresses.iter().map(|address| address.ip)
    }
}

/// Returns whether this host has an interface of this name, up or down.
pub(crate) fn exists(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

/// Returns every interface of the host, in the order of the kernel.
///
/// # Errors
/// Errors of the kernel.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
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
    let is_broadcast = entry.flags.contains(InterfaceFlags::IFF_BROADCAST);
    Some(Interface {
        name: entry.interface_name.clone(),
        index: u32::try_from(link.ifindex()).ok()?,
        is_up: entry.flags.contains(InterfaceFlags::IFF_UP),
        // netdevice(7): resources allocated, which takes a carrier.
        has_carrier: entry.flags.contains(InterfaceFlags::IFF_RUNNING),
        mac: link.addr().filter(|mac| is_broadcast && *mac != [0; 6]),
        addresses: Vec::new(),
        is_broadcast,
        is_multicast: entry.flags.contains(InterfaceFlags::IFF_MULTICAST),
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
    use super::*;

    #[test]
    fn loopback_has_no_hardware_address() {
        let list = list().unwrap();
        let lo = list.iter().find(|interface| interface.name == "lo").expect("every namespace has one");
        assert!(exists("lo") && !exists("no-such"));
        assert_eq!((lo.mac, lo.is_broadcast), (None, false));
        assert!(!lo.is_up || lo.ips().any(|ip| ip == Ipv4Addr::LOCALHOST));
    }
}
