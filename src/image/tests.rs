//! Surveys of hostile images made by hand. Each ends in bounded time, with a clear error or with a
//! tree and warnings.

use std::time::{Duration, Instant};

use super::iso9660::BLOCK;
use super::survey::Survey;
use super::tree::Names;
use super::{Extent, FormatError, Media, NodeId, NodeKind, SurveyError};

/// Builder of an image. Blocks 16 to 18 are a primary descriptor, a terminator and the root
/// directory.
struct Forge {
    bytes: Vec<u8>,
}

const PRIMARY: u32 = 16;
const TERMINATOR: u32 = 17;
const ROOT: u32 = 18;

const DIRECTORY: u8 = 2;
const MULTI_EXTENT: u8 = 0x80;

impl Forge {
    fn new() -> Self {
        let mut forge = Self { bytes: vec![0; 19 * BLOCK as usize] };
        forge.put(PRIMARY, 0, b"\x01CD001\x01");
        forge.put(PRIMARY, 40, b"EVIL                            ");
        forge.put(PRIMARY, 128, &[0, 8, 8, 0]);
        forge.put(PRIMARY, 156, &record(&[0], ROOT, BLOCK as u32, DIRECTORY, b""));
        forge.put(PRIMARY, 813, b"2026112210382500\0");
        forge.put(PRIMARY, 830, b"2026112210382599\0");
        forge.put(TERMINATOR, 0, b"\xffCD001\x01");
        forge.directory(ROOT, b"", &[]);
        forge
    }

    fn put(&mut self, block: u32, offset: usize, bytes: &[u8]) {
        let at = block as usize * BLOCK as usize + offset;
        let end = (at + bytes.len()).next_multiple_of(BLOCK as usize);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes a directory of these records, after those of itself and its parent. Returns its
    /// length.
    fn directory(&mut self, block: u32, own_use: &[u8], records: &[Vec<u8>]) -> u32 {
        let mut content = record(&[0], block, BLOCK as u32, DIRECTORY, own_use);
        content.extend(record(&[1], ROOT, BLOCK as u32, DIRECTORY, b""));
        for record in records {
            let left = BLOCK as usize - content.len() % BLOCK as usize;
            if record.len() > left {
                content.resize(content.len() + left, 0);
            }
            content.extend(record);
        }
        content.resize(content.len().next_multiple_of(BLOCK as usize), 0);
        let len = content.len() as u32;
        // The record of the directory itself, and of the root in the descriptor, tell the length.
        content[10..14].copy_from_slice(&len.to_le_bytes());
        self.put(block, 0, &content);
        if block == ROOT {
            self.put(PRIMARY, 156 + 10, &len.to_le_bytes());
        }
        len
    }

    /// Creates an image whose root directory uses Rock Ridge.
    fn rock_ridge(records: &[Vec<u8>]) -> Self {
        let mut forge = Self::new();
        let sp = entry(b"SP", &[0xbe, 0xef, 0]);
        forge.directory(ROOT, &[sp, px(0o040_555)].concat(), records);
        forge
    }

    fn survey(&self) -> Result<Survey, SurveyError> {
        Survey::of(&self.bytes[..])
    }

    fn tree(&self) -> Surveyed {
        Surveyed(self.survey().expect("a usable image"))
    }
}

struct Surveyed(Survey);

impl Surveyed {
    fn names(&self, path: &str) -> Vec<String> {
        let dir = self.node(path);
        let name = |id: &NodeId| String::from_utf8_lossy(&self.0.index.node(*id).name).into_owned();
        self.0.index.children(dir).iter().map(name).collect()
    }
    fn node(&self, path: &str) -> NodeId {
        self.0.index.resolve(NodeId::ROOT, path.as_bytes()).unwrap_or_else(|| panic!("no {path}"))
    }
    fn warning(&self) -> &str {
        let [line] = &self.0.warnings[..] else { panic!("one warning: {:?}", self.0.warnings) };
        line
    }
}

fn record(id: &[u8], block: u32, len: u32, flags: u8, system_use: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    // Only the little-endian halves are filled: they are the ones that count.
    bytes.extend([block, 0, len, 0].map(u32::to_le_bytes).concat());
    bytes.extend([126, 11, 22, 10, 38, 25, 0, flags, 0, 0, 1, 0, 0, 1, id.len() as u8]);
    bytes.extend(id);
    if id.len().is_multiple_of(2) {
        bytes.push(0);
    }
    bytes.extend(system_use);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes[0] = u8::try_from(bytes.len()).expect("a short record");
    bytes
}

fn file(id: &str, block: u32, len: u32) -> Vec<u8> {
    record(id.as_bytes(), block, len, 0, b"")
}

fn dir(id: &str, block: u32, len: u32) -> Vec<u8> {
    record(id.as_bytes(), block, len, DIRECTORY, b"")
}

fn entry(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
    [&signature[..], &[data.len() as u8 + 4, 1], data].concat()
}

fn both(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| [n.to_le_bytes(), n.to_be_bytes()].concat()).collect()
}

