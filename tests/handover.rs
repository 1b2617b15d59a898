//! The handover from one process to the next: clients that live on the server never notice it.

mod common;

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

use common::iso;
use common::lan::{self, Lan};
use common::nbd_clients::{Clients, Habit, print_waits};
use common::needs::{needs, tool};
use common::ports::free_port;
use common::rpc::Client as RpcClient;
use common::running::{Running, text_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const SOON: Duration = Duration::from_secs(60);

/// A folder with one ISO, and the runtime directory of its servers.
struct Stage {
    dir: TempDir,
    /// Content of the ISO.
    image: Arc<Vec<u8>>,
    /// Ports of NBD, NFS, HTTP and TFTP of the first server, which the next ones take over.
    ports: [u16; 4],
    /// Options of the address and of DHCP.
    options: [&'static str; 4],
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("iso")).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        // Free at this moment; the test runs alone in its directory, not on its host.
        let ports = [(); 4].map(|()| free_port());
        let mut stage =
            Self { dir, image: Arc::default(), ports, options: ["--bind", "127.0.0.1", "--dhcp", "off"] };
        stage.image = stage.put_iso(1);
        stage
    }

    /// Puts an ISO in place, with content that no other `seed` has, and returns the content.
    fn put_iso(&self, seed: u8) -> Arc<Vec<u8>> {
        let (made, iso) = (self.dir.path().join("made.iso"), self.iso());
        iso::noise(&made, seed, 16 << 20);
        let content = fs::read(&made).unwrap();
        fs::rename(made, iso).unwrap();
        Arc::new(content)
    }

    fn iso(&self) -> PathBuf {
        self.dir.path().join("iso/small.iso")
    }

    fn log(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("log{number}"))
    }

    /// Creates the command of a server.
    fn command(&self) -> Command {
        let [nbd, nfs, http, tftp] = self.ports.map(|port| port.to_string());
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(self.dir.path().join("iso")).args(self.options);
        command.env("XDG_STATE_HOME", self.dir.path());
        command.args(["--nbd", &nbd, "--nfs", &nfs, "--portmap", "off", "--http", &http, "--tftp", &tftp]);
        command.env("XDG_RUNTIME_DIR", self.dir.path().join("run")).env_remove("RUNTIME_DIRECTORY");
        command
    }

    fn start(&self, number: usize, options: &[&str]) -> Running {
        let mut server = Running::start(self.command().args(options), &self.log(number));
        server.wait_for("\nready\n", SOON);
        server
    }

    /// Has the next process take over from `server`, which ends.
    fn take_over(&self, number: usize, mut server: Running) -> Running {
        let next = self.start(number, &["--takeover"]);
        let status = server.wait(SOON).expect("it ends when it was taken over");
        assert!(status.success(), "{status}:\n{}", server.log());
        next
    }

    fn connect(&self, clients: &mut Clients, count: u64, habit: Habit) {
        clients.connect(count, habit, ([127, 0, 0, 1], self.ports[0]).into(), &self.image);
    }
}

#[test]
fn two_hundred_clients_outlive_twenty_take_overs() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut server = stage.start(0, &[]);
    let mut clients = Clients::new();
    stage.connect(&mut clients, 160, Habit::Steady);
    stage.connect(&mut clients, 40, Habit::Stalling);
    clients.watch(([127, 0, 0, 1], stage.ports[0]).into(), &stage.image);
    clients.run(Duration::from_secs(1));
    let (undisturbed, mut waits) = (clients.take_longest_waits(), Vec::new());
    for number in 1..=20 {
        stage.connect(&mut clients, 3, Habit::Hesitant);
        clients.run(Duration::from_millis(100));
        server = clients.run_beside(|| stage.take_over(number, server));
        clients.go_on.send_replace(());
        clients.run(Duration::from_millis(100));
        waits.push(clients.take_longest_waits());
    }
    print_waits(undisturbed, &waits);
    let replies = clients.finish();
    assert!(replies > 200 * 20, "{replies} replies");
    assert!(server.stop().success());
    let taken = text_of(&stage.log(20));
    assert!(taken.contains("NBD connections taken over connections=2"), "{taken}");
}

#[test]
fn replaced_image_outlives_a_take_over() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut server = stage.start(0, &[]);
    let mut clients = Clients::new();
    stage.connect(&mut clients, 2, Habit::Steady);
    clients.run(Duration::from_millis(300));
    let handle = RpcClient::connect(stage.ports[1]).mount(b"/").unwrap();
    stage.put_iso(2);
    server.wait_for("image replaced", SOON);
    let server = stage.take_over(1, server);
    clients.run(Duration::from_millis(300));
    clients.finish();
    // An NFS client connects again, and its handle means the old image still.
    let mut client = RpcClient::connect(stage.ports[1]);
    assert!(client.getattr(&handle).is_ok(), "{}", server.log());
    assert_ne!(client.mount(b"/").unwrap(), handle, "a new client gets the new image");
}

