//! Images on a disk that is slow, fails or hangs: what is read is right, many ranges are read at
//! once, no client, image or protocol waits for another's disk, and clients outlive a fault.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::nbd::{self, read_request, reply, request};
use common::needs::{needs, tool};
use common::nfs::started;
use common::ports::free_port;
use common::rpc::{Client, READ, nfs, read_arguments};
use common::running::{Running, output_of};
use common::slow_disk::SlowDisk;
use common::tree::{self, BIG, tree};

/// Time of one read.
const DELAY: Duration = Duration::from_millis(10);

const NEEDS: [&str; 2] = ["root", "/dev/fuse"];

/// A server of an image on a slow disk, and of another one that is not slow.
struct Server {
    // Dropped first: a server with reads that hang does not end.
    disk: SlowDisk,
    server: Running,
    iso: PathBuf,
    tree: PathBuf,
    nbd: u16,
    nfs: u16,
    http: u16,
    status: u16,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Self {
        let tree = tree();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Without a delay while the image is indexed.
        let mount_point = dir.path().join("disk");
        std::fs::create_dir(&mount_point).unwrap();
        let disk = SlowDisk::mount(&tree.iso, &mount_point, Duration::ZERO).unwrap();
        let [nbd, nfs, http, status] = [(); 4].map(|()| free_port());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(disk.path()).arg(&tree.another).args(["--bind", "127.0.0.1"]);
        for (door, port) in [("--nbd", nbd), ("--nfs", nfs), ("--http", http)] {
            command.args([door, &port.to_string()]);
        }
        command.args(["--portmap", "off", "--tftp", "off", "--dhcp", "off"]).args(options);
        command.args(["--status", &format!("127.0.0.1:{status}")]).env("RUNTIME_DIRECTORY", dir.path());
        let server = started(&mut command, &dir.path().join("log"));
        disk.set_delay(DELAY);
        disk.chill();
        Self { disk, server, iso: tree.iso, tree: tree.source, nbd, nfs, http, status, dir }
    }

    fn attach(&self, export: &str) -> TcpStream {
        nbd::attach(self.nbd, export)
    }

    /// Output of `isowire status`.
    fn status(&self, options: &[&str]) -> String {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_isowire"));
        output_of(command.arg("status").arg(format!("http://127.0.0.1:{}/", self.status)).args(options))
    }

    /// Number of log lines with this text.
    fn lines(&self, text: &str) -> usize {
        self.server.log().lines().filter(|line| line.contains(text)).count()
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        File::open(&self.iso).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

/// Offsets far apart, each at a multiple of 2048 and not of 4096.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|n| (n * 7919 * 4096) % (30 << 20) / 4096 * 4096 + 2048)
}

#[test]
fn nbd_reads_are_read_at_once() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    let mut socket = server.attach("archiso");
    let offsets: BTreeSet<u64> = scattered(640).collect();
    let since = Instant::now();
    let requests: Vec<u8> = offsets.iter().flat_map(|&offset| read_request(offset, 4096)).collect();
    socket.write_all(&requests).unwrap();
    let mut answered = BTreeSet::new();
    for _ in &offsets {
        let (cookie, data) = reply(&mut socket, |_| 4096);
        assert!(data == server.bytes(cookie, 4096), "wrong bytes at {cookie}");
        assert!(answered.insert(cookie), "{cookie} was answered twice");
    }
    assert_eq!(answered, offsets);
    // One after the other would take 12.8 s, since each is in two pages.
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

#[test]
fn nbd_neighbours_are_read_together() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    let mut socket = server.attach("archiso");
    let before = server.disk.reads();
    let requests: Vec<u8> = (0..64).flat_map(|n| read_request((8 << 20) + n * 4096, 4096)).collect();
    socket.write_all(&requests).unwrap();
    for _ in 0..64 {
        let (cookie, data) = reply(&mut socket, |_| 4096);
        assert!(data == server.bytes(cookie, 4096), "wrong bytes at {cookie}");
    }
    let reads = server.disk.reads() - before;
    assert!(reads <= 8, "{reads} reads of the disk for 256 KiB in a row");
}

#[test]
fn nbd_read_in_memory_overtakes_the_disk() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    let mut socket = server.attach("archiso");
    socket.write_all(&read_request(1 << 20, 4096)).unwrap();
    reply(&mut socket, |_| 4096);
    server.disk.set_delay(Duration::from_millis(500));
    socket.write_all(&[read_request(9 << 20, 4096), read_request(1 << 20, 4096)].concat()).unwrap();
    assert_eq!([(); 2].map(|()| reply(&mut socket, |_| 4096).0), [1 << 20, 9 << 20]);
}

