//! The machines that boot here and the progress of each. All protocols feed one record per machine;
//! `isowire status` reads it.
//!
//! ```text
//! dhcp: offered, leased, refused ---------.
//! tftp, http, nbd, nfs: ConnectionTracker +--> Registry (MachineTable behind a short lock) --> StatusReport
//!                            '-- bytes --> TransferStats (atomics of one machine) ------------'
//! ```
//!
//! A service gives each connection a [`ConnectionTracker`] and reports the bytes that it sent. The
//! tracker adds them to counters that only connections of the same machine share. The lock that all machines
//! share is taken only for an event: the first byte of a kernel, a root attached or released.
//!
//! The stage of a boot is derived from the bytes that a machine gets: [`BootRanges`] knows which
//! ranges of an image are its loader, kernel and root. So a service need not know the meaning of a
//! path, and progress shows even within a program composed of kernel and initramfs.

mod boot_ranges;
pub mod local;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub(crate) mod neighbours;
mod registry;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub(crate) mod stage;
pub(crate) mod status;
mod table;
pub(crate) mod tracker;
mod transfer_stats;

pub use crate::mac::Mac;
pub use registry::Registry;
pub use stage::{Protocol, RootEnd, Stage, Step};
pub(crate) use status::StatusReport;
pub use tracker::ConnectionTracker;
