//! Seeds: Debian's cloud-init sets a system up by the words that a menu has for the kernel.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use common::lan::{self, BRIDGE, Lan};
use common::needs::{needs, only_with_all, tool};
use common::running::{Running, output_of};
use common::{debian, iso};

const NEEDS: [&str; 3] = ["curl", "unshare", "chroot"];

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

/// Keys of the operator for all machines, for one, and in user data.
const SITE_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO7n0Wd0zJmqX3F0Gf2W2tKfVwPpZqYy3Jk5rQeLwq8R site";
const OWN_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKfVwPpZqYy3Jk5rQeLwq8RO7n0Wd0zJmqX3F0Gf2W2t own";
const DATA_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJk5rQeLwq8RO7n0Wd0zJmqX3F0Gf2W2tKfVwPpZqYy3 data";

/// The stages in which systemd would start it.
const STAGES: &str = "cloud-init init --local; cloud-init init; cloud-init modules --mode=config; \
                      cloud-init modules --mode=final; hostname";

/// Starts a server with seeds for all machines and for those of an image, and another for one.
fn serve(lan: &Lan, dir: &Path) -> Running {
    let image = iso::small().path;
    let user_data = format!(
        "#cloud-config\nssh_authorized_keys: [\"{DATA_KEY}\"]\n\
         write_files: [{{path: /from-the-operator, content: it is}}]\n"
    );
    fs::write(dir.join("user-data.yaml"), user_data).unwrap();
    let image_data = "#cloud-config\nwrite_files: [{path: /from-the-image, content: it is too}]\n";
    fs::write(dir.join("image.yaml"), image_data).unwrap();
    let config = format!(
        "ssh-keys = '{SITE_KEY}'\n[[image]]\npath = '{}'\nuser-data = 'image.yaml'\n\
         [[machine]]\nmac = '52:54:00:12:34:56'\nname = 'lab1'\nssh-keys = ['own.pub']\nuser-data = 'user-data.yaml'\n",
        image.display()
    );
    fs::write(dir.join("own.pub"), format!("{OWN_KEY}\n")).unwrap();
    fs::write(dir.join("isowire.toml"), config).unwrap();
    let mut command = lan.command(env!("CARGO_BIN_EXE_isowire"));
    command.args(["serve", "--interface", BRIDGE, "--dhcp", "off", "--user", "root", "--config"]);
    command.arg(dir.join("isowire.toml")).env("XDG_STATE_HOME", dir).env("XDG_RUNTIME_DIR", dir);
    let mut server = Running::start(&mut command, &dir.join("server.log"));
    server.wait_for("ready", Duration::from_secs(20));
    server
}

/// Returns what curl prints of a path, by the options that archiso's own scripts use.
fn fetched(lan: &Lan, path: &str) -> String {
    let url = format!("http://{SERVER}/isowire/{path}");
    output_of(lan.command("curl").args(["--silent", "--show-error", "--location", "--fail", &url]))
}

/// Returns the words for the kernel of a menu's first entry.
fn command_line(lan: &Lan, machine: &str) -> String {
    let menu = fetched(lan, &format!("{machine}/pxelinux.cfg"));
    menu.lines().find_map(|line| line.strip_prefix("APPEND ")).expect("it has an entry").to_owned()
}

/// Lets cloud-init set up a copy of a system, as it would after a boot with these words. Returns
/// what it prints.
fn set_up(lan: &Lan, root: &Path, command_line: &str) -> String {
    let mut command = lan.command("unshare");
    command.args(["--mount", "--uts", "--pid", "--fork", "--root"]).arg(root);
    command.args(["--mount-proc", "sh", "-c", STAGES]);
    // Instead of /proc/cmdline (cloud-init, cloudinit/util.py, `_get_cmdline`).
    output_of(command.env("DEBUG_PROC_CMDLINE", command_line))
}

#[test]
fn seed_of_a_machine_is_made_for_it() {
    needs!(lan::NEEDS, iso::NEEDS, NEEDS);
    let (lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let _server = serve(&lan, dir.path());
    let (mine, other) = ("52-54-00-12-34-56", "52-54-00-12-34-57");
    let words = |machine| {
        format!(
            " ds=nocloud;dsmode=net;s=http://{SERVER}/isowire/{machine}/image-0/seed/ network-config=disabled "
        )
    };
    assert!(command_line(&lan, mine).contains(&words(mine)));
    assert!(command_line(&lan, other).contains(&words(other)));
    let seed = |machine, file| fetched(&lan, &format!("{machine}/image-0/seed/{file}"));
    let ids = [(); 2].map(|()| seed(mine, "meta-data"));
    assert!(ids[0].starts_with("instance-id: isowire-52-54-00-12-34-56-"));
    // With an id that it knows, cloud-init would do nothing at the next boot.
    assert_ne!(ids[0], ids[1]);
    assert!(seed(mine, "user-data").contains(OWN_KEY) && seed(mine, "user-data").contains(SITE_KEY));
    assert!(seed(other, "user-data").contains(SITE_KEY) && !seed(other, "user-data").contains(OWN_KEY));
    assert!([mine, other].iter().all(|machine| seed(machine, "user-data").contains("/from-the-image")));
    assert!(!fetched(&lan, &format!("{mine}/seed/user-data")).contains("/from-the-image"));
    assert_eq!(seed(other, "vendor-data"), "#cloud-config\n{}\n");
    assert_eq!(seed(other, "network-config"), "config: disabled\n");
}

#[test]
fn cloud_init_follows_the_seed() {
    only_with_all!();
    needs!(lan::NEEDS, iso::NEEDS, debian::NEEDS, NEEDS);
    let (lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let _server = serve(&lan, dir.path());
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // debootstrap does not look for who provides what a package needs.
    let system = debian::system("cloud-init-root", &["cloud-init", "python3-cffi-backend"]);
    output_of(tool("cp").arg("-aT").arg(system).arg(root.path()));
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap_or_default();

    let printed = set_up(&lan, root.path(), &command_line(&lan, "52-54-00-12-34-56"));
    assert_eq!(printed.lines().last(), Some("lab1"), "{printed}");
    let keys = read("root/.ssh/authorized_keys");
    for key in [SITE_KEY, OWN_KEY, DATA_KEY] {
        assert!(keys.lines().any(|line| line == key), "{key} may not log in:\n{keys}\n{printed}");
    }
    assert_eq!([read("from-the-operator"), read("from-the-image")], ["it is", "it is too"]);
    assert!(
        !root.path().join("etc/network/interfaces.d/50-cloud-init").exists(),
        "it left the network alone"
    );
    assert!(read("var/lib/cloud/data/instance-id").starts_with("isowire-52-54-00-12-34-56-"));
}
