//! `isowire serve` as a process: its report, its sockets, its messages and its end.

mod common;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use common::iso;
use common::lan::{self, Lan};
use common::needs::{needs, tool};
use common::rpc::Client;
use common::running::{Running, output_of, text_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
/// Socket at which an rpcbind of this machine takes registrations; a network namespace does not
/// hide it.
const RPCBIND: &str = "/run/rpcbind.sock";
const SOON: Duration = Duration::from_secs(20);

/// Directory with an image in mkarchiso's layout, in which nothing boots.
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

    /// Creates the command: on loopback, on any free ports, without DHCP and portmapper.
    fn serve(&self) -> Command {
        let mut command = self.serve_all();
        command.args(["--portmap", "off"]);
        command
    }

    /// Creates the same command without an option for the portmapper.
    fn serve_all(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(self.path("arch.iso"));
        command.args(["--bind", "127.0.0.1", "--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0"]);
        command.args(["--dhcp", "off"]);
        command
    }

    fn start(&self, command: &mut Command) -> Running {
        let mut server = Running::start(command, &self.log());
        server.wait_for("\nready\n", SOON);
        server
    }
}

/// Returns the port in the row of a service.
fn port(log: &str, service: &str) -> u16 {
    let rows = log.lines().map(str::split_whitespace).filter(|row| row.clone().next() == Some(service));
    // A local socket has a row too, and no port.
    let mut ports = rows.filter_map(|mut row| row.nth(1)?.rsplit(':').next()?.parse().ok());
    ports.next().unwrap_or_else(|| panic!("no port for {service} in:\n{log}"))
}

/// Replaces the identity of every image in a menu.
fn plain(menu: &str) -> String {
    let mut parts = menu.split('~');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + "~ID" + &part[16..])
}

/// Fetches a file of at most one block by TFTP.
fn fetched(port: u16, name: &str) -> String {
    fetched_at(Ipv4Addr::LOCALHOST, port, name)
}

fn fetched_at(server: Ipv4Addr, port: u16, name: &str) -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let request = [b"\0\x01", name.as_bytes(), b"\0octet\0blksize\08192\0"].concat();
    socket.send_to(&request, (server, port)).unwrap();
    let mut packet = [0; 9000];
    let (_, peer) = socket.recv_from(&mut packet).unwrap();
    assert_eq!(packet[..2], [0, 6], "an OACK");
    socket.send_to(&[0, 4, 0, 0], peer).unwrap();
    let (len, _) = socket.recv_from(&mut packet).unwrap();
    socket.send_to(&[0, 4, 0, 1], peer).unwrap();
    assert_eq!(packet[..4], [0, 3, 0, 1], "the first block");
    String::from_utf8(packet[4..len].to_vec()).unwrap()
}

/// Fetches a body by HTTP.
fn got(port: u16, path: &str) -> String {
    got_at(Ipv4Addr::LOCALHOST, port, path)
}

fn got_at(server: Ipv4Addr, port: u16, path: &str) -> String {
    let mut socket = TcpStream::connect((server, port)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.lines().next().unwrap().contains(" 200 "), "{head}");
    body.to_owned()
}

/// Returns `true` if an RPC program answers its procedure 0 (RFC 5531), which does nothing.
fn answers(port: u16, program: u32, version: u32) -> bool {
    let call = [0x8000_0028, 7, 0, 2, program, version, 0, 0, 0, 0, 0];
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.write_all(&call.map(u32::to_be_bytes).concat()).unwrap();
    // The mark of 24 bytes, xid, REPLY, MSG_ACCEPTED, a verifier of nothing, SUCCESS.
    let mut reply = [0; 28];
    let expected = [0x8000_0018_u32, 7, 1, 0, 0, 0, 0].map(u32::to_be_bytes).concat();
    socket.read_exact(&mut reply).is_ok_and(|()| reply[..] == expected)
}

fn greets(port: u16) -> bool {
    let mut greeting = [0; 8];
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.read_exact(&mut greeting).is_ok_and(|()| &greeting == b"NBDMAGIC")
}

