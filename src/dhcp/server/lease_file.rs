//! Lease file: events are appended, and from time to time the whole file is rewritten.
//!
//! A thread writes, so that no reply waits for a disk. A crash can lose the last lines. The
//! machine then gets the same address again, since that follows from its hardware address.
//!
//! After a failed write nothing is appended, since half a line may stand at the end. The next
//! rewrite has all leases, also those that were granted meanwhile.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::dhcp::lease::{Event, UnixTime};
use crate::dhcp::session::ServerRole;

/// First line of the file, for a person who opens it.
const HEAD: &str = "# Leases of isowire, one event a line; the last of an address holds.\n";
/// Lines appended before a rewrite, besides four for each lease.
const SLACK: usize = 1000;
/// Jobs that wait for a slow disk. If more come, they are dropped; the next rewrite has them all.
const QUEUE: usize = 4096;
/// Shortest time between two rewrites after a failure: a full disk may stay full for hours.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Work of the writer.
#[derive(Debug)]
enum Job {
    Append(String),
    /// Replace the whole file.
    Rewrite(String),
}

/// Open lease file.
#[derive(Debug)]
pub(super) struct LeaseFile {
    queue: mpsc::Sender<Job>,
    /// Tells that the writer has written all.
    writer: oneshot::Receiver<()>,
    appended: usize,
    /// Set by the writer: a job was not written.
    has_failed: Arc<AtomicBool>,
    /// True while the file lacks events.
    is_behind: bool,
    last_rewrite: Instant,
    /// Held until the file is closed; `None` if the disk had no room for it.
    _lock: Option<File>,
}

impl LeaseFile {
    /// Reads the file into `server_role` and rewrites it. Creates the file and its directory if
    /// they do not exist. A full disk is a warning: the file is written when there is room.
    ///
    /// # Errors
    /// `WouldBlock` if another server has the file, and errors of reading and writing. They show at
    /// start, before the first lease.
    pub(super) fn open(path: &Path, server_role: &mut ServerRole, now: UnixTime) -> io::Result<Self> {
        let prepared = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| lock(path));
        let lock = unless_full(path, prepared)?;
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let unreadable = server_role.replay_text(&String::from_utf8_lossy(&bytes), now);
        if unreadable > 0 {
            warn!(file = %path.display(), "lease file: {unreadable} unreadable lines skipped");
        }
        // A start drops the leases that have ended, and shows whether the file can be written.
        let file = unless_full(path, rewrite(path, &snapshot(server_role)))?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (path, is_behind) = (path.to_owned(), file.is_none());
        let has_failed = Arc::new(AtomicBool::new(false));
        let writer = Writer { path, file, has_failed: Arc::clone(&has_failed) };
        let writer = writer.start(jobs)?;
        let last_rewrite = Instant::now();
        Ok(Self { queue, writer, appended: 0, has_failed, is_behind, last_rewrite, _lock: lock })
    }

    /// Queues the events, or a rewrite if the file has grown far beyond the leases or lacks events.
    /// Call it at intervals, with or without events.
    pub(super) fn record(&mut self, events: &[Event], server_role: &ServerRole, now: Instant) {
        if self.lacks_events() {
            if now.saturating_duration_since(self.last_rewrite) >= RETRY_AFTER {
                self.rewrite(server_role, now);
            }
            return;
        }
        if events.is_empty() {
            return;
        }
        self.appended += events.len();
        if self.appended > SLACK + 4 * server_role.len() {
            self.rewrite(server_role, now);
        } else {
            self.send(Job::Append(events.iter().map(line).collect()));
        }
    }

    fn lacks_events(&mut self) -> bool {
        self.is_behind |= self.has_failed.swap(false, Ordering::Relaxed);
        self.is_behind
    }

    fn rewrite(&mut self, server_role: &ServerRole, now: Instant) {
        (self.appended, self.is_behind, self.last_rewrite) = (0, false, now);
        self.send(Job::Rewrite(snapshot(server_role)));
    }

    fn send(&mut self, job: Job) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(job) {
            self.is_behind = true;
        }
    }

    /// Waits until all jobs are written; writes the leases that the file lacks.
    pub(super) async fn close(mut self, server_role: &ServerRole) {
        if self.lacks_events() {
            self.rewrite(server_role, Instant::now());
        }
        drop(self.queue);
        if self.writer.await.is_err() {
            error!("lease file not written to its end: its writer failed");
        }
    }
}

