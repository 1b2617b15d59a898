//! The images of a running server: folders, new, replaced and removed ISOs, and clients that use an
//! old one.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use isowire::image::Image;
use rustix::process::{Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use common::iso;
use common::needs::{needs, tool};
use common::rpc::{self, Client};
use common::running::{Running, output_of};

const PROGRAM: &str = env!("CARGO_BIN_EXE_isowire");
const SOON: Duration = Duration::from_secs(30);
const ROOT: &str = "arch/x86_64/airootfs.sfs";
/// Bytes of the large file of each image, more than sockets hold.
const LEN: usize = 24 << 20;

/// Folder of ISOs, and a directory to make them in.
struct IsoFolder {
    dir: TempDir,
    path: PathBuf,
}

/// ISO that is not in the folder yet.
struct Iso {
    path: PathBuf,
    /// Its large file.
    root: Vec<u8>,
    identity: String,
}

impl IsoFolder {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        Self { dir, path }
    }

    /// Makes an ISO whose contents no other `seed` has.
    fn iso(&self, seed: u8) -> Iso {
        let tree = self.dir.path().join("tree");
        let _ = fs::remove_dir_all(&tree);
        let mut state = u64::from(seed);
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let root: Vec<u8> = (0..LEN / 4).flat_map(|_| noise().to_le_bytes()).collect();
        for (path, content) in [
            ("arch/boot/x86_64/vmlinuz-linux", &[seed; 600][..]),
            ("arch/boot/x86_64/initramfs-linux.img", b"initramfs"),
            ("boot/syslinux/lpxelinux.0", b"loader"),
            (ROOT, &root),
        ] {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let path = self.dir.path().join(format!("{seed}.iso"));
        let mut xorriso = tool("xorriso");
        xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V"]).arg(format!("SEED{seed}"));
        output_of(xorriso.arg("-o").arg(&path).arg(&tree));
        let identity = Image::open(&path).unwrap().identity.to_string();
        Iso { path, root, identity }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Puts an ISO into the folder as a user should: copied under another name, then renamed.
    fn put(&self, iso: &Iso, name: &str) {
        let part = self.path(&format!("{name}.part"));
        fs::copy(&iso.path, &part).unwrap();
        fs::rename(part, self.path(name)).unwrap();
    }

    fn command(&self, what: &[&Path]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").args(what).args(["--bind", "127.0.0.1", "--dhcp", "off", "--portmap", "off"]);
        command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0", "--status", "off"]);
        command
    }

    fn start(&self) -> Server {
        self.start_with(&mut self.command(&[&self.path]))
    }

    fn start_with(&self, command: &mut Command) -> Server {
        let mut running = Running::start(command, &self.dir.path().join("log"));
        running.wait_for("\nready\n", SOON);
        Server { running }
    }
}

struct Server {
    running: Running,
}

impl Server {
    fn port(&self, service: &str) -> u16 {
        let log = self.running.log();
        let row = log.lines().find(|row| row.starts_with(service)).expect("a row for the service");
        let address = row.split_whitespace().nth(1).unwrap();
        address.rsplit(':').next().unwrap().parse().unwrap()
    }

    fn wait_for(&mut self, text: &str) {
        self.running.wait_for(text, SOON);
    }

    /// Counts a text in the log.
    fn count_of(&self, text: &str) -> usize {
        self.running.log().matches(text).count()
    }

    fn hang_up(&mut self) {
        let before = self.count_of("SIGHUP received: looking for images");
        kill_process(self.running.pid(), Signal::HUP).unwrap();
        let end = std::time::Instant::now() + SOON;
        while self.count_of("SIGHUP received: looking for images") == before {
            assert!(std::time::Instant::now() < end, "{}", self.running.log());
            sleep(Duration::from_millis(10));
        }
    }

    /// Fetches status and body by HTTP.
    fn http(&self, path: &str) -> (u16, Vec<u8>) {
        let mut download = Download::begin(self.port("HTTP"), path);
        (download.status, download.rest())
    }

    fn kernel(&self, prefix: &str) -> Option<u8> {
        let (status, body) = self.http(&format!("{prefix}/arch/boot/x86_64/vmlinuz-linux"));
        (status == 200).then(|| body[0])
    }

    fn nfs(&self) -> Client {
        Client::connect(self.port("NFS"))
    }

    /// Attaches an NBD client to an export, if the export exists.
    fn nbd(&self, export: &str) -> Option<Nbd> {
        Nbd::attach(self.port("NBD"), export)
    }

    /// Fetches the first byte of a file by TFTP.
    fn tftp(&self, path: &str) -> u8 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let request = [b"\0\x01", path.as_bytes(), b"\0octet\0"].concat();
        socket.send_to(&request, ("127.0.0.1", self.port("TFTP"))).unwrap();
        let mut packet = [0; 600];
        let (_, peer) = socket.recv_from(&mut packet).unwrap();
        socket.send_to(&[0, 5, 0, 0, 0], peer).unwrap();
        assert_eq!(packet[..4], [0, 3, 0, 1], "the first block");
        packet[4]
    }
}

/// Download that a test reads in steps.
struct Download {
    socket: TcpStream,
    status: u16,
}

impl Download {
    fn begin(port: u16, path: &str) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.connect(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
        let mut socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { socket, status }
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).unwrap();
        rest
    }
}

