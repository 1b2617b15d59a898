//! Every door over a link that loses, delays, repeats and reorders frames, or is cut at times.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use common::dhcp::{Udhcpc, newcomer, value};
use common::lan::{self, BRIDGE, Lan, Namespace};
use common::needs::{needs, tool};
use common::running::{Running, output_of};

const NEEDS: [&str; 8] =
    ["/dev/net/tun", "python3", "xorriso", "udhcpc", "atftp", "curl", "nfs-cp", "nbdcopy"];

const US: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const SOON: Duration = Duration::from_secs(60);
/// MTU of Ethernet.
const PLAIN: u32 = 1500;

/// A file for TFTP, of which each window takes a round trip.
const SHORT: (&str, usize) = ("arch/short", 100_001);
const LONG: (&str, usize) = ("arch/long", 2_000_003);

/// A server, and one client behind a bad link.
struct Site {
    dir: TempDir,
    client: Namespace,
    _server: Running,
    link: Running,
    faults: Vec<String>,
    _lan: Lan,
}

impl Site {
    fn new(faults: &[&str], mtu: u32) -> Self {
        let (mut lan, dir) = (Lan::new(US), tempfile::tempdir().unwrap());
        let link = lan.worsen(faults, mtu, &dir.path().join("link"));
        let bridge = lan.bridge();
        let client = newcomer(&mut lan, bridge);
        let mut command = lan.command(env!("CARGO_BIN_EXE_isowire"));
        command.arg("serve").arg(iso(&dir)).args(["--interface", BRIDGE, "--status", "off"]);
        command.args(["--dhcp-range", "192.168.77.50-192.168.77.59"]);
        command.env("HOME", dir.path()).env("XDG_STATE_HOME", dir.path());
        let mut server = Running::start(&mut command, &dir.path().join("log"));
        server.wait_for("\nready\n", SOON);
        let faults = faults.iter().map(|fault| fault.split('=').next().unwrap().to_owned()).collect();
        Self { dir, client, _server: server, link, faults, _lan: lan }
    }

    /// Has the client get an address, and the files through every door.
    fn check_all(&self) {
        let mut udhcpc = Udhcpc::start(&self.client, self.dir.path(), &[]);
        let told = udhcpc.told("bound");
        assert!(value(&told, "ip").starts_with("192.168.77.5"), "{told}");

        let got = self.dir.path().join("got");
        self.fetch_by_tftp(&got);
        self.assert_same(&got, SHORT.0);

        let url = format!("http://{US}/{}", LONG.0);
        output_of(self.client.command("curl").args(["-sSf", "-o"]).arg(&got).arg(url));
        self.assert_same(&got, LONG.0);

        let url = format!("nfs://{US}/mnt/archiso/{}", LONG.0);
        let copied = self.dir.path().join("copied");
        output_of(self.client.command("nfs-cp").arg(url).arg(&copied));
        self.assert_same(&copied, LONG.0);

        let whole = self.dir.path().join("whole");
        let url = format!("nbd://{US}/archiso");
        output_of(self.client.command("nbdcopy").arg(url).arg(&whole));
        self.assert_same(&whole, "iso");
        let met = self.link.log();
        assert!(self.faults.iter().all(|fault| met.lines().any(|line| line == fault)), "only {met}");
    }

    /// Has atftp fetch the file. It gives up if an OACK comes twice, as it does here when the link repeats
    /// it, or loses the acknowledgment (RFC 2347: the server repeats the OACK then).
    fn fetch_by_tftp(&self, got: &Path) {
        for _ in 0..10 {
            let mut atftp = self.client.command("atftp");
            atftp.args(["--option", "blksize 1428", "--option", "windowsize 8"]);
            let output =
                atftp.args(["-g", "-r", SHORT.0, "-l"]).arg(got).arg(US.to_string()).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                return;
            }
            assert!(said.contains("unexpected OACK"), "{said}");
        }
        panic!("atftp had ten repeated OACKs");
    }

    fn assert_same(&self, got: &Path, source: &str) {
        assert!(fs::read(got).unwrap() == fs::read(self.dir.path().join(source)).unwrap(), "{source}");
    }
}

/// Makes a small ISO of the files above.
fn iso(dir: &TempDir) -> PathBuf {
    fs::create_dir(dir.path().join("arch")).unwrap();
    for (name, len) in [SHORT, LONG] {
        let noise = (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
        fs::write(dir.path().join(name), noise.collect::<Vec<_>>()).unwrap();
    }
    let iso = dir.path().join("iso");
    let mut xorriso = tool("xorriso");
    xorriso.args(["-as", "mkisofs", "-quiet", "-R", "-V", "LINK", "-o"]).arg(&iso);
    output_of(xorriso.args(["-graft-points"]).arg(format!("/arch={}", dir.path().join("arch").display())));
    iso
}

#[test]
fn link_that_loses_one_frame_in_twenty() {
    needs!(lan::NEEDS, NEEDS);
    Site::new(&["loss=0.05"], PLAIN).check_all();
}

#[test]
fn link_that_reorders_and_repeats() {
    needs!(lan::NEEDS, NEEDS);
    Site::new(&["reorder=0.2", "duplicate=0.05"], PLAIN).check_all();
}

#[test]
fn link_with_a_round_trip_of_200_ms() {
    needs!(lan::NEEDS, NEEDS);
    Site::new(&["delay=0.1"], PLAIN).check_all();
}

#[test]
fn link_that_is_cut_two_seconds_in_six() {
    needs!(lan::NEEDS, NEEDS);
    Site::new(&["down=2/6", "delay=0.02"], PLAIN).check_all();
}

#[test]
fn links_with_small_and_large_frames() {
    needs!(lan::NEEDS, NEEDS);
    for mtu in [576, 9000] {
        Site::new(&[], mtu).check_all();
    }
}
