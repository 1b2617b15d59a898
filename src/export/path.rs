//! Lookup of a peer's path in an image. It never touches a file system: a path can only name a node
//! of the tree.

use crate::image::index::{Index, NodeId, NodeKind};

/// Longest path that is looked up, in bytes (PATH_MAX of Linux).
const PATH_MAX: usize = 4096;

/// A path that names no node: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("no such file in the image")]
    NotFound,
    #[error("the path leads out of the image")]
    Outside,
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
}

/// Returns the node that `path` names, from the root of the image. Symlinks are followed, inside
/// the image.
///
/// # Errors
/// [`PathError`] says why nothing was found. A `..` is refused, not resolved.
pub(crate) fn resolve(index: &Index, path: &[u8]) -> Result<NodeId, PathError> {
    if path.len() > PATH_MAX {
        return Err(PathError::TooLong);
    }
    match walk(index, path.split(|&byte| byte == b'/')) {
        // Some firmware writes `\` for a slash, but it may also be part of a name.
        Err(PathError::NotFound) => walk(index, path.split(|&byte| byte == b'/' || byte == b'\\')),
        resolved => resolved,
    }
}

fn walk<'a>(index: &Index, mut names: impl Iterator<Item = &'a [u8]>) -> Result<NodeId, PathError> {
    names.try_fold(NodeId::ROOT, |dir, name| step(index, dir, name))
}

fn step(index: &Index, dir: NodeId, name: &[u8]) -> Result<NodeId, PathError> {
    match name {
        // Firmware writes any number of slashes before and between names.
        b"" | b"." => return Ok(dir),
        b".." => return Err(PathError::Outside),
        _ => {}
    }
    // Names without Rock Ridge are upper-case, so case is ignored where the exact name is missing.
    let child = index.child(dir, name).or_else(|| index.child_ignoring_case(dir, name));
    child.and_then(|child| follow(index, child)).ok_or(PathError::NotFound)
}

/// Returns the node itself or, for a symlink, the node that it leads to; `None` if that is not in
/// the image.
pub(crate) fn follow(index: &Index, node: NodeId) -> Option<NodeId> {
    match &index.node(node).kind {
        NodeKind::Symlink { target } => index.resolve(index.node(node).parent, target),
        _ => Some(node),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::index::NodeAttributes;

    const ATTRIBUTES: NodeAttributes = NodeAttributes { mode: 0o444, uid: 0, gid: 0, nlink: 1, mtime: 0 };

    fn sample() -> (Index, NodeId) {
        let mut index = Index::new(ATTRIBUTES);
        let mut add = |parent, name: &[u8], kind| index.add(parent, name, kind, ATTRIBUTES).unwrap();
        let directory = || NodeKind::Directory { entries: Vec::new() };
        let symlink = |target: &[u8]| NodeKind::Symlink { target: target.into() };
        let arch = add(NodeId::ROOT, b"arch", directory());
        let boot = add(arch, b"boot", directory());
        let kernel = add(boot, b"VMLINUZ", NodeKind::File { extents: Vec::new() });
        add(NodeId::ROOT, b"link", symlink(b"arch/boot"));
        add(arch, b"up", symlink(b"../link/VMLINUZ"));
        add(arch, b"out", symlink(b"../../etc/passwd"));
        add(arch, b"loop", symlink(b"loop"));
        (index, kernel)
    }

    #[test]
    fn path_of_any_firmware_is_found() {
        let (index, kernel) = sample();
        let ways = [
            "arch/boot/VMLINUZ",
            "/arch/boot/VMLINUZ",
            "///arch//boot/VMLINUZ",
            "\\arch\\boot\\VMLINUZ",
            "./arch/./boot/vmlinuz",
            "/ARCH/Boot/vmlinuz",
            "/link/VMLINUZ",
            "/arch/up",
        ];
        for way in ways {
            assert_eq!(resolve(&index, way.as_bytes()), Ok(kernel), "{way}");
        }
        assert_eq!(resolve(&index, b""), Ok(NodeId::ROOT));
    }

    #[test]
    fn backslash_may_belong_to_a_name() {
        let (mut index, kernel) = sample();
        let odd =
            index.add(NodeId::ROOT, b"arch\\up", NodeKind::File { extents: Vec::new() }, ATTRIBUTES).unwrap();
        assert_eq!(resolve(&index, b"/arch\\up"), Ok(odd));
        assert_eq!(resolve(&index, b"/arch/up"), Ok(kernel));
    }

    #[test]
    fn path_out_of_the_image_is_refused() {
        let (index, _) = sample();
        for way in ["..", "/../etc/passwd", "arch/../arch", "arch\\..\\..\\etc"] {
            assert_eq!(resolve(&index, way.as_bytes()), Err(PathError::Outside), "{way}");
        }
        for way in ["/etc/passwd", "/arch/out", "/arch/loop", "/arch/boot/VMLINUZ/x", "arch%2fboot"] {
            assert_eq!(resolve(&index, way.as_bytes()), Err(PathError::NotFound), "{way}");
        }
        assert_eq!(resolve(&index, &[b'a'; 4097]), Err(PathError::TooLong));
    }
}
