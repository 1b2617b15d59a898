//! The portmapper, by which machines find NFS: our own, or an rpcbind that has port 111.

use std::io::{self, ErrorKind};
use std::net::{SocketAddrV4, TcpListener, UdpSocket};

use super::{OFF, Obstacle, ServiceSockets, address_of, cannot, port_of, why_not};
use crate::bootable::Root;
use crate::config::{Asked, Config, PORTMAP_PORT, ServicePort};
use crate::nfs::server::rpcbind::{self, Registration, RegistrationError};
use crate::server::StartError;
use crate::server::sandbox::Identity;
use crate::server::sockets::{self, PortmapSockets, SocketError};

/// The portmapper of this run.
#[derive(Debug)]
pub(in crate::server) enum PortmapService {
    Ours { tcp: TcpListener, udp: UdpSocket },
    Rpcbind(Registration),
}

impl ServiceSockets {
    /// Opens the portmapper. Call it after NFS was opened.
    pub(super) fn open_portmap(
        &mut self,
        config: &Config,
        inherited: PortmapSockets,
        identity: &Identity,
    ) -> Result<(), StartError> {
        let is_inherited = inherited.tcp.is_some() || inherited.udp.is_some();
        let nfs = self.nfs.as_ref().and_then(port_of);
        let (port, asked, nfs) = match (config.root_services.portmap, nfs) {
            (ServicePort::On { port, asked }, Some(nfs)) => (port, asked, nfs),
            _ if is_inherited => return Err(SocketError::Off("portmap").into()),
            (ServicePort::On { .. }, None) => {
                self.off(NAME, "NFS is off");
                return Ok(());
            }
            (ServicePort::Off, _) => {
                self.off(NAME, OFF);
                return Ok(());
            }
        };
        let address = SocketAddrV4::new(config.bind, port);
        let found = bind(inherited, address).or_else(|error| match port {
            // Clients ask port 111, so only there an rpcbind helps.
            PORTMAP_PORT => register(nfs, address, error, identity),
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
                self.off(NAME, &format!("{}; archiso's initramfs needs it to find NFS", missing.why));
                self.hinder(Obstacle::of(&missing.fatal));
                self.missed.push((Root::Nfs, missing.fatal));
                Ok(())
            }
        }
    }

    fn portmap_up(&mut self, portmap: PortmapService) {
        match &portmap {
            PortmapService::Ours { tcp, .. } => self.up(NAME, address_of(tcp), "telling where NFS is"),
            PortmapService::Rpcbind(_) => {
                self.up(NAME, None, "rpcbind, which has port 111, tells where NFS is")
            }
        }
        self.portmap = Some(portmap);
    }
}

const NAME: &str = "Portmap";

/// Binds the sockets that were not inherited, on the same port of both transports.
fn bind(inherited: PortmapSockets, address: SocketAddrV4) -> io::Result<PortmapService> {
    let tcp = inherited.tcp.map_or_else(|| sockets::listen(address), Ok)?;
    // With port 0 the system chose one for TCP; UDP has to have the same.
    let address = SocketAddrV4::new(*address.ip(), tcp.local_addr()?.port());
    let udp = inherited.udp.map_or_else(|| UdpSocket::bind(address), Ok)?;
    Ok(PortmapService::Ours { tcp, udp })
}

/// Registers NFS with the rpcbind of this host. `error` is the reason why port 111 cannot be used,
/// and is reported if there is no rpcbind.
fn register(
    nfs: u16,
    address: SocketAddrV4,
    error: io::Error,
    identity: &Identity,
) -> Result<PortmapService, MissingPortmap> {
    // rpcbind lets only the user that registered withdraw it.
    let Ok(registered) = identity.run(|| rpcbind::register(nfs)) else {
        return Err(MissingPortmap::of_port(address, error));
    };
    registered.map(PortmapService::Rpcbind).map_err(|refused| match refused {
        // The port is not rpcbind's, or its rpcbind does not work.
        RegistrationError::Unreachable { .. } => MissingPortmap::of_port(address, error),
        refused => MissingPortmap { why: refused.to_string(), is_privilege: false, fatal: refused.into() },
    })
}

/// Reason why machines cannot find NFS.
struct MissingPortmap {
    why: String,
    /// True if only a privilege is missing.
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
