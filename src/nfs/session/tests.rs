//! A connection as a client sees it: bytes in, bytes out.
//!
//! The cases are hostile and odd input that other servers get wrong, and the calls of the Linux
//! kernel.

use std::io::Write;
use std::iter::repeat_n;
use std::sync::{Arc, LazyLock};

use super::*;
use crate::codec::Reader;
use crate::export::batch::Chunk;
use crate::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use crate::image::{Extent, Image, Source};
use crate::images::ServedImage;
use crate::nfs::handle::FileHandle;
use crate::nfs::rpc::NotACallError;
use crate::nfs::wire::procedure::*;

mod listing;
mod mounting;
mod objects;
mod turns;

const ROOT: NodeId = NodeId(0);
const ARCH: NodeId = NodeId(1);
const AIROOTFS: NodeId = NodeId(2);
const SPLIT: NodeId = NodeId(3);
const SCRIPT: NodeId = NodeId(4);
const SECRET: NodeId = NodeId(5);
const SHARED: NodeId = NodeId(6);
const LINK: NodeId = NodeId(7);
const DEVICE: NodeId = NodeId(8);
const MANY: NodeId = NodeId(9);
const SMALL: NodeId = NodeId(10);

const AIROOTFS_LEN: u64 = (3 << 20) + 5;
const LONG: [u8; 255] = [b'n'; 255];

/// An image whose root file system begins at this byte.
fn image(name: &str, airootfs: u64) -> ServedImage {
    let of = |mode, uid, gid| NodeAttributes { mode, uid, gid, nlink: 1, mtime: 1_700_000_000 };
    let directory = || NodeKind::Directory { entries: Vec::new() };
    let file = |extents: &[(u64, u64)]| NodeKind::File {
        extents: extents.iter().map(|&(offset, len)| Extent { offset, len }).collect(),
    };
    let mut index = Index::new(of(0o755, 0, 0));
    let mut add = |parent, name: &[u8], kind, attributes| index.add(parent, name, kind, attributes).unwrap();
    add(ROOT, b"arch", directory(), of(0o700, 0, 0));
    add(ARCH, b"airootfs.sfs", file(&[(airootfs, AIROOTFS_LEN)]), of(0o100_444, 0, 0));
    add(ARCH, b"split", file(&[(100, 10), (500, 7)]), of(0o644, 0, 0));
    add(ARCH, b"script", file(&[(0, 20)]), of(0o755, 0, 0));
    add(ARCH, b"secret", file(&[]), NodeAttributes { mtime: -5, ..of(0o600, 0, 0) });
    add(ARCH, b"shared", file(&[(0, 1)]), NodeAttributes { nlink: 0, ..of(0o754, 1000, 998) });
    add(ROOT, b"link", NodeKind::Symlink { target: b"arch/script".as_slice().into() }, of(0o777, 0, 0));
    add(ROOT, b"null", NodeKind::Special, of(0o020_666, 0, 0));
    add(ROOT, b"many", directory(), of(0o755, 0, 0));
    add(ROOT, b"small", directory(), of(0o755, 0, 0));
    add(SMALL, &LONG, file(&[]), of(0o644, 0, 0));
    add(SMALL, b"\xff\xfe", file(&[]), of(0o644, 0, 0));
    for n in 0..10_000 {
        add(MANY, format!("file{n}").as_bytes(), file(&[]), of(0o444, 0, 0));
    }
    let mut medium = tempfile::NamedTempFile::new().unwrap();
    medium.write_all(&[7; 5000]).unwrap();
    let image = Image::new(Source::open(medium.path()).unwrap(), index).unwrap();
    ServedImage::new(name, image)
}

/// Both images, made once: ten thousand entries take a moment.
fn images() -> Arc<ImageSet> {
    static IMAGES: LazyLock<Arc<ImageSet>> =
        LazyLock::new(|| Arc::new(ImageSet::new(image("first", 1 << 20), vec![image("second", 1 << 30)])));
    Arc::clone(&IMAGES)
}

/// Arguments of calls, built as XDR.
#[derive(Default, Clone)]
struct Args(Vec<u8>);

impl Args {
    fn u32(mut self, value: u32) -> Self {
        Emitter::new(&mut self.0).u32(value);
        self
    }
    fn u64(mut self, value: u64) -> Self {
        Emitter::new(&mut self.0).u64(value);
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        Emitter::new(&mut self.0).opaque(bytes);
        self
    }
}

/// AUTH_SYS credentials.
fn auth_sys(uid: u32, gid: u32) -> Vec<u8> {
    let body = Args::default().u32(0).bytes(b"host").u32(uid).u32(gid).u32(1).u32(998).0;
    Args::default().u32(rpc::AUTH_SYS).bytes(&body).0
}

fn nobody() -> Vec<u8> {
    vec![0; 8]
}

struct Call<'a> {
    xid: u32,
    program: [u32; 3],
    credentials: Vec<u8>,
    args: &'a [u8],
}

