//! The socket on this host that a server tells its status by, without anybody choosing a port.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const NAME: &str = "status.sock";

/// Where systemd puts the `RuntimeDirectory=isowire` of a system service, and where root puts it.
const SYSTEM: &str = "/run/isowire";

/// Where a server has its socket: in what systemd made for it (`RUNTIME_DIRECTORY`, systemd.exec(5)), else in the runtime
/// directory of its user (`XDG_RUNTIME_DIR`), else where root may write.
///
/// `variable` gives environment variables.
pub fn server_path(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let given = variable("RUNTIME_DIRECTORY").and_then(first).map(PathBuf::from);
    given.or_else(|| of_user(variable)).unwrap_or_else(|| SYSTEM.into()).join(NAME)
}

/// Where a client looks for a server: that of its own user first.
pub fn client_paths(variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let directories = of_user(variable).into_iter().chain([SYSTEM.into()]);
    directories.map(|directory| directory.join(NAME)).collect()
}

/// The first of the directories that systemd made: they are told as a list with colons.
fn first(directories: OsString) -> Option<String> {
    let directories = directories.into_string().ok()?;
    let first = directories.split(':').next().filter(|first| !first.is_empty())?;
    Some(first.to_owned())
}

fn of_user(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let directory = PathBuf::from(variable("XDG_RUNTIME_DIR")?);
    // The specification has a relative one ignored.
    directory.is_absolute().then(|| directory.join("isowire"))
}

/// A listening socket with its name in the file system, which goes with it.
#[derive(Debug)]
pub struct LocalSocket {
    pub(super) listener: UnixListener,
    pub(super) name: Name,
}

/// A socket's name in the file system; removed when it is dropped.
#[derive(Debug)]
pub(super) struct Name(PathBuf);

impl LocalSocket {
    /// Listens at `path`, and makes its directory where there is none. What a server left behind that is gone is replaced.
    ///
    /// # Errors
    /// `AddrInUse` when another server answers there, or when there is something else than a socket; else what the system
    /// says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && is_left_behind(path) => {
                fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }?;
        Ok(Self { listener, name: Name(path.to_owned()) })
    }

    pub fn path(&self) -> &Path {
        &self.name.0
    }
}

fn is_left_behind(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).err().is_some_and(refused)
}

impl Drop for Name {
    fn drop(&mut self) {
        // Who looks for a server then is told that there is none rather than that it refuses.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_and_client_meet() {
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
    fn what_was_left_behind_is_replaced_and_nothing_else() {
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
