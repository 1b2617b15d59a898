//! What is wrong with the images that are to be served: fatal when isowire starts, later a line of the log.

use std::io;
use std::path::PathBuf;

use super::scan::Origin;
use crate::boot::files::NameTaken;
use crate::boot::text::Word;
use crate::image::OpenError;

/// Something that the operator has to look after, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{error}{}", if *.stays { "; what was opened from it before is served on" } else { "" })]
    Unopened { error: OpenError, origin: Origin, stays: bool },
    #[error(
        "{}: its name `{name}` means {other} already: give it another `name` in an [[image]] of the configuration file, \
         or rename it", path.display()
    )]
    SameName { path: PathBuf, name: String, other: String },
    #[error("{}: {taken}", path.display())]
    Hidden { path: PathBuf, taken: NameTaken },
    #[error("{}: a folder of ISOs cannot have the name `{name}`: leave `name` out", path.display())]
    NamedFolder { path: PathBuf, name: Word },
    #[error("{}: no *.iso is in this folder: put one there, or name another folder", .0.display())]
    EmptyFolder(PathBuf),
    #[error("{}: this folder cannot be listed: {error}; check its permissions", path.display())]
    Unlisted { path: PathBuf, error: io::Error },
    #[error("no image to serve: no ISO of these folders can be opened: put a whole one there")]
    NothingOpens,
    #[error("no image is left to serve: the last ones are served on until there is one again")]
    NothingLeft,
}

impl Problem {
    /// Whether nothing is to be served because of it, when isowire starts. A folder is a folder: what else lies in it is
    /// no reason.
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::Unopened { origin: Origin::Folder, .. })
    }
}