impl Call<'_> {
    fn record(&self) -> Vec<u8> {
        let [program, version, procedure] = self.program;
        let head = Args::default().u32(self.xid).u32(0).u32(2).u32(program).u32(version).u32(procedure).0;
        let message = [&head, &self.credentials[..], &[0; 8], self.args].concat();
        [&(1 << 31 | message.len() as u32).to_be_bytes(), &message[..]].concat()
    }
}

fn nfs(xid: u32, procedure: u32, args: &Args) -> Vec<u8> {
    Call { xid, program: [wire::PROGRAM, 3, procedure], credentials: nobody(), args: &args.0 }.record()
}

/// A reply: the bytes of its message up to the payload, and the payload.
#[derive(Debug)]
struct Reply {
    head: Vec<u8>,
    ranges: Vec<Extent>,
}

/// The replies in a batch. Checks the marks on the way.
fn replies(batch: &Batch) -> Vec<Reply> {
    let mut replies = Vec::new();
    // Bytes that the current record still lacks.
    let mut left = 0;
    for chunk in batch.chunks() {
        match chunk {
            Chunk::Image(range) => {
                left -= range.len();
                let last: &mut Reply = replies.last_mut().unwrap();
                last.ranges.push(range.extent());
            }
            Chunk::Bytes(bytes) => {
                let mut reader = Reader::new(bytes);
                reader.skip(left.min(3) as usize).unwrap();
                left -= left.min(3);
                assert_eq!(left, 0);
                while !reader.is_empty() {
                    let mark = reader.u32_be().unwrap();
                    assert!(mark >> 31 == 1, "one fragment");
                    left = u64::from(mark & !(1 << 31));
                    let head = reader.take(reader.remaining().min(left as usize)).unwrap().to_vec();
                    left -= head.len() as u64;
                    replies.push(Reply { head, ranges: Vec::new() });
                }
            }
        }
    }
    assert_eq!(left, 0, "the last record is complete");
    replies
}

/// A connection on which each reply leaves before the next call arrives.
struct Client {
    session: Session,
    images: Arc<ImageSet>,
    xid: u32,
    credentials: Vec<u8>,
}

impl Client {
    fn new() -> Self {
        let session = Session::new("192.0.2.1:700".parse().unwrap());
        Self { session, images: images(), xid: 0, credentials: nobody() }
    }

    fn handle(&self, node: NodeId) -> Vec<u8> {
        let identity = self.images.default_image().image.identity;
        FileHandle { identity, node }.bytes().to_vec()
    }

    fn on(&self, node: NodeId) -> Args {
        Args::default().bytes(&self.handle(node))
    }

    /// The answer to one call.
    fn raw(&mut self, program: [u32; 3], args: &[u8]) -> Reply {
        self.xid += 1;
        let call = Call { xid: self.xid, program, credentials: self.credentials.clone(), args };
        let (mut input, mut batch) = (BytesMut::from(&call.record()[..]), Batch::default());
        assert!(matches!(
            self.session.handle(&self.images, &mut input, &AllCached, &mut batch),
            Turn::Drained | Turn::Full
        ));
        assert!(input.is_empty());
        let mut replies = replies(&batch);
        assert_eq!(replies.len(), 1);
        self.session.sent(&input);
        let reply = replies.pop().unwrap();
        assert_eq!(reply.head[..4], self.xid.to_be_bytes());
        reply
    }

    /// The results of a procedure that ran.
    fn results(&mut self, program: [u32; 3], args: &Args) -> Vec<u8> {
        let reply = self.raw(program, &args.0);
        let success = Args::default().u32(1).u64(0).u64(0).0;
        reply.head[4..].strip_prefix(&success[..]).expect("success").to_vec()
    }

    fn nfs(&mut self, procedure: u32, args: &Args) -> Vec<u8> {
        self.results([wire::PROGRAM, 3, procedure], args)
    }

    fn mount(&mut self, procedure: u32, args: &Args) -> Vec<u8> {
        self.results([mount::PROGRAM, 3, procedure], args)
    }

    /// The status of a procedure, and how many bytes follow it.
    fn status(&mut self, procedure: u32, args: &Args) -> (u32, usize) {
        let results = self.nfs(procedure, args);
        (Reader::new(&results).u32_be().unwrap(), results.len() - 4)
    }

