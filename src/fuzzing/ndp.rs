//! Properties of neighbour discovery: only the right machine gets an advertisement.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::codec::{Reader, Truncated};
use crate::mac::Mac;
use crate::ndp::session::{self, PATIENCE, Solicitation};

/// Machines that were offered a boot file, with the seconds between offer and solicitation.
const OFFERED: [([u8; 6], u64); 2] = [([0x52, 0x54, 0, 0x12, 0x34, 0x56], 1), ([2, 0, 0, 0, 0, 1], 61)];

/// Checks that an answer goes only to the one machine with a fresh offer, at the address made of
/// its MAC address. The first byte is the hop limit, the next 16 are the sender's address, the rest
/// is the message.
pub fn solicitation(data: &[u8]) {
    let Ok(solicitation) = solicitation_from(data) else { return };
    let epoch = Instant::now();
    let now = epoch + Duration::from_secs(100);
    if let Ok(mac) = session::decide(&solicitation, now, |mac| offered(mac, now)) {
        assert_eq!(solicitation.hop_limit, Some(255));
        assert!(offered(mac, now).is_some_and(|offered| now - offered <= PATIENCE), "{mac} had no offer");
        assert_eq!(Mac::new(&OFFERED[0].0), Some(mac));
        assert_eq!(solicitation.from, Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3456));
        assert!(solicitation.message.starts_with(&[133, 0]) && solicitation.message.len().is_multiple_of(8));
    }
}

fn offered(mac: Mac, now: Instant) -> Option<Instant> {
    let (_, age) = OFFERED.iter().find(|(bytes, _)| Mac::new(bytes) == Some(mac))?;
    Some(now - Duration::from_secs(*age))
}

fn solicitation_from(data: &[u8]) -> Result<Solicitation<'_>, Truncated> {
    let mut input = Reader::new(data);
    let (hop_limit, from) = (Some(input.u8()?), input.array::<16>()?.into());
    Ok(Solicitation { from, hop_limit, message: input.rest() })
}
