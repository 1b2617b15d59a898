//! `isowire status`: shows the machines of a running server.

mod fetch;
mod table;

use std::ffi::OsString;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use self::fetch::FetchError;
use self::table::StatusTable;
use crate::inspect::Format;
use crate::machines::StatusReport;

pub(crate) use fetch::{StatusAddress, StatusAddressError};

/// Interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Repetition of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Once,
    /// Every second until interrupted, on a terminal: each output replaces the last.
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
    format: Format,
    repeat: Repeat,
    variable: &dyn Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<(), StatusError> {
    let place = url.map_or_else(|| Ok(StatusAddress::of_this_host(variable)), str::parse)?;
    let mut page = page(&fetch::fetch(&place)?, format, repeat)?;
    loop {
        let clear = if repeat == Repeat::OnScreen { CLEAR } else { "" };
        match write!(out, "{clear}{page}").and_then(|()| out.flush()) {
            Ok(()) => {}
            // The reader closed the pipe: `isowire status --watch | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(StatusError::Output(error)),
        }
        if repeat == Repeat::Once {
            return Ok(());
        }
        thread::sleep(WATCH_INTERVAL);
        page = fetch_again(&place, format, repeat);
    }
}

/// ECMA-48 §8.3.21 and §8.3.39: moves the cursor to the top left (CUP) and erases the rest (ED).
const CLEAR: &str = "\x1b[H\x1b[J";

fn fetch_again(place: &StatusAddress, format: Format, repeat: Repeat) -> String {
    match fetch::fetch(place).and_then(|json| page(&json, format, repeat)) {
        Ok(page) => page,
        Err(failure) if repeat == Repeat::OnScreen => format!("isowire: {failure}\n"),
        Err(failure) => {
            eprintln!("isowire: {failure}");
            String::new()
        }
    }
}

fn page(json: &[u8], format: Format, repeat: Repeat) -> Result<String, FetchError> {
    match (format, repeat) {
        (Format::Text, Repeat::Lines) => Ok(format!("{}\n", table(json)?)),
        (Format::Text, _) => Ok(table(json)?.to_string()),
        // Printed as received: a newer server may send fields that are unknown here.
        (Format::Json, Repeat::Lines) => line(json),
        (Format::Json, _) => pretty(json),
    }
}

fn table(json: &[u8]) -> Result<StatusTable, FetchError> {
    let status: StatusReport = serde_json::from_slice(json).map_err(FetchError::not_a_status)?;
    Ok(StatusTable(status))
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
        let line = page(EMPTY, Format::Json, Repeat::Lines).unwrap();
        assert_eq!(line.lines().count(), 1);
        let once = page(EMPTY, Format::Json, Repeat::Once).unwrap();
        assert!(once.lines().count() > 1);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(&once));
        assert_eq!(value(&line)["news"], 7, "also what is not known here");
    }

    #[test]
    fn content_must_be_a_status() {
        for json in [&b"<html>"[..], b"", b"{}", b"[1,2]"] {
            let failure = page(json, Format::Text, Repeat::Once).unwrap_err();
            assert!(failure.to_string().contains("not the status of isowire"), "{failure}");
        }
    }
}
