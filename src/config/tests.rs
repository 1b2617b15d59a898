use std::collections::BTreeSet;
use std::fs;

use clap::Parser;

use super::*;
use crate::boot::menu::{Cms, CopyToRam};
use crate::cli::{Cli, Command};
use crate::dhcp::lease::Pool;
use crate::dhcp::server::DEFAULT_LEASE_SECONDS;

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// What `isowire serve` makes of these arguments and this configuration file.
pub(super) fn loaded(arguments: &[&str], file: Option<&str>) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("isowire.toml");
    let mut line = vec!["isowire", "serve"];
    if let Some(text) = file {
        fs::write(&path, text).unwrap();
        line.extend(["--config", path.to_str().unwrap()]);
    }
    line.extend(arguments);
    let Command::Serve(serve) = Cli::try_parse_from(line).unwrap().command else { panic!("it said serve") };
    let home = |name: &str| (name == "HOME").then(|| "/home/me".into());
    let prefix = format!("{}/", directory.path().display());
    load(&serve, &home).map_err(|wrong| wrong.to_string().replace(&prefix, ""))
}

fn from_options(arguments: &[&str]) -> Config {
    loaded(&[&["arch.iso"], arguments].concat(), None).unwrap()
}

pub(super) fn wrong(file: &str) -> String {
    loaded(&["arch.iso"], Some(file)).unwrap_err()
}

#[test]
fn the_defaults() {
    let config = from_options(&[]);
    assert_eq!(
        config.images,
        [Place { path: "arch.iso".into(), name: None, overrides: Overrides::default() }]
    );
    let on = |port| Door::On { port, asked: Asked::ByDefault };
    let RootDoors { nbd, nfs, portmap, http } = config.root_doors;
    assert_eq!([nbd, nfs, portmap, http, config.tftp], [on(10809), on(2049), on(111), on(80), on(69)]);
    assert!(matches!(config.dhcp, Dhcp::Proxy(Asked::ByDefault)));
    assert_eq!((config.menu.timeout, config.menu.copytoram), (10, CopyToRam::Auto));
    assert_eq!(config.menu.roots, [Root::Nbd, Root::Nfs, Root::Http]);
    assert_eq!((config.root, config.menu.cms), (None, Cms::Verify));
}

#[test]
fn the_menu_has_the_roots_that_are_on_the_chosen_one_first() {
    let roots = |arguments: &[&str]| from_options(arguments).menu.roots;
    assert_eq!(roots(&["--root", "http"]), [Root::Http, Root::Nbd, Root::Nfs]);
    assert_eq!(roots(&["--root", "nfs", "--http", "off"]), [Root::Nfs, Root::Nbd]);
    assert_eq!(roots(&["--nbd", "off"]), [Root::Nfs, Root::Http]);
    assert_eq!(roots(&["--nbd", "off", "--portmap", "off"]), [Root::Http], "archiso finds no NFS without it");
    assert_eq!(roots(&["--nbd", "off", "--nfs", "off", "--http", "off"]), []);
}

#[test]
fn the_command_line_wins() {
    let file =
        "nbd = 1\ntftp = \"off\"\ncopytoram = \"no\"\nmenu-timeout = 3\n[[image]]\npath = \"other.iso\"";
    let config = loaded(&["--nbd", "2", "--copytoram", "yes", "arch.iso"], Some(file)).unwrap();
    assert_eq!(config.root_doors.nbd, Door::On { port: 2, asked: Asked::ByOperator });
    assert_eq!(config.tftp, Door::Off);
    assert_eq!((config.menu.timeout, config.menu.copytoram), (3, CopyToRam::Yes));
    assert_eq!(config.images.len(), 1);
    assert_eq!(config.images[0].path, Path::new("arch.iso"));
}

#[test]
fn who_may_come() {
    let may = |config: &Config, peer: [u8; 4]| config.allowed.contains(peer.into());
    assert!(may(&from_options(&[]), [1, 2, 3, 4]));
    let file = Some("allow = ['10.0.0.0/24', '192.168.1.7']");
    let listed = loaded(&["a.iso"], file).unwrap();
    assert_eq!(
        [[10, 0, 0, 9], [192, 168, 1, 7], [127, 0, 0, 1]].map(|ip| may(&listed, ip)),
        [true, true, false]
    );
    let other = loaded(&["a.iso", "--allow", "127.0.0.0/8,10.9.0.0/16", "--allow", "1.1.1.1"], file).unwrap();
    assert_eq!([[10, 0, 0, 9], [127, 0, 0, 1], [1, 1, 1, 1]].map(|ip| may(&other, ip)), [false, true, true]);
}

