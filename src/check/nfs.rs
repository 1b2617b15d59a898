//! NFS client (RFC 1813): asks the portmapper and mounts as archiso's nfsmount does, then walks the
//! whole tree with READDIRPLUS and LOOKUP and reads every file.

use std::collections::HashSet;
use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};

use super::original::{CheckTally, Original, VerifyError};
use super::rpc::{self, Procedure, numbers, opaque, put_opaque};
use super::servers::CheckedServers;
use crate::codec::Reader;
use crate::image::{NodeId, NodeKind};

/// Path of the export in the menu of an Arch ISO.
const EXPORT: &[u8] = b"/run/archiso/bootmnt";

/// PMAPPROC_GETPORT and the protocol TCP (RFC 1833 §3.1).
const GETPORT: Procedure = Procedure(100_000, 2, 3);
const TCP: u32 = 6;

/// Procedures of MOUNT and NFS (RFC 1813 §5.2 and §3.3).
const MNT: Procedure = Procedure(100_005, 3, 1);
const LOOKUP: Procedure = Procedure(100_003, 3, 3);
const READLINK: Procedure = Procedure(100_003, 3, 5);
const READ: Procedure = Procedure(100_003, 3, 6);
const READDIRPLUS: Procedure = Procedure(100_003, 3, 17);
const FSINFO: Procedure = Procedure(100_003, 3, 19);

/// Longest file handle (RFC 1813 §2.4, NFS3_FHSIZE).
const HANDLE_MAX: usize = 64;

/// Bytes requested per READ unless the server prefers fewer, and per READDIRPLUS.
const READ_MAX: u32 = 1 << 20;
const LISTING_MAX: u32 = 64 << 10;

/// Types of `ftype3` (RFC 1813 §2.6).
const NF3REG: u32 = 1;
const NF3DIR: u32 = 2;
const NF3LNK: u32 = 5;

type HandleBytes = Vec<u8>;

/// Mounts the export, compares the whole tree and reads every file.
///
/// # Errors
/// [`VerifyError`] of the first fault that is found.
pub(super) async fn check(
    servers: &CheckedServers,
    original: &Original,
    tally: &mut CheckTally,
) -> Result<(), VerifyError> {
    let [nfs, mount] = [READ, MNT].map(|program| port_of(servers.portmap, program, original));
    // nfsmount asks for both programs, though one port serves them here.
    let (nfs, mount) = (nfs.await?, mount.await?);
    let root = mounted(mount, original).await?;
    let mut client = NfsClient { rpc: rpc::RpcClient::open(nfs, original).await?, original, read: READ_MAX };
    client.read = client.preferred_read(&root).await?;
    // Directories still to compare. A stack, because the tree of an image may be deep.
    let mut directories = vec![(NodeId::ROOT, root)];
    while let Some((directory, handle)) = directories.pop() {
        client.compare_listing(directory, &handle).await?;
        for &node in original.image.index.children(directory) {
            let (handle, attributes) = client.look_up(&handle, node).await?;
            client.compare_attributes(node, attributes)?;
            match &original.image.index.node(node).kind {
                NodeKind::Directory { .. } => directories.push((node, handle)),
                NodeKind::File { .. } => *tally += client.read(node, &handle).await?,
                NodeKind::Symlink { target } => client.read_link(node, &handle, target).await?,
                // Devices, pipes and sockets have no content.
                NodeKind::Special => {}
            }
        }
    }
    Ok(())
}

/// Returns the number of bytes that [`check`] reads.
pub(super) fn work(original: &Original) -> u64 {
    original.files().map(|node| original.image.index.node(node).size()).sum()
}

/// Asks the portmapper for the port of a program.
async fn port_of(
    portmap: SocketAddr,
    program: Procedure,
    original: &Original,
) -> Result<SocketAddr, VerifyError> {
    let Procedure(number, version, _) = program;
    let mut arguments = BytesMut::new();
    [number, version, TCP, 0].into_iter().for_each(|number| arguments.put_u32(number));
    let results = rpc::RpcClient::open(portmap, original).await?.call(GETPORT, &arguments).await?;
    let [port] = numbers(&mut Reader::new(&results))?;
    match u16::try_from(port) {
        // RFC 1833 §3.2: 0 means that the program is not registered.
        Ok(port) if port > 0 => Ok((portmap.ip(), port).into()),
        _ => Err(VerifyError::protocol(format!("the portmapper has no port for program {number}"))),
    }
}

/// Mounts the export and returns the handle of its root directory.
async fn mounted(mount: SocketAddr, original: &Original) -> Result<HandleBytes, VerifyError> {
    let mut arguments = BytesMut::new();
    put_opaque(&mut arguments, EXPORT);
    let results = rpc::RpcClient::open(mount, original).await?.call(MNT, &arguments).await?;
    let mut results = succeeded(&results, "MNT", "/")?;
    // A list of authentication flavours follows.
    handle(&mut results)
}

