//! `isowire serve` as a process: what it says when it starts, which sockets it takes, how it ends.

mod common;

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

use common::lan::{self, Lan};
use common::needs::{needs, tool};
use common::running::{Running, output_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const SOON: Duration = Duration::from_secs(20);

/// A directory with an image as mkarchiso lays it out, in which nothing boots.
struct Stage {
    dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let tree = dir.path().join("tree");
        for (path, content) in [
            ("arch/boot/x86_64/vmlinuz-linux", "kernel"),
            ("arch/boot/x86_64/initramfs-linux.img", "initramfs"),
            ("arch/x86_64/airootfs.sfs", "hsqs"),
            ("boot/syslinux/lpxelinux.0", "loader"),
        ] {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let stage = Self { dir };
        let mut xorriso = tool("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V", "STAGE", "-o"]);
        output_of(xorriso.arg(stage.path("arch.iso")).arg(tree));
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// On loopback, on any free ports, without DHCP.
    fn serve(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(self.path("arch.iso"));
        command.args(["--bind", "127.0.0.1", "--nbd", "0", "--tftp", "0", "--dhcp", "off"]);
        command
    }

    fn start(&self, command: &mut Command) -> Running {
        let mut server = Running::start(command, &self.log());
        server.wait_for("\nready\n", SOON);
        server
    }
}

/// The port in the row of a service.
fn port(log: &str, service: &str) -> u16 {
    let row = log.lines().find(|line| line.split_whitespace().next() == Some(service));
    let row = row.unwrap_or_else(|| panic!("no row for {service} in:\n{log}"));
    row.split_whitespace().nth(1).and_then(|address| address.rsplit(':').next()?.parse().ok()).unwrap()
}

/// What TFTP sends for a name, at most one block.
fn fetched(port: u16, name: &str) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let request = [b"\0\x01", name.as_bytes(), b"\0octet\0blksize\08192\0"].concat();
    socket.send_to(&request, ("127.0.0.1", port)).unwrap();
    let mut packet = [0; 9000];
    let (_, peer) = socket.recv_from(&mut packet).unwrap();
    assert_eq!(packet[..2], [0, 6], "an OACK");
    socket.send_to(&[0, 4, 0, 0], peer).unwrap();
    let (len, _) = socket.recv_from(&mut packet).unwrap();
    socket.send_to(&[0, 4, 0, 1], peer).unwrap();
    assert_eq!(packet[..4], [0, 3, 0, 1], "the first block");
    String::from_utf8(packet[4..len].to_vec()).unwrap()
}

fn greets(port: u16) -> bool {
    let mut greeting = [0; 8];
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.read_exact(&mut greeting).is_ok_and(|()| &greeting == b"NBDMAGIC")
}

#[test]
fn starts_tells_and_ends() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut server = stage.start(&mut stage.serve());
    let log = server.log();
    assert!(log.contains("NBD      127.0.0.1:"), "{log}");
    assert!(log.contains("serving arch; archiso's initramfs asks port 10809 and no other\n"), "{log}");
    assert!(log.contains("DHCP     -                     off: the configuration says so\n"), "{log}");
    assert!(log.contains("boot file (option 67) tftp://127.0.0.1:"), "{log}");
    assert!(greets(port(&log, "NBD")));
    let tftp = port(&log, "TFTP");
    assert_eq!(fetched(tftp, "/boot/syslinux/lpxelinux.0"), "loader");
    let menu = fetched(tftp, "isowire/pxelinux.cfg");
    assert!(
        menu.contains(&format!("\nLINUX tftp://127.0.0.1:{tftp}/arch/boot/x86_64/vmlinuz-linux\n")),
        "{menu}"
    );
    assert!(menu.contains(" archiso_nbd_srv=127.0.0.1 "), "{menu}");
    assert!(server.stop().success());
    assert!(server.log().contains("stopping: asked to by SIGTERM"));
}

