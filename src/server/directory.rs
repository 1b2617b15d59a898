//! A directory of files that isowire keeps, opened before the user changes. Each file is replaced as a
//! whole.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    /// Opens a directory.
    ///
    /// # Errors
    /// That of open(2).
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Reads a file, of which `max` bytes count; `None` if there is none.
    ///
    /// # Errors
    /// That of open(2) or read(2).
    pub(super) fn read(&self, name: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => File::from(opened?),
        };
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Replaces a file. It is written as `NAME.new` first.
    ///
    /// # Errors
    /// That of the system call which failed; the file is as it was then.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.new");
        let written = self.write(&new, bytes).and_then(|()| Ok(renameat(&self.0, &*new, &self.0, name)?));
        if written.is_err() {
            // It would take the room that the next one needs.
            self.remove(&new);
        }
        written
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, name, flags, Mode::from_raw_mode(0o644))?);
        file.write_all(bytes)?;
        // On the disk before it gets the name: a crash then leaves the old file or the new one.
        file.sync_all()
    }

    /// Removes a file, if that is possible.
    pub(super) fn remove(&self, name: &str) {
        let _ = unlinkat(&self.0, name, AtFlags::empty());
    }

    /// Removes those files with this end of their names that were written first, but for `most`.
    pub(super) fn keep_newest(&self, end: &str, most: usize) {
        let mut files: Vec<_> = self.names().filter(|name| name.ends_with(end)).collect();
        if files.len() <= most {
            return;
        }
        files.sort_by_cached_key(|name| {
            statat(&self.0, &**name, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |stat| stat.st_mtime)
        });
        let surplus = files.len() - most;
        files.iter().take(surplus).for_each(|name| self.remove(name));
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let entries = Dir::read_from(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        assert_eq!(directory.read("a", 100).unwrap(), None);
        directory.replace("a", b"one, which is longer").unwrap();
        directory.replace("a", b"two").unwrap();
        assert_eq!(directory.read("a", 100).unwrap().unwrap(), b"two");
        assert_eq!(directory.read("a", 2).unwrap().unwrap(), b"tw");
        // The new file has no place.
        fs::create_dir(dir.path().join("a.new")).unwrap();
        assert!(directory.replace("a", b"three").is_err());
        assert_eq!(directory.read("a", 100).unwrap().unwrap(), b"two");
        directory.remove("a");
        directory.remove("a");
        assert_eq!(directory.read("a", 100).unwrap(), None);
        assert!(Directory::open(&dir.path().join("none")).is_err());
    }

    #[test]
    fn newest_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open(dir.path()).unwrap();
        for (age, name) in ["a.boot", "d.boot", "c.boot", "b.boot", "other"].iter().enumerate() {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1000 - age as u64)).unwrap();
        }
        directory.keep_newest(".boot", 4);
        directory.keep_newest(".boot", 2);
        let mut names: Vec<_> = directory.names().filter(|name| !name.starts_with('.')).collect();
        names.sort();
        assert_eq!(names, ["a.boot", "d.boot", "other"]);
    }
}