fn px(mode: u32) -> Vec<u8> {
    entry(b"PX", &both(&[mode, 0, 0, 0]))
}

fn nm(name: &[u8]) -> Vec<u8> {
    entry(b"NM", &[b"\0", name].concat())
}

fn ce(block: u32, offset: u32, len: u32) -> Vec<u8> {
    entry(b"CE", &both(&[block, offset, len]))
}

// ---- names and attributes

#[test]
fn ordinary_image_has_no_warnings() {
    let mut forge = Forge::new();
    forge.directory(ROOT, b"", &[file("A.TXT;1", 20, 5), file("EMPTY.;1", 0, 0), dir("SUB", 19, 2048)]);
    forge.directory(19, b"", &[file("B.;1", 20, 7)]);
    forge.put(20, 0, b"content");
    let tree = forge.tree();
    assert_eq!(tree.names("/"), ["a.txt", "empty", "sub"]);
    assert_eq!(tree.names("/sub"), ["b"]);
    assert_eq!(tree.0.warnings, [""; 0]);
    let volume = &tree.0.volume;
    assert_eq!((volume.label.as_str(), volume.names), ("EVIL", Names::Plain));
    assert_eq!(volume.uuid.as_deref(), Some("2026-11-22-10-38-25-99"));
    assert_eq!(volume.created.expect("a date").to_string(), "2026-11-22T10:38:25Z");
    let node = tree.0.index.node(tree.node("/a.txt"));
    assert_eq!(node.kind, NodeKind::File { extents: vec![Extent { offset: 20 * BLOCK, len: 5 }] });
    let attributes = node.attributes;
    assert_eq!((attributes.mode, attributes.nlink, attributes.mtime), (0o100_444, 1, 1_795_343_905));
    assert_eq!(tree.0.index.node(tree.node("/empty")).kind, NodeKind::File { extents: vec![] });
}

#[test]
fn uuid_falls_back_to_creation_date() {
    let mut forge = Forge::new();
    forge.put(PRIMARY, 830, b"0000000000000000\0");
    assert_eq!(forge.tree().0.volume.uuid.as_deref(), Some("2026-11-22-10-38-25-00"));
    forge.put(PRIMARY, 813, b"2026112210$(id)0\0");
    assert_eq!(forge.tree().0.volume.uuid, None, "digits only");
}

#[test]
fn bad_names_are_left_out() {
    let bad = [&b"a/b"[..], b"..", b"nul\0", b"."];
    let records = bad.map(|name| record(b"X", 0, 0, 0, &nm(name)));
    let fine = record(b"Y", 0, 0, 0, &nm(b"fine"));
    let tree = Forge::rock_ridge(&[&records[..], &[fine.clone(), fine]].concat()).tree();
    assert_eq!(tree.names("/"), ["fine"]);
    let [slash, .., double] = &tree.0.warnings[..] else { panic!("{:?}", tree.0.warnings) };
    assert_eq!(tree.0.warnings.len(), 5);
    assert_eq!(slash, "/a/b: left out: its name is empty, `.`, `..`, or contains `/` or NUL");
    assert_eq!(double, "/fine: left out: its directory already has an entry of this name");
}

