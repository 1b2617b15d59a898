//! Boot lists: what a machine reads while it boots is learned, kept, and read ahead for the next one,
//! from a disk and from an object store, which is a real Ceph.

mod common;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use common::fault_proxy::{Fault, FaultProxy};
use common::iso;
use common::lan::{self, Lan, Namespace, give_to_nobody};
use common::nbd::{self, read_request, reply};
use common::needs::needs;
use common::object_store::{self, ObjectStore};
use common::page_cache::{self, drop_pages, resident};
use common::ports::free_port;
use common::running::{Running, output_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const NEEDS: [&str; 1] = ["xorriso"];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const SOON: Duration = Duration::from_secs(60);

const BLOCK: u64 = 1 << 20;

/// Bytes that a proxy carries for a list of objects, with its head.
const LIST: u64 = 4 << 10;

/// Blocks of which a machine reads, in its order.
fn boot_blocks() -> Vec<u64> {
    (0..16).map(|n| 2 + n * 7 % 16 * 3).chain([3, 4]).collect()
}

/// Makes an ISO in which nothing boots.
fn image(dir: &Path) -> PathBuf {
    let iso = dir.join("arch.iso");
    iso::noise(&iso, 7, 56 << 20);
    iso
}

fn folder() -> tempfile::TempDir {
    // On a disk, whose pages the kernel can drop.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Reads a piece of each block, and checks it.
fn boot(socket: &mut TcpStream, image: &[u8]) {
    for block in boot_blocks() {
        let offset = block * BLOCK + 8192;
        socket.write_all(&read_request(offset, 4096)).unwrap();
        let (_, data) = reply(socket, |_| 4096);
        assert!(data == image[offset as usize..][..4096], "wrong bytes at {offset}");
    }
}

/// Returns the files of boot lists in a directory.
fn lists(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "boot")).collect()
}

/// Writes a list, byte by byte.
fn list(identity: u64, size: u64, blocks: &[u64]) -> Vec<u8> {
    let mut bytes = b"isowire blocks 1".to_vec();
    bytes.extend(identity.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend((BLOCK as u32).to_le_bytes());
    bytes.extend((blocks.len() as u32).to_le_bytes());
    bytes.extend(blocks.iter().flat_map(|&block| (block as u32).to_le_bytes()));
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < SOON, "{what}");
        sleep(Duration::from_millis(20));
    }
}

/// Starts a server of a file, with a directory of state.
fn serve(lan: &Lan, dir: &Path, iso: &Path, number: u32) -> Running {
    let mut command = lan.command_as_nobody(PROGRAM);
    command.arg("serve").arg(iso).args(["--interface", lan::BRIDGE, "--dhcp", "off"]);
    command.env("XDG_STATE_HOME", dir).env("XDG_RUNTIME_DIR", dir);
    let mut server = Running::start(&mut command, &dir.join(format!("log{number}")));
    server.wait_for("\nready\n", SOON);
    server
}

fn attach(machine: &Namespace) -> TcpStream {
    machine.inside(|| nbd::attach_to((SERVER, 10809).into(), "archiso"))
}

#[test]
fn boot_of_a_file_is_learned_and_read_ahead() {
    needs!(lan::NEEDS, page_cache::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), folder());
    let (iso, state) = (image(dir.path()), dir.path().join("isowire"));
    let content = fs::read(&iso).unwrap();
    fs::create_dir(&state).unwrap();
    [dir.path(), &state].into_iter().for_each(give_to_nobody);
    let machine = lan.host(Ipv4Addr::new(192, 168, 77, 9));
    let mut server = serve(&lan, dir.path(), &iso, 0);
    let mut socket = attach(&machine);
    boot(&mut socket, &content);
    server.wait_for("learned what a boot reads: 18 MiB in 17 places", SOON);
    drop(socket);
    assert!(server.stop().success(), "{}", server.log());
    let files = lists(&state);
    assert_eq!(files.len(), 1);
    let identity = u64::from_str_radix(files[0].file_stem().unwrap().to_str().unwrap(), 16).unwrap();
    let written = fs::read(&files[0]).unwrap();
    assert!(written == list(identity, content.len() as u64, &boot_blocks()), "{written:?}");
    // The next process, for the next machine.
    let mut server = serve(&lan, dir.path(), &iso, 1);
    drop_pages(&iso);
    let mut socket = attach(&machine);
    let listed = boot_blocks().len() as u64 * BLOCK;
    until("the list is not read", || resident(&iso) >= listed);
    sleep(Duration::from_millis(200));
    assert!(resident(&iso) < listed + BLOCK, "and only that");
    boot(&mut socket, &content);
    drop(socket);
    assert!(server.stop().success() && !server.log().contains("learned"), "{}", server.log());
    // One that was half written is no list.
    fs::write(&files[0], &written[..50]).unwrap();
    let mut server = serve(&lan, dir.path(), &iso, 2);
    server.wait_for("boot list ignored: it is damaged", SOON);
    boot(&mut attach(&machine), &content);
    assert_eq!(server.log().matches("boot list").count(), 1, "{}", server.log());
    assert!(lists(&state).is_empty());
    assert!(server.stop().success(), "{}", server.log());
}

