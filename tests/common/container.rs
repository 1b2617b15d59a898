//! Containers in which a real systemd runs.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use super::debian;
use super::needs::tool;
use super::running::{Running, output_of};

pub const NEEDS: [&str; 5] = ["root", "mmdebstrap", "apt-get", "systemd-nspawn", "nsenter"];

/// A container takes this long at most to start, stop, or run a command.
pub const SOON: Duration = Duration::from_secs(120);

/// A Debian system of its own, with a network of its own.
pub struct Container {
    nspawn: Running,
    /// The process that is number 1 inside.
    init: String,
    root: TempDir,
}

impl Container {
    /// Starts a container, after `install` has put into its root directory what it needs.
    pub fn start(install: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let system = debian::system("systemd-root", &["systemd", "systemd-sysv", "dbus"]);
        output_of(tool("cp").arg("-aT").arg(system).arg(root.path()));
        install(root.path());
        let mut command = tool("systemd-nspawn");
        command.args(["-q", "-b", "--private-network", "--register=no", "--keep-unit"]);
        command.arg("-D").arg(root.path()).stdin(Stdio::null());
        let nspawn = Running::start(&mut command, &root.path().with_extension("log"));
        let end = Instant::now() + SOON;
        let init = loop {
            match init(&nspawn) {
                Some(init) => break init,
                None => assert!(Instant::now() < end, "{}", nspawn.log()),
            }
            sleep(Duration::from_millis(50));
        };
        let container = Self { nspawn, init, root };
        container.wait_for(|container| {
            ["running", "degraded"].contains(&container.systemctl(&["is-system-running"]).trim())
        });
        container
    }

    /// Returns the place of a file of the container on this host.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    /// Makes a command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = tool("nsenter");
        command.args(["-t", &self.init, "-m", "-u", "-i", "-n", "-p", "-C", "--", program]);
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Returns what `systemctl` prints, whatever its exit code says.
    pub fn systemctl(&self, arguments: &[&str]) -> String {
        self.printed("systemctl", arguments)
    }

    pub fn printed(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns what isowire and systemd said about its service.
    pub fn journal(&self) -> String {
        output_of(self.command("journalctl").args(["--no-pager", "-o", "cat", "-u", "isowire"]))
    }

    pub fn wait_until_active(&self) {
        self.wait_for(|container| container.systemctl(&["is-active", "isowire"]).trim() == "active");
    }

    /// Waits until something is so. Panics with the journal of isowire if the time is up.
    pub fn wait_for(&self, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + SOON;
        while !is_so(self) {
            assert!(Instant::now() < end, "{}", self.journal());
            sleep(Duration::from_millis(200));
        }
    }

    /// Moves the calling thread into the network of the container, for good.
    pub fn enter_network(&self) {
        let network = File::open(format!("/proc/{}/ns/net", self.init)).unwrap();
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.command("systemctl").arg("poweroff").output();
        let _ = self.nspawn.wait(SOON);
    }
}

/// Returns the child of nspawn that stays. The first one sets up the root directory and ends.
fn init(nspawn: &Running) -> Option<String> {
    let pid = nspawn.pid().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().find(|child| is_init(child)).map(str::to_owned)
}

/// Tells whether a process is number 1 of a namespace inside that of this test (proc(5), `NSpid`).
fn is_init(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    numbers.split_whitespace().skip(1).last() == Some("1")
}
