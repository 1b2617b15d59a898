//! The tree of an image: nodes, names and extents, built once and immutable from then on.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use hashbrown::HashTable;

use super::Extent;

/// Longest name of an entry in bytes, as on Linux (`NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// Symlinks followed by one [`Index::resolve`], as on Linux (`MAXSYMLINKS`).
const MAX_HOPS: u32 = 40;

/// Number of a node in its [`Index`]. The root is [`NodeId::ROOT`]; numbers are given in directory order of the
/// image, so the same image gives the same numbers after every start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    pub const ROOT: NodeId = NodeId(0);
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// Entries in the order of the image, without `.` and `..`.
    Directory { entries: Vec<NodeId> },
    /// One extent on every ISO that mkarchiso makes, none for an empty file; several only where the extents of a
    /// multi-extent file are apart.
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
    pub kind: NodeKind,
    pub attributes: NodeAttributes,
    size: u64,
}

/// What `stat` shows of a node.
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

    /// Size in bytes: of the content of a file, of the target of a symlink, else 0.
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// The whole tree.
#[derive(Debug)]
pub struct Index {
    nodes: Vec<Node>,
    /// All nodes but the root, by directory and name.
    exact: HashTable<NodeId>,
    /// The same with names in lower case, of which each is here once: the first entry that has it.
    folded: HashTable<NodeId>,
    hasher: RandomState,
}

impl Index {
    /// A tree of nothing but the root directory, to [`Index::add`] to.
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
    /// [`NodeError`] says why the entry cannot be in the tree; the tree is as before.
    pub fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: NodeKind,
        attributes: NodeAttributes,
    ) -> Result<NodeId, NodeError> {
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| NodeError::Full)?);
        check_name(name)?;
        let is_double = self.child(parent, name).is_some();
        let Some(Node { kind: NodeKind::Directory { entries }, .. }) = self.nodes.get_mut(parent.0 as usize)
        else {
            return Err(NodeError::NotADirectory);
        };
        if is_double {
            return Err(NodeError::Double);
        }
        entries.push(id);
        self.remember(id, parent, name);
        self.nodes.push(Node::new(name, parent, kind, attributes));
        Ok(id)
    }

    /// Has `id` found by its name.
    fn remember(&mut self, id: NodeId, parent: NodeId, name: &[u8]) {
        let is_first = self.child_ignoring_case(parent, name).is_none();
        let Self { nodes, exact, folded, hasher } = self;
        let node = |id: &NodeId| &nodes[id.0 as usize];
        exact.insert_unique(hash(hasher, parent, name), id, |id| {
            hash(hasher, node(id).parent, &node(id).name)
        });
        if is_first {
            let rehash = |id: &NodeId| hash_folded(hasher, node(id).parent, &node(id).name);
            folded.insert_unique(hash_folded(hasher, parent, name), id, rehash);
        }
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
        let is_it = |&id: &NodeId| self.node(id).parent == dir && *self.node(id).name == *name;
        self.exact.find(hash(&self.hasher, dir, name), is_it).copied()
    }

    /// The first entry of the directory `dir`, in the order of the image, whose name differs from `name` at most in
    /// the case of ASCII letters.
    pub fn child_ignoring_case(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let is_it =
            |&id: &NodeId| self.node(id).parent == dir && self.node(id).name.eq_ignore_ascii_case(name);
        self.folded.find(hash_folded(&self.hasher, dir, name), is_it).copied()
    }

    /// The node at `path`, taken from the directory `dir`, or from the root when it begins with `/`.
    ///
    /// It is found as Linux would find it with this image mounted as `/`: symlinks are followed, the last one too;
    /// `..` of the root is the root; a `/` at the end asks for a directory. After 40 symlinks there is nothing.
    pub fn resolve(&self, dir: NodeId, path: &[u8]) -> Option<NodeId> {
        let mut hops = MAX_HOPS;
        self.resolve_from(dir, path, &mut hops)
    }

    fn resolve_from(&self, dir: NodeId, path: &[u8], hops: &mut u32) -> Option<NodeId> {
        let mut at = if path.starts_with(b"/") { NodeId::ROOT } else { dir };
        for name in path.split(|&b| b == b'/') {
            let NodeKind::Directory { .. } = self.node(at).kind else { return None };
            at = match name {
                b"" | b"." => at,
                b".." => self.node(at).parent,
                name => self.follow(self.child(at, name)?, hops)?,
            };
        }
        Some(at)
    }

    /// `id` itself, or what it points to when it is a symlink. The recursion ends with the hops.
    fn follow(&self, id: NodeId, hops: &mut u32) -> Option<NodeId> {
        let node = self.node(id);
        let NodeKind::Symlink { target } = &node.kind else { return Some(id) };
        *hops = hops.checked_sub(1)?;
        self.resolve_from(node.parent, target, hops)
    }

    /// The entries of a directory in the order of the image; none for anything else.
    pub fn children(&self, dir: NodeId) -> &[NodeId] {
        match &self.node(dir).kind {
            NodeKind::Directory { entries } => entries,
            _ => &[],
        }
    }

    /// Every node, the root first, each directory before its entries and these in the order of the image.
    pub fn walk(&self) -> impl Iterator<Item = NodeId> {
        let mut ahead = vec![NodeId::ROOT];
        std::iter::from_fn(move || {
            let id = ahead.pop()?;
            ahead.extend(self.children(id).iter().rev());
            Some(id)
        })
    }

    /// The absolute path of a node in the image: `/arch/boot/x86_64/vmlinuz-linux`.
    pub fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            let node = self.node(at);
            names.push(&node.name[..]);
            at = node.parent;
        }
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.iter().rev().flat_map(|name| [b"/", *name]).flatten().copied().collect()
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

