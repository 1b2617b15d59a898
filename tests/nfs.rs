//! NFS: replies to calls of every kind, and the tree as real clients and an independent one see it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nfs3_client::Nfs3ConnectionBuilder;
use nfs3_client::tokio::TokioConnector;
use nfs3_types::nfs3::{
    LOOKUP3args, Nfs3Option, Nfs3Result, READ3args, READDIR3args, READDIRPLUS3args, cookieverf3, diropargs3,
    filename3, nfs_fh3,
};
use socket2::{Domain, Socket, Type};

use common::lan::{self, Namespace};
use common::needs::{needs, tool};
use common::nfs::Server;
use common::rpc::*;
use common::running::output_of;
use common::tree::{self, BIG, MANY, SCRIPT, Tree, tree};

/// A server of the tree and of another image.
fn start() -> (Server, Tree) {
    let tree = tree();
    (Server::start(&[&tree.iso, &tree.another]), tree)
}

fn name(name: &str) -> Xdr {
    Xdr::new().opaque(name.as_bytes())
}

// ---- calls of every kind, and the replies of the standard

#[test]
fn unknown_calls_get_standard_errors() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let mut call = |program, version, procedure| client.call(program, version, procedure, name("/"));
    for version in [0, 2, 4, u32::MAX] {
        assert_eq!(call(NFS, version, 0), Reply::ProgMismatch(3, 3), "NFS version {version}");
    }
    for version in [1, 2, 9] {
        assert_eq!(call(MOUNT, version, 1), Reply::ProgMismatch(3, 3), "MOUNT version {version}");
    }
    assert_eq!(call(NFSACL, 3, 0), Reply::ProgUnavail, "the kernel asks for it once, and goes on");
    assert_eq!(call(PORTMAP, 2, 3), Reply::ProgUnavail, "the portmapper has a port of its own");
    assert_eq!(call(NFS, 3, 22), Reply::ProcUnavail);
    assert_eq!(call(NFS, 3, 99), Reply::ProcUnavail);
    assert_eq!(call(MOUNT, 3, 99), Reply::ProcUnavail);
    assert_eq!(call(NFS, 3, 0), Reply::Success(Body::new(vec![])));
    let mut other_rpc = common::rpc::call(7, NFS, 3, 0, Xdr::new());
    other_rpc[11] = 3;
    assert_eq!(client.exchange(&other_rpc), Reply::RpcMismatch(2, 2));
}

#[test]
fn credentials_of_every_kind_are_judged() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let mut ping = |flavor, credential: &[u8]| client.exchange(&header(7, NFS, 3, 0, flavor, credential).0);
    let sys = |gids: u32, sent: u32| {
        let start = Xdr::new().u32(1).opaque(b"archiso").u32(0).u32(0).u32(gids);
        (0..sent).fold(start, |sys, gid| sys.u32(gid)).0
    };
    let fine = Reply::Success(Body::new(vec![]));
    assert_eq!(ping(0, b""), fine);
    assert_eq!(ping(1, &sys(16, 16)), fine);
    for flavor in [2, 3, 6, 999] {
        assert_eq!(ping(flavor, b""), Reply::AuthError(5), "AUTH_TOOWEAK for flavor {flavor}");
    }
    assert_eq!(ping(1, &sys(17, 17)), Reply::AuthError(1), "AUTH_BADCRED");
    assert_eq!(ping(1, &[0; 404]), Reply::AuthError(1), "more than 400 bytes");
    assert_eq!(ping(1, &sys(1 << 30, 0)), Reply::GarbageArgs);
    assert_eq!(ping(1, &sys(u32::MAX, 3)), Reply::GarbageArgs);
    let endless = Xdr::new().u32(7).u32(0).u32(2).u32(NFS).u32(3).u32(0).u32(1).u32(u32::MAX).u32(0);
    assert_eq!(client.exchange(&endless.0), Reply::GarbageArgs);
    let lying = Xdr::new().u32(u32::MAX - 15).raw(&[7; 32]);
    for procedure in [GETATTR, LOOKUP, READ, READDIR, READDIRPLUS, WRITE] {
        assert_eq!(client.nfs(procedure, lying.clone()), Reply::GarbageArgs, "procedure {procedure}");
    }
    assert_eq!(client.call(MOUNT, 3, 1, lying), Reply::GarbageArgs);
    server.assert_lives();
}

