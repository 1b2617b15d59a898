//! Where a server reports its status to this host: a Unix socket, and an address on loopback.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const NAME: &str = "status.sock";

/// Runtime directory of a system service with `RuntimeDirectory=isowire`, and of a server that runs
/// as root.
const SYSTEM: &str = "/run/isowire";

/// Address at which a server also reports its status, unless it is told another one: whoever has no
/// runtime directory (`su`, cron, a container) finds it there.
pub(crate) const LOCAL_PAGE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8081);

/// Returns the path of a server's socket. Its directory is the one that systemd made
/// (`RUNTIME_DIRECTORY`, systemd.exec(5)), else the user's runtime directory
/// (`XDG_RUNTIME_DIR`), else `/run/isowire`, where root may write.
///
/// `variable` looks up an environment variable.
pub(crate) fn server_path(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let given = variable("RUNTIME_DIRECTORY").and_then(first).map(PathBuf::from);
    given.or_else(|| of_user(variable)).unwrap_or_else(|| SYSTEM.into()).join(NAME)
}

/// Returns the paths at which a client looks for a server, the user's own first.
pub(crate) fn client_paths(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let directories = of_user(variable).into_iter().chain([SYSTEM.into()]);
    directories.map(|directory| directory.join(NAME)).collect()
}

/// Returns the first directory that systemd made; the variable separates them by colons.
fn first(directories: OsString) -> Option<String> {
    let directories = directories.into_string().ok()?;
    let first = directories.split(':').next().filter(|first| !first.is_empty())?;
    Some(first.to_owned())
}

fn of_user(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let directory = PathBuf::from(variable("XDG_RUNTIME_DIR")?);
    // XDG Base Directory Specification: a relative path is invalid and has to be ignored.
    directory.is_absolute().then(|| directory.join("isowire"))
}

/// A listening socket and its path in the file system; dropping it removes the path.
#[derive(Debug)]
pub struct LocalSocket {
    pub(crate) listener: UnixListener,
    pub(crate) name: Name,
}

/// The path of a socket, removed on drop unless another socket has it by then.
#[derive(Debug)]
pub(crate) struct Name {
    path: PathBuf,
    /// Device and inode of the socket.
    file: (u64, u64),
}

impl LocalSocket {
    /// Listens at `path` and creates its directory if needed. A socket that a dead server left
    /// behind is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when another server answers there, or when the path is not a socket; else the
    /// error of the system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            create_directory(directory)?;
        }
        let listener = match UnixListener::bind(path) {
            // unix(7): a bound path stays in the file system when its process is killed.
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_behind(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }?;
        Ok(Self { listener, name: Name::of(path)? })
    }

    /// Listens at `path` in place of the process that does now.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn replace(path: &Path) -> io::Result<Self> {
        let beside = path.with_extension("new");
        let socket = Self::bind(&beside)?;
        fs::rename(&beside, path)?;
        Ok(Self { listener: socket.listener.try_clone()?, name: Name::of(path)? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.name.path
    }

    /// Returns the socket and the name that lasts as long as it is kept.
    pub(crate) fn into_parts(self) -> (UnixListener, Name) {
        (self.listener, self.name)
    }
}

/// Creates the directory of the sockets, closed to other users, if it is not there.
///
/// # Errors
/// The error of the system.
pub(crate) fn create_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn is_left_behind(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    // connect(2): a path that no process listens on refuses.
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: file_at(path)? })
    }
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Drop for Name {
    fn drop(&mut self) {
        // A process that took over has a socket of its own there.
        if file_at(&self.path).is_ok_and(|file| file == self.file) {
            // A client then reads "no such file", which is clearer than a refused connection.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_path_is_shared_with_clients() {
        let user = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| "/run/user/7".into());
        let path = PathBuf::from("/run/user/7/isowire/status.sock");
        assert_eq!(server_path(&user), path);
        assert_eq!(client_paths(&user), [path, "/run/isowire/status.sock".into()]);

        let system = |name: &str| (name == "RUNTIME_DIRECTORY").then(|| "/run/isowire:/run/more".into());
        assert_eq!(server_path(&system), PathBuf::from("/run/isowire/status.sock"));
        assert_eq!(server_path(&|_| None), PathBuf::from("/run/isowire/status.sock"));
        assert_eq!(client_paths(&|_| None), [PathBuf::from("/run/isowire/status.sock")]);
        assert_eq!(client_paths(&|_| Some("here".into())).len(), 1, "a relative directory");
    }

    #[test]
    fn stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("isowire").join(NAME);
        let socket = LocalSocket::bind(&path).unwrap();
        let in_use = |path: &Path| LocalSocket::bind(path).unwrap_err().kind();
        assert_eq!(in_use(&path), ErrorKind::AddrInUse, "a server answers");
        drop(socket);
        assert!(!path.exists());

        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a killed server leaves it");
        drop(LocalSocket::bind(&path).unwrap());

        fs::write(&path, "a file").unwrap();
        assert_eq!(in_use(&path), ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"a file");
    }
}
