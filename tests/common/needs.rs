//! What a test needs of the machine it runs on.

use std::env;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Ends the test early, and says so, where something it needs is missing. It takes lists of programs' names, of files'
/// paths, and of the word `root`: `needs!(lan::NEEDS, ["dnsmasq"])`.
///
/// Under `CI=true` that is a failure: there everything has to be installed (see `tests/packages`).
macro_rules! needs {
    ($($what:expr),+ $(,)?) => {
        if !$crate::common::needs::met(&[$(&$what[..]),+].concat()) {
            return;
        }
    };
}
pub(crate) use needs;

/// Ends the test early unless the whole matrix was asked for (`tests/run --all`).
macro_rules! only_with_all {
    () => {
        if !$crate::common::needs::everything() {
            return;
        }
    };
}
pub(crate) use only_with_all;

pub fn met(needed: &[&str]) -> bool {
    let missing: Vec<&str> = needed.iter().copied().filter(|what| !is_there(what)).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert!(env::var("CI").as_deref() != Ok("true"), "needs {missing}, and under CI=true nothing is skipped");
    aloud(&format!("skipped: needs {missing}"));
    false
}

pub fn everything() -> bool {
    let asked = asked_for_all();
    if !asked {
        aloud("skipped: runs with `tests/run --all`");
    }
    asked
}

/// Whether tests that run anyway are to take their time.
pub fn asked_for_all() -> bool {
    env::var("ISOWIRE_TESTS").as_deref() == Ok("all")
}

/// A command by the program's full path: `/usr/sbin` is not on every user's `PATH`.
pub fn tool(name: &str) -> Command {
    Command::new(
        find(name).unwrap_or_else(|| panic!("{name} is not installed, and the test did not say it needs it")),
    )
}

/// Where a program is; a path that is absolute already stays as it is.
pub fn find(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name.as_ref()))
        .find(|candidate| candidate.is_file())
}

fn is_there(what: &str) -> bool {
    match what {
        "root" => rustix::process::geteuid().is_root(),
        program => find(program).is_some(),
    }
}

/// The test harness swallows what passing tests print with `println!`, not what is written to the stream itself. One
/// write for the line: tests run in parallel.
fn aloud(text: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = stderr().write_all(format!("{test}: {text}\n").as_bytes());
}
