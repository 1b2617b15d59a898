//! Which services of `isowire serve` are on, with which sockets and privileges.

mod common;

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};

use common::lan::{self, Lan};
use common::needs::{needs, tool};
use common::running::{Running, output_of};
use common::stage::{PROGRAM, SOON, Stage, answers, fetched, got, greets, plain, port};

/// Socket at which an rpcbind of this machine takes registrations; a network namespace does not
/// hide it.
const RPCBIND: &str = "/run/rpcbind.sock";

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
