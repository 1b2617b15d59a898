//! What the program says to a person who mistypes: one line, and an exit code.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

fn isowire(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isowire")).args(arguments).output().unwrap()
}

/// The exit code and the only line on standard error; nothing may be on standard output.
fn complaint(arguments: &[&str]) -> (i32, String) {
    let output = isowire(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{arguments:?}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    (output.status.code().unwrap(), text.trim_end().to_owned())
}

#[test]
fn mistakes_in_settings_end_with_2() {
    let (code, line) = complaint(&["serve"]);
    assert_eq!(code, 2);
    assert_eq!(line, "isowire: no image to serve: name an ISO, as in `isowire serve archlinux.iso`");
    let (code, line) = complaint(&["serve", "x.iso", "--nbd", "99999"]);
    assert_eq!(code, 2);
    assert_eq!(line, "isowire: --nbd: `99999`: invalid port; expected 0-65535 or `off`");
    let (code, line) = complaint(&["serve", "x.iso", "--dhcp", "server"]);
    assert_eq!(code, 2);
    assert!(line.contains("add `dhcp-range`"), "{line}");
    let off = ["nbd", "nfs", "http", "tftp", "dhcp"].map(|service| format!("--{service}=off"));
    let off = off.each_ref().map(String::as_str);
    let (code, line) = complaint(&[&["serve", "x.iso"], &off[..]].concat());
    assert_eq!(code, 2);
    assert_eq!(
        line,
        "isowire: nothing to serve: `nbd`, `nfs`, `http`, `tftp` and `dhcp` are all off; turn one on"
    );
    let (code, line) = complaint(&["serve", "x.iso", "--root", "nfs", "--portmap", "off"]);
    assert_eq!(code, 2);
    assert!(line.starts_with("isowire: --root: `nfs`: needs `portmap`, which is off"), "{line}");
}

#[test]
fn mistakes_in_the_file_are_told_with_their_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("isowire.toml");
    fs::write(&path, "tftp = 69\n\nmenu-timeout = \"soon\"\n").unwrap();
    let (code, line) = complaint(&["serve", "x.iso", "-c", path.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(line.contains("isowire.toml:3: menu-timeout: `soon`: invalid time; expected seconds"), "{line}");
    fs::write(&path, "tfpt = 69\n").unwrap();
    let (code, line) = complaint(&["serve", "x.iso", "-c", path.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(line.ends_with("isowire.toml:1: tfpt: unknown key; did you mean `tftp`?"), "{line}");
    let (code, line) = complaint(&["serve", "-c", "/no/such.toml"]);
    assert_eq!(code, 2);
    assert!(line.starts_with("isowire: /no/such.toml: cannot be read"), "{line}");
}

#[test]
fn images_that_cannot_be_served_end_with_1() {
    let (code, line) = complaint(&["serve", "/no/such.iso"]);
    assert_eq!(code, 1);
    assert!(line.starts_with("isowire: /no/such.iso: "), "{line}");
    let (code, line) = complaint(&["serve", env!("CARGO_BIN_EXE_isowire")]);
    assert_eq!(code, 1);
    assert!(line.contains("ISO 9660 image"), "{line}");
    let (code, line) = complaint(&["inspect", "/dev/null"]);
    assert_eq!(code, 1);
    assert!(line.starts_with("isowire: /dev/null: "), "{line}");
}

#[test]
fn the_example_file_asks_for_its_image_only() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let (code, line) = complaint(&["serve", "--config", example.to_str().unwrap()]);
    assert_eq!(code, 1, "the file is fine, its image is not there: {line}");
    assert!(line.contains("archlinux.iso: "), "{line}");
}

#[test]
fn help_and_version_are_there() {
    let help = isowire(&["serve", "--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    for option in ["--config", "--dhcp-range", "--copytoram", "--menu-timeout", "--tftp-single-port"] {
        assert!(help.contains(option), "{option}");
    }
    assert!(isowire(&["--version"]).status.success());
    assert_eq!(isowire(&[]).status.code(), Some(2));
    assert_eq!(isowire(&["serve", "--no-such-option"]).status.code(), Some(2));
}

/// The packaged pages: arguments that print each, and its file.
const PAGES: [(&[&str], &str); 4] = [
    (&["man"], "dist/isowire.1"),
    (&["completions", "bash"], "dist/completions/isowire.bash"),
    (&["completions", "zsh"], "dist/completions/_isowire"),
    (&["completions", "fish"], "dist/completions/isowire.fish"),
];

/// `ISOWIRE_RENEW=1 cargo test --test config` writes the files.
#[test]
fn generated_pages_are_packaged() {
    for (arguments, file) in PAGES {
        let page = isowire(arguments);
        assert!(page.status.success(), "{arguments:?}");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if env::var_os("ISOWIRE_RENEW").is_some() {
            fs::write(&path, &page.stdout).unwrap();
        }
        let packaged = fs::read(&path).unwrap_or_default();
        assert!(packaged == page.stdout, "{file} is old: ISOWIRE_RENEW=1 cargo test --test config");
    }
}

#[test]
fn manual_has_every_option_and_section() {
    let manual = String::from_utf8(isowire(&["man"]).stdout).unwrap().replace('\\', "");
    let cli = <isowire::cli::Cli as clap::CommandFactory>::command();
    for command in cli.get_subcommands() {
        assert!(manual.contains(&format!("isowire {}", command.get_name())));
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(manual.contains(&format!("--{option}")), "--{option}");
        }
    }
    for section in
        ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES", "EXAMPLES"]
    {
        assert!(
            manual.contains(&format!(".SH {section}")) || manual.contains(&format!(".SH \"{section}\"")),
            "{section}"
        );
    }
}

/// Only by the shells that are installed.
#[test]
fn completions_have_the_syntax_of_their_shell() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (arguments, file) in PAGES {
        let [_, shell] = arguments else { continue };
        match Command::new(shell).arg("-n").arg(root.join(file)).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(error) if error.kind() == ErrorKind::NotFound => eprintln!("skipped: no {shell}"),
            Err(error) => panic!("{shell}: {error}"),
        }
    }
}

#[test]
fn the_units_pass_sockets_by_the_names_that_are_known() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/systemd");
    let service = fs::read_to_string(units.join("isowire.service")).unwrap();
    for name in ["nbd", "nfs", "portmap", "http", "tftp", "dhcp", "pxe"] {
        let unit = format!("isowire-{name}.socket");
        let socket = fs::read_to_string(units.join(&unit)).unwrap();
        assert!(socket.contains(&format!("\nFileDescriptorName={name}\n")), "{unit}");
        assert!(service.contains(&unit), "{unit}");
    }
}
