//! Shell of neighbour discovery: one raw ICMPv6 socket, and the interfaces on which it listens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{Ipv6RecvHopLimit, Ipv6RecvPacketInfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, SockaddrIn6, recvmsg, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tracing::{debug, info, warn};

use super::session::{self, Solicitation};
use super::wire::{EMPTY_ADVERTISEMENT, ROUTER_SOLICITATION};
use crate::interfaces::{self, InterfaceChanges};
use crate::mac::Mac;
use crate::machines::Registry;
use crate::panics::caught;
use crate::sys;

/// Multicast group of all routers, to which solicitations go (RFC 4291 §2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Hop limit of an advertisement (RFC 4861 §4.2).
const HOP_LIMIT: u32 = 255;

/// Bytes received of a message. iPXE and Linux send 16; a longer one is cut off and then malformed.
const RECEIVE_MAX: usize = 512;

/// Pause after a failed receive: a lack of memory does not end within microseconds.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// Raw socket for solicitations, and the interfaces on which it listens.
#[derive(Debug)]
pub(crate) struct SolicitationListener {
    socket: Socket,
    /// The only interface to listen on, if one was named.
    only: Option<String>,
    /// Interfaces that are listened on, by their numbers.
    joined: BTreeMap<u32, String>,
}

impl SolicitationListener {
    /// Opens the socket, for one interface only if one is named. It listens there as soon as that
    /// interface exists.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_RAW, `Unsupported` for a named interface without IPv6,
    /// and any other error of the kernel.
    pub(crate) fn open(only: Option<&str>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        // A raw socket gets all of ICMPv6, neighbour solicitations and echo requests included.
        sys::take_icmpv6_only(socket.as_fd(), ROUTER_SOLICITATION)?;
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        // RFC 4861 §6.1.1: the hop limit shows whether a router forwarded the message.
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
        // RFC 4861 §6.1.2: machines drop an advertisement with another hop limit.
        socket.set_unicast_hops_v6(HOP_LIMIT)?;
        let mut listener = Self { socket, only: only.map(str::to_owned), joined: BTreeMap::new() };
        let refused = listener.join()?;
        match refused.filter(|_| only.is_some()) {
            Some(error) => Err(error),
            None => Ok(listener),
        }
    }

    /// Names of the interfaces that are listened on.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.joined.values().map(String::as_str)
    }

    /// Returns whether a message from the interface of this number is answered.
    fn listens_on(&self, interface: u32) -> bool {
        // The socket is not bound to one, since it could not follow an interface that is made again
        // (socket(7)). So the kernel also gives it what arrives on others.
        self.joined.contains_key(&interface)
    }

    fn update_interfaces(&mut self) {
        match self.join() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => {
                debug!("router solicitations not received on some interface: {error}");
            }
        }
    }

    /// Joins the group on all present interfaces; returns the last error of one that could not be
    /// joined.
    fn join(&mut self) -> io::Result<Option<io::Error>> {
        let found = self.wanted()?;
        self.joined.retain(|index, name| found.get(index) == Some(name));
        let mut refused = None;
        for (index, name) in found {
            if self.joined.contains_key(&index) {
                continue;
            }
            match check_enabled(&name).and_then(|()| self.socket.join_multicast_v6(&ALL_ROUTERS, index)) {
                // The socket is still a member on an interface that was renamed.
                Err(error) if error.kind() != ErrorKind::AddrInUse => refused = Some(error),
                _ => drop(self.joined.insert(index, name)),
            }
        }
        Ok(refused)
    }

    /// Returns numbers and names of the wanted interfaces that are up and have neighbours.
    fn wanted(&self) -> io::Result<BTreeMap<u32, String>> {
        let mut list = interfaces::list()?;
        // Loopback and tunnels have no machines to boot.
        list.retain(|link| link.is_up && link.is_broadcast && link.is_multicast);
        list.retain(|link| self.only.as_ref().is_none_or(|only| *only == link.name));
        Ok(list.into_iter().map(|link| (link.index, link.name)).collect())
    }
}

