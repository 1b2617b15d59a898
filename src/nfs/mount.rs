//! MOUNT version 3 (RFC 1813, appendix I): resolves the path of an export to a file handle.
//!
//! The server keeps no list of mounts: each machine that is switched off would leave a wrong entry.

use std::net::SocketAddr;

use tracing::info;

use super::handle::FileHandle;
use super::rpc::{AUTH_NONE, AUTH_SYS, Call, CallError};
use super::xdr::{self, Emitter, XdrParseError};
use crate::image::{FileChangedError, NodeKind};
use crate::images::ImageSet;

/// Number and version of the program (RFC 1813 §5.1).
pub(crate) const PROGRAM: u32 = 100_005;
pub(crate) const VERSION: u32 = 3;

/// Longest path of a mount, in bytes (MNTPATHLEN, RFC 1813 §5.1).
const PATH_MAX: usize = 1024;

/// Procedures (RFC 1813 §5.2).
mod procedure {
    pub(super) const NULL: u32 = 0;
    pub(super) const MNT: u32 = 1;
    pub(super) const DUMP: u32 = 2;
    pub(super) const UMNT: u32 = 3;
    pub(super) const UMNTALL: u32 = 4;
    pub(super) const EXPORT: u32 = 5;
}

const MNT3_OK: u32 = 0;

/// Reason why a path cannot be mounted: the client's fault, or that of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum MountError {
    #[error("no image has such a directory")]
    NoEnt,
    #[error(transparent)]
    Changed(#[from] FileChangedError),
    #[error("the path is not a directory")]
    NotDir,
    #[error("the path is longer than {PATH_MAX} bytes")]
    NameTooLong,
}

impl MountError {
    /// Returns the `mountstat3` (RFC 1813 §5.1).
    const fn status(self) -> u32 {
        match self {
            Self::NoEnt => 2,
            // MNT3ERR_IO: klibc's nfsmount shows "I/O error".
            Self::Changed(_) => 5,
            Self::NotDir => 20,
            Self::NameTooLong => 63,
        }
    }
}

/// A path that a client may not mount.
#[derive(Debug)]
pub(crate) struct RefusedMount {
    pub why: String,
    /// The path is there, but the file of its image was changed.
    pub is_changed: bool,
}

/// Answers a call of the MOUNT program from `peer`. Sets `refused` to the reason why it may not
/// mount a path.
///
/// # Errors
/// [`CallError`]
pub(crate) fn answer(
    images: &ImageSet,
    peer: SocketAddr,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
    refused: &mut Option<RefusedMount>,
) -> Result<(), CallError> {
    // Versions 1 and 2 return the handles of NFS version 2, which is not served.
    if call.version != VERSION {
        return Err(CallError::ProgMismatch { low: VERSION, high: VERSION });
    }
    match call.procedure {
        procedure::NULL => {}
        procedure::MNT => *refused = mount(images, peer, call, results)?,
        // An empty list: no mount is recorded.
        procedure::DUMP => results.boolean(false),
        // klibc's nfsmount calls UMNT only after a failed mount(2).
        procedure::UMNT => {
            let path = xdr::opaque(&mut { call.args }, PATH_MAX)?;
            info!(%peer, path = %path.escape_ascii(), "export unmounted over NFS");
        }
        procedure::UMNTALL => info!(%peer, "all exports unmounted over NFS"),
        // libnfs calls EXPORT after each MNT, and fails without a list.
        procedure::EXPORT => exports(images, results),
        _ => return Err(CallError::ProcUnavail),
    }
    Ok(())
}

/// Emits the results of MNT (RFC 1813 §5.2.1), and returns why it is refused.
fn mount(
    images: &ImageSet,
    peer: SocketAddr,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<Option<RefusedMount>, CallError> {
    let path = match xdr::opaque(&mut { call.args }, PATH_MAX) {
        Ok(path) => path,
        // The path is all there, so the arguments are not garbage: MNT3ERR_NAMETOOLONG says more.
        Err(XdrParseError::TooLong { .. }) => {
            return Ok(Some(refuse(peer, b"", MountError::NameTooLong, results)));
        }
        Err(malformed) => return Err(malformed.into()),
    };
    match directory(images, path) {
        Ok((image, handle)) => {
            info!(%peer, path = %path.escape_ascii(), image, "export mounted over NFS");
            results.u32(MNT3_OK);
            results.opaque(&handle.bytes());
            // auth_flavors, the preferred one first. klibc's nfsmount ignores them, and the kernel
            // then uses AUTH_SYS.
            results.u32(2);
            results.u32(AUTH_SYS);
            results.u32(AUTH_NONE);
            Ok(None)
        }
        Err(error) => Ok(Some(refuse(peer, path, error, results))),
    }
}

fn refuse(peer: SocketAddr, path: &[u8], error: MountError, results: &mut Emitter<'_>) -> RefusedMount {
    let path = path.escape_ascii();
    info!(%peer, %path, "mount over NFS refused: {error}");
    results.u32(error.status());
    let is_changed = matches!(error, MountError::Changed(_));
    RefusedMount { why: format!("{error}: {path}"), is_changed }
}

/// Finds the name of the image and the handle of its directory at `path`.
fn directory<'a>(images: &'a ImageSet, path: &[u8]) -> Result<(&'a str, FileHandle), MountError> {
    let (served, node) = images.node(path).ok_or(MountError::NoEnt)?;
    served.image.source.admit()?;
    match served.image.index.node(node).kind {
        NodeKind::Directory { .. } => {
            Ok((&served.name, FileHandle { identity: served.image.identity, node }))
        }
        _ => Err(MountError::NotDir),
    }
}

/// Emits `exports` (RFC 1813 §5.2.5): every path, for every client.
fn exports(images: &ImageSet, results: &mut Emitter<'_>) {
    for path in images.mount_points() {
        results.boolean(true);
        results.opaque(path.as_bytes());
        // ex_groups: clients such as showmount(8) read an empty list as everyone.
        results.boolean(false);
    }
    results.boolean(false);
}