/// Begins to download a file by HTTP.
fn begin_download(port: u16) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.write_all(b"GET /arch/noise HTTP/1.0\r\n\r\n").unwrap();
    socket.read_exact(&mut [0; 4096]).unwrap();
    socket
}

/// Client of a TFTP transfer.
struct Loading(UdpSocket);

impl Loading {
    /// Begins to load a file, and gets the OACK.
    fn begin(port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(b"\0\x01arch/noise\0octet\0timeout\x0010\0", ("127.0.0.1", port)).unwrap();
        let mut oack = [0; 512];
        let (len, transfer) = socket.recv_from(&mut oack).unwrap();
        assert_eq!(oack[..len], *b"\0\x06timeout\x0010\0", "{}", oack[..len].escape_ascii());
        socket.connect(transfer).unwrap();
        Self(socket)
    }

    /// Acknowledges a block and gets the next one.
    fn go_on(&self, block: u8) {
        self.0.send(&[0, 4, 0, block]).unwrap();
        let (next, mut data) = (block + 1, [0; 516]);
        while data[..4] != [0, 3, 0, next] {
            // The block before may have been repeated meanwhile.
            self.0.recv(&mut data).unwrap();
        }
    }

    fn end(self) {
        self.0.send(b"\0\x05\0\0enough\0").unwrap();
    }
}

/// PXELINUX takes a refused request for a missing file, and a download that is cut for a whole one.
#[test]
fn machines_load_on_through_a_take_over() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let [_, _, http, tftp] = stage.ports;
    let mut server = stage.start(0, &[]);
    let (loading, mut download) = (Loading::begin(tftp), begin_download(http));
    loading.go_on(0);
    let mut next = stage.start(1, &["--takeover"]);
    for _ in 0..20 {
        Loading::begin(tftp).end();
    }
    assert!(server.wait(Duration::from_secs(11)).is_none(), "{}", server.log());
    loading.go_on(1);
    loading.end();
    let mut rest = Vec::new();
    download.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > (16 << 20) - 4096, "{} bytes", rest.len());
    assert!(server.wait(SOON).is_some_and(|status| status.success()), "{}", server.log());
    // The operator need not wait for a client.
    let _download = begin_download(http);
    let _last = stage.start(2, &["--takeover"]);
    assert!(next.wait(Duration::from_secs(1)).is_none(), "{}", next.log());
    assert!(next.stop().success(), "{}", next.log());
}

#[test]
fn failed_take_over_leaves_all_as_it_was() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut server = stage.start(0, &[]);
    let mut clients = Clients::new();
    stage.connect(&mut clients, 10, Habit::Steady);
    stage.connect(&mut clients, 2, Habit::Hesitant);
    clients.run(Duration::from_millis(300));

    // The next one cannot have a port that it asks for.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let status = format!("127.0.0.1:{port}");
    let mut command = stage.command();
    let mut next = Running::start(command.args(["--takeover", "--status", &status]), &stage.log(1));
    assert_eq!(next.wait(SOON).and_then(|status| status.code()), Some(1), "{}", next.log());
    server.wait_for("not taken over", SOON);
    clients.run(Duration::from_millis(300));

    // One that cannot have the ports while the other one has them.
    let stage = Stage { options: ["--bind", "0.0.0.0", "--dhcp", "off"], ..stage };
    let mut next = Running::start(stage.command().arg("--takeover"), &stage.log(3));
    let stage = Stage { options: ["--bind", "127.0.0.1", "--dhcp", "off"], ..stage };
    assert_eq!(next.wait(SOON).and_then(|status| status.code()), Some(1), "{}", next.log());
    let why = "on 127.0.0.1, so this one cannot have it on 0.0.0.0; stop it, and start without --takeover";
    assert!(next.log().contains(why), "{}", next.log());

    // One that is ready and leaves: the connections have come to rest by then.
    let socket = stage.dir.path().join("run/isowire/handover.sock");
    let mut peer = UnixStream::connect(&socket).unwrap();
    peer.write_all(b"isowire takeover 1\nready\n").unwrap();
    let (mut heard, mut bytes) = (Vec::new(), [0; 4096]);
    // The offer ends with the bytes that its open files come with.
    while !heard.windows(7).any(|word| word == b"\0state ") {
        let len = peer.read(&mut bytes).unwrap();
        assert_ne!(len, 0, "it ended: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&bytes[..len]);
    }
    drop(peer);
    server.wait_for("going on", SOON);
    // One that is no isowire.
    UnixStream::connect(&socket).unwrap().write_all(&[b'x'; 4096]).unwrap();
    clients.run(Duration::from_millis(300));
    let server = stage.take_over(2, server);
    clients.go_on.send_replace(());
    clients.run(Duration::from_millis(300));
    clients.finish();

    // One that lacks an image which came after its offer.
    let mut server = server;
    let mut peer = UnixStream::connect(&socket).unwrap();
    peer.write_all(b"isowire takeover 1\n").unwrap();
    assert_ne!(peer.read(&mut bytes).unwrap(), 0);
    stage.put_iso(2);
    server.wait_for("image replaced", SOON);
    peer.write_all(b"ready\n").unwrap();
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).unwrap();
    assert!(heard.ends_with(b"the images have changed meanwhile; try again\n"));
    server.wait_for("not taken over: the images have changed meanwhile", SOON);
}

