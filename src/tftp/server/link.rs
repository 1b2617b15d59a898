//! Socket of one transfer: a port of its own, or a share of the well-known port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::refuse;
use crate::codec::Reader;
use crate::stream::Descriptors;
use crate::sys::Route;
use crate::tftp::session::{self, DatagramAction};
use crate::tftp::wire::Packet;

/// Datagrams that wait for a transfer. More are lost, as in a full socket buffer.
const INBOX: usize = 16;

/// Socket of a transfer.
#[derive(Debug)]
pub(super) enum Link {
    /// Port of the transfer alone: its transfer identifier. The socket is not connected, since
    /// another client that sends to it must get an answer (RFC 1350 §4).
    Own { socket: UdpSocket, peer: SocketAddrV4 },
    /// Well-known port.
    Shared { socket: Arc<UdpSocket>, route: Route, inbox: mpsc::Receiver<Bytes>, next: Option<Bytes> },
}

/// Queue of datagrams for a [`Link::Shared`].
#[derive(Debug)]
pub(super) struct Inbox(mpsc::Sender<Bytes>);

impl Inbox {
    pub(super) fn deliver(&self, datagram: &[u8]) {
        // A full queue loses the datagram, as the network might.
        let _ = self.0.try_send(Bytes::copy_from_slice(datagram));
    }
}

impl Link {
    /// Opens a port for the transfer alone.
    ///
    /// # Errors
    /// Those of the system; `EMFILE` if only descriptors are left that are not for transfers.
    pub(super) fn own(peer: SocketAddrV4, local: Ipv4Addr, descriptors: Descriptors) -> io::Result<Self> {
        // The client drops packets from another address than the one that it asked.
        let socket = std::net::UdpSocket::bind((local, 0))?;
        if descriptors.is_above_for_new(socket.as_raw_fd()) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        socket.set_nonblocking(true)?;
        Ok(Self::Own { socket: UdpSocket::from_std(socket)?, peer })
    }

    /// Creates a share of the well-known port.
    pub(super) fn shared(socket: &Arc<UdpSocket>, peer: SocketAddrV4, local: Ipv4Addr) -> (Self, Inbox) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let route = Route { to: peer, from: Some(local), segment: None };
        (Self::Shared { socket: Arc::clone(socket), route, inbox, next: None }, Inbox(sender))
    }

    pub(super) const fn route(&self) -> Route {
        match self {
            Self::Own { peer, .. } => Route { to: *peer, from: None, segment: None },
            Self::Shared { route, .. } => *route,
        }
    }

    fn socket(&self) -> &UdpSocket {
        match self {
            Self::Own { socket, .. } => socket,
            Self::Shared { socket, .. } => socket,
        }
    }

    /// Calls `send` each time that the socket is writable, until it succeeds.
    pub(super) async fn send<R>(
        &self,
        mut send: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        let socket = self.socket();
        socket.async_io(Interest::WRITABLE, || send(socket.as_fd())).await
    }

    /// Waits until a datagram of the client may be there.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        match self {
            Self::Own { socket, .. } => socket.readable().await,
            Self::Shared { inbox, next, .. } => {
                if next.is_none() {
                    *next = inbox.recv().await;
                }
                Ok(())
            }
        }
    }

    /// Receives the next datagram of the client.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, `Interrupted` after a datagram of another client.
    pub(super) fn try_receive<'a>(&mut self, buf: &'a mut [u8]) -> io::Result<&'a [u8]> {
        match self {
            Self::Own { socket, peer } => receive_from(socket, *peer, buf),
            Self::Shared { inbox, next, .. } => {
                let datagram =
                    next.take().or_else(|| inbox.try_recv().ok()).ok_or(io::ErrorKind::WouldBlock)?;
                let len = datagram.len().min(buf.len());
                let (head, _) = buf.split_at_mut(len);
                head.copy_from_slice(datagram.get(..len).unwrap_or_default());
                Ok(head)
            }
        }
    }
}

/// Receives a datagram of `peer`, or refuses one of another client.
fn receive_from<'a>(socket: &UdpSocket, peer: SocketAddrV4, buf: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let (len, from) = socket.try_recv_from(buf)?;
    let datagram = buf.get(..len).unwrap_or_default();
    if from == SocketAddr::V4(peer) {
        return Ok(datagram);
    }
    if let (DatagramAction::Refuse(code, text), SocketAddr::V4(from)) =
        (session::classify_stray(Packet::parse(&mut Reader::new(datagram))), from)
    {
        refuse(socket, from, None, code, text);
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Returns the path MTU from `local` to `peer`, as far as the kernel knows it.
pub(super) fn path_mtu(peer: SocketAddrV4, local: Ipv4Addr) -> Option<u16> {
    // IP_MTU, ip(7): works on a connected socket only. To connect a UDP socket sends nothing.
    let probe = std::net::UdpSocket::bind((local, 0)).ok()?;
    probe.connect(peer).ok()?;
    let mtu = getsockopt(&probe, sockopt::IpMtu).ok()?;
    // The MTU of the loopback interface is 65536.
    u16::try_from(mtu).ok().or((mtu > 0).then_some(u16::MAX))
}
