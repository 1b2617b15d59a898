//! A connection as a client sees it: bytes in, bytes out. The cases are the table of hostile and odd input that other
//! servers get wrong in one way or another, and the calls of the Linux kernel.

use std::io::Write;
use std::iter::repeat_n;
use std::sync::LazyLock;

use super::*;
use crate::codec::Reader;
use crate::export::batch::Chunk;
use crate::export::{ImageRange, Served};
use crate::image::index::{Attributes, Index, Kind, NodeId};
use crate::image::{Extent, Source};
use crate::nfs::handle::Handle;
use crate::nfs::rpc::NotACall;
use crate::nfs::wire::procedure::*;

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
fn image(name: &str, airootfs: u64) -> Served {
    let of = |mode, uid, gid| Attributes { mode, uid, gid, nlink: 1, mtime: 1_700_000_000 };
    let directory = || Kind::Directory { entries: Vec::new() };
    let file = |extents: &[(u64, u64)]| Kind::File {
        extents: extents.iter().map(|&(offset, len)| Extent { offset, len }).collect(),
    };
    let mut index = Index::new(of(0o755, 0, 0));
    let mut add = |parent, name: &[u8], kind, attributes| index.add(parent, name, kind, attributes).unwrap();
    add(ROOT, b"arch", directory(), of(0o700, 0, 0));
    add(ARCH, b"airootfs.sfs", file(&[(airootfs, AIROOTFS_LEN)]), of(0o100_444, 0, 0));
    add(ARCH, b"split", file(&[(100, 10), (500, 7)]), of(0o644, 0, 0));
    add(ARCH, b"script", file(&[(0, 20)]), of(0o755, 0, 0));
    add(ARCH, b"secret", file(&[]), Attributes { mtime: -5, ..of(0o600, 0, 0) });
    add(ARCH, b"shared", file(&[(0, 1)]), Attributes { nlink: 0, ..of(0o754, 1000, 998) });
    add(ROOT, b"link", Kind::Symlink { target: b"arch/script".as_slice().into() }, of(0o777, 0, 0));
    add(ROOT, b"null", Kind::Special, of(0o020_666, 0, 0));
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
    Served { name: name.into(), image: Arc::new(image) }
}