#[test]
fn denied_client_gets_nothing() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let server = stage.start(stage.serve_all().args([
        "--portmap",
        "0",
        "--allow",
        "127.0.0.2",
        "--status",
        "127.0.0.1:0",
    ]));
    let log = server.log();
    let ask = |from: [u8; 4], service: &str| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port(&log, service))).into()).unwrap();
        let mut socket = TcpStream::from(socket);
        let (program, version) = if service == "Portmap" { (100_000, 2) } else { (100_003, 3) };
        // Procedure 0 (RFC 5531). An NBD server speaks first, whatever is sent.
        let call = [0x8000_0028_u32, 7, 0, 2, program, version, 0, 0, 0, 0, 0].map(u32::to_be_bytes).concat();
        let sent =
            if ["HTTP", "Status"].contains(&service) { b"GET / HTTP/1.0\r\n\r\n".to_vec() } else { call };
        let _ = socket.write_all(&sent);
        socket.read(&mut [0; 4]).unwrap_or(0)
    };
    for service in ["NBD", "NFS", "Portmap", "HTTP", "Status"] {
        assert_eq!(ask([127, 0, 0, 1], service), 0, "{service}");
        assert_eq!(ask([127, 0, 0, 2], service), 4, "{service}");
    }
    assert!(server.log().contains("NBD client refused: its address is not in `allow`"), "{}", server.log());
}

/// The log is piped into a program that ends, or its terminal is closed.
#[test]
fn unread_log_does_not_end_the_server() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut command = stage.serve();
    command.args(["--status", "off"]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut server = command.stdout(fs::File::create(stage.log()).unwrap()).spawn().unwrap();
    drop(server.stderr.take());
    let until = Instant::now() + SOON;
    while !text_of(&stage.log()).contains("\nready\n") {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(20));
    }
    let http = port(&text_of(&stage.log()), "HTTP");
    for _ in 0..3 {
        // Each is a line in the log.
        assert_eq!(got(http, "/arch/boot/x86_64/vmlinuz-linux"), "kernel");
    }
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
}

#[test]
fn server_starts_reports_and_ends() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut server = stage.start(&mut stage.serve());
    let log = server.log();
    assert!(log.contains("NBD      127.0.0.1:"), "{log}");
    assert!(log.contains("serving arch; archiso's initramfs asks port 10809 and no other\n"), "{log}");
    assert!(log.contains("DHCP     -                     off: the configuration says so\n"), "{log}");
    assert!(!log.contains("boot file (option 67)"), "no machine reaches 127.0.0.1: {log}");
    assert!(greets(port(&log, "NBD")));
    assert!(answers(port(&log, "NFS"), 100_003, 3) && answers(port(&log, "NFS"), 100_005, 3));
    let (tftp, http) = (port(&log, "TFTP"), port(&log, "HTTP"));
    assert_eq!(fetched(tftp, "/boot/syslinux/lpxelinux.0"), "loader");
    let menu = plain(&fetched(tftp, "isowire/pxelinux.cfg"));
    assert!(
        menu.contains(&format!("\nLINUX http://127.0.0.1:{http}/arch~ID/arch/boot/x86_64/vmlinuz-linux\n")),
        "{menu}"
    );
    assert!(menu.contains(" archiso_nbd_srv=127.0.0.1 "), "{menu}");
    assert!(menu.contains(&format!(" archiso_http_srv=http://127.0.0.1:{http}/arch~ID/ ")), "{menu}");
    assert!(!menu.contains("archiso_nfs_srv"), "no portmapper tells where NFS is: {menu}");
    assert_eq!(got(http, "/arch/boot/x86_64/vmlinuz-linux"), "kernel");
    assert_eq!(plain(&got(http, "/isowire/pxelinux.cfg")), menu);
    assert!(server.stop().success());
    assert!(server.log().contains("shutting down: SIGTERM received"));
}

#[test]
fn kernel_is_loaded_by_tftp_without_http() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg(stage.path("arch.iso")).args(["--bind", "127.0.0.1", "--dhcp", "off"]);
    command.args(["--nbd", "0", "--nfs", "off", "--http", "off", "--tftp", "0"]);
    let server = stage.start(&mut command);
    let tftp = port(&server.log(), "TFTP");
    let menu = plain(&fetched(tftp, "isowire/pxelinux.cfg"));
    let kernel = format!("\nLINUX tftp://127.0.0.1:{tftp}/arch~ID/arch/boot/x86_64/vmlinuz-linux\n");
    assert!(menu.contains(&kernel) && !menu.contains("http://"), "{menu}");
}

