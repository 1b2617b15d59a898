//! The networks that the operator admits. Every service asks before it reads or answers anything.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;

/// A list of networks; without one, all clients are admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Option<Arc<[Ipv4Net]>>);

impl Allowed {
    /// Admits the clients of these networks and no others. An empty list admits nobody.
    pub fn only(networks: Vec<Ipv4Net>) -> Self {
        Self(Some(networks.into()))
    }

    /// Returns true if a client with this address is admitted.
    pub(crate) fn contains(&self, peer: IpAddr) -> bool {
        let Some(networks) = &self.0 else { return true };
        // An inherited IPv6 socket shows IPv4 peers as mapped addresses (RFC 4291 §2.5.5.2).
        match peer.to_canonical() {
            IpAddr::V4(peer) => networks.iter().any(|network| network.contains(&peer)),
            IpAddr::V6(_) => false,
        }
    }

    /// Returns the lowest address between `first` and `last`, both included, that is not admitted.
    pub(crate) fn first_refused(&self, first: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
        let networks = self.0.as_ref()?;
        let mut address = first;
        // Networks may be listed in any order. Each round passes one, so the loop ends.
        while let Some(network) = networks.iter().find(|network| network.contains(&address)) {
            if network.broadcast() >= last {
                return None;
            }
            address = Ipv4Addr::from_bits(network.broadcast().to_bits() + 1);
        }
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn allowed(networks: &[&str]) -> Allowed {
        Allowed::only(networks.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn all_clients_are_admitted_without_list() {
        let everybody = Allowed::default();
        assert!(everybody.contains(IpAddr::from([10, 0, 0, 1])));
        assert!(everybody.contains("2001:db8::1".parse().unwrap()));
        assert_eq!(everybody.first_refused(address("0.0.0.0"), Ipv4Addr::BROADCAST), None);
        assert!(!Allowed::only(Vec::new()).contains(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn list_admits_no_others() {
        let list = allowed(&["10.0.0.0/24", "192.168.1.7/32"]);
        for (peer, may) in [
            ("10.0.0.200", true),
            ("::ffff:10.0.0.200", true),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("127.0.0.1", false),
            ("::ffff:10.0.1.1", false),
            ("::1", false),
        ] {
            assert_eq!(list.contains(peer.parse().unwrap()), may, "{peer}");
        }
    }

    #[test]
    fn first_gap_in_a_range_is_found() {
        let list = allowed(&["10.0.1.0/24", "10.0.0.0/24", "255.255.255.0/24"]);
        let refused =
            |first, last| list.first_refused(address(first), address(last)).map(|ip| ip.to_string());
        assert_eq!(refused("10.0.0.5", "10.0.1.255"), None);
        assert_eq!(refused("10.0.0.5", "10.0.2.1").as_deref(), Some("10.0.2.0"));
        assert_eq!(refused("9.9.9.9", "10.0.0.1").as_deref(), Some("9.9.9.9"));
        assert_eq!(refused("255.255.255.1", "255.255.255.255"), None);
    }
}
