//! A small image with the layout of mkarchiso, for checks without an ISO. Pure.
//!
//! It follows the standards, independent of our reader, which is tested on it: ISO 9660 (ECMA-119),
//! SUSP 1.12, Rock Ridge (RRIP 1.12). Only Rock Ridge has the file names; ISO 9660's are numbers.

#![expect(clippy::indexing_slicing, reason = "all it writes is its own; a slip fails its test")]

use bytes::BufMut;
use sha2::{Digest, Sha512};

/// Bytes of a logical block and of a logical sector (ECMA-119 §6.2).
const BLOCK: usize = 2048;

/// Positions in blocks. Each path table and the continuation area has one block.
const DESCRIPTOR: u32 = 16;
const PATH_TABLES: [u32; 2] = [18, 19];
const CONTINUATIONS: u32 = 20;
const DIRECTORIES: u32 = 21;

/// 2026-01-01 00:00 UTC in a volume descriptor (ECMA-119 §8.4.26.1) and a directory record
/// (§9.1.5).
const LONG_DATE: &[u8; 17] = b"2026010100000000\0";
const SHORT_DATE: [u8; 7] = [126, 1, 1, 0, 0, 0, 0];

/// Directory flag of a directory record (ECMA-119 §9.1.6).
const DIRECTORY: u8 = 0x02;

/// The longest directory record: its length is a byte, and even.
const RECORD_MAX: usize = 254;

/// Returns the image; its bytes are always the same.
pub fn image() -> Vec<u8> {
    let mut tree = SampleTree::default();
    let mut root_image = noise(1, 3_212_345);
    // squashfs_fs.h: the magic number. Only its checksum is read, so noise will do for the rest.
    root_image.splice(..4, *b"hsqs");
    let digits: String = Sha512::digest(&root_image).iter().map(|byte| format!("{byte:02x}")).collect();
    tree.file("arch/x86_64/airootfs.sfs", root_image);
    tree.file("arch/x86_64/airootfs.sha512", format!("{digits}  airootfs.sfs\n").into_bytes());
    tree.file("arch/boot/x86_64/vmlinuz-linux", noise(2, 700_001));
    tree.file("arch/boot/x86_64/initramfs-linux.img", noise(3, 900_000));
    // mkarchiso names this file after the modification date of the volume.
    tree.file("boot/2026-01-01-00-00-00-00.uuid", Vec::new());
    tree.file("boot/syslinux/lpxelinux.0", noise(4, 75_072));
    tree.file("boot/syslinux/ldlinux.c32", noise(5, 10 * 1428));
    // Names and sizes that servers get wrong: block boundaries, the longest name, UTF-8, deep
    // paths.
    for size in [1, BLOCK - 1, BLOCK, BLOCK + 1] {
        tree.file(&format!("odd/{size} bytes"), noise(6, size));
    }
    tree.file(&format!("odd/{}", "n".repeat(255)), noise(7, 255));
    tree.file("odd/\u{17e}lu\u{165}ou\u{10d}k\u{fd}", noise(8, 99));
    tree.file("odd/1/2/3/4/5/6/7/8/9/10/11/deep", noise(9, 4321));
    tree.symlink("odd/link", "../arch/./boot/x86_64/vmlinuz-linux");
    tree.write()
}

/// Returns incompressible bytes (xorshift).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ seed;
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// An entry of the tree; the first one is the root.
struct SampleEntry {
    name: String,
    content: SampleContent,
    /// Block and bytes of the content.
    block: u32,
    len: u32,
}

enum SampleContent {
    /// Entries by their numbers.
    Directory(Vec<usize>),
    File(Vec<u8>),
    Symlink(String),
}

struct SampleTree(Vec<SampleEntry>);

impl Default for SampleTree {
    fn default() -> Self {
        Self(vec![SampleEntry::new("", SampleContent::Directory(Vec::new()))])
    }
}

impl SampleEntry {
    fn new(name: &str, content: SampleContent) -> Self {
        let len = if let SampleContent::File(bytes) = &content { bytes.len() } else { 0 };
        Self { name: name.to_owned(), content, block: 0, len: len as u32 }
    }

    fn entries(&self) -> &[usize] {
        if let SampleContent::Directory(entries) = &self.content { entries } else { &[] }
    }

    const fn is_directory(&self) -> bool {
        matches!(self.content, SampleContent::Directory(_))
    }
}

impl SampleTree {
    fn file(&mut self, path: &str, content: Vec<u8>) {
        self.add(path, SampleContent::File(content));
    }

    fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, SampleContent::Symlink(target.to_owned()));
    }

    /// Adds an entry, and the directories that lead to it.
    fn add(&mut self, path: &str, content: SampleContent) {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = parents.split('/').fold(0, |at, name| self.directory(at, name));
        self.insert(parent, SampleEntry::new(name, content));
    }

    fn directory(&mut self, parent: usize, name: &str) -> usize {
        let existing = self.0[parent].entries().iter().find(|&&entry| self.0[entry].name == name).copied();
        existing.unwrap_or_else(|| {
            self.insert(parent, SampleEntry::new(name, SampleContent::Directory(Vec::new())))
        })
    }

    fn insert(&mut self, parent: usize, entry: SampleEntry) -> usize {
        let number = self.0.len();
        self.0.push(entry);
        if let SampleContent::Directory(entries) = &mut self.0[parent].content {
            entries.push(number);
        }
        number
    }

    fn write(mut self) -> Vec<u8> {
        // Places first: descriptor, path tables and records contain the block numbers.
        let directories = self.directories();
        let blocks = self.place(&directories);
        let mut image = vec![0; blocks as usize * BLOCK];
        let path_table = self.path_table(&directories, u32::to_le_bytes, u16::to_le_bytes);
        put(&mut image, DESCRIPTOR, &self.descriptor(blocks, path_table.len() as u32));
        // Volume descriptor set terminator (ECMA-119 §8.3).
        put(&mut image, DESCRIPTOR + 1, b"\xffCD001\x01");
        put(&mut image, PATH_TABLES[0], &path_table);
        put(&mut image, PATH_TABLES[1], &self.path_table(&directories, u32::to_be_bytes, u16::to_be_bytes));
        // Directories come before the area, whose content they produce.
        let mut continuations = Vec::new();
        for &(directory, parent) in &directories {
            put(&mut image, self.0[directory].block, &self.records(directory, parent, &mut continuations));
        }
        put(&mut image, CONTINUATIONS, &continuations);
        for entry in &self.0 {
            if let SampleContent::File(bytes) = &entry.content {
                put(&mut image, entry.block, bytes);
            }
        }
        image
    }

    /// Returns all directories with their parents, level by level, the order of a path table
    /// (ECMA-119 §6.9.1).
    fn directories(&self) -> Vec<(usize, usize)> {
        let mut directories = vec![(0, 0)];
        let mut done = 0;
        while let Some(&(directory, _)) = directories.get(done) {
            let inner = self.0[directory].entries().iter().filter(|&&entry| self.0[entry].is_directory());
            directories.extend(inner.map(|&entry| (entry, directory)));
            done += 1;
        }
        directories
    }

    /// Assigns blocks to directories and files; returns the number of blocks of the image.
    fn place(&mut self, directories: &[(usize, usize)]) -> u32 {
        for &(directory, parent) in directories {
            // The length of a record does not depend on the block numbers in it.
            self.0[directory].len = self.records(directory, parent, &mut Vec::new()).len() as u32;
        }
        let files =
            (0..self.0.len()).filter(|&entry| matches!(self.0[entry].content, SampleContent::File(_)));
        let order: Vec<_> = directories.iter().map(|&(directory, _)| directory).chain(files).collect();
        order.into_iter().fold(DIRECTORIES, |block, entry| {
            self.0[entry].block = block;
            block + self.0[entry].len.div_ceil(BLOCK as u32)
        })
    }

    /// Encodes the primary volume descriptor (ECMA-119 §8.4).
    fn descriptor(&self, blocks: u32, path_table_len: u32) -> Vec<u8> {
        let mut out = b"\x01CD001\x01\0".to_vec();
        out.put_slice(&padded::<32>(""));
        out.put_slice(&padded::<32>("ISOWIRE_SAMPLE"));
        out.put_bytes(0, 8);
        put_both_u32(&mut out, blocks);
        out.put_bytes(0, 32);
        // ECMA-119 §8.4.12 to §8.4.14: a set of one volume, its number, the block size.
        [1, 1, BLOCK as u16].into_iter().for_each(|number| put_both_u16(&mut out, number));
        put_both_u32(&mut out, path_table_len);
        out.put_slice(&[PATH_TABLES[0].to_le_bytes(), [0; 4]].concat());
        out.put_slice(&[PATH_TABLES[1].to_be_bytes(), [0; 4]].concat());
        out.put_slice(&self.record(b"\0", &self.0[0], &[]));
        out.put_slice(&padded::<128>(""));
        ["", "ISOWIRE", "ISOWIRE"].into_iter().for_each(|text| out.put_slice(&padded::<128>(text)));
        out.put_slice(&padded::<{ 3 * 37 }>(""));
        out.put_slice(LONG_DATE);
        out.put_slice(LONG_DATE);
        // ECMA-119 §8.4.28, §8.4.29: no expiration and no effective date.
        out.put_slice(&[[b'0'; 16].as_slice(), &[0]].concat().repeat(2));
        out.put_u8(1);
        out
    }

    /// Encodes a path table (ECMA-119 §9.4) in either byte order.
    fn path_table(
        &self,
        directories: &[(usize, usize)],
        u32_bytes: fn(u32) -> [u8; 4],
        u16_bytes: fn(u16) -> [u8; 2],
    ) -> Vec<u8> {
        let mut out = Vec::new();
        for &(directory, parent) in directories {
            let id = self.identifier(directory, parent);
            out.put_slice(&[id.len() as u8, 0]);
            out.put_slice(&u32_bytes(self.0[directory].block));
            // ECMA-119 §9.4: directories are numbered from 1, in the order of the table.
            let number = directories.iter().position(|&(directory, _)| directory == parent);
            out.put_slice(&u16_bytes(number.unwrap_or_default() as u16 + 1));
            out.put_slice(&id);
            // The padding keeps records at even offsets.
            out.put_bytes(0, id.len() % 2);
        }
        out
    }

    /// Returns the identifier of an entry: its number, as records are sorted by it (ECMA-119 §9.3).
    fn identifier(&self, entry: usize, parent: usize) -> Vec<u8> {
        let Some(position) = self.0[parent].entries().iter().position(|&other| other == entry) else {
            // The root, which is its own parent, has the identifier of the entry for itself.
            return vec![0];
        };
        let ending = if self.0[entry].is_directory() { "" } else { ".;1" };
        format!("{position:08}{ending}").into_bytes()
    }

    /// Returns the records of a directory (ECMA-119 §6.8.1) in whole blocks. Entries that do not
    /// fit go to `continuations`.
    fn records(&self, directory: usize, parent: usize, continuations: &mut Vec<u8>) -> Vec<u8> {
        let (own, above) = (&self.0[directory], &self.0[parent]);
        let announcement = if directory == 0 { announcement() } else { Vec::new() };
        let mut records = vec![
            self.record(b"\0", own, &[announcement, self.attributes(own)].concat()),
            self.record(b"\x01", above, &self.attributes(above)),
        ];
        for &entry in own.entries() {
            let (id, entry) = (self.identifier(entry, directory), &self.0[entry]);
            let room = RECORD_MAX - self.record(&id, entry, &[]).len();
            let system_use = fitted(&self.attributes(entry), &names(entry), room, continuations);
            records.push(self.record(&id, entry, &system_use));
        }
        let mut out = Vec::new();
        for record in records {
            // ECMA-119 §6.8.1.1: a record ends in the sector where it begins.
            if out.len() % BLOCK + record.len() > BLOCK {
                out.resize(out.len().next_multiple_of(BLOCK), 0);
            }
            out.extend(record);
        }
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    /// Encodes a directory record (ECMA-119 §9.1).
    fn record(&self, id: &[u8], entry: &SampleEntry, system_use: &[u8]) -> Vec<u8> {
        // The length is known at the end; there is no extended attribute record.
        let mut out = vec![0, 0];
        put_both_u32(&mut out, entry.block);
        put_both_u32(&mut out, entry.len);
        out.put_slice(&SHORT_DATE);
        out.put_slice(&[if entry.is_directory() { DIRECTORY } else { 0 }, 0, 0]);
        put_both_u16(&mut out, 1);
        out.put_u8(id.len() as u8);
        out.put_slice(id);
        out.put_bytes(0, out.len() % 2);
        out.put_slice(system_use);
        out.put_bytes(0, out.len() % 2);
        out[0] = out.len() as u8;
        out
    }

    /// Returns PX (RRIP §4.1.1; all readers know the form without a serial number) and TF with a
    /// modification time.
    fn attributes(&self, entry: &SampleEntry) -> Vec<u8> {
        let subdirectories = entry.entries().iter().filter(|&&inner| self.0[inner].is_directory()).count();
        let (mode, links) = match entry.content {
            SampleContent::Directory(_) => (0o040_555, 2 + subdirectories as u32),
            SampleContent::File(_) => (0o100_444, 1),
            SampleContent::Symlink(_) => (0o120_777, 1),
        };
        let mut posix = Vec::new();
        [mode, links, 0, 0].into_iter().for_each(|number| put_both_u32(&mut posix, number));
        [system_use_entry(b"PX", &posix), system_use_entry(b"TF", &[&[0x02][..], &SHORT_DATE].concat())]
            .concat()
    }
}

