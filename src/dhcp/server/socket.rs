//! DHCP socket: reports the interface of each received datagram, and chooses that of each
//! broadcast.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::sockopt::Ipv4PacketInfo;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, RecvMsg, SockaddrIn, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::dhcp::session::Destination;
use crate::dhcp::wire::{CLIENT_PORT, DhcpParseError, HardwareAddress, Header, Message};

/// Bytes received of a message. Clients send at most one Ethernet frame; a longer message is cut
/// off and then malformed.
const RECEIVE_MAX: usize = 2048;

/// Use of a port together with other sockets of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// A proxy may run on the host of the DHCP server: the kernel gives a broadcast to both.
    Shared,
    /// A server role is alone: another DHCP server on this host is an error at start.
    Alone,
}

/// Binds a UDP socket for DHCP, on one interface only if one is named.
///
/// # Errors
/// Errors of the kernel: for ports below 1024 often a missing privilege.
pub fn bind(
    address: SocketAddrV4,
    interface: Option<&str>,
    sharing: Sharing,
) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(sharing == Sharing::Shared)?;
    // SO_BINDTODEVICE takes no privilege since Linux 5.7.
    socket.bind_device(interface.map(str::as_bytes))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Source, destination and interface of a received datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub from: SocketAddrV4,
    /// Index of the interface.
    pub interface: u32,
    /// Destination: an address of ours, or a broadcast address.
    pub to: Ipv4Addr,
    /// The address of ours that the kernel would reply from.
    pub spec_dst: Ipv4Addr,
}

/// Datagram that is not a DHCP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    pub error: DhcpParseError,
    /// The sender's hardware address; `None` if not even the header is whole.
    pub machine: Option<HardwareAddress>,
}

/// Bound UDP socket with buffers for one datagram.
#[derive(Debug)]
pub(super) struct Socket {
    udp: UdpSocket,
    bytes: Vec<u8>,
    control: Vec<u8>,
}

impl Socket {
    /// Takes a bound socket, ours or inherited.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_broadcast(true)?;
        // IP_PKTINFO, ip(7): without it a broadcast leaves by the default route only.
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
        let control = cmsg_space!(in_pktinfo);
        Ok(Self { udp: UdpSocket::from_std(socket)?, bytes: vec![0; RECEIVE_MAX], control })
    }

    /// Waits for a datagram.
    pub(super) async fn receive(&mut self) -> io::Result<(Result<Message, Malformed>, Arrival)> {
        let Self { udp, bytes, control } = self;
        let fd = udp.as_raw_fd();
        udp.async_io(Interest::READABLE, || {
            let mut slices = [IoSliceMut::new(bytes)];
            let received = recvmsg(fd, &mut slices, Some(control), MsgFlags::empty())?;
            let (arrival, len) = (arrival(&received)?, received.bytes);
            Ok((parse(bytes.get(..len).unwrap_or_default()), arrival))
        })
        .await
    }

    /// Sends at once or not at all. A datagram that finds the queue full is lost, as it might be on
    /// the wire: the client asks again.
    pub(super) fn send(
        &self,
        bytes: &[u8],
        to: Destination,
        arrival: &Arrival,
        local: Ipv4Addr,
    ) -> io::Result<()> {
        let (to, interface) = match to {
            Destination::Broadcast => {
                (SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT), arrival.interface)
            }
            // The routing table knows the interface: the relay agent may be on another one.
            Destination::Unicast(to) => (to, 0),
        };
        self.send_from(bytes, to, interface, local)
    }

    /// Sends with the source address `local` out of `interface`, or by the routing table if that is
    /// 0.
    pub(super) fn send_from(
        &self,
        bytes: &[u8],
        to: SocketAddrV4,
        interface: u32,
        local: Ipv4Addr,
    ) -> io::Result<()> {
        let info = in_pktinfo {
            ipi_ifindex: interface.cast_signed(),
            ipi_spec_dst: in_addr { s_addr: u32::from(local).to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let (slices, control) = ([IoSlice::new(bytes)], [ControlMessage::Ipv4PacketInfo(&info)]);
        sendmsg(self.udp.as_raw_fd(), &slices, &control, MsgFlags::empty(), Some(&SockaddrIn::from(to)))?;
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}

fn parse(datagram: &[u8]) -> Result<Message, Malformed> {
    Message::parse(datagram).map_err(|error| Malformed { error, machine: Header::hardware_of(datagram) })
}

fn arrival(received: &RecvMsg<'_, '_, SockaddrIn>) -> io::Result<Arrival> {
    let from = received.address.ok_or(io::ErrorKind::InvalidData)?.into();
    let info = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
        _ => None,
    });
    let info = info.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Arrival {
        from,
        interface: info.ipi_ifindex.cast_unsigned(),
        to: ipv4(info.ipi_addr),
        spec_dst: ipv4(info.ipi_spec_dst),
    })
}

fn ipv4(address: in_addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be(address.s_addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_role_does_not_share_its_port() {
        let bind = |port, sharing| bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), None, sharing);
        let first = bind(0, Sharing::Shared).unwrap();
        let port = first.local_addr().unwrap().port();
        assert!(bind(port, Sharing::Shared).is_ok());
        assert_eq!(bind(port, Sharing::Alone).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn datagram_comes_with_its_interface() {
        let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let mut receiver = Socket::new(bind(local, None, Sharing::Alone).unwrap()).unwrap();
        let sender = Socket::new(bind(local, None, Sharing::Alone).unwrap()).unwrap();
        let std::net::SocketAddr::V4(to) = receiver.udp.local_addr().unwrap() else { panic!("no IPv4") };
        let discover = Message::discover(7, [2; 6]);
        sender.send_from(&discover.emit(), to, 0, Ipv4Addr::LOCALHOST).unwrap();
        let (message, arrival) = receiver.receive().await.unwrap();
        assert_eq!(message, Ok(discover));
        assert_eq!(std::net::SocketAddr::from(arrival.from), sender.udp.local_addr().unwrap());
        assert_eq!((arrival.to, arrival.spec_dst), (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST));
        assert_ne!(arrival.interface, 0);
    }
}
