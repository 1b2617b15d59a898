//! Sockets: inherited from systemd or another supervisor, or bound here.

use std::env;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{Asked, Config, ServicePort};
use crate::handover::store::Stored;
use crate::handover::takeover::TakeoverError;
use crate::sys;

/// Connections that may wait to be accepted: a thousand machines may start together.
const BACKLOG: i32 = 4096;

/// Sockets from systemd or another supervisor (sd_listen_fds(3)), by the names of
/// `FileDescriptorName=`.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    pub(super) nbd: Option<TcpListener>,
    pub(super) nfs: Option<TcpListener>,
    pub(super) portmap: PortmapSockets,
    pub(super) http: Option<TcpListener>,
    pub(super) tftp: Option<UdpSocket>,
    /// Port 67.
    pub(super) dhcp: Option<UdpSocket>,
    /// Port 4011.
    pub(super) pxe: Option<UdpSocket>,
    /// Of the status, from another process.
    pub(super) status: Option<TcpListener>,
    /// Mark of the process before this one that it answers DHCP.
    pub(super) dhcp_mark: Option<UnixDatagram>,
    /// What an earlier run put into systemd's file descriptor store.
    pub(super) stored: Stored,
}

/// The sockets of the portmapper, on one port of both transports. Both are called `portmap`, so
/// that one unit can open them.
#[derive(Debug, Default)]
pub(super) struct PortmapSockets {
    pub(super) tcp: Option<TcpListener>,
    pub(super) udp: Option<UdpSocket>,
}

/// Error: an inherited socket cannot be used. The unit file that opens it is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "an inherited socket is called `{0}`: set FileDescriptorName= of its unit to nbd, nfs, portmap, http, \
         tftp, dhcp or pxe"
    )]
    Unknown(String),
    #[error("two inherited sockets are called `{0}`: leave one out")]
    Twice(String),
    #[error(
        "the inherited socket `{0}` is of the wrong kind: nbd, nfs, http and portmap listen on TCP, portmap and the \
         others on UDP"
    )]
    Kind(String),
    #[error(
        "the inherited socket `{0}` is not an IPv4 socket: write its address as in ListenDatagram=0.0.0.0:69"
    )]
    Family(String),
    #[error(
        "the inherited socket `{0}` has no use, since that service is off: disable the socket unit, or enable the service"
    )]
    Off(&'static str),
}

