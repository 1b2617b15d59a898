//! Verification of images at the start, which waits for the first of them.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sd_notify::NotifyState;

use super::notify;
use crate::images::verify::{VerifyEvent, VerifyReport, VerifyState};
use crate::images::{ImageError, ServedImage, Verifications};

/// Interval at which the progress bar is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which systemd is told that the start goes on.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(5);

/// Time for which systemd then waits (sd_notify(3)): longer than the slowest disk takes for a block.
const EXTENSION: Duration = Duration::from_secs(60);

type Found = (Vec<Arc<ServedImage>>, Vec<ImageError>);

/// Finds images until there is one, or none is left to be verified. Nothing is served meanwhile, so
/// SIGTERM ends the process at once.
pub(super) fn until_first(verifications: Option<&Verifications>, find: impl Fn() -> Found) -> Found {
    let mut found = find();
    let Some(verifications) = verifications else { return found };
    let bar = bar();
    let is_drawn = !bar.is_hidden();
    let mut notified = None;
    loop {
        let events = verifications.take_events();
        // The bar shows which image is verified.
        let is_logged = |event: &&VerifyEvent| !is_drawn || event.is_end();
        bar.suspend(|| events.iter().filter(is_logged).for_each(VerifyEvent::log));
        if events.iter().any(VerifyEvent::is_end) {
            found = find();
        }
        if is_enough(&found) || !verifications.is_busy() {
            // What ended since the last look.
            if !is_enough(&found) {
                found = find();
            }
            break;
        }
        let report = verifications.report().into_iter().find(|one| one.state == VerifyState::Verifying);
        if let Some(report) = report {
            draw(&bar, &report);
            if notified.is_none_or(|then: Instant| then.elapsed() >= NOTIFY_INTERVAL) {
                tell_systemd(&report);
                notified = Some(Instant::now());
            }
        }
        sleep(DRAW_INTERVAL);
    }
    bar.finish_and_clear();
    found
}

/// Waits for an event of a verification; for ever without them.
pub(super) async fn changed(verifications: Option<&Verifications>) {
    match verifications {
        Some(verifications) => verifications.changed().await,
        None => std::future::pending().await,
    }
}

/// Tells whether the start can go on: with an image, or to its end.
fn is_enough((images, errors): &Found) -> bool {
    !images.is_empty() || errors.iter().any(ImageError::is_fatal)
}

/// Returns a progress bar on standard error, hidden unless that is a terminal.
fn bar() -> ProgressBar {
    let template =
        "verifying {prefix} {wide_bar} {bytes:>11} of {total_bytes}, {binary_bytes_per_sec}, {eta} to go";
    match ProgressStyle::with_template(template) {
        Ok(style) if io::stderr().is_terminal() => {
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
        }
        _ => ProgressBar::hidden(),
    }
}

fn draw(bar: &ProgressBar, VerifyReport { image, size, read, .. }: &VerifyReport) {
    if bar.prefix() != *image {
        bar.set_prefix(image.clone());
        bar.set_length(*size);
        bar.reset();
    }
    bar.set_position(*read);
}

/// Keeps systemd from giving up (TimeoutStartSec=), and shows the progress in `systemctl status`.
fn tell_systemd(VerifyReport { image, size, read, .. }: &VerifyReport) {
    let percent = u128::from(*read) * 100 / u128::from((*size).max(1));
    let status = format!("verifying {image}: {percent} %");
    let extension = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(extension), NotifyState::Status(&status)]);
}