#[test]
fn each_image_has_its_tree() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    fs::copy(stage.path("arch.iso"), stage.path("second one.iso")).unwrap();
    let mut command = stage.serve();
    let server = stage.start(command.arg(stage.path("second one.iso")).args(["--advertise", "10.1.2.3"]));
    let log = server.log();
    assert!(log.contains("serving arch, second-one"), "{log}");
    let tftp = port(&log, "TFTP");
    assert_eq!(fetched(tftp, "second-one/arch/boot/x86_64/vmlinuz-linux"), "kernel");
    let menu = plain(&fetched(tftp, "boot/syslinux/pxelinux.cfg/default"));
    assert!(menu.contains(" archiso_nbd_srv=10.1.2.3 archiso_nbd_name=second-one~ID "), "{menu}");
    let http = port(&log, "HTTP");
    assert!(menu.contains(&format!(" archiso_http_srv=http://10.1.2.3:{http}/second-one~ID/ ")), "{menu}");
    assert_eq!(got(http, "/second-one/arch/boot/x86_64/vmlinuz-linux"), "kernel");
}

#[test]
fn hidden_image_is_refused() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    fs::copy(stage.path("arch.iso"), stage.path("boot.iso")).unwrap();
    let mut server = Running::start(stage.serve().arg(stage.path("boot.iso")), &stage.log());
    assert_eq!(server.wait(SOON).unwrap().code(), Some(1));
    assert!(server.log().contains("the image `boot` would be hidden by `/boot`"), "{}", server.log());
}

