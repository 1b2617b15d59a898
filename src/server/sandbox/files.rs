//! Files that the process may still open, by Landlock (landlock(7)).
//!
//! Open files and sockets are not concerned. Rules are for folders and not for images, since an image
//! is replaced by another file.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use crate::config::{Config, Dhcp};
use crate::images::ImageSet;

/// Version of Landlock whose rights are all taken away: that of Linux 6.15. Where the kernel knows
/// fewer, those stay.
const VERSION: ABI = ABI::V7;

/// Files of the kernel: `/proc/self/net` has the neighbours and `/proc/sys` the settings of interfaces.
/// The others tell the C library and the runtime how many processors there are.
const KERNEL: [&str; 3] = ["/proc", "/sys/devices/system/cpu", "/sys/fs/cgroup"];

/// Access to all that is below a path.
pub(super) type Rule = (PathBuf, BitFlags<AccessFs>);

fn read() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

/// Returns the rules for what is opened at run time.
pub(super) fn rules(config: &Config, images: &ImageSet, state: Option<&Path>) -> Vec<Rule> {
    let named = config.images.iter().map(|image| place(&image.path));
    // A link may lead to another folder.
    let linked = images.iter().filter_map(|served| served.path().canonicalize().ok());
    let files = config.files.iter().map(|files| files.folder.path().to_owned());
    let read_only =
        named.chain(linked.map(|path| place(&path))).chain(files).chain(KERNEL.map(PathBuf::from));
    let mut rules: Vec<Rule> = read_only.map(|path| (path, read())).collect();
    for directory in lease_directory(config).into_iter().chain(state) {
        // The file is replaced, and there is a lock beside that of the leases.
        let write = make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile});
        rules.push((directory.to_owned(), read() | write));
    }
    // The sockets of the status and for a take-over are made at run time, and removed at the end.
    rules.push((socket_directory(config).to_owned(), make_bitflags!(AccessFs::{MakeSock | RemoveFile})));
    rules
}

/// Returns the place where an image is looked for. A file is replaced by renaming another one, so
/// that is its folder. A device is not replaced.
fn place(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if path.is_file() && parent.as_os_str().is_empty() => ".".into(),
        Some(parent) if path.is_file() => parent.to_owned(),
        _ => path.to_owned(),
    }
}

/// Returns the directory of the lease file.
pub(in crate::server) fn lease_directory(config: &Config) -> Option<&Path> {
    match &config.dhcp {
        Dhcp::Server(server) => server.lease_file.as_ref()?.parent(),
        Dhcp::Proxy(_) | Dhcp::Off => None,
    }
}

/// Returns the directory of the sockets for this host.
pub(in crate::server) fn socket_directory(config: &Config) -> &Path {
    config.handover_socket.parent().unwrap_or(Path::new("/"))
}

/// Prepares the restriction to these rules.
///
/// # Errors
/// The reason why the kernel did not take it.
pub(super) fn ruleset(rules: &[Rule]) -> Result<RulesetCreated, String> {
    build(rules).map_err(|error| error.to_string())
}

fn build(rules: &[Rule]) -> Result<RulesetCreated, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        // All listening sockets are open, and isowire connects to nobody by TCP.
        .handle_access(AccessNet::from_all(VERSION))?
        .scope(Scope::Signal)?
        .create()?;
    for (path, access) in rules {
        // What does not exist cannot be opened either.
        if let Ok(file) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(file, *access))?;
        }
    }
    Ok(ruleset)
}

/// Restricts this thread, and those that it starts.
///
/// # Errors
/// The reason why the kernel did not do it.
pub(super) fn restrict(ruleset: RulesetCreated) -> Result<(), String> {
    match ruleset.restrict_self().map_err(|error| error.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel does not offer it".into()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}