/// NBD client in the transmission phase.
struct Nbd(TcpStream);

impl Nbd {
    fn attach(port: u16, export: &str) -> Option<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let len = (export.len() as u32).to_be_bytes();
        // Client flags: fixed newstyle, no zeroes; then NBD_OPT_EXPORT_NAME.
        let hello = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &1_u32.to_be_bytes(), &len, export.as_bytes()];
        socket.write_all(&hello.concat()).unwrap();
        let mut greeting = [0; 18 + 10];
        match socket.read_exact(&mut greeting) {
            Ok(()) => Some(Self(socket)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self, offset: usize, len: usize) -> Vec<u8> {
        let request =
            [&0x2560_9513_u32.to_be_bytes()[..], &[0; 4], b"cookie42", &(offset as u64).to_be_bytes()];
        self.0.write_all(&[&request.concat()[..], &(len as u32).to_be_bytes()].concat()).unwrap();
        let mut reply = vec![0; 16 + len];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..16], *b"\x67\x44\x66\x98\0\0\0\0cookie42");
        reply.split_off(16)
    }
}

/// Returns the handle of the large file below a directory.
fn find(client: &mut Client, mount: &str) -> Option<rpc::Handle> {
    let root = client.mount(mount.as_bytes()).ok()?;
    Some(ROOT.split('/').fold(root, |dir, name| client.lookup(&dir, name.as_bytes()).unwrap()))
}

