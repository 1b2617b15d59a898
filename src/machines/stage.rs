//! Steps and stages of a boot, and the protocols that carry it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bootable::FileKind;
use crate::metrics::Door;

/// The steps of a boot, in order; a machine may skip some. A machine never goes back within a boot:
/// lpxelinux stays at the menu when it loads menu modules after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The machine sent a request.
    Seen,
    /// DHCP offered the machine a boot file.
    Offered,
    /// The machine leased an address from this or another DHCP server.
    Leased,
    /// The machine loaded part of a boot program: lpxelinux, iPXE or a composed one.
    Loader,
    /// The machine loaded a menu or a script.
    Menu,
    /// The machine loaded part of a kernel.
    Kernel,
    /// The machine loaded part of an initramfs, or all of a composed boot program.
    Initramfs,
    /// The machine opened its root file system.
    Root,
}

impl Step {
    /// Returns the step of a machine that loads a file of this kind.
    pub(super) const fn of_file(kind: FileKind) -> Option<Self> {
        match kind {
            FileKind::Loader => Some(Step::Loader),
            FileKind::Menu => Some(Step::Menu),
            FileKind::Kernel => Some(Step::Kernel),
            FileKind::Initramfs => Some(Step::Initramfs),
            // The ranges of a composed program tell the step.
            FileKind::Program | FileKind::Other => None,
        }
    }

    /// Returns the step of a machine that loads this part of a composed boot program. The initramfs
    /// comes before the kernel there, so the machine loads a boot program until the kernel begins.
    pub(super) const fn of_part(kind: FileKind) -> Option<Self> {
        match kind {
            FileKind::Initramfs => Some(Step::Loader),
            FileKind::Kernel => Some(Step::Kernel),
            FileKind::Loader | FileKind::Menu | FileKind::Program | FileKind::Other => None,
        }
    }

    pub(crate) const ALL: [Step; 8] = [
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

/// The state of a machine: its step, and from [`Step::Root`] on the state of its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Seen,
    Offered,
    Leased,
    Loader,
    Menu,
    Kernel,
    Initramfs,
    /// The machine has a connection to its root file system.
    Attached,
    /// The machine read all of its root and closed the connection: it runs from memory or is off.
    Copied,
    /// The machine closed the connection before it had read all of its root: it was shut down.
    /// Linux also closes an NFS connection that was idle for five minutes, and reconnects later.
    Released,
    /// The connection to the root broke.
    Lost,
}

impl Stage {
    pub(crate) const ALL: [Stage; 11] = [
        Stage::Seen,
        Stage::Offered,
        Stage::Leased,
        Stage::Loader,
        Stage::Menu,
        Stage::Kernel,
        Stage::Initramfs,
        Stage::Attached,
        Stage::Copied,
        Stage::Released,
        Stage::Lost,
    ];

    /// Returns the name, as in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Stage::Seen => "seen",
            Stage::Offered => "offered",
            Stage::Leased => "leased",
            Stage::Loader => "loader",
            Stage::Menu => "menu",
            Stage::Kernel => "kernel",
            Stage::Initramfs => "initramfs",
            Stage::Attached => "attached",
            Stage::Copied => "copied",
            Stage::Released => "released",
            Stage::Lost => "lost",
        }
    }

    /// Derives the stage. `root` is the state of the root and matters only at [`Step::Root`].
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

/// Writes the stage as the status table shows it.
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

/// A protocol that sends content of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tftp,
    Http,
    Nbd,
    Nfs,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 4] = [Protocol::Tftp, Protocol::Http, Protocol::Nbd, Protocol::Nfs];

    /// Returns the service that speaks it.
    pub(super) const fn door(self) -> Door {
        match self {
            Protocol::Tftp => Door::Tftp,
            Protocol::Http => Door::Http,
            Protocol::Nbd => Door::Nbd,
            Protocol::Nfs => Door::Nfs,
        }
    }
}

/// Writes the name of the protocol.
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

/// The end of a connection to a root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootEnd {
    /// The client disconnected in order.
    Released,
    /// The connection broke.
    Lost(Loss),
}

impl RootEnd {
    pub(super) const fn loss(self) -> Option<Loss> {
        match self {
            Self::Released => None,
            Self::Lost(loss) => Some(loss),
        }
    }
}

/// Reason why a connection to a root file system broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The machine reset the connection, or another one has its address now.
    Reset,
    /// The machine acknowledged nothing for too long.
    Silent,
    /// The machine closed the connection in the middle.
    Closed,
    /// The image cannot be read.
    Image,
    /// The server ended the connection.
    Server,
}

/// Writes the reason as the story of a boot has it.
impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Loss::Reset => "the machine reset the connection",
            Loss::Silent => "the machine did not answer any more",
            Loss::Closed => "the machine closed the connection",
            Loss::Image => "the image cannot be read here",
            Loss::Server => "the server ended the connection",
        })
    }
}

/// Whether a booted system runs, as far as can be seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Running {
    Up,
    /// It runs from memory, or was switched off.
    UpOrOff,
    Off,
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Running::Up => "up",
            Running::UpOrOff => "up or off",
            Running::Off => "off",
        })
    }
}
