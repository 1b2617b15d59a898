//! `isowire check`: good servers pass, and every kind of fault is found.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use common::iso;
use common::needs::{needs, tool};
use common::running::output_of;
use hadris_fs::sync::FileSystem;
use hadris_fs::{MountOptions, Name};
use hadris_iso::sync::IsoFs;
use hadris_storage::host::FileDevice;
use isowire::check::{self, CheckReport, CheckedServers, Original, VerifyError, sample};
use isowire::image::index::{Index, NodeId, NodeKind};
use isowire::image::{Extent, Image, Source};
use isowire::nfs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The checked protocols in the order of the table, and those that read root images.
const PROTOCOLS: [&str; 4] = ["NBD", "NFS", "HTTP", "TFTP"];
const ROOTS: [&str; 3] = ["NBD", "NFS", "HTTP"];

const ROOT_IMAGE: &str = "/arch/x86_64/airootfs.sfs";
const KERNEL: &str = "/arch/boot/x86_64/vmlinuz-linux";
const INITRAMFS: &str = "/arch/boot/x86_64/initramfs-linux.img";

// ---- the program

fn isowire(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isowire")).arg("check").args(arguments).output().unwrap()
}

/// Returns the verdict on each protocol in the table.
fn verdicts(output: &Output) -> BTreeMap<String, String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let (_, table) = text.split_once("PROTOCOL ").expect("a table");
    let (head, rows) = table.split_once('\n').unwrap();
    let column = "PROTOCOL ".len() + head.find("VERDICT").unwrap();
    let rows = rows.lines().take_while(|line| !line.is_empty());
    rows.map(|row| (row.split_whitespace().next().unwrap().to_owned(), row[column..].to_owned())).collect()
}

#[track_caller]
fn assert_all_well(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "no bar where nobody looks: {output:?}");
    let verdicts = verdicts(output);
    for protocol in PROTOCOLS {
        let well = if ROOTS.contains(&protocol) { "ok, airootfs.sha512 verified" } else { "ok" };
        assert_eq!(verdicts[protocol], well, "{protocol}");
    }
    assert_eq!(verdicts["DHCP"], "not checked: it needs broadcasts and port 67");
}

#[test]
fn sample_is_checked_without_an_iso() {
    let output = isowire(&[]);
    assert_all_well(&output);
    assert!(output.stdout.starts_with(b"No ISO was given"), "{output:?}");
}

#[test]
fn mkarchiso_image_passes() {
    needs!(iso::NEEDS);
    assert_all_well(&isowire(&[&iso::small().path]));
}