#[test]
fn a_dhcp_server() {
    let config = from_options(&["--dhcp-range", "10.0.0.9-10.0.0.20"]);
    let Dhcp::Server(pool) = config.dhcp else { panic!("{:?}", config.dhcp) };
    assert_eq!(pool.pool, Pool::new([10, 0, 0, 9].into(), [10, 0, 0, 20].into()).unwrap());
    assert_eq!(pool.lease_seconds, DEFAULT_LEASE_SECONDS);
    assert_eq!(pool.lease_file.unwrap(), Path::new("/home/me/.local/state/isowire/leases"));
    let file = "dhcp-range='10.0.0.9-10.0.0.20'\nnetmask='255.255.255.0'\nrouter='10.0.0.1'\n\
                dns=['10.0.0.1','9.9.9.9']\nlease-time='2d'\nlease-file='/l'";
    let Dhcp::Server(pool) = loaded(&["arch.iso"], Some(file)).unwrap().dhcp else { panic!("no server") };
    assert_eq!((pool.dns.len(), pool.lease_seconds), (2, 172_800));
    assert_eq!(pool.lease_file.unwrap(), Path::new("/l"));
}

#[test]
fn router_advertisements_need_dhcp() {
    assert_eq!(from_options(&[]).solicitations, Solicitations::Ignored);
    let config = from_options(&["--router-advertisement"]);
    assert_eq!(config.solicitations, Solicitations::Answered);
    assert!(matches!(config.dhcp, Dhcp::Proxy(Asked::ByOperator)), "without it nobody would be answered");
    let config = loaded(&["a.iso"], Some("router-advertisement = false\ndhcp = 'off'")).unwrap();
    assert_eq!(config.solicitations, Solicitations::Ignored);
    let file = "dhcp-range = '10.0.0.9-10.0.0.20'\nrouter-advertisement = true";
    let config = loaded(&["a.iso"], Some(file)).unwrap();
    assert!(matches!((config.dhcp, config.solicitations), (Dhcp::Server(_), Solicitations::Answered)));
    assert_eq!(
        wrong("dhcp = 'off'\nrouter-advertisement = true"),
        "isowire.toml:2: router-advertisement: `true` is for machines that ask by DHCP, which is off: leave out one \
         of the two"
    );
    assert!(wrong("router-advertisement = 1").contains("`1` is"));
}

#[test]
fn state_is_kept_where_the_environment_says() {
    let with = |variables: &'static [(&str, &str)]| {
        state_directory(&|name: &str| {
            variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into())
        })
    };
    assert_eq!(with(&[("STATE_DIRECTORY", "/s"), ("HOME", "/h")]), Path::new("/s"));
    assert_eq!(with(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/isowire"));
    assert_eq!(with(&[("XDG_STATE_HOME", ""), ("HOME", "/h")]), Path::new("/h/.local/state/isowire"));
    assert_eq!(with(&[]), Path::new("/var/lib/isowire"));
}

#[test]
fn paths_in_the_file_start_at_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    fs::write(&path, "[[image]]\npath = 'a.iso'\nname = 'first'\n[[image]]\npath = '/b.iso'").unwrap();
    let serve = Serve { config: Some(path), ..Serve::default() };
    let config = load(&serve, &|_| None).unwrap();
    assert_eq!(config.images[0].path, directory.path().join("a.iso"));
    assert_eq!(config.images[0].name, Word::new("first"));
    assert_eq!((config.images[1].path.to_str(), &config.images[1].name), (Some("/b.iso"), &None));
}

