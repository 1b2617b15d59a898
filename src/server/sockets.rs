//! The sockets of the services: taken over from whoever started us, or bound here.

use std::env;
use std::io;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted: a thousand machines that start together.
const BACKLOG: i32 = 4096;

/// Sockets that systemd or another supervisor opened for us (sd_listen_fds(3)), by the names of `FileDescriptorName=`.
#[derive(Debug, Default)]
pub struct Inherited {
    pub nbd: Option<TcpListener>,
    pub tftp: Option<UdpSocket>,
    /// Port 67.
    pub dhcp: Option<UdpSocket>,
    /// Port 4011.
    pub pxe: Option<UdpSocket>,
}

/// A socket was passed on to us that we have no use for: a mistake in a unit file.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    #[error(
        "an inherited socket is called `{0}`: set FileDescriptorName= of its unit to nbd, tftp, dhcp or pxe"
    )]
    Unknown(String),
    #[error("two inherited sockets are called `{0}`: leave one out")]
    Twice(String),
    #[error("the inherited socket `{0}` is of the wrong kind: nbd listens on TCP, the others on UDP ({1})")]
    Kind(String, io::Error),
    #[error("the inherited socket `{0}` is no IPv4 one: write its address as in ListenDatagram=0.0.0.0:69")]
    Family(String),
    #[error(
        "the inherited socket `{0}` has no use, since that service is off: disable its socket unit, or turn it on"
    )]
    Off(&'static str),
}

impl Inherited {
    /// Takes over what was passed on to this process. To be called before there are other threads: it changes the
    /// environment.
    ///
    /// # Errors
    /// [`Unfit`] for a socket that is not used: it would swallow requests unanswered.
    pub fn take() -> Result<Self, Unfit> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        let mut names = names.split(':').filter(|name| !name.is_empty());
        let mut inherited = Self::default();
        for position in 0..sockets.len() {
            // Without FileDescriptorName= the name is "unknown" to systemd as well.
            inherited.add(names.next().unwrap_or("unknown"), &mut sockets, position)?;
        }
        Ok(inherited)
    }

    fn add(&mut self, name: &str, sockets: &mut ListenFd, position: usize) -> Result<(), Unfit> {
        let udp = match name {
            "nbd" => {
                let socket = sockets.take_tcp_listener(position).map_err(|e| Unfit::Kind(name.into(), e))?;
                return once(name, &mut self.nbd, socket);
            }
            "tftp" => &mut self.tftp,
            "dhcp" => &mut self.dhcp,
            "pxe" => &mut self.pxe,
            _ => return Err(Unfit::Unknown(name.into())),
        };
        let socket = sockets.take_udp_socket(position).map_err(|e| Unfit::Kind(name.into(), e))?;
        // DHCPv4 and TFTP look at packet information that only IPv4 sockets have.
        let is_v4 = |socket: &UdpSocket| socket.local_addr().is_ok_and(|address| address.is_ipv4());
        if !socket.as_ref().is_none_or(is_v4) {
            return Err(Unfit::Family(name.into()));
        }
        once(name, udp, socket)
    }
}

fn once<S>(name: &str, slot: &mut Option<S>, socket: Option<S>) -> Result<(), Unfit> {
    match slot {
        Some(_) => Err(Unfit::Twice(name.into())),
        None => {
            *slot = socket;
            Ok(())
        }
    }
}

/// Listens on a TCP port.
///
/// # Errors
/// What the system says.
pub fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
