//! A peer's path, looked up in an image. It never touches a file system: a path can only name a node of the tree.

use crate::image::index::{Index, NodeId, NodeKind};

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
/// Firmware writes paths in many ways, so any number of slashes may lead, and `\` is a slash where it is not part of a
/// name. Case is ignored only where the exact name does not exist (ISO 9660 names are upper-case). Symlinks are followed,
/// inside the image.
///
/// # Errors
/// [`PathError`] says why nothing was found. A `..` is refused, not resolved.
pub(crate) fn resolve(index: &Index, path: &[u8]) -> Result<NodeId, PathError> {
    if path.len() > PATH_MAX {
        return Err(PathError::TooLong);
    }
    match walk(index, path.split(|&byte| byte == b'/')) {
        Err(PathError::NotFound) => walk(index, path.split(|&byte| byte == b'/' || byte == b'\\')),
        resolved => resolved,
    }
}

fn walk<'a>(index: &Index, mut names: impl Iterator<Item = &'a [u8]>) -> Result<NodeId, PathError> {
    names.try_fold(NodeId::ROOT, |dir, name| step(index, dir, name))
}

fn step(index: &Index, dir: NodeId, name: &[u8]) -> Result<NodeId, PathError> {
    match name {
        b"" | b"." => return Ok(dir),
        b".." => return Err(PathError::Outside),
        _ => {}
    }
    let child = index.child(dir, name).or_else(|| index.child_ignoring_case(dir, name));
    child.and_then(|child| follow(index, child)).ok_or(PathError::NotFound)
}

/// The node itself, or what it leads to where it is a symlink; `None` when it leads nowhere in the image.
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
    fn firmware_writes_a_path_in_many_ways() {
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
    fn a_backslash_may_be_part_of_a_name() {
        let (mut index, kernel) = sample();
        let odd =
            index.add(NodeId::ROOT, b"arch\\up", NodeKind::File { extents: Vec::new() }, ATTRIBUTES).unwrap();
        assert_eq!(resolve(&index, b"/arch\\up"), Ok(odd));
        assert_eq!(resolve(&index, b"/arch/up"), Ok(kernel));
    }

    #[test]
    fn nothing_leads_out_of_the_image() {
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