/// Returns the results that follow the status NFS3_OK.
fn succeeded<'a>(results: &'a [u8], procedure: &str, path: &str) -> Result<Reader<'a>, VerifyError> {
    let mut results = Reader::new(results);
    match results.u32_be()? {
        // NFS3_OK, and MNT3_OK of MOUNT.
        0 => Ok(results),
        state => Err(VerifyError::Wrong {
            path: path.to_owned(),
            what: format!("cannot be accessed: {procedure} returned {state}"),
        }),
    }
}

fn handle(results: &mut Reader<'_>) -> Result<HandleBytes, VerifyError> {
    let handle = opaque(results)?;
    // RFC 1813 §2.4: at most NFS3_FHSIZE bytes. An empty handle names nothing.
    if handle.is_empty() || handle.len() > HANDLE_MAX {
        return Err(VerifyError::protocol(format!("a file handle has {} bytes", handle.len())));
    }
    Ok(handle.to_vec())
}

/// The compared part of `fattr3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ComparedAttributes {
    kind: u32,
    links: u32,
    size: u64,
    fileid: u64,
}

/// Parses `post_op_attr` with its `fattr3` (RFC 1813 §2.6).
fn attributes(results: &mut Reader<'_>) -> Result<Option<ComparedAttributes>, VerifyError> {
    // A server may always leave them out; whether that is a fault is for the caller to say.
    if !boolean(results)? {
        return Ok(None);
    }
    let [kind, _mode, links, _uid, _gid] = numbers(results)?;
    let size = results.u64_be()?;
    results.skip(8 + 8 + 8)?; // used, rdev, fsid
    let fileid = results.u64_be()?;
    results.skip(3 * 8)?; // atime, mtime, ctime
    Ok(Some(ComparedAttributes { kind, links, size, fileid }))
}

/// Parses a boolean (RFC 4506 §4.4).
fn boolean(results: &mut Reader<'_>) -> Result<bool, VerifyError> {
    match results.u32_be()? {
        0 => Ok(false),
        1 => Ok(true),
        // RFC 4506 §4.4: no other value is allowed.
        other => Err(VerifyError::protocol(format!("{other} is not a boolean"))),
    }
}

/// Some entries of a directory.
struct Listing {
    names: Vec<Vec<u8>>,
    /// Position of the next entries.
    cookie: u64,
    verifier: u64,
    is_last: bool,
}

struct NfsClient<'a> {
    rpc: rpc::RpcClient,
    original: &'a Original,
    /// Bytes per READ.
    read: u32,
}

