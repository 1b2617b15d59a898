//! Transmission: requests in, replies out, until the client goes.

use bytes::{Buf, BytesMut};

use super::{ALLOCATION_ID, READ_MAX};
use crate::codec::Reader;
use crate::export::{Batch, Export, MixedImagesError, Pieces};
use crate::nbd::wire::{self, ChunkType, Cmd, Errno, NbdParseError, NbdRequest};

/// Payload bytes queued before the connection has to give way to others.
const TURN_BYTES: u64 = 1 << 20;

/// Requests answered before the connection has to give way to others.
const TURN_REQUESTS: u32 = 512;

/// Longest payload of a refused write that is swallowed, in bytes.
const PAYLOAD_MAX: u32 = READ_MAX;

/// How replies look; agreed in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    Simple,
    Structured,
    /// Structured, and block status may be asked.
    StructuredWithAllocation,
}

/// What the connection does next; what is in the batch is sent first in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Every complete request was answered: read more.
    Drained,
    /// Enough for one turn: come back for the rest of the input.
    Full,
    /// The client plans to read these bytes of the export (`NBD_CMD_CACHE`); come back for the rest.
    Prefetch { offset: u64, len: u32 },
    /// `NBD_CMD_DISC`: the client is done.
    Disconnected,
    /// The stream cannot be understood any more.
    Broken(NbdParseError),
    /// A write with a payload too long to swallow.
    Flooded { len: u32 },
}

/// State of a client in transmission: small and plain, so that it can be handed to another process.
#[derive(Debug, Clone)]
pub struct Transmission {
    export: Export,
    replies: Replies,
    /// Bytes of a refused write's payload still to be swallowed.
    swallow: u32,
    tally: Tally,
}

/// What a client has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub reads: u64,
    pub bytes: u64,
}

impl Transmission {
    pub fn new(export: Export, replies: Replies) -> Self {
        Self { export, replies, swallow: 0, tally: Tally::default() }
    }

    pub(crate) const fn export(&self) -> &Export {
        &self.export
    }

    #[cfg(test)]
    pub(super) const fn replies(&self) -> Replies {
        self.replies
    }

    pub(crate) const fn tally(&self) -> Tally {
        self.tally
    }

    /// Answers the complete requests of `input`, takes them off, and queues the replies.
    pub fn handle(&mut self, input: &mut BytesMut, out: &mut Batch) -> Turn {
        for _ in 0..TURN_REQUESTS {
            if out.len() >= TURN_BYTES {
                return Turn::Full;
            }
            self.swallow(input);
            let request = match NbdRequest::parse(&mut Reader::new(input)) {
                Ok(request) => request,
                Err(NbdParseError::Truncated(_)) => return Turn::Drained,
                Err(malformed) => return Turn::Broken(malformed),
            };
            match self.answer(&request, out) {
                Ok(None) => input.advance(NbdRequest::LEN),
                Ok(Some(turn)) => {
                    input.advance(NbdRequest::LEN);
                    return turn;
                }
                // Ranges of another image have to leave first.
                Err(MixedImagesError) => return Turn::Full,
            }
        }
        Turn::Full
    }

    /// Passes over the payload of a refused write.
    fn swallow(&mut self, input: &mut BytesMut) {
        // No more than `swallow`, so the cast keeps the value.
        let n = input.len().min(self.swallow as usize);
        input.advance(n);
        self.swallow -= n as u32;
    }

    /// Answers one request; `Some` when the turn ends with it.
    fn answer(&mut self, request: &NbdRequest, out: &mut Batch) -> Result<Option<Turn>, MixedImagesError> {
        let refused = match request.command {
            Cmd::READ => match self.pieces(request) {
                Ok(pieces) => {
                    out.push_reply(|out| read(self.replies, request, pieces, out))?;
                    self.tally.count(request.len);
                    Ok(())
                }
                Err(refusal) => Err(refusal),
            },
            Cmd::BLOCK_STATUS => self.block_status(request, out),
            Cmd::CACHE => match self.cache(request, out) {
                Ok(turn) => return Ok(Some(turn)),
                refused => refused.map(drop),
            },
            // Not advertised, yet harmless: nothing is ever unwritten.
            Cmd::FLUSH => self.succeed(request, out),
            Cmd::DISC => return Ok(Some(Turn::Disconnected)),
            Cmd::WRITE if request.len > PAYLOAD_MAX => return Ok(Some(Turn::Flooded { len: request.len })),
            Cmd::WRITE => {
                self.swallow = request.len;
                Err(Refusal::READ_ONLY)
            }
            Cmd::TRIM | Cmd::WRITE_ZEROES => Err(Refusal::READ_ONLY),
            _ => Err(Refusal::invalid("unknown command")),
        };
        if let Err(refusal) = refused {
            self.refuse(request, refusal, out);
        }
        Ok(None)
    }

