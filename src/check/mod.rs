//! `isowire check`: plays a client through every door on loopback and compares every byte.
//!
//! The doors are those of `serve`, the clients are our own; they share the names of numbers with the servers and
//! nothing that could hide a mistake of theirs. What a client gets is compared with the image as it is read from its
//! file, and root images with the checksum that archiso wrote beside them.

mod connection;
mod doors;
mod http;
mod nbd;
mod nfs;
mod original;
mod report;
mod rpc;
pub mod sample;
mod tftp;

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::image::{Image, OpenError};

pub use doors::Doors;
pub use original::{Fault, Original, Tally};
pub use report::{Report, Row};

/// A door that gives nothing for this long is stuck. A cold disk is faster.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why `check` ends with exit code 1: one line for the operator.
#[derive(Debug)]
pub enum CheckError {
    Open(OpenError),
    /// The doors could not be opened, or the sample image not be made.
    System(io::Error),
    /// The report was printed.
    Bad {
        doors: usize,
        of: usize,
    },
    Output(io::Error),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "{error}"),
            Self::System(error) => write!(f, "the system does not let isowire check: {error}"),
            Self::Bad { doors, of } => write!(f, "{doors} of {of} doors did not pass the check"),
            Self::Output(error) => write!(f, "the table cannot be written: {error}"),
        }
    }
}

impl std::error::Error for CheckError {}

/// Checks the doors with the image at `iso`, or with a sample, and prints the table.
///
/// # Errors
/// [`CheckError`] when there is no usable image, a door has a fault, or `out` cannot be written.
pub fn run(iso: Option<&Path>, out: &mut impl Write) -> Result<(), CheckError> {
    let image = match iso {
        Some(path) => Image::open(path).map_err(CheckError::Open)?,
        None => sample_image()?,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(CheckError::System)?;
    let report = runtime.block_on(check(Arc::new(image))).map_err(CheckError::System)?;
    runtime.shutdown_background();
    let about =
        if iso.is_none() { "No ISO was given, so this is about a small sample image.\n\n" } else { "" };
    write!(out, "{about}{report}").map_err(CheckError::Output)?;
    match report.bad() {
        0 => Ok(()),
        doors => Err(CheckError::Bad { doors, of: report.rows.len() }),
    }
}

/// The sample image, in a file that has no name and goes with this process.
fn sample_image() -> Result<Image, CheckError> {
    let write = || {
        let mut file = File::from(memfd_create("isowire-sample", MemfdFlags::CLOEXEC)?);
        file.write_all(&sample::image())?;
        Ok(file)
    };
    let file = write().map_err(CheckError::System)?;
    // proc(5): opens the very same file.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Image::open(&path).map_err(CheckError::Open)
}

async fn check(image: Arc<Image>) -> io::Result<Report> {
    let doors = Doors::open(Arc::clone(&image)).await?;
    let mut original = Original::new(image, PATIENCE);
    original.progress = progress(work(&doors, &original));
    Ok(play(&doors, &original).await)
}

/// A bar on standard error, where a person looks at both streams.
fn progress(bytes: u64) -> ProgressBar {
    let look = "{prefix:<5} {wide_bar} {bytes:>11} of {total_bytes}, {binary_bytes_per_sec}, {eta} to go";
    match ProgressStyle::with_template(look) {
        // Where standard error is no terminal, the bar hides by itself.
        Ok(style) if io::stdout().is_terminal() => ProgressBar::new(bytes).with_style(style),
        _ => ProgressBar::hidden(),
    }
}

/// Bytes that all clients read.
fn work(doors: &Doors, original: &Original) -> u64 {
    nbd::work(original) + nfs::work(original) + http::work(doors, original) + tftp::work(doors, original)
}

/// Plays a client through one door after the other.
pub async fn play(doors: &Doors, original: &Original) -> Report {
    let rows = vec![
        row("NBD", original, async |tally| nbd::check(doors, original, tally).await).await,
        row("NFS", original, async |tally| nfs::check(doors, original, tally).await).await,
        row("HTTP", original, async |tally| http::check(doors, original, tally).await).await,
        row("TFTP", original, async |tally| tftp::check(doors, original, tally).await).await,
    ];
    original.progress.finish_and_clear();
    Report { rows, remarks: original.remarks.clone() }
}

async fn row(
    door: &'static str,
    original: &Original,
    client: impl AsyncFnOnce(&mut Tally) -> Result<(), Fault>,
) -> Row {
    original.progress.set_prefix(door);
    let (since, mut tally) = (Instant::now(), Tally::default());
    let verdict = client(&mut tally).await;
    Row { door, tally, time: since.elapsed(), verdict }
}
