//! The program: command line, settings, log, work, exit code.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser;
use isowire::cli::{Check, Cli, Command, Inspect, Serve, Status};
use isowire::inspect::{self, Format};
use isowire::status::{self, Repeat, StatusError};
use isowire::{check, config, server, telemetry};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(options) => serve(&options),
        Command::Inspect(options) => look(&options),
        Command::Check(options) => play(&options),
        Command::Status(options) => ask(&options),
    }
}

fn serve(options: &Serve) -> ExitCode {
    let config = match config::load(options, &|name| env::var_os(name)) {
        Ok(config) => config,
        Err(wrong) => return end(USAGE, &wrong),
    };
    telemetry::start(config.log_format);
    match server::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => end(FAILURE, &fatal),
    }
}

fn look(options: &Inspect) -> ExitCode {
    let format = if options.json { Format::Json } else { Format::Text };
    match inspect::run(&options.iso, format, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

fn play(options: &Check) -> ExitCode {
    match check::run(options.iso.as_deref(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(FAILURE, &error),
    }
}

fn ask(options: &Status) -> ExitCode {
    let format = if options.json { Format::Json } else { Format::Text };
    let repeat = match options.watch {
        false => Repeat::Once,
        true if !options.json && io::stdout().is_terminal() => Repeat::OnScreen,
        true => Repeat::Lines,
    };
    let variable = |name: &str| env::var_os(name);
    match status::run(options.url.as_deref(), format, repeat, &variable, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(StatusError::Address(unfit)) => end(USAGE, &unfit),
        Err(error) => end(FAILURE, &error),
    }
}

const FAILURE: u8 = 1;
/// As clap ends for an option that it does not know.
const USAGE: u8 = 2;

fn end(code: u8, error: &dyn Display) -> ExitCode {
    eprintln!("isowire: {error}");
    ExitCode::from(code)
}
