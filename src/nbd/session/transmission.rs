//! Transmission: requests in, replies out, until the client goes.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};

use super::{ALLOCATION_ID, READ_MAX};
use crate::codec::Reader;
use crate::export::{
    AllCached, Batch, ColdRange, Export, ImageRange, MixedImagesError, PageCache, Piece, Pieces,
};
use crate::nbd::wire::{self, ChunkType, Cmd, Errno, NbdParseError, NbdRequest};
use crate::stream::{ReadOutcome, ReadTotals, Turn, Waiting};

/// Payload bytes queued before the connection has to let others run.
const TURN_BYTES: u64 = 1 << 20;

/// Requests answered before the connection has to let others run.
const TURN_REQUESTS: u32 = 512;

/// Longest payload of a refused write that is swallowed, in bytes.
const PAYLOAD_MAX: u32 = READ_MAX;

/// Form of the replies; agreed in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replies {
    Simple,
    Structured,
    /// Structured, and the client may ask for block status.
    StructuredWithAllocation,
}

/// Reason for which the transmission phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransmissionEnd {
    /// `NBD_CMD_DISC`.
    #[error("the client disconnected")]
    Disconnected,
    /// The stream cannot be understood any more.
    #[error("the client broke the protocol: {0}")]
    Broken(NbdParseError),
    /// A write with a payload too long to swallow.
    #[error("the client wants to write {len} bytes at once")]
    Flooded { len: u32 },
}

/// State of a client in transmission: plain data, so that another process can go on with it. The
/// export is an argument.
#[derive(Debug, Clone)]
pub struct Transmission {
    replies: Replies,
    /// Bytes of a refused write's payload still to be swallowed.
    swallow: u32,
    /// Offset and length of the bytes that the client plans to read.
    prefetch: Option<(u64, u32)>,
    /// Reads of bytes that are not in memory.
    waiting: Waiting<NbdRequest>,
    /// Requests that were not answered when the connection came to rest.
    again: VecDeque<NbdRequest>,
    totals: ReadTotals,
}

/// The state of a client whose connection is at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestingTransmission {
    replies: Replies,
    swallow: u32,
    /// Requests that were not answered.
    unanswered: VecDeque<NbdRequest>,
    totals: ReadTotals,
}

impl Transmission {
    pub fn new(replies: Replies) -> Self {
        let (swallow, unanswered, totals) = Default::default();
        Self::resume(RestingTransmission { replies, swallow, unanswered, totals })
    }

    /// Returns the state at rest. Reads from the disk are begun again after it.
    pub(crate) fn resting(&self) -> RestingTransmission {
        RestingTransmission {
            replies: self.replies,
            swallow: self.swallow,
            unanswered: self.waiting.iter().chain(&self.again).copied().collect(),
            totals: self.totals,
        }
    }

    /// Goes on with a state at rest.
    pub(crate) fn resume(resting: RestingTransmission) -> Self {
        let RestingTransmission { replies, swallow, unanswered: again, totals } = resting;
        Self { replies, swallow, prefetch: None, waiting: Waiting::default(), again, totals }
    }

    #[cfg(test)]
    pub(crate) const fn replies(&self) -> Replies {
        self.replies
    }

    pub(crate) const fn totals(&self) -> ReadTotals {
        self.totals
    }

    /// Returns the offset and length of the last `NBD_CMD_CACHE`, once.
    pub(crate) const fn take_prefetch(&mut self) -> Option<(u64, u32)> {
        self.prefetch.take()
    }

    /// Returns the ranges that replies wait for, each once.
    pub(crate) fn take_cold(&mut self) -> Vec<ColdRange> {
        self.waiting.take_cold()
    }

    /// Notes that a range of the request with this ticket is not read any more.
    pub(crate) fn range_ended(&mut self, ticket: u64, outcome: ReadOutcome) {
        self.waiting.range_ended(ticket, outcome);
    }

