//! The reads of an image: queued, under way, failed, or hanging. No I/O and no clock.

mod listed;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

#[cfg(test)]
pub(super) use self::listed::AT_ONCE;
use self::listed::Listed;
use super::{CHECK_INTERVAL, FaultKind, ImageFault, Patience, READERS, ReadClient, ReadDone};
use crate::extent::Extent;
use crate::metrics::{self, Event};
use crate::store::FetchError;

/// Most hints that wait for a reader; more are dropped.
const HINTS: usize = 64;

/// Time after which a read counts as hanging: a disk that spins up takes less.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// The same of an object store: a request to it ends by itself before.
const FETCH_HANGS_AFTER: Duration = Duration::from_secs(30);

/// Most readers of one image that hang and are replaced. Then its reads wait.
const HANGING: usize = 128;

/// log2 of the length of a region, in bytes. Reads in the region of one that hangs are put off.
const REGION_BITS: u32 = 20;

/// First and longest pause before a failed read is repeated.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Pause before a failed read is repeated that nobody waits for, only to see whether it succeeds.
const PROBE_PAUSE: Duration = Duration::from_secs(30);

/// Most failed reads that are kept though nobody waits for them.
const PROBES: usize = 16;

/// One who waits for a read.
#[derive(Debug)]
pub(super) struct Waiter {
    pub done: UnboundedSender<ReadDone>,
    /// Number by which it knows the read.
    pub number: u64,
    pub patience: Patience,
}

impl Waiter {
    fn tell(&self, result: io::Result<()>) {
        // Nobody listens where the connection has ended.
        let _ = self.done.send(ReadDone { number: self.number, result });
    }
}

/// A change that is worth a line of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Fault(String),
    /// The fault is over, after this many seconds.
    Over(u64),
    /// A client waited as long as it may.
    GivenUp,
}

/// Place from which the bytes of an image come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Medium {
    #[default]
    Disk,
    Store,
}

impl Medium {
    const fn hangs_after(self) -> Duration {
        match self {
            Self::Disk => HANGS_AFTER,
            Self::Store => FETCH_HANGS_AFTER,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Store => "object store",
        }
    }
}

/// Reads of one image, and its readers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    medium: Medium,
    reads: HashMap<Extent, ColdRead>,
    /// Clients whose reads have not begun, in the order of their turns.
    turns: VecDeque<u64>,
    /// The reads of each of them.
    of_client: HashMap<u64, VecDeque<Extent>>,
    /// Failed reads and those put off, by the time at which they are tried again.
    retries: Retries,
    /// Number of reads that have not begun, and of hints among them.
    queued: usize,
    hints: usize,
    listed: Listed,
    readers: usize,
    idle: usize,
    /// Ranges that are being read, as many as there are readers.
    under_way: Vec<Extent>,
    /// Ranges whose readers hang.
    hanging: Vec<Extent>,
    fault: Option<ImageFault>,
    /// The fault is that the file was changed.
    has_changed: bool,
    has_given_up: bool,
    checked: Option<Instant>,
    is_closed: bool,
}

#[derive(Debug)]
struct ColdRead {
    waiting: Vec<Waiter>,
    /// Begun even if nobody waits.
    is_hint: bool,
    state: ReadState,
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadState {
    Queued,
    Reading {
        since: Instant,
    },
    /// Longer than [`Medium::hangs_after`]; its reader is replaced.
    Hanging,
    /// It failed, or is put off, and is tried again.
    Retried {
        at: Instant,
        since: Instant,
    },
}

impl ColdRead {
    fn is_wanted(&self) -> bool {
        self.is_hint || self.waiting.iter().any(|waiter| !waiter.done.is_closed())
    }

    /// Tells those who do not wait for a read with a fault.
    fn tell_impatient(&mut self, error: &io::Error) {
        self.waiting.retain(|waiter| {
            let waits = waiter.patience == Patience::Waits;
            if !waits {
                waiter.tell(Err(copy(error)));
            }
            waits
        });
    }
}

impl Queue {
    pub(super) fn of(medium: Medium) -> Self {
        Self { medium, ..Self::default() }
    }