#[test]
fn folder_is_served_as_it_changes() {
    needs!(["xorriso"]);
    let folder = IsoFolder::new();
    let [one, two, three] = [1, 2, 3].map(|seed| folder.iso(seed));
    folder.put(&one, "a-1.iso");
    folder.put(&three, "b.ISO");
    fs::write(folder.path("broken.iso"), "no image").unwrap();
    let mut server = folder.start();
    assert!(server.running.log().contains("serving a-1, b;"), "{}", server.running.log());
    assert_eq!(server.count_of("broken.iso: not an ISO 9660 image"), 1);
    assert_eq!([server.kernel(""), server.kernel("/a-1"), server.kernel("/b")], [Some(1), Some(1), Some(3)]);

    // The newest version is the default, and a connection that was there before finds it too.
    let mut client = server.nfs();
    let old = find(&mut client, "/").unwrap();
    assert!(find(&mut client, "/a-2").is_none());
    folder.put(&two, "a-2.iso");
    server.wait_for("image added");
    server.wait_for("image made the default");
    assert_eq!(
        [server.kernel(""), server.kernel("/a-1"), server.kernel("/a-2")],
        [Some(2), Some(1), Some(2)]
    );
    let new = find(&mut client, "/a-2").unwrap();
    assert_eq!(client.read(&new, 0, 4096).unwrap().0, two.root[..4096]);
    assert_eq!(client.read(&old, 0, 4096).unwrap().0, one.root[..4096]);
    assert_eq!(find(&mut client, "/").unwrap(), new);
    assert!(server.nbd("a-2").is_some() && server.nbd("a-3").is_none());
    assert_eq!(server.tftp("arch/boot/x86_64/vmlinuz-linux"), 2);
    let (_, listing) = server.http("/");
    let listing = String::from_utf8(listing).unwrap();
    assert!(["a-1/", "a-2.iso", "b/"].iter().all(|name| listing.contains(&format!("\"{name}\""))));
    assert!(!listing.contains('~'), "versioned names are for machines");

    // A broken file changes nothing, and is logged once.
    fs::write(folder.path("b.ISO.part"), &fs::read(&two.path).unwrap()[..1 << 20]).unwrap();
    fs::rename(folder.path("b.ISO.part"), folder.path("b.ISO")).unwrap();
    server.wait_for("the image opened from it before is still served");
    server.hang_up();
    assert_eq!(server.kernel("/b"), Some(3));

    fs::remove_file(folder.path("b.ISO")).unwrap();
    server.wait_for("image removed");
    assert_eq!(server.kernel("/b"), None);
    assert_eq!(server.kernel(&format!("/b~{}", three.identity)), Some(3));
    assert_eq!(server.count_of("the image opened from it before is still served"), 1);
    assert_eq!(server.count_of("broken.iso: not an ISO 9660 image"), 1);

    // Names that another image or the default image's tree has already.
    folder.put(&three, "A-2.iso");
    server.wait_for("A-2.iso: the name `A-2` already means ");
    folder.put(&three, "arch.iso");
    server.wait_for("arch.iso: the image `arch` would be hidden by `/arch` of the image `a-2`");
    assert_eq!([server.kernel(""), server.kernel("/a-2")], [Some(2), Some(2)]);
    for name in ["a-1.iso", "a-2.iso", "A-2.iso", "arch.iso"] {
        fs::remove_file(folder.path(name)).unwrap();
    }
    server.wait_for("no image left to serve: the last images are served");
    assert_eq!(server.kernel(""), Some(2), "the last set stays");
    assert!(server.running.stop().success());
}