#[test]
fn one_image_may_say_that_it_is_the_default() {
    let paths = |file: &str| {
        let config = loaded(&[], Some(file))?;
        let name = |place: Place| place.path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok::<_, String>(config.images.into_iter().map(name).collect::<Vec<_>>())
    };
    let image = |name: &str, rest: &str| format!("[[image]]\npath = '{name}'\n{rest}\n");
    let [a, b, c] = ["a", "b", "c"].map(|name| image(name, ""));
    assert_eq!(paths(&[&a[..], &b, &c].concat()).unwrap(), ["a", "b", "c"]);
    let second = image("b", "default = true");
    assert_eq!(paths(&[&a[..], &second, &c].concat()).unwrap(), ["b", "a", "c"]);
    let last = image("c", "default = true");
    assert_eq!(paths(&[&a[..], &b, &last].concat()).unwrap(), ["c", "a", "b"]);
    let error = paths(&[&second[..], &a, &last].concat()).unwrap_err();
    assert!(
        error.ends_with("isowire.toml:9: default: `true` is said of two images: leave out one of the two"),
        "{error}"
    );
    assert!(paths(&image("a", "default = 'yes'")).unwrap_err().contains(":3: default: `yes` is neither"));
}

#[test]
fn mistakes_tell_where_what_why_and_what_to_do() {
    let cases = [
        ("nbd = 70000", "isowire.toml:1: nbd: `70000` is no port: write a number up to 65535, or `off`"),
        ("\n\ntftp = 'on'", "isowire.toml:3: tftp: `on` is no port: write a number up to 65535, or `off`"),
        ("bind = '::1'", "isowire.toml:1: bind: `::1` is no IPv4 address: write one like 192.168.1.10"),
        ("allow = ['10.0.0.0/24', 'lan']", "isowire.toml:1: allow: `lan` is no network: write one like"),
        ("allow = ['10.0.0.0/33']", "isowire.toml:1: allow: `10.0.0.0/33` is no network"),
        ("allow = ['::1']", "isowire.toml:1: allow: `::1` is no network: write one like 192.168.1.0/24"),
        (
            "allow = ['10.0.0.7/24']",
            "isowire.toml:1: allow: `10.0.0.7/24` is more than the address of a network: write 10.0.0.0/24",
        ),
        (
            "allow = ['10.0.0.7',\n'10.0.0.0/24']",
            "isowire.toml:2: allow: `10.0.0.0/24` shares addresses with 10.0.0.7: leave out the smaller",
        ),
        ("allow = ['10.0.0.7',\n'10.0.0.7']", "isowire.toml:2: allow: `10.0.0.7` shares addresses with"),
        ("\nallow = []", "isowire.toml:2: nobody could come: name the networks that may, or leave it out"),
        (
            "allow = ['10.0.0.0/29']\ndhcp-range = '10.0.0.4-10.0.0.9'",
            "isowire.toml:2: dhcp-range: `10.0.0.4-10.0.0.9` has 10.0.0.8, which is not in `allow`",
        ),
        (
            "advertise='0.0.0.0'",
            "isowire.toml:1: advertise: `0.0.0.0` is no IPv4 address of a host: write one",
        ),
        ("dhcp = 'auto'", "isowire.toml:1: dhcp: `auto` is none of `off`, `proxy`, `server`"),
        ("dhcp = 'server'", "isowire.toml:1: dhcp: `server` has no addresses to lease: add `dhcp-range`"),
        (
            "dhcp='proxy'\ndhcp-range='10.0.0.1-10.0.0.2'",
            "isowire.toml:2: dhcp-range: `10.0.0.1-10.0.0.2` is for",
        ),
        ("dhcp-range = '10.0.0.9'", "isowire.toml:1: dhcp-range: `10.0.0.9` is no range: write one like"),
        ("dhcp-range = '10.0.0.9-10.0.0.1'", "isowire.toml:1: dhcp-range: `10.0.0.9-10.0.0.1` ends before"),
        ("dhcp-range = '10.0.0.1-11.0.0.1'", "isowire.toml:1: dhcp-range: `10.0.0.1-11.0.0.1` has more than"),
        (
            "dhcp-range = '10.0.0.1-10.0.1.9'\nnetmask='255.255.255.0'",
            "isowire.toml:1: dhcp-range: `10.0.0.1-10.0.1.9` is not in one network with 10.0.1.9",
        ),
        (
            "dhcp-range='10.0.0.1-10.0.0.9'\nnetmask='255.0.255.0'",
            "isowire.toml:2: netmask: `255.0.255.0` is no",
        ),
        (
            "dhcp-range='10.0.0.1-10.0.0.9'\nlease-time='1s'",
            "isowire.toml:2: lease-time: `1s` is no lease time",
        ),
        (
            "dhcp-range='10.0.0.1-10.0.0.9'\nlease-time='1µ'",
            "isowire.toml:2: lease-time: `1µ` is no lease time",
        ),
        ("dns = ['1.1.1.1']", "isowire.toml:1: dns: `1.1.1.1` needs a DHCP server: add `dhcp-range`"),
        ("root = 'iscsi'", "isowire.toml:1: root: `iscsi` is none of `nbd`, `nfs`, `http`"),
        ("nbd = 'off'\nroot = 'nbd'", "isowire.toml:2: root: `nbd` is off: turn it on, or choose"),
        ("root = 'nfs'\nportmap = 'off'", "isowire.toml:1: root: `nfs` needs `portmap`, which is off"),
        ("root = 'http'\nhttp = 'off'", "isowire.toml:1: root: `http` is off: turn it on"),
        ("nfs = 'off'\nportmap = 111", "isowire.toml:2: portmap: `111` is for NFS, which is off"),
        ("copytoram = true", "isowire.toml:1: copytoram: `true` is none of `yes`, `no`, `auto`"),
        ("menu-timeout = -1", "isowire.toml:1: menu-timeout: `-1` is no time in seconds up to 3599"),
        ("cms-verify = 'maybe'", "isowire.toml:1: cms-verify: `maybe` is neither `true` nor `false`"),
        (
            "kernel-parameters = ['a',\n\"b\\nLABEL c\"]",
            "isowire.toml:2: kernel-parameters: `b\\nLABEL c` is not one",
        ),
        ("kernel-parameters = ['initrd=/x']", "isowire.toml:1: kernel-parameters: `initrd=/x` is not one"),
        ("log-format = 'xml'", "isowire.toml:1: log-format: `xml` is neither `text` nor `json`"),
        ("interface = 'averylonginterface'", "isowire.toml:1: interface: `averylonginterface` is no name"),
        ("nbd = [1]", "isowire.toml:1: one value is wanted here, not a list"),
        ("nbd = 1.5", "isowire.toml:1: invalid type: floating point `1.5`, expected a string, a number"),
        ("\nport = 1", "isowire.toml:2: unknown field `port`, expected one of"),
        ("\"po\\brt\" = 1", "isowire.toml:1: unknown field `po rt`, expected one of"),
        ("nbd = ", "isowire.toml:1: "),
    ];
    for (file, line) in cases {
        let error = wrong(file);
        assert!(error.starts_with(line), "{file}\n  gave   {error}\n  wanted {line}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let file = format!("kernel-parameters = ['{}']", "x".repeat(PARAMETERS_MAX));
    assert!(wrong(&file).contains("makes them 601 bytes long"));
    assert_eq!(
        loaded(&["a.iso", "--nbd", "x"], None).unwrap_err(),
        "--nbd: `x` is no port: write a number up to 65535, or `off`"
    );
    assert!(loaded(&[], None).unwrap_err().starts_with("no image to serve"));
    assert!(loaded(&["--config", "/no/such"], None).unwrap_err().starts_with("/no/such: cannot be read"));
}

#[test]
fn who_names_an_ipxe_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let (ipxe, text) = (directory.path().join("ipxe.efi"), directory.path().join("text"));
    // An EFI stub is a program for UEFI on x86-64, as iPXE is.
    fs::write(&ipxe, crate::uki::tests::stub_file()).unwrap();
    fs::write(&text, "#!ipxe").unwrap();
    let load = |arguments: &[&str]| loaded(&[&["arch.iso"], arguments].concat(), None);
    let ipxe = ipxe.to_str().unwrap();
    let config = load(&["--ipxe", ipxe]).unwrap();
    assert_eq!((config.uefi, config.ipxe.is_some()), (UefiBy::Ipxe, true));
    assert_eq!((from_options(&[]).uefi, from_options(&[]).ipxe), (UefiBy::Composed, None));
    let why = load(&["--ipxe", ipxe, "--uefi", "composed"]).unwrap_err();
    assert!(why.ends_with("is for `uefi = ipxe`: leave out one of the two"), "{why}");
    let why = load(&["--ipxe", text.to_str().unwrap()]).unwrap_err();
    assert!(why.contains("is no program for UEFI"), "{why}");
    assert!(load(&["--uefi", "grub"]).unwrap_err().contains("is neither `composed` nor `ipxe`"));
}

/// The keys that the file knows, by its own words.
fn keys(table: &str) -> BTreeSet<String> {
    let error = toml::from_str::<RawConfig>(&format!("{table}\nno-such-key = 1")).unwrap_err();
    let expected = error.message().split_once("expected").unwrap().1.to_owned();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A setting of the example: its table, empty for the file's own, its key and its line, as if it were no comment.
type MenuImage = (&'static str, String, &'static str);

fn example() -> Vec<MenuImage> {
    let mut table = "";
    let mut settings = Vec::new();
    for line in EXAMPLE.lines().map(|line| line.strip_prefix('#').unwrap_or(line)) {
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            table = name;
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '#'])) {
            settings.push((table, key.to_owned(), line));
        }
    }
    settings
}

