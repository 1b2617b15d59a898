//! Who is told that there is no router. A pure function of the solicitation, the time, and what DHCP was asked.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::wire::{Malformed, RouterSolicitation};
use crate::codec::Reader;
use crate::machines::Mac;

/// How long after its last offer a machine is answered. iPXE begins to ask in the same moment as by DHCP and stops 16
/// seconds later; the kernel that it loads is to hear of real routers only.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What no router on the way has touched still has (RFC 4861 §6.1.1): so it comes from our own link.
const HOP_LIMIT: u8 = 255;

/// An ICMPv6 message and how it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    pub from: Ipv6Addr,
    /// As it arrived; `None` where the kernel did not tell.
    pub hop_limit: Option<u8>,
    pub message: &'a [u8],
}

/// Why nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    #[error("not from this link")]
    Forwarded,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("its sender's address is not made of a MAC address")]
    Anonymous,
    #[error("it names another link-layer address than that of {0}")]
    Contradictory(Mac),
    #[error("{0} did not ask for a boot file just now")]
    Stranger(Mac),
}

/// The machine that is to be told, at the address it asked from; `offered` knows when a machine was last offered a boot
/// file.
///
/// The address decides, since that is where the answer goes: it is link-local and has the MAC address in it, as iPXE's
/// has. An option cannot lead it elsewhere, only contradict. A sender without an address (RFC 4861 §4.1 forbids it the
/// option too) could be answered by telling everybody; it is not.
///
/// # Errors
/// [`Silence`] says why nobody is to be told.
pub fn decide(
    arrival: &Arrival<'_>,
    now: Instant,
    offered: impl FnOnce(Mac) -> Option<Instant>,
) -> Result<Mac, Silence> {
    if arrival.hop_limit != Some(HOP_LIMIT) {
        return Err(Silence::Forwarded);
    }
    let solicitation = RouterSolicitation::parse(&mut Reader::new(arrival.message))?;
    let mac = mac_in(arrival.from).ok_or(Silence::Anonymous)?;
    if solicitation.source_link_layer_address.is_some_and(|address| Mac::new(address) != Some(mac)) {
        return Err(Silence::Contradictory(mac));
    }
    let is_fresh = |offered: Instant| now.saturating_duration_since(offered) <= PATIENCE;
    offered(mac).filter(|&offered| is_fresh(offered)).map(|_| mac).ok_or(Silence::Stranger(mac))
}

/// The MAC address that a link-local address was made of: fe80::/64, and the modified EUI-64 (RFC 4291 §2.5.1, §2.5.6).
fn mac_in(address: Ipv6Addr) -> Option<Mac> {
    let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] = address.octets() else {
        return None;
    };
    // The bit that tells an address of the manufacturer's is turned round.
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

    fn ipxe() -> Arrival<'static> {
        Arrival { from: IPXE_ADDRESS, hop_limit: Some(255), message: IPXE }
    }

    /// Decides `age` after the only machine there is was offered a boot file.
    fn after(age: Duration, arrival: &Arrival<'_>) -> Result<Mac, Silence> {
        let offered = Instant::now();
        decide(arrival, offered + age, |asker| (asker == mac()).then_some(offered))
    }

    fn at_once(arrival: &Arrival<'_>) -> Result<Mac, Silence> {
        after(Duration::ZERO, arrival)
    }

    #[test]
    fn a_machine_that_just_asked_for_a_boot_file_is_answered() {
        assert_eq!(at_once(&ipxe()), Ok(mac()));
        assert_eq!(after(PATIENCE, &ipxe()), Ok(mac()));
        assert_eq!(at_once(&Arrival { message: &IPXE[..8], ..ipxe() }), Ok(mac()), "the option is optional");
    }

    #[test]
    fn nobody_else_is() {
        let late = PATIENCE + Duration::from_millis(1);
        assert_eq!(after(late, &ipxe()), Err(Silence::Stranger(mac())));
        assert_eq!(decide(&ipxe(), Instant::now(), |_| None), Err(Silence::Stranger(mac())));
        let other = Arrival {
            from: Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3457),
            message: &IPXE[..8],
            ..ipxe()
        };
        assert_eq!(at_once(&other), Err(Silence::Stranger("52:54:00:12:34:57".parse().unwrap())));
    }

    #[test]
    fn the_answer_goes_to_the_machine_itself_or_nowhere() {
        // Who asked has us answer a neighbour.
        let neighbour = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3457);
        let neighbours_mac = "52:54:00:12:34:57".parse().unwrap();
        let forged = Arrival { from: neighbour, ..ipxe() };
        assert_eq!(at_once(&forged), Err(Silence::Contradictory(neighbours_mac)));
        let mut named = IPXE.to_vec();
        named[13] ^= 1;
        let forged = Arrival { message: &named, ..ipxe() };
        assert_eq!(at_once(&forged), Err(Silence::Contradictory(mac())));
        // Nobody's address, one that tells no MAC address, one that is routed, one of all, one of another subnet.
        for from in
            ["::", "fe80::1", "2001:db8::5054:ff:fe12:3456", "ff02::1", "fe80:0:0:1:5054:ff:fe12:3456"]
        {
            let arrival = Arrival { from: from.parse().unwrap(), ..ipxe() };
            assert_eq!(at_once(&arrival), Err(Silence::Anonymous), "{from}");
        }
    }

    #[test]
    fn what_came_through_a_router_is_not_answered() {
        for hop_limit in [None, Some(254), Some(64), Some(0)] {
            assert_eq!(at_once(&Arrival { hop_limit, ..ipxe() }), Err(Silence::Forwarded));
        }
    }

    #[test]
    fn what_is_no_solicitation_is_not_answered() {
        for message in [&[][..], &[134, 0, 0, 0, 0, 0, 0, 0], &IPXE[..15]] {
            let silence = at_once(&Arrival { message, ..ipxe() });
            assert!(matches!(silence, Err(Silence::Malformed(_))), "{silence:?}");
        }
    }

    #[test]
    fn the_address_of_a_group_is_nobodys() {
        let group = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0300, 0x5eff, 0xfe00, 0x0001);
        assert_eq!(at_once(&Arrival { from: group, message: &IPXE[..8], ..ipxe() }), Err(Silence::Anonymous));
    }
}