    /// Returns what a read asks for.
    fn pieces(&self, request: &NbdRequest) -> Result<Pieces<'_>, Refusal> {
        self.check_flags(request, wire::CMD_FLAG_DF)?;
        if request.len > READ_MAX {
            return Err(Refusal::invalid("a read is at most 32 MiB"));
        }
        self.export.range(request.offset, request.len.into()).map_err(|_| Refusal::BEHIND_END)
    }

    fn block_status(&self, request: &NbdRequest, out: &mut Batch) -> Result<(), Refusal> {
        self.check_flags(request, wire::CMD_FLAG_REQ_ONE)?;
        if self.replies != Replies::StructuredWithAllocation {
            return Err(Refusal::invalid("no metadata context was negotiated"));
        }
        if request.len == 0 {
            return Err(Refusal::invalid("the status of no bytes"));
        }
        self.check_range(request)?;
        let status = wire::all_allocated(ALLOCATION_ID, request.len);
        out.push_bytes(&wire::only_chunk(ChunkType::BLOCK_STATUS, request.cookie, status.len() as u32));
        out.push_bytes(&status);
        Ok(())
    }

    fn cache(&self, request: &NbdRequest, out: &mut Batch) -> Result<Turn, Refusal> {
        self.check_flags(request, 0)?;
        self.check_range(request)?;
        self.succeed(request, out)?;
        Ok(Turn::Prefetch { offset: request.offset, len: request.len })
    }

    /// "The server SHOULD return NBD_EINVAL if it receives an unknown command flag."
    fn check_flags(&self, request: &NbdRequest, known: u16) -> Result<(), Refusal> {
        if request.flags & !known == 0 { Ok(()) } else { Err(Refusal::invalid("unknown command flag")) }
    }

    fn check_range(&self, request: &NbdRequest) -> Result<(), Refusal> {
        self.export.range(request.offset, request.len.into()).map(drop).map_err(|_| Refusal::BEHIND_END)
    }

    /// Success without data.
    fn succeed(&self, request: &NbdRequest, out: &mut Batch) -> Result<(), Refusal> {
        match self.replies {
            Replies::Simple => out.push_bytes(&wire::simple_reply(0, request.cookie)),
            _ => out.push_bytes(&wire::only_chunk(ChunkType::NONE, request.cookie, 0)),
        }
        Ok(())
    }

    fn refuse(&self, request: &NbdRequest, Refusal { error, text }: Refusal, out: &mut Batch) {
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

impl Tally {
    fn count(&mut self, len: u32) {
        self.reads += 1;
        self.bytes += u64::from(len);
    }
}

/// Queues the reply to a read.
fn read(
    replies: Replies,
    request: &NbdRequest,
    mut pieces: Pieces<'_>,
    out: &mut Batch,
) -> Result<(), MixedImagesError> {
    match replies {
        Replies::Simple => out.push_bytes(&wire::simple_reply(0, request.cookie)),
        // A data chunk holds one byte at least, so a read of nothing gets a chunk of nothing.
        _ if request.len == 0 => out.push_bytes(&wire::only_chunk(ChunkType::NONE, request.cookie, 0)),
        _ => {
            // One chunk holds all the data, so NBD_CMD_FLAG_DF is satisfied without being looked at.
            let offset = wire::data_offset(request.offset);
            let len = offset.len() as u32 + request.len;
            out.push_bytes(&wire::only_chunk(ChunkType::OFFSET_DATA, request.cookie, len));
            out.push_bytes(&offset);
        }
    }
    pieces.try_for_each(|piece| out.push_piece(piece))
}

/// A request that gets an error reply: the peer's fault.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    error: Errno,
    text: &'static str,
}

impl Refusal {
    const READ_ONLY: Self = Self { error: Errno::EPERM, text: "the export is read-only" };
    const BEHIND_END: Self = Self::invalid("the request ends behind the export");

    const fn invalid(text: &'static str) -> Self {
        Self { error: Errno::EINVAL, text }
    }
}
