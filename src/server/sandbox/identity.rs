//! The user and the capabilities (capabilities(7)) that the process keeps after its start.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Access, AtFlags, accessat};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::files::{lease_file, socket_directory};
use crate::config::{Config, User};
use crate::images::ImageSet;
use crate::server::{boot_lists, next_boots};
use crate::store::Place;

/// Capability that is kept beside seccomp. With it the kernel tells what is in the page cache of a
/// file of another user (cachestat(2)); without it, to find out costs up to a fifth of the time of
/// sending. All else that it is good for changes files by their paths (chmod(2), utimensat(2),
/// setxattr(2)), and seccomp refuses these calls.
const CONFINED: CapabilitySet = CapabilitySet::FOWNER;

/// Error: the process cannot become the user that the operator named.
#[derive(Debug, thiserror::Error)]
#[error("cannot become `{user}`: {why}")]
pub struct IdentityError {
    user: User,
    why: String,
}

/// User and capabilities after the start.
#[derive(Debug, Clone)]
pub(in crate::server) struct Identity {
    /// `None` if the process stays the user that it is.
    user: Option<User>,
    keep: CapabilitySet,
    note: String,
}

/// What has to work as another user.
struct Needs<'a> {
    /// Folders and images, which are read again when they change.
    read: Vec<&'a Path>,
    lease_file: Option<&'a Path>,
    /// Directory of the next boots.
    state: Option<&'a Path>,
    /// A rule says `once`.
    is_state_needed: bool,
    sockets: &'a Path,
    /// Directory of what was fetched from object stores.
    cache: Option<&'a Path>,
}

impl Identity {
    /// Chooses the identity. If isowire was started as root, it is the operator's user or `nobody`;
    /// the directories that are written to are given to that user.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be the user that the operator named.
    pub(in crate::server) fn choose(
        config: &Config,
        images: &ImageSet,
        state: Option<&Path>,
    ) -> Result<Self, IdentityError> {
        let named = config.user.clone();
        let why_not = |user: User, why: String| Err(IdentityError { user, why });
        if !geteuid().is_root() {
            return match named {
                Some(user) if user.uid != geteuid().as_raw() => {
                    why_not(user, "only root can; start isowire as root or as that user".into())
                }
                _ => Ok(Self { user: None, keep: for_ports(config), note: String::new() }),
            };
        }
        let user = named.clone().unwrap_or_else(User::nobody);
        if user.uid == 0 {
            return Ok(Self::root(config, "the configuration says so"));
        }
        let needs = Needs::of(config, images, state);
        match needs.prepare(&user, for_ports(config)) {
            Ok((keep, closed)) => Ok(Self { note: note(&user, closed), user: Some(user), keep }),
            Err(why) if named.is_none() => Ok(Self::root(config, &why)),
            Err(why) => why_not(user, format!("{why}; mend that, or remove `user`")),
        }
    }

    /// Stays the user with all its capabilities.
    pub(in crate::server) fn unchanged() -> Self {
        Self { user: None, keep: CapabilitySet::empty(), note: String::new() }
    }

    /// Stays root, which may still read and write the files of others.
    fn root(config: &Config, why: &str) -> Self {
        let keep = for_ports(config) | CapabilitySet::DAC_OVERRIDE;
        Self { user: None, keep, note: format!("; as root: {why}") }
    }

    /// Returns what the report says about it.
    pub(super) fn note(&self) -> &str {
        &self.note
    }

