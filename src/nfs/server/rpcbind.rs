//! Registration with a running rpcbind, where that has port 111.
//!
//! rpcbind takes registrations over its local socket, and learns from the kernel who registers.
//! With its usual settings that needs no privilege.

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

/// Socket of rpcbind (rpcbind(8)).
const SOCKET: &str = "/run/rpcbind.sock";

/// Time for a reply from this host. Start-up waits for it.
const DEADLINE: Duration = Duration::from_secs(3);

/// Longest reply that makes sense, in bytes: a number after a header with the longest verifier.
const REPLY_MAX: usize = 1024;

/// Reason why machines cannot find NFS through rpcbind.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(
        "rpcbind does not answer at {}: {error}; repair it, \
         or stop it so that isowire can use port 111",
        .path.display()
    )]
    Unreachable { path: PathBuf, error: io::Error },
    #[error(
        "rpcbind refuses to register {program}: run isowire as root or rpcbind with -i, \
         or stop rpcbind so that isowire can use port 111"
    )]
    Denied { program: &'static str },
    #[error("rpcbind sends machines to another {program} server at port {port}: stop that server first")]
    Taken { program: &'static str, port: u32 },
}

/// The registration of NFS and MOUNT, until this is dropped: rpcbind would keep it after the end of the
/// process. A killed process leaves it behind, and the next one replaces it.
#[derive(Debug)]
#[must_use = "it is withdrawn when it is dropped"]
pub struct Registration {
    path: PathBuf,
    is_there: bool,
}

/// Registers NFS and MOUNT at `nfs_port`, where this process must already listen.
///
/// # Errors
/// [`RegistrationError`]; nothing is registered then.
pub(crate) fn register(nfs_port: u16) -> Result<Registration, RegistrationError> {
    register_at(Path::new(SOCKET), nfs_port)
}

/// Registers NFS and MOUNT with an rpcbind that listens at `path`.
///
/// # Errors
/// [`RegistrationError`]; nothing is registered then.
pub fn register_at(path: &Path, nfs_port: u16) -> Result<Registration, RegistrationError> {
    let mut registration = Registration { path: path.to_owned(), is_there: false };
    let mut rpcbind = Rpcbind::connect(path).map_err(|error| registration.unreachable(error))?;
    for (done, (program, name)) in PROGRAMS.into_iter().enumerate() {
        let outcome = rpcbind.set(program, nfs_port).map_err(|error| registration.unreachable(error));
        let failure = match outcome {
            Ok(SetOutcome::Done) => continue,
            Ok(SetOutcome::Denied) => RegistrationError::Denied { program: name },
            Ok(SetOutcome::Taken(port)) => RegistrationError::Taken { program: name, port },
            Err(unreachable) => unreachable,
        };
        // NFS without MOUNT would be of no use, so the other registration goes too.
        rpcbind.unset(PROGRAMS.into_iter().take(done));
        return Err(failure);
    }
    info!(nfs_port, "NFS registered with rpcbind");
    registration.is_there = true;
    Ok(registration)
}

const PROGRAMS: [(u32, &str); 2] = [(NFS, "NFS"), (MOUNT, "MOUNT")];

impl Registration {
    /// Leaves it to the process that has taken over.
    pub(crate) fn keep(mut self) {
        self.is_there = false;
    }

    fn unreachable(&self, error: io::Error) -> RegistrationError {
        RegistrationError::Unreachable { path: self.path.clone(), error }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.is_there {
            return;
        }
        match Rpcbind::connect(&self.path) {
            Ok(mut rpcbind) => rpcbind.unset(PROGRAMS),
            Err(error) => debug!(%error, "rpcbind stopped, and its registrations with it"),
        }
    }
}

/// Outcome of registering one program.
enum SetOutcome {
    Done,
    Denied,
    /// Another server listens at this port.
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

    fn set(&mut self, program: u32, nfs_port: u16) -> io::Result<SetOutcome> {
        if self.call(program, RegistrationCall::Set(nfs_port))? == Ok(1) {
            return Ok(SetOutcome::Done);
        }
        // RFC 1833 §3.2: SET refuses a program that is registered already, at whichever port.
        match self.call(program, RegistrationCall::Port)? {
            Ok(port) if has_listener(port) => return Ok(SetOutcome::Taken(port)),
            // rpcbind does not notice that a server was killed, so its registration is replaced.
            Ok(port) if port != 0 => drop(self.call(program, RegistrationCall::Unset)?),
            _ => return Ok(SetOutcome::Denied),
        }
        let is_set = self.call(program, RegistrationCall::Set(nfs_port))? == Ok(1);
        Ok(if is_set { SetOutcome::Done } else { SetOutcome::Denied })
    }

    fn unset(&mut self, programs: impl IntoIterator<Item = (u32, &'static str)>) {
        for (program, name) in programs {
            match self.call(program, RegistrationCall::Unset) {
                Ok(Ok(1)) => {}
                other => debug!(?other, "registration of {name} not removed from rpcbind"),
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
        // rpcbind sends a short reply in one fragment; the first bit of its mark says so.
        let len = Reader::new(&mark).u32_be().map_or(0, |mark| (mark & 0x7fff_ffff) as usize);
        if len > REPLY_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut reply = vec![0; len];
        self.socket.read_exact(&mut reply)?;
        Ok(result(&reply, self.xid))
    }
}

/// Returns `true` if a server may be listening at this port, on any address.
fn has_listener(port: u32) -> bool {
    // rpcbind accepts any number as a port; nothing can listen at the others.
    let Ok(port @ 1..) = u16::try_from(port) else { return false };
    try_bind(port).is_err()
}

/// Binds a port on all addresses, and releases it.
fn try_bind(port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // With SO_REUSEADDR only listeners conflict, not connections in TIME_WAIT (socket(7)).
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into())
}
