//! `isowire next`: tells a running server what a machine boots next.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use super::control::{self, ControlError};
use crate::machines::Mac;

/// Tells the server at `socket`, or the one of this user or host, what a machine boots next, and
/// prints its answer. `variable` looks up an environment variable.
///
/// # Errors
/// [`ControlError`]
pub fn next(
    machine: Mac,
    boot: &str,
    socket: Option<PathBuf>,
    variable: &dyn Fn(&str) -> Option<OsString>,
    out: &mut impl Write,
) -> Result<(), ControlError> {
    let (machine, boot): (_, String) = (machine.dashed(), boot.bytes().map(encoded).collect());
    let places = control::places(socket, variable);
    let text = control::call(&places, "POST", &format!("/next/{machine}/{boot}"))?;
    writeln!(out, "{text}").map_err(ControlError::BrokenOff)
}

/// Encodes a byte of a path (RFC 3986 §2.1).
fn encoded(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    }
}
