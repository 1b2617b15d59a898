//! Shell of neighbour discovery: one raw ICMPv6 socket, and the interfaces on which it listens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::sockopt::{Ipv6RecvHopLimit, Ipv6RecvPacketInfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, SockaddrIn6, recvmsg, setsockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::session::{self, Solicitation};
use super::wire::{EMPTY_ADVERTISEMENT, ROUTER_SOLICITATION};
use crate::mac::Mac;
use crate::machines::Registry;
use crate::sys;

/// Multicast group of all routers, to which solicitations go (RFC 4291 §2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Hop limit of an advertisement (RFC 4861 §4.2).
const HOP_LIMIT: u32 = 255;

/// Bytes received of a message. iPXE and Linux send 16; a longer one is cut off and then malformed.
const RECEIVE_MAX: usize = 512;

/// Interval of looking for new interfaces.
const LOOK_EVERY: Duration = Duration::from_secs(10);

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
    /// Opens the socket, for one interface only if one is named.
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
        socket.bind_device(only.map(str::as_bytes))?;
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
        let found: BTreeMap<u32, String> = getifaddrs()?.filter_map(|entry| interface(&entry)).collect();
        self.joined.retain(|index, _| found.contains_key(index));
        let mut refused = None;
        for (index, name) in found {
            let is_wanted = self.only.as_ref().is_none_or(|only| *only == name);
            if !is_wanted || self.joined.contains_key(&index) {
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
}

/// Refuses an interface without IPv6: the kernel lets us join there too, and nothing ever arrives.
fn check_enabled(interface: &str) -> io::Result<()> {
    let setting = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"));
    match setting.is_ok_and(|setting| setting.trim() == "1") {
        true => Err(io::Error::new(ErrorKind::Unsupported, format!("IPv6 is turned off on {interface}"))),
        false => Ok(()),
    }
}

/// Returns number and name of an interface that is up and has neighbours. The kernel lists one
/// link-layer entry per interface.
fn interface(entry: &InterfaceAddress) -> Option<(u32, String)> {
    let link = *entry.address.as_ref()?.as_link_addr()?;
    // Loopback and tunnels have no machines to boot.
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST | InterfaceFlags::IFF_MULTICAST;
    let index = u32::try_from(link.ifindex()).ok()?;
    entry.flags.contains(wanted).then(|| (index, entry.interface_name.clone()))
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
    let mut look = tokio::time::interval(LOOK_EVERY);
    // After a suspend one look is enough.
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut shutdown, mut bytes) = (pin!(shutdown), [0; RECEIVE_MAX]);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            _ = look.tick() => listener.update_interfaces(),
            received = receive(&socket, &mut bytes) => match received {
                Ok(received) => handle(&socket, &received, &bytes, &machines),
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
