//! Limits of the host that are reached, and neighbours that mean harm: threads that cannot be had,
//! descriptors that are used up, floods, and a log that nobody reads. Machines that are up go on.

mod common;

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use common::dhcp::{broadcast, client_socket, newcomer};
use common::iso;
use common::lan::{self, BRIDGE, Lan};
use common::needs::{needs, tool};
use common::page_cache::{self, chill, drop_pages};
use common::ports::free_port;
use common::running::{Running, output_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const SOON: Duration = Duration::from_secs(60);

/// A folder with one ISO, closed to nobody.
struct Stage {
    dir: TempDir,
    image: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "iso", "run"] {
            let path = dir.path().join(name);
            let _ = fs::create_dir(&path);
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        }
        let mut stage = Self { dir, image: Vec::new() };
        stage.image = stage.put_iso("small", 1);
        stage
    }

    /// Adds an ISO with content that no other `seed` has, and returns the content.
    fn put_iso(&self, name: &str, seed: u8) -> Vec<u8> {
        let made = self.dir.path().join("made.iso");
        iso::noise(&made, seed, 8 << 20);
        let content = fs::read(&made).unwrap();
        fs::rename(made, self.iso(name)).unwrap();
        content
    }

    fn iso(&self, name: &str) -> PathBuf {
        self.dir.path().join("iso").join(format!("{name}.iso"))
    }

    /// Adds the arguments of a server to `command`, and returns its port of NBD.
    fn serve(&self, command: &mut Command) -> u16 {
        let nbd = free_port();
        command.args([PROGRAM, "serve"]).arg(self.dir.path().join("iso"));
        command.args(["--bind", "127.0.0.1", "--dhcp", "off", "--nfs", "off", "--tftp", "off"]);
        command.args(["--nbd", &nbd.to_string(), "--http", "0"]);
        command.env("XDG_RUNTIME_DIR", self.dir.path().join("run")).env_remove("RUNTIME_DIRECTORY");
        nbd
    }

    fn start(&self, command: &mut Command) -> Running {
        let mut server = Running::start(command, &self.dir.path().join("log"));
        server.wait_for("\nready\n", SOON);
        server
    }
}

/// An NBD client that verifies what it reads.
struct Client(TcpStream);

impl Client {
    fn attach(port: u16, export: &str) -> io::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(SOON))?;
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting)?;
        let len = export.len() as u32;
        let go = [&(len + 6).to_be_bytes()[..], &len.to_be_bytes(), export.as_bytes(), &[0, 0]].concat();
        socket.write_all(&[b"\0\0\0\x03IHAVEOPT\0\0\0\x07", &go[..]].concat())?;
        socket.read_exact(&mut [0; 20 + 12 + 20])?;
        Ok(Self(socket))
    }

    fn ask(&mut self, offset: u64, len: u32) {
        let start = [0x2560_9513_u32, 0].map(u32::to_be_bytes).concat();
        let request = [&start[..], &offset.to_be_bytes(), &offset.to_be_bytes(), &len.to_be_bytes()].concat();
        self.0.write_all(&request).unwrap();
    }

    fn reply(&mut self, len: u32) -> Vec<u8> {
        let mut reply = vec![0; 16 + len as usize];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
        reply.split_off(16)
    }

    fn read(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.ask(offset, len);
        self.reply(len)
    }

    /// Reads all of `image` in pieces and verifies it.
    fn verify(&mut self, image: &[u8]) {
        const LEN: usize = 256 << 10;
        for (n, piece) in image.chunks(LEN).enumerate() {
            assert!(self.read((n * LEN) as u64, piece.len() as u32) == piece, "piece {n}");
        }
    }
}

/// Number of threads of a process.
fn threads(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap().count()
}

/// Makes a command that runs as a user of its own with at most so many threads.
fn limited(uid: u32, threads: usize) -> Command {
    let mut command = tool("prlimit");
    command.arg(format!("--nproc={threads}")).uid(uid).gid(uid);
    command
}

