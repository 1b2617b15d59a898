//! Files of an image by their names in its menus.

use crate::export::path;
use crate::image::{Index, NodeId, NodeKind};
use crate::text::PlainPath;

/// The tree of an image and a way to read its small files.
pub(crate) struct ImageTree<'a> {
    pub(crate) index: &'a Index,
    pub(crate) read: &'a dyn Fn(NodeId) -> Option<Vec<u8>>,
}

impl ImageTree<'_> {
    /// Finds the file that a menu in `directory` calls `name`: from the root after `::` or `/`,
    /// else beside the menu.
    pub(super) fn find(&self, name: &str, directory: &str) -> Option<NodeId> {
        // PXELINUX: `::` is the TFTP server that it was loaded from (core/fs/pxe/urlparse.c).
        let from_root = name.strip_prefix("::").or_else(|| name.strip_prefix('/'));
        let path = from_root.map_or_else(|| format!("{directory}{name}"), str::to_owned);
        let node = path::resolve(self.index, path.as_bytes()).ok()?;
        matches!(self.index.node(node).kind, NodeKind::File { .. }).then_some(node)
    }
}

/// Returns the path of a node from the root; `None` if a menu cannot name it.
pub(super) fn path_of(index: &Index, mut id: NodeId) -> Option<PlainPath> {
    let mut names = Vec::new();
    while id != NodeId::ROOT {
        let node = index.node(id);
        names.push(str::from_utf8(&node.name).ok()?);
        id = node.parent;
    }
    names.reverse();
    PlainPath::new(&names.join("/"))
}
