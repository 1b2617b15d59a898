//! A place where machines boot: a network, an ISO, servers, and the logs of what happens there.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::iso::ArchIso;
use crate::common::lan::{self, BRIDGE, Lan, Namespace};
use crate::common::machine::{
    Card, END, ENTER, Machine, Report, SNAKEOIL_CERTIFICATE, SNAKEOIL_KEY, UP, Uefi,
};
use crate::common::needs::tool;
use crate::common::object_store::ObjectStore;
use crate::common::reads;
use crate::common::running::{Running, output_of, text_of};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 254);
pub const RANGE: &str = "192.168.77.50-192.168.77.99";

/// The network cards of QEMU have iPXE for a ROM. By this rule they load what a plain PXE ROM loads.
pub const PLAIN_PXE: &str = "[[machine]]\nmac = '52:54'\nquirks = 'no-script'\n";

/// A setting by which machines get a seed for cloud-init.
pub const SSH_KEYS: &str =
    "ssh-keys = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO7n0Wd0zJmqX3F0Gf2W2tKfVwPpZqYy3Jk5rQeLwq8R me'\n";

/// A line of the server's log, by words that stand in it.
pub type Chapter = &'static [&'static str];

/// A network, an ISO, and the logs of what happens there.
pub struct Site {
    pub lan: Lan,
    pub iso: ArchIso,
    pub logs: PathBuf,
    pub stage: TempDir,
}

