//! `isowire doctor` on hosts with real faults, each in a network namespace.

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::time::Duration;

use tempfile::TempDir;

use common::dhcp::router;
use common::iso;
use common::lan::{self, BRIDGE, Lan, Namespace, give_to_nobody};
use common::needs::needs;
use common::running::{Running, output_of};
use isowire::check::sample;

/// Our address, and that of another host.
const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 9);
const SOON: Duration = Duration::from_secs(30);

/// A host with a small image, on a segment with another host.
struct Host {
    lan: Lan,
    neighbour: Namespace,
    dir: TempDir,
    iso: PathBuf,
}

impl Host {
    fn new() -> Self {
        let mut lan = Lan::new(US);
        let neighbour = lan.host(ROUTER);
        let dir = tempfile::tempdir().unwrap();
        let iso = dir.path().join("arch.iso");
        fs::write(&iso, sample::image()).unwrap();
        give_to_nobody(dir.path());
        Self { lan, neighbour, dir, iso }
    }

    /// Starts dnsmasq as the DHCP server of the segment.
    fn start_router(&self) -> Running {
        router(&self.neighbour, self.dir.path(), "192.168.77.200,192.168.77.209")
    }

    fn with_home(&self, mut command: Command) -> Command {
        let home = self.dir.path().join("home");
        command.env("XDG_RUNTIME_DIR", &home).env("XDG_STATE_HOME", &home);
        command
    }

    /// Makes a command of isowire that runs as root.
    fn isowire(&self, subcommand: &str) -> Command {
        let mut command = self.with_home(self.lan.command(env!("CARGO_BIN_EXE_isowire")));
        command.arg(subcommand);
        command
    }

    fn doctor(&self, options: &[&str]) -> Report {
        Report::of(self.isowire("doctor").arg(&self.iso).args(options))
    }

    fn doctor_as_nobody(&self, options: &[&str]) -> Report {
        let mut command = self.with_home(self.lan.command_as_nobody(env!("CARGO_BIN_EXE_isowire")));
        Report::of(command.arg("doctor").arg(&self.iso).args(options))
    }

    /// Loads rules of nftables.
    fn nft(&self, rules: &str) {
        let file = self.dir.path().join("rules");
        fs::write(&file, rules).unwrap();
        output_of(self.lan.command("nft").arg("-f").arg(file));
    }
}

/// Exit code and lines of `isowire doctor`.
struct Report {
    code: i32,
    text: String,
    error: String,
}

impl Report {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            code: output.status.code().unwrap(),
            text: String::from_utf8(output.stdout).unwrap(),
            error: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Returns the verdict and the rest of the first line about a subject.
    fn about(&self, subject: &str) -> (&str, &str) {
        let words = |line: &'_ str| line.split_whitespace().next().map(str::len);
        let found = self.text.lines().find_map(|line| {
            let (verdict, rest) = line.split_at(words(line)?);
            Some((verdict, rest.trim_start().strip_prefix(subject)?.trim_start()))
        });
        found.unwrap_or_else(|| panic!("nothing about {subject}:\n{}{}", self.text, self.error))
    }

    fn verdict(&self, subject: &str) -> &str {
        self.about(subject).0
    }

    fn has_faults(&self) -> bool {
        self.text.lines().any(|line| line.starts_with("fault "))
    }
}

/// Returns what is below a directory.
fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { names(&path) } else { vec![path] }).collect()
}

#[test]
fn host_without_faults_passes() {
    needs!(lan::NEEDS, iso::NEEDS, ["dnsmasq", "nft"]);
    let mut host = Host::new();
    host.iso = iso::small().path;
    let _router = host.start_router();
    let before = names(host.dir.path());
    let report = host.doctor(&[]);
    assert_eq!(report.code, 0, "{}{}", report.text, report.error);
    assert_eq!(report.error, "");
    for subject in [
        "interface",
        "privileges",
        "NBD",
        "NFS",
        "HTTP",
        "TFTP",
        "DHCP",
        "isowire",
        "firewall",
        "other DHCP",
        "ISO",
        "disk",
    ] {
        assert_eq!(report.verdict(subject), "ok", "{subject}:\n{}", report.text);
    }
    assert!(report.about("interface").1.contains("br0 192.168.77.1"), "{}", report.text);
    assert!(report.about("other DHCP").1.starts_with("192.168.77.9 on br0 gives"), "{}", report.text);
    assert!(report.about("ISO").1.ends_with("boots by BIOS, UEFI"), "{}", report.text);
    let (verdict, text) = report.about("hooks");
    assert_eq!(verdict, "warning", "the test's initramfs has hooks of its own");
    assert!(
        text.contains("root over NFS: /arch/boot/x86_64/initramfs-linux.img lacks hook archiso_pxe_common")
    );
    assert!(!report.has_faults());
    assert_eq!(names(host.dir.path()), before, "it leaves nothing behind");
}

