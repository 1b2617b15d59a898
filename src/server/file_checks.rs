//! The check of the files of images, which someone may overwrite in place.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::snapshot::Snapshot;
use crate::watched::Watched;

/// Pause between two checks. While clients read, their connections look more often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Checks the files of all images that clients may use, for ever.
pub(super) async fn run(snapshot: Watched<Snapshot>) {
    let mut clock = interval(INTERVAL);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let images = Arc::clone(&snapshot.current().images);
        // A panic is counted and logged; the next check comes.
        let _ = spawn_blocking(move || images.check_files()).await;
    }
}
