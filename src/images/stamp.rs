//! Stamps of files, which tell whether the content of a file changed, without reading it.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::store::Object;

/// State of a file that tells whether its content changed, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Device and inode; of an object, a hash of its address and its entity tag.
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

    /// Returns the stamp of an object. One that is replaced counts as another file.
    pub(super) fn of_object(object: &Object) -> Self {
        // No address contains 0.
        let hash: [u8; 32] = Sha256::digest(format!("{}\0{}", object.url, object.etag)).into();
        let (first, second) = hash.split_at(8);
        let number =
            |bytes: &[u8]| bytes.iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte));
        Self { file: (number(first), number(second)), size: object.size, modified: (0, 0), changed: (0, 0) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_object_is_another_file() {
        let object = |etag: &str| Object { url: "s3://b/a.iso".into(), size: 1, etag: etag.into() };
        let [one, same, other] = ["\"1\"", "\"1\"", "\"2\""].map(|etag| Stamp::of_object(&object(etag)));
        assert!(one == same && one.is_same_file(&same) && !one.is_same_file(&other));
    }
}
