//! `isowire check`: runs a client for every protocol on loopback and compares every byte.
//!
//! The servers are those of `serve`. The clients are separate code that shares only the names of
//! protocol constants with the servers, so that it cannot share their mistakes. Content is compared
//! with the image file, and root images also with the checksum that archiso wrote beside them.

mod connection;
mod http;
mod nbd;
mod nfs;
mod original;
mod report;
mod rpc;
pub mod sample;
mod servers;
mod tftp;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::image::{Image, OpenError};
use crate::runtime;

pub use original::{CheckTally, Original, VerifyError};
pub use report::{CheckReport, CheckRow};
pub use servers::CheckedServers;

/// Longest wait for the next bytes of a server; a disk that has to spin up needs some seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// An error that ends `check` with exit code 1, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A server could not be started, or the sample image could not be written.
    #[error("check cannot be started: {0}")]
    System(io::Error),
    /// Some protocols failed; the report was printed.
    #[error("{failed} of {of} protocols did not pass the check")]
    Failed { failed: usize, of: usize },
    #[error("report cannot be written: {0}")]
    Output(io::Error),
}

/// Checks all protocols with the image at `iso`, or with a sample, and prints the table.
///
/// # Errors
/// [`CheckError`] when no image is usable, a protocol fails, or `out` cannot be written.
pub fn run(iso: Option<&Path>, out: &mut impl Write) -> Result<(), CheckError> {
    let image = match iso {
        Some(path) => Image::open(path)?,
        None => sample_image()?,
    };
    let runtime = runtime::build().map_err(CheckError::System)?;
    let report = runtime.block_on(check_image(Arc::new(image))).map_err(CheckError::System)?;
    // The servers run until the runtime ends, and their clients are gone.
    runtime.shutdown_background();
    let about =
        if iso.is_none() { "No ISO was given, so this is about a small sample image.\n\n" } else { "" };
    write!(out, "{about}{report}").map_err(CheckError::Output)?;
    match report.failed() {
        0 => Ok(()),
        failed => Err(CheckError::Failed { failed, of: report.rows.len() }),
    }
}

/// Opens the sample image, in an unnamed file that lives as long as this process.
fn sample_image() -> Result<Image, CheckError> {
    let file = sample_file().map_err(CheckError::System)?;
    // proc(5): this path opens the same file.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    Ok(Image::open(&path)?)
}

fn sample_file() -> io::Result<File> {
    // memfd_create(2): it needs no directory that can be written, and leaves nothing behind.
    let mut file = File::from(memfd_create("isowire-sample", MemfdFlags::CLOEXEC)?);
    file.write_all(&sample::image())?;
    Ok(file)
}

async fn check_image(image: Arc<Image>) -> io::Result<CheckReport> {
    let servers = CheckedServers::open(Arc::clone(&image)).await?;
    let mut original = Original::new(image, PATIENCE);
    original.progress = progress(work(&servers, &original));
    Ok(check_servers(&servers, &original).await)
}

/// Returns a progress bar on standard error, hidden unless standard output is a terminal.
fn progress(bytes: u64) -> ProgressBar {
    let template = "{prefix:<5} {wide_bar} {bytes:>11} of {total_bytes}, {binary_bytes_per_sec}, {eta} to go";
    match ProgressStyle::with_template(template) {
        // indicatif hides the bar by itself if standard error is not a terminal.
        Ok(style) if io::stdout().is_terminal() => ProgressBar::new(bytes).with_style(style),
        _ => ProgressBar::hidden(),
    }
}

/// Returns the number of bytes that all clients read.
fn work(servers: &CheckedServers, original: &Original) -> u64 {
    nbd::work(original) + nfs::work(original) + http::work(servers, original) + tftp::work(servers, original)
}

/// Runs a client for each protocol.
pub async fn check_servers(servers: &CheckedServers, original: &Original) -> CheckReport {
    // One after the other, so that the times in the table can be compared.
    let rows = vec![
        row("NBD", original, async |tally| nbd::check(servers, original, tally).await).await,
        row("NFS", original, async |tally| nfs::check(servers, original, tally).await).await,
        row("HTTP", original, async |tally| http::check(servers, original, tally).await).await,
        row("TFTP", original, async |tally| tftp::check(servers, original, tally).await).await,
    ];
    original.progress.finish_and_clear();
    CheckReport { rows, remarks: original.remarks.clone() }
}

async fn row(
    protocol: &'static str,
    original: &Original,
    client: impl AsyncFnOnce(&mut CheckTally) -> Result<(), VerifyError>,
) -> CheckRow {
    original.progress.set_prefix(protocol);
    let (since, mut tally) = (Instant::now(), CheckTally::default());
    let verdict = client(&mut tally).await;
    CheckRow { protocol, tally, time: since.elapsed(), verdict }
}