#[test]
fn malformed_stream_closes_only_itself() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut neighbour = server.connect();
    let root = neighbour.mount(b"/").unwrap();
    let reply = Xdr::new().u32(7).u32(1).u32(0).u32(0).u32(0).u32(0).0;
    for message in [&reply[..], &reply[..20], b"", b"abc", &[0; 8]] {
        let mut client = server.connect();
        client.send(&record(message));
        assert!(client.is_closed(), "{message:?}");
    }
    for stream in [&b"\x7f\xff\xff\xff"[..], b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut client = server.connect();
        client.send(stream);
        assert!(client.is_closed(), "{stream:?}");
    }
    assert!(neighbour.getattr(&root).is_ok());
}

#[test]
fn record_fragments_are_limited() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let ping = call(7, NFS, 3, 0, Xdr::new());
    let fragments = |sizes: &[usize]| {
        let (mut rest, mut out) = (&ping[..], Vec::new());
        for (i, &size) in sizes.iter().enumerate() {
            let (fragment, after) = rest.split_at(size);
            let last = if i + 1 == sizes.len() { 0x8000_0000 } else { 0 };
            out.extend((last | size as u32).to_be_bytes());
            out.extend(fragment);
            rest = after;
        }
        out
    };
    let mut client = server.connect();
    for sizes in [&[40][..], &[1, 39], &[0, 40, 0], &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 25]] {
        client.send(&fragments(sizes));
        assert_eq!(client.receive(), (7, Reply::Success(Body::new(vec![]))), "{sizes:?}");
    }
    for stream in
        [fragments(&[1; 40]), [0; 4000].to_vec(), [&[0, 0, 0x20, 0][..], &[0; 0x2000]].concat().repeat(16)]
    {
        let mut client = server.connect();
        // The server may be gone before all of it is written.
        let _ = client.socket.write_all(&stream);
        assert!(client.is_closed());
    }
    for byte in fragments(&[7, 33]) {
        client.send(&[byte]);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.receive(), (7, Reply::Success(Body::new(vec![]))), "byte by byte");
}

#[test]
fn bad_and_foreign_handles_are_refused() {
    needs!(tree::NEEDS);
    let (server, tree) = start();
    let mut client = server.connect();
    let root = client.mount(b"/").unwrap();
    assert_eq!(client.getattr(b""), Err(BADHANDLE));
    assert_eq!(client.getattr(&[7; 64]), Err(BADHANDLE));
    assert_eq!(client.getattr(&root[1..]), Err(BADHANDLE));
    assert_eq!(
        client.nfs(GETATTR, Xdr::new().opaque(&[7; 68])),
        Reply::GarbageArgs,
        "no handle has 68 bytes"
    );
    for bit in 0..root.len() * 8 {
        let mut flipped = root.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(client.getattr(&flipped), Err(BADHANDLE), "bit {bit}");
    }
    let other = client.mount(b"/another").unwrap();
    assert_ne!(root, other);
    let mut of_this_image_only = Server::start(&[&tree.iso]).connect_and_keep();
    assert_eq!(of_this_image_only.client.getattr(&other), Err(STALE));
    for procedure in [LOOKUP, READLINK, READ, FSINFO, FSSTAT, PATHCONF, READDIR, READDIRPLUS] {
        let reply =
            of_this_image_only.client.nfs(procedure, Xdr::new().opaque(&other).u64(0).u64(0).u32(9).u32(9));
        assert_eq!(reply.status(), STALE, "procedure {procedure}");
    }
    assert!(of_this_image_only.client.getattr(&root).is_ok(), "the same image of another server");
}

