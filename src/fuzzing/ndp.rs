//! Properties of neighbour discovery: who is told that there is no router.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::codec::{Reader, Truncated};
use crate::machines::Mac;
use crate::ndp::session::{self, Arrival, PATIENCE};

/// The only machines that were offered a boot file, so many seconds before the solicitation came.
const OFFERED: [([u8; 6], u64); 2] = [([0x52, 0x54, 0, 0x12, 0x34, 0x56], 1), ([2, 0, 0, 0, 0, 1], 61)];

/// The first byte is the hop limit, the next 16 the sender's address, the rest an ICMPv6 message. An answer goes to the
/// one machine that was just offered a boot file, at the address that is made of its MAC address, and to nobody else.
pub fn solicitation(data: &[u8]) {
    let Ok(arrival) = arrival(data) else { return };
    let epoch = Instant::now();
    let now = epoch + Duration::from_secs(100);
    let offered = |mac: Mac| {
        let of = |bytes: &[u8; 6]| Mac::new(bytes) == Some(mac);
        let age = OFFERED.iter().find(|(bytes, _)| of(bytes)).map(|(_, age)| Duration::from_secs(*age));
        age.map(|age| now - age)
    };
    if let Ok(mac) = session::decide(&arrival, now, offered) {
        assert_eq!(arrival.hop_limit, Some(255));
        assert!(offered(mac).is_some_and(|offered| now - offered <= PATIENCE), "{mac} asked nothing");
        assert_eq!(Mac::new(&OFFERED[0].0), Some(mac));
        assert_eq!(arrival.from, Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe12, 0x3456));
        assert!(arrival.message.starts_with(&[133, 0]) && arrival.message.len().is_multiple_of(8));
    }
}

fn arrival(data: &[u8]) -> Result<Arrival<'_>, Truncated> {
    let mut input = Reader::new(data);
    let (hop_limit, from) = (Some(input.u8()?), input.array::<16>()?.into());
    Ok(Arrival { from, hop_limit, message: input.rest() })
}