#[test]
fn client_keeps_a_replaced_image() {
    needs!(["xorriso"]);
    let folder = IsoFolder::new();
    let [one, two] = [1, 2].map(|seed| folder.iso(seed));
    folder.put(&one, "arch-1.iso");
    let image = fs::read(&one.path).unwrap();
    let half = (image.len() / 2) & !4095;
    let mut server = folder.start();
    let versioned_name = |iso: &Iso| format!("arch-1~{}", iso.identity);
    assert!(
        find(&mut server.nfs(), &format!("/{}", versioned_name(&one))).is_some(),
        "before it is replaced, too"
    );

    let mut nbd = server.nbd("archiso").unwrap();
    assert_eq!(nbd.read(0, half), image[..half]);
    let mut client = server.nfs();
    let old = find(&mut client, "/run/archiso/bootmnt").unwrap();
    assert_eq!(client.read(&old, 0, 1 << 20).unwrap().0, one.root[..1 << 20]);
    let mut download = Download::begin(server.port("HTTP"), &format!("/{ROOT}"));
    let mut begun = vec![0; 100_000];
    download.socket.read_exact(&mut begun).unwrap();

    folder.put(&two, "arch-1.iso");
    server.wait_for("image replaced");

    begun.extend(download.rest());
    assert!(begun == one.root, "the download is of one image");
    assert!(nbd.read(half, image.len() - half) == image[half..]);
    assert_eq!(client.read(&old, 5 << 20, 1 << 20).unwrap().0, one.root[5 << 20..6 << 20]);
    let mut again = server.nfs();
    assert_eq!(
        again.read(&old, 7 << 20, 1 << 20).unwrap().0,
        one.root[7 << 20..8 << 20],
        "after an idle time"
    );
    assert_eq!(again.getattr(&old).map(|attributes| attributes.size), Ok(LEN as u64));

    // Names mean the new image by every protocol.
    let new = find(&mut again, "/").unwrap();
    assert_ne!(new, old);
    assert_eq!(again.read(&new, 5 << 20, 1 << 20).unwrap().0, two.root[5 << 20..6 << 20]);
    assert_eq!(server.kernel(""), Some(2));
    assert_eq!(server.tftp("/arch-1/arch/boot/x86_64/vmlinuz-linux"), 2);
    let replacement = fs::read(&two.path).unwrap();
    assert!(server.nbd("archiso").unwrap().read(0, half) == replacement[..half]);

    // Versioned names mean the same images as before.
    for (iso, seed, whole) in [(&one, 1, &image), (&two, 2, &replacement)] {
        let versioned_name = versioned_name(iso);
        assert_eq!(server.kernel(&format!("/{versioned_name}")), Some(seed));
        assert_eq!(server.tftp(&format!("/{versioned_name}/arch/boot/x86_64/vmlinuz-linux")), seed);
        assert!(server.http(&format!("/{versioned_name}.iso")).1 == **whole);
        assert!(server.nbd(&versioned_name).unwrap().read(0, half) == whole[..half]);
        assert_eq!(
            server.nbd(&format!("{versioned_name}:/arch/boot/x86_64/vmlinuz-linux")).unwrap().read(0, 1),
            [seed]
        );
        let mounted = find(&mut again, &format!("/{versioned_name}")).unwrap();
        assert_eq!(again.read(&mounted, 0, 4096).unwrap().0, iso.root[..4096]);
    }
    assert!(server.running.stop().success());
}

#[test]
fn sighup_rescans_a_named_file() {
    needs!(["xorriso"]);
    let folder = IsoFolder::new();
    let [one, two] = [1, 2].map(|seed| folder.iso(seed));
    let file = folder.path("arch.img");
    fs::copy(&one.path, &file).unwrap();
    let systemd = UnixDatagram::bind(folder.path("notify")).unwrap();
    systemd.set_read_timeout(Some(SOON)).unwrap();
    let mut command = folder.command(&[&file]);
    let mut server = folder.start_with(command.env("NOTIFY_SOCKET", folder.path("notify")));
    let told = || {
        let mut message = [0; 256];
        let len = systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    };
    assert_eq!(told().trim_end(), "READY=1");
    fs::copy(&two.path, folder.path("arch.new")).unwrap();
    fs::rename(folder.path("arch.new"), &file).unwrap();
    server.hang_up();
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told().trim_end(), "READY=1");
    assert_eq!([server.kernel(""), server.kernel("/arch")], [Some(2), Some(2)], "at once");
    assert_eq!(server.count_of("image replaced"), 1);
    // A named file is watched as well.
    fs::rename(&file, folder.path("aside")).unwrap();
    server.wait_for("no image left to serve");
    fs::copy(&one.path, folder.path("arch.new")).unwrap();
    fs::rename(folder.path("arch.new"), &file).unwrap();
    let end = std::time::Instant::now() + SOON;
    while server.count_of("image replaced") < 2 {
        assert!(std::time::Instant::now() < end, "{}", server.running.log());
        sleep(Duration::from_millis(50));
    }
    assert_eq!(server.kernel(""), Some(1));
    assert!(server.running.stop().success());
}

