//! TFTP with real clients, with many clients, and with clients that break the rules.

mod common;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::needs::{needs, tool};
use common::noise;
use common::running::output_of;
use isowire::boot::menu::{Cms, CopyToRam, MenuSettings};
use isowire::boot::{BootConfig, Files, Ports as MenuPorts};
use isowire::bootable::Root;
use isowire::export::Allowed;
use isowire::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use isowire::image::{Extent, Image, Source};
use isowire::images::{ImageSet, ServedImage};
use isowire::tftp::server::{self, Options, PortMode};
use tokio::sync::{Barrier, oneshot};
use tokio::task::{JoinHandle, JoinSet};

/// The files of the test image: name, offset, length.
const FILES: [(&str, u64, u64); 5] = [
    ("empty", 2048, 0),
    ("small", 4096, 5),
    ("whole-blocks", 6144, 1468 * 20),
    ("vmlinuz", 2048 * 20, 3_000_001),
    ("initramfs.img", 2048 * 1500, ROLLOVER),
];
const IMAGE_LEN: u64 = 38_000_000;
/// A little more than 65536 blocks of 512 bytes.
const ROLLOVER: u64 = 65_536 * 512 + 5000;

/// A server of one image, in this process.
struct Server {
    runtime: tokio::runtime::Runtime,
    running: JoinHandle<io::Result<()>>,
    stop: oneshot::Sender<()>,
    dir: tempfile::TempDir,
    port: u16,
}

impl Server {
    fn start(options: Options) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = dir.path().join("image");
        noise::write(&image, IMAGE_LEN);
        let files = files(&image);
        let open = move |path: &[u8], local| {
            assert_ne!(path, b"panic", "a fault over one request");
            files.open(path, local)
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let socket = runtime.block_on(tokio::net::UdpSocket::bind("0.0.0.0:0")).unwrap();
        let port = socket.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let machines = Arc::new(isowire::machines::Registry::new(std::time::Instant::now()));
        let running =
            runtime.spawn(server::run(socket, open, machines, options, async { drop(stopped.await) }));
        Self { runtime, running, stop, dir, port }
    }

    fn content(&self, name: &str) -> Vec<u8> {
        let (_, offset, len) = FILES.into_iter().find(|(file, ..)| *file == name).unwrap();
        fs::read(self.dir.path().join("image")).unwrap()[offset as usize..][..len as usize].to_vec()
    }

    /// Path of the file that a client fetched.
    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    #[track_caller]
    fn assert_fetched(&self, name: &str, how: &str) {
        let fetched = fs::read(self.out()).unwrap_or_default();
        assert!(fetched == self.content(name), "{name} by {how}: {} bytes", fetched.len());
        fs::remove_file(self.out()).unwrap();
    }

    fn client(&self) -> Client {
        self.client_from("127.0.0.1".parse().unwrap())
    }

    /// A client that talks to this address of the server.
    fn client_from(&self, address: Ipv4Addr) -> Client {
        Client::of(SocketAddr::from((address, self.port)))
    }
}

/// Client for packets that real clients do not send.
struct Client {
    socket: UdpSocket,
    server: SocketAddr,
    /// Source of the last datagram.
    peer: SocketAddr,
}

impl Client {
    fn of(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, server, peer: server }
    }

    fn request(&self, name: &str, options: &str) {
        let options = options.replace(' ', "\0");
        let request = format!("\0\x01{name}\0octet\0{options}{}", if options.is_empty() { "" } else { "\0" });
        self.socket.send_to(request.as_bytes(), self.server).unwrap();
    }

    /// Requests a file and acknowledges the OACK. The long time-out keeps a slow test from getting
    /// packets twice.
    fn open(&mut self, name: &str, options: &str) {
        self.request(name, format!("timeout 20 {options}").trim_end());
        assert!(self.receive().starts_with(b"\0\x06timeout\x0020\0"));
        self.ack(0);
    }

    fn ack(&self, block: u16) {
        self.socket.send_to(&[[0, 4], block.to_be_bytes()].concat(), self.peer).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut datagram = vec![0; 65_536];
        let (len, peer) = self.socket.recv_from(&mut datagram).expect("an answer");
        self.peer = peer;
        datagram.truncate(len);
        datagram
    }

    #[track_caller]
    fn expect_error(&mut self, code: u8, text: &str) {
        let datagram = self.receive();
        assert_eq!(datagram[..4], [0, 5, 0, code], "{}", datagram.escape_ascii());
        let message = String::from_utf8(datagram[4..datagram.len() - 1].to_vec()).unwrap();
        assert!(message.contains(text), "{message}");
    }

    #[track_caller]
    fn expect_data(&mut self, block: u16) -> Vec<u8> {
        let mut datagram = self.receive();
        assert_eq!(datagram[..4], [[0, 3], block.to_be_bytes()].concat(), "{}", datagram[..4].escape_ascii());
        datagram.split_off(4)
    }

    fn is_left_in_peace_for(&self, time: Duration) -> bool {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let is_quiet = self.socket.recv_from(&mut [0; 2048]).is_err();
        self.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        is_quiet
    }
}

