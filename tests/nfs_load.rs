//! NFS under load, short of resources, killed and started again.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use socket2::SockRef;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use common::needs::{asked_for_all, needs};
use common::nfs::{Server, anonymous_memory, is_stopped, processor_ticks, serve, started};
use common::ports::free_port;
use common::rpc::*;
use common::running::Running;
use common::tree::{self, BIG, MANY, Tree, tree};

const MIB: u32 = 1 << 20;

/// `isowire serve` as a process on a port of its own.
struct Process {
    dir: TempDir,
    port: u16,
    running: Running,
}

impl Process {
    fn start(tree: &Tree) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let port = free_port();
        let running = started(&mut serve(&tree.iso, port), &dir.path().join("log"));
        Self { dir, port, running }
    }

    /// Kills the server and starts another one in its place.
    fn replace(self, iso: &Path) -> Self {
        let Self { dir, port, running } = self;
        running.kill();
        let running = started(&mut serve(iso, port), &dir.path().join("log"));
        Self { dir, port, running }
    }
}

// ---- many

/// Each connection reads at scattered offsets, four calls at a time, and compares.
#[test]
fn thousand_machines_read_correct_bytes() {
    needs!(tree::NEEDS);
    let connections = if asked_for_all() { 5000 } else { 1000 };
    allow_files(2 * connections + 200);
    let tree = tree();
    let server = Server::start(&[&tree.iso]);
    let big = server.connect().walk(BIG.0);
    let content = Arc::new(tree.read(BIG.0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let gate = Arc::new(tokio::sync::Barrier::new(connections as usize));
        let mut machines = tokio::task::JoinSet::new();
        for machine in 0..connections {
            let (gate, big, content, port) =
                (Arc::clone(&gate), big.clone(), Arc::clone(&content), server.port);
            machines.spawn(async move {
                let mut socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
                // All are there before the first of them reads.
                gate.wait().await;
                for flight in 0..3 {
                    read_four(&mut socket, &big, &content, machine * 3 + flight).await;
                }
            });
        }
        while let Some(ended) = machines.join_next().await {
            ended.unwrap();
        }
    });
}

async fn read_four(socket: &mut tokio::net::TcpStream, file: &[u8], content: &[u8], seed: u64) {
    let len = 16 << 10;
    let offset = |i: u64| (seed * 4 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (BIG.1 - len);
    let calls: Vec<u8> =
        (0..4).flat_map(|i| nfs(i as u32, READ, read_arguments(file, offset(i), len as u32))).collect();
    socket.write_all(&calls).await.unwrap();
    let mut left: BTreeSet<u32> = (0..4).collect();
    while !left.is_empty() {
        let mark = socket.read_u32().await.unwrap();
        let mut message = vec![0; (mark & 0x7fff_ffff) as usize];
        socket.read_exact(&mut message).await.unwrap();
        let (xid, reply) = Reply::parse(message);
        // In any order, since some of the file may have to be read from the disk.
        assert!(left.remove(&xid), "{xid} was sent twice");
        let start = offset(xid.into()) as usize;
        assert!(data_of(reply).unwrap() == (content[start..start + len as usize].to_vec(), false));
    }
}

/// A server that stops reading while much is queued must resume when it has been sent.
#[test]
fn deep_queues_are_answered_completely() {
    needs!(tree::NEEDS);
    let tree = tree();
    let server = Server::start(&[&tree.iso]);
    let content = tree.read(BIG.0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.connect();
                let big = client.walk(BIG.0);
                for round in 0..4 {
                    let offset = |xid: u32| u64::from(xid * 2 + round) * 1_000_003 % (BIG.1 - u64::from(MIB));
                    for xid in 0..16 {
                        client.send(&nfs(xid, READ, read_arguments(&big, offset(xid), MIB)));
                    }
                    let mut left: BTreeSet<u32> = (0..16).collect();
                    while !left.is_empty() {
                        let (xid, reply) = client.receive();
                        assert!(left.remove(&xid), "{xid} was sent twice");
                        let start = offset(xid) as usize;
                        assert!(data_of(reply).unwrap().0 == content[start..start + MIB as usize]);
                    }
                }
            });
        }
    });
}

