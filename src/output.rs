//! Output of the server: the lines of its log and its table of services, in their order.
//!
//! A thread writes them, so that no client waits for a reader of the log that stopped: a pipe that
//! nobody reads, a terminal that is held, a log service that hangs. A bounded number of lines waits
//! for it; more are dropped and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait for the reader of the log: what a thousand machines write while they boot.
const QUEUE: usize = 4096;

/// Time that the end of the process waits for the reader of the log.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Interval at which a full queue is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Interval of looks for lines that are due, while there may be some.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

static OUTPUT: OnceLock<Output> = OnceLock::new();

#[derive(Debug)]
struct Output {
    jobs: SyncSender<Job>,
    dropped: AtomicU64,
}

enum Job {
    /// A line for standard error.
    Log(Box<[u8]>),
    /// Text for standard output.
    Print(Box<[u8]>),
    /// Tell that all before this was written.
    Flush(SyncSender<()>),
    /// Look for lines that are due.
    Report,
    Call(Box<dyn FnOnce() + Send>),
}

/// Starts the thread that writes. It calls `report` when lines may be due, with the number of lines
/// that were dropped since; that returns whether to call again soon.
///
/// # Errors
/// That of the system if it refuses a thread.
pub(crate) fn start(report: impl FnMut(u64) -> bool + Send + 'static) -> io::Result<()> {
    let (jobs, queue) = sync_channel(QUEUE);
    let output = OUTPUT.get_or_init(|| Output { jobs, dropped: AtomicU64::new(0) });
    thread::Builder::new().name("isowire-log".into()).spawn(move || output.run(&queue, report))?;
    Ok(())
}

/// Queues a line of the log, or drops it.
pub(crate) fn log(line: &[u8]) {
    let Some(output) = OUTPUT.get() else { return };
    if output.jobs.try_send(Job::Log(line.into())).is_err() {
        output.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Has the thread call its `report`.
pub(crate) fn report_soon() {
    // With a full queue it is called anyway.
    let _ = OUTPUT.get().map(|output| output.jobs.try_send(Job::Report));
}

/// Prints a text to standard output, after all lines of the log so far.
pub(crate) fn print(text: &str) {
    match OUTPUT.get() {
        Some(output) => output.send(Job::Print(text.as_bytes().into()), Instant::now() + FLUSH_WAIT),
        // A closed standard output is not a reason to stop.
        None => drop(io::stdout().lock().write_all(text.as_bytes())),
    }
}

/// Waits until all lines so far are written, unless nobody reads them.
pub(crate) fn flush() {
    let Some(output) = OUTPUT.get() else { return };
    let deadline = Instant::now() + FLUSH_WAIT;
    let (done, flushed) = sync_channel(1);
    output.send(Job::Flush(done), deadline);
    let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// Runs a function on the thread that writes, and waits for its end, unless nobody reads the log.
pub(crate) fn on_thread(call: impl FnOnce() + Send + 'static) {
    let Some(output) = OUTPUT.get() else { return };
    let deadline = Instant::now() + FLUSH_WAIT;
    let (done, ended) = sync_channel(1);
    let call = move || {
        call();
        let _ = done.send(());
    };
    output.send(Job::Call(Box::new(call)), deadline);
    let _ = ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

impl Output {
    /// Waits for room in the queue until the deadline.
    fn send(&self, mut job: Job, deadline: Instant) {
        while let Err(TrySendError::Full(refused)) = self.jobs.try_send(job) {
            if Instant::now() >= deadline {
                return;
            }
            job = refused;
            thread::sleep(FULL_PAUSE);
        }
    }

    fn run(&self, queue: &Receiver<Job>, mut report: impl FnMut(u64) -> bool) {
        let mut is_due = false;
        loop {
            let job = match is_due {
                true => queue.recv_timeout(REPORT_INTERVAL),
                false => queue.recv().map_err(RecvTimeoutError::from),
            };
            match job {
                // As with a closed standard error, an error is not a reason to stop.
                Ok(Job::Log(line)) => drop(io::stderr().lock().write_all(&line)),
                Ok(Job::Print(text)) => drop(io::stdout().lock().write_all(&text)),
                Ok(Job::Call(call)) => call(),
                Ok(Job::Flush(done)) => drop(done.send(())),
                Ok(Job::Report) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            is_due = report(self.dropped.swap(0, Ordering::Relaxed));
        }
    }
}