#[test]
fn foreign_iso_is_compared_without_checksum() {
    needs!(["genisoimage"]);
    let output = isowire(&[&iso::odd("moved")]);
    assert!(output.status.success(), "{output:?}");
    assert!(verdicts(&output).iter().all(|(protocol, verdict)| protocol == "DHCP" || verdict == "ok"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("This is not an archiso image"), "{output:?}");
}

#[test]
fn bad_iso_error_is_one_line() {
    for (path, why) in
        [("/nonexistent.iso", "No such file"), ("/dev/zero", "a character device"), ("/", "directory")]
    {
        let output = isowire(&[Path::new(path)]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.starts_with("isowire: /") && said.contains(why), "{said}");
        assert!(output.stdout.is_empty());
    }
    let [one, two] = [Path::new("/one"), Path::new("/two")];
    assert_eq!(isowire(&[one, two]).status.code(), Some(2));
}

#[test]
fn damaged_image_is_told_apart() {
    let sample = Sample::new();
    let image = sample.open();
    flip(&sample.path, extent(&image, ROOT_IMAGE).offset + 100_000);
    let output = isowire(&[&sample.path]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let verdicts = verdicts(&output);
    for protocol in ROOTS {
        assert!(
            verdicts[protocol].ends_with("which does not match its checksum file: the image is damaged"),
            "{protocol}"
        );
    }
    assert_eq!(verdicts["TFTP"], "ok");
    let said = format!("isowire: {} of {} protocols did not pass the check\n", ROOTS.len(), PROTOCOLS.len());
    assert_eq!(String::from_utf8_lossy(&output.stderr), said);
}

// ---- the sample

#[test]
fn sample_reads_alike_in_xorriso() {
    needs!(["xorriso"]);
    let sample = Sample::new();
    let (image, out) = (sample.open(), sample.dir.path().join("out"));
    output_of(
        tool("xorriso")
            .args(["-osirrox", "on", "-indev"])
            .arg(&sample.path)
            .args(["-extract", "/"])
            .arg(&out),
    );
    let mut files = 0;
    for id in image.index.walk() {
        let path = out.join(String::from_utf8(image.index.path(id)).unwrap().trim_start_matches('/'));
        match &image.index.node(id).kind {
            NodeKind::Directory { entries } => assert_eq!(fs::read_dir(path).unwrap().count(), entries.len()),
            NodeKind::Symlink { target } => {
                assert_eq!(fs::read_link(path).unwrap().as_os_str().as_encoded_bytes(), &**target)
            }
            _ => {
                assert!(fs::read(&path).unwrap() == image.read(id, 1 << 30).unwrap(), "{}", path.display());
                files += 1;
            }
        }
    }
    assert_eq!(files, 14);
}

#[test]
fn sample_reads_alike_in_hadris() {
    let sample = Sample::new();
    let image = sample.open();
    let device = FileDevice::open(&sample.path).unwrap();
    let mut iso = IsoFs::mount(device, MountOptions::new()).unwrap();
    for id in image.index.walk().skip(1) {
        let node = image.index.node(id);
        let path = image.index.path(id);
        let names = path.split(|&byte| byte == b'/').skip(1);
        let found = names.fold(iso.root(), |at, name| iso.lookup(at, Name::new(name)).unwrap());
        let NodeKind::File { extents } = &node.kind else { continue };
        assert_eq!(iso.stat(found).unwrap().len(), node.size(), "{}", path.escape_ascii());
        let mut there = [hadris_fs::Extent::new(0, 0); 4];
        let count = iso.extents(found, 0, &mut there).unwrap();
        let there: Vec<_> = there[..count].iter().filter(|extent| !extent.is_empty()).collect();
        let ours: Vec<_> = extents.iter().filter(|extent| extent.len > 0).collect();
        assert_eq!(there.len(), ours.len());
        assert!(
            there.iter().zip(&ours).all(|(there, ours)| there.offset() == ours.offset),
            "{}",
            path.escape_ascii()
        );
    }
}

// ---- servers with faults

/// The sample image in a file.
struct Sample {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Sample {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("sample.iso");
        fs::write(&path, sample::image()).unwrap();
        Self { dir, path }
    }

    fn open(&self) -> Image {
        Image::open(&self.path).unwrap()
    }

    /// Opens the image with a changed tree.
    fn retold(&self, retell: impl Fn(&[u8], &NodeKind) -> Option<NodeKind>) -> Image {
        let image = self.open();
        let mut index = Index::new(image.index.node(NodeId::ROOT).attributes);
        let mut known = BTreeMap::from([(NodeId::ROOT, NodeId::ROOT)]);
        for id in image.index.walk().skip(1) {
            let node = image.index.node(id);
            let told = match &node.kind {
                NodeKind::Directory { .. } => Some(NodeKind::Directory { entries: Vec::new() }),
                other => retell(&image.index.path(id), other),
            };
            if let Some(told) = told {
                known.insert(id, index.add(known[&node.parent], &node.name, told, node.attributes).unwrap());
            }
        }
        Image::new(Source::open(&self.path).unwrap(), index).unwrap()
    }
}

fn extent(image: &Image, path: &str) -> Extent {
    let id = image.index.resolve(NodeId::ROOT, path.as_bytes()).unwrap();
    let NodeKind::File { extents } = &image.index.node(id).kind else { panic!("a file") };
    extents[0]
}

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

/// Runs a check of servers that serve `served` instead of `original`; returns the verdicts.
fn checked(
    served: Image,
    original: Image,
    spoil: impl AsyncFnOnce(&mut CheckedServers),
) -> BTreeMap<&'static str, String> {
    checked_with(Duration::from_secs(20), served, original, spoil)
}

fn checked_with(
    patience: Duration,
    served: Image,
    original: Image,
    spoil: impl AsyncFnOnce(&mut CheckedServers),
) -> BTreeMap<&'static str, String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report: CheckReport = runtime.block_on(async {
        let mut servers = CheckedServers::open(Arc::new(served)).await.unwrap();
        spoil(&mut servers).await;
        check::check_servers(&servers, &Original::new(Arc::new(original), patience)).await
    });
    runtime.shutdown_background();
    let told = |verdict: &Result<(), VerifyError>| {
        verdict.as_ref().map_or_else(ToString::to_string, |()| "ok".to_owned())
    };
    report.rows.iter().map(|row| (row.protocol, told(&row.verdict))).collect()
}