#[test]
fn nothing_to_take_over_is_an_error() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut server = Running::start(stage.command().arg("--takeover"), &stage.log(0));
    assert_eq!(server.wait(SOON).and_then(|status| status.code()), Some(1));
    let log = server.log();
    assert!(log.contains("no isowire of this user to take over") && log.lines().count() == 1, "{log}");
}

/// A service manager with a file descriptor store, as systemd has it.
struct Manager {
    path: PathBuf,
    stored: Arc<Mutex<Vec<StoredFile>>>,
}

/// Moves these files to the numbers from 3 on, and becomes the program: a shell takes no numbers above 9.
const SUPERVISOR: &str = "import os, sys
for to, number in enumerate(filter(None, sys.argv[1].split(','))):
    os.dup2(int(number), 3 + to)
os.environ['LISTEN_PID'] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])";

/// A file in the store, and its name.
type StoredFile = (String, OwnedFd);

impl Manager {
    fn new(stage: &Stage) -> Self {
        let path = stage.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let stored: Arc<Mutex<Vec<StoredFile>>> = Arc::default();
        let store = Arc::clone(&stored);
        // It ends with the test.
        std::thread::spawn(move || {
            loop {
                let (text, files) = receive(&socket);
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
                let mut store = store.lock().unwrap();
                // The pipe of BARRIER=1 is closed here.
                match text.lines().next() {
                    Some("FDSTORE=1") => store.extend(files.into_iter().map(|file| (name.to_owned(), file))),
                    Some("FDSTOREREMOVE=1") => store.retain(|(other, _)| other != name),
                    _ => {}
                }
            }
        });
        Self { path, stored }
    }

    /// Ends the server, and starts the next one with what it has put into the store.
    fn restart(&self, stage: &Stage, number: usize, server: Running) -> Running {
        self.start(stage, number, &self.stop(server))
    }

    /// Ends the server and returns what it has put into the store.
    fn stop(&self, mut server: Running) -> Vec<StoredFile> {
        let left = || self.stored.lock().unwrap().len();
        let end = Instant::now() + SOON;
        while left() > 0 {
            assert!(Instant::now() < end, "{} files stay in the store", left());
            sleep(Duration::from_millis(5));
        }
        assert!(server.stop().success(), "{}", server.log());
        let mut stored: Vec<_> = self.stored.lock().unwrap().iter().map(copy).collect();
        assert!(stored.iter().any(|(name, _)| name == "isowire-state"));
        // The order of the store is not that in which it was filled.
        stored.reverse();
        stored
    }

    /// Starts a server with what is in the store, as the next main process of the service.
    fn start(&self, stage: &Stage, number: usize, stored: &[StoredFile]) -> Running {
        let mut server = self.launch(stage, number, stored);
        server.wait_for("\nready\n", SOON);
        server
    }

    fn launch(&self, stage: &Stage, number: usize, stored: &[StoredFile]) -> Running {
        // Out of the way of the numbers from 3 on, to which they move.
        let far = |(_, file): &StoredFile| fcntl_dupfd_cloexec(file, 600).unwrap();
        let files: Vec<_> = stored.iter().map(far).collect();
        files.iter().for_each(|file| fcntl_setfd(file, FdFlags::empty()).unwrap());
        let numbers: Vec<_> = files.iter().map(|file| file.as_raw_fd().to_string()).collect();
        let server = stage.command();
        let mut command = tool("python3");
        command
            .args(["-c", SUPERVISOR, &numbers.join(",")])
            .arg(server.get_program())
            .args(server.get_args());
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let names: Vec<_> = stored.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDS", stored.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.env("NOTIFY_SOCKET", &self.path);
        Running::start(&mut command, &stage.log(number))
    }
}

