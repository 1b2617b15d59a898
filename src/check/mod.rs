//! `isowire check`: runs a client for every protocol on loopback and compares every byte.
//!
//! The servers are those of `serve`. The clients are separate code that shares only the names of
//! protocol constants with the servers, so that it cannot share their mistakes. Content is compared
//! with the image file, and root images also with the checksum that archiso wrote beside them.

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

pub use doors::CheckedServers;
pub use original::{CheckTally, Fault, Original};
pub use report::{CheckReport, CheckRow};

/// Longest wait for the next bytes of a server. A cold disk is faster.
const PATIENCE: Duration = Duration::from_secs(20);

/// An error that ends `check` with exit code 1, in one line for the operator.
#[derive(Debug)]
pub enum CheckError {
    Open(OpenError),
    /// A server could not be started, or the sample image could not be written.
    System(io::Error),
    /// Some protocols failed; the report was printed.
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
            Self::System(error) => write!(f, "check cannot be started: {error}"),
            Self::Bad { doors, of } => write!(f, "{doors} of {of} doors did not pass the check"),
            Self::Output(error) => write!(f, "report cannot be written: {error}"),
        }
    }
}

impl std::error::Error for CheckError {}

/// Checks all protocols with the image at `iso`, or with a sample, and prints the table.
///
/// # Errors
/// [`CheckError`] when no image is usable, a protocol fails, or `out` cannot be written.
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

/// Opens the sample image, in an unnamed file that lives as long as this process.
fn sample_image() -> Result<Image, CheckError> {
    let file = sample_file().map_err(CheckError::System)?;
    // proc(5): this path opens the same file.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Image::open(&path).map_err(CheckError::Open)
}

fn sample_file() -> io::Result<File> {
    let mut file = File::from(memfd_create("isowire-sample", MemfdFlags::CLOEXEC)?);
    file.write_all(&sample::image())?;
    Ok(file)
}

async fn check(image: Arc<Image>) -> io::Result<CheckReport> {
    let doors = CheckedServers::open(Arc::clone(&image)).await?;
    let mut original = Original::new(image, PATIENCE);
    original.progress = progress(work(&doors, &original));
    Ok(play(&doors, &original).await)
}

/// Returns a progress bar on standard error if standard output is a terminal.
fn progress(bytes: u64) -> ProgressBar {
    let look = "{prefix:<5} {wide_bar} {bytes:>11} of {total_bytes}, {binary_bytes_per_sec}, {eta} to go";
    match ProgressStyle::with_template(look) {
        // indicatif hides the bar by itself if standard error is not a terminal.
        Ok(style) if io::stdout().is_terminal() => ProgressBar::new(bytes).with_style(style),
        _ => ProgressBar::hidden(),
    }
}

/// Returns the number of bytes that all clients read.
fn work(doors: &CheckedServers, original: &Original) -> u64 {
    nbd::work(original) + nfs::work(original) + http::work(doors, original) + tftp::work(doors, original)
}

/// Runs a client for one protocol after the other.
pub async fn play(doors: &CheckedServers, original: &Original) -> CheckReport {
    let rows = vec![
        row("NBD", original, async |tally| nbd::check(doors, original, tally).await).await,
        row("NFS", original, async |tally| nfs::check(doors, original, tally).await).await,
        row("HTTP", original, async |tally| http::check(doors, original, tally).await).await,
        row("TFTP", original, async |tally| tftp::check(doors, original, tally).await).await,
    ];
    original.progress.finish_and_clear();
    CheckReport { rows, remarks: original.remarks.clone() }
}

async fn row(
    door: &'static str,
    original: &Original,
    client: impl AsyncFnOnce(&mut CheckTally) -> Result<(), Fault>,
) -> CheckRow {
    original.progress.set_prefix(door);
    let (since, mut tally) = (Instant::now(), CheckTally::default());
    let verdict = client(&mut tally).await;
    CheckRow { door, tally, time: since.elapsed(), verdict }
}