/// Refuses an interface without IPv6: the kernel lets us join there too, and nothing ever arrives.
fn check_enabled(interface: &str) -> io::Result<()> {
    let setting = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"));
    match setting.is_ok_and(|setting| setting.trim() == "1") {
        true => Err(io::Error::new(ErrorKind::Unsupported, format!("IPv6 is turned off on {interface}"))),
        false => Ok(()),
    }
}

/// Answers machines that were offered a boot file, as `machines` knows, until `shutdown` is ready.
///
/// # Errors
/// Errors of setting up the socket. Nothing that a peer does ends the service.
pub(crate) async fn run(
    mut listener: SolicitationListener,
    machines: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let socket = watched(&listener.socket)?;
    let mut changes = InterfaceChanges::listen();
    listener.update_interfaces();
    let (mut shutdown, mut bytes) = (pin!(shutdown), [0; RECEIVE_MAX]);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            () = changes.next() => listener.update_interfaces(),
            received = receive(&socket, &mut bytes) => match received {
                Ok(received) if listener.listens_on(received.interface) => {
                    let _ = caught(|| handle(&socket, &received, &bytes, &machines));
                }
                Ok(received) => {
                    debug!(peer = %received.from, "router solicitation not answered: other interface");
                }
                Err(error) => {
                    warn!("router solicitation not received: {error}");
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            },
        }
    }
}

/// Registers the socket with the runtime. tokio has no type for a raw socket without `unsafe`; its
/// UDP type only waits for readiness and does not depend on the kind of socket.
fn watched(socket: &Socket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.try_clone()?.into())
}

/// Sender, hop limit, interface and length of a received message.
#[derive(Debug)]
struct ReceivedMessage {
    from: Ipv6Addr,
    hop_limit: Option<u8>,
    /// Number of the interface on which it arrived.
    interface: u32,
    len: usize,
}

async fn receive(socket: &UdpSocket, bytes: &mut [u8]) -> io::Result<ReceivedMessage> {
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::c_int);
    let fd = socket.as_raw_fd();
    let taken = socket.async_io(Interest::READABLE, || {
        let mut slices = [IoSliceMut::new(bytes)];
        received(&recvmsg(fd, &mut slices, Some(&mut control), MsgFlags::empty())?)
    });
    taken.await
}

fn received(message: &RecvMsg<'_, '_, SockaddrIn6>) -> io::Result<ReceivedMessage> {
    let from = message.address.ok_or(ErrorKind::InvalidData)?.ip();
    let (mut hop_limit, mut interface) = (None, None);
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv6HopLimit(limit) => hop_limit = u8::try_from(limit).ok(),
            ControlMessageOwned::Ipv6PacketInfo(info) => interface = Some(info.ipi6_ifindex),
            _ => {}
        }
    }
    let interface = interface.ok_or(ErrorKind::InvalidData)?;
    Ok(ReceivedMessage { from, hop_limit, interface, len: message.bytes })
}

/// Answers one message, or logs why not.
fn handle(socket: &UdpSocket, received: &ReceivedMessage, bytes: &[u8], machines: &Registry) {
    let ReceivedMessage { from, hop_limit, interface, len } = *received;
    let message = bytes.get(..len).unwrap_or_default();
    let solicitation = Solicitation { from, hop_limit, message };
    match session::decide(&solicitation, Instant::now(), |mac| machines.last_offered(mac)) {
        Ok(mac) => advertise(socket, mac, SocketAddrV6::new(from, 0, 0, interface)),
        Err(reason) => debug!(peer = %from, "router solicitation not answered: {reason}"),
    }
}

/// Sends at once or not at all: the machine repeats its solicitation.
fn advertise(socket: &UdpSocket, mac: Mac, to: SocketAddrV6) {
    // RFC 4861 §6.1.2: the source must be link-local. The kernel chooses such an address of that
    // interface and computes the checksum.
    match socket.try_send_to(&EMPTY_ADVERTISEMENT, to.into()) {
        Ok(_) => info!(machine = %mac, "empty router advertisement sent: no IPv6 router"),
        Err(error) => debug!(machine = %mac, "router advertisement not sent: {error}"),
    }
}
