//! Least privilege: after the start, the process can do only what it still has to do.
//!
//! It becomes another user, keeps the capabilities that it may need later, and is confined by the
//! kernel to the files ([`files`], Landlock) and the system calls ([`calls`], seccomp) that it needs.
//! None of it can be undone.

mod calls;
pub(super) mod files;
mod identity;

use std::fs;
use std::path::Path;
use std::thread;

use landlock::RulesetCreated;

use super::StartError;
use super::report::{Obstacle, ServiceRow};
use crate::config::{Config, SandboxMode};
use crate::images::ImageSet;
use crate::machines::local::create_directory;
use crate::output;

pub(super) use identity::{Identity, IdentityError};

/// Error of a sandbox that the operator requires.
#[derive(Debug, thiserror::Error)]
#[error("{part} not available: {why}; use a kernel that has it, or `sandbox = auto`")]
pub struct SandboxError {
    part: &'static str,
    why: String,
}

const LANDLOCK: &str = "landlock";
const SECCOMP: &str = "seccomp";
const OFF: &str = "off: the configuration says so";

/// What else than clients and files of this host the process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Uses {
    Nothing,
    /// Connections to them, and the cache folder.
    ObjectStores,
}

fn uses(config: &Config) -> Uses {
    if config.cache.is_some() { Uses::ObjectStores } else { Uses::Nothing }
}

/// Refuses to start where a required sandbox is not available. A thread of its own tries it.
///
/// # Errors
/// [`SandboxError`]
pub(super) fn require(config: &Config) -> Result<(), SandboxError> {
    match config.sandbox {
        SandboxMode::Required => Confinement::tried()?.complete(),
        SandboxMode::Auto | SandboxMode::Off => Ok(()),
    }
}

/// Tries the sandbox, and returns its row of the report.
pub(super) fn try_out(config: &Config) -> ServiceRow {
    let row = |state, obstacle| ServiceRow { service: "Sandbox", address: None, state, obstacle };
    if config.sandbox == SandboxMode::Off {
        return row(OFF.to_owned(), None);
    }
    let obstacle = || Some(Obstacle { taken: None, fix: Some("use a kernel that has both".into()) });
    match Confinement::tried() {
        Ok(confinement) => {
            let state = confinement.state();
            row(state, confinement.complete().err().and_then(|_| obstacle()))
        }
        Err(error) => row(error.to_string(), obstacle()),
    }
}

/// Gives up all that is not needed any more, and returns the row of the report that says so. Must be
/// called while there is no other thread than that of the log: Landlock and the identity are those of
/// each thread.
///
/// # Errors
/// [`StartError`] if the process cannot become the user, or if a required sandbox is not available.
pub(super) fn enter(
    config: &Config,
    images: &ImageSet,
    state: Option<&Path>,
    identity: &Identity,
) -> Result<ServiceRow, StartError> {
    // Landlock knows directories that exist. What cannot be made there is told later.
    let _ = create_directory(files::socket_directory(config));
    let _ = files::lease_directory(config).map(fs::create_dir_all);
    // The folders are opened before the user may no longer look into them.
    let ruleset = files::ruleset(&files::rules(config, images, state), uses(config));
    identity.enter()?;
    enter_log(config, identity, ruleset.as_ref().ok());
    let confined = match config.sandbox {
        SandboxMode::Off => {
            identity.leave_unconfined();
            OFF.to_owned()
        }
        SandboxMode::Auto | SandboxMode::Required => {
            let landlock = ruleset.and_then(files::restrict);
            let seccomp = calls::restrict(calls::Threads::All, uses(config));
            let confinement = Confinement { landlock, seccomp };
            if confinement.seccomp.is_err() {
                identity.leave_unconfined();
            }
            let state = confinement.state();
            if config.sandbox == SandboxMode::Required {
                confinement.complete()?;
            }
            state
        }
    };
    let state = format!("{confined}{}", identity.note());
    Ok(ServiceRow { service: "Sandbox", address: None, state, obstacle: None })
}

/// Does the same on the thread of the log, which is there already. It only writes.
fn enter_log(config: &Config, identity: &Identity, ruleset: Option<&RulesetCreated>) {
    let identity = identity.clone();
    let ruleset = ruleset.filter(|_| config.sandbox != SandboxMode::Off);
    let ruleset = ruleset.and_then(|ruleset| ruleset.try_clone().ok());
    output::on_thread(move || {
        identity.enter_without_capabilities();
        let _ = ruleset.map(files::restrict);
    });
}

/// Result of confining the process: each part, or the reason why the kernel did not do it.
struct Confinement {
    landlock: Result<(), String>,
    seccomp: Result<(), String>,
}

impl Confinement {
    /// Confines a thread that ends then.
    fn tried() -> Result<Self, SandboxError> {
        let tried = thread::Builder::new().spawn(|| {
            let landlock = files::ruleset(&[], Uses::Nothing).and_then(files::restrict);
            Self { landlock, seccomp: calls::restrict(calls::Threads::Current, Uses::Nothing) }
        });
        match tried.map(thread::JoinHandle::join) {
            Ok(Ok(confinement)) => Ok(confinement),
            Ok(Err(_)) => Err(SandboxError { part: SECCOMP, why: "the attempt failed".into() }),
            Err(error) => Err(SandboxError { part: SECCOMP, why: error.to_string() }),
        }
    }

    fn complete(self) -> Result<(), SandboxError> {
        self.landlock.map_err(|why| SandboxError { part: LANDLOCK, why })?;
        self.seccomp.map_err(|why| SandboxError { part: SECCOMP, why })
    }

    fn state(&self) -> String {
        match (&self.landlock, &self.seccomp) {
            (Ok(()), Ok(())) => format!("{LANDLOCK} and {SECCOMP}"),
            (Ok(()), Err(why)) => format!("{LANDLOCK}; no {SECCOMP}: {why}"),
            (Err(why), Ok(())) => format!("{SECCOMP}; no {LANDLOCK}: {why}"),
            (Err(landlock), Err(seccomp)) => {
                format!("off: no {LANDLOCK}: {landlock}; no {SECCOMP}: {seccomp}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
