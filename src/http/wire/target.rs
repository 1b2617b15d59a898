//! Request targets (RFC 9112 §3.2), and names in references to them (RFC 3986).

use std::fmt;

use crate::codec::Reader;

/// The target names no path: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request target is no path of this server")]
pub(crate) struct TargetError;

/// The path of a target in origin-form or absolute-form, with its percent-encoding taken off, once. The query is passed
/// over: no file depends on one.
///
/// # Errors
/// [`TargetError`] for every other form, for a fragment, and for a `%` that encodes nothing.
pub(crate) fn path(target: &str) -> Result<Vec<u8>, TargetError> {
    let path = match target.strip_prefix('/') {
        Some(_) => target,
        // RFC 9112 §3.2.2: a server has to take the form that is meant for proxies.
        None => behind_authority(target).ok_or(TargetError)?,
    };
    match path.split('?').next().unwrap_or_default() {
        // RFC 9110 §4.2.3: the same as the root.
        "" => Ok(b"/".to_vec()),
        path if path.contains('#') => Err(TargetError),
        path => decode(path.as_bytes()),
    }
}

/// What follows `http://host:80`.
fn behind_authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    Some(rest.find(['/', '?', '#']).map_or("", |end| rest.split_at(end).1))
}

fn decode(text: &[u8]) -> Result<Vec<u8>, TargetError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut reader = Reader::new(text);
    while let Ok(byte) = reader.u8() {
        decoded.push(match byte {
            b'%' => reader.array().ok().and_then(octet).ok_or(TargetError)?,
            _ => byte,
        });
    }
    Ok(decoded)
}

fn octet([high, low]: [u8; 2]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

/// A name as one segment of a reference, percent-encoded: no byte of it has a meaning in HTML, in a header field or in
/// the reference itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment<'a>(pub &'a [u8]);

impl fmt::Display for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| match byte {
            // RFC 3986 §2.3: unreserved characters.
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                write!(f, "{}", char::from(byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}