#[test]
fn lookup_compares_names_exactly() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let (root, sub, deep) = (client.walk("/"), client.walk("sub"), client.walk("sub/deep"));
    let file = client.walk("sub/h1");
    assert_eq!(client.lookup(&root, b".."), Ok(root.clone()), "the root is its own parent");
    assert_eq!(client.lookup(&sub, b".."), Ok(root.clone()));
    assert_eq!(client.lookup(&deep, b".."), Ok(sub.clone()));
    assert_eq!(client.lookup(&sub, b"."), Ok(sub.clone()));
    assert_eq!(client.lookup(&root, b"sub/h1"), Err(NOENT));
    assert_eq!(client.lookup(&root, b"/sub"), Err(NOENT));
    assert_eq!(client.lookup(&root, b"sub\0"), Err(NOENT));
    assert_eq!(client.lookup(&root, b"SUB"), Err(NOENT));
    assert_eq!(client.lookup(&root, b""), Err(NOENT));
    assert_eq!(client.lookup(&sub, "n".repeat(256).as_bytes()), Err(NAMETOOLONG));
    assert!(client.lookup(&sub, "n".repeat(255).as_bytes()).is_ok());
    assert!(client.lookup(&sub, b"caf\xe9.latin1").is_ok(), "a name that is not UTF-8");
    assert_eq!(client.lookup(&file, b"name"), Err(NOTDIR));
    assert_eq!(client.lookup(&file, b".."), Err(NOTDIR));
}

#[test]
fn mount_paths_are_resolved() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let root = client.mount(b"/").unwrap();
    for path in ["/run/archiso/bootmnt", "/mnt/archiso", "/tree", "/tree/", "/mnt/archiso/"] {
        assert_eq!(client.mount(path.as_bytes()), Ok(root.clone()), "{path}");
    }
    assert_ne!(client.mount(b"/another"), Ok(root));
    for path in ["/../../etc", "/nonesuch", "/etc/passwd", "/tree/nonesuch"] {
        assert_eq!(client.mount(path.as_bytes()), Err(NOENT), "{path}");
    }
    assert_eq!(client.mount("/x".repeat(513).as_bytes()), Err(NAMETOOLONG));
    let mut list = client.call(MOUNT, 3, 5, Xdr::new()).body();
    let mut exports = BTreeSet::new();
    while list.flag() {
        exports.insert(String::from_utf8(list.opaque()).unwrap());
        assert!(!list.flag(), "open to every client");
    }
    list.end();
    assert_eq!(Vec::from_iter(exports), ["/", "/another", "/mnt/archiso", "/run/archiso/bootmnt", "/tree"]);
    let nothing = Reply::Success(Body::new(vec![]));
    assert_eq!(client.call(MOUNT, 3, 0, Xdr::new()), nothing);
    assert_eq!(client.call(MOUNT, 3, 3, name("/")), nothing, "UMNT");
    assert_eq!(client.call(MOUNT, 3, 4, Xdr::new()), nothing, "UMNTALL");
    assert_eq!(client.call(MOUNT, 3, 2, Xdr::new()).body().u32(), 0, "DUMP: no mount is recorded");
}