#[test]
fn resets_hurt_no_other_client() {
    needs!(tree::NEEDS);
    let server = Server::start(&[&tree().iso]);
    let mut neighbour = server.connect();
    let big = neighbour.walk(BIG.0);
    for i in 0..2000 {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
        if i % 2 == 0 {
            (&socket).write_all(&nfs(7, READ, read_arguments(&big, 0, MIB))).unwrap();
        }
    }
    assert!(neighbour.read(&big, 0, MIB).is_ok());
    server.assert_lives();
}

// ---- short of resources

#[test]
fn descriptor_shortage_spares_connected_clients() {
    needs!(tree::NEEDS, ["sh"]);
    let tree = tree();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let port = free_port();
    let plain = serve(&tree.iso, port);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 60; exec \"$0\" \"$@\""]).arg(plain.get_program()).args(plain.get_args());
    let mut server = started(&mut limited, &dir.path().join("log"));
    let mut established = Client::connect(port);
    let big = established.walk(BIG.0);
    let crowd: Vec<_> = (0..80).map(|_| Client::connect(port)).collect();
    let before = processor_ticks(server.pid());
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(2) {
        established.read(&big, 0, 4096).expect("a connected client is served");
        thread::sleep(Duration::from_millis(50));
    }
    let used = Duration::from_millis(10) * (processor_ticks(server.pid()) - before) as u32;
    assert!(used < since.elapsed() / 2, "{used:?} of {:?} were spent on nothing", since.elapsed());
    assert!(server.log().contains("connections at their limit"), "{}", server.log());
    drop(crowd);
    assert!(Client::connect(port).mount(b"/").is_ok(), "and then new ones are taken again");
    assert!(server.wait(Duration::ZERO).is_none());
}

#[test]
fn unread_replies_cost_one_socket_buffer() {
    needs!(tree::NEEDS);
    let server = Process::start(&tree());
    let mut neighbour = Client::connect(server.port);
    let big = neighbour.walk(BIG.0);
    neighbour.read(&big, 0, MIB).unwrap();
    let before = anonymous_memory(server.running.pid());
    let mut glutton = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).unwrap();
    glutton.set_nonblocking(true).unwrap();
    let calls: Vec<u8> = (0..2500).flat_map(|xid| nfs(xid, READ, read_arguments(&big, 0, MIB))).collect();
    let mut sent = 0;
    let since = Instant::now();
    // It sends for as long as the server receives.
    while since.elapsed() < Duration::from_secs(2) && sent < calls.len() {
        match glutton.write(&calls[sent..]) {
            Ok(more) => sent += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10))
            }
            Err(error) => panic!("{error}"),
        }
    }
    for _ in 0..20 {
        neighbour.read(&big, 0, MIB).unwrap();
    }
    let growth = anonymous_memory(server.running.pid()).saturating_sub(before);
    assert!(growth < 8 << 20, "{growth} bytes for a client that does not read");
}

