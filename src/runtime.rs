//! The threads of the runtime. All are had at start, so that nothing needs one later: a limit of
//! threads (`pids.max` of a cgroup, `ulimit -u`) may be reached at any time.

use std::io;
use std::num::NonZero;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tracing::warn;

use crate::locked::locked;

/// Threads for work that blocks. Three look for images or at their folders, into images and at their
/// files, and two hand over. The others take over the tasks of threads that sign boot programs.
const BLOCKING: usize = 8;

/// Fewest threads: one for tasks, and one for work that blocks.
const MIN: usize = 2;

/// Time until the system counts a thread no more that has ended.
const SETTLING: Duration = Duration::from_millis(50);

/// Time for which a thread without work is kept: for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(u32::MAX as u64);

/// Builds the runtime, tuned for a thousand machines at once.
///
/// A worker of tokio has a queue of 256 ready tasks, and by default takes from the shared queue
/// every 31 to 255 tasks: some machines would wait for tens of rounds of the others. It polls for
/// new events every 61 tasks; every 256, more requests are found at once.
///
/// # Errors
/// That of the system if it permits fewer threads than isowire needs.
pub(crate) fn build() -> io::Result<Runtime> {
    Threads::permitted()?.start(Builder::new_multi_thread().global_queue_interval(2).event_interval(256))
}

/// Builds a runtime of a few threads for one purpose, which all are started here.
///
/// # Errors
/// That of the system if it permits fewer threads.
#[cfg(feature = "store")]
pub(crate) fn small(name: &str, workers: usize, blocking: usize) -> io::Result<Runtime> {
    // tokio panics when the system refuses a thread.
    if let (_, Some(error)) = try_threads(workers + blocking) {
        return Err(error);
    }
    Threads { workers, blocking }.start(Builder::new_multi_thread().thread_name(name))
}

/// Starts all threads for work that blocks. tokio panics when the system refuses one, unless there
/// is one already.
fn start_blocking(runtime: &Runtime, count: usize) {
    let gate = Arc::new(Mutex::new(()));
    // While it is closed, each job holds a thread.
    let closed = locked(&gate);
    for _ in 0..count {
        let gate = Arc::clone(&gate);
        runtime.spawn_blocking(move || drop(locked(&gate)));
    }
    drop(closed);
}

/// Numbers of threads.
#[derive(Debug, PartialEq, Eq)]
struct Threads {
    workers: usize,
    blocking: usize,
}

impl Threads {
    /// Returns the threads that the system permits. Too few are a warning.
    fn permitted() -> io::Result<Self> {
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        let wanted = workers + BLOCKING;
        let (threads, refused) = try_threads(wanted);
        let Some(error) = refused else { return Ok(Self { workers, blocking: BLOCKING }) };
        if threads < MIN {
            return Err(error);
        }
        warn!(threads, wanted, "fewer threads than wanted: {error}. Raise `TasksMax=` or `ulimit -u`");
        thread::sleep(SETTLING);
        Ok(Self::of(threads, workers))
    }

    /// Builds a runtime, and starts all its threads.
    fn start(self, builder: &mut Builder) -> io::Result<Runtime> {
        let Self { workers, blocking } = self;
        let builder = builder.enable_all().worker_threads(workers).max_blocking_threads(blocking);
        let runtime = builder.thread_keep_alive(KEEP_ALIVE).build()?;
        start_blocking(&runtime, blocking);
        Ok(runtime)
    }

    /// Shares out `threads`, at least [`MIN`].
    fn of(threads: usize, workers: usize) -> Self {
        let blocking = (threads / 2).clamp(1, BLOCKING);
        Self { workers: (threads - blocking).min(workers), blocking }
    }
}

/// Starts so many threads at once as a trial. Returns how many there were, and why not more.
fn try_threads(wanted: usize) -> (usize, Option<io::Error>) {
    let gate = Arc::new(Mutex::new(()));
    let closed = locked(&gate);
    let (mut threads, mut refused) = (Vec::new(), None);
    while threads.len() < wanted && refused.is_none() {
        let gate = Arc::clone(&gate);
        match thread::Builder::new().spawn(move || drop(locked(&gate))) {
            Ok(thread) => threads.push(thread),
            Err(error) => refused = Some(error),
        }
    }
    drop(closed);
    let count = threads.len();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    (count, refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_shared_out() {
        let of = |threads, workers| {
            let Threads { workers, blocking } = Threads::of(threads, workers);
            (workers, blocking)
        };
        assert_eq!([of(2, 8), of(3, 8), of(9, 8), of(40, 4)], [(1, 1), (2, 1), (5, 4), (4, 8)]);
    }
}