    /// Adds one who waits for `extent`; returns `true` if a reader is needed for it.
    pub(super) fn add(&mut self, extent: Extent, client: u64, waiter: Waiter, now: Instant) -> bool {
        match self.reads.entry(extent) {
            Entry::Occupied(read) => return self.retries.join(read.into_mut(), extent, waiter, now),
            Entry::Vacant(new) => new.insert(ColdRead::queued(vec![waiter], false)),
        };
        self.push(client, extent);
        true
    }

    /// Adds a read that nobody waits for; returns `true` if a reader is needed for it.
    pub(super) fn add_hint(&mut self, extent: Extent) -> bool {
        if self.hints >= HINTS || self.fault.is_some() || self.reads.contains_key(&extent) {
            return false;
        }
        self.reads.insert(extent, ColdRead::queued(Vec::new(), true));
        self.hints += 1;
        self.push(ReadClient::NOBODY, extent);
        true
    }

    fn push(&mut self, client: u64, extent: Extent) {
        let reads = self.of_client.entry(client).or_default();
        if reads.is_empty() {
            self.turns.push_back(client);
        }
        reads.push_back(extent);
        self.queued += 1;
    }

    /// Takes a read that is due for another try, or one of the client whose turn it is.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Extent> {
        loop {
            let Some(extent) = self.retries.pop(now).or_else(|| self.pop_queued()) else {
                return self.pop_listed(now);
            };
            let put_off = self.put_off(extent);
            let Entry::Occupied(mut read) = self.reads.entry(extent) else { continue };
            let is_probe = read.get().failures > 0 && self.retries.0.len() < PROBES;
            if std::mem::take(&mut read.get_mut().is_hint) {
                self.hints -= 1;
            } else if !read.get().is_wanted() && !is_probe {
                read.remove();
                continue;
            }
            if let Some(pause) = put_off {
                if pause == CHECK_INTERVAL {
                    read.get_mut().tell_impatient(&io::ErrorKind::TimedOut.into());
                }
                self.retries.add(read.get_mut(), extent, now, pause);
                continue;
            }
            read.get_mut().state = ReadState::Reading { since: now };
            self.under_way.push(extent);
            return Some(extent);
        }
    }

    /// Returns the time for which a read has to wait, so that it does not hang as well. While the
    /// image has a fault, each region has one reader: another part of it may hang, and would take
    /// readers by and by.
    fn put_off(&self, extent: Extent) -> Option<Duration> {
        let is_near = |others: &[Extent]| others.iter().any(|other| region(*other) == region(extent));
        if is_near(&self.hanging) {
            Some(CHECK_INTERVAL)
        } else {
            (self.fault.is_some() && is_near(&self.under_way)).then_some(PAUSE)
        }
    }

    fn pop_queued(&mut self) -> Option<Extent> {
        while let Some(client) = self.turns.pop_front() {
            let Entry::Occupied(mut reads) = self.of_client.entry(client) else { continue };
            let Some(extent) = reads.get_mut().pop_front() else { continue };
            self.queued -= 1;
            if reads.get().is_empty() {
                reads.remove();
            } else {
                self.turns.push_back(client);
            }
            return Some(extent);
        }
        None
    }

    /// Ends a read, or has it repeated if it failed.
    pub(super) fn end(&mut self, extent: Extent, result: io::Result<()>, now: Instant) -> Option<Change> {
        if self.listed.end(extent) && result.is_err() {
            self.listed.stop();
        }
        self.hanging.retain(|hanging| *hanging != extent);
        self.under_way.retain(|other| *other != extent);
        match result {
            Err(error) => self.failed(extent, &error, now),
            Ok(()) => {
                let waiting = self.reads.remove(&extent).into_iter().flat_map(|read| read.waiting);
                waiting.for_each(|waiter| waiter.tell(Ok(())));
                self.fault_over(now)
            }
        }
    }

    fn failed(&mut self, extent: Extent, error: &io::Error, now: Instant) -> Option<Change> {
        let read = self.reads.get_mut(&extent)?;
        read.tell_impatient(error);
        let pause = if read.is_wanted() {
            PAUSE.saturating_mul(1 << read.failures.min(10)).min(PAUSE_MAX)
        } else {
            PROBE_PAUSE
        };
        read.failures += 1;
        self.retries.add(read, extent, now, pause);
        let (kind, text) = cause(error, extent);
        self.fault_found(kind, text, now)
    }

