//! Everything at once, for as long as `ISOWIRE_SOAK` says in seconds: clients that live on the server
//! notice nothing, and the server does not grow.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::dhcp::{broadcast, client_socket, newcomer};
use common::iso;
use common::lan::{self, BRIDGE, Lan, Namespace};
use common::nbd_clients::{Clients, Habit};
use common::needs::{needs, only_with_all};
use common::nfs::anonymous_memory;
use common::rpc::Client as RpcClient;
use common::running::Running;

const NEEDS: [&str; 4] = ["xorriso", "curl", "atftp", "nbdinfo"];

const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 7);
const SOON: Duration = Duration::from_secs(60);
const DISCOVER: &[u8] = include_bytes!("data/dhcp/ipxe-bios-discover.bin");

/// Machines that are seen before the use is measured: more than the table of machines holds.
const STRANGERS: u32 = 5000;

/// Time of the test without `ISOWIRE_SOAK`.
const PLAIN_TIME: Duration = Duration::from_secs(1200);

/// What a process takes from the system.
#[derive(Debug, Clone, Copy)]
struct Use {
    memory: u64,
    files: usize,
    threads: usize,
}

impl Use {
    fn of(pid: Pid) -> Self {
        let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).expect("the process lives").count();
        Self { memory: anonymous_memory(pid), files: count("fd"), threads: count("task") }
    }

    /// Returns the least of each: what comes and goes is not growth.
    fn least(uses: &[Self]) -> Self {
        let least = |a: Self, b: &Self| Self {
            memory: a.memory.min(b.memory),
            files: a.files.min(b.files),
            threads: a.threads.min(b.threads),
        };
        uses.iter().fold(uses[0], least)
    }
}

struct Site {
    dir: TempDir,
    lan: Lan,
    /// Content of the first image.
    image: Arc<Vec<u8>>,
}