/// Changes the number of threads that a process of [`limited`] may have. Its own user may do that.
fn limit_threads(uid: u32, pid: Pid, threads: usize) {
    let mut command = tool("prlimit");
    command.args(["--pid", &pid.as_raw_nonzero().to_string(), &format!("--nproc={threads}:1000")]);
    output_of(command.uid(uid).gid(uid));
}

#[test]
fn thread_that_cannot_be_had_later_stops_nothing() {
    needs!(page_cache::NEEDS, ["root", "xorriso", "prlimit"]);
    let stage = Stage::new();
    let user = 61_101;
    let mut command = limited(user, 1000);
    let nbd = stage.serve(&mut command);
    let mut server = stage.start(&mut command);
    let mut client = Client::attach(nbd, "small").unwrap();
    limit_threads(user, server.pid(), 1);
    let before = threads(server.pid());
    for _ in 0..2 {
        chill(&stage.iso("small"));
        client.verify(&stage.image);
    }
    // Images are looked for and opened as before, and clients of new ones are served.
    let (warm, cold) = (stage.put_iso("warm", 2), stage.put_iso("cold", 3));
    // Only an owner may ask what of a file is in memory. Others have to read, and the kernel reads ahead
    // for them: from a fast disk the bytes are there when they are looked for again.
    chown(stage.iso("cold"), Some(user), None).unwrap();
    kill_process(server.pid(), Signal::HUP).unwrap();
    server.wait_for("image=\"warm", SOON);
    server.wait_for("image=\"cold", SOON);
    chill(&stage.iso("small"));
    Client::attach(nbd, "small").unwrap().verify(&stage.image);
    // Nothing reads this image from the disk, unless something dropped it out of the page cache.
    assert_eq!(fs::read(stage.iso("warm")).unwrap(), warm);
    Client::attach(nbd, "warm").unwrap().verify(&warm);
    assert!(threads(server.pid()) <= before, "no thread was had");
    // What has to be read from the disk waits for a thread, and the log says so.
    let mut other = Client::attach(nbd, "cold").unwrap();
    drop_pages(&stage.iso("cold"));
    other.ask(1 << 20, 4096);
    server.wait_for("no thread can be started", SOON);
    client.verify(&stage.image);
    limit_threads(user, server.pid(), 1000);
    assert!(other.reply(4096) == cold[1 << 20..][..4096]);
    let log = server.log();
    assert!(!log.contains("panick") && !log.contains("fault of isowire"), "{log}");
    assert!(server.stop().success());
}

#[test]
fn start_with_few_threads_serves_and_says_so() {
    needs!(page_cache::NEEDS, ["root", "xorriso", "prlimit"]);
    let stage = Stage::new();
    // The main thread, that of the log, that of the image, and three of the runtime.
    let mut command = limited(61_102, 6);
    let nbd = stage.serve(&mut command);
    let mut server = stage.start(&mut command);
    server.wait_for("fewer threads than wanted", SOON);
    drop_pages(&stage.iso("small"));
    Client::attach(nbd, "small").unwrap().verify(&stage.image);
    let log = server.log();
    assert!(log.find("fewer threads") < log.find("\nready\n"), "lines come in their order: {log}");
    assert!(server.stop().success());
}

#[test]
fn start_without_threads_is_an_error() {
    needs!(["root", "xorriso", "prlimit"]);
    let stage = Stage::new();
    for count in 1..=4 {
        let mut command = limited(61_103, count);
        stage.serve(&mut command);
        let mut server = Running::start(&mut command, &stage.dir.path().join("log"));
        let status = server.wait(SOON).expect("it ends by itself");
        let log = server.log();
        assert_eq!(status.code(), Some(1), "{count}: {log}");
        assert!(log.contains("ulimit -u") && !log.contains("panicked"), "{count}: {log}");
    }
}

