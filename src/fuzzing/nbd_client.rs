//! A model of an NBD client: it knows the reply to each request that it sends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;

use super::SomeCached;
use super::nbd::{EXTENT, Sent, image_in_memory, replies_of};
use crate::codec::{Reader, Truncated};
use crate::export::resting::UnsentPart;
use crate::export::{Batch, ColdRange, Export};
use crate::image::{Extent, Image};
use crate::nbd::session::{Replies, Transmission, TransmissionEnd};
use crate::stream::{ReadOutcome, Turn};

// Numbers of the NBD protocol, written out once more: a mistake in `nbd::wire` would be one here too.
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;
const FLAG_DF: u16 = 1 << 2;
const FLAG_REQ_ONE: u16 = 1 << 3;
const FLAG_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 0x8001;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// Longest read and longest payload of a write that a server has to take; ours takes no more.
const LEN_MAX: u32 = 32 << 20;

/// Checks that each request gets the one reply that the protocol says, with the right bytes of the
/// image, in whatever segments the requests arrive, whatever the page cache holds, and whether the
/// disk answers or fails.
///
/// The first byte chooses the form of replies, the second the length of segments; then follow
/// requests: command, flags, place and length in six bytes.
pub fn client(data: &[u8]) {
    let mut reader = Reader::new(data);
    let Ok([mode, segment]) = reader.array() else { return };
    let mut model = Model { replies: replies_of(mode), asked: HashMap::new(), is_flooding: false };
    let mut bytes = Vec::new();
    while model.ask(&mut reader, &mut bytes).is_ok_and(|goes_on| goes_on) {}
    let (said, end) = converse(&bytes, usize::from(segment) * 11 + 1, model.replies);
    model.check(Said(said.0.into()), end);
}

/// A request that waits for its reply.
#[derive(Debug, Clone, Copy)]
struct Asked {
    command: u16,
    offset: u64,
    len: u32,
    /// The error that it has to get; none may become EIO for a read.
    error: Option<u32>,
}

/// The client's view.
#[derive(Debug)]
struct Model {
    replies: Replies,
    asked: HashMap<u64, Asked>,
    /// It announced a payload that a server does not have to take.
    is_flooding: bool,
}

