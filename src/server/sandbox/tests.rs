//! Each test runs itself again in a process of its own, which enters the sandbox and does not come
//! out of it.

use std::env;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _, stderr};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio, exit};

use nix::sys::ptrace;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::{chroot, getppid, test_kill_process};
use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::check::sample;
use crate::config::{self, CacheConfig};
use crate::images::{self, SearchPath};

/// Directory for the process inside, and what it is to try.
const INSIDE: [&str; 2] = ["ISOWIRE_TEST_DIRECTORY", "ISOWIRE_TEST_ATTACK"];

/// Runs a test of this file again, as the process inside.
fn again(test: &str, directory: &Path, attack: &str) -> ExitStatus {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("server::sandbox::tests::{test}"), "--nocapture"]);
    let values = [directory.to_str().unwrap(), attack];
    command.envs(INSIDE.into_iter().zip(values)).stdout(Stdio::null()).status().unwrap()
}

/// Returns the directory and the attack in the process inside.
fn inside() -> Option<[String; 2]> {
    let [directory, attack] = INSIDE.map(|name| env::var(name).ok());
    Some([directory?, attack?])
}

fn config(directory: &Path) -> Config {
    let folder = directory.join("folder");
    let leases = directory.join("state/leases");
    let text = format!(
        "dhcp-range = \"10.0.0.1-10.0.0.9\"\nlease-file = {leases:?}\nsandbox = \"required\"\n[[image]]\npath = {folder:?}\n"
    );
    let mut config = config::of_text(&text).unwrap();
    config.handover_socket = directory.join("run/handover.sock");
    config
}

/// Tells whether the kernel has a sandbox.
fn has_sandbox(directory: &Path) -> bool {
    let Err(error) = require(&config(directory)) else { return true };
    assert!(env::var("CI").as_deref() != Ok("true"), "{error}");
    let _ = writeln!(stderr(), "skipped: {error}");
    false
}

/// Makes what a server has: a folder with an image, and directories for leases and sockets.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["folder", "state", "run"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("folder/arch.iso"), sample::image()).unwrap();
    fs::write(directory.path().join("secret"), "secret").unwrap();
    directory
}

/// Enters the sandbox of a server.
fn enter_inside(directory: &Path) {
    enter_with(directory, &config(directory));
}

fn enter_with(directory: &Path, config: &Config) {
    let paths = [SearchPath { path: directory.join("folder"), name: None }];
    let images = ImageSet::of(images::find(&paths, None, None, None).0).unwrap();
    let identity = Identity::choose(config, &images, None).unwrap();
    enter(config, &images, None, &identity).unwrap();
}

fn errno(result: io::Result<impl Sized>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

#[test]
fn sandbox_refuses_what_a_server_does_not_need() {
    if let Some([directory, _]) = inside() {
        return refused(Path::new(&directory));
    }
    let directory = directory();
    if has_sandbox(directory.path()) {
        let status = again("sandbox_refuses_what_a_server_does_not_need", directory.path(), "");
        assert!(status.success(), "{status}");
    }
}

fn refused(directory: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut memory = memmap2::MmapMut::map_anon(4096).unwrap();
    memory[0] = 0xc3;
    enter_inside(directory);
    // Landlock.
    assert_eq!(errno(OpenOptions::new().append(true).open("/etc/passwd")), libc::EACCES);
    assert_eq!(errno(File::open("/etc/passwd")), libc::EACCES);
    assert_eq!(errno(File::open(directory.join("secret"))), libc::EACCES);
    assert_eq!(errno(File::create(directory.join("new"))), libc::EACCES);
    assert_eq!(errno(File::create(directory.join("folder/new.iso"))), libc::EACCES);
    assert_eq!(errno(fs::remove_file(directory.join("folder/arch.iso"))), libc::EACCES);
    assert_eq!(errno(File::create(directory.join("run/file"))), libc::EACCES);
    assert_eq!(errno(fs::create_dir(directory.join("state/directory"))), libc::EACCES);
    // The network of Landlock came with Linux 6.7.
    let connected = errno(TcpStream::connect(listener.local_addr().unwrap()));
    assert!([0, libc::EACCES].contains(&connected), "{connected}");
    // seccomp.
    let lease = directory.join("state/leases");
    fs::write(&lease, "").unwrap();
    assert_eq!(errno(fs::set_permissions(&lease, Permissions::from_mode(0o4755))), libc::ENOSYS);
    assert_eq!(errno(std::os::unix::fs::chown(&lease, Some(0), None)), libc::ENOSYS);
    assert_eq!(errno(memory.make_exec()), libc::ENOSYS, "code that was written as data");
    assert_eq!(errno(Command::new("/bin/true").spawn()), libc::ENOSYS, "another process");
    assert_eq!(errno(test_kill_process(getppid().unwrap()).map_err(io::Error::from)), libc::ENOSYS);
    for domain in [Domain::PACKET, Domain::IPV6, Domain::VSOCK] {
        assert_eq!(errno(Socket::new(domain, Type::DGRAM, None)), libc::ENOSYS, "{domain:?}");
    }
    let audit = Some(Protocol::from(libc::NETLINK_AUDIT));
    assert_eq!(errno(Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, audit)), libc::ENOSYS);
}

