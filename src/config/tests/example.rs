//! The options, the keys of the file, and `config.example.toml`, which shows all of them.

use std::collections::BTreeSet;

use clap::{Command, CommandFactory};

use super::*;
use crate::config::file::FileTable;

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// Setting of the example: its table, its key and its line without the `#`.
type ExampleSetting = (FileTable, String, &'static str);

fn example() -> Vec<ExampleSetting> {
    let mut table = FileTable::Top;
    let mut settings = Vec::new();
    for line in EXAMPLE.lines().map(|line| line.strip_prefix('#').unwrap_or(line)) {
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            table = FileTable::ALL.into_iter().find(|table| table.key() == name).unwrap();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains([' ', '#'])) {
            settings.push((table, key.to_owned(), line));
        }
    }
    settings
}

/// Returns the keys of a table that have values.
fn keys(table: FileTable) -> BTreeSet<&'static str> {
    let is_table =
        |key: &str| table == FileTable::Top && FileTable::ALL.into_iter().any(|table| table.key() == key);
    table.keys().iter().copied().filter(|key| !is_table(key)).collect()
}

fn serve_command() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli.find_subcommand("serve").unwrap().clone()
}

#[test]
fn example_shows_every_key_once() {
    for table in FileTable::ALL {
        let shown = example().into_iter().filter(|(of, ..)| *of == table).map(|(_, key, _)| key);
        let shown: Vec<String> = shown.collect();
        let keys = keys(table);
        assert_eq!(shown.iter().map(String::as_str).collect::<BTreeSet<_>>(), keys, "{table:?}");
        assert_eq!(shown.len(), keys.len(), "{table:?}: each once");
    }
}

#[test]
fn option_is_a_key_with_help() {
    let serve = serve_command();
    for option in serve.get_arguments().filter(|argument| argument.get_long() != Some("help")) {
        let name = option.get_id().as_str().replace('_', "-");
        assert!(option.get_help().is_some_and(|help| !help.to_string().is_empty()), "{name} has no help");
        // A take-over is for one start.
        if !["iso", "config", "takeover"].contains(&&*name) {
            assert_eq!(option.get_long(), Some(&*name));
            assert!(keys(FileTable::Top).contains(&*name), "{name} is not a key of the file");
        }
    }
}

#[test]
fn root_option_names_every_root() {
    let serve = serve_command();
    let root = serve.get_arguments().find(|argument| argument.get_id() == "root").unwrap();
    let words = Root::ALL.map(Root::word).join("|");
    assert_eq!(root.get_value_names().unwrap().join(" "), words);
}

#[test]
fn default_matches_help() {
    for option in serve_command().get_arguments() {
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        let Some((_, default)) = help.split_once("[default: ") else { continue };
        let line = example().into_iter().find(|(_, key, _)| option.get_long() == Some(key));
        let Some((_, key, line)) = line.filter(|(.., line)| !is_sample(line)) else { continue };
        let (_, value) = line.split_once(" = ").unwrap();
        assert!(default.starts_with(value.trim_matches('"')), "{key}: {default} and {value}");
    }
}

#[test]
fn unknown_key_gets_a_suggestion() {
    let image = "[[image]]\npath = 'a'\n";
    for (file, line) in [
        ("tfpt = 1".to_owned(), "isowire.toml:1: tfpt: unknown key; did you mean `tftp`?"),
        (
            "kernel_parameters = 1".to_owned(),
            "isowire.toml:1: kernel_parameters: unknown key; did you mean `kernel-parameters`?",
        ),
        ("xyzzy = 1".to_owned(), "isowire.toml:1: xyzzy: unknown key; see config.example.toml for all keys"),
        ("\nmac = 1".to_owned(), "isowire.toml:2: mac: unknown key; move it below [[machine]]"),
        (
            format!("{image}nmae = 'b'"),
            "isowire.toml:3: nmae: unknown key in [[image]]; did you mean `name`?",
        ),
        (
            format!("{image}nbd = 1"),
            "isowire.toml:3: nbd: unknown key in [[image]]; move it before the first [[...]]",
        ),
        (
            "[[machine]]\nmac = '52:54'\nquirk = 'no-43'".to_owned(),
            "isowire.toml:3: quirk: unknown key in [[machine]]; did you mean `quirks`?",
        ),
        ("[machine]\nmac = '52:54'".to_owned(), "isowire.toml:1: invalid type: map, expected a sequence"),
    ] {
        assert_eq!(wrong(&file), line);
    }
}

