//! A peer's path, looked up in an image. It never touches a file system: a path can only name a node of the tree.

use crate::image::index::{Index, NodeId};

/// Longest path that is looked at, in bytes (PATH_MAX of Linux).
const PATH_MAX: usize = 4096;

/// Why a path names nothing: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("no such file in the image")]
    NotFound,
    #[error("the path leads out of the image")]
    Outside,
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
}

/// The node that `path` names, from the root of the image.
///
/// Firmware writes paths in many ways, so any number of slashes may lead, and `\` is a slash. Case is ignored only
/// where the exact name does not exist (ISO 9660 names are upper-case).
///
/// # Errors
/// [`PathError`] says why nothing was found. A `..` is refused, not resolved.
pub fn resolve(index: &Index, path: &[u8]) -> Result<NodeId, PathError> {
    if path.len() > PATH_MAX {
        return Err(PathError::TooLong);
    }
    path.split(|&byte| byte == b'/' || byte == b'\\')
        .try_fold(NodeId::ROOT, |dir, name| step(index, dir, name))
}

fn step(index: &Index, dir: NodeId, name: &[u8]) -> Result<NodeId, PathError> {
    match name {
        b"" | b"." => return Ok(dir),
        b".." => return Err(PathError::Outside),
        _ => {}
    }
    index.child(dir, name).or_else(|| index.child_ignoring_case(dir, name)).ok_or(PathError::NotFound)
}
