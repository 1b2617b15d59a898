//! Least privilege: the user, the capabilities and the sandbox of a running server, and that it serves
//! all the same.

mod common;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use common::lan::{self, BRIDGE, Lan};
use common::needs::{needs, tool};
use common::rpc::Client;
use common::running::{Running, output_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const SOON: Duration = Duration::from_secs(30);
const NEEDS: [&str; 2] = ["root", "xorriso"];
/// Number of `nobody` and of its group.
const NOBODY: &str = "65534";
/// CAP_NET_BIND_SERVICE, CAP_DAC_READ_SEARCH and CAP_FOWNER in the sets of /proc/PID/status.
const BIND: u64 = 1 << 10;
const READ: u64 = 1 << 2;
const OWN: u64 = 1 << 3;

/// A folder with an image, and a runtime directory.
struct Stage {
    dir: TempDir,
}

impl Stage {
    /// Makes it in a directory that all users may look into, or only root.
    fn new(mode: u32) -> Self {
        let stage = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["folder", "other", "run"] {
            fs::create_dir(stage.path(name)).unwrap();
        }
        stage.put("folder/arch.iso", "one");
        fs::set_permissions(stage.dir.path(), Permissions::from_mode(mode)).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts an image in place whose kernel has this content, as an administrator with the strictest
    /// umask would.
    fn put(&self, name: &str, kernel: &str) {
        let tree = self.path("tree");
        for (file, content) in [
            ("arch/boot/x86_64/vmlinuz-linux", kernel),
            ("arch/boot/x86_64/initramfs-linux.img", "initramfs"),
            ("arch/x86_64/airootfs.sfs", "hsqs"),
        ] {
            let file = tree.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        let made = self.path("made.iso");
        let mut xorriso = tool("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V", "STAGE", "-o"]);
        output_of(xorriso.arg(&made).arg(tree));
        let mode = self.dir.path().metadata().unwrap().mode() & 0o644;
        fs::set_permissions(&made, Permissions::from_mode(mode)).unwrap();
        fs::rename(made, self.path(name)).unwrap();
    }

    /// Creates the command: on loopback, on any free ports, without DHCP and portmapper.
    fn serve(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(self.path("folder")).args(["--bind", "127.0.0.1", "--dhcp", "off"]);
        command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0", "--portmap", "off"]);
        command.env("XDG_RUNTIME_DIR", self.path("run"));
        command
    }

    fn start(&self, command: &mut Command) -> Server {
        let mut running = Running::start(command, &self.path("log"));
        running.wait_for("\nready\n", SOON);
        Server(running)
    }

    /// Runs a server that ends at once, and returns its exit code and its only line.
    fn refused(&self, command: &mut Command) -> (i32, String) {
        let mut server = Running::start(command, &self.path("log"));
        let code = server.wait(SOON).expect("it ends").code().unwrap();
        assert_eq!(server.log().lines().count(), 1, "{}", server.log());
        (code, server.log())
    }
}

struct Server(Running);

impl Server {
    /// Returns the row of the report about the sandbox.
    fn row(&self) -> String {
        let log = self.0.log();
        let row = log.lines().find_map(|line| line.strip_prefix("Sandbox  -                     "));
        row.unwrap_or_else(|| panic!("no row: {log}")).to_owned()
    }

    fn port(&self, service: &str) -> u16 {
        let log = self.0.log();
        let row = log.lines().find(|row| row.starts_with(service)).expect("a row for the service");
        row.split_whitespace().nth(1).unwrap().rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Returns a line of /proc/PID/status, which has to be the same for all threads.
    fn status(&self, name: &str) -> String {
        let tasks = format!("/proc/{}/task", self.0.pid().as_raw_nonzero());
        let statuses = fs::read_dir(tasks).unwrap().flatten().map(|task| task.path().join("status"));
        // The thread of the log needs no capability.
        let is_log = |status: &String| name.starts_with("Cap") && status.contains("Name:\tisowire-log\n");
        let lines = statuses.flat_map(fs::read_to_string).filter(|status| !is_log(status)).map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap().trim().replace('\t', " ")
        });
        let mut lines: Vec<String> = lines.collect();
        lines.dedup();
        let [line] = &lines[..] else { panic!("{name}: {lines:?}") };
        line.clone()
    }

    fn capabilities(&self) -> u64 {
        let [effective, permitted] = ["CapEff", "CapPrm"].map(|name| self.status(name));
        assert_eq!(effective, permitted);
        u64::from_str_radix(&effective, 16).unwrap()
    }

    fn is_confined(&self) -> bool {
        let [seccomp, no_new_privs] = ["Seccomp", "NoNewPrivs"].map(|name| self.status(name));
        seccomp == "2" && no_new_privs == "1"
    }

    fn hang_up(&self) {
        kill_process(self.0.pid(), Signal::HUP).unwrap();
    }

    /// Fetches the kernel of an image by HTTP.
    fn kernel(&self, image: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port("HTTP"))).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let path = format!("/{image}/arch/boot/x86_64/vmlinuz-linux");
        socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).unwrap();
        reply.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Reads a few bytes through every door.
    fn assert_serves(&self) {
        assert_eq!(self.kernel("arch"), "one");
        let mut greeting = [0; 8];
        let mut nbd = TcpStream::connect(("127.0.0.1", self.port("NBD"))).unwrap();
        nbd.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGIC");
        drop(Client::connect(self.port("NFS")));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let request = b"\0\x01/arch/boot/x86_64/vmlinuz-linux\0octet\0";
        socket.send_to(request, ("127.0.0.1", self.port("TFTP"))).unwrap();
        let mut block = [0; 600];
        let (len, _) = socket.recv_from(&mut block).unwrap();
        assert_eq!(block[..len], *b"\0\x03\0\x01one");
    }
}

