//! `isowire next`: tells a running server what a machine boots next.

use std::ffi::OsString;
use std::io::{self, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::text::printable;
use crate::machines::{Mac, local};

/// Time limit for the answer: the server writes a file.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest answer, in bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// An error that ends `next` with exit code 1, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum NextError {
    #[error(
        "no isowire server at {places}: {error}; start `isowire serve` as this user, or become the user of it"
    )]
    NoServer { places: String, error: io::Error },
    #[error("answer of the server ended early: {0}")]
    BrokenOff(io::Error),
    #[error("{0}")]
    Refused(String),
}

/// Tells the server at `socket`, or the one of this user or host, what a machine boots next, and
/// prints its answer. `variable` looks up an environment variable.
///
/// # Errors
/// [`NextError`]
pub fn next(
    machine: Mac,
    boot: &str,
    socket: Option<PathBuf>,
    variable: &dyn Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<(), NextError> {
    let paths = socket.map_or_else(|| local::client_paths(variable), |socket| vec![socket]);
    let answer = ask(connect(&paths)?, machine, boot).map_err(NextError::BrokenOff)?;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let text = printable(text.trim());
    match head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 ") {
        true => writeln!(out, "{text}").map_err(NextError::BrokenOff),
        false => Err(NextError::Refused(text)),
    }
}

fn connect(paths: &[PathBuf]) -> Result<UnixStream, NextError> {
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
    Err(NextError::NoServer { places: places.join(" or "), error })
}

fn ask(mut stream: UnixStream, machine: Mac, boot: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let boot: String = boot.bytes().map(encoded).collect();
    let machine = machine.dashed();
    write!(stream, "POST /next/{machine}/{boot} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Encodes a byte of a path (RFC 3986 §2.1).
fn encoded(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    }
}