#[test]
fn systemd_is_notified() {
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

/// Starts the server as a supervisor does: with these sockets at file descriptor 3 and the next
/// ones.
fn activated(stage: &Stage, names: &str, sockets: &[&dyn AsFd], options: &[&str]) -> Running {
    // A shell stands in for the supervisor: it moves the sockets to their places and knows the
    // process id. They go by higher numbers, since one may stand where another is to go.
    let (mut aside, mut into_place) = (String::new(), String::new());
    for (position, socket) in sockets.iter().enumerate() {
        fcntl_setfd(socket.as_fd(), FdFlags::empty()).unwrap();
        aside += &format!(" {}<&{}", 200 + position, socket.as_fd().as_raw_fd());
        into_place += &format!(" {}<&{1} {1}<&-", 3 + position, 200 + position);
    }
    let script = format!("exec {aside}; exec {into_place}; LISTEN_PID=$$ exec \"$0\" \"$@\"");
    // The shell of Debian takes only one digit in a redirection.
    let mut command = tool("bash");
    command.args(["-c", &script, PROGRAM, "serve"]).arg(stage.path("arch.iso")).args(["--dhcp", "off"]);
    command.args(["--bind", "127.0.0.1"]).args(options);
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
    Running::start(&mut command, &stage.log())
}

fn sockets() -> (TcpListener, UdpSocket) {
    (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap())
}

#[test]
fn inherited_sockets_are_used_by_name() {
    needs!(["xorriso", "bash"]);
    let stage = Stage::new();
    let (nbd, tftp) = sockets();
    let (nfs, portmap_udp) = sockets();
    let (http, _) = sockets();
    let (portmap, _) = sockets();
    // In another order than they are used.
    let passed: [&dyn AsFd; 6] = [&tftp, &portmap_udp, &http, &nbd, &portmap, &nfs];
    let mut server = activated(&stage, "tftp:portmap:http:nbd:portmap:nfs", &passed, &[]);
    server.wait_for("\nready\n", SOON);
    let tcp = [&nbd, &nfs, &portmap, &http].map(|socket| socket.local_addr().unwrap().port());
    let udp = [&portmap_udp, &tftp].map(|socket| socket.local_addr().unwrap().port());
    drop((nbd, nfs, portmap, http, portmap_udp, tftp));
    let log = server.log();
    assert_eq!(["NBD", "NFS", "Portmap", "HTTP"].map(|service| port(&log, service)), tcp);
    assert_eq!(port(&log, "TFTP"), udp[1]);
    assert!(greets(tcp[0]));
    assert!(answers(tcp[1], 100_003, 3));
    assert!(answers(tcp[2], 100_000, 2));
    assert_eq!(got(tcp[3], "/boot/syslinux/lpxelinux.0"), "loader");
    assert_eq!(fetched(udp[1], "boot/syslinux/lpxelinux.0"), "loader");
    assert!(server.stop().success());
}

#[test]
fn inherited_socket_without_use_is_refused() {
    needs!(["xorriso", "bash"]);
    let stage = Stage::new();
    let (tcp, udp) = sockets();
    let off = ["--nfs", "off", "--http", "off"];
    for (names, complaint) in [
        ("tftp:ftp", "an inherited socket is called `ftp`"),
        ("tftp", "an inherited socket is called `unknown`"),
        ("tftp:dhcp", "the inherited socket `dhcp` is of the wrong kind"),
        ("http:nbd", "the inherited socket `http` is of the wrong kind"),
        ("pxe:nbd", "the inherited socket `pxe` has no use"),
        ("tftp:http", "the inherited socket `http` has no use"),
        ("portmap:nbd", "the inherited socket `portmap` has no use"),
        ("portmap:portmap", "the inherited socket `portmap` has no use"),
    ] {
        let mut server = activated(&stage, names, &[&udp, &tcp], &off);
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{names}: {}", server.log());
        assert!(server.log().contains(complaint), "{names}: {}", server.log());
    }
}

#[test]
fn busy_port_is_an_error() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let (nbd, tftp) = sockets();
    let [tcp, udp] = [nbd.local_addr().unwrap().port(), tftp.local_addr().unwrap().port()];
    for (name, port) in [("nbd", tcp), ("nfs", tcp), ("portmap", tcp), ("http", tcp), ("tftp", udp)] {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(stage.path("arch.iso")).args(["--bind", "127.0.0.1", "--dhcp", "off"]);
        for service in ["nbd", "nfs", "portmap", "http", "tftp"] {
            let port = if service == name { port } else { 0 };
            command.args([format!("--{service}"), port.to_string()]);
        }
        let mut server = Running::start(&mut command, &stage.log());
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{}", server.log());
        assert_eq!(
            server.log().trim_end(),
            format!(
                "isowire: {name}: 127.0.0.1:{port} cannot be used: Address already in use (os error 98): stop what \
                 has it, or change `{name}`"
            )
        );
    }
}

/// Copies the program to a place where everybody may read it.
fn open_to_all(stage: &Stage) -> PathBuf {
    let program = stage.path("isowire");
    fs::copy(PROGRAM, &program).unwrap();
    program
}

#[test]
fn unprivileged_server_reports_what_is_off() {
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
    let rows = ["NBD", "NFS", "HTTP", "TFTP"].map(|service| port(&log, service));
    assert_eq!(rows, [10809, 2049, 8080, 6969]);
    assert!(
        log.contains(
            "0.0.0.0:8080          serving arch here, as port 80 needs a privilege; the image's own"
        ),
        "{log}"
    );
    assert!(
        log.contains("0.0.0.0:6969          serving here, as port 69 needs a privilege; firmware asks"),
        "{log}"
    );
    assert!(log.contains("DHCP     -                     off: port 67 needs a privilege\n"), "{log}");
    if !Path::new(RPCBIND).exists() {
        assert!(
            log.contains(
                "Portmap  -                     off: port 111 needs a privilege; archiso's initramfs"
            ),
            "{log}"
        );
    }
    assert!(log.contains(&format!("sudo setcap cap_net_bind_service+ep {}\n", program.display())), "{log}");
    assert!(log.contains("sudo sysctl net.ipv4.ip_unprivileged_port_start=67\n"), "{log}");
    assert!(log.contains("dhcp-boot=tftp://192.168.77.1:6969/boot/syslinux/lpxelinux.0\n"), "{log}");
    assert!(server.stop().success());

    // A service that the operator asked for is not left out.
    for (option, service) in [
        (["--tftp", "69"], "tftp: 0.0.0.0:69"),
        (["--http", "80"], "http: 0.0.0.0:80"),
        (["--dhcp", "proxy"], "dhcp: 0.0.0.0:67"),
        (["--root", "nfs"], "portmap: 0.0.0.0:111"),
    ] {
        // With the host's rpcbind, NFS needs no port 111 of its own.
        if option[0] == "--root" && Path::new(RPCBIND).exists() {
            continue;
        }
        let mut server = Running::start(command().args(option), &stage.log());
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{}", server.log());
        // Machines ask port 111 and no other, so another `portmap` would not give them the root.
        let or = if option[0] == "--root" {
            "boot without NFS: `portmap = off` and another `root`"
        } else {
            "change"
        };
        let line = format!(
            "isowire: {service} cannot be used: Permission denied (os error 13): run `sudo setcap \
             cap_net_bind_service+ep {}` or {or}",
            program.display()
        );
        assert!(server.log().starts_with(&line), "{}", server.log());
        assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    }
}