/// Returns the user and the group of a path.
fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn root_becomes_nobody() {
    needs!(NEEDS);
    let stage = Stage::new(0o755);
    let mut server = stage.start(&mut stage.serve());
    assert_eq!(server.row(), "landlock and seccomp; as user nobody");
    assert!(server.is_confined());
    assert_eq!(server.status("Uid"), [NOBODY; 4].join(" "));
    assert_eq!((server.status("Groups"), server.capabilities()), (String::new(), OWN));
    server.assert_serves();
    let url = stage.path("run/isowire/status.sock");
    output_of(Command::new(PROGRAM).arg("status").arg(&url));
    stage.put("folder/new.iso", "two");
    server.hang_up();
    server.0.wait_for("image added", SOON);
    assert_eq!(server.kernel("new"), "two");
    assert!(server.0.stop().success(), "{}", server.0.log());
    assert_eq!(fs::read_dir(stage.path("run/isowire")).unwrap().count(), 0, "its sockets are removed");
}

#[test]
fn closed_image_is_served_and_followed() {
    needs!(NEEDS);
    let stage = Stage::new(0o700);
    let mut server = stage.start(&mut stage.serve());
    let row = server.row();
    assert!(
        row.starts_with("landlock and seccomp; as user nobody, who may read closed files, such as "),
        "{row}"
    );
    assert!(server.is_confined());
    assert_eq!((server.status("Uid"), server.capabilities()), ([NOBODY; 4].join(" "), READ | OWN));
    server.assert_serves();
    stage.put("folder/arch.iso", "two");
    server.0.wait_for("image replaced", SOON);
    assert_eq!(server.kernel("arch"), "two");
}

