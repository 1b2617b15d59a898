//! What outlives a process: a [`State`] as plain data, and the open files and sockets that belong
//! to it. Two ways carry it to the next process:
//!
//! ```text
//! systemd:    SIGTERM --> store::put --> systemd's file descriptor store --> store::Stored --> next process
//! by itself:  isowire serve --takeover <-- takeover: a private socket (SCM_RIGHTS) <-- running process
//! ```
//!
//! NBD connections are carried, as their clients do not come back. Images are carried as open
//! files: one that was replaced has no path any more, and machines live on it. Transfers of HTTP
//! and TFTP end in the old process, and NFS clients connect again.

mod descriptors;
mod parcel;
pub(crate) mod state;
pub(crate) mod store;
pub(crate) mod takeover;

pub(crate) use parcel::{Outgoing, Parcel};
pub(crate) use state::State;
