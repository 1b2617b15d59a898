//! The watch over folders: says when something in them has changed and has come to rest.

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
use tokio::time::{Instant, sleep_until};

use super::scan::is_iso;
use crate::config::Place;
use crate::sys;

/// Nothing more has to have changed for this long: whoever renames several files is done then.
const QUIET: Duration = Duration::from_secs(1);

/// What goes on changing is looked at after this time all the same.
const LONGEST: Duration = Duration::from_secs(10);

/// Room for a hundred events with short names; the longest takes 272 bytes.
const EVENTS: usize = 4096;

/// A watch over the folders of these places.
#[derive(Debug)]
pub struct Watch {
    inotify: AsyncFd<OwnedFd>,
    places: Vec<Place>,
    /// The folders that are watched, by the number of their watch.
    folders: Vec<(i32, PathBuf)>,
    /// When the first change came that was not told yet, and the last.
    pending: Option<(Instant, Instant)>,
}

/// What somebody did, as far as it matters.
struct Event {
    watch: i32,
    flags: ReadFlags,
    name: Option<PathBuf>,
}

impl Watch {
    /// # Errors
    /// What the system says: it has a limit of watchers for each user.
    pub fn new(places: Vec<Place>) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let inotify = sys::readable(inotify)?;
        Ok(Self { inotify, places, folders: Vec::new(), pending: None })
    }

    /// Watches every folder that there is now. Those that cannot be watched are tried again the next time; returns the
    /// first of them and why.
    pub fn renew(&mut self) -> Option<(PathBuf, io::Error)> {
        let mut failed = None;
        let folders: Vec<_> = self.places.iter().map(|place| folder(place).to_owned()).collect();
        for folder in folders {
            match inotify::add_watch(&self.inotify, &folder, interest()) {
                // The same number for a folder that is watched already.
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

    /// Waits until something has changed and come to rest. Nothing is lost when this is dropped before.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let rest = self.pending.map(|(first, last)| (last + QUIET).min(first + LONGEST));
            tokio::select! {
                () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {
                    self.pending = None;
                    return Ok(());
                }
                events = self.inotify.async_io(Interest::READABLE, read) => {
                    events?.iter().for_each(|event| self.take(event));
                }
            }
        }
    }

    fn take(&mut self, event: &Event) {
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

    fn matters(&self, event: &Event) -> bool {
        // The folder itself, or more than there was room for.
        let Some(name) = &event.name else { return true };
        let is_named = |place: &Place| place.path.file_name() == Some(name.as_os_str());
        if !is_iso(name) && !self.places.iter().any(is_named) {
            return false;
        }
        let folder = self.folders.iter().find(|(watch, _)| *watch == event.watch);
        let path = folder.map(|(_, folder)| folder.join(name));
        // A file that begins to be written is not looked at before it is closed. A link is there at once.
        !event.flags.contains(ReadFlags::CREATE) || path.is_none_or(|path| is_complete(&path))
    }
}

/// Where changes of a place show: a folder by itself, a file by the folder it is in.
fn folder(place: &Place) -> &Path {
    let parent = || place.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if place.path.is_dir() { &place.path } else { parent().unwrap_or(Path::new(".")) }
}

fn interest() -> WatchFlags {
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

fn is_complete(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file() || metadata.nlink() > 1)
}

/// The events that are there; `WouldBlock` when there are none.
fn read(inotify: &OwnedFd) -> io::Result<Vec<Event>> {
    let mut room = [MaybeUninit::uninit(); EVENTS];
    let mut reader = inotify::Reader::new(inotify, &mut room);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => {
                let name = event.file_name().map(|name| PathBuf::from(OsStr::from_bytes(name.to_bytes())));
                events.push(Event { watch: event.wd(), flags: event.events(), name });
            }
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
    use crate::boot::menu::Preferences;

    fn place(path: &Path) -> Place {
        Place { path: path.to_owned(), name: None, preferences: Preferences::default() }
    }

    /// How long it took until a change was told, if it was.
    async fn told(watch: &mut Watch) -> Option<Duration> {
        let since = Instant::now();
        let told = tokio::time::timeout(2 * QUIET, watch.changed()).await;
        told.ok().map(|told| {
            told.unwrap();
            since.elapsed()
        })
    }

    #[tokio::test]
    async fn a_change_is_told_once_when_it_has_come_to_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut watch = Watch::new(vec![place(dir.path())]).unwrap();
        assert!(watch.renew().is_none());
        assert!(told(&mut watch).await.is_some(), "what came before the watch");
        assert!(watch.renew().is_none());
        let writing = File::create(path("a.iso")).unwrap();
        fs::write(path("a.txt"), "").unwrap();
        assert_eq!(told(&mut watch).await, None, "it is not written to its end");
        drop(writing);
        fs::rename(path("a.iso"), path("b.iso")).unwrap();
        assert!(told(&mut watch).await.is_some_and(|after| after >= QUIET));
        assert_eq!(told(&mut watch).await, None);
        std::os::unix::fs::symlink(path("b.iso"), path("c.iso")).unwrap();
        assert!(told(&mut watch).await.is_some());
    }

    #[tokio::test]
    async fn a_folder_that_comes_back_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let mut watch = Watch::new(vec![place(&folder.join("a.iso"))]).unwrap();
        assert!(watch.renew().is_none());
        assert!(told(&mut watch).await.is_some());
        fs::remove_dir(&folder).unwrap();
        assert!(told(&mut watch).await.is_some());
        assert_eq!(watch.renew().map(|(missing, _)| missing), Some(folder.clone()));
        fs::create_dir(&folder).unwrap();
        assert!(watch.renew().is_none());
        assert!(told(&mut watch).await.is_some());
        fs::write(folder.join("a.iso"), "").unwrap();
        assert!(told(&mut watch).await.is_some());
    }
}
