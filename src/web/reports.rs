//! The status report as it is sent: made when it is asked for, and each second for those who watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::machines::{Registry, StatusReport, neighbours};
use crate::recent_lines::Subject;
use crate::sys;

/// Interval of reports for those who watch.
const INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which the memory of reports goes back to the system: one of four thousand machines
/// takes some megabytes, in pieces between data that stays.
const TRIM_INTERVAL: Duration = Duration::from_secs(60);

/// Makes reports.
#[derive(Debug)]
pub(super) struct Reports {
    registry: Arc<Registry>,
    /// Time at which the server began.
    pub started: Timestamp,
    /// The last report that was made for those who watch.
    last: watch::Sender<Arc<str>>,
    /// A report was made since memory was given back.
    has_garbage: AtomicBool,
}

impl Reports {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let (started, last) = (Timestamp::now(), watch::Sender::new("".into()));
        Self { registry, started, last, has_garbage: AtomicBool::new(false) }
    }

    /// Returns the current report as JSON, in one line.
    pub(super) fn json(&self) -> String {
        // serde_json fails only for maps without string keys, which a status does not have.
        serde_json::to_string(&self.now()).unwrap_or_default()
    }

    /// Returns the current report.
    pub(super) fn now(&self) -> StatusReport {
        self.has_garbage.store(true, Ordering::Relaxed);
        let now = Instant::now();
        neighbours::introduce(&self.registry, now);
        self.registry.status(now, Timestamp::now())
    }

    /// Returns the lines of the log about a machine as JSON. It is named by its MAC address, or by an
    /// address.
    pub(super) fn log(&self, machine: &str) -> Option<String> {
        let by_mac = machine.parse().ok().map(Subject::Mac);
        let subject = by_mac.or_else(|| Some(Subject::Address(machine.parse().ok()?)));
        let lines = self.registry.log_of(subject?, Instant::now(), Timestamp::now())?;
        serde_json::to_string(&lines).ok()
    }

    /// Watches the reports that are made from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<str>> {
        self.last.subscribe()
    }

    /// Makes a report each second while somebody watches, without end. Gives back the memory that
    /// reports took.
    pub(super) async fn run(&self) {
        let mut clock = interval(INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trimmed = Instant::now();
        loop {
            clock.tick().await;
            if trimmed.elapsed() >= TRIM_INTERVAL && self.has_garbage.swap(false, Ordering::Relaxed) {
                sys::trim_memory();
                trimmed = Instant::now();
            }
            if self.last.receiver_count() > 0 {
                self.last.send_replace(self.json().into());
            }
        }
    }
}
