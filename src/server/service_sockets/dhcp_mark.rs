//! Mark by which a second isowire on this host sees that DHCP is answered already: two proxies
//! share port 67, and a machine would get two offers with different boot files.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::debug;

use crate::handover::takeover::TakeoverError;

/// Name of the mark of an isowire that answers on all interfaces. One that answers on a single
/// interface adds a slash and that interface.
const NAME: &str = "isowire/dhcp";

/// Longest table of Unix sockets that is read, in bytes: 30,000 lines of about 130.
const TABLE_MAX: u64 = 4 << 20;

/// Bound socket in the abstract namespace (unix(7)), which each network namespace has for itself.
/// It needs no file, and the kernel removes it with its process.
///
/// Any user of this host can bind the name first, and so keep isowire from answering DHCP, as one
/// can by binding a port above 1024, such as that of NBD.
#[derive(Debug)]
pub(in crate::server) struct DhcpMark {
    /// `None` if the kernel gave no socket: DHCP is answered without a mark.
    socket: Option<UnixDatagram>,
}

/// Error: another isowire on this host answers DHCP.
#[derive(Debug, thiserror::Error)]
#[error("another isowire on this host answers DHCP")]
pub struct DhcpMarkError;

impl DhcpMark {
    /// Takes the mark of the process before this one.
    ///
    /// # Errors
    /// [`TakeoverError::Interface`] if it is for another interface: the other process answers there for
    /// as long as this one starts, and its sockets are bound to it.
    pub(super) fn inherit(socket: UnixDatagram, interface: Option<&str>) -> Result<Self, TakeoverError> {
        let address = socket.local_addr()?;
        match address.as_abstract_name() == Some(name_for(interface).as_bytes()) {
            true => Ok(Self { socket: Some(socket) }),
            false => Err(TakeoverError::Interface),
        }
    }

    /// Returns the socket, for the process after this one.
    pub(in crate::server) fn socket(&self) -> Option<&UnixDatagram> {
        self.socket.as_ref()
    }

    /// Sets the mark for one interface, or for all.
    ///
    /// # Errors
    /// [`DhcpMarkError`] if another process has a mark for the same interface or for all, or one
    /// for any if this is for all.
    pub(super) fn set(interface: Option<&str>) -> Result<Self, DhcpMarkError> {
        let name = name_for(interface);
        let bound = SocketAddr::from_abstract_name(&name).and_then(|name| UnixDatagram::bind_addr(&name));
        // After the own mark is set: of two processes that start together, each then sees the
        // other's.
        match bound {
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(DhcpMarkError),
            Ok(_) if marks().is_ok_and(|marks| marks.iter().any(|mark| clash(mark, &name))) => {
                Err(DhcpMarkError)
            }
            Ok(socket) => Ok(Self { socket: Some(socket) }),
            Err(error) => {
                debug!("no mark for a second isowire: {error}");
                Ok(Self { socket: None })
            }
        }
    }
}

/// Returns the name of the mark for one interface, or for all.
fn name_for(interface: Option<&str>) -> String {
    interface.map_or_else(|| NAME.to_owned(), |interface| format!("{NAME}/{interface}"))
}

/// Returns whether two different marks are for the same interface: one of them is for all.
fn clash(one: &str, other: &str) -> bool {
    one != other && (one == NAME || other == NAME)
}

/// Returns the marks of this network namespace.
fn marks() -> io::Result<Vec<String>> {
    let mut table = Vec::new();
    File::open("/proc/self/net/unix")?.take(TABLE_MAX).read_to_end(&mut table)?;
    Ok(parse(&String::from_utf8_lossy(&table)))
}

/// Reads the marks in a table of Unix sockets (proc(5)): the eighth column is the name, and `@`
/// stands for the NUL before an abstract one.
fn parse(table: &str) -> Vec<String> {
    let names = table.lines().filter_map(|line| line.split_ascii_whitespace().nth(7)?.strip_prefix('@'));
    let is_mark =
        |name: &&str| name.strip_prefix(NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    names.filter(is_mark).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_abstract_names() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20441 @isowire/dhcp\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20442 @isowire/dhcp/eth0\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20443 @isowire/dhcpx\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20444 /run/isowire/dhcp\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20445\n\
            nonsense\n";
        assert_eq!(parse(table), ["isowire/dhcp", "isowire/dhcp/eth0"]);
        assert!(marks().is_ok(), "the kernel's own table");
    }

    #[test]
    fn marks_clash_if_one_is_for_all_interfaces() {
        let [all, one, other] = [NAME, "isowire/dhcp/eth0", "isowire/dhcp/eth1"];
        assert!(clash(all, one) && clash(one, all));
        assert!(!clash(one, other));
        assert!(!clash(all, all), "its own");
    }
}