#[test]
fn type_comes_from_mode_and_flag() {
    let sl = entry(b"SL", b"\0\x08\0\0\x01t");
    let rock =
        |name: &[u8], mode, more: &[u8]| record(name, 0, 0, 0, &[nm(name), px(mode), more.to_vec()].concat());
    let mut forge = Forge::rock_ridge(&[
        rock(b"link", 0o120_777, &sl),
        rock(b"targetless", 0o120_777, b""),
        rock(b"fifo", 0o010_644, b""),
        rock(b"no-dir", 0o040_755, b""),
        record(b"DIR", ROOT + 1, 2048, DIRECTORY, &[nm(b"dir"), px(0o100_644)].concat()),
    ]);
    forge.directory(ROOT + 1, b"", &[]);
    let tree = forge.tree();
    let kind = |path: &str| {
        let id = tree.0.index.child(NodeId::ROOT, path.as_bytes()).expect(path);
        let node = tree.0.index.node(id);
        (node.kind.clone(), node.attributes.mode)
    };
    assert_eq!(kind("link"), (NodeKind::Symlink { target: (*b"/t").into() }, 0o120_777));
    assert_eq!(kind("fifo"), (NodeKind::Special, 0o010_644));
    assert_eq!(kind("no-dir"), (NodeKind::File { extents: vec![] }, 0o100_755));
    assert_eq!(kind("dir"), (NodeKind::Directory { entries: vec![] }, 0o040_644));
    assert_eq!(tree.warning(), "/targetless: left out: the symlink has no target");
}

#[test]
fn fields_before_susp_are_skipped() {
    let own = [entry(b"SP", &[0xbe, 0xef, 3]), px(0o040_555)].concat();
    let mut forge = Forge::new();
    forge.directory(ROOT, &own, &[record(b"X", 0, 0, 0, &[b"abc", &nm(b"name")[..]].concat())]);
    assert_eq!(forge.tree().names("/"), ["name"]);
    // CD-ROM XA: fourteen bytes of its own before everything.
    let xa = [0; 14];
    let own = [&xa[..], &entry(b"SP", &[0xbe, 0xef, 14]), &px(0o040_555)].concat();
    forge.directory(ROOT, &own, &[record(b"X", 0, 0, 0, &[&xa[..], &nm(b"name")].concat())]);
    assert_eq!(forge.tree().names("/"), ["name"]);
}

#[test]
fn susp_alone_gives_no_names() {
    let mut forge = Forge::new();
    let apple = entry(b"ER", b"\x0e\0\0\x01APPLE COMPUTER");
    let own = [entry(b"SP", &[0xbe, 0xef, 0]), apple].concat();
    forge.directory(ROOT, &own, &[record(b"X.;1", 0, 0, 0, &nm(b"not this"))]);
    let tree = forge.tree();
    assert_eq!((tree.names("/"), tree.0.volume.names), (vec!["x".to_owned()], Names::Plain));
}

#[test]
fn unsupported_files_are_left_out() {
    let mut interleaved = file("GAPS", ROOT, 10);
    interleaved[26] = 1;
    let zf = entry(b"ZF", b"pz\x04\x0f\0\0\0\0\0\0\0\0");
    let tree = Forge::rock_ridge(&[
        record(b"FORK", ROOT, 10, 4, b""),
        file("FORK", ROOT, 20),
        interleaved,
        record(b"Z", ROOT, 10, 0, &[nm(b"packed"), zf].concat()),
    ])
    .tree();
    assert_eq!(tree.names("/"), ["fork", "packed"]);
    assert_eq!(tree.0.index.node(tree.node("/fork")).size(), 20);
    assert_eq!(
        tree.0.warnings,
        [
            "/gaps: left out: interleaved files are not supported",
            "/packed: compressed with zisofs; served as it is stored",
        ]
    );
}

// ---- continuation areas

#[test]
fn continuation_is_read_at_its_offset() {
    let mut forge = Forge::rock_ridge(&[record(b"X", 0, 0, 0, &ce(ROOT + 1, 100, 9))]);
    forge.put(ROOT + 1, 0, &nm(b"wrong"));
    forge.put(ROOT + 1, 100, &nm(b"good"));
    assert_eq!(forge.tree().names("/"), ["good"]);
}

#[test]
fn continuation_of_itself_ends() {
    let mut forge = Forge::rock_ridge(&[record(b"X", 0, 0, 0, &ce(ROOT + 1, 0, 28)), file("AFTER", 0, 0)]);
    forge.put(ROOT + 1, 0, &ce(ROOT + 1, 0, 28));
    let tree = forge.tree();
    assert_eq!(tree.names("/"), ["after"]);
    assert_eq!(tree.warning(), "/X: left out: it has more than 32 continuation areas");
}

