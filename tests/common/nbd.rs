//! An NBD client with simple replies, like the kernel's, that asks for any reads in any order.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Attaches to an export of the server on this port of loopback.
pub fn attach(port: u16, export: &str) -> TcpStream {
    attach_at((Ipv4Addr::LOCALHOST, port).into(), export)
}

/// Attaches to an export of the server at this address.
pub fn attach_at(server: SocketAddr, export: &str) -> TcpStream {
    let mut socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting).unwrap();
    let len = export.len() as u32;
    let go = [&(len + 6).to_be_bytes()[..], &len.to_be_bytes(), export.as_bytes(), &[0, 0]].concat();
    socket.write_all(&[b"\0\0\0\x03IHAVEOPT\0\0\0\x07", &go[..]].concat()).unwrap();
    socket.read_exact(&mut [0; 20 + 12 + 20]).unwrap();
    socket
}

/// A request whose cookie is its offset.
pub fn request(command: u16, offset: u64, len: u32) -> Vec<u8> {
    let start = [0x2560_9513_u32.to_be_bytes(), u32::from(command).to_be_bytes()].concat();
    [&start[..], &offset.to_be_bytes(), &offset.to_be_bytes(), &len.to_be_bytes()].concat()
}

pub fn read_request(offset: u64, len: u32) -> Vec<u8> {
    request(0, offset, len)
}

/// Reads a simple reply and returns its cookie and data.
pub fn reply(socket: &mut TcpStream, len: impl Fn(u64) -> usize) -> (u64, Vec<u8>) {
    let mut header = [0; 16];
    socket.read_exact(&mut header).unwrap();
    assert_eq!(header[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
    let cookie = u64::from_be_bytes(header[8..].try_into().unwrap());
    let mut data = vec![0; len(cookie)];
    socket.read_exact(&mut data).unwrap();
    (cookie, data)
}
