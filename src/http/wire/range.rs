//! The Range field: which bytes of a file a client wants (RFC 9110 §14.1.2 and §14.2).

use std::fmt;
use std::ops::Range;

/// Most ranges of one request that are looked at; with more, the file is sent as a whole.
pub(crate) const RANGES_MAX: usize = 16;

/// What a Range field asks for, of a file of a certain length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestedRanges {
    /// Everything: the field is in another unit, or makes no sense, or asks for too much at once.
    Whole,
    /// These bytes, at least one: no byte is in two ranges, and no range ends where another begins.
    Parts(Vec<Range<u64>>),
    /// The field makes sense, and the file has nothing of it.
    Nothing,
}

/// Reads the Range field for a file of `len` bytes.
///
/// RFC 9110 §14.2 lets a server ignore what is malformed or asks for many ranges. We do: iPXE asks for ranges with
/// negative numbers of images that are larger than it can count, and lives on a whole answer only.
pub(crate) fn wanted(field: &[u8], len: u64) -> RequestedRanges {
    ranges(field, len).unwrap_or(RequestedRanges::Whole)
}

/// `None` for a field that is ignored. So it is for an empty file: there is no Content-Range of no bytes.
fn ranges(field: &[u8], len: u64) -> Option<RequestedRanges> {
    let (unit, specs) = field.split_at_checked(UNIT.len())?;
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

/// The part of the file that one range of the list asks for; `None` when it makes no sense.
fn range(spec: &[u8], len: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|&byte| byte == b'-')?;
    let (first, last) = spec.split_at_checked(dash)?;
    let last = last.strip_prefix(b"-")?;
    match (number(first)?, number(last)?) {
        (None, None) => None,
        (None, Some(suffix)) => Some(len.saturating_sub(suffix)..len),
        (Some(first), None) => Some(first.min(len)..len),
        (Some(first), Some(last)) if last < first => None,
        (Some(first), Some(last)) => Some(first.min(len)..last.saturating_add(1).min(len)),
    }
}

/// `*DIGIT`: no number for no digits, and the largest there is for one that is larger.
fn number(text: &[u8]) -> Option<Option<u64>> {
    let add = |number: u64, &digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((!text.is_empty()).then(|| text.iter().fold(0, add)))
}

/// Adds a range, and makes one of all that overlap or touch, in the place of the first of them: a client that asks for
/// the same bytes many times gets them once (RFC 9110 §15.3.7.2).
fn join(parts: &mut Vec<Range<u64>>, range: Range<u64>) {
    let mut whole = range;
    let mut place = parts.len();
    while let Some(at) = parts.iter().position(|part| part.start <= whole.end && whole.start <= part.end) {
        let part = parts.remove(at);
        whole = whole.start.min(part.start)..whole.end.max(part.end);
        place = place.min(at);
    }
    parts.insert(place, whole);
}

/// The value of Content-Range: a part of a file, or the length of a file of which nothing was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// Not empty.
    pub part: Option<Range<u64>>,
    /// Length of the whole file in bytes.
    pub of: u64,
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Some(part) => write!(f, "bytes {}-{}/{}", part.start, part.end.saturating_sub(1), self.of),
            None => write!(f, "bytes */{}", self.of),
        }
    }
}
