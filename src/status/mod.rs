//! `isowire status`: what the machines are doing, asked of a running server.

mod fetch;
mod table;

use std::ffi::OsString;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use self::fetch::Failure;
use self::table::Table;
use crate::inspect::Format;
use crate::machines::StatusReport;

pub use fetch::{Place, UnfitPlace};

/// Between two looks of somebody who watches.
const EVERY: Duration = Duration::from_secs(1);

/// How often to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Once,
    /// Every second until interrupted, on a terminal: the last look is replaced by the next.
    OnScreen,
    /// Every second until interrupted: one look after the other, in JSON one a line.
    Lines,
}

/// Why `status` ends with exit code 1: one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(transparent)]
    Place(#[from] UnfitPlace),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("the status cannot be written: {0}")]
    Output(io::Error),
}

/// Asks the server at `url`, or the one of this host, and prints what it says.
///
/// `variable` gives environment variables: they say where the server of this user has its socket.
///
/// # Errors
/// [`StatusError`] when there is no server at first, or `out` cannot be written. A watcher waits for a server that went.
pub fn run(
    url: Option<&str>,
    format: Format,
    repeat: Repeat,
    variable: &dyn Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<(), StatusError> {
    let place = url.map_or_else(|| Ok(Place::of_this_host(variable)), str::parse)?;
    let mut page = page(&fetch::fetch(&place)?, format, repeat)?;
    loop {
        let clear = if repeat == Repeat::OnScreen { CLEAR } else { "" };
        match write!(out, "{clear}{page}").and_then(|()| out.flush()) {
            Ok(()) => {}
            // Whoever read it has seen enough: `isowire status --watch | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(StatusError::Output(error)),
        }
        if repeat == Repeat::Once {
            return Ok(());
        }
        thread::sleep(EVERY);
        page = look_again(&place, format, repeat);
    }
}

/// ECMA-48: the cursor to the upper left corner (CUP), and nothing from there on (ED).
const CLEAR: &str = "\x1b[H\x1b[J";

fn look_again(place: &Place, format: Format, repeat: Repeat) -> String {
    match fetch::fetch(place).and_then(|json| page(&json, format, repeat)) {
        Ok(page) => page,
        Err(failure) if repeat == Repeat::OnScreen => format!("isowire: {failure}\n"),
        Err(failure) => {
            eprintln!("isowire: {failure}");
            String::new()
        }
    }
}

fn page(json: &[u8], format: Format, repeat: Repeat) -> Result<String, Failure> {
    match (format, repeat) {
        (Format::Text, Repeat::Lines) => Ok(format!("{}\n", table(json)?)),
        (Format::Text, _) => Ok(table(json)?.to_string()),
        // As the server said it: a newer one may say more than we know.
        (Format::Json, Repeat::Lines) => line(json),
        (Format::Json, _) => pretty(json),
    }
}

fn table(json: &[u8]) -> Result<Table, Failure> {
    let status: StatusReport = serde_json::from_slice(json).map_err(Failure::not_a_status)?;
    Ok(Table(status))
}

fn pretty(json: &[u8]) -> Result<String, Failure> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(Failure::not_a_status)?;
    Ok(format!("{value:#}\n"))
}

fn line(json: &[u8]) -> Result<String, Failure> {
    let value: serde_json::Value = serde_json::from_slice(json).map_err(Failure::not_a_status)?;
    Ok(format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = br#"{"isowire":"9.9","time":1,"forgotten":0,"machines":[],"news":7}"#;

    #[test]
    fn json_is_what_the_server_said() {
        let line = page(EMPTY, Format::Json, Repeat::Lines).unwrap();
        assert_eq!(line.lines().count(), 1);
        let once = page(EMPTY, Format::Json, Repeat::Once).unwrap();
        assert!(once.lines().count() > 1);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&line), value(&once));
        assert_eq!(value(&line)["news"], 7, "also what is not known here");
    }

    #[test]
    fn what_is_no_status_is_said_to_be_none() {
        for json in [&b"<html>"[..], b"", b"{}", b"[1,2]"] {
            let failure = page(json, Format::Text, Repeat::Once).unwrap_err();
            assert!(failure.to_string().contains("not the status of an isowire"), "{failure}");
        }
    }
}