impl Site {
    /// Logs are kept in `target/tmp/boot/NAME` until the next run.
    pub fn new(name: &str, iso: ArchIso) -> Site {
        let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boot").join(name);
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).expect("cargo's directory for tests is writable");
        Site { lan: Lan::new(SERVER), iso, logs, stage: open_directory() }
    }

    pub fn serve(&self, options: &[&str]) -> Running {
        self.serve_by("", options)
    }

    /// Starts it with the key that firmware with Secure Boot knows.
    pub fn serve_signed(&self, options: &[&str]) -> Running {
        let [key, certificate] = ["db.key", "db.crt"].map(|name| self.stage.path().join(name));
        let pass = ["-passin", "pass:snakeoil"];
        output_of(tool("openssl").args(["pkey", "-in", SNAKEOIL_KEY, "-out"]).arg(&key).args(pass));
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("it is ours");
        lan::give_to_nobody(&key);
        fs::copy(SNAKEOIL_CERTIFICATE, &certificate).expect("the temporary directory has room");
        let [key, certificate] = [&key, &certificate].map(|path| path.to_str().expect("no odd names there"));
        let signing = ["--secure-boot-key", key, "--secure-boot-certificate", certificate];
        self.serve(&[&signing, options].concat())
    }

    /// Starts `isowire serve` as nobody, with this configuration, and waits until it is ready.
    pub fn serve_by(&self, configuration: &str, options: &[&str]) -> Running {
        self.serve_all(&[], configuration, options)
    }

    /// The same with other images behind this site's own.
    pub fn serve_all(&self, others: &[&Path], configuration: &str, options: &[&str]) -> Running {
        let program = self.staged(Path::new(env!("CARGO_BIN_EXE_isowire")));
        let images = [&[self.iso.path.as_path()], others].concat();
        let images: Vec<_> = images.into_iter().map(|image| self.staged(image)).collect();
        let state = self.state();
        fs::create_dir(&state).expect("just made, so empty");
        lan::give_to_nobody(&state);
        fs::write(state.join("isowire.toml"), configuration).expect("just made, so empty");
        let mut command = self.command(&program, &images, options);
        let mut server = Running::start(&mut command, &self.logs.join("server.log"));
        server.wait_for("ready", Duration::from_secs(20));
        server
    }

    /// Starts it with the images of an object store on its host, and with a cache folder of this name.
    pub fn serve_stored(&self, store: &ObjectStore, cache: &str, options: &[&str]) -> Running {
        let (program, state) = (self.stage.path().join("isowire"), self.state());
        if !state.exists() {
            self.staged(Path::new(env!("CARGO_BIN_EXE_isowire")));
            fs::create_dir(&state).expect("it was not there");
            lan::give_to_nobody(&state);
            fs::write(state.join("isowire.toml"), PLAIN_PXE).expect("just made, so empty");
        }
        let mut command = self.command(&program, &["s3://images/".into()], options);
        command.envs(store.environment(store.port())).arg("--cache-dir").arg(state.join(cache));
        let mut server = Running::start(&mut command, &self.logs.join(format!("server-{cache}.log")));
        server.wait_for("ready", Duration::from_secs(20));
        server
    }

    /// Directory of the server's state, where only the server may look.
    pub fn state(&self) -> PathBuf {
        self.stage.path().join("state")
    }

    pub fn command(&self, program: &Path, images: &[PathBuf], options: &[&str]) -> Command {
        let state = self.state();
        let mut command = self.lan.command_as_nobody(program);
        command.args(["serve", "--config"]).arg(state.join("isowire.toml")).args(images);
        command.args(["--interface", BRIDGE]).args(options);
        command.current_dir(&state).env("HOME", &state).env("XDG_STATE_HOME", &state);
        command.env("XDG_RUNTIME_DIR", &state);
        command
    }

    /// Runs a machine to its end. After `prepare`, one server takes over from the other meanwhile.
    /// Returns the logs of those that took over.
    pub fn take_over_until_power_off(
        &self,
        mut server: Running,
        machine: Machine,
        options: &[&str],
        prepare: impl FnOnce(&mut Running),
    ) -> (Report, Vec<String>) {
        let program = self.stage.path().join("isowire");
        let images = [self.stage.path().join(self.iso.path.file_name().expect("a file, not a root"))];
        let options = [options, &["--takeover"]].concat();
        let mut logs = Vec::new();
        thread::scope(|scope| {
            let booting = scope.spawn(|| machine.run_to_power_off());
            prepare(&mut server);
            while !booting.is_finished() {
                let mut command = self.command(&program, &images, &options);
                let log = self.logs.join(format!("server-{}.log", logs.len() + 1));
                let mut next = Running::start(&mut command, &log);
                next.wait_for("ready", Duration::from_secs(60));
                // Time for an offer, before which the address is probed.
                thread::sleep(Duration::from_secs(2));
                let status = server.wait(Duration::from_secs(60)).expect("it was taken over");
                assert!(status.success(), "{}", server.log());
                logs.push(next.log());
                server = next;
            }
            self.ended(server);
            (booting.join().expect("the machine was read to its end"), logs)
        })
    }

    /// The checkout may lie where nobody may look: what the server needs is linked or copied to a place open to all.
    pub fn staged(&self, file: &Path) -> PathBuf {
        let staged = self.stage.path().join(file.file_name().expect("a file, not a root"));
        if fs::hard_link(file, &staged).is_err() {
            fs::copy(file, &staged).expect("the temporary directory has room");
        }
        staged
    }

    /// A DHCP server as it stands in many homes: it gives addresses, and `options`.
    pub fn router(&mut self, options: &[&str]) -> (Running, Namespace) {
        let host = self.lan.host(ROUTER);
        let mut command = host.command("dnsmasq");
        command.args(dnsmasq_basics("eth0", self.logs.join("router.leases"))).args(options);
        (Running::start(&mut command, &self.logs.join("router.log")), host)
    }

    pub fn follow_the_wiki(&self) -> (Running, Running) {
        let tree = self.stage.path().join("tree");
        output_of(tool("xorriso").args(["-no_rc", "-osirrox", "on", "-indev"]).arg(&self.iso.path).args([
            "-extract".as_ref(),
            "/".as_ref(),
            tree.as_os_str(),
        ]));
        let mut dnsmasq = self.lan.command("dnsmasq");
        dnsmasq
            .args(dnsmasq_basics(BRIDGE, self.logs.join("dnsmasq.leases")))
            .args(["--enable-tftp", &format!("--tftp-root={}", tree.display())])
            .args(["--dhcp-boot=/boot/syslinux/lpxelinux.0", "--dhcp-option-force=209,archiso_pxe.cfg"]);
        let mut nbdkit = self.lan.command("nbdkit");
        nbdkit.args(["--foreground", "--readonly", "--exportname=archiso", "file"]).arg(&self.iso.path);
        (
            Running::start(&mut dnsmasq, &self.logs.join("dnsmasq.log")),
            Running::start(&mut nbdkit, &self.logs.join("nbdkit.log")),
        )
    }

    pub fn boot(&mut self, card: Card) -> Report {
        Machine::power_on(&mut self.lan, card, &self.logs).run_to_power_off()
    }

    pub fn boot_uefi(&mut self, uefi: Uefi<'_>) -> Report {
        Machine::power_on_uefi(&mut self.lan, uefi, &self.logs).run_to_power_off()
    }

    pub fn check(&self, report: &Report, ready: &str) {
        assert_eq!(
            report.value("root-file-sha256"),
            self.iso.content_sha256,
            "the guest read something else"
        );
        assert_eq!(report.value("READY"), ready);
    }

    /// The words for cloud-init came through the loader as they are.
    pub fn check_seed(&self, report: &Report) {
        let line = report.value("command line:");
        let words = format!(
            " ds=nocloud;dsmode=net;s=http://{SERVER}/isowire/52-54-00-12-34-56/seed/ network-config=disabled "
        );
        assert!(line.contains(&words), "{line}");
    }

    /// Keeps what a machine read of its root, for `benches/peers storm --trace`.
    pub fn keep(&self, reads: &[reads::Read]) {
        let size = fs::metadata(&self.iso.path).expect("it is served").len();
        assert!(reads.iter().all(|read| read.offset + read.len <= size), "{reads:?}");
        let read: u64 = reads.iter().map(|read| read.len).sum();
        assert!(read > 1 << 20, "a root file system of {read} bytes");
        fs::write(self.logs.join("reads.txt"), reads::trace(reads)).expect("the directory is ours");
    }

    /// Goes to the image's own menu, by the second page of ours, and there by `keys`.
    pub fn boot_by_stock_menu(&mut self, keys: &[&str]) -> (Running, Report) {
        let server = self.serve_by(PLAIN_PXE, &["--dhcp-range", RANGE, "--menu-timeout", "60"]);
        let mut machine = Machine::power_on(&mut self.lan, Card::E1000, &self.logs);
        machine.wait_for("More ways to boot");
        machine.press(&[END, UP, ENTER]);
        machine.wait_for("The image's own menu");
        // Behind it are the restart and the way back.
        machine.press(&[END, UP, UP, ENTER]);
        // Nothing but the stock menu has this entry.
        machine.wait_for("Hardware Information");
        machine.press(keys);
        (server, machine.run_to_power_off())
    }

    /// The server ends cleanly when asked, and its log tells the boot as a story.
    pub fn check_story(&self, server: Running, story: &[&[Chapter]]) {
        tells(&self.ended(server), &story.concat());
    }

    /// The log of a server that ends cleanly when asked.
    pub fn ended(&self, mut server: Running) -> String {
        let status = server.stop();
        let log = server.log();
        assert!(status.success(), "the server ended with {status}:\n{log}");
        log
    }
}

/// The chapters stand in the log in this order, with others between them.
pub fn tells(log: &str, story: &[&[&str]]) {
    let mut lines = log.lines();
    for chapter in story {
        let tells = |line: &str| chapter.iter().all(|words| line.contains(words));
        assert!(lines.any(tells), "{chapter:?} is missing or out of order in the server's log:\n{log}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        eprintln!("logs are kept in {}", self.logs.display());
        for log in ["server.log", "router.log", "dnsmasq.log"] {
            eprintln!("--- {log}\n{}", text_of(&self.logs.join(log)));
        }
    }
}

/// A directory that every user may enter.
fn open_directory() -> TempDir {
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
    dir
}

fn dnsmasq_basics(interface: &str, leases: PathBuf) -> Vec<String> {
    vec![
        "--no-daemon".into(),
        "--conf-file=/dev/null".into(),
        "--user=root".into(),
        "--port=0".into(),
        "--no-ping".into(),
        "--log-dhcp".into(),
        format!("--interface={interface}"),
        format!("--dhcp-range={}", RANGE.replace('-', ",")),
        format!("--dhcp-leasefile={}", leases.display()),
    ]
}
