//! The folder: nothing outside of it is opened, whatever a path says and wherever a link leads.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::boot::operator_path::{NAMES_MAX, is_served};

/// Longest file in bytes. It is in memory until it has left, so this is what a machine costs that
/// asks and does not read.
pub(super) const FILE_MAX: u64 = 256 << 10;

/// Most files of the folder.
const FILES_MAX: usize = 4096;

/// The folder of the operator's files.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    open: OwnedFd,
}

/// A file that cannot be had, for the log or the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("there is no such file")]
    NotFound,
    #[error("{}: leads out of the folder; put the file into it", .0.display())]
    Outside(PathBuf),
    #[error("{}: is no file", .0.display())]
    NotAFile(PathBuf),
    #[error("{}: larger than {} KiB; serve it from elsewhere", .0.display(), FILE_MAX >> 10)]
    TooLarge(PathBuf),
    #[error("{}: {why}; let isowire read it", .path.display())]
    Unread { path: PathBuf, why: io::Error },
    #[error("{}: more than {FILES_MAX} files; give `files` a folder of its own", .0.display())]
    ManyFiles(PathBuf),
    /// It names file and line.
    #[error("{0}")]
    Template(String),
}

impl Folder {
    /// Opens a folder, once: one that gets its name later is not looked at.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let open = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), open })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn place(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    /// Reads a file at a path from here.
    ///
    /// # Errors
    /// [`FolderError`]
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, FolderError> {
        // A FIFO would hold up who opens it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = openat2(&self.open, path, flags, Mode::empty(), beneath);
        let file = File::from(opened.map_err(|errno| self.error(path, errno))?);
        let unread = |why| FolderError::Unread { path: self.place(path), why };
        if !file.metadata().map_err(unread)?.is_file() {
            return Err(FolderError::NotAFile(self.place(path)));
        }
        let mut content = Vec::new();
        file.take(FILE_MAX + 1).read_to_end(&mut content).map_err(unread)?;
        match content.len() as u64 > FILE_MAX {
            true => Err(FolderError::TooLarge(self.place(path))),
            false => Ok(content),
        }
    }

    fn error(&self, path: &str, errno: Errno) -> FolderError {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => FolderError::NotFound,
            // openat2(2): EXDEV for a path that escapes.
            Errno::XDEV => FolderError::Outside(self.place(path)),
            errno => FolderError::Unread { path: self.place(path), why: errno.into() },
        }
    }

    /// Returns the paths of all files that are served, from here.
    pub(super) fn walk(&self) -> Result<Vec<String>, FolderError> {
        let (mut files, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(self.path.join(&folder));
            let unread = |why| FolderError::Unread { path: self.place(&folder), why };
            for entry in entries.map_err(unread)? {
                let entry = entry.map_err(unread)?;
                let Some(name) = entry.file_name().to_str().map(|name| format!("{folder}{name}")) else {
                    continue;
                };
                let is_folder = entry.file_type().map_err(unread)?.is_dir();
                match name.rsplit('/').next().is_some_and(is_served) {
                    true if is_folder && name.split('/').count() < NAMES_MAX => {
                        folders.push(format!("{name}/"))
                    }
                    true if !is_folder => files.push(name),
                    _ => {}
                }
                if files.len() + folders.len() > FILES_MAX {
                    return Err(FolderError::ManyFiles(self.path.clone()));
                }
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("files/sub")).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(dir.path().join("files/a.sh"), "a").unwrap();
        fs::write(dir.path().join("files/sub/b.sh"), "b").unwrap();
        fs::write(dir.path().join("files/.hidden"), "h").unwrap();
        let folder = Folder::open(&dir.path().join("files")).unwrap();
        (dir, folder)
    }

    #[test]
    fn folder_gives_what_is_below_it() {
        let (dir, folder) = folder();
        symlink("sub/b.sh", dir.path().join("files/within")).unwrap();
        for (path, content) in [("a.sh", "a"), ("sub/b.sh", "b"), ("within", "b")] {
            assert_eq!(folder.read(path).unwrap(), content.as_bytes());
        }
        let mut found = folder.walk().unwrap();
        found.sort();
        assert_eq!(found, ["a.sh", "sub/b.sh", "within"]);
    }

    #[test]
    fn folder_gives_nothing_from_outside() {
        let (dir, folder) = folder();
        symlink("../secret", dir.path().join("files/link")).unwrap();
        symlink(dir.path().join("secret"), dir.path().join("files/absolute")).unwrap();
        symlink("..", dir.path().join("files/up")).unwrap();
        symlink("/proc/self/root/etc/passwd", dir.path().join("files/magic")).unwrap();
        for path in ["../secret", "link", "absolute", "up/secret", "/etc/passwd", "magic", "sub/../../secret"]
        {
            assert!(
                matches!(folder.read(path), Err(FolderError::Outside(_))),
                "{path}: {:?}",
                folder.read(path)
            );
        }
        for path in ["nothing", "a.sh/x"] {
            assert!(matches!(folder.read(path), Err(FolderError::NotFound)), "{path}");
        }
        assert!(matches!(folder.read("sub"), Err(FolderError::NotAFile(_))));
    }

    #[test]
    fn large_file_is_refused() {
        let (dir, folder) = folder();
        let file = File::create(dir.path().join("files/large")).unwrap();
        file.set_len(FILE_MAX).unwrap();
        assert_eq!(folder.read("large").unwrap().len() as u64, FILE_MAX);
        file.set_len(FILE_MAX + 1).unwrap();
        assert!(matches!(folder.read("large"), Err(FolderError::TooLarge(_))));
    }
}