/// `ignore` and, with an address or a name, other conditions exclude the rest.
#[test]
fn example_tables_are_valid() {
    let lines = |table: FileTable, but: &[&str]| {
        let shown = example().into_iter().filter(|(of, key, _)| *of == table && !but.contains(&&key[..]));
        shown.map(|(.., line)| format!("{line}\n")).collect::<String>()
    };
    let file = format!(
        "advertise = '192.168.1.2'\n[[subnet]]\n{}[[server]]\n{}[[image]]\n{}[[machine]]\n{}[[machine]]\nmac = '52:54:00:00:00:01'\n{}",
        lines(FileTable::Subnet, &[]),
        lines(FileTable::Server, &[]),
        lines(FileTable::Image, &["user-data"]),
        lines(FileTable::Machine, &["architecture", "vendor", "ignore", "user-data", "script", "secret"]),
        lines(
            FileTable::Machine,
            &["mac", "name", "address", "hostname", "ignore", "user-data", "script", "secret"]
        ),
    );
    let config = loaded(&["--dhcp-range", "192.168.1.100-192.168.1.199"], Some(&file)).unwrap();
    assert_eq!((config.images.len(), config.rules.iter().count()), (1, 2));
    assert!(matches!(config.dhcp, Dhcp::Server(server) if server.subnets.len() == 2));
}

/// Returns true for a line of the example that does not show the default.
fn is_sample(line: &str) -> bool {
    line.ends_with(" # for example")
}

#[test]
fn example_shows_the_defaults() {
    let server = ["dhcp-range", "netmask", "router", "dns", "lease-time", "lease-file"];
    let text = |keep: &dyn Fn(&str, &str) -> bool| {
        let kept =
            example().into_iter().filter(|(table, key, line)| *table == FileTable::Top && keep(key, line));
        kept.map(|(.., line)| line).collect::<Vec<_>>().join("\n")
    };
    let as_it_is = loaded(&["a.iso"], Some(EXAMPLE)).unwrap();
    let defaults = text(&|key, line| !is_sample(line) && !server.contains(&key));
    let mut spelled_out = loaded(&["a.iso"], Some(&defaults)).unwrap();
    let RootServices { nbd, nfs, portmap, http } = &mut spelled_out.root_services;
    for service in [nbd, nfs, portmap, http, &mut spelled_out.tftp] {
        let ServicePort::On { asked, .. } = service else { panic!("{service:?} is on by default") };
        *asked = Asked::ByDefault;
    }
    spelled_out.dhcp = Dhcp::Proxy(Asked::ByDefault);
    assert_eq!(format!("{spelled_out:?}"), format!("{as_it_is:?}"));
    let all = loaded(
        &["a.iso"],
        Some(&text(&|key, _| {
            let files = [
                "ipxe",
                "stub",
                "secure-boot-key",
                "secure-boot-certificate",
                "user-data",
                "files",
                "verify-certificate",
            ];
            key != "dhcp" && !files.contains(&key)
        })),
    )
    .unwrap();
    assert!(
        matches!(all.dhcp, Dhcp::Server(server) if server.subnets[0].lease_seconds == DEFAULT_LEASE_SECONDS)
    );
    assert!(loaded(&[], Some(EXAMPLE)).is_ok(), "it has an image");
}
