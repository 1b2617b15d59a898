//! A small image for `isowire serve` as a process, and the simplest clients.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::lan::{BRIDGE, Lan};
use super::needs::tool;
use super::running::{Running, output_of};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
pub const SOON: Duration = Duration::from_secs(20);

/// Directory with an image in mkarchiso's layout, in which nothing boots.
pub struct Stage {
    pub dir: TempDir,
}

impl Stage {
    pub fn new() -> Self {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// Creates the command: on loopback, on any free ports, without DHCP and portmapper.
    pub fn serve(&self) -> Command {
        let mut command = self.serve_all();
        command.args(["--portmap", "off"]);
        command
    }

    /// Creates the same command without an option for the portmapper.
    pub fn serve_all(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(self.path("arch.iso"));
        command.args(["--bind", "127.0.0.1", "--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0"]);
        command.args(["--dhcp", "off"]);
        command
    }

    pub fn start(&self, command: &mut Command) -> Running {
        let mut server = Running::start(command, &self.log());
        server.wait_for("\nready\n", SOON);
        server
    }
}

/// Starts a server on a network by this configuration, without DHCP; all its files are in `dir`.
pub fn serve_by(lan: &Lan, dir: &Path, config: &str) -> Running {
    fs::write(dir.join("isowire.toml"), config).unwrap();
    let mut command = lan.command(PROGRAM);
    command.args(["serve", "--interface", BRIDGE, "--dhcp", "off", "--config"]);
    command.arg(dir.join("isowire.toml")).env("XDG_STATE_HOME", dir).env("XDG_RUNTIME_DIR", dir);
    let mut server = Running::start(&mut command, &dir.join("server.log"));
    server.wait_for("ready", SOON);
    server
}

/// Returns the port in the row of a service.
pub fn port(log: &str, service: &str) -> u16 {
    let rows = log.lines().map(str::split_whitespace).filter(|row| row.clone().next() == Some(service));
    // A local socket has a row too, and no port.
    let mut ports = rows.filter_map(|mut row| row.nth(1)?.rsplit(':').next()?.parse().ok());
    ports.next().unwrap_or_else(|| panic!("no port for {service} in:\n{log}"))
}

/// Replaces the identity of every image in a menu.
pub fn plain(menu: &str) -> String {
    let mut parts = menu.split('~');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| text + "~ID" + &part[16..])
}

/// Fetches a file of at most one block by TFTP.
pub fn fetched(port: u16, name: &str) -> String {
    fetched_at(Ipv4Addr::LOCALHOST, port, name)
}

pub fn fetched_at(server: Ipv4Addr, port: u16, name: &str) -> String {
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
pub fn got(port: u16, path: &str) -> String {
    got_at(Ipv4Addr::LOCALHOST, port, path)
}

pub fn got_at(server: Ipv4Addr, port: u16, path: &str) -> String {
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
pub fn answers(port: u16, program: u32, version: u32) -> bool {
    let call = [0x8000_0028, 7, 0, 2, program, version, 0, 0, 0, 0, 0];
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.write_all(&call.map(u32::to_be_bytes).concat()).unwrap();
    // The mark of 24 bytes, xid, REPLY, MSG_ACCEPTED, a verifier of nothing, SUCCESS.
    let mut reply = [0; 28];
    let expected = [0x8000_0018_u32, 7, 1, 0, 0, 0, 0].map(u32::to_be_bytes).concat();
    socket.read_exact(&mut reply).is_ok_and(|()| reply[..] == expected)
}

pub fn greets(port: u16) -> bool {
    let mut greeting = [0; 8];
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.read_exact(&mut greeting).is_ok_and(|()| &greeting == b"NBDMAGIC")
}
