//! Random trees written by hadris-iso: our index reads each of them back.

use std::collections::BTreeMap;
use std::fs::File;

use hadris_fs::{Content, Node, Tree};
use hadris_iso::IsoOptions;
use hadris_storage::host::FileDevice;
use proptest::collection::vec;
use proptest::prelude::*;

use isowire::image::{Image, NodeKind};

/// Entries by their paths. A path whose parent is not a directory is left out.
type Wanted = BTreeMap<Vec<u8>, Entry>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

/// Generates any name that POSIX allows, also long ones and such that are not UTF-8.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("in a name", |b| !matches!(b, 0 | b'/'));
    let odd = prop_oneof![vec(byte.clone(), 1..12), vec(byte, 200..255)];
    let name = prop_oneof![3 => "[a-c]".prop_map(String::into_bytes), 1 => odd];
    name.prop_filter("no name", |name| name != b"." && name != b"..")
}

fn entry() -> impl Strategy<Value = Entry> {
    let target = vec(prop_oneof![name(), Just(b"..".to_vec())], 1..8);
    prop_oneof![
        3 => Just(Entry::Directory),
        2 => vec(any::<u8>(), 0..5000).prop_map(Entry::File),
        1 => (any::<bool>(), target).prop_map(|(absolute, names)| {
            Entry::Symlink([if absolute { &b"/"[..] } else { b"" }, &names.join(&b'/')].concat())
        }),
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    vec((vec(name(), 1..12), entry()), 0..60).prop_map(|entries| {
        let mut wanted = Wanted::new();
        for (names, entry) in entries {
            let path =
                |depth: usize| names[..depth].iter().flat_map(|name| [&b"/"[..], name].concat()).collect();
            let parents: Vec<Vec<u8>> = (1..names.len()).map(path).collect();
            let fit = |parent| wanted.get(parent).is_none_or(|entry| *entry == Entry::Directory);
            let path = path(names.len());
            if !parents.iter().all(fit) || wanted.contains_key(&path) {
                continue;
            }
            wanted.extend(parents.into_iter().map(|parent| (parent, Entry::Directory)));
            wanted.insert(path, entry);
        }
        wanted
    })
}

fn write(wanted: &Wanted, file: File) {
    let mut tree = Tree::new();
    for (path, entry) in wanted {
        let node = match entry {
            Entry::Directory => Node::dir(),
            Entry::File(content) => Node::file(Content::bytes(content.clone())),
            Entry::Symlink(target) => Node::symlink(target),
        };
        tree.insert(path, node).expect("a tree");
    }
    let options = IsoOptions::default().with_rock_ridge();
    hadris_iso::sync::write(FileDevice::new(file).expect("a device"), &tree, &options).expect("written");
}

fn read(image: &Image) -> Wanted {
    let index = &image.index;
    let entry = |id| match &index.node(id).kind {
        NodeKind::Directory { .. } => Entry::Directory,
        NodeKind::File { .. } => Entry::File(image.read(id, 1 << 20).expect("readable")),
        NodeKind::Symlink { target } => Entry::Symlink(target.to_vec()),
        NodeKind::Special => panic!("no such entry was written"),
    };
    index.walk().skip(1).map(|id| (index.path(id), entry(id))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn written_tree_is_read_back(wanted in wanted()) {
        let iso = tempfile::NamedTempFile::new().expect("a scratch file");
        write(&wanted, iso.reopen().expect("open"));
        let image = Image::open(iso.path()).expect("an ISO");
        prop_assert_eq!(&image.warnings, &[""; 0]);
        let mut read = read(&image);
        // The directory to which the writer moves deep directories; visible, as on Linux.
        read.remove(&b"/rr_moved"[..]);
        prop_assert_eq!(read, wanted);
    }
}
