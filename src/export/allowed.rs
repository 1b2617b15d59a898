//! Who may come: the subnets that the operator allows. Every door asks before it reads or answers anything.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

/// An IPv4 network: an address and the number of its bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    address: Ipv4Addr,
    /// At most 32.
    prefix: u8,
}

/// The text is no subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSubnet {
    #[error("no network: write one like 192.168.1.0/24, or a single address")]
    Form,
    /// Most likely one of the two was mistyped.
    #[error("more than the address of a network: write {0}, or a single address")]
    HostBits(Subnet),
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(u32::from(32 - self.prefix)).unwrap_or(0)
    }

    /// True for an address of this network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.address.to_bits()) & self.mask() == 0
    }

    /// True when every address of `other` is one of this network.
    pub fn covers(self, other: Subnet) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask())
    }
}

/// `192.168.1.0/24`, or `192.168.1.10` for one address (RFC 4632 §3.1).
impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let is_number = (1..=2).contains(&prefix.len()) && prefix.bytes().all(|digit| digit.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|&prefix| is_number && prefix <= 32);
        let subnet = Self {
            address: address.parse().map_err(|_| BadSubnet::Form)?,
            prefix: prefix.ok_or(BadSubnet::Form)?,
        };
        let network = Ipv4Addr::from_bits(subnet.address.to_bits() & subnet.mask());
        if network == subnet.address {
            return Ok(subnet);
        }
        Err(BadSubnet::HostBits(Self { address: network, ..subnet }))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            32 => write!(f, "{}", self.address),
            prefix => write!(f, "{}/{prefix}", self.address),
        }
    }
}

/// The subnets that may come; everybody may where there is no list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed(Option<Arc<[Subnet]>>);

impl Allowed {
    /// These and no others. An empty list allows nobody.
    pub fn only(subnets: Vec<Subnet>) -> Self {
        Self(Some(subnets.into()))
    }

    /// True when a peer of this address may come.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let Some(subnets) = &self.0 else { return true };
        // An IPv6 socket that somebody passed to us shows IPv4 peers as mapped addresses.
        match peer.to_canonical() {
            IpAddr::V4(peer) => subnets.iter().any(|subnet| subnet.contains(peer)),
            IpAddr::V6(_) => false,
        }
    }

    /// The lowest address between `first` and `last`, both included, that may not come.
    pub fn first_refused(&self, first: Ipv4Addr, last: Ipv4Addr) -> Option<Ipv4Addr> {
        let subnets = self.0.as_ref()?;
        let mut address = first;
        // Each round leaves one subnet behind.
        while let Some(subnet) = subnets.iter().find(|subnet| subnet.contains(address)) {
            if subnet.last() >= last {
                return None;
            }
            address = Ipv4Addr::from_bits(subnet.last().to_bits() + 1);
        }
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn allowed(subnets: &[&str]) -> Allowed {
        Allowed::only(subnets.iter().map(|text| subnet(text)).collect())
    }

    #[test]
    fn text_and_back() {
        for text in ["192.168.0.0/24", "10.0.0.7", "0.0.0.0/0", "128.0.0.0/1", "10.0.0.6/31"] {
            assert_eq!(subnet(text).to_string(), text);
        }
        assert_eq!(subnet("10.0.0.7/32").to_string(), "10.0.0.7");
        for text in
            ["", "10.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "10.0.0.0/008", "/8", "::/0", "a"]
        {
            assert_eq!(text.parse::<Subnet>(), Err(BadSubnet::Form), "{text}");
        }
        let error = "192.168.1.10/24".parse::<Subnet>().unwrap_err();
        assert_eq!(error, BadSubnet::HostBits(subnet("192.168.1.0/24")));
    }

    #[test]
    fn the_bits_of_the_prefix_count() {
        let cases = [
            ("192.168.4.0/22", "192.168.7.255", true),
            ("192.168.4.0/22", "192.168.8.0", false),
            ("192.168.4.0/22", "192.168.3.255", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.6", false),
        ];
        for (network, host, is_inside) in cases {
            assert_eq!(subnet(network).contains(address(host)), is_inside, "{network} {host}");
        }
        assert!(subnet("10.0.0.0/8").covers(subnet("10.9.0.0/16")));
        assert!(subnet("10.0.0.0/8").covers(subnet("10.0.0.0/8")));
        assert!(!subnet("10.9.0.0/16").covers(subnet("10.0.0.0/8")));
    }

    #[test]
    fn without_a_list_everybody_may_come() {
        let everybody = Allowed::default();
        assert!(everybody.contains(IpAddr::from([10, 0, 0, 1])));
        assert!(everybody.contains("2001:db8::1".parse().unwrap()));
        assert_eq!(everybody.first_refused(address("0.0.0.0"), Ipv4Addr::BROADCAST), None);
        assert!(!Allowed::only(Vec::new()).contains(IpAddr::from([10, 0, 0, 1])));
    }

    #[test]
    fn a_list_is_all_there_is() {
        let list = allowed(&["10.0.0.0/24", "192.168.1.7"]);
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
    fn the_first_gap_in_a_range_is_found() {
        let list = allowed(&["10.0.1.0/24", "10.0.0.0/24", "255.255.255.0/24"]);
        let refused =
            |first, last| list.first_refused(address(first), address(last)).map(|ip| ip.to_string());
        assert_eq!(refused("10.0.0.5", "10.0.1.255"), None);
        assert_eq!(refused("10.0.0.5", "10.0.2.1").as_deref(), Some("10.0.2.0"));
        assert_eq!(refused("9.9.9.9", "10.0.0.1").as_deref(), Some("9.9.9.9"));
        assert_eq!(refused("255.255.255.1", "255.255.255.255"), None);
    }
}
