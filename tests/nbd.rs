//! The NBD door with real clients, and with clients that do what no real one should.

mod common;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::nbd::{self, read_request, request};
use common::needs::{needs, tool};
use common::noise;
use common::running::output_of;
use isowire::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use isowire::image::{Extent, Image, Source};
use isowire::images::{ImageSet, ServedImage};

/// The one file of the test image, at a multiple of 2048 and not of 4096, as on an ISO.
const FILE: Extent = Extent { offset: 10_240, len: 300_000 };

/// A server of one image, in this process.
struct Server {
    _runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    image: PathBuf,
    port: u16,
}

impl Server {
    /// Serves an image of `len` bytes, no two blocks of it alike.
    fn start(len: u64) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = dir.path().join("image");
        noise::write(&image, len);
        let images = Arc::new(images(&image));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let machines = Arc::new(isowire::machines::Registry::new(std::time::Instant::now()));
        runtime.spawn(isowire::nbd::server::run(listener, images, machines, std::future::pending()));
        Self { _runtime: runtime, _dir: dir, image, port }
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd://127.0.0.1:{}/{export}", self.port)
    }

    fn dir(&self) -> &Path {
        self.image.parent().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    /// A client in transmission with simple replies, like the kernel's.
    fn attach(&self) -> TcpStream {
        nbd::attach(self.port, "archiso")
    }

    /// The first byte of the image, asked for by a new client: the server is alive and well.
    fn assert_lives(&self) {
        let mut socket = self.attach();
        socket.write_all(&read_request(0, 512)).unwrap();
        assert_eq!(reply(&mut socket, 512), self.bytes(0, 512));
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        File::open(&self.image).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

fn images(image: &Path) -> ImageSet {
    let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    index.add(NodeId::ROOT, b"airootfs.sfs", NodeKind::File { extents: vec![FILE] }, attributes).unwrap();
    let image = Arc::new(Image::new(Source::open(image).unwrap(), index).unwrap());
    ImageSet::new(ServedImage::new("arch-2026", image), Vec::new())
}

/// The data of the next simple reply.
fn reply(socket: &mut TcpStream, len: usize) -> Vec<u8> {
    nbd::reply(socket, |_| len).1
}

fn is_closed(socket: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

const MIB: u64 = 1 << 20;

// ---- real clients ----

#[test]
fn nbdinfo_lists_and_describes() {
    needs!(["nbdinfo"]);
    let server = Server::start(MIB);
    let list = output_of(tool("nbdinfo").args(["--list", "--json", &server.uri("")]));
    assert!(list.contains(r#""export-name": "archiso""#), "{list}");
    assert!(list.contains(r#""export-name": "arch-2026""#), "{list}");
    assert!(list.contains(r#""is_read_only": true"#) && list.contains(r#""can_multi_conn": true"#), "{list}");
    assert!(list.contains(r#""can_df": true"#) && list.contains(r#""can_cache": true"#), "{list}");
    assert!(list.contains(r#""block_size_maximum": 33554432"#), "{list}");
    assert!(!list.contains(r#""can_flush": true"#), "{list}");
    assert_eq!(output_of(tool("nbdinfo").args(["--size", &server.uri("archiso")])).trim(), MIB.to_string());
    let file = server.uri("arch-2026:/airootfs.sfs");
    assert_eq!(output_of(tool("nbdinfo").args(["--size", &file])).trim(), "300000");
    let map = output_of(tool("nbdinfo").args(["--map", &server.uri("")]));
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1048576", "0", "data"]);
}

#[test]
fn nbd_client_lists_exports() {
    needs!(["nbd-client"]);
    let server = Server::start(MIB);
    let list = output_of(tool("nbd-client").args(["-l", "127.0.0.1", &server.port.to_string()]));
    assert!(list.contains("archiso") && list.contains("arch-2026"), "{list}");
}

#[test]
fn nbdcopy_copies_over_four_connections() {
    needs!(["nbdcopy", "cmp"]);
    let server = Server::start(563 * MIB + 2048);
    let copy = server.dir().join("copy");
    output_of(tool("nbdcopy").args(["--connections=4", &server.uri("archiso")]).arg(&copy));
    output_of(tool("cmp").arg(&copy).arg(&server.image));
    output_of(tool("nbdcopy").arg(server.uri("archiso:/airootfs.sfs")).arg(&copy));
    assert_eq!(fs::read(&copy).unwrap(), server.bytes(FILE.offset, FILE.len as usize));
}

#[test]
fn qemu_reads_and_compares() {
    needs!(["qemu-img", "qemu-io"]);
    let server = Server::start(64 * MIB);
    let image = server.image.to_str().unwrap();
    output_of(tool("qemu-img").args(["compare", "-f", "raw", "-F", "raw", image, &server.uri("archiso")]));
    let info = output_of(tool("qemu-img").args(["info", "-f", "raw", &server.uri("arch-2026")]));
    assert!(info.contains("67108864 bytes"), "{info}");
    let reads = ["-c", "read 2048 4096", "-c", "read 0 32M", "-c", "read 67108352 512"];
    let said = output_of(tool("qemu-io").args(["-r", "-f", "raw"]).args(reads).arg(server.uri("archiso")));
    assert!(said.contains("read 4096/4096 bytes at offset 2048") && !said.contains("error"), "{said}");
}

#[test]
fn fio_reads_at_random() {
    needs!(["fio"]);
    let server = Server::start(16 * MIB);
    let uri = format!("--uri={}", server.uri("archiso"));
    let job = ["--name=r", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--iodepth=64", "--size=16m"];
    // fio may not run as a thread of a process without shared memory: one job, in its own process.
    let said =
        output_of(tool("fio").args(job).args([&uri, "--output-format=terse"]).current_dir(server.dir()));
    let fields: Vec<_> = said.lines().last().unwrap().split(';').collect();
    assert_eq!((fields[4], fields[5]), ("0", "16384"), "no error, all of it read: {said}");
}

#[test]
fn nbdsh_gets_every_reply() {
    needs!(["nbdsh"]);
    let server = Server::start(MIB);
    let script = r#"
h.set_opt_mode(True)
h.add_meta_context("base:allocation")
h.connect_uri(URI)
h.set_export_name("nonesuch")
try:
    h.opt_go()
    raise SystemExit("attached to an export that is not there")
except nbd.Error as error:
    assert error.errnum == 2, error
h.set_export_name("archiso")
h.opt_go()
assert h.get_size() == 1 << 20 and h.is_read_only() and h.can_multi_conn() and not h.can_flush()
chunks = []
data = h.pread_structured(4096, 2048, lambda data, *rest: chunks.append(rest[:2]), nbd.CMD_FLAG_DF)
assert data == open(IMAGE, "rb").read()[2048:6144] and chunks == [(2048, nbd.READ_DATA)], chunks
extents = []
h.block_status(1 << 20, 0, lambda *args: extents.append(args))
assert extents[0][:3] == ("base:allocation", 0, [1 << 20, 0]), extents
h.cache(65536, 0)
h.set_strict_mode(0)
def refused(errnum, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum == errnum, error
    else:
        raise SystemExit("not refused: %r" % (args,))
refused(1, h.pwrite, b"x" * 70000, 0)
refused(1, h.zero, 4096, 0)
refused(1, h.trim, 4096, 0)
refused(22, h.pread, 4096, 1 << 20)
assert h.pread(512, 0) == data_at_0
h.shutdown()
"#;
    let prelude = format!(
        "URI = {:?}\nIMAGE = {:?}\ndata_at_0 = open(IMAGE, 'rb').read(512)\n",
        server.uri(""),
        server.image.display().to_string()
    );
    // nbdsh runs the first python3 of the path, and only Debian's own has the module.
    output_of(tool("nbdsh").args(["-c", &(prelude + script)]).env("PATH", "/usr/bin:/bin"));
}

// ---- clients that do what no real one should ----

#[test]
fn replies_arrive_after_disconnect_and_half_close() {
    let server = Server::start(MIB);
    let reads: Vec<u8> = (0..8).flat_map(|i| read_request(i * 2048, 65_536)).collect();
    for end in [Some(request(2, 0, 0)), None] {
        let mut socket = server.attach();
        socket.write_all(&reads).unwrap();
        match end {
            Some(disconnect) => socket.write_all(&disconnect).unwrap(),
            None => socket.shutdown(Shutdown::Write).unwrap(),
        }
        for i in 0..8 {
            assert_eq!(reply(&mut socket, 65_536), server.bytes(i * 2048, 65_536));
        }
        assert!(is_closed(&mut socket));
    }
}

#[test]
fn requests_of_all_sizes_are_answered() {
    let server = Server::start(40 * MIB);
    let sizes = [1, 512, 4096, 262_144, 3, 131_072, 1_000_003, 262_143, 33_554_432, 2048];
    let mut socket = server.attach();
    let requests: Vec<u8> = sizes.iter().flat_map(|&size| read_request(6144, size)).collect();
    socket.write_all(&requests).unwrap();
    for size in sizes {
        assert!(reply(&mut socket, size as usize) == server.bytes(6144, size as usize), "{size}");
    }
}

#[test]
fn connection_survives_refused_requests() {
    let server = Server::start(MIB);
    let mut socket = server.attach();
    let write = [request(1, 0, 100_000), vec![0; 100_000]].concat();
    socket.write_all(&[write, read_request(MIB, 1), read_request(0, 512)].concat()).unwrap();
    let mut errors = [0; 32];
    socket.read_exact(&mut errors).unwrap();
    assert_eq!((errors[7], errors[23]), (1, 22), "EPERM, EINVAL");
    assert_eq!(reply(&mut socket, 512), server.bytes(0, 512));
}

#[test]
fn malformed_stream_is_closed_alone() {
    let server = Server::start(MIB);
    let mut neighbour = server.attach();
    let mut socket = server.attach();
    socket.write_all(&[0; 28]).unwrap();
    assert!(is_closed(&mut socket));
    let mut browser = server.connect();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(is_closed(&mut browser));
    neighbour.write_all(&read_request(0, 512)).unwrap();
    assert_eq!(reply(&mut neighbour, 512), server.bytes(0, 512));
}

#[test]
fn reset_with_pending_replies_is_harmless() {
    let server = Server::start(8 * MIB);
    for _ in 0..100 {
        let mut socket = server.attach();
        let reads: Vec<u8> = (0..64).flat_map(|_| read_request(0, 1 << 20)).collect();
        socket.write_all(&reads).unwrap();
        // Unread data in our receive buffer makes the kernel answer the close with a reset.
        drop(socket);
    }
    server.assert_lives();
}

#[test]
fn stalled_readers_do_not_slow_others() {
    let server = Server::start(8 * MIB);
    let stalled: Vec<_> = (0..50)
        .map(|_| {
            let mut socket = server.attach();
            let reads: Vec<u8> = (0..64).flat_map(|_| read_request(0, 4 << 20)).collect();
            socket.write_all(&reads).unwrap();
            socket
        })
        .collect();
    for _ in 0..20 {
        server.assert_lives();
    }
    drop(stalled);
}

#[test]
fn thousand_clients_are_all_greeted() {
    let server = Server::start(MIB);
    let sockets: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    for mut socket in sockets {
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, *b"NBDMAGICIHAVEOPT\0\x03");
    }
}

#[test]
fn truncated_image_stops_its_readers() {
    for len in [4096, 1 << 20] {
        let server = Server::start(4 * MIB);
        let mut socket = server.attach();
        socket.write_all(&read_request(2 * MIB, len)).unwrap();
        assert_eq!(reply(&mut socket, len as usize), server.bytes(2 * MIB, len as usize));
        File::options().write(true).open(&server.image).unwrap().set_len(MIB).unwrap();
        // Also what was not cut off: it may be another image soon.
        for offset in [2 * MIB, 0] {
            socket.write_all(&read_request(offset, len)).unwrap();
        }
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let nothing = socket.read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "no made-up bytes, and no end");
    }
}

#[test]
fn renamed_image_is_served_unchanged() {
    let server = Server::start(MIB);
    let before = server.bytes(4096, 4096);
    let mut socket = server.attach();
    let other = server.dir().join("other");
    fs::write(&other, vec![0; MIB as usize]).unwrap();
    fs::rename(&other, &server.image).unwrap();
    socket.write_all(&read_request(4096, 4096)).unwrap();
    assert_eq!(reply(&mut socket, 4096), before);
}

#[test]
fn port_scan_leaves_no_trace() {
    needs!(["bash"]);
    let server = Server::start(MIB);
    let knock =
        format!("for i in $(seq 200); do exec 3<>/dev/tcp/127.0.0.1/{}; exec 3>&-; done", server.port);
    output_of(Command::new("bash").args(["-c", &knock]));
    server.assert_lives();
}
