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
use super::rpc::{self, Call, CallError, RecordError, RpcMessage};
use super::xdr::{self, Emitter};
use super::{mount, wire};
use crate::export::{Batch, MixedImagesError, Piece};
use crate::images::ImageSet;
use crate::stream::{ReadTotals, Turn};

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
    totals: ReadTotals,
}

impl Session {
    /// Begins a connection of `peer`, whose address appears in the log.
    pub fn new(peer: SocketAddr) -> Self {
        Self { peer, duplicates: DuplicateCalls::default(), totals: ReadTotals::default() }
    }

    pub(crate) const fn totals(&self) -> ReadTotals {
        self.totals
    }

    /// Answers the complete calls of `input`, takes them off, and queues the replies, in the order
    /// of the calls.
    ///
    /// A call whose xid is that of a reply still queued is dropped. Its client lost patience, and
    /// gets the reply as soon as it reads.
    pub fn handle(&mut self, images: &ImageSet, input: &mut BytesMut, out: &mut Batch) -> Turn<StreamError> {
        for _ in 0..TURN_CALLS {
            if out.len() >= TURN_BYTES || out.held() >= TURN_HELD {
                return Turn::Full;
            }
            let record = match rpc::next_record(input) {
                Ok(Some(record)) => record,
                Ok(None) => return Turn::Drained,
                Err(error) => return Turn::End(error.into()),
            };
            let message = match RpcMessage::parse(&record.message) {
                Ok(message) => message,
                Err(error) => return Turn::End(RecordError::from(error).into()),
            };
            // A READ of another image waits until the queued ranges have left.
            if let Err(MixedImagesError) = self.answer(images, &message, out) {
                return Turn::Full;
            }
            let len = record.len;
            input.advance(len);
            self.duplicates.parsed(len);
        }
        Turn::Full
    }

    /// Notes that all of the batch has been sent, and what is in the input by then. A duplicate in
    /// there was sent by a client that had not seen its reply yet.
    pub fn sent(&mut self, input: &BytesMut) {
        self.duplicates.sent(input.len());
    }

    /// Queues the reply to one call.
    fn answer(
        &mut self,
        images: &ImageSet,
        message: &RpcMessage<'_>,
        out: &mut Batch,
    ) -> Result<(), MixedImagesError> {
        if self.duplicates.contains(message.xid) {
            return Ok(());
        }
        let peer = self.peer;
        let read = out.push_reply(|out| {
            let payload = out.write_bytes(|arena| {
                let start = rpc::begin_record(arena);
                let answer = message.answer(arena, |call, results| run(images, peer, call, results));
                let payload = answer.flatten();
                rpc::end_record(arena, start, payload.as_ref().map_or(0, Payload::padded_len));
                payload
            });
            payload.map(|payload| queue(&payload, out)).transpose()
        })?;
        if let Some(len) = read {
            self.totals.count(len);
        }
        self.duplicates.answered(message.xid);
        Ok(())
    }
}

/// Queues the payload of a READ, and returns its length without the padding.
fn queue(payload: &Payload<'_>, out: &mut Batch) -> Result<u32, MixedImagesError> {
    payload.ranges().try_for_each(|range| out.push_piece(Piece::Image(range)))?;
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
) -> Result<Option<Payload<'a>>, CallError> {
    match call.program {
        wire::PROGRAM => procedures::answer(images, call, results),
        // MOUNT shares the port, so a client needs one connection, and a firewall one hole.
        mount::PROGRAM => mount::answer(images, peer, call, results).map(|()| None),
        // Linux asks for NFSACL (100227) when it mounts, and goes on without it.
        _ => Err(CallError::ProgUnavail),
    }
}
