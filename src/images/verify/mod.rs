//! Verification of images before they are offered: the root file system against the checksum beside
//! it, and against a CMS signature if the operator gives the certificate of its signer.
//!
//! A scan [admits](Verifications::admit) the images that are verified. For the others a thread reads
//! the whole root file system, and the next scan admits them. An image that is served already, and
//! whose file was touched or comes from another process, goes on meanwhile.

mod content;
mod quiet_file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, info};

use self::content::{Progress, VerifyFailure};
use super::served::Verified;
use super::stamp::Stamp;
use super::{ImageSet, ServedImage};
use crate::image::Image;
use crate::locked::locked;
use crate::panics;
use crate::sys;
use crate::x509::TrustedCertificates;

/// Niceness of the thread: connections go first.
const NICENESS: i32 = 19;

/// What images are verified by.
#[derive(Debug, Clone, Default)]
pub(crate) struct VerifyPolicy {
    /// Certificates of signers and authorities; `None` verifies checksums only.
    pub(crate) certificates: Option<TrustedCertificates>,
}

impl VerifyPolicy {
    /// Returns a number that is another one for each policy.
    fn fingerprint(&self) -> [u8; 32] {
        self.certificates.as_ref().map(TrustedCertificates::fingerprint).unwrap_or_default()
    }
}