/// Writes `bytes` to the start of a block.
fn put(image: &mut [u8], block: u32, bytes: &[u8]) {
    image[block as usize * BLOCK..][..bytes.len()].copy_from_slice(bytes);
}

/// Returns NM (RRIP §4.1.4) in two parts, as a name of 255 bytes does not fit into one entry, and
/// SL (§4.1.3) of a symlink.
fn names(entry: &SampleEntry) -> Vec<Vec<u8>> {
    let (first, second) = entry.name.as_bytes().split_at(entry.name.len().min(100));
    let goes_on = u8::from(!second.is_empty());
    let mut entries = vec![system_use_entry(b"NM", &[&[goes_on], first].concat())];
    if !second.is_empty() {
        entries.push(system_use_entry(b"NM", &[&[0], second].concat()));
    }
    if let SampleContent::Symlink(target) = &entry.content {
        let components: Vec<u8> = target.split('/').flat_map(component).collect();
        entries.push(system_use_entry(b"SL", &[&[0], &components[..]].concat()));
    }
    entries
}

/// Encodes a component of a symlink's target (RRIP §4.1.3.1): flags, length, text.
fn component(name: &str) -> Vec<u8> {
    match name {
        // CURRENT and PARENT have no text.
        "." => vec![0x02, 0],
        ".." => vec![0x04, 0],
        name => [&[0, name.len() as u8], name.as_bytes()].concat(),
    }
}

