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
//! tracker adds them to counters that only connections of the same machine share. The lock that all
//! machines share is taken only for an event: the first byte of a kernel, a root attached or
//! released.
//!
//! The step of a boot follows from the files that a machine loads: TFTP and HTTP tell the tracker
//! the kind of each file. [`BootRanges`](boot_ranges::BootRanges) tells the rest from the ranges of
//! an image: the progress within a program composed of kernel and initramfs, and within the root
//! file system, by any protocol.

mod ages;
mod boot;
mod boot_ranges;
pub(crate) mod carried;
pub(crate) mod diagnosis;
mod learner;
pub mod local;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub(crate) mod neighbours;
pub(crate) mod rate;
pub(crate) mod refused;
mod registry;
pub(crate) mod requests;
pub(crate) mod server_status;
pub(crate) mod site;
pub(crate) mod stage;
pub(crate) mod status;
mod story;
mod table;
pub(crate) mod tracker;
mod transfer_stats;
pub(crate) mod up;

pub use crate::mac::Mac;
pub(crate) use refused::RefusedBy;
pub(crate) use registry::LearnedBoot;
pub use registry::Registry;
pub(crate) use requests::FileRequest;
pub(crate) use stage::Running;
pub use stage::{Loss, Protocol, RootEnd, Stage, Step};
pub(crate) use status::StatusReport;
pub(crate) use table::MACHINES_MAX;
pub use tracker::ConnectionTracker;
pub(crate) use up::{FinishedBoot, KnownMachine, UpReport};

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::boot_ranges::tests::image;
}