#[test]
fn several_images_have_several_trees() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    fs::copy(stage.path("arch.iso"), stage.path("second one.iso")).unwrap();
    let mut command = stage.serve();
    let server = stage.start(command.arg(stage.path("second one.iso")).args(["--advertise", "10.1.2.3"]));
    let log = server.log();
    assert!(log.contains("serving arch, second-one"), "{log}");
    let tftp = port(&log, "TFTP");
    assert_eq!(fetched(tftp, "second-one/arch/boot/x86_64/vmlinuz-linux"), "kernel");
    let menu = fetched(tftp, "boot/syslinux/pxelinux.cfg/default");
    assert!(menu.contains(" archiso_nbd_srv=10.1.2.3 archiso_nbd_name=second-one "), "{menu}");
}

#[test]
fn an_image_that_hides_another_is_refused() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    fs::copy(stage.path("arch.iso"), stage.path("boot.iso")).unwrap();
    let mut server = Running::start(stage.serve().arg(stage.path("boot.iso")), &stage.log());
    assert_eq!(server.wait(SOON).unwrap().code(), Some(1));
    assert!(server.log().contains("the image `boot` would hide behind `/boot`"), "{}", server.log());
}

#[test]
fn systemd_is_told() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let systemd = UnixDatagram::bind(stage.path("notify")).unwrap();
    systemd.set_read_timeout(Some(SOON)).unwrap();
    let mut server = stage.start(stage.serve().env("NOTIFY_SOCKET", stage.path("notify")));
    let told = || {
        let mut message = [0; 256];
        let len = systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    };
    assert_eq!(told().trim_end(), "READY=1");
    assert!(server.stop().success());
    assert_eq!(told().trim_end(), "STOPPING=1");
}

/// Starts the server as a supervisor does: with `first` at file descriptor 3 and `second` at 4.
fn activated(stage: &Stage, names: &str, first: &impl AsFd, second: &impl AsFd) -> Running {
    // A shell stands in for the supervisor: it moves the sockets to their places and knows the process id.
    let fds = [first.as_fd(), second.as_fd()].map(|fd| {
        fcntl_setfd(fd, FdFlags::empty()).unwrap();
        fd.as_raw_fd()
    });
    let script = format!(
        "exec 13<&{} 14<&{}; exec 3<&13 4<&14 13<&- 14<&-; LISTEN_PID=$$ exec \"$0\" \"$@\"",
        fds[0], fds[1]
    );
    // The shell of Debian takes only one digit in a redirection.
    let mut command = tool("bash");
    command.args(["-c", &script, PROGRAM, "serve"]).arg(stage.path("arch.iso")).args(["--dhcp", "off"]);
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    Running::start(&mut command, &stage.log())
}

fn sockets() -> (TcpListener, UdpSocket) {
    (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap())
}

#[test]
fn inherited_sockets_are_taken_by_name() {
    needs!(["xorriso", "bash"]);
    let stage = Stage::new();
    let (nbd, tftp) = sockets();
    // The other way round than they are used.
    let mut server = activated(&stage, "tftp:nbd", &tftp, &nbd);
    server.wait_for("\nready\n", SOON);
    let ports = [nbd.local_addr().unwrap().port(), tftp.local_addr().unwrap().port()];
    drop((nbd, tftp));
    assert_eq!([port(&server.log(), "NBD"), port(&server.log(), "TFTP")], ports);
    assert!(greets(ports[0]));
    assert_eq!(fetched(ports[1], "boot/syslinux/lpxelinux.0"), "loader");
    assert!(server.stop().success());
}

#[test]
fn inherited_sockets_without_a_use_are_refused() {
    needs!(["xorriso", "bash"]);
    let stage = Stage::new();
    let (nbd, tftp) = sockets();
    for (names, complaint) in [
        ("tftp:http", "an inherited socket is called `http`"),
        ("tftp", "an inherited socket is called `unknown`"),
        ("tftp:dhcp", "the inherited socket `dhcp` is of the wrong kind"),
        ("pxe:nbd", "the inherited socket `pxe` has no use"),
    ] {
        let mut server = activated(&stage, names, &tftp, &nbd);
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{names}: {}", server.log());
        assert!(server.log().contains(complaint), "{names}: {}", server.log());
    }
}

