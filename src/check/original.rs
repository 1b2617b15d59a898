//! Expected content, read directly from the image file.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use sha2::{Digest, Sha512};

use crate::export::{Export, Piece};
use crate::image::checksum::{self, Checksum, ChecksumError};
use crate::image::{Image, NodeId, NodeKind};

/// A fault of a server or of the image, in one line for the table.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("differs at byte {at} of {path}")]
    Differs { path: String, at: u64 },
    #[error("{path} has {there} bytes instead of {expected}")]
    Size { path: String, there: u64, expected: u64 },
    #[error("{path} {what}")]
    Wrong { path: String, what: String },
    /// The server is right, but the image does not match its own checksum.
    #[error("{path} equals the image, which does not match its checksum file: the image is damaged")]
    Damaged { path: String },
    #[error("breaks the protocol: {0}")]
    Protocol(String),
    #[error("stuck: nothing came for {0:?}")]
    Stuck(Duration),
    #[error("the connection ended: {0}")]
    Broken(io::Error),
    #[error("{address} cannot be reached: {error}")]
    Unreachable { address: SocketAddr, error: io::Error },
    #[error("the image cannot be read: {0}")]
    Image(io::Error),
}

impl VerifyError {
    /// Returns a protocol violation.
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}

impl From<crate::codec::Truncated> for VerifyError {
    fn from(truncated: crate::codec::Truncated) -> Self {
        Self::protocol(truncated.to_string())
    }
}

/// Amount of matching content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckTally {
    pub files: u64,
    pub bytes: u64,
    /// Files with a verified checksum.
    pub checksums: u64,
}

impl AddAssign for CheckTally {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.checksums += other.checksums;
    }
}

/// Image under test, and settings of all clients.
pub struct Original {
    pub image: Arc<Image>,
    /// Longest wait for the next bytes before a server counts as stuck.
    pub patience: Duration,
    pub progress: ProgressBar,
    /// Checksums of the root images.
    checksums: HashMap<NodeId, Checksum>,
    /// Notes on content without a checksum.
    pub remarks: Vec<String>,
}

impl Original {
    pub fn new(image: Arc<Image>, patience: Duration) -> Self {
        let (mut checksums, mut remarks) = (HashMap::new(), Vec::new());
        if image.archiso.is_none() {
            remarks.push(NOT_ARCHISO.to_owned());
        }
        for root in image.archiso.iter().flat_map(|archiso| &archiso.airootfs) {
            match checksum::read(&image, root) {
                Ok(checksum) => drop(checksums.insert(root.node, checksum)),
                // A bad checksum file is not a fault of a server, which can still be compared.
                Err(why) => remarks.push(without_checksum(&image, root.node, why)),
            }
        }
        Self { image, patience, progress: ProgressBar::hidden(), checksums, remarks }
    }

    /// Returns all files, in the order of the image.
    pub(crate) fn files(&self) -> impl Iterator<Item = NodeId> {
        let index = &self.image.index;
        index.walk().filter(|&id| matches!(index.node(id).kind, NodeKind::File { .. }))
    }

    /// Returns all files except root images, which firmware never loads.
    pub(crate) fn boot_files(&self) -> impl Iterator<Item = NodeId> {
        // An image has one or two root images, so a set would not pay.
        self.files().filter(|&file| !self.root_images().any(|root| root == file))
    }

    /// Returns the root file systems of archiso.
    pub(crate) fn root_images(&self) -> impl Iterator<Item = NodeId> {
        self.image.archiso.iter().flat_map(|archiso| &archiso.airootfs).map(|root| root.node)
    }

    /// Returns the path of a node in printable form.
    pub(crate) fn path(&self, node: NodeId) -> String {
        printable_path(&self.image, node)
    }

