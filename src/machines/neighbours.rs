//! The neighbours of this host: which MAC address has which address, as the kernel found out by ARP.
//!
//! This is how a machine gets its MAC address in the records where DHCP is somebody else's and not heard by us. Only
//! machines on our own wire are there; those behind a router stay known by their address.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use super::Mac;

/// Longest table that is read, in bytes: 79 a line, and the kernel keeps 1024 entries unless it is told otherwise.
const TABLE_MAX: u64 = 1 << 20;

/// Reads the kernel's table (proc(5), `/proc/net/arp`).
///
/// # Errors
/// What the system says; there may be no `/proc`.
pub fn read() -> io::Result<Vec<(IpAddr, Mac)>> {
    use io::Read as _;
    let mut text = String::new();
    std::fs::File::open("/proc/net/arp")?.take(TABLE_MAX).read_to_string(&mut text)?;
    Ok(parse(&text))
}

/// The complete entries of a table of these columns: address, hardware type, flags, hardware address, mask, device.
fn parse(table: &str) -> Vec<(IpAddr, Mac)> {
    table.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<(IpAddr, Mac)> {
    let mut columns = line.split_ascii_whitespace();
    let address: Ipv4Addr = columns.next()?.parse().ok()?;
    // An entry that is not complete has no MAC address but zeros.
    let mac = columns.nth(2)?.parse().ok()?;
    Some((address.into(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_entries_count() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            192.168.77.90    0x1         0x2         52:54:00:fe:00:b0     *        br0\n\
            192.168.77.91    0x1         0x0         00:00:00:00:00:00     *        br0\n\
            10.0.0.1         0x20        0x2         80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03  * ib0\n\
            \n\
            nonsense\n\
            10.0.0.2         0x1\n";
        let mac = "52:54:00:fe:00:b0".parse().unwrap();
        assert_eq!(parse(table), [(IpAddr::from([192, 168, 77, 90]), mac)]);
    }

    #[test]
    fn this_hosts_table_can_be_read() {
        read().unwrap();
    }
}
