//! What the options and the file come to.

mod example;

use std::fs;

use clap::CommandFactory;

use super::dhcp::state_directory;
use super::menu::PARAMETERS_MAX;
use super::*;
use crate::boot::menu::{Cms, CopyToRam, Overrides};
use crate::cli::Cli;
use crate::dhcp::lease::Pool;
use crate::dhcp::server::DEFAULT_LEASE_SECONDS;
use crate::text::Word;

/// Loads the settings of `isowire serve` with these arguments and this configuration file.
pub(super) fn loaded(arguments: &[&str], file: Option<&str>) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("isowire.toml");
    let mut line = vec!["isowire", "serve"];
    if let Some(text) = file {
        fs::write(&path, text).unwrap();
        line.extend(["--config", path.to_str().unwrap()]);
    }
    line.extend(arguments);
    let matches = Cli::command().try_get_matches_from(line).unwrap();
    let home = |name: &str| (name == "HOME").then(|| "/home/me".into());
    let prefix = format!("{}/", directory.path().display());
    load(matches.subcommand_matches("serve").unwrap(), &home)
        .map_err(|wrong| wrong.to_string().replace(&prefix, ""))
}

fn from_options(arguments: &[&str]) -> Config {
    loaded(&[&["arch.iso"], arguments].concat(), None).unwrap()
}

pub(super) fn wrong(file: &str) -> String {
    loaded(&["arch.iso"], Some(file)).unwrap_err()
}

#[test]
fn defaults_serve_everything() {
    let config = from_options(&[]);
    assert_eq!(
        config.images,
        [ImageConfig {
            path: "arch.iso".into(),
            name: None,
            overrides: Overrides::default(),
            user_data: None
        }]
    );
    let on = |port| ServicePort::On { port, asked: Asked::ByDefault };
    let RootServices { nbd, nfs, portmap, http } = config.root_services;
    assert_eq!([nbd, nfs, portmap, http, config.tftp], [on(10809), on(2049), on(111), on(80), on(69)]);
    assert!(matches!(config.dhcp, Dhcp::Proxy(Asked::ByDefault)));
    assert_eq!((config.menu.timeout, config.menu.copytoram), (10, CopyToRam::Auto));
    assert_eq!(config.menu.roots, [Root::Nbd, Root::Nfs, Root::Http]);
    assert_eq!((config.root, config.menu.cms), (None, Cms::Verify));
    assert_eq!(config.stall_timeout.as_secs(), 600);
    assert_eq!(config.log_repeats.map(NonZeroU32::get), Some(64));
}

#[test]
fn menu_roots_begin_with_the_chosen() {
    let roots = |arguments: &[&str]| from_options(arguments).menu.roots;
    assert_eq!(roots(&["--root", "http"]), [Root::Http, Root::Nbd, Root::Nfs]);
    assert_eq!(roots(&["--root", "nfs", "--http", "off"]), [Root::Nfs, Root::Nbd]);
    assert_eq!(roots(&["--nbd", "off"]), [Root::Nfs, Root::Http]);
    assert_eq!(roots(&["--nbd", "off", "--portmap", "off"]), [Root::Http], "archiso finds no NFS without it");
    assert_eq!(roots(&["--nbd", "off", "--nfs", "off", "--http", "off"]), []);
}

#[test]
fn command_line_wins() {
    let file = "nbd = 1\ntftp = \"off\"\ntftp-single-port = false\ncopytoram = \"no\"\nmenu-timeout = 3\nstall-timeout = \"1h\"\n[[image]]\npath = \"other.iso\"";
    let config =
        loaded(&["--nbd", "2", "--copytoram", "yes", "--tftp-single-port", "arch.iso"], Some(file)).unwrap();
    assert_eq!(config.tftp_ports, TftpPorts::Single);
    assert_eq!(config.root_services.nbd, ServicePort::On { port: 2, asked: Asked::ByOperator });
    assert_eq!(config.tftp, ServicePort::Off);
    assert_eq!((config.menu.timeout, config.menu.copytoram), (3, CopyToRam::Yes));
    for yes in ["y", "true"] {
        let config = loaded(&["--copytoram", yes, "arch.iso"], None).unwrap();
        assert_eq!(config.menu.copytoram, CopyToRam::Yes);
    }
    assert_eq!(config.stall_timeout.as_secs(), 3600);
    assert_eq!(config.images.len(), 1);
    assert_eq!(config.images[0].path, Path::new("arch.iso"));
}

