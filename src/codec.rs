//! Bounded reading of untrusted bytes.
//!
//! A [`Reader`] walks the bytes of a peer or an image front to back and never panics: running out
//! of input is the small error [`Truncated`]. A length prefix yields a sub-reader, so a nested
//! structure cannot read past its own end. All parsers in `*/wire` and `image/` are written on it.

use std::fmt;

/// Error of a read past the end of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("input ends in the middle of a value")
    }
}

impl std::error::Error for Truncated {}

/// A bounded cursor over untrusted bytes.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Creates a reader at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the number of unread bytes.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Returns `true` if every byte was read.
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the unread bytes without reading them.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads the next `n` bytes.
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], Truncated> {
        // A failed read leaves the reader as it was.
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Reads the next `N` bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Splits off a reader of the next `n` bytes; this reader continues after them.
    pub(crate) fn sub(&mut self, n: usize) -> Result<Reader<'a>, Truncated> {
        self.take(n).map(Reader::new)
    }

    /// Skips `n` bytes.
    pub(crate) fn skip(&mut self, n: usize) -> Result<(), Truncated> {
        self.take(n).map(drop)
    }

    /// Reads the bytes before the next zero byte, and drops that byte.
    pub(crate) fn until_nul(&mut self) -> Result<&'a [u8], Truncated> {
        let n = self.rest.iter().position(|&b| b == 0).ok_or(Truncated)?;
        let text = self.take(n)?;
        self.skip(1)?;
        Ok(text)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16_be(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32_be(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64_be(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn u16_le(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32_le(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64_le(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_past_the_end_takes_nothing() {
        let mut r = Reader::new(&[1, 0, 2, 3, 0, 0, 0, b'a', b'b', 0, 9]);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u16_be(), Ok(2));
        assert_eq!(r.u32_le(), Ok(3));
        assert_eq!(r.until_nul(), Ok(&b"ab"[..]));
        assert_eq!(r.u16_be(), Err(Truncated));
        assert_eq!(r.rest(), &[9], "a failed read takes nothing");
    }

    #[test]
    fn sub_reader_stays_in_its_part() {
        let mut r = Reader::new(&[1, 2, 3, 4]);
        let mut sub = r.sub(2).unwrap();
        assert_eq!(sub.u32_be(), Err(Truncated));
        assert_eq!(sub.take(2), Ok(&[1, 2][..]));
        assert!(sub.is_empty());
        assert_eq!(r.take(2), Ok(&[3, 4][..]));
        assert!(r.sub(1).is_err());
    }
}
