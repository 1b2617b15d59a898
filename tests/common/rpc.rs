//! A small client of ONC RPC, MOUNT and NFSv3 (RFC 5531, RFC 1813). It shares no code with the
//! server, so that a mistake in one shows in the other.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

pub const PORTMAP: u32 = 100_000;
pub const NFS: u32 = 100_003;
pub const MOUNT: u32 = 100_005;
pub const NFSACL: u32 = 100_227;

pub const TCP: u32 = 6;
pub const UDP: u32 = 17;

// Procedures of NFSv3.
pub const GETATTR: u32 = 1;
pub const SETATTR: u32 = 2;
pub const LOOKUP: u32 = 3;
pub const ACCESS: u32 = 4;
pub const READLINK: u32 = 5;
pub const READ: u32 = 6;
pub const WRITE: u32 = 7;
pub const READDIR: u32 = 16;
pub const READDIRPLUS: u32 = 17;
pub const FSSTAT: u32 = 18;
pub const FSINFO: u32 = 19;
pub const PATHCONF: u32 = 20;

// Status of NFSv3 and of MOUNT, where they agree.
pub const OK: u32 = 0;
pub const NOENT: u32 = 2;
pub const NOTDIR: u32 = 20;
pub const ISDIR: u32 = 21;
pub const INVAL: u32 = 22;
pub const ROFS: u32 = 30;
pub const NAMETOOLONG: u32 = 63;
pub const STALE: u32 = 70;
pub const BADHANDLE: u32 = 10001;
pub const BAD_COOKIE: u32 = 10003;
pub const TOOSMALL: u32 = 10005;

/// Longest wait for a reply, on a machine under load.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Longest record that is read; a longer one is a fault of the server.
const RECORD_MAX: usize = 2 << 20;

/// XDR encoder (RFC 4506).
#[derive(Clone, Default)]
pub struct Xdr(pub Vec<u8>);

impl Xdr {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Appends opaque data or a string, of variable length.
    pub fn opaque(self, bytes: &[u8]) -> Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    /// Appends bytes as they are, padded to a multiple of four.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// Encodes the header of a call with these credentials and no verifier.
pub fn header(xid: u32, program: u32, version: u32, procedure: u32, flavor: u32, credential: &[u8]) -> Xdr {
    let call = Xdr::new().u32(xid).u32(0).u32(2).u32(program).u32(version).u32(procedure);
    call.u32(flavor).opaque(credential).u32(0).u32(0)
}

/// Encodes a whole call without credentials and without a record mark.
pub fn call(xid: u32, program: u32, version: u32, procedure: u32, arguments: Xdr) -> Vec<u8> {
    header(xid, program, version, procedure, 0, b"").raw(&arguments.0).0
}

/// Encodes a record of one fragment.
pub fn record(body: &[u8]) -> Vec<u8> {
    [&(0x8000_0000 | body.len() as u32).to_be_bytes()[..], body].concat()
}

/// Encodes the record of an NFSv3 call.
pub fn nfs(xid: u32, procedure: u32, arguments: Xdr) -> Vec<u8> {
    record(&call(xid, NFS, 3, procedure, arguments))
}

pub fn read_arguments(handle: &[u8], offset: u64, count: u32) -> Xdr {
    Xdr::new().opaque(handle).u64(offset).u32(count)
}

/// The rest of a reply. Its methods panic if the reply ends too early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(Vec<u8>, usize);

impl Body {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes, 0)
    }

    pub fn bytes(&mut self, len: usize) -> &[u8] {
        let start = self.1;
        self.1 += len;
        self.0.get(start..self.1).expect("an answer of full length")
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    pub fn opaque(&mut self) -> Vec<u8> {
        let len = self.u32() as usize;
        let bytes = self.bytes(len).to_vec();
        let padding = len.next_multiple_of(4) - len;
        assert!(self.bytes(padding).iter().all(|&byte| byte == 0), "padding is zero (RFC 4506 §4.10)");
        bytes
    }

    /// Reads a boolean, which is 0 or 1 (RFC 4506 §4.4).
    pub fn flag(&mut self) -> bool {
        match self.u32() {
            0 => false,
            1 => true,
            other => panic!("{other} as a boolean"),
        }
    }

    pub fn end(&self) {
        assert_eq!(self.1, self.0.len(), "bytes are left behind the answer");
    }

    fn rest(&self) -> Vec<u8> {
        self.0[self.1..].to_vec()
    }

    pub fn attributes(&mut self) -> Attributes {
        let [kind, mode, nlink, uid, gid] = std::array::from_fn(|_| self.u32());
        let [size, used] = std::array::from_fn(|_| self.u64());
        self.bytes(8); // rdev
        let [fsid, fileid] = std::array::from_fn(|_| self.u64());
        let [atime, mtime, ctime] = std::array::from_fn(|_| (self.u32(), self.u32()));
        assert_eq!((atime, ctime), (mtime, mtime), "an image has one date");
        Attributes { kind, mode, nlink, uid, gid, size, used, fsid, fileid, mtime: mtime.0 }
    }

    /// Reads a `post_op_attr`.
    pub fn maybe_attributes(&mut self) -> Option<Attributes> {
        self.flag().then(|| self.attributes())
    }
}

