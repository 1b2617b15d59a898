//! Files that the process may still open, by Landlock (landlock(7)).
//!
//! Open files and sockets are not concerned. Rules are for folders and not for images, since an image
//! is replaced by another file.

use std::env;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::Uses;
use crate::config::{Config, Dhcp};
use crate::images::ImageSet;
use crate::store::Place;

/// Version of Landlock whose rights are all taken away: that of Linux 6.15. Where the kernel knows
/// fewer, those stay.
const VERSION: ABI = ABI::V7;

/// Files of the kernel: `/proc/self/net` has the neighbours and `/proc/sys` the settings of interfaces.
/// The others tell the C library and the runtime how many processors there are.
const KERNEL: [&str; 3] = ["/proc", "/sys/devices/system/cpu", "/sys/fs/cgroup"];

/// Files by which the C library finds the address of an object store, and certificates of
/// authorities. A resolv.conf may be a link into one of the directories.
const NETWORK: [&str; 14] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
];

/// Variables that name further such files, or files of tokens, which are replaced at times.
const NAMED: [&str; 4] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Access to all that is below a path.
pub(super) type Rule = (PathBuf, BitFlags<AccessFs>);

fn read() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | ReadDir})
}

/// Returns the rules for what is opened at run time.
pub(super) fn rules(config: &Config, images: &ImageSet, state: Option<&Path>) -> Vec<Rule> {
    let local = config.images.iter().filter(|image| !Place::is_url(&image.path));
    let named = local.map(|image| place(&image.path));
    // A link may lead to another folder.
    let linked = images.iter().filter_map(|served| served.path().canonicalize().ok());
    let files = config.files.iter().map(|files| files.folder.path().to_owned());
    let read_only =
        named.chain(linked.map(|path| place(&path))).chain(files).chain(KERNEL.map(PathBuf::from));
    let mut rules: Vec<Rule> = read_only.map(|path| (path, read())).collect();
    if config.cache.is_some() {
        rules.extend(network().map(|path| (path, read())));
    }
    let cache = config.cache.as_ref().map(|cache| &*cache.directory);
    for directory in lease_directory(config).into_iter().chain(state).chain(cache) {
        // The file is replaced, and there is a lock beside that of the leases.
        let write = make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile});
        rules.push((directory.to_owned(), read() | write));
    }
    // The sockets of the status and for a take-over are made at run time, and removed at the end.
    rules.push((socket_directory(config).to_owned(), make_bitflags!(AccessFs::{MakeSock | RemoveFile})));
    rules
}

/// Returns the files that connections to object stores need.
fn network() -> impl Iterator<Item = PathBuf> {
    let named = NAMED.iter().filter_map(env::var_os).filter_map(|path| {
        let path = PathBuf::from(path);
        if path.is_dir() { Some(path) } else { path.parent().map(Path::to_owned) }
    });
    NETWORK.iter().map(PathBuf::from).chain(named)
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

/// Returns the lease file, if leases are kept.
pub(super) fn lease_file(config: &Config) -> Option<&Path> {
    match &config.dhcp {
        Dhcp::Server(server) => server.lease_file.as_deref(),
        Dhcp::Proxy(_) | Dhcp::Off => None,
    }
}

/// Returns the directory of the lease file.
pub(in crate::server) fn lease_directory(config: &Config) -> Option<&Path> {
    lease_file(config)?.parent()
}

/// Returns the directory of the sockets for this host.
pub(in crate::server) fn socket_directory(config: &Config) -> &Path {
    config.handover_socket.parent().unwrap_or(Path::new("/"))
}

/// Prepares the restriction to these rules.
///
/// # Errors
/// The reason why the kernel did not take it.
pub(super) fn ruleset(rules: &[Rule], uses: Uses) -> Result<RulesetCreated, String> {
    build(rules, uses).map_err(|error| error.to_string())
}

fn build(rules: &[Rule], uses: Uses) -> Result<RulesetCreated, RulesetError> {
    // All listening sockets are open, and isowire connects to nobody else than stores by TCP.
    let network = match uses {
        Uses::Nothing => AccessNet::from_all(VERSION),
        Uses::ObjectStores => AccessNet::BindTcp.into(),
    };
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(network)?
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