#[test]
fn privileged_process_is_taken_over() {
    needs!(NEEDS);
    let stage = Stage::new(0o755);
    let mut first = stage.start(&mut stage.serve());
    let mut nbd = TcpStream::connect(("127.0.0.1", first.port("NBD"))).unwrap();
    nbd.read_exact(&mut [0; 18]).unwrap();
    let mut second = Running::start(stage.serve().arg("--takeover"), &stage.path("second"));
    second.wait_for("\nready\n", SOON);
    assert!(first.0.wait(SOON).expect("its successor has everything").success(), "{}", first.0.log());
    let second = Server(second);
    assert!(second.is_confined() && second.status("Uid") == [NOBODY; 4].join(" "));
    second.assert_serves();
    // The connection is at its client flags.
    nbd.write_all(&[0, 0, 0, 3]).unwrap();
    nbd.write_all(b"IHAVEOPT\0\0\0\x03\0\0\0\0").unwrap();
    let mut reply = [0; 8];
    nbd.read_exact(&mut reply).unwrap();
    assert_eq!(reply, 0x0003_e889_0455_65a9_u64.to_be_bytes(), "NBD_OPT_LIST is answered");
    // A process of the user that the server became has no claim to it.
    let mut third = Command::new("setpriv");
    third.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(PROGRAM);
    third.args(stage.serve().get_args()).arg("--takeover").env("XDG_RUNTIME_DIR", stage.path("run"));
    let mut third = Running::start(&mut third, &stage.path("third"));
    assert_eq!(third.wait(SOON).unwrap().code(), Some(1), "{}", third.log());
    second.assert_serves();
}

#[test]
fn leases_are_given_to_the_user() {
    needs!(NEEDS, lan::NEEDS);
    let stage = Stage::new(0o755);
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    let serve = || {
        let mut command = lan.command(PROGRAM);
        command.arg("serve").arg(stage.path("folder")).env("XDG_RUNTIME_DIR", stage.path("run"));
        command
            .args(["--dhcp-range", "192.168.77.100-192.168.77.199"])
            .env("XDG_STATE_HOME", stage.path("state"));
        command
    };
    let mut server = stage.start(&mut serve());
    assert_eq!(
        (server.row(), server.capabilities()),
        ("landlock and seccomp; as user nobody".into(), BIND | OWN)
    );
    let leases = stage.path("state/isowire/leases");
    assert!(fs::read_to_string(&leases).unwrap().starts_with("# Leases"));
    assert_eq!([owner(&leases), owner(leases.parent().unwrap())], [(65534, 65534); 2]);
    assert!(server.0.stop().success(), "{}", server.0.log());
    // Another user gets the files of the one before, also what was learned of boots.
    let list = stage.path("state/isowire/0123456789abcdef.boot");
    fs::write(&list, "of an image").unwrap();
    let mut server = stage.start(serve().args(["--user", "12345"]));
    assert_eq!(
        (server.row(), owner(&leases), owner(&list)),
        ("landlock and seccomp; as user 12345".into(), (12345, 12345), (12345, 12345))
    );
    assert!(server.0.stop().success(), "{}", server.0.log());

    // Without another user, nobody made the directory.
    let mut server = stage.start(serve().env("XDG_STATE_HOME", stage.path("new")).args(["--user", "root"]));
    assert!(stage.path("new/isowire/leases").exists(), "{}", server.0.log());
    assert!(server.0.stop().success(), "{}", server.0.log());

    // A directory that is not isowire's alone is not given away.
    let shared = stage.path("other");
    fs::write(shared.join("hosts"), "of another program").unwrap();
    let config = stage.path("config.toml");
    fs::write(&config, format!("lease-file = {:?}\n", shared.join("leases"))).unwrap();
    let server = stage.start(serve().arg("-c").arg(&config));
    let why = format!("nobody cannot write to {}: it has other files too", shared.display());
    assert_eq!(server.row(), format!("landlock and seccomp; as root: {why}"));
    assert!(server.is_confined() && server.status("Uid") == "0 0 0 0" && owner(&shared) == (0, 0));
    drop(server);
    let (code, line) = stage.refused(serve().arg("-c").arg(&config).args(["--user", "nobody"]));
    assert_eq!(
        (code, line),
        (1, format!("isowire: user: cannot become `nobody`: {why}; mend that, or remove `user`\n"))
    );
}

#[test]
fn interface_comes_back_after_the_start() {
    needs!(NEEDS, lan::NEEDS);
    let stage = Stage::new(0o755);
    let address = Ipv4Addr::new(192, 168, 77, 1);
    let lan = Lan::new(address);
    output_of(lan.command("sysctl").args(["-qw", "net.ipv4.ip_unprivileged_port_start=1024"]));
    let mut command = lan.command(PROGRAM);
    command.arg("serve").arg(stage.path("folder")).args(["-i", BRIDGE]);
    let mut server = stage.start(command.env("XDG_RUNTIME_DIR", stage.path("run")));
    assert_eq!((server.status("Uid"), server.capabilities()), ([NOBODY; 4].join(" "), BIND | OWN));
    lan.replace_bridge(address);
    server.0.wait_for(&format!("interface {BRIDGE} is there: DHCP is answered on it"), SOON);
}