/// Fields of `fattr3` that the tests check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub kind: u32,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub used: u64,
    pub fsid: u64,
    pub fileid: u64,
    pub mtime: u32,
}

/// An entry of a directory; handle and attributes only with READDIRPLUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub fileid: u64,
    pub name: Vec<u8>,
    pub cookie: u64,
    pub attributes: Option<Attributes>,
    pub handle: Option<Handle>,
}

pub type Handle = Vec<u8>;

/// A reply to a call (RFC 5531 §9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Success(Body),
    ProgUnavail,
    ProgMismatch(u32, u32),
    ProcUnavail,
    GarbageArgs,
    SystemErr,
    RpcMismatch(u32, u32),
    AuthError(u32),
}

impl Reply {
    /// Parses a reply; returns the xid of its call as well.
    pub fn parse(message: Vec<u8>) -> (u32, Self) {
        let mut body = Body::new(message);
        let xid = body.u32();
        assert_eq!(body.u32(), 1, "a reply");
        let reply = match (body.u32(), body.u32()) {
            (0, 0) => {
                assert_eq!(body.u32(), 0, "nfsmount takes no verifier that has a length");
                Self::accepted(&mut body)
            }
            (1, 0) => Self::RpcMismatch(body.u32(), body.u32()),
            (1, 1) => Self::AuthError(body.u32()),
            other => panic!("{other:?} as a kind of reply"),
        };
        if !matches!(reply, Self::Success(_)) {
            body.end();
        }
        (xid, reply)
    }

    fn accepted(body: &mut Body) -> Self {
        match body.u32() {
            0 => Self::Success(Body::new(std::mem::replace(body, Body::new(vec![])).rest())),
            1 => Self::ProgUnavail,
            2 => Self::ProgMismatch(body.u32(), body.u32()),
            3 => Self::ProcUnavail,
            4 => Self::GarbageArgs,
            5 => Self::SystemErr,
            other => panic!("{other} as an accept_stat"),
        }
    }

    /// Returns the results of a successful call.
    pub fn body(self) -> Body {
        match self {
            Self::Success(body) => body,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the status at the start of the results of MOUNT or NFS.
    pub fn status(self) -> u32 {
        self.body().u32()
    }
}

/// A connection to an RPC server.
pub struct Client {
    pub socket: TcpStream,
    xid: u32,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        Self::connect_to((Ipv4Addr::LOCALHOST, port).into())
    }

    pub fn connect_to(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        Self::over(socket)
    }

    pub fn over(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self { socket, xid: 0x1500 }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Reads the next message, of any number of fragments.
    pub fn try_receive(&mut self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let mut mark = [0; 4];
            self.socket.read_exact(&mut mark)?;
            let mark = u32::from_be_bytes(mark);
            let (start, len) = (message.len(), (mark & 0x7fff_ffff) as usize);
            assert!(start + len <= RECORD_MAX, "a record of {len} bytes");
            message.resize(start + len, 0);
            self.socket.read_exact(&mut message[start..])?;
            if mark & 0x8000_0000 != 0 {
                return Ok(message);
            }
        }
    }

    pub fn receive(&mut self) -> (u32, Reply) {
        Reply::parse(self.try_receive().expect("an answer"))
    }

    /// Sends a message as one record and returns its reply.
    pub fn exchange(&mut self, message: &[u8]) -> Reply {
        self.send(&record(message));
        let (xid, reply) = self.receive();
        assert_eq!(xid.to_be_bytes(), message[..4], "the answer to another call");
        reply
    }

    pub fn call(&mut self, program: u32, version: u32, procedure: u32, arguments: Xdr) -> Reply {
        self.xid += 1;
        self.exchange(&call(self.xid, program, version, procedure, arguments))
    }

    pub fn nfs(&mut self, procedure: u32, arguments: Xdr) -> Reply {
        self.call(NFS, 3, procedure, arguments)
    }

    /// Tells whether the server closes the connection without another reply.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub fn mount(&mut self, path: &[u8]) -> Result<Handle, u32> {
        let mut body = self.call(MOUNT, 3, 1, Xdr::new().opaque(path)).body();
        match body.u32() {
            OK => Ok(body.opaque()),
            status => Err(status),
        }
    }