/// A server of a bucket, with a cache of its own.
fn serve_bucket(
    store: &ObjectStore,
    proxy: &FaultProxy,
    dir: &Path,
    cache: &Path,
    ports: [u16; 2],
) -> Running {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "s3://images/", "--bind", "127.0.0.1", "--dhcp", "off"]);
    command.args(["--nfs", "off", "--portmap", "off", "--http", "off", "--tftp", "off"]);
    command.args(["--nbd", &ports[0].to_string(), "--status", &format!("127.0.0.1:{}", ports[1])]);
    command.arg("--cache-dir").arg(cache).env("XDG_RUNTIME_DIR", dir).env_remove("RUNTIME_DIRECTORY");
    command.envs(store.environment(proxy.port()));
    let log = cache.with_extension("log");
    let mut server = Running::start(&mut command, &log);
    server.wait_for("\nready\n", SOON);
    server
}

#[test]
fn boot_of_an_object_is_fetched_ahead() {
    needs!(object_store::NEEDS, NEEDS);
    let (dir, store) = (folder(), ObjectStore::start(&["images"]));
    let proxy = FaultProxy::start(store.port());
    let iso = image(dir.path());
    let content = fs::read(&iso).unwrap();
    store.put("images/arch.iso", &iso);
    let ports = [(); 2].map(|()| free_port());
    let serve = |cache: &Path| serve_bucket(&store, &proxy, dir.path(), cache, ports);
    // A first server, by which the bytes are compared, and the image's identity.
    let mut server = serve(&dir.path().join("cache0"));
    let mut command = Command::new(PROGRAM);
    command.args(["status", "--json", &format!("http://127.0.0.1:{}/", ports[1])]);
    let status: Value = serde_json::from_str(&output_of(&mut command)).unwrap();
    let versioned = status["images"][0]["versioned_name"].as_str().unwrap();
    let identity = versioned.rsplit('~').next().unwrap().to_owned();
    let without = fetched(&proxy, || boot(&mut nbd::attach(ports[0], "archiso"), &content));
    assert!(server.stop().success(), "{}", server.log());
    // A second one with an empty cache, and the list of the first.
    let cache = dir.path().join("cache1");
    fs::create_dir(&cache).unwrap();
    let number = u64::from_str_radix(&identity, 16).unwrap();
    let blocks = boot_blocks();
    fs::write(cache.join(format!("{identity}.boot")), list(number, content.len() as u64, &blocks)).unwrap();
    let mut server = serve(&cache);
    // On a slow line, what nobody asks for comes nevertheless.
    proxy.set(Fault::Slow(8 << 20));
    let before = proxy.bytes();
    let mut socket = nbd::attach(ports[0], "archiso");
    until("the list is not fetched", || proxy.bytes() - before >= blocks.len() as u64 * BLOCK);
    sleep(Duration::from_millis(500));
    let ahead = proxy.bytes() - before;
    let rest = fetched(&proxy, || boot(&mut socket, &content));
    assert!(rest <= LIST, "{rest} bytes are fetched while the machine waits");
    assert!(ahead * 100 <= blocks.len() as u64 * BLOCK * 105, "{ahead} bytes for {} blocks", blocks.len());
    assert!(ahead <= without + 2 * BLOCK, "{ahead} bytes ahead, {without} without a list");
    server.wait_for("fetching ahead what a boot reads: 18 MiB", SOON);
    assert!(server.stop().success(), "{}", server.log());
    // A list of another image.
    let cache = dir.path().join("cache2");
    fs::create_dir(&cache).unwrap();
    let path = cache.join(format!("{identity}.boot"));
    fs::write(&path, list(number + 1, content.len() as u64, &blocks)).unwrap();
    let mut server = serve(&cache);
    server.wait_for("boot list ignored: it is of another image", SOON);
    boot(&mut nbd::attach(ports[0], "archiso"), &content);
    assert_eq!(server.log().matches("boot list").count(), 1, "{}", server.log());
    assert!(server.stop().success() && !path.exists(), "{}", server.log());
}

/// Returns the bytes that come over a proxy during `work`.
fn fetched(proxy: &FaultProxy, work: impl FnOnce()) -> u64 {
    let before = proxy.bytes();
    work();
    proxy.bytes() - before
}