    /// Notes that the file was changed, which is worse than a fault of the disk.
    pub(super) fn file_changed(&mut self, text: String, now: Instant) -> Option<Change> {
        self.has_changed = true;
        self.fault = None;
        self.fault_found(FaultKind::Changed, text, now)
    }

    /// Notes that the file is as it was. Failed reads are tried again now.
    pub(super) fn file_restored(&mut self, now: Instant) -> Option<Change> {
        self.has_changed = false;
        let retries = std::mem::take(&mut self.retries.0);
        for (_, offset, len) in retries {
            let extent = Extent { offset, len };
            if let Some(read) = self.reads.get_mut(&extent) {
                self.retries.add(read, extent, now, Duration::ZERO);
            }
        }
        self.fault_over(now)
    }

    fn fault_found(&mut self, kind: FaultKind, text: String, now: Instant) -> Option<Change> {
        // One that lasts is told once, wherever in the file it is seen next.
        if self.fault.is_some() {
            return None;
        }
        self.fault = Some(ImageFault { kind, since: now, text: text.clone() });
        Some(Change::Fault(text))
    }

    /// Notes that a read succeeded: perhaps it was the last with a fault.
    fn fault_over(&mut self, now: Instant) -> Option<Change> {
        let is_well = !self.has_changed && self.hanging.is_empty() && self.retries.0.is_empty();
        if self.fault.is_none() || !is_well {
            return None;
        }
        // One that is under way again is not done yet.
        if self.reads.values().any(|read| read.failures > 0) {
            return None;
        }
        self.has_given_up = false;
        let fault = self.fault.take()?;
        Some(Change::Over(now.saturating_duration_since(fault.since).as_secs()))
    }

    /// Notes reads that hang.
    pub(super) fn check(&mut self, now: Instant) -> Option<Change> {
        // All who wait call this; the reads of all of them are looked at once.
        let is_early = self.checked.is_some_and(|checked| now < checked + CHECK_INTERVAL / 2);
        if is_early {
            return None;
        }
        self.checked = Some(now);
        let mut first = None;
        for (&extent, read) in &mut self.reads {
            let ReadState::Reading { since } = read.state else { continue };
            if now.saturating_duration_since(since) < self.medium.hangs_after()
                || self.hanging.len() >= HANGING
            {
                continue;
            }
            metrics::happened(Event::ReadHung);
            read.state = ReadState::Hanging;
            read.tell_impatient(&io::ErrorKind::TimedOut.into());
            self.under_way.retain(|other| *other != extent);
            self.hanging.push(extent);
            first.get_or_insert(extent);
        }
        let extent = first?;
        let (medium, seconds) = (self.medium.name(), self.medium.hangs_after().as_secs());
        let text = format!("no answer of the {medium} for {seconds} s, at byte {}", extent.offset);
        self.fault_found(FaultKind::Hanging, text, now)
    }

    /// Removes one who waits for a read.
    pub(super) fn give_up(
        &mut self,
        extent: Extent,
        done: &UnboundedSender<ReadDone>,
        number: u64,
    ) -> Option<Change> {
        let read = self.reads.get_mut(&extent)?;
        read.waiting.retain(|waiter| waiter.number != number || !waiter.done.same_channel(done));
        (!std::mem::replace(&mut self.has_given_up, true)).then_some(Change::GivenUp)
    }

    /// Notes that no thread could be started.
    pub(super) fn thread_missing(&mut self, error: &io::Error, now: Instant) -> Option<Change> {
        // Other readers come to the reads that wait.
        if self.active_readers() > 0 {
            return None;
        }
        self.fault_found(FaultKind::NoThread, format!("no thread can be started for it: {error}"), now)
    }

    /// Returns `true` if someone waits for this read.
    pub(super) fn is_waited_for(&self, extent: Extent) -> bool {
        self.reads.get(&extent).is_some_and(|read| !read.waiting.is_empty())
    }

    /// Returns `true` if no read is queued, under way or to be repeated.
    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    pub(super) fn fault(&self) -> Option<&ImageFault> {
        self.fault.as_ref()
    }

