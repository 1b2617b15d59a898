//! Panics, which are faults of isowire itself. One ends the step in which it happens, as one
//! datagram or one connection, and nothing else.

use std::future::poll_fn;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tracing::error;

/// Longest text of a panic in the log, in characters: it may quote what a peer sent.
const TEXT_MAX: usize = 300;

/// Panics of this process.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Returns the number of panics of this process.
pub(crate) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Makes each panic a line of the log, and counts it.
pub(crate) fn log_all() {
    panic::set_hook(Box::new(log));
}

fn log(panic: &PanicHookInfo<'_>) {
    let panics = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let text: String = panic.payload_as_str().unwrap_or("no text").chars().take(TEXT_MAX).collect();
    let place = panic.location().map(tracing::field::display);
    error!(place, panics, "fault of isowire: {}; the rest goes on. Report this line", text.escape_debug());
}

/// Runs a step; `None` if it panics. What the step changes has to stay valid then.
pub(crate) fn caught<T>(step: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(step)).ok()
}

/// Runs a task; `None` if it panics. What the task changes has to stay valid then.
pub(crate) async fn caught_task<T>(task: impl Future<Output = T>) -> Option<T> {
    let mut task = pin!(task);
    poll_fn(|context| match caught(|| task.as_mut().poll(context)) {
        Some(poll) => poll.map(Some),
        None => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_ends_its_step_alone() {
        assert_eq!([caught(|| 7), caught(|| panic!("a fault of a step"))], [Some(7), None]);
        let task = |is_faulty: bool| async move {
            tokio::task::yield_now().await;
            assert!(!is_faulty, "a fault of a task");
            7
        };
        assert_eq!([caught_task(task(false)).await, caught_task(task(true)).await], [Some(7), None]);
    }
}
