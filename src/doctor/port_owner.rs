//! The program that has a port, by the kernel's tables of sockets (proc(5), `/proc/net/tcp`) and the
//! open files of processes.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::unistd::{Uid, User};

use super::firewall::Transport;

/// State of a listening socket of TCP, and of each of UDP.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// Longest name of a process that is shown, in characters; the kernel keeps 15.
const NAME_MAX: usize = 32;

/// Owner of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PortOwner {
    Process {
        name: String,
        pid: u32,
    },
    /// Only the user is known: the open files of its processes are private.
    User(String),
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid } => write!(f, "{name} (process {pid})"),
            Self::User(name) => write!(f, "a process of user {name}"),
        }
    }
}

/// A row of the kernel's table.
#[derive(Debug, PartialEq, Eq)]
struct SocketRow {
    /// `None` if the socket is of IPv6.
    ip: Option<Ipv4Addr>,
    uid: u32,
    inode: u64,
}

/// Finds the owner of an address; `None` if no socket has it any more.
pub(super) fn find(address: SocketAddrV4, transport: Transport) -> Option<PortOwner> {
    let rows = tables(transport).iter().flat_map(|table| parse(table, address.port())).collect::<Vec<_>>();
    let row = rows.iter().find(|row| conflicts(row, *address.ip()))?;
    Some(process_with(row.inode).unwrap_or_else(|| PortOwner::User(user_name(row.uid))))
}

fn tables(transport: Transport) -> Vec<String> {
    let protocol = transport.word();
    // A socket of IPv6 may take the port of IPv4 too (ipv6(7), IPV6_V6ONLY).
    let names = [protocol.to_owned(), format!("{protocol}6")];
    names.iter().filter_map(|name| fs::read_to_string(format!("/proc/self/net/{name}")).ok()).collect()
}

fn conflicts(row: &SocketRow, ip: Ipv4Addr) -> bool {
    row.ip.is_none_or(|bound| bound == ip || bound.is_unspecified() || ip.is_unspecified())
}

/// Parses the rows of sockets that wait at a port.
fn parse(table: &str, port: u16) -> impl Iterator<Item = SocketRow> {
    table.lines().filter_map(move |line| row(line, port))
}

fn row(line: &str, port: u16) -> Option<SocketRow> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (ip, local_port) = fields.get(1)?.split_once(':')?;
    let is_waiting = matches!(*fields.get(3)?, LISTENING | UNCONNECTED);
    let is_port = u16::from_str_radix(local_port, 16) == Ok(port);
    (is_waiting && is_port).then_some(())?;
    // The kernel prints the address as a number of this machine's byte order.
    let ip = (ip.len() == 8).then(|| u32::from_str_radix(ip, 16).ok()).flatten();
    let ip = ip.map(|number| Ipv4Addr::from(number.to_ne_bytes()));
    Some(SocketRow { ip, uid: fields.get(7)?.parse().ok()?, inode: fields.get(9)?.parse().ok()? })
}

/// Finds a process that has the socket open. systemd keeps sockets that it opened for a service.
fn process_with(inode: u64) -> Option<PortOwner> {
    let link = format!("socket:[{inode}]");
    let mut pids: Vec<u32> = names_in("/proc").iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    let pid = pids.into_iter().rev().find(|pid| has_open(*pid, &link))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    // A process names itself.
    let name = name.trim_end().escape_debug().take(NAME_MAX).collect();
    Some(PortOwner::Process { name, pid })
}

fn has_open(pid: u32, link: &str) -> bool {
    let directory = format!("/proc/{pid}/fd");
    let files = names_in(&directory);
    files.iter().any(|name| {
        fs::read_link(format!("{directory}/{name}")).is_ok_and(|target| target.as_os_str() == link)
    })
}

fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn row_is_of_a_waiting_socket() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  101        0 777 1 0 100 0\n\
            1: 0100007F:0050 0200007F:1234 01 00000000:00000000 00:00000000 00000000  101        0 778 1 0 100 0\n\
            2: 00000000000000000000000000000000:0050 0:0000 0A 0:0 0:0 0 0 0 779 1\n\
            nonsense\n";
        let rows: Vec<_> = parse(table, 80).collect();
        let ip = Some(Ipv4Addr::from(0x0100_007F_u32.to_ne_bytes()));
        let first = SocketRow { ip, uid: 101, inode: 777 };
        assert_eq!(rows, [first, SocketRow { ip: None, uid: 0, inode: 779 }]);
        assert_eq!(parse(table, 81).count(), 0);
    }

    #[test]
    fn own_port_is_of_this_process() {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        for (address, transport) in
            [(tcp.local_addr().unwrap(), Transport::Tcp), (udp.local_addr().unwrap(), Transport::Udp)]
        {
            let SocketAddr::V4(address) = address else { panic!("no IPv4") };
            let Some(PortOwner::Process { pid, .. }) = find(address, transport) else { panic!("no owner") };
            assert_eq!(pid, std::process::id());
            let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, address.port());
            assert!(find(everywhere, transport).is_some());
        }
    }
}