    /// Runs a function as the later user, in a thread of its own.
    ///
    /// # Errors
    /// The system's error if there is no thread or it cannot become that user.
    pub(in crate::server) fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.user {
            Some(user) => run_as(user, self.keep, run),
            None => Ok(run()),
        }
    }

    /// Becomes the user for good, and gives up all capabilities but those to keep and [`CONFINED`].
    /// No program that the process started would have more rights (`PR_SET_NO_NEW_PRIVS`).
    pub(super) fn enter(&self) -> Result<(), IdentityError> {
        let keep = self.keep | CONFINED;
        let Some(user) = &self.user else {
            // A kernel that refuses to take rights away leaves them.
            let _ = limit(keep);
            return Ok(());
        };
        r#become(user, keep).map_err(|error| IdentityError { user: user.clone(), why: error.to_string() })
    }

    /// Becomes the user for good on a thread that needs no capability.
    pub(super) fn enter_without_capabilities(&self) {
        let none = CapabilitySet::empty();
        let _ = self.user.as_ref().map_or_else(|| limit(none), |user| r#become(user, none));
    }

    /// Gives up [`CONFINED`] too, where there is no seccomp.
    pub(super) fn leave_unconfined(&self) {
        let _ = limit(self.keep);
    }
}

/// Returns the capabilities for ports that are opened again: those of DHCP when an interface comes
/// back, and port 68, from which other DHCP servers are looked for.
fn for_ports(config: &Config) -> CapabilitySet {
    if config.dhcp.is_on() { CapabilitySet::NET_BIND_SERVICE } else { CapabilitySet::empty() }
}

fn note(user: &User, closed: Option<PathBuf>) -> String {
    match closed {
        None => format!("; as user {user}"),
        Some(path) => {
            format!("; as user {user}, who may read closed files, such as {}", path.display())
        }
    }
}

impl<'a> Needs<'a> {
    fn of(config: &'a Config, images: &'a ImageSet, state: Option<&'a Path>) -> Self {
        let is_local = |path: &&Path| !Place::is_url(path);
        let named = config.images.iter().map(|image| &*image.path).filter(is_local);
        // The folder of a file is watched.
        let folders = named.clone().filter_map(|path| path.parent()).filter(|path| path.is_dir());
        let served = images.iter().map(|served| served.path()).filter(is_local);
        let files = config.files.iter().flat_map(|files| files.found.iter().map(|path| &**path));
        let read = named.chain(folders).chain(served).chain(files).collect();
        let is_state_needed = config.rules.iter().any(|rule| rule.is_once);
        Self {
            read,
            lease_file: lease_file(config),
            state,
            is_state_needed,
            sockets: socket_directory(config),
            cache: config.cache.as_ref().map(|cache| &*cache.directory),
        }
    }

    /// Lets a user have all that is needed. Returns the capabilities that it needs for it, and the
    /// first path that is closed to it otherwise.
    fn prepare(
        mut self,
        user: &User,
        keep: CapabilitySet,
    ) -> Result<(CapabilitySet, Option<PathBuf>), String> {
        run_as(user, keep, || ()).map_err(|error| format!("this process cannot become {user}: {error}"))?;
        if let Some(manager) = notify_socket().filter(|manager| !is_reachable(manager, user, keep)) {
            return Err(format!("{user} cannot write to NOTIFY_SOCKET={}", manager.display()));
        }
        let lease_file = self.lease_file.and_then(|path| path.file_name()?.to_str());
        // A proxy needs no leases, but an earlier run may have left some.
        let own = [lease_file.unwrap_or("leases"), "leases", next_boots::NAME];
        let is_ours = |name: &str| {
            let mut ends = own.iter().filter_map(|own| name.strip_prefix(own));
            ends.any(|end| ["", ".new", ".lock"].contains(&end)) || boot_lists::is_list(name)
        };
        let leases = self.lease_file.and_then(Path::parent);
        if let Some(directory) = leases {
            give(directory, 0o755, user, is_ours)?;
        }
        if let Some(directory) = self.state {
            let given = give(directory, 0o755, user, is_ours);
            // Without such a rule, `isowire next` tells if it cannot be written.
            given.or_else(|why| if self.is_state_needed { Err(why) } else { Ok(()) })?;
        }
        give(self.sockets, 0o700, user, |_| true)?;
        if let Some(directory) = self.cache {
            give(directory, 0o700, user, is_of_cache)?;
        }
        self.read.extend(leases.into_iter().chain(self.cache));
        self.read.push(self.sockets);
        let Some(closed) = self.closed(user, keep) else { return Ok((keep, None)) };
        let keep = keep | CapabilitySet::DAC_READ_SEARCH;
        match self.closed(user, keep) {
            Some(path) => Err(format!("{user} cannot read {}", path.display())),
            None => Ok((keep, Some(closed.to_owned()))),
        }
    }

