//! Images in an object store, which is a real Ceph: bytes, cache, faults of store and network, and
//! the processes before and after.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use common::fault_proxy::{Fault, FaultProxy};
use common::iso;
use common::nbd::{self, read_request, reply};
use common::nbd_clients::{Clients, Habit};
use common::needs::{needs, tool};
use common::object_store::{self, ObjectStore};
use common::ports::free_port;
use common::running::{Running, output_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const NEEDS: [&str; 1] = ["xorriso"];
const SOON: Duration = Duration::from_secs(60);

/// Bytes of a block.
const BLOCK: u64 = 1 << 20;

/// Bytes that a proxy carries for a list of objects, with its head.
const LIST: u64 = 4 << 10;

/// A store with one ISO behind a proxy that can fail, and the folders of servers.
struct Stage {
    proxy: FaultProxy,
    store: ObjectStore,
    dir: TempDir,
    /// Content of the ISO.
    image: Arc<Vec<u8>>,
    /// Ports of NBD, HTTP, TFTP and the status.
    ports: [u16; 4],
    cache_size: &'static str,
}

impl Stage {
    /// Starts a store whose ISO has so many MiB and some.
    fn start(mib: usize) -> Self {
        let store = ObjectStore::start(&["images"]);
        let proxy = FaultProxy::start(store.port());
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // As root, the server becomes another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let ports = [(); 4].map(|()| free_port());
        let mut stage = Self { proxy, store, dir, image: Arc::default(), ports, cache_size: "1G" };
        stage.image = stage.put(1, mib);
        stage
    }

    /// Puts an ISO into the store, with content that no other `seed` has, and returns the content.
    fn put(&self, seed: u8, mib: usize) -> Arc<Vec<u8>> {
        let iso = self.dir.path().join("made.iso");
        iso::noise(&iso, seed, mib << 20);
        self.store.put("images/linux/small.iso", &iso);
        let content = fs::read(&iso).unwrap();
        fs::remove_file(iso).unwrap();
        Arc::new(content)
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// Creates the command of a server with its cache in this folder.
    fn command(&self, cache: &Path) -> Command {
        let [nbd, http, tftp, status] = self.ports.map(|port| port.to_string());
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "s3://images/linux/", "--bind", "127.0.0.1", "--dhcp", "off"]);
        command.args(["--nbd", &nbd, "--nfs", "off", "--portmap", "off", "--http", &http, "--tftp", &tftp]);
        command.args(["--status", &format!("127.0.0.1:{status}")]);
        command.arg("--cache-dir").arg(cache).args(["--cache-size", self.cache_size]);
        command.env("XDG_RUNTIME_DIR", self.dir.path().join("run")).env_remove("RUNTIME_DIRECTORY");
        command.envs(self.store.environment(self.proxy.port()));
        command
    }

    /// Starts a server, whose log has this number.
    fn serve(&self, number: usize) -> Running {
        self.serve_from(&self.cache(), number, &[])
    }

    fn serve_from(&self, cache: &Path, number: usize, options: &[&str]) -> Running {
        let log = self.dir.path().join(format!("log{number}"));
        let mut server = Running::start(self.command(cache).args(options), &log);
        server.wait_for("\nready\n", SOON);
        server
    }

    fn connect(&self, clients: &mut Clients, count: u64, habit: Habit) {
        clients.connect(count, habit, ([127, 0, 0, 1], self.ports[0]).into(), &self.image);
    }

    /// Attaches to the image by NBD.
    fn attach(&self) -> TcpStream {
        nbd::attach(self.ports[0], "archiso")
    }

    /// Reads the whole image by NBD, and checks each byte.
    fn read_whole(&self) {
        let mut socket = self.attach();
        let len = self.image.len() as u64;
        let offsets: Vec<u64> = (0..len).step_by(256 << 10).collect();
        let len_at = |offset: u64| (256 << 10).min(len - offset) as usize;
        for some in offsets.chunks(8) {
            let requests = some.iter().flat_map(|&offset| read_request(offset, len_at(offset) as u32));
            socket.write_all(&requests.collect::<Vec<_>>()).unwrap();
            for _ in some {
                let (offset, data) = reply(&mut socket, len_at);
                self.check(offset, &data);
            }
        }
    }

    fn check(&self, offset: u64, data: &[u8]) {
        let expected = &self.image[offset as usize..offset as usize + data.len()];
        assert!(data == expected, "wrong bytes at {offset}");
    }

    /// Reads some bytes by NBD, and checks them.
    fn read(&self, socket: &mut TcpStream, offset: u64) {
        socket.write_all(&read_request(offset, 4096)).unwrap();
        let (offset, data) = reply(socket, |_| 4096);
        self.check(offset, &data);
    }

    /// Returns the bytes that come over the proxy during `work`.
    fn fetched(&self, work: impl FnOnce()) -> u64 {
        let before = self.proxy.bytes();
        work();
        self.proxy.bytes() - before
    }

    /// Returns the faults of images, as the status tells them.
    fn faults(&self) -> Value {
        let mut command = Command::new(PROGRAM);
        let url = format!("http://127.0.0.1:{}/", self.ports[3]);
        let status: Value =
            serde_json::from_str(&output_of(command.args(["status", "--json", &url]))).unwrap();
        status["faults"].clone()
    }

    /// Waits until the only fault is of this kind; returns what is said about it.
    fn wait_for_fault(&self, kind: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            let faults = self.faults();
            if faults[0]["kind"] == *kind {
                return faults[0]["fault"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < end, "no fault `{kind}`: {faults}");
            sleep(Duration::from_millis(50));
        }
    }
}

