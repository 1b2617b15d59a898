//! A model of an NFS client that knows the tree.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::BytesMut;

use super::SomeCached;
use super::nfs::{EXTENTS, IMAGES, records};
use crate::codec::{Reader, Truncated};
use crate::export::{Batch, ColdRange};
use crate::image::Extent;
use crate::nfs::session::Session;
use crate::stream::{ReadOutcome, Turn};

// Numbers of RFC 1813, written out once more: a mistake in `nfs::wire` would be one here too.
const NFS: u32 = 100_003;
const MOUNT: u32 = 100_005;
const GETATTR: u32 = 1;
const LOOKUP: u32 = 3;
const ACCESS: u32 = 4;
const READLINK: u32 = 5;
const READ: u32 = 6;
const READDIR: u32 = 16;
const READDIRPLUS: u32 = 17;
/// SETATTR, WRITE to LINK, and COMMIT.
const CHANGES: [u32; 11] = [2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21];
const OK: u32 = 0;
const NOENT: u32 = 2;
const NOTDIR: u32 = 20;
const ISDIR: u32 = 21;
const INVAL: u32 = 22;
const ROFS: u32 = 30;
const NAMETOOLONG: u32 = 63;
const STALE: u32 = 70;
const BADHANDLE: u32 = 10001;
const TOOSMALL: u32 = 10005;

/// ACCESS3_MODIFY, ACCESS3_EXTEND and ACCESS3_DELETE.
const ACCESS_TO_CHANGE: u32 = 0x4 | 0x8 | 0x10;

/// Bytes that hold a page of one entry, whatever its name and with its attributes.
const ENTRY_MAX: u32 = 512;

/// Longest payload of one reply.
const READ_MAX: u64 = 1 << 20;

/// Checks every reply against a model of the tree: names lead to the right objects, each object has
/// one file id, listings of any page size are complete, reads return the right bytes of the image,
/// and nothing can be changed.
///
/// The input is a list of calls: the procedure, the object among those that were met, and two bytes
/// that choose the arguments.
pub fn tree(data: &[u8]) {
    let mut client = Client::new();
    let mut reader = Reader::new(data);
    while client.call(&mut reader).is_ok() {}
}

