//! The command line: errors in one line with an exit code, and the packaged pages.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

fn isowire(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_isowire")).args(arguments).output().unwrap()
}

/// Returns the exit code and the only line on standard error; standard output has to be empty.
fn error_of(arguments: &[&str]) -> (i32, String) {
    let output = isowire(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{arguments:?}");
    assert_eq!(text.lines().count(), 1, "{arguments:?}: {text}");
    (output.status.code().unwrap(), text.trim_end().to_owned())
}

#[test]
fn setting_error_ends_with_2() {
    let (code, line) = error_of(&["serve"]);
    assert_eq!(code, 2);
    assert_eq!(line, "isowire: no image to serve: name an ISO, as in `isowire serve archlinux.iso`");
    let (code, line) = error_of(&["serve", "x.iso", "--nbd", "99999"]);
    assert_eq!(code, 2);
    assert_eq!(line, "isowire: --nbd: `99999`: invalid port; expected 0-65535 or `off`");
    let (code, line) = error_of(&["serve", "x.iso", "--dhcp", "server"]);
    assert_eq!(code, 2);
    assert!(line.contains("add `dhcp-range`"), "{line}");
    let off = ["nbd", "nfs", "http", "tftp", "dhcp"].map(|service| format!("--{service}=off"));
    let off = off.each_ref().map(String::as_str);
    let (code, line) = error_of(&[&["serve", "x.iso"], &off[..]].concat());
    assert_eq!(code, 2);
    assert_eq!(
        line,
        "isowire: nothing to serve: `nbd`, `nfs`, `http`, `tftp` and `dhcp` are all off; turn one on"
    );
    let (code, line) = error_of(&["serve", "x.iso", "--root", "nfs", "--portmap", "off"]);
    assert_eq!(code, 2);
    assert!(line.starts_with("isowire: --root: `nfs`: needs `portmap`, which is off"), "{line}");
}

#[test]
fn file_error_names_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("isowire.toml");
    fs::write(&path, "tftp = 69\n\nmenu-timeout = \"soon\"\n").unwrap();
    let (code, line) = error_of(&["serve", "x.iso", "-c", path.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(line.contains("isowire.toml:3: menu-timeout: `soon`: invalid time; expected seconds"), "{line}");
    fs::write(&path, "tfpt = 69\n").unwrap();
    let (code, line) = error_of(&["serve", "x.iso", "-c", path.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(line.ends_with("isowire.toml:1: tfpt: unknown key; did you mean `tftp`?"), "{line}");
    let (code, line) = error_of(&["serve", "-c", "/no/such.toml"]);
    assert_eq!(code, 2);
    assert!(line.starts_with("isowire: --config: `/no/such.toml`: no such file; give "), "{line}");
    let (code, line) = error_of(&["serve", "arch.iso", "--config", "/dev/zero"]);
    assert_eq!(code, 2);
    assert!(line.starts_with("isowire: --config: `/dev/zero`: larger than 1048576 bytes; give "), "{line}");
    let (code, line) = error_of(&["serve", "arch.iso", "--allow", "10.0.0.0/8", "192.168.0.0/16"]);
    assert_eq!(code, 2);
    let says = "isowire: `192.168.0.0/16`: a network, not an ISO; separate the networks of --allow by commas";
    assert!(line.starts_with(says), "{line}");
}

#[test]
fn image_error_ends_with_1() {
    let (code, line) = error_of(&["serve", "/no/such.iso"]);
    assert_eq!(code, 1);
    assert!(line.starts_with("isowire: /no/such.iso: "), "{line}");
    let (code, line) = error_of(&["serve", env!("CARGO_BIN_EXE_isowire")]);
    assert_eq!(code, 1);
    assert!(line.contains("ISO 9660 image"), "{line}");
    let (code, line) = error_of(&["inspect", "/dev/zero"]);
    assert_eq!(code, 1);
    let says = "isowire: /dev/zero: not an ISO 9660 image: the file is a character device, not a file or a disk; give ";
    assert!(line.starts_with(says), "{line}");
}

#[test]
fn example_lacks_only_its_image() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml");
    let (code, line) = error_of(&["serve", "--config", example.to_str().unwrap()]);
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

/// Packaged pages: the arguments that print each, and its file.
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

/// Shells that are not installed are skipped.
#[test]
fn completions_parse_in_their_shell() {
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
fn units_name_their_sockets() {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/systemd");
    let service = fs::read_to_string(units.join("isowire.service")).unwrap();
    for name in ["nbd", "nfs", "portmap", "http", "tftp", "dhcp", "pxe"] {
        let unit = format!("isowire-{name}.socket");
        let socket = fs::read_to_string(units.join(&unit)).unwrap();
        assert!(socket.contains(&format!("\nFileDescriptorName={name}\n")), "{unit}");
        assert!(service.contains(&unit), "{unit}");
    }
}

/// The README explains some options, so an option that is renamed must not stay behind there.
#[test]
fn readme_names_existing_options() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let cli = <isowire::cli::Cli as clap::CommandFactory>::command();
    let options: Vec<_> = cli
        .get_subcommands()
        .flat_map(|command| command.get_arguments())
        .filter_map(|argument| argument.get_long())
        .collect();
    let named = readme.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("--"));
    let mut count = 0;
    for option in named.filter_map(|code| code.split([' ', '=']).next()) {
        assert!(options.contains(&option), "README.md names --{option}");
        count += 1;
    }
    assert!(count > 10, "{count} options found in README.md");
}
