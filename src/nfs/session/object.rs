//! The object of a handle: its attributes and the rights to it.

use std::sync::Arc;

use crate::image::{Image, Node, NodeId, NodeKind, iso9660};
use crate::images::ImageSet;
use crate::nfs::handle::{self, FileHandle};
use crate::nfs::rpc::Credentials;
use crate::nfs::wire::reply::{FileAttributes, FileType};
use crate::nfs::wire::{NfsStatus, access};

/// Type bits of a POSIX mode (inode(7)).
const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFCHR: u32 = 0o020_000;

/// Bits of a mode for its owner, its group or all others.
const MAY_READ: u32 = 0o4;
const MAY_EXECUTE: u32 = 0o1;

/// A node of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub image: &'a Arc<Image>,
    pub id: NodeId,
}

impl<'a> Object<'a> {
    /// Finds the object of a handle.
    ///
    /// # Errors
    /// [`NfsStatus::BadHandle`] for bytes that are not a handle of a server of this kind,
    /// [`NfsStatus::Stale`] for a handle of an image that is not served.
    pub(super) fn find(images: &'a ImageSet, handle: &[u8]) -> Result<Self, NfsStatus> {
        // RFC 1813 §2.6: NFS3ERR_BADHANDLE is for a handle that fails consistency checks,
        // NFS3ERR_STALE for one whose object no longer exists.
        let FileHandle { identity, node: id } =
            FileHandle::parse(handle).map_err(|_| NfsStatus::BadHandle)?;
        let image = &images.identified(identity).ok_or(NfsStatus::Stale)?.image;
        // Anyone can compute the checksum of a handle, so the number may be any.
        if id.0 as usize >= image.index.len() {
            return Err(NfsStatus::Stale);
        }
        Ok(Self { image, id })
    }

    /// Returns another object of the same image.
    pub(super) const fn sibling(self, id: NodeId) -> Self {
        Self { id, ..self }
    }

    pub(super) fn node(&self) -> &'a Node {
        self.image.index.node(self.id)
    }

    pub(super) fn handle(&self) -> [u8; FileHandle::LEN] {
        FileHandle { identity: self.image.identity, node: self.id }.bytes()
    }

    pub(super) const fn fileid(&self) -> u64 {
        handle::fileid(self.id)
    }

    /// Returns the object if it is a directory.
    ///
    /// # Errors
    /// [`NfsStatus::NotDir`]
    pub(super) fn directory(self) -> Result<Self, NfsStatus> {
        if self.is_directory() { Ok(self) } else { Err(NfsStatus::NotDir) }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.node().kind, NodeKind::Directory { .. })
    }

    /// Returns the attributes, as Rock Ridge recorded them.
    pub(super) fn attributes(&self) -> FileAttributes {
        let Node { kind, attributes, .. } = self.node();
        let size = match kind {
            // The index keeps no size of a directory, and some programs take size 0 for empty.
            NodeKind::Directory { .. } => iso9660::BLOCK,
            _ => self.node().size(),
        };
        FileAttributes {
            file_type: file_type(kind, attributes.mode),
            // RFC 1813 §2.6: the mode has no type bits.
            mode: attributes.mode & 0o7777,
            // Linux takes an object without links for a deleted one, and reports a stale handle.
            nlink: attributes.nlink.max(1),
            uid: attributes.uid,
            gid: attributes.gid,
            size,
            used: size.next_multiple_of(iso9660::BLOCK),
            fsid: handle::fsid(self.image.identity),
            fileid: self.fileid(),
            // RFC 1813 §2.6: nfstime3 begins in 1970 and has 32 bits of seconds.
            time: attributes.mtime.clamp(0, u32::MAX.into()) as u32,
        }
    }

    /// Returns the rights of the caller by the mode. As on every Unix, root may read everything,
    /// enter every directory, and execute what anyone may execute.
    pub(super) fn access(&self, credentials: &Credentials<'_>) -> u32 {
        let Node { attributes, .. } = self.node();
        let (owner, group, others) = (attributes.mode >> 6, attributes.mode >> 3, attributes.mode);
        let is_directory = self.is_directory();
        let may = match credentials {
            Credentials::Sys(user) if user.uid == 0 && is_directory => MAY_READ | MAY_EXECUTE,
            Credentials::Sys(user) if user.uid == 0 => MAY_READ | (owner | group | others) & MAY_EXECUTE,
            Credentials::Sys(user) if user.uid == attributes.uid => owner,
            Credentials::Sys(user) if user.is_in_group(attributes.gid) => group,
            Credentials::Sys(_) | Credentials::None => others,
        };
        let mut granted = 0;
        if may & MAY_READ != 0 {
            granted |= access::READ;
        }
        if may & MAY_EXECUTE != 0 {
            // RFC 1813 §3.3.4: LOOKUP has no meaning for files, EXECUTE none for directories. Linux
            // executes nothing from a mount without EXECUTE.
            granted |= if is_directory { access::LOOKUP } else { access::EXECUTE };
        }
        granted
    }
}

fn file_type(kind: &NodeKind, mode: u32) -> FileType {
    match kind {
        NodeKind::Directory { .. } => FileType::Directory,
        NodeKind::File { .. } => FileType::Regular,
        NodeKind::Symlink { .. } => FileType::Symlink,
        NodeKind::Special => match mode & S_IFMT {
            S_IFBLK => FileType::BlockDevice,
            S_IFCHR => FileType::CharacterDevice,
            S_IFSOCK => FileType::Socket,
            _ => FileType::Fifo,
        },
    }
}