    /// Answers the complete requests of `input` about `export`, takes them off, and queues the
    /// replies. Reads of bytes that `cache` does not hold are answered later, each when they have
    /// been read: "the server MAY reply out of order".
    pub fn handle(
        &mut self,
        export: &Export,
        input: &mut BytesMut,
        cache: &impl PageCache,
        out: &mut Batch,
    ) -> Turn<TransmissionEnd> {
        if !self.waiting.is_empty()
            && let Some(turn) = self.answer_waiting(export, out)
        {
            return turn;
        }
        if !self.again.is_empty()
            && let Some(turn) = self.answer_again(export, cache, out)
        {
            return turn;
        }
        for _ in 0..TURN_REQUESTS {
            if out.len() >= TURN_BYTES {
                return Turn::Full;
            }
            self.swallow(input);
            let request = match NbdRequest::parse(&mut Reader::new(input)) {
                Ok(request) => request,
                Err(NbdParseError::Truncated(_)) => return Turn::Drained,
                Err(malformed) => return self.end(TransmissionEnd::Broken(malformed)),
            };
            match self.answer(export, &request, cache, out) {
                Ok(None) => input.advance(NbdRequest::LEN),
                Ok(Some(turn)) => {
                    input.advance(NbdRequest::LEN);
                    return turn;
                }
                Err(Stopped(turn)) => return turn,
            }
        }
        Turn::Full
    }

    /// Answers the reads that do not wait any longer; returns `Some` when the turn ends then.
    fn answer_waiting(&mut self, export: &Export, out: &mut Batch) -> Option<Turn<TransmissionEnd>> {
        while let Some((request, outcome)) = self.waiting.ready() {
            // The request was checked when it came.
            let pieces = export.range(request.offset, request.len.into()).ok()?;
            if out.len() >= TURN_BYTES {
                return Some(Turn::Full);
            }
            match outcome {
                ReadOutcome::Failed => self.refuse(request, RequestError::UNREADABLE, out),
                ReadOutcome::Read => {
                    if out.push_reply(|out| read(self.replies, request, pieces, &AllCached, out)).is_err() {
                        return Some(Turn::Full);
                    }
                    self.totals.count(request.len);
                }
            }
            self.waiting.answered();
        }
        self.waiting.is_full().then_some(Turn::Waiting)
    }

    /// Answers the requests that came before the connection was at rest, before those of the input;
    /// returns `Some` when the turn ends then.
    fn answer_again(
        &mut self,
        export: &Export,
        cache: &impl PageCache,
        out: &mut Batch,
    ) -> Option<Turn<TransmissionEnd>> {
        while let Some(&request) = self.again.front() {
            if out.len() >= TURN_BYTES {
                return Some(Turn::Full);
            }
            let answered = self.answer(export, &request, cache, out);
            if let Err(Stopped(turn)) = answered {
                return Some(turn);
            }
            self.again.pop_front();
            if self.waiting.is_full() {
                return Some(Turn::Waiting);
            }
        }
        None
    }

    /// Ends the phase once nothing waits: "the server MUST handle all outstanding requests". What
    /// is queued leaves anyway.
    fn end(&self, end: TransmissionEnd) -> Turn<TransmissionEnd> {
        if self.waiting.is_empty() { Turn::End(end) } else { Turn::Waiting }
    }

    /// Passes over the payload of a refused write.
    fn swallow(&mut self, input: &mut BytesMut) {
        // At most `swallow`, so the cast keeps the value.
        let n = input.len().min(self.swallow as usize);
        input.advance(n);
        self.swallow -= n as u32;
    }

