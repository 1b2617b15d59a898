//! Errors of the images that are to be served: fatal when isowire starts, later a line of the log.

use std::io;
use std::path::PathBuf;

use super::served::HiddenNameError;
use crate::image::OpenError;

/// Reason for which a file is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateOrigin {
    /// The operator named it.
    Named,
    /// It lies in a folder.
    Folder,
}

/// Error about images that the operator has to mend, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{error}{}", if *.is_kept { "; the image opened from it before is still served" } else { "" })]
    Unopened { error: OpenError, origin: CandidateOrigin, is_kept: bool },
    #[error(
        "{}: the name `{name}` already means {other}: give this image another `name` in an [[image]] of the \
         configuration file, or rename it", path.display()
    )]
    SameName { path: PathBuf, name: String, other: String },
    #[error("{}: {hidden}", path.display())]
    Hidden { path: PathBuf, hidden: HiddenNameError },
    #[error("{}: a folder of ISOs cannot have a name (`{name}`): remove `name`", path.display())]
    NamedFolder { path: PathBuf, name: String },
    #[error("{}: folder without *.iso: put one there, or name another folder", .0.display())]
    EmptyFolder(PathBuf),
    #[error("{}: folder cannot be listed: {error}; check its permissions", path.display())]
    Unlisted { path: PathBuf, error: io::Error },
    #[error("no image to serve: no ISO in these folders can be opened: put a whole one there")]
    NothingOpens,
    #[error("no image left to serve: the last images are served until there is a new one")]
    NothingLeft,
}

impl ImageError {
    /// Tells whether isowire must not start with this error. A bad file in a folder is only a
    /// warning, since the operator did not name it.
    pub(crate) const fn is_fatal(&self) -> bool {
        !matches!(self, Self::Unopened { origin: CandidateOrigin::Folder, .. })
    }
}