#[test]
fn read_ends_where_the_file_ends() {
    needs!(tree::NEEDS);
    let (server, tree) = start();
    let mut client = server.connect();
    let big = client.walk(BIG.0);
    let content = tree.read(BIG.0);
    let part = |from: u64, to: u64| content[from as usize..to as usize].to_vec();
    let mib = 1 << 20;
    assert_eq!(client.read(&big, 0, u32::MAX), Ok((part(0, mib), false)), "clamped to a megabyte");
    assert_eq!(client.read(&big, 7, 3), Ok((part(7, 10), false)), "padded to a multiple of four");
    assert_eq!(client.read(&big, 0, 0), Ok((vec![], false)));
    assert_eq!(client.read(&big, BIG.1 - 10, 10), Ok((part(BIG.1 - 10, BIG.1), true)));
    assert_eq!(client.read(&big, BIG.1 - 10, 9), Ok((part(BIG.1 - 10, BIG.1 - 1), false)));
    assert_eq!(client.read(&big, BIG.1 - 10, 4096), Ok((part(BIG.1 - 10, BIG.1), true)));
    for offset in [BIG.1, BIG.1 + 1, u64::MAX - 1, u64::MAX] {
        assert_eq!(client.read(&big, offset, u32::MAX), Ok((vec![], true)), "at {offset}");
    }
    let (empty, sub, link) = (client.walk("sizes/0"), client.walk("sub"), client.walk("sub/to-dir"));
    assert_eq!(client.read(&empty, 0, 100), Ok((vec![], true)));
    assert_eq!(client.read(&sub, 0, 100), Err(ISDIR));
    assert_eq!(client.read(&link, 0, 100), Err(INVAL));
    assert_eq!(client.readlink(&link), Ok(b"../dir10k".to_vec()));
    assert_eq!(client.readlink(&sub), Err(INVAL));
    let mut limits = client.nfs(FSINFO, Xdr::new().opaque(&sub)).body();
    assert_eq!(limits.u32(), OK);
    limits.maybe_attributes();
    assert_eq!((limits.u32(), limits.u32()), (1 << 20, 1 << 20), "rtmax and rtpref");
}

#[test]
fn modifying_calls_get_rofs() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let (dir, file) = (client.walk("sub"), client.walk("sub/h1"));
    let (there, here) = (Xdr::new().opaque(&dir).opaque(b"new"), Xdr::new().opaque(&file));
    let no_attributes = [0; 24];
    for (procedure, arguments, wccs) in [
        (SETATTR, here.clone().raw(&no_attributes).u32(0), 1),
        (WRITE, here.clone().u64(0).u32(3).u32(2).opaque(b"new"), 1),
        (8, there.clone().u32(0).raw(&no_attributes), 1),
        (8, there.clone().u32(2).u64(7), 1),
        (9, there.clone().raw(&no_attributes), 1),
        (10, there.clone().raw(&no_attributes).opaque(b"target"), 1),
        (11, there.clone().u32(7).raw(&no_attributes), 1),
        (12, there.clone(), 1),
        (13, there.clone(), 1),
        (14, there.clone().raw(&there.0), 2),
        (21, here.clone().u64(0).u32(0), 1),
    ] {
        let mut body = client.nfs(procedure, arguments).body();
        assert_eq!(body.u32(), ROFS, "procedure {procedure}");
        for _ in 0..wccs {
            if body.flag() {
                body.bytes(24);
            }
            body.maybe_attributes();
        }
        body.end();
    }
    let mut body = client.nfs(15, here.raw(&there.0)).body();
    assert_eq!(body.u32(), ROFS, "LINK");
    body.maybe_attributes();
    assert!(!body.flag());
    body.maybe_attributes();
    body.end();
    // The longest WRITE that FSINFO allows arrives, and is refused as well.
    let mut info = client.nfs(FSINFO, Xdr::new().opaque(&dir)).body();
    info.u32();
    info.maybe_attributes();
    let [.., wtmax] = [(); 4].map(|()| info.u32());
    let write = Xdr::new().opaque(&file).u64(0).u32(wtmax).u32(2).opaque(&vec![7; wtmax as usize]);
    assert_eq!(client.nfs(WRITE, write).status(), ROFS);
}

