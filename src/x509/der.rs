//! DER (ITU-T X.690), as much of it as certificates and signatures need.

use crate::codec::{Reader, Truncated};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Returns the tag `[number]` of a constructed element; `number` is below 31.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Encodes an element whose content is these parts, one behind the other.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut bytes = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short @ ..=0x7f) => bytes.push(short),
        _ => {
            let len = content.len().to_be_bytes();
            let len: Vec<u8> = len.into_iter().skip_while(|&byte| byte == 0).collect();
            // A usize has eight bytes at most.
            bytes.push(0x80 | len.len() as u8);
            bytes.extend(len);
        }
    }
    bytes.extend(content);
    bytes
}

/// Encodes an `AlgorithmIdentifier` (RFC 5280 §4.1.1.2) with the parameters NULL.
pub(crate) fn algorithm(identifier: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[&element(OBJECT_IDENTIFIER, &[identifier]), &[NULL, 0]])
}

/// An element that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// The content with its tag and length.
    pub(crate) whole: &'a [u8],
}

/// Input that is not the element that was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Self
    }
}

/// Reads the next element.
///
/// # Errors
/// [`Malformed`] also for forms that DER or our structures do not have: tags above 30, lengths of
/// more than four bytes.
pub(crate) fn next<'a>(reader: &mut Reader<'a>) -> Result<Element<'a>, Malformed> {
    let start = reader.rest();
    let tag = reader.u8()?;
    let len = match reader.u8()? {
        short @ ..=0x7f => usize::from(short),
        // 0x80 is the indefinite length of BER (X.690 §8.1.3.6).
        long @ 0x81..=0x84 => {
            let bytes = reader.take(usize::from(long & 0x7f))?;
            bytes.iter().fold(0, |len, &byte| len << 8 | usize::from(byte))
        }
        _ => return Err(Malformed),
    };
    let content = reader.take(len)?;
    let whole = start.get(..start.len() - reader.remaining()).ok_or(Malformed)?;
    if tag & 0x1f == 0x1f { Err(Malformed) } else { Ok(Element { tag, content, whole }) }
}

/// Reads the next element, which has this tag.
///
/// # Errors
/// [`Malformed`] for any other one.
pub(crate) fn expect<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<Element<'a>, Malformed> {
    next(reader).and_then(|element| if element.tag == tag { Ok(element) } else { Err(Malformed) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_is_read_as_it_was_written() {
        for len in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x1_0000] {
            let content = vec![7; len];
            let bytes = element(SEQUENCE, &[&content, &[9]]);
            let mut reader = Reader::new(&bytes);
            let element = next(&mut reader).unwrap();
            assert_eq!((element.tag, element.content.len(), element.whole), (SEQUENCE, len + 1, &bytes[..]));
            assert!(reader.is_empty());
            for cut in 0..bytes.len().min(300) {
                assert_eq!(next(&mut Reader::new(&bytes[..cut])), Err(Malformed));
            }
        }
    }

    #[test]
    fn length_has_the_short_form_where_it_can() {
        assert_eq!(element(SET, &[&[1; 0x7f]])[..2], [SET, 0x7f]);
        assert_eq!(element(SET, &[&[1; 0x80]])[..3], [SET, 0x81, 0x80]);
        assert_eq!(element(SET, &[&[1; 0x100]])[..4], [SET, 0x82, 1, 0]);
    }

    #[test]
    fn other_forms_are_refused() {
        for bytes in [&[SEQUENCE, 0x80, 0, 0][..], &[SEQUENCE, 0x85, 0, 0, 0, 0, 0], &[0x1f, 1, 0], &[]] {
            assert_eq!(next(&mut Reader::new(bytes)), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(expect(&mut Reader::new(&[SET, 0]), SEQUENCE), Err(Malformed));
    }
}
