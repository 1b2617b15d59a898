//! The words for how far a boot is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The steps of a boot, in the order in which a machine takes them; it may leave some out. Within a boot a machine never
/// goes back: whoever loads menu modules after the menu stays at the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It asked for something.
    Seen,
    /// DHCP offered it a boot file.
    Offered,
    /// It took an address, from us or from the DHCP server beside us.
    Leased,
    /// It got some of a boot program: lpxelinux, iPXE, one made for it.
    Loader,
    /// It got a menu or a script.
    Menu,
    /// It got some of a kernel.
    Kernel,
    /// It got some of an initramfs.
    Initramfs,
    /// It reached for its root file system.
    Root,
}

impl Step {
    pub const ALL: [Step; 8] = [
        Step::Seen,
        Step::Offered,
        Step::Leased,
        Step::Loader,
        Step::Menu,
        Step::Kernel,
        Step::Initramfs,
        Step::Root,
    ];
}

/// Where a machine is: at a step, and once it has reached its root, how it stands to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Seen,
    Offered,
    Leased,
    Loader,
    Menu,
    Kernel,
    Initramfs,
    /// It has a connection to its root file system.
    Attached,
    /// It let go of its root and had read all of it: it runs from memory, or it was shut down.
    Copied,
    /// It let go of its root and had not read all of it: it was shut down. Linux also closes an NFS connection that
    /// nothing was read over for five minutes, and comes back.
    Released,
    /// The connection to its root broke off.
    Lost,
}

impl Stage {
    /// `root` counts from [`Step::Root`] on: the connections there are, and how the last one ended.
    pub(super) const fn new(step: Step, root: Option<Stage>) -> Self {
        match step {
            Step::Seen => Stage::Seen,
            Step::Offered => Stage::Offered,
            Step::Leased => Stage::Leased,
            Step::Loader => Stage::Loader,
            Step::Menu => Stage::Menu,
            Step::Kernel => Stage::Kernel,
            Step::Initramfs => Stage::Initramfs,
            Step::Root => match root {
                Some(stage) => stage,
                None => Stage::Attached,
            },
        }
    }
}

/// As in a table for people.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Seen => "seen",
            Stage::Offered => "offered",
            Stage::Leased => "leased",
            Stage::Loader => "loader",
            Stage::Menu => "menu",
            Stage::Kernel => "kernel",
            Stage::Initramfs => "initramfs",
            Stage::Attached => "root attached",
            Stage::Copied => "root copied",
            Stage::Released => "root released",
            Stage::Lost => "root lost",
        })
    }
}

/// What bytes leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tftp,
    Http,
    Nbd,
    Nfs,
}

impl Protocol {
    pub const ALL: [Protocol; 4] = [Protocol::Tftp, Protocol::Http, Protocol::Nbd, Protocol::Nfs];

    /// Whether programs, menus and kernels come by it. What is read of them by the others is a booted system's doing.
    pub(super) const fn loads_files(self) -> bool {
        matches!(self, Protocol::Tftp | Protocol::Http)
    }
}

/// The protocol's name.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::Tftp => "TFTP",
            Protocol::Http => "HTTP",
            Protocol::Nbd => "NBD",
            Protocol::Nfs => "NFS",
        })
    }
}

/// How a connection to a root ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootEnd {
    /// The client let go in order.
    Released,
    /// It broke off.
    Lost,
}
