//! The operator's own files, as archiso's `.automated_script.sh` fetches them with curl.

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;

use common::iso;
use common::lan::{self, Lan, Namespace};
use common::needs::needs;
use common::running::{Running, output_of};
use common::stage::serve_by;

const NEEDS: [&str; 1] = ["curl"];

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);

/// A template, as an operator writes it.
const TEMPLATE: &str = "#!/bin/sh\necho {{ name }} {{ mac }} {{ hostname }} {{ address }} {{ server }} {{ image }} \
                        {{ serial }}{% if uuid %} {{ uuid }}{% endif %}\n";

/// Starts a server with files, of which `secret.sh` is for `lab1`.
fn serve(lan: &Lan, dir: &Path) -> Running {
    let image = iso::small().path;
    let files = dir.join("files");
    fs::create_dir_all(files.join("sub")).unwrap();
    fs::write(files.join("install.sh.j2"), TEMPLATE).unwrap();
    fs::write(files.join("secret.sh"), "the password\n").unwrap();
    fs::write(files.join("sub/disk.json"), [0, 1, 255]).unwrap();
    fs::write(files.join("bad.conf.j2"), "sent\n{{ naem }}\n").unwrap();
    fs::write(dir.join("outside"), "outside").unwrap();
    symlink("../outside", files.join("link")).unwrap();
    let config = format!(
        "files = 'files'\n[[image]]\npath = '{}'\nname = 'arch'\n\
         [[machine]]\nmac = '52:54:00:12:34:56'\nname = 'lab1'\nscript = 'secret.sh'\nsecret = true\n\
         [[machine]]\nmac = '52:54:00:12:34:57'\nname = 'lab2'\nhostname = 'two'\nscript = 'install.sh'\n",
        image.display()
    );
    serve_by(lan, dir, &config)
}

fn machine(lan: &mut Lan, last: u8) -> Namespace {
    let machine = lan.host(Ipv4Addr::new(192, 168, 77, last));
    machine.ip(&["link", "set", "eth0", "address", &format!("52:54:00:12:34:{last}")]);
    machine
}

/// Fetches as archiso does, but does not try again (archiso, .automated_script.sh).
fn fetch(host: &Namespace, url: &str) -> Output {
    let mut curl = host.command("curl");
    curl.arg(url).args(["--location", "--retry-connrefused", "--fail", "-s", "-S", "--path-as-is"]);
    curl.output().unwrap()
}

/// Returns the status code that curl ends with.
fn refusal(host: &Namespace, url: &str) -> u16 {
    let output = fetch(host, url);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(22), "{url}: {text}");
    text.trim().rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{text}"))
}

/// Loads what makes a host a machine that boots: the kernel that a menu names.
fn boot(host: &Namespace, mac: &str) -> String {
    let menu = fetch(host, &format!("http://{SERVER}/isowire/{mac}/pxelinux.cfg"));
    let menu = String::from_utf8(menu.stdout).unwrap();
    let word = |start: &str| {
        menu.lines().find_map(|line| line.strip_prefix(start)).expect("it has an entry").to_owned()
    };
    assert!(fetch(host, &word("LINUX ")).status.success(), "{menu}");
    word("APPEND ")
}

#[test]
fn machine_fetches_its_script_as_archiso_does() {
    needs!(lan::NEEDS, iso::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let server = serve(&lan, dir.path());
    let [one, two] = [56, 57].map(|last| machine(&mut lan, last));
    let files = format!("http://{SERVER}/isowire/files");

    // Passers-by, and this host.
    for host in [&one, lan.server()] {
        assert_eq!(refusal(host, &format!("{files}/install.sh")), 403);
    }
    let words = [boot(&one, "52-54-00-12-34-56"), boot(&two, "52-54-00-12-34-57")];
    let script = |words: &str| {
        let script = words.split(' ').find_map(|word| word.strip_prefix("script="));
        script.unwrap_or_else(|| panic!("{words}")).to_owned()
    };
    let urls = words.each_ref().map(|words| script(words));
    assert_eq!(urls[0], format!("http://{SERVER}/isowire/52-54-00-12-34-56/files/secret.sh"));

    // A template is made for who asks.
    let made = fetch(&two, &format!("{}?serial=AB%201&uuid=0-1", urls[1]));
    assert_eq!(
        String::from_utf8_lossy(&made.stdout),
        format!("#!/bin/sh\necho lab2 52:54:00:12:34:57 two 192.168.77.57 {SERVER} arch AB 1 0-1\n"),
        "{made:?}"
    );
    let made = fetch(&one, &format!("{files}/install.sh"));
    let made = String::from_utf8_lossy(&made.stdout).into_owned();
    assert_eq!(made, format!("#!/bin/sh\necho lab1 52:54:00:12:34:56 lab1 192.168.77.56 {SERVER} arch \n"));
    assert_eq!(fetch(&one, &format!("{files}/sub/disk.json")).stdout, [0, 1, 255]);

    // A secret is for one machine, and once.
    assert_eq!(refusal(&two, &urls[0]), 403);
    assert_eq!(refusal(&two, &format!("{files}/secret.sh")), 403);
    assert_eq!(refusal(&two, &format!("{files}/.//secret.sh")), 403);
    assert_eq!(fetch(&one, &urls[0]).stdout, b"the password\n");
    assert_eq!(refusal(&one, &urls[0]), 410);
    assert_eq!(refusal(&one, &format!("{files}/secret.sh")), 410);

    // Nothing outside, nothing in part.
    for path in ["../outside", "sub/../../outside", "%2e%2e/outside", "sub/%2e%2e/install.sh"] {
        assert_eq!(refusal(&one, &format!("{files}/{path}")), 404, "{path}");
    }
    for path in ["install.sh.j2", "none", "sub", "sub/", ".hidden", "/etc/passwd"] {
        assert_eq!(refusal(&one, &format!("{files}/{path}")), 404, "{path}");
    }
    assert_eq!(refusal(&one, &format!("{files}/link")), 500);
    let bad = fetch(&one, &format!("{files}/bad.conf"));
    assert!(bad.stdout.is_empty() && String::from_utf8_lossy(&bad.stderr).contains("500"), "{bad:?}");
    let log = server.log();
    assert!(log.contains("bad.conf.j2:2: undefined value"), "{log}");
    assert!(log.contains("link: leads out of the folder"), "{log}");

    // What changes is there at once.
    fs::write(dir.path().join("files/bad.conf.j2"), "{{ name }}").unwrap();
    assert_eq!(fetch(&one, &format!("{files}/bad.conf")).stdout, b"lab1");
}

#[test]
fn address_of_the_booted_system_may_be_another() {
    needs!(lan::NEEDS, iso::NEEDS, NEEDS);
    let (mut lan, dir) = (Lan::new(SERVER), tempfile::tempdir().unwrap());
    let _server = serve(&lan, dir.path());
    let one = machine(&mut lan, 56);
    // The neighbour table tells its MAC address, as no DHCP server of ours does here.
    boot(&one, "52-54-00-12-34-56");
    let secret = format!("http://{SERVER}/isowire/52-54-00-12-34-56/files/secret.sh");
    let mut status = lan.command(env!("CARGO_BIN_EXE_isowire"));
    let status = output_of(status.arg("status").env("XDG_RUNTIME_DIR", dir.path()));
    assert!(status.contains("lab1"), "{status}");
    one.ip(&["address", "del", "192.168.77.56/24", "dev", "eth0"]);
    one.ip(&["address", "add", "192.168.77.99/24", "dev", "eth0"]);
    assert_eq!(fetch(&one, &secret).stdout, b"the password\n");
}
