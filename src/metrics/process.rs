//! Figures of this process, as the kernel tells them (proc(5)).

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// Figures by the names that Prometheus' own libraries give them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct ProcessFigures {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_files: u64,
    /// `None` without a limit.
    pub open_files_max: Option<u64>,
    /// Seconds since 1970-01-01 UTC.
    pub start_time: f64,
}

/// Reads the figures; `None` without `/proc`.
pub(crate) fn read() -> Option<ProcessFigures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot_time = boot_time(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or(0.0);
    let open_files = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let parsed = parse(&stat, clock_ticks_per_second() as f64, page_size() as u64)?;
    Some(ProcessFigures {
        // The directory was open too.
        open_files: open_files.saturating_sub(1),
        open_files_max: getrlimit(Resource::Nofile).current,
        start_time: boot_time + parsed.start_time,
        ..parsed
    })
}

/// Parses `/proc/self/stat`; the time of the start is since the boot of the host.
fn parse(stat: &str, ticks: f64, page: u64) -> Option<ProcessFigures> {
    // The second field is the name, in which there may be spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first of these is the third field.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(ProcessFigures {
        cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
        threads: field(20)?,
        start_time: field(22)? as f64 / ticks,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)?.saturating_mul(page),
        ..ProcessFigures::default()
    })
}

/// Returns the time at which the host was booted.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_parsed_whatever_the_name() {
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 300 4096000 10 18446744073709551615 1 1";
        let figures = parse(stat, 100.0, 4096).unwrap();
        assert_eq!((figures.cpu_seconds, figures.threads, figures.start_time), (2.0, 9, 3.0));
        assert_eq!((figures.virtual_bytes, figures.resident_bytes), (4_096_000, 40_960));
        assert_eq!(parse("7 (a) S 1", 100.0, 4096), None);
    }

    #[test]
    fn figures_of_this_process_are_there() {
        let figures = read().unwrap();
        assert!(
            figures.open_files > 2 && figures.resident_bytes > 1 << 20 && figures.threads > 0,
            "{figures:?}"
        );
        assert!(figures.start_time > 1e9, "{figures:?}");
    }
}
