//! System calls that the process may still make, by seccomp (seccomp(2)).
//!
//! Two filters: one for calls that only an attacker makes, which end the process, and one that knows
//! the calls of isowire, its runtime and the C libraries, old and new. All others fail with ENOSYS, as
//! on a kernel that does not have them; libraries then do without. Calls that are allowed whatever
//! their arguments cost least: Linux 5.11 does not run the filter for them.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod allowed;

use super::Uses;

/// Threads to restrict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    All,
    Current,
}

/// Restricts the system calls of the process or of this thread.
///
/// # Errors
/// The reason why the kernel did not do it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn restrict(threads: Threads, uses: Uses) -> Result<(), String> {
    allowed::restrict(threads, uses).map_err(|error| error.to_string())
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn restrict(_: Threads, _: Uses) -> Result<(), String> {
    Err("isowire has no filter for this processor".into())
}
