//! Construction of the [`Index`]: a walk through the directories of an image, level by level.
//!
//! Nothing in an image is trusted. An error in one entry leaves out that entry with a warning; an
//! image that would exceed a limit of work or memory below ends the walk with an error.

use std::collections::{HashSet, VecDeque};
use std::fmt;

use super::entries::{IsoEntries, IsoEntry, IsoEntryError};
use super::index::{NodeAttributes, NodeError, NodeKind};
use super::iso9660::{self, BLOCK, DirectoryRecord, VolumeDescriptor};
use super::susp::{Continuation, RockRidge, SharingProtocol};
use super::warnings::{Warnings, printable};
use super::{Extent, FormatError, Index, Media, NodeId, SurveyError};
use crate::codec::Reader;

/// Most entries of a tree. An Arch ISO has some hundred.
const MAX_NODES: usize = 1 << 20;

/// Most levels of directories. ISO 9660 itself allows eight (ECMA-119 §6.8.2.1).
const MAX_DEPTH: u32 = 128;

/// Most bytes of a directory, which is read at once: over 400,000 entries.
const MAX_DIRECTORY: u64 = 64 << 20;

/// Most bytes of directories and continuation areas that are parsed for one image.
///
/// Directories may overlap, and records may share continuation areas, so a small image could cause
/// a lot of work. A valid image needs less than its size.
const MAX_WORK: u64 = 256 << 20;

/// Most bytes of directories and continuation areas that are parsed for each byte of the image.
const WORK_PER_BYTE: u64 = 4;

/// Work of a continuation area in addition to its bytes.
const AREA_COST: u64 = 64;

/// Most continuation areas of one record, as on Linux (`RR_MAX_CE_ENTRIES`).
const MAX_AREAS: usize = 32;

/// Most bytes of all names and symlink targets. Many entries can share one long text in the image,
/// but not in memory.
const MAX_TEXT: usize = 64 << 20;

// File type bits of a mode (POSIX `sys/stat.h`).
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Source of the names in a tree.
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

/// Result of the walk.
#[derive(Debug)]
pub(super) struct ImageTree {
    pub(super) index: Index,
    pub(super) names: Names,
    /// An entry was left out because its data is outside the image.
    pub(super) cut_off: bool,
}

impl ImageTree {
    /// Walks the tree with the best names that the image has.
    ///
    /// # Errors
    /// [`SurveyError`] if the root directory is missing or a limit is exceeded.
    pub(super) fn build<M: Media + ?Sized>(
        media: &M,
        primary: &VolumeDescriptor<'_>,
        joliet: Option<&VolumeDescriptor<'_>>,
        warnings: &mut Warnings,
    ) -> Result<Self, SurveyError> {
        let mut walk = Walk::new(media, warnings);
        let attributes = walk.root(&primary.root)?;
        // As on Linux: Rock Ridge in the primary tree, then Joliet, then the plain names.
        let root = match joliet {
            Some(joliet) if walk.names == Names::Plain => {
                walk.names = Names::Joliet;
                joliet.root
            }
            _ => primary.root,
        };
        walk.index = Index::new(attributes);
        walk.run(root)?;
        Ok(Self { index: walk.index, names: walk.names, cut_off: walk.cut_off })
    }
}

/// Directory that is in the tree, but not read yet.
struct PendingDirectory {
    id: NodeId,
    extent: Extent,
    depth: u32,
}

/// Error of an entry that cannot be in the tree, or of the whole tree.
#[derive(Debug, thiserror::Error)]
enum EntryError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Fatal(#[from] SurveyError),
}

impl From<std::io::Error> for EntryError {
    fn from(error: std::io::Error) -> Self {
        EntryError::Fatal(error.into())
    }
}

