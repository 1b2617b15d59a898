//! Properties of the NBD sessions.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SomeCached;
use crate::export::batch::Chunk;
use crate::export::resting::UnsentPart;
use crate::export::{AllCached, Batch, ColdRange, Export, PageCache};
use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use crate::image::{Extent, Image, Source};
use crate::images::{ImageSet, ServedImage};
use crate::nbd::session::{Handshake, HandshakeEnd, READ_MAX, Replies, Transmission, TransmissionEnd};
use crate::stream::{ReadOutcome, Turn};

/// The export of all targets.
pub(super) const EXTENT: Extent = Extent { offset: 4096, len: 1 << 20 };

/// Most bytes that one call may queue: the limit of a turn, and one longest reply on top.
const HANDSHAKE_OUT_MAX: u64 = 128 << 10;
const TURN_OUT_MAX: u64 = (1 << 20) + READ_MAX as u64 + 4096;

/// Checks that the same replies leave when the session is taken apart after each call and put
/// together again, whatever part of the replies has left by then. The first byte chooses the form
/// of replies, or a conversation that begins with the handshake; the second how many bytes leave.
pub fn resting(data: &[u8]) {
    let &[mode, step, ref data @ ..] = data else { return };
    let whole = converse_resting(data, mode, None);
    let apart = converse_resting(data, mode, Some((u64::from(step) + 1) * 4001));
    assert_eq!(whole, apart);
}

/// What left: bytes and ranges, each joined with its neighbour.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sent(pub(super) Vec<UnsentPart>);

impl Sent {
    pub(super) fn push(&mut self, part: UnsentPart) {
        match (self.0.last_mut(), part) {
            (Some(UnsentPart::Bytes(before)), UnsentPart::Bytes(bytes)) => before.extend(bytes),
            (Some(UnsentPart::Range(before)), UnsentPart::Range(range)) if before.end() == range.offset => {
                before.len += range.len;
            }
            (_, part) => self.0.push(part),
        }
    }

    /// Takes the first `len` bytes off a batch.
    fn take(&mut self, batch: &mut Batch, len: u64) {
        let mut left = len;
        for part in batch.unsent() {
            match part {
                UnsentPart::Bytes(bytes) => {
                    let n = bytes.len().min(left as usize);
                    self.push(UnsentPart::Bytes(bytes[..n].to_vec()));
                    left -= n as u64;
                }
                UnsentPart::Range(range) => {
                    self.push(UnsentPart::Range(range.truncate(left)));
                    left -= range.len.min(left);
                }
            }
            if left == 0 {
                break;
            }
        }
        batch.advance(len);
    }
}

/// A phase of a connection.
enum Phase {
    Handshake(Handshake),
    Attached(Export, Transmission),
}

impl Phase {
    fn of(mode: u8) -> Self {
        if mode >= 0x80 {
            return Self::Handshake(Handshake::default());
        }
        let export = Export::of_extents(&IN_MEMORY.default_image().image, &[EXTENT]).expect("it is inside");
        Self::Attached(export, Transmission::new(replies_of(mode)))
    }

    /// Handles what there is of the input; `Some` with the end of the connection.
    fn handle(&mut self, input: &mut BytesMut, batch: &mut Batch) -> Turn<String> {
        match self {
            Self::Attached(export, session) => match session.handle(export, input, &AllCached, batch) {
                Turn::End(end) => Turn::End(end.to_string()),
                Turn::Drained => Turn::Drained,
                Turn::Full | Turn::Waiting => Turn::Full,
            },
            Self::Handshake(session) => match session.handle(&IN_MEMORY, input, batch) {
                Turn::End(HandshakeEnd::Attached(attached)) => {
                    batch.keep_image_of(&attached.export);
                    *self = Self::Attached(attached.export, attached.transmission);
                    Turn::Full
                }
                Turn::End(HandshakeEnd::Rejected(error)) => Turn::End(error.to_string()),
                Turn::End(HandshakeEnd::Aborted) => Turn::End(String::new()),
                Turn::Drained => Turn::Drained,
                Turn::Full | Turn::Waiting => Turn::Full,
            },
        }
    }

    /// Goes through bytes.
    fn carried(self) -> Self {
        match self {
            Self::Handshake(session) => Self::Handshake(carried(&session)),
            Self::Attached(export, session) => {
                let extents: Vec<Extent> = carried(&export.extents());
                let image = &IN_MEMORY.default_image().image;
                let export = Export::of_extents(image, &extents).expect("they are inside");
                Self::Attached(export, Transmission::resume(carried(&session.resting())))
            }
        }
    }
}

fn carried<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let bytes = postcard::to_allocvec(value).expect("plain data");
    postcard::from_bytes(&bytes).expect("what was written can be read")
}

/// Feeds a connection at once. With a `step`, so many bytes leave after each call, and then the
/// session and its batch go through bytes.
fn converse_resting(data: &[u8], mode: u8, step: Option<u64>) -> (Sent, Option<String>) {
    let (mut phase, mut batch) = (Phase::of(mode), Batch::default());
    let (mut input, mut sent) = (BytesMut::from(data), Sent::default());
    loop {
        let turn = phase.handle(&mut input, &mut batch);
        let len = step.map_or(batch.len(), |step| step.min(batch.len()));
        if len > 0 {
            sent.take(&mut batch, len);
        }
        if step.is_some() {
            phase = phase.carried();
            let unsent: Vec<UnsentPart> = carried(&batch.unsent());
            batch = Batch::default();
            batch.push_unsent(Some(&IN_MEMORY.default_image().image), &unsent).expect("they are inside");
        }
        match turn {
            Turn::Drained if batch.is_empty() => return (sent, None),
            Turn::End(end) => {
                let left = batch.len();
                if left > 0 {
                    sent.take(&mut batch, left);
                }
                return (sent, Some(end));
            }
            Turn::Drained | Turn::Full | Turn::Waiting => {}
        }
    }
}

