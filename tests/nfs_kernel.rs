//! The Linux kernel's NFS client in a virtual machine: it sees the tree of the source, and a file
//! system on NFS survives a killed server, and an address that moves to another one.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use common::iso;
use common::lan::{self, BRIDGE, Lan};
use common::machine::{self, Machine, Report};
use common::needs::{asked_for_all, needs, tool};
use common::nfs::started;
use common::running::{Running, output_of};
use common::tree::{self, BIG, MANY, SQUASHFS_FILES, Tree, tree};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

/// A port that clients find only through the portmapper.
const NFS_PORT: u16 = 20_490;

/// Files that are not read: nine in ten of the large directory. All of them would take an emulated
/// machine two minutes.
const SKIPPED: &str = "entry-*[1-9]";

/// Time without a server: many times the 0.7 seconds after which archiso's mount repeats a call.
const AWAY: Duration = Duration::from_secs(10);

#[test]
fn kernel_client_survives_a_restart() {
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, tree::NEEDS);
    let (mut lan, tree) = (Lan::new(SERVER), tree());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nfs_kernel");
    fs::create_dir_all(&dir).unwrap();
    let server = serve(&lan, &tree, &dir);
    let listen = || lan.server().inside(|| TcpListener::bind((SERVER, 0)).unwrap());
    let (answers, restart) = (Answers::collect(listen()), listen());
    let command_line = format!(
        "console=ttyS0 quiet panic=-1 rdinit=/nfs-init isowire.nfs={NFS_PORT} isowire.skip={} \
         isowire.report={} isowire.restart={}",
        if asked_for_all() { "" } else { SKIPPED },
        answers.port,
        restart.local_addr().unwrap().port()
    );
    let (kernel, initramfs) = boot_files(&dir);
    let mut machine = Machine::boot(&mut lan, &dir, &kernel, &initramfs, &command_line);

    machine.wait_for("ready for the restart");
    server.kill();
    // The guest goes on when this connection is closed.
    drop(restart.accept().unwrap());
    thread::sleep(AWAY);
    let _server = serve(&lan, &tree, &dir);
    let report = machine.run_to_power_off();

    check_listing(&tree, &answers.take("listing"));
    let sub = Tree { source: tree.source.join("sub"), ..common::tree::tree() };
    check_listing(&sub, &answers.take("plain-listing"));
    check_links(&tree, &answers.take("links"));
    check_sums(&tree, &answers.take("sums"));
    check_report(&tree, &report);
}

/// The address of an export moves to another server, and back, while a file system on it is read.
#[test]
fn kernel_client_goes_on_where_the_address_moves() {
    needs!(lan::NEEDS, machine::NEEDS, iso::NEEDS, tree::NEEDS, ["python3"]);
    let (mut lan, tree) = (Lan::new(SERVER), tree());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nfs_moving");
    fs::create_dir_all(&dir).unwrap();
    // A copy has another inode and other dates, as on another host.
    let copy = Tree { iso: dir.join("copy.iso"), ..common::tree::tree() };
    fs::copy(&tree.iso, &copy.iso).unwrap();
    let hosts = [2, 3].map(|n| lan.host(Ipv4Addr::new(192, 168, 77, n)));
    let servers: Vec<_> = hosts
        .iter()
        .zip([&tree, &copy])
        .enumerate()
        .map(|(number, (host, tree))| {
            serve_by(
                host.command(env!("CARGO_BIN_EXE_isowire")),
                "eth0",
                tree,
                &dir.join(format!("log{number}")),
            )
        })
        .collect();
    let address = format!("{MOVING}/24");
    let move_to = |from: Option<usize>, to: usize| {
        from.iter().for_each(|&from| hosts[from].ip(&["address", "delete", &address, "dev", "eth0"]));
        hosts[to].ip(&["address", "add", &address, "dev", "eth0"]);
        output_of(hosts[to].command("python3").args(["-c", ANNOUNCEMENT, &MOVING.to_string()]));
    };
    move_to(None, 0);
    let moves = lan.server().inside(|| TcpListener::bind((SERVER, 0)).unwrap());
    let command_line = format!(
        "console=ttyS0 quiet panic=-1 rdinit=/nfs-init isowire.moving={MOVING} isowire.restart={}",
        moves.local_addr().unwrap().port()
    );
    let (kernel, initramfs) = boot_files(&dir);
    let machine = Machine::boot(&mut lan, &dir, &kernel, &initramfs, &command_line);
    let mover = |from, to| {
        let Some(asked) = accepted(&moves) else { return };
        // It is in the middle of the file.
        thread::sleep(Duration::from_millis(500));
        move_to(Some(from), to);
        drop(asked);
    };
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            mover(0, 1);
            mover(1, 0);
        });
        machine.run_to_power_off()
    });

    let sum: String = Sha256::digest(tree.read(BIG.0)).iter().map(|byte| format!("{byte:02x}")).collect();
    for number in [1, 2] {
        assert_eq!(report.value(&format!("sum-{number}")), format!("{sum}  -"));
        let intact = format!("{SQUASHFS_FILES} of {SQUASHFS_FILES}");
        assert_eq!(report.value(&format!("intact-{number}")), intact);
    }
    assert_eq!(report.value("complaints"), "0");
    for mut server in servers {
        server.stop();
        let log = server.log();
        assert!(log.contains("NFS clients wait until the server is back"), "both had the client:\n{log}");
    }
}

