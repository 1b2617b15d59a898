//! Our index compared with the source of an image, and with the index of hadris-iso and of xorriso.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use hadris_fs::sync::FileSystem;
use hadris_fs::{DirCursor, FileType, MountOptions};
use hadris_iso::sync::IsoFs;
use hadris_storage::host::FileDevice;

use isowire::image::tree::Names;
use isowire::image::{Extent, Image, NodeId, NodeKind, SurveyError};

use common::iso::odd;
use common::needs::{met, needs, tool};

/// Image as a map from path to entry, by any of the readers.
type Listing = BTreeMap<Vec<u8>, Entry>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: Type,
    size: u64,
    extents: Vec<Extent>,
    target: Vec<u8>,
    mode: u32,
    nlink: u64,
    mtime: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Directory,
    File,
    Symlink,
    Special,
}

// ---- readers

fn open(path: &Path) -> Image {
    Image::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn ours(image: &Image) -> Listing {
    let index = &image.index;
    let entry = |id: NodeId| {
        let node = index.node(id);
        let (kind, extents, target) = match &node.kind {
            NodeKind::Directory { .. } => (Type::Directory, vec![], vec![]),
            NodeKind::File { extents } => (Type::File, extents.clone(), vec![]),
            NodeKind::Symlink { target } => (Type::Symlink, vec![], target.to_vec()),
            NodeKind::Special => (Type::Special, vec![], vec![]),
        };
        let size = if kind == Type::File { node.size() } else { 0 };
        let (mode, nlink) = (node.attributes.mode & 0o7777, node.attributes.nlink.into());
        Entry { kind, size, extents, target, mode, nlink, mtime: node.attributes.mtime }
    };
    index.walk().skip(1).map(|id| (index.path(id), entry(id))).collect()
}

fn hadris(path: &Path) -> Listing {
    let device = FileDevice::open(path).expect("readable image");
    let mut iso = IsoFs::mount(device, MountOptions::new()).expect("an ISO").with_cache(Default::default());
    let mut listing = Listing::new();
    let mut ahead = vec![(Vec::new(), iso.root())];
    while let Some((parent, dir)) = ahead.pop() {
        let mut cursor = DirCursor::START;
        while let Some(entry) = iso.readdir(dir, cursor).expect("readable directory") {
            cursor = entry.next_cursor();
            let path = [&parent[..], b"/", entry.name().as_bytes()].concat();
            let (node, metadata) = (entry.node(), entry.metadata());
            let kind = match metadata.file_type() {
                FileType::Dir => Type::Directory,
                FileType::File => Type::File,
                FileType::Symlink => Type::Symlink,
                _ => Type::Special,
            };
            if kind == Type::Directory {
                ahead.push((path.clone(), node));
            }
            let mut target = [0; 4096];
            let target = match kind {
                Type::Symlink => iso.readlink(node, &mut target).expect("readable symlink").to_vec(),
                _ => vec![],
            };
            let file = kind == Type::File;
            let seen = Entry {
                kind,
                size: if file { metadata.len() } else { 0 },
                extents: if file { hadris_extents(&mut iso, node) } else { vec![] },
                target,
                mode: metadata.permissions().bits(),
                nlink: metadata.nlink(),
                mtime: metadata.modified().map_or(0, |time| time.unix_seconds()),
            };
            listing.insert(path, seen);
        }
    }
    listing
}

fn hadris_extents(iso: &mut IsoFs<FileDevice>, node: hadris_fs::NodeId) -> Vec<Extent> {
    let mut found = [hadris_fs::Extent::new(0, 0); 16];
    let count = iso.extents(node, 0, &mut found).expect("extents");
    assert!(count < found.len());
    merged(found[..count].iter().map(|extent| Extent { offset: extent.offset(), len: extent.len() }))
}

/// Leaves out empty extents, and joins adjacent ones.
fn merged(extents: impl Iterator<Item = Extent>) -> Vec<Extent> {
    extents.filter(|extent| extent.len > 0).fold(Vec::new(), |mut merged: Vec<Extent>, extent| {
        match merged.last_mut() {
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ => merged.push(extent),
        }
        merged
    })
}

/// Returns the files as xorriso lists them: paths and extents. A name with a line feed is left out,
/// since the listing is ambiguous there.
fn xorriso_files(path: &Path) -> BTreeMap<Vec<u8>, Vec<Extent>> {
    let mut sections: BTreeMap<Vec<u8>, (u64, Vec<Extent>)> = BTreeMap::new();
    for line in xorriso_find(path, &["-type", "f", "-exec", "report_lba"]) {
        let Some(fields) = line.strip_prefix(b"File data lba:") else { continue };
        let text = String::from_utf8_lossy(fields);
        let mut numbers = text.splitn(5, ',').map(str::trim);
        let mut number = || numbers.next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
        let (_section, lba, blocks, size) = (number(), number(), number(), number());
        let Some(path) = quoted(fields) else { continue };
        let (_, extents) = sections.entry(path).or_insert((size, vec![]));
        let before: u64 = extents.iter().map(|extent| extent.len).sum();
        extents.push(Extent { offset: lba * 2048, len: (blocks * 2048).min(size - before) });
    }
    sections.into_iter().map(|(path, (_, extents))| (path, merged(extents.into_iter()))).collect()
}

/// Returns all other entries as xorriso lists them: paths, types and targets. For the boot catalog,
/// a file, xorriso lists no extent.
fn xorriso_others(path: &Path) -> BTreeMap<Vec<u8>, (Type, Vec<u8>)> {
    let mut others = BTreeMap::new();
    for line in xorriso_find(path, &["!", "-type", "f", "-exec", "lsdl"]) {
        let kind = match line.first() {
            Some(b'd') => Type::Directory,
            Some(b'l') => Type::Symlink,
            Some(b'e') => Type::File,
            _ => Type::Special,
        };
        let arrow = line.windows(6).position(|window| window == b"' -> '");
        let (line, target) = line.split_at(arrow.map_or(line.len(), |at| at + 1));
        let Some(path) = quoted(line).filter(|path| path != b"/") else { continue };
        others.insert(path, (kind, quoted(target).unwrap_or_default()));
    }
    others
}

fn xorriso_find(path: &Path, what: &[&str]) -> Vec<Vec<u8>> {
    let mut xorriso = tool("xorriso");
    xorriso.args(["-report_about", "FAILURE", "-indev"]).arg(path).args(["-find", "/"]).args(what);
    let output = xorriso.stdin(Stdio::null()).output().expect("xorriso runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect()
}

/// Returns the text between the apostrophes of a line. No name in the images has one.
fn quoted(line: &[u8]) -> Option<Vec<u8>> {
    let first = line.iter().position(|&b| b == b'\'')?;
    let last = line.iter().rposition(|&b| b == b'\'').filter(|last| *last > first)?;
    Some(line[first + 1..last].to_vec())
}

// ---- comparisons

/// Checks that both have the same paths, types, sizes, extents, targets and, by `look_at`,
/// attributes.
fn assert_same(ours: &Listing, theirs: &Listing, look_at: fn(&Entry) -> Entry) {
    let mut differences = String::new();
    for path in ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path))) {
        let [ours, theirs] = [ours, theirs].map(|listing| listing.get(path).map(look_at));
        if ours != theirs {
            let path = String::from_utf8_lossy(path);
            writeln!(differences, "{path}\n    ours   {ours:?}\n    theirs {theirs:?}").expect("a string");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn all(entry: &Entry) -> Entry {
    entry.clone()
}

fn without_attributes(entry: &Entry) -> Entry {
    Entry { mode: 0, nlink: 0, mtime: 0, ..entry.clone() }
}

fn assert_as_hadris(path: &Path, look_at: fn(&Entry) -> Entry) {
    assert_same(&ours(&open(path)), &hadris(path), look_at);
}

fn assert_as_xorriso(path: &Path) {
    let mut ours = ours(&open(path));
    ours.retain(|path, _| !path.contains(&b'\n'));
    let (files, others) = (xorriso_files(path), xorriso_others(path));
    for (path, theirs) in &others {
        let ours = ours.remove(path).map(|entry| (entry.kind, entry.target));
        assert_eq!(ours.as_ref(), Some(theirs), "{}", String::from_utf8_lossy(path));
    }
    let ours: BTreeMap<_, _> = ours.into_iter().map(|(path, entry)| (path, entry.extents)).collect();
    assert_eq!(ours, files);
}

/// Checks that the index has what `tests/iso/odd` put into an image: type, size, link count, path
/// and target of each entry.
fn assert_as_source(iso: &Path, as_stored: fn(&[u8]) -> Vec<u8>) {
    let list = fs::read(iso.with_extension("list")).expect("made beside the image");
    let mut expected = BTreeMap::new();
    let mut fields = vec![vec![]];
    for line in list.split_inclusive(|&b| b == b'\n') {
        // A name may hold a line feed: a line goes on until it has its four tabs.
        fields.last_mut().expect("never empty").extend(line);
        if fields[0].iter().filter(|&&b| b == b'\t').count() < 4 {
            continue;
        }
        let entry = std::mem::replace(&mut fields, vec![vec![]]).remove(0);
        let [kind, size, _, path, target] = entry.split(|&b| b == b'\t').collect::<Vec<_>>()[..] else {
            panic!("five fields: {}", String::from_utf8_lossy(&entry));
        };
        let (kind, size) = match kind {
            b"d" => (Type::Directory, 0),
            b"f" => (Type::File, String::from_utf8_lossy(size).parse().expect("a size")),
            b"l" => (Type::Symlink, 0),
            _ => (Type::Special, 0),
        };
        let target = target.strip_suffix(b"\n").expect("a whole line").to_vec();
        expected.insert([b"/", &as_stored(path)[..]].concat(), (kind, size, target));
    }
    assert!(!expected.is_empty());
    let ours = ours(&open(iso)).into_iter();
    let ours: BTreeMap<_, _> = ours.map(|(path, e)| (path, (e.kind, e.size, e.target))).collect();
    for (path, entry) in &expected {
        assert_eq!(ours.get(path), Some(entry), "{}", String::from_utf8_lossy(path));
    }
    let more: Vec<_> = ours.keys().filter(|path| !expected.contains_key(*path)).collect();
    assert!(more.is_empty(), "not in the source: {more:?}");
}

// ---- images of our own

#[test]
fn rock_ridge_of_mkarchiso_is_read() {
    needs!(["xorriso"]);
    let iso = odd("rock");
    let image = open(&iso);
    assert_eq!((image.volume.names, image.volume.label.as_str()), (Names::RockRidge, "ODD_ROCK"));
    assert_eq!(image.warnings, [""; 0]);
    assert_as_source(&iso, <[u8]>::to_vec);
    assert_as_hadris(&iso, all);
    assert_as_xorriso(&iso);
}

#[test]
fn relocated_directory_is_at_its_place() {
    needs!(["xorriso", "genisoimage"]);
    let by_xorriso = odd("reloc");
    assert_as_hadris(&by_xorriso, all);
    assert_as_xorriso(&by_xorriso);
    // genisoimage's directory for the relocated ones stays visible, as on Linux. genisoimage cannot
    // write long targets.
    let by_genisoimage = odd("moved");
    let [mut ours, mut theirs] = [ours(&open(&by_genisoimage)), hadris(&by_genisoimage)];
    assert_eq!(ours.remove(&b"/rr_moved"[..]).expect("visible").kind, Type::Directory);
    assert_eq!(theirs.remove(&b"/links/LONG_TAR"[..]).expect("damaged").kind, Type::File);
    assert_same(&ours, &theirs, all);
    assert_eq!(open(&by_genisoimage).warnings.len(), 1);
}

#[test]
fn hard_links_share_extent_and_count() {
    needs!(["xorriso"]);
    let listing = ours(&open(&odd("reloc")));
    let [file, hard, other] =
        ["/links/file", "/links/hard", "/links/dir/hard-in-dir"].map(|p| &listing[p.as_bytes()]);
    assert_eq!((file.nlink, file.extents.len()), (3, 1));
    assert_eq!((&file.extents, file.nlink), (&hard.extents, hard.nlink));
    assert_eq!((&file.extents, file.nlink), (&other.extents, other.nlink));
    assert_eq!(listing[&b"/links/empty"[..]].extents, []);
}

#[test]
fn joliet_is_read_without_rock_ridge() {
    needs!(["genisoimage"]);
    let iso = odd("joliet");
    assert_eq!(open(&iso).volume.names, Names::Joliet);
    assert_as_source(&iso, <[u8]>::to_vec);
    assert_as_hadris(&iso, without_attributes);
}

#[test]
fn plain_names_are_lower_case() {
    needs!(["genisoimage"]);
    let iso = odd("plain");
    assert_eq!(open(&iso).volume.names, Names::Plain);
    assert_as_source(&iso, <[u8]>::to_ascii_lowercase);
}

#[test]
fn file_over_4_gib_is_one_extent() {
    needs!(["xorriso"]);
    let iso = odd("multi");
    assert_as_source(&iso, <[u8]>::to_vec);
    assert_as_hadris(&iso, all);
    assert_as_xorriso(&iso);
    let image = open(&iso);
    let file = image.index.resolve(NodeId::ROOT, b"/arch/x86_64/airootfs.sfs").expect("there");
    let NodeKind::File { extents } = &image.index.node(file).kind else { panic!("a file") };
    let [Extent { offset, len }] = extents[..] else { panic!("one extent: {extents:?}") };
    assert_eq!(len, 9 << 29);
    let at = |position: u64, len: usize| {
        let mut bytes = vec![0; len];
        image.source.read_exact_at(&mut bytes, offset + position).expect("inside the image");
        String::from_utf8(bytes).expect("text")
    };
    assert_eq!(at(0, 19), "hsqs: the beginning");
    assert_eq!(at((4 << 30) - 2048 - 8, 16), "first 8 / next 8");
    assert_eq!(at(len - 7, 7), "the end");
    assert_eq!(image.read(file, 1 << 20).expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn large_image_is_indexed_quickly() {
    needs!(["xorriso"]);
    let iso = odd("rock");
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        assert!(open(&iso).index.len() > 10_000);
        best = best.min(start.elapsed());
    }
    // A release build takes 30 ms (benches/image.rs). Tests are not optimised, and run beside
    // others.
    assert!(best < Duration::from_secs(2), "{best:?}");
}

#[test]
fn content_is_read_by_its_extent() {
    needs!(["xorriso"]);
    let image = open(&odd("rock"));
    let read = |path: &str| {
        let node = image.index.resolve(NodeId::ROOT, path.as_bytes()).expect(path);
        (node, image.read(node, 4096))
    };
    let (kernel, content) = read("/names/日本語.txt");
    assert_eq!(content.expect("a file"), "content of 日本語.txt\n".as_bytes());
    assert_eq!(image.extents(kernel).expect("a file").iter().map(|extent| extent.len).sum::<u64>(), 25);
    assert_eq!(read("/links/dotted").1.expect("a symlink's file"), b"content of file\n");
    assert_eq!(read("/links/empty").1.expect("a file"), b"");
    let (dir, content) = read("/links/dir");
    assert_eq!(content.expect_err("a directory").kind(), io::ErrorKind::InvalidInput);
    assert_eq!(image.extents(dir), None);
    assert_eq!(image.source.len(), fs::metadata(odd("rock")).expect("there").len());
}

#[test]
fn label_and_uuid_match_blkid() {
    needs!(["xorriso", "genisoimage", "blkid"]);
    for iso in ["rock", "reloc", "moved", "joliet", "plain"].map(odd).iter().chain(&debians()) {
        let value = |name: &str| {
            let blkid = tool("blkid").args(["-p", "-o", "value", "-s", name]).arg(iso).output();
            String::from_utf8(blkid.expect("blkid runs").stdout).expect("text").trim_end().to_owned()
        };
        let volume = open(iso).volume;
        assert_eq!(volume.label, value("LABEL"), "{}", iso.display());
        assert_eq!(volume.uuid.unwrap_or_default(), value("UUID"), "{}", iso.display());
    }
}

#[test]
fn truncated_image_is_an_error() {
    needs!(["xorriso"]);
    let whole = odd("reloc");
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let cut = scratch.path().join("cut.iso");
    let needed = open(&whole).volume.size;
    for len in [40_000, 64 << 10, 300_000, needed / 2, needed - (400 << 10)] {
        fs::copy(&whole, &cut).expect("copied");
        fs::File::options().write(true).open(&cut).and_then(|file| file.set_len(len)).expect("cut");
        let error = Image::open(&cut).expect_err("cut off");
        assert!(matches!(error.fault, SurveyError::Truncated { .. }), "{len}: {error}");
        assert!(error.to_string().contains("cut.iso: truncated: "), "{error}");
    }
}

#[test]
fn other_file_is_a_one_line_error() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let file = scratch.path().join("file");
    for (content, says) in [
        (&b"<!DOCTYPE html>"[..], "not an ISO 9660 image: the file is a web page"),
        (b"", "not an ISO 9660 image: the file is empty"),
        (&[0; 20_000], "not an ISO 9660 image: the file is too short"),
        (&[0; 65_536], "not an ISO 9660 image: the file has no volume descriptor at byte 32768"),
    ] {
        fs::write(&file, content).expect("written");
        let error = Image::open(&file).expect_err("no ISO").to_string();
        assert!(error.contains(says), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
    let error = Image::open(&scratch.path().join("none")).expect_err("not there").to_string();
    assert!(error.contains("none: cannot be read: No such file"), "{error}");
    let error = Image::open(scratch.path()).expect_err("a directory").to_string();
    assert!(error.contains("cannot be read: is a directory"), "{error}");
}

// ---- images of others

fn debians() -> Vec<PathBuf> {
    const ISOS: [&str; 4] = [
        "/usr/lib/ipxe/ipxe.iso",
        "/usr/lib/grub-rescue/grub-rescue-cdrom.iso",
        "/usr/lib/memtest86+/memtest86+x64.iso",
        "/usr/lib/memtest86+/memtest86+ia32.iso",
    ];
    ISOS.iter().filter(|iso| met(&[iso])).map(PathBuf::from).collect()
}

#[test]
fn debian_isos_match_other_readers() {
    for iso in debians() {
        assert_as_hadris(&iso, without_attributes);
        if met(&["xorriso"]) {
            assert_as_xorriso(&iso);
        }
        assert_eq!(open(&iso).archiso, None);
    }
}

#[test]
fn debian_boot_catalogs_match_hadris() {
    for path in debians() {
        let mut iso =
            IsoFs::mount(FileDevice::open(&path).expect("there"), MountOptions::new()).expect("an ISO");
        let mut buffer = [0; 2048];
        let catalog = iso.boot_catalog(&mut buffer).expect("readable").expect("a catalog");
        let theirs: Vec<_> =
            catalog.entries().map(|entry| (entry.is_bootable(), iso.boot_image(&entry).offset())).collect();
        let boot = open(&path).boot;
        let ours: Vec<_> = boot.el_torito.iter().map(|e| (e.bootable, u64::from(e.block) * 2048)).collect();
        assert_eq!(ours, theirs, "{}", path.display());
    }
}
