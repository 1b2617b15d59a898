//! The program: command line, settings, log, work, exit code.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use isowire::cli::{CheckOptions, Cli, Command, InspectOptions, StatusOptions, pages};
use isowire::inspect::{self, Format};
use isowire::status::{self, Repeat, StatusError};
use isowire::{check, config, server, telemetry};

fn main() -> ExitCode {
    let arguments = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&arguments).unwrap_or_else(|error| error.exit());
    match (cli.command, arguments.subcommand()) {
        (Command::Serve(_), Some((_, arguments))) => serve(arguments),
        (Command::Serve(_), None) => ExitCode::from(USAGE),
        (Command::Inspect(options), _) => inspect(&options),
        (Command::Check(options), _) => check(&options),
        (Command::Status(options), _) => status(&options),
        (Command::Completions(options), _) => print(&pages::completions(options.shell)),
        (Command::Man, _) => print(&pages::manual()),
    }
}

/// The arguments are taken again by `config`, which lays them over the configuration file.
fn serve(arguments: &ArgMatches) -> ExitCode {
    let config = match config::load(arguments, &|name| env::var_os(name)) {
        Ok(config) => config,
        Err(error) => return end(USAGE, &error),
    };
    telemetry::start(config.log_format);
    match server::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

fn inspect(options: &InspectOptions) -> ExitCode {
    let format = if options.json { Format::Json } else { Format::Text };
    match inspect::run(&options.iso, format, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

fn check(options: &CheckOptions) -> ExitCode {
    match check::run(options.iso.as_deref(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

fn status(options: &StatusOptions) -> ExitCode {
    let format = if options.json { Format::Json } else { Format::Text };
    let repeat = match options.watch {
        false => Repeat::Once,
        true if !options.json && io::stdout().is_terminal() => Repeat::OnScreen,
        true => Repeat::Lines,
    };
    let variable = |name: &str| env::var_os(name);
    match status::run(options.url.as_deref(), format, repeat, &variable, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StatusError::Address(error)) => end(USAGE, &error),
        Err(error) => end(FAILURE, &error),
    }
}

fn print(page: &[u8]) -> ExitCode {
    match io::stdout().write_all(page) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

const FAILURE: u8 = 1;
/// The exit code of clap for an unknown option.
const USAGE: u8 = 2;

fn end(code: u8, error: &dyn Display) -> ExitCode {
    eprintln!("isowire: {error}");
    ExitCode::from(code)
}
