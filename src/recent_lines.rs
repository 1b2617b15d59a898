//! The last lines of the log about each machine, for its story. They are the same for all services of
//! a process, so they are static, as counters are.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::Instant;

use crate::locked::locked;
use crate::mac::Mac;

/// Most lines that are kept about one subject; a boot has about twenty.
const LINES_MAX: usize = 50;

/// Longest line that is kept, in characters.
const LINE_MAX: usize = 300;

/// Most characters of all lines. Anybody on the network can cause lines, so those about the subject
/// that was quiet for longest go first.
const TOTAL_MAX: usize = 8 << 20;

/// Most subjects: as many as there are machines in the table of them.
const SUBJECTS_MAX: usize = 4096;

/// Part of the subjects forgotten at once.
const FORGET_PART: usize = 16;

static LINES: LazyLock<Mutex<RecentLines>> = LazyLock::new(Mutex::default);

/// The machine that a line is about, as the line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Mac(Mac),
    Address(IpAddr),
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogLine {
    pub at: Instant,
    pub text: Box<str>,
}

/// Notes a line about a machine.
pub(crate) fn note(subject: Subject, text: &str, now: Instant) {
    lines().note(subject, text, now);
}

/// Returns the lines about any of these, in the order of their times.
pub(crate) fn about(subjects: impl Iterator<Item = Subject>) -> Vec<LogLine> {
    lines().about(subjects)
}

fn lines() -> MutexGuard<'static, RecentLines> {
    // A panic while the lock is held leaves complete lines.
    locked(&LINES)
}

#[derive(Debug, Default)]
struct RecentLines {
    by_subject: HashMap<Subject, VecDeque<LogLine>>,
    /// Characters of all lines.
    total: usize,
}

impl RecentLines {
    fn note(&mut self, subject: Subject, text: &str, now: Instant) {
        let text: Box<str> = text.chars().take(LINE_MAX).collect::<String>().into();
        self.total += text.len();
        let lines = self.by_subject.entry(subject).or_default();
        lines.push_back(LogLine { at: now, text });
        if lines.len() > LINES_MAX {
            self.total -= lines.pop_front().map_or(0, |first| first.text.len());
        }
        if self.total > TOTAL_MAX || self.by_subject.len() > SUBJECTS_MAX {
            self.forget();
        }
    }

    /// Forgets lines about subjects that were quiet for longest.
    fn forget(&mut self) {
        let last = |lines: &VecDeque<LogLine>| lines.back().map(|line| line.at);
        let mut subjects: Vec<_> =
            self.by_subject.iter().map(|(subject, lines)| (last(lines), *subject)).collect();
        subjects.sort_by_key(|(last, _)| *last);
        for (_, subject) in subjects.iter().take(self.by_subject.len().div_ceil(FORGET_PART)) {
            let gone = self.by_subject.remove(subject).unwrap_or_default();
            self.total -= gone.iter().map(|line| line.text.len()).sum::<usize>();
        }
    }

    fn about(&self, subjects: impl Iterator<Item = Subject>) -> Vec<LogLine> {
        let found = subjects.filter_map(|subject| self.by_subject.get(&subject));
        let mut lines: Vec<_> = found.flatten().cloned().collect();
        lines.sort_by_key(|line| line.at);
        // The last ones, as for one subject.
        lines.split_off(lines.len().saturating_sub(LINES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn subject(n: u32) -> Subject {
        Subject::Address(IpAddr::from(n.to_be_bytes()))
    }

    fn texts(lines: &RecentLines, subjects: &[Subject]) -> Vec<String> {
        lines.about(subjects.iter().copied()).into_iter().map(|line| line.text.into()).collect()
    }

    #[test]
    fn lines_about_a_machine_are_in_order_by_any_of_its_names() {
        let (mut lines, now) = (RecentLines::default(), Instant::now());
        let mac = Subject::Mac(Mac::new(&[2, 0, 0, 0, 0, 7]).unwrap());
        for (second, subject, text) in
            [(0, mac, "a"), (1, subject(1), "b"), (2, mac, "c"), (2, subject(2), "d")]
        {
            lines.note(subject, text, now + Duration::from_secs(second));
        }
        assert_eq!(texts(&lines, &[subject(1), mac]), ["a", "b", "c"]);
        assert_eq!(texts(&lines, &[subject(3)]), [""; 0]);
    }

    #[test]
    fn lines_are_bounded() {
        let (mut lines, now) = (RecentLines::default(), Instant::now());
        for n in 0..100 {
            lines.note(subject(1), &format!("{n} {}", "é".repeat(1000)), now);
        }
        let kept = texts(&lines, &[subject(1)]);
        assert_eq!((kept.len(), kept[0].chars().count()), (LINES_MAX, LINE_MAX));
        assert!(kept[0].starts_with("50 ") && kept[LINES_MAX - 1].starts_with("99 "));
        for n in 0..60_000 {
            lines.note(subject(n), "x", now + Duration::from_secs(n.into()));
            assert!(lines.by_subject.len() <= SUBJECTS_MAX);
        }
        for n in 0..60_000 {
            let now = now + Duration::from_secs(60_000 + u64::from(n));
            lines.note(subject(n % 2000), &"x".repeat(LINE_MAX), now);
        }
        assert!(lines.total <= TOTAL_MAX && lines.total > TOTAL_MAX / 2, "{}", lines.total);
        let sum: usize = lines.by_subject.values().flatten().map(|line| line.text.len()).sum();
        assert_eq!(lines.total, sum);
        assert_eq!(
            (texts(&lines, &[subject(30_000)]).len(), texts(&lines, &[subject(1999)]).is_empty()),
            (0, false)
        );
    }
}
