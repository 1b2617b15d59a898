//! systemd's file descriptor store (sd_notify(3), `FDSTORE=1`): what is put there at SIGTERM comes
//! to the next process beside the sockets of the units.
//!
//! systemd compares each file that it stores with all others, by a system call for each pair. So the
//! open files lie in bundles: a thousand connections are five files for systemd.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::descriptors::{MESSAGE_MAX, bundle, send_with, unbundle};
use super::parcel::anonymous_file;
use super::state::STATE_MAX;
use super::{Outgoing, Parcel, State};

/// Name of the state in the store.
const STATE: &str = "isowire-state";

/// Beginning of the names of the bundles; their numbers follow.
const NUMBERED: &str = "isowire-";

/// Time that the manager may take to answer at all. One that knows only `READY=1` never does, and
/// whoever stops the service waits for that long.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Time that systemd may take to store everything.
const STORED_WITHIN: Duration = Duration::from_secs(5);

/// Error of putting something into the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0}")]
    State(#[from] super::state::StateError),
    /// It is stored last.
    #[error("systemd did not store all; raise FileDescriptorStoreMax= of the unit")]
    Incomplete,
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Tells whether this process was started by systemd or another manager that may have a store.
pub(crate) fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// What came out of the store.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    state: Option<OwnedFd>,
    bundles: BTreeMap<usize, OwnedFd>,
}

impl Stored {
    /// Tells whether an inherited file of this name came out of the store.
    pub(crate) fn is_name(name: &str) -> bool {
        name == STATE || number_of(name).is_some()
    }

    /// Adds an inherited file for which [`Stored::is_name`] is true.
    pub(crate) fn add(&mut self, name: &str, file: OwnedFd) {
        match number_of(name) {
            Some(number) => drop(self.bundles.insert(number, file)),
            None => self.state = Some(file),
        }
    }

    /// Returns the names of what was stored, for [`forget`].
    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.state.iter().map(|_| STATE.to_owned());
        state.chain(self.bundles.keys().map(|number| format!("{NUMBERED}{number}"))).collect()
    }

    /// Opens what was stored; `None` if nothing was. It stays in the store until [`forget`]: this
    /// process may not start after all.
    ///
    /// # Errors
    /// [`StoreError`] for a state that cannot be used.
    pub(crate) fn open(self) -> Result<Option<Parcel>, StoreError> {
        let Some(state) = self.state else {
            return if self.bundles.is_empty() { Ok(None) } else { Err(StoreError::Incomplete) };
        };
        let (mut state, mut bytes) = (File::from(state), Vec::new());
        // An earlier process may have read it, and failed to start.
        state.rewind()?;
        state.take(STATE_MAX as u64 + 1).read_to_end(&mut bytes)?;
        let state = State::parse(&bytes)?;
        let mut files = BTreeMap::new();
        for (number, bundle) in self.bundles {
            let numbers = number.saturating_mul(MESSAGE_MAX)..;
            files.extend(numbers.zip(unbundle(bundle)?));
        }
        Ok(Some(Parcel::new(state, |number| files.remove(&number))))
    }
}

fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix(NUMBERED)?.parse().ok()
}

/// Has systemd remove files from the store. It would keep its copies: a connection that we close
/// would stay open. Waits for systemd.
///
/// # Errors
/// The error of the system.
pub(crate) fn forget(names: &[String]) -> io::Result<()> {
    let Some(manager) = Manager::connect()? else { return Ok(()) };
    for name in names {
        manager.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])?;
    }
    Ok(())
}

/// The socket of systemd.
#[derive(Debug)]
pub(crate) struct Manager(UnixDatagram);

impl Manager {
    /// Connects to a manager that has a store, and waits until it answers. Clients can be served
    /// meanwhile.
    ///
    /// # Errors
    /// The error of the system; `TimedOut` for a manager that knows no more than `READY=1`.
    pub(crate) fn reach() -> io::Result<Self> {
        let manager = Self::connect()?.ok_or(io::ErrorKind::NotFound)?;
        manager.wait(ANSWERED_WITHIN)?;
        Ok(manager)
    }

    /// Puts everything into the store, and waits until systemd has it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn put(&self, outgoing: &Outgoing) -> Result<(), StoreError> {
        let state = anonymous_file(&outgoing.state.emit()?)?;
        for (number, files) in outgoing.descriptors().chunks(MESSAGE_MAX).enumerate() {
            self.store(&format!("{NUMBERED}{number}"), bundle(files)?.as_fd())?;
        }
        // Last: without a state the others are of no use.
        self.store(STATE, state.as_fd())?;
        self.wait(STORED_WITHIN)?;
        Ok(())
    }

    /// Connects to the manager of this service; `None` if there is none.
    fn connect() -> io::Result<Option<Self>> {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(STORED_WITHIN))?;
        match path.as_bytes().strip_prefix(b"@") {
            // sd_notify(3): `@` stands for the 0 byte of an abstract socket (unix(7)).
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(path)?,
        }
        Ok(Some(Self(socket)))
    }

    /// Puts a file into the store. systemd would remove one whose other end is closed
    /// (sd_notify(3), `FDPOLL=0`), as that of a bundle is.
    fn store(&self, name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        self.send(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[file])
    }

    fn send(&self, message: &str, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_with(&self.0, message.as_bytes(), files).map(drop)
    }

    /// Waits until the manager has handled all that was sent (sd_notify(3), `BARRIER=1`).
    fn wait(&self, within: Duration) -> io::Result<()> {
        let (here, there) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send("BARRIER=1", &[there.as_fd()])?;
        drop(there);
        // The manager closes its copy, and the pipe has no writer any more.
        let within = Timespec { tv_sec: within.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&here, PollFlags::empty())], Some(&within))? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer at NOTIFY_SOCKET")),
            _ => Ok(()),
        }
    }
}