#[test]
fn taken_port_is_shown_with_its_program() {
    needs!(lan::NEEDS, ["dnsmasq"]);
    let host = Host::new();
    let mut command = host.lan.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/dev/null",
        "--user=root",
        "--port=0",
    ]);
    command.args(["--enable-tftp", "--pid-file="]).arg(format!("--tftp-root={}", host.dir.path().display()));
    command.args(["--bind-interfaces", &format!("--listen-address={US}")]);
    let mut dnsmasq = Running::start(&mut command, &host.dir.path().join("tftp.log"));
    dnsmasq.wait_for("TFTP root is", SOON);
    let _nbd = host.lan.server().inside(|| TcpListener::bind("0.0.0.0:10809").unwrap());

    let report = host.doctor(&[]);
    let (verdict, text) = report.about("TFTP");
    assert_eq!(verdict, "warning", "{}", report.text);
    assert!(text.contains("serving here, as dnsmasq (process "), "{text}");
    assert!(text.ends_with("; stop what has it, or change `tftp`"), "{text}");
    assert!(report.about("NBD").1.contains(&format!("(process {}) has port 10809", id())), "{}", report.text);

    let report = host.doctor(&["--tftp", "69"]);
    let (verdict, text) = report.about("tftp");
    assert_eq!((report.code, verdict), (1, "fault"), "{}", report.text);
    assert!(
        text.starts_with("0.0.0.0:69 cannot be used: ") && text.contains(", by dnsmasq (process "),
        "{text}"
    );
    assert!(report.error.ends_with("keep isowire from serving\n"), "{}", report.error);
    let report = host.doctor_as_nobody(&["--tftp", "69"]);
    assert!(report.about("tftp").1.contains(", by a process of user root;"), "{}", report.text);
}

#[test]
fn other_dhcp_server_is_heard() {
    needs!(lan::NEEDS, ["dnsmasq"]);
    let host = Host::new();
    let range = ["--dhcp-range", "192.168.77.50-192.168.77.59"];
    let lonely = host.doctor(&[]);
    let (verdict, text) = lonely.about("other DHCP");
    assert_eq!(verdict, "warning", "{}", lonely.text);
    assert!(text.starts_with("none answers on br0, so machines get no address"), "{text}");
    assert_eq!(host.doctor(&range).about("other DHCP"), ("ok", "none on br0"));

    let _router = host.start_router();
    let report = host.doctor(&range);
    let (verdict, text) = report.about("other DHCP");
    assert_eq!((report.code, verdict), (1, "fault"), "{}", report.text);
    assert!(text.starts_with("192.168.77.9 answers on br0; stop it, or leave out `dhcp-range`"), "{text}");
}

#[test]
fn firewall_is_read_and_its_fix_opens_it() {
    needs!(lan::NEEDS, ["nft", "sh"]);
    let host = Host::new();
    host.nft(
        "table inet guard {\nchain in {\ntype filter hook input priority 0; policy drop;\ntcp dport 80 accept\n}\n}\n",
    );
    let report = host.doctor(&["--dhcp", "off"]);
    let (verdict, text) = report.about("firewall");
    assert_eq!((report.code, verdict), (1, "fault"), "{}", report.text);
    assert!(text.starts_with("nftables drops UDP 69, TCP 111, UDP 111, TCP 2049, TCP 10809; "), "{text}");

    let fix = text.split('`').nth(1).unwrap();
    output_of(host.lan.command("sh").args(["-c", &format!("PATH=$PATH:/usr/sbin; {fix}")]));
    assert_eq!(host.doctor(&["--dhcp", "off"]).verdict("firewall"), "ok");
    host.nft("add rule inet guard in udp dport 4011 ip saddr 10.0.0.0/8 accept");
    host.nft("insert rule inet guard in udp dport 67 accept");
    let report = host.doctor(&[]);
    assert!(
        report.about("firewall").1.contains("machines reach UDP 4011 depends on more"),
        "{}",
        report.text
    );

    let report = host.doctor_as_nobody(&[]);
    let (verdict, text) = report.about("firewall");
    assert_eq!(verdict, "warning", "{}", report.text);
    assert!(text.starts_with("not readable: ") && text.contains("open UDP 67, UDP 69, "), "{text}");
}

#[test]
fn missing_privilege_comes_with_its_fix() {
    needs!(lan::NEEDS);
    let host = Host::new();
    output_of(host.lan.command("sysctl").args(["-qw", "net.ipv4.ip_unprivileged_port_start=1024"]));
    let report = host.doctor_as_nobody(&[]);
    let (verdict, text) = report.about("privileges");
    assert_eq!(verdict, "warning", "{}", report.text);
    let fix = format!("`sudo setcap cap_net_bind_service+ep {}`", env!("CARGO_BIN_EXE_isowire"));
    assert!(text.contains(&fix), "{text}");
    assert!(
        report.about("TFTP").1.contains(":6969 serving here, as port 69 needs a privilege"),
        "{}",
        report.text
    );
    assert!(report.about("other DHCP").1.starts_with("not looked for on br0: "), "{}", report.text);
    assert_eq!(host.doctor(&[]).verdict("privileges"), "ok", "as root");
}

