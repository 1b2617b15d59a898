//! Program: parses the command line, runs the command, returns the exit code.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use isowire::cli::{
    CheckOptions, Cli, CliCommand, DoctorOptions, DrainOptions, InspectOptions, NextOptions,
    SecureBootCommand, StatusOptions, forgotten_serve, pages,
};
use isowire::doctor::{self, DoctorError};
use isowire::inspect::{self, Format};
use isowire::status::{self, Drain, Repeat, StatusError, StatusFormat};
use isowire::{check, config, secure_boot, server, telemetry};

fn main() -> ExitCode {
    let arguments = match Cli::command().try_get_matches() {
        Ok(arguments) => arguments,
        Err(error) => match forgotten_serve(&error) {
            Some(advice) => return end(USAGE, &advice),
            None => error.exit(),
        },
    };
    let cli = Cli::from_arg_matches(&arguments).unwrap_or_else(|error| error.exit());
    match (cli.command, arguments.subcommand()) {
        (CliCommand::Serve(_), Some((_, arguments))) => serve(arguments),
        // clap has found the subcommand, so its arguments are there.
        (CliCommand::Serve(_) | CliCommand::Doctor(_), None) => ExitCode::from(USAGE),
        (CliCommand::Doctor(options), Some((_, arguments))) => doctor(&options, arguments),
        (CliCommand::Inspect(options), _) => inspect(&options),
        (CliCommand::Check(options), _) => check(&options),
        (CliCommand::Status(options), _) => status(&options),
        (CliCommand::Next(options), _) => next(options),
        (CliCommand::Drain(options), _) => drain(options),
        (CliCommand::SecureBoot(options), _) => secure_boot(&options.command),
        (CliCommand::Completions(options), _) => print(Ok(pages::completions(options.shell))),
        (CliCommand::Man, _) => print(pages::manual()),
    }
}

/// Runs the server. `config` parses the arguments again, to put them over the configuration file.
fn serve(arguments: &ArgMatches) -> ExitCode {
    let config = match config::load(arguments, &|name| env::var_os(name)) {
        Ok(config) => config,
        Err(error) => return end(USAGE, &error),
    };
    server::make_room_for_clients();
    // The configuration says in which format, so errors in it are not part of the log.
    let log = match telemetry::start(config.log_format, config.log_repeats) {
        Ok(log) => log,
        Err(error) => return end(FAILURE, &error),
    };
    match server::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Behind the lines of the log. Nobody may read them, so it does not wait for ever.
            log.write_last(&format!("isowire: {error}"));
            ExitCode::from(FAILURE)
        }
    }
}

fn inspect(options: &InspectOptions) -> ExitCode {
    let format = if options.json { Format::Json } else { Format::Text };
    let certificate = options.secure_boot_certificate.as_deref();
    // Locked once: a page has many lines.
    match inspect::run(&options.iso, certificate, format, &mut io::stdout().lock()) {
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
    let format = match (options.json, options.known_hosts) {
        (true, _) => StatusFormat::Json,
        (false, true) => StatusFormat::KnownHosts,
        (false, false) => StatusFormat::Table,
    };
    let is_for_a_person = format == StatusFormat::Table && io::stdout().is_terminal();
    let repeat = match options.watch {
        false if is_for_a_person => Repeat::OnceOnTerminal,
        false => Repeat::Once,
        // Escape sequences would spoil a file, and JSON is for a program that reads lines.
        true if is_for_a_person => Repeat::OnScreen,
        true => Repeat::Lines,
    };
    // Not locked: what ends `--watch` draws in another thread.
    let (url, mut out) = (options.url.as_deref(), io::stdout());
    match status::run(url, format, repeat, &|name| env::var_os(name), &mut out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StatusError::Address(error)) => end(USAGE, &error),
        Err(error) => end(FAILURE, &error),
    }
}

fn next(options: NextOptions) -> ExitCode {
    let NextOptions { mac, boot, socket } = options;
    match status::next(mac, &boot, socket, &|name| env::var_os(name), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

fn drain(DrainOptions { no_wait, end: is_end, socket }: DrainOptions) -> ExitCode {
    let drain = match (is_end, no_wait) {
        (true, _) => Drain::End,
        (false, true) => Drain::NoWait,
        (false, false) => Drain::Wait,
    };
    match status::drain(drain, socket, &|name| env::var_os(name), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

/// Looks at this host. As for `serve`, `config` parses the arguments again.
fn doctor(options: &DoctorOptions, arguments: &ArgMatches) -> ExitCode {
    let format = if options.json { Format::Json } else { Format::Text };
    match doctor::run(arguments, format, &|name| env::var_os(name), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(DoctorError::Config(error)) => end(USAGE, &error),
        Err(error) => end(FAILURE, &error),
    }
}

fn secure_boot(command: &SecureBootCommand) -> ExitCode {
    let SecureBootCommand::New(options) = command;
    match secure_boot::new(&options.dir, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

fn print(page: io::Result<Vec<u8>>) -> ExitCode {
    match page.and_then(|page| io::stdout().write_all(&page)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

/// Exit code of a command that failed.
const FAILURE: u8 = 1;
/// Exit code for a wrong option or setting; clap uses the same.
const USAGE: u8 = 2;

fn end(code: u8, error: &dyn Display) -> ExitCode {
    // No log here: a command that fails says so in one line.
    eprintln!("isowire: {error}");
    ExitCode::from(code)
}
