//! Properties of the image's parsers.

use std::cell::Cell;
use std::io;

use crate::codec::Reader;
use crate::image::el_torito;
use crate::image::index::MAX_NAME;
use crate::image::initramfs::Contents;
use crate::image::iso9660::BLOCK;
use crate::image::partitions::{GptHeader, Mbr, Verdict};
use crate::image::rootfs::{self, Squashfs};
use crate::image::susp::{MAX_TARGET, RockRidge};
use crate::image::{Extent, Index, Media, NodeId, NodeKind, Survey};

/// Image of which the fuzzer writes two parts: the sectors of MBR and GPT header, and everything
/// from the first volume descriptor on. The rest is zeros.
struct FuzzedImage<'a> {
    tables: &'a [u8],
    volume: &'a [u8],
}

const TABLES: usize = 1024;
const VOLUME: u64 = 16 * BLOCK;

impl<'a> FuzzedImage<'a> {
    fn of(data: &'a [u8]) -> Self {
        let (tables, volume) = data.split_at(data.len().min(TABLES));
        Self { tables, volume }
    }
}

impl Media for FuzzedImage<'_> {
    fn size(&self) -> u64 {
        VOLUME + self.volume.len() as u64
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(offset + buf.len() as u64 <= self.size(), "only what was checked is read");
        let (part, offset) = match offset.checked_sub(VOLUME) {
            Some(offset) => (self.volume, offset),
            None => (self.tables, offset),
        };
        let rest = part.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        let (written, zeros) = buf.split_at_mut(len);
        written.copy_from_slice(rest.get(..len).unwrap_or_default());
        zeros.fill(0);
        Ok(())
    }
}

/// Checks that the survey of any image ends, and that its result has the properties on which the
/// protocols rely.
pub fn iso_image(data: &[u8]) {
    let image = FuzzedImage::of(data);
    let Ok(survey) = Survey::of(&image) else { return };
    survey.index.walk().for_each(|id| check_node(&survey.index, id, image.size()));
    assert_eq!(survey.index.walk().count(), survey.index.len(), "a tree: every node is met once");
    assert!(survey.boot.efi_image.iter().all(|extent| is_inside(extent, image.size())));
    // 32 lines, and one that counts the others.
    assert!(survey.warnings.len() <= 33);
    assert!(survey.warnings.iter().all(|line| !line.contains(char::is_control)));
    let uuid = survey.volume.uuid.unwrap_or_default();
    assert!(uuid.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
    let Some(archiso) = survey.archiso else { return };
    assert!(!archiso.airootfs.is_empty());
    let words = archiso.kernels.iter().flat_map(|kernel| [&kernel.arch, &kernel.name]);
    for word in words.chain([&archiso.install_dir]).chain(archiso.airootfs.iter().map(|root| &root.arch)) {
        assert!(word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b)), "{word:?}");
    }
}

/// Checks that a node is found by its name and by its path, and that its extents are inside the
/// image.
fn check_node(index: &Index, id: NodeId, size: u64) {
    let node = index.node(id);
    assert!(node.attributes.nlink > 0);
    match &node.kind {
        NodeKind::File { extents } => {
            assert!(extents.iter().all(|extent| is_inside(extent, size) && extent.len > 0));
        }
        NodeKind::Symlink { target } => {
            assert!((1..=MAX_TARGET).contains(&target.len()));
            let _ends = index.resolve(node.parent, target);
        }
        NodeKind::Directory { .. } | NodeKind::Special => {}
    }
    // The root has no name.
    if id == NodeId::ROOT {
        return;
    }
    assert!((1..=MAX_NAME).contains(&node.name.len()));
    assert_eq!(index.child(node.parent, &node.name), Some(id));
    assert!(index.child_ignoring_case(node.parent, &node.name.to_ascii_uppercase()).is_some());
    // The path of a symlink leads to its target.
    if !matches!(node.kind, NodeKind::Symlink { .. }) {
        assert_eq!(index.resolve(NodeId::ROOT, &index.path(id)), Some(id));
    }
}

/// Returns `true` if an extent is inside an image of `size` bytes.
fn is_inside(extent: &Extent, size: u64) -> bool {
    extent.offset.checked_add(extent.len).is_some_and(|end| end <= size)
}