/// Compares the root file systems of an image with the checksums beside them, where it has both.
///
/// # Errors
/// That of reading the image.
pub(super) fn is_intact(image: &Image) -> io::Result<bool> {
    let (read, is_stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let progress = Progress { read: &read, is_stopped: &is_stopped };
    match content::verify(image, &VerifyPolicy::default(), progress) {
        Ok(_) | Err(VerifyFailure::NotArchiso | VerifyFailure::NoChecksum { .. }) => Ok(true),
        Err(VerifyFailure::Unread(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Err(_) => Ok(false),
    }
}

/// The verifications of a server: those under way, and those of the files that the last scan found.
#[derive(Debug)]
pub(crate) struct Verifications {
    policy: VerifyPolicy,
    fingerprint: [u8; 32],
    table: Mutex<Table>,
    /// Wakes the thread.
    added: Condvar,
    /// Wakes the task that keeps the images up to date.
    changed: Notify,
    is_paused: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    /// Events that were not taken yet.
    events: Vec<VerifyEvent>,
}

/// The verification of a file in one state.
#[derive(Debug)]
struct Entry {
    name: String,
    path: PathBuf,
    stamp: Stamp,
    /// `None` once the verification failed.
    image: Option<Arc<ServedImage>>,
    state: State,
    /// Bytes to read.
    size: u64,
    read: Arc<AtomicU64>,
    /// The last scan found the file in this state.
    is_there: bool,
}

#[derive(Debug)]
enum State {
    Waiting,
    Running,
    Verified,
    /// A failure that the same file has again is final; a disk may be well again.
    Failed {
        why: String,
        is_final: bool,
        is_reported: bool,
    },
}

/// A file that failed its verification.
pub(super) struct Refusal {
    pub(super) stamp: Stamp,
    pub(super) why: String,
    pub(super) is_final: bool,
}

/// Event of a verification, for the log.
#[derive(Debug)]
pub(crate) enum VerifyEvent {
    Begun {
        image: String,
        path: PathBuf,
        size: u64,
    },
    Verified {
        image: String,
        path: PathBuf,
        signer: Option<String>,
        elapsed: Duration,
    },
    /// The next scan reports why.
    Failed,
}

/// State of a verification, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerifyReport {
    pub(crate) image: String,
    pub(crate) path: PathBuf,
    pub(crate) state: VerifyState,
    /// Bytes to read, and bytes read.
    pub(crate) size: u64,
    pub(crate) read: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VerifyState {
    Waiting,
    Verifying,
    Verified,
    Failed(String),
}

/// An image that the thread is to verify.
struct Job {
    image: Arc<ServedImage>,
    stamp: Stamp,
    read: Arc<AtomicU64>,
}

impl VerifyEvent {
    /// Tells whether a verification has ended.
    pub(crate) const fn is_end(&self) -> bool {
        !matches!(self, Self::Begun { .. })
    }

    /// Logs the event.
    pub(crate) fn log(&self) {
        match self {
            Self::Begun { image, path, size } => {
                info!(image, path = %path.display(), bytes = size, "image verification begun")
            }
            Self::Verified { image, path, signer, elapsed } => {
                let (path, seconds) = (path.display(), elapsed.as_secs_f32());
                match signer {
                    Some(signer) => info!(
                        image, %path, seconds,
                        "image verified: its root file system has its checksum, and is signed by `{signer}`"
                    ),
                    None => {
                        info!(image, %path, seconds, "image verified: its root file system has its checksum")
                    }
                }
            }
            Self::Failed => {}
        }
    }
}

impl Verifications {
    /// Starts the thread that verifies images. It ends with the process.
    ///
    /// # Errors
    /// The error of starting a thread.
    pub(crate) fn start(policy: VerifyPolicy) -> io::Result<Arc<Self>> {
        let verifications = Arc::new(Self::new(policy));
        verifications.go_on()?;
        Ok(verifications)
    }

    /// Ends the thread, and waits for that. What it was verifying waits.
    ///
    /// A thread keeps the privileges that the others give up.
    pub(crate) fn pause(&self) {
        let thread = locked(&self.thread).take();
        // Under the lock, so that the thread is not about to wait.
        let table = self.table();
        self.is_paused.store(true, Ordering::Relaxed);
        drop(table);
        self.added.notify_all();
        // A panic is caught inside the thread.
        let _ = thread.map(JoinHandle::join);
    }

    /// Starts the thread, also after a pause.
    ///
    /// # Errors
    /// The error of starting a thread.
    pub(crate) fn go_on(self: &Arc<Self>) -> io::Result<()> {
        self.is_paused.store(false, Ordering::Relaxed);
        let verifications = Arc::clone(self);
        let thread = thread::Builder::new().name("verify".to_owned()).spawn(move || verifications.run())?;
        *locked(&self.thread) = Some(thread);
        Ok(())
    }

    fn new(policy: VerifyPolicy) -> Self {
        let fingerprint = policy.fingerprint();
        let (table, added, changed, is_paused, thread) = Default::default();
        Self { policy, fingerprint, table, added, changed, is_paused, thread }
    }

    /// Waits for an event.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns the events since the last call.
    pub(crate) fn take_events(&self) -> Vec<VerifyEvent> {
        std::mem::take(&mut self.table().events)
    }

    /// Reports the files that the last scan found, in the order in which they are verified.
    pub(crate) fn report(&self) -> Vec<VerifyReport> {
        self.table().entries.iter().map(Entry::report).collect()
    }

    /// Tells whether the verification of an image of this name is not over.
    pub(crate) fn is_pending(&self, name: &str) -> bool {
        self.table().entries.iter().any(|entry| entry.is_pending() && entry.name == name)
    }

    /// Tells whether the verification of any image is not over.
    pub(crate) fn is_busy(&self) -> bool {
        self.table().entries.iter().any(Entry::is_pending)
    }

    /// Tells whether a file could not be read, and another scan would have it read again.
    pub(crate) fn has_unread(&self) -> bool {
        let table = self.table();
        table.entries.iter().any(|entry| matches!(entry.state, State::Failed { is_final: false, .. }))
    }

    /// Returns why a file in this state is not offered, if its verification failed.
    pub(super) fn refusal(&self, path: &Path, stamp: Stamp) -> Option<Refusal> {
        let mut table = self.table();
        let entry = table.entries.iter_mut().find(|entry| entry.is_of(path, stamp))?;
        let State::Failed { why, is_final, is_reported } = &mut entry.state else { return None };
        // Another scan has it verified again.
        if !*is_final && std::mem::replace(is_reported, true) {
            return None;
        }
        entry.is_there = true;
        Some(Refusal { stamp, why: why.clone(), is_final: *is_final })
    }

    /// Returns the images that are open for their verification.
    pub(super) fn images(&self) -> Vec<Arc<ServedImage>> {
        self.table().entries.iter().filter_map(|entry| entry.image.clone()).collect()
    }

    /// Returns the images that may be offered, of those that a scan opened. The others are verified
    /// now, and the image that was opened from their file before takes their place.
    pub(super) fn admit(
        &self,
        opened: Vec<Arc<ServedImage>>,
        current: Option<&ImageSet>,
    ) -> Vec<Arc<ServedImage>> {
        let mut table = self.table();
        let mut admitted = Vec::new();
        for image in opened {
            if table.take(&image, self.fingerprint) {
                admitted.push(image);
            } else {
                // A touched image, or one from another process, is served already.
                let served = current.and_then(|set| set.by_path(image.path()));
                admitted.extend(served.filter(|old| old.name == image.name).cloned());
            }
        }
        table.entries.retain_mut(|entry| std::mem::take(&mut entry.is_there));
        drop(table);
        self.added.notify_one();
        admitted
    }

    /// Verifies one image after another.
    fn run(&self) {
        // Both are favours that the system may refuse.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            debug!("verification has the priority of connections: {error}");
        }
        if let Err(error) = sys::read_when_idle() {
            debug!("verification reads with the priority of connections: {error}");
        }
        while let Some(job) = self.next() {
            let begun = Instant::now();
            let progress = Progress { read: &job.read, is_stopped: &self.is_paused };
            let verify = || content::verify(&job.image.image, &self.policy, progress);
            let result = panics::caught(verify).unwrap_or(Err(VerifyFailure::Panicked));
            self.end(&job, result, begun.elapsed());
        }
    }

    /// Waits for an image to verify; `None` when the thread is to end.
    fn next(&self) -> Option<Job> {
        let mut table = self.table();
        while !self.is_paused.load(Ordering::Relaxed) {
            if let Some(job) = table.begin() {
                drop(table);
                self.changed.notify_one();
                return Some(job);
            }
            table = self.added.wait(table).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        None
    }

    /// Notes the result of a verification.
    fn end(&self, job: &Job, result: Result<Option<String>, VerifyFailure>, elapsed: Duration) {
        let mut table = self.table();
        let source = &job.image.image.source;
        let is_outdated = match source.object() {
            // Each part of an object is fetched on the condition that it was not replaced.
            Some(_) => Ok(false),
            None => job.stamp.is_outdated(source),
        };
        let result = result.and_then(|signer| match is_outdated {
            Ok(false) => Ok(signer),
            Ok(true) => Err(VerifyFailure::Changed),
            Err(error) => Err(VerifyFailure::Unread(error)),
        });
        if result.is_ok() {
            job.image.set_verified(Some(Verified { stamp: job.stamp, policy: self.fingerprint }));
        }
        table.end(job, result, elapsed);
        drop(table);
        self.changed.notify_one();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change leaves the table whole.
        locked(&self.table)
    }
}

impl Table {
    /// Notes that an image is there, and tells whether it is verified.
    fn take(&mut self, image: &Arc<ServedImage>, policy: [u8; 32]) -> bool {
        // Each image of a scan has the stamp of its file.
        let Some(stamp) = image.stamp() else { return false };
        let known = self.entries.iter_mut().find(|entry| entry.is_of(image.path(), stamp));
        let is_verified = image.is_verified(policy);
        match known {
            Some(entry) => {
                entry.is_there = true;
                if matches!(entry.state, State::Failed { .. }) {
                    entry.state = State::Waiting;
                    entry.image = Some(Arc::clone(image));
                }
            }
            None => self.entries.push(Entry::new(image, stamp, is_verified)),
        }
        is_verified
    }

    /// Begins with the first image that waits.
    fn begin(&mut self) -> Option<Job> {
        let entry = self.entries.iter_mut().find(|entry| matches!(entry.state, State::Waiting))?;
        let image = Arc::clone(entry.image.as_ref()?);
        entry.state = State::Running;
        entry.read.store(0, Ordering::Relaxed);
        let (name, path) = (entry.name.clone(), entry.path.clone());
        self.events.push(VerifyEvent::Begun { image: name, path, size: entry.size });
        Some(Job { image, stamp: entry.stamp, read: Arc::clone(&entry.read) })
    }

    fn end(&mut self, job: &Job, result: Result<Option<String>, VerifyFailure>, elapsed: Duration) {
        let path = job.image.path();
        // The file may have been removed meanwhile.
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.is_of(path, job.stamp)) else {
            return self.events.push(VerifyEvent::Failed);
        };
        let (image, path) = (entry.name.clone(), entry.path.clone());
        match result {
            Ok(signer) => {
                entry.state = State::Verified;
                self.events.push(VerifyEvent::Verified { image, path, signer, elapsed });
            }
            Err(VerifyFailure::Stopped) => entry.state = State::Waiting,
            Err(failure) => {
                let is_final = failure.is_final();
                let why = failure.to_string();
                entry.state = State::Failed { why, is_final, is_reported: false };
                entry.image = None;
                self.events.push(VerifyEvent::Failed);
            }
        }
    }
}

impl Entry {
    fn new(image: &Arc<ServedImage>, stamp: Stamp, is_verified: bool) -> Self {
        let size = content::size(&image.image);
        Self {
            name: image.name.clone(),
            path: image.path().to_owned(),
            stamp,
            image: Some(Arc::clone(image)),
            state: if is_verified { State::Verified } else { State::Waiting },
            size,
            read: Arc::new(AtomicU64::new(if is_verified { size } else { 0 })),
            is_there: true,
        }
    }

    fn is_of(&self, path: &Path, stamp: Stamp) -> bool {
        self.path == path && self.stamp == stamp
    }

    const fn is_pending(&self) -> bool {
        matches!(self.state, State::Waiting | State::Running)
    }

    fn report(&self) -> VerifyReport {
        let state = match &self.state {
            State::Waiting => VerifyState::Waiting,
            State::Running => VerifyState::Verifying,
            State::Verified => VerifyState::Verified,
            State::Failed { why, .. } => VerifyState::Failed(why.clone()),
        };
        let (size, read) = (self.size, self.read.load(Ordering::Relaxed));
        VerifyReport { image: self.name.clone(), path: self.path.clone(), state, size, read }
    }
}
