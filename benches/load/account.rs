//! Cost of a server: processor time and anonymous memory of a process and all its descendants.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// Fields of `/proc/PID/stat` (proc(5)).
struct Process {
    parent: u32,
    /// Clock ticks of the children that the process has waited for.
    children: u32,
}

/// Length of a clock tick: `USER_HZ` is 100 on x86 and ARM.
const TICK: Duration = Duration::from_millis(10);

/// Returns the processor time that the family of `pid` has used so far.
///
/// `/proc/PID/stat` counts ticks, in which a thousand processes that each use less than one cost
/// nothing. So the clocks of living processes are read, in nanoseconds.
pub fn cpu(pid: u32) -> Duration {
    let all = processes();
    let family = family(pid, &all);
    let own: Duration = family.iter().filter_map(|&pid| own(pid)).sum();
    let children: u32 = family.iter().filter_map(|pid| Some(all.get(pid)?.children)).sum();
    own + TICK * children
}

/// Returns the processor time of all threads of a process, with those that have ended.
fn own(pid: u32) -> Option<Duration> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls only write to what they are given (clock_getcpuclockid(3),
    // clock_gettime(2)). rustix has no clocks of other processes.
    let is_known = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    is_known.then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// Returns the anonymous memory of the family of `pid` in bytes. Memory that forks share counts
/// once.
pub fn anonymous(pid: u32) -> u64 {
    let family = family(pid, &processes());
    // A single process shares with no other, and RssAnon costs the kernel no walk through the page
    // tables, which Pss_Anon does.
    let sole = (family.len() == 1).then(|| field(pid, "status", "RssAnon:")).flatten();
    sole.unwrap_or_else(|| family.iter().filter_map(|&pid| field(pid, "smaps_rollup", "Pss_Anon:")).sum())
}

fn field(pid: u32, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

fn family(pid: u32, all: &HashMap<u32, Process>) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (&pid, process) in all {
        children.entry(process.parent).or_default().push(pid);
    }
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(pid) = family.get(at) {
        family.extend(children.get(pid).into_iter().flatten().copied().collect::<Vec<_>>());
        at += 1;
    }
    family
}

fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, process(pid)?))).collect()
}

/// Reads a process; `None` if it has ended meanwhile.
fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): after the name, which may contain anything, state, parent, ..., and as the 14th and
    // 15th field cutime and cstime.
    let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
    let children = fields.get(13..15)?.iter().filter_map(|field| field.parse::<u32>().ok()).sum();
    Some(Process { parent: fields.get(1)?.parse().ok()?, children })
}
