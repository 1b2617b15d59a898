//! `isowire inspect`: describes the content of an image and how machines can boot it.

mod network_boot;
mod page;
mod report;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config;
use crate::image::{Image, OpenError};
use crate::x509::Certificate;

pub(crate) use network_boot::{FirmwareBoot, RootSupport, by_firmware, root_support};

use report::InspectReport;

/// Output format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Page for people.
    Text,
    /// JSON document for programs.
    Json,
}

/// An error that ends `inspect` with exit code 1, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The report was printed nevertheless.
    #[error(
        "{}: not an Arch ISO: no /DIRECTORY/ARCHITECTURE/airootfs.sfs or airootfs.erofs is in it; give an \
         image made by mkarchiso",
        .0.display()
    )]
    NotArchiso(PathBuf),
    #[error("--secure-boot-certificate: `{}`: {why}", path.display())]
    Certificate { path: PathBuf, why: String },
    #[error("report cannot be written: {0}")]
    Output(io::Error),
}

/// Opens the image at `path` and prints its report, with the signer if a certificate for Secure
/// Boot is named.
///
/// # Errors
/// [`InspectError`] when the image cannot be used, archiso did not make it, or `out` cannot be
/// written.
pub fn run(
    path: &Path,
    certificate: Option<&Path>,
    format: Format,
    out: &mut impl Write,
) -> Result<(), InspectError> {
    let certificate = certificate.map(read_certificate).transpose()?;
    let image = Arc::new(Image::open(path)?);
    let report = InspectReport::of(path, &image, certificate.as_ref());
    match format {
        Format::Text => write!(out, "{}", page::InspectPage(&report)),
        Format::Json => json(&report, out),
    }
    .or_else(ignore_reader_gone)
    .map_err(InspectError::Output)?;
    // Another ISO is described too: the report shows what it is instead.
    match report.archiso {
        Some(_) => Ok(()),
        None => Err(InspectError::NotArchiso(path.to_owned())),
    }
}

fn read_certificate(path: &Path) -> Result<Certificate, InspectError> {
    config::certificate(path).map_err(|why| InspectError::Certificate { path: path.to_owned(), why })
}

/// Accepts that the reader closes the pipe early, as in `isowire inspect ISO | head`.
fn ignore_reader_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn json(report: &InspectReport, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    // serde_json ends without a newline, and a shell prompt would follow the last brace.
    writeln!(out)
}