/// Accepts a connection, if one comes within the time of a boot.
fn accepted(listener: &TcpListener) -> Option<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Ok((accepted, _)) = listener.accept() {
            return Some(accepted);
        }
        thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Time for a guest to start.
const PATIENCE: Duration = Duration::from_secs(180);

/// The address that moves.
const MOVING: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 9);

/// Tells the link who has an address now, as keepalived does: a gratuitous ARP request (RFC 5227 §3).
const ANNOUNCEMENT: &str = "import socket, sys\n\
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
    link.bind(('eth0', 0x0806))\n\
    mac, ip = link.getsockname()[4], socket.inet_aton(sys.argv[1])\n\
    link.send(b'\\xff' * 6 + mac + b'\\x08\\x06\\0\\1\\x08\\0\\6\\4\\0\\1' + mac + ip + b'\\0' * 6 + ip)\n";

fn serve(lan: &Lan, tree: &Tree, dir: &Path) -> Running {
    serve_by(lan.command(env!("CARGO_BIN_EXE_isowire")), BRIDGE, tree, &dir.join("server.log"))
}

fn serve_by(mut command: Command, interface: &str, tree: &Tree, log: &Path) -> Running {
    command.arg("serve").arg(&tree.iso).args(["--interface", interface, "--nfs", &NFS_PORT.to_string()]);
    command.args(["--nbd", "0", "--http", "off", "--tftp", "off", "--dhcp", "off", "--status", "off"]);
    started(&mut command, log)
}

/// Extracts the kernel and initramfs of the test ISO, and puts the guest's own init before the
/// latter.
fn boot_files(dir: &Path) -> (PathBuf, PathBuf) {
    let (kernel, archiso) = (dir.join("vmlinuz"), dir.join("archiso.img"));
    for (name, file) in [("vmlinuz-linux", &kernel), ("initramfs-linux.img", &archiso)] {
        let _ = fs::remove_file(file);
        let mut xorriso = tool("xorriso");
        xorriso.args(["-no_rc", "-report_about", "SORRY", "-osirrox", "on", "-indev"]).arg(iso::small().path);
        output_of(xorriso.arg("-extract").arg(format!("/arch/boot/x86_64/{name}")).arg(file));
    }
    let init = dir.join("nfs-init");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/nfs-init"), &init).unwrap();
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).unwrap();
    // An archive that is not compressed comes first, as microcode does.
    let initramfs = dir.join("initramfs.img");
    let script = "{ echo nfs-init | cpio -o -H newc --quiet; cat archiso.img; } > initramfs.img";
    output_of(Command::new("sh").args(["-ec", script]).current_dir(dir));
    (kernel, initramfs)
}

/// The long answers of the guest, by their names.
struct Answers {
    port: u16,
    answers: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Answers {
    /// Takes answers for as long as the test runs.
    fn collect(listener: TcpListener) -> Self {
        let collected = Self { port: listener.local_addr().unwrap().port(), answers: Arc::default() };
        let answers = Arc::clone(&collected.answers);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut answer = Vec::new();
                connection.unwrap().read_to_end(&mut answer).unwrap();
                let end = answer.iter().position(|&byte| byte == b'\n').expect("a name in the first line");
                let text = answer.split_off(end + 1);
                answers.lock().unwrap().insert(String::from_utf8(answer).unwrap().trim().to_owned(), text);
            }
        });
        collected
    }

    /// The lines of an answer.
    fn take(&self, name: &str) -> Vec<Vec<u8>> {
        let answer =
            self.answers.lock().unwrap().remove(name).unwrap_or_else(|| panic!("the guest sent no {name}"));
        answer.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }
}