    /// Returns the content of a file, with its checksum if it has one.
    pub(crate) fn file(&self, node: NodeId) -> Expected<'_> {
        // Only a transfer from start to end can be hashed; `range` has no checksum.
        let hash = self.checksums.get(&node).map(|&checksum| (Sha512::new(), checksum));
        Expected { files: 1, hash, ..self.part_of(node) }
    }

    /// Returns `len` bytes of a file from `offset`; the range must lie in the file.
    pub(crate) fn range(&self, node: NodeId, offset: u64, len: u64) -> Expected<'_> {
        Expected { start: offset, at: offset, end: offset + len, ..self.part_of(node) }
    }

    fn part_of(&self, node: NodeId) -> Expected<'_> {
        // The callers pass files only; anything else has no content.
        let export = Export::of_file(&self.image, node).unwrap_or_else(|| Export::of_zeros(0));
        self.expected(self.path(node), export)
    }

    /// Returns `len` bytes of the image from `offset`; the range must lie in the image.
    pub(crate) fn stretch(&self, offset: u64, len: u64) -> Expected<'_> {
        let whole = self.expected(String::from("the image"), Export::whole(&self.image));
        Expected { start: offset, at: offset, end: offset + len, ..whole }
    }

    /// Returns the content of a generated file.
    pub(crate) fn generated(&self, path: &str, content: Export) -> Expected<'_> {
        // There is no original of it in the image, so only its transfer is checked.
        Expected { files: 1, ..self.expected(path.to_owned(), content) }
    }

    fn expected(&self, path: String, export: Export) -> Expected<'_> {
        let end = export.len();
        Expected { original: self, path, export, start: 0, at: 0, end, files: 0, hash: None }
    }
}

const NOT_ARCHISO: &str =
    "This is not an archiso image: all files are compared with it, without an airootfs.sha512 to verify.";

fn without_checksum(image: &Image, root: NodeId, why: ChecksumError) -> String {
    let path = printable_path(image, root);
    format!("{path} is compared with the image only, without a checksum: {why}.")
}

fn printable_path(image: &Image, node: NodeId) -> String {
    String::from_utf8_lossy(&image.index.path(node)).escape_debug().to_string()
}

/// Expected content of a transfer, compared from start to end.
pub(crate) struct Expected<'a> {
    original: &'a Original,
    path: String,
    export: Export,
    start: u64,
    /// Offset of the next byte.
    at: u64,
    end: u64,
    /// 1 for a whole file.
    files: u64,
    hash: Option<(Sha512, Checksum)>,
}

impl Expected<'_> {
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the number of bytes still expected.
    pub(crate) const fn left(&self) -> u64 {
        self.end - self.at
    }

    /// Compares the announced size with the expected one.
    ///
    /// # Errors
    /// [`VerifyError::Size`].
    pub(crate) fn has_size(&self, there: u64) -> Result<(), VerifyError> {
        let expected = self.end;
        if there == expected {
            Ok(())
        } else {
            Err(VerifyError::Size { path: self.path.clone(), there, expected })
        }
    }

    /// Compares the next bytes.
    ///
    /// # Errors
    /// [`VerifyError`] with the place of the first difference.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        let len = bytes.len() as u64;
        // More than the file has: report the size, which says more than a difference.
        if len > self.left() {
            return Err(self.ended_at(self.at + len));
        }
        // Read with pread, not through the mapping that the servers send from.
        let original = self.original_bytes(len).map_err(VerifyError::Image)?;
        if original != bytes {
            // The first differing byte is the one to look at.
            let equal = original.iter().zip(bytes).take_while(|(original, byte)| original == byte).count();
            return Err(VerifyError::Differs { path: self.path.clone(), at: self.at + equal as u64 });
        }
        if let Some((hash, _)) = &mut self.hash {
            hash.update(bytes);
        }
        self.at += len;
        self.original.progress.inc(len);
        Ok(())
    }

    /// Ends the comparison and returns the amount that matched.
    ///
    /// # Errors
    /// [`VerifyError`] when bytes are missing, or when the content does not match its checksum.
    pub(crate) fn finish(self) -> Result<CheckTally, VerifyError> {
        if self.at < self.end {
            return Err(self.ended_at(self.at));
        }
        let checksums = u64::from(self.hash.is_some());
        // All bytes equal the image, so a wrong checksum is not the server's fault.
        if self.hash.is_some_and(|(hash, checksum)| hash.finalize()[..] != checksum) {
            return Err(VerifyError::Damaged { path: self.path });
        }
        Ok(CheckTally { files: self.files, bytes: self.at - self.start, checksums })
    }

    fn ended_at(&self, there: u64) -> VerifyError {
        VerifyError::Size { path: self.path.clone(), there, expected: self.end }
    }

    fn original_bytes(&self, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len as usize);
        for piece in self.export.range(self.at, len).map_err(io::Error::other)? {
            match piece {
                Piece::Memory(memory) => bytes.extend_from_slice(&memory),
                Piece::Image(range) => {
                    let start = bytes.len();
                    bytes.resize(start + range.len() as usize, 0);
                    let rest = bytes.get_mut(start..).unwrap_or_default();
                    range.image().source.read_exact_at(rest, range.offset())?;
                }
            }
        }
        Ok(bytes)
    }
}
