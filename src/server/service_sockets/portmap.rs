//! How machines find NFS: by a portmapper of ours, or by the rpcbind that has port 111 on this host.

use std::io::{self, ErrorKind};
use std::net::{SocketAddrV4, TcpListener, UdpSocket};

use super::{OFF, ServiceSockets, address_of, cannot, port_of, why_not};
use crate::boot::menu::Root;
use crate::config::{Asked, Config, Door, PORTMAP_PORT};
use crate::nfs::server::rpcbind::{self, NotRegistered, Registration};
use crate::server::StartError;
use crate::server::sockets::{self, PortmapSockets, SocketError};

/// Who tells machines where NFS is.
#[derive(Debug)]
pub enum Portmap {
    Ours { tcp: TcpListener, udp: UdpSocket },
    Rpcbind(Registration),
}

impl ServiceSockets {
    /// To be called when it is known whether there is NFS.
    pub(super) fn open_portmap(
        &mut self,
        config: &Config,
        inherited: PortmapSockets,
    ) -> Result<(), StartError> {
        let is_inherited = inherited.tcp.is_some() || inherited.udp.is_some();
        let nfs = self.nfs.as_ref().and_then(port_of);
        let (port, asked, nfs) = match (config.root_doors.portmap, nfs) {
            (Door::On { port, asked }, Some(nfs)) => (port, asked, nfs),
            _ if is_inherited => return Err(SocketError::Off("portmap").into()),
            (Door::On { .. }, None) => {
                self.off(NAME, "there is no NFS to find");
                return Ok(());
            }
            (Door::Off, _) => {
                self.off(NAME, OFF);
                return Ok(());
            }
        };
        let address = SocketAddrV4::new(config.bind, port);
        let found = bind(inherited, address).or_else(|error| match port {
            PORTMAP_PORT => register(nfs, address, error),
            _ => Err(MissingPortmap::of_port(address, error)),
        });
        match found {
            Ok(portmap) => {
                self.portmap_up(portmap);
                Ok(())
            }
            Err(missing) if asked == Asked::ByOperator => Err(missing.fatal),
            Err(missing) => {
                self.lacks_privilege |= missing.is_privilege;
                self.off(NAME, &format!("{}; archiso's initramfs finds no NFS without it", missing.why));
                self.missed.push((Root::Nfs, missing.fatal));
                Ok(())
            }
        }
    }

    fn portmap_up(&mut self, portmap: Portmap) {
        match &portmap {
            Portmap::Ours { tcp, .. } => self.up(NAME, address_of(tcp), "telling where NFS is"),
            Portmap::Rpcbind(_) => self.up(NAME, None, "rpcbind, which has port 111, tells where NFS is"),
        }
        self.portmap = Some(portmap);
    }
}

const NAME: &str = "Portmap";

/// Binds what was not inherited: the same port of both transports.
fn bind(inherited: PortmapSockets, address: SocketAddrV4) -> io::Result<Portmap> {
    let tcp = inherited.tcp.map_or_else(|| sockets::listen(address), Ok)?;
    let address = SocketAddrV4::new(*address.ip(), tcp.local_addr()?.port());
    let udp = inherited.udp.map_or_else(|| UdpSocket::bind(address), Ok)?;
    Ok(Portmap::Ours { tcp, udp })
}

/// `error` is why port 111 is not ours. That of a missing privilege comes first, whoever has the port.
fn register(nfs: u16, address: SocketAddrV4, error: io::Error) -> Result<Portmap, MissingPortmap> {
    rpcbind::register(nfs).map(Portmap::Rpcbind).map_err(|refused| match refused {
        // There is none, or none that works.
        NotRegistered::Unreachable { .. } => MissingPortmap::of_port(address, error),
        refused => MissingPortmap { why: refused.to_string(), is_privilege: false, fatal: refused.into() },
    })
}

/// Why nobody tells machines where NFS is.
struct MissingPortmap {
    why: String,
    /// Whether a privilege is all it lacks.
    is_privilege: bool,
    fatal: StartError,
}

impl MissingPortmap {
    fn of_port(address: SocketAddrV4, error: io::Error) -> Self {
        Self {
            why: why_not(&error, address.port()),
            is_privilege: error.kind() == ErrorKind::PermissionDenied,
            fatal: cannot("portmap", address, error),
        }
    }
}
