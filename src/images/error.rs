//! Errors of the images that are to be served. When isowire starts, those in what the operator
//! named are fatal; all others are a line of the log.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::served::{CandidateOrigin, HiddenNameError};
use crate::image::{OpenError, SurveyError};
use crate::store::FetchError;

/// Error about images that the operator has to mend, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{error}{}", if *.is_kept { "; the image opened from it before is still served" } else { "" })]
    Unopened { error: OpenError, origin: CandidateOrigin, is_kept: bool },
    #[error(
        "{}: image not offered: {why}{}", path.display(),
        if *.is_kept { "; the image opened from it before is still served" } else { "" }
    )]
    Unverified { path: PathBuf, why: String, is_kept: bool },
    #[error(
        "{}: the name `{name}` already means {other}: give this image another `name` in an [[image]] of the \
         configuration file, or rename it", path.display()
    )]
    SameName { path: PathBuf, name: String, other: String, origin: CandidateOrigin },
    #[error("{}: {hidden}", path.display())]
    Hidden { path: PathBuf, hidden: HiddenNameError, origin: CandidateOrigin },
    #[error("{}: a folder of ISOs cannot have a name (`{name}`): remove `name`", path.display())]
    NamedFolder { path: PathBuf, name: String },
    #[error("{}: folder without *.iso: put one there, or name another folder", .0.display())]
    EmptyFolder(PathBuf),
    #[error("{}: folder cannot be listed: {error}; check its permissions", path.display())]
    Unlisted { path: PathBuf, error: io::Error },
    #[error(
        "{}: object store: {error}; {}{}", path.display(), advice(error, path, *.is_folder),
        if *.is_kept { "; images of it that are known are still served" } else { "" }
    )]
    Unreachable { path: PathBuf, error: FetchError, is_folder: bool, is_kept: bool },
    #[error("no image to serve: no ISO in these folders can be opened: put a whole one there")]
    NothingOpens,
    #[error("no image left to serve: the last images are served until there is a new one")]
    NothingLeft,
}

impl ImageError {
    /// Tells whether the system refused to open the file or the folder.
    pub(crate) fn is_denied(&self) -> bool {
        let error = match self {
            Self::Unopened { error: OpenError { fault: SurveyError::Io(error), .. }, .. } => error,
            Self::Unlisted { error, .. } => error,
            _ => return false,
        };
        // A store refuses otherwise than the sandbox.
        error.kind() == ErrorKind::PermissionDenied && FetchError::cause(error).is_none()
    }

    /// Tells whether isowire must not start with this error. Files in a folder come and go without
    /// the operator's word, so they cost only themselves.
    pub(crate) const fn is_fatal(&self) -> bool {
        match self {
            Self::Unopened { origin, .. } | Self::SameName { origin, .. } | Self::Hidden { origin, .. } => {
                matches!(origin, CandidateOrigin::Named)
            }
            // The operator named an object that is not there.
            Self::Unreachable { error: FetchError::NotFound, is_folder: false, .. } => true,
            // The other images go on, and a store comes back.
            Self::Unreachable { .. }
            | Self::Unverified { .. }
            | Self::EmptyFolder(_)
            | Self::Unlisted { .. } => false,
            Self::NamedFolder { .. } | Self::NothingOpens | Self::NothingLeft => true,
        }
    }

    /// Tells whether this error is about an image that failed its verification.
    pub(crate) const fn is_of_verification(&self) -> bool {
        matches!(self, Self::Unverified { .. })
    }

    /// Tells whether this error is about a folder or a store, and not about one file of it.
    pub(crate) const fn is_of_folder(&self) -> bool {
        matches!(self, Self::EmptyFolder(_) | Self::Unlisted { .. } | Self::Unreachable { .. })
    }
}

/// Returns what to do about an object store that does not list what was named.
fn advice(error: &FetchError, path: &Path, is_folder: bool) -> &'static str {
    let is_bucket = path.starts_with("s3:");
    match error {
        FetchError::Certificate(fault) => fault.advice(),
        FetchError::Credentials(_) => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or have both in ~/.aws/credentials"
        }
        FetchError::NotFound if !is_bucket => "check its address",
        FetchError::Refused(_) if !is_bucket => "check whether anybody may read it",
        FetchError::Replaced | FetchError::Unreachable(_) if !is_bucket => {
            "check its address and the network"
        }
        FetchError::NotFound if is_folder => "check the name of the bucket, and AWS_ENDPOINT",
        FetchError::NotFound => "check its name; that of a folder ends with `/`",
        FetchError::Refused(_) => {
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or those in ~/.aws/credentials, and \
             whether they may read the bucket"
        }
        FetchError::Replaced | FetchError::Unreachable(_) => "check AWS_ENDPOINT and the network",
    }
}
