//! One NFS connection: what it gets next. Pure: bytes in, bytes and ranges out; no I/O, no clock.
//!
//! There is no state that a restart could lose: every call names its object by a handle. What a [`Session`] remembers
//! is which replies of this connection are still on their way.

mod directory;
mod duplicate_calls;
mod object;
mod procedures;
mod read_only;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};

use self::duplicate_calls::DuplicateCalls;
use self::procedures::Payload;
use super::rpc::{self, Call, CallError, RecordError, RpcMessage};
use super::xdr::{self, Emitter};
use super::{mount, wire};
use crate::export::{Batch, MixedImagesError, Piece};
use crate::images::ImageSet;

/// Longest READ, in bytes; also the best one for a client.
pub(crate) const READ_MAX: u32 = 1 << 20;

/// Longest results of READDIR and READDIRPLUS, in bytes.
pub(crate) const DIRECTORY_MAX: u32 = 64 << 10;

/// Payload bytes queued before the connection has to give way to others.
const TURN_BYTES: u64 = 1 << 20;

/// Calls answered before the connection has to give way to others.
const TURN_CALLS: u32 = 512;

/// Bytes of listings and headers queued before they have to be sent: unlike payload they take memory.
const TURN_HELD: usize = 128 << 10;

/// What the connection does next; what is in the batch is sent first in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Every complete call was answered: read more.
    Drained,
    /// Enough for one turn: come back for the rest of the input.
    Full,
    /// The stream cannot be understood any more.
    Broken(RecordError),
}

/// A connection of a client, with all the mounts that go over it.
#[derive(Debug)]
pub struct Session {
    images: Arc<ImageSet>,
    peer: SocketAddr,
    duplicates: DuplicateCalls,
    tally: Tally,
}

/// What a client has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub reads: u64,
    pub bytes: u64,
}

impl Session {
    /// A connection of `peer`, whose address appears in the log.
    pub fn new(images: Arc<ImageSet>, peer: SocketAddr) -> Self {
        Self { images, peer, duplicates: DuplicateCalls::default(), tally: Tally::default() }
    }

    /// From now on these are the images.
    pub(crate) fn serve(&mut self, images: Arc<ImageSet>) {
        self.images = images;
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// Answers the complete calls of `input`, takes them off, and queues the replies, in the order of the calls.
    ///
    /// A call whose xid is that of a reply still queued is dropped: its client lost patience, and will have what it
    /// asked for as soon as it reads.
    pub fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn {
        for _ in 0..TURN_CALLS {
            if out.len() >= TURN_BYTES || out.held() >= TURN_HELD {
                return Turn::Full;
            }
            let record = match rpc::next_record(input) {
                Ok(Some(record)) => record,
                Ok(None) => return Turn::Drained,
                Err(bad) => return Turn::Broken(bad),
            };
            let message = match RpcMessage::parse(&record.message) {
                Ok(message) => message,
                Err(not_a_call) => return Turn::Broken(not_a_call.into()),
            };
            // A READ of another image waits until what is queued has left.
            if let Err(MixedImagesError) = self.answer(&message, out) {
                return Turn::Full;
            }
            let len = record.len;
            input.advance(len);
            self.duplicates.parsed(len);
        }
        Turn::Full
    }

    /// To be told when all of the batch has been sent, with what is in the input by then: a duplicate in there was
    /// sent by a client that had not seen its answer yet.
    pub fn sent(&mut self, input: &BytesMut) {
        self.duplicates.sent(input.len());
    }

    /// Queues the reply to one call.
    fn answer(&mut self, message: &RpcMessage<'_>, out: &mut Batch) -> Result<(), MixedImagesError> {
        if self.duplicates.contains(message.xid) {
            return Ok(());
        }
        let Self { images, peer, .. } = self;
        let read = out.push_reply(|out| {
            let payload = out.write_bytes(|arena| {
                let start = rpc::begin_record(arena);
                let answer = message.answer(arena, |call, results| run(images, *peer, call, results));
                let payload = answer.flatten();
                rpc::end_record(arena, start, payload.as_ref().map_or(0, Payload::padded_len));
                payload
            });
            payload.map(|payload| queue(&payload, out)).transpose()
        })?;
        if let Some(len) = read {
            self.tally.reads += 1;
            self.tally.bytes += u64::from(len);
        }
        self.duplicates.answered(message.xid);
        Ok(())
    }
}

/// Queues what READ sends behind its results, and returns its length without the padding.
fn queue(payload: &Payload<'_>, out: &mut Batch) -> Result<u32, MixedImagesError> {
    payload.ranges().try_for_each(|range| out.push_piece(Piece::Image(range)))?;
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
        mount::PROGRAM => mount::answer(images, peer, call, results).map(|()| None),
        // Linux asks for NFSACL (100227), and does well without it.
        _ => Err(CallError::ProgUnavail),
    }
}