/// This service needs more than a port below 1024.
#[test]
fn router_advertisement_needs_its_own_privilege() {
    needs!(lan::NEEDS, ["xorriso"]);
    let stage = Stage::new();
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    let program = open_to_all(&stage);
    let mut command = lan.command_as_nobody(&program);
    command.arg("serve").arg(stage.path("arch.iso")).arg("--router-advertisement");
    let mut server = Running::start(&mut command, &stage.log());
    assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{}", server.log());
    assert_eq!(
        server.log(),
        format!(
            "isowire: router-advertisement: raw socket not opened: Operation not permitted (os error 1): run `sudo setcap \
             cap_net_raw,cap_net_bind_service+ep {}`, or remove the setting\n",
            program.display()
        )
    );

    output_of(lan.command("sysctl").args(["-qw", "net.ipv6.conf.br0.disable_ipv6=1"]));
    let mut command = lan.command(PROGRAM);
    command.arg("serve").arg(stage.path("arch.iso")).args(["--router-advertisement", "-i", "br0"]);
    let mut server = Running::start(&mut command, &stage.log());
    assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{}", server.log());
    assert_eq!(
        server.log(),
        "isowire: router-advertisement: raw socket not opened: IPv6 is turned off on br0: enable IPv6, or remove the \
         setting\n"
    );
}

#[test]
fn privileged_server_has_all_services() {
    needs!(lan::NEEDS, ["xorriso", "rpcinfo"]);
    let stage = Stage::new();
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    let mut command = lan.command_as_nobody(open_to_all(&stage));
    let run = stage.path("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, Permissions::from_mode(0o777)).unwrap();
    command.env("XDG_RUNTIME_DIR", &run).arg("serve").arg(stage.path("arch.iso"));
    let server = stage.start(&mut command);
    let log = server.log();
    let rows = ["NBD", "NFS", "Portmap", "HTTP", "TFTP", "DHCP"].map(|service| port(&log, service));
    assert_eq!(rows, [10809, 2049, 111, 80, 69, 67], "{log}");
    let socket = run.join("isowire/status.sock");
    let last = format!(
        "{}: isowire status\n\
         Status   127.0.0.1:8081        http://ADDRESS/ in a browser\n\
         Sandbox  -                     landlock and seccomp\n\nready\n",
        socket.display()
    );
    // The log goes on with events.
    assert!(log.contains(&last), "no advice is given: {log}");
    // Without a version it asks for version 0, and then for those that the service has.
    let said = output_of(lan.command("rpcinfo").args(["-t", "192.168.77.1", "100003"]));
    assert!(said.contains("program 100003 version 3 ready and waiting"), "{said}");
}

/// The whole program, a part of it and its header fields, by HTTP and by TFTP.
#[test]
fn uefi_program_is_same_by_all_protocols() {
    needs!(iso::NEEDS);
    let stage = Stage::new();
    fs::remove_file(stage.path("arch.iso")).unwrap();
    fs::copy(iso::small().path, stage.path("arch.iso")).unwrap();
    let server = stage.start(&mut stage.serve());
    let log = server.log();
    assert!(log.contains("UEFI machines boot by the EFI stub of systemd "), "{log}");
    let curl = |arguments: &[&str], to: &str| {
        let mut curl = tool("curl");
        output_of(curl.args(["-q", "-s", "-S", "-f", "-o"]).arg(stage.path(to)).args(arguments));
        fs::read(stage.path(to)).unwrap()
    };
    let path = "/isowire/52-54-00-12-34-56/http.efi";
    let url = format!("http://127.0.0.1:{}{path}", port(&log, "HTTP"));
    let whole = curl(&[&url], "whole");
    assert_eq!(whole[..2], *b"MZ");
    assert!(curl(&["-r", "100000-5000000", &url], "part") == whole[100_000..=5_000_000]);
    let by_tftp = curl(&[&format!("tftp://127.0.0.1:{}{path}", port(&log, "TFTP"))], "tftp");
    assert!(by_tftp == whole, "{} bytes by TFTP, {} by HTTP", by_tftp.len(), whole.len());

    let head = String::from_utf8(curl(&["-I", &url], "head")).unwrap();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    assert_eq!(field("Content-Length:"), Some(whole.len().to_string().as_str()), "{head}");
    assert_eq!(field("Content-Type:"), Some("application/efi"), "{head}");
    let tag = field("ETag:").unwrap_or_else(|| panic!("{head}"));
    let unchanged = curl(&["-I", "-H", &format!("If-None-Match: {tag}"), &url], "unchanged");
    assert!(unchanged.starts_with(b"HTTP/1.1 304 "), "{}", String::from_utf8_lossy(&unchanged));
}

#[test]
fn bad_stub_is_an_error() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let iso = stage.path("arch.iso");
    for (file, says) in [(iso.to_str().unwrap(), "unusable EFI stub: "), ("/nothing", "no such file; give ")]
    {
        let mut server = Running::start(stage.serve().args(["--stub", file]), &stage.log());
        assert_eq!(server.wait(SOON).unwrap().code(), Some(2), "{}", server.log());
        let line = format!("isowire: --stub: `{file}`: {says}");
        assert!(server.log().starts_with(&line) && server.log().lines().count() == 1, "{}", server.log());
    }
}

