//! NFS: calls of every kind, and the replies of the standard.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use common::needs::needs;
use common::nfs::Server;
use common::rpc::*;
use common::tree::{self, BIG, SCRIPT};

fn name(name: &str) -> Xdr {
    Xdr::new().opaque(name.as_bytes())
}

#[test]
fn unknown_calls_get_standard_errors() {
    needs!(tree::NEEDS);
    let (server, _) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, tree) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, tree) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, tree) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