/// archiso's mount repeats a call after 0.7 seconds: a stopped server must not send everything
/// twice.
#[test]
fn stalled_server_sends_nothing_twice() {
    needs!(tree::NEEDS);
    let tree = tree();
    let server = Process::start(&tree);
    let mut client = Client::connect(server.port);
    let big = client.walk(BIG.0);
    let content = tree.read(BIG.0);
    let offset = |xid: u32| u64::from(xid) * 1_000_000;
    let calls: Vec<u8> =
        (0..8).flat_map(|xid| nfs(xid, READ, read_arguments(&big, offset(xid), MIB))).collect();
    kill_process(server.running.pid(), Signal::STOP).unwrap();
    while !is_stopped(server.running.pid()) {
        thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..4 {
        client.send(&calls);
        thread::sleep(Duration::from_millis(700));
    }
    kill_process(server.running.pid(), Signal::CONT).unwrap();
    let mut left: BTreeSet<u32> = (0..8).collect();
    while !left.is_empty() {
        let (xid, reply) = client.receive();
        assert!(left.remove(&xid), "{xid} was sent twice");
        let start = offset(xid) as usize;
        assert!(data_of(reply).unwrap().0 == content[start..start + MIB as usize]);
    }
    client.send(&nfs(99, 0, Xdr::new()));
    assert_eq!(client.receive().0, 99, "nothing comes twice");
}

// ---- killed and started again

/// The machines read all the time, connect again when they lose the server, and compare everything.
#[test]
fn restart_is_invisible_to_machines() {
    needs!(tree::NEEDS);
    let tree = tree();
    let server = Process::start(&tree);
    let port = server.port;
    let mut client = Client::connect(port);
    let handles = [client.walk(BIG.0), client.walk("sizes/1048577"), client.walk("arch/x86_64/airootfs.sfs")];
    let contents = [BIG.0, "sizes/1048577", "arch/x86_64/airootfs.sfs"].map(|path| tree.read(path));
    let dir = client.walk(MANY.0);
    let page = client.readdir(READDIR, &dir, Position::default(), 8192).unwrap();
    let (over, reads, barrier) = (AtomicBool::new(false), AtomicU64::new(0), Barrier::new(21));
    let server = thread::scope(|scope| {
        for machine in 0..20_u64 {
            let (handles, contents, over, reads, barrier) = (&handles, &contents, &over, &reads, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let mut client = None;
                for i in 0_u64.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let which = (i % 3) as usize;
                    let content = &contents[which];
                    let offset =
                        (machine << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15) % content.len() as u64;
                    if let Some(data) = persistently(&mut client, port, over, &handles[which], offset) {
                        let start = offset as usize;
                        let end = (start + 40_000).min(content.len());
                        assert!(data == content[start..end], "wrong bytes");
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        barrier.wait();
        let progress = |machines: u64| {
            let end = reads.load(Ordering::Relaxed) + machines;
            let deadline = Instant::now() + Duration::from_secs(60);
            while reads.load(Ordering::Relaxed) < end {
                assert!(Instant::now() < deadline, "the machines do not get on");
                thread::sleep(Duration::from_millis(10));
            }
        };
        progress(200);
        let server = server.replace(&tree.iso);
        progress(200);
        let moved = server.dir.path().join("moved elsewhere.iso");
        fs::copy(&tree.iso, &moved).unwrap();
        let server = server.replace(&moved);
        progress(200);
        over.store(true, Ordering::Relaxed);
        server
    });
    // Handles and cookies from before the restart are valid after it.
    let mut client = Client::connect(port);
    assert_eq!(client.walk(BIG.0), handles[0]);
    let last = page.entries.last().unwrap();
    let next = client
        .readdir(READDIR, &dir, Position { cookie: last.cookie, verifier: page.verifier }, 8192)
        .unwrap();
    let all = client.list(READDIR, &dir, 8192);
    let (before, after) = (page.entries.len(), next.entries.len());
    assert!(all[..before] == page.entries && all[before..before + after] == next.entries);
    let another = server.replace(&tree.another);
    assert_eq!(
        Client::connect(another.port).getattr(&handles[0]),
        Err(STALE),
        "never bytes of another image"
    );
}

/// One read, over as many connections as it takes; `None` when the test is over.
fn persistently(
    client: &mut Option<Client>,
    port: u16,
    over: &AtomicBool,
    file: &[u8],
    offset: u64,
) -> Option<Vec<u8>> {
    while !over.load(Ordering::Relaxed) {
        let Some(connected) = client else {
            *client =
                TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok().map(Client::over);
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        let call = nfs(7, READ, read_arguments(file, offset, 40_000));
        let reply = connected.socket.write_all(&call).and_then(|()| connected.try_receive());
        match reply {
            // Any error status, STALE above all, ends the test.
            Ok(message) => return Some(data_of(Reply::parse(message).1).unwrap().0),
            Err(_) => *client = None,
        }
    }
    None
}

#[test]
fn servers_of_one_image_agree() {
    needs!(tree::NEEDS);
    let tree = tree();
    let (first, second) = (Process::start(&tree), Process::start(&tree));
    let (mut here, mut there) = (Client::connect(first.port), Client::connect(second.port));
    for path in ["/", "sub/h1", MANY.0, BIG.0] {
        let handle = here.walk(path);
        assert_eq!(there.walk(path), handle);
        assert_eq!(there.getattr(&handle), here.getattr(&handle));
    }
}

/// Raises the limit of open files, up to the hard limit.
fn allow_files(wanted: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = current.unwrap_or(u64::MAX).max(wanted.min(maximum.unwrap_or(u64::MAX)));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("below the hard limit");
}