#[test]
fn access_follows_the_modes() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let mut granted = |path: &str| {
        let handle = client.walk(path);
        let credentials = Xdr::new().u32(0).opaque(b"archiso").u32(0).u32(0).u32(0).0;
        let arguments = Xdr::new().opaque(&handle).u32(0x3f);
        let mut body =
            client.exchange(&header(9, NFS, 3, ACCESS, 1, &credentials).raw(&arguments.0).0).body();
        assert_eq!(body.u32(), OK);
        body.maybe_attributes();
        let granted = body.u32();
        body.end();
        granted
    };
    let (read, lookup, execute) = (0x01, 0x02, 0x20);
    assert_eq!(granted("sub"), read | lookup);
    assert_eq!(granted(SCRIPT.0), read | execute);
    assert_eq!(granted("sub/h1"), read);
    assert_eq!(granted("sub/private"), read, "root reads everything");
}

/// An xid that comes again on a connection is a duplicate until the first reply has left, and a new
/// call after that.
#[test]
fn duplicate_call_gets_one_reply() {
    needs!(tree::NEEDS);
    let (server, tree) = start();
    let mut client = server.connect();
    let (big, content) = (client.walk(BIG.0), tree.read(BIG.0));
    let mib = 1 << 20;
    let reads = |xids: std::ops::Range<u32>| -> Vec<u8> {
        xids.flat_map(|xid| nfs(xid, READ, read_arguments(&big, u64::from(xid) * 4096, mib))).collect()
    };
    let expect_one_of = |client: &mut Client, xids: &mut BTreeSet<u32>| {
        let (xid, reply) = client.receive();
        assert!(xids.remove(&xid), "{xid} was sent twice");
        if xid < 99 {
            let start = xid as usize * 4096;
            assert!(data_of(reply).unwrap().0 == content[start..start + mib as usize]);
        }
    };
    // In one segment, so that the repetition is there before the first answer leaves.
    client.send(&[reads(0..8), reads(0..8), nfs(99, 0, Xdr::new())].concat());
    // In any order, since some of the file may have to be read from the disk.
    let mut xids: BTreeSet<u32> = (0..8).chain([99]).collect();
    (0..9).for_each(|_| expect_one_of(&mut client, &mut xids));
    client.send(&reads(3..4));
    expect_one_of(&mut client, &mut BTreeSet::from([3]));
}

/// The Linux kernel connects again from the same port, and repeats the calls without a reply.
#[test]
fn repeated_call_on_new_connection_is_answered() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let server_address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
    let mut from = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for _ in 0..3 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&server_address.into()).unwrap();
        // Closed with a reset, as when a machine is switched off.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        let mut client = Client::over(TcpStream::from(socket));
        from = client.socket.local_addr().unwrap();
        client.send(&nfs(7, 0, Xdr::new()));
        assert_eq!(client.receive().0, 7);
        client.send(&nfs(7, 0, Xdr::new()));
    }
}

/// klibc's nfsmount takes the bytes of its first read() for the whole reply.
#[test]
fn small_reply_comes_in_one_segment() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    for xid in 0..300 {
        let mut client = server.connect();
        client.send(&record(&call(xid, MOUNT, 3, 1, name("/run/archiso/bootmnt"))));
        let mut reply = [0; 1000];
        let len = client.socket.read(&mut reply).unwrap();
        assert_eq!(u32::from_be_bytes(reply[..4].try_into().unwrap()), 0x8000_0000 | (len as u32 - 4));
        let mut body = Reply::parse(reply[4..len].to_vec()).1.body();
        assert_eq!(body.u32(), OK);
        let root = body.opaque();
        client.send(&nfs(xid, GETATTR, Xdr::new().opaque(&root)));
        assert_eq!(client.socket.read(&mut reply).unwrap(), 4 + 24 + 4 + 84);
    }
}

// ---- the tree