#[test]
fn the_example_shows_every_key() {
    let mut known = keys("");
    for table in ["image", "machine"] {
        assert!(known.remove(table), "{table} is a table");
    }
    for (table, known) in
        [("", known), ("image", keys("[[image]]\npath = 'x'")), ("machine", keys("[[machine]]"))]
    {
        let shown: Vec<_> =
            example().into_iter().filter(|(of, ..)| *of == table).map(|(_, key, _)| key).collect();
        assert_eq!(BTreeSet::from_iter(shown.clone()), known, "{table}");
        assert_eq!(shown.len(), known.len(), "{table}: each once");
    }
}

/// All of a rule but what excludes the rest.
#[test]
fn the_examples_of_image_and_machine_can_be_used() {
    let lines = |table: &str, but: &[&str]| {
        let shown = example().into_iter().filter(|(of, key, _)| *of == table && !but.contains(&&key[..]));
        shown.map(|(.., line)| format!("{line}\n")).collect::<String>()
    };
    let file = format!(
        "[[image]]\n{}[[machine]]\n{}[[machine]]\nmac = '52:54:00:00:00:01'\n{}",
        lines("image", &[]),
        lines("machine", &["architecture", "vendor", "ignore"]),
        lines("machine", &["mac", "address", "ignore"]),
    );
    let config = loaded(&["--dhcp-range", "192.168.1.100-192.168.1.199"], Some(&file)).unwrap();
    assert_eq!((config.images.len(), config.rules.iter().count()), (1, 2));
}

