//! `isowire serve` as a process: its report, its sockets, its messages and its end.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

use common::iso;
use common::lan::{self, Lan};
use common::needs::{needs, tool};
use common::rpc::Client;
use common::running::{Running, output_of, text_of};
use common::stage::{PROGRAM, SOON, Stage, answers, fetched, fetched_at, got, got_at, greets, plain, port};

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
