//! The command line. The options of `serve` are declared with the keys of the configuration file, in
//! `config`.

pub mod pages;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::config::ServeOptions;

/// Network-boots machines straight from an Arch Linux ISO.
#[derive(Debug, Parser)]
#[command(name = "isowire", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(Box<ServeOptions>),
    Inspect(InspectOptions),
    Check(CheckOptions),
    Status(StatusOptions),
    Completions(CompletionsOptions),
    /// Print the manual page, in the format of man(7)
    Man,
}

/// Show what an ISO contains, how it can boot and what would not work.
///
/// Shows how it can boot by BIOS and by UEFI, and with which roots.
#[derive(Debug, Args)]
pub struct InspectOptions {
    /// The image to read
    #[arg(value_name = "ISO", value_hint = ValueHint::FilePath)]
    pub iso: PathBuf,

    /// Print JSON for a program to read
    #[arg(long)]
    pub json: bool,
}

/// Run a client against every service on loopback and verify every byte.
///
/// Starts every service on loopback, on ports that the system chooses, and runs a client against each.
/// Received bytes are compared with the image, and the root file system with its airootfs.sha512. It
/// prints a table of services, files, bytes, time and verdict.
///
/// Nobody else is served, and no privilege is needed. DHCP is not checked: it needs broadcasts and port
/// 67.
#[derive(Debug, Args)]
pub struct CheckOptions {
    /// The image to serve [default: a small sample that isowire makes]
    #[arg(value_name = "ISO", value_hint = ValueHint::FilePath)]
    pub iso: Option<PathBuf>,
}

/// Show what the machines are doing that boot from a running server.
///
/// Shows how far each machine has come, what it boots, how much of its root file system it was sent at
/// most, and when it was last heard of.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// The server: http://ADDR:PORT/ of its --status, or the path of its socket [default: the one on
    /// this host]
    ///
    /// By default it is the server of this user, else the one of this host.
    #[arg(value_name = "URL", value_hint = ValueHint::Url)]
    pub url: Option<String>,

    /// Print JSON for a program to read
    #[arg(long)]
    pub json: bool,

    /// Repeat every second until interrupted
    ///
    /// With --json each repetition is one line.
    #[arg(long)]
    pub watch: bool,
}

/// Print the completions of a shell.
#[derive(Debug, Args)]
pub struct CompletionsOptions {
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}