#[test]
fn busy_default_port_is_off_unless_root() {
    needs!(lan::NEEDS, ["xorriso"]);
    let stage = Stage::new();
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    lan.server().enter();
    let taken = [10809, 80].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let command = || {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(stage.path("arch.iso"));
        command
    };
    let mut server = stage.start(&mut command());
    let log = server.log();
    assert!(log.contains("NBD      -                     off: another program has port 10809\n"), "{log}");
    assert!(
        log.contains("0.0.0.0:8080          serving arch here, as another program has port 80;"),
        "{log}"
    );
    assert!(log.contains("\nMachines get their root file system over NFS, unless"), "{log}");
    let menu = plain(&fetched(69, "isowire/pxelinux.cfg"));
    let root = menu.find(" archiso_nfs_srv=127.0.0.1:/arch~ID ");
    assert!(
        root < menu.find(" archiso_http_srv=http://127.0.0.1:8080/arch~ID/ ") && root.is_some(),
        "{menu}"
    );
    assert!(!menu.contains("archiso_nbd_srv"), "{menu}");
    assert!(server.stop().success());

    for options in [&["--root", "nbd"][..], &["--nfs", "off", "--http", "off"]] {
        let mut server = Running::start(command().args(options), &stage.log());
        assert_eq!(server.wait(SOON).unwrap().code(), Some(1), "{options:?}: {}", server.log());
        assert!(server.log().starts_with("isowire: nbd: 0.0.0.0:10809 cannot be used: "), "{}", server.log());
        assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    }
    drop(taken);
}

