//! Errors of reading an image: the fault of its bytes or of its environment.

use std::io;

use crate::codec::Truncated;

/// Error of a structure that is not valid: the image's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub &'static str);

impl From<Truncated> for FormatError {
    fn from(_: Truncated) -> Self {
        FormatError("a structure ends in the middle of a value")
    }
}

/// Error of an image that cannot be used, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error("cannot be read: {0}; check the path, its permissions and the disk")]
    Io(#[from] io::Error),
    #[error("not an ISO 9660 image: the file {0}; give the .iso file as it was published")]
    NotIso(&'static str),
    #[error("unsupported logical blocks of {0} bytes, expected 2048; create the image again with xorriso")]
    BlockSize(u16),
    #[error("truncated: {len} of {needed} bytes; download or copy the image again")]
    Truncated { len: u64, needed: u64 },
    #[error("damaged: {0}; compare the checksum of the image with the published one")]
    Damaged(&'static str),
}

impl From<FormatError> for SurveyError {
    fn from(FormatError(what): FormatError) -> Self {
        SurveyError::Damaged(what)
    }
}
