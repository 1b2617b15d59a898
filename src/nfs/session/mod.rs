//! One NFS connection: what it gets next. Pure: bytes in, bytes and ranges out; no I/O, no clock.
//!
//! There is no state that a restart could lose: every call names its object by a handle. What a [`Session`] remembers
//! is which replies of this connection are still on their way.

mod directory;
mod object;
mod procedures;
mod read_only;
#[cfg(test)]
mod tests;
mod unsettled;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};

use self::procedures::Payload;
use self::unsettled::Unsettled;
use super::rpc::{self, BadRecord, Call, Message, Refused};
use super::xdr::{self, Emitter};
use super::{mount, wire};
use crate::export::{Batch, Piece};
use crate::image::Image;
use crate::images::ImageSet;

/// Longest READ, in bytes; also the best one for a client.
pub const READ_MAX: u32 = 1 << 20;

/// Longest results of READDIR and READDIRPLUS, in bytes.
pub const DIRECTORY_MAX: u32 = 64 << 10;

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
    Broken(BadRecord),
}

/// A connection of a client, with all the mounts that go over it.
#[derive(Debug)]
pub struct Session {
    images: Arc<ImageSet>,
    peer: SocketAddr,
    /// Position in the set of the image that the queued ranges are ranges of.
    queued_from: Option<usize>,
    unsettled: Unsettled,
    tally: Tally,
}

/// What a client has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub reads: u64,
    pub bytes: u64,
}

/// What became of a call.
enum Outcome {
    Answered,
    /// Its answer has to wait until the batch was sent.
    Later,
}

impl Session {
    /// A connection of `peer`, whose address appears in the log.
    pub fn new(images: Arc<ImageSet>, peer: SocketAddr) -> Self {
        Self { images, peer, queued_from: None, unsettled: Unsettled::default(), tally: Tally::default() }
    }

    /// From now on these are the images. To be called between turns, when all of the batch has been sent.
    pub fn serve(&mut self, images: Arc<ImageSet>) {
        (self.images, self.queued_from) = (images, None);
    }

    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// The image that the ranges in the batch are ranges of.
    pub fn image(&self) -> &Image {
        let queued = self.queued_from.and_then(|position| self.images.at(position));
        &queued.unwrap_or_else(|| self.images.default_image()).image
    }

    /// Answers the complete calls of `input`, takes them off, and queues the replies, in the order of the calls.
    ///
    /// A call whose xid is that of a reply still queued is dropped: its client lost patience, and will have what it
    /// asked for as soon as it reads.
    pub fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn {
        if out.is_empty() {
            self.queued_from = None;
        }
        for _ in 0..TURN_CALLS {
            if out.len() >= TURN_BYTES || out.held() >= TURN_HELD {
                return Turn::Full;
            }
            let record = match rpc::next_record(input) {
                Ok(Some(record)) => record,
                Ok(None) => return Turn::Drained,
                Err(bad) => return Turn::Broken(bad),
            };
            match self.answer(&record.message, out) {
                Ok(Outcome::Answered) => {}
                Ok(Outcome::Later) => return Turn::Full,
                Err(not_a_call) => return Turn::Broken(not_a_call.into()),
            }
            let len = record.len;
            input.advance(len);
            self.unsettled.took(len);
        }
        Turn::Full
    }

    /// To be told when all of the batch has been sent, with what is in the input by then: a duplicate in there was
    /// sent by a client that had not seen its answer yet.
    pub fn sent(&mut self, input: &BytesMut) {
        self.unsettled.sent(input.len());
    }

    /// Queues the reply to one call.
    fn answer(&mut self, message: &[u8], out: &mut Batch) -> Result<Outcome, rpc::NotACall> {
        let message = Message::parse(message)?;
        if self.unsettled.contains(message.xid) {
            return Ok(Outcome::Answered);
        }
        let Self { images, peer, queued_from, unsettled, tally } = self;
        let payload = out.write_bytes(|arena| {
            let start = rpc::begin_record(arena);
            let payload = message.answer(arena, |call, results| run(images, *peer, call, results)).flatten();
            if payload.is_some_and(|payload| queued_from.is_some_and(|queued| queued != payload.image)) {
                arena.truncate(start);
                return Err(Outcome::Later);
            }
            rpc::end_record(arena, start, payload.as_ref().map_or(0, Payload::padded_len));
            Ok(payload)
        });
        match payload {
            Err(later) => return Ok(later),
            Ok(Some(payload)) => {
                *queued_from = Some(payload.image);
                tally.count(&payload);
                queue(&payload, out);
            }
            Ok(None) => {}
        }
        unsettled.answered(message.xid);
        Ok(Outcome::Answered)
    }
}

impl Tally {
    fn count(&mut self, payload: &Payload<'_>) {
        self.reads += 1;
        self.bytes += u64::from(payload.len);
    }
}

fn queue(payload: &Payload<'_>, out: &mut Batch) {
    payload.ranges().for_each(|range| out.push_piece(Piece::Image(range)));
    let padding = xdr::padding(payload.len as usize);
    out.push_bytes([0; 3].get(..padding).unwrap_or_default());
}

/// Runs the procedure of a program of this port; NFS may have payload behind its results.
fn run<'a>(
    images: &'a ImageSet,
    peer: SocketAddr,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<Option<Payload<'a>>, Refused> {
    match call.program {
        wire::PROGRAM => procedures::answer(images, call, results),
        mount::PROGRAM => mount::answer(images, peer, call, results).map(|()| None),
        // Linux asks for NFSACL (100227), and does well without it.
        _ => Err(Refused::ProgUnavail),
    }
}
