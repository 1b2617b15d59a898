//! Tree of an image: nodes, names and extents, built once and immutable afterwards.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use hashbrown::HashTable;

use serde::{Deserialize, Serialize};

use super::Extent;

/// Longest name of an entry in bytes, as on Linux (`NAME_MAX`).
pub(crate) const MAX_NAME: usize = 255;

/// Symlinks followed by one [`Index::resolve`], as on Linux (`MAXSYMLINKS`).
const MAX_HOPS: u32 = 40;

/// Number of a node in its [`Index`].
///
/// Nodes are numbered in the directory order of the image, the root first, so an image gives the
/// same numbers after every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u32);

impl NodeId {
    pub const ROOT: NodeId = NodeId(0);
}

/// Type of a node with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// Entries in the order of the image, without `.` and `..`.
    Directory { entries: Vec<NodeId> },
    /// Content of a file: no extent if it is empty, one on every ISO that mkarchiso makes, and
    /// several only if the sections of a multi-extent file are apart.
    File { extents: Vec<Extent> },
    /// Target of a symlink as Rock Ridge stores it.
    Symlink { target: Box<[u8]> },
    /// Device, FIFO or socket, which is listed but never served.
    Special,
}

/// Entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: Box<[u8]>,
    pub parent: NodeId,
    pub kind: NodeKind,
    pub attributes: NodeAttributes,
    size: u64,
}

/// Attributes of a node that `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAttributes {
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
    fn new(name: &[u8], parent: NodeId, kind: NodeKind, attributes: NodeAttributes) -> Self {
        let size = match &kind {
            NodeKind::File { extents } => extents.iter().map(|e| e.len).sum(),
            NodeKind::Symlink { target } => target.len() as u64,
            NodeKind::Directory { .. } | NodeKind::Special => 0,
        };
        Self { name: name.into(), parent, kind, attributes, size }
    }

    /// Returns the bytes of a file's content or of a symlink's target; 0 for other nodes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Hashes the place of the node for [`Index::exact`].
    fn hash(&self, hasher: &RandomState) -> u64 {
        hash(hasher, self.parent, &self.name)
    }

    /// Hashes the place of the node for [`Index::folded`].
    fn hash_folded(&self, hasher: &RandomState) -> u64 {
        hash_folded(hasher, self.parent, &self.name)
    }
}

/// Tree of an image with look-up by name.
#[derive(Debug)]
pub struct Index {
    nodes: Vec<Node>,
    /// All nodes except the root, by directory and name.
    exact: HashTable<NodeId>,
    /// Nodes by directory and lower-case name; of names that differ only in case, the first one.
    folded: HashTable<NodeId>,
    hasher: RandomState,
}

