//! The files that a machine asked for in one boot, by TFTP and HTTP. Pure; time is an argument.

use std::time::{Duration, Instant};

use super::Protocol;
use crate::bootable::FileKind;

/// Most files of a boot that are remembered; a loader that goes in circles asks for a few.
const FILES_MAX: usize = 8;

/// Longest path that is kept, in characters.
const PATH_MAX: usize = 120;

/// Silence after which a request counts as the first again.
const CIRCLE: Duration = Duration::from_secs(60);

/// A file as a machine asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileRequest<'a> {
    /// As the machine wrote it.
    pub path: &'a str,
    pub kind: FileKind,
    pub protocol: Protocol,
    /// Bytes that are to be sent.
    pub size: u64,
}

/// A file that a machine asked for.
#[derive(Debug, Clone)]
pub(super) struct RequestedFile {
    pub path: Box<str>,
    pub kind: FileKind,
    pub protocol: Protocol,
    /// Bytes that are to be sent.
    pub size: u64,
    /// Bytes that the protocol had sent in this boot before.
    sent_before: u64,
    /// Requests within a short time.
    pub times: u32,
    pub last: Instant,
    pub is_whole: bool,
}

/// A file that a machine asked for and that is not there.
#[derive(Debug, Clone)]
pub(super) struct MissingFile {
    pub path: Box<str>,
    pub protocol: Protocol,
    /// Requests of this file, one after another.
    pub times: u32,
}

/// The last files of a boot.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// The last one is the current one.
    files: Vec<RequestedFile>,
    missing: Option<MissingFile>,
}

impl Requests {
    /// Records that a file begins to be sent, before which the protocol had sent `sent` bytes.
    pub(super) fn opened(&mut self, request: FileRequest<'_>, sent: u64, now: Instant) {
        self.missing = None;
        let path = cut(request.path);
        let known = self.files.iter().position(|file| *file.path == *path);
        let before = known.map(|position| self.files.remove(position));
        let recent = before.filter(|file| now.saturating_duration_since(file.last) < CIRCLE);
        if self.files.len() >= FILES_MAX {
            self.files.remove(0);
        }
        self.files.push(RequestedFile {
            path,
            kind: request.kind,
            protocol: request.protocol,
            size: request.size,
            sent_before: sent,
            times: recent.map_or(1, |file| file.times.saturating_add(1)),
            last: now,
            is_whole: false,
        });
    }

    /// Records that the current file was sent as a whole.
    pub(super) fn delivered(&mut self) {
        if let Some(file) = self.files.last_mut() {
            file.is_whole = true;
        }
    }

    pub(super) fn missed(&mut self, path: &str, protocol: Protocol) {
        let path = cut(path);
        let times = self.missing.take().filter(|missing| missing.path == path).map_or(0, |last| last.times);
        self.missing = Some(MissingFile { path, protocol, times: times.saturating_add(1) });
    }

    /// Forgets the file that was not there: the machine found another way.
    pub(super) fn went_on(&mut self) {
        self.missing = None;
    }

    pub(super) fn current(&self) -> Option<&RequestedFile> {
        self.files.last()
    }

    pub(super) fn missing(&self) -> Option<&MissingFile> {
        self.missing.as_ref()
    }

    /// Adds the files of a boot that was recorded under another address.
    pub(super) fn join(&mut self, other: Self) {
        let latest = |requests: &Self| requests.files.last().map(|file| file.last);
        if latest(&other) > latest(self) {
            *self = other;
        }
    }
}

impl RequestedFile {
    /// Returns the bytes of the file that were sent, of `sent` bytes by its protocol in all.
    pub(super) fn sent(&self, sent: u64) -> u64 {
        if self.is_whole { self.size } else { sent.saturating_sub(self.sent_before).min(self.size) }
    }
}

/// Cuts a path of a machine, and replaces what a terminal would take as a command (ECMA-48).
fn cut(path: &str) -> Box<str> {
    let printable = path.chars().map(|c| if c.is_control() { '?' } else { c });
    printable.take(PATH_MAX).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> FileRequest<'_> {
        FileRequest { path, kind: FileKind::Kernel, protocol: Protocol::Tftp, size: 100 }
    }

    #[test]
    fn current_file_knows_its_part() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        requests.opened(file("/vmlinuz"), 1000, now);
        let sent = |requests: &Requests, sent| requests.current().unwrap().sent(sent);
        assert_eq!([sent(&requests, 1000), sent(&requests, 1040), sent(&requests, 1200)], [0, 40, 100]);
        requests.delivered();
        assert_eq!(sent(&requests, 1040), 100);
    }

    #[test]
    fn repeated_requests_are_counted_within_a_minute() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        for second in 0..5 {
            requests.opened(file("/a"), 0, now + Duration::from_secs(second));
            requests.opened(file("/b"), 0, now + Duration::from_secs(second));
        }
        assert_eq!(requests.current().unwrap().times, 5);
        requests.opened(file("/b"), 0, now + Duration::from_secs(99));
        assert_eq!(requests.current().unwrap().times, 1);
    }

    #[test]
    fn missing_file_is_forgotten_with_the_next() {
        let mut requests = Requests::default();
        for (path, times) in [("/a\x1b", 1), ("/a\x1b", 2), ("/b", 1)] {
            requests.missed(path, Protocol::Http);
            assert_eq!(requests.missing().unwrap().times, times);
        }
        requests.opened(file("/c"), 0, Instant::now());
        assert!(requests.missing().is_none());
    }
}