    /// Returns the number of reads that could begin now.
    pub(super) fn ready_reads(&self, now: Instant) -> usize {
        let due = self.retries.0.iter().take_while(|&&(at, ..)| at <= now).take(READERS).count();
        self.queued.min(READERS) + due
    }

    /// Returns when the next read is tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.0.first().map(|&(at, ..)| at)
    }

    /// Returns `true` if there are more idle readers than reads for them.
    pub(super) fn has_idle_readers(&self) -> bool {
        self.idle > 0 && self.idle >= self.queued + self.listed.ready()
    }

    pub(super) fn readers(&self) -> usize {
        self.readers
    }

    /// Returns the number of readers that do not hang.
    pub(super) fn active_readers(&self) -> usize {
        self.readers - self.hanging.len()
    }

    pub(super) fn reader_began(&mut self) {
        self.readers += 1;
    }

    pub(super) fn reader_ended(&mut self) {
        self.readers -= 1;
    }

    pub(super) fn reader_idles(&mut self, idles: bool) {
        if idles { self.idle += 1 } else { self.idle -= 1 }
    }

    /// Decides whether a reader that found no read should end.
    pub(super) fn is_superfluous(&self, has_timed_out: bool) -> bool {
        let is_last = self.active_readers() <= 1;
        let is_needed = is_last || (!self.retries.0.is_empty() && self.idle == 0);
        self.is_closed || self.active_readers() > READERS || (has_timed_out && !is_needed)
    }

    /// Notes that the image is closed: readers end when nothing is queued.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.retries.0.clear();
        self.listed.stop();
    }
}

/// Failed reads and those put off, by the time at which they are tried again.
#[derive(Debug, Default)]
struct Retries(BTreeSet<(Instant, u64, u64)>);

impl Retries {
    /// Has `read` tried again after `pause`.
    fn add(&mut self, read: &mut ColdRead, extent: Extent, now: Instant, pause: Duration) {
        let at = now + pause;
        read.state = ReadState::Retried { at, since: now };
        self.0.insert((at, extent.offset, extent.len));
    }

    /// Takes a read that is due.
    fn pop(&mut self, now: Instant) -> Option<Extent> {
        let &(at, offset, len) = self.0.first()?;
        (at <= now).then(|| {
            self.0.pop_first();
            Extent { offset, len }
        })
    }

    /// Adds one who waits for a read of before; returns `true` if it is tried again now.
    fn join(&mut self, read: &mut ColdRead, extent: Extent, waiter: Waiter, now: Instant) -> bool {
        let asks_again = waiter.patience == Patience::AsksAgain;
        match read.state {
            ReadState::Hanging if asks_again => waiter.tell(Err(io::ErrorKind::TimedOut.into())),
            ReadState::Retried { since, .. } if asks_again && now < since + CHECK_INTERVAL => {
                waiter.tell(Err(io::ErrorKind::TimedOut.into()));
            }
            ReadState::Retried { at, .. } if at > now + CHECK_INTERVAL => {
                read.waiting.push(waiter);
                self.0.remove(&(at, extent.offset, extent.len));
                self.add(read, extent, now, Duration::ZERO);
                return true;
            }
            _ => read.waiting.push(waiter),
        }
        false
    }
}

impl ColdRead {
    fn queued(waiting: Vec<Waiter>, is_hint: bool) -> Self {
        Self { waiting, is_hint, state: ReadState::Queued, failures: 0 }
    }
}

/// Returns the kind of a failed read's fault, and its description.
fn cause(error: &io::Error, extent: Extent) -> (FaultKind, String) {
    if let Some(error) = FetchError::cause(error) {
        let text = match error {
            FetchError::Unreachable(why) => format!("its object store cannot be reached: {why}"),
            FetchError::Certificate(fault) => format!("its object store: {error}; {}", fault.advice()),
            other => other.to_string(),
        };
        return (error.into(), text);
    }
    let text = match error.kind() {
        io::ErrorKind::UnexpectedEof => format!("its file ends before byte {}", extent.end()),
        _ => format!("{error}, at byte {}", extent.offset),
    };
    (FaultKind::Failing, text)
}

fn region(extent: Extent) -> u64 {
    extent.offset >> REGION_BITS
}

/// Returns an equal error for each of those who wait.
fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests;