#[cfg(feature = "store")]
#[test]
fn image_in_a_store_has_a_cache() {
    use super::store::cache_directory;
    assert_eq!(from_options(&[]).cache, None);
    let config = from_options(&["s3://images/arch/", "--cache-dir", "/c", "--cache-size", "1G"]);
    let cache = config.cache.unwrap();
    assert_eq!((cache.directory.to_str(), cache.size), (Some("/c"), 1 << 30));
    let file = "cache-dir = 'c'\n[[image]]\npath = 's3://images/arch/'\nname = 'x'\n";
    let config = loaded(&[], Some(file)).unwrap();
    assert_eq!(config.images[0].path, Path::new("s3://images/arch/"), "not relative to the file");
    let cache = config.cache.unwrap();
    assert!(cache.directory.is_absolute() && cache.directory.ends_with("c"), "{cache:?}");
    assert_eq!(cache.size, 20 << 30);
    let of = |variable: &'static str, is_root| {
        let found = cache_directory(&|name| (name == variable).then(|| "/v".into()), is_root);
        found.map(|path| path.to_str().unwrap().to_owned())
    };
    assert_eq!(of("CACHE_DIRECTORY", true).as_deref(), Some("/v"));
    assert_eq!(of("HOME", true).as_deref(), Some("/var/cache/isowire"));
    assert_eq!(of("XDG_CACHE_HOME", false).as_deref(), Some("/v/isowire"));
    assert_eq!(of("HOME", false).as_deref(), Some("/v/.cache/isowire"));
    assert_eq!(of("NOTHING", false), None);
}

