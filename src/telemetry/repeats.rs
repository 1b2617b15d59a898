//! Limits of the lines of one kind, about one peer and about all: anybody on the network can cause
//! lines. Above a limit, lines are counted, and one line tells their number.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit, display};
use tracing::{Event, Level, Subscriber, error, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::locked::locked;
use crate::output;

/// Time in which a peer gets one more line of a kind.
const PEER_INTERVAL: Duration = Duration::from_secs(6);

/// Lines of a kind about all peers that may be written at once: a thousand machines boot.
const KIND_BURST: u32 = 4096;

/// Time in which a kind gets one more line.
const KIND_INTERVAL: Duration = Duration::from_millis(500);

/// Most peers that are remembered, each once for a kind. Others have the limit of their kind only.
const PEERS_MAX: usize = 8192;

/// Shortest time between two searches for peers to forget.
const FORGET_EVERY: Duration = Duration::from_secs(1);

/// Time from the first line that is left out to the line that tells how many there were.
const REPORT_AFTER: Duration = Duration::from_secs(10);

/// Most peers of which a number is told at a time; those of the others are told together.
const REPORTS_MAX: usize = 16;

/// Longest text of a line that is repeated, in characters.
const TEXT_MAX: usize = 200;

/// Counts lines of the log, and leaves out those above the limits.
#[derive(Debug)]
pub(super) struct Repeats {
    counts: Mutex<Counts>,
    /// Lines were left out that no line tells of yet.
    is_due: AtomicBool,
}

impl Repeats {
    /// Leaves out lines when `burst` lines of a kind about one peer were written.
    pub(super) fn new(burst: NonZeroU32) -> Self {
        Self { counts: Mutex::new(Counts::new(burst.get())), is_due: AtomicBool::new(false) }
    }

    /// Logs the numbers of repeated lines that are due, or all. Returns whether there are more.
    pub(super) fn report(&self, now: Instant, all: bool) -> bool {
        if !self.is_due.load(Ordering::Relaxed) {
            return false;
        }
        let (reports, is_due) = {
            let mut counts = locked(&self.counts);
            let reports = counts.take(now, all);
            let is_due = counts.entries().any(|(_, entry)| entry.left_out.is_some());
            // Within the lock, so that a line which is left out meanwhile is not forgotten.
            self.is_due.store(is_due, Ordering::Relaxed);
            (reports, is_due)
        };
        reports.iter().for_each(LeftOut::log);
        is_due
    }

    fn allows(&self, event: &Event<'_>, now: Instant) -> bool {
        let about = About::of(event);
        let kind = event.metadata().callsite();
        let mut counts = locked(&self.counts);
        let Err(key) = counts.admit(kind, about.key(), now) else { return true };
        let is_first = counts.leave_out(key, || about.left_out(event, now));
        let was_due = self.is_due.swap(true, Ordering::Relaxed);
        drop(counts);
        if is_first && !was_due {
            output::report_soon();
        }
        false
    }
}

/// The layer of the log that leaves lines out.
pub(super) struct RepeatsLayer(pub(super) &'static Repeats);

impl<S: Subscriber> Layer<S> for RepeatsLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Lines for the search of a fault are asked for, and those of this module are few.
        let is_limited = *metadata.level() <= Level::INFO && metadata.module_path() != Some(module_path!());
        !is_limited || self.0.allows(event, Instant::now())
    }
}

#[derive(Debug)]
struct Counts {
    burst: u32,
    /// Apart from the peers: however many those are, each kind has its limit.
    kinds: HashMap<Key, Entry>,
    peers: HashMap<Key, Entry>,
    /// Time of the last search for peers to forget.
    searched: Option<Instant>,
}

/// A kind of lines, which is their place in the sources, and the peer; `None` stands for all peers.
type Key = (Identifier, Option<String>);

#[derive(Debug)]
struct Entry {
    /// Time at which all lines that were written are paid off, one each interval.
    paid_at: Instant,
    left_out: Option<LeftOut>,
}

/// Lines that were left out.
#[derive(Debug, Clone, PartialEq)]
struct LeftOut {
    level: Level,
    /// Text of the first.
    text: String,
    peer: Option<String>,
    machine: Option<String>,
    count: u64,
    since: Instant,
}

impl Entry {
    const fn new(now: Instant) -> Self {
        Self { paid_at: now, left_out: None }
    }

    fn has_room(&self, burst: u32, interval: Duration, now: Instant) -> bool {
        self.paid_at.saturating_duration_since(now) + interval <= interval * burst
    }

    fn write(&mut self, interval: Duration, now: Instant) {
        self.paid_at = self.paid_at.max(now) + interval;
    }
}

impl Counts {
    fn new(burst: u32) -> Self {
        Self { burst, kinds: HashMap::new(), peers: HashMap::new(), searched: None }
    }