/// Returns the space that the blocks in a cache folder take, in bytes.
fn space(cache: &Path) -> u64 {
    let files = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let blocks = files.filter(|path| path.extension().is_some_and(|end| end == "blocks"));
    blocks.map(|path| path.metadata().unwrap().blocks() * 512).sum()
}

#[test]
fn bytes_of_an_object_are_fetched_once() {
    needs!(object_store::NEEDS, NEEDS);
    let stage = Stage::start(24);
    let mut server = stage.serve(0);
    let len = stage.image.len() as u64;
    // One block in two, in an order of no reader, and twice.
    let offsets: Vec<u64> = (0..24).map(|n| n * 7 % 12 * 2 * BLOCK + n * 4096 + 1_000_000).collect();
    let mut blocks: Vec<u64> = offsets.iter().flat_map(|at| [at / BLOCK, (at + 4095) / BLOCK]).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let fetched = stage.fetched(|| {
        let mut socket = stage.attach();
        offsets.iter().for_each(|&offset| stage.read(&mut socket, offset));
    });
    let touched = blocks.len() as u64 * BLOCK;
    assert!(fetched * 100 <= touched * 105 + LIST * 100, "{fetched} bytes for blocks of {touched}");
    let rest = stage.fetched(|| stage.read_whole());
    assert!(fetched + rest <= len / 100 * 105 + LIST, "{fetched} and {rest} bytes of {len}");
    // The other doors, out of the cache.
    let noise = fs::read(noise_of(&stage)).unwrap();
    let again = stage.fetched(|| {
        for url in [
            format!("http://127.0.0.1:{}/arch/noise", stage.ports[1]),
            format!("tftp://127.0.0.1:{}/arch/noise", stage.ports[2]),
        ] {
            let copy = stage.dir.path().join("copy");
            output_of(tool("curl").args(["-fsS", "--tftp-blksize", "1400", "-o"]).arg(&copy).arg(&url));
            assert!(fs::read(copy).unwrap() == noise, "{url}");
        }
        stage.read_whole();
    });
    assert!(again <= LIST, "{again} bytes, though all are there");
    // The next process has them too.
    assert!(server.stop().success(), "{}", server.log());
    let again = stage.fetched(|| {
        let mut server = stage.serve(1);
        stage.read_whole();
        assert!(server.stop().success(), "{}", server.log());
    });
    assert!(again <= LIST, "{again} bytes after a restart");
}

/// Writes the file in the image of a stage.
fn noise_of(stage: &Stage) -> PathBuf {
    let (iso, noise) = (stage.dir.path().join("whole.iso"), stage.dir.path().join("noise"));
    fs::write(&iso, &*stage.image).unwrap();
    let mut xorriso = tool("xorriso");
    xorriso.args(["-osirrox", "on", "-indev"]).arg(iso).args(["-extract", "/arch/noise"]);
    output_of(xorriso.arg(&noise));
    noise
}