fn line(event: &Event) -> String {
    format!("{event}\n")
}

fn snapshot(server_role: &ServerRole) -> String {
    let lines = server_role.snapshot().map(|event| line(&event));
    std::iter::once(HEAD.to_owned()).chain(lines).collect()
}

/// State of the thread that writes.
struct Writer {
    path: PathBuf,
    /// `None` after a failure, until the next rewrite.
    file: Option<File>,
    has_failed: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread. Returns what tells its end.
    fn start(self, jobs: mpsc::Receiver<Job>) -> io::Result<oneshot::Receiver<()>> {
        let (done, ended) = oneshot::channel();
        let run = move || {
            self.run(jobs);
            let _ = done.send(());
        };
        match thread::Builder::new().name("isowire-leases".into()).spawn(run) {
            Ok(_) => Ok(ended),
            Err(error) => {
                let text =
                    format!("no thread can be started for it: {error}; raise `TasksMax=` or `ulimit -u`");
                Err(io::Error::new(error.kind(), text))
            }
        }
    }

    /// Writes jobs until the queue is closed.
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let was_failing = self.file.is_none();
            let written = match job {
                Job::Rewrite(text) => rewrite(&self.path, &text).map(|file| self.file = Some(file)),
                Job::Append(lines) => {
                    self.file.as_mut().map_or(Ok(()), |file| file.write_all(lines.as_bytes()))
                }
            };
            if let Err(error) = written {
                // Half a line may stand at its end.
                self.file = None;
                // Logged once, not for each lease.
                if !was_failing {
                    let file = self.path.display();
                    warn!(%file, "lease file not written: {error}; leases are written when that is mended");
                }
            } else if was_failing && self.file.is_some() {
                info!(file = %self.path.display(), "lease file written again");
            }
            if self.file.is_none() {
                self.has_failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Returns `None` with a warning for a full disk.
fn unless_full<T>(path: &Path, written: io::Result<T>) -> io::Result<Option<T>> {
    match written {
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            warn!(file = %path.display(), "lease file not written: {error}; make room, and it is written then");
            Ok(None)
        }
        written => written.map(Some),
    }
}

/// Locks the file for this server. The lock is on a file beside it, since a rewrite replaces the
/// file itself. The kernel ends the lock with the process (flock(2)).
fn lock(path: &Path) -> io::Result<File> {
    let lock = File::options().write(true).create(true).truncate(false).open(beside(path, ".lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            ErrorKind::WouldBlock,
            "another server has it; stop that one, or name another `lease-file`",
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Replaces the file as a whole, and returns the new one open at its end.
fn rewrite(path: &Path, text: &str) -> io::Result<File> {
    let new = beside(path, ".new");
    let written = write_new(&new, text).and_then(|file| fs::rename(&new, path).map(|()| file));
    if written.is_err() {
        // It would take the room that the next one needs.
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, text: &str) -> io::Result<File> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    // On the disk before it gets the name: a crash then leaves the old file or the new one.
    file.sync_all()?;
    Ok(file)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::dhcp::lease::Leases;
    use crate::dhcp::session::{Network, Subnet};
    use crate::dhcp::wire::HardwareAddress;

    const NOW: UnixTime = UnixTime(1_700_000_000);

    /// Leases 10.0.0.1 to .9 and 10.0.1.1 to .9.
    fn server_role() -> ServerRole {
        let subnet = |n| {
            let netmask = Some(Ipv4Addr::new(255, 255, 255, 0));
            let network = Network { address: Ipv4Addr::new(10, 0, n, 1), netmask, router: None, dns: vec![] };
            let pool = format!("10.0.{n}.1-10.0.{n}.9").parse().unwrap();
            Subnet::new(network, Leases::new(pool, 3600, &[]))
        };
        ServerRole::new(vec![subnet(0), subnet(1)])
    }

    fn claim(server_role: &mut ServerRole, n: u8) {
        for (network, subnet) in (0..).zip(&mut server_role.subnets) {
            let machine = HardwareAddress::ethernet([n; 6]);
            subnet.leases.claim(machine, Ipv4Addr::new(10, 0, network, n), NOW).unwrap();
        }
    }

    #[tokio::test]
    async fn lease_file_keeps_leases_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/leases");
        let mut before = server_role();
        let mut file = LeaseFile::open(&path, &mut before, NOW).unwrap();
        claim(&mut before, 1);
        file.record(&before.take_events(), &before, Instant::now());
        claim(&mut before, 2);
        file.record(&before.take_events(), &before, Instant::now());
        file.close(&before).await;
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"lease 10.0.0.3 03:0").unwrap();

        let mut after = server_role();
        LeaseFile::open(&path, &mut after, NOW).unwrap().close(&after).await;
        assert_eq!(after.len(), 4);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(HEAD) && !text.contains("10.0.0.3"), "{text}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "only the lock is beside it");
    }

    #[tokio::test]
    async fn lease_file_is_rewritten_when_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut server_role = server_role();
        let mut file = LeaseFile::open(&path, &mut server_role, NOW).unwrap();
        for _ in 0..3 * SLACK {
            claim(&mut server_role, 1);
            file.record(&server_role.take_events(), &server_role, Instant::now());
            // The queue takes no more than a slow disk may hold up.
            while file.queue.capacity() < QUEUE {
                tokio::task::yield_now().await;
            }
        }
        file.close(&server_role).await;
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < SLACK + 10, "{lines} lines for two leases");
    }