#[test]
fn a_busy_port_is_told() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let (nbd, tftp) = sockets();
    for (option, port) in
        [("--nbd", nbd.local_addr().unwrap().port()), ("--tftp", tftp.local_addr().unwrap().port())]
    {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(stage.path("arch.iso")).args(["--bind", "127.0.0.1", "--dhcp", "off"]);
        let other = if option == "--nbd" { "--tftp" } else { "--nbd" };
        command.args([other, "0", option, &port.to_string()]);
        let mut server = Running::start(&mut command, &stage.log());
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{}", server.log());
        let name = option.trim_start_matches('-');
        assert_eq!(
            server.log().trim_end(),
            format!(
                "isowire: {name}: 127.0.0.1:{port} cannot be used: Address already in use (os error 98): stop what \
                 has it, or change `{name}`"
            )
        );
    }
}

/// The program and the image where everybody may read them.
fn open_to_all(stage: &Stage) -> PathBuf {
    let program = stage.path("isowire");
    fs::copy(PROGRAM, &program).unwrap();
    program
}

#[test]
fn without_a_privilege_it_serves_what_it_can_and_says_the_rest() {
    needs!(lan::NEEDS, ["xorriso"]);
    let stage = Stage::new();
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    output_of(lan.command("sysctl").args(["-qw", "net.ipv4.ip_unprivileged_port_start=1024"]));
    let program = open_to_all(&stage);
    let command = || {
        let mut command = lan.command_as_nobody(&program);
        command.arg("serve").arg(stage.path("arch.iso"));
        command
    };
    let mut server = stage.start(&mut command());
    let log = server.log();
    assert_eq!([port(&log, "NBD"), port(&log, "TFTP")], [10809, 6969]);
    assert!(
        log.contains("0.0.0.0:6969          serving here, as port 69 needs a privilege; firmware asks"),
        "{log}"
    );
    assert!(log.contains("DHCP     -                     off: port 67 needs a privilege\n"), "{log}");
    assert!(log.contains(&format!("sudo setcap cap_net_bind_service+ep {}\n", program.display())), "{log}");
    assert!(log.contains("sudo sysctl net.ipv4.ip_unprivileged_port_start=67\n"), "{log}");
    assert!(log.contains("dhcp-boot=tftp://192.168.77.1:6969/boot/syslinux/lpxelinux.0\n"), "{log}");
    assert!(server.stop().success());

    // What the operator asks for is not left out.
    for (option, service) in
        [(["--tftp", "69"], "tftp: 0.0.0.0:69"), (["--dhcp", "proxy"], "dhcp: 0.0.0.0:67")]
    {
        let mut server = Running::start(command().args(option), &stage.log());
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{}", server.log());
        let line = format!(
            "isowire: {service} cannot be used: Permission denied (os error 13): run `sudo setcap \
             cap_net_bind_service+ep {}` or change",
            program.display()
        );
        assert!(server.log().starts_with(&line), "{}", server.log());
        assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    }
}

#[test]
fn with_the_privilege_everything_is_up() {
    needs!(lan::NEEDS, ["xorriso"]);
    let stage = Stage::new();
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    let mut command = lan.command_as_nobody(open_to_all(&stage));
    command.arg("serve").arg(stage.path("arch.iso"));
    let server = stage.start(&mut command);
    let log = server.log();
    let rows = [port(&log, "NBD"), port(&log, "TFTP"), port(&log, "DHCP")];
    assert_eq!(rows, [10809, 69, 67], "{log}");
    assert!(
        log.ends_with("proxy, beside the DHCP server of the network\n\nready\n"),
        "nothing is left to do: {log}"
    );
}
