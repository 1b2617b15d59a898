//! NFS servers of the tests, in this process or in a process of their own.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use isowire::image::Image;
use isowire::images::{ImageSet, ServedImage};
use rustix::process::Pid;
use tokio::runtime::Runtime;

use super::rpc::Client;
use super::running::Running;
use super::tree::{Tree, tree};

const SOON: Duration = Duration::from_secs(20);

/// A server in this process: NFS and MOUNT at `port`.
pub struct Server {
    runtime: Runtime,
    pub port: u16,
}

impl Server {
    /// Serves images on loopback, the first as the default, by the names that their files have.
    pub fn start(images: &[&Path]) -> Self {
        Self::start_at(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), images)
    }

    /// Serves the tree and another image.
    pub fn of_tree() -> (Self, Tree) {
        let tree = tree();
        (Self::start(&[&tree.iso, &tree.another]), tree)
    }

    pub fn start_at(listener: TcpListener, images: &[&Path]) -> Self {
        let mut served = images.iter().map(|path| {
            ServedImage::new(path.file_stem().unwrap().to_str().unwrap(), Image::open(path).unwrap())
        });
        let images = Arc::new(ImageSet::new(served.next().expect("an image"), served.collect()));
        let port = listener.local_addr().unwrap().port();
        let runtime = Runtime::new().unwrap();
        let listener = registered(&runtime, listener);
        let machines = Arc::new(isowire::machines::Registry::new(std::time::Instant::now()));
        runtime.spawn(isowire::nfs::server::run(listener, images, machines, std::future::pending()));
        Self { runtime, port }
    }

    /// Starts a portmapper that returns the port of this server.
    pub fn start_portmapper(&self, tcp: TcpListener, udp: UdpSocket) {
        udp.set_nonblocking(true).unwrap();
        let tcp = registered(&self.runtime, tcp);
        let _entered = self.runtime.enter();
        let udp = tokio::net::UdpSocket::from_std(udp).unwrap();
        let port = self.port;
        self.runtime.spawn(async move {
            isowire::nfs::server::portmap::run(tcp, udp, port, std::future::pending()).await.unwrap();
        });
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.port)
    }

    /// Returns a client together with its server, which ends when the client is dropped.
    pub fn connect_and_keep(self) -> Kept {
        Kept { client: self.connect(), _server: self }
    }

    /// Checks that a new client is served.
    pub fn assert_lives(&self) {
        let mut client = self.connect();
        let root = client.mount(b"/").expect("an export");
        client.getattr(&root).expect("attributes of the root");
    }
}

pub struct Kept {
    pub client: Client,
    _server: Server,
}

fn registered(runtime: &Runtime, listener: TcpListener) -> tokio::net::TcpListener {
    listener.set_nonblocking(true).unwrap();
    let _entered = runtime.enter();
    tokio::net::TcpListener::from_std(listener).unwrap()
}

/// Makes the command `isowire serve` for NFS on loopback only.
pub fn serve(iso: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isowire"));
    command.arg("serve").arg(iso).args(["--bind", "127.0.0.1", "--nfs", &port.to_string()]);
    command.args(["--nbd", "0", "--portmap", "off", "--http", "off", "--tftp", "off", "--dhcp", "off"]);
    command
}

/// Starts a server and waits until it is ready.
pub fn started(command: &mut Command, log: &Path) -> Running {
    let mut server = Running::start(command, log);
    server.wait_for("\nready\n", SOON);
    server
}

/// Returns the anonymous memory of a process, in bytes.
pub fn anonymous_memory(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5 and later say so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Tells whether SIGSTOP has reached every thread of a process.
pub fn is_stopped(pid: Pid) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    threads.all(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        // proc(5): the state follows the name, which may contain anything.
        stat.rsplit(')').next().is_some_and(|fields| fields.starts_with(" T"))
    })
}

/// Returns the processor time that a process has used, in ticks of 10 ms.
pub fn processor_ticks(pid: Pid) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // proc(5): after the name, which may contain anything, state is the first field, utime and
    // stime are the 12th and 13th.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
