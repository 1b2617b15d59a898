//! MOUNT version 3 (RFC 1813, appendix I): from the path of an export to the handle of its directory.
//!
//! The server keeps no list of who has mounted what: it would be wrong after every machine that is switched off.

use std::net::SocketAddr;

use tracing::info;

use super::handle::FileHandle;
use super::rpc::{AUTH_NONE, AUTH_SYS, Call, CallError};
use super::xdr::{self, Emitter, XdrParseError};
use crate::image::NodeKind;
use crate::images::ImageSet;

pub(crate) const PROGRAM: u32 = 100_005;
pub(crate) const VERSION: u32 = 3;

/// Longest path of a mount, in bytes (MNTPATHLEN).
const PATH_MAX: usize = 1024;

/// Procedures.
mod procedure {
    pub(super) const NULL: u32 = 0;
    pub(super) const MNT: u32 = 1;
    pub(super) const DUMP: u32 = 2;
    pub(super) const UMNT: u32 = 3;
    pub(super) const UMNTALL: u32 = 4;
    pub(super) const EXPORT: u32 = 5;
}

const MNT3_OK: u32 = 0;

/// Why a path cannot be mounted: the client's fault. The numbers are `mountstat3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum MountError {
    #[error("there is no such directory in any image")]
    NoEnt = 2,
    #[error("it is not a directory")]
    NotDir = 20,
    #[error("the path is longer than {PATH_MAX} bytes")]
    NameTooLong = 63,
}

/// Answers a call of the MOUNT program from `peer`.
///
/// # Errors
/// [`CallError`]
pub(crate) fn answer(
    images: &ImageSet,
    peer: SocketAddr,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<(), CallError> {
    if call.version != VERSION {
        return Err(CallError::ProgMismatch { low: VERSION, high: VERSION });
    }
    match call.procedure {
        procedure::NULL => {}
        procedure::MNT => mount(images, peer, call, results)?,
        // An empty list.
        procedure::DUMP => results.boolean(false),
        procedure::UMNT => {
            let path = xdr::opaque(&mut { call.args }, PATH_MAX)?;
            info!(%peer, path = %path.escape_ascii(), "unmounted over NFS");
        }
        procedure::UMNTALL => info!(%peer, "unmounted everything over NFS"),
        procedure::EXPORT => exports(images, results),
        _ => return Err(CallError::ProcUnavail),
    }
    Ok(())
}

fn mount(
    images: &ImageSet,
    peer: SocketAddr,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<(), CallError> {
    let path = match xdr::opaque(&mut { call.args }, PATH_MAX) {
        Ok(path) => path,
        Err(XdrParseError::TooLong { .. }) => {
            refuse(peer, b"", MountError::NameTooLong, results);
            return Ok(());
        }
        Err(malformed) => return Err(malformed.into()),
    };
    match directory(images, path) {
        Ok((image, handle)) => {
            info!(%peer, path = %path.escape_ascii(), image, "mounted over NFS");
            results.u32(MNT3_OK);
            results.opaque(&handle.bytes());
            // The flavors that are taken, the preferred one first.
            results.u32(2);
            results.u32(AUTH_SYS);
            results.u32(AUTH_NONE);
        }
        Err(unmountable) => refuse(peer, path, unmountable, results),
    }
    Ok(())
}

fn refuse(peer: SocketAddr, path: &[u8], unmountable: MountError, results: &mut Emitter<'_>) {
    info!(%peer, path = %path.escape_ascii(), "mount over NFS refused: {unmountable}");
    results.u32(unmountable as u32);
}

/// The name of the image and the handle of its directory that `path` means.
fn directory<'a>(images: &'a ImageSet, path: &[u8]) -> Result<(&'a str, FileHandle), MountError> {
    let (served, node) = images.node(path).ok_or(MountError::NoEnt)?;
    match served.image.index.node(node).kind {
        NodeKind::Directory { .. } => {
            Ok((&served.name, FileHandle { identity: served.image.identity, node }))
        }
        _ => Err(MountError::NotDir),
    }
}

/// `exports`: every path, for everybody.
fn exports(images: &ImageSet, results: &mut Emitter<'_>) {
    for path in images.mount_points() {
        results.boolean(true);
        results.opaque(path.as_bytes());
        // ex_groups: none, which means all.
        results.boolean(false);
    }
    results.boolean(false);
}