#[test]
fn the_example_is_valid_and_its_values_are_the_defaults() {
    let without_default = [
        "interface",
        "allow",
        "advertise",
        "dhcp-range",
        "netmask",
        "router",
        "dns",
        "lease-file",
        "root",
        "ipxe",
        "stub",
        "status",
    ];
    let server = ["dhcp-range", "netmask", "router", "dns", "lease-time", "lease-file"];
    let text = |keep: &dyn Fn(&str) -> bool| {
        let kept = example().into_iter().filter(|(table, key, _)| table.is_empty() && keep(key));
        kept.map(|(.., line)| line).collect::<Vec<_>>().join("\n")
    };
    let as_it_is = loaded(&["a.iso"], Some(EXAMPLE)).unwrap();
    let defaults = text(&|key| !without_default.contains(&key) && !server.contains(&key));
    let mut spelled_out = loaded(&["a.iso"], Some(&defaults)).unwrap();
    let RootDoors { nbd, nfs, portmap, http } = &mut spelled_out.root_doors;
    for door in [nbd, nfs, portmap, http, &mut spelled_out.tftp] {
        let Door::On { asked, .. } = door else { panic!("{door:?} is on by default") };
        *asked = Asked::ByDefault;
    }
    spelled_out.dhcp = Dhcp::Proxy(Asked::ByDefault);
    assert_eq!(format!("{spelled_out:?}"), format!("{as_it_is:?}"));
    let all = loaded(&["a.iso"], Some(&text(&|key| !["dhcp", "ipxe", "stub"].contains(&key)))).unwrap();
    assert!(matches!(all.dhcp, Dhcp::Server(pool) if pool.lease_seconds == DEFAULT_LEASE_SECONDS));
    assert!(loaded(&[], Some(EXAMPLE)).is_ok(), "it has an image");
}
