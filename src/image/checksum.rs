//! The checksum file that mkarchiso writes beside a root file system: the output of `sha512sum`.

use std::io::{self, ErrorKind};

use super::Image;
use super::arch::Airootfs;

/// Longest checksum file; `sha512sum` writes 128 digits and a name.
const FILE_MAX: u64 = 4096;

/// A SHA-512.
pub(crate) type Checksum = [u8; 64];

/// Error of a root file system without a checksum.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChecksumError {
    #[error("there is no airootfs.sha512 beside it")]
    Missing,
    #[error("airootfs.sha512 beside it is malformed")]
    Malformed,
    #[error("airootfs.sha512 beside it cannot be read: {0}")]
    Unread(io::Error),
}

/// Reads the checksum of a root file system.
///
/// # Errors
/// [`ChecksumError`]
pub(crate) fn read(image: &Image, root: &Airootfs) -> Result<Checksum, ChecksumError> {
    let file = root.sha512.ok_or(ChecksumError::Missing)?;
    let text = image.read(file, FILE_MAX).map_err(|error| match error.kind() {
        ErrorKind::FileTooLarge => ChecksumError::Malformed,
        _ => ChecksumError::Unread(error),
    })?;
    parse(&text).ok_or(ChecksumError::Malformed)
}

/// Parses the checksum in the first line of `sha512sum` output.
fn parse(text: &[u8]) -> Option<Checksum> {
    let digits = std::str::from_utf8(text.get(..128)?).ok()?;
    // `from_str_radix` would take `+f` for a byte.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut checksum = [0; 64];
    for (position, byte) in checksum.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * position..2 * position + 2)?, 16).ok()?;
    }
    Some(checksum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_parsed_from_sha512sum() {
        let digits = "0f".repeat(64);
        assert_eq!(parse(format!("{digits}  airootfs.sfs\n").as_bytes()), Some([0x0f; 64]));
        assert_eq!(parse(digits.to_uppercase().as_bytes()), Some([0x0f; 64]));
        for wrong in ["", &digits[1..], &digits.replacen('0', "g", 1), &digits.replacen("0f", "+f", 1), "ž"]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
