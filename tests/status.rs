//! `isowire status` and its server over real sockets, with honest and hostile clients.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, id};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::iso;
use common::lan::{self, Namespace};
use common::needs::needs;
use common::running::{Running, output_of};
use isowire::boot::{Architecture, Firmware, Platform};
use isowire::bootable::FileKind;
use isowire::export::{Allowed, Batch};
use isowire::machines::local::LocalSocket;
use isowire::machines::{ConnectionTracker, Mac, Protocol, Registry};
use isowire::status::{self, Repeat, StatusFormat};
use isowire::web::server::{self, StatusSocket};
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

    fn status(&self, url: Option<&str>, format: StatusFormat) -> Result<String, String> {
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
const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");

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
        let text = running.status(url.as_deref(), StatusFormat::Table).unwrap();
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
    let json: serde_json::Value =
        serde_json::from_str(&running.status(None, StatusFormat::Json).unwrap()).unwrap();
    let names =
        |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let top = [
        "advice",
        "draining",
        "faults",
        "forgotten",
        "format",
        "images",
        "isowire",
        "machines",
        "panics",
        "services",
        "time",
        "verifications",
    ];
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
            "host_keys",
            "host_name",
            "image",
            "last_seen",
            "mac",
            "name",
            "next",
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
            "up_since",
            "uuid",
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
fn log_of_one_machine_has_its_own_path() {
    let running = TestServer::new();
    let ask = |machine: &str| running.raw(format!("GET /log/{machine} HTTP/1.0\r\n\r\n").as_bytes());
    for known in ["52:54:00:fe:00:b0", "52-54-00-fe-00-b0", "10.0.0.7"] {
        let answer = ask(known);
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{known}: {answer}");
        assert!(
            answer.contains("content-type: application/json\r\n") && answer.ends_with("\r\n\r\n[]"),
            "{answer}"
        );
    }
    for unknown in ["52:54:00:fe:00:b1", "10.0.0.8", "all"] {
        assert!(ask(unknown).starts_with("HTTP/1.0 404 "), "{unknown}");
    }
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
    let error = running.status(None, StatusFormat::Table).unwrap_err();
    let places = "isowire/status.sock or /run/isowire/status.sock or http://127.0.0.1:8081/: ";
    assert!(error.contains(places), "{error}");
    assert!(error.contains("start `isowire serve`"), "{error}");
    let error = running.status(Some(&running.url()), StatusFormat::Table).unwrap_err();
    assert!(error.starts_with(&format!("no isowire server at {}", running.url())), "{error}");
    let error = running.status(Some("https://boot.example/"), StatusFormat::Table).unwrap_err();
    assert!(error.contains("http://ADDR:PORT/"), "{error}");
}

#[test]
fn page_of_this_host_needs_no_option_and_no_session() {
    needs!(lan::NEEDS, ["xorriso", "curl"]);
    let (host, dir) = (Namespace::new(), tempfile::tempdir().unwrap());
    let start = |log: &str| {
        let mut command = host.command(PROGRAM);
        command.arg("serve").arg(&iso::small().path).args(["--bind", "127.0.0.1", "--dhcp", "off"]);
        command.args(["--nbd", "0", "--nfs", "off", "--http", "off", "--tftp", "off"]);
        // Nobody may make a directory there.
        command.env("RUNTIME_DIRECTORY", "/proc/isowire");
        let mut server = Running::start(&mut command, &dir.path().join(log));
        server.wait_for("\nready\n", PATIENCE);
        server
    };
    let first = start("first");
    assert!(first.log().contains("127.0.0.1:8081        http://ADDRESS/ in a browser"), "{}", first.log());
    let report = output_of(host.command(PROGRAM).args(["status", "--json"]).env_remove("XDG_RUNTIME_DIR"));
    assert!(report.contains("\"machines\""), "{report}");

    let code = |name: &str| {
        let mut curl = host.command("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Host: {name}")]);
        output_of(curl.arg("http://127.0.0.1:8081/"))
    };
    assert_eq!(["127.0.0.1:8081", "localhost:8081", "localhost"].map(code), ["200", "200", "200"]);
    assert_eq!(["rebound.example:8081", "localhost.example", "@"].map(code), ["403", "403", "403"]);

    let second = start("second");
    let why = "off: no page at 127.0.0.1:8081: Address already in use";
    assert!(second.log().contains(why), "{}", second.log());
}