#[test]
fn rpcbind_is_used_if_it_runs() {
    needs!(lan::NEEDS, ["xorriso", "rpcbind", "rpcinfo", "unshare", "nsenter"]);
    let stage = Stage::new();
    let lan = Lan::new(Ipv4Addr::new(192, 168, 77, 1));
    // With a /run of its own, since a network namespace does not hide its socket there.
    let mut command = lan.command("unshare");
    command.args(["-m", "sh", "-c", "mount -t tmpfs none /run && exec rpcbind -f"]);
    let rpcbind = Running::start(&mut command, &stage.path("rpcbind.log"));
    let known = || output_of(lan.command("rpcinfo").args(["-p", "127.0.0.1"]));
    let answers = || lan.command("rpcinfo").args(["-p", "127.0.0.1"]).output().unwrap().status.success();
    let end = Instant::now() + SOON;
    while !answers() {
        assert!(Instant::now() < end, "{}", rpcbind.log());
        sleep(Duration::from_millis(50));
    }

    let serve = || {
        let mut command = lan.command("nsenter");
        command.args(["-t", &rpcbind.pid().to_string(), "-m", PROGRAM, "serve"]);
        command.arg(stage.path("arch.iso")).args(["--dhcp", "off", "--portmap", "111"]);
        command
    };
    let mut server = stage.start(&mut serve());
    let log = server.log();
    assert!(
        log.contains("Portmap  -                     rpcbind, which has port 111, tells where NFS is\n"),
        "{log}"
    );
    assert!(known().contains("2049  nfs") && known().contains("2049  mountd"), "{}", known());
    assert!(server.stop().success());
    assert!(!known().contains("2049"), "{}", known());
}

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 9);

/// Returns the stage, the root protocol and the bytes read of the only machine of `isowire status`.
fn machine(command: &mut Command) -> (String, String, String) {
    let status: serde_json::Value = serde_json::from_str(&output_of(command)).unwrap();
    let machines = status["machines"].as_array().unwrap();
    assert_eq!(machines.len(), 1, "{status}");
    let machine = &machines[0];
    assert_eq!(machine["addresses"], serde_json::json!([CLIENT.to_string()]), "{status}");
    let text = |value: &serde_json::Value| value.to_string().replace('"', "");
    (text(&machine["stage"]), text(&machine["root"]), text(&machine["airootfs"]["read"]))
}

#[test]
fn status_shows_progress_of_a_machine() {
    needs!(lan::NEEDS, ["xorriso"]);
    let stage = Stage::new();
    let mut lan = Lan::new(SERVER);
    let client = lan.host(CLIENT);
    let mut command = lan.command(PROGRAM);
    command.arg("serve").arg(stage.path("arch.iso")).args(["--dhcp", "off", "--portmap", "off"]);
    command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0", "--status", "192.168.77.1:0"]);
    let server = stage.start(command.env("XDG_RUNTIME_DIR", stage.dir.path()));
    let log = server.log();
    let rows: Vec<_> = log.lines().filter(|line| line.starts_with("Status")).collect();
    assert_eq!(rows.len(), 2, "{log}");
    let url = format!("http://{}/", rows[1].split_whitespace().nth(1).unwrap());
    let told = |stage_name: &str, root: &str, read: &str| {
        let expected = (stage_name.into(), root.into(), read.into());
        let mut status = Command::new(PROGRAM);
        status.args(["status", "--json"]).env("XDG_RUNTIME_DIR", stage.dir.path());
        assert_eq!(machine(&mut status), expected);
        let mut status = Command::new(PROGRAM);
        assert_eq!(machine(status.args(["status", "--json", &url])), expected);
    };
    let (tftp, http) = (port(&log, "TFTP"), port(&log, "HTTP"));
    // Requests of the host itself, which is no machine.
    thread::scope(|scope| {
        scope.spawn(|| {
            lan.server().enter();
            for own in [SERVER, Ipv4Addr::LOCALHOST] {
                got_at(own, port(&log, "HTTP"), "/arch/boot/x86_64/vmlinuz-linux");
            }
        });
    });
    client.enter();
    fetched_at(SERVER, tftp, "/boot/syslinux/lpxelinux.0");
    told("loader", "null", "null");
    fetched_at(SERVER, tftp, "/isowire/pxelinux.cfg");
    told("menu", "null", "null");
    got_at(SERVER, http, "/arch/boot/x86_64/vmlinuz-linux");
    told("kernel", "null", "null");
    got_at(SERVER, http, "/arch/boot/x86_64/initramfs-linux.img");
    told("initramfs", "null", "null");

    let mut nbd = TcpStream::connect((SERVER, port(&log, "NBD"))).unwrap();
    nbd.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x07archiso").unwrap();
    nbd.read_exact(&mut [0; 18 + 10]).unwrap();
    told("attached", "nbd", "null");
    drop(nbd);
    // The server notices the end of the connection later.
    let mut status = Command::new(PROGRAM);
    status.args(["status", "--json", &url]);
    let end = Instant::now() + SOON;
    while machine(&mut status).0 == "attached" && Instant::now() < end {
        sleep(Duration::from_millis(20));
    }
    told("released", "nbd", "null");
    got_at(SERVER, http, "/arch/x86_64/airootfs.sfs");
    told("copied", "http", "4");
}

