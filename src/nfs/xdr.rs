//! XDR, the external data representation (RFC 4506): big-endian values in units of four bytes.
//!
//! [`Reader`] itself reads integers and arrays of fixed length. This module has the rules of XDR:
//! lengths that come from the peer, and padding. Parsing neither copies nor allocates.

use crate::codec::{Reader, Truncated};

/// Error of bytes that are not the expected values: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XdrParseError {
    #[error("the arguments end in the middle of a value")]
    Truncated,
    #[error("a value of {len} bytes exceeds the limit of {max}")]
    TooLong { len: usize, max: usize },
}

impl From<Truncated> for XdrParseError {
    fn from(_: Truncated) -> Self {
        XdrParseError::Truncated
    }
}

/// Returns the bytes of padding after `len` bytes (RFC 4506 §3: up to a multiple of four).
pub(crate) const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// Parses `opaque<max>` or `string<max>` (RFC 4506 §4.10 and §4.11), without its padding.
///
/// # Errors
/// [`XdrParseError::TooLong`] for more than `max` bytes that are all there; the reader then
/// continues after them.
pub(crate) fn opaque<'a>(reader: &mut Reader<'a>, max: usize) -> Result<&'a [u8], XdrParseError> {
    let len = reader.u32_be()? as usize;
    let bytes = reader.take(len)?;
    // RFC 4506 §3: the padding is of zero bytes. Others would be harmless, so they are not checked.
    reader.skip(padding(len))?;
    if len > max {
        return Err(XdrParseError::TooLong { len, max });
    }
    Ok(bytes)
}

/// Appends values to a buffer that may hold other replies.
#[derive(Debug)]
pub struct Emitter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Emitter<'a> {
    /// Creates an emitter that appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// Returns the number of bytes appended so far.
    pub(crate) const fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Removes what was appended after the first `len` bytes.
    pub(crate) fn rewind(&mut self, len: usize) {
        self.out.truncate(self.start + len);
    }

    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// Appends `opaque[N]` (RFC 4506 §4.9): the bytes and their padding.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.extend(std::iter::repeat_n(0, padding(bytes.len())));
    }

    /// Appends `opaque<>` or `string<>`: the length, the bytes, their padding.
    pub fn opaque(&mut self, bytes: &[u8]) {
        // The cast keeps the value: these are names, paths and handles, far below 4 GiB.
        self.u32(bytes.len() as u32);
        self.fixed(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opaque_is_padded_to_four_bytes() {
        let mut reader = Reader::new(b"\0\0\0\x03abc\0\0\0\0\x04wxyz\0\0\0\0!");
        assert_eq!(opaque(&mut reader, 3), Ok(&b"abc"[..]));
        assert_eq!(opaque(&mut reader, 9), Ok(&b"wxyz"[..]));
        assert_eq!(opaque(&mut reader, 0), Ok(&b""[..]));
        assert_eq!(reader.rest(), b"!");
    }

    #[test]
    fn opaque_length_is_checked_twice() {
        let mut huge = Reader::new(b"\xff\xff\xff\xffabcd");
        assert_eq!(opaque(&mut huge, 64), Err(XdrParseError::Truncated));
        let mut unpadded = Reader::new(b"\0\0\0\x03abc");
        assert_eq!(opaque(&mut unpadded, 64), Err(XdrParseError::Truncated));
        let mut long = Reader::new(b"\0\0\0\x05abcde\0\0\0!");
        assert_eq!(opaque(&mut long, 4), Err(XdrParseError::TooLong { len: 5, max: 4 }));
        assert_eq!(long.rest(), b"!", "the reader continues after it");
    }

    #[test]
    fn emitted_values_parse_again() {
        let mut out = b"other".to_vec();
        let mut emitter = Emitter::new(&mut out);
        emitter.u32(7);
        emitter.u64(1 << 40);
        emitter.boolean(true);
        (0..=5).for_each(|len| emitter.opaque(&b"bytes"[..len]));
        assert_eq!(emitter.len(), 4 + 8 + 4 + 4 + 4 * 8 + 12);
        let mut reader = Reader::new(out.strip_prefix(b"other").unwrap());
        assert_eq!(reader.u32_be(), Ok(7));
        assert_eq!(reader.u64_be(), Ok(1 << 40));
        assert_eq!(reader.u32_be(), Ok(1));
        (0..=5).for_each(|len| assert_eq!(opaque(&mut reader, 5), Ok(&b"bytes"[..len])));
        assert!(reader.is_empty());
    }

    #[test]
    fn rewind_keeps_earlier_bytes() {
        let mut out = b"other".to_vec();
        let mut emitter = Emitter::new(&mut out);
        emitter.u32(1);
        emitter.opaque(b"gone");
        emitter.rewind(4);
        assert_eq!(out, b"other\0\0\0\x01");
    }
}