fn hash(hasher: &RandomState, dir: NodeId, name: &[u8]) -> u64 {
    hasher.hash_one((dir, name))
}

fn hash_folded(hasher: &RandomState, dir: NodeId, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    dir.hash(&mut state);
    name.iter().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
    state.finish()
}

/// A name that a path can hold (POSIX: no `/`, no NUL, not empty, not `.` or `..`).
fn check_name(name: &[u8]) -> Result<(), NodeError> {
    match name {
        b"" | b"." | b".." => Err(NodeError::BadName),
        name if name.contains(&b'/') || name.contains(&0) => Err(NodeError::BadName),
        name if name.len() > MAX_NAME => Err(NodeError::LongName),
        _ => Ok(()),
    }
}

/// Why an entry is not in the tree: the image's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("its name is empty, `.`, `..`, or holds `/` or NUL")]
    BadName,
    #[error("its name is longer than {MAX_NAME} bytes")]
    LongName,
    #[error("its directory has an entry of this name already")]
    Double,
    #[error("its parent is not a directory")]
    NotADirectory,
    #[error("the tree has too many entries")]
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: NodeAttributes = NodeAttributes { mode: 0, uid: 0, gid: 0, nlink: 1, mtime: 0 };

    /// Adds to the root or to a directory of a given number.
    struct Tree(Index);

    impl Tree {
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

    fn tree() -> Tree {
        Tree(Index::new(PLAIN))
    }

    #[test]
    fn names_are_found_exactly_or_ignoring_case() {
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
    fn a_bad_name_is_refused_and_changes_nothing() {
        let mut index = Index::new(PLAIN);
        let mut refused = |name: &[u8]| index.add(NodeId::ROOT, name, NodeKind::Special, PLAIN).unwrap_err();
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            assert_eq!(refused(name), NodeError::BadName);
        }
        assert_eq!(refused(&[b'n'; 256]), NodeError::LongName);
        assert_eq!(index.len(), 1);
        assert_eq!(index.children(NodeId::ROOT), []);

        let file = index.add(NodeId::ROOT, b"file", NodeKind::Special, PLAIN).unwrap();
        assert_eq!(index.add(NodeId::ROOT, b"file", NodeKind::Special, PLAIN), Err(NodeError::Double));
        assert_eq!(index.add(file, b"x", NodeKind::Special, PLAIN), Err(NodeError::NotADirectory));
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn a_path_is_resolved_as_linux_does() {
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
    fn a_chain_of_symlinks_ends_after_forty_and_a_fan_of_them_too() {
        let mut tree = tree();
        let file = tree.file(NodeId::ROOT, "0");
        for n in 1..=41 {
            tree.link(NodeId::ROOT, &n.to_string(), &(n - 1).to_string());
        }
        // Followed without a common count of hops this would be 2^30 lookups.
        tree.dir(NodeId::ROOT, "d0");
        for n in 1..=30 {
            tree.link(NodeId::ROOT, &format!("d{n}"), &format!("d{0}/../d{0}", n - 1));
        }
        assert_eq!(tree.0.resolve(NodeId::ROOT, b"40"), Some(file));
        assert_eq!(tree.0.resolve(NodeId::ROOT, b"41"), None);
        assert_eq!(tree.0.resolve(NodeId::ROOT, b"d30"), None);
    }

    #[test]
    fn walk_and_path_agree() {
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
