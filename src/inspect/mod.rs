//! `isowire inspect`: what an image holds, how it can boot and what would not work.

mod page;
mod report;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::image::{Image, OpenError};

pub(crate) use report::Report;

/// How the report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A page for a person.
    Text,
    /// One JSON document for a program.
    Json,
}

/// Why `inspect` ends with exit code 1: one line for the operator.
#[derive(Debug)]
pub enum InspectError {
    Open(OpenError),
    /// The report was printed nevertheless.
    NotArchiso(PathBuf),
    Output(io::Error),
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InspectError::Open(error) => write!(f, "{error}"),
            InspectError::NotArchiso(path) => write!(
                f,
                "{}: not an Arch ISO: no /DIRECTORY/ARCHITECTURE/airootfs.sfs or airootfs.erofs is in it; give an \
                 image made by mkarchiso",
                path.display()
            ),
            InspectError::Output(error) => write!(f, "the report cannot be written: {error}"),
        }
    }
}

impl std::error::Error for InspectError {}

/// Opens the image at `path` and prints what it is.
///
/// # Errors
/// [`InspectError`] when there is no usable image, when it is not one of archiso's, or when `out` cannot be written.
pub fn run(path: &Path, format: Format, out: &mut impl Write) -> Result<(), InspectError> {
    let image = Arc::new(Image::open(path).map_err(InspectError::Open)?);
    let report = Report::of(path, &image);
    match format {
        Format::Text => write!(out, "{}", page::Page(&report)),
        Format::Json => json(&report, out),
    }
    .or_else(ignore_reader_gone)
    .map_err(InspectError::Output)?;
    match report.archiso {
        Some(_) => Ok(()),
        None => Err(InspectError::NotArchiso(path.to_owned())),
    }
}

/// Whoever read the report has seen enough of it: `isowire inspect ISO | head`.
fn ignore_reader_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn json(report: &Report, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}
