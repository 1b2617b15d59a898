//! `isowire status`: shows the machines of a running server.

mod columns;
mod control;
mod drain;
mod fetch;
mod known_hosts;
mod next;
mod screen;
mod table;
mod text;
mod view;

use std::ffi::OsString;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use self::fetch::FetchError;
use self::table::{Size, StatusTable};
use crate::machines::StatusReport;
use crate::machines::status::StoryLine;

pub use control::ControlError;
pub use drain::{Drain, drain};
pub use next::next;

pub(crate) use fetch::{StatusAddress, StatusAddressError};

/// Interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFormat {
    Table,
    Json,
    /// Lines of `known_hosts`.
    KnownHosts,
}

/// Repetition of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Once,
    /// Once, as much as fits the terminal on standard output.
    OnceOnTerminal,
    /// On the terminal's alternate screen, renewed every second, until a key or a signal ends it.
    OnScreen,
    /// Every second until interrupted, appended; JSON takes one line each.
    Lines,
}

/// An error that ends `status` with exit code 1, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(transparent)]
    Address(#[from] StatusAddressError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("status cannot be written: {0}")]
    Output(io::Error),
}

/// Fetches the status from the server at `url`, or from the local one, and prints it.
///
/// `variable` looks up an environment variable; they locate the socket of this user's server.
///
/// # Errors
/// [`StatusError`] when no server answers at first, or `out` cannot be written. With `repeat`, a
/// server that stops later is waited for.
pub fn run(
    url: Option<&str>,
    format: StatusFormat,
    repeat: Repeat,
    variable: &dyn Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<(), StatusError> {
    let place = url.map_or_else(|| Ok(StatusAddress::of_this_host(variable)), str::parse)?;
    if repeat == Repeat::OnScreen {
        let first = fetch_report(&place)?;
        return screen::run(place, first).map_err(StatusError::Output);
    }
    let mut page = page(&fetch::fetch(&place)?, format, repeat)?;
    loop {
        match write!(out, "{page}").and_then(|()| out.flush()) {
            Ok(()) => {}
            // The reader closed the pipe: `isowire status --watch | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(StatusError::Output(error)),
        }
        if repeat != Repeat::Lines {
            return Ok(());
        }
        thread::sleep(WATCH_INTERVAL);
        page = fetch_again(&place, format, repeat);
    }
}

fn fetch_again(place: &StatusAddress, format: StatusFormat, repeat: Repeat) -> String {
    match fetch::fetch(place).and_then(|json| page(&json, format, repeat)) {
        Ok(page) => page,
        Err(failure) => {
            eprintln!("isowire: {failure}");
            String::new()
        }
    }
}

fn page(json: &[u8], format: StatusFormat, repeat: Repeat) -> Result<String, FetchError> {
    match (format, repeat) {
        (StatusFormat::KnownHosts, _) => Ok(known_hosts::known_hosts(&report(json)?)),
        (StatusFormat::Table, Repeat::Lines) => Ok(format!("{}\n", table(json, Size::UNLIMITED)?)),
        (StatusFormat::Table, Repeat::OnceOnTerminal) => Ok(table(json, screen::size())?.to_string()),
        (StatusFormat::Table, _) => Ok(table(json, Size::UNLIMITED)?.to_string()),
        // Printed as received: a newer server may send fields that are unknown here.
        (StatusFormat::Json, Repeat::Lines) => line(json),
        (StatusFormat::Json, _) => pretty(json),
    }
}

fn fetch_report(place: &StatusAddress) -> Result<StatusReport, FetchError> {
    report(&fetch::fetch(place)?)
}

/// Fetches the lines of the log about a machine; none from a server that does not tell them.
fn fetch_log(place: &StatusAddress, machine: &str) -> Vec<StoryLine> {
    let lines = fetch::fetch_below(place, &format!("log/{machine}")).ok();
    lines.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

fn report(json: &[u8]) -> Result<StatusReport, FetchError> {
    serde_json::from_slice(json).map_err(FetchError::not_a_status)
}

fn table(json: &[u8], size: Size) -> Result<StatusTable, FetchError> {
    Ok(StatusTable { report: report(json)?, size })
}

fn pretty(json: &[u8]) -> Result<String, FetchError> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(FetchError::not_a_status)?;
    Ok(format!("{value:#}\n"))
}

fn line(json: &[u8]) -> Result<String, FetchError> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(FetchError::not_a_status)?;
    Ok(format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = br#"{"isowire":"9.9","time":1,"forgotten":0,"machines":[],"news":7}"#;

    #[test]
    fn json_is_printed_as_received() {
        let line = page(EMPTY, StatusFormat::Json, Repeat::Lines).unwrap();
        assert_eq!(line.lines().count(), 1);
        let once = page(EMPTY, StatusFormat::Json, Repeat::Once).unwrap();
        assert!(once.lines().count() > 1);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(&once));
        assert_eq!(value(&line)["news"], 7, "also what is not known here");
    }

    #[test]
    fn content_must_be_a_status() {
        for json in [&b"<html>"[..], b"", b"{}", b"[1,2]"] {
            let failure = page(json, StatusFormat::Table, Repeat::Once).unwrap_err();
            assert!(failure.to_string().contains("not the status of isowire"), "{failure}");
        }
    }
}
