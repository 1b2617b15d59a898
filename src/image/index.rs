//! The tree of an image: nodes, names and extents, built once and immutable from then on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Extent;

/// Number of a node in its [`Index`]. The root is [`NodeId::ROOT`]; numbers are given in directory order of the
/// image, so the same image gives the same numbers after every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    pub const ROOT: NodeId = NodeId(0);
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Entries in the order of the image, without `.` and `..`.
    Directory { entries: Vec<NodeId> },
    /// One extent on every ISO that mkarchiso makes; several only where extents of a multi-extent file are apart.
    File { extents: Vec<Extent> },
    /// The target as Rock Ridge stores it.
    Symlink { target: Box<[u8]> },
    /// Device, FIFO or socket: listed, never served.
    Special,
}

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Box<[u8]>,
    pub parent: NodeId,
    pub kind: Kind,
    pub attributes: Attributes,
}

/// What `stat` shows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// POSIX file mode with the type bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Number of names, never 0.
    pub nlink: u32,
    /// Time of modification, seconds since 1970-01-01 UTC.
    pub mtime: i64,
}

impl Node {
    /// Size in bytes: of the content of a file, of the target of a symlink, else 0.
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::File { extents } => extents.iter().map(|e| e.len).sum(),
            Kind::Symlink { target } => target.len() as u64,
            Kind::Directory { .. } | Kind::Special => 0,
        }
    }
}

/// The whole tree.
#[derive(Debug)]
pub struct Index {
    nodes: Vec<Node>,
    by_name: HashMap<(NodeId, Box<[u8]>), NodeId>,
}

impl Index {
    /// A tree of nothing but the root directory, to [`Index::add`] to.
    pub fn new(root: Attributes) -> Self {
        let root = Node {
            name: Box::default(),
            parent: NodeId::ROOT,
            kind: Kind::Directory { entries: Vec::new() },
            attributes: root,
        };
        Self { nodes: vec![root], by_name: HashMap::new() }
    }

    /// Adds an entry to the directory `parent`.
    ///
    /// # Errors
    /// [`Refused`] says why the entry cannot be in the tree; the tree is as before.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        attributes: Attributes,
    ) -> Result<NodeId, Refused> {
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| Refused::Full)?);
        check_name(name)?;
        let Some(Node { kind: Kind::Directory { entries }, .. }) = self.nodes.get_mut(parent.0 as usize)
        else {
            return Err(Refused::NotADirectory);
        };
        let Entry::Vacant(slot) = self.by_name.entry((parent, name.into())) else {
            return Err(Refused::Double);
        };
        slot.insert(id);
        entries.push(id);
        self.nodes.push(Node { name: name.into(), parent, kind, attributes });
        Ok(id)
    }

    /// The node with this number.
    ///
    /// # Panics
    /// When `id` comes from another index.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The entry of this exact name in the directory `dir`.
    pub fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        self.by_name.get(&(dir, name.into())).copied()
    }

    /// The entries of a directory in the order of the image; none for anything else.
    pub fn children(&self, dir: NodeId) -> &[NodeId] {
        match &self.node(dir).kind {
            Kind::Directory { entries } => entries,
            _ => &[],
        }
    }

    /// Number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Always false: there is a root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// A name that a path can hold (POSIX: no `/`, no NUL, not empty, not `.` or `..`).
fn check_name(name: &[u8]) -> Result<(), Refused> {
    match name {
        b"" | b"." | b".." => Err(Refused::BadName),
        name if name.contains(&b'/') || name.contains(&0) => Err(Refused::BadName),
        _ => Ok(()),
    }
}

/// Why an entry is not in the tree: the image's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("its name is empty, `.`, `..`, or holds `/` or NUL")]
    BadName,
    #[error("its directory has an entry of this name already")]
    Double,
    #[error("its parent is not a directory")]
    NotADirectory,
    #[error("the tree has too many entries")]
    Full,
}