#[test]
fn faults_on_the_way_cost_no_client() {
    needs!(object_store::NEEDS, NEEDS);
    let stage = Stage::start(24);
    let faults = [
        Fault::Refuse,
        Fault::Reset,
        Fault::Stall,
        Fault::Cut(300_000),
        Fault::Slow(1 << 20),
        Fault::Unavailable,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        // Each time with an empty cache.
        let mut server = stage.serve_from(&stage.dir.path().join(format!("cache{number}")), number, &[]);
        let mut clients = Clients::new();
        stage.connect(&mut clients, 4, Habit::Steady);
        clients.run(Duration::from_millis(20));
        stage.proxy.set(fault);
        stage.connect(&mut clients, 4, Habit::Stalling);
        clients.run(Duration::from_secs(3));
        stage.proxy.set(Fault::None);
        let (before, end) = (clients.replies(), Instant::now() + SOON);
        while clients.replies() < before + 200 {
            assert!(Instant::now() < end, "{fault:?}: {} replies:\n{}", clients.replies(), server.log());
            clients.run(Duration::from_millis(50));
        }
        clients.finish();
        stage.read_whole();
        assert_eq!(stage.faults(), json!([]), "{fault:?}:\n{}", server.log());
        let log = server.log();
        assert!(!log.contains("isowire-secret"), "{log}");
        assert!(server.stop().success(), "{log}");
    }
}

#[test]
fn killed_process_leaves_no_wrong_byte() {
    needs!(object_store::NEEDS, NEEDS);
    let stage = Stage::start(32);
    for number in 0..4 {
        let server = stage.serve(number);
        stage.proxy.set(Fault::Slow(6 << 20));
        let mut readers: Vec<_> = (0..4).map(|_| stage.attach()).collect();
        for (n, socket) in readers.iter_mut().enumerate() {
            let offsets = (0..32).map(|block| (block * 5 + n as u64 * 8 + number as u64) % 32 * BLOCK);
            let requests = offsets.flat_map(|offset| read_request(offset, 4096));
            socket.write_all(&requests.collect::<Vec<_>>()).unwrap();
        }
        sleep(Duration::from_millis(350));
        server.kill();
        stage.proxy.set(Fault::None);
    }
    // A power cut may keep the record of a block and lose its bytes.
    let blocks = fs::read_dir(stage.cache()).unwrap().map(|entry| entry.unwrap().path());
    let blocks = blocks.into_iter().find(|path| path.extension().is_some_and(|end| end == "blocks")).unwrap();
    let file = File::options().write(true).open(blocks).unwrap();
    (0..32).for_each(|block| file.write_all_at(&[0; 512], block * BLOCK + 99_000).unwrap());
    let mut server = stage.serve(9);
    stage.read_whole();
    assert!(server.stop().success(), "{}", server.log());
}

#[test]
fn store_that_is_down_at_the_start_costs_what_is_not_cached() {
    needs!(object_store::NEEDS, NEEDS);
    let stage = Stage::start(16);
    let mut server = stage.serve(0);
    stage.read(&mut stage.attach(), 5 * BLOCK);
    assert!(server.stop().success(), "{}", server.log());
    stage.proxy.set(Fault::Refuse);
    let mut server = stage.serve(1);
    let mut socket = stage.attach();
    stage.read(&mut socket, 5 * BLOCK);
    socket.write_all(&read_request(9 * BLOCK, 4096)).unwrap();
    let text = stage.wait_for_fault("store-unreachable");
    assert!(text.starts_with("its object store cannot be reached: "), "{text}");
    // What is there is sent meanwhile.
    stage.read(&mut stage.attach(), 5 * BLOCK);
    stage.proxy.set(Fault::None);
    let (offset, data) = reply(&mut socket, |_| 4096);
    stage.check(offset, &data);
    server.wait_for("image can be read again", SOON);
    assert_eq!(server.log().matches("image cannot be read").count(), 1, "{}", server.log());
    assert_eq!(stage.faults(), json!([]));
    assert!(server.stop().success(), "{}", server.log());
}