/// Made once: ten thousand entries take a moment.
fn catalog() -> Arc<Catalog> {
    static CATALOG: LazyLock<Arc<Catalog>> =
        LazyLock::new(|| Arc::new(Catalog::new(image("first", 1 << 20), vec![image("second", 1 << 30)])));
    Arc::clone(&CATALOG)
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

/// Credentials of somebody.
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
    ranges: Vec<ImageRange>,
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
                last.ranges.push(range);
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

/// A connection on which every reply has left before the next call comes.
struct Client {
    session: Session,
    xid: u32,
    credentials: Vec<u8>,
}

impl Client {
    fn new() -> Self {
        let session = Session::new(catalog(), "192.0.2.1:700".parse().unwrap());
        Self { session, xid: 0, credentials: nobody() }
    }

    fn handle(&self, node: NodeId) -> Vec<u8> {
        let identity = self.session.catalog.default_image().image.identity;
        Handle { identity, node }.bytes().to_vec()
    }

    fn on(&self, node: NodeId) -> Args {
        Args::default().bytes(&self.handle(node))
    }

    /// The answer to one call.
    fn raw(&mut self, program: [u32; 3], args: &[u8]) -> Reply {
        self.xid += 1;
        let call = Call { xid: self.xid, program, credentials: self.credentials.clone(), args };
        let (mut input, mut batch) = (BytesMut::from(&call.record()[..]), Batch::default());
        assert!(matches!(self.session.handle(&mut input, &mut batch), Turn::Drained | Turn::Full));
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

    /// The words of a reply behind the xid.
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
        (count, eof, reply.ranges.iter().map(|range| (range.offset(), range.len())).collect())
    }
}

/// `post_op_attr` that is there.
const WITH: usize = 4 + 84;

#[test]
fn other_versions_programs_and_procedures_are_refused_as_the_standard_says() {
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
fn arguments_that_end_too_early_are_garbage() {
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
fn what_is_no_call_ends_the_connection_behind_the_answers() {
    let reply = [&(1u32 << 31 | 24).to_be_bytes()[..], &[0, 0, 0, 9, 0, 0, 0, 1], &[0; 16]].concat();
    let short = b"\x80\0\0\x04\0\0\0\x09".to_vec();
    let flood = b"\xff\xff\xff\xff".to_vec();
    let ends = [
        (reply, BadRecord::NotACall(NotACall)),
        (short, BadRecord::NotACall(NotACall)),
        (flood, BadRecord::TooLong(0x7fff_ffff)),
    ];
    for (bytes, end) in ends {
        let (mut client, mut batch) = (Client::new(), Batch::default());
        let mut input = BytesMut::from(&[nfs(1, NULL, &Args::default()), bytes].concat()[..]);
        assert_eq!(client.session.handle(&mut input, &mut batch), Turn::Broken(end));
        assert_eq!(replies(&batch).len(), 1);
    }
}

#[test]
fn a_handle_is_good_stale_or_bad() {
    let mut client = Client::new();
    let identity = client.session.catalog.default_image().image.identity;
    let handle = |identity, node| Args::default().bytes(&Handle { identity, node }.bytes());
    let good = handle(identity, ROOT);
    let mut flipped = good.clone();
    flipped.0[9] ^= 1;
    let elsewhere = crate::image::Identity(!identity.0);
    let bad = wire::Status::BadHandle as u32;
    let stale = wire::Status::Stale as u32;
    for (args, status) in [
        (good, 0),
        (handle(elsewhere, ROOT), stale),
        (handle(identity, NodeId(1 << 20)), stale),
        (flipped, bad),
        (Args::default().bytes(b""), bad),
        (Args::default().bytes(b"random bytes"), bad),
        (Args::default().bytes(&[0; 64]), bad),
    ] {
        let len = if status == 0 { 84 } else { 0 };
        assert_eq!(client.status(GETATTR, &args), (status, len));
    }
    let nowhere = Args::default().bytes(b"?").u64(0).u64(0).u64(0);
    for procedure in (ACCESS..=COMMIT).filter(|&number| !read_only::modifies(number)) {
        let args = if procedure == LOOKUP { nowhere.clone().bytes(b"name") } else { nowhere.clone() };
        assert_eq!(client.status(procedure, &args), (bad, 4), "{procedure}: no attributes");
    }
}

#[test]
fn attributes_are_those_of_rock_ridge() {
    let mut client = Client::new();
    let mut attributes = |node| {
        let results = client.nfs(GETATTR, &client.on(node));
        let mut reader = Reader::new(&results);
        reader.skip(4).unwrap();
        let [file_type, mode, nlink, uid, gid] = std::array::from_fn(|_| reader.u32_be().unwrap());
        let [size, used, _rdev, _fsid, fileid] = std::array::from_fn(|_| reader.u64_be().unwrap());
        let time = reader.u64_be().unwrap() >> 32;
        ([file_type, mode, nlink, uid, gid], [size, used, fileid, time])
    };
    let time = 1_700_000_000;
    assert_eq!(attributes(ROOT), ([2, 0o755, 1, 0, 0], [2048, 2048, 1, time]));
    let size = AIROOTFS_LEN;
    assert_eq!(attributes(AIROOTFS), ([1, 0o444, 1, 0, 0], [size, size.next_multiple_of(2048), 3, time]));
    assert_eq!(attributes(SPLIT).1, [17, 2048, 4, time]);
    assert_eq!(attributes(SECRET), ([1, 0o600, 1, 0, 0], [0, 0, 6, 0]), "before 1970 is 1970");
    assert_eq!(attributes(SHARED).0, [1, 0o754, 1, 1000, 998], "nlink is never 0");
    assert_eq!(attributes(LINK), ([5, 0o777, 1, 0, 0], [11, 2048, 8, time]));
    assert_eq!(attributes(DEVICE).0, [4, 0o666, 1, 0, 0]);
}

#[test]
fn names_are_looked_up_exactly() {
    let mut client = Client::new();
    let mut lookup = |directory, name: &[u8]| {
        let args = client.on(directory).bytes(name);
        let results = client.nfs(LOOKUP, &args);
        let mut reader = Reader::new(&results);
        match reader.u32_be().unwrap() {
            0 => {
                let node = Handle::parse(xdr::opaque(&mut reader, 64).unwrap()).unwrap().node;
                assert_eq!(reader.remaining(), 2 * WITH);
                Ok(node)
            }
            status => {
                assert_eq!(reader.remaining(), WITH, "attributes of the directory");
                Err(status)
            }
        }
    };
    assert_eq!(lookup(ROOT, b"arch"), Ok(ARCH));
    assert_eq!(lookup(ARCH, b"airootfs.sfs"), Ok(AIROOTFS));
    assert_eq!(lookup(ROOT, b"link"), Ok(LINK), "not followed");
    assert_eq!(lookup(ROOT, b"."), Ok(ROOT));
    assert_eq!(lookup(ROOT, b".."), Ok(ROOT));
    assert_eq!(lookup(ARCH, b"."), Ok(ARCH));
    assert_eq!(lookup(ARCH, b".."), Ok(ROOT));
    assert_eq!(lookup(SMALL, &LONG), Ok(NodeId(11)));
    assert_eq!(lookup(SMALL, b"\xff\xfe"), Ok(NodeId(12)));
    for name in [&b"ARCH"[..], b"", b"arch/script", b"/arch", b"arch\0", b"none"] {
        assert_eq!(lookup(ROOT, name), Err(wire::Status::NoEnt as u32), "{}", name.escape_ascii());
    }
    assert_eq!(lookup(ROOT, &[b'n'; 256]), Err(wire::Status::NameTooLong as u32));
    assert_eq!(lookup(ROOT, &[b'n'; 8000]), Err(wire::Status::NameTooLong as u32));
    assert_eq!(lookup(SCRIPT, b"x"), Err(wire::Status::NotDir as u32));
    assert_eq!(lookup(LINK, b"script"), Err(wire::Status::NotDir as u32));
}

#[test]
fn access_is_what_the_mode_grants_and_never_a_change() {
    const NOTHING: u32 = 0;
    const READ: u32 = 1;
    const LOOKUP: u32 = 2;
    const EXECUTE: u32 = 0x20;
    let mut client = Client::new();
    let mut granted = |credentials: Vec<u8>, node| {
        client.credentials = credentials;
        let args = client.on(node).u32(0x3f);
        let results = client.nfs(ACCESS, &args);
        assert_eq!(results.len(), 4 + WITH + 4);
        Reader::new(&results[4 + WITH..]).u32_be().unwrap()
    };
    let (root, user, owner, member) = (auth_sys(0, 0), auth_sys(5, 5), auth_sys(1000, 5), auth_sys(5, 998));
    assert_eq!(granted(root.clone(), SCRIPT), READ | EXECUTE);
    assert_eq!(granted(root.clone(), SECRET), READ, "nobody may run it, so root may not either");
    assert_eq!(granted(root.clone(), ARCH), READ | LOOKUP);
    assert_eq!(granted(root, SHARED), READ | EXECUTE);
    assert_eq!(granted(user.clone(), SCRIPT), READ | EXECUTE);
    assert_eq!(granted(user.clone(), SECRET), NOTHING);
    assert_eq!(granted(user.clone(), ARCH), NOTHING);
    assert_eq!(granted(user.clone(), ROOT), READ | LOOKUP);
    // Every caller of this test is in group 998.
    assert_eq!(granted(user, SHARED), READ | EXECUTE, "supplementary group");
    assert_eq!(granted(member, SHARED), READ | EXECUTE);
    assert_eq!(granted(owner, SHARED), READ | EXECUTE);
    assert_eq!(granted(nobody(), SHARED), READ);
    assert_eq!(granted(nobody(), SECRET), NOTHING);
}

#[test]
fn only_what_was_asked_is_granted() {
    let mut client = Client::new();
    let args = client.on(SCRIPT).u32(0x20);
    assert_eq!(client.nfs(ACCESS, &args)[4 + WITH..], [0, 0, 0, 0x20]);
}

#[test]
fn a_symlink_tells_its_target() {
    let mut client = Client::new();
    let results = client.nfs(READLINK, &client.on(LINK));
    assert_eq!(results[4 + WITH..], *b"\0\0\0\x0barch/script\0");
    for node in [SCRIPT, ARCH, DEVICE] {
        assert_eq!(client.status(READLINK, &client.on(node)), (wire::Status::Inval as u32, WITH));
    }
}

#[test]
fn a_read_is_a_range_of_the_image() {
    let mut client = Client::new();
    let start = 1 << 20;
    assert_eq!(client.read(AIROOTFS, 0, 131_072), (131_072, 0, vec![(start, 131_072)]));
    assert_eq!(client.read(AIROOTFS, 4097, 3), (3, 0, vec![(start + 4097, 3)]), "padded");
    assert_eq!(client.read(SPLIT, 8, 4), (4, 0, vec![(108, 2), (500, 2)]));
    assert_eq!(client.session.tally(), Tally { reads: 3, bytes: 131_072 + 3 + 4 });
}

#[test]
fn a_read_ends_at_the_limit_and_at_the_end() {
    let mut client = Client::new();
    let (start, end) = (1 << 20, AIROOTFS_LEN);
    assert_eq!(client.read(AIROOTFS, 0, u32::MAX), (READ_MAX, 0, vec![(start, READ_MAX.into())]));
    assert_eq!(client.read(AIROOTFS, end - 5, 4), (4, 0, vec![(start + end - 5, 4)]));
    assert_eq!(client.read(AIROOTFS, end - 5, 5), (5, 1, vec![(start + end - 5, 5)]));
    assert_eq!(client.read(AIROOTFS, end - 5, 4096), (5, 1, vec![(start + end - 5, 5)]));
    assert_eq!(client.read(AIROOTFS, end, 4096), (0, 1, vec![]));
    assert_eq!(client.read(AIROOTFS, u64::MAX, u32::MAX), (0, 1, vec![]));
    assert_eq!(client.read(AIROOTFS, 0, 0), (0, 0, vec![]));
    assert_eq!(client.read(SECRET, 0, 1), (0, 1, vec![]), "an empty file");
}

#[test]
fn only_files_are_read() {
    let mut client = Client::new();
    let statuses = [(ARCH, wire::Status::IsDir), (LINK, wire::Status::Inval), (DEVICE, wire::Status::Inval)];
    for (node, status) in statuses {
        let args = client.on(node).u64(0).u32(10);
        assert_eq!(client.status(READ, &args), (status as u32, WITH));
    }
}

#[test]
fn nothing_is_ever_changed_and_every_refusal_is_well_formed() {
    let mut client = Client::new();
    let rofs = wire::Status::Rofs as u32;
    let wcc = 4 + WITH;
    let more = Args::default().bytes(b"name").u64(0).u64(0).0;
    for procedure in [SETATTR, WRITE, CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, COMMIT] {
        let args = Args([client.on(ARCH).0, more.clone()].concat());
        assert_eq!(client.status(procedure, &args), (rofs, wcc), "{procedure}");
    }
    let rename = Args([client.on(ARCH).bytes(b"from").0, client.on(ROOT).bytes(b"to").0].concat());
    assert_eq!(client.status(RENAME, &rename), (rofs, 2 * wcc));
    let link = Args([client.on(SCRIPT).0, client.on(ROOT).bytes(b"name").0].concat());
    assert_eq!(client.status(wire::procedure::LINK, &link), (rofs, WITH + wcc));

    let write = client.on(SCRIPT).u64(0).u32(8192).u32(2).bytes(&[7; 8192]);
    assert_eq!(client.status(WRITE, &write), (rofs, wcc), "the longest write that FSINFO allows");

    let bad = Args::default().bytes(b"?");
    assert_eq!(client.status(REMOVE, &bad.clone().bytes(b"name")), (wire::Status::BadHandle as u32, 8));
    let rename = Args([client.on(ARCH).bytes(b"from").0, bad.bytes(b"to").0].concat());
    assert_eq!(client.status(RENAME, &rename), (wire::Status::BadHandle as u32, wcc + 8));
}

#[test]
fn the_file_system_tells_about_itself() {
    let mut client = Client::new();
    let root = client.on(ROOT);
    let words = |results: Vec<u8>| -> Vec<u32> {
        results[4 + WITH..].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect()
    };
    let info = words(client.nfs(FSINFO, &root));
    assert_eq!(info, [1 << 20, 1 << 20, 4096, 8192, 8192, 4096, 65536, 0x7fff_ffff, u32::MAX, 1, 0, 10]);
    let nodes = client.session.catalog.default_image().image.index.len() as u32;
    let stat = words(client.nfs(FSSTAT, &root));
    assert_eq!(stat, [0, 5000, 0, 0, 0, 0, 0, nodes, 0, 0, 0, 0, u32::MAX]);
    assert_eq!(words(client.nfs(PATHCONF, &root)), [0x7fff_ffff, 255, 1, 1, 0, 1]);
    assert!(client.nfs(NULL, &Args::default()).is_empty());
}

/// A page of a directory: names with file ids and cookies, the end, the bytes behind the status.
struct Page {
    entries: Vec<(Vec<u8>, u64, u64)>,
    eof: bool,
    len: usize,
}

impl Client {
    fn list(&mut self, procedure: u32, node: NodeId, cookie: u64, counts: &[u32]) -> Result<Page, u32> {
        let identity = self.session.catalog.default_image().image.identity;
        let args = self.on(node).u64(cookie).u64(identity.0);
        let args = counts.iter().fold(args, |args, &count| args.u32(count));
        let results = self.nfs(procedure, &args);
        let mut reader = Reader::new(&results);
        let status = reader.u32_be().unwrap();
        reader.skip(WITH).unwrap();
        if status != 0 {
            assert!(reader.is_empty());
            return Err(status);
        }
        assert_eq!(reader.u64_be().unwrap(), identity.0, "the verifier");
        let mut entries = Vec::new();
        while xdr::boolean(&mut reader).unwrap() {
            let fileid = reader.u64_be().unwrap();
            let name = xdr::opaque(&mut reader, 255).unwrap().to_vec();
            entries.push((name, fileid, reader.u64_be().unwrap()));
            if procedure == READDIRPLUS {
                reader.skip(WITH + 4).unwrap();
                let handle = Handle::parse(xdr::opaque(&mut reader, 64).unwrap()).unwrap();
                assert_eq!(u64::from(handle.node.0) + 1, fileid);
            }
        }
        let eof = xdr::boolean(&mut reader).unwrap();
        assert!(reader.is_empty());
        Ok(Page { entries, eof, len: results.len() - 4 })
    }

    /// All names, page by page; every page is within its limit.
    fn list_all(&mut self, procedure: u32, node: NodeId, counts: &[u32]) -> Vec<Vec<u8>> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let page = self.list(procedure, node, cookie, counts).unwrap();
            assert!(page.len <= (*counts.last().unwrap()).min(DIRECTORY_MAX) as usize);
            cookie = page.entries.last().map_or(cookie, |&(_, _, cookie)| cookie);
            names.extend(page.entries.into_iter().map(|(name, ..)| name));
            if page.eof {
                return names;
            }
        }
    }
}

#[test]
fn a_directory_lists_itself_and_its_parent_first() {
    let mut client = Client::new();
    for (procedure, counts) in [(READDIR, &[4096][..]), (READDIRPLUS, &[4096, 4096])] {
        let page = client.list(procedure, SMALL, 0, counts).unwrap();
        let names: Vec<_> = page.entries.iter().map(|(name, fileid, _)| (&name[..], *fileid)).collect();
        assert_eq!(names, [(&b"."[..], 11), (b"..", 1), (&LONG[..], 12), (b"\xff\xfe", 13)]);
        assert!(page.eof);
        let root = client.list(procedure, ROOT, 0, counts).unwrap();
        assert_eq!(root.entries[1].1, 1, "the root is its own parent");
    }
}

#[test]
fn ten_thousand_entries_come_whatever_the_page() {
    let mut client = Client::new();
    let dots = [b".".to_vec(), b"..".to_vec()];
    let expected: Vec<_> = dots.into_iter().chain((0..10_000).map(|n| format!("file{n}").into())).collect();
    for (procedure, counts) in [
        (READDIR, &[256][..]),
        (READDIR, &[4096]),
        (READDIR, &[u32::MAX]),
        (READDIRPLUS, &[8192, 512]),
        (READDIRPLUS, &[512, 32768]),
        (READDIRPLUS, &[8192, 65536]),
        (READDIRPLUS, &[u32::MAX, u32::MAX]),
    ] {
        assert!(client.list_all(procedure, MANY, counts) == expected, "{procedure} {counts:?}");
    }
}

#[test]
fn a_listing_goes_on_at_any_entry() {
    let mut client = Client::new();
    let whole = client.list(READDIR, ROOT, 0, &[4096]).unwrap().entries;
    for (place, (_, _, cookie)) in whole.iter().enumerate() {
        let rest = client.list(READDIR, ROOT, *cookie, &[4096]).unwrap();
        assert_eq!(rest.entries, whole[place + 1..]);
        assert!(rest.eof);
    }
}

#[test]
fn counts_are_kept_to_the_byte() {
    let mut client = Client::new();
    let small = wire::Status::TooSmall as u32;
    let frame = WITH + 8 + 8;
    // One entry with a name of one or two bytes: it follows, file id, name, cookie.
    let entry = 4 + 8 + 8 + 8;
    for (count, entries) in [(entry, 1), (2 * entry - 1, 1), (2 * entry, 2)] {
        let page = client.list(READDIR, SMALL, 0, &[(frame + count) as u32]).unwrap();
        assert_eq!((page.entries.len(), page.eof), (entries, false));
    }
    for count in [0, 1, frame, frame + entry - 1] {
        assert_eq!(client.list(READDIR, SMALL, 0, &[count as u32]).err(), Some(small), "{count}");
    }
    let plus = entry + WITH + 4 + 4 + 16;
    for (dircount, maxcount, entries) in [(24, 8192, Some(1)), (47, 8192, Some(1)), (48, 8192, Some(2))] {
        let page = client.list(READDIRPLUS, SMALL, 0, &[dircount, maxcount]).ok();
        assert_eq!(page.map(|page| page.entries.len()), entries);
    }
    assert_eq!(client.list(READDIRPLUS, SMALL, 0, &[23, 8192]).err(), Some(small));
    assert_eq!(client.list(READDIRPLUS, SMALL, 0, &[8192, (frame + plus - 1) as u32]).err(), Some(small));
    let page = client.list(READDIRPLUS, SMALL, 0, &[8192, (frame + plus) as u32]).unwrap();
    assert_eq!(page.len, frame + plus);
    // Behind the last entry there is nothing, which takes no more than the frame.
    let page = client.list(READDIR, SMALL, 4, &[frame as u32]).unwrap();
    assert!(page.eof && page.entries.is_empty());
}

#[test]
fn cookies_are_this_images() {
    let mut client = Client::new();
    let bad = wire::Status::BadCookie as u32;
    assert_eq!(client.list(READDIR, SMALL, 5, &[4096]).err(), Some(bad));
    assert_eq!(client.list(READDIR, SMALL, u64::MAX, &[4096]).err(), Some(bad));
    let wrong = |client: &Client, cookie: u64| client.on(SMALL).u64(cookie).u64(12345).u32(4096);
    assert_eq!(client.status(READDIR, &wrong(&client, 2)), (bad, WITH));
    assert_eq!(client.status(READDIR, &wrong(&client, 0)).0, 0, "a new listing needs no verifier");
    assert_eq!(client.list(READDIR, SCRIPT, 0, &[4096]).err(), Some(wire::Status::NotDir as u32));
}

#[test]
fn mounts_lead_to_directories() {
    let mut client = Client::new();
    let mut mounted = |path: &[u8]| {
        let results = client.mount(1, &Args::default().bytes(path));
        let mut reader = Reader::new(&results);
        match reader.u32_be().unwrap() {
            0 => {
                let handle = Handle::parse(xdr::opaque(&mut reader, 64).unwrap()).unwrap();
                assert_eq!(reader.rest(), b"\0\0\0\x02\0\0\0\x01\0\0\0\0", "AUTH_SYS, AUTH_NONE");
                let images = client.session.catalog.images();
                Ok((images.map(|i| i.image.identity).position(|i| i == handle.identity), handle.node))
            }
            status => {
                assert!(reader.is_empty());
                Err(status)
            }
        }
    };
    for path in ["/", "/run/archiso/bootmnt", "/mnt/archiso", "/mnt/archiso/", "/first"] {
        assert_eq!(mounted(path.as_bytes()), Ok((Some(0), ROOT)), "{path}");
    }
    assert_eq!(mounted(b"/arch"), Ok((Some(0), ARCH)));
    assert_eq!(mounted(b"/second"), Ok((Some(1), ROOT)));
    assert_eq!(mounted(b"/second/arch"), Ok((Some(1), ARCH)));
    for path in [&b"/../../etc"[..], b"/none", b"/arch\0", b"/ARCH"] {
        assert_eq!(mounted(path), Err(2), "{}", path.escape_ascii());
    }
    assert_eq!(mounted(b"/arch/script"), Err(20));
    assert_eq!(mounted(b"/link"), Err(20));
    assert_eq!(mounted(&[b'/'; 1024]), Ok((Some(0), ROOT)));
    assert_eq!(mounted(&[b'/'; 1025]), Err(63));
}

#[test]
fn the_rest_of_mount_is_answered() {
    let mut client = Client::new();
    let nothing = Args::default();
    assert!(client.mount(0, &nothing).is_empty());
    assert_eq!(client.mount(2, &nothing), [0; 4], "DUMP: nobody is on record");
    assert!(client.mount(3, &Args::default().bytes(b"/")).is_empty());
    assert!(client.mount(4, &nothing).is_empty());
    let mut list = Args::default();
    for path in ["/", "/run/archiso/bootmnt", "/mnt/archiso", "/first", "/second"] {
        list = list.u32(1).bytes(path.as_bytes()).u32(0);
    }
    assert_eq!(client.mount(5, &nothing), list.u32(0).0);
}

/// nfsmount's MNT, as captured (`nfs-mount.pcap`, frame 24).
#[test]
fn the_reply_to_nfsmount_has_the_form_it_takes_for_granted() {
    let call =
        b"\x80\0\0\x38\x59\xe6\xcf\x51\0\0\0\0\0\0\0\x02\0\x01\x86\xa5\0\0\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0\
        \0\0\0\0\0\0\0\0\0\0\0\x0c/mnt/archiso";
    let (mut client, mut batch) = (Client::new(), Batch::default());
    assert_eq!(client.session.handle(&mut BytesMut::from(&call[..]), &mut batch), Turn::Drained);
    let chunks: Vec<_> = batch.chunks().collect();
    let [Chunk::Bytes(reply)] = chunks[..] else { panic!("{chunks:?}") };
    // The mark, the xid, REPLY, MSG_ACCEPTED, a verifier of no bytes, SUCCESS, MNT3_OK, a handle of 16 bytes.
    let head = b"\x80\0\0\x3c\x59\xe6\xcf\x51\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10";
    assert_eq!(reply.strip_prefix(head).map(<[u8]>::len), Some(16 + 12));
}

/// The kernel's calls, as captured (`nfs-mount.pcap`): its handle is another server's, so it is put in ours.
#[test]
fn the_calls_of_the_kernel_are_answered() {
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
    assert_eq!(client.session.handle(&mut input, &mut batch), Turn::Drained);
    let replies = replies(&batch);
    let lens: Vec<_> = replies.iter().map(|reply| (reply.head[0], reply.head.len())).collect();
    // As long as nfs-ganesha's, but for the handle, which has 28 bytes there and 16 here.
    assert_eq!(lens, [(0x41, 164), (0x44, 120), (0x49, 24 + 4 + 20 + 2 * WITH), (0x50, 24 + 4 + WITH + 12)]);
    assert_eq!(replies[1].head[116..], [0, 0, 0, 3], "read and look up");
    assert_eq!(replies[3].ranges[0].len(), 0x8000);
    assert_eq!(client.session.image().identity, client.session.catalog.default_image().image.identity);
}

fn reads(client: &Client, xids: impl IntoIterator<Item = u32>, count: u32) -> BytesMut {
    let args = client.on(AIROOTFS).u64(0).u32(count);
    let records: Vec<u8> = xids.into_iter().flat_map(|xid| nfs(xid, READ, &args)).collect();
    BytesMut::from(&records[..])
}

fn xids(batch: &Batch) -> Vec<u32> {
    replies(batch).iter().map(|reply| Reader::new(&reply.head).u32_be().unwrap()).collect()
}

#[test]
fn a_turn_is_bounded_and_the_rest_is_answered_in_the_next() {
    let mut client = Client::new();
    let mut input = reads(&client, 0..100, 131_073);
    let mut answered = Vec::new();
    loop {
        let mut batch = Batch::default();
        let turn = client.session.handle(&mut input, &mut batch);
        assert!(batch.len() <= (1 << 20) + 131_073 + 200);
        answered.extend(xids(&batch));
        client.session.sent(&input);
        match turn {
            Turn::Full => assert!(!input.is_empty()),
            turn => break assert_eq!(turn, Turn::Drained),
        }
    }
    assert_eq!(answered, (0..100).collect::<Vec<_>>());
}

#[test]
fn small_calls_and_listings_are_bounded_too() {
    let client = Client::new();
    let root = client.on(ROOT);
    let many = client.on(MANY).u64(0).u64(0).u32(u32::MAX).u32(u32::MAX);
    for (procedure, args, answered) in [(GETATTR, root, TURN_CALLS as usize), (READDIRPLUS, many, 3)] {
        let records: Vec<u8> = (0..600).flat_map(|xid| nfs(xid, procedure, &args)).collect();
        let (mut client, mut batch) = (Client::new(), Batch::default());
        let turn = client.session.handle(&mut BytesMut::from(&records[..]), &mut batch);
        assert_eq!((turn, xids(&batch).len()), (Turn::Full, answered));
        assert!(batch.held() < TURN_HELD + DIRECTORY_MAX as usize);
    }
}

#[test]
fn a_batch_holds_ranges_of_one_image() {
    let mut client = Client::new();
    let identities: Vec<_> = client.session.catalog.images().map(|served| served.image.identity).collect();
    let read = |image: usize, xid| {
        let handle = Handle { identity: identities[image], node: AIROOTFS };
        nfs(xid, READ, &Args::default().bytes(&handle.bytes()).u64(0).u32(4))
    };
    let getattr =
        nfs(5, GETATTR, &Args::default().bytes(&Handle { identity: identities[1], node: ROOT }.bytes()));
    let calls = [read(0, 1), read(0, 2), getattr, read(1, 3), read(1, 4), read(0, 6)];
    let mut input = BytesMut::from(&calls.concat()[..]);
    let turns = [(Turn::Full, vec![1, 2, 5], 0), (Turn::Full, vec![3, 4], 1), (Turn::Drained, vec![6], 0)];
    for (turn, answered, image) in turns {
        let mut batch = Batch::default();
        assert_eq!(client.session.handle(&mut input, &mut batch), turn);
        assert_eq!(xids(&batch), answered);
        assert_eq!(client.session.image().identity, identities[image]);
        client.session.sent(&input);
    }
    assert_eq!(client.session.tally().reads, 5, "a call that had to wait counts once");
}

#[test]
fn a_call_that_comes_again_while_its_answer_is_queued_is_dropped() {
    let (mut client, mut batch) = (Client::new(), Batch::default());
    let mut input = reads(&client, [7, 8, 7, 9, 8], 4096);
    assert_eq!(client.session.handle(&mut input, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [7, 8, 9]);

    // More input, and nothing was sent yet: still queued.
    let mut input = reads(&client, [7, 10], 4096);
    assert_eq!(client.session.handle(&mut input, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [7, 8, 9, 10]);

    // All of it has left: the number may be that of a new call.
    client.session.sent(&input);
    let mut batch = Batch::default();
    let mut input = reads(&client, [7, 8], 4096);
    assert_eq!(client.session.handle(&mut input, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [7, 8]);
    assert_eq!(client.session.tally().reads, 6, "nothing was read for a duplicate");
}

/// A client that lost patience twice, while its first calls waited for the socket.
#[test]
fn a_call_that_came_again_before_its_answer_had_left_is_dropped() {
    let mut client = Client::new();
    let calls = repeat_n(0..20, 3).flatten().chain([20]);
    let mut input = reads(&client, calls, 131_072);
    let mut answered = Vec::new();
    loop {
        let mut batch = Batch::default();
        let turn = client.session.handle(&mut input, &mut batch);
        answered.extend(xids(&batch));
        client.session.sent(&input);
        if turn == Turn::Drained {
            break;
        }
    }
    assert_eq!(answered, (0..=20).collect::<Vec<_>>());

    // What it says from now on comes behind the answers.
    let (mut input, mut batch) = (reads(&client, [0], 4096), Batch::default());
    assert_eq!(client.session.handle(&mut input, &mut batch), Turn::Drained);
    assert_eq!(xids(&batch), [0]);
}

#[test]
fn a_new_connection_knows_nothing_of_another() {
    let catalog = catalog();
    for _ in 0..2 {
        let mut session = Session::new(Arc::clone(&catalog), "192.0.2.1:700".parse().unwrap());
        let (mut input, mut batch) = (BytesMut::from(&nfs(7, NULL, &Args::default())[..]), Batch::default());
        assert_eq!(session.handle(&mut input, &mut batch), Turn::Drained);
        assert_eq!(xids(&batch), [7]);
    }
}
