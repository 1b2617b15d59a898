//! Requirements of a test: programs, files, and privileges of the host.

use std::env;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ends the test early, and says so, if a requirement is missing. Takes lists of program names,
/// file paths, and the word `root`: `needs!(lan::NEEDS, ["dnsmasq"])`.
///
/// Under `CI=true` a missing requirement is a failure: `tests/packages` has to be installed there.
macro_rules! needs {
    ($($needs:expr),+ $(,)?) => {
        if !$crate::common::needs::met(&[$(&$needs[..]),+].concat()) {
            return;
        }
    };
}
pub(crate) use needs;

/// Ends the test early unless `tests/run --all` runs it.
macro_rules! only_with_all {
    () => {
        if !$crate::common::needs::everything() {
            return;
        }
    };
}
pub(crate) use only_with_all;

/// Tells whether all requirements are met; says which are missing.
pub fn met(needed: &[&str]) -> bool {
    let missing: Vec<&str> = needed.iter().copied().filter(|need| !is_there(need)).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(env::var("CI").as_deref() != Ok("true"), "needs {missing}, and under CI=true nothing is skipped");
    aloud(&format!("skipped: needs {missing}"));
    false
}

/// Tells whether tests of `tests/run --all` run, and says if they do not.
pub fn everything() -> bool {
    let asked = asked_for_all();
    if !asked {
        aloud("skipped: runs with `tests/run --all`");
    }
    asked
}

/// Tells whether `tests/run --all` runs the tests, which then may take longer.
pub fn asked_for_all() -> bool {
    env::var("ISOWIRE_TESTS").as_deref() == Ok("all")
}

/// Makes a command by the program's full path: `/usr/sbin` is not on every user's `PATH`.
pub fn tool(name: &str) -> Command {
    Command::new(
        find(name).unwrap_or_else(|| panic!("{name} is not installed, and the test did not say it needs it")),
    )
}

/// Finds a program; an absolute path stays as it is.
pub fn find(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name.as_ref()))
        .find(|candidate| candidate.is_file())
}

fn is_there(need: &str) -> bool {
    match need {
        "root" => rustix::process::geteuid().is_root(),
        device if device.starts_with("/dev/") => Path::new(device).exists(),
        program => find(program).is_some(),
    }
}

/// Prints a line for the current test.
///
/// The test harness swallows the output of `println!` in passing tests, so this writes to the
/// stream itself, and with one call, since tests run in parallel.
fn aloud(text: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = stderr().write_all(format!("{test}: {text}\n").as_bytes());
}
