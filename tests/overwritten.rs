//! Image files that someone truncates or overwrites while they are served: machines that live on
//! them never get bytes of another image, and go on when the file is as it was.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::iso;
use common::nbd::{self, read_request, reply};
use common::nbd_clients::{Clients, Habit};
use common::needs::{needs, tool};
use common::nfs::started;
use common::ports::free_port;
use common::rpc;
use common::running::{Running, output_of};
use tempfile::TempDir;

const NEEDS: [&str; 1] = ["xorriso"];
const SOON: Duration = Duration::from_secs(60);

/// Bytes of the large file of an image.
const LEN: usize = 24 << 20;

/// NFS3ERR_JUKEBOX and MNT3ERR_IO (RFC 1813).
const JUKEBOX: u32 = 10_008;
const MOUNT_IO: u32 = 5;

const CHANGED: &str = "changed in place on the server";
const FAULT: &str = "image cannot be read: its file was changed in place";
const WELL: &str = "image can be read again";
const CHANGED_METRIC: &str = "isowire_image_faults{image=\"served\",fault=\"changed\"}";

/// A server of a copy of an image.
struct Server {
    running: Running,
    image: PathBuf,
    nbd: u16,
    nfs: u16,
    http: u16,
    tftp: u16,
    status: u16,
    _dir: TempDir,
}

impl Server {
    fn start(original: &Path, options: &[&str]) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = dir.path().join("served.iso");
        fs::copy(original, &image).unwrap();
        let [nbd, nfs, http, tftp, status] = [(); 5].map(|()| free_port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(&image).args(["--bind", "127.0.0.1"]);
        for (door, port) in [("--nbd", nbd), ("--nfs", nfs), ("--http", http), ("--tftp", tftp)] {
            command.args([door, &port.to_string()]);
        }
        command.args(["--portmap", "off", "--dhcp", "off"]).args(options);
        command.args(["--status", &format!("127.0.0.1:{status}")]).env("RUNTIME_DIRECTORY", dir.path());
        let running = started(&mut command, &dir.path().join("log"));
        Self { running, image, nbd, nfs, http, tftp, status, _dir: dir }
    }

    /// Connects clients that read and verify.
    fn clients(&self, count: u64) -> Clients {
        let content = Arc::new(fs::read(&self.image).unwrap());
        let mut clients = Clients::new();
        clients.connect(count, Habit::Steady, SocketAddr::from(([127, 0, 0, 1], self.nbd)), &content);
        clients.run(Duration::from_millis(500));
        assert!(clients.replies() > count, "nobody reads");
        clients
    }

    /// What nbdinfo says about the export.
    fn nbdinfo(&self) -> String {
        // Only then it shows what the server says.
        output_and_errors(
            tool("nbdinfo").env("LIBNBD_DEBUG", "1").arg(format!("nbd://127.0.0.1:{}/served", self.nbd)),
        )
    }

    fn curl(&self, scheme: &str) -> String {
        let port = if scheme == "tftp" { self.tftp } else { self.http };
        let url = format!("{scheme}://127.0.0.1:{port}/arch/noise");
        output_and_errors(tool("curl").args(["-sS", "-r", "0-15", "--max-time", "20", "-v", &url]))
    }

    fn status(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isowire"));
        output_of(command.arg("status").arg(format!("http://127.0.0.1:{}/", self.status)))
    }

    /// Fetches a metric of this server.
    fn metric(&self, name: &str) -> u64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.status);
        let text = output_of(tool("curl").args(["-sS", "--max-time", "20", &url]));
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{name}: {text}"))
    }

    /// Checks that each protocol refuses new clients, and says why.
    fn assert_refuses(&self) {
        assert!(self.nbdinfo().contains(CHANGED), "{}", self.nbdinfo());
        let http = self.curl("http");
        assert!(http.contains("503 Service Unavailable") && http.contains(CHANGED), "{http}");
        assert!(self.curl("tftp").contains(CHANGED), "{}", self.curl("tftp"));
        assert_eq!(rpc::Client::connect(self.nfs).mount(b"/"), Err(MOUNT_IO));
        let status = self.status();
        assert!(status.contains("cannot be read since") && status.contains("changed in place"), "{status}");
        assert_eq!(self.metric(CHANGED_METRIC), 1);
        assert!(self.metric("isowire_reads_failed_total") > 0);
        for door in ["nbd", "nfs", "http", "tftp"] {
            let errors = format!("isowire_errors_total{{door=\"{door}\",cause=\"image\"}}");
            assert!(self.metric(&errors) > 0, "{door}");
        }
    }

    /// Number of log lines with this text.
    fn lines(&self, text: &str) -> usize {
        self.running.log().lines().filter(|line| line.contains(text)).count()
    }
}