fn files(image: &Path) -> Files {
    let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let dir =
        index.add(NodeId::ROOT, b"boot", NodeKind::Directory { entries: Vec::new() }, attributes).unwrap();
    for (name, offset, len) in FILES {
        let kind = NodeKind::File { extents: vec![Extent { offset, len }] };
        index.add(dir, name.as_bytes(), kind, attributes).unwrap();
    }
    let image = Arc::new(Image::new(Source::open(image).unwrap(), index).unwrap());
    let images = ImageSet::new(ServedImage::new("arch", image), Vec::new());
    let settings = MenuSettings {
        roots: vec![Root::Nbd],
        copytoram: CopyToRam::Auto,
        timeout: 10,
        cms: Cms::Verify,
        parameters: Vec::new(),
    };
    Files::new(Arc::new(images), BootConfig::new(settings, MenuPorts { tftp: 69, http: Some(80) })).unwrap()
}

fn single_port() -> Options {
    Options { ports: PortMode::Single, ..Options::default() }
}

#[test]
fn address_not_allowed_gets_no_answer() {
    let list = Allowed::only(vec!["127.0.0.2/32".parse().unwrap()]);
    let server = Server::start(Options { allowed: list, ..Options::default() });
    let (other, mut allowed) = (server.client(), server.client());
    allowed.socket = UdpSocket::bind(("127.0.0.2", 0)).unwrap();
    for client in [&other, &allowed] {
        client.request("no/such/file", "");
        client.request("boot/small", "");
    }
    allowed.expect_error(1, "no such file");
    // Its requests came first, so an answer would have arrived.
    assert!(other.is_left_in_peace_for(Duration::from_millis(1)));
}

// ---- real clients ----

fn curl(server: &Server, path: &str, arguments: &[&str]) -> Output {
    let url = format!("tftp://127.0.0.1:{}/{path}", server.port);
    tool("curl").args(["-sS", "-o"]).arg(server.out()).args(arguments).arg(url).output().unwrap()
}

#[test]
fn curl_fetches_files_with_and_without_options() {
    needs!(["curl"]);
    for server in [Server::start(Options::default()), Server::start(single_port())] {
        // curl 7.88 fails on every empty file, whatever the server.
        for name in ["small", "whole-blocks", "vmlinuz"] {
            for arguments in [&["--tftp-blksize", "1468"][..], &[], &["--tftp-no-options"]] {
                let output = curl(&server, &format!("boot/{name}"), arguments);
                assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
                server.assert_fetched(name, &format!("curl {arguments:?}"));
            }
        }
    }
}

#[test]
fn block_numbers_roll_over_in_lockstep() {
    needs!(["curl"]);
    let server = Server::start(Options::default());
    let output = curl(&server, "boot/initramfs.img", &["--tftp-no-options"]);
    assert!(output.status.success(), "{output:?}");
    server.assert_fetched("initramfs.img", "curl");
}

#[test]
fn curl_reports_missing_and_denied() {
    needs!(["curl"]);
    let server = Server::start(Options::default());
    // 68: file not found on the server. 69: permission problem.
    for (path, code) in [("boot/nothing", 68), ("boot", 69), ("%2e%2e/etc/passwd", 69)] {
        assert_eq!(curl(&server, path, &["--path-as-is"]).status.code(), Some(code), "{path}");
    }
    for path in ["/boot/small", "//BOOT//Small", "boot%5Csmall"] {
        assert!(curl(&server, path, &[]).status.success(), "{path}");
        server.assert_fetched("small", path);
    }
}

/// tftp-hpa's client.
fn tftp(server: &Server, arguments: &[&str], command: &[&str]) -> Command {
    let mut tftp = tool("tftp");
    tftp.args(arguments).args(["127.0.0.1", &server.port.to_string(), "-c"]).args(command);
    tftp.current_dir(server.dir.path());
    tftp
}

