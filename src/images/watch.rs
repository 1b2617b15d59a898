//! The watch over folders by inotify(7): tells when their ISOs have changed and no change is in
//! progress.
//!
//! A look at a path may hang: at a network file system whose server does not answer. Meanwhile
//! another thread takes over the tasks of this one.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};

use super::SearchPath;
use super::scan::is_iso;
use crate::sys;

/// Time without another change after which a change is reported: several files may be renamed one
/// after the other.
const QUIET: Duration = Duration::from_secs(1);

/// Longest time until a change is reported, if others keep following it.
const LONGEST: Duration = Duration::from_secs(10);

/// Bytes read at once: a hundred events with short names. The longest event takes 272 bytes.
const EVENTS: usize = 4096;

/// A watch over the folders of search paths.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    inotify: AsyncFd<OwnedFd>,
    paths: Vec<SearchPath>,
    /// The watched folders, by their watch descriptors.
    folders: Vec<(i32, PathBuf)>,
    /// Times of the first and the last change that are not reported yet.
    pending: Option<(Instant, Instant)>,
}

/// An event of inotify(7).
struct FolderEvent {
    watch: i32,
    flags: ReadFlags,
    name: Option<PathBuf>,
}

impl FolderWatch {
    /// Creates a watch that watches no folder yet.
    ///
    /// # Errors
    /// The system's error: it has a limit of inotify instances for each user.
    pub(crate) fn new(paths: Vec<SearchPath>) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let inotify = sys::readable(inotify)?;
        Ok(Self { inotify, paths, folders: Vec::new(), pending: None })
    }

    /// Watches every folder that exists now. Returns the first folder that cannot be watched, and
    /// its error; the next call tries those again. Waits for the disk, in a runtime of several threads.
    pub(crate) fn renew(&mut self) -> Option<(PathBuf, io::Error)> {
        block_in_place(|| self.watch_folders())
    }

    fn watch_folders(&mut self) -> Option<(PathBuf, io::Error)> {
        let mut failed = None;
        let folders: Vec<_> = self.paths.iter().map(|search| folder(&search.path).to_owned()).collect();
        for folder in folders {
            match inotify::add_watch(&self.inotify, &folder, interest()) {
                // A folder that is watched already keeps its descriptor.
                Ok(watch) if self.folders.iter().all(|(known, _)| *known != watch) => {
                    self.folders.push((watch, folder));
                    self.note();
                }
                Ok(_) => {}
                Err(error) => failed = failed.or(Some((folder, error.into()))),
            }
        }
        failed
    }

    /// Waits for a change that is over. Cancel-safe: a change seen before is reported by the next
    /// call.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let rest = self.pending.map(|(first, last)| (last + QUIET).min(first + LONGEST));
            tokio::select! {
                () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {
                    self.pending = None;
                    return Ok(());
                }
                events = self.inotify.async_io(Interest::READABLE, read) => {
                    let events = events?;
                    block_in_place(|| events.iter().for_each(|event| self.take(event)));
                }
            }
        }
    }

    fn take(&mut self, event: &FolderEvent) {
        if event.flags.contains(ReadFlags::IGNORED) {
            self.folders.retain(|(watch, _)| *watch != event.watch);
        }
        if self.matters(event) {
            self.note();
        }
    }

    fn note(&mut self) {
        let now = Instant::now();
        self.pending = Some(self.pending.map_or((now, now), |(first, _)| (first, now)));
    }

    fn matters(&self, event: &FolderEvent) -> bool {
        // An event of the folder itself, or of the queue: events were lost (IN_Q_OVERFLOW).
        let Some(name) = &event.name else { return true };
        let is_named = self.paths.iter().any(|search| search.path.file_name() == Some(name.as_os_str()));
        if !is_iso(name) && !is_named {
            return false;
        }
        let folder = self.folders.iter().find(|(watch, _)| *watch == event.watch);
        let path = folder.map(|(_, folder)| folder.join(name));
        // A file that is created is complete when it is closed (IN_CLOSE_WRITE). A link is complete
        // at once.
        !event.flags.contains(ReadFlags::CREATE) || path.is_none_or(|path| is_complete(&path))
    }
}

/// Returns the folder to watch for a path. A file is watched through its folder, since it is
/// replaced by renaming another one.
fn folder(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if path.is_dir() { path } else { parent.unwrap_or(Path::new(".")) }
}

/// Returns the events to report.
fn interest() -> WatchFlags {
    // IN_ATTRIB: a file whose permissions change may be readable now. IN_ONLYDIR: what replaces a
    // folder and is not a folder is not watched.
    WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
}

/// Tells whether a new entry of a folder needs no IN_CLOSE_WRITE: a link, or not a file.
fn is_complete(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file() || metadata.nlink() > 1)
}

/// Reads the pending events; `WouldBlock` if there are none.
fn read(inotify: &OwnedFd) -> io::Result<Vec<FolderEvent>> {
    let mut room = [MaybeUninit::uninit(); EVENTS];
    let mut reader = inotify::Reader::new(inotify, &mut room);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes())));
                events.push(FolderEvent { watch: event.wd(), flags: event.events(), name });
            }
            // A signal arrived (signal(7)).
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if !events.is_empty() => return Ok(events),
            Err(error) => return Err(error.into()),
        }
        if reader.is_buffer_empty() {
            return Ok(events);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn watch(path: &Path) -> FolderWatch {
        FolderWatch::new(vec![SearchPath { path: path.to_owned(), name: None }]).unwrap()
    }

    /// Waits for the report of a change, and returns how long that took.
    async fn reported(watch: &mut FolderWatch) -> Option<Duration> {
        let since = Instant::now();
        let report = tokio::time::timeout(2 * QUIET, watch.changed()).await;
        report.ok().map(|changed| {
            changed.unwrap();
            since.elapsed()
        })
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn change_is_reported_when_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut watch = watch(dir.path());
        assert!(watch.renew().is_none());
        assert!(reported(&mut watch).await.is_some(), "changes before the watch");
        assert!(watch.renew().is_none());
        let writing = File::create(path("a.iso")).unwrap();
        fs::write(path("a.txt"), "").unwrap();
        assert_eq!(reported(&mut watch).await, None, "the file is still being written");
        drop(writing);
        fs::rename(path("a.iso"), path("b.iso")).unwrap();
        assert!(reported(&mut watch).await.is_some_and(|after| after >= QUIET));
        assert_eq!(reported(&mut watch).await, None);
        std::os::unix::fs::symlink(path("b.iso"), path("c.iso")).unwrap();
        assert!(reported(&mut watch).await.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn recreated_folder_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let mut watch = watch(&folder.join("a.iso"));
        assert!(watch.renew().is_none());
        assert!(reported(&mut watch).await.is_some());
        fs::remove_dir(&folder).unwrap();
        assert!(reported(&mut watch).await.is_some());
        assert_eq!(watch.renew().map(|(missing, _)| missing), Some(folder.clone()));
        fs::create_dir(&folder).unwrap();
        assert!(watch.renew().is_none());
        assert!(reported(&mut watch).await.is_some());
        fs::write(folder.join("a.iso"), "").unwrap();
        assert!(reported(&mut watch).await.is_some());
    }
}