#[test]
fn nbd_replies_leave_before_the_end() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    for is_half_closed in [false, true] {
        let mut socket = server.attach("archiso");
        let from = if is_half_closed { 4 << 20 } else { 2 << 20 };
        let reads: Vec<u8> = (0..8).flat_map(|n| read_request(from + n * 131_072, 4096)).collect();
        socket.write_all(&reads).unwrap();
        if is_half_closed {
            socket.shutdown(std::net::Shutdown::Write).unwrap();
        } else {
            socket.write_all(&request(2, 0, 0)).unwrap();
        }
        for _ in 0..8 {
            let (cookie, data) = reply(&mut socket, |_| 4096);
            assert!(data == server.bytes(cookie, 4096), "wrong bytes at {cookie}");
        }
        assert_eq!(socket.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn nbd_client_that_asks_for_much_is_bounded() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    let mut greedy = server.attach("archiso");
    // Forty times more than may wait at once, and more than a reader takes at once.
    let lens = |offset: u64| if offset.is_multiple_of(3) { 1 << 20 } else { 4096 };
    let offsets: Vec<u64> = scattered(10_000).collect();
    let requests: Vec<u8> =
        offsets.iter().flat_map(|&offset| read_request(offset, lens(offset) as u32)).collect();
    let mut writer = greedy.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&requests).unwrap());
    let mut modest = server.attach("archiso");
    for n in 0..20 {
        let since = Instant::now();
        let offset = (30 << 20) + n * 20_480;
        modest.write_all(&read_request(offset, 512)).unwrap();
        assert!(reply(&mut modest, |_| 512).1 == server.bytes(offset, 512));
        assert!(since.elapsed() < Duration::from_secs(2), "the other client has all readers");
    }
    let mut count = BTreeMap::<u64, u32>::new();
    for _ in &offsets {
        let (cookie, data) = reply(&mut greedy, lens);
        assert!(data == server.bytes(cookie, data.len()), "wrong bytes at {cookie}");
        *count.entry(cookie).or_default() += 1;
    }
    for offset in offsets {
        *count.get_mut(&offset).expect("an answer to each") -= 1;
    }
    assert!(count.values().all(|&left| left == 0));
    writing.join().unwrap();
}

#[test]
fn nbdcopy_copies_a_slow_image() {
    needs!(NEEDS, tree::NEEDS, ["nbdcopy", "cmp"]);
    let server = Server::start();
    let copy = server.dir.path().join("copy");
    let uri = format!("nbd://127.0.0.1:{}/archiso", server.nbd);
    // nbdcopy negotiates structured replies.
    output_of(tool("nbdcopy").args(["--connections=4", "--requests=64", &uri]).arg(&copy));
    output_of(tool("cmp").arg(&copy).arg(&server.iso));
}

#[test]
fn nfs_reads_are_read_at_once() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    let mut client = Client::connect(server.nfs);
    let (file, content) = (client.walk(BIG.0), std::fs::read(server.tree.join(BIG.0)).unwrap());
    let since = Instant::now();
    let calls: Vec<u8> = (0..512_u32)
        .flat_map(|xid| nfs(xid, READ, read_arguments(&file, u64::from(xid) * 61_440, 5000)))
        .collect();
    client.send(&calls);
    let mut answered = BTreeSet::new();
    for _ in 0..512 {
        let (xid, reply) = client.receive();
        let mut body = reply.body();
        assert_eq!(body.u32(), 0);
        body.maybe_attributes();
        assert_eq!((body.u32(), body.flag()), (5000, false));
        let at = xid as usize * 61_440;
        assert!(body.opaque() == content[at..at + 5000], "wrong bytes at {at}");
        assert!(answered.insert(xid), "{xid} was answered twice");
    }
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

#[test]
fn http_download_is_read_ahead() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    let content = std::fs::read(server.tree.join(BIG.0)).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", server.http)).unwrap();
    let since = Instant::now();
    write!(socket, "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", BIG.0).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&content), "wrong bytes");
    assert!(answer.len() < content.len() + 1000 && answer.starts_with(b"HTTP/1.1 200 "));
    // 8192 pages one by one would take 80 s, and 256 of 128 KiB 2.6 s.
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