fn output_and_errors(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Checks that no client gets anything for a while.
fn assert_waiting(clients: &Clients) {
    // Replies that were on their way.
    clients.run(Duration::from_millis(500));
    let before = clients.replies();
    clients.run(Duration::from_millis(1500));
    assert_eq!(clients.replies(), before, "bytes of a file that was changed");
}

fn assert_going_on(clients: &Clients) {
    let (before, since) = (clients.replies(), Instant::now());
    while clients.replies() < before + 1000 {
        assert!(since.elapsed() < SOON, "{} replies since it was restored", clients.replies() - before);
        clients.run(Duration::from_millis(100));
    }
}

#[test]
fn truncated_image_stops_its_clients_until_it_is_restored() {
    needs!(NEEDS, ["nbdinfo", "curl"]);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let original = dir.path().join("original.iso");
    iso::noise(&original, 1, LEN);
    let mut server = Server::start(&original, &[]);
    let clients = server.clients(30);
    let mut nfs = rpc::Client::connect(server.nfs);
    let noise = nfs.walk("arch/noise");
    assert!(nfs.read(&noise, 0, 4096).is_ok());
    let mut download = TcpStream::connect(("127.0.0.1", server.http)).unwrap();
    write!(download, "GET /served.iso HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    download.read_exact(&mut [0; 17]).unwrap();

    for times in 1..=2 {
        File::create(&server.image).unwrap();
        assert_waiting(&clients);
        server.assert_refuses();
        assert_eq!(nfs.read(&noise, 1 << 20, 4096).map(|_| ()), Err(JUKEBOX));
        fs::copy(&original, &server.image).unwrap();
        assert_going_on(&clients);
        server.running.wait_for_lines(WELL, times, SOON);
        assert_eq!(server.lines(FAULT), times, "{}", server.running.log());
        assert!(server.nbdinfo().contains("export-size"), "{}", server.nbdinfo());
        assert!(nfs.read(&noise, 1 << 20, 4096).is_ok());
        assert_eq!(server.metric(CHANGED_METRIC), 0);
    }
    let mut rest = Vec::new();
    download.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&fs::read(&original).unwrap()), "the download has wrong bytes");
    clients.finish();
}

/// Two images of the same size and other content.
fn two_images(dir: &Path) -> [Vec<u8>; 2] {
    [1, 2].map(|seed| {
        let path = dir.join(format!("{seed}.iso"));
        iso::noise(&path, seed, LEN);
        fs::read(path).unwrap()
    })
}

#[test]
fn image_overwritten_by_another_is_two_images() {
    needs!(NEEDS, ["nbdcopy"]);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [first, second] = two_images(dir.path());
    let mut server = Server::start(&dir.path().join("1.iso"), &[]);
    let clients = server.clients(30);
    let mut nfs = rpc::Client::connect(server.nfs);
    let noise = nfs.walk("arch/noise");

    clients.run_beside(|| fs::write(&server.image, &second).unwrap());
    assert_waiting(&clients);
    // New clients get the new image, as soon as it is whole.
    server.running.wait_for("image overwritten in place", SOON);
    let (uri, copy) = (format!("nbd://127.0.0.1:{}/served", server.nbd), dir.path().join("copy"));
    output_of(tool("nbdcopy").arg(&uri).arg(&copy));
    assert!(fs::read(&copy).unwrap() == second, "not the new image");
    assert_eq!(nfs.read(&noise, 1 << 20, 4096).map(|_| ()), Err(JUKEBOX));
    assert_waiting(&clients);

    clients.run_beside(|| fs::write(&server.image, &first).unwrap());
    assert_going_on(&clients);
    server.running.wait_for_lines("image overwritten in place", 2, SOON);
    assert!(nfs.read(&noise, 1 << 20, 4096).is_ok());
    clients.finish();
}

