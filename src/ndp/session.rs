//! Decides which machine is told that there is no router. Pure: the solicitation, the time and the
//! last DHCP offer go in.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::wire::{RouterSolicitation, SolicitationError};
use crate::codec::Reader;
use crate::mac::Mac;

/// Time after its last offer in which a machine is answered. iPXE solicits from its DHCP request on
/// and stops 16 seconds later. The kernel that it loads must hear of real routers only.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Hop limit of a packet that no router has forwarded: it comes from our own link (RFC 4861
/// §6.1.1).
const HOP_LIMIT: u8 = 255;

/// An ICMPv6 message, its sender and its hop limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Solicitation<'a> {
    pub from: Ipv6Addr,
    /// `None` if the kernel did not report it.
    pub hop_limit: Option<u8>,
    pub message: &'a [u8],
}

/// Reason for sending no advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("not from this link")]
    Forwarded,
    #[error("{0}")]
    SolicitationError(#[from] SolicitationError),
    #[error("sender's address does not contain a MAC address")]
    NoMac,
    #[error("link-layer address option differs from the sender's MAC address {0}")]
    OtherMac(Mac),
    #[error("{0} was not offered a boot file in the last minute")]
    NotOffered(Mac),
}

/// Finds the machine to answer at the address that it asked from. `offered` gives the time of a
/// machine's last offer of a boot file.
///
/// The sender's address decides, since the answer goes there: it must be link-local and contain the
/// MAC address, as iPXE's does.
///
/// # Errors
/// [`Unanswered`] is the reason for no answer.
pub(crate) fn decide(
    arrival: &Solicitation<'_>,
    now: Instant,
    offered: impl FnOnce(Mac) -> Option<Instant>,
) -> Result<Mac, Unanswered> {
    // RFC 4861 §6.1.1: no router has forwarded the solicitation.
    if arrival.hop_limit != Some(HOP_LIMIT) {
        return Err(Unanswered::Forwarded);
    }
    let solicitation = RouterSolicitation::parse(&mut Reader::new(arrival.message))?;
    // A sender without an address (RFC 4861 §4.1) could only be answered by telling every host.
    let mac = mac_in(arrival.from).ok_or(Unanswered::NoMac)?;
    // If the option decided, a machine could have its neighbour told.
    if solicitation.source_link_layer_address.is_some_and(|address| Mac::new(address) != Some(mac)) {
        return Err(Unanswered::OtherMac(mac));
    }
    match offered(mac) {
        Some(offered) if now.saturating_duration_since(offered) <= PATIENCE => Ok(mac),
        _ => Err(Unanswered::NotOffered(mac)),
    }
}

/// Extracts the MAC address from a link-local address with a modified EUI-64 (RFC 4291 §2.5.1,
/// §2.5.6).
fn mac_in(address: Ipv6Addr) -> Option<Mac> {
    let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] = address.octets() else {
        return None;
    };
    // RFC 4291 appendix A: the universal/local bit is inverted.
    Mac::new(&[a ^ 2, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPXE: &[u8] = include_bytes!("../../tests/data/ndp/ipxe-bios-solicitation.bin");
    const IPXE_ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3456);

    fn mac() -> Mac {
        "52:54:00:12:34:56".parse().unwrap()
    }

    fn ipxe() -> Solicitation<'static> {
        Solicitation { from: IPXE_ADDRESS, hop_limit: Some(255), message: IPXE }
    }

    /// Decides `age` after the only machine there is was offered a boot file.
    fn after(age: Duration, arrival: &Solicitation<'_>) -> Result<Mac, Unanswered> {
        let offered = Instant::now();
        decide(arrival, offered + age, |asker| (asker == mac()).then_some(offered))
    }

    fn at_once(arrival: &Solicitation<'_>) -> Result<Mac, Unanswered> {
        after(Duration::ZERO, arrival)
    }

    #[test]
    fn machine_with_a_fresh_offer_is_answered() {
        assert_eq!(at_once(&ipxe()), Ok(mac()));
        assert_eq!(after(PATIENCE, &ipxe()), Ok(mac()));
        assert_eq!(
            at_once(&Solicitation { message: &IPXE[..8], ..ipxe() }),
            Ok(mac()),
            "the option is optional"
        );
    }

    #[test]
    fn machine_without_a_fresh_offer_is_not_answered() {
        let late = PATIENCE + Duration::from_millis(1);
        assert_eq!(after(late, &ipxe()), Err(Unanswered::NotOffered(mac())));
        assert_eq!(decide(&ipxe(), Instant::now(), |_| None), Err(Unanswered::NotOffered(mac())));
        let other = Solicitation {
            from: Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3457),
            message: &IPXE[..8],
            ..ipxe()
        };
        assert_eq!(at_once(&other), Err(Unanswered::NotOffered("52:54:00:12:34:57".parse().unwrap())));
    }

    #[test]
    fn answer_goes_to_the_machine_only() {
        // The sender tries to have its neighbour told.
        let neighbour = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3457);
        let neighbours_mac = "52:54:00:12:34:57".parse().unwrap();
        let forged = Solicitation { from: neighbour, ..ipxe() };
        assert_eq!(at_once(&forged), Err(Unanswered::OtherMac(neighbours_mac)));
        let mut named = IPXE.to_vec();
        named[13] ^= 1;
        let forged = Solicitation { message: &named, ..ipxe() };
        assert_eq!(at_once(&forged), Err(Unanswered::OtherMac(mac())));
        // Unspecified, without a MAC address, routed, multicast, and of another subnet.
        for from in
            ["::", "fe80::1", "2001:db8::5054:ff:fe12:3456", "ff02::1", "fe80:0:0:1:5054:ff:fe12:3456"]
        {
            let arrival = Solicitation { from: from.parse().unwrap(), ..ipxe() };
            assert_eq!(at_once(&arrival), Err(Unanswered::NoMac), "{from}");
        }
    }

    #[test]
    fn routed_solicitation_is_not_answered() {
        for hop_limit in [None, Some(254), Some(64), Some(0)] {
            assert_eq!(at_once(&Solicitation { hop_limit, ..ipxe() }), Err(Unanswered::Forwarded));
        }
    }

    #[test]
    fn other_message_is_not_answered() {
        for message in [&[][..], &[134, 0, 0, 0, 0, 0, 0, 0], &IPXE[..15]] {
            let silence = at_once(&Solicitation { message, ..ipxe() });
            assert!(matches!(silence, Err(Unanswered::SolicitationError(_))), "{silence:?}");
        }
    }

    #[test]
    fn group_address_is_not_answered() {
        let group = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0300, 0x5eff, 0xfe00, 0x0001);
        assert_eq!(
            at_once(&Solicitation { from: group, message: &IPXE[..8], ..ipxe() }),
            Err(Unanswered::NoMac)
        );
    }
}
