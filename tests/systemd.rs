//! The units of `dist/systemd` under a real systemd, in a container of the test's own.

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::container::{self, Container};
use common::iso;
use common::nbd_clients::{Clients, Habit, print_waits};
use common::needs::{needs, only_with_all, tool};
use common::running::output_of;

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
    needs!(container::NEEDS, ["xorriso"]);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let iso = dir.path().join("arch.iso");
    iso::noise(&iso, 1, 32 << 20);
    let image = Arc::new(fs::read(&iso).unwrap());
    let container = Container::start(|root| install(root, &iso));
    container.wait_until_active();
    container.enter_network();
    let mut clients = Clients::new();
    clients.connect(160, Habit::Steady, NBD, &image);
    clients.connect(40, Habit::Stalling, NBD, &image);
    clients.watch(NBD, &image);
    clients.run(Duration::from_secs(1));
    let (undisturbed, mut waits) = (clients.take_longest_waits(), Vec::new());
    for _ in 0..20 {
        clients.connect(3, Habit::Hesitant, NBD, &image);
        clients.run(Duration::from_millis(500));
        clients.run_beside(|| output_of(container.command("systemctl").args(["restart", "isowire"])));
        clients.go_on.send_replace(());
        clients.run(Duration::from_millis(500));
        waits.push(clients.take_longest_waits());
    }
    print_waits(undisturbed, &waits);
    let replies = clients.finish();
    assert!(replies > 200 * 20, "{replies} replies");
    let journal = container.journal();
    assert_eq!(journal.matches("NBD connections taken over").count(), 20, "{journal}");

    let exposure = container.printed("systemd-analyze", &["security", "--no-pager", "isowire"]);
    let exposure = exposure.lines().find_map(|line| line.split("Overall exposure level").nth(1));
    let level = exposure.and_then(|line| line.split_whitespace().find_map(|word| word.parse::<f32>().ok()));
    assert!(level.is_some_and(|level| level <= 1.0), "{exposure:?}");

    // A stop is a stop: the ports are closed, and nothing waits in the store.
    output_of(container.command("systemctl").args(["stop", "isowire"]));
    // systemctl waits for the service, whose stop then reaches the sockets.
    container.wait_for(|_| TcpStream::connect(NBD).is_err());
    drop(TcpListener::bind(NBD).expect("nobody listens there"));
    let stored = container.systemctl(&["show", "isowire", "-p", "NFileDescriptorStore", "--value"]);
    assert_eq!(stored.trim(), "0");
}
