//! The Range field: the bytes of a file that a client wants (RFC 9110 §14.1.2 and §14.2).

use std::fmt;
use std::ops::Range;

/// Most ranges of one request; with more, the file is sent as a whole. RFC 9110 §14.2 lets a server
/// ignore many small ranges, which are a sign of an attack.
pub(crate) const RANGES_MAX: usize = 16;

/// Ranges of a file of a certain length that a Range field asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestedRanges {
    /// Everything: the field has another unit, is malformed, or has too many ranges.
    Whole,
    /// At least one byte. No byte is in two ranges, and no range ends where another begins.
    Parts(Vec<Range<u64>>),
    /// Nothing that the file has: not satisfiable.
    Nothing,
}

/// Reads the Range field for a file of `len` bytes.
pub(crate) fn wanted(field: &[u8], len: u64) -> RequestedRanges {
    // RFC 9110 §14.2 lets a server ignore a malformed field. iPXE asks for ranges with negative
    // numbers if an image is larger than it can count, and only a whole answer lets it go on.
    ranges(field, len).unwrap_or(RequestedRanges::Whole)
}

/// Returns `None` for a field that is ignored.
fn ranges(field: &[u8], len: u64) -> Option<RequestedRanges> {
    let (unit, specs) = field.split_at_checked(UNIT.len())?;
    // RFC 9110 §14.2: a server has to ignore an unknown unit, and may ignore the field for an empty
    // file, of which no Content-Range could be written.
    if !unit.eq_ignore_ascii_case(UNIT) || len == 0 {
        return None;
    }
    let specs = specs.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty());
    let mut parts = Vec::new();
    let mut count = 0;
    for spec in specs {
        let range = range(spec, len)?;
        if !range.is_empty() {
            join(&mut parts, range);
        }
        count += 1;
        if count > RANGES_MAX {
            return None;
        }
    }
    if count == 0 {
        return None;
    }
    Some(if parts.is_empty() { RequestedRanges::Nothing } else { RequestedRanges::Parts(parts) })
}

const UNIT: &[u8] = b"bytes=";

/// Returns the part of the file that one range of the list asks for; `None` if it is malformed.
fn range(spec: &[u8], len: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|&byte| byte == b'-')?;
    let (first, last) = spec.split_at_checked(dash)?;
    let last = last.strip_prefix(b"-")?;
    match (number(first)?, number(last)?) {
        (None, None) => None,
        // RFC 9110 §14.1.2: a suffix longer than the file means all of it.
        (None, Some(suffix)) => Some(len.saturating_sub(suffix)..len),
        (Some(first), None) => Some(first.min(len)..len),
        // RFC 9110 §14.1.1: "An int-range is invalid if the last-pos value is present and less than
        // the first-pos."
        (Some(first), Some(last)) if last < first => None,
        (Some(first), Some(last)) => Some(first.min(len)..last.saturating_add(1).min(len)),
    }
}

/// Parses `*DIGIT`: no number for no digits, and the largest of all for a larger one.
fn number(text: &[u8]) -> Option<Option<u64>> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // RFC 9110 §14.1.2: "recipients MUST anticipate potentially large decimal numerals".
    let value = text
        .iter()
        .fold(0u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some((!text.is_empty()).then_some(value))
}

/// Adds a range, and joins all that overlap or touch, in the place of the first of them.
fn join(parts: &mut Vec<Range<u64>>, range: Range<u64>) {
    // RFC 9110 §15.3.7.2: "a server MAY coalesce any of the ranges that overlap", so a client that
    // asks for the same bytes many times gets them once.
    let mut whole = range;
    let mut place = parts.len();
    while let Some(at) = parts.iter().position(|part| part.start <= whole.end && whole.start <= part.end) {
        let part = parts.remove(at);
        whole = whole.start.min(part.start)..whole.end.max(part.end);
        place = place.min(at);
    }
    parts.insert(place, whole);
}

/// Value of Content-Range: a part of a file, or only its length if no range was satisfiable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// Never empty.
    pub part: Option<Range<u64>>,
    /// Length of the whole file in bytes.
    pub of: u64,
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Some(part) => write!(f, "bytes {}-{}/{}", part.start, part.end.saturating_sub(1), self.of),
            // RFC 9110 §14.4: the form for a 416 response.
            None => write!(f, "bytes */{}", self.of),
        }
    }
}