    /// Answers one request; returns `Some` when the turn ends with it.
    fn answer(
        &mut self,
        export: &Export,
        request: &NbdRequest,
        cache: &impl PageCache,
        out: &mut Batch,
    ) -> Result<Option<Turn<TransmissionEnd>>, Stopped> {
        let result = match request.command {
            Cmd::READ => match pieces(export, request) {
                Ok(pieces) => return self.read(request, pieces, cache, out),
                Err(error) => Err(error),
            },
            Cmd::BLOCK_STATUS => self.block_status(export, request, out),
            Cmd::CACHE => match self.cache(export, request, out) {
                Ok(()) => return Ok(Some(Turn::Full)),
                refused => refused,
            },
            // NBD_FLAG_SEND_FLUSH is not set, yet a flush can succeed: nothing is ever unwritten.
            Cmd::FLUSH => {
                self.succeed(request, out);
                Ok(())
            }
            Cmd::DISC => return Err(Stopped(self.end(TransmissionEnd::Disconnected))),
            Cmd::WRITE if request.len > PAYLOAD_MAX => {
                return Err(Stopped(self.end(TransmissionEnd::Flooded { len: request.len })));
            }
            Cmd::WRITE => {
                // The payload follows even though the write is refused.
                self.swallow = request.len;
                Err(RequestError::READ_ONLY)
            }
            Cmd::TRIM | Cmd::WRITE_ZEROES => Err(RequestError::READ_ONLY),
            // "The server SHOULD return NBD_EINVAL if it receives an unknown command."
            _ => Err(RequestError::invalid("unknown command")),
        };
        // Never a disconnect: nbd-client does not come back, and a machine dies with its root.
        if let Err(error) = result {
            self.refuse(request, error, out);
        }
        Ok(None)
    }

    /// Queues the reply to a read, or keeps the read until its bytes are in memory.
    fn read(
        &mut self,
        request: &NbdRequest,
        pieces: Pieces<'_>,
        cache: &impl PageCache,
        out: &mut Batch,
    ) -> Result<Option<Turn<TransmissionEnd>>, Stopped> {
        match out.push_reply(|out| read(self.replies, request, pieces.clone(), cache, out)) {
            Ok(()) => {
                self.totals.count(request.len);
                Ok(None)
            }
            Err(Unqueued::Cold) => {
                self.waiting.push(*request, ranges(pieces));
                Ok(self.waiting.is_full().then_some(Turn::Waiting))
            }
            Err(Unqueued::MixedImages) => Err(Stopped(Turn::Full)),
        }
    }

    fn block_status(
        &self,
        export: &Export,
        request: &NbdRequest,
        out: &mut Batch,
    ) -> Result<(), RequestError> {
        check_flags(request, wire::CMD_FLAG_REQ_ONE)?;
        // "A client MUST NOT send NBD_CMD_BLOCK_STATUS unless [...] it sent
        // NBD_OPT_SET_META_CONTEXT".
        if self.replies != Replies::StructuredWithAllocation {
            return Err(RequestError::invalid("no metadata context was negotiated"));
        }
        // A descriptor "has a non-zero length", so there is none for a request of no bytes.
        if request.len == 0 {
            return Err(RequestError::invalid("the status of no bytes"));
        }
        check_range(export, request)?;
        let status = wire::all_allocated(ALLOCATION_ID, request.len);
        out.push_bytes(&wire::only_chunk(ChunkType::BLOCK_STATUS, request.cookie, status.len() as u32));
        out.push_bytes(&status);
        Ok(())
    }

    fn cache(&mut self, export: &Export, request: &NbdRequest, out: &mut Batch) -> Result<(), RequestError> {
        // A server that advertises NBD_FLAG_SEND_CACHE "MUST reject any command flags it does not
        // recognize".
        check_flags(request, 0)?;
        check_range(export, request)?;
        // "The server MAY send a reply prior to the requested area being fully cached."
        self.succeed(request, out);
        self.prefetch = Some((request.offset, request.len));
        Ok(())
    }

    /// Queues a reply of success without data.
    fn succeed(&self, request: &NbdRequest, out: &mut Batch) {
        match self.replies {
            Replies::Simple => out.push_bytes(&wire::simple_reply(0, request.cookie)),
            _ => out.push_bytes(&wire::only_chunk(ChunkType::NONE, request.cookie, 0)),
        }
    }