    fn entries(&mut self) -> impl Iterator<Item = (&Key, &mut Entry)> {
        self.kinds.iter_mut().chain(&mut self.peers)
    }

    /// Counts a line that may be written; returns whose limit it exceeds otherwise.
    fn admit(&mut self, kind: Identifier, peer: Option<&str>, now: Instant) -> Result<(), Key> {
        let of_kind = (kind.clone(), None);
        let kind_entry = self.kinds.entry(of_kind.clone()).or_insert(Entry::new(now));
        if !kind_entry.has_room(KIND_BURST, KIND_INTERVAL, now) {
            return Err(of_kind);
        }
        if let Some(peer) = peer {
            let (key, burst) = ((kind, Some(peer.to_owned())), self.burst);
            match self.peer_entry(&key, now) {
                Some(entry) if !entry.has_room(burst, PEER_INTERVAL, now) => return Err(key),
                Some(entry) => entry.write(PEER_INTERVAL, now),
                None => {}
            }
        }
        if let Some(entry) = self.kinds.get_mut(&of_kind) {
            entry.write(KIND_INTERVAL, now);
        }
        Ok(())
    }

    fn peer_entry(&mut self, key: &Key, now: Instant) -> Option<&mut Entry> {
        if !self.peers.contains_key(key) {
            if self.peers.len() >= PEERS_MAX {
                self.forget_peers(now);
            }
            if self.peers.len() >= PEERS_MAX {
                return None;
            }
            self.peers.insert(key.clone(), Entry::new(now));
        }
        self.peers.get_mut(key)
    }

    /// Forgets the peers whose lines are all paid off, unless that was done within [`FORGET_EVERY`].
    fn forget_peers(&mut self, now: Instant) {
        if self.searched.is_none_or(|searched| now.saturating_duration_since(searched) >= FORGET_EVERY) {
            self.peers.retain(|_, entry| entry.paid_at > now || entry.left_out.is_some());
            self.searched = Some(now);
        }
    }

    /// Counts a line that is left out; returns `true` if it is the first.
    fn leave_out(&mut self, key: Key, first: impl FnOnce() -> LeftOut) -> bool {
        let entries = if key.1.is_none() { &mut self.kinds } else { &mut self.peers };
        let Some(entry) = entries.get_mut(&key) else { return false };
        let is_first = entry.left_out.is_none();
        let left_out = entry.left_out.get_or_insert_with(first);
        left_out.count += 1;
        if key.1.is_none() {
            (left_out.peer, left_out.machine) = (None, None);
        }
        is_first
    }

    /// Takes the numbers that are due.
    fn take(&mut self, now: Instant, all: bool) -> Vec<LeftOut> {
        let is_due =
            |left_out: &LeftOut| all || now.saturating_duration_since(left_out.since) >= REPORT_AFTER;
        let mut reports: HashMap<Key, LeftOut> = HashMap::new();
        for ((kind, peer), entry) in self.entries() {
            let Some(mut left_out) = entry.left_out.take_if(|left_out| is_due(left_out)) else { continue };
            let is_one_more = peer.is_some() && reports.len() >= REPORTS_MAX;
            let peer = peer.clone().filter(|_| !is_one_more);
            if peer.is_none() {
                (left_out.peer, left_out.machine) = (None, None);
            }
            match reports.get_mut(&(kind.clone(), peer.clone())) {
                Some(report) => report.count += left_out.count,
                None => drop(reports.insert((kind.clone(), peer), left_out)),
            }
        }
        reports.into_values().collect()
    }
}

impl LeftOut {
    fn log(&self) {
        let Self { level, text, peer, machine, .. } = self;
        let (peer, machine, count) =
            (peer.as_ref().map(display), machine.as_ref().map(display), self.count());
        match *level {
            Level::ERROR => error!(peer, machine, "{text}: repeated {count} times"),
            Level::WARN => warn!(peer, machine, "{text}: repeated {count} times"),
            _ => info!(peer, machine, "{text}: repeated {count} times"),
        }
    }

    /// Returns the number with commas between thousands.
    fn count(&self) -> String {
        let digits = self.count.to_string();
        let parts = digits.as_bytes().rchunks(3).rev();
        let parts: Vec<_> = parts.map(|part| String::from_utf8_lossy(part)).collect();
        parts.join(",")
    }
}

/// What a line is about.
#[derive(Debug, Default)]
struct About {
    /// Address of the peer, without its port.
    peer: Option<String>,
    machine: Option<String>,
}

impl About {
    fn of(event: &Event<'_>) -> Self {
        let mut about = Self::default();
        event.record(&mut about);
        about
    }

    fn key(&self) -> Option<&str> {
        self.machine.as_deref().or(self.peer.as_deref())
    }

