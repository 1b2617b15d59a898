//! The socket of a DHCP port, opened again when its interface is made again.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};

use socket2::SockRef;
use tracing::{info, warn};

use super::interfaces::Interfaces;
use super::socket::{Arrival, Malformed, Sharing, Socket, bind};
use crate::dhcp::wire::Message;

/// Interface that every network namespace has, and no machine reaches.
const LOOPBACK: &str = "lo";

/// Binds a DHCP port whose interface does not exist yet. The socket shows that this user may have
/// the port and that no other program has all of it; [`super::Server`] replaces it.
///
/// # Errors
/// Those of [`bind`].
pub fn bind_until_interface_exists(address: SocketAddrV4) -> io::Result<UdpSocket> {
    // Shared, since others may wait as well.
    bind(address, Some(LOOPBACK), Sharing::Shared)
}

/// Socket of a DHCP port.
#[derive(Debug)]
pub(super) struct PortSocket {
    socket: Socket,
    address: SocketAddrV4,
    /// Interface to be bound to; `None` for a socket that receives from all.
    device: Option<String>,
    sharing: Sharing,
}

impl PortSocket {
    /// Takes a socket, ours or inherited. If it is bound to an interface, it is opened again on
    /// `only`, or on the same one, as soon as it is deaf.
    pub(super) fn new(socket: UdpSocket, only: Option<&str>, sharing: Sharing) -> io::Result<Self> {
        let address = SockRef::from(&socket).local_addr()?.as_socket_ipv4();
        let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let bound = device_of(&socket);
        // An error: that interface is gone already.
        let device = match (&bound, only) {
            (Ok(None), _) => None,
            (_, Some(only)) => Some(only.to_owned()),
            (Ok(device), None) => device.clone(),
            (Err(_), None) => {
                warn!(%address, "inherited socket is bound to an interface that is gone. Restart its unit");
                None
            }
        };
        Ok(Self { socket: Socket::new(socket)?, address, device, sharing })
    }

    /// Returns the name of the interface that it is to be bound to.
    pub(super) fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Waits for a datagram.
    pub(super) async fn receive(&mut self) -> io::Result<(Result<Message, Malformed>, Arrival)> {
        self.socket.receive().await
    }

    /// Returns the open socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Opens a new socket if its interface exists and the socket is bound to another one, or to one
    /// that is gone.
    ///
    /// # Errors
    /// Those of [`bind`]. The old socket stays.
    fn follow(&mut self, interfaces: &Interfaces) -> io::Result<()> {
        let Some(device) = self.device.as_deref().filter(|device| interfaces.has(device)) else {
            return Ok(());
        };
        if device_of(&self.socket).is_ok_and(|bound| bound.as_deref() == Some(device)) {
            return Ok(());
        }
        // A socket cannot be bound to another interface without CAP_NET_RAW (socket(7)), but a new
        // one can.
        self.socket = Socket::new(bind(self.address, Some(device), self.sharing)?)?;
        Ok(())
    }
}

/// Returns the name of the interface that a socket is bound to.
///
/// # Errors
/// `ENODEV` if that interface is gone.
fn device_of(socket: &impl std::os::fd::AsFd) -> io::Result<Option<String>> {
    let device = SockRef::from(socket).device()?;
    Ok(device.map(|name| String::from_utf8_lossy(&name).into_owned()))
}

/// Presence of the only interface, for the log.
#[derive(Debug)]
pub(super) struct Presence {
    /// `None` if all interfaces are served.
    name: Option<String>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Here,
    Missing,
    /// The reason why a port was not opened again.
    Deaf(String),
}

impl Presence {
    pub(super) fn new(name: Option<String>) -> Self {
        Self { name, state: State::Here }
    }

    /// Opens the ports again where that is necessary. Logs what is new.
    pub(super) fn follow<'a>(
        &mut self,
        interfaces: &Interfaces,
        ports: impl IntoIterator<Item = &'a mut PortSocket>,
    ) {
        let Some(name) = &self.name else { return };
        let mut opened = ports.into_iter().map(|port| port.follow(interfaces));
        let state = match opened.find_map(Result::err) {
            _ if !interfaces.has(name) => State::Missing,
            Some(error) => State::Deaf(error.to_string()),
            None => State::Here,
        };
        if state == self.state {
            return;
        }
        match &state {
            State::Missing => warn!("waiting for interface {name}"),
            State::Here => info!("interface {name} is there: DHCP is answered on it"),
            // Under systemd this process may have no privilege for the ports.
            State::Deaf(error) => warn!(
                "DHCP sockets not opened on the new {name}: {error}. Restart isowire, or its socket units"
            ),
        }
        self.state = state;
    }
}