async fn as_they_are(_: &mut CheckedServers) {}

#[test]
fn wrong_byte_is_located() {
    let (good, bad) = (Sample::new(), Sample::new());
    flip(&bad.path, extent(&good.open(), INITRAMFS).offset + 123_456);
    let verdicts = checked(bad.open(), good.open(), as_they_are);
    let place = format!("differs at byte 123456 of {INITRAMFS}");
    let in_the_image = extent(&good.open(), INITRAMFS).offset + 123_456;
    for protocol in PROTOCOLS {
        let place = if protocol == "NBD" {
            format!("differs at byte {in_the_image} of the image")
        } else {
            place.clone()
        };
        assert_eq!(verdicts[protocol], place, "{protocol}");
    }
    flip(&bad.path, in_the_image);
    flip(&bad.path, extent(&good.open(), ROOT_IMAGE).offset + 3_000_000);
    let verdicts = checked(bad.open(), good.open(), as_they_are);
    for protocol in ROOTS {
        assert_eq!(verdicts[protocol], format!("differs at byte 3000000 of {ROOT_IMAGE}"), "{protocol}");
    }
}

#[test]
fn wrong_file_size_is_found() {
    let sample = Sample::new();
    let len = extent(&sample.open(), KERNEL).len;
    for told in [len - 1, len + 1, 0] {
        let retell = |path: &[u8], kind: &NodeKind| match kind {
            NodeKind::File { extents } if path == KERNEL.as_bytes() => {
                Some(NodeKind::File { extents: vec![Extent { len: told, ..extents[0] }] })
            }
            other => Some(other.clone()),
        };
        let verdicts = checked(sample.retold(retell), sample.open(), as_they_are);
        for protocol in PROTOCOLS.into_iter().filter(|&protocol| protocol != "NBD") {
            assert_eq!(
                verdicts[protocol],
                format!("{KERNEL} has {told} bytes instead of {len}"),
                "{protocol}"
            );
        }
    }
}

#[test]
fn missing_file_is_found() {
    let sample = Sample::new();
    let retell = |path: &[u8], kind: &NodeKind| (path != KERNEL.as_bytes()).then(|| kind.clone());
    let verdicts = checked(sample.retold(retell), sample.open(), as_they_are);
    for protocol in PROTOCOLS.into_iter().filter(|&protocol| protocol != "NBD") {
        assert_ne!(verdicts[protocol], "ok", "{protocol}");
        assert!(verdicts[protocol].contains("vmlinuz-linux"), "{protocol}: {}", verdicts[protocol]);
    }
}

#[test]
fn wrong_image_size_is_found() {
    let (good, bad) = (Sample::new(), Sample::new());
    let len = fs::metadata(&good.path).unwrap().len();
    let image = fs::read(&good.path).unwrap();
    fs::write(&bad.path, [&image[..], &[0; 2048]].concat()).unwrap();
    let verdicts = checked(bad.open(), good.open(), as_they_are);
    assert_eq!(verdicts["NBD"], format!("the image has {} bytes instead of {len}", len + 2048));
}

/// Behaviour of a relay after its limit of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Hang,
    Close,
}

/// Starts a TCP relay in front of a server that fails after `bytes` bytes.
async fn relay(server: SocketAddr, bytes: usize, then: Then) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, server, bytes, then));
        }
    });
    address
}

async fn pass_on(client: TcpStream, server: SocketAddr, mut bytes: usize, then: Then) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await.unwrap().into_split();
    let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = [0; 4096];
    while bytes > 0 {
        let n = from_server.read(&mut buffer[..bytes.min(4096)]).await.unwrap_or(0);
        if n == 0 || to_client.write_all(&buffer[..n]).await.is_err() {
            break;
        }
        bytes -= n;
    }
    match then {
        Then::Hang => drop(requests.await),
        Then::Close => requests.abort(),
    }
}