#[test]
fn bad_request_gets_an_error() {
    let running = TestServer::new();
    let status = |request: &[u8]| running.raw(request).lines().next().unwrap_or_default().to_owned();
    assert_eq!(status(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
    assert_eq!(status(b"HEAD / HTTP/1.0\r\n\r\n"), "HTTP/1.0 200 OK");
    assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status(b"DELETE / HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), "HTTP/1.1 400 Bad Request");
    for unfinished in [&b"GET / HTTP/1.1\r\nHo"[..], b""] {
        assert_eq!(status(unfinished), "", "nobody waits for an answer");
    }
    let long = [b"GET / HTTP/1.1\r\nA: ", &[b'a'; 100_000][..]].concat();
    assert_eq!(status(&long), "HTTP/1.1 431 Request Header Fields Too Large");
    assert_eq!(status(&b"GET / HTTP/1.1\r\n".repeat(10_000)), "HTTP/1.1 400 Bad Request");
}

#[test]
fn browser_gets_a_page_and_programs_get_json() {
    let running = TestServer::new();
    let get = |rest: &str| running.raw(format!("GET {rest}\r\nHost: x\r\n\r\n").as_bytes());
    let page = get("/ HTTP/1.1\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8");
    assert!(page.contains("content-type: text/html") && page.contains("<title>isowire</title>"), "{page}");
    assert!(page.len() < 100 << 10 && page.contains("content-security-policy: default-src 'none'"));
    // Nothing comes from elsewhere.
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http") && !page.contains("@import"));
    for accept in ["", "\r\nAccept: */*", "\r\nAccept: application/json"] {
        let json = get(&format!("/ HTTP/1.1{accept}"));
        assert!(json.contains("content-type: application/json") && json.contains("\"machines\":["), "{json}");
    }
    assert!(get("/healthz HTTP/1.1").ends_with("\r\n\r\nok\n"));
}

#[test]
fn watchers_get_an_event_each_second_and_leave_room() {
    let running = TestServer::new();
    let watch = || {
        let mut stream = TcpStream::connect(running.tcp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    };
    let mut watching: Vec<_> = (0..16).map(|_| watch()).collect();
    let mut text = String::new();
    let since = Instant::now();
    while text.matches("event: status").count() < 4 {
        let mut part = [0; 4096];
        let len = watching[0].read(&mut part).unwrap();
        assert!(len > 0, "{text}");
        text += &String::from_utf8_lossy(&part[..len]);
    }
    assert!(since.elapsed() > Duration::from_millis(1500), "the first at once, then one each second");
    for stream in &mut watching[1..] {
        stream.read_exact(&mut [0; 15]).unwrap();
    }
    let mut answer = String::new();
    watch().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("close one"), "{answer}");
    assert!(running.status(Some(&running.url()), StatusFormat::Json).is_ok(), "programs are served");
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
    let error = running.status(Some(&url), StatusFormat::Json).unwrap_err();
    assert!(error.starts_with(&format!("response of {url} ended early")), "{error}");
    flood.join().unwrap();
}

/// A terminal in which a shell runs `isowire status --watch`; tmux draws what it prints.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(test: &str, url: &str) -> Self {
        let terminal = Self { socket: format!("isowire-{}-{test}", id()) };
        let program = env!("CARGO_BIN_EXE_isowire");
        let shell =
            format!("echo before; {program} status --watch {url}; echo ended $?; stty -a; exec sleep 100");
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", &shell]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        output_of(Command::new("tmux").args(["-L", &self.socket]).args(arguments))
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn is_alternate(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{alternate_on}"]).trim() == "1"
    }

    /// Returns the screen as soon as it contains the text.
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(Instant::now() < deadline, "no `{text}` in:\n{screen}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the process of the program, a child of the shell.
    fn program(&self) -> String {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let children = format!("/proc/{0}/task/{0}/children", shell.trim());
        std::fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).status();
    }
}

/// A server with this machine and so many others.
fn room(machines: u8) -> TestServer {
    let running = TestServer::new();
    for number in 1..machines {
        let mac: Mac = format!("52:54:00:fe:01:{number:02x}").parse().unwrap();
        running.registry.offered(mac, X64, Some(Ipv4Addr::new(10, 0, 1, number)), Instant::now());
    }
    running
}

#[test]
fn watch_fits_its_terminal_and_obeys_keys() {
    needs!(["tmux"]);
    let running = room(50);
    let terminal = Terminal::open("keys", &running.url());
    let screen = terminal.wait_for("50 machines (50 offered)");
    assert!(terminal.is_alternate());
    assert!(!screen.contains("before"), "the screen before is hidden: {screen}");
    assert!(screen.contains("MACHINE") && screen.contains("q: quit"), "{screen}");

    terminal.keys(&["/", "01:07", "Enter"]);
    let screen = terminal.wait_for("; 1 shown");
    assert!(screen.contains("52:54:00:fe:01:07") && !screen.contains("52:54:00:fe:01:08"), "{screen}");
    terminal.keys(&["Down", "Enter"]);
    let screen = terminal.wait_for("boot file offered to x64 UEFI");
    assert!(screen.starts_with("52:54:00:fe:01:07\n") && screen.contains("+0s"), "{screen}");
    terminal.keys(&["q"]);
    terminal.wait_for("; 1 shown");
    terminal.keys(&["Escape"]);
    terminal.wait_for("/: filter");
    terminal.keys(&["s"]);
    terminal.wait_for("s: by name");

    terminal.tmux(&["resize-window", "-x", "44", "-y", "12"]);
    let screen = terminal.wait_for("q: quit");
    terminal.wait_for("MACHINE            STAGE");
    assert!(screen.lines().count() <= 12 && screen.lines().all(|line| line.len() <= 44), "{screen}");

    terminal.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    terminal.keys(&["q"]);
    let screen = terminal.wait_for("ended 0");
    assert!(screen.contains("before"), "the screen before is back: {screen}");
    assert!(!terminal.is_alternate());
    terminal.wait_for(" icanon ");
}

#[test]
fn watch_restores_the_terminal_when_it_is_told_to_end() {
    needs!(["tmux"]);
    let running = room(3);
    for signal in ["TERM", "INT"] {
        let terminal = Terminal::open(signal, &running.url());
        terminal.wait_for("3 machines");
        output_of(Command::new("kill").args([&format!("-{signal}"), &terminal.program()]));
        let screen = terminal.wait_for("ended 0");
        assert!(screen.contains("before") && !terminal.is_alternate(), "{screen}");
        let screen = terminal.wait_for(" icanon ");
        assert!(screen.contains(" echo "), "{screen}");
    }
}

#[test]
fn watch_ends_with_its_terminal() {
    needs!(["tmux"]);
    let running = room(3);
    let terminal = Terminal::open("gone", &running.url());
    terminal.wait_for("3 machines");
    let process = PathBuf::from(format!("/proc/{}", terminal.program()));
    terminal.tmux(&["kill-server"]);
    let deadline = Instant::now() + PATIENCE;
    // A process that ended may wait for its parent.
    let state = || std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    while process.exists() && !state().contains(") Z ") {
        assert!(Instant::now() < deadline, "it reads from a terminal that is gone");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn watch_says_that_its_server_is_away_and_goes_on() {
    needs!(["tmux"]);
    let mut running = room(3);
    let terminal = Terminal::open("away", &running.url());
    terminal.wait_for("3 machines");
    drop(running.stop.take());
    let screen = terminal.wait_for("no isowire server at");
    assert!(screen.contains("3 machines"), "the last report stays: {screen}");
    terminal.keys(&["C-c"]);
    terminal.wait_for("ended 0");
}