#[test]
fn entries_have_the_source_attributes() {
    needs!(tree::NEEDS);
    let (server, tree) = start();
    let mut client = server.connect();
    let root = client.mount(b"/").unwrap();
    let (mut seen, mut fileids) = (BTreeMap::new(), BTreeSet::new());
    let mut ahead = vec![(PathBuf::new(), root)];
    while let Some((dir, handle)) = ahead.pop() {
        for entry in client.list(READDIRPLUS, &handle, 32 << 10) {
            let (attributes, handle) = (entry.attributes.unwrap(), entry.handle.unwrap());
            assert_eq!(entry.fileid, attributes.fileid);
            if entry.name == b"." || entry.name == b".." {
                assert_eq!(attributes.kind, 2);
                continue;
            }
            fileids.insert(attributes.fileid);
            let path = dir.join(std::ffi::OsStr::from_bytes(&entry.name));
            if attributes.kind == 2 {
                ahead.push((path.clone(), handle));
            }
            seen.insert(path, attributes);
        }
    }
    let entries = tree.entries();
    assert_eq!(seen.keys().collect::<BTreeSet<_>>(), entries.iter().collect::<BTreeSet<_>>());
    assert!(fileids.len() >= entries.len() - 2, "only hard links share a number");
    let fsid = seen.values().next().unwrap().fsid;
    for (path, attributes) in &seen {
        let source = tree.metadata(path);
        let kind = match source.file_type() {
            kind if kind.is_dir() => 2,
            kind if kind.is_symlink() => 5,
            _ => 1,
        };
        let (mode, links) = (source.mode() & 0o7777, source.nlink() as u32);
        assert_eq!((attributes.kind, attributes.mode), (kind, mode), "{path:?}");
        // Of a directory Rock Ridge may say 1, which says nothing.
        assert!(attributes.nlink == links || kind == 2 && attributes.nlink == 1, "{path:?}");
        assert_eq!((attributes.uid, attributes.gid), (source.uid(), source.gid()), "{path:?}");
        assert_eq!(i64::from(attributes.mtime), source.mtime(), "{path:?}");
        assert_eq!(attributes.fsid, fsid);
        if kind != 2 {
            assert_eq!(attributes.size, source.len(), "{path:?}");
        }
    }
}

#[test]
fn listing_of_ten_thousand_is_complete() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let dir = client.walk(MANY.0);
    let expected: BTreeSet<_> = (0..MANY.1).map(|i| format!("entry-{i:05}").into_bytes()).collect();
    for (procedure, count) in
        [(READDIR, 512), (READDIR, 8192), (READDIR, 1 << 20), (READDIRPLUS, 4096), (READDIRPLUS, 1 << 20)]
    {
        let entries = client.list(procedure, &dir, count);
        assert_eq!((&entries[0].name[..], &entries[1].name[..]), (&b"."[..], &b".."[..]));
        assert_eq!(entries.len(), MANY.1 + 2);
        assert_eq!(entries.iter().skip(2).map(|entry| entry.name.clone()).collect::<BTreeSet<_>>(), expected);
        let cookies: BTreeSet<_> = entries.iter().map(|entry| entry.cookie).collect();
        assert!(
            cookies.len() == entries.len() && !cookies.contains(&0),
            "each entry has a cookie of its own"
        );
    }
}

#[test]
fn listing_continues_on_any_server() {
    needs!(tree::NEEDS);
    let (server, tree) = start();
    let mut client = server.connect();
    let dir = client.walk(MANY.0);
    let entries = client.list(READDIR, &dir, 1 << 20);
    let verifier = client.readdir(READDIR, &dir, Position::default(), 512).unwrap().verifier;
    // As after a restart.
    let mut other = Server::start(&[&tree.iso]).connect_and_keep();
    for (i, entry) in entries.iter().enumerate().step_by(37) {
        let from = Position { cookie: entry.cookie, verifier };
        for client in [&mut client, &mut other.client] {
            let page = client.readdir(READDIR, &dir, from, 256).unwrap();
            let len = page.entries.len();
            assert_eq!(page.entries, entries[i + 1..(i + 1 + len)], "after entry {i}");
            assert!(len > 0 || page.is_last);
        }
    }
    let last = Position { cookie: entries.last().unwrap().cookie, verifier };
    let page = client.readdir(READDIR, &dir, last, 4096).unwrap();
    assert!(page.is_last && page.entries.is_empty());
    let of_another = Position { cookie: entries[5].cookie, verifier: verifier ^ 1 };
    assert_eq!(client.readdir(READDIR, &dir, of_another, 4096).err(), Some(BAD_COOKIE));
    let beyond = Position { cookie: u64::MAX, verifier };
    assert_eq!(client.readdir(READDIR, &dir, beyond, 4096).err(), Some(BAD_COOKIE));
}

