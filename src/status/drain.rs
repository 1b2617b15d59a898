//! `isowire drain`: has a running server leave new machines to others, and waits for the last one.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::control::{self, ControlError};
use super::fetch::{FetchError, StatusAddress};
use crate::machines::status::DrainStatus;

/// Interval at which the server is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time for which a server may be away: it is restarted.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// What to do after the server was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Wait until the last machine has left.
    Wait,
    /// Return at once.
    NoWait,
    /// Have it take new machines again.
    End,
}

/// Tells the server at `socket`, or the one of this user or host, and prints its answer and the number
/// of machines that are left, as it changes. `variable` looks up an environment variable.
///
/// # Errors
/// [`ControlError`]
pub fn drain(
    drain: Drain,
    socket: Option<PathBuf>,
    variable: &dyn Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<(), ControlError> {
    let places = control::places(socket, variable);
    let method = if drain == Drain::End { "DELETE" } else { "POST" };
    let text = control::call(&places, method, "/drain")?;
    writeln!(out, "{text}").map_err(ControlError::BrokenOff)?;
    if drain == Drain::End {
        return Ok(());
    }
    let place = StatusAddress::Local { sockets: places, page: None };
    let mut last = None;
    loop {
        let Some(DrainStatus { left, .. }) = status(&place)? else {
            return Err(ControlError::Refused(
                "the server takes new machines again: it was told so".to_owned(),
            ));
        };
        if last.replace(left) != Some(left) {
            writeln!(out, "{}", words(left)).and_then(|()| out.flush()).map_err(ControlError::BrokenOff)?;
        }
        if left == 0 || drain == Drain::NoWait {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}

/// Returns the state of the server; `None` if it takes new machines.
fn status(place: &StatusAddress) -> Result<Option<DrainStatus>, FetchError> {
    let since = Instant::now();
    loop {
        match super::fetch_report(place) {
            Ok(report) => return Ok(report.draining),
            Err(FetchError::NoServer { .. } | FetchError::BrokenOff { .. }) if since.elapsed() < AWAY_MAX => {
                thread::sleep(INTERVAL);
            }
            Err(error) => return Err(error),
        }
    }
}

fn words(left: usize) -> String {
    match left {
        0 => "the last machine has left".to_owned(),
        1 => "1 machine is left".to_owned(),
        left => format!("{left} machines are left"),
    }
}