    /// Returns the first path that this user cannot read.
    fn closed(&self, user: &User, keep: CapabilitySet) -> Option<&'a Path> {
        let first = || self.read.iter().copied().find(|path| !is_readable(path));
        run_as(user, keep, first).unwrap_or(None)
    }
}

/// Tells whether a file is one of a cache folder.
fn is_of_cache(name: &str) -> bool {
    name == "lock"
        || boot_lists::is_list(name)
        || [".blocks", ".ledger", ".new"].iter().any(|end| name.ends_with(end))
}

/// Returns the socket of the manager that started this process, if it is a file (sd_notify(3)). Any
/// user can send to systemd's; that of another manager may be closed.
fn notify_socket() -> Option<PathBuf> {
    env::var_os("NOTIFY_SOCKET").map(PathBuf::from).filter(|path| path.is_absolute())
}

fn is_reachable(socket: &Path, user: &User, keep: CapabilitySet) -> bool {
    let connect = || UnixDatagram::unbound().and_then(|unbound| unbound.connect(socket)).is_ok();
    run_as(user, keep, connect).unwrap_or(false)
}

fn is_readable(path: &Path) -> bool {
    // A directory that does not exist is the error of who needs it.
    if path.is_dir() { fs::read_dir(path).is_ok() } else { File::open(path).is_ok() }
}

/// Lets a user write into a directory, which is made if it does not exist. A directory with files
/// for which `is_ours` is false belongs to others too, and is not given away.
fn give(directory: &Path, mode: u32, user: &User, is_ours: impl Fn(&str) -> bool) -> Result<(), String> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(directory);
    let Some(open) = made.and_then(|()| File::open(directory)).ok() else { return Ok(()) };
    let names = names(directory);
    if !is_writable(&open, user) {
        let refused = |why: &str| format!("{user} cannot write to {}: {why}", directory.display());
        if !names.iter().all(|name| is_ours(name)) {
            return Err(refused("it has other files too"));
        }
        fchown(&open, Some(user.uid), Some(user.gid)).map_err(|error| refused(&error.to_string()))?;
    }
    for name in names.iter().filter(|name| is_ours(name)) {
        give_file(&directory.join(name), user);
    }
    Ok(())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn is_writable(directory: &File, user: &User) -> bool {
    let may = || accessat(directory, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty()).is_ok();
    run_as(user, CapabilitySet::empty(), may).unwrap_or(false)
}

/// Gives a file to a user. Whoever could write to the directory before may have put a link there, so
/// links of both kinds stay what they are.
fn give_file(path: &Path, user: &User) {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return };
    if file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1) {
        // Who needs the file tells if it cannot be written.
        let _ = fchown(&file, Some(user.uid), Some(user.gid));
    }
}

/// Runs a function as another user, in a thread of its own: the kernel keeps the identity for each
/// thread.
fn run_as<T: Send>(user: &User, keep: CapabilitySet, run: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let work = || r#become(user, keep).map(|()| run());
        let thread = thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the attempt failed"))?
    })
}

/// Becomes a user, without groups, and keeps these capabilities of those that it has.
fn r#become(user: &User, keep: CapabilitySet) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // The others go when the user changes (capabilities(7)).
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    limit(keep)
}

/// Gives up all capabilities but these.
fn limit(keep: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let kept = capabilities(None)?.permitted & keep;
    let inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?)
}
