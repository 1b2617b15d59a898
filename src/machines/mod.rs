//! The machines that boot here, each with how far it is: one record a machine, fed by every door, read by `isowire status`.
//!
//! ```text
//! dhcp ---- offered, leased, refused --.
//! tftp, http, nbd, nfs --- Meter ------+--> Registry (MachineTable behind a short lock) --> Status --> server
//!                            '-- bytes --> TransferStats (atomics of one machine) ------------'
//! ```
//!
//! A door gives each connection a [`Meter`] and tells it which bytes left. The meter adds them to counters that nobody
//! shares but the other connections of the same machine; the lock that all share is taken only when something new
//! happens: the first byte of a kernel, a root that is attached or let go.
//!
//! What a machine boots is told from the bytes it gets: [`Landmarks`] says which ranges of an image are its loader, its
//! kernel, its root. So a door need not know what a path means, and a boot program that is made of an image's kernel and
//! initramfs shows how far the machine has come in it.

mod landmarks;
pub mod local;
pub mod meter;
pub mod neighbours;
mod registry;
pub mod server;
pub mod stage;
pub mod status;
mod table;
mod transfer_stats;

pub use crate::boot::Mac;
pub use landmarks::Landmarks;
pub use meter::Meter;
pub use registry::Registry;
pub use stage::{Protocol, RootEnd, Stage, Step};
pub use status::StatusReport;