    #[test]
    fn unwritable_lease_file_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let missing = Path::new("/proc/no/such/directory/leases");
        assert!(LeaseFile::open(missing, &mut server_role(), NOW).is_err());
    }

    #[tokio::test]
    async fn two_servers_do_not_share_a_lease_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut server_role = server_role();
        let first = LeaseFile::open(&path, &mut server_role, NOW).unwrap();
        let error = LeaseFile::open(&path, &mut server_role, NOW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        first.close(&server_role).await;
        LeaseFile::open(&path, &mut server_role, NOW).unwrap().close(&server_role).await;
    }

    /// A rewrite fails while a directory has the name of the new file.
    #[tokio::test]
    async fn leases_of_a_failure_are_written_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, obstacle) = (dir.path().join("leases"), dir.path().join("leases.new"));
        let mut role = server_role();
        let mut file = LeaseFile::open(&path, &mut role, NOW).unwrap();
        fs::create_dir(&obstacle).unwrap();
        claim(&mut role, 1);
        let mut now = Instant::now();
        role.take_events();
        file.rewrite(&role, now);
        while !file.has_failed.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        claim(&mut role, 2);
        file.record(&role.take_events(), &role, now);
        assert!(!fs::read_to_string(&path).unwrap().contains("10.0.0."), "nothing behind half a line");
        fs::remove_dir(&obstacle).unwrap();
        now += RETRY_AFTER;
        file.record(&[], &role, now);
        claim(&mut role, 3);
        file.record(&role.take_events(), &role, now);
        file.close(&role).await;
        let mut after = server_role();
        LeaseFile::open(&path, &mut after, NOW).unwrap().close(&after).await;
        assert_eq!(after.len(), 6, "before, in and after the failure");
    }

    #[tokio::test]
    async fn leases_of_a_failure_are_written_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut role = server_role();
        let mut file = LeaseFile::open(&path, &mut role, NOW).unwrap();
        claim(&mut role, 1);
        role.take_events();
        file.is_behind = true;
        file.record(&[], &role, Instant::now());
        file.close(&role).await;
        assert!(fs::read_to_string(&path).unwrap().contains("10.0.0.1"));
    }
}
