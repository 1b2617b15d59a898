//! The answers to one HTTP client. Pure: bytes and the time in, bytes and ranges out; no I/O, no
//! clock.
//!
//! A [`Session`] takes requests off the input one by one; [`answer`] decides each of them.

pub(crate) mod answer;
mod backend;
mod conditions;
mod listing;
mod multipart;
mod send;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use bytes::{Buf, BytesMut};
use jiff::Timestamp;

pub(crate) use self::answer::Answer;
pub(crate) use self::backend::{Backend, NotItsAddressError};
pub use self::listing::Resources;
use super::wire::date::HttpDate;
use super::wire::head::Persistence;
use super::wire::{HttpParseError, HttpRequest, HttpVersion, Method, StatusCode};
use crate::boot::Requester;
use crate::bootable::FileKind;
use crate::export::batch::Chunk;
use crate::export::{Batch, MixedImagesError};
use crate::stream::Turn;

/// Bytes queued before the connection has to let others run. Generated content is in memory until
/// it leaves, so this is also the memory that a client costs that asks and does not read.
const TURN_BYTES: u64 = 128 << 10;

/// Requests answered before the connection has to let others run.
const TURN_REQUESTS: u32 = 64;

/// Longest content of a request that is swallowed, in bytes.
const CONTENT_MAX: u64 = 64 << 10;

/// Longest content that is read, in bytes: three host keys of SSH, percent-encoded, have three
/// thousand.
const READ_MAX: u64 = 16 << 10;

/// The last answer was sent: reason for which the session ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the last answer was sent")]
pub struct Finished;

/// An answer that belongs to a boot and is worth a line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedAnswer {
    /// Path as the client wrote it, without percent-encoding.
    pub path: String,
    pub status: StatusCode,
    /// Content that was queued.
    pub bytes: u64,
    /// Program that asks.
    pub agent: String,
}

/// State of one connection: plain data, so that another process could go on with it. The files are
/// an argument.
#[derive(Debug)]
pub struct Session {
    requester: Requester,
    /// Bytes of a request's content still to be swallowed.
    swallow: u64,
    /// Kind of the files that the turn queued.
    kind: FileKind,
    /// The last answer of the turn, if it is worth a line of the log.
    logged: Option<LoggedAnswer>,
    /// Requests that were answered.
    answered: u64,
}

impl Session {
    /// Begins a connection of this client.
    pub fn new(requester: impl Into<Requester>) -> Self {
        Self { requester: requester.into(), swallow: 0, kind: FileKind::Other, logged: None, answered: 0 }
    }

    /// Returns true if nothing of a request has arrived yet.
    pub(crate) fn is_between_requests(&self, input: &BytesMut) -> bool {
        input.is_empty() && self.swallow == 0
    }

    /// Returns the kind of the files that the last turn queued.
    pub(crate) const fn file_kind(&self) -> FileKind {
        self.kind
    }

    /// Returns the last answer of the turn, if it is worth a line of the log.
    pub(crate) const fn logged(&self) -> Option<&LoggedAnswer> {
        self.logged.as_ref()
    }

    /// Returns the number of requests that were answered.
    pub(crate) const fn answered(&self) -> u64 {
        self.answered
    }

    /// Returns the last answer of the turn, once, if it is worth a line of the log.
    pub(crate) const fn take_logged(&mut self) -> Option<LoggedAnswer> {
        self.logged.take()
    }

    /// Answers the complete requests of `input`, takes them off, and queues the answers.
    pub fn handle(
        &mut self,
        resources: &Resources,
        input: &mut BytesMut,
        now: Timestamp,
        out: &mut Batch,
    ) -> Turn<Finished> {
        for _ in 0..TURN_REQUESTS {
            if out.len() >= TURN_BYTES {
                break;
            }
            if let Some(turn) = self.handle_one(resources, input, now, out) {
                return turn;
            }
        }
        Turn::Full
    }

    /// Answers a request that took too long to arrive with 408, and a client that did not begin one
    /// with nothing.
    pub(crate) fn handle_timeout(
        &mut self,
        input: &BytesMut,
        now: Timestamp,
        out: &mut Batch,
    ) -> Turn<Finished> {
        if !self.is_between_requests(input) {
            let reason = "the request did not arrive in time";
            refuse(StatusCode::REQUEST_TIMEOUT, reason, HttpDate::new(now), out);
        }
        Turn::End(Finished)
    }

