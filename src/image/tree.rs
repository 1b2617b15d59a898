//! Builds the [`Index`]: walks the directories of an image from the root down, level by level.
//!
//! An image may lie about everything. What is wrong with one entry costs that entry and a warning; what would make the
//! work or the memory grow beyond the limits below ends the walk with an error.

use std::collections::{HashSet, VecDeque};
use std::fmt;

use super::entries::{IsoEntries, IsoEntry, IsoEntryError};
use super::index::{NodeAttributes, NodeError, NodeKind};
use super::iso9660::{self, BLOCK, DirectoryRecord, VolumeDescriptor};
use super::susp::{self, Continuation, RockRidge};
use super::warnings::{Warnings, printable};
use super::{Extent, FormatError, Index, Media, NodeId, SurveyError};
use crate::codec::Reader;

/// Entries of a tree. An Arch ISO has some hundred.
const MAX_NODES: usize = 1 << 20;

/// Levels of directories. ISO 9660 itself allows eight.
const MAX_DEPTH: u32 = 128;

/// Bytes of one directory, read at once: over 400,000 entries.
const MAX_DIRECTORY: u64 = 64 << 20;

/// Bytes of directories and continuation areas parsed for one image, and how many of them for each byte of the image.
/// Directories may overlap and records share continuation areas: only this keeps a small image from asking for a lot
/// of work. An honest image needs less than its size.
const MAX_WORK: u64 = 256 << 20;
const WORK_PER_BYTE: u64 = 4;

/// Work that even an empty continuation area counts for.
const AREA_COST: u64 = 64;

/// Continuation areas of one record, as on Linux (`RR_MAX_CE_ENTRIES`).
const MAX_AREAS: usize = 32;

/// Bytes of all names and symlink targets: many entries can share one long text in the image, but not in memory.
const MAX_TEXT: usize = 64 << 20;

/// File type bits of a mode (POSIX `sys/stat.h`).
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Where the names of a tree come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    RockRidge,
    Joliet,
    #[default]
    Plain,
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Names::RockRidge => "Rock Ridge",
            Names::Joliet => "Joliet",
            Names::Plain => "ISO 9660",
        })
    }
}

/// What came of the walk.
#[derive(Debug)]
pub struct Tree {
    pub index: Index,
    pub names: Names,
    /// Some entry was left out because its data lies behind the end of the image.
    pub cut_off: bool,
}

impl Tree {
    /// Walks the best tree of the image: Rock Ridge if the primary one speaks it, else Joliet, else plain names. Linux
    /// chooses alike.
    ///
    /// # Errors
    /// [`SurveyError`] when there is no root directory or a limit is met.
    pub fn build<M: Media + ?Sized>(
        media: &M,
        primary: &VolumeDescriptor<'_>,
        joliet: Option<&VolumeDescriptor<'_>>,
        warnings: &mut Warnings,
    ) -> Result<Self, SurveyError> {
        let mut walk = Walk::new(media, warnings);
        let attributes = walk.root(&primary.root)?;
        let root = match joliet {
            Some(joliet) if walk.names == Names::Plain => {
                walk.names = Names::Joliet;
                joliet.root
            }
            _ => primary.root,
        };
        walk.index = Index::new(attributes);
        walk.go(root)?;
        Ok(Self { index: walk.index, names: walk.names, cut_off: walk.cut_off })
    }
}

/// A directory still to be read.
struct Directory {
    id: NodeId,
    extent: Extent,
    depth: u32,
}

