//! The stubs that a signed program can begin with.

use super::super::pe::{CERTIFICATES, PeError, Section};
use super::super::stub::Stub;
use crate::codec::{Reader, Truncated};

/// The first systemd whose stub starts the unsigned kernel inside a program that firmware accepted.
/// That of 247 ends in a page fault.
const VERSION_MIN: u32 = 252;

/// Offset of the number of data directories in the optional header of PE32+.
const DIRECTORY_COUNT_AT: usize = 108;

/// Error: a program with this stub cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsignableStubError {
    #[error(
        "the EFI stub of systemd {0} cannot start a kernel with Secure Boot; give one of systemd {VERSION_MIN} or later \
         with --stub FILE"
    )]
    Old(String),
    #[error(
        "the EFI stub has bytes between its sections, which firmware would not hash; give another with --stub FILE"
    )]
    Gaps,
    #[error("the EFI stub's header has no place for a signature; give another with --stub FILE")]
    NoDirectory,
}

/// Checks that a program which begins with `stub` can be signed.
///
/// # Errors
/// [`UnsignableStubError`] in one line.
pub(crate) fn check_signable(stub: &Stub) -> Result<(), UnsignableStubError> {
    let version: String = stub.version().chars().take_while(char::is_ascii_digit).collect();
    if version.parse::<u32>().is_ok_and(|version| version < VERSION_MIN) || version.is_empty() {
        return Err(UnsignableStubError::Old(stub.version().to_owned()));
    }
    if !has_directory(stub).unwrap_or(false) {
        return Err(UnsignableStubError::NoDirectory);
    }
    let sections = stub.headers.section_table(&stub.bytes).map_err(PeError::from);
    let is_linear = sections.is_ok_and(|sections| is_linear(stub, sections));
    if is_linear { Ok(()) } else { Err(UnsignableStubError::Gaps) }
}

/// Returns true if the header has a data directory for the certificate table.
fn has_directory(stub: &Stub) -> Result<bool, Truncated> {
    let mut header = Reader::new(&stub.bytes);
    header.skip(stub.headers.optional_at)?;
    let mut optional = header.sub(stub.headers.table_at - stub.headers.optional_at)?;
    optional.skip(DIRECTORY_COUNT_AT)?;
    let count = optional.u32_le()? as usize;
    Ok(count > CERTIFICATES && optional.remaining() >= (CERTIFICATES + 1) * 8)
}

/// Returns true if headers and sections follow each other without gaps. EDK2 hashes the headers,
/// then each section in the order of the file, and then what it has not counted from the end.
fn is_linear(stub: &Stub, mut sections: Vec<Section>) -> bool {
    sections.retain(|section| section.raw_size > 0);
    sections.sort_by_key(|section| section.raw_offset);
    let end = sections.iter().try_fold(stub.headers.headers_len, |end, section| {
        (section.raw_offset == end).then(|| end.checked_add(section.raw_size)).flatten()
    });
    // The next section begins at a multiple of the alignment.
    end.is_some_and(|end| end as usize == stub.bytes.len() && end.is_multiple_of(stub.headers.file_alignment))
}