#[test]
fn sandbox_allows_what_a_server_needs() {
    if let Some([directory, _]) = inside() {
        return allowed(Path::new(&directory));
    }
    let directory = directory();
    if has_sandbox(directory.path()) {
        let status = again("sandbox_allows_what_a_server_needs", directory.path(), "");
        assert!(status.success(), "{status}");
    }
}

fn allowed(directory: &Path) {
    enter_inside(directory);
    let image = directory.join("folder/arch.iso");
    let mut bytes = Vec::new();
    File::open(&image).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!((fs::read_dir(image.parent().unwrap()).unwrap().count(), bytes), (1, sample::image()));
    let [new, leases] = ["state/leases.new", "state/leases"].map(|name| directory.join(name));
    fs::write(&new, "a lease").unwrap();
    fs::rename(&new, &leases).unwrap();
    File::options().append(true).open(&leases).unwrap().write_all(b"another").unwrap();
    let socket = directory.join("run/status.sock");
    drop(UnixListener::bind(&socket).unwrap());
    fs::remove_file(&socket).unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(fs::read_to_string("/proc/self/net/arp").is_ok() && crate::interfaces::list().is_ok());
    let figures = crate::metrics::process::read(jiff::Timestamp::now());
    assert!(figures.is_some_and(|figures| figures.open_files > Some(2)), "{figures:?}");
    let runtime = crate::runtime::build().unwrap();
    let told = runtime.block_on(async { tokio::task::spawn_blocking(|| 7).await.unwrap() });
    assert_eq!(told, 7, "threads are had");
}

#[test]
fn sandbox_allows_what_object_stores_need() {
    if let Some([directory, _]) = inside() {
        return allowed_for_stores(Path::new(&directory));
    }
    let directory = directory();
    if has_sandbox(directory.path()) {
        let status = again("sandbox_allows_what_object_stores_need", directory.path(), "");
        assert!(status.success(), "{status}");
    }
}

fn allowed_for_stores(directory: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let cache = CacheConfig { directory: directory.join("cache"), size: 1 << 30 };
    fs::create_dir(&cache.directory).unwrap();
    enter_with(directory, &Config { cache: Some(cache), ..config(directory) });
    let [new, blocks] = ["cache/a.new", "cache/a.blocks"].map(|name| directory.join(name));
    let file = File::create(&new).unwrap();
    file.write_all_at(b"a block", 4096).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert!([Ok(()), Err(Errno::OPNOTSUPP)].contains(&fallocate(&file, hole, 4096, 4096)));
    fs::rename(&new, &blocks).unwrap();
    fs::remove_file(&blocks).unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_ne!(errno(Socket::new(Domain::IPV6, Type::STREAM, None)), libc::ENOSYS);
    assert_eq!(errno(fs::read("/etc/hosts")), 0);
    assert_eq!(errno(File::open("/etc/passwd")), libc::EACCES);
    let runtime = crate::runtime::small("store", 2, 1).unwrap();
    let told = runtime.block_on(async { tokio::net::lookup_host("localhost:80").await.map(Iterator::count) });
    assert!(told.is_ok_and(|count| count > 0), "names are resolved");
}

#[test]
fn attack_ends_the_process() {
    if let Some([directory, attack]) = inside() {
        return attack_with(Path::new(&directory), &attack);
    }
    let directory = directory();
    if !has_sandbox(directory.path()) {
        return;
    }
    for attack in ["execve", "ptrace", "chroot", "umount"] {
        let status = again("attack_ends_the_process", directory.path(), attack);
        assert_eq!(status.signal(), Some(libc::SIGSYS), "{attack}: {status}");
    }
}

fn attack_with(directory: &Path, attack: &str) {
    enter_inside(directory);
    match attack {
        "execve" => drop(Command::new("/bin/true").exec()),
        "ptrace" => drop(ptrace::attach(nix::unistd::getppid())),
        "chroot" => drop(chroot(directory)),
        "umount" => drop(nix::mount::umount(directory)),
        _ => {}
    }
    exit(1);
}

#[test]
fn state_names_what_is_missing() {
    let of = |landlock: Result<(), &str>, seccomp: Result<(), &str>| {
        let [landlock, seccomp] = [landlock, seccomp].map(|part| part.map_err(str::to_owned));
        Confinement { landlock, seccomp }
    };
    assert_eq!(of(Ok(()), Ok(())).state(), "landlock and seccomp");
    assert_eq!(of(Err("old"), Ok(())).state(), "seccomp; no landlock: old");
    assert_eq!(of(Ok(()), Err("old")).state(), "landlock; no seccomp: old");
    assert_eq!(of(Err("old"), Err("none")).state(), "off: no landlock: old; no seccomp: none");
    let error = of(Err("the kernel has none"), Ok(())).complete().unwrap_err().to_string();
    assert_eq!(
        error,
        "landlock not available: the kernel has none; use a kernel that has it, or `sandbox = auto`"
    );
}
