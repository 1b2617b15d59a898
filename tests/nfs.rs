//! NFS: the tree as real clients and an independent one see it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nfs3_client::Nfs3ConnectionBuilder;
use nfs3_client::tokio::TokioConnector;
use nfs3_types::nfs3::{
    LOOKUP3args, Nfs3Option, Nfs3Result, READ3args, READDIR3args, READDIRPLUS3args, cookieverf3, diropargs3,
    filename3, nfs_fh3,
};

use common::lan::{self, Namespace};
use common::needs::{needs, tool};
use common::nfs::Server;
use common::rpc::*;
use common::running::output_of;
use common::tree::{self, BIG, MANY, SCRIPT, tree};

// ---- the tree

#[test]
fn entries_have_the_source_attributes() {
    needs!(tree::NEEDS);
    let (server, tree) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, tree) = Server::of_tree();
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
    let (server, _) = Server::of_tree();
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
    let (server, tree) = Server::of_tree();
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
    let (server, tree) = Server::of_tree();
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