/// State of the walk.
struct Walk<'a, M: ?Sized> {
    media: &'a M,
    names: Names,
    /// Bytes to skip in every system use area.
    skip: usize,
    index: Index,
    pending: VecDeque<PendingDirectory>,
    /// First bytes of the directories in the tree: none is in it twice.
    seen: HashSet<u64>,
    /// Block of continuation areas that was read last. Writers put the areas of a directory side
    /// by side.
    area_block: Option<(u32, Vec<u8>)>,
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
            pending: VecDeque::new(),
            seen: HashSet::new(),
            area_block: None,
            work: 0,
            text: 0,
            cut_off: false,
            warnings,
        }
    }

    /// Reads the root's own record: returns its attributes, and sets the source of the names.
    fn root(&mut self, root: &DirectoryRecord<'_>) -> Result<NodeAttributes, SurveyError> {
        let missing = SurveyError::Damaged("its root directory cannot be read");
        // The copy of this record in the volume descriptor has no room for a system use area.
        let block = self.media.read(iso9660::extent_at(root.block, BLOCK))?.ok_or(missing)?;
        let record = own_record(&block)?;
        let rock = self.root_rock_ridge(&record)?;
        Ok(attributes(S_IFDIR, Some(&record), &rock))
    }

    /// Reads the Rock Ridge data of the root's own record; empty if the tree does not use it.
    fn root_rock_ridge(&mut self, record: &DirectoryRecord<'_>) -> Result<RockRidge, SurveyError> {
        let Some(susp) = SharingProtocol::find(record.system_use) else {
            return Ok(RockRidge::default());
        };
        // SUSP §5.3: the bytes to skip do not apply to the record that has the SP entry.
        self.skip = susp.begin;
        match self.rock_ridge(record.system_use) {
            Ok(rock) if rock.present => {
                (self.names, self.skip) = (Names::RockRidge, susp.skip);
                return Ok(rock);
            }
            Ok(_) => {}
            Err(EntryError::Fatal(error)) => return Err(error),
            Err(error) => self.warnings.add(|| format!("/: Rock Ridge names ignored: {error}")),
        }
        Ok(RockRidge::default())
    }

    /// Reads all directories, beginning with the root.
    fn run(&mut self, root: DirectoryRecord<'_>) -> Result<(), SurveyError> {
        let extent = iso9660::extent_at(root.block, root.len.into());
        let unusable = "its root directory is outside the image or larger than 64 MiB";
        self.check_directory(extent).map_err(|_| SurveyError::Damaged(unusable))?;
        self.seen.insert(extent.offset);
        self.pending.push_back(PendingDirectory { id: NodeId::ROOT, extent, depth: 0 });
        // Level by level: of two entries for one directory, the one nearer to the root gets it.
        while let Some(directory) = self.pending.pop_front() {
            self.read_directory(&directory)?;
        }
        Ok(())
    }

    /// Adds the entries of a directory.
    fn read_directory(&mut self, dir: &PendingDirectory) -> Result<(), SurveyError> {
        self.spend(dir.extent.len)?;
        // `check_directory` made sure that the extent is inside the image.
        let content = self.media.read(dir.extent)?.unwrap_or_default();
        for entry in IsoEntries::new(&content) {
            match entry {
                Ok(entry) if entry.record.is_self() || entry.record.is_parent() => {}
                // Another stream of the file of the same name; Linux hides it too.
                Ok(entry) if entry.record.is_associated() => {}
                Ok(entry) => self.add_entry(dir, entry)?,
                Err(IsoEntryError { id, error }) => self.leave_out(dir, id, error.into())?,
            }
        }
        Ok(())
    }

    /// Adds an entry under its name, or warns why it is left out.
    fn add_entry(&mut self, dir: &PendingDirectory, entry: IsoEntry<'_>) -> Result<(), SurveyError> {
        let record = entry.record;
        let rock = match self.names {
            Names::RockRidge => self.rock_ridge(record.system_use),
            Names::Joliet | Names::Plain => Ok(RockRidge::default()),
        };
        let mut rock = match rock {
            // RRIP §4.1.5.3: a relocated directory belongs where its CL entry is.
            Ok(rock) if rock.relocated => return Ok(()),
            Ok(rock) => rock,
            Err(error) => return self.leave_out(dir, record.id, error),
        };
        let name = rock.name.take().unwrap_or_else(|| match self.names {
            Names::Joliet => iso9660::joliet_name(record.id),
            Names::RockRidge | Names::Plain => iso9660::plain_name(record.id),
        });
        self.add(dir, &name, entry, rock).or_else(|error| self.leave_out(dir, &name, error))
    }

    /// Adds an entry as the type of node that it is.
    fn add(
        &mut self,
        dir: &PendingDirectory,
        name: &[u8],
        entry: IsoEntry<'_>,
        mut rock: RockRidge,
    ) -> Result<(), EntryError> {
        let record = entry.record;
        if let Some(block) = rock.child {
            return self.add_relocated(dir, name, block);
        }
        // ECMA-119 §9.1.6: the flag decides, since a mode of Rock Ridge could contradict it.
        if record.is_directory() {
            let extent = iso9660::extent_at(record.block, record.len.into());
            return self.add_directory(dir, name, extent, attributes(S_IFDIR, Some(&record), &rock));
        }
        let kind = self.other_kind(entry, &mut rock)?;
        if rock.compressed {
            self.warn(dir, name, &"compressed with zisofs; served as it is stored");
        }
        let type_bits = match kind {
            NodeKind::Symlink { .. } => S_IFLNK,
            NodeKind::Special => file_type(&rock),
            NodeKind::File { .. } | NodeKind::Directory { .. } => S_IFREG,
        };
        self.insert(dir.id, name, kind, attributes(type_bits, Some(&record), &rock))?;
        Ok(())
    }

    /// Returns the type of an entry that is not a directory.
    fn other_kind(&mut self, entry: IsoEntry<'_>, rock: &mut RockRidge) -> Result<NodeKind, EntryError> {
        let file_type = file_type(rock);
        // RRIP §4.1.3: only symlinks have SL, also where PX is missing.
        if file_type == S_IFLNK || file_type == 0 && rock.target.is_some() {
            let target = rock.target.take().filter(|target| !target.is_empty());
            let target = target.ok_or(FormatError("the symlink has no target"))?;
            return Ok(NodeKind::Symlink { target: target.into() });
        }
        if !matches!(file_type, 0 | S_IFREG | S_IFDIR) {
            return Ok(NodeKind::Special);
        }
        // ECMA-119 §6.4.3: the content is not contiguous. Linux shows such a file as empty
        // (`isofs_read_inode`).
        if entry.record.unit != 0 {
            return Err(FormatError("interleaved files are not supported").into());
        }
        if entry.extents.iter().any(|extent| extent.end() > self.media.size()) {
            self.cut_off = true;
            return Err(FormatError("its content is outside the image").into());
        }
        // Many sections that overlap could make terabytes of a small image, which nobody reads to
        // their end.
        let size = entry.extents.iter().map(|extent| extent.len).fold(0, u64::saturating_add);
        if size > self.media.size() {
            return Err(FormatError("it is larger than the image: its sections overlap").into());
        }
        Ok(NodeKind::File { extents: entry.extents })
    }

    /// Adds the relocated directory at `block`, to which a CL entry points (RRIP §4.1.5.1).
    fn add_relocated(&mut self, dir: &PendingDirectory, name: &[u8], block: u32) -> Result<(), EntryError> {
        self.spend(BLOCK)?;
        let Some(bytes) = self.media.read(iso9660::extent_at(block, BLOCK))? else {
            self.cut_off = true;
            return Err(FormatError("it is outside the image").into());
        };
        // CL has only the block: length and attributes are in the directory's own first record.
        let record = own_record(&bytes)?;
        let rock = self.rock_ridge(record.system_use)?;
        let extent = iso9660::extent_at(block, record.len.into());
        self.add_directory(dir, name, extent, attributes(S_IFDIR, Some(&record), &rock))
    }

    /// Adds a directory whose entries are read later.
    fn add_directory(
        &mut self,
        dir: &PendingDirectory,
        name: &[u8],
        extent: Extent,
        attributes: NodeAttributes,
    ) -> Result<(), EntryError> {
        self.check_directory(extent)?;
        let depth = dir.depth + 1;
        if depth > MAX_DEPTH {
            return Err(FormatError("directories are nested too deeply").into());
        }
        // A directory below itself would make the tree endless.
        if self.seen.contains(&extent.offset) {
            return Err(FormatError("this directory is already in the tree").into());
        }
        let id = self.insert(dir.id, name, NodeKind::Directory { entries: Vec::new() }, attributes)?;
        // Not before: an entry with a bad name leaves the directory to an entry with a good one.
        self.seen.insert(extent.offset);
        self.pending.push_back(PendingDirectory { id, extent, depth });
        Ok(())
    }

    /// Checks that a directory is inside the image and not too large to be read at once.
    fn check_directory(&mut self, extent: Extent) -> Result<(), FormatError> {
        if extent.end() > self.media.size() {
            self.cut_off = true;
            return Err(FormatError("it is outside the image"));
        }
        if extent.len > MAX_DIRECTORY {
            return Err(FormatError("the directory is larger than 64 MiB"));
        }
        Ok(())
    }

    /// Inserts a node into the index, within the limits of the tree.
    fn insert(
        &mut self,
        dir: NodeId,
        name: &[u8],
        kind: NodeKind,
        attributes: NodeAttributes,
    ) -> Result<NodeId, EntryError> {
        // Counted before the index copies them.
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

    /// Reads the Rock Ridge data in the system use area of a record and its continuation areas.
    fn rock_ridge(&mut self, system_use: &[u8]) -> Result<RockRidge, EntryError> {
        let mut rock = RockRidge::default();
        let mut area = Reader::new(system_use);
        // An area shorter than the bytes to skip has no entries.
        if area.skip(self.skip).is_err() {
            return Ok(rock);
        }
        let mut next = rock.absorb(area.rest())?;
        // A continuation area can continue in itself, so their number is bounded.
        for _ in 0..MAX_AREAS {
            let Some(continuation) = next else { return Ok(rock) };
            next = rock.absorb(self.area(continuation)?)?;
        }
        match next {
            Some(_) => Err(FormatError("it has more than 32 continuation areas").into()),
            None => Ok(rock),
        }
    }

    /// Reads a continuation area.
    fn area(&mut self, at: Continuation) -> Result<&[u8], EntryError> {
        // Areas can be tiny and many, so each costs more than its bytes.
        self.spend(AREA_COST + at.len as u64)?;
        if self.area_block.as_ref().is_none_or(|(block, _)| *block != at.block) {
            self.spend(BLOCK)?;
            let block = self.media.read(iso9660::extent_at(at.block, BLOCK))?;
            let block = block.ok_or(FormatError("its continuation area is outside the image"))?;
            self.area_block = Some((at.block, block));
        }
        let mut area = Reader::new(self.area_block.as_ref().map_or(&[], |(_, block)| block));
        area.skip(at.offset).map_err(FormatError::from)?;
        Ok(area.take(at.len).map_err(FormatError::from)?)
    }

    /// Counts work against the limit.
    fn spend(&mut self, bytes: u64) -> Result<(), SurveyError> {
        self.work += bytes;
        if self.work > MAX_WORK.min(self.media.size().saturating_mul(WORK_PER_BYTE)) {
            return Err(SurveyError::Damaged("its directories overlap or take more than 256 MiB"));
        }
        Ok(())
    }

    /// Warns about an entry that is left out; an error of the whole image is returned.
    fn leave_out(
        &mut self,
        dir: &PendingDirectory,
        name: &[u8],
        error: EntryError,
    ) -> Result<(), SurveyError> {
        match error {
            EntryError::Fatal(error) => Err(error),
            error => {
                self.warn(dir, name, &format_args!("left out: {error}"));
                Ok(())
            }
        }
    }

    /// Adds a warning about an entry of a directory.
    fn warn(&mut self, dir: &PendingDirectory, name: &[u8], what: &dyn fmt::Display) {
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

/// Parses the record that a directory has of itself, its first one (ECMA-119 §6.8.2.2).
fn own_record(block: &[u8]) -> Result<DirectoryRecord<'_>, FormatError> {
    let record = DirectoryRecord::parse(&mut Reader::new(block))?;
    if record.is_self() {
        Ok(record)
    } else {
        Err(FormatError("a directory does not begin with its own record"))
    }
}

/// Returns the file type bits of the Rock Ridge mode; 0 without a mode.
fn file_type(rock: &RockRidge) -> u32 {
    rock.posix.map_or(0, |posix| posix.mode & S_IFMT)
}

/// Returns the attributes of Rock Ridge. The defaults are those of Linux: readable by everybody,
/// owned by root, modified at the date of the record.
fn attributes(file_type: u32, record: Option<&DirectoryRecord<'_>>, rock: &RockRidge) -> NodeAttributes {
    // Linux (`isofs_read_inode`) makes plain files executable as well.
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
        // Linux refuses a file with no links from an NFS server (`nfs_fhget`).
        nlink: rock.posix.map_or(1, |posix| posix.nlink.max(1)),
        mtime: date.map_or(0, |date| date.as_second()),
    }
}
