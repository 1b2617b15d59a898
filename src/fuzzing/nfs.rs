//! Properties of NFS, MOUNT and RPC.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;

use super::SomeCached;
use crate::codec::{Reader, Truncated};
use crate::export::batch::Chunk;
use crate::export::{AllCached, Batch, ColdRange, PageCache};
use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use crate::image::{Extent, Image, Source};
use crate::images::{ImageSet, ServedImage};
use crate::nfs::handle::FileHandle;
use crate::nfs::mount;
use crate::nfs::rpc::{self, CallError, RECORD_MAX, RpcMessage};
use crate::nfs::session::{DIRECTORY_MAX, READ_MAX, Session, StreamError};
use crate::stream::{ReadOutcome, Turn};

/// Most bytes that a turn may queue, and most memory that it may take: its limit and one longest
/// reply.
const TURN_OUT_MAX: u64 = (1 << 20) + READ_MAX as u64 + 4096;
const TURN_HELD_MAX: usize = (128 << 10) + DIRECTORY_MAX as usize + 4096;

/// A file of each image, in two extents.
pub(super) const EXTENTS: [Extent; 2] =
    [Extent { offset: 4096, len: 3 << 20 }, Extent { offset: 1 << 30, len: 77 }];

/// Attributes of every node.
const ATTRIBUTES: NodeAttributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };

/// Bit of a record mark for the last fragment (RFC 5531 §11).
const LAST_FRAGMENT: u32 = 1 << 31;

/// A record is found once it is complete and not before, and consists of its fragments. A message
/// gets at most one small reply.
pub fn record(data: &[u8]) {
    let Ok(Some(record)) = rpc::next_record(data) else { return };
    assert!(record.len <= data.len() && record.message.len() <= RECORD_MAX);
    assert_eq!(Some(&record.message[..]), joined(Reader::new(data)).as_deref());
    for end in 0..record.len {
        assert_eq!(rpc::next_record(&data[..end]), Ok(None));
    }
    let mut out = Vec::new();
    if let Ok(message) = RpcMessage::parse(&record.message) {
        message.answer(&mut out, |call, results| {
            results.opaque(call.args.rest());
            if call.procedure % 2 == 0 { Ok(()) } else { Err(CallError::ProcUnavail) }
        });
        assert!((12..=record.message.len() + 32).contains(&out.len()) && out.len().is_multiple_of(4));
        assert_eq!(out[..4], record.message[..4], "the xid");
    }
}

/// Joins the message at the front of a stream, as RFC 5531 §11 says.
fn joined(mut reader: Reader<'_>) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mark = reader.u32_be().ok()?;
        message.extend_from_slice(reader.take((mark & !LAST_FRAGMENT) as usize).ok()?);
        if mark & LAST_FRAGMENT != 0 {
            return Some(message);
        }
    }
}

/// Results of MOUNT are well-formed for any arguments, and a handle in them is that of a directory.
/// The first byte selects the procedure; the rest are its arguments.
pub fn mount(data: &[u8]) {
    let Some((&procedure, args)) = data.split_first() else { return };
    let head = [7, 0, 2, mount::PROGRAM, 3, procedure.into(), 0, 0, 0, 0].map(u32::to_be_bytes).concat();
    let call = [&head, args].concat();
    let message = RpcMessage::parse(&call).expect("a call");
    let mut out = Vec::new();
    let peer = ([192, 0, 2, 1], 700).into();
    let is_done =
        message.answer(&mut out, |call, results| mount::answer(&IMAGES, peer, call, results, &mut None));
    let mut results = Reader::new(&out);
    results.skip(24).expect("a header");
    match (is_done, procedure) {
        (None, _) | (_, 0 | 3 | 4) => assert!(results.is_empty()),
        (_, 1) => check_mount(&mut results).expect("results of MNT"),
        (_, 2) => assert_eq!(results.rest(), [0; 4]),
        (_, _) => assert_eq!(out.len(), 24 + exports_len()),
    }
}

fn check_mount(results: &mut Reader<'_>) -> Result<(), Truncated> {
    if results.u32_be()? != 0 {
        assert!(results.is_empty());
        return Ok(());
    }
    assert_eq!(results.u32_be()? as usize, FileHandle::LEN);
    let FileHandle { identity, node } =
        FileHandle::parse(results.take(FileHandle::LEN)?).expect("a handle of ours");
    let mut images = IMAGES.iter().map(|served| &served.image);
    let image = images.find(|image| image.identity == identity).expect("an image that is served");
    assert!(matches!(image.index.node(node).kind, NodeKind::Directory { .. }));
    assert_eq!(results.rest().len(), 12, "two flavors");
    Ok(())
}

fn exports_len() -> usize {
    IMAGES.mount_points().map(|path| 4 + 4 + path.len().next_multiple_of(4) + 4).sum::<usize>() + 4
}

