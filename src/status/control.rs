//! Calls of the local socket of a running server that change something.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::fetch::FetchError;
use super::text::printable;
use crate::machines::local;

/// Time limit for the answer: the server may write a file.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest answer, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// An error that ends `next` or `drain` with exit code 1, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "no isowire server at {places}: {error}; start `isowire serve` as this user, or become the user of it"
    )]
    NoServer { places: String, error: io::Error },
    #[error("answer of the server ended early: {0}")]
    BrokenOff(io::Error),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{0}")]
    Refused(String),
}

/// Returns the places of the socket: the one that was named, or those of this user and host.
pub(super) fn places(socket: Option<PathBuf>, variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    socket.map_or_else(|| local::client_paths(variable), |socket| vec![socket])
}

/// Calls the server at the first of these places where one is, and returns what it says.
///
/// # Errors
/// [`ControlError`]
pub(super) fn call(places: &[PathBuf], method: &str, path: &str) -> Result<String, ControlError> {
    let answer = ask(connect(places)?, method, path).map_err(ControlError::BrokenOff)?;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let text = printable(text.trim());
    match head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 ") {
        true => Ok(text),
        false => Err(ControlError::Refused(text)),
    }
}

fn connect(paths: &[PathBuf]) -> Result<UnixStream, ControlError> {
    let mut first = None;
    for path in paths {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            // The first place is the likeliest, so its error explains most.
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    let places: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let error = first.unwrap_or_else(|| io::ErrorKind::NotFound.into());
    Err(ControlError::NoServer { places: places.join(" or "), error })
}

fn ask(mut stream: UnixStream, method: &str, path: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
