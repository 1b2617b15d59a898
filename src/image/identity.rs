//! Identity of an image: a number that is the same for every copy of an ISO, on any server.
//!
//! File handles, file ids and ETags contain the identity, so a client never gets bytes of one
//! image for a file of another. The identity distinguishes releases and accidental changes. It is
//! not a defence against a forged image: the author of an image controls the machines that boot it.

use std::fmt;
use std::io;

use crc32fast::Hasher;
use serde::{Deserialize, Serialize};

use super::index::{Index, Node, NodeKind};
use super::iso9660::BLOCK;
use super::{Archiso, Extent, Media};

/// Bytes of the system area (with MBR and GPT) and of the first volume descriptors.
const HEAD: u64 = 32 * BLOCK;

/// Bytes of a checksum file that are hashed; its one line has 128 digits and a name.
const CHECKSUM_MAX: u64 = 4096;

/// Identity of an image, computed from its head, its tree and its checksum files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity(pub u64);

/// Formats the identity as 16 hexadecimal digits.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Identity {
    /// Computes the identity of an image.
    ///
    /// # Errors
    /// The error of reading the image.
    pub(crate) fn of(
        media: &(impl Media + ?Sized),
        index: &Index,
        archiso: Option<&Archiso>,
    ) -> io::Result<Self> {
        let content = content(media, index, archiso)?;
        Ok(Self(u64::from(content) << 32 | u64::from(tree(media.size(), index))))
    }
}

/// Hashes the head and the checksum files of the root file systems.
///
/// Two images with the same tree differ in the date of their volume descriptor, or at least in the
/// checksum of their root file system.
fn content(media: &(impl Media + ?Sized), index: &Index, archiso: Option<&Archiso>) -> io::Result<u32> {
    let mut hasher = Hasher::new();
    // The head has the dates of the volume, and the checksums of the GPT.
    let head = Extent { offset: 0, len: media.size().min(HEAD) };
    hasher.update(&media.read(head)?.unwrap_or_default());
    // A root file system is too large to be hashed at each start; its checksum file stands for it.
    let checksums = archiso.into_iter().flat_map(|archiso| &archiso.airootfs).filter_map(|root| root.sha512);
    for checksum in checksums {
        if let NodeKind::File { extents } = &index.node(checksum).kind {
            for &Extent { offset, len } in extents {
                let extent = Extent { offset, len: len.min(CHECKSUM_MAX) };
                hasher.update(&media.read(extent)?.unwrap_or_default());
            }
        }
    }
    Ok(hasher.finalize())
}

/// Hashes the size of the image and all nodes of its tree.
fn tree(size: u64, index: &Index) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&size.to_be_bytes());
    for id in index.walk() {
        // File handles contain node numbers, so an image with other numbers is another image.
        hasher.update(&id.0.to_be_bytes());
        hash_node(&mut hasher, index.node(id));
    }
    hasher.finalize()
}

/// Hashes the name, place, mode, date and content location of a node.
fn hash_node(hasher: &mut Hasher, node: &Node) {
    let Node { name, parent, kind, attributes, .. } = node;
    hasher.update(&parent.0.to_be_bytes());
    hasher.update(&attributes.mode.to_be_bytes());
    hasher.update(&attributes.mtime.to_be_bytes());
    // The length separates the name from what follows. No name has more than 255 bytes.
    hasher.update(&[name.len() as u8]);
    hasher.update(name);
    match kind {
        NodeKind::File { extents } => {
            for extent in extents {
                hasher.update(&extent.offset.to_be_bytes());
                hasher.update(&extent.len.to_be_bytes());
            }
        }
        NodeKind::Symlink { target } => hasher.update(target),
        NodeKind::Directory { .. } | NodeKind::Special => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::index::{NodeAttributes, NodeId};

    const PLAIN: NodeAttributes = NodeAttributes { mode: 0o444, uid: 0, gid: 0, nlink: 1, mtime: 0 };

    fn identity(media: &[u8], name: &[u8], extent: Extent) -> Identity {
        let mut index = Index::new(PLAIN);
        index.add(NodeId::ROOT, name, NodeKind::File { extents: vec![extent] }, PLAIN).unwrap();
        Identity::of(media, &index, None).unwrap()
    }

    #[test]
    fn identity_depends_on_every_part() {
        let extent = Extent { offset: 2048, len: 100 };
        let image = vec![7; 100_000];
        let mut others = [image.clone(), image[1..].to_vec()];
        others[0][HEAD as usize - 1] = 8;
        let known = identity(&image, b"name", extent);
        assert_eq!(identity(&image.clone(), b"name", extent), known);
        assert_ne!(identity(&others[0], b"name", extent), known, "another head");
        assert_ne!(identity(&others[1], b"name", extent), known, "another size");
        assert_ne!(identity(&image, b"nane", extent), known, "another name");
        assert_ne!(identity(&image, b"name", Extent { len: 99, ..extent }), known, "another length");
        assert_ne!(identity(&image, b"name", Extent { offset: 4096, ..extent }), known, "another place");
    }
}