#[cfg(feature = "store")]
#[test]
fn url_error_tells_what_to_write() {
    for (url, why) in [
        ("s3://me:secret@b/a.iso", "set AWS_ACCESS_KEY_ID"),
        ("https://h/folder/", "name an ISO in it"),
        ("s3:///x", "invalid bucket name"),
    ] {
        let error = loaded(&[url], None).unwrap_err();
        assert!(error.contains(why) && !error.contains('\n') && !error.contains("secret"), "{error}");
        let error = loaded(&[], Some(&format!("[[image]]\npath = '{url}'"))).unwrap_err();
        assert!(error.starts_with("isowire.toml:2: path: `") && error.contains(why), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    for size in ["1M", "20", "G", "20g", "99999999T", "-1G"] {
        let error = wrong(&format!("cache-size = '{size}'"));
        assert!(error.contains("invalid size; expected one from `256M` up"), "{error}");
    }
}

#[test]
fn allow_limits_clients() {
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
fn byte_order_mark_of_the_file_is_ignored() {
    let config = loaded(&["a.iso"], Some("\u{feff}menu-timeout = 3\n")).unwrap();
    assert_eq!(config.menu.timeout, 3);
}

#[test]
fn dhcp_range_implies_server() {
    let config = from_options(&["--dhcp-range", "10.0.0.9-10.0.0.20"]);
    let Dhcp::Server(server) = config.dhcp else { panic!("{:?}", config.dhcp) };
    let [subnet] = &server.subnets[..] else { panic!("{server:?}") };
    assert_eq!(subnet.pool, Pool::new([10, 0, 0, 9].into(), [10, 0, 0, 20].into()).unwrap());
    assert_eq!(subnet.lease_seconds, DEFAULT_LEASE_SECONDS);
    assert_eq!(server.lease_file.unwrap(), Path::new("/home/me/.local/state/isowire/leases"));
    let file = "dhcp-range='10.0.0.9-10.0.0.20'\nnetmask='255.255.255.0'\nrouter='10.0.0.1'\n\
                dns=['10.0.0.1','9.9.9.9']\nlease-time='2d'\nlease-file='/l'";
    let Dhcp::Server(server) = loaded(&["arch.iso"], Some(file)).unwrap().dhcp else { panic!("no server") };
    assert_eq!((server.subnets[0].dns.len(), server.subnets[0].lease_seconds), (2, 172_800));
    assert_eq!(server.lease_file.unwrap(), Path::new("/l"));
}

#[test]
fn advertised_url_names_port_of_http() {
    let advertised = |text: &str| {
        let config = from_options(&["--advertise", text]);
        (config.advertise.unwrap().to_string(), config.advertised_http)
    };
    assert_eq!(advertised("10.0.0.1"), ("10.0.0.1".to_owned(), None));
    for (url, port) in
        [("http://10.0.0.1:8080/", 8080), ("http://10.0.0.1:8080", 8080), ("http://10.0.0.1/", 80)]
    {
        assert_eq!(advertised(url), ("10.0.0.1".to_owned(), Some(port)), "{url}");
    }
    for text in [
        "10.0.0.1:8080",
        "https://10.0.0.1/",
        "http://boot.lan/",
        "http://10.0.0.1/boot/",
        "http://10.0.0.1:0/",
        "http://0.0.0.0:80/",
        "http:///",
        "",
    ] {
        let why = wrong(&format!("advertise = '{text}'"));
        assert!(why.starts_with("isowire.toml:1: advertise: ") && why.contains("invalid address"), "{why}");
    }
    assert_eq!(
        wrong("advertise = 'http://10.0.0.1:8080/'\nhttp = 'off'"),
        "isowire.toml:1: advertise: `http://10.0.0.1:8080/`: names a port of HTTP, which is off; give an address only, or \
         turn HTTP on"
    );
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
        "isowire.toml:2: router-advertisement: `true`: needs DHCP, which is off; remove one of the two"
    );
    assert!(wrong("router-advertisement = 1").contains("`1`: expected `true`"));
}

#[test]
fn state_directory_follows_environment() {
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
fn file_paths_start_at_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    fs::write(&path, "[[image]]\npath = 'a.iso'\nname = 'first'\n[[image]]\npath = '/b.iso'").unwrap();
    let config = loaded(&["--config", path.to_str().unwrap()], None).unwrap();
    assert_eq!(config.images[0].path, directory.path().join("a.iso"));
    assert_eq!(config.images[0].name, Word::new("first"));
    assert_eq!((config.images[1].path.to_str(), &config.images[1].name), (Some("/b.iso"), &None));
}

#[test]
fn default_image_comes_first() {
    let paths = |file: &str| {
        let config = loaded(&[], Some(file))?;
        let name = |place: ImageConfig| place.path.file_name().unwrap().to_str().unwrap().to_owned();
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
        error.ends_with("isowire.toml:9: default: `true`: second default image; remove one of the two"),
        "{error}"
    );
    assert!(
        paths(&image("a", "default = 'yes'")).unwrap_err().contains(":3: default: `yes`: expected `true`")
    );
}

#[test]
fn privileges_are_read() {
    let config = from_options(&[]);
    assert_eq!((config.sandbox, config.user), (SandboxMode::Auto, None));
    let config = from_options(&["--sandbox", "required", "--user", "root"]);
    let root = User { name: "root".into(), uid: 0, gid: 0 };
    assert_eq!((config.sandbox, config.user), (SandboxMode::Required, Some(root.clone())));
    assert_eq!(from_options(&["--user", "0"]).user, Some(root));
    let number = loaded(&["arch.iso"], Some("user = 3999999999\nsandbox = \"off\"\n")).unwrap();
    let unnamed = User { name: "3999999999".into(), uid: 3_999_999_999, gid: 3_999_999_999 };
    assert_eq!((number.sandbox, number.user), (SandboxMode::Off, Some(unnamed)));
    for user in ["no-such-user", "4294967295", ""] {
        let line = wrong(&format!("user = {user:?}\n"));
        let expected = format!(
            "isowire.toml:1: user: `{user}`: no such user on this host; create it, or give another name or number"
        );
        assert_eq!(line, expected);
    }
    let line = wrong("sandbox = \"on\"\n");
    assert_eq!(line, "isowire.toml:1: sandbox: `on`: expected `auto`, `off` or `required`");
}

#[test]
fn error_has_place_cause_and_advice() {
    let cases = [
        ("nbd = 70000", "isowire.toml:1: nbd: `70000`: invalid port; expected 0-65535 or `off`"),
        ("\n\ntftp = 'on'", "isowire.toml:3: tftp: `on`: invalid port; expected 0-65535 or `off`"),
        ("bind = '::1'", "isowire.toml:1: bind: `::1`: invalid IPv4 address; expected one like 192.168.1.10"),
        (
            "allow = ['10.0.0.0/24', 'lan']",
            "isowire.toml:1: allow: `lan`: invalid network; expected one like 192.168.1.0/24",
        ),
        (
            "allow = '10.0.0.0/24, 192.168.1.7'",
            "isowire.toml:1: allow: `10.0.0.0/24, 192.168.1.7`: several networks in one value; separate them by",
        ),
        ("allow = ['10.0.0.0/33']", "isowire.toml:1: allow: `10.0.0.0/33`: invalid network"),
        (
            "allow = ['::1']",
            "isowire.toml:1: allow: `::1`: invalid network; expected one like 192.168.1.0/24",
        ),
        (
            "allow = ['10.0.0.7/24']",
            "isowire.toml:1: allow: `10.0.0.7/24`: host bits set; expected 10.0.0.0/24 or a single",
        ),
        (
            "allow = ['10.0.0.7',\n'10.0.0.0/24']",
            "isowire.toml:2: allow: `10.0.0.0/24`: overlaps with 10.0.0.7/32; remove the smaller",
        ),
        ("allow = ['10.0.0.7',\n'10.0.0.7']", "isowire.toml:2: allow: `10.0.0.7`: overlaps with 10.0.0.7/32"),
        ("\nallow = []", "isowire.toml:2: allow: empty list admits nobody; name networks or remove the key"),
        (
            "allow = ['10.0.0.0/29']\ndhcp-range = '10.0.0.4-10.0.0.9'",
            "isowire.toml:2: dhcp-range: `10.0.0.4-10.0.0.9`: contains 10.0.0.8, which is not in `allow`",
        ),
        (
            "advertise='0.0.0.0'",
            "isowire.toml:1: advertise: `0.0.0.0`: invalid address; expected an IPv4 address like",
        ),
        (
            "dhcp = 'auto'",
            "isowire.toml:1: dhcp: `auto`: invalid DHCP mode; expected `off`, `proxy` or `server`",
        ),
        ("dhcp = 'server'", "isowire.toml:1: dhcp: `server`: has no addresses to lease; add `dhcp-range`"),
        (
            "dhcp='proxy'\ndhcp-range='10.0.0.1-10.0.0.2'",
            "isowire.toml:2: dhcp-range: `10.0.0.1-10.0.0.2`: needs `dhcp = server`; remove",
        ),
        (
            "dhcp-range = '10.0.0.9'",
            "isowire.toml:1: dhcp-range: `10.0.0.9`: invalid range; expected one like",
        ),
        ("dhcp-range = '10.0.0.9-10.0.0.1'", "isowire.toml:1: dhcp-range: `10.0.0.9-10.0.0.1`: ends before"),
        ("dhcp-range = '10.0.0.1-11.0.0.1'", "isowire.toml:1: dhcp-range: `10.0.0.1-11.0.0.1`: more than"),
        (
            "dhcp-range = '10.0.0.1-10.0.1.9'\nnetmask='255.255.255.0'",
            "isowire.toml:1: dhcp-range: `10.0.0.1-10.0.1.9`: not in one network with 10.0.1.9",
        ),
        (
            "dhcp-range='10.0.0.1-10.0.0.9'\nnetmask='255.0.255.0'",
            "isowire.toml:2: netmask: `255.0.255.0`: invalid netmask",
        ),
        (
            "dhcp-range='10.0.0.1-10.0.0.9'\nlease-time='1s'",
            "isowire.toml:2: lease-time: `1s`: invalid lease time",
        ),
        (
            "dhcp-range='10.0.0.1-10.0.0.9'\nlease-time='1µ'",
            "isowire.toml:2: lease-time: `1µ`: invalid lease time",
        ),
        ("dns = ['1.1.1.1']", "isowire.toml:1: dns: `1.1.1.1`: needs a DHCP server; add `dhcp-range`"),
        ("root = 'iscsi'", "isowire.toml:1: root: `iscsi`: invalid root; expected `nbd`, `nfs` or `http`"),
        ("nbd = 'off'\nroot = 'nbd'", "isowire.toml:2: root: `nbd`: service is off; turn it on or choose"),
        ("root = 'nfs'\nportmap = 'off'", "isowire.toml:1: root: `nfs`: needs `portmap`, which is off"),
        (
            "root = 'http'\ncopytoram = 'no'",
            "isowire.toml:2: copytoram: `no`: conflicts with `root = http`, which always copies",
        ),
        ("root = 'http'\nhttp = 'off'", "isowire.toml:1: root: `http`: service is off; turn it on"),
        ("nfs = 'off'\nportmap = 111", "isowire.toml:2: portmap: `111`: needs NFS, which is off"),
        ("copytoram = 'maybe'", "isowire.toml:1: copytoram: `maybe`: expected `yes`, `no` or `auto`"),
        (
            "menu-timeout = -1",
            "isowire.toml:1: menu-timeout: `-1`: invalid time; expected seconds up to 3599",
        ),
        (
            "max-machines = 15",
            "isowire.toml:1: max-machines: `15`: invalid number; expected one from 16 to 1048576",
        ),
        ("max-connections = 'all'", "isowire.toml:1: max-connections: `all`: invalid number"),
        ("log-repeats = 0", "isowire.toml:1: log-repeats: `0`: invalid number; expected one from 1 up"),
        ("verify = 'yes'", "isowire.toml:1: verify: `yes`: expected `true` or `false`"),
        (
            "verify = false\nverify-certificate = '/none.crt'",
            "isowire.toml:2: verify-certificate: `/none.crt`: conflicts with `verify = false`; remove one of the two",
        ),
        ("stall-timeout = 0", "isowire.toml:1: stall-timeout: `0`: invalid time; expected one from `1s` to"),
        ("stall-timeout = '31d'", "isowire.toml:1: stall-timeout: `31d`: invalid time"),
        ("cms-verify = 'maybe'", "isowire.toml:1: cms-verify: `maybe`: expected `true` or `false`"),
        (
            "kernel-parameters = ['a',\n\"b\\nLABEL c\"]",
            "isowire.toml:2: kernel-parameters: `b\\nLABEL c`: invalid kernel parameter",
        ),
        (
            "kernel-parameters = ['initrd=/x']",
            "isowire.toml:1: kernel-parameters: `initrd=/x`: invalid kernel parameter",
        ),
        (
            "log-format = 'xml'",
            "isowire.toml:1: log-format: `xml`: invalid log format; expected `text` or `json`",
        ),
        (
            "interface = 'averylonginterface'",
            "isowire.toml:1: interface: `averylonginterface`: invalid interface name",
        ),
        ("nbd = [1]", "isowire.toml:1: unexpected list; expected a single value"),
        ("nbd = 1.5", "isowire.toml:1: invalid type: floating point `1.5`, expected a string, a number"),
        ("\nport = 1", "isowire.toml:2: port: unknown key; did you mean `portmap`?"),
        ("\"po\\brt\" = 1", "isowire.toml:1: po\\u{8}rt: unknown key; did you mean"),
        ("nbd = ", "isowire.toml:1: "),
    ];
    for (file, line) in cases {
        let error = wrong(file);
        assert!(error.starts_with(line), "{file}\n  gave   {error}\n  wanted {line}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let file = format!("kernel-parameters = ['{}']", "x".repeat(PARAMETERS_MAX));
    assert!(wrong(&file).contains("601 bytes of kernel parameters; at most 600 fit"));
    assert_eq!(
        loaded(&["a.iso", "--nbd", "x"], None).unwrap_err(),
        "--nbd: `x`: invalid port; expected 0-65535 or `off`"
    );
    assert!(loaded(&[], None).unwrap_err().starts_with("no image to serve"));
    let missing = loaded(&["--config", "/no/such"], None).unwrap_err();
    assert_eq!(missing, "--config: `/no/such`: no such file; give a file like config.example.toml");
}

#[test]
fn ipxe_implies_uefi_ipxe() {
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
    assert!(why.ends_with("`: needs `uefi = ipxe`; remove one of the two"), "{why}");
    let why = load(&["--ipxe", text.to_str().unwrap()]).unwrap_err();
    assert!(why.contains("not a UEFI program"), "{why}");
    assert!(load(&["--uefi", "grub"]).unwrap_err().contains("expected `composed` or `ipxe`"));
}