#[test]
fn image_interface_and_directory_have_to_be_there() {
    needs!(lan::NEEDS, ["xorriso"]);
    let mut host = Host::new();
    let report =
        Report::of(host.isowire("doctor").args(["/no/such.iso", "--interface", "eth9", "--dhcp", "off"]));
    assert_eq!(report.code, 1, "{}", report.text);
    assert!(report.about("ISO").1.starts_with("/no/such.iso: "), "{}", report.text);
    let (verdict, text) = report.about("interface");
    assert_eq!(verdict, "fault");
    assert!(text.contains("`eth9`: no such interface; this host has ") && text.contains(BRIDGE), "{text}");
    let named = Report::of(host.isowire("doctor").args(["--dhcp", "off"]));
    assert_eq!((named.code, named.verdict("ISO")), (0, "warning"), "{}", named.text);

    fs::remove_file(&host.iso).unwrap();
    host.iso = iso::bare(host.dir.path());
    let report = host.doctor(&["--dhcp", "off"]);
    assert_eq!((report.code, report.verdict("ISO")), (1, "fault"), "{}", report.text);
    assert!(report.about("ISO").1.starts_with("arch: not an Arch ISO"), "{}", report.text);

    let rules = host.dir.path().join("rules.toml");
    fs::write(&rules, "dhcp = 'off'\n[[machine]]\nmac = '52:54:00:00:00:01'\nimage = 'typo'\nonce = true\n")
        .unwrap();
    let report = host.doctor(&["--config", rules.to_str().unwrap()]);
    let (verdict, text) = report.about("rules");
    assert_eq!((report.code, verdict), (1, "fault"), "{}", report.text);
    assert!(text.starts_with("no image called `typo`, which a [[machine]] is to boot; "), "{text}");

    host.lan.server().ip(&["address", "flush", "dev", BRIDGE]);
    let report = host.doctor(&["--interface", BRIDGE]);
    assert_eq!(report.verdict("interface"), "fault", "{}", report.text);
    assert!(report.about("interface").1.starts_with("br0 has no IPv4 address; "), "{}", report.text);

    let config = host.dir.path().join("isowire.toml");
    fs::write(&config, "lease-file = '/sys/kernel/leases'\ndhcp-range = '10.9.0.5-10.9.0.9'\n").unwrap();
    let report = host.doctor_as_nobody(&["--config", config.to_str().unwrap()]);
    let (verdict, text) = report.about("disk");
    assert_eq!(verdict, "fault", "{}", report.text);
    assert!(text.starts_with("/sys/kernel, for leases, cannot be written; "), "{text}");
    assert!(
        report.about("DHCP range").1.contains("no interface to serve has an address in the network"),
        "{}",
        report.text
    );
}

#[test]
fn running_server_is_noticed_and_not_disturbed() {
    needs!(lan::NEEDS);
    let host = Host::new();
    let mut command = host.isowire("serve");
    command.arg(&host.iso).args(["--sandbox", "off", "--user", "root"]);
    let mut server = Running::start(&mut command, &host.dir.path().join("serve.log"));
    server.wait_for("\nready\n", SOON);
    let report = host.doctor(&[]);
    assert_eq!(report.verdict("isowire"), "warning", "{}", report.text);
    assert!(report.about("isowire").1.contains("home/isowire/status.sock; "), "{}", report.text);
    assert!(report.about("HTTP").1.contains("as isowire (process "), "{}", report.text);
    assert!(report.about("DHCP").1.contains("another isowire on this host answers DHCP"), "{}", report.text);
    let report = host.doctor(&["--takeover", "--dhcp", "off"]);
    assert_eq!(
        ["isowire", "HTTP", "NFS"].map(|subject| report.verdict(subject)),
        ["ok"; 3],
        "{}",
        report.text
    );

    let nbd = SocketAddr::from((US, 10809));
    host.lan.server().inside(|| drop(TcpStream::connect(nbd).unwrap()));
    output_of(&mut host.isowire("status"));
    assert!(server.stop().success());
}

#[test]
fn report_is_json_too() {
    needs!(lan::NEEDS);
    let host = Host::new();
    let report = host.doctor(&["--json", "--nbd", "2049", "--nfs", "2049"]);
    assert_eq!(report.code, 1, "two services on one port:\n{}", report.text);
    let json: serde_json::Value = serde_json::from_str(&report.text).unwrap();
    assert_eq!(json["isowire"], env!("CARGO_PKG_VERSION"));
    let findings = json["findings"].as_array().unwrap();
    for finding in findings {
        assert!(["ok", "warning", "fault"].contains(&finding["verdict"].as_str().unwrap()), "{finding}");
        assert!(finding["subject"].is_string() && finding["text"].is_string(), "{finding}");
    }
    let wrong = Report::of(host.isowire("doctor").args(["--nbd", "99999"]));
    assert_eq!(wrong.code, 2, "{}", wrong.error);
    assert!(wrong.error.starts_with("isowire: --nbd: `99999`: invalid port"), "{}", wrong.error);
}