    /// Answers one request; returns `Some` when the turn ends with it.
    pub(crate) fn handle_one(
        &mut self,
        resources: &Resources,
        input: &mut BytesMut,
        now: Timestamp,
        out: &mut Batch,
    ) -> Option<Turn<Finished>> {
        self.requester.now = now;
        let now = HttpDate::new(now);
        self.swallow_content(input);
        let (request, len) = match HttpRequest::parse(input) {
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Some(Turn::Drained),
            Err(malformed) => {
                refuse(status(malformed), malformed, now, out);
                return Some(Turn::End(Finished));
            }
        };
        let mut content: &[u8] = &[];
        if answer::is_call(&request) {
            // Its effect is there only once, so nothing may send the answer back.
            if !out.is_empty() {
                return Some(Turn::Full);
            }
            // Without POST, the content is swallowed.
            let content_len = if request.method == Method::Post { request.content } else { 0 };
            // At most READ_MAX, so the cast keeps the value. A client that expects `100 Continue`
            // sends the content without it a second later (curl), which is less than the time of a
            // request.
            let Some(read) = input.get(len..len + content_len as usize) else {
                return Some(Turn::Drained);
            };
            content = read;
        }
        let answer = Answer::to(&request, content, resources, self.requester, now);
        // One kind of file a turn, so that its bytes tell the step of a boot when they leave.
        if answer.file_kind() != self.kind && !out.is_empty() {
            return Some(Turn::Full);
        }
        self.kind = answer.file_kind();
        let (connection, content) = (connection(&request), request.content);
        let logged = answer.logged(&request);
        // Queued ranges of another image have to leave first.
        if let Err(MixedImagesError) = out.push_reply(|out| answer.queue(connection, now, out)) {
            return Some(Turn::Full);
        }
        self.logged = logged;
        self.answered += 1;
        self.swallow = content;
        input.advance(len);
        self.swallow_content(input);
        match connection {
            Persistence::Closes => Some(Turn::End(Finished)),
            // Its log line tells when it has left, so it is the last of its batch.
            _ if self.logged.is_some() => Some(Turn::Full),
            _ => None,
        }
    }

    /// RFC 9112 §9.3: "A server MUST read the entire request message body or close the connection
    /// after sending its response".
    fn swallow_content(&mut self, input: &mut BytesMut) {
        // At most the length of the input, so the cast keeps the value.
        let n = self.swallow.min(input.len() as u64);
        input.advance(n as usize);
        self.swallow -= n;
    }
}

/// Returns the answer to a client for which there is no place, whatever it asks for.
pub(crate) fn without_place(reason: impl Display, now: Timestamp) -> Vec<u8> {
    let mut out = Batch::default();
    refuse(StatusCode::SERVICE_UNAVAILABLE, reason, HttpDate::new(now), &mut out);
    let bytes = out.chunks().filter_map(|chunk| match chunk {
        Chunk::Bytes(bytes) => Some(bytes),
        Chunk::Image(_) => None,
    });
    bytes.collect::<Vec<_>>().concat()
}

/// Queues the last answer, which says what is wrong.
fn refuse(status: StatusCode, reason: impl Display, now: HttpDate, out: &mut Batch) {
    // A refusal has no ranges, so it can always be queued.
    let _ = Answer::refusal(status, reason).queue(Persistence::Closes, now, out);
}

/// Decides whether the connection persists after the answer.
fn connection(request: &HttpRequest<'_>) -> Persistence {
    // RFC 9110 §10.1.1: a client that expects `100 Continue` may send its content or not once it
    // has a final answer, so it is unclear where the next request begins.
    let expects = request.content > 0 && request.field("Expect").is_some();
    if expects || request.content > CONTENT_MAX || !request.wants_to_stay() {
        return Persistence::Closes;
    }
    match request.version {
        // RFC 9112 §9.3: HTTP/1.0 persists only with "keep-alive" in both directions.
        HttpVersion::Http10 => Persistence::StaysAsAsked,
        HttpVersion::Http11 => Persistence::Stays,
    }
}

/// Returns the status code for a request that cannot be answered.
const fn status(malformed: HttpParseError) -> StatusCode {
    match malformed {
        HttpParseError::Syntax(_) | HttpParseError::Host | HttpParseError::Length => StatusCode::BAD_REQUEST,
        HttpParseError::Version => StatusCode::VERSION_NOT_SUPPORTED,
        // RFC 6585 §5: the fields together, or one of them, are too large.
        HttpParseError::LongHead | HttpParseError::ManyFields => StatusCode::HEADER_FIELDS_TOO_LARGE,
        // RFC 9112 §3: "A server that receives a request-target longer than any URI it wishes to
        // parse MUST respond with a 414".
        HttpParseError::LongTarget => StatusCode::URI_TOO_LONG,
        // RFC 9112 §6.3: "A server MAY reject a request that contains a message body but not a
        // Content-Length by responding with 411".
        HttpParseError::Chunked => StatusCode::LENGTH_REQUIRED,
        // RFC 9112 §6.1: a transfer coding that the server does not understand.
        HttpParseError::Coding => StatusCode::NOT_IMPLEMENTED,
    }
}