#[test]
fn listing_without_room_is_refused() {
    needs!(tree::NEEDS);
    let (server, _) = start();
    let mut client = server.connect();
    let (dir, file) = (client.walk("sub"), client.walk("sub/h1"));
    let start = Position::default();
    for procedure in [READDIR, READDIRPLUS] {
        for count in [0, 1, 16, 100] {
            assert_eq!(client.readdir(procedure, &dir, start, count).err(), Some(TOOSMALL), "{count} bytes");
        }
        assert_eq!(client.readdir(procedure, &file, start, 4096).err(), Some(NOTDIR));
        let whole = client.list(procedure, &dir, u32::MAX).len();
        // The longest name has 255 bytes.
        assert_eq!(client.list(procedure, &dir, 600).len(), whole);
    }
}

// ---- an independent client

/// The client shares no code with the server, and finds the ports through the portmapper.
#[test]
fn nfs3_client_reads_every_file() {
    needs!(tree::NEEDS);
    let (server, tree) = start();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let portmap = tcp.local_addr().unwrap().port();
    server.start_portmapper(tcp, UdpSocket::bind("127.0.0.1:0").unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let files = runtime.block_on(async {
        let builder = Nfs3ConnectionBuilder::new(TokioConnector, "127.0.0.1", "/run/archiso/bootmnt");
        let builder = builder.portmapper_port(portmap).connect_from_privileged_port(false);
        let mut client = builder.mount().await.unwrap();
        let mut files = 0;
        let mut ahead = vec![(PathBuf::new(), client.root_nfs_fh3())];
        while let Some((dir, handle)) = ahead.pop() {
            for (name, handle) in children(&mut client, &handle).await {
                let path = dir.join(std::ffi::OsStr::from_bytes(&name));
                let metadata = tree.metadata(&path);
                if metadata.is_dir() {
                    ahead.push((path, handle));
                } else if metadata.is_file() {
                    assert!(content(&mut client, &handle).await == tree.read(&path), "{path:?} differs");
                    files += 1;
                }
            }
        }
        client.unmount().await.unwrap();
        files
    });
    assert_eq!(files, tree.entries().iter().filter(|path| tree.metadata(path).is_file()).count());
}

type Independent = nfs3_client::Nfs3Connection<nfs3_client::tokio::TokioIo<tokio::net::TcpStream>>;

/// Returns names and handles by READDIRPLUS; READDIR has the same names, LOOKUP the same handles.
async fn children(client: &mut Independent, dir: &nfs_fh3) -> Vec<(Vec<u8>, nfs_fh3)> {
    let (mut cookie, mut cookieverf, mut children) = (0, cookieverf3::default(), Vec::new());
    loop {
        let arguments =
            READDIRPLUS3args { dir: dir.clone(), cookie, cookieverf, dircount: 8192, maxcount: 32 << 10 };
        let page = client.readdirplus(&arguments).await.unwrap().unwrap();
        cookieverf = page.cookieverf;
        for entry in page.reply.entries.0 {
            cookie = entry.cookie;
            let Nfs3Option::Some(handle) = entry.name_handle else { panic!("no handle") };
            children.push((entry.name.as_ref().to_vec(), handle));
        }
        if page.reply.eof {
            break;
        }
    }
    let names: Vec<_> = children.iter().map(|(name, _)| name.clone()).collect();
    assert!(names == by_readdir(client, dir).await);
    for (name, handle) in children.iter().step_by(101) {
        let what = diropargs3 { dir: dir.clone(), name: filename3::from(&name[..]) };
        assert_eq!(&client.lookup(&LOOKUP3args { what }).await.unwrap().unwrap().object, handle);
    }
    children.retain(|(name, _)| name != b"." && name != b"..");
    children
}

async fn by_readdir(client: &mut Independent, dir: &nfs_fh3) -> Vec<Vec<u8>> {
    let (mut cookie, mut cookieverf, mut names) = (0, cookieverf3::default(), Vec::new());
    loop {
        let arguments = READDIR3args { dir: dir.clone(), cookie, cookieverf, count: 4096 };
        let page = client.readdir(&arguments).await.unwrap().unwrap();
        cookieverf = page.cookieverf;
        for entry in page.reply.entries.0 {
            cookie = entry.cookie;
            names.push(entry.name.as_ref().to_vec());
        }
        if page.reply.eof {
            return names;
        }
    }
}

async fn content(client: &mut Independent, file: &nfs_fh3) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let arguments = READ3args { file: file.clone(), offset: content.len() as u64, count: 128 << 10 };
        let Nfs3Result::Ok(part) = client.read(&arguments).await.unwrap() else { panic!("a read failed") };
        content.extend_from_slice(&part.data);
        if part.eof {
            return content;
        }
    }
}

