//! One HTTP client: what it gets next. Pure: bytes and the time in, bytes and ranges out; no I/O, no clock.
//!
//! A [`Session`] takes requests off the input one by one; what each of them earns is decided by [`answer`].

pub(crate) mod answer;
mod conditions;
mod listing;
mod multipart;
mod send;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use jiff::Timestamp;

pub(crate) use self::answer::Answer;
pub use self::listing::Resources;
use super::wire::date::HttpDate;
use super::wire::head::Persistence;
use super::wire::{HttpParseError, HttpRequest, HttpVersion, StatusCode};
use crate::bootable::FileKind;
use crate::export::{Batch, MixedImagesError};

/// Bytes queued before the connection has to give way to others. What is made by us is in memory until it leaves, so
/// this is also what a client costs that asks and does not read.
const TURN_BYTES: u64 = 128 << 10;

/// Requests answered before the connection has to give way to others.
const TURN_REQUESTS: u32 = 64;

/// Longest content of a request that is swallowed, in bytes. Nobody here reads it.
const CONTENT_MAX: u64 = 64 << 10;

/// What the connection does next; what is in the batch is sent first in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Every complete request was answered: read more.
    Read,
    /// Enough for one turn: come back for the rest of the input.
    GoOn,
    /// This was the last answer.
    Close,
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    pub next: Next,
    /// What the last answer of the batch is, when it is worth a line of the log.
    pub story: Option<Story>,
}

/// An answer that belongs to the story of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// As the client wrote it, without percent-encoding.
    pub path: String,
    pub status: StatusCode,
    /// Content that was queued.
    pub bytes: u64,
    /// The program that asks.
    pub agent: String,
}

/// State of one connection.
#[derive(Debug)]
pub struct Session {
    resources: Arc<Resources>,
    /// The address that the client reached us at.
    local: Ipv4Addr,
    /// Bytes of a request's content still to be swallowed.
    swallow: u64,
    /// Kind of the files that the turn queued.
    kind: FileKind,
    /// Where heads are written.
    scratch: Vec<u8>,
}

impl Session {
    /// A client that reached us at `local`.
    pub fn new(resources: Arc<Resources>, local: Ipv4Addr) -> Self {
        Self { resources, local, swallow: 0, kind: FileKind::Other, scratch: Vec::new() }
    }

    /// From now on these are the files.
    pub(crate) fn serve(&mut self, resources: Arc<Resources>) {
        self.resources = resources;
    }

    /// Whether nothing of a request has come yet.
    pub(crate) fn is_between_requests(&self, input: &BytesMut) -> bool {
        input.is_empty() && self.swallow == 0
    }

    /// Returns the kind of the files that the last turn queued.
    pub fn file_kind(&self) -> FileKind {
        self.kind
    }

    /// Answers complete requests of `input`, takes them off, and queues the answers.
    pub fn handle(&mut self, input: &mut BytesMut, now: Timestamp, out: &mut Batch) -> Turn {
        for _ in 0..TURN_REQUESTS {
            if out.len() >= TURN_BYTES {
                break;
            }
            if let Some(turn) = self.handle_one(input, now, out) {
                return turn;
            }
        }
        Turn { next: Next::GoOn, story: None }
    }

    /// Says that a request took too long to arrive; nothing to a client that did not begin one.
    pub(crate) fn time_out(&mut self, input: &BytesMut, now: Timestamp, out: &mut Batch) {
        if !self.is_between_requests(input) {
            let reason = "the request did not arrive in time";
            self.refuse(StatusCode::REQUEST_TIMEOUT, reason, HttpDate::new(now), out);
        }
    }

    /// Answers one request; `Some` when the turn ends with it.
    pub(crate) fn handle_one(
        &mut self,
        input: &mut BytesMut,
        now: Timestamp,
        out: &mut Batch,
    ) -> Option<Turn> {
        let now = HttpDate::new(now);
        self.swallow_content(input);
        let (request, len) = match HttpRequest::parse(input) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Some(Turn { next: Next::Read, story: None }),
            Err(malformed) => {
                self.refuse(status(malformed), malformed, now, out);
                return Some(Turn { next: Next::Close, story: None });
            }
        };
        let answer = Answer::to(&request, &self.resources, self.local, now);
        // One kind of file a turn, so that its bytes tell the step of a boot when they leave.
        if answer.file_kind() != self.kind && !out.is_empty() {
            return Some(Turn { next: Next::GoOn, story: None });
        }
        self.kind = answer.file_kind();
        let (connection, content) = (connection(&request), request.content);
        let story = answer.story(&request);
        // What is queued of another image has to leave first.
        if let Err(MixedImagesError) = self.queue(answer, connection, now, out) {
            return Some(Turn { next: Next::GoOn, story: None });
        }
        self.swallow = content;
        input.advance(len);
        self.swallow_content(input);
        let next = if connection == Persistence::Closes { Next::Close } else { Next::GoOn };
        (next == Next::Close || story.is_some()).then_some(Turn { next, story })
    }

    fn swallow_content(&mut self, input: &mut BytesMut) {
        // No more than the input has, so the cast keeps the value.
        let n = self.swallow.min(input.len() as u64);
        input.advance(n as usize);
        self.swallow -= n;
    }

    fn queue(
        &mut self,
        answer: Answer,
        connection: Persistence,
        now: HttpDate,
        out: &mut Batch,
    ) -> Result<(), MixedImagesError> {
        self.scratch.clear();
        out.push_reply(|out| answer.queue(connection, now, &mut self.scratch, out))
    }

    /// Queues the last answer, which says what is wrong.
    fn refuse(&mut self, status: StatusCode, reason: impl Display, now: HttpDate, out: &mut Batch) {
        // A refusal has no ranges, so it can always be queued.
        let _ = self.queue(Answer::refusal(status, reason), Persistence::Closes, now, out);
    }
}

/// RFC 9112 §9.3, and §9.6 for the content that nobody waits for: a client that asked for leave to send it may well not
/// send it, and then it is not clear where the next request begins.
fn connection(request: &HttpRequest<'_>) -> Persistence {
    let expects = request.content > 0 && request.field("Expect").is_some();
    if expects || request.content > CONTENT_MAX || !request.wants_to_stay() {
        return Persistence::Closes;
    }
    match request.version {
        HttpVersion::Http10 => Persistence::StaysAsAsked,
        HttpVersion::Http11 => Persistence::Stays,
    }
}

/// Whose fault it is, in HTTP's numbers.
const fn status(malformed: HttpParseError) -> StatusCode {
    match malformed {
        HttpParseError::Syntax(_) | HttpParseError::Host | HttpParseError::Length => StatusCode::BAD_REQUEST,
        HttpParseError::Version => StatusCode::VERSION_NOT_SUPPORTED,
        HttpParseError::LongHead | HttpParseError::ManyFields => StatusCode::HEADER_FIELDS_TOO_LARGE,
        HttpParseError::LongTarget => StatusCode::URI_TOO_LONG,
        HttpParseError::Chunked => StatusCode::LENGTH_REQUIRED,
        HttpParseError::Coding => StatusCode::NOT_IMPLEMENTED,
    }
}
