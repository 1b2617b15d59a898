//! Request targets (RFC 9112 §3.2), and names in references to them (RFC 3986).

use std::fmt;

use crate::codec::Reader;

/// A target that names no path: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request target is not a path of this server")]
pub(crate) struct TargetError;

/// Returns the path of a target in origin-form or absolute-form, percent-decoded once. The query is
/// ignored: no file depends on one.
///
/// # Errors
/// [`TargetError`] for every other form, for a fragment, and for a malformed percent-encoding.
pub(crate) fn path(target: &str) -> Result<Vec<u8>, TargetError> {
    let path = match target.strip_prefix('/') {
        Some(_) => target,
        // RFC 9112 §3.2.2: a server has to accept the form that is meant for proxies.
        None => after_authority(target).ok_or(TargetError)?,
    };
    match path.split('?').next().unwrap_or_default() {
        // RFC 9110 §4.2.3: an empty path is equivalent to "/".
        "" => Ok(b"/".to_vec()),
        // RFC 9112 §3.2: a request target has no fragment.
        path if path.contains('#') => Err(TargetError),
        path => decode(path.as_bytes()),
    }
}

/// Returns the query of a target; empty if it has none.
pub(crate) fn query(target: &str) -> &str {
    target.split_once('?').map_or("", |(_, query)| query)
}

/// Returns the part of a URI after `http://host:80`.
fn after_authority(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    Some(rest.find(['/', '?', '#']).map_or("", |end| rest.split_at(end).1))
}

pub(super) fn decode(text: &[u8]) -> Result<Vec<u8>, TargetError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut reader = Reader::new(text);
    while let Ok(byte) = reader.u8() {
        decoded.push(match byte {
            b'%' => octet(reader.array().map_err(|_| TargetError)?).ok_or(TargetError)?,
            _ => byte,
        });
    }
    Ok(decoded)
}

fn octet([high, low]: [u8; 2]) -> Option<u8> {
    Some(hex_digit(high)? << 4 | hex_digit(low)?)
}

fn hex_digit(digit: u8) -> Option<u8> {
    // At most 15, so the cast keeps the value.
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A name as one segment of a reference, percent-encoded: no byte of it has a meaning in HTML, in a
/// header field or in the reference itself.
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
