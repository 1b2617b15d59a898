//! The replies on one NFS connection. Pure: bytes in, bytes and ranges out; no I/O, no clock.
//!
//! There is no state that a restart could lose: every call names its object by a handle. A
//! [`Session`] remembers only which replies of this connection are still on their way.

mod directory;
mod duplicate_calls;
mod object;
mod procedure_error;
mod procedures;
mod read_only;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use bytes::{Buf, BytesMut};

use self::duplicate_calls::DuplicateCalls;
use self::procedures::Payload;
use super::mount::RefusedMount;
use super::rpc::{self, Call, CallError, RecordError, RpcMessage};
use super::xdr::{self, Emitter};
use super::{mount, wire};
use crate::export::{AllCached, Batch, ColdRange, MixedImagesError, PageCache, Piece};
use crate::images::ImageSet;
use crate::stream::{ReadOutcome, ReadTotals, Turn, Waiting};

/// Longest READ, in bytes; also the preferred length: Linux then mounts with `rsize=1048576`.
pub(crate) const READ_MAX: u32 = 1 << 20;

/// Longest results of READDIR and READDIRPLUS, in bytes.
pub(crate) const DIRECTORY_MAX: u32 = 64 << 10;

/// Payload bytes queued before the connection has to let others run.
const TURN_BYTES: u64 = 1 << 20;

/// Calls answered before the connection has to let others run.
const TURN_CALLS: u32 = 512;

/// Bytes of listings and headers queued before they have to be sent: unlike payload they take
/// memory.
const TURN_HELD: usize = 128 << 10;