    pub fn getattr(&mut self, handle: &[u8]) -> Result<Attributes, u32> {
        let mut body = self.nfs(GETATTR, Xdr::new().opaque(handle)).body();
        match body.u32() {
            OK => {
                let attributes = body.attributes();
                body.end();
                Ok(attributes)
            }
            status => Err(status),
        }
    }

    pub fn lookup(&mut self, dir: &[u8], name: &[u8]) -> Result<Handle, u32> {
        let mut body = self.nfs(LOOKUP, Xdr::new().opaque(dir).opaque(name)).body();
        match body.u32() {
            OK => {
                let handle = body.opaque();
                body.maybe_attributes().expect("attributes of what was found");
                body.maybe_attributes();
                body.end();
                Ok(handle)
            }
            status => Err(status),
        }
    }

    /// Looks up a path below the export `/`.
    pub fn walk(&mut self, path: &str) -> Handle {
        let root = self.mount(b"/").expect("the default image is exported as /");
        let names = path.split('/').filter(|name| !name.is_empty());
        names.fold(root, |dir, name| self.lookup(&dir, name.as_bytes()).expect("the file is there"))
    }

    pub fn readlink(&mut self, handle: &[u8]) -> Result<Vec<u8>, u32> {
        let mut body = self.nfs(READLINK, Xdr::new().opaque(handle)).body();
        let status = body.u32();
        body.maybe_attributes();
        if status == OK { Ok(body.opaque()) } else { Err(status) }
    }

    /// Returns data, and whether it reaches the end of the file.
    pub fn read(&mut self, handle: &[u8], offset: u64, count: u32) -> Result<(Vec<u8>, bool), u32> {
        data_of(self.nfs(READ, read_arguments(handle, offset, count)))
    }

    /// Reads one page of a directory.
    pub fn readdir(&mut self, procedure: u32, dir: &[u8], from: Position, count: u32) -> Result<Page, u32> {
        let arguments = Xdr::new().opaque(dir).u64(from.cookie).u64(from.verifier);
        let arguments = match procedure {
            READDIRPLUS => arguments.u32(count).u32(count),
            _ => arguments.u32(count),
        };
        let mut body = self.nfs(procedure, arguments).body();
        let status = body.u32();
        body.maybe_attributes();
        if status != OK {
            body.end();
            return Err(status);
        }
        // RFC 1813 §3.3.16: count limits READDIR3resok, which does not include the status.
        let len = body.0.len() - 4;
        let verifier = body.u64();
        let mut entries = Vec::new();
        while body.flag() {
            entries.push(entry(&mut body, procedure == READDIRPLUS));
        }
        let is_last = body.flag();
        body.end();
        Ok(Page { verifier, entries, is_last, len })
    }

    /// Lists a directory page by page, as a client does.
    pub fn list(&mut self, procedure: u32, dir: &[u8], count: u32) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut from = Position::default();
        loop {
            let page = self.readdir(procedure, dir, from, count).expect("a page");
            assert!(page.len <= count as usize, "{} bytes where {count} were allowed", page.len);
            assert!(page.is_last || !page.entries.is_empty(), "a page without progress");
            entries.extend(page.entries);
            match entries.last() {
                Some(last) if !page.is_last => {
                    from = Position { cookie: last.cookie, verifier: page.verifier }
                }
                _ => return entries,
            }
        }
    }
}

fn entry(body: &mut Body, is_plus: bool) -> Entry {
    let (fileid, name, cookie) = (body.u64(), body.opaque(), body.u64());
    let attributes = if is_plus { body.maybe_attributes() } else { None };
    let handle = (is_plus && body.flag()).then(|| body.opaque());
    Entry { fileid, name, cookie, attributes, handle }
}

/// Position in a directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    pub cookie: u64,
    pub verifier: u64,
}

#[derive(Clone, Debug)]
pub struct Page {
    pub verifier: u64,
    pub entries: Vec<Entry>,
    pub is_last: bool,
    /// Length of READDIR3resok in bytes.
    pub len: usize,
}

/// Returns the data of a READ, and whether it reaches the end of the file.
pub fn data_of(reply: Reply) -> Result<(Vec<u8>, bool), u32> {
    let mut body = reply.body();
    let status = body.u32();
    body.maybe_attributes();
    if status != OK {
        body.end();
        return Err(status);
    }
    let count = body.u32();
    let is_end = body.flag();
    let data = body.opaque();
    assert_eq!(data.len(), count as usize, "count and length of the data differ");
    body.end();
    Ok((data, is_end))
}