#[test]
fn tftp_hpa_fetches_in_binary_mode_only() {
    needs!(["tftp"]);
    let server = Server::start(Options::default());
    for name in ["empty", "small", "whole-blocks", "vmlinuz"] {
        output_of(&mut tftp(&server, &["-m", "binary"], &["get", &format!("boot/{name}"), "out"]));
        server.assert_fetched(name, "tftp-hpa");
    }
    let said = |mut command: Command| String::from_utf8(command.output().unwrap().stdout).unwrap();
    let text = said(tftp(&server, &[], &["get", "boot/small", "out"]));
    assert!(text.contains("Error code 4: only octet (binary) mode"), "{text}");
    let text = said(tftp(&server, &["-m", "binary"], &["get", "boot/nothing", "out"]));
    assert!(
        text.contains("Error code 1: isowire at 127.0.0.1: no such file in the image: boot/nothing"),
        "{text}"
    );
    let text = said(tftp(&server, &["-m", "binary"], &["put", "image", "boot/small"]));
    assert!(text.contains("Error code 2: this server is read-only"), "{text}");
}

#[test]
fn atftp_fetches_with_all_options() {
    needs!(["atftp"]);
    for server in [Server::start(Options::default()), Server::start(single_port())] {
        let options: [&[&str]; 4] = [
            &[],
            &["blksize 1468", "windowsize 16"],
            &["blksize 8192", "windowsize 64", "timeout 2"],
            &["blksize 512", "windowsize 7"],
        ];
        for (name, options) in [("vmlinuz", options[0]), ("whole-blocks", options[1])]
            .into_iter()
            .chain(options.map(|options| ("vmlinuz", options)))
            .chain([("initramfs.img", options[3])])
        {
            let mut atftp = tool("atftp");
            for option in options {
                atftp.args(["--option", option]);
            }
            atftp.args(["-g", "-r", &format!("/boot/{name}"), "-l"]).arg(server.out());
            output_of(atftp.args(["127.0.0.1", &server.port.to_string()]));
            server.assert_fetched(name, &format!("atftp {options:?}"));
        }
    }
}

#[test]
fn busybox_fetches() {
    needs!(["busybox"]);
    let server = Server::start(Options::default());
    for (name, size) in
        [("small", "512"), ("whole-blocks", "1468"), ("vmlinuz", "1468"), ("vmlinuz", "65464")]
    {
        let mut busybox = tool("busybox");
        busybox.args(["tftp", "-g", "-b", size, "-r", &format!("/boot/{name}"), "-l"]).arg(server.out());
        output_of(busybox.args(["127.0.0.1", &server.port.to_string()]));
        server.assert_fetched(name, &format!("busybox -b {size}"));
    }
}

// ---- clients of our own ----

#[test]
fn answer_comes_from_requested_address() {
    let (own_ports, single) = (Server::start(Options::default()), Server::start(single_port()));
    for server in [&own_ports, &single] {
        let mut client = server.client_from(Ipv4Addr::new(127, 8, 9, 10));
        client.request("boot/small", "");
        assert_eq!(client.expect_data(1), server.content("small"));
        assert_eq!(client.peer.ip(), client.server.ip());
        assert_eq!(client.peer.port() == server.port, std::ptr::eq(server, &single));
        client.ack(1);
        // A request that is refused, and one that the server does not take at all.
        client.request("boot/missing", "");
        client.expect_error(1, "no such file");
        assert_eq!(client.peer, client.server);
        client.socket.send_to(b"\0\x02boot/small\0octet\0", client.server).unwrap();
        client.expect_error(2, "");
        assert_eq!(client.peer, client.server);
    }
}

#[test]
fn blocks_and_windows_are_as_agreed() {
    let server = Server::start(Options { max_windowsize: 3, ..Options::default() });
    let content = server.content("vmlinuz");
    let mut client = server.client();
    client.request("boot/vmlinuz", "WindowSize 9 tsize 0 foo bar blksize 1000 timeout 20");
    assert_eq!(
        client.receive(),
        b"\0\x06windowsize\x003\0tsize\x003000001\0blksize\x001000\0timeout\x0020\0"
    );
    client.ack(0);
    for block in 1..=3 {
        assert_eq!(client.expect_data(block), content[(usize::from(block) - 1) * 1000..][..1000]);
    }
    // RFC 7440 §4: from an ACK inside the window on it is sent again.
    client.ack(2);
    for block in 3..=5 {
        assert_eq!(client.expect_data(block), content[(usize::from(block) - 1) * 1000..][..1000]);
    }
    client.socket.send_to(b"\0\x05\0\0enough", client.peer).unwrap();
    assert!(client.is_left_in_peace_for(Duration::from_millis(600)));
}