impl Model {
    /// Writes the next request; returns `false` if it is the last.
    fn ask(&mut self, input: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<bool, Truncated> {
        let [command, flags] = input.array()?;
        let [place, len] = [input.u16_be()?, input.u16_be()?].map(u32::from);
        let command = u16::from(command % 10);
        let flags = if flags < 128 { 0 } else { u16::from(flags % 32) };
        // Around the end of the export as well, and some far longer than is allowed.
        let (offset, len) = (u64::from(place) * 17, if len == 0xffff { LEN_MAX + 1 } else { len * 3 });
        let cookie = self.asked.len() as u64 + 7;
        out.extend(REQUEST_MAGIC.to_be_bytes());
        out.extend([flags, command].map(u16::to_be_bytes).concat());
        out.extend([cookie, offset].map(u64::to_be_bytes).concat());
        out.extend(len.to_be_bytes());
        match command {
            DISC => return Ok(false),
            WRITE if len > LEN_MAX => {
                self.is_flooding = true;
                return Ok(false);
            }
            WRITE => out.resize(out.len() + len as usize, 0x25),
            _ => {}
        }
        let error = self.error_of(command, flags, offset, len);
        self.asked.insert(cookie, Asked { command, offset, len, error });
        Ok(true)
    }

    /// Returns the error that the protocol says for a request to a server that only reads.
    fn error_of(&self, command: u16, flags: u16, offset: u64, len: u32) -> Option<u32> {
        let known = match command {
            READ => FLAG_DF,
            BLOCK_STATUS => FLAG_REQ_ONE,
            _ => 0,
        };
        let is_inside = offset + u64::from(len) <= EXTENT.len;
        match command {
            WRITE | TRIM | WRITE_ZEROES => Some(EPERM),
            FLUSH => None,
            READ | CACHE | BLOCK_STATUS if flags & !known != 0 || !is_inside => Some(EINVAL),
            READ => (len > LEN_MAX).then_some(EINVAL),
            CACHE => None,
            BLOCK_STATUS if len == 0 || self.replies != Replies::StructuredWithAllocation => Some(EINVAL),
            BLOCK_STATUS => None,
            _ => Some(EINVAL),
        }
    }

    fn check(mut self, mut said: Said, end: Option<TransmissionEnd>) {
        while !said.0.is_empty() {
            match self.replies {
                Replies::Simple => self.check_simple(&mut said),
                _ => self.check_chunk(&mut said),
            }
        }
        assert!(self.asked.is_empty(), "without a reply: {:?}", self.asked);
        let is_flooded = matches!(end, Some(TransmissionEnd::Flooded { .. }));
        assert_eq!(is_flooded, self.is_flooding);
        assert!(is_flooded || matches!(end, None | Some(TransmissionEnd::Disconnected)), "{end:?}");
    }

    fn check_simple(&mut self, said: &mut Said) {
        assert_eq!(said.u32(), SIMPLE_MAGIC);
        let error = said.u32();
        let asked = self.answered(said.u64());
        asked.check_error((error != 0).then_some(error));
        if error == 0 && asked.command == READ {
            said.payload(asked.offset, asked.len);
        }
    }

    fn check_chunk(&mut self, said: &mut Said) {
        assert_eq!(said.u32(), CHUNK_MAGIC);
        assert_eq!(said.u16(), FLAG_DONE, "each of our replies is one chunk");
        let kind = said.u16();
        let asked = self.answered(said.u64());
        let len = said.u32();
        match kind {
            CHUNK_ERROR => {
                asked.check_error(Some(said.u32()));
                let text = said.u16();
                assert_eq!(len, u32::from(text) + 6);
                let text = said.bytes(text.into());
                assert!(text.iter().all(|byte| (b' '..=b'~').contains(byte)), "{text:?}");
                return;
            }
            CHUNK_NONE => assert!(len == 0 && (asked.command != READ || asked.len == 0)),
            CHUNK_OFFSET_DATA => {
                assert_eq!((asked.command, said.u64(), len), (READ, asked.offset, asked.len + 8));
                said.payload(asked.offset, asked.len);
            }
            CHUNK_BLOCK_STATUS => {
                // The context, and one extent without a flag: allocated, and no zeroes.
                assert_eq!((asked.command, len), (BLOCK_STATUS, 12));
                said.u32();
                assert_eq!([said.u32(), said.u32()], [asked.len, 0]);
            }
            kind => panic!("a chunk of type {kind}"),
        }
        asked.check_error(None);
    }

    /// Takes the request with this cookie: each has one reply.
    fn answered(&mut self, cookie: u64) -> Asked {
        self.asked.remove(&cookie).expect("a reply to a request that has none yet")
    }
}

impl Asked {
    fn check_error(&self, error: Option<u32>) {
        let is_lost_read = self.command == READ && self.error.is_none() && error == Some(EIO);
        assert!(error == self.error || is_lost_read, "{self:?}: {error:?}");
    }
}

/// What the server said, from its beginning.
#[derive(Debug)]
struct Said(VecDeque<UnsentPart>);

impl Said {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let Some(UnsentPart::Bytes(bytes)) = self.0.front_mut() else {
            assert_eq!(len, 0, "bytes of a reply");
            return Vec::new();
        };
        let taken = bytes.drain(..len).collect();
        if bytes.is_empty() {
            self.0.pop_front();
        }
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.bytes(N).try_into().expect("as many as were asked for")
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }

    /// Takes `len` bytes of the export from `offset` on.
    fn payload(&mut self, offset: u64, len: u32) {
        let mut left = Extent { offset: EXTENT.offset + offset, len: len.into() };
        while !left.is_empty() {
            let Some(UnsentPart::Range(range)) = self.0.pop_front() else { panic!("payload is missing") };
            assert_eq!(range.offset, left.offset);
            assert!(range.len <= left.len);
            left = left.skip(range.len);
        }
    }
}

/// Feeds a transmission in segments; returns what it said, and its end. Every seventh read of the
/// disk fails.
fn converse(data: &[u8], segment: usize, replies: Replies) -> (Sent, Option<TransmissionEnd>) {
    static IMAGE: LazyLock<Arc<Image>> = LazyLock::new(image_in_memory);
    let export = Export::of_extents(&IMAGE, &[EXTENT]).expect("it is inside");
    let mut session = Transmission::new(replies);
    let (mut said, mut input, mut cold) = (Sent::default(), BytesMut::new(), Vec::new());
    let mut segments = data.chunks(segment);
    for read in 0.. {
        let mut batch = Batch::of_export(&export);
        let turn = session.handle(&export, &mut input, &SomeCached, &mut batch);
        batch.unsent().into_iter().for_each(|part| said.push(part));
        cold.extend(session.take_cold());
        match turn {
            Turn::Full => {}
            Turn::Drained if segments.len() > 0 => {
                input.extend_from_slice(segments.next().unwrap_or_default());
            }
            Turn::Drained | Turn::Waiting => match cold.pop() {
                Some(ColdRange { ticket, .. }) => {
                    let outcome = if read % 7 == 6 { ReadOutcome::Failed } else { ReadOutcome::Read };
                    session.range_ended(ticket, outcome);
                }
                None => break,
            },
            Turn::End(end) => return (said, Some(end)),
        }
    }
    (said, None)
}