#[test]
fn iso_of_another_system_says_what_to_do() {
    needs!(["xorriso"]);
    let stage = Stage::new();
    let server = stage.start(&mut stage.serve());
    assert!(!server.log().contains("No machine can boot"), "{}", server.log());
    drop(server);
    let (tree, iso) = (stage.path("other-tree"), stage.path("other.iso"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    output_of(tool("xorriso").args(["-as", "mkisofs", "-quiet", "-R", "-o"]).args([&iso, &tree]));
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg(&iso).args(["--bind", "127.0.0.1", "--dhcp", "off", "--status", "off"]);
    let server = stage.start(command.args(["--nbd", "0", "--nfs", "off", "--http", "0", "--tftp", "0"]));
    let log = server.log();
    assert!(
        log.contains("warning: not an Arch ISO: its files are served, but no machine can boot it; "),
        "{log}"
    );
    assert!(log.contains("\nNo machine can boot from here: no image is an Arch ISO"), "{log}");
    assert_eq!(got(port(&log, "HTTP"), "/file"), "content");
    drop(server);

    // archiso's, and without a kernel.
    fs::create_dir_all(tree.join("arch/x86_64")).unwrap();
    fs::write(tree.join("arch/x86_64/airootfs.sfs"), "hsqs").unwrap();
    fs::remove_file(&iso).unwrap();
    output_of(tool("xorriso").args(["-as", "mkisofs", "-quiet", "-R", "-o"]).args([&iso, &tree]));
    let log = stage.start(&mut command).log();
    assert!(log.contains("\nNo machine can boot from here: no image is an Arch ISO"), "{log}");
}

/// Menus of SystemRescue and others name another path than archiso's. A byte order mark costs nothing.
#[test]
fn root_names_of_own_menu_are_exported() {
    needs!(["xorriso", "nbdinfo"]);
    let stage = Stage::new();
    let menu = "\u{feff}LABEL nfs\nLINUX ::/arch/boot/x86_64/vmlinuz-linux\n\
                INITRD ::/arch/boot/x86_64/initramfs-linux.img\n\
                APPEND archisobasedir=arch archiso_nfs_srv=${pxeserver}:/run/sysresccd/bootmnt rescue\n\
                LABEL nbd\nLINUX ::/arch/boot/x86_64/vmlinuz-linux\n\
                APPEND archisobasedir=arch archiso_nbd_srv=${pxeserver} archiso_nbd_name=sysresccd\n";
    fs::write(stage.path("tree/boot/syslinux/pxe.cfg"), menu).unwrap();
    let iso = stage.path("rescue.iso");
    output_of(
        tool("xorriso").args(["-as", "mkisofs", "-quiet", "-R", "-o"]).args([&iso, &stage.path("tree")]),
    );
    let server = stage.start(stage.serve().arg(&iso));
    let log = server.log();
    let mut client = Client::connect(port(&log, "NFS"));
    let root = client.mount(b"/run/sysresccd/bootmnt").expect("the path of the menu");
    assert_eq!(client.mount(b"/rescue").expect("the same image"), root);
    assert!(client.mount(b"/run/other/bootmnt").is_err());
    let size = |name: &str| {
        let url = format!("nbd://127.0.0.1:{}/{name}", port(&log, "NBD"));
        output_of(tool("nbdinfo").args(["--size", &url]))
    };
    assert_eq!(size("sysresccd"), size("rescue"));
    let list = output_of(tool("nbdinfo").args(["--list", &format!("nbd://127.0.0.1:{}", port(&log, "NBD"))]));
    assert!(list.contains("export=\"sysresccd\""), "{list}");
    let menu = fetched(port(&log, "TFTP"), "isowire/pxelinux.cfg");
    assert!(menu.contains(" rescue\n"), "the first line of the menu is read: {menu}");
}
