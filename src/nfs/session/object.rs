//! An object that a handle means: its attributes, and what somebody may do with it.

use std::sync::Arc;

use crate::image::{Image, Node, NodeId, NodeKind, iso9660};
use crate::images::ImageSet;
use crate::nfs::handle::{self, FileHandle};
use crate::nfs::rpc::Credentials;
use crate::nfs::wire::reply::{FileAttributes, FileType};
use crate::nfs::wire::{NfsStatus, access};

/// Type bits of a POSIX mode.
const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFCHR: u32 = 0o020_000;

/// Bits that a mode has for its owner, its group and all others.
const MAY_READ: u32 = 0o4;
const MAY_EXECUTE: u32 = 0o1;

/// A node of an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub image: &'a Arc<Image>,
    pub id: NodeId,
}

impl<'a> Object<'a> {
    /// The object that the handle of a call means.
    ///
    /// # Errors
    /// [`NfsStatus::BadHandle`] for bytes that no server like this one sent, [`NfsStatus::Stale`] for a handle of an image
    /// that is not here.
    pub(super) fn find(images: &'a ImageSet, handle: &[u8]) -> Result<Self, NfsStatus> {
        let FileHandle { identity, node: id } =
            FileHandle::parse(handle).map_err(|_| NfsStatus::BadHandle)?;
        let image = &images.identified(identity).ok_or(NfsStatus::Stale)?.image;
        if id.0 as usize >= image.index.len() {
            return Err(NfsStatus::Stale);
        }
        Ok(Self { image, id })
    }

    /// Another object of the same image.
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

    /// # Errors
    /// [`NfsStatus::NotDir`]
    pub(super) fn directory(self) -> Result<Self, NfsStatus> {
        if self.is_directory() { Ok(self) } else { Err(NfsStatus::NotDir) }
    }

    pub(super) fn is_directory(&self) -> bool {
        matches!(self.node().kind, NodeKind::Directory { .. })
    }

    /// What the object shows of itself, as Rock Ridge has it.
    pub(super) fn attributes(&self) -> FileAttributes {
        let Node { kind, attributes, .. } = self.node();
        let size = match kind {
            // A directory has no content here. To say so would make it look like an empty one to some programs.
            NodeKind::Directory { .. } => iso9660::BLOCK,
            _ => self.node().size(),
        };
        FileAttributes {
            file_type: file_type(kind, attributes.mode),
            mode: attributes.mode & 0o7777,
            nlink: attributes.nlink.max(1),
            uid: attributes.uid,
            gid: attributes.gid,
            size,
            used: size.next_multiple_of(iso9660::BLOCK),
            fsid: handle::fsid(self.image.identity),
            fileid: self.fileid(),
            time: attributes.mtime.clamp(0, u32::MAX.into()) as u32,
        }
    }

    /// What whoever calls may do, as the mode says. Root may read and enter everything, and run what somebody may run,
    /// as on every Unix.
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
        let execute = if is_directory { access::LOOKUP } else { access::EXECUTE };
        let granted = |bit: u32, right: u32| if may & bit != 0 { right } else { 0 };
        granted(MAY_READ, access::READ) | granted(MAY_EXECUTE, execute)
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