#[test]
fn clients_of_an_object_that_is_replaced_keep_it() {
    needs!(object_store::NEEDS, NEEDS);
    let mut stage = Stage::start(16);
    let mut server = stage.serve(0);
    let mut socket = stage.attach();
    stage.read(&mut socket, 5 * BLOCK);
    let old = Arc::clone(&stage.image);
    let new = stage.put(2, 16);
    // The server knows when it asks for more.
    socket.write_all(&read_request(9 * BLOCK, 4096)).unwrap();
    assert_eq!(stage.wait_for_fault("object-replaced"), "the object was replaced in the store");
    kill_process(server.pid(), Signal::HUP).unwrap();
    server.wait_for("image replaced", SOON);
    stage.image = new;
    stage.read_whole();
    // The old client has what was cached, and waits for the rest.
    stage.image = old;
    socket.write_all(&read_request(5 * BLOCK, 4096)).unwrap();
    let (offset, data) = reply(&mut socket, |_| 4096);
    assert_eq!(offset, 5 * BLOCK);
    stage.check(offset, &data);
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(socket.read(&mut [0]).is_err(), "neither an answer nor the end");
    assert!(server.stop().success(), "{}", server.log());
}

#[test]
fn object_that_was_deleted_is_told() {
    needs!(object_store::NEEDS, NEEDS);
    let stage = Stage::start(16);
    let mut server = stage.serve(0);
    let mut socket = stage.attach();
    stage.read(&mut socket, 5 * BLOCK);
    stage.store.remove("images/linux/small.iso");
    socket.write_all(&read_request(9 * BLOCK, 4096)).unwrap();
    assert_eq!(stage.wait_for_fault("object-missing"), "the store has no such object");
    stage.read(&mut stage.attach(), 5 * BLOCK);
    assert!(server.stop().success(), "{}", server.log());
}

#[test]
fn process_that_takes_over_has_the_cache() {
    needs!(object_store::NEEDS, NEEDS);
    let stage = Stage::start(24);
    let mut server = stage.serve(0);
    let mut clients = Clients::new();
    stage.connect(&mut clients, 6, Habit::Steady);
    stage.connect(&mut clients, 2, Habit::Stalling);
    clients.run(Duration::from_millis(300));
    for number in 1..=3 {
        server = clients.run_beside(|| {
            let next = stage.serve_from(&stage.cache(), number, &["--takeover"]);
            let status = server.wait(SOON).expect("it ends when it was taken over");
            assert!(status.success(), "{status}:\n{}", server.log());
            next
        });
        clients.run(Duration::from_millis(200));
    }
    assert!(clients.finish() > 100);
    assert!(server.log().contains("NBD connections taken over"), "{}", server.log());
    stage.read_whole();
    let again = stage.fetched(|| stage.read_whole());
    assert!(again <= LIST, "{again}");
    assert!(server.stop().success(), "{}", server.log());
}

#[test]
fn cache_folder_is_of_one_process() {
    needs!(object_store::NEEDS, NEEDS);
    let stage = Stage::start(2);
    let server = stage.serve(0);
    // The folder is opened before the ports, which are taken too.
    let second = stage.command(&stage.cache()).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success(), "{said}");
    let process = server.pid().as_raw_nonzero();
    assert!(said.contains(&format!("is used by another isowire (process {process})")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn cache_may_be_smaller_than_the_image() {
    needs!(object_store::NEEDS, NEEDS);
    let mut stage = Stage::start(300);
    stage.cache_size = "256M";
    let mut server = stage.serve(0);
    let mut clients = Clients::new();
    stage.connect(&mut clients, 4, Habit::Steady);
    clients.run_beside(|| {
        for _ in 0..2 {
            stage.read_whole();
            let space = space(&stage.cache());
            assert!(space <= (256 << 20) + (1 << 20), "{space}");
        }
    });
    clients.finish();
    assert!(space(&stage.cache()) > 200 << 20, "it is used");
    assert!(server.stop().success(), "{}", server.log());
}

/// A small file system in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir(&at).unwrap();
        output_of(tool("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at));
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        output_of(tool("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn full_disk_makes_the_cache_smaller() {
    needs!(object_store::NEEDS, NEEDS, ["root", "mount"]);
    let stage = Stage::start(40);
    let disk = SmallDisk::mount(stage.dir.path().join("disk"), "20M");
    let cache = disk.0.join("cache");
    let mut server = stage.serve_from(&cache, 0, &[]);
    stage.read_whole();
    stage.read_whole();
    assert!(space(&cache) <= 20 << 20);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(server.stop().success(), "{}", server.log());
    drop(server);
}