fn copy((name, file): &StoredFile) -> StoredFile {
    (name.clone(), file.try_clone().unwrap())
}

/// Receives a message of a service, and the files that came with it.
fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let (mut space, mut bytes) = ([std::mem::MaybeUninit::uninit(); 256], [0; 512]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            files.extend(some);
        }
    }
    (String::from_utf8(bytes[..received.bytes].to_vec()).unwrap(), files)
}

#[test]
fn clients_outlive_restarts_by_a_manager_with_a_store() {
    needs!(["xorriso", "python3"]);
    let stage = Stage::new();
    let manager = Manager::new(&stage);
    let mut server = manager.start(&stage, 0, &[]);
    let mut clients = Clients::new();
    stage.connect(&mut clients, 30, Habit::Steady);
    stage.connect(&mut clients, 10, Habit::Stalling);
    clients.run(Duration::from_millis(500));
    for number in 1..=5 {
        stage.connect(&mut clients, 2, Habit::Hesitant);
        clients.run(Duration::from_millis(200));
        server = clients.run_beside(|| manager.restart(&stage, number, server));
        clients.go_on.send_replace(());
        clients.run(Duration::from_millis(300));
    }
    clients.finish();
}

#[test]
fn stored_clients_outlive_a_start_that_fails() {
    needs!(["xorriso", "python3"]);
    let stage = Stage::new();
    let manager = Manager::new(&stage);
    let server = manager.start(&stage, 0, &[]);
    let mut clients = Clients::new();
    // More than one bundle holds.
    stage.connect(&mut clients, 300, Habit::Steady);
    clients.run(Duration::from_secs(3));
    let server = clients.run_beside(|| {
        let stored = manager.stop(server);
        let in_the_way = TcpListener::bind((Ipv4Addr::LOCALHOST, stage.ports[2])).unwrap();
        let mut failing = manager.launch(&stage, 1, &stored);
        assert_eq!(failing.wait(SOON).and_then(|status| status.code()), Some(1), "{}", failing.log());
        drop(in_the_way);
        manager.start(&stage, 2, &stored)
    });
    clients.run(Duration::from_millis(200));
    clients.finish();
    assert!(server.log().contains("NBD connections taken over connections=300"), "{}", server.log());
}

/// A DHCP server looks for others for some seconds at its start, and its clients are with it by then.
#[test]
fn stored_clients_outlive_a_stop_during_a_start() {
    needs!(lan::NEEDS, ["xorriso", "python3"]);
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    lan.server().enter();
    let stage = Stage::new();
    let manager = Manager::new(&stage);
    let server = manager.start(&stage, 0, &[]);
    let mut clients = Clients::new();
    stage.connect(&mut clients, 10, Habit::Steady);
    clients.run(Duration::from_millis(300));
    let options = ["--bind", "0.0.0.0", "--dhcp-range", "192.168.77.100-192.168.77.199"];
    let stage = Stage { options, ..stage };
    let server = clients.run_beside(|| {
        let mut starting = manager.launch(&stage, 1, &manager.stop(server));
        starting.wait_for("NBD connections taken over", SOON);
        // systemd has forgotten them by the end of this.
        let stored = manager.stop(starting);
        let log = fs::read_to_string(stage.log(1)).unwrap();
        assert!(!log.contains("\nready\n"), "it was stopped too late for this test: {log}");
        manager.start(&stage, 2, &stored)
    });
    clients.run(Duration::from_millis(200));
    clients.finish();
    assert!(server.log().contains("NBD connections taken over connections=10"), "{}", server.log());
}

#[test]
fn damaged_store_is_said_and_costs_nothing_else() {
    needs!(["xorriso", "python3"]);
    let stage = Stage::new();
    let manager = Manager::new(&stage);
    let state = stage.dir.path().join("state");
    for (number, bytes) in [&b"isowire state 1\nnonsense"[..], b"isowire state 999\n"].into_iter().enumerate()
    {
        fs::write(&state, bytes).unwrap();
        let file = File::open(&state).unwrap();
        let mut first = [0];
        file.read_exact_at(&mut first, 0).unwrap();
        let mut server = manager.start(&stage, number, &[("isowire-state".to_owned(), file.into())]);
        assert!(server.log().contains("not taken over"), "{}", server.log());
        server.stop();
    }
    // systemd stores no more than the unit says, and the state is last.
    let bundle = ("isowire-0".to_owned(), UnixStream::pair().unwrap().0.into());
    let server = manager.start(&stage, 2, &[bundle]);
    assert!(server.log().contains("raise FileDescriptorStoreMax= of the unit"), "{}", server.log());
}