impl Index {
    /// Creates a tree that has only the root directory.
    pub fn new(root: NodeAttributes) -> Self {
        let root = Node::new(b"", NodeId::ROOT, NodeKind::Directory { entries: Vec::new() }, root);
        Self {
            nodes: vec![root],
            exact: HashTable::new(),
            folded: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// Adds an entry to the directory `parent`.
    ///
    /// # Errors
    /// [`NodeError`] if the entry cannot be in the tree, which stays unchanged.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        attributes: NodeAttributes,
    ) -> Result<NodeId, NodeError> {
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| NodeError::Full)?);
        check_name(name)?;
        let is_duplicate = self.child(parent, name).is_some();
        let Some(Node { kind: NodeKind::Directory { entries }, .. }) = self.nodes.get_mut(parent.0 as usize)
        else {
            return Err(NodeError::NotADirectory);
        };
        if is_duplicate {
            return Err(NodeError::Duplicate);
        }
        entries.push(id);
        self.insert(id, parent, name);
        self.nodes.push(Node::new(name, parent, kind, attributes));
        Ok(id)
    }

    /// Inserts `id` into the tables that find it by its name.
    #[expect(clippy::indexing_slicing, reason = "the tables hold identifiers of nodes only")]
    fn insert(&mut self, id: NodeId, parent: NodeId, name: &[u8]) {
        // Of names that differ in case only, the first one is found ignoring case.
        let is_first = self.child_ignoring_case(parent, name).is_none();
        let Self { nodes, exact, folded, hasher } = self;
        exact.insert_unique(hash(hasher, parent, name), id, |other| nodes[other.0 as usize].hash(hasher));
        if is_first {
            folded.insert_unique(hash_folded(hasher, parent, name), id, |other| {
                nodes[other.0 as usize].hash_folded(hasher)
            });
        }
    }

    /// Returns the node with this number.
    ///
    /// # Panics
    /// If `id` comes from another index.
    #[expect(clippy::indexing_slicing, reason = "`add` alone makes identifiers, and no node is ever removed")]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Finds the entry of the directory `dir` with exactly this name.
    pub fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let found = self.exact.find(hash(&self.hasher, dir, name), |&id| {
            let node = self.node(id);
            node.parent == dir && *node.name == *name
        });
        found.copied()
    }

    /// Finds the first entry of the directory `dir` whose name equals `name` ignoring ASCII case.
    pub fn child_ignoring_case(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let found = self.folded.find(hash_folded(&self.hasher, dir, name), |&id| {
            let node = self.node(id);
            node.parent == dir && node.name.eq_ignore_ascii_case(name)
        });
        found.copied()
    }

    /// Finds the node at `path`, relative to the directory `dir` unless it begins with `/`.
    ///
    /// The path is resolved as Linux resolves it with this image mounted as `/`: symlinks are
    /// followed, also the last one; a path with more than 40 symlinks leads nowhere.
    pub fn resolve(&self, dir: NodeId, path: &[u8]) -> Option<NodeId> {
        let mut hops = MAX_HOPS;
        self.resolve_from(dir, path, &mut hops)
    }

    fn resolve_from(&self, dir: NodeId, path: &[u8], hops: &mut u32) -> Option<NodeId> {
        let mut at = if path.starts_with(b"/") { NodeId::ROOT } else { dir };
        for name in path.split(|&b| b == b'/') {
            let NodeKind::Directory { .. } = self.node(at).kind else { return None };
            at = match name {
                // POSIX "Pathname Resolution": several slashes are one, and a trailing slash asks
                // for a directory, which the check above ensures.
                b"" | b"." => at,
                // The parent of the root is the root.
                b".." => self.node(at).parent,
                name => self.follow(self.child(at, name)?, hops)?,
            };
        }
        Some(at)
    }

    /// Returns the node that a symlink points to, and any other node itself.
    ///
    /// The recursion ends when `hops` is used up.
    fn follow(&self, id: NodeId, hops: &mut u32) -> Option<NodeId> {
        let node = self.node(id);
        let NodeKind::Symlink { target } = &node.kind else { return Some(id) };
        // Counted over the whole path: nested symlinks could otherwise double the work at each.
        *hops = hops.checked_sub(1)?;
        self.resolve_from(node.parent, target, hops)
    }

    /// Returns the entries of a directory in the order of the image; none for other nodes.
    pub(crate) fn children(&self, dir: NodeId) -> &[NodeId] {
        match &self.node(dir).kind {
            NodeKind::Directory { entries } => entries,
            _ => &[],
        }
    }

    /// Iterates over all nodes: each directory before its entries, which are in the order of the
    /// image.
    pub fn walk(&self) -> impl Iterator<Item = NodeId> {
        let mut ahead = vec![NodeId::ROOT];
        std::iter::from_fn(move || {
            let id = ahead.pop()?;
            // A stack: the entry that comes first is pushed last.
            ahead.extend(self.children(id).iter().rev());
            Some(id)
        })
    }

    /// Returns the absolute path of a node, such as `/arch/boot/x86_64/vmlinuz-linux`.
    pub fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            let node = self.node(at);
            // Collected from the node upwards, so in reverse order.
            names.push(&node.name[..]);
            at = node.parent;
        }
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.iter().rev().flat_map(|name| [b"/", *name]).flatten().copied().collect()
    }

    /// Returns the number of nodes, including the root.
    #[expect(clippy::len_without_is_empty, reason = "every tree has a root")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
}

fn hash(hasher: &RandomState, dir: NodeId, name: &[u8]) -> u64 {
    hasher.hash_one((dir, name))
}

fn hash_folded(hasher: &RandomState, dir: NodeId, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    dir.hash(&mut state);
    // Byte by byte: a lower-case copy would be an allocation for each look-up.
    name.iter().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
    state.finish()
}

/// Checks that `name` can be part of a path.
fn check_name(name: &[u8]) -> Result<(), NodeError> {
    match name {
        // POSIX "Pathname Resolution": these three would resolve to another node.
        b"" | b"." | b".." => Err(NodeError::BadName),
        name if name.contains(&b'/') || name.contains(&0) => Err(NodeError::BadName),
        name if name.len() > MAX_NAME => Err(NodeError::LongName),
        _ => Ok(()),
    }
}