/// Checks the limits of texts and continuations for system use areas, each after its length in
/// `data`; and that a padding entry (PD) before an area changes nothing.
pub fn susp(data: &[u8]) {
    let (mut plain, mut padded) = (RockRidge::default(), RockRidge::default());
    let mut areas = Reader::new(data);
    while let Ok(area) = areas.u8().and_then(|len| areas.take(len.into())) {
        let next = plain.absorb(area);
        assert_eq!(next, padded.absorb(&[b"PD\x06\x01\0\0", area].concat()));
        assert_eq!(format!("{plain:?}"), format!("{padded:?}"));
        let Ok(next) = next else { return };
        assert!(next.is_none_or(|next| next.offset + next.len <= BLOCK as usize));
        assert!(plain.name.as_ref().is_none_or(|name| name.len() <= MAX_NAME));
        assert!(plain.target.as_ref().is_none_or(|target| target.len() <= MAX_TARGET));
    }
}

/// Checks the numbers of catalog entries and partitions; and that a GPT header with a good checksum
/// loses it by any one bit.
pub fn el_torito_partitions(data: &[u8]) {
    assert!(el_torito::catalog(data).map_or(0, |entries| entries.len()) <= 64);
    let _block = el_torito::catalog_block(Reader::new(data));
    assert!(Mbr::parse(data).is_none_or(|mbr| mbr.partitions.len() <= 4));
    let Some(header) = GptHeader::parse(data) else { return };
    let array_len = header.array_len().unwrap_or(0);
    assert!(array_len <= 1 << 20);
    let array = data.get(512..);
    let cut = array.and_then(|array| array.get(..array_len));
    for array in [array, cut] {
        // No entry is shorter than 128 bytes.
        assert!(header.table(array, None).partitions.len() <= array_len / 128);
    }
    let gpt = header.table(cut, Some(&header));
    assert_eq!(gpt.header, gpt.backup);
    if header.checksum == Verdict::Good {
        let mut changed = data.to_vec();
        // A bit of the header's own sector number, which has no other effect.
        changed[24 + usize::from(data[24] % 8)] ^= 1;
        assert_eq!(GptHeader::parse(&changed).map(|header| header.checksum), Some(Verdict::Bad));
    }
}

/// Checks that an archive before an initramfs, where mkinitcpio puts microcode, changes neither the
/// requirements that are found nor the error.
pub fn cpio(data: &[u8]) {
    // With one part more, an initramfs of many parts would reach the limit of parts.
    if data.len() > 1 << 16 {
        return;
    }
    let (plain, behind) = (Contents::of(data), Contents::of(&[MICROCODE, data].concat()[..]));
    assert_eq!(plain.found, behind.found);
    let [plain, behind] = [plain, behind].map(|contents| contents.unread.map(|error| error.to_string()));
    assert_eq!(plain, behind);
}

/// Archive of nothing but its last entry.
const MICROCODE: &[u8] = b"070701\
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    0000000b00000000TRAILER!!!\0\0\0\0";

/// Path of the file that is read.
const STUB: &str = "usr/lib/stub";
/// Largest file that is read, in bytes.
const FILE_MAX: u64 = 64 << 10;
/// Most bytes of an image that may be read for it: 4096 metadata blocks, the file's blocks of 4 KiB
/// or the one of 1 MiB, and the block with its end.
const READ_MAX: u64 = 4096 * (8192 + 2) + (3 << 20);

/// Checks that a file of any image is read within the limits, and twice the same.
pub fn squashfs(data: &[u8]) {
    let media = Counted { bytes: data, read: Cell::new(0) };
    let Ok(squashfs) = Squashfs::open(&media) else { return };
    let first = squashfs.read_file(STUB, FILE_MAX).map_err(|error| error.to_string());
    assert!(media.read.get() <= READ_MAX, "{} bytes were read", media.read.get());
    assert!(first.as_ref().map_or(0, Vec::len) as u64 <= FILE_MAX);
    assert_eq!(first, squashfs.read_file(STUB, FILE_MAX).map_err(|error| error.to_string()));
}

/// Checks that a file of any image is read within the limit, and twice the same.
pub fn erofs(data: &[u8]) {
    let [first, second] =
        [(); 2].map(|()| rootfs::erofs::read_file(data, STUB, FILE_MAX).map_err(|error| error.to_string()));
    assert!(first.as_ref().map_or(0, Vec::len) as u64 <= FILE_MAX);
    assert_eq!(first, second);
}

/// Medium that counts the bytes that are read from it.
struct Counted<'a> {
    bytes: &'a [u8],
    read: Cell<u64>,
}

impl Media for Counted<'_> {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.set(self.read.get() + buf.len() as u64);
        self.bytes.fill(buf, offset)
    }
}
