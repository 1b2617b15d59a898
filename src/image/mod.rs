//! The image: one ISO file, opened once, indexed once, never copied.

pub mod arch;
pub(crate) mod boot_list;
pub(crate) mod boot_records;
pub(crate) mod checksum;
pub(crate) mod content;
pub(crate) mod el_torito;
mod entries;
mod error;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod file_state;
pub(crate) mod identity;
pub mod index;
pub mod initramfs;
pub(crate) mod iso9660;
pub(crate) mod partitions;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod readers;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod residency;
pub mod rootfs;
#[cfg(test)]
pub(crate) mod samples;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub(crate) mod source;
pub(crate) mod survey;
pub(crate) mod susp;
#[cfg(test)]
mod tests;
pub mod tree;
mod warnings;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

pub use crate::extent::Extent;
pub(crate) use arch::Archiso;
pub(crate) use boot_list::BootList;
pub(crate) use boot_records::BootRecords;
pub use error::{FormatError, OpenError, SurveyError};
pub use file_state::FileChangedError;
pub(crate) use identity::Identity;
pub use index::{Index, Node, NodeId, NodeKind};
use initramfs::SelfTests;
pub(crate) use readers::{CHECK_INTERVAL, FaultKind, ImageFault, Patience, ReadClient, ReadDone};
pub(crate) use source::STALL_TIMEOUT;
pub use source::Source;
pub(crate) use survey::{Survey, Volume};

use crate::store::StoredFile;

/// Medium that holds the bytes of an image: the open file, or memory in a test.
pub trait Media {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Reads from `offset` until `buf` is full.
    ///
    /// # Errors
    /// The error of the medium; `UnexpectedEof` past its end.
    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns the bytes of `extent`; `None` if it is not inside the medium. The caller limits its
    /// length.
    ///
    /// # Errors
    /// The error of [`Media::fill`].
    fn read(&self, extent: Extent) -> io::Result<Option<Vec<u8>>> {
        // Checked before the allocation: a length comes from the image, and may be anything.
        let Some(len) = usize::try_from(extent.len).ok().filter(|_| extent.end() <= self.size()) else {
            return Ok(None);
        };
        let mut bytes = vec![0; len];
        self.fill(&mut bytes, extent.offset)?;
        Ok(Some(bytes))
    }
}

impl Media for Source {
    fn size(&self) -> u64 {
        self.len()
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buf, offset)
    }
}

impl Media for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // As a file: past the end is an error, not a panic.
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let bytes = rest.and_then(|rest| rest.get(..buf.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// ISO image with everything that the survey found in it. Immutable, and shared in an `Arc`.
pub struct Image {
    pub identity: Identity,
    pub source: Source,
    pub index: Index,
    pub volume: Volume,
    pub boot: BootRecords,
    /// Files of archiso; `None` for an image that mkarchiso did not make.
    pub archiso: Option<Archiso>,
    /// Problems that do not keep the image from being served: one line each, at most 33.
    pub warnings: Vec<String>,
    self_tests: SelfTests,
}

impl Image {
    /// Creates an image of this file and this tree, without boot records. The extents of the tree
    /// were checked against the file.
    ///
    /// # Errors
    /// The error of reading the file.
    pub fn new(source: Source, index: Index) -> io::Result<Self> {
        let identity = Identity::of(&source, &index, None)?;
        let (volume, boot) = (Volume::default(), BootRecords::default());
        Ok(Self {
            identity,
            source,
            index,
            volume,
            boot,
            archiso: None,
            warnings: Vec::new(),
            self_tests: SelfTests::default(),
        })
    }

    /// Opens and indexes the image at `path`.
    ///
    /// # Errors
    /// [`OpenError`] if the image cannot be used.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let survey = Source::open(path).map_err(SurveyError::from).and_then(Self::survey);
        survey.map_err(|fault| OpenError { path: path.to_owned(), fault })
    }

    /// Indexes the image in an open file.
    ///
    /// # Errors
    /// [`SurveyError`] if the image cannot be used.
    pub(crate) fn of_file(file: File) -> Result<Self, SurveyError> {
        Self::survey(Source::of_file(file)?)
    }

    /// Indexes the image in an object store. Blocks that are not in its cache file are fetched.
    ///
    /// # Errors
    /// [`OpenError`] if the image cannot be used; an error of the store is in its [`io::Error`].
    pub(crate) fn open_stored(file: StoredFile) -> Result<Self, OpenError> {
        let path = file.object().url.clone().into();
        let survey = Source::of_stored(file).map_err(SurveyError::from).and_then(Self::survey);
        survey.map_err(|fault| OpenError { path, fault })
    }

    fn survey(source: Source) -> Result<Self, SurveyError> {
        // lseek(2) returns 0 for its end, so it would be taken for an empty file.
        if source.is_character_device() {
            return Err(SurveyError::NotIso("is a character device, not a file or a disk"));
        }
        let Survey { index, volume, boot, archiso, warnings } = Survey::of(&source)?;
        let identity = Identity::of(&source, &index, archiso.as_ref())?;
        Ok(Self {
            identity,
            source,
            index,
            volume,
            boot,
            archiso,
            warnings,
            self_tests: SelfTests::default(),
        })
    }

    /// Reads the whole content of a file.
    ///
    /// # Errors
    /// `InvalidInput` for a node that is not a file, `FileTooLarge` for more than `limit` bytes,
    /// and any error of reading the image.
    pub fn read(&self, node: NodeId, limit: u64) -> io::Result<Vec<u8>> {
        let node = self.index.node(node);
        let NodeKind::File { extents } = &node.kind else { return Err(io::ErrorKind::InvalidInput.into()) };
        // The size comes from the image: it is checked before the allocation below.
        if node.size() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut content = Vec::with_capacity(node.size() as usize);
        for &extent in extents {
            content.extend(self.source.read(extent)?.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(content)
    }

    /// Returns the extents of a file; `None` for other nodes.
    pub fn extents(&self, node: NodeId) -> Option<&[Extent]> {
        match &self.index.node(node).kind {
            NodeKind::File { extents } => Some(extents),
            _ => None,
        }
    }
}

/// Formats the identity only: an index may have a million nodes.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({})", self.identity)
    }
}