    /// The words of a reply after the xid.
    fn refusal(&mut self, program: [u32; 3], args: &[u8]) -> Vec<u32> {
        let reply = self.raw(program, args).head;
        reply[4..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
    }

    /// READ: count, end of file, ranges.
    fn read(&mut self, node: NodeId, offset: u64, count: u32) -> (u32, u32, Vec<(u64, u64)>) {
        let args = self.on(node).u64(offset).u32(count);
        let reply = self.raw([wire::PROGRAM, 3, READ], &args.0);
        let mut reader = Reader::new(&reply.head);
        reader.skip(24 + 4 + 88).unwrap();
        let (count, eof, len) =
            (reader.u32_be().unwrap(), reader.u32_be().unwrap(), reader.u32_be().unwrap());
        assert_eq!(count, len);
        assert!(reader.is_empty());
        (count, eof, reply.ranges.iter().map(|range| (range.offset, range.len)).collect())
    }
}

/// `post_op_attr` that is there.
const WITH: usize = 4 + 84;

#[test]
fn unknown_calls_get_standard_errors() {
    let mut client = Client::new();
    for version in [2, 4] {
        assert_eq!(client.refusal([100_003, version, 0], &[]), [1, 0, 0, 0, 2, 3, 3]);
    }
    for version in [1, 9] {
        assert_eq!(client.refusal([100_005, version, 1], b"\0\0\0\x01/\0\0\0"), [1, 0, 0, 0, 2, 3, 3]);
    }
    for program in [100_227, 100_000, 100_021, 7] {
        assert_eq!(client.refusal([program, 3, 0], &[]), [1, 0, 0, 0, 1]);
    }
    for program in [100_003, 100_005] {
        assert_eq!(client.refusal([program, 3, 99], &[]), [1, 0, 0, 0, 3]);
    }
    assert_eq!(client.refusal([100_003, 3, 22], &[]), [1, 0, 0, 0, 3]);
}

#[test]
fn truncated_arguments_are_garbage() {
    let mut client = Client::new();
    let huge = Args::default().u32(u32::MAX - 15);
    for procedure in 1..=21 {
        assert_eq!(client.refusal([100_003, 3, procedure], &huge.0), [1, 0, 0, 0, 4], "{procedure}");
        assert_eq!(client.refusal([100_003, 3, procedure], &[]), [1, 0, 0, 0, 4], "{procedure}");
    }
    let only_a_handle = client.on(ARCH);
    for procedure in [LOOKUP, ACCESS, READ, READDIR, READDIRPLUS, RENAME, wire::procedure::LINK] {
        assert_eq!(client.refusal([100_003, 3, procedure], &only_a_handle.0), [1, 0, 0, 0, 4], "{procedure}");
    }
    let long = Args::default().bytes(&[0; 65]);
    assert_eq!(client.refusal([100_003, 3, GETATTR], &long.0), [1, 0, 0, 0, 4]);
    assert_eq!(client.refusal([100_005, 3, 1], b"\xff\xff\xff\xff"), [1, 0, 0, 0, 4]);
}

#[test]
fn non_call_ends_after_earlier_replies() {
    let reply = [&(1u32 << 31 | 24).to_be_bytes()[..], &[0, 0, 0, 9, 0, 0, 0, 1], &[0; 16]].concat();
    let short = b"\x80\0\0\x04\0\0\0\x09".to_vec();
    let flood = b"\xff\xff\xff\xff".to_vec();
    let ends = [
        (reply, RecordError::NotACall(NotACallError)),
        (short, RecordError::NotACall(NotACallError)),
        (flood, RecordError::TooLong(0x7fff_ffff)),
    ];
    for (bytes, end) in ends {
        let (mut client, mut batch) = (Client::new(), Batch::default());
        let mut input = BytesMut::from(&[nfs(1, NULL, &Args::default()), bytes].concat()[..]);
        assert_eq!(
            client.session.handle(&client.images, &mut input, &AllCached, &mut batch),
            Turn::End(StreamError(end))
        );
        assert_eq!(replies(&batch).len(), 1);
    }
}

/// The kernel's calls, as captured (`nfs-mount.pcap`): its handle is another server's, so it is put
/// in ours.
#[test]
fn kernel_calls_are_answered() {
    let head = |xid: u8, procedure: u8| {
        let mut message =
            b"\0\x4f\xd5\x59\0\0\0\0\0\0\0\x02\0\x01\x86\xa3\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\x1c\
            \0\0\0\0\0\0\0\x06(none)\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                .to_vec();
        message[0] = xid;
        message[23] = procedure;
        message
    };
    let mut client = Client::new();
    let calls = [
        (head(0x41, 19), client.on(ROOT)),
        (head(0x44, 4), client.on(ROOT).u32(0x1f)),
        (head(0x49, 3), client.on(ARCH).bytes(b"airootfs.sfs")),
        (head(0x50, 6), client.on(AIROOTFS).u64(0x4000).u32(0x8000)),
    ];
    let mut input = BytesMut::new();
    for (head, args) in &calls {
        input.extend_from_slice(&(1 << 31 | (head.len() + args.0.len()) as u32).to_be_bytes());
        input.extend_from_slice(head);
        input.extend_from_slice(&args.0);
    }
    let mut batch = Batch::default();
    assert_eq!(client.session.handle(&client.images, &mut input, &AllCached, &mut batch), Turn::Drained);
    let replies = replies(&batch);
    let lens: Vec<_> = replies.iter().map(|reply| (reply.head[0], reply.head.len())).collect();
    // As long as nfs-ganesha's, but for the handle, which has 28 bytes there and 16 here.
    assert_eq!(lens, [(0x41, 164), (0x44, 120), (0x49, 24 + 4 + 20 + 2 * WITH), (0x50, 24 + 4 + WITH + 12)]);
    assert_eq!(replies[1].head[116..], [0, 0, 0, 3], "read and look up");
    assert_eq!(replies[3].ranges[0].len, 0x8000);
    assert!(Arc::ptr_eq(batch.image().unwrap(), &client.images.default_image().image));
}
