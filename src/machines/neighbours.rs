//! The neighbour table of this host: pairs of IP and MAC addresses that the kernel learned by ARP.
//!
//! It supplies the MAC address of a machine whose DHCP exchange this server did not hear. Only
//! machines on the local link are in it; machines behind a router stay known by their IP address.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::{Mac, Registry};

/// Longest table that is read, in bytes. A line has 79, and the kernel keeps 1024 entries by
/// default.
const TABLE_MAX: u64 = 1 << 20;

/// Flag of an entry whose MAC address is valid: `ATF_COM` of arp(7).
const COMPLETE: u32 = 0x2;

/// Reads the kernel's table (proc(5), `/proc/net/arp`), by the path that `ProcSubset=pid` of systemd
/// leaves.
///
/// # Errors
/// The error of the system; `/proc` may not be mounted.
pub(crate) fn read() -> io::Result<Vec<(IpAddr, Mac)>> {
    use io::Read as _;
    let mut text = String::new();
    std::fs::File::open("/proc/self/net/arp")?.take(TABLE_MAX).read_to_string(&mut text)?;
    Ok(parse(&text))
}

/// Tells `machines` the MAC addresses of those of which it knows only an IP address. Without the kernel's
/// table they stay as they are.
pub(crate) fn introduce(machines: &Registry, now: Instant) {
    let strangers = machines.strangers();
    if strangers.is_empty() {
        return;
    }
    // The kernel answers from memory.
    let neighbours = read().unwrap_or_default();
    for (address, mac) in neighbours.into_iter().filter(|(address, _)| strangers.contains(address)) {
        machines.met(mac, address, now);
    }
}

/// Returns the complete entries. Columns: address, hardware type, flags, hardware address, mask,
/// device.
fn parse(table: &str) -> Vec<(IpAddr, Mac)> {
    table.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<(IpAddr, Mac)> {
    let mut columns = line.split_ascii_whitespace();
    let address: Ipv4Addr = columns.next()?.parse().ok()?;
    let flags = columns.nth(1)?.strip_prefix("0x")?;
    // A neighbour that did not answer any more keeps its MAC address in the table.
    let is_complete = u32::from_str_radix(flags, 16).ok()? & COMPLETE != 0;
    let mac = columns.next()?.parse().ok().filter(|_| is_complete)?;
    Some((address.into(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_complete_entries() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.168.77.90    0x1         0x2         52:54:00:fe:00:b0     *        br0\n\
            192.168.77.91    0x1         0x0         00:00:00:00:00:00     *        br0\n\
            192.168.77.92    0x1         0x0         52:54:00:fe:00:b1     *        br0\n\
            192.168.77.93    0x1         0x6         52:54:00:fe:00:b2     *        br0\n\
            10.0.0.1         0x20        0x2         80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03  * ib0\n\
            \n\
            nonsense\n\
            10.0.0.2         0x1\n";
        let of = |n, mac: &str| (IpAddr::from([192, 168, 77, n]), mac.parse().unwrap());
        assert_eq!(parse(table), [of(90, "52:54:00:fe:00:b0"), of(93, "52:54:00:fe:00:b2")]);
    }

    #[test]
    fn table_of_this_host_is_readable() {
        read().unwrap();
    }
}
