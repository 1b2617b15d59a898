//! Seeds: Debian's cloud-init sets a system up by the words that a menu has for the kernel, and
//! tells that it is up.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use common::lan::{self, BRIDGE, Lan, Namespace};
use common::needs::{needs, only_with_all, tool};
use common::running::{Running, output_of};
use common::{debian, iso};

const NEEDS: [&str; 3] = ["curl", "unshare", "chroot"];

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

/// The machine with a rule.
const MAC: &str = "52:54:00:12:34:56";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 9);

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

/// Adds a machine with this MAC address.
fn machine(lan: &mut Lan, mac: &str, address: Ipv4Addr) -> Namespace {
    let machine = lan.host(address);
    machine.ip(&["link", "set", "eth0", "address", mac]);
    machine
}

/// Returns the lines for `known_hosts` of the server with its sockets in this directory.
fn known_hosts(lan: &Lan, dir: &Path) -> String {
    let mut status = lan.command(env!("CARGO_BIN_EXE_isowire"));
    output_of(status.args(["status", "--known-hosts"]).env("XDG_RUNTIME_DIR", dir))
}

/// Lets cloud-init set up a copy of a system, as it would after a boot with these words. Returns
/// what it prints.
fn set_up(machine: &Namespace, root: &Path, command_line: &str) -> String {
    let mut command = machine.command("unshare");
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
    let up = format!("  url: \"http://{SERVER}/isowire/{other}/up\"\n");
    assert!(seed(other, "vendor-data").contains(&up));
    assert_eq!(seed(other, "network-config"), "config: disabled\n");
}

#[test]
fn machine_tells_that_it_is_up_with_curl() {
    needs!(lan::NEEDS, iso::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let _server = serve(&lan, dir.path());
    let url = format!("http://{SERVER}/isowire/{}/up", MAC.replace(':', "-"));
    // As a script does it with the key of sshd in a file, which ends with a comment and a line
    // break.
    fs::write(dir.path().join("host.pub"), format!("{OWN_KEY}\n")).unwrap();
    let key = format!("pub_key_ed25519@{}", dir.path().join("host.pub").display());
    let call = |host: &Namespace, fields: &[&str]| {
        let mut curl = host.command("curl");
        curl.args(["-fsS", "-X", "POST"]).args(fields).arg(&url).output().unwrap()
    };
    let other = machine(&mut lan, "52:54:00:12:34:57", Ipv4Addr::new(192, 168, 77, 10));
    for host in [&other, lan.server()] {
        let refused = call(host, &[]);
        assert_eq!(refused.status.code(), Some(22), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("403"), "{refused:?}");
    }
    assert_eq!(known_hosts(&lan, dir.path()), "");
    let machine = machine(&mut lan, MAC, ADDRESS);
    let noted = call(&machine, &["-d", "hostname=archiso", "--data-urlencode", &key]);
    assert_eq!(String::from_utf8_lossy(&noted.stdout), "noted: this machine is up\n", "{noted:?}");
    let [kind, value] = [0, 1].map(|word| OWN_KEY.split(' ').nth(word).unwrap());
    // The host name of the image tells no machine from another.
    let expected = format!("lab1,{ADDRESS} {kind} {value}\n");
    assert_eq!(known_hosts(&lan, dir.path()), expected);
    // Without any field it is up as well.
    assert!(call(&machine, &[]).status.success());
    let mut status = lan.command(env!("CARGO_BIN_EXE_isowire"));
    let status = output_of(status.arg("status").env("XDG_RUNTIME_DIR", dir.path()));
    let row = status.lines().find(|line| line.starts_with("lab1 ")).unwrap_or_else(|| panic!("{status}"));
    assert!(row.contains("seen (up)"), "{status}");
}

/// curl asks first for content of a megabyte, and others always. It is not told to go on, and sends the
/// content a second later.
#[test]
fn machine_may_ask_before_it_sends_its_report() {
    needs!(lan::NEEDS, iso::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let _server = serve(&lan, dir.path());
    let machine = machine(&mut lan, MAC, ADDRESS);
    let url = format!("http://{SERVER}/isowire/{}/up", MAC.replace(':', "-"));
    let call = |content: &Path| {
        let content = format!("@{}", content.display());
        let mut curl = machine.command("curl");
        curl.args(["-sS", "-H", "Expect: 100-continue", "-w", "%{http_code} %{size_upload}"]);
        output_of(curl.args(["--max-time", "20", "--data-binary", &content, &url]))
    };
    let [report, large] = ["report", "large"].map(|name| dir.path().join(name));
    fs::write(&report, "hostname=lab7&pub_key_rsa=N/A").unwrap();
    assert_eq!(call(&report), "noted: this machine is up\n200 29");
    // Content that is too long is refused before it is sent.
    fs::write(&large, vec![b'a'; 2 << 20]).unwrap();
    assert!(call(&large).ends_with("413 0"), "{}", call(&large));
    let mut status = lan.command(env!("CARGO_BIN_EXE_isowire"));
    let json = output_of(status.args(["status", "--json"]).env("XDG_RUNTIME_DIR", dir.path()));
    assert!(json.contains("\"host_name\": \"lab7\""), "{json}");
}

#[test]
fn cloud_init_follows_the_seed() {
    only_with_all!();
    needs!(lan::NEEDS, iso::NEEDS, debian::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let _server = serve(&lan, dir.path());
    let machine = machine(&mut lan, MAC, ADDRESS);
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let system = debian::system("cloud-init-ssh-root", &["cloud-init", "openssh-client"]);
    output_of(tool("cp").arg("-aT").arg(system).arg(root.path()));
    let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap_or_default();

    let printed = set_up(&machine, root.path(), &command_line(&lan, "52-54-00-12-34-56"));
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
    let known_hosts = known_hosts(&lan, dir.path());
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let key = read(&format!("etc/ssh/ssh_host_{kind}_key.pub"));
        let key = key.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let line = format!("lab1,{ADDRESS} {key}");
        assert!(known_hosts.lines().any(|known| known == line), "{line}\n{known_hosts}\n{printed}");
    }
}
