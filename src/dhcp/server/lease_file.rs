//! Lease file: events are appended, and from time to time the whole file is rewritten.
//!
//! A blocking task writes, so that no reply waits for a disk. A crash can lose the last lines. The
//! machine then gets the same address again, since that follows from its hardware address.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::dhcp::lease::{Event, UnixTime};
use crate::dhcp::session::ServerRole;

/// First line of the file, for a person who opens it.
const HEAD: &str = "# Leases of isowire, one event a line; the last of an address holds.\n";
/// Lines appended before a rewrite, besides four for each lease.
const SLACK: usize = 1000;
/// Jobs that wait for a slow disk. If more come, they are dropped; the next rewrite has them all.
const QUEUE: usize = 4096;

/// Task of the writer.
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
    writer: JoinHandle<()>,
    appended: usize,
}

impl LeaseFile {
    /// Reads the file into `server_role` and rewrites it. Creates the file and its directory if they do
    /// not exist.
    ///
    /// # Errors
    /// Errors of reading and writing. They show at start, before the first lease.
    pub(super) fn open(path: &Path, server_role: &mut ServerRole, now: UnixTime) -> io::Result<Self> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let unreadable = server_role.replay_text(&String::from_utf8_lossy(&bytes), now);
        if unreadable > 0 {
            warn!(file = %path.display(), "lease file: {unreadable} unreadable lines skipped");
        }
        // A start drops the leases that have ended, and shows whether the file can be written.
        let file = rewrite(path, &snapshot(server_role))?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let path = path.to_owned();
        let writer = tokio::task::spawn_blocking(move || write_all(&path, file, jobs));
        Ok(Self { queue, writer, appended: 0 })
    }

    /// Queues the events, or a rewrite if the file has grown far beyond the leases.
    pub(super) fn record(&mut self, events: &[Event], server_role: &ServerRole) {
        if events.is_empty() {
            return;
        }
        self.appended += events.len();
        let job = if self.appended > SLACK + 4 * server_role.len() {
            self.appended = 0;
            Job::Rewrite(snapshot(server_role))
        } else {
            Job::Append(events.iter().map(line).collect())
        };
        if let Err(TrySendError::Full(_)) = self.queue.try_send(job) {
            // The file lacks these events: makes the next job a rewrite.
            self.appended = usize::MAX / 2;
        }
    }

    /// Waits until all jobs are written.
    pub(super) async fn close(self) {
        drop(self.queue);
        if let Err(failed) = self.writer.await {
            error!("lease file writer failed: {failed}");
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

/// Writes jobs until the queue is closed.
fn write_all(path: &Path, mut file: File, mut jobs: mpsc::Receiver<Job>) {
    let mut is_failing = false;
    while let Some(job) = jobs.blocking_recv() {
        let written = match job {
            Job::Append(lines) => file.write_all(lines.as_bytes()),
            Job::Rewrite(text) => rewrite(path, &text).map(|new| file = new),
        };
        match written {
            Ok(()) => is_failing = false,
            // Logged once, not for each lease.
            Err(error) if !std::mem::replace(&mut is_failing, true) => {
                warn!(file = %path.display(), "lease file not written: {error}; leases end at the next start");
            }
            Err(_) => {}
        }
    }
}

/// Replaces the file as a whole, and returns the new one open at its end.
fn rewrite(path: &Path, text: &str) -> io::Result<File> {
    let beside = beside(path);
    let mut file = File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    // On the disk before it gets the name: a crash then leaves the old file or the new one.
    file.sync_all()?;
    fs::rename(&beside, path)?;
    Ok(file)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
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
        file.record(&before.take_events(), &before);
        claim(&mut before, 2);
        file.record(&before.take_events(), &before);
        file.close().await;
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"lease 10.0.0.3 03:0").unwrap();

        let mut after = server_role();
        LeaseFile::open(&path, &mut after, NOW).unwrap().close().await;
        assert_eq!(after.len(), 4);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(HEAD) && !text.contains("10.0.0.3"), "{text}");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn lease_file_is_rewritten_when_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let mut server_role = server_role();
        let mut file = LeaseFile::open(&path, &mut server_role, NOW).unwrap();
        for _ in 0..3 * SLACK {
            claim(&mut server_role, 1);
            file.record(&server_role.take_events(), &server_role);
            // The queue takes no more than a slow disk may hold up.
            while file.queue.capacity() < QUEUE {
                tokio::task::yield_now().await;
            }
        }
        file.close().await;
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
}
