//! Command line. The options of `serve` are declared in `config`, with the keys of the
//! configuration file.

pub mod pages;

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::config::ServeOptions;
use crate::machines::Mac;

/// Network-boots machines straight from an Arch Linux ISO.
#[derive(Debug, Parser)]
#[command(name = "isowire", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: CliCommand,
}

/// Returns what to write instead, if an image is where the subcommand should be.
pub fn forgotten_serve(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) if word.ends_with(".iso") || word.contains('/') => {
            Some(format!("`{word}` is not a command; did you mean `isowire serve {word}`?"))
        }
        _ => None,
    }
}

/// Subcommand of the program.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    // Boxed, because it has many times the options of the others.
    Serve(Box<ServeOptions>),
    Inspect(InspectOptions),
    Check(CheckOptions),
    Status(StatusOptions),
    Next(NextOptions),
    Drain(DrainOptions),
    // Boxed as well.
    Doctor(Box<DoctorOptions>),
    SecureBoot(SecureBootOptions),
    Completions(CompletionsOptions),
    /// Print the manual page, in the format of man(7)
    Man,
}

/// Show what an ISO contains and how it can boot.
///
/// Shows the boot by BIOS and by UEFI, the root protocols that its initramfs supports, and what is
/// missing.
#[derive(Debug, Args)]
pub struct InspectOptions {
    /// The image to read
    #[arg(value_name = "ISO", value_hint = ValueHint::FilePath)]
    pub iso: PathBuf,

    /// Certificate of the key that `serve` is to sign boot programs with
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub secure_boot_certificate: Option<PathBuf>,

    /// Print JSON for a program to read
    #[arg(long)]
    pub json: bool,
}

/// Run a client against every service on loopback and verify every byte.
///
/// Starts every service on loopback, on ports that the system chooses, and runs a client against
/// each. Received bytes are compared with the image, and the root file system with its
/// airootfs.sha512. It prints a table of protocols, files, bytes, time and verdict.
///
/// No other machine is served, and no privilege is needed. DHCP is not checked: it needs broadcasts
/// and port 67.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// The image to serve [default: a small sample that isowire makes]
    #[arg(value_name = "ISO", value_hint = ValueHint::FilePath)]
    pub iso: Option<PathBuf>,
}

/// Show the machines that boot from a running server.
///
/// Shows the machines that do not get on first, each with what probably happened and what to do,
/// and for each machine the stage of its boot, its progress and its rate. On a terminal the table
/// fits it; elsewhere it has all columns and machines.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// Address of the server: http://ADDR:PORT/ as in its --status, or the path of its socket
    /// [default: the socket of this user's server, else of this host's]
    // Text, because a path and a URL are told apart when the command runs.
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,

    /// Print JSON for a program to read
    #[arg(long)]
    pub json: bool,

    /// Repeat every second until interrupted
    ///
    /// On a terminal: `/` filters the machines, `s` sorts them, Up and Down choose one, Enter shows
    /// what happened to it, q ends. Elsewhere the tables follow each other. With --json each
    /// repetition is one line.
    #[arg(long)]
    pub watch: bool,

    /// Print the host keys of machines whose system is up, as lines of SSH's `known_hosts`
    ///
    /// With the names of each machine and its address. cloud-init sends the keys (`phone_home`).
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub known_hosts: bool,
}

/// Say what a machine boots next: an image once, or its local disk.
///
/// With an IMAGE the machine boots that at its next start, without a menu, and from then on its
/// local disk. With `local` it boots its local disk. With `rule` it boots as its [[machine]] says,
/// or as all do. The boot counts as done when its system says that it is up, or else when it has
/// read all of its root file system and let it go. The server keeps it over a restart.
#[derive(Debug, Args)]
pub struct NextOptions {
    /// MAC address of the machine
    #[arg(value_name = "MAC", value_hint = ValueHint::Other)]
    pub mac: Mac,

    /// Name of an image, as `isowire status --json` lists them
    #[arg(value_name = "IMAGE|local|rule", value_hint = ValueHint::Other)]
    pub boot: String,

    /// Socket of the server [default: that of this user's server, else of this host's]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// Leave new machines to the other servers, and wait until the last one has left.
///
/// For a server that shares machines with others (--peers, [[server]]). It answers a new machine only if
/// no other server does, goes on with those that it has, and stays so over a restart. The number of
/// machines that need it still is printed as it changes: those on their root, and those in the middle
/// of a boot. Ctrl-C ends the wait only.
#[derive(Debug, Args)]
pub struct DrainOptions {
    /// Do not wait
    #[arg(long)]
    pub no_wait: bool,

    /// Take new machines again
    #[arg(long, conflicts_with = "no_wait")]
    pub end: bool,

    /// Socket of the server [default: that of this user's server, else of this host's]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
}

/// Find out what keeps machines from booting from this host, and how to mend it.
///
/// Does what `serve` does at its start, with the same options, and lets go of it: opens the ports,
/// finds the images, looks for other DHCP servers. It also looks at the firewall, the directories and
/// the clock. Each line says whether that is right, a warning or a fault, and what to do. It serves
/// nobody and changes nothing.
///
/// As root it sees more: the rules of the firewall, which program has a port, and other DHCP servers.
/// It ends with 1 if something is a fault.
#[derive(Debug, Args)]
pub struct DoctorOptions {
    #[command(flatten)]
    pub serve: ServeOptions,

    /// Print JSON for a program to read
    #[arg(long)]
    pub json: bool,
}

/// Make a key and a certificate for Secure Boot: `isowire secure-boot new DIR`.
///
/// `new` makes DIR/secure-boot.key, which only its owner can read, and its certificate as
/// DIR/secure-boot.crt (PEM) and DIR/secure-boot.cer (DER, for firmware). It replaces no file.
#[derive(Debug, Args)]
pub struct SecureBootOptions {
    #[command(subcommand)]
    pub command: SecureBootCommand,
}

#[derive(Debug, Subcommand)]
pub enum SecureBootCommand {
    /// Make a key and its certificate
    New(NewKeyOptions),
}

#[derive(Debug, Args)]
pub struct NewKeyOptions {
    /// Directory of the new files; it is made if it does not exist
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// Print the completions of a shell.
#[derive(Debug, Args)]
pub struct CompletionsOptions {
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn image_without_a_command_gets_serve() {
        let advice = |word: &str| {
            let error = Cli::command().try_get_matches_from(["isowire", word]).unwrap_err();
            forgotten_serve(&error)
        };
        for word in ["arch.iso", "/srv/iso"] {
            assert!(advice(word).unwrap().contains(&format!("`isowire serve {word}`")));
        }
        assert_eq!(advice("srve"), None);
    }
}