// ---- real clients

#[test]
fn libnfs_lists_reads_and_copies() {
    needs!(tree::NEEDS, ["nfs-ls", "nfs-cat", "nfs-cp"]);
    let (server, tree) = start();
    // libnfs mounts the directory of a file, and cannot mount one whose path is empty.
    let url =
        |path: &str| format!("nfs://127.0.0.1/mnt/archiso/{path}?nfsport={0}&mountport={0}", server.port);
    let list = output_of(tool("nfs-ls").arg(url("")));
    assert!(list.contains(MANY.0) && list.contains(BIG.0), "{list}");
    let list = output_of(tool("nfs-ls").arg(url(MANY.0)));
    assert_eq!(list.lines().filter(|line| line.contains("entry-")).count(), MANY.1);
    assert_eq!(output_of(tool("nfs-cat").arg(url(SCRIPT.0))), SCRIPT.1);
    assert_eq!(output_of(tool("nfs-cat").arg(url("sub/h2"))).into_bytes(), tree.read("sub/h1"));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let copy = dir.path().join("copy");
    output_of(tool("nfs-cp").arg(url(BIG.0)).arg(&copy));
    assert!(fs::read(copy).unwrap() == tree.read(BIG.0));
}

/// Runs the program of archiso's hook against port 111 and a high port. This kernel may lack NFS;
/// up to mount(2) the program does everything itself, and reads each reply by one read().
#[test]
fn nfsmount_never_sees_half_a_reply() {
    needs!(tree::NEEDS, lan::NEEDS, ["/usr/lib/klibc/bin/nfsmount"]);
    let tree = tree();
    let host = Namespace::new();
    let (nfs, tcp, udp) = host.inside(|| {
        let tcp = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        (tcp(0), tcp(111), UdpSocket::bind("0.0.0.0:111").unwrap())
    });
    let server = Server::start_at(nfs, &[&tree.iso]);
    server.start_portmapper(tcp, udp);
    // Or connections in TIME_WAIT would soon have all the reserved ports.
    output_of(host.command("sysctl").args(["-qw", "net.ipv4.tcp_max_tw_buckets=0"]));
    let dir = tempfile::tempdir().unwrap();
    let mount =
        "/usr/lib/klibc/bin/nfsmount 127.0.0.1:/run/archiso/bootmnt . 2>&1 && umount . && echo mounted";
    let script = format!("for i in $(seq 300); do {mount}; done | sort | uniq -c");
    let said = output_of(host.command("sh").args(["-c", &script]).current_dir(dir.path()));
    let lines: Vec<_> = said.lines().filter_map(|line| line.trim().split_once(' ')).collect();
    assert!(
        matches!(lines[..], [("300", end)] if end == "mounted" || end.contains("kernel lacks NFS")),
        "{said}"
    );
}
