//! What should come through a door: the bytes of the image, read from its file directly.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use sha2::{Digest, Sha512};

use crate::export::{Export, Piece};
use crate::image::{Image, NodeId, NodeKind};

/// Longest checksum file that is read: a line is 128 digits and a name.
const CHECKSUM_MAX: u64 = 4096;

type Checksum = [u8; 64];

/// What is wrong with a door, or with the image behind it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("differs at byte {at} of {path}")]
    Differs { path: String, at: u64 },
    #[error("{path} has {there} bytes instead of {expected}")]
    Size { path: String, there: u64, expected: u64 },
    #[error("{path} {what}")]
    Wrong { path: String, what: String },
    #[error("{path} is as in the image, which does not match its checksum file: the image is damaged")]
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

impl Fault {
    /// What a peer that keeps to the protocol never does.
    pub fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }
}

impl From<crate::codec::Truncated> for Fault {
    fn from(truncated: crate::codec::Truncated) -> Self {
        Self::protocol(truncated.to_string())
    }
}

/// How much a door has shown to be right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub files: u64,
    pub bytes: u64,
    /// Files whose checksum was verified.
    pub checksums: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.checksums += other.checksums;
    }
}

/// The image, and what every client has to know.
pub struct Original {
    pub image: Arc<Image>,
    /// How long a client waits for the next bytes before it calls a door stuck.
    pub patience: Duration,
    pub progress: ProgressBar,
    /// Of the root images.
    checksums: HashMap<NodeId, Checksum>,
    /// What cannot be verified, for the person who asked.
    pub remarks: Vec<String>,
}

impl Original {
    pub fn new(image: Arc<Image>, patience: Duration) -> Self {
        let (mut checksums, mut remarks) = (HashMap::new(), Vec::new());
        if image.archiso.is_none() {
            remarks.push(NOT_ARCHISO.to_owned());
        }
        for root in image.archiso.iter().flat_map(|archiso| &archiso.airootfs) {
            match root.sha512.map(|file| image.read(file, CHECKSUM_MAX).ok().as_deref().and_then(checksum)) {
                Some(Some(checksum)) => drop(checksums.insert(root.node, checksum)),
                Some(None) => remarks.push(without_checksum(
                    &image,
                    root.node,
                    "what is in airootfs.sha512 beside it is none",
                )),
                None => {
                    remarks.push(without_checksum(&image, root.node, "there is no airootfs.sha512 beside it"))
                }
            }
        }
        Self { image, patience, progress: ProgressBar::hidden(), checksums, remarks }
    }

    /// All files, in the order of the image.
    pub fn files(&self) -> impl Iterator<Item = NodeId> {
        let is_file = |id: &NodeId| matches!(self.image.index.node(*id).kind, NodeKind::File { .. });
        self.image.index.walk().filter(is_file)
    }

    /// The files that are no root image, which firmware never loads.
    pub fn boot_files(&self) -> impl Iterator<Item = NodeId> {
        self.files().filter(|&file| !self.root_images().any(|root| root == file))
    }

    /// The root file systems of archiso.
    pub fn root_images(&self) -> impl Iterator<Item = NodeId> {
        self.image.archiso.iter().flat_map(|archiso| &archiso.airootfs).map(|root| root.node)
    }

    /// A node's path, as a person reads it.
    pub fn path(&self, node: NodeId) -> String {
        shown(&self.image, node)
    }

    /// The content of a file, and its checksum where there is one.
    pub fn file(&self, node: NodeId) -> Expected<'_> {
        let hash = self.checksums.get(&node).map(|&checksum| (Sha512::new(), checksum));
        Expected { files: 1, hash, ..self.part_of(node) }
    }

    /// `len` bytes of a file from `offset`; they are in it.
    pub fn range(&self, node: NodeId, offset: u64, len: u64) -> Expected<'_> {
        Expected { start: offset, at: offset, end: offset + len, ..self.part_of(node) }
    }

    fn part_of(&self, node: NodeId) -> Expected<'_> {
        let export = Export::of_file(&self.image, node).unwrap_or_else(|| Export::of_zeros(0));
        self.expected(self.path(node), export)
    }

    /// `len` bytes of the image from `offset`; they are in it.
    pub fn stretch(&self, offset: u64, len: u64) -> Expected<'_> {
        let whole = self.expected(String::from("the image"), Export::whole(&self.image));
        Expected { start: offset, at: offset, end: offset + len, ..whole }
    }

    /// A file that isowire makes.
    pub fn made(&self, path: &str, content: Export) -> Expected<'_> {
        Expected { files: 1, ..self.expected(path.to_owned(), content) }
    }

    fn expected(&self, path: String, export: Export) -> Expected<'_> {
        let end = export.len();
        Expected { original: self, path, export, start: 0, at: 0, end, files: 0, hash: None }
    }
}