impl NfsClient<'_> {
    async fn preferred_read(&mut self, root: &HandleBytes) -> Result<u32, VerifyError> {
        let results = self.call(FSINFO, root, &[]).await?;
        let mut results = succeeded(&results, "FSINFO", "/")?;
        attributes(&mut results)?;
        // RFC 1813 §3.3.19: rtmax and rtpref come first.
        let [max, preferred] = numbers(&mut results)?;
        if preferred == 0 || preferred > max {
            return Err(VerifyError::protocol(format!(
                "FSINFO prefers reads of {preferred} bytes, but allows {max}"
            )));
        }
        Ok(preferred.min(READ_MAX))
    }

    /// Compares the entries of a directory with the image.
    async fn compare_listing(&mut self, directory: NodeId, handle: &HandleBytes) -> Result<(), VerifyError> {
        let path = self.original.path(directory);
        let index = &self.original.image.index;
        // Names are bytes: Rock Ridge and NFS leave their encoding open.
        let mut missing: HashSet<&[u8]> =
            index.children(directory).iter().map(|&node| &*index.node(node).name).collect();
        // RFC 1813 §3.3.16 leaves open whether a server lists `.` and `..`.
        let mut optional = HashSet::from([&b"."[..], b".."]);
        let mut at = Listing { names: Vec::new(), cookie: 0, verifier: 0, is_last: false };
        while !at.is_last {
            // RFC 1813 §3.3.17: the cookie of the last entry and the verifier continue the listing.
            at = self.list(&path, handle, &at).await?;
            for name in &at.names {
                if !missing.remove(&name[..]) && !optional.remove(&name[..]) {
                    let what = format!(
                        "lists {}, which is not in the image or was listed before",
                        name.escape_ascii()
                    );
                    return Err(VerifyError::Wrong { path, what });
                }
            }
        }
        match missing.iter().next() {
            None => Ok(()),
            Some(name) => {
                Err(VerifyError::Wrong { path, what: format!("does not list {}", name.escape_ascii()) })
            }
        }
    }

    async fn list(
        &mut self,
        path: &str,
        directory: &HandleBytes,
        from: &Listing,
    ) -> Result<Listing, VerifyError> {
        let mut arguments = BytesMut::new();
        arguments.put_u64(from.cookie);
        arguments.put_u64(from.verifier);
        arguments.put_u32(LISTING_MAX); // dircount: names and cookies
        arguments.put_u32(LISTING_MAX); // maxcount: the whole reply
        let results = self.call(READDIRPLUS, directory, &arguments).await?;
        let mut results = succeeded(&results, "READDIRPLUS", path)?;
        attributes(&mut results)?;
        let mut listing =
            Listing { names: Vec::new(), cookie: from.cookie, verifier: results.u64_be()?, is_last: false };
        while boolean(&mut results)? {
            let fileid = results.u64_be()?;
            listing.names.push(opaque(&mut results)?.to_vec());
            listing.cookie = results.u64_be()?;
            // RFC 1813 §3.3.17: an entry has the file id twice, by itself and in its attributes.
            if attributes(&mut results)?.is_some_and(|attributes| attributes.fileid != fileid) {
                return Err(VerifyError::Wrong {
                    path: path.to_owned(),
                    what: "lists contradictory file ids".to_owned(),
                });
            }
            if boolean(&mut results)? {
                self::handle(&mut results)?;
            }
        }
        listing.is_last = boolean(&mut results)?;
        // The next call would be the same one again, for ever.
        if listing.names.is_empty() && !listing.is_last {
            return Err(VerifyError::Wrong {
                path: path.to_owned(),
                what: "has an empty listing that does not end".to_owned(),
            });
        }
        Ok(listing)
    }

    async fn look_up(
        &mut self,
        directory: &HandleBytes,
        node: NodeId,
    ) -> Result<(HandleBytes, Option<ComparedAttributes>), VerifyError> {
        let mut name = BytesMut::new();
        put_opaque(&mut name, &self.original.image.index.node(node).name);
        let results = self.call(LOOKUP, directory, &name).await?;
        let mut results = succeeded(&results, "LOOKUP", &self.original.path(node))?;
        // RFC 1813 §3.3.3: the attributes of the directory follow and are not of interest.
        Ok((self::handle(&mut results)?, attributes(&mut results)?))
    }

    fn compare_attributes(
        &self,
        node: NodeId,
        attributes: Option<ComparedAttributes>,
    ) -> Result<(), VerifyError> {
        let path = self.original.path(node);
        let Some(ComparedAttributes { kind, links, size, .. }) = attributes else {
            return Err(VerifyError::Wrong { path, what: "comes without attributes".to_owned() });
        };
        let entry = self.original.image.index.node(node);
        let expected = match entry.kind {
            NodeKind::Directory { .. } => NF3DIR,
            NodeKind::File { .. } => NF3REG,
            NodeKind::Symlink { .. } => NF3LNK,
            NodeKind::Special => return Ok(()),
        };
        // Newer Linux clients fail on a link count of 0.
        if kind != expected || links == 0 {
            return Err(VerifyError::Wrong { path, what: format!("is of type {kind} with {links} links") });
        }
        // The size of a directory is up to the server.
        if kind != NF3DIR && size != entry.size() {
            return Err(VerifyError::Size { path, there: size, expected: entry.size() });
        }
        Ok(())
    }

    /// Reads a file to its end and compares it.
    async fn read(&mut self, node: NodeId, handle: &HandleBytes) -> Result<CheckTally, VerifyError> {
        let mut expected = self.original.file(node);
        let mut offset = 0;
        loop {
            let mut arguments = BytesMut::new();
            arguments.put_u64(offset);
            arguments.put_u32(self.read);
            let results = self.call(READ, handle, &arguments).await?;
            let mut results = succeeded(&results, "READ", expected.path())?;
            attributes(&mut results)?;
            let (count, is_end) = (results.u32_be()?, boolean(&mut results)?);
            let data = opaque(&mut results)?;
            // RFC 1813 §3.3.6: a short READ is allowed, but one of no bytes before the end is not
            // progress.
            if count as usize != data.len() || count > self.read || (count == 0 && !is_end) {
                return Err(VerifyError::protocol(format!("READ of {} bytes returns {count}", self.read)));
            }
            expected.take(data)?;
            offset += u64::from(count);
            if is_end {
                return expected.finish();
            }
        }
    }

    async fn read_link(
        &mut self,
        node: NodeId,
        handle: &HandleBytes,
        target: &[u8],
    ) -> Result<(), VerifyError> {
        let path = self.original.path(node);
        let results = self.call(READLINK, handle, &[]).await?;
        let mut results = succeeded(&results, "READLINK", &path)?;
        attributes(&mut results)?;
        let there = opaque(&mut results)?;
        if there == target {
            return Ok(());
        }
        let (there, target) = (there.escape_ascii(), target.escape_ascii());
        Err(VerifyError::Wrong { path, what: format!("points to {there} instead of {target}") })
    }

    /// Calls a procedure; the arguments of each begin with a file handle.
    async fn call(
        &mut self,
        procedure: Procedure,
        handle: &HandleBytes,
        arguments: &[u8],
    ) -> Result<Vec<u8>, VerifyError> {
        let mut all = BytesMut::new();
        put_opaque(&mut all, handle);
        all.put_slice(arguments);
        self.rpc.call(procedure, &all).await
    }
}
