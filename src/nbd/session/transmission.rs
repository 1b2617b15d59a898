//! Transmission: requests in, replies out, until the client goes.

use bytes::{Buf, BytesMut};

use super::{ALLOCATION_ID, READ_MAX};
use crate::codec::Reader;
use crate::export::{Batch, Export, MixedImagesError, Pieces};
use crate::nbd::wire::{self, ChunkType, Cmd, Errno, NbdParseError, NbdRequest};
use crate::stream::{ReadTotals, Turn};

/// Payload bytes queued before the connection has to let others run.
const TURN_BYTES: u64 = 1 << 20;

/// Requests answered before the connection has to let others run.
const TURN_REQUESTS: u32 = 512;

/// Longest payload of a refused write that is swallowed, in bytes.
const PAYLOAD_MAX: u32 = READ_MAX;

/// Form of the replies; agreed in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// State of a client in transmission: plain data, so that another process could go on with it. The
/// export is an argument.
#[derive(Debug, Clone)]
pub struct Transmission {
    replies: Replies,
    /// Bytes of a refused write's payload still to be swallowed.
    swallow: u32,
    /// Offset and length of the bytes that the client plans to read.
    prefetch: Option<(u64, u32)>,
    totals: ReadTotals,
}

impl Transmission {
    pub fn new(replies: Replies) -> Self {
        Self { replies, swallow: 0, prefetch: None, totals: ReadTotals::default() }
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

    /// Answers the complete requests of `input` about `export`, takes them off, and queues the
    /// replies.
    pub fn handle(
        &mut self,
        export: &Export,
        input: &mut BytesMut,
        out: &mut Batch,
    ) -> Turn<TransmissionEnd> {
        for _ in 0..TURN_REQUESTS {
            if out.len() >= TURN_BYTES {
                return Turn::Full;
            }
            self.swallow(input);
            let request = match NbdRequest::parse(&mut Reader::new(input)) {
                Ok(request) => request,
                Err(NbdParseError::Truncated(_)) => return Turn::Drained,
                Err(malformed) => return Turn::End(TransmissionEnd::Broken(malformed)),
            };
            match self.answer(export, &request, out) {
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
        out: &mut Batch,
    ) -> Result<Option<Turn<TransmissionEnd>>, MixedImagesError> {
        let result = match request.command {
            Cmd::READ => match pieces(export, request) {
                Ok(pieces) => {
                    out.push_reply(|out| read(self.replies, request, pieces, out))?;
                    self.totals.count(request.len);
                    Ok(())
                }
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
            // "The server MUST handle all outstanding requests": what is queued leaves first.
            Cmd::DISC => return Ok(Some(Turn::End(TransmissionEnd::Disconnected))),
            Cmd::WRITE if request.len > PAYLOAD_MAX => {
                return Ok(Some(Turn::End(TransmissionEnd::Flooded { len: request.len })));
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
    out: &mut Batch,
) -> Result<(), MixedImagesError> {
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
    pieces.try_for_each(|piece| out.push_piece(piece))
}

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

    const fn invalid(text: &'static str) -> Self {
        Self { error: Errno::EINVAL, text }
    }
}