/// Error of an entry that cannot be in the tree. The image is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("its name is empty, `.`, `..`, or contains `/` or NUL")]
    BadName,
    #[error("its name is longer than {MAX_NAME} bytes")]
    LongName,
    #[error("its directory already has an entry of this name")]
    Duplicate,
    #[error("its parent is not a directory")]
    NotADirectory,
    #[error("the tree has too many entries")]
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: NodeAttributes = NodeAttributes { mode: 0, uid: 0, gid: 0, nlink: 1, mtime: 0 };

    /// Builder of a tree in which all attributes are the same.
    struct TreeBuilder(Index);

    impl TreeBuilder {
        fn add(&mut self, parent: NodeId, name: &str, kind: NodeKind) -> NodeId {
            self.0.add(parent, name.as_bytes(), kind, PLAIN).unwrap()
        }
        fn dir(&mut self, parent: NodeId, name: &str) -> NodeId {
            self.add(parent, name, NodeKind::Directory { entries: vec![] })
        }
        fn file(&mut self, parent: NodeId, name: &str) -> NodeId {
            self.add(parent, name, NodeKind::File { extents: vec![] })
        }
        fn link(&mut self, parent: NodeId, name: &str, target: &str) -> NodeId {
            self.add(parent, name, NodeKind::Symlink { target: target.as_bytes().into() })
        }
    }

    fn tree() -> TreeBuilder {
        TreeBuilder(Index::new(PLAIN))
    }

    #[test]
    fn names_match_exactly_or_ignoring_case() {
        let mut tree = tree();
        let upper = tree.file(NodeId::ROOT, "README");
        let lower = tree.file(NodeId::ROOT, "readme");
        let index = tree.0;
        assert_eq!(index.child(NodeId::ROOT, b"readme"), Some(lower));
        assert_eq!(index.child(NodeId::ROOT, b"Readme"), None);
        assert_eq!(index.child_ignoring_case(NodeId::ROOT, b"Readme"), Some(upper), "the first wins");
        assert_eq!(index.child_ignoring_case(NodeId::ROOT, &[b'a'; MAX_NAME + 1]), None);
        assert_eq!(index.child(upper, b"x"), None, "a file has no entries");
    }

    #[test]
    fn bad_name_is_refused() {
        let mut index = Index::new(PLAIN);
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            let result = index.add(NodeId::ROOT, name, NodeKind::Special, PLAIN);
            assert_eq!(result, Err(NodeError::BadName));
        }
        let result = index.add(NodeId::ROOT, &[b'n'; 256], NodeKind::Special, PLAIN);
        assert_eq!(result, Err(NodeError::LongName));
        assert_eq!(index.len(), 1);
        assert_eq!(index.children(NodeId::ROOT), []);

        let file = index.add(NodeId::ROOT, b"file", NodeKind::Special, PLAIN).unwrap();
        assert_eq!(index.add(NodeId::ROOT, b"file", NodeKind::Special, PLAIN), Err(NodeError::Duplicate));
        assert_eq!(index.add(file, b"x", NodeKind::Special, PLAIN), Err(NodeError::NotADirectory));
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn path_is_resolved_as_on_linux() {
        let mut tree = tree();
        let arch = tree.dir(NodeId::ROOT, "arch");
        let boot = tree.dir(arch, "boot");
        let kernel = tree.file(boot, "vmlinuz");
        tree.link(NodeId::ROOT, "absolute", "/arch/boot");
        tree.link(boot, "up", "../../arch/./boot//vmlinuz");
        tree.link(boot, "slash", "vmlinuz/");
        tree.link(NodeId::ROOT, "loop", "loop");
        let index = tree.0;
        let resolve = |dir, path: &str| index.resolve(dir, path.as_bytes());

        assert_eq!(resolve(NodeId::ROOT, "/arch/boot/vmlinuz"), Some(kernel));
        assert_eq!(resolve(boot, "vmlinuz"), Some(kernel));
        assert_eq!(resolve(boot, "/absolute/vmlinuz"), Some(kernel));
        assert_eq!(resolve(boot, "up"), Some(kernel));
        assert_eq!(resolve(boot, "../../../.."), Some(NodeId::ROOT));
        assert_eq!(resolve(boot, ""), Some(boot));
        assert_eq!(resolve(NodeId::ROOT, "/arch/boot/"), Some(boot));
        assert_eq!(resolve(NodeId::ROOT, "/arch/boot/vmlinuz/"), None, "not a directory");
        assert_eq!(resolve(boot, "vmlinuz/../vmlinuz"), None, "not a directory");
        assert_eq!(resolve(boot, "slash"), None, "not a directory");
        assert_eq!(resolve(NodeId::ROOT, "/loop"), None);
        assert_eq!(resolve(NodeId::ROOT, "/arch/none"), None);
    }

    #[test]
    fn symlinks_are_followed_forty_times() {
        let mut tree = tree();
        let file = tree.file(NodeId::ROOT, "0");
        for n in 1..=41 {
            tree.link(NodeId::ROOT, &n.to_string(), &(n - 1).to_string());
        }
        // Without a count of hops for the whole path this would be 2^30 look-ups.
        tree.dir(NodeId::ROOT, "d0");
        for n in 1..=30 {
            tree.link(NodeId::ROOT, &format!("d{n}"), &format!("d{0}/../d{0}", n - 1));
        }
        assert_eq!(tree.0.resolve(NodeId::ROOT, b"40"), Some(file));
        assert_eq!(tree.0.resolve(NodeId::ROOT, b"41"), None);
        assert_eq!(tree.0.resolve(NodeId::ROOT, b"d30"), None);
    }

    #[test]
    fn paths_of_a_walk_resolve() {
        let mut tree = tree();
        let b = tree.dir(NodeId::ROOT, "b");
        tree.file(NodeId::ROOT, "a");
        tree.file(b, "d");
        tree.file(b, "c");
        let paths: Vec<_> = tree.0.walk().map(|id| String::from_utf8(tree.0.path(id)).unwrap()).collect();
        assert_eq!(paths, ["/", "/b", "/b/d", "/b/c", "/a"]);
        for id in tree.0.walk() {
            assert_eq!(tree.0.resolve(NodeId::ROOT, &tree.0.path(id)), Some(id));
        }
    }
}
