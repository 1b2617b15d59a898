//! Settings of the privileges that the server keeps after its start.

use std::fmt;

use nix::unistd::{Uid, User as HostUser};

/// Use of Landlock and seccomp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxMode {
    /// Whatever the kernel has of them.
    Auto,
    Off,
    /// isowire does not start without them.
    Required,
}

/// User of this host, with its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Number of `nobody` and of its group on every Linux (the kernel's `overflowuid`).
const NOBODY: u32 = 65_534;

impl User {
    /// Returns the user without rights.
    pub(crate) fn nobody() -> Self {
        let unnamed = Self { name: "nobody".into(), uid: NOBODY, gid: NOBODY };
        HostUser::from_name("nobody").ok().flatten().map_or(unnamed, Self::from)
    }
}

impl From<HostUser> for User {
    fn from(user: HostUser) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(super) fn sandbox(text: &str) -> Result<SandboxMode, String> {
    match text {
        "auto" => Ok(SandboxMode::Auto),
        "off" => Ok(SandboxMode::Off),
        "required" => Ok(SandboxMode::Required),
        _ => Err("expected `auto`, `off` or `required`".into()),
    }
}

/// Looks up a user by name or number. A number needs no entry in /etc/passwd; its group is then of
/// the same number.
pub(super) fn user(text: &str) -> Result<User, String> {
    let unread = |error| format!("users of this host cannot be looked up: {error}");
    let known = match text.parse() {
        // (uid_t) -1 means "unchanged" (setresuid(2)).
        Ok(u32::MAX) => None,
        Ok(uid) => {
            let unnamed = User { name: text.to_owned(), uid, gid: uid };
            let known = HostUser::from_uid(Uid::from_raw(uid)).map_err(unread)?;
            Some(known.map_or(unnamed, User::from))
        }
        Err(_) => HostUser::from_name(text).map_err(unread)?.map(User::from),
    };
    known.ok_or_else(|| "no such user on this host; create it, or give another name or number".into())
}