/// Puts `front` in front of a TCP server.
async fn replace(
    servers: &mut CheckedServers,
    protocol: &str,
    front: impl AsyncFnOnce(SocketAddr) -> SocketAddr,
) {
    match protocol {
        "NBD" => servers.nbd = front(servers.nbd).await,
        "HTTP" => servers.http = front(servers.http).await,
        _ => servers.portmap = portmap(front(servers.nfs).await).await,
    }
}

/// Starts a portmapper that returns the port of `nfs`.
async fn portmap(nfs: SocketAddr) -> SocketAddr {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = tcp.local_addr().unwrap();
    tokio::spawn(nfs::server::portmap::run(tcp, udp, nfs.port(), std::future::pending()));
    address
}

#[test]
fn stuck_server_gets_a_verdict() {
    let (sample, patience) = (Sample::new(), Duration::from_millis(500));
    let stuck = format!("stuck: nothing came for {patience:?}");
    for protocol in ROOTS {
        // At the start, in what comes before any payload, and in the middle of it.
        for bytes in [0, 10, 60, 1_000_000] {
            let verdicts =
                checked_with(patience, sample.open(), sample.open(), async |servers: &mut CheckedServers| {
                    replace(servers, protocol, async |address| relay(address, bytes, Then::Hang).await).await;
                });
            assert_eq!(verdicts[protocol], stuck, "{protocol}");
            assert_eq!(verdicts.len(), PROTOCOLS.len(), "the next protocols have their turn");
        }
    }
    let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = silent.local_addr().unwrap();
    let verdicts =
        checked_with(patience, sample.open(), sample.open(), async |servers: &mut CheckedServers| {
            servers.tftp = address;
        });
    assert_eq!(verdicts["TFTP"], stuck);
}

#[test]
fn ended_connection_is_found() {
    let sample = Sample::new();
    for protocol in ROOTS {
        for bytes in [0, 10, 60, 1_000_000] {
            let verdicts = checked(sample.open(), sample.open(), async |servers: &mut CheckedServers| {
                replace(servers, protocol, async |address| relay(address, bytes, Then::Close).await).await;
            });
            assert!(
                verdicts[protocol].starts_with("the connection ended: "),
                "{protocol}: {}",
                verdicts[protocol]
            );
        }
        let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let verdicts = checked(sample.open(), sample.open(), async |servers: &mut CheckedServers| {
            replace(servers, protocol, async |_| closed).await;
        });
        let expected = format!("{closed} cannot be reached: ");
        assert!(verdicts[protocol].starts_with(&expected), "{protocol}: {}", verdicts[protocol]);
    }
}

/// Starts a TCP server that sends `answer` to every client and waits for its disconnect.
async fn recording(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = client.write_all(answer).await;
                let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
            });
        }
    });
    address
}

/// Encodes an ONC RPC record that accepts the first call of a client with these results.
fn accepted(results: &[u32]) -> Vec<u8> {
    let reply = [0x6973_6f01, 1, 0, 0, 0, 0];
    let words: Vec<u32> = reply.iter().chain(results).copied().collect();
    let mark = 0x8000_0000 | (4 * words.len() as u32);
    std::iter::once(mark).chain(words).flat_map(u32::to_be_bytes).collect()
}

#[test]
fn nfs_protocol_violation_is_found() {
    let sample = Sample::new();
    let good = accepted(&[2049]);
    let part = |mark: u32, from: usize| [&mark.to_be_bytes(), &good[from..]].concat();
    let portmappers = [
        (accepted(&[0]), "breaks the protocol: the portmapper has no port for program 100003"),
        (accepted(&[65_536]), "breaks the protocol: the portmapper has no port for program 100003"),
        (accepted(&[]), "breaks the protocol: input ends in the middle of a value"),
        (part(28, 4), "breaks the protocol: a reply begins with the record mark 0x0000001c"),
        (part(0xffff_ffff, 4), "breaks the protocol: a reply begins with the record mark 0xffffffff"),
        (part(0x8000_0014, 8), "breaks the protocol: a reply begins with the record mark 0x80000014"),
        (part(0x8000_0018, 8), "breaks the protocol: the reply does not belong to the call"),
    ];
    for (answer, expected) in portmappers {
        let verdicts = checked(sample.open(), sample.open(), async |servers: &mut CheckedServers| {
            servers.portmap = recording(answer.leak()).await;
        });
        assert_eq!(verdicts["NFS"], expected);
    }
    // MNT: an error, a handle that is too long, and one that is not there.
    let mounts = [
        (accepted(&[13]), "/ cannot be accessed: MNT returned 13"),
        (accepted(&[&[0, 68][..], &[7; 17]].concat()), "breaks the protocol: a file handle has 68 bytes"),
        (accepted(&[0, 64]), "breaks the protocol: input ends in the middle of a value"),
    ];
    for (answer, expected) in mounts {
        let verdicts = checked(sample.open(), sample.open(), async |servers: &mut CheckedServers| {
            replace(servers, "NFS", async |_| recording(answer.leak()).await).await;
        });
        assert_eq!(verdicts["NFS"], expected);
    }
}

