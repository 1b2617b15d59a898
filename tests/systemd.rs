//! The units of `dist/systemd` under a real systemd, in a container of the test's own.

mod common;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use common::debian;
use common::nbd_clients::{Clients, Habit};
use common::needs::{needs, only_with_all, tool};
use common::running::{Running, output_of};
use common::tree::{self, tree};

const NEEDS: [&str; 2] = ["systemd-nspawn", "nsenter"];

/// A container takes this long at most to start, stop, or run a command.
const SOON: Duration = Duration::from_secs(120);

/// Where the unit of the NBD port listens.
const NBD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10809);

/// The units that are installed: DHCP is off, and a socket without a use would be an error.
const UNITS: [&str; 6] = [
    "isowire.service",
    "isowire-nbd.socket",
    "isowire-nfs.socket",
    "isowire-portmap.socket",
    "isowire-http.socket",
    "isowire-tftp.socket",
];

/// A container with isowire and its units installed, as a package would.
struct Container {
    nspawn: Running,
    /// The process that is number 1 inside.
    leader: String,
    _root: TempDir,
}

impl Container {
    fn start(iso: &Path) -> Self {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let system = debian::system("systemd-root", &["systemd", "systemd-sysv", "dbus"]);
        output_of(tool("cp").arg("-aT").arg(system).arg(root.path()));
        install(root.path(), iso);
        let mut command = tool("systemd-nspawn");
        command.args(["-q", "-b", "--private-network", "--register=no", "--keep-unit"]);
        command.arg("-D").arg(root.path()).stdin(Stdio::null());
        let nspawn = Running::start(&mut command, &root.path().with_extension("log"));
        let end = Instant::now() + SOON;
        let leader = loop {
            let pid = nspawn.pid().as_raw_nonzero();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            match children.unwrap_or_default().split_whitespace().next() {
                Some(leader) => break leader.to_owned(),
                None => assert!(Instant::now() < end, "{}", nspawn.log()),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let container = Self { nspawn, leader, _root: root };
        while container.systemctl(&["is-active", "isowire"]).trim() != "active" {
            assert!(Instant::now() < end, "{}", container.journal());
            std::thread::sleep(Duration::from_millis(200));
        }
        container
    }

    /// Makes a command that runs inside.
    fn command(&self, program: &str) -> Command {
        let mut command = tool("nsenter");
        command.args(["-t", &self.leader, "-m", "-u", "-i", "-n", "-p", "-C", "--", program]);
        command
    }

    /// Returns what `systemctl` prints, whatever its exit code says.
    fn systemctl(&self, arguments: &[&str]) -> String {
        self.printed("systemctl", arguments)
    }

    fn printed(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn journal(&self) -> String {
        output_of(self.command("journalctl").args(["--no-pager", "-o", "cat", "-u", "isowire"]))
    }

    /// Moves the calling thread into the network of the container, for good.
    fn enter_network(&self) {
        let network = File::open(format!("/proc/{}/ns/net", self.leader)).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.command("systemctl").arg("poweroff").output();
        let _ = self.nspawn.wait(SOON);
    }
}

/// Installs the program, its units, a configuration and the image.
fn install(root: &Path, iso: &Path) {
    let units = root.join("etc/systemd/system");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/systemd");
    for unit in UNITS {
        fs::copy(sources.join(unit), units.join(unit)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_isowire"), root.join("usr/bin/isowire")).unwrap();
    fs::create_dir_all(root.join("etc/isowire")).unwrap();
    let config = "dhcp = \"off\"\n[[image]]\npath = \"/srv/iso\"\n";
    fs::write(root.join("etc/isowire/config.toml"), config).unwrap();
    fs::create_dir_all(root.join("srv/iso")).unwrap();
    fs::copy(iso, root.join("srv/iso/arch.iso")).unwrap();
    let mut systemctl = tool("systemctl");
    output_of(systemctl.arg(format!("--root={}", root.display())).arg("enable").args(UNITS));
}

#[test]
fn clients_outlive_systemctl_restart() {
    only_with_all!();
    needs!(NEEDS, debian::NEEDS, tree::NEEDS);
    let iso = tree().iso;
    let image = Arc::new(fs::read(&iso).unwrap());
    let container = Container::start(&iso);
    container.enter_network();
    let mut clients = Clients::new();
    clients.connect(160, Habit::Steady, NBD, &image);
    clients.connect(40, Habit::Stalling, NBD, &image);
    clients.run(Duration::from_secs(1));
    let undisturbed = clients.longest_wait();
    for _ in 0..8 {
        clients.connect(3, Habit::Hesitant, NBD, &image);
        clients.run(Duration::from_millis(500));
        clients.run_beside(|| output_of(container.command("systemctl").args(["restart", "isowire"])));
        clients.go_on.send_replace(());
        clients.run(Duration::from_millis(500));
    }
    // Shown by --nocapture; a busy host makes it longer.
    println!("longest wait for a reply: {undisturbed} ms undisturbed, {} ms in all", clients.longest_wait());
    let replies = clients.finish();
    assert!(replies > 200 * 8, "{replies} replies");
    let journal = container.journal();
    assert_eq!(journal.matches("NBD connections taken over").count(), 8, "{journal}");

    let exposure = container.printed("systemd-analyze", &["security", "--no-pager", "isowire"]);
    let exposure = exposure.lines().find_map(|line| line.split("Overall exposure level").nth(1));
    let level = exposure.and_then(|line| line.split_whitespace().find_map(|word| word.parse::<f32>().ok()));
    assert!(level.is_some_and(|level| level <= 1.0), "{exposure:?}");

    // A stop is a stop: the ports are closed, and nothing waits in the store.
    output_of(container.command("systemctl").args(["stop", "isowire"]));
    assert!(TcpStream::connect(NBD).is_err());
    drop(TcpListener::bind(NBD).expect("nobody listens there"));
    let stored = container.systemctl(&["show", "isowire", "-p", "NFileDescriptorStore", "--value"]);
    assert_eq!(stored.trim(), "0");
}