#[test]
fn image_on_another_disk_is_not_slowed() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    server.disk.set_delay(Duration::from_secs(20));
    let mut slow: Vec<_> = (0..4).map(|_| server.attach("archiso")).collect();
    for (n, socket) in slow.iter_mut().enumerate() {
        let reads = scattered(128).flat_map(|offset| read_request(offset ^ (n as u64 * 8192), 4096));
        socket.write_all(&reads.collect::<Vec<_>>()).unwrap();
    }
    let mut quick = server.attach("another");
    let since = Instant::now();
    for n in 0..100 {
        quick.write_all(&read_request(n * 2048, 2048)).unwrap();
        assert_eq!(reply(&mut quick, |_| 2048).0, n * 2048);
    }
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    server.disk.set_delay(Duration::ZERO);
}

#[test]
fn server_stops_beside_cold_reads() {
    needs!(NEEDS, tree::NEEDS);
    let mut server = Server::start();
    server.disk.hang(0..u64::MAX);
    let mut socket = server.attach("archiso");
    socket
        .write_all(&scattered(64).flat_map(|offset| read_request(offset, 4096)).collect::<Vec<_>>())
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while server.disk.hanging() < 64 {
        assert!(Instant::now() < end, "{} reads hang", server.disk.hanging());
        std::thread::sleep(DELAY);
    }
    assert!(server.server.stop().success(), "{}", server.server.log());
}

// ---- a disk that fails or hangs

const FAULT: &str = "image cannot be read";

#[test]
fn nbd_read_waits_for_a_disk_that_fails() {
    needs!(NEEDS, tree::NEEDS);
    let mut server = Server::start();
    let mut clients: Vec<_> = (0..3).map(|_| server.attach("archiso")).collect();
    let mut known = server.attach("archiso");
    known.write_all(&read_request(1 << 20, 4096)).unwrap();
    reply(&mut known, |_| 4096);
    server.disk.fail(0..u64::MAX);
    for socket in &mut clients {
        let reads = (0..20).flat_map(|n| read_request((10 << 20) + n * 12_288, 4096));
        socket.write_all(&reads.collect::<Vec<_>>()).unwrap();
    }
    server.server.wait_for(FAULT, Duration::from_secs(10));
    // What is in memory is sent.
    known.write_all(&read_request(1 << 20, 4096)).unwrap();
    assert!(reply(&mut known, |_| 4096).1 == server.bytes(1 << 20, 4096));
    std::thread::sleep(Duration::from_secs(2));
    let json: serde_json::Value = serde_json::from_str(&server.status(&["--json"])).unwrap();
    let fault = &json["faults"][0];
    assert!(
        fault["fault"].as_str().unwrap().starts_with("Input/output error (os error 5), at byte"),
        "{json}"
    );
    assert!(server.status(&[]).contains("cannot be read since"), "{}", server.status(&[]));
    server.disk.heal();
    for socket in &mut clients {
        for _ in 0..20 {
            let (cookie, data) = reply(socket, |_| 4096);
            assert!(data == server.bytes(cookie, 4096), "wrong bytes at {cookie}");
        }
    }
    server.server.wait_for("image can be read again", Duration::from_secs(40));
    assert_eq!(server.lines(FAULT), 1, "{}", server.server.log());
    let json: serde_json::Value = serde_json::from_str(&server.status(&["--json"])).unwrap();
    assert_eq!(json["faults"], serde_json::json!([]));
}

#[test]
fn nbd_read_fails_after_the_stall_timeout() {
    needs!(NEEDS, tree::NEEDS);
    let mut server = Server::start_with(&["--stall-timeout", "2s"]);
    let mut socket = server.attach("archiso");
    for hangs in [false, true] {
        let from = if hangs { 20 << 20 } else { 10 << 20 };
        if hangs {
            server.disk.hang(from..from + 8192)
        } else {
            server.disk.fail(from..from + 8192)
        }
        let since = Instant::now();
        socket.write_all(&[read_request(from, 4096), read_request(5 << 20, 4096)].concat()).unwrap();
        assert!(reply(&mut socket, |_| 4096).1 == server.bytes(5 << 20, 4096));
        let mut error = [0; 16];
        socket.read_exact(&mut error).unwrap();
        assert_eq!(error[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5], "EIO");
        let elapsed = since.elapsed();
        assert!(elapsed >= Duration::from_secs(2) && elapsed < Duration::from_secs(8), "{elapsed:?}");
        server.disk.heal();
        socket.write_all(&read_request(from, 4096)).unwrap();
        assert!(reply(&mut socket, |_| 4096).1 == server.bytes(from, 4096));
    }
    server.server.wait_for("given up after `stall-timeout`", Duration::from_secs(1));
}