#[test]
fn http_protocol_violation_is_found() {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let sample = Sample::new();
    let answers = [
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "breaks the protocol: a response has a malformed head: "),
        (format!("{OK}\r\n"), "breaks the protocol: a response has no Content-Length"),
        (format!("{OK}Content-Length: -1\r\n\r\n"), "breaks the protocol: a response has no Content-Length"),
        (
            format!("{OK}X: {}", "x".repeat(20_000)),
            "breaks the protocol: the head of a response has more than",
        ),
        (format!("{OK}Content-Length: 3\r\n\r\nabc"), "isowire/pxelinux.cfg has 3 bytes instead of "),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "isowire/pxelinux.cfg is answered with",
        ),
    ];
    for (answer, expected) in answers {
        let verdicts = checked(sample.open(), sample.open(), async |servers: &mut CheckedServers| {
            servers.http = recording(answer.leak().as_bytes()).await;
        });
        assert!(verdicts["HTTP"].starts_with(expected), "{}", verdicts["HTTP"]);
    }
}

#[test]
fn nbd_protocol_violation_is_found() {
    const REPLY: &[u8] = b"NBDMAGICIHAVEOPT\0\x03\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07";
    let sample = Sample::new();
    let answers: [(&[u8], &str); 6] = [
        (b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0", "the greeting is not of the fixed newstyle handshake"),
        (b"\0\0\0\x01\0\0\0\0", "NBD_OPT_GO is answered without NBD_INFO_EXPORT"),
        (b"\x80\0\0\x06\0\0\0\x03who", "the export is refused with NBD_REP_ERR_UNKNOWN: who"),
        (b"\0\0\0\x03\xff\xff\xff\xff", "the reply does not belong to NBD_OPT_GO"),
        (b"\0\0\0\x03\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\0\x01", "NBD_INFO_EXPORT lacks the read-only flag"),
        (b"\0\0\0\x03\0\0\0\x03\0\0\0", "input ends in the middle of a value"),
    ];
    for (answer, expected) in answers {
        let start = if answer.starts_with(b"NBD") { &b""[..] } else { REPLY };
        let answer = [start, answer].concat();
        let verdicts = checked(sample.open(), sample.open(), async |servers: &mut CheckedServers| {
            servers.nbd = recording(answer.leak()).await;
        });
        assert_eq!(verdicts["NBD"], format!("breaks the protocol: {expected}"));
    }
}

/// Starts a TFTP server that sends `answer` to every datagram.
async fn parrot(answer: &'static [u8]) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((_, peer)) = socket.recv_from(&mut [0; 2048]).await {
            let _ = socket.send_to(answer, peer).await;
        }
    });
    address
}

#[test]
fn tftp_protocol_violation_is_found() {
    let sample = Sample::new();
    let answers: [(&[u8], &str); 6] = [
        (b"\0\x05\0\x01none\0", "is answered with ERROR file not found: none instead of an OACK"),
        (b"\0\x03\0\x01data", "is answered with DATA block 1, 4 bytes instead of an OACK"),
        (b"\0\x06blksize\x001468\0", "is offered without the requested options"),
        (b"\0\x06blksize\x009999\0", "is offered with blksize=9999, which was not requested"),
        (b"\0\x06tsize\x007\0", "has 7 bytes instead of"),
        (b"?", "is answered with a malformed packet: packet ends in the middle of a field"),
    ];
    for (answer, verdict) in answers {
        let verdicts = checked(sample.open(), sample.open(), async |servers: &mut CheckedServers| {
            servers.tftp = parrot(answer).await;
        });
        let expected = format!("isowire/pxelinux.cfg {verdict}");
        assert!(verdicts["TFTP"].starts_with(&expected), "{}", verdicts["TFTP"]);
    }
}
