//! What of a file is in memory, and getting rid of it.

use std::fs::File;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use super::needs::tool;
use super::running::output_of;

pub const NEEDS: [&str; 1] = ["fincore"];

/// Returns how many bytes of a file are in the page cache. A read would change that, even one that may
/// not wait: the kernel reads ahead for it.
pub fn resident(file: &Path) -> u64 {
    output_of(tool("fincore").args(["-b", "-n", "-r", "-o", "RES"]).arg(file)).trim().parse().unwrap()
}

/// Drops a file on a disk out of the page cache, but for the pages that a process has mapped or sends.
pub fn chill(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

/// Drops all of a file on a disk out of the page cache. No server may have sent a part of it yet: it
/// copies small ranges from its mapping, and such pages stay.
pub fn drop_pages(path: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        chill(path);
        let kept = resident(path);
        if kept == 0 {
            return;
        }
        assert!(Instant::now() < end, "{} bytes of {} stay in memory", kept, path.display());
        sleep(Duration::from_millis(20));
    }
}
