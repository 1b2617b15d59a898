//! Manual page and shell completions, generated from the definition of the command line.

use std::io;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::Cli;

/// Section of the manual that is not generated: terms, each with its description.
struct ManualSection {
    title: &'static str,
    entries: &'static [(&'static str, &'static str)],
}

const SECTIONS: [ManualSection; 5] = [
    ManualSection {
        title: "EXIT STATUS",
        entries: &[
            ("0", "Success; for `serve`: it was stopped by SIGINT or SIGTERM."),
            ("1", "The command failed, a protocol did not pass `check`, or `doctor` found a fault."),
            ("2", "The command line or the configuration file has a mistake."),
        ],
    },
    ManualSection {
        title: "SIGNALS",
        entries: &[
            ("SIGHUP", "`serve` reads the folders of images again, but not the configuration file."),
            ("SIGINT, SIGTERM", "`serve` stops. Machines on NBD lose their root file system."),
        ],
    },
    ManualSection {
        title: "ENVIRONMENT",
        entries: &[
            (
                "RUNTIME_DIRECTORY, XDG_RUNTIME_DIR",
                "Directory of the status socket: the former, which systemd sets, else `isowire` in the \
                 latter, else /run/isowire.",
            ),
            ("RUST_LOG", "Filter of the log, for example isowire=debug."),
            (
                "STATE_DIRECTORY, XDG_STATE_HOME",
                "Directory of the leases, unless the configuration file has `lease-file`, and of what machines boot next.",
            ),
            (
                "CACHE_DIRECTORY, XDG_CACHE_HOME",
                "Directory of what was fetched from object stores, unless `--cache-dir` names one.",
            ),
            (
                "AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ALLOW_HTTP, ...",
                "Object store of `s3://` images, and the credentials for it. What is not set is taken from \
                 ~/.aws/credentials and ~/.aws/config.",
            ),
            (
                "AWS_PROFILE, AWS_SHARED_CREDENTIALS_FILE, AWS_CONFIG_FILE",
                "The profile of these files that counts, and other places for them.",
            ),
            (
                "LISTEN_FDS, LISTEN_FDNAMES, NOTIFY_SOCKET",
                "Set by systemd. The names of sockets are nbd, nfs, portmap (TCP and UDP port 111), http, \
                 tftp, dhcp (port 67) and pxe (port 4011).",
            ),
        ],
    },
    ManualSection {
        title: "FILES",
        entries: &[
            (
                "config.example.toml",
                "All keys of the configuration file, each with its default and its reason.",
            ),
            ("airootfs.sha512", "Checksum of the root file system in an image, which `check` verifies."),
        ],
    },
    ManualSection {
        title: "EXAMPLES",
        entries: &[
            ("isowire serve archlinux.iso", "Serve an image beside the DHCP server of the network."),
            (
                "isowire serve --dhcp-range 192.168.77.50-192.168.77.99 --interface br0 /srv/iso",
                "Serve a folder of images, and be the DHCP server on br0.",
            ),
            (
                "isowire serve --root nfs --copytoram no archlinux.iso",
                "Serve machines that run for days and survive a restart of the server.",
            ),
            (
                "sudo isowire doctor archlinux.iso",
                "Look at this host before a boot. Any option of `serve` may be added.",
            ),
            ("isowire status --watch", "Show the machines every second."),
        ],
    },
];

/// Generates the completions of a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut page = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "isowire", &mut page);
    page
}

/// Generates the manual page, in the format of man(7): one page for all commands.
///
/// # Errors
/// None in practice: the page is written to memory.
pub fn manual() -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    write_manual(&mut page)?;
    Ok(page)
}

fn write_manual(page: &mut Vec<u8>) -> io::Result<()> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    // clap adds `--help` and the names in usage lines only when it builds a command.
    cli.build();
    let commands: Vec<Command> = cli.get_subcommands().cloned().collect();
    let usage: Vec<String> = commands.iter().cloned().map(usage).collect();
    // Without the date of the build, the packaged page depends on the sources alone.
    let top = Man::new(cli.override_usage(usage.join("\n"))).date("").source("isowire");
    top.render_title(page)?;
    top.render_name_section(page)?;
    top.render_synopsis_section(page)?;
    // clap_mangen writes one page per command; the sections of all are put together here.
    descriptions(&commands).to_writer(page)?;
    // A command with `--help` alone needs no section.
    for command in commands.into_iter().filter(|command| command.get_arguments().count() > 1) {
        let command = if command.get_name() == "doctor" { without_serve(command) } else { command };
        Man::new(with_heading(command)).render_options_section(page)?;
    }
    SECTIONS.iter().try_for_each(|section| section.roff().to_writer(page))
}

fn usage(mut command: Command) -> String {
    let usage = command.render_usage().to_string();
    usage.trim_start_matches("Usage: ").to_owned()
}

/// Puts all options of a command below one heading of its own.
fn with_heading(command: Command) -> Command {
    let heading = format!("Options of isowire {}", command.get_name());
    command.mut_args(|argument| argument.help_heading(heading.clone()))
}

/// Hides the options that a command shares with `serve`, where they are described.
fn without_serve(command: Command) -> Command {
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve");
    command.mut_args(|argument| {
        let is_shared = |serve: &Command| serve.get_arguments().any(|own| own.get_id() == argument.get_id());
        let is_hidden = serve.is_some_and(is_shared);
        argument.hide(is_hidden)
    })
}

fn descriptions(commands: &[Command]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    for command in commands {
        roff.control("SS", [format!("isowire {}", command.get_name()).as_str()]);
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
        for (position, paragraph) in about.unwrap_or_default().split("\n\n").enumerate() {
            if position > 0 {
                roff.control("PP", []);
            }
            roff.text(with_code(paragraph));
        }
    }
    roff
}

impl ManualSection {
    fn roff(&self) -> Roff {
        let mut roff = Roff::new();
        roff.control("SH", [self.title]);
        for (term, description) in self.entries {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text(with_code(description));
        }
        roff
    }
}

/// Sets text between backticks in italics.
fn with_code(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    // Backticks come in pairs, so every second part is between two.
    parts.map(|(position, part)| if position % 2 == 0 { roman(part) } else { italic(part) }).collect()
}
