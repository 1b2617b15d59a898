//! The Debian package under a real systemd: installed, upgraded under clients, removed and purged.

mod common;

use std::collections::BTreeSet;
use std::env::consts::ARCH;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::container::{self, Container};
use common::nbd_clients::{Clients, Habit};
use common::needs::{needs, only_with_all};
use common::running::output_of;
use common::tree::{self, tree};

const NBD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10809);

/// The operator's own line in the configuration.
const SETTING: &str = "menu-timeout = 7\n";

/// Builds the package of the static program, in two versions.
fn packages(dir: &Path) -> [String; 2] {
    ["1", "2"].map(|version| {
        let name = format!("isowire-{version}.deb");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["deb", "--quiet", "--no-strip", "--deb-version", version, "--target"]);
        cargo.arg(format!("{ARCH}-unknown-linux-musl")).arg("--output").arg(dir.join(&name));
        output_of(cargo.args(["--", "--locked"]).current_dir(env!("CARGO_MANIFEST_DIR")));
        format!("/root/{name}")
    })
}

fn dpkg(container: &Container, arguments: &[&str]) -> String {
    output_of(container.command("dpkg").env("DEBIAN_FRONTEND", "noninteractive").args(arguments))
}

/// Returns a property of the service.
fn property(container: &Container, name: &str) -> String {
    container.systemctl(&["show", "isowire", "--value", "-p", name]).trim().to_owned()
}

fn owner(container: &Container, path: &str) -> String {
    output_of(container.command("stat").args(["-c", "%U", path])).trim().to_owned()
}

#[test]
fn package_keeps_clients_and_configuration() {
    only_with_all!();
    needs!(container::NEEDS, tree::NEEDS, ["cargo-deb"]);
    let iso = tree().iso;
    let mut packages = <[String; 2]>::default();
    let container = Container::start(|root| packages = self::packages(&root.join("root")));
    let [first, second] = packages;

    // Nothing starts by itself, and nothing fails.
    let said = dpkg(&container, &["-i", &first]);
    assert!(said.contains("systemctl enable --now isowire"), "{said}");
    assert_eq!(property(&container, "ActiveState"), "inactive");
    assert_eq!(container.systemctl(&["is-enabled", "isowire"]).trim(), "disabled");
    assert!(TcpStream::connect(NBD).is_err());
    assert!(output_of(container.command("isowire").arg("check")).contains("airootfs.sha512 verified"));

    // Without an ISO the unit says what to do, and goes on by itself when it is done.
    let started = container.command("systemctl").args(["enable", "--now", "isowire"]).output().unwrap();
    assert!(!started.status.success());
    assert!(container.journal().contains("folder without *.iso: put one there"), "{}", container.journal());
    fs::copy(&iso, container.path("srv/iso/.part")).unwrap();
    fs::rename(container.path("srv/iso/.part"), container.path("srv/iso/arch.iso")).unwrap();
    container.wait_until_active();
    let status = output_of(container.command("isowire").arg("status"));
    assert!(status.contains("no machine seen yet"), "{status}");
    assert_eq!(owner(&container, &format!("/proc/{}", property(&container, "MainPID"))), "isowire");

    let config = container.path("etc/isowire/config.toml");
    let changed = SETTING.to_owned() + &fs::read_to_string(&config).unwrap();
    fs::write(&config, &changed).unwrap();
    container.enter_network();
    let image = Arc::new(fs::read(&iso).unwrap());
    let mut clients = Clients::new();
    clients.connect(40, Habit::Steady, NBD, &image);
    clients.connect(10, Habit::Stalling, NBD, &image);
    clients.run(Duration::from_secs(1));
    let before = property(&container, "MainPID");
    clients.run_beside(|| dpkg(&container, &["-i", &second]));
    clients.run(Duration::from_secs(1));
    let replies = clients.finish();
    assert!(replies > 500, "{replies} replies");
    assert_ne!(property(&container, "MainPID"), before);
    let journal = container.journal();
    assert_eq!(journal.matches("NBD connections taken over").count(), 1, "{journal}");
    let version = container.printed("dpkg-query", &["-W", "-f", "${Version}", "isowire"]);
    assert_eq!((version.as_str(), fs::read_to_string(&config).unwrap()), ("2", changed));

    dpkg(&container, &["-r", "isowire"]);
    assert!(TcpStream::connect(NBD).is_err());
    assert_eq!(container.systemctl(&["list-unit-files", "--no-legend", "isowire*"]), "");
    let state = container.path("var/lib/private/isowire");
    assert!(config.exists() && state.exists() && !container.path("usr/bin/isowire").exists());
    dpkg(&container, &["-P", "isowire"]);
    assert!(!config.exists() && !state.exists() && !container.path("var/lib/isowire").exists());
    let cache = ["var/cache/isowire", "var/cache/private/isowire"].map(|path| container.path(path));
    assert!(cache.iter().all(|cache| !cache.exists()), "{cache:?}");
    assert!(container.path("srv/iso/arch.iso").exists(), "ISOs are the operator's");
}

#[test]
fn packages_hold_the_same_files() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let sources = |kind: &str| {
        let assets = manifest["package"]["metadata"][kind]["assets"].as_array().unwrap();
        let source =
            |asset: &toml::Value| asset.get(0).or(asset.get("source")).unwrap().as_str().unwrap().to_owned();
        assets.iter().map(source).collect::<BTreeSet<_>>()
    };
    let (deb, mut rpm) = (sources("deb"), sources("generate-rpm"));
    // Debian has the licence in its own form.
    assert!(rpm.remove("LICENSE-*"));
    assert_eq!(deb, rpm);
    for source in deb {
        let source = source.trim_start_matches("target/release/");
        assert!(include_str!("../dist/arch/PKGBUILD").contains(source), "{source} is missing for Arch Linux");
    }
}