#[test]
fn log_that_nobody_reads_stops_nothing() {
    needs!(["xorriso", "mkfifo", "sh", "env"]);
    let stage = Stage::new();
    let fifo = stage.dir.path().join("fifo");
    output_of(tool("mkfifo").arg(&fifo));
    // Open at both ends, so that neither waits for the other.
    let mut pipe = fs::File::options().read(true).write(true).open(&fifo).unwrap();
    let mut command = tool("sh");
    command.args(["-c", "exec \"$0\" \"$@\" 2>\"$FIFO\""]).env("FIFO", &fifo);
    command.env("RUST_LOG", "isowire=debug");
    let nbd = stage.serve(&mut command);
    let mut server = stage.start(&mut command);
    let mut client = Client::attach(nbd, "small").unwrap();
    // Each is a line. The pipe holds some hundred, and the queue some thousand.
    let knock = |count| {
        for _ in 0..count {
            let mut knocking = TcpStream::connect(("127.0.0.1", nbd)).unwrap();
            knocking.read_exact(&mut [0; 18]).unwrap();
        }
    };
    for _ in 0..4 {
        knock(2000);
        client.verify(&stage.image);
    }
    let (mut heard, mut bytes) = (String::new(), vec![0; 64 << 10]);
    while !heard.contains("log lines dropped") {
        let len = pipe.read(&mut bytes).unwrap();
        heard += &String::from_utf8_lossy(&bytes[..len]);
    }
    assert!(heard.contains("root attached"), "lines of before are there");
    knock(6000);
    client.verify(&stage.image);
    assert!(server.stop().success(), "it ends although nobody reads its log");
}

#[test]
fn flood_of_dhcp_writes_few_lines() {
    needs!(lan::NEEDS, iso::NEEDS);
    let mut lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    let host = newcomer(&mut lan, BRIDGE);
    let dir = tempfile::tempdir().unwrap();
    let mut command = lan.command(PROGRAM);
    command.arg("serve").arg(iso::small().path).args(["--nbd", "0", "--nfs", "off", "--portmap", "off"]);
    command.args(["--status", "off"]);
    let mut server = Running::start(&mut command, &dir.path().join("log"));
    server.wait_for("\nready\n", SOON);
    let discover = broadcast(include_bytes!("data/dhcp/ipxe-bios-discover.bin"));
    let socket = host.inside(client_socket);
    let flood = |count: u32, machine: &dyn Fn(u32) -> u32| {
        for n in 0..count {
            let mut discover = discover.clone();
            discover[30..34].copy_from_slice(&machine(n).to_be_bytes());
            socket.send_to(&discover, (Ipv4Addr::BROADCAST, 67)).unwrap();
            if n % 20 == 0 {
                sleep(Duration::from_millis(2));
            }
        }
    };
    flood(5000, &|_| 7);
    server.wait_for("DHCP offer: repeated ", SOON);
    let lines = |log: &str| log.lines().filter(|line| line.contains("DHCP offer")).count();
    let count = lines(&server.log());
    assert!((64..80).contains(&count), "{count}:\n{}", server.log());
    flood(20_000, &|n| n);
    let log = server.log();
    assert!(lines(&log) > 1000, "other machines have lines: {}", lines(&log));
    assert!(log.len() < 1_000_000, "{} bytes", log.len());
    assert!(server.stop().success());
}

/// Number of open files of a process.
fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count()
}

/// Returns the port in the row of a service.
fn port(log: &str, service: &str) -> u16 {
    let mut rows = log.lines().map(str::split_whitespace).filter(|row| row.clone().next() == Some(service));
    rows.find_map(|mut row| row.nth(1)?.rsplit(':').next()?.parse().ok()).unwrap()
}

fn get(port: u16) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    answer
}