    fn refuse(&self, request: &NbdRequest, RequestError { error, text }: RequestError, out: &mut Batch) {
        if self.replies == Replies::Simple {
            return out.push_bytes(&wire::simple_reply(error.0, request.cookie));
        }
        // The texts are ours and short.
        let payload = wire::error_payload(error, text.len() as u16);
        let len = payload.len() + text.len();
        out.push_bytes(&wire::only_chunk(ChunkType::ERROR, request.cookie, len as u32));
        out.push_bytes(&payload);
        out.push_bytes(text.as_bytes());
    }
}

/// Returns the bytes that a read asks for.
fn pieces<'a>(export: &'a Export, request: &NbdRequest) -> Result<Pieces<'a>, RequestError> {
    check_flags(request, wire::CMD_FLAG_DF)?;
    if request.len > READ_MAX {
        return Err(RequestError::invalid("a read is at most 32 MiB"));
    }
    // A read of no bytes succeeds: "the server SHOULD NOT disconnect", and all peers answer it.
    export.range(request.offset, request.len.into()).map_err(|_| RequestError::BEHIND_END)
}

/// Returns those of `pieces` that are in the image file.
fn ranges<'a>(pieces: Pieces<'a>) -> impl Iterator<Item = ImageRange<'a>> {
    pieces.filter_map(|piece| match piece {
        Piece::Image(range) => Some(range),
        Piece::Memory(_) => None,
    })
}

fn check_flags(request: &NbdRequest, known: u16) -> Result<(), RequestError> {
    // "The server SHOULD return NBD_EINVAL if it receives an unknown command flag."
    if request.flags & !known == 0 { Ok(()) } else { Err(RequestError::invalid("unknown command flag")) }
}

fn check_range(export: &Export, request: &NbdRequest) -> Result<(), RequestError> {
    export.range(request.offset, request.len.into()).map(drop).map_err(|_| RequestError::BEHIND_END)
}

/// Queues the reply to a read.
fn read(
    replies: Replies,
    request: &NbdRequest,
    mut pieces: Pieces<'_>,
    cache: &impl PageCache,
    out: &mut Batch,
) -> Result<(), Unqueued> {
    match replies {
        Replies::Simple => out.push_bytes(&wire::simple_reply(0, request.cookie)),
        // "Each chunk MUST describe at least one byte", so a read of nothing gets an empty one.
        _ if request.len == 0 => out.push_bytes(&wire::only_chunk(ChunkType::NONE, request.cookie, 0)),
        _ => {
            // One chunk holds all the data, so NBD_CMD_FLAG_DF is always satisfied.
            let offset = wire::data_offset(request.offset);
            let len = offset.len() as u32 + request.len;
            out.push_bytes(&wire::only_chunk(ChunkType::OFFSET_DATA, request.cookie, len));
            out.push_bytes(&offset);
        }
    }
    pieces.try_for_each(|piece| match piece {
        Piece::Image(range) if !cache.holds(range) => Err(Unqueued::Cold),
        piece => Ok(out.push_piece(piece)?),
    })
}

/// A reply that cannot be queued now.
#[derive(Debug)]
enum Unqueued {
    /// Some of its bytes are not in memory.
    Cold,
    /// Ranges of another image have to leave first.
    MixedImages,
}

impl From<MixedImagesError> for Unqueued {
    fn from(_: MixedImagesError) -> Self {
        Self::MixedImages
    }
}

/// The turn ends before a request, which stays in the input.
#[derive(Debug)]
struct Stopped(Turn<TransmissionEnd>);

/// A request that gets an error reply: the peer's fault.
#[derive(Debug, Clone, Copy)]
struct RequestError {
    error: Errno,
    text: &'static str,
}

impl RequestError {
    // "It SHOULD return NBD_EPERM if it receives a write or trim request on a read-only export."
    const READ_ONLY: Self = Self { error: Errno::EPERM, text: "the export is read-only" };
    // NBD_EINVAL for "a read or trim request including one or more sectors beyond the size".
    const BEHIND_END: Self = Self::invalid("the request ends behind the export");

    // The client waited for `stall-timeout`.
    const UNREADABLE: Self = Self { error: Errno::EIO, text: "the image cannot be read" };

    const fn invalid(text: &'static str) -> Self {
        Self { error: Errno::EINVAL, text }
    }
}
