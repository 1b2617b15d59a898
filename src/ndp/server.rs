//! The shell of the advertisements: one raw ICMPv6 socket, and the networks that it listens to.

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

use super::session::{self, Arrival};
use super::wire::{EMPTY_ADVERTISEMENT, ROUTER_SOLICITATION};
use crate::machines::{Mac, Registry};
use crate::sys;

/// Who wants to know a router asks there (RFC 4291 §2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What receivers demand (RFC 4861 §6.1.2).
const HOP_LIMIT: u32 = 255;

/// Longer solicitations are cut, and then malformed: those there are have 16 bytes.
const RECEIVE_MAX: usize = 512;

/// Between two looks for interfaces that came after us.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Pause after a failed receive: out of memory is not over the next microsecond.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

/// A raw socket for solicitations, and the interfaces that they come in on.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// The only one to listen on.
    only: Option<String>,
    /// Those that are listened on, by their numbers.
    joined: BTreeMap<u32, String>,
}

impl Listener {
    /// Opens the socket, for one interface only if one is named.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_RAW, `Unsupported` for a named interface on which IPv6 is turned off, and what else
    /// the kernel says.
    pub fn open(only: Option<&str>) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        sys::take_icmpv6_only(socket.as_fd(), ROUTER_SOLICITATION)?;
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
        setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
        socket.bind_device(only.map(str::as_bytes))?;
        socket.set_unicast_hops_v6(HOP_LIMIT)?;
        let mut listener = Self { socket, only: only.map(str::to_owned), joined: BTreeMap::new() };
        let refused = listener.join()?;
        match refused.filter(|_| only.is_some()) {
            Some(error) => Err(error),
            None => Ok(listener),
        }
    }

    /// Names of the interfaces that are listened on.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.joined.values().map(String::as_str)
    }

    fn look_around(&mut self) {
        match self.join() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => {
                debug!(%error, "router solicitations of some network are not heard")
            }
        }
    }

    /// Listens on the interfaces that are there by now; the last reason why one of them cannot be.
    fn join(&mut self) -> io::Result<Option<io::Error>> {
        let found: BTreeMap<u32, String> = getifaddrs()?.filter_map(|entry| interface(&entry)).collect();
        self.joined.retain(|index, _| found.contains_key(index));
        let mut refused = None;
        for (index, name) in found {
            let is_wanted = self.only.as_ref().is_none_or(|only| *only == name);
            if !is_wanted || self.joined.contains_key(&index) {
                continue;
            }
            match turned_on(&name).and_then(|()| self.socket.join_multicast_v6(&ALL_ROUTERS, index)) {
                // Where it was renamed meanwhile, or went and came, we may be in already.
                Err(error) if error.kind() != ErrorKind::AddrInUse => refused = Some(error),
                _ => drop(self.joined.insert(index, name)),
            }
        }
        Ok(refused)
    }
}

/// The kernel lets us in where IPv6 is turned off too, and nothing ever comes.
fn turned_on(interface: &str) -> io::Result<()> {
    let setting = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"));
    match setting.is_ok_and(|setting| setting.trim() == "1") {
        true => Err(io::Error::new(ErrorKind::Unsupported, format!("IPv6 is turned off on {interface}"))),
        false => Ok(()),
    }
}

/// The number and name of an interface that is up and has neighbours: the kernel gives one such entry for each.
fn interface(entry: &InterfaceAddress) -> Option<(u32, String)> {
    let link = *entry.address.as_ref()?.as_link_addr()?;
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST | InterfaceFlags::IFF_MULTICAST;
    let index = u32::try_from(link.ifindex()).ok()?;
    entry.flags.contains(wanted).then(|| (index, entry.interface_name.clone()))
}

/// Answers machines that were offered a boot file, as `machines` knows, until `shutdown` is ready.
///
/// # Errors
/// What the system says about the socket. Nothing that a peer does ends the service.
pub async fn run(
    mut listener: Listener,
    machines: Arc<Registry>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let socket = watched(&listener.socket)?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut shutdown, mut bytes) = (pin!(shutdown), [0; RECEIVE_MAX]);
    loop {
        tokio::select! {
            () = &mut shutdown => return Ok(()),
            _ = look.tick() => listener.look_around(),
            received = receive(&socket, &mut bytes) => match received {
                Ok(received) => handle(&socket, &received, &bytes, &machines),
                Err(error) => {
                    warn!(%error, "router solicitations cannot be received");
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            },
        }
    }
}

/// The same socket, watched by the runtime. That it is no UDP one is nothing that the runtime looks at or depends on; for
/// any other kind there is no type of its without `unsafe`.
fn watched(socket: &Socket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.try_clone()?.into())
}

/// A solicitation that came, but for its bytes.
#[derive(Debug)]
struct Received {
    from: Ipv6Addr,
    hop_limit: Option<u8>,
    /// Number of the interface that it came in on.
    interface: u32,
    len: usize,
}

async fn receive(socket: &UdpSocket, bytes: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!(nix::libc::in6_pktinfo, nix::libc::c_int);
    let fd = socket.as_raw_fd();
    let taken = socket.async_io(Interest::READABLE, || {
        let mut slices = [IoSliceMut::new(bytes)];
        received(&recvmsg(fd, &mut slices, Some(&mut control), MsgFlags::empty())?)
    });
    taken.await
}

fn received(message: &RecvMsg<'_, '_, SockaddrIn6>) -> io::Result<Received> {
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
    Ok(Received { from, hop_limit, interface, len: message.bytes })
}

/// One solicitation, from bytes to bytes.
fn handle(socket: &UdpSocket, received: &Received, bytes: &[u8], machines: &Registry) {
    let Received { from, hop_limit, interface, len } = *received;
    let message = bytes.get(..len).unwrap_or_default();
    let arrival = Arrival { from, hop_limit, message };
    match session::decide(&arrival, Instant::now(), |mac| machines.last_offered(mac)) {
        Ok(mac) => advertise(socket, mac, SocketAddrV6::new(from, 0, 0, interface)),
        Err(silence) => debug!(peer = %from, "router solicitation not answered: {silence}"),
    }
}

/// Sends at once or not at all: the machine asks again. The kernel takes our link-local address of that interface, as
/// receivers demand (RFC 4861 §6.1.2), and computes the checksum.
fn advertise(socket: &UdpSocket, mac: Mac, to: SocketAddrV6) {
    match socket.try_send_to(&EMPTY_ADVERTISEMENT, to.into()) {
        Ok(_) => info!(machine = %mac, "told that there is no IPv6 router"),
        Err(error) => debug!(machine = %mac, %error, "router advertisement not sent"),
    }
}
