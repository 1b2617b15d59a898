//! Stamps of files, which tell whether the content of a file changed, without reading it.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// State of a file that tells whether its content changed, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Device and inode.
    pub(super) file: (u64, u64),
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    /// The same of the last change of content or attributes, which no program can set.
    pub(super) changed: (i64, i64),
}

impl Stamp {
    /// Reads the stamp of a file; symlinks are followed.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        path.metadata().map(|metadata| Self::new(&metadata))
    }

    /// Reads the stamp of an open file.
    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        file.metadata().map(|metadata| Self::new(&metadata))
    }

    fn new(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            // With nanoseconds: a file can be written twice in a second.
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Tells whether the content of an open file may be another one than at the time of this stamp.
    pub(super) fn is_outdated(&self, file: impl AsFd) -> io::Result<bool> {
        let file = File::from(file.as_fd().try_clone_to_owned()?);
        let now = Self::of_file(&file)?;
        Ok((now.size, now.modified, now.changed) != (self.size, self.modified, self.changed))
    }

    pub(super) fn is_same_file(&self, other: &Stamp) -> bool {
        self.file == other.file
    }
}