impl Inherited {
    /// Takes over the sockets passed to this process. Call it before there are other threads: it
    /// changes the environment.
    ///
    /// # Errors
    /// [`SocketError`] for a socket of no service: its requests would never be answered.
    pub(super) fn take() -> Result<Self, SocketError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        // sd_listen_fds(3): names are separated by colons.
        let mut names = names.split(':').filter(|name| !name.is_empty());
        let mut inherited = Self::default();
        for position in 0..sockets.len() {
            // systemd's own name for a socket without FileDescriptorName= (sd_listen_fds(3)).
            inherited.add(names.next().unwrap_or("unknown"), &mut sockets, position)?;
        }
        Ok(inherited)
    }

    /// Takes the sockets that another process listens on. Those that do not fit the configuration
    /// are closed, and bound anew.
    ///
    /// # Errors
    /// [`TakeoverError::Address`] for one that cannot be bound anew while the other process has it.
    pub(super) fn of_offer(sockets: Vec<(String, OwnedFd)>, config: &Config) -> Result<Self, TakeoverError> {
        let mut inherited = Self::default();
        for (name, socket) in sockets {
            inherited.add_offered(&name, socket, config)?;
        }
        Ok(inherited)
    }

    fn add_offered(&mut self, name: &str, socket: OwnedFd, config: &Config) -> Result<(), TakeoverError> {
        if name == "dhcp-mark" {
            self.dhcp_mark = Some(socket.into());
            return Ok(());
        }
        let Some(address) = address_of(&socket) else { return Ok(()) };
        let fits = |service| fits(service, address, config.bind);
        let services = &config.root_services;
        let has_portmap = !services.nfs.is_off();
        match name {
            "nbd" if fits(services.nbd)? => self.nbd = Some(socket.into()),
            "nfs" if fits(services.nfs)? => self.nfs = Some(socket.into()),
            "http" if fits(services.http)? => self.http = Some(socket.into()),
            "tftp" if fits(config.tftp)? => self.tftp = Some(socket.into()),
            "portmap-tcp" if has_portmap && fits(services.portmap)? => self.portmap.tcp = Some(socket.into()),
            "portmap-udp" if has_portmap && fits(services.portmap)? => self.portmap.udp = Some(socket.into()),
            "status" if config.status.address() == Some(address) => self.status = Some(socket.into()),
            "dhcp" if config.answers_dhcp() => self.dhcp = Some(socket.into()),
            "pxe" if config.answers_dhcp() => self.pxe = Some(socket.into()),
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, name: &str, sockets: &mut ListenFd, position: usize) -> Result<(), SocketError> {
        if Stored::is_name(name) {
            if let Some(file) =
                sys::inherited(sockets, position).map_err(|_| SocketError::Kind(name.into()))?
            {
                self.stored.add(name, file);
            }
            return Ok(());
        }
        let (tcp, udp) = match name {
            "nbd" => (Some(&mut self.nbd), None),
            "nfs" => (Some(&mut self.nfs), None),
            "portmap" => (Some(&mut self.portmap.tcp), Some(&mut self.portmap.udp)),
            "http" => (Some(&mut self.http), None),
            "tftp" => (None, Some(&mut self.tftp)),
            "dhcp" => (None, Some(&mut self.dhcp)),
            "pxe" => (None, Some(&mut self.pxe)),
            _ => return Err(SocketError::Unknown(name.into())),
        };
        // `take_*` leaves a socket of another kind in place.
        if let Some(slot) = tcp
            && let Ok(socket) = sockets.take_tcp_listener(position)
        {
            return once(name, slot, socket);
        }
        if let Some(slot) = udp
            && let Ok(socket) = sockets.take_udp_socket(position)
        {
            // The address that a datagram was sent to comes by IP_PKTINFO, which IPv4 sockets have.
            return match socket.as_ref().is_none_or(is_ipv4) {
                true => once(name, slot, socket),
                false => Err(SocketError::Family(name.into())),
            };
        }
        Err(SocketError::Kind(name.into()))
    }
}

/// Tells whether a service that is bound to `ours` can have the socket of another process at `address`.
fn fits(service: ServicePort, address: SocketAddrV4, ours: Ipv4Addr) -> Result<bool, TakeoverError> {
    let ServicePort::On { port, asked } = service else { return Ok(false) };
    let theirs = *address.ip();
    let is_in_the_way = theirs != ours && (theirs.is_unspecified() || ours.is_unspecified());
    if is_in_the_way && address.port() == port {
        return Err(TakeoverError::Address { port, theirs, ours });
    }
    // Port 0 is any, and a default service may have got another one.
    let is_port = port == 0 || address.port() == port || asked == Asked::ByDefault;
    Ok(is_port && theirs == ours)
}

fn address_of(socket: &OwnedFd) -> Option<SocketAddrV4> {
    SockRef::from(socket).local_addr().ok()?.as_socket_ipv4()
}

fn is_ipv4(socket: &UdpSocket) -> bool {
    socket.local_addr().is_ok_and(|address| address.is_ipv4())
}

/// Stores a socket of which there may be one.
fn once<S>(name: &str, slot: &mut Option<S>, socket: Option<S>) -> Result<(), SocketError> {
    match slot {
        Some(_) => Err(SocketError::Twice(name.into())),
        None => {
            *slot = socket;
            Ok(())
        }
    }
}

/// Listens on a TCP port.
///
/// # Errors
/// The error of the system call.
pub(super) fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // Without SO_REUSEADDR a restart fails while connections of the last run are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
