//! `isowire status` and its server over real sockets, with honest and hostile clients.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use isowire::boot::{Architecture, Firmware, Platform};
use isowire::bootable::FileKind;
use isowire::export::{Allowed, Batch};
use isowire::inspect::Format;
use isowire::machines::local::LocalSocket;
use isowire::machines::server::{self, StatusSocket};
use isowire::machines::{ConnectionTracker, Mac, Protocol, Registry};
use isowire::status::{self, Repeat};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A status server on both kinds of sockets, with one machine.
struct TestServer {
    registry: Arc<Registry>,
    tcp: SocketAddr,
    local: PathBuf,
    runtime_directory: tempfile::TempDir,
    /// The server stops when this is dropped.
    stop: Option<oneshot::Sender<()>>,
    _runtime: Runtime,
}

impl TestServer {
    fn new() -> Self {
        let registry = Arc::new(Registry::new(Instant::now()));
        registry.offered(mac(), X64, Some(ADDRESS), Instant::now());

        let runtime_directory = tempfile::tempdir().unwrap();
        let local = runtime_directory.path().join("isowire/status.sock");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = listener.local_addr().unwrap();
        let sockets = vec![
            StatusSocket::Local(LocalSocket::bind(&local).unwrap()),
            StatusSocket::Tcp(listener, Allowed::default()),
        ];
        let runtime = Runtime::new().unwrap();
        let (stop, stopping) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopping.await;
        };
        runtime.spawn(server::run(sockets, Arc::clone(&registry), shutdown));
        Self { registry, tcp, local, runtime_directory, stop: Some(stop), _runtime: runtime }
    }

    fn status(&self, url: Option<&str>, format: Format) -> Result<String, String> {
        let directory = self.runtime_directory.path().as_os_str().to_owned();
        let variable = |name: &str| (name == "XDG_RUNTIME_DIR").then(|| directory.clone());
        let mut out = Vec::new();
        match status::run(url, format, Repeat::Once, &variable, &mut out) {
            Ok(()) => Ok(String::from_utf8(out).unwrap()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.tcp)
    }

    /// Sends `request` and returns the whole response.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may be done with us before it has read all.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

const X64: Platform = Platform { firmware: Firmware::Pxe, architecture: Architecture(7) };
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
/// Longer than any time limit of the server.
const PATIENCE: Duration = Duration::from_secs(60);

fn mac() -> Mac {
    "52:54:00:fe:00:b0".parse().unwrap()
}

#[test]
fn sockets_report_the_same_status() {
    let running = TestServer::new();
    let registry = Arc::clone(&running.registry);
    let mut tracker = ConnectionTracker::new(registry, ADDRESS.into(), Protocol::Tftp, Instant::now());
    tracker.open(FileKind::Menu);
    tracker.sent(&Batch::default(), 0, Instant::now());
    for url in
        [None, Some(running.url()), Some(running.local.display().to_string()), Some(running.tcp.to_string())]
    {
        let text = running.status(url.as_deref(), Format::Text).unwrap();
        let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..5], ["52:54:00:fe:00:b0", "10.0.0.7", "x64", "UEFI", "menu"], "{url:?}: {text}");
        assert!(
            text.ends_with("\n1 machine (1 menu), 0 stuck, 0 with a connection to a root file system\n"),
            "{text}"
        );
    }
}

/// Field names are an interface for programs.
#[test]
fn json_field_names_are_stable() {
    let running = TestServer::new();
    let json: serde_json::Value = serde_json::from_str(&running.status(None, Format::Json).unwrap()).unwrap();
    let names =
        |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let top = ["faults", "forgotten", "format", "isowire", "machines", "panics", "time", "verifications"];
    assert_eq!(names(&json), top);
    let machine = &json["machines"][0];
    assert_eq!(
        names(machine),
        [
            "addresses",
            "advice",
            "airootfs",
            "architecture",
            "boots",
            "diagnosis",
            "firmware",
            "image",
            "last_seen",
            "mac",
            "name",
            "progress",
            "rate",
            "reached",
            "reason",
            "refusal",
            "root",
            "root_connections",
            "running",
            "secure_boot_suspected",
            "sent",
            "since",
            "stage",
            "story",
        ]
    );
    assert_eq!(names(&machine["sent"]), ["http", "nbd", "nfs", "tftp"]);
    assert_eq!(machine["mac"], "52:54:00:fe:00:b0");
    assert_eq!(machine["addresses"], serde_json::json!(["10.0.0.7"]));
    assert_eq!((&machine["stage"], &machine["architecture"]), (&"offered".into(), &7.into()));
    assert_eq!(machine["reached"], serde_json::json!({"seen": 0.0, "offered": 0.0}));
    assert_eq!(machine["airootfs"], serde_json::Value::Null);
    let ages =
        ["since", "last_seen"].map(|name| json["time"].as_i64().unwrap() - machine[name].as_i64().unwrap());
    assert!(ages.iter().all(|age| (0..60).contains(age)), "{ages:?}");
}

#[test]
fn missing_server_error_gives_advice() {
    let mut running = TestServer::new();
    drop(running.stop.take());
    let deadline = Instant::now() + PATIENCE;
    while running.local.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(!running.local.exists(), "the socket goes with its server");
    let error = running.status(None, Format::Text).unwrap_err();
    assert!(error.contains("isowire/status.sock or /run/isowire/status.sock"), "{error}");
    assert!(error.contains("start `isowire serve`"), "{error}");
    let error = running.status(Some(&running.url()), Format::Text).unwrap_err();
    assert!(error.starts_with(&format!("no isowire server at {}", running.url())), "{error}");
    let error = running.status(Some("https://boot.example/"), Format::Text).unwrap_err();
    assert!(error.contains("http://ADDR:PORT/"), "{error}");
}

#[test]
fn bad_request_gets_an_error() {
    let running = TestServer::new();
    let status = |request: &[u8]| running.raw(request).lines().next().unwrap_or_default().to_owned();
    assert_eq!(status(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(status(b"HEAD / HTTP/1.0\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status(b"DELETE / HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(status(b"GET / HTTP/1.1\r\nHo"), "HTTP/1.1 400 Bad Request");
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "HTTP/1.1 400 Bad Request");
    assert_eq!(status(b""), "HTTP/1.1 400 Bad Request");
    let long = [b"GET / HTTP/1.1\r\nA: ", &[b'a'; 100_000][..]].concat();
    assert_eq!(status(&long), "HTTP/1.1 431 Request Header Fields Too Large");
    assert_eq!(status(&b"GET / HTTP/1.1\r\n".repeat(10_000)), "HTTP/1.1 400 Bad Request");
}

#[test]
fn silent_clients_block_nobody() {
    let running = TestServer::new();
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&running.local).unwrap()).collect();
    let over_tcp: Vec<_> = (0..40).map(|_| TcpStream::connect(running.tcp).unwrap()).collect();
    // They are left after a while each time; a client that waits gets its turn.
    let mut client = TcpStream::connect(running.tcp).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut first = [0; 15];
    client.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    drop((silent, over_tcp));
}

/// A client must bound the response of a server it does not know.
#[test]
fn endless_response_is_given_up() {
    let running = TestServer::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let flood = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b' '; 64 << 10]).is_ok() {}
    });
    let error = running.status(Some(&url), Format::Json).unwrap_err();
    assert!(error.starts_with(&format!("response of {url} ended early")), "{error}");
    flood.join().unwrap();
}