#[test]
fn hanging_range_leaves_readers_for_others() {
    needs!(NEEDS, tree::NEEDS);
    let mut server = Server::start();
    server.disk.hang(0..12 << 20);
    let mut clients: Vec<_> = (0..4).map(|_| server.attach("archiso")).collect();
    // The first two ask for the same.
    let offsets = |n: usize| (0..100_u64).map(move |i| i * 122_880 + n as u64 / 2 * 8192);
    for (n, socket) in clients.iter_mut().enumerate() {
        socket.write_all(&offsets(n).flat_map(|at| read_request(at, 4096)).collect::<Vec<_>>()).unwrap();
    }
    server.server.wait_for(FAULT, Duration::from_secs(20));
    let mut other = server.attach("archiso");
    for n in 0..50 {
        let (offset, since) = ((14 << 20) + n * 20_480, Instant::now());
        other.write_all(&read_request(offset, 512)).unwrap();
        assert!(reply(&mut other, |_| 512).1 == server.bytes(offset, 512));
        assert!(since.elapsed() < Duration::from_secs(12), "{:?}", since.elapsed());
    }
    let mut quick = server.attach("another");
    let since = Instant::now();
    quick.write_all(&read_request(0, 512)).unwrap();
    assert!(reply(&mut quick, |_| 512).1.len() == 512 && since.elapsed() < Duration::from_secs(2));
    server.disk.heal();
    for (n, socket) in clients.iter_mut().enumerate() {
        let mut left: BTreeSet<u64> = offsets(n).collect();
        while !left.is_empty() {
            let (cookie, data) = reply(socket, |_| 4096);
            assert!(data == server.bytes(cookie, 4096), "wrong bytes at {cookie}");
            assert!(left.remove(&cookie), "{cookie} was answered twice");
        }
    }
    server.server.wait_for("image can be read again", Duration::from_secs(40));
    assert_eq!(server.lines(FAULT), 1, "{}", server.server.log());
}

#[test]
fn nfs_client_is_told_to_ask_again() {
    needs!(NEEDS, tree::NEEDS);
    const JUKEBOX: u32 = 10_008;
    let server = Server::start();
    let mut client = Client::connect(server.nfs);
    let (file, content) = (client.walk(BIG.0), std::fs::read(server.tree.join(BIG.0)).unwrap());
    for hangs in [false, true] {
        let at = if hangs { 20 << 20 } else { 10 << 20 };
        if hangs {
            server.disk.hang(0..u64::MAX)
        } else {
            server.disk.fail(0..u64::MAX)
        }
        for _ in 0..2 {
            let since = Instant::now();
            let mut body = client.nfs(READ, read_arguments(&file, at, 4096)).body();
            assert_eq!(body.u32(), JUKEBOX);
            assert_eq!(body.maybe_attributes().unwrap().size, BIG.1);
            body.end();
            assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
        }
        server.disk.heal();
        // As Linux asks again, after 5 s.
        std::thread::sleep(Duration::from_secs(2));
        let mut body = client.nfs(READ, read_arguments(&file, at, 4096)).body();
        assert_eq!(body.u32(), 0);
        body.maybe_attributes();
        assert_eq!((body.u32(), body.flag()), (4096, false));
        assert!(body.opaque() == content[at as usize..at as usize + 4096]);
    }
}

#[test]
fn http_download_pauses() {
    needs!(NEEDS, tree::NEEDS);
    let server = Server::start();
    let content = std::fs::read(server.tree.join(BIG.0)).unwrap();
    let mut socket = TcpStream::connect(("127.0.0.1", server.http)).unwrap();
    // Blocks of the file are nowhere else in the image.
    let image = server.bytes(0, std::fs::metadata(&server.iso).unwrap().len() as usize);
    let start = image.chunks(2048).position(|block| block == &content[..2048]).unwrap() as u64 * 2048;
    server.disk.fail(start + (20 << 20)..start + (24 << 20));
    write!(socket, "GET /{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", BIG.0).unwrap();
    let mut answer = vec![0; 8 << 20];
    socket.read_exact(&mut answer).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    server.disk.heal();
    socket.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(&content), "wrong bytes");
}
