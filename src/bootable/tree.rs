//! Files of an image by their names in its menus.

use std::sync::Arc;

use crate::export::path;
use crate::image::initramfs::Contents;
use crate::image::{Image, Index, NodeId, NodeKind};
use crate::text::PlainPath;

/// Largest menu that is read, in bytes; archiso's have one or two thousand.
const MENU_MAX: u64 = 64 << 10;

/// The tree of an image and a way to read some of its files.
pub(crate) struct ImageTree<'a> {
    pub(crate) index: &'a Index,
    pub(crate) content: &'a dyn TreeContent,
}

/// The content of the files in a tree.
pub(crate) trait TreeContent {
    /// Returns the text of a menu; `None` if it is too large or cannot be read.
    fn menu(&self, node: NodeId) -> Option<Vec<u8>>;

    /// Looks for [`Requirement::SELF_TESTS`](crate::image::initramfs::Requirement::SELF_TESTS) in
    /// an initramfs. It takes up to a second.
    fn self_tests(&self, initramfs: NodeId) -> Option<Arc<Contents>>;
}

impl TreeContent for Image {
    fn menu(&self, node: NodeId) -> Option<Vec<u8>> {
        self.read(node, MENU_MAX).ok()
    }

    fn self_tests(&self, initramfs: NodeId) -> Option<Arc<Contents>> {
        self.initramfs_self_tests(initramfs)
    }
}

impl<'a> ImageTree<'a> {
    pub(super) fn of(image: &'a Image) -> Self {
        Self { index: &image.index, content: image }
    }

    /// Returns the text of a menu; `None` if it is too large or cannot be read.
    pub(super) fn read(&self, node: NodeId) -> Option<Vec<u8>> {
        self.content.menu(node)
    }

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
