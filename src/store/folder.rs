//! The cache folder: for each object a file of its blocks and a ledger, and a lock that tells other
//! processes that the folder is in use.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Formatter};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::budget::Budget;
use super::cache::{self, BlockCache, Files};
use super::fetcher::Fetcher;
use super::ledger::{self, HEAD_LEN};
use super::object::{Fetch, Object};
use crate::locked::locked;

/// Name of the file that is locked. It holds the number of the process.
const LOCK: &str = "lock";

/// Ends of the names of an object's files.
const BLOCKS: &str = "blocks";
const LEDGER: &str = "ledger";

/// End of the name of a ledger that is being made.
const NEW: &str = "new";

/// Error of a cache folder that cannot be used.
#[derive(Debug)]
pub(crate) struct FolderError {
    folder: PathBuf,
    fault: FolderFault,
}

#[derive(Debug)]
enum FolderFault {
    /// The number of the process that has it, if that is known.
    InUse(Option<u32>),
    Io(io::Error),
}

impl Display for FolderError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let folder = self.folder.display();
        match &self.fault {
            FolderFault::InUse(process) => {
                write!(f, "cache folder {folder} is used by another isowire")?;
                process.map_or(Ok(()), |process| write!(f, " (process {process})"))?;
                write!(f, ": stop it, or give each its own `cache-dir`")
            }
            FolderFault::Io(error) => {
                write!(f, "cache folder {folder} cannot be used: {error}: give another `cache-dir`")
            }
        }
    }
}

impl std::error::Error for FolderError {}

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
    sharing: Mutex<Sharing>,
    open: Mutex<HashMap<String, Weak<BlockCache>>>,
    fetcher: Arc<Fetcher>,
    budget: Arc<Budget>,
}

/// Use of the folder by this process and another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    /// Another process has it, or may have it.
    Shared,
}

impl Folder {
    /// Opens the folder. `takes_over` permits that another process has it too, if that one does.
    pub(super) fn open(
        path: &Path,
        limit: u64,
        fetch: Arc<dyn Fetch>,
        takes_over: bool,
    ) -> Result<Self, FolderError> {
        let error = |fault| FolderError { folder: path.to_owned(), fault };
        let lock = open_lock(path).map_err(|e| error(FolderFault::Io(e)))?;
        let sharing = lock_folder(&lock, takes_over).map_err(error)?;
        let removed_from = path.to_owned();
        let budget = Budget::new(limit, Box::new(move |key| remove(&removed_from, key)));
        budget.set_shared(sharing == Sharing::Shared);
        let folder = Self {
            path: path.to_owned(),
            lock,
            sharing: Mutex::new(sharing),
            open: Mutex::default(),
            fetcher: Arc::new(Fetcher::new(fetch)),
            budget: Arc::new(budget),
        };
        folder.take_stock(sharing).map_err(|e| error(FolderFault::Io(e)))?;
        Ok(folder)
    }

    /// Counts the files that are there, and removes what belongs to no ledger.
    fn take_stock(&self, sharing: Sharing) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let (Some(key), Some(end)) = (path.file_stem(), path.extension()) else { continue };
            let key = key.to_string_lossy();
            if end == LEDGER
                && let (Ok(ledger), Ok(blocks)) = (path.metadata(), self.file(&key, BLOCKS).metadata())
            {
                let last = ledger.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                // stat(2): in units of 512 bytes.
                self.budget.found(&key, blocks.blocks() * 512, last);
            } else if sharing == Sharing::Alone && (end == NEW || (end == BLOCKS && !self.has(&key, LEDGER)))
            {
                // It was being made when its process was killed.
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }

    fn file(&self, key: &str, end: &str) -> PathBuf {
        file(&self.path, key, end)
    }

    fn has(&self, key: &str, end: &str) -> bool {
        self.file(key, end).exists()
    }

