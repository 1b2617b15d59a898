//! Free ports for servers that start again at the same one.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Returns a port of loopback that is free now, and that no other test of this process gets.
///
/// One that the kernel chooses could be that of a connection a moment later. These ports are below
/// those that it chooses from (ip(7): `ip_local_port_range`).
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 11_000 + (std::process::id() % 400) as u16 * 20;
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    ports.find(|&port| is_free(port)).expect("there are more ports than tests")
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}
