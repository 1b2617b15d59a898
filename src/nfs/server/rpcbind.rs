//! Registration with a running rpcbind, where that has port 111.
//!
//! rpcbind takes registrations over its local socket, and from whom they are it hears from the kernel. No privilege
//! is needed with its usual set-up.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tracing::{debug, info};

use crate::codec::Reader;
use crate::nfs::portmap::registration::{RegistrationCall, RegistrationCallError, call, result};
use crate::nfs::portmap::{MOUNT, NFS};

/// Where rpcbind listens (rpcbind(8)).
const SOCKET: &str = "/run/rpcbind.sock";

/// Time for an answer. It is on this host and has nothing else to do.
const DEADLINE: Duration = Duration::from_secs(3);

/// Longest reply that makes sense, in bytes: a number behind a header with the longest verifier is shorter.
const REPLY_MAX: usize = 1024;

/// Why machines cannot find NFS through rpcbind.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("rpcbind does not answer at {}: {error}; stop it, so that isowire has port 111, or repair it", .path.display())]
    Unreachable { path: PathBuf, error: io::Error },
    #[error(
        "rpcbind does not let us register {program}: run isowire as root or rpcbind with -i, \
         or stop rpcbind, so that isowire has port 111"
    )]
    Denied { program: &'static str },
    #[error("rpcbind sends machines to another {program} server at port {port}: stop that server first")]
    Taken { program: &'static str, port: u32 },
}

/// NFS and MOUNT at rpcbind. It stays until [`Registration::withdraw`]; what a killed process leaves behind is replaced
/// by the next one.
#[derive(Debug)]
#[must_use = "to be withdrawn at the end"]
pub struct Registration {
    path: PathBuf,
}

/// Has rpcbind tell machines that NFS and MOUNT are at `nfs_port`, where we listen already.
///
/// # Errors
/// [`RegistrationError`]; nothing of ours is registered then.
pub(crate) fn register(nfs_port: u16) -> Result<Registration, RegistrationError> {
    register_at(Path::new(SOCKET), nfs_port)
}

/// The same with an rpcbind that listens somewhere else.
///
/// # Errors
/// [`RegistrationError`]; nothing of ours is registered then.
pub fn register_at(path: &Path, nfs_port: u16) -> Result<Registration, RegistrationError> {
    let registration = Registration { path: path.to_owned() };
    let mut rpcbind = Rpcbind::connect(path).map_err(|error| registration.unreachable(error))?;
    for (done, (program, name)) in PROGRAMS.into_iter().enumerate() {
        let outcome = rpcbind.set(program, nfs_port).map_err(|error| registration.unreachable(error));
        let failure = match outcome {
            Ok(Set::Done) => continue,
            Ok(Set::Denied) => RegistrationError::Denied { program: name },
            Ok(Set::Taken(port)) => RegistrationError::Taken { program: name, port },
            Err(unreachable) => unreachable,
        };
        rpcbind.unset(PROGRAMS.into_iter().take(done));
        return Err(failure);
    }
    info!(nfs_port, "registered with rpcbind");
    Ok(registration)
}

const PROGRAMS: [(u32, &str); 2] = [(NFS, "NFS"), (MOUNT, "MOUNT")];

impl Registration {
    /// Takes the registration back.
    pub fn withdraw(self) {
        match Rpcbind::connect(&self.path) {
            Ok(mut rpcbind) => rpcbind.unset(PROGRAMS),
            Err(error) => debug!(%error, "rpcbind is gone, and the registration with it"),
        }
    }

    fn unreachable(&self, error: io::Error) -> RegistrationError {
        RegistrationError::Unreachable { path: self.path.clone(), error }
    }
}

/// What came of a registration.
enum Set {
    Done,
    Denied,
    /// Somebody else's server listens at this port.
    Taken(u32),
}

/// A connection to rpcbind.
struct Rpcbind {
    socket: UnixStream,
    xid: u32,
}

impl Rpcbind {
    fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Ok(Self { socket, xid: 0 })
    }

    fn set(&mut self, program: u32, nfs_port: u16) -> io::Result<Set> {
        if self.call(program, RegistrationCall::Set(nfs_port))? == Ok(1) {
            return Ok(Set::Done);
        }
        match self.call(program, RegistrationCall::Port)? {
            Ok(port) if has_listener(port) => return Ok(Set::Taken(port)),
            // rpcbind does not look whether a server still lives.
            Ok(port) if port != 0 => drop(self.call(program, RegistrationCall::Unset)?),
            _ => return Ok(Set::Denied),
        }
        let is_set = self.call(program, RegistrationCall::Set(nfs_port))? == Ok(1);
        Ok(if is_set { Set::Done } else { Set::Denied })
    }

    fn unset(&mut self, programs: impl IntoIterator<Item = (u32, &'static str)>) {
        for (program, name) in programs {
            match self.call(program, RegistrationCall::Unset) {
                Ok(Ok(1)) => {}
                other => debug!(?other, "rpcbind keeps the registration of {name}"),
            }
        }
    }

    fn call(
        &mut self,
        program: u32,
        request: RegistrationCall,
    ) -> io::Result<Result<u32, RegistrationCallError>> {
        self.xid += 1;
        self.socket.write_all(&call(self.xid, program, request))?;
        let mut mark = [0; 4];
        self.socket.read_exact(&mut mark)?;
        // It sends a short reply in one fragment, whose mark has the first bit set.
        let len = Reader::new(&mark).u32_be().map_or(0, |mark| (mark & 0x7fff_ffff) as usize);
        if len > REPLY_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut reply = vec![0; len];
        self.socket.read_exact(&mut reply)?;
        Ok(result(&reply, self.xid))
    }
}

/// Whether somebody may be listening at this port, at whichever address.
fn has_listener(port: u32) -> bool {
    // rpcbind takes any number for a port; at none of the others can anybody listen.
    let Ok(port @ 1..) = u16::try_from(port) else { return false };
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // Connections that are left over do not count, listeners do.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())
    };
    bind().is_err()
}