    /// Returns the objects that the folder has files of; for each address the one used last.
    pub(super) fn known(&self, prefix: &str) -> Vec<Object> {
        let mut known: BTreeMap<String, (SystemTime, Object)> = BTreeMap::new();
        for path in fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|end| end != LEDGER) {
                continue;
            }
            let Some((last, object)) = read_object(&path) else { continue };
            let is_newer = known.get(&object.url).is_none_or(|(other, _)| *other < last);
            if object.url.starts_with(prefix) && is_newer {
                known.insert(object.url.clone(), (last, object));
            }
        }
        known.into_values().map(|(_, object)| object).collect()
    }

    /// Returns the cache of an object: the open one, or one that is opened or made now.
    pub(super) fn cache_of(&self, object: &Object) -> io::Result<Arc<BlockCache>> {
        let key = key_of(object);
        let mut open = locked(&self.open);
        open.retain(|_, cache| cache.strong_count() > 0);
        if let Some(cache) = open.get(&key).and_then(Weak::upgrade) {
            return Ok(cache);
        }
        let cache = Arc::new(self.budget.opened(&key, || self.open_cache(&key, object))?);
        // A file system without holes gives no space back, and nothing else changes.
        self.budget.while_alone(|| drop(cache.punch_unrecorded()));
        // The type is known only here.
        let evicted: Arc<dyn super::budget::Evict> = Arc::clone(&cache) as _;
        self.budget.watch(Arc::downgrade(&evicted));
        open.insert(key, Arc::downgrade(&cache));
        Ok(cache)
    }

    fn open_cache(&self, key: &str, object: &Object) -> io::Result<(BlockCache, u64)> {
        let files = match self.open_files(key, object)? {
            Some(files) => files,
            None => self.make_files(key, object)?,
        };
        let records = cache::read_records(&files.ledger, object)?;
        // The time tells which object of an address was used last.
        let _ = files.ledger.set_modified(SystemTime::now());
        let (fetcher, budget) = (Arc::clone(&self.fetcher), Arc::clone(&self.budget));
        let cache = BlockCache::new(object.clone(), key.to_owned(), files, &records, fetcher, budget);
        let held = cache.held();
        Ok((cache, held))
    }

    /// Opens the files of an object; `None` if there are none that can be used.
    fn open_files(&self, key: &str, object: &Object) -> io::Result<Option<Files>> {
        let open = |end| match OpenOptions::new().read(true).write(true).open(self.file(key, end)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some),
        };
        let (Some(ledger), Some(blocks)) = (open(LEDGER)?, open(BLOCKS)?) else { return Ok(None) };
        let mut head = vec![0; HEAD_LEN];
        let is_whole = ledger.read_exact_at(&mut head, 0).is_ok() && blocks.metadata()?.len() == object.size;
        let is_its = is_whole && ledger::parse_head(&head).as_ref() == Ok(object);
        Ok(is_its.then_some(Files { blocks, ledger }))
    }

    /// Makes new files of an object in the place of those that there may be.
    ///
    /// Another process, which takes over or is taken over from, may make them too. So no file that
    /// is there is changed: each process goes on with the files that it made itself, and blocks of
    /// the one and a ledger of the other are found to differ at the next start.
    fn make_files(&self, key: &str, object: &Object) -> io::Result<Files> {
        let head = ledger::emit_head(object).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        remove(&self.path, key);
        let blocks = create(&self.file(key, BLOCKS))?;
        blocks.set_len(object.size)?;
        // A ledger is there with its head, or not at all.
        let new = self.file(&format!("{key}-{}", std::process::id()), NEW);
        let _ = fs::remove_file(&new);
        let mut ledger = create(&new)?;
        ledger.write_all(&head)?;
        ledger.set_len(ledger::record_offset(ledger::blocks_of(object.size)))?;
        fs::rename(&new, self.file(key, LEDGER))?;
        Ok(Files { blocks, ledger })
    }

    pub(super) fn set_shared(&self, is_shared: bool) {
        let mut sharing = locked(&self.sharing);
        match (*sharing, is_shared) {
            (Sharing::Alone, true) => {
                self.budget.set_shared(true);
                // flock(2): the lock becomes one that others may have too.
                if let Err(error) = flock(&self.lock, FlockOperation::NonBlockingLockShared) {
                    warn!("cache folder not shared with the process that takes over: {error}");
                }
                *sharing = Sharing::Shared;
            }
            (Sharing::Shared, false) => {
                if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                    // flock(2): the lock that this process had may be lost by that.
                    let _ = flock(&self.lock, FlockOperation::NonBlockingLockShared);
                    return;
                }
                write_process(&self.lock);
                *sharing = Sharing::Alone;
                drop(sharing);
                self.is_alone_again();
            }
            _ => {}
        }
    }

    /// Takes in the blocks that the other process fetched, and evicts again.
    fn is_alone_again(&self) {
        let caches: Vec<_> = locked(&self.open).values().filter_map(Weak::upgrade).collect();
        caches.iter().for_each(|cache| cache.read_ledger_again());
        self.budget.set_shared(false);
        self.budget.take(0);
    }
}

/// Opens the lock file, in a folder that is made if it is not there.
fn open_lock(folder: &Path) -> io::Result<File> {
    // What is in an image may be for some machines only.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(folder.join(LOCK))
}

fn lock_folder(lock: &File, takes_over: bool) -> Result<Sharing, FolderFault> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            write_process(lock);
            return Ok(Sharing::Alone);
        }
        Err(error) if error != Errno::WOULDBLOCK => return Err(FolderFault::Io(error.into())),
        Err(_) => {}
    }
    if takes_over && flock(lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return Ok(Sharing::Shared);
    }
    Err(FolderFault::InUse(read_process(lock)))
}

/// Writes the number of this process into the lock file, for the error of another.
fn write_process(lock: &File) {
    let text = format!("{}\n", std::process::id());
    let _ = lock.set_len(0).and_then(|()| lock.write_all_at(text.as_bytes(), 0));
}

fn read_process(lock: &File) -> Option<u32> {
    let mut text = String::new();
    lock.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Returns the object of a ledger, and when that was used.
fn read_object(path: &Path) -> Option<(SystemTime, Object)> {
    let ledger = File::open(path).ok()?;
    let mut head = vec![0; HEAD_LEN];
    ledger.read_exact_at(&mut head, 0).ok()?;
    Some((ledger.metadata().ok()?.modified().ok()?, ledger::parse_head(&head).ok()?))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn file(folder: &Path, key: &str, end: &str) -> PathBuf {
    folder.join(format!("{key}.{end}"))
}

/// Removes the files of an object. The ledger goes first: blocks without one are not used.
fn remove(folder: &Path, key: &str) {
    for end in [LEDGER, BLOCKS] {
        match fs::remove_file(file(folder, key, end)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(file = format!("{key}.{end}"), "cache file not removed: {error}");
            }
            _ => {}
        }
    }
}

/// Returns the name of an object's files: any address makes a safe one.
fn key_of(object: &Object) -> String {
    let mut hash = Sha256::new();
    hash.update(object.url.as_bytes());
    hash.update([0]);
    hash.update(object.etag.as_bytes());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
