//! The operator's own files for machines: read below one folder, and made for each machine where
//! they are templates.

mod files;
#[expect(clippy::disallowed_methods, reason = "the shell reads files")]
mod folder;
mod template;

pub(crate) use files::{FileCall, OperatorFileError, OperatorFiles};
pub(crate) use folder::{Folder, FolderError};
use template::Facts;

use std::path::PathBuf;

use crate::boot::operator_path::TEMPLATE;

impl Folder {
    /// Returns the file with these names for a machine. A template is rendered as a whole first.
    ///
    /// # Errors
    /// [`FolderError`], for the log.
    pub(crate) fn file_for(&self, names: &[&str], facts: &Facts) -> Result<Vec<u8>, FolderError> {
        let path = names.join("/");
        match self.read(&path) {
            Err(FolderError::NotFound) => {
                let path = format!("{path}{TEMPLATE}");
                template::render(&self.place(&path), &self.read(&path)?, facts).map(String::into_bytes)
            }
            read => read,
        }
    }

    /// Returns whether there is a file with this path, or a template for it.
    pub(crate) fn has(&self, path: &str) -> bool {
        [path, &format!("{path}{TEMPLATE}")].iter().any(|path| self.read(path).is_ok())
    }

    /// Checks all files: that they can be read, are not too large, and that templates are
    /// templates. Returns their paths.
    ///
    /// # Errors
    /// [`FolderError`] of the first that is not good.
    pub(crate) fn check(&self) -> Result<Vec<PathBuf>, FolderError> {
        let paths = self.walk()?;
        for path in paths.iter().filter(|path| path.ends_with(TEMPLATE)) {
            template::check(&self.place(path), &self.read(path)?)?;
        }
        Ok(paths.iter().map(|path| self.path().join(path)).collect())
    }
}
