//! XDR, the external data representation (RFC 4506): big-endian values in units of four bytes.
//!
//! Integers and fixed-length arrays are read with [`Reader`] itself. What needs a rule of XDR is here: booleans,
//! lengths that come from the peer, and padding. Nothing is copied or allocated while reading.

use crate::codec::{Reader, Truncated};

/// The bytes are not what the call says they are: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XdrParseError {
    #[error("the arguments end in the middle of a value")]
    Truncated,
    #[error("{len} bytes where at most {max} may be")]
    TooLong { len: usize, max: usize },
}

impl From<Truncated> for XdrParseError {
    fn from(_: Truncated) -> Self {
        XdrParseError::Truncated
    }
}

/// Bytes of padding behind `len` bytes (RFC 4506 §3: up to the next multiple of four).
pub(crate) const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// `opaque<max>` or `string<max>` (RFC 4506 §4.10 and §4.11), without its padding.
///
/// # Errors
/// [`XdrParseError::TooLong`] for more than `max` bytes that are all there; the bytes and their padding are read then.
pub(crate) fn opaque<'a>(reader: &mut Reader<'a>, max: usize) -> Result<&'a [u8], XdrParseError> {
    let len = reader.u32_be()? as usize;
    let bytes = reader.take(len)?;
    reader.skip(padding(len))?;
    if len > max {
        return Err(XdrParseError::TooLong { len, max });
    }
    Ok(bytes)
}

/// Appends values to a buffer that holds other replies already.
#[derive(Debug)]
pub struct Emitter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Emitter<'a> {
    /// Appends to `out`, and leaves alone what is in it.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self { out, start }
    }

    /// Bytes appended so far.
    pub(crate) const fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Takes back what was appended behind the first `len` bytes.
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

    /// `opaque[N]`: the bytes and their padding.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.extend(std::iter::repeat_n(0, padding(bytes.len())));
    }

    /// `opaque<>` or `string<>`: the length, the bytes, their padding.
    pub fn opaque(&mut self, bytes: &[u8]) {
        // Names, paths and handles of ours: far below 4 GiB.
        self.u32(bytes.len() as u32);
        self.fixed(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_ends_at_a_multiple_of_four() {
        let mut reader = Reader::new(b"\0\0\0\x03abc\0\0\0\0\x04wxyz\0\0\0\0!");
        assert_eq!(opaque(&mut reader, 3), Ok(&b"abc"[..]));
        assert_eq!(opaque(&mut reader, 9), Ok(&b"wxyz"[..]));
        assert_eq!(opaque(&mut reader, 0), Ok(&b""[..]));
        assert_eq!(reader.rest(), b"!");
    }

    #[test]
    fn a_length_is_held_against_the_input_first_and_then_against_its_limit() {
        let mut huge = Reader::new(b"\xff\xff\xff\xffabcd");
        assert_eq!(opaque(&mut huge, 64), Err(XdrParseError::Truncated));
        let mut unpadded = Reader::new(b"\0\0\0\x03abc");
        assert_eq!(opaque(&mut unpadded, 64), Err(XdrParseError::Truncated));
        let mut long = Reader::new(b"\0\0\0\x05abcde\0\0\0!");
        assert_eq!(opaque(&mut long, 4), Err(XdrParseError::TooLong { len: 5, max: 4 }));
        assert_eq!(long.rest(), b"!", "who asked can go on behind it");
    }

    #[test]
    fn what_is_emitted_is_read_again() {
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
    fn only_what_this_emitter_wrote_is_taken_back() {
        let mut out = b"other".to_vec();
        let mut emitter = Emitter::new(&mut out);
        emitter.u32(1);
        emitter.opaque(b"gone");
        emitter.rewind(4);
        assert_eq!(out, b"other\0\0\0\x01");
    }
}