/// The same calls get the same replies in the same order, in any segmentation of the client's
/// bytes. Each reply is a record of the marked length, a turn is bounded, and only bytes of files
/// are read. A disk that has to be read changes no more than the order of replies.
pub fn session(data: &[u8]) {
    let [at_once, bytewise] = [usize::MAX, 1].map(|segment| converse(data, segment, &AllCached));
    assert_eq!(at_once, bytewise);
    let mut cold = converse(data, 300, &SomeCached);
    // Replies may leave in another order.
    let mut expected = at_once;
    [&mut expected, &mut cold].into_iter().for_each(|said| said.replies.sort());
    assert_eq!(expected, cold);
}

/// Output of a connection: the first reply to each xid, with its ranges as numbers, and the end.
///
/// Later replies to an xid do not count: the segmentation decides which calls are duplicates.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    replies: Vec<Vec<u8>>,
    end: Option<StreamError>,
}

fn converse(data: &[u8], segment: usize, cache: &impl PageCache) -> Said {
    let mut session = Session::new(([192, 0, 2, 1], 700).into());
    let (mut replies, mut seen, mut input) = (Vec::new(), BTreeSet::new(), BytesMut::new());
    let mut cold = Vec::new();
    let mut segments = data.chunks(segment.min(data.len()).max(1));
    loop {
        let mut batch = Batch::default();
        let turn = session.handle(&IMAGES, &mut input, cache, &mut batch);
        assert!(batch.len() <= TURN_OUT_MAX && batch.held() <= TURN_HELD_MAX);
        replies.extend(records(&batch).into_iter().filter(|reply| seen.insert(reply[..4].to_vec())));
        session.sent(&input);
        cold.extend(session.take_cold());
        match turn {
            Turn::Full => {}
            Turn::Drained if segments.len() > 0 => {
                input.extend_from_slice(segments.next().unwrap_or_default());
            }
            Turn::Drained | Turn::Waiting => match cold.pop() {
                Some(ColdRange { ticket, .. }) => session.range_ended(ticket, ReadOutcome::Read),
                None => return Said { replies, end: None },
            },
            Turn::End(error) => return Said { replies, end: Some(error) },
        }
    }
}

/// Returns the records in a batch without their marks, and with the numbers of ranges as payload.
pub(super) fn records(batch: &Batch) -> Vec<Vec<u8>> {
    let mut records: Vec<Vec<u8>> = Vec::new();
    // Missing bytes of the last record.
    let mut left = 0;
    for chunk in batch.chunks() {
        let mut bytes = match chunk {
            Chunk::Image(range) => {
                assert!(range.len() <= left, "payload belongs to a record");
                left -= range.len();
                let record = records.last_mut().expect("payload follows a header");
                record.extend_from_slice(&range.offset().to_be_bytes());
                record.extend_from_slice(&range.len().to_be_bytes());
                let end = range.offset() + range.len();
                assert!(EXTENTS.iter().any(|file| file.offset <= range.offset() && end <= file.end()));
                continue;
            }
            Chunk::Bytes(bytes) => Reader::new(bytes),
        };
        while !bytes.is_empty() {
            if left == 0 {
                let mark = bytes.u32_be().expect("a whole mark");
                assert!(mark & LAST_FRAGMENT != 0 && mark.is_multiple_of(4));
                left = (mark & !LAST_FRAGMENT).into();
                records.push(Vec::new());
            }
            let part = bytes.take((left as usize).min(bytes.remaining())).expect("no more than there is");
            left -= part.len() as u64;
            records.last_mut().expect("just pushed").extend_from_slice(part);
        }
    }
    assert_eq!(left, 0, "the last record is whole");
    assert!(records.iter().all(|record| record[4..8] == [0, 0, 0, 1]), "a reply");
    records
}

/// Two images, between which a connection has to switch.
pub(super) static IMAGES: LazyLock<Arc<ImageSet>> = LazyLock::new(|| {
    let [first, second] = ["first", "second"].map(|name| ServedImage::new(name, image(name)));
    Arc::new(ImageSet::new(first, vec![second]))
});

/// Nodes: 1 a directory, 2 a file, 3 a symlink, 4 a device, 5 to 204 files without content; 205
/// differs.
fn image(name: &str) -> Image {
    let mut index = Index::new(ATTRIBUTES);
    let directory = add(&mut index, NodeId::ROOT, b"d", NodeKind::Directory { entries: Vec::new() });
    add(&mut index, directory, b"file", NodeKind::File { extents: EXTENTS.to_vec() });
    add(&mut index, directory, b"link", NodeKind::Symlink { target: b"/d/file".as_slice().into() });
    add(&mut index, directory, b"device", NodeKind::Special);
    for n in 0..200 {
        add(&mut index, directory, format!("{n:0>180}").as_bytes(), NodeKind::File { extents: Vec::new() });
    }
    add(&mut index, NodeId::ROOT, name.as_bytes(), NodeKind::Special);
    Image::new(Source::open(Path::new("/dev/null")).expect("/dev/null opens"), index)
        .expect("no bytes to read")
}

fn add(index: &mut Index, parent: NodeId, name: &[u8], kind: NodeKind) -> NodeId {
    index.add(parent, name, kind, ATTRIBUTES).expect("a good name")
}