const NOT_ARCHISO: &str =
    "This is no archiso image: all files are compared with it, and there is no airootfs.sha512 to verify.";

fn without_checksum(image: &Image, root: NodeId, why: &str) -> String {
    let path = shown(image, root);
    format!("{path} is compared with the image alone, and with no checksum: {why}.")
}

fn shown(image: &Image, node: NodeId) -> String {
    String::from_utf8_lossy(&image.index.path(node)).escape_debug().to_string()
}

/// The checksum in the first line that `sha512sum` wrote.
fn checksum(text: &[u8]) -> Option<Checksum> {
    let digits = std::str::from_utf8(text.get(..128)?).ok()?;
    // `from_str_radix` takes a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut checksum = [0; 64];
    for (position, byte) in checksum.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * position..2 * position + 2)?, 16).ok()?;
    }
    Some(checksum)
}

/// Content that a door is to deliver, front to back.
pub struct Expected<'a> {
    original: &'a Original,
    path: String,
    export: Export,
    start: u64,
    /// The next byte.
    at: u64,
    end: u64,
    /// 1 for a whole file.
    files: u64,
    hash: Option<(Sha512, Checksum)>,
}

impl Expected<'_> {
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes still to come.
    pub const fn left(&self) -> u64 {
        self.end - self.at
    }

    /// The size that the door says is the right one.
    ///
    /// # Errors
    /// [`Fault::Size`].
    pub fn has_size(&self, there: u64) -> Result<(), Fault> {
        let expected = self.end;
        if there == expected { Ok(()) } else { Err(Fault::Size { path: self.path.clone(), there, expected }) }
    }

    /// Compares what came next.
    ///
    /// # Errors
    /// [`Fault`] says where it is wrong.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let len = bytes.len() as u64;
        if len > self.left() {
            return Err(self.ended_at(self.at + len));
        }
        let original = self.original_bytes(len).map_err(Fault::Image)?;
        if original != bytes {
            let equal = original.iter().zip(bytes).take_while(|(original, byte)| original == byte).count();
            return Err(Fault::Differs { path: self.path.clone(), at: self.at + equal as u64 });
        }
        if let Some((hash, _)) = &mut self.hash {
            hash.update(bytes);
        }
        self.at += len;
        self.original.progress.inc(len);
        Ok(())
    }

    /// Nothing more comes: returns how much was right.
    ///
    /// # Errors
    /// [`Fault`] when something is missing, or when the whole does not match its checksum.
    pub fn finish(self) -> Result<Tally, Fault> {
        if self.at < self.end {
            return Err(self.ended_at(self.at));
        }
        let checksums = u64::from(self.hash.is_some());
        if self.hash.is_some_and(|(hash, checksum)| hash.finalize()[..] != checksum) {
            return Err(Fault::Damaged { path: self.path });
        }
        Ok(Tally { files: self.files, bytes: self.at - self.start, checksums })
    }

    fn ended_at(&self, there: u64) -> Fault {
        Fault::Size { path: self.path.clone(), there, expected: self.end }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_read_as_sha512sum_writes_it() {
        let digits = "0f".repeat(64);
        assert_eq!(checksum(format!("{digits}  airootfs.sfs\n").as_bytes()), Some([0x0f; 64]));
        assert_eq!(checksum(digits.to_uppercase().as_bytes()), Some([0x0f; 64]));
        for wrong in ["", &digits[1..], &digits.replacen('0', "g", 1), &digits.replacen("0f", "+f", 1), "ž"]
        {
            assert_eq!(checksum(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