/// An image whose ranges can be sent.
static IN_MEMORY: LazyLock<Arc<ImageSet>> = LazyLock::new(|| images_of(image_in_memory()));

pub(super) fn image_in_memory() -> Arc<Image> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let file = std::fs::File::from(memfd_create("fuzzing", MemfdFlags::CLOEXEC).expect("memory is there"));
    file.set_len(EXTENT.end()).expect("memory is there");
    image_of(Source::of_file(file).expect("it was made just now"))
}

/// Makes an image with one file, `f`.
fn image_of(source: Source) -> Arc<Image> {
    let attributes = NodeAttributes { mode: 0o644, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let file = NodeKind::File { extents: vec![EXTENT] };
    index.add(NodeId::ROOT, b"f", file, attributes).expect("a good name");
    Arc::new(Image::new(source, index).expect("nothing to read"))
}

/// Makes the set of one image, `i`.
fn images_of(image: Arc<Image>) -> Arc<ImageSet> {
    Arc::new(ImageSet::new(ServedImage::new("i", image), Vec::new()))
}

pub(super) fn replies_of(mode: u8) -> Replies {
    match mode % 3 {
        0 => Replies::Simple,
        1 => Replies::Structured,
        _ => Replies::StructuredWithAllocation,
    }
}

/// Checks that the same replies leave, however the client's bytes are cut into segments, and that
/// they are bounded.
pub fn handshake(data: &[u8]) {
    let [at_once, bytewise] = [usize::MAX, 1].map(|segment| haggle(data, segment));
    assert_eq!(at_once, bytewise);
}

/// Feeds a handshake in segments; returns its replies and its end.
fn haggle(data: &[u8], segment: usize) -> (Vec<u8>, Option<String>) {
    let images = images();
    let mut session = Handshake::default();
    let (mut said, mut input) = (Vec::new(), BytesMut::new());
    for bytes in data.chunks(segment.min(data.len()).max(1)) {
        input.extend_from_slice(bytes);
        loop {
            let mut batch = Batch::default();
            let turn = session.handle(&images, &mut input, &mut batch);
            assert!(batch.len() <= HANDSHAKE_OUT_MAX);
            batch.chunks().for_each(|chunk| record(chunk, &mut said));
            match turn {
                Turn::Drained => break,
                Turn::Full => {}
                Turn::Waiting => panic!("nothing waits"),
                Turn::End(HandshakeEnd::Attached(attached)) => return (said, Some(attached.name)),
                Turn::End(HandshakeEnd::Aborted) => return (said, None),
                Turn::End(HandshakeEnd::Rejected(error)) => return (said, Some(error.to_string())),
            }
        }
    }
    (said, None)
}

fn images() -> Arc<ImageSet> {
    images_of(image_of(Source::open(Path::new("/dev/null")).expect("/dev/null opens")))
}

/// Checks that the same replies leave, however the requests are cut into segments; that every range
/// lies inside the export; that a turn is bounded; and that a disk that has to be read changes no
/// more than the order of replies. The first byte chooses the form of replies.
pub fn transmission(data: &[u8]) {
    let Some((&mode, data)) = data.split_first() else { return };
    let replies = replies_of(mode);
    let [at_once, bytewise] = [usize::MAX, 1].map(|segment| converse(data, segment, replies, &AllCached));
    assert_eq!(at_once, bytewise);
    let cold = converse(data, usize::from(mode) + 1, replies, &SomeCached);
    assert_eq!((sorted(at_once.0), at_once.1), (sorted(cold.0), cold.1));
}

fn sorted(mut said: Vec<u8>) -> Vec<u8> {
    said.sort_unstable();
    said
}

/// Feeds a transmission in segments; returns its replies (a range as its numbers) and its end. The
/// disk reads the newest range first.
fn converse(
    data: &[u8],
    segment: usize,
    replies: Replies,
    cache: &impl PageCache,
) -> (Vec<u8>, Option<TransmissionEnd>) {
    static IMAGES: LazyLock<Arc<ImageSet>> = LazyLock::new(images);
    let export = IMAGES.export(b"i:/f").expect("a file");
    let mut session = Transmission::new(replies);
    let (mut said, mut input, mut cold) = (Vec::new(), BytesMut::new(), Vec::new());
    let mut segments = data.chunks(segment.min(data.len()).max(1));
    loop {
        let mut batch = Batch::default();
        let turn = session.handle(&export, &mut input, cache, &mut batch);
        assert!(batch.len() <= TURN_OUT_MAX);
        batch.chunks().for_each(|chunk| record(chunk, &mut said));
        cold.extend(session.take_cold());
        match turn {
            Turn::Full => {}
            Turn::Drained if segments.len() > 0 => {
                input.extend_from_slice(segments.next().unwrap_or_default());
            }
            Turn::Drained | Turn::Waiting => match cold.pop() {
                Some(ColdRange { ticket, .. }) => session.range_ended(ticket, ReadOutcome::Read),
                None => return (said, None),
            },
            Turn::End(end) => return (said, Some(end)),
        }
    }
}

fn record(chunk: Chunk<'_>, said: &mut Vec<u8>) {
    match chunk {
        Chunk::Bytes(bytes) => said.extend_from_slice(bytes),
        Chunk::Image(range) => {
            assert!(range.offset() >= EXTENT.offset && range.offset() + range.len() <= EXTENT.end());
            assert!(range.len() <= READ_MAX.into());
            said.extend_from_slice(&range.offset().to_be_bytes());
            said.extend_from_slice(&range.len().to_be_bytes());
        }
    }
}