/// Returns SP (SUSP §5.3) and ER (§5.5), which announce Rock Ridge.
fn announcement() -> Vec<u8> {
    const ID: &[u8] = b"RRIP_1991A";
    let extension = [&[ID.len() as u8, 0, 0, 1], ID].concat();
    [system_use_entry(b"SP", &[0xbe, 0xef, 0]), system_use_entry(b"ER", &extension)].concat()
}

/// Returns `start` and the `entries` that fit into `room` bytes. The other entries are appended to
/// `continuations`, and CE (SUSP §5.1) points to them.
fn fitted(start: &[u8], entries: &[Vec<u8>], room: usize, continuations: &mut Vec<u8>) -> Vec<u8> {
    const POINTER: usize = 28;
    let mut out = start.to_vec();
    if out.len() + entries.concat().len() <= room {
        return [out, entries.concat()].concat();
    }
    let mut rest = entries;
    while let Some((entry, behind)) =
        rest.split_first().filter(|(entry, _)| out.len() + entry.len() + POINTER <= room)
    {
        out.extend(entry);
        rest = behind;
    }
    let rest = rest.concat();
    let mut pointer = Vec::new();
    let place = [CONTINUATIONS, continuations.len() as u32, rest.len() as u32];
    place.into_iter().for_each(|number| put_both_u32(&mut pointer, number));
    continuations.extend(rest);
    [out, system_use_entry(b"CE", &pointer)].concat()
}

/// Encodes a system use entry (SUSP §4): signature, length, version, data.
fn system_use_entry(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
    [&signature[..], &[data.len() as u8 + 4, 1], data].concat()
}

/// Pads `text` with spaces (ECMA-119 §7.4.3.2).
fn padded<const LEN: usize>(text: &str) -> [u8; LEN] {
    let mut field = [b' '; LEN];
    field.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    field
}

/// Appends a number in both byte orders (ECMA-119 §7.2.3, §7.3.3).
fn put_both_u16(out: &mut Vec<u8>, number: u16) {
    out.put_u16_le(number);
    out.put_u16(number);
}

fn put_both_u32(out: &mut Vec<u8>, number: u32) {
    out.put_u32_le(number);
    out.put_u32(number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::arch::AirootfsFormat;
    use crate::image::tree::Names;
    use crate::image::{NodeKind, Survey};

    #[test]
    fn sample_is_read_without_warnings() {
        let image = image();
        let survey = Survey::of(&image[..]).unwrap();
        assert!(survey.warnings.is_empty(), "{:?}", survey.warnings);
        assert_eq!(survey.volume.names, Names::RockRidge);
        assert_eq!(survey.volume.size, image.len() as u64);
        let archiso = survey.archiso.expect("laid out as archiso does it");
        assert_eq!((archiso.kernels.len(), archiso.airootfs[0].format), (1, AirootfsFormat::Squashfs));
        assert!(archiso.uuid_file.is_some() && archiso.lpxelinux.is_some());
        let index = &survey.index;
        let kernel = index.resolve(crate::image::NodeId::ROOT, b"odd/link").expect("a link to the kernel");
        let NodeKind::File { extents } = &index.node(kernel).kind else { panic!("a file") };
        let (offset, len) = (extents[0].offset as usize, extents[0].len as usize);
        assert!(image[offset..][..len] == noise(2, 700_001));
        let lengths: Vec<_> = index.walk().map(|id| index.node(id).name.len()).collect();
        assert!(lengths.contains(&255));
        assert_eq!(index.len(), 34, "the root and what was added");
    }

    #[test]
    fn sample_is_deterministic() {
        assert!(image() == image());
    }
}