#[test]
fn image_written_over_without_truncation_is_not_sent() {
    needs!(NEEDS);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [first, second] = two_images(dir.path());
    let server = Server::start(&dir.path().join("1.iso"), &[]);
    let mut sockets: Vec<_> = (0..10).map(|_| nbd::attach(server.nbd, "served")).collect();
    // Bytes in a socket are pages of the file, so what is on its way may change: nothing is.
    let read_all = |sockets: &mut [TcpStream]| {
        for (at, socket) in (1..).zip(sockets) {
            let (offset, data) = reply(socket, |_| 65_536);
            assert!(data == first[offset as usize..][..65_536], "wrong bytes for client {at}");
        }
    };
    let ask = |sockets: &mut [TcpStream]| {
        for (at, socket) in (1..).zip(sockets) {
            socket.write_all(&read_request(at << 21, 65_536)).unwrap();
        }
    };
    ask(&mut sockets);
    read_all(&mut sockets);
    OpenOptions::new().write(true).open(&server.image).unwrap().write_all_at(&second, 0).unwrap();
    ask(&mut sockets);
    std::thread::sleep(Duration::from_secs(4));
    for socket in &mut sockets {
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.peek(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        socket.set_nonblocking(false).unwrap();
    }
    OpenOptions::new().write(true).open(&server.image).unwrap().write_all_at(&first, 0).unwrap();
    read_all(&mut sockets);
}

/// Makes an image with a root file system and its checksum.
fn image_with_checksum(dir: &Path) -> PathBuf {
    let (tree, iso) = (dir.join("tree"), dir.join("arch.iso"));
    let folder = tree.join("arch/x86_64");
    fs::create_dir_all(&folder).unwrap();
    let root: Vec<u8> =
        (0..LEN as u32 / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(folder.join("airootfs.sfs"), root).unwrap();
    let sum = output_of(tool("sha512sum").arg("airootfs.sfs").current_dir(&folder));
    fs::write(folder.join("airootfs.sha512"), sum).unwrap();
    let mut xorriso = tool("xorriso");
    output_of(xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V", "SUM", "-o"]).arg(&iso).arg(&tree));
    iso
}

#[test]
fn root_that_does_not_match_its_checksum_is_not_sent() {
    needs!(NEEDS, ["sha512sum", "nbdinfo", "curl"]);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let original = image_with_checksum(dir.path());
    let mut server = Server::start(&original, &[]);
    let clients = server.clients(10);

    // touch(1): the content is the same.
    File::options()
        .write(true)
        .open(&server.image)
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
    server.running.wait_for_lines(WELL, 1, SOON);
    assert_going_on(&clients);

    // The tree is the same, and a byte of the root file system another.
    let at = LEN as u64 / 2;
    let mut byte = [0];
    let image = File::options().read(true).write(true).open(&server.image).unwrap();
    image.read_exact_at(&mut byte, at).unwrap();
    image.write_all_at(&[!byte[0]], at).unwrap();
    server.running.wait_for("has another content now", SOON);
    assert_waiting(&clients);
    assert!(server.nbdinfo().contains(CHANGED), "{}", server.nbdinfo());
    image.write_all_at(&byte, at).unwrap();
    assert_going_on(&clients);
    clients.finish();
    assert_eq!((server.lines(FAULT), server.lines("has another content now")), (2, 1));
}

#[test]
fn client_of_a_changed_image_gets_an_error_after_the_stall_timeout() {
    needs!(NEEDS, ["qemu-io"]);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let original = dir.path().join("original.iso");
    iso::noise(&original, 1, LEN);
    let server = Server::start(&original, &["--stall-timeout", "2s"]);
    let uri = format!("nbd://127.0.0.1:{}/served", server.nbd);
    let mut qemu_io = tool("qemu-io");
    // The second command waits until the file was truncated.
    qemu_io.args(["-r", "-f", "raw", "-c", "read 0 64k", "-c", "sleep 2000", "-c", "read 1M 64k"]);
    qemu_io.args(["-c", "sleep 6000", "-c", "read 2M 64k"]).arg(&uri);
    let output = std::thread::scope(|scope| {
        let running = scope.spawn(|| output_and_errors(&mut qemu_io));
        std::thread::sleep(Duration::from_secs(1));
        File::create(&server.image).unwrap();
        std::thread::sleep(Duration::from_secs(5));
        fs::copy(&original, &server.image).unwrap();
        running.join().unwrap()
    });
    // The connection outlives it.
    assert_eq!(output.matches("read 65536/65536 bytes").count(), 2, "{output}");
    assert_eq!(output.matches("read failed: Input/output error").count(), 1, "{output}");
}