#[test]
fn continuation_stays_in_its_block() {
    let records = [(ROOT, 0, 4000), (ROOT, 2000, 49), (u32::MAX, 0, 20), (19, 0, 20), (ROOT, u32::MAX, 1)];
    let records = records.map(|(block, offset, len)| record(b"X", 0, 0, 0, &ce(block, offset, len)));
    let tree = Forge::rock_ridge(&records).tree();
    assert_eq!(tree.names("/"), [""; 0]);
    assert_eq!(tree.0.warnings.len(), 5);
}

// ---- directories

#[test]
fn cycle_of_directories_is_cut() {
    let mut forge = Forge::new();
    let len =
        forge.directory(ROOT, b"", &[dir("UP", ROOT, 2048), dir("SUB", 19, 2048), dir("TWIN", 19, 2048)]);
    forge.directory(19, b"", &[dir("ROOT", ROOT, len), dir("SELF", 19, 2048)]);
    let tree = forge.tree();
    assert_eq!((tree.names("/"), tree.names("/sub")), (vec!["sub".to_owned()], vec![]));
    assert_eq!(tree.0.warnings.len(), 4);
    assert_eq!(tree.0.warnings[0], "/up: left out: this directory is already in the tree");
}

#[test]
fn relocated_directory_follows_its_link() {
    let cl = |name: &[u8], block| record(name, 0, 0, 0, &[nm(name), entry(b"CL", &both(&[block]))].concat());
    let moved = record(b"DEEP", 20, 2048, DIRECTORY, &[nm(b"deep"), entry(b"RE", b"")].concat());
    let mut forge = Forge::rock_ridge(&[
        cl(b"deep", 20),
        cl(b"again", 20),
        cl(b"behind", 9999),
        cl(b"no-directory", 21),
        record(b"MOVED", 19, 2048, DIRECTORY, &nm(b"moved")),
    ]);
    forge.directory(19, b"", &[moved]);
    let files: Vec<_> = (0..100).map(|n| file(&format!("F{n}.;1"), 0, 0)).collect();
    let len = forge.directory(20, &px(0o040_700), &files);
    assert!(len > 2048, "longer than a block");
    forge.put(22, 0, b"");
    let tree = forge.tree();
    assert_eq!(tree.names("/"), ["deep", "moved"]);
    assert_eq!((tree.names("/deep").len(), tree.names("/moved").len()), (100, 0));
    assert_eq!(tree.0.index.node(tree.node("/deep")).attributes.mode, 0o040_700);
    assert_eq!(tree.0.warnings.len(), 3);
}

#[test]
fn nesting_is_bounded() {
    let mut forge = Forge::new();
    for block in ROOT..ROOT + 200 {
        forge.directory(block, b"", &[dir("D", block + 1, 2048)]);
    }
    forge.directory(ROOT + 200, b"", &[]);
    let tree = forge.tree();
    assert_eq!(tree.0.index.len(), 129);
    assert!(tree.warning().ends_with("/d: left out: directories are nested too deeply"));
}

#[test]
fn extent_beyond_the_image_is_refused() {
    let mut forge = Forge::new();
    let claims = [
        file("FAR", u32::MAX, 1),
        file("LONG", ROOT, u32::MAX),
        dir("D", 9999, 2048),
        dir("E", ROOT, 1 << 30),
    ];
    forge.directory(ROOT, b"", &claims);
    let tree = forge.tree();
    assert_eq!(tree.names("/"), [""; 0]);
    assert_eq!(tree.0.warnings.len(), 4);
    assert_eq!(tree.0.warnings[0], "/far: left out: its content is outside the image");
}

