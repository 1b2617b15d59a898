//! The ledger beside a cache file: which blocks of the object are there, and their checksums.
//!
//! ```text
//! 0     "isowire ledger 1"
//! 16    size of the object (8 bytes), size of a block (4), lengths of URL (2) and entity tag (2)
//! 32    URL, entity tag, CRC-32 of all bytes before
//! 4096  a record of 16 bytes for each block: "held" (4), CRC-32 of the block (4),
//!       number of the block (4), CRC-32 of these 12 bytes (4)
//! ```
//!
//! All numbers are little-endian. Anything else in the place of a record means that the block is not
//! there, so a record that was written in part loses its block, and nothing more.

use bytes::{BufMut, BytesMut};

use super::object::Object;
use crate::codec::{Reader, Truncated};

/// Bytes of a block. One that is fetched alone takes some milliseconds, and costs little more than a
/// smaller one.
pub(crate) const BLOCK: u64 = 1 << 20;

/// Bytes before the first record.
pub(crate) const HEAD_LEN: usize = 4096;

pub(crate) const RECORD_LEN: usize = 16;

/// Most blocks of an object: 4 TiB. A ledger of that many has 64 MiB.
const BLOCKS_MAX: u64 = 1 << 22;

const MAGIC: &[u8; 16] = b"isowire ledger 1";

const HELD: &[u8; 4] = b"held";

/// Reason for which a ledger is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("it is not a ledger of this version")]
    OtherVersion,
    #[error("it is damaged")]
    Malformed,
    #[error("the address of the object is too long, or the object is too large")]
    TooLarge,
}

impl From<Truncated> for LedgerError {
    fn from(_: Truncated) -> Self {
        Self::Malformed
    }
}

/// Returns the number of blocks of an object of `size` bytes.
pub(crate) const fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// Returns the place of a block's record in the ledger.
pub(crate) const fn record_offset(block: u64) -> u64 {
    HEAD_LEN as u64 + block * RECORD_LEN as u64
}

/// Parses the head of a ledger.
///
/// # Errors
/// [`LedgerError`]
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Object, LedgerError> {
    let mut reader = Reader::new(bytes);
    if reader.array::<16>().as_ref() != Ok(MAGIC) {
        return Err(LedgerError::OtherVersion);
    }
    let (size, block) = (reader.u64_le()?, reader.u32_le()?);
    let (url, etag) = (reader.u16_le()?, reader.u16_le()?);
    let [url, etag] = [reader.take(url.into())?, reader.take(etag.into())?];
    let checked = bytes.get(..bytes.len() - reader.remaining()).unwrap_or_default();
    if reader.u32_le()? != crc32fast::hash(checked) {
        return Err(LedgerError::Malformed);
    }
    if u64::from(block) != BLOCK {
        return Err(LedgerError::OtherVersion);
    }
    if blocks_of(size) > BLOCKS_MAX {
        return Err(LedgerError::TooLarge);
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| LedgerError::Malformed);
    Ok(Object { url: text(url)?, size, etag: text(etag)? })
}

/// Writes the head of a ledger, [`HEAD_LEN`] bytes.
///
/// # Errors
/// `TooLarge`
pub(crate) fn emit_head(object: &Object) -> Result<BytesMut, LedgerError> {
    let Object { url, size, etag } = object;
    let lengths = [url, etag].map(|text| u16::try_from(text.len()).ok());
    let [Some(url_len), Some(etag_len)] = lengths else { return Err(LedgerError::TooLarge) };
    let mut head = BytesMut::with_capacity(HEAD_LEN);
    head.put_slice(MAGIC);
    head.put_u64_le(*size);
    // The constant fits.
    head.put_u32_le(BLOCK as u32);
    head.put_u16_le(url_len);
    head.put_u16_le(etag_len);
    head.put_slice(url.as_bytes());
    head.put_slice(etag.as_bytes());
    head.put_u32_le(crc32fast::hash(&head));
    if head.len() > HEAD_LEN || blocks_of(*size) > BLOCKS_MAX {
        return Err(LedgerError::TooLarge);
    }
    head.resize(HEAD_LEN, 0);
    Ok(head)
}

/// Parses the record of a block; returns the checksum of its content, or `None` for a block that is
/// not there.
pub(crate) fn parse_record(record: &[u8], block: u64) -> Option<u32> {
    let mut reader = Reader::new(record);
    let state = reader.array::<4>().ok()?;
    let [content, number, check] = [reader.u32_le().ok()?, reader.u32_le().ok()?, reader.u32_le().ok()?];
    let checked = record.get(..RECORD_LEN - 4)?;
    let is_valid = state == *HELD && u64::from(number) == block && check == crc32fast::hash(checked);
    is_valid.then_some(content)
}

/// Writes the record of a block that is there, with the checksum of its content.
pub(crate) fn emit_record(block: u64, content: u32) -> [u8; RECORD_LEN] {
    let mut record = [0; RECORD_LEN];
    // At most BLOCKS_MAX.
    let number = (block as u32).to_le_bytes();
    let fields = HELD.iter().chain(&content.to_le_bytes()).chain(&number).copied().collect::<Vec<u8>>();
    let check = crc32fast::hash(&fields).to_le_bytes();
    for (slot, byte) in record.iter_mut().zip(fields.into_iter().chain(check)) {
        *slot = byte;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object { url: "s3://images/arch.iso".into(), size: 3 * BLOCK + 5, etag: "\"e\"".into() }
    }

    #[test]
    fn head_is_read_as_it_was_written() {
        let head = emit_head(&object()).unwrap();
        assert_eq!((head.len(), parse_head(&head)), (HEAD_LEN, Ok(object())));
        for at in 0..64 {
            let mut other = head.clone();
            other[at] ^= 1;
            assert_eq!(parse_head(&other).is_ok(), at >= 32 + 20 + 3 + 4, "byte {at}");
        }
        for len in 0..59 {
            assert!(parse_head(&head[..len]).is_err());
        }
    }

    #[test]
    fn head_of_another_version_is_told_apart() {
        let head = emit_head(&object()).unwrap();
        let mut next = head.clone();
        next[15] = b'2';
        assert_eq!(parse_head(&next), Err(LedgerError::OtherVersion));
        let too_long = |url: usize, size| emit_head(&Object { url: "x".repeat(url), size, ..object() });
        assert!(too_long(HEAD_LEN - 32 - 3 - 4, 0).is_ok());
        assert_eq!(too_long(HEAD_LEN - 32 - 3 - 3, 0), Err(LedgerError::TooLarge));
        assert_eq!(too_long(1 << 20, 0), Err(LedgerError::TooLarge));
        assert_eq!(too_long(1, u64::MAX), Err(LedgerError::TooLarge));
    }

    #[test]
    fn torn_record_is_an_absent_block() {
        let record = emit_record(7, 0x1234_5678);
        assert_eq!(parse_record(&record, 7), Some(0x1234_5678));
        assert_eq!(parse_record(&record, 8), None, "it is of another block");
        assert_eq!(parse_record(&[0; RECORD_LEN], 0), None);
        for len in 0..RECORD_LEN {
            assert_eq!(parse_record(&record[..len], 7), None);
            let torn = [&record[..len], &[0; RECORD_LEN][len..]].concat();
            assert_eq!(parse_record(&torn, 7), None, "{len}");
            let other = emit_record(7, 1);
            let mixed = [&record[..len], &other[len..]].concat();
            assert!(parse_record(&mixed, 7).is_none_or(|content| content == 1 && len <= 4), "{len}");
        }
    }
}