#[test]
fn flood_of_idle_connections_costs_nobody_a_root() {
    needs!(["xorriso", "prlimit"]);
    let stage = Stage::new();
    let mut command = tool("prlimit");
    command.arg("--nofile=96:96");
    let nbd = stage.serve(&mut command);
    let mut server = stage.start(&mut command);
    let http = port(&server.log(), "HTTP");
    let mut client = Client::attach(nbd, "small").unwrap();
    // A root over HTTP is one download, here of more than sockets hold.
    let download = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    download.set_recv_buffer_size(64 << 10).unwrap();
    download.connect(&SocketAddr::from(([127, 0, 0, 1], http)).into()).unwrap();
    let mut download = TcpStream::from(download);
    download.write_all(b"GET /small.iso HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
    download.read_exact(&mut [0; 12]).unwrap();
    let mut flood = Vec::new();
    for n in 0..300 {
        flood.push(TcpStream::connect(("127.0.0.1", [nbd, http][n % 2])).unwrap());
        if n % 50 == 49 {
            client.verify(&stage.image);
        }
    }
    let mut downloaded = Vec::new();
    download.read_to_end(&mut downloaded).unwrap();
    assert!(downloaded.ends_with(&stage.image), "it broke off at {} bytes", downloaded.len());
    // Others come in: the oldest of those that ask for nothing make room.
    let mut clients: Vec<_> = (0..10).map(|_| Client::attach(nbd, "small").unwrap()).collect();
    clients.iter_mut().for_each(|client| client.verify(&stage.image));
    assert!(get(http).starts_with("HTTP/1.1 200 "));
    assert!(descriptors(server.pid()) <= 96 - 16, "the reserve is free");
    // So are files and local sockets.
    let added = stage.put_iso("tiny", 2);
    kill_process(server.pid(), Signal::HUP).unwrap();
    server.wait_for("image added", SOON);
    Client::attach(nbd, "tiny").unwrap().verify(&added);
    let mut status = Command::new(PROGRAM);
    output_of(status.arg("status").env("XDG_RUNTIME_DIR", stage.dir.path().join("run")));
    client.verify(&stage.image);
    let log = server.log();
    assert_eq!(log.matches("connections at their limit").count(), 1, "once, and not for each client: {log}");
    drop(flood);
    // Waves of a flood are one flood.
    sleep(Duration::from_secs(5));
    get(http);
    server.wait_for("room for new connections again", SOON);
    assert!(server.stop().success());
}

#[test]
fn client_beyond_the_limit_of_its_address_is_told_so() {
    needs!(["xorriso", "env", "nbdinfo", "curl"]);
    let stage = Stage::new();
    let config = stage.dir.path().join("config");
    fs::write(&config, "max-connections-per-address = 16").unwrap();
    let mut command = tool("env");
    let nbd = stage.serve(&mut command);
    let mut server = stage.start(command.arg("--config").arg(config));
    let http = port(&server.log(), "HTTP");
    let mut clients: Vec<_> = (0..16).map(|_| Client::attach(nbd, "small").unwrap()).collect();
    for _ in 0..3 {
        let mut nbdinfo = tool("nbdinfo");
        // It prints the text of the server only then.
        nbdinfo.arg(format!("nbd://127.0.0.1:{nbd}/small")).env("LIBNBD_DEBUG", "1");
        let output = nbdinfo.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(error.contains("too many connections from this address (16)"), "{error}");
    }
    let mut curl = tool("curl");
    let told = output_of(curl.args(["-s", "-w", "%{http_code}", &format!("http://127.0.0.1:{http}/")]));
    assert!(told.contains("too many connections from this address (16)") && told.ends_with("503"), "{told}");
    clients.iter_mut().for_each(|client| client.verify(&stage.image));
    clients.pop();
    server.wait_for("NBD connection closed", SOON);
    Client::attach(nbd, "small").unwrap().verify(&stage.image);
    let log = server.log();
    assert_eq!(log.matches("clients of an address refused").count(), 1, "{log}");
    assert!(server.stop().success());
}

#[test]
fn table_of_open_files_is_large_from_the_start() {
    needs!(["xorriso", "prlimit"]);
    let stage = Stage::new();
    for (limit, size) in [("200:200", 200), ("1024:9999", 1024), ("9999:9999", 4096)] {
        let mut command = tool("prlimit");
        command.arg(format!("--nofile={limit}"));
        stage.serve(&mut command);
        let mut server = stage.start(&mut command);
        // proc(5): the number of descriptors for which there is room.
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
        let room = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        assert!(room.trim().parse::<u32>().unwrap() >= size, "{limit}: {room}");
        assert!(server.stop().success());
    }
}
