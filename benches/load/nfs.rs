//! The NFSv3 client: calls with AUTH_SYS over TCP, each record in one fragment (RFC 5531, RFC
//! 1813).

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use super::engine::{ClientProtocol, Connection, LoadError, Pending, Reply};
use super::nbd::TIMEOUT;
use super::random::Random;

const NFS: (u32, u32) = (100_003, 3);
const MOUNT: (u32, u32) = (100_005, 3);
const GETATTR: u32 = 1;
const LOOKUP: u32 = 3;
const READ: u32 = 6;
const MNT: u32 = 1;
const LAST_FRAGMENT: u32 = 1 << 31;
const SLOT_BITS: u32 = 8;

/// The procedure of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Call {
    Read,
    Getattr,
    Lookup,
}

/// Data that all connections of a load share.
#[derive(Debug)]
pub struct Mount {
    call: Call,
    len: usize,
    file: File,
    size: u64,
    handle: Vec<u8>,
    directory: Vec<u8>,
    /// Names in the directory: `entry-00000` and so on.
    names: u64,
}

/// XDR encoder (RFC 4506).
#[derive(Default)]
struct Xdr(Vec<u8>);

impl Xdr {
    fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn long(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn opaque(self, bytes: &[u8]) -> Self {
        let mut xdr = self.number(bytes.len() as u32);
        xdr.0.extend_from_slice(bytes);
        xdr.0.resize(xdr.0.len().next_multiple_of(4), 0);
        xdr
    }
}

/// Appends a call with its record mark.
fn call(xid: u32, (program, version): (u32, u32), procedure: u32, arguments: &[u8], out: &mut Vec<u8>) {
    // AUTH_SYS: stamp, machine name, uid, gid, no more gids.
    let credential = Xdr::default().number(0).opaque(b"load").number(0).number(0).number(0).0;
    let head =
        Xdr::default().number(xid).number(0).number(2).number(program).number(version).number(procedure);
    let head = head.number(1).opaque(&credential).number(0).number(0).0;
    out.extend_from_slice(&(LAST_FRAGMENT | (head.len() + arguments.len()) as u32).to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(arguments);
}

/// Returns the results of a reply, from the status on.
fn results(message: &[u8]) -> Option<&[u8]> {
    // xid, REPLY, MSG_ACCEPTED, flavour and length of the verifier, SUCCESS.
    let verifier = number(message, 16)? as usize;
    let is_success =
        number(message, 4)? == 1 && number(message, 8)? == 0 && number(message, 20 + verifier)? == 0;
    message.get(24 + verifier..).filter(|_| is_success)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn opaque(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(at + 4..at + 4 + number(bytes, at)? as usize)
}

impl Mount {
    /// Mounts `path` and looks up the file `name` and the directory `names` in it.
    pub fn new(
        (server, mountd): (SocketAddr, SocketAddr),
        (path, name): (&str, &str),
        (call, len): (Call, usize),
        file: File,
        names: u64,
    ) -> Result<Self, LoadError> {
        let size = file.metadata()?.len();
        let answer = ask_once(&mut connect(mountd)?, MOUNT, MNT, &Xdr::default().opaque(path.as_bytes()).0)?;
        let root = opaque(&answer, 4).ok_or("no handle of the root")?.to_vec();
        let mut socket = connect(server)?;
        let handle = look_up(&mut socket, &root, name)?;
        let directory = look_up(&mut socket, &root, "names")?;
        Ok(Self { call, len, file, size, handle, directory, names })
    }
}

/// Looks up a name in the root and returns its handle.
fn look_up(socket: &mut TcpStream, root: &[u8], name: &str) -> Result<Vec<u8>, LoadError> {
    let arguments = Xdr::default().opaque(root).opaque(name.as_bytes()).0;
    Ok(opaque(&ask_once(socket, NFS, LOOKUP, &arguments)?, 4).ok_or("no handle")?.to_vec())
}

fn connect(server: SocketAddr) -> Result<TcpStream, LoadError> {
    let socket = TcpStream::connect_timeout(&server, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// Returns the results of one call, with the status, which is 0.
fn ask_once(
    socket: &mut TcpStream,
    program: (u32, u32),
    procedure: u32,
    arguments: &[u8],
) -> Result<Vec<u8>, LoadError> {
    let mut out = Vec::new();
    // Servers drop the second of two calls with the same xid; no two calls here are equally long.
    call(0xffff_0000 + arguments.len() as u32, program, procedure, arguments, &mut out);
    socket.write_all(&out)?;
    let mut mark = [0; 4];
    socket.read_exact(&mut mark)?;
    let mut message = vec![0; (u32::from_be_bytes(mark) & !LAST_FRAGMENT).min(1 << 16) as usize];
    socket.read_exact(&mut message)?;
    let results = results(&message).ok_or("the call was refused")?;
    match number(results, 0) {
        Some(0) => Ok(results.to_vec()),
        status => Err(format!("procedure {procedure} failed: {status:?}").into()),
    }
}

pub struct Nfs {
    mount: Arc<Mount>,
    random: Random,
    calls: u32,
}

impl ClientProtocol for Nfs {
    fn ask(&mut self, slot: usize, out: &mut Vec<u8>) -> Pending {
        let Mount { call: which, len, size, handle, directory, names, .. } = &*self.mount;
        // Servers take a second call with the same xid for a repetition.
        self.calls += 1;
        let xid = self.calls << SLOT_BITS | slot as u32;
        let file = Xdr::default().opaque(handle);
        let (offset, arguments, procedure) = match which {
            Call::Read => {
                let offset = self.random.below(size / *len as u64) * *len as u64;
                (offset, file.long(offset).number(*len as u32), READ)
            }
            Call::Getattr => (0, file, GETATTR),
            Call::Lookup => {
                let name = self.random.below(*names);
                let directory = Xdr::default().opaque(directory);
                (name, directory.opaque(format!("entry-{name:05}").as_bytes()), LOOKUP)
            }
        };
        call(xid, NFS, procedure, &arguments.0, out);
        Pending { offset, len: *len, since: Instant::now() }
    }

    fn reply(&self, bytes: &[u8]) -> Result<Option<Reply>, LoadError> {
        let (Some(mark), Some(xid)) = (number(bytes, 0), number(bytes, 4)) else { return Ok(None) };
        let len = (mark & !LAST_FRAGMENT) as usize;
        // A refusal is shorter than what was asked for.
        let least = if self.mount.call == Call::Read { self.mount.len } else { 100 };
        if mark & LAST_FRAGMENT == 0 || len < least {
            return Err(format!("a reply of {len} bytes").into());
        }
        Ok(Some(Reply { head: 8, slot: (xid & ((1 << SLOT_BITS) - 1)) as usize, body: len - 4 }))
    }

    fn is_right(&self, asked: &Pending, head: &[u8], body: &[u8]) -> bool {
        let message = [&head[4..], body].concat();
        let Some(results) = results(&message) else { return false };
        if number(results, 0) != Some(0) {
            return false;
        }
        match self.mount.call {
            // NF3REG, and the size after mode, nlink, uid and gid (RFC 1813 §2.6).
            Call::Getattr => {
                number(results, 4) == Some(1) && results.get(24..32) == Some(&self.mount.size.to_be_bytes())
            }
            // Each file is as long as the number in its name; its attributes follow the handle.
            Call::Lookup => {
                let attributes = 8 + number(results, 4).unwrap_or(0).next_multiple_of(4) as usize;
                number(results, attributes) == Some(1)
                    && results.get(attributes + 24..attributes + 32) == Some(&asked.offset.to_be_bytes())
            }
            Call::Read => {
                let attributes = if number(results, 4) == Some(1) { 84 } else { 0 };
                let mut expected = vec![0; asked.len];
                self.mount.file.read_exact_at(&mut expected, asked.offset).is_ok()
                    && opaque(results, 8 + attributes + 8) == Some(&expected)
            }
        }
    }

    fn payload(&self) -> usize {
        if self.mount.call == Call::Read { self.mount.len } else { 0 }
    }
}

/// Connects the clients of a load.
pub fn connections(
    server: SocketAddr,
    mount: &Arc<Mount>,
    count: usize,
) -> Result<Vec<Connection<Nfs>>, LoadError> {
    let connect = |i| {
        let nfs = Nfs { mount: Arc::clone(mount), random: Random::new(i as u64), calls: 0 };
        Ok(Connection::new(connect(server)?, nfs)?)
    };
    (0..count).map(connect).collect()
}