#[test]
fn size_can_be_requested_alone() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    for _ in 0..3 {
        client.socket.send_to(include_bytes!("data/tftp/ovmf-size.rrq"), client.server).unwrap();
        client.expect_error(1, "no such file in the image: /snponly.efi");
        client.request("boot/vmlinuz", "tsize 0 timeout 20");
        assert_eq!(client.receive(), b"\0\x06tsize\x003000001\0timeout\x0020\0");
        client.socket.send_to(include_bytes!("data/tftp/ovmf-abort.error"), client.peer).unwrap();
    }
    client.open("boot/small", "blksize 1468 windowsize 4");
    assert_eq!(client.expect_data(1), server.content("small"));
}

#[test]
fn strangers_get_an_error() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.open("boot/whole-blocks", "");
    client.expect_data(1);
    let mut stranger = server.client();
    stranger.peer = client.peer;
    stranger.ack(1);
    stranger.expect_error(5, "serves no transfer of yours");
    stranger.socket.send_to(b"\0\x05\0\0an error is never answered\0", client.peer).unwrap();
    assert!(stranger.is_left_in_peace_for(Duration::from_millis(100)));
    stranger.peer = stranger.server;
    stranger.ack(1);
    stranger.expect_error(5, "serves no transfer of yours");
    client.ack(1);
    client.expect_data(2);
}

#[test]
fn repeated_request_continues_transfer() {
    for options in [Options::default(), single_port()] {
        let server = Server::start(options);
        let mut client = server.client();
        (0..2).for_each(|_| client.request("boot/vmlinuz", "timeout 20"));
        client.open("boot/vmlinuz", "");
        let first = client.peer;
        client.expect_data(1);
        assert_eq!(client.peer, first);
        client.open("boot/small", "");
        assert_eq!(client.expect_data(1), server.content("small"), "another file is another transfer");
        client.ack(1);
        assert!(client.is_left_in_peace_for(Duration::from_millis(300)), "and the first one is over");
    }
}

#[test]
fn garbage_is_refused() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    for garbage in [&b""[..], b"\0", b"\0\x09\0\0", b"\0\x01boot/small", b"\0\x01\0", &[0xff; 1400]] {
        client.socket.send_to(garbage, client.server).unwrap();
        client.expect_error(4, "not a TFTP packet");
    }
    client.socket.send_to(b"\0\x05\0\0", client.server).unwrap();
    client.request("\x1b[2J\u{e9}", "");
    client.expect_error(1, "\\x1b[2J\\xc3\\xa9");
    client.request("boot/small", "");
    assert_eq!(client.expect_data(1), server.content("small"));
}

#[test]
fn transfers_have_a_limit() {
    // Half of them are for one address.
    let server = Server::start(Options { max_transfers: 4, ..Options::default() });
    let mut clients = [server.client(), server.client(), server.client()];
    clients.iter().for_each(|client| client.request("boot/small", "timeout 20"));
    // All three are answered before the first goes on, so that none is done before the last is looked at.
    let answers: Vec<_> = clients.iter_mut().map(|client| client.receive()).collect();
    let mut refused = 0;
    for (client, datagram) in clients.iter_mut().zip(answers) {
        if datagram.starts_with(b"\0\x05\0\0") {
            let text = datagram.escape_ascii().to_string();
            assert!(text.contains("2 transfers to this address already"), "{text}");
            refused += 1;
        } else {
            client.ack(0);
            client.expect_data(1);
            client.ack(1);
        }
    }
    assert_eq!(refused, 1);
    let end = Instant::now() + Duration::from_secs(10);
    let mut late = server.client();
    loop {
        late.request("boot/small", "");
        if late.receive().starts_with(b"\0\x03\0\x01") {
            break;
        }
        assert!(Instant::now() < end, "the places of those that are done are free");
    }
}

#[test]
fn truncated_image_stops_its_transfers() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.request("boot/initramfs.img", "windowsize 4 timeout 20");
    client.receive();
    File::options().write(true).open(server.dir.path().join("image")).unwrap().set_len(8192).unwrap();
    client.ack(0);
    assert!(client.is_left_in_peace_for(Duration::from_secs(1)));
    let mut other = server.client();
    other.request("boot/small", "");
    other.expect_error(0, "changed in place");
}

