//! The socket of one transfer: one of its own, or its part of the well-known port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::refuse;
use crate::codec::Reader;
use crate::sys::Route;
use crate::tftp::session::{self, Opening};
use crate::tftp::wire::Packet;

/// Datagrams of a client that wait for its transfer; more are lost, as they would be in a full socket.
const INBOX: usize = 16;

/// Where a transfer's datagrams leave and come in.
#[derive(Debug)]
pub(super) enum Link {
    /// A port of its own, its transfer identifier. It is not connected: a stranger who sends to it is to get an
    /// answer (RFC 1350 §4).
    Own { socket: UdpSocket, peer: SocketAddrV4 },
    /// The well-known port.
    Shared { socket: Arc<UdpSocket>, route: Route, inbox: mpsc::Receiver<Bytes>, next: Option<Bytes> },
}

/// The way into a [`Link::Shared`].
#[derive(Debug)]
pub(super) struct Inbox(mpsc::Sender<Bytes>);

impl Inbox {
    pub(super) fn deliver(&self, datagram: &[u8]) {
        // A full inbox loses it, as the network might have.
        let _ = self.0.try_send(Bytes::copy_from_slice(datagram));
    }
}

impl Link {
    /// A port of its own at the address that the client knows.
    pub(super) fn own(peer: SocketAddrV4, local: Ipv4Addr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((local, 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self::Own { socket: UdpSocket::from_std(socket)?, peer })
    }

    /// A part of the well-known port.
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

    /// Calls `send` whenever the socket can take something, until it does.
    pub(super) async fn send<R>(
        &self,
        mut send: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        let socket = self.socket();
        socket.async_io(Interest::WRITABLE, || send(socket.as_fd())).await
    }

    /// Waits until there may be a datagram of the client.
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

    /// The next datagram of the client, if there is one.
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

/// The next datagram of `peer`; strangers are answered on the way.
fn receive_from<'a>(socket: &UdpSocket, peer: SocketAddrV4, buf: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let (len, from) = socket.try_recv_from(buf)?;
    let datagram = buf.get(..len).unwrap_or_default();
    if from == SocketAddr::V4(peer) {
        return Ok(datagram);
    }
    if let (Opening::Refuse(code, text), SocketAddr::V4(from)) =
        (session::stray(Packet::parse(&mut Reader::new(datagram))), from)
    {
        refuse(socket, from, code, text);
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Largest packet that gets from `local` to `peer` in one piece, as far as the kernel knows.
pub(super) fn path_mtu(peer: SocketAddrV4, local: Ipv4Addr) -> Option<u16> {
    // Only a connected socket has a path. Connecting one sends nothing.
    let probe = std::net::UdpSocket::bind((local, 0)).ok()?;
    probe.connect(peer).ok()?;
    let mtu = getsockopt(&probe, sockopt::IpMtu).ok()?;
    // The loopback interface carries 65536.
    u16::try_from(mtu).ok().or((mtu > 0).then_some(u16::MAX))
}