#[test]
fn unservable_image_is_an_error_at_start() {
    needs!(["xorriso"]);
    let folder = IsoFolder::new();
    let one = folder.iso(1);
    let complaint = |configuration: &str| {
        let file = folder.dir.path().join("isowire.toml");
        fs::write(&file, configuration).unwrap();
        let mut command = folder.command(&[]);
        let output = command.arg("--config").arg(file).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines().last().unwrap().to_owned()
    };
    let configuration = "[[image]]\npath = 'folder'\n";
    let line = complaint(configuration);
    assert!(line.starts_with("isowire: ") && line.contains("folder: folder without *.iso"), "{line}");
    fs::write(folder.path("broken.iso"), "no image").unwrap();
    assert_eq!(
        complaint(configuration),
        "isowire: no image to serve: no ISO in these folders can be opened: put a whole one there"
    );
    folder.put(&one, "x.iso");
    let line = complaint(&format!("{configuration}name = 'mine'"));
    assert!(line.contains("folder: a folder of ISOs cannot have a name (`mine`): remove `name`"), "{line}");
    let line = complaint(&format!("{configuration}[[image]]\npath = 'folder/broken.iso'"));
    assert!(line.contains("broken.iso: not an ISO 9660 image"), "a file that is named: {line}");
}

/// A fault that is a warning at run time must not keep the next start from serving the others.
#[test]
fn bad_image_of_a_folder_is_left_out_at_start() {
    needs!(["xorriso"]);
    let folder = IsoFolder::new();
    let one = folder.iso(1);
    for name in ["a.iso", "a b.iso", "a-b.iso", "boot.iso"] {
        folder.put(&one, name);
    }
    fs::write(folder.path("broken.iso"), "no image").unwrap();
    let (empty, file) = (folder.dir.path().join("empty"), folder.dir.path().join("isowire.toml"));
    fs::create_dir(&empty).unwrap();
    let configuration = "[[image]]\npath = 'folder'\n[[image]]\npath = 'empty'\n\
                         [[machine]]\nmac = '52:54:00'\nimage = 'gone'\n";
    fs::write(&file, configuration).unwrap();
    let mut server = folder.start_with(folder.command(&[]).arg("--config").arg(file));
    let log = server.running.log();
    assert!(log.contains("serving a, a-b\n") || log.contains("serving a, a-b;"), "{log}");
    for warning in [
        "a-b.iso: the name `a-b` already means ",
        "boot.iso: the image `boot` would be hidden by `/boot` of the image `a`",
        "broken.iso: not an ISO 9660 image",
        "empty: folder without *.iso",
        "no bootable image called `gone`",
    ] {
        let line =
            log.lines().find(|line| line.contains(warning)).unwrap_or_else(|| panic!("{warning}: {log}"));
        assert!(line.contains(" warning: "), "{line}");
    }
    assert_eq!(server.kernel("/a-b"), Some(1));
    assert!(server.running.stop().success());
}

#[test]
fn advice_follows_the_images() {
    needs!(["xorriso"]);
    let folder = IsoFolder::new();
    iso::noise(&folder.path("a.iso"), 1, 1 << 20);
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg(&folder.path).args(["--bind", "127.0.0.1", "--dhcp", "off", "--portmap", "off"]);
    command.args(["--nbd", "0", "--nfs", "0", "--http", "0", "--tftp", "0"]);
    let mut server = folder.start_with(command.env("XDG_RUNTIME_DIR", folder.dir.path()));
    let status = || {
        let mut status = Command::new(PROGRAM);
        output_of(status.args(["status", "--json"]).env("XDG_RUNTIME_DIR", folder.dir.path()))
    };
    assert!(status().contains("No machine can boot from here"), "{}", status());
    folder.put(&folder.iso(2), "b.iso");
    server.wait_for("image added");
    let end = Instant::now() + SOON;
    while status().contains("No machine can boot from here") {
        assert!(Instant::now() < end, "{}", status());
        sleep(Duration::from_millis(100));
    }
}