/// A stream that cannot be understood any more: the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client broke the protocol: {0}")]
pub struct StreamError(#[from] pub RecordError);

/// A connection of a client, with all the mounts that go over it: plain data, so that another
/// process could go on with it. The images are an argument.
#[derive(Debug)]
pub struct Session {
    peer: SocketAddr,
    duplicates: DuplicateCalls,
    /// READs of bytes that are not in memory.
    waiting: Waiting<WaitingCall>,
    totals: ReadTotals,
    /// Reason why the last mount was refused.
    refused_mount: Option<RefusedMount>,
}

/// A call whose reply waits for the disk.
#[derive(Debug, Clone)]
struct WaitingCall {
    xid: u32,
    message: Box<[u8]>,
}

/// A call that was not answered.
#[derive(Debug)]
enum Unanswered {
    /// Ranges of another image have to leave first.
    MixedImages,
    /// It waits for the disk now.
    Cold,
}

impl From<MixedImagesError> for Unanswered {
    fn from(_: MixedImagesError) -> Self {
        Self::MixedImages
    }
}

impl Session {
    /// Begins a connection of `peer`, whose address appears in the log.
    pub fn new(peer: SocketAddr) -> Self {
        let (duplicates, waiting) = (DuplicateCalls::default(), Waiting::default());
        Self { peer, duplicates, waiting, totals: ReadTotals::default(), refused_mount: None }
    }

    pub(crate) const fn totals(&self) -> ReadTotals {
        self.totals
    }

    /// Returns why the last mount was refused, once.
    pub(crate) const fn take_refused_mount(&mut self) -> Option<RefusedMount> {
        self.refused_mount.take()
    }

    /// Returns the ranges that replies wait for, each once.
    pub(crate) fn take_cold(&mut self) -> Vec<ColdRange> {
        self.waiting.take_cold()
    }

    /// Notes that a range of the call with this ticket is not read any more.
    pub(crate) fn range_ended(&mut self, ticket: u64, outcome: ReadOutcome) {
        self.waiting.range_ended(ticket, outcome);
    }

    /// Answers the complete calls of `input`, takes them off, and queues the replies. A READ of
    /// bytes that `cache` does not hold is answered later, when they have been read: RPC knows a
    /// reply by its xid (RFC 5531 §9), so the order is free.
    ///
    /// A call whose xid is that of a reply still queued is dropped. Its client lost patience, and
    /// gets the reply as soon as it reads.
    pub fn handle(
        &mut self,
        images: &ImageSet,
        input: &mut BytesMut,
        cache: &impl PageCache,
        out: &mut Batch,
    ) -> Turn<StreamError> {
        if !self.waiting.is_empty()
            && let Some(turn) = self.answer_waiting(images, out)
        {
            return turn;
        }
        for _ in 0..TURN_CALLS {
            if out.len() >= TURN_BYTES || out.held() >= TURN_HELD {
                return Turn::Full;
            }
            let record = match rpc::next_record(input) {
                Ok(Some(record)) => record,
                Ok(None) => return Turn::Drained,
                Err(error) => return self.end(error),
            };
            let message = match RpcMessage::parse(&record.message) {
                Ok(message) => message,
                Err(error) => return self.end(error.into()),
            };
            let answered = self.answer(images, &message, &record.message, cache, out);
            if let Err(Unanswered::MixedImages) = answered {
                return Turn::Full;
            }
            let len = record.len;
            input.advance(len);
            self.duplicates.parsed(len);
            if answered.is_err() && self.must_wait() {
                return Turn::Waiting;
            }
        }
        Turn::Full
    }

    /// Ends the connection once all calls before the error were answered.
    fn end(&self, error: RecordError) -> Turn<StreamError> {
        if self.waiting.is_empty() { Turn::End(error.into()) } else { Turn::Waiting }
    }

    /// Answers the READs that do not wait any longer; returns `Some` when the turn ends then.
    fn answer_waiting(&mut self, images: &ImageSet, out: &mut Batch) -> Option<Turn<StreamError>> {
        while let Some((call, outcome)) = self.waiting.ready() {
            let call = call.clone();
            if out.len() >= TURN_BYTES {
                return Some(Turn::Full);
            }
            // The message was parsed when it came.
            let message = RpcMessage::parse(&call.message).ok()?;
            if outcome == ReadOutcome::Failed {
                self.postpone(images, &message, out);
            } else if self.reply(images, &message, &call.message, &AllCached, out).is_err() {
                return Some(Turn::Full);
            }
            self.waiting.answered();
        }
        self.must_wait().then_some(Turn::Waiting)
    }

    /// Queues the reply that makes a client send its READ again.
    fn postpone(&mut self, images: &ImageSet, message: &RpcMessage<'_>, out: &mut Batch) {
        out.write_bytes(|arena| {
            let start = rpc::begin_record(arena);
            message.answer(arena, |call, results| procedures::postpone(images, call, results));
            rpc::end_record(arena, start, 0);
        });
        self.duplicates.answered(message.xid);
    }

    /// Returns `true` if no more calls should be taken off the input, since too many wait.
    fn must_wait(&self) -> bool {
        let held = self.waiting.iter().map(|call| call.message.len()).sum::<usize>();
        self.waiting.is_full() || held >= TURN_HELD
    }

    /// Notes that all of the batch has been sent, and what is in the input by then. A duplicate in
    /// there was sent by a client that had not seen its reply yet.
    pub fn sent(&mut self, input: &BytesMut) {
        self.duplicates.sent(input.len());
    }

    /// Answers one call, unless it is a duplicate of one whose reply has yet to leave.
    fn answer(
        &mut self,
        images: &ImageSet,
        message: &RpcMessage<'_>,
        bytes: &[u8],
        cache: &impl PageCache,
        out: &mut Batch,
    ) -> Result<(), Unanswered> {
        let xid = message.xid;
        if self.duplicates.contains(xid) || self.waiting.iter().any(|call| call.xid == xid) {
            return Ok(());
        }
        self.reply(images, message, bytes, cache, out)
    }

    /// Queues the reply to one call of these `bytes`, or keeps it if it has to wait for the disk.
    fn reply(
        &mut self,
        images: &ImageSet,
        message: &RpcMessage<'_>,
        bytes: &[u8],
        cache: &impl PageCache,
        out: &mut Batch,
    ) -> Result<(), Unanswered> {
        let (peer, waiting, xid) = (self.peer, &mut self.waiting, message.xid);
        let refused = &mut self.refused_mount;
        let read = out.push_reply(|out| {
            let payload = out.write_bytes(|arena| {
                let start = rpc::begin_record(arena);
                let answer = message.answer(arena, |call, results| run(images, peer, call, results, refused));
                let payload = answer.flatten();
                rpc::end_record(arena, start, payload.as_ref().map_or(0, Payload::padded_len));
                payload
            });
            let Some(payload) = payload else { return Ok(None) };
            let queued = queue(&payload, cache, out);
            if let Err(Unanswered::Cold) = queued {
                waiting.push(WaitingCall { xid, message: bytes.into() }, payload.ranges());
            }
            queued.map(Some)
        })?;
        if let Some(len) = read {
            self.totals.count(len);
        }
        self.duplicates.answered(xid);
        Ok(())
    }
}

/// Queues the payload of a READ, and returns its length without the padding.
fn queue(payload: &Payload<'_>, cache: &impl PageCache, out: &mut Batch) -> Result<u32, Unanswered> {
    payload.ranges().try_for_each(|range| match cache.holds(range) {
        true => Ok(out.push_piece(Piece::Image(range))?),
        false => Err(Unanswered::Cold),
    })?;
    // RFC 4506 §4.10: opaque data is padded to a multiple of four bytes.
    let padding = xdr::padding(payload.len as usize);
    out.push_bytes([0; 3].get(..padding).unwrap_or_default());
    Ok(payload.len)
}

/// Runs the procedure of a program of this port; NFS may have payload behind its results.
fn run<'a>(
    images: &'a ImageSet,
    peer: SocketAddr,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
    refused: &mut Option<RefusedMount>,
) -> Result<Option<Payload<'a>>, CallError> {
    match call.program {
        wire::PROGRAM => procedures::answer(images, call, results),
        // MOUNT shares the port, so a client needs one connection, and a firewall one hole.
        mount::PROGRAM => mount::answer(images, peer, call, results, refused).map(|()| None),
        // Linux asks for NFSACL (100227) when it mounts, and goes on without it.
        _ => Err(CallError::ProgUnavail),
    }
}
