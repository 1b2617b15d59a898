//! What is looked at on this host. It judges nothing, and changes nothing.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;
use rustix::fs::{Access, AtFlags, CWD, accessat, statvfs};
use rustix::thread::{CapabilitySet, capabilities};

use super::firewall::Ruleset;
use crate::machines::local;
use crate::server::WrittenDirectory;
use crate::sys;

/// Lowest port that needs no privilege (ip(7)).
const UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Tables of the older iptables that have rules, which nft does not list. Only root may read it.
const OLD_TABLES: &str = "/proc/self/net/ip_tables_names";

/// Right of this process to open ports below 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Privileges {
    pub(super) has_capability: bool,
    /// First port that needs no privilege.
    pub(super) first_free_port: u16,
}

impl Privileges {
    pub(super) fn of_process() -> Self {
        let effective = capabilities(None).map(|sets| sets.effective);
        let first = fs::read_to_string(UNPRIVILEGED).ok().and_then(|text| text.trim().parse().ok());
        Self {
            has_capability: effective.is_ok_and(|set| set.contains(CapabilitySet::NET_BIND_SERVICE)),
            first_free_port: first.unwrap_or(1024),
        }
    }
}

/// Rules of the firewall of this host.
#[derive(Debug)]
pub(super) struct Rules {
    /// The rules, or why they cannot be read.
    pub(super) nftables: Result<Ruleset, String>,
    /// True if the older iptables has a table.
    pub(super) has_iptables: bool,
}

impl Rules {
    pub(super) fn read() -> Self {
        let old = fs::read_to_string(OLD_TABLES).unwrap_or_default();
        Self { nftables: nftables(), has_iptables: old.lines().any(|table| table == "filter") }
    }
}

/// Asks nft(8). The kernel's own form of the rules is a program for a virtual machine.
fn nftables() -> Result<Ruleset, String> {
    let output = ["nft", "/usr/sbin/nft", "/sbin/nft"].into_iter().find_map(|nft| {
        match Command::new(nft).args(["--json", "list", "ruleset"]).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            output => Some(output),
        }
    });
    let output = output.ok_or("the program nft is not installed")?.map_err(|error| error.to_string())?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.lines().next().unwrap_or("nft failed").escape_debug().to_string());
    }
    Ruleset::parse(&output.stdout).map_err(|error| format!("output of nft: {error}"))
}

/// State of a directory that `serve` writes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DirectoryState<'a> {
    pub(super) directory: WrittenDirectory<'a>,
    pub(super) is_writable: bool,
    /// Bytes that are free there; `None` if the system does not tell.
    pub(super) free: Option<u64>,
}

impl<'a> DirectoryState<'a> {
    /// Looks at a directory, or at the one in which it would be made.
    pub(super) fn of(directory: WrittenDirectory<'a>) -> Self {
        let existing = directory.path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
        let access = Access::WRITE_OK | Access::EXEC_OK;
        Self {
            directory,
            is_writable: accessat(CWD, existing, access, AtFlags::EACCESS).is_ok(),
            free: statvfs(existing).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        }
    }
}

/// Returns the socket of a server that runs on this host.
pub(super) fn running_server(variables: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let mut paths = local::client_paths(variables);
    paths.insert(0, local::server_path(variables));
    paths.into_iter().find(|path| UnixStream::connect(path).is_ok())
}

/// Clock of this host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClockState {
    pub(super) now: Timestamp,
    /// True if something keeps it right; `None` if the system does not tell.
    pub(super) is_kept: Option<bool>,
}

impl ClockState {
    pub(super) fn read() -> Self {
        let is_kept: io::Result<bool> = sys::is_clock_kept();
        Self { now: Timestamp::now(), is_kept: is_kept.ok() }
    }
}
