//! The portmapper as rpcinfo sees it, and registration with the host's rpcbind, each in a network
//! namespace.

mod common;

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use common::lan::{self, Namespace};
use common::needs::needs;
use common::rpc::{Client, MOUNT, NFS, PORTMAP, TCP, Xdr};
use common::running::{Running, output_of};
use isowire::nfs::server::rpcbind::{Registration, RegistrationError, register_at};

const NFS_PORT: u16 = 20_490;
/// The port as a result of a call.
const AT_NFS_PORT: u32 = NFS_PORT as u32;

/// The lines of `rpcinfo -p` about NFS and MOUNT.
fn served(list: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    list.lines()
        .map(words)
        .filter(|line| line.starts_with("100003 ") || line.starts_with("100005 "))
        .collect()
}

#[test]
fn rpcinfo_finds_every_service() {
    needs!(lan::NEEDS, ["rpcinfo"]);
    let host = Namespace::new();
    let (tcp, udp) =
        host.inside(|| (TcpListener::bind("0.0.0.0:111").unwrap(), UdpSocket::bind("0.0.0.0:111").unwrap()));
    tcp.set_nonblocking(true).unwrap();
    udp.set_nonblocking(true).unwrap();
    let runtime = Runtime::new().unwrap();
    runtime.spawn(async move {
        let (tcp, udp) =
            (tokio::net::TcpListener::from_std(tcp).unwrap(), tokio::net::UdpSocket::from_std(udp).unwrap());
        isowire::nfs::server::portmap::run(tcp, udp, NFS_PORT, std::future::pending()).await.unwrap();
    });
    let rpcinfo = |arguments: &[&str]| output_of(host.command("rpcinfo").args(arguments));
    let list = rpcinfo(&["-p", "127.0.0.1"]);
    assert_eq!(served(&list), ["100003 3 tcp 20490 nfs", "100005 3 tcp 20490 mountd"], "{list}");
    assert_eq!(list.matches(" 111 ").count(), 6, "{list}");
    for version in ["2", "3", "4"] {
        for transport in ["tcp", "udp"] {
            let said = rpcinfo(&["-T", transport, "127.0.0.1", "100000", version]);
            assert!(said.contains(&format!("program 100000 version {version} ready and waiting")), "{said}");
        }
    }
    let list = rpcinfo(&["127.0.0.1"]);
    assert!(list.contains("127.0.0.1.80.10"), "a universal address: {list}");
}

/// An rpcbind with a network and a `/run` of its own.
struct Rpcbind {
    _running: Running,
    host: Namespace,
    socket: PathBuf,
    _run: File,
    _dir: TempDir,
}

impl Rpcbind {
    fn start() -> Self {
        let (host, dir) = (Namespace::new(), tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let mut command = host.command("unshare");
        command.args(["-m", "sh", "-c", "mount -t tmpfs none /run && exec rpcbind -f"]);
        let mut running = Running::start(&mut command, &dir.path().join("log"));
        for _ in 0..500 {
            if host.inside(|| std::net::TcpStream::connect("127.0.0.1:111").is_ok()) {
                break;
            }
            assert!(running.wait(Duration::from_millis(20)).is_none(), "rpcbind ended: {}", running.log());
        }
        // unshare and sh were replaced by rpcbind in the same process. Only root may enter the root of
        // that process, so an unprivileged server gets a directory that is open already.
        let run = File::open(format!("/proc/{}/root/run", running.pid())).unwrap();
        let socket = PathBuf::from(format!("/proc/self/fd/{}/rpcbind.sock", run.as_raw_fd()));
        Self { _running: running, host, socket, _run: run, _dir: dir }
    }

    /// Asks it for the port of a program over TCP, as a machine does.
    fn port_of(&self, program: u32) -> u32 {
        self.host.inside(|| {
            let arguments = Xdr::new().u32(program).u32(3).u32(TCP).u32(0);
            Client::connect(111).call(PORTMAP, 2, 3, arguments).body().u32()
        })
    }

    /// Registers a server of its network.
    fn register(&self, port: u16) -> Result<Registration, RegistrationError> {
        self.host.inside(|| register_at(&self.socket, port))
    }

    fn listen(&self, port: u16) -> TcpListener {
        self.host.inside(|| TcpListener::bind(("0.0.0.0", port)).unwrap())
    }
}

#[test]
fn registration_lasts_until_dropped() {
    needs!(lan::NEEDS, ["rpcbind", "rpcinfo", "unshare"]);
    let rpcbind = Rpcbind::start();
    let _server = rpcbind.listen(NFS_PORT);
    let registration = rpcbind.register(NFS_PORT).unwrap();
    assert_eq!((rpcbind.port_of(NFS), rpcbind.port_of(MOUNT)), (AT_NFS_PORT, AT_NFS_PORT));
    let list = output_of(rpcbind.host.command("rpcinfo").args(["-p", "127.0.0.1"]));
    assert_eq!(served(&list), ["100003 3 tcp 20490 nfs", "100005 3 tcp 20490 mountd"], "{list}");
    let again = rpcbind.register(NFS_PORT).expect("a server that was killed and started again");
    drop(registration);
    assert_eq!((rpcbind.port_of(NFS), rpcbind.port_of(MOUNT)), (0, 0));
    drop(again);
}

#[test]
fn registration_of_killed_server_is_replaced() {
    needs!(lan::NEEDS, ["rpcbind", "unshare"]);
    let rpcbind = Rpcbind::start();
    let killed = rpcbind.listen(NFS_PORT + 1);
    let _left_behind = rpcbind.register(NFS_PORT + 1).unwrap();
    drop(killed);
    let _server = rpcbind.listen(NFS_PORT);
    let registration = rpcbind.register(NFS_PORT).unwrap();
    assert_eq!((rpcbind.port_of(NFS), rpcbind.port_of(MOUNT)), (AT_NFS_PORT, AT_NFS_PORT));
    drop(registration);
}

#[test]
fn registration_of_live_server_is_kept() {
    needs!(lan::NEEDS, ["rpcbind", "unshare"]);
    let rpcbind = Rpcbind::start();
    let (_other, _server) = (rpcbind.listen(NFS_PORT + 1), rpcbind.listen(NFS_PORT));
    let _of_the_other = rpcbind.register(NFS_PORT + 1).unwrap();
    let error = rpcbind.register(NFS_PORT).unwrap_err();
    assert!(matches!(error, RegistrationError::Taken { program: "NFS", port: 20_491 }), "{error}");
    assert_eq!((rpcbind.port_of(NFS), rpcbind.port_of(MOUNT)), (20_491, 20_491));
}

/// Runs a function as a user without privileges, in a thread of its own.
fn as_nobody<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let nobody = Uid::from_raw(65_534);
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_thread_res_uid(nobody, nobody, nobody).expect("root may become any user");
            run()
        });
        thread.join().expect("the function does not panic")
    })
}

#[test]
fn unprivileged_server_registers_too() {
    needs!(lan::NEEDS, ["rpcbind", "unshare"]);
    let rpcbind = Rpcbind::start();
    let _server = rpcbind.listen(NFS_PORT);
    let registration = as_nobody(|| register_at(&rpcbind.socket, NFS_PORT)).unwrap();
    assert_eq!(rpcbind.port_of(NFS), AT_NFS_PORT);
    as_nobody(|| drop(registration));
    assert_eq!(rpcbind.port_of(NFS), 0);
}

#[test]
fn missing_rpcbind_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let error = register_at(&dir.path().join("rpcbind.sock"), NFS_PORT).unwrap_err().to_string();
    assert!(error.starts_with("rpcbind does not answer at ") && error.contains("stop it"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