/// Mode, owner, size, date and name of every entry.
fn check_listing(tree: &Tree, lines: &[Vec<u8>]) {
    let mut expected: Vec<_> = tree.entries().iter().map(|path| line(tree, path)).collect();
    let mut seen: Vec<_> = lines.iter().map(|line| without_free_fields(line)).collect();
    expected.sort();
    seen.sort();
    for (seen, expected) in seen.iter().zip(&expected) {
        assert!(
            seen == expected,
            "{}\nis what was seen of\n{}",
            seen.escape_ascii(),
            expected.escape_ascii()
        );
    }
    assert_eq!(seen.len(), expected.len());
}

fn line(tree: &Tree, path: &Path) -> Vec<u8> {
    let of = tree.metadata(path);
    let numbers = [of.nlink(), of.uid().into(), of.gid().into(), of.size(), of.mtime() as u64];
    let numbers = numbers.map(|number| number.to_string()).join(" ");
    let line = [format!("{:x} {numbers} ./", of.mode()).as_bytes(), path.as_os_str().as_bytes()].concat();
    without_free_fields(&line)
}

/// The link count and the size of a directory are the file system's own affair.
fn without_free_fields(line: &[u8]) -> Vec<u8> {
    let mut fields: Vec<_> = line.splitn(7, |&byte| byte == b' ').collect();
    assert_eq!(fields.len(), 7, "{}", line.escape_ascii());
    if fields[0].starts_with(b"4") {
        (fields[1], fields[4]) = (b"-", b"-");
    }
    fields.join(&b' ')
}

fn check_links(tree: &Tree, lines: &[Vec<u8>]) {
    let links: Vec<_> = tree.entries().into_iter().filter(|path| tree.metadata(path).is_symlink()).collect();
    assert_eq!(lines.len(), links.len());
    for path in links {
        let target = fs::read_link(tree.source.join(&path)).unwrap();
        let line = [b"./", path.as_os_str().as_bytes(), b"\t", target.as_os_str().as_bytes()].concat();
        assert!(lines.contains(&line), "{}", line.escape_ascii());
    }
}

fn check_sums(tree: &Tree, lines: &[Vec<u8>]) {
    let is_read = |path: &PathBuf| {
        let name = path.file_name().unwrap().as_bytes();
        asked_for_all() || !name.starts_with(b"entry-") || name.ends_with(b"0")
    };
    let files = tree.entries().into_iter().filter(|path| tree.metadata(path).is_file());
    let files: Vec<_> = files.filter(is_read).collect();
    assert_eq!(lines.len(), files.len());
    let mut seen: Vec<_> = lines.to_vec();
    seen.sort();
    for path in files {
        let sum: String = Sha256::digest(tree.read(&path)).iter().map(|byte| format!("{byte:02x}")).collect();
        let line = [sum.as_bytes(), b"  ./", path.as_os_str().as_bytes()].concat();
        assert!(seen.binary_search(&line).is_ok(), "{} differs", path.display());
    }
}

fn check_report(tree: &Tree, report: &Report) {
    let options = report.value("mounted");
    for option in ["vers=3", "proto=tcp", "nolock", "rsize=1048576", "hard", &format!("port={NFS_PORT}")] {
        assert!(options.contains(option), "{options}");
    }
    assert_eq!(report.value("script"), "it runs");
    let refused = report.value("touch");
    assert_eq!(refused.matches("Read-only file system").count(), 2, "{refused}");
    let size = fs::metadata(&tree.iso).unwrap().len() / 1024;
    let df: Vec<_> = report.value("df").split_whitespace().collect();
    assert!(df[1].parse::<u64>().unwrap().abs_diff(size) < 1024 && df[3] == "0", "{df:?} of {size} KiB");
    assert_eq!(report.value("entries"), MANY.1.to_string());
    assert!(report.value("calls").contains("READDIRPLUS="), "{}", report.value("calls"));
    assert!(report.value("plain-calls").contains("READDIR="), "{}", report.value("plain-calls"));
    assert!(report.value("plain-calls").contains("READDIRPLUS=0"), "{}", report.value("plain-calls"));
    assert_eq!(report.value("intact"), format!("{SQUASHFS_FILES} of {SQUASHFS_FILES}"));
    assert_eq!(report.value("complaints"), "0");
}
