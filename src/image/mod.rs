//! The image: one ISO file, opened once, indexed once, never copied.

pub mod arch;
pub(crate) mod boot_records;
pub(crate) mod content;
pub(crate) mod el_torito;
mod entries;
mod error;
pub(crate) mod identity;
pub mod index;
pub mod initramfs;
pub(crate) mod iso9660;
pub(crate) mod partitions;
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
use std::io;
use std::path::{Path, PathBuf};

pub use crate::extent::Extent;
pub(crate) use arch::Archiso;
pub(crate) use boot_records::BootRecords;
pub use error::{FormatError, SurveyError};
pub(crate) use identity::Identity;
pub use index::{Index, Node, NodeId, NodeKind};
pub use source::Source;
pub(crate) use survey::{Survey, Volume};

/// Where the bytes of an image come from: the open file, or memory in a test.
pub trait Media {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Whatever the medium says; `UnexpectedEof` behind its end.
    fn fill(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// The bytes of `extent`, or `None` when it leaves the image. The caller has bounded its length.
    ///
    /// # Errors
    /// As [`Media::fill`].
    fn read(&self, extent: Extent) -> io::Result<Option<Vec<u8>>> {
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
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let bytes = rest.and_then(|rest| rest.get(..buf.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// An ISO image and all that is known about it. Immutable, made to be shared in an `Arc`.
pub struct Image {
    pub identity: Identity,
    pub source: Source,
    pub index: Index,
    pub volume: Volume,
    pub boot: BootRecords,
    /// What mkarchiso put there; `None` on any other image.
    pub archiso: Option<Archiso>,
    /// What is wrong with the image and yet no reason to refuse it: one line each, at most a page of them.
    pub warnings: Vec<String>,
}

impl Image {
    /// An image of this file and this tree, whose extents were checked against the file; nothing else is known of it.
    ///
    /// # Errors
    /// Whatever reading the file says.
    pub fn new(source: Source, index: Index) -> io::Result<Self> {
        let identity = Identity::of(&source, &index, None)?;
        let (volume, boot) = (Volume::default(), BootRecords::default());
        Ok(Self { identity, source, index, volume, boot, archiso: None, warnings: Vec::new() })
    }

    /// Opens and indexes the image at `path`.
    ///
    /// # Errors
    /// [`OpenError`] is one line for the operator.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let open = || {
            let source = Source::open(path)?;
            let Survey { index, volume, boot, archiso, warnings } = Survey::of(&source)?;
            let identity = Identity::of(&source, &index, archiso.as_ref())?;
            Ok(Self { identity, source, index, volume, boot, archiso, warnings })
        };
        open().map_err(|fault| OpenError { path: path.to_owned(), fault })
    }

    /// The whole content of a file, copied.
    ///
    /// # Errors
    /// `InvalidInput` for anything but a file, `FileTooLarge` when it has more than `limit` bytes; else what reading
    /// the image says.
    pub fn read(&self, node: NodeId, limit: u64) -> io::Result<Vec<u8>> {
        let node = self.index.node(node);
        let NodeKind::File { extents } = &node.kind else { return Err(io::ErrorKind::InvalidInput.into()) };
        if node.size() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut content = Vec::with_capacity(node.size() as usize);
        for &extent in extents {
            content.extend(self.source.read(extent)?.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(content)
    }

    /// Returns where a file's bytes lie; `None` for anything but a file.
    pub fn extents(&self, node: NodeId) -> Option<&[Extent]> {
        match &self.index.node(node).kind {
            NodeKind::File { extents } => Some(extents),
            _ => None,
        }
    }
}

/// The identity stands for all the rest: an index may have a million nodes.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({})", self.identity)
    }
}

/// The image cannot be used: what is wrong and what to do, in one line.
#[derive(Debug)]
pub struct OpenError {
    pub path: PathBuf,
    pub fault: SurveyError,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.fault)
    }
}

impl std::error::Error for OpenError {}