    fn left_out(&self, event: &Event<'_>, since: Instant) -> LeftOut {
        let mut text = Text(String::new());
        event.record(&mut text);
        let (level, Self { peer, machine }) = (*event.metadata().level(), self);
        let text = text.0.chars().take(TEXT_MAX).collect();
        LeftOut { level, text, peer: peer.clone(), machine: machine.clone(), count: 0, since }
    }
}

impl Visit for About {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "peer" => {
                let text = format!("{value:?}");
                self.peer = Some(text.parse().map_or(text, |peer: SocketAddr| peer.ip().to_string()));
            }
            "machine" => self.machine = Some(format!("{value:?}")),
            _ => {}
        }
    }
}

/// Text of a line without its fields.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // A string takes everything.
            let _: fmt::Result = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::Metadata;
    use tracing::callsite::Callsite;
    use tracing::subscriber::{Interest, with_default};
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Lines of a log, each as `message field=value`.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            locked(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    impl Lines {
        fn count(&self, text: &str) -> usize {
            self.text().lines().filter(|line| line.contains(text)).count()
        }

        fn text(&self) -> String {
            String::from_utf8(locked(&self.0).clone()).unwrap()
        }
    }

    fn logged(burst: u32, work: impl FnOnce(&'static Repeats)) -> Lines {
        let lines = Lines::default();
        let repeats: &_ = Box::leak(Box::new(Repeats::new(burst.try_into().unwrap())));
        let format = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
        let log = format.with_writer(lines.clone()).finish().with(RepeatsLayer(repeats));
        with_default(log, || work(repeats));
        lines
    }

    /// A place in the sources.
    struct Kind;

    impl Callsite for Kind {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nothing asks for it")
        }
    }

    fn offer(machine: u32, port: u16) {
        let peer = SocketAddr::from(([10, 0, 0, 1], port));
        info!(%machine, %peer, "DHCP offer {}", machine);
    }

    #[test]
    fn repeated_line_of_a_machine_is_counted() {
        let lines = logged(64, |repeats| {
            (0..5000).for_each(|n| offer(7, n));
            offer(8, 0);
            info!("without a peer");
            let now = Instant::now();
            assert!(repeats.report(now, false), "not due yet");
            assert!(!repeats.report(now + REPORT_AFTER, false));
        });
        assert_eq!((lines.count("DHCP offer 7 "), lines.count("DHCP offer 8 ")), (64, 1));
        assert_eq!(lines.count("without a peer"), 1);
        let told = "INFO DHCP offer 7: repeated 4,936 times peer=10.0.0.1 machine=7";
        assert_eq!(lines.count(told), 1, "{}", lines.text());
    }

    #[test]
    fn peer_is_an_address_without_its_port() {
        let lines = logged(3, |_| {
            for port in 0..100 {
                let peer = SocketAddr::from(([10, 0, 0, 1], port));
                warn!(%peer, "request refused");
            }
        });
        assert_eq!(lines.count("request refused"), 3);
    }

    #[test]
    fn flood_of_many_machines_is_bounded() {
        let lines = logged(64, |repeats| {
            (0..20_000).for_each(|machine| offer(machine, 0));
            assert!(!repeats.report(Instant::now(), true));
        });
        let count = lines.count("DHCP offer");
        assert!((KIND_BURST as usize..KIND_BURST as usize + 200).contains(&count), "{count}");
        assert_eq!(lines.count("repeated 15,"), 1);
    }

    #[test]
    fn kind_has_its_limit_when_too_many_peers_are_remembered() {
        let lines = logged(64, |_| {
            (0..5000).for_each(|machine| offer(machine, 0));
            (0..5000).for_each(|machine| info!(%machine, "file asked for"));
            (0..5000).for_each(|machine| info!(%machine, "file refused"));
        });
        for text in ["DHCP offer", "file asked for", "file refused"] {
            let count = lines.count(text);
            assert!((KIND_BURST as usize..KIND_BURST as usize + 200).contains(&count), "{text}: {count}");
        }
    }

    #[test]
    fn peers_that_repeat_are_told_together_when_many() {
        let lines = logged(1, |repeats| {
            (0..1000).for_each(|n| offer(n / 4, 0));
            repeats.report(Instant::now(), true);
        });
        let told = lines.count("repeated");
        assert!((REPORTS_MAX..=REPORTS_MAX + 1).contains(&told), "{told}:\n{}", lines.text());
    }

    #[test]
    fn line_is_written_again_after_a_pause() {
        let mut counts = Counts::new(2);
        static KIND: Kind = Kind;
        let (kind, now) = (Identifier(&KIND), Instant::now());
        let mut admit =
            |seconds| counts.admit(kind.clone(), Some("a"), now + Duration::from_secs(seconds)).is_ok();
        assert_eq!(
            [admit(0), admit(0), admit(0), admit(5), admit(6), admit(6)],
            [true, true, false, false, true, false]
        );
        assert_eq!([admit(60), admit(60), admit(60)], [true, true, false]);
    }
}