#[test]
fn user_is_chosen() {
    needs!(NEEDS, ["setpriv", "unshare"]);
    let stage = Stage::new(0o755);
    let server = stage.start(stage.serve().args(["--user", "root"]));
    assert_eq!(server.row(), "landlock and seccomp; as root: the configuration says so");
    assert!(server.is_confined() && server.status("Uid") == "0 0 0 0");
    server.assert_serves();
    drop(server);

    // In a user namespace there may be no other user.
    let mut command = Command::new("unshare");
    command.arg("-Ur").arg(PROGRAM).args(stage.serve().get_args()).env("XDG_RUNTIME_DIR", stage.path("run"));
    let server = stage.start(&mut command);
    assert!(server.row().contains("; as root: this process cannot become nobody: "), "{}", server.row());
    server.assert_serves();
    drop(server);

    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(PROGRAM);
    let (code, line) = stage.refused(command.args(stage.serve().get_args()).args(["--user", "root"]));
    assert_eq!(
        (code, line.as_str()),
        (1, "isowire: user: cannot become `root`: only root can; start isowire as root or as that user\n")
    );
}

#[test]
fn closed_manager_keeps_root() {
    needs!(NEEDS);
    let stage = Stage::new(0o755);
    let path = stage.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let why = format!("nobody cannot write to NOTIFY_SOCKET={}", path.display());
    let server = stage.start(stage.serve().env("NOTIFY_SOCKET", &path));
    assert_eq!(server.row(), format!("landlock and seccomp; as root: {why}"));
    drop(server);
    // systemd's own socket is open to all.
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let mut message = [0; 256];
    while manager.recv(&mut message).is_ok_and(|len| !message[..len].starts_with(b"STOPPING")) {}
    let server = stage.start(stage.serve().env("NOTIFY_SOCKET", &path));
    assert_eq!(server.row(), "landlock and seccomp; as user nobody");
    let len = manager.recv(&mut message).unwrap();
    assert!(message[..len].starts_with(b"READY=1"));
}

#[test]
fn sandbox_is_chosen() {
    needs!(NEEDS);
    let stage = Stage::new(0o755);
    let server = stage.start(stage.serve().args(["--sandbox", "off"]));
    assert_eq!(server.row(), "off: the configuration says so; as user nobody");
    assert_eq!((server.status("Seccomp"), server.status("NoNewPrivs")), ("0".into(), "1".into()));
    assert_eq!(server.capabilities(), 0);
    drop(server);
    let server = stage.start(stage.serve().args(["--sandbox", "required"]));
    assert_eq!(server.row(), "landlock and seccomp; as user nobody");
    server.assert_serves();
}

#[test]
fn image_outside_the_folders_is_explained() {
    needs!(NEEDS);
    let stage = Stage::new(0o755);
    stage.put("other/old.iso", "old");
    symlink(stage.path("other/old.iso"), stage.path("folder/link.iso")).unwrap();
    let mut server = stage.start(&mut stage.serve());
    assert_eq!(server.kernel("link"), "old", "the folder that a link leads to counts");
    stage.put("other/new.iso", "new");
    symlink(stage.path("other/new.iso"), stage.path("folder/new.iso")).unwrap();
    server.0.wait_for("image added", SOON);
    assert_eq!(server.kernel("new"), "new");
    fs::create_dir(stage.path("third")).unwrap();
    stage.put("third/far.iso", "far");
    symlink(stage.path("third/far.iso"), stage.path("folder/far.iso")).unwrap();
    server.0.wait_for("folder/far.iso: cannot be read: Permission denied", SOON);
    assert!(server.0.log().contains("restart isowire, or set `sandbox = off`"), "{}", server.0.log());
    server.assert_serves();
}