/// Why an entry is not in the tree, or why there is no tree.
#[derive(Debug, thiserror::Error)]
enum Flaw {
    #[error(transparent)]
    FormatError(#[from] FormatError),
    #[error(transparent)]
    NodeError(#[from] NodeError),
    #[error(transparent)]
    Fatal(#[from] SurveyError),
}

impl From<std::io::Error> for Flaw {
    fn from(error: std::io::Error) -> Self {
        Flaw::Fatal(error.into())
    }
}

/// The walk in progress.
struct Walk<'a, M: ?Sized> {
    media: &'a M,
    names: Names,
    /// Bytes to pass over in every system use area.
    skip: usize,
    index: Index,
    ahead: VecDeque<Directory>,
    /// First blocks of the directories in the tree: none is in it twice.
    seen: HashSet<u64>,
    /// The block of continuation areas read last. Writers put those of a directory side by side.
    areas: Option<(u32, Vec<u8>)>,
    /// Bytes parsed, up to [`MAX_WORK`].
    work: u64,
    /// Bytes of names and targets, up to [`MAX_TEXT`].
    text: usize,
    cut_off: bool,
    warnings: &'a mut Warnings,
}

impl<'a, M: Media + ?Sized> Walk<'a, M> {
    fn new(media: &'a M, warnings: &'a mut Warnings) -> Self {
        Self {
            media,
            names: Names::Plain,
            skip: 0,
            index: Index::new(attributes(S_IFDIR, None, &RockRidge::default())),
            ahead: VecDeque::new(),
            seen: HashSet::new(),
            areas: None,
            work: 0,
            text: 0,
            cut_off: false,
            warnings,
        }
    }

    /// Reads the root's own record: its attributes, and whether the tree speaks Rock Ridge.
    fn root(&mut self, root: &DirectoryRecord<'_>) -> Result<NodeAttributes, SurveyError> {
        let missing = SurveyError::Damaged("its root directory cannot be read");
        let block = self.media.read(iso9660::extent_at(root.block, BLOCK))?.ok_or(missing)?;
        let record = own_record(&block)?;
        let rock = self.introduction(&record)?;
        Ok(attributes(S_IFDIR, Some(&record), &rock))
    }

    /// What the root's own record says of the tree and of itself; nothing when that is not Rock Ridge.
    fn introduction(&mut self, record: &DirectoryRecord<'_>) -> Result<RockRidge, SurveyError> {
        let Some(sharing) = susp::sharing(record.system_use) else { return Ok(RockRidge::default()) };
        self.skip = sharing.begin;
        match self.rock_ridge(record.system_use) {
            Ok(rock) if rock.spoken => {
                (self.names, self.skip) = (Names::RockRidge, sharing.skip);
                return Ok(rock);
            }
            Ok(_) => {}
            Err(Flaw::Fatal(fault)) => return Err(fault),
            Err(flaw) => self.warnings.add(|| format!("/: names are not those of Rock Ridge: {flaw}")),
        }
        Ok(RockRidge::default())
    }

    fn go(&mut self, root: DirectoryRecord<'_>) -> Result<(), SurveyError> {
        let extent = iso9660::extent_at(root.block, root.len.into());
        let unusable = "its root directory lies behind the end of the image or is larger than 64 MiB";
        self.check_directory(extent).map_err(|_| SurveyError::Damaged(unusable))?;
        self.seen.insert(extent.offset);
        self.ahead.push_back(Directory { id: NodeId::ROOT, extent, depth: 0 });
        while let Some(directory) = self.ahead.pop_front() {
            self.directory(&directory)?;
        }
        Ok(())
    }

    fn directory(&mut self, dir: &Directory) -> Result<(), SurveyError> {
        self.spend(dir.extent.len)?;
        let content = self.media.read(dir.extent)?.unwrap_or_default();
        for entry in IsoEntries::new(&content) {
            match entry {
                Ok(entry) if entry.record.is_self() || entry.record.is_parent() => {}
                Ok(entry) if entry.record.is_associated() => {}
                Ok(entry) => self.entry(dir, entry)?,
                Err(IsoEntryError { id, error }) => self.leave_out(dir, id, error.into())?,
            }
        }
        Ok(())
    }

    /// Adds an entry, or says why not.
    fn entry(&mut self, dir: &Directory, entry: IsoEntry<'_>) -> Result<(), SurveyError> {
        let record = entry.record;
        let rock = match self.names {
            Names::RockRidge => self.rock_ridge(record.system_use),
            Names::Joliet | Names::Plain => Ok(RockRidge::default()),
        };
        let mut rock = match rock {
            // RRIP §4.1.5.3: a relocated directory is shown where its CL entry stands.
            Ok(rock) if rock.relocated => return Ok(()),
            Ok(rock) => rock,
            Err(flaw) => return self.leave_out(dir, record.id, flaw),
        };
        let name = rock.name.take().unwrap_or_else(|| match self.names {
            Names::Joliet => iso9660::joliet_name(record.id),
            Names::RockRidge | Names::Plain => iso9660::plain_name(record.id),
        });
        self.add(dir, &name, entry, rock).or_else(|flaw| self.leave_out(dir, &name, flaw))
    }

    fn add(
        &mut self,
        dir: &Directory,
        name: &[u8],
        entry: IsoEntry<'_>,
        mut rock: RockRidge,
    ) -> Result<(), Flaw> {
        let record = entry.record;
        if let Some(block) = rock.child {
            return self.add_relocated(dir, name, block);
        }
        if record.is_directory() {
            let extent = iso9660::extent_at(record.block, record.len.into());
            return self.add_directory(dir, name, extent, attributes(S_IFDIR, Some(&record), &rock));
        }
        let kind = self.file(entry, &mut rock)?;
        if rock.compressed {
            self.warn(dir, name, &"compressed with zisofs, and served as it is stored");
        }
        let type_bits = match kind {
            NodeKind::Symlink { .. } => S_IFLNK,
            NodeKind::Special => file_type(&rock),
            NodeKind::File { .. } | NodeKind::Directory { .. } => S_IFREG,
        };
        self.insert(dir.id, name, kind, attributes(type_bits, Some(&record), &rock))?;
        Ok(())
    }

    /// What an entry is that is no directory. Only the flag of its record makes a directory.
    fn file(&mut self, entry: IsoEntry<'_>, rock: &mut RockRidge) -> Result<NodeKind, Flaw> {
        let file_type = file_type(rock);
        if file_type == S_IFLNK || file_type == 0 && rock.target.is_some() {
            let target = rock.target.take().filter(|target| !target.is_empty());
            let target = target.ok_or(FormatError("it is a symlink without a target"))?;
            return Ok(NodeKind::Symlink { target: target.into() });
        }
        if !matches!(file_type, 0 | S_IFREG | S_IFDIR) {
            return Ok(NodeKind::Special);
        }
        // ECMA-119 §6.4.3; Linux does not read them either.
        if entry.record.unit != 0 {
            return Err(FormatError("interleaved files are not supported").into());
        }
        if entry.extents.iter().any(|extent| extent.end() > self.media.size()) {
            self.cut_off = true;
            return Err(FormatError("its content lies behind the end of the image").into());
        }
        Ok(NodeKind::File { extents: entry.extents })
    }

    /// RRIP §4.1.5.1: a directory that was moved up; its length and its attributes stand in its own first record.
    fn add_relocated(&mut self, dir: &Directory, name: &[u8], block: u32) -> Result<(), Flaw> {
        self.spend(BLOCK)?;
        let Some(bytes) = self.media.read(iso9660::extent_at(block, BLOCK))? else {
            self.cut_off = true;
            return Err(FormatError("it lies behind the end of the image").into());
        };
        let record = own_record(&bytes)?;
        let rock = self.rock_ridge(record.system_use)?;
        let extent = iso9660::extent_at(block, record.len.into());
        self.add_directory(dir, name, extent, attributes(S_IFDIR, Some(&record), &rock))
    }

    fn add_directory(
        &mut self,
        dir: &Directory,
        name: &[u8],
        extent: Extent,
        attributes: NodeAttributes,
    ) -> Result<(), Flaw> {
        self.check_directory(extent)?;
        let depth = dir.depth + 1;
        if depth > MAX_DEPTH {
            return Err(FormatError("directories are nested too deep").into());
        }
        if self.seen.contains(&extent.offset) {
            return Err(FormatError("this directory is in the tree already").into());
        }
        let id = self.insert(dir.id, name, NodeKind::Directory { entries: Vec::new() }, attributes)?;
        self.seen.insert(extent.offset);
        self.ahead.push_back(Directory { id, extent, depth });
        Ok(())
    }

    fn check_directory(&mut self, extent: Extent) -> Result<(), FormatError> {
        if extent.end() > self.media.size() {
            self.cut_off = true;
            return Err(FormatError("it lies behind the end of the image"));
        }
        if extent.len > MAX_DIRECTORY {
            return Err(FormatError("it is a directory of more than 64 MiB"));
        }
        Ok(())
    }

    fn insert(
        &mut self,
        dir: NodeId,
        name: &[u8],
        kind: NodeKind,
        attributes: NodeAttributes,
    ) -> Result<NodeId, Flaw> {
        self.text += name.len();
        if let NodeKind::Symlink { target } = &kind {
            self.text += target.len();
        }
        if self.text > MAX_TEXT {
            return Err(SurveyError::Damaged("its names take more than 64 MiB").into());
        }
        if self.index.len() == MAX_NODES {
            return Err(SurveyError::Damaged("it has more than 1,048,576 entries").into());
        }
        Ok(self.index.add(dir, name, kind, attributes)?)
    }

    /// What the system use area of a record and its continuation areas say.
    fn rock_ridge(&mut self, system_use: &[u8]) -> Result<RockRidge, Flaw> {
        let mut rock = RockRidge::default();
        let mut area = Reader::new(system_use);
        if area.skip(self.skip).is_err() {
            return Ok(rock);
        }
        let mut next = rock.absorb(area.rest())?;
        for _ in 0..MAX_AREAS {
            let Some(continuation) = next else { return Ok(rock) };
            next = rock.absorb(self.area(continuation)?)?;
        }
        match next {
            Some(_) => Err(FormatError("its continuation areas do not end").into()),
            None => Ok(rock),
        }
    }

    fn area(&mut self, at: Continuation) -> Result<&[u8], Flaw> {
        self.spend(AREA_COST + at.len as u64)?;
        if self.areas.as_ref().is_none_or(|(block, _)| *block != at.block) {
            self.spend(BLOCK)?;
            let block = self.media.read(iso9660::extent_at(at.block, BLOCK))?;
            let block = block.ok_or(FormatError("its continuation area lies behind the end of the image"))?;
            self.areas = Some((at.block, block));
        }
        let mut area = Reader::new(self.areas.as_ref().map_or(&[], |(_, block)| block));
        area.skip(at.offset).map_err(FormatError::from)?;
        Ok(area.take(at.len).map_err(FormatError::from)?)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), SurveyError> {
        self.work += bytes;
        if self.work > MAX_WORK.min(self.media.size().saturating_mul(WORK_PER_BYTE)) {
            return Err(SurveyError::Damaged("its directories overlap or take more than 256 MiB"));
        }
        Ok(())
    }

    /// What is wrong with an entry is worth a warning; what is wrong with the image ends the walk.
    fn leave_out(&mut self, dir: &Directory, name: &[u8], flaw: Flaw) -> Result<(), SurveyError> {
        match flaw {
            Flaw::Fatal(fault) => Err(fault),
            flaw => {
                self.warn(dir, name, &format_args!("left out: {flaw}"));
                Ok(())
            }
        }
    }

    fn warn(&mut self, dir: &Directory, name: &[u8], what: &dyn fmt::Display) {
        let index = &self.index;
        self.warnings.add(|| {
            let mut path = index.path(dir.id);
            if dir.id != NodeId::ROOT {
                path.push(b'/');
            }
            path.extend(name);
            format!("{}: {what}", printable(&path))
        });
    }
}

/// The record of a directory in itself: the first one (ECMA-119 §6.8.2.2).
fn own_record(block: &[u8]) -> Result<DirectoryRecord<'_>, FormatError> {
    let record = DirectoryRecord::parse(&mut Reader::new(block))?;
    if record.is_self() { Ok(record) } else { Err(FormatError("a directory does not begin with itself")) }
}

/// The type bits of the mode that Rock Ridge gives, if it gives one.
fn file_type(rock: &RockRidge) -> u32 {
    rock.posix.map_or(0, |posix| posix.mode & S_IFMT)
}

/// NodeAttributes from Rock Ridge, else those Linux gives: readable by everybody, owned by root, the record's date.
fn attributes(file_type: u32, record: Option<&DirectoryRecord<'_>>, rock: &RockRidge) -> NodeAttributes {
    let default = match file_type {
        S_IFDIR => 0o555,
        S_IFLNK => 0o777,
        _ => 0o444,
    };
    let date = rock.modified.or_else(|| record?.date.instant());
    NodeAttributes {
        mode: file_type | rock.posix.map_or(default, |posix| posix.mode & !S_IFMT & 0o7777),
        uid: rock.posix.map_or(0, |posix| posix.uid),
        gid: rock.posix.map_or(0, |posix| posix.gid),
        nlink: rock.posix.map_or(1, |posix| posix.nlink.max(1)),
        mtime: date.map_or(0, |date| date.as_second()),
    }
}
