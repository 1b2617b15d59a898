//! Errors of reading an image: the fault of its bytes or of its environment.

use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::{Path, PathBuf};

use crate::codec::Truncated;
use crate::store::FetchError;

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

/// Error of an image that cannot be opened, in one line: its path, the problem and the remedy.
#[derive(Debug)]
pub struct OpenError {
    pub path: PathBuf,
    pub fault: SurveyError,
}

impl Display for OpenError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (path, advice) = (self.path.display(), advice(&self.path));
        match (&self.fault, advice) {
            (SurveyError::Io(error), _) if FetchError::cause(error).is_some() => {
                write!(f, "{path}: object store: {error}")
            }
            (SurveyError::Io(error), Some(advice)) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "{path}: no such file; {advice}")
            }
            (fault, _) => write!(f, "{path}: {fault}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Returns what to do about a path that is missing because it means something else elsewhere.
fn advice(path: &Path) -> Option<&'static str> {
    if path.to_string_lossy().contains("://") {
        return Some("only `isowire serve` opens images in object stores: download it, and name the file");
    }
    let has_tilde = path.iter().any(|name| name == OsStr::new("~"));
    has_tilde.then_some("only a shell expands `~`: write the whole path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_path_gets_the_advice_that_it_needs() {
        let said = |path: &str, kind: io::ErrorKind| {
            OpenError { path: path.into(), fault: SurveyError::Io(kind.into()) }.to_string()
        };
        let missing = |path| said(path, io::ErrorKind::NotFound);
        let says = "s3://b/a.iso: no such file; only `isowire serve` opens images in object stores";
        assert!(missing("s3://b/a.iso").starts_with(says));
        let gone =
            OpenError { path: "s3://b/a.iso".into(), fault: io::Error::from(FetchError::NotFound).into() };
        assert_eq!(gone.to_string(), "s3://b/a.iso: object store: the store has no such object");
        assert!(missing("/etc/isowire/~/a.iso").ends_with("only a shell expands `~`: write the whole path"));
        assert!(missing("/srv/a~/a.iso").contains("cannot be read"));
        assert!(said("~/a.iso", io::ErrorKind::PermissionDenied).contains("cannot be read"));
    }
}