#[test]
fn overlapping_directories_are_bounded() {
    // A thousand directories begin block by block in the same 16 MiB: 16 GiB, were they all read.
    let mut forge = Forge::new();
    let claims: Vec<_> = (0..1000).map(|n| dir(&format!("D{n}"), ROOT + 100 + n, 16 << 20)).collect();
    forge.directory(ROOT, b"", &claims);
    forge.put(ROOT + 10_000, 0, b"end");
    let start = Instant::now();
    let fault = forge.survey().expect_err("too much work");
    assert_eq!(fault.to_string(), says("its directories overlap or take more than 256 MiB"));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn shared_continuation_areas_are_bounded() {
    // Each of 50,000 records continues 30 times in blocks that alternate.
    let records: Vec<_> =
        (0..50_000).map(|n| record(&u32::to_be_bytes(n), 0, 0, 0, &ce(10_000, 0, 56))).collect();
    let mut forge = Forge::rock_ridge(&records);
    for n in 0..30 {
        forge.put(10_000 + n % 2, 56 * (n as usize / 2), &ce(10_000 + (n + 1) % 2, 56 * (n.div_ceil(2)), 56));
    }
    let fault = forge.survey().expect_err("too much work");
    assert_eq!(fault.to_string(), says("its directories overlap or take more than 256 MiB"));
}

#[test]
fn shared_symlink_targets_are_bounded() {
    let long = entry(b"SL", &[&b"\x01\0\xc8"[..], &[b't'; 200]].concat());
    let next = |n: u32| ce(10_000 + n, 0, 2048);
    let mut records = Vec::new();
    for n in 0..25_000_u32 {
        let name = nm(format!("link-{n}").as_bytes());
        records.push(record(b"X", 0, 0, 0, &[name, px(0o120_777), next(0)].concat()));
    }
    let mut forge = Forge::rock_ridge(&records);
    forge.put(10_000, 0, &[long.repeat(9), next(1)].concat());
    forge.put(10_001, 0, &long.repeat(9));
    forge.put(20_000, 0, b"a large image");
    let fault = forge.survey().expect_err("too much text");
    assert_eq!(fault.to_string(), says("its names take more than 64 MiB"));
}

fn says(what: &'static str) -> String {
    SurveyError::from(FormatError(what)).to_string()
}

// ---- files

#[test]
fn adjacent_sections_are_one_extent() {
    let section = |id: &str, block, len, flags| record(id.as_bytes(), block, len, flags, b"");
    let mut forge = Forge::new();
    let records = [
        section("ONE;1", 20, 4096, MULTI_EXTENT),
        section("ONE;1", 22, 100, 0),
        section("TWO;1", 20, 2048, MULTI_EXTENT),
        section("TWO;1", 22, 100, 0),
        section("LOST;1", 20, 2048, MULTI_EXTENT),
        section("OTHER;1", 22, 100, 0),
        section("END;1", 20, 2048, MULTI_EXTENT),
    ];
    forge.directory(ROOT, b"", &records);
    forge.put(22, 2047, b"!");
    let tree = forge.tree();
    assert_eq!(tree.names("/"), ["one", "two", "other"]);
    let extents = |path: &str| match &tree.0.index.node(tree.node(path)).kind {
        NodeKind::File { extents } => extents.iter().map(|e| (e.offset / BLOCK, e.len)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!((extents("/one"), extents("/two")), (vec![(20, 4196)], vec![(20, 2048), (22, 100)]));
    assert_eq!(tree.0.warnings.len(), 2);
    assert_eq!(tree.0.warnings[0], "/LOST;1: left out: the last extent of this file is missing");
}

#[test]
fn file_larger_than_the_image_is_left_out() {
    let section = |id: &str, flags| record(id.as_bytes(), 0, 23 * BLOCK as u32, flags, b"");
    let mut forge = Forge::new();
    forge.put(22, 2047, b"!");
    let all = [section("ALL;1", 0)];
    let twice = [section("TWICE;1", MULTI_EXTENT), section("TWICE;1", 0)];
    forge.directory(ROOT, b"", &[&all[..], &twice].concat());
    let tree = forge.tree();
    assert_eq!(tree.names("/"), ["all"]);
    assert_eq!(tree.warning(), "/twice: left out: it is larger than the image: its sections overlap");
}

#[test]
fn warnings_are_bounded() {
    let mut forge = Forge::new();
    let far: Vec<_> = (0..10_000).map(|n| file(&format!("F{n}"), u32::MAX, 1)).collect();
    forge.directory(ROOT, b"", &far);
    let warnings = forge.tree().0.warnings;
    assert_eq!((warnings.len(), warnings[32].as_str()), (33, "and 9968 more of these"));
}

// ---- boot records

/// Creates an image whose catalog has an EFI image of `sectors` sectors at block 22.
fn efi(sectors: u16) -> Forge {
    let mut forge = Forge::new();
    let terminator = forge.bytes[TERMINATOR as usize * 2048..][..2048].to_vec();
    forge.directory(19, b"", &[]);
    forge.put(TERMINATOR + 1, 0, &terminator);
    forge.put(TERMINATOR, 0, b"\0CD001\x01EL TORITO SPECIFICATION");
    forge.put(TERMINATOR, 71, &20_u32.to_le_bytes());
    forge.put(PRIMARY, 156 + 2, &19_u32.to_le_bytes());
    forge.put(20, 0, b"\x01\xef");
    forge.put(20, 28, b"\xaa\x66\x55\xaa"); // the words of the validation entry add up to 0
    forge.put(20, 32, &[0x88]);
    forge.put(20, 32 + 6, &sectors.to_le_bytes());
    forge.put(20, 32 + 8, &22_u32.to_le_bytes());
    forge.put(40, 0, b"the end");
    forge
}

fn efi_image(forge: &Forge) -> Option<u64> {
    let image = forge.tree().0.boot.efi_image?;
    assert_eq!(image.offset, 22 * BLOCK);
    Some(image.len)
}

#[test]
fn efi_image_length_is_found() {
    assert_eq!(efi_image(&efi(4)), Some(2048));
    let unknown = efi(1);
    assert_eq!(efi_image(&unknown), None, "1 stands for an unknown size");
    assert_eq!(unknown.tree().warning(), "El Torito: EFI image of unknown size at byte 45056");
    assert_eq!(efi_image(&efi(0xffff)), None, "behind the end");

    let mut as_file = efi(1);
    as_file.directory(19, b"", &[file("EFI.IMG;1", 22, 5000)]);
    as_file.put(PRIMARY, 156 + 2, &19_u32.to_le_bytes());
    assert_eq!(efi_image(&as_file), Some(5000));

    let mut as_partition = efi(4);
    let partition = [&[0, 0, 0, 0, 0xef, 0, 0, 0][..], &88_u32.to_le_bytes(), &40_u32.to_le_bytes()].concat();
    as_partition.put(0, 446, &partition);
    as_partition.put(0, 510, &[0x55, 0xaa]);
    assert_eq!(efi_image(&as_partition), Some(40 * 512));
}

#[test]
fn bad_boot_catalog_is_a_warning() {
    let mut forge = efi(4);
    forge.put(20, 0, &[9]);
    assert_eq!(forge.tree().warning(), "El Torito: the boot catalog has no valid validation entry");
    forge.put(TERMINATOR, 71, &u32::MAX.to_le_bytes());
    assert_eq!(forge.tree().warning(), "El Torito: the boot catalog is outside the image");
}

// ---- the whole image

#[test]
fn unusable_image_is_explained() {
    let fault = |forge: &Forge| forge.survey().expect_err("not usable").to_string();

    let mut forge = Forge::new();
    forge.put(PRIMARY, 128, &[0, 2]);
    assert!(fault(&forge).starts_with("unsupported logical blocks of 512 bytes"));

    let mut forge = Forge::new();
    forge.put(PRIMARY, 156 + 2, &u32::MAX.to_le_bytes());
    assert_eq!(fault(&forge), says("its root directory cannot be read"));

    let mut forge = Forge::new();
    forge.put(PRIMARY, 156, &[0]);
    assert!(fault(&forge).starts_with("damaged: "));

    let mut forge = Forge::new();
    forge.put(ROOT, 0, &file("NO-DIRECTORY", 0, 0));
    assert_eq!(fault(&forge), says("a directory does not begin with its own record"));

    let mut forge = Forge::new();
    forge.put(PRIMARY, 80, &20_u32.to_le_bytes());
    forge.directory(ROOT, b"", &[file("F", 19, 10)]);
    assert!(fault(&forge).starts_with("truncated: 38912 of 40960 bytes; "));
}

#[test]
fn missing_padding_is_accepted() {
    let mut forge = Forge::new();
    forge.put(PRIMARY, 80, &200_u32.to_le_bytes());
    assert!(forge.tree().warning().contains("its padding is cut off"));
}

#[test]
fn descriptor_set_is_bounded() {
    let mut forge = Forge::new();
    let set: Vec<u8> = forge.bytes[PRIMARY as usize * 2048..][..2048].to_vec();
    for block in PRIMARY..PRIMARY + 100 {
        forge.put(block, 0, &set);
    }
    assert!(forge.survey().is_err(), "the root directory is a descriptor now");
}

#[test]
fn memory_is_bounded_media() {
    let media: &[u8] = &[1, 2, 3, 4];
    let read = |offset, len| media.read(Extent { offset, len }).expect("no error");
    assert_eq!(read(1, 3), Some(vec![2, 3, 4]));
    assert_eq!(read(4, 0), Some(vec![]));
    assert_eq!(read(1, 4), None);
    assert_eq!(read(u64::MAX, 2), None);
    assert!(media.fill(&mut [0; 2], 3).is_err());
}