#[test]
fn stopping_server_completes_transfers() {
    let server = Server::start(Options::default());
    let mut client = server.client();
    client.open("boot/small", "");
    client.expect_data(1);
    server.stop.send(()).unwrap();
    sleep(Duration::from_millis(200));
    let late = Client::of(client.server);
    late.request("boot/small", "");
    assert!(late.is_left_in_peace_for(Duration::from_secs(1)), "the next server may answer");
    client.ack(1);
    server.runtime.block_on(server.running).unwrap().unwrap();
}

/// Machines that boot at the same time.
const CROWD: usize = 2000;

#[test]
fn two_thousand_machines_load_at_once() {
    raise_file_limit();
    for options in [Options::default(), single_port()] {
        let server = Server::start(options);
        let (content, port) = (Arc::new(server.content("whole-blocks")), server.port);
        let all_are_served = Arc::new(Barrier::new(CROWD));
        server.runtime.block_on(async {
            let mut crowd = JoinSet::new();
            for _ in 0..CROWD {
                crowd.spawn(load_in_a_crowd(port, Arc::clone(&content), Arc::clone(&all_are_served)));
            }
            while let Some(result) = crowd.join_next().await {
                result.unwrap();
            }
        });
    }
}

/// Fetches `whole-blocks`, but sends the first ACK only after all clients have an answer.
async fn load_in_a_crowd(port: u16, content: Arc<Vec<u8>>, all_are_served: Arc<Barrier>) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = b"\0\x01boot/whole-blocks\0octet\0blksize\x001468\0";
    let (oack, transfer) = exchange(&socket, request, ([127, 0, 0, 1], port).into(), b"\0\x06").await;
    assert_eq!(oack, b"\0\x06blksize\x001468\0");
    all_are_served.wait().await;
    let mut fetched = Vec::new();
    for block in 1..=21_u16 {
        let ack = [[0, 4], (block - 1).to_be_bytes()].concat();
        let data = [[0, 3], block.to_be_bytes()].concat();
        let (datagram, _) = exchange(&socket, &ack, transfer, &data).await;
        fetched.extend_from_slice(&datagram[4..]);
    }
    socket.send_to(&[0, 4, 0, 21], transfer).await.unwrap();
    assert!(fetched == *content);
}

/// Sends `say` until `answer` comes, since many clients fill the buffers. Skips copies of earlier
/// packets.
async fn exchange(
    socket: &tokio::net::UdpSocket,
    say: &[u8],
    to: SocketAddr,
    answer: &[u8],
) -> (Vec<u8>, SocketAddr) {
    let mut datagram = vec![0; 2048];
    loop {
        socket.send_to(say, to).await.unwrap();
        let next = async {
            loop {
                let (len, from) = socket.recv_from(&mut datagram).await.unwrap();
                if datagram.starts_with(answer) {
                    return (len, from);
                }
                assert_ne!(datagram[1], 5, "{}", datagram[..len].escape_ascii());
            }
        };
        if let Ok((len, from)) = tokio::time::timeout(Duration::from_secs(2), next).await {
            datagram.truncate(len);
            return (datagram, from);
        }
    }
}

fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
}

#[test]
fn panic_over_a_request_ends_that_request_alone() {
    let server = Server::start(Options::default());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for path in ["panic", "missing"] {
        let request = [b"\0\x01", path.as_bytes(), b"\0octet\0"].concat();
        client.send_to(&request, ("127.0.0.1", server.port)).unwrap();
    }
    let mut packet = [0; 600];
    client.recv_from(&mut packet).unwrap();
    assert_eq!(packet[..4], [0, 5, 0, 1], "an ERROR: no such file");
}

#[test]
fn transfers_of_all_addresses_have_a_limit() {
    let server = Server::start(Options { max_transfers: 2, ..Options::default() });
    let answers = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"].map(|address| {
        let client = UdpSocket::bind(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.send_to(b"\0\x01boot/small\0octet\0timeout\x0020\0", ("127.0.0.1", server.port)).unwrap();
        let mut packet = [0; 600];
        let (len, _) = client.recv_from(&mut packet).unwrap();
        packet[..len].escape_ascii().to_string()
    });
    assert!(answers[..2].iter().all(|answer| answer.starts_with("\\x00\\x06")), "{answers:?}");
    assert!(answers[2].contains("busy with 2 transfers"), "{answers:?}");
}
