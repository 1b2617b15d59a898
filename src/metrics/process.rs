//! Figures of this process, as the kernel tells them (proc(5)). All of them can be read in the sandbox
//! of isowire and in that of its unit, which hide `/proc/self/auxv` and `/proc/stat`.

use std::fs;

use jiff::Timestamp;
use rustix::process::{Resource, getrlimit};

/// Clock ticks per second in `/proc`. It is a part of the kernel's interface, and 100 on all processors
/// that there are programs of isowire for.
const TICKS: f64 = 100.0;

/// Figures by the names that Prometheus' own libraries give them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct ProcessFigures {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    /// `None` if they cannot be counted.
    pub open_files: Option<u64>,
    /// `None` without a limit.
    pub open_files_max: Option<u64>,
    /// Seconds since 1970-01-01 UTC.
    pub start_time: f64,
}

/// Reads the figures of a process that began to serve at this time; `None` without `/proc`.
pub(crate) fn read(started: Timestamp) -> Option<ProcessFigures> {
    let [stat, status] = ["stat", "status"].map(|name| fs::read_to_string(format!("/proc/self/{name}")).ok());
    Some(ProcessFigures {
        // The directory itself is open while it is read.
        open_files: fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1) as u64),
        open_files_max: getrlimit(Resource::Nofile).current,
        start_time: started.as_duration().as_secs_f64(),
        ..parse(&stat?, &status?)?
    })
}

/// Parses `/proc/self/stat` and `/proc/self/status`.
fn parse(stat: &str, status: &str) -> Option<ProcessFigures> {
    // The second field is the name, in which there may be spaces and parentheses. After it comes the
    // third; 14 and 15 are the time in user mode and in the kernel.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(14 - 3);
    let [user, system] = [fields.next()?, fields.next()?].map(str::parse::<u64>);
    Some(ProcessFigures {
        cpu_seconds: (user.ok()? + system.ok()?) as f64 / TICKS,
        resident_bytes: field(status, "VmRSS:")?.saturating_mul(1024),
        virtual_bytes: field(status, "VmSize:")?.saturating_mul(1024),
        threads: field(status, "Threads:")?,
        ..ProcessFigures::default()
    })
}

/// Returns the number in the line of this name.
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_parsed_whatever_the_name() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 300 4096000 10";
        let status = "Name:\ta) b (c\nVmSize:\t    4000 kB\nVmRSS:\t      40 kB\nThreads:\t9\n";
        let figures = parse(stat, status).unwrap();
        assert_eq!((figures.cpu_seconds, figures.threads), (2.0, 9));
        assert_eq!((figures.virtual_bytes, figures.resident_bytes), (4_096_000, 40_960));
        assert_eq!(parse("7 (a) S 1", status), None);
        assert_eq!(parse(stat, "Name:\ta"), None);
    }

    #[test]
    fn figures_of_this_process_are_there() {
        let figures = read(Timestamp::now()).unwrap();
        assert!(figures.resident_bytes > 1 << 20 && figures.threads > 0, "{figures:?}");
        assert!(figures.open_files.unwrap() > 2 && figures.start_time > 1e9, "{figures:?}");
    }
}