impl Site {
    fn new() -> Self {
        let (lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
        fs::create_dir(dir.path().join("iso")).unwrap();
        for seed in [1, 2] {
            iso::noise(&dir.path().join(format!("{seed}.iso")), seed, 4 << 20);
        }
        let image = Arc::new(fs::read(dir.path().join("1.iso")).unwrap());
        let site = Self { dir, lan, image };
        site.put(1);
        site
    }

    /// Puts a copy of an image in place of the one that is served.
    fn put(&self, seed: u8) {
        let new = self.dir.path().join("new");
        fs::copy(self.dir.path().join(format!("{seed}.iso")), &new).unwrap();
        fs::rename(new, self.dir.path().join("iso/arch.iso")).unwrap();
    }

    fn serve(&self) -> Running {
        let mut command = self.lan.command(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(self.dir.path().join("iso")).args(["--interface", BRIDGE]);
        command.args(["--dhcp-range", "192.168.77.50-192.168.77.250"]);
        command.args(["--status", &format!("{US}:8081")]).stdin(Stdio::null());
        command.env("HOME", self.dir.path()).env("XDG_STATE_HOME", self.dir.path());
        let mut server = Running::start(&mut command, &self.dir.path().join("log"));
        server.wait_for("\nready\n", SOON);
        server
    }
}

/// What a guest of the network does again and again.
type Habits<'a> = Vec<Box<dyn Fn() + Send + 'a>>;

/// Clients that come and go, well or badly behaved, each in a thread of its own inside `host`.
fn habits<'a>(host: &'a Namespace, new: &'a Namespace, strangers: &'a AtomicU64) -> Habits<'a> {
    let run = |program: &str, arguments: &[&str]| {
        // Some are refused, cut off, or find the image replaced.
        let _ = host.command(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    };
    vec![
        Box::new(move || run("curl", &["-s", "-o", "/dev/null", &format!("http://{US}/arch/noise")])),
        Box::new(move || {
            run("curl", &["-s", "-m", "0.1", "--limit-rate", "1M", &format!("http://{US}/arch/noise")])
        }),
        Box::new(move || run("curl", &["-s", &format!("http://{US}:8081/")])),
        Box::new(move || run("curl", &["-s", "-m", "1", &format!("http://{US}/no/such/file")])),
        Box::new(move || run("atftp", &["-g", "-r", "arch/noise", "-l", "/dev/null", &US.to_string()])),
        Box::new(move || run("nbdinfo", &["--json", &format!("nbd://{US}/archiso")])),
        Box::new(move || host.inside(mount_and_read)),
        Box::new(move || host.inside(abandon)),
        Box::new(move || host.inside(shout_nonsense)),
        Box::new(move || new.inside(|| ask_for_an_address(strangers))),
    ]
}

fn mount_and_read() {
    let mut client = RpcClient::connect_to(SocketAddr::from((US, 2049)));
    let root = client.mount(b"/").unwrap();
    let file = client.lookup(&root, b"arch").and_then(|arch| client.lookup(&arch, b"noise")).unwrap();
    for block in 0..8 {
        assert_eq!(client.read(&file, block << 16, 1 << 16).unwrap().0.len(), 1 << 16);
    }
}

/// Leaves connections and transfers at every stage.
fn abandon() {
    let transfer = UdpSocket::bind("0.0.0.0:0").unwrap();
    transfer.send_to(b"\0\x01arch/noise\0octet\0", (US, 69)).unwrap();
    let mut stalled = Vec::new();
    for (port, bytes) in [
        (10809, &b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x07archiso"[..]),
        (10809, b"\0\0"),
        (80, b"GET /arch/noise HTTP/1.1\r\nHost: x\r\n\r\n"),
        (80, b"GET /arch"),
        (2049, b"\x80\0\0\x40abc"),
        (111, b"\x80"),
    ] {
        let mut socket = TcpStream::connect((US, port)).unwrap();
        // The server may have refused it.
        let _ = socket.write_all(bytes);
        stalled.push(socket);
    }
    sleep(Duration::from_millis(200));
}

fn shout_nonsense() {
    let noise: Vec<u8> = (0..600u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    for port in [67, 69, 111, 4011] {
        socket.send_to(&noise, (US, port)).unwrap();
    }
    for port in [80, 111, 2049, 8081, 10809] {
        let mut socket = TcpStream::connect((US, port)).unwrap();
        let _ = socket.write_all(&noise);
        let _ = socket.read(&mut [0; 64]);
    }
}

/// A machine that nobody has seen before, and one that is always the same.
fn ask_for_an_address(strangers: &AtomicU64) {
    let socket = client_socket();
    let number = strangers.fetch_add(1, Ordering::Relaxed);
    let mut datagram = broadcast(DISCOVER);
    socket.send_to(&datagram, (Ipv4Addr::BROADCAST, 67)).unwrap();
    // RFC 2131 §2: chaddr begins at byte 28.
    datagram[30..34].copy_from_slice(&(number as u32).to_be_bytes());
    socket.send_to(&datagram, (Ipv4Addr::BROADCAST, 67)).unwrap();
}

#[test]
fn nothing_grows() {
    only_with_all!();
    needs!(lan::NEEDS, NEEDS);
    let seconds = std::env::var("ISOWIRE_SOAK").ok().map(|text| text.parse().expect("a number of seconds"));
    let time = seconds.map_or(PLAIN_TIME, Duration::from_secs);
    let mut site = Site::new();
    let (host, new) = (site.lan.host(CLIENT), newcomer(&mut site.lan, BRIDGE));
    let mut server = site.serve();
    let mut clients = Clients::new();
    let nbd = SocketAddr::from((US, 10809));
    host.inside(|| {
        let image = &site.image;
        clients.connect(20, Habit::Steady, nbd, image);
        clients.connect(5, Habit::Stalling, nbd, image);
        clients.run(Duration::from_secs(1));
    });
    let (is_over, strangers) = (AtomicBool::new(false), AtomicU64::new(0));
    let pid = server.pid();
    new.inside(|| {
        for _ in 0..STRANGERS {
            ask_for_an_address(&strangers);
            // The socket of the server holds some hundred.
            sleep(Duration::from_millis(2));
        }
    });
    let uses = thread::scope(|scope| {
        for habit in habits(&host, &new, &strangers) {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    habit();
                    sleep(Duration::from_millis(50));
                }
            });
        }
        scope.spawn(|| {
            for seed in [2, 1].into_iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                sleep(Duration::from_secs(2));
                site.put(seed);
                kill_process(pid, Signal::HUP).unwrap();
            }
        });
        let watched = clients.run_beside(|| watch(pid, time));
        is_over.store(true, Ordering::Relaxed);
        watched
    });
    let replies = clients.finish();
    assert!(replies > 25 * time.as_secs(), "{replies} replies");
    // Caches and tables fill in the first third.
    let (first, last) =
        (Use::least(&uses[uses.len() / 3..uses.len() / 2]), Use::least(&uses[uses.len() * 4 / 5..]));
    assert!(last.memory < first.memory + first.memory / 10 + (1 << 20), "{first:?} {last:?}");
    assert!(last.files < first.files + 10 && last.threads < first.threads + 5, "{first:?} {last:?}");
    eprintln!("{first:?} {last:?} {replies} replies, {} machines", strangers.load(Ordering::Relaxed));
    assert!(!server.log().contains("panicked") && !server.log().contains(" error: "), "{}", server.log());
    assert!(server.stop().success());
}

/// Looks at a process a hundred times.
fn watch(pid: Pid, time: Duration) -> Vec<Use> {
    let begin = Instant::now();
    let mut uses = Vec::new();
    while begin.elapsed() < time {
        sleep(time / 100);
        uses.push(Use::of(pid));
    }
    uses
}
