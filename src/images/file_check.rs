//! The check of open files: whether images were overwritten in place, and whether those that were
//! are as they were.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use tracing::{debug, warn};

use super::{ImageSet, ServedImage, verify};
use crate::image::{Image, SurveyError};

impl ImageSet {
    /// Looks at the file of each known image; a changed one that rests since the last call is
    /// compared with its image. Waits for disks.
    pub(crate) fn check_files(&self) {
        self.known().for_each(|served| check_file(served));
    }
}

fn check_file(served: &ServedImage) {
    let source = &served.image.source;
    let Some(mark) = source.check_file(Instant::now()) else { return };
    match is_same(&served.image) {
        Ok(is_same) => {
            if !is_same {
                let (image, path) = (served.versioned_name(), served.path().display());
                warn!(image, %path, "image file has another content now; its clients wait until it is restored");
            }
            source.compared(mark, is_same, Instant::now());
        }
        // The next check compares it again. That its clients wait is told already.
        Err(error) => debug!(image = served.name, "changed image file not compared: {error}"),
    }
}

/// Compares what the file of an image holds with the image: its tree, and its root file systems by
/// their checksums.
///
/// # Errors
/// That of reading the file.
fn is_same(image: &Image) -> io::Result<bool> {
    let file = image.source.as_fd().try_clone_to_owned()?;
    match Image::of_file(file.into()) {
        Ok(now) => Ok(now.identity == image.identity && verify::is_intact(&now)?),
        Err(SurveyError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        Err(_) => Ok(false),
    }
}