/// An object of the model.
#[derive(Debug)]
enum Kind {
    Directory(BTreeMap<Vec<u8>, usize>),
    File(&'static [Extent]),
    Link(&'static [u8]),
    Special,
}

impl Kind {
    fn size(&self) -> Option<u64> {
        match self {
            Self::Directory(_) => None,
            Self::File(extents) => Some(extents.iter().map(|extent| extent.len).sum()),
            Self::Link(target) => Some(target.len() as u64),
            Self::Special => Some(0),
        }
    }

    /// `ftype3` of RFC 1813 §2.5.2; a device of this image has no type in its mode.
    fn has_type(&self, number: u32) -> bool {
        match self {
            Self::Directory(_) => number == 2,
            Self::File(_) => number == 1,
            Self::Link(_) => number == 5,
            Self::Special => matches!(number, 3 | 4 | 6 | 7),
        }
    }
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    parent: usize,
}

/// The trees of both images, as [`IMAGES`] has them, with a root each.
fn model() -> (Vec<Node>, [usize; 2]) {
    let mut nodes = Vec::new();
    let roots = [&b"first"[..], b"second"].map(|name| {
        let root = nodes.len();
        let mut add = |kind, parent| {
            nodes.push(Node { kind, parent });
            nodes.len() - 1
        };
        let directory = |entries: Vec<(Vec<u8>, usize)>| Kind::Directory(entries.into_iter().collect());
        add(Kind::Special, root);
        let inner = add(Kind::Special, root);
        let mut entries = vec![
            (b"file".to_vec(), add(Kind::File(&EXTENTS), inner)),
            (b"link".to_vec(), add(Kind::Link(b"/d/file"), inner)),
            (b"device".to_vec(), add(Kind::Special, inner)),
        ];
        entries.extend((0..200).map(|n| (format!("{n:0>180}").into_bytes(), add(Kind::File(&[]), inner))));
        let special = add(Kind::Special, root);
        nodes[inner].kind = directory(entries);
        nodes[root].kind = directory(vec![(b"d".to_vec(), inner), (name.to_vec(), special)]);
        root
    });
    (nodes, roots)
}

struct Client {
    session: Session,
    input: BytesMut,
    xid: u32,
    nodes: Vec<Node>,
    /// Handles that the server gave, and what they mean.
    known: Vec<(Vec<u8>, usize)>,
    /// The file ids that were seen.
    fileids: HashMap<usize, u64>,
}

impl Client {
    fn new() -> Self {
        let (nodes, roots) = model();
        let session = Session::new(([192, 0, 2, 1], 700).into());
        let mut client = Self {
            session,
            input: BytesMut::new(),
            xid: 0,
            nodes,
            known: Vec::new(),
            fileids: HashMap::new(),
        };
        for (path, root) in [&b"/"[..], b"/second"].into_iter().zip(roots) {
            let reply = client.exchange(MOUNT, 1, &opaque(path));
            let mut results = Results::new(&reply);
            assert_eq!(results.u32(), OK);
            let handle = results.opaque();
            client.known.push((handle, root));
        }
        client
    }

    /// Makes one call and checks its reply.
    fn call(&mut self, input: &mut Reader<'_>) -> Result<(), Truncated> {
        let [what, object, a, b] = input.array()?;
        let (handle, node) = self.known[usize::from(object) % self.known.len()].clone();
        match what % 9 {
            0 => self.getattr(&handle, node),
            1 | 2 => self.lookup(&handle, node, a),
            3 => {
                self.read(&handle, node, u64::from(a) << 14 | u64::from(b), u32::from(b) << 13 | u32::from(a))
            }
            4 => self.list(READDIR, &handle, node, u32::from(a) * 16),
            5 => self.list(READDIRPLUS, &handle, node, u32::from(a) * 64 + u32::from(b)),
            6 => self.readlink(&handle, node),
            7 => self.change(&handle, CHANGES[usize::from(a) % CHANGES.len()], b),
            _ => self.getattr_of_damaged(&handle, a, b),
        }
        Ok(())
    }

    /// Returns the results of a call.
    fn exchange(&mut self, program: u32, procedure: u32, arguments: &[u8]) -> Vec<u8> {
        self.xid += 1;
        let message = [self.xid, 0, 2, program, 3, procedure, 0, 0, 0, 0].map(u32::to_be_bytes).concat();
        self.input.extend_from_slice(&(1 << 31 | (message.len() + arguments.len()) as u32).to_be_bytes());
        self.input.extend_from_slice(&message);
        self.input.extend_from_slice(arguments);
        let mut replies = Vec::new();
        let mut cold = Vec::new();
        while replies.is_empty() {
            let mut batch = Batch::default();
            let turn = self.session.handle(&IMAGES, &mut self.input, &SomeCached, &mut batch);
            replies.extend(records(&batch));
            self.session.sent(&self.input);
            cold.extend(self.session.take_cold());
            match (turn, cold.pop()) {
                (Turn::End(error), _) => panic!("{error}"),
                (_, Some(ColdRange { ticket, .. })) => self.session.range_ended(ticket, ReadOutcome::Read),
                (Turn::Full, None) => {}
                (_, None) => assert!(!replies.is_empty(), "no reply"),
            }
        }
        assert_eq!(replies.len(), 1);
        let reply = replies.swap_remove(0);
        // xid, a reply, accepted, no verifier, success.
        assert_eq!(reply[..24], [self.xid, 1, 0, 0, 0, 0].map(u32::to_be_bytes).concat());
        reply[24..].to_vec()
    }

    fn getattr(&mut self, handle: &[u8], node: usize) {
        let reply = self.exchange(NFS, GETATTR, &opaque(handle));
        let mut results = Results::new(&reply);
        assert_eq!(results.u32(), OK);
        self.check_attributes(&mut results, node);
        results.end();
    }

    fn getattr_of_damaged(&mut self, handle: &[u8], at: u8, change: u8) {
        let mut damaged = handle.to_vec();
        let at = usize::from(at) % (damaged.len() + 1);
        match damaged.get_mut(at) {
            Some(byte) => *byte ^= change.max(1),
            None => damaged.push(change),
        }
        let reply = self.exchange(NFS, GETATTR, &opaque(&damaged));
        assert!([STALE, BADHANDLE].contains(&Results::new(&reply).u32()));
    }

    fn lookup(&mut self, handle: &[u8], node: usize, choice: u8) {
        let names = [&b"d"[..], b"file", b"link", b"device", b".", b"..", b"first", b"d/file", b"D", b""];
        let name = match usize::from(choice) {
            n if n < names.len() => names[n].to_vec(),
            255 => vec![b'x'; 256],
            n => format!("{n:0>180}").into_bytes(),
        };
        let reply = self.exchange(NFS, LOOKUP, &[opaque(handle), opaque(&name)].concat());
        let mut results = Results::new(&reply);
        let expected = match &self.nodes[node].kind {
            Kind::Directory(_) if name == b"." => Ok(node),
            Kind::Directory(_) if name == b".." => Ok(self.nodes[node].parent),
            Kind::Directory(_) if name.len() > 255 => Err(NAMETOOLONG),
            Kind::Directory(entries) => entries.get(&name).copied().ok_or(NOENT),
            _ => Err(NOTDIR),
        };
        assert_eq!(results.u32(), expected.err().unwrap_or(OK));
        if let Ok(found) = expected {
            self.meet(results.opaque(), found);
            self.check_maybe_attributes(&mut results, found);
        }
        self.check_maybe_attributes(&mut results, node);
        results.end();
    }

    fn read(&mut self, handle: &[u8], node: usize, offset: u64, count: u32) {
        let place = [&offset.to_be_bytes()[..], &count.to_be_bytes()].concat();
        let reply = self.exchange(NFS, READ, &[opaque(handle), place].concat());
        let mut results = Results::new(&reply);
        let expected = match self.nodes[node].kind {
            Kind::File(extents) => Ok(extents),
            Kind::Directory(_) => Err(ISDIR),
            _ => Err(INVAL),
        };
        assert_eq!(results.u32(), expected.err().unwrap_or(OK));
        self.check_maybe_attributes(&mut results, node);
        let Ok(extents) = expected else { return results.end() };
        let left = self.nodes[node].kind.size().unwrap_or_default().saturating_sub(offset);
        let len = left.min(count.into()).min(READ_MAX);
        assert_eq!(
            [results.u32(), results.u32(), results.u32()],
            [len as u32, u32::from(len == left), len as u32]
        );
        let mut wanted = wanted(extents, offset, len);
        while wanted.iter().any(|extent| !extent.is_empty()) {
            let first = wanted.iter_mut().find(|extent| !extent.is_empty()).expect("one is not empty");
            let got = Extent { offset: results.u64(), len: results.u64() };
            assert!(got.offset == first.offset && got.len <= first.len, "{got:?} for {first:?}");
            *first = first.skip(got.len);
        }
        assert_eq!(results.0.remaining(), (len.next_multiple_of(4) - len) as usize, "the padding");
    }

    /// Lists a directory, page by page.
    fn list(&mut self, procedure: u32, handle: &[u8], node: usize, count: u32) {
        let (mut cookie, mut verifier, mut seen) = (0_u64, vec![0; 8], BTreeSet::new());
        let is_plus = procedure == READDIRPLUS;
        loop {
            let counts: &[u32] = if is_plus { &[1 << 16, count] } else { &[count] };
            let counts: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
            let position = [&cookie.to_be_bytes()[..], &verifier, &counts].concat();
            let reply = self.exchange(NFS, procedure, &[opaque(handle), position].concat());
            let mut results = Results::new(&reply);
            match results.u32() {
                OK => assert!(reply.len() - 4 <= count as usize, "{} for {count}", reply.len()),
                NOTDIR => return assert!(!matches!(self.nodes[node].kind, Kind::Directory(_))),
                status => return assert!(status == TOOSMALL && count < ENTRY_MAX, "{status} for {count}"),
            }
            self.check_maybe_attributes(&mut results, node);
            verifier = results.bytes(8);
            let before = seen.len();
            while results.u32() == 1 {
                let (fileid, name) = (results.u64(), results.opaque());
                cookie = results.u64();
                let object = self.entry(node, &name);
                self.check_fileid(object, fileid);
                if is_plus {
                    self.check_maybe_attributes(&mut results, object);
                    assert_eq!(results.u32(), 1, "a handle follows");
                    self.meet(results.opaque(), object);
                }
                assert!(seen.insert(name), "twice in one listing");
            }
            let is_end = results.u32() == 1;
            results.end();
            if is_end {
                break;
            }
            assert!(seen.len() > before, "an empty page that is not the last");
        }
        let Kind::Directory(entries) = &self.nodes[node].kind else { panic!("a listing of no directory") };
        assert_eq!(seen.len(), entries.len() + 2);
    }

    fn readlink(&mut self, handle: &[u8], node: usize) {
        let reply = self.exchange(NFS, READLINK, &opaque(handle));
        let mut results = Results::new(&reply);
        let target = match self.nodes[node].kind {
            Kind::Link(target) => Some(target),
            _ => None,
        };
        assert_eq!(results.u32(), if target.is_some() { OK } else { INVAL });
        self.check_maybe_attributes(&mut results, node);
        if let Some(target) = target {
            assert_eq!(results.opaque(), target);
        }
        results.end();
        let reply = self.exchange(NFS, ACCESS, &[&opaque(handle)[..], &u32::MAX.to_be_bytes()].concat());
        let mut results = Results::new(&reply);
        assert_eq!(results.u32(), OK);
        self.check_maybe_attributes(&mut results, node);
        assert_eq!(results.u32() & ACCESS_TO_CHANGE, 0);
        results.end();
    }

    /// Asks for a change; the arguments fit every procedure as far as they are read.
    fn change(&mut self, handle: &[u8], procedure: u32, choice: u8) {
        let (other, _) = self.known[usize::from(choice) % self.known.len()].clone();
        let name = opaque(b"new");
        let arguments = match procedure {
            // LINK3args begin with the file alone.
            15 => [opaque(handle), opaque(&other), name].concat(),
            _ => [opaque(handle), name.clone(), opaque(&other), name].concat(),
        };
        let reply = self.exchange(NFS, procedure, &arguments);
        assert_eq!(Results::new(&reply).u32(), ROFS, "procedure {procedure}");
    }

    fn entry(&self, node: usize, name: &[u8]) -> usize {
        match &self.nodes[node].kind {
            Kind::Directory(_) if name == b"." => node,
            Kind::Directory(_) if name == b".." => self.nodes[node].parent,
            Kind::Directory(entries) => *entries.get(name).expect("a name of this directory"),
            _ => panic!("an entry of no directory"),
        }
    }

    /// Notes a handle: equal handles mean equal objects.
    fn meet(&mut self, handle: Vec<u8>, node: usize) {
        let known = self.known.iter().find(|(other, meaning)| *other == handle || *meaning == node);
        match known {
            Some(known) => assert_eq!(*known, (handle, node)),
            None => self.known.push((handle, node)),
        }
    }

    fn check_fileid(&mut self, node: usize, fileid: u64) {
        assert_eq!(*self.fileids.entry(node).or_insert(fileid), fileid, "one file id for each object");
    }

    fn check_maybe_attributes(&mut self, results: &mut Results<'_>, node: usize) {
        assert_eq!(results.u32(), 1, "attributes follow");
        self.check_attributes(results, node);
    }

    /// `fattr3` (RFC 1813 §2.6).
    fn check_attributes(&mut self, results: &mut Results<'_>, node: usize) {
        let kind = &self.nodes[node].kind;
        assert!(kind.has_type(results.u32()), "{kind:?}");
        assert_eq!([results.u32(), results.u32(), results.u32(), results.u32()], [0o755, 1, 0, 0]);
        let size = results.u64();
        assert!(kind.size().is_none_or(|expected| size == expected), "{size}");
        // The space it uses, the device and the file system.
        results.bytes(8 + 8 + 8);
        let fileid = results.u64();
        assert_eq!(results.bytes(24), [0; 24], "the times");
        self.check_fileid(node, fileid);
    }
}

/// Returns the parts of a file's extents that hold `len` bytes from `offset` on.
fn wanted(extents: &[Extent], mut offset: u64, mut len: u64) -> Vec<Extent> {
    let mut wanted = Vec::new();
    for extent in extents {
        let rest = extent.skip(offset.min(extent.len));
        offset -= offset.min(extent.len);
        let part = rest.truncate(len);
        len -= part.len;
        wanted.push(part);
    }
    wanted
}

/// Returns the XDR of variable-length opaque data (RFC 4506 §4.10).
fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Results that are read from the front; they have to be long enough.
struct Results<'a>(Reader<'a>);

impl<'a> Results<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(Reader::new(bytes))
    }

    fn u32(&mut self) -> u32 {
        self.0.u32_be().expect("results of this length")
    }

    fn u64(&mut self) -> u64 {
        self.0.u64_be().expect("results of this length")
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.0.take(len).expect("results of this length").to_vec()
    }

    fn opaque(&mut self) -> Vec<u8> {
        let len = self.u32() as usize;
        let bytes = self.bytes(len);
        let padding = self.bytes(len.next_multiple_of(4) - len);
        assert!(padding.iter().all(|&byte| byte == 0));
        bytes
    }

    fn end(self) {
        assert!(self.0.is_empty(), "nothing follows");
    }
}
