//! Connections of NBD, NFS and HTTP: accepting clients, reading requests, sending replies.
//!
//! A protocol implements [`Session`]; [`drive`] runs it on a socket. [`turn`] and [`waiting`] are
//! plain data that the pure sessions share with the driver; the other files do I/O.

mod clients;
mod cold_reads;
mod descriptors;
mod driver;
mod linger;
mod listener;
mod log;
mod receive;
mod rest;
mod transmit;
mod turn;
mod waiting;

pub(crate) use clients::{Admission, ClientLimits, Clients, Place, Refusal};
pub(crate) use cold_reads::PageCacheNow;
pub(crate) use descriptors::Descriptors;
pub(crate) use driver::{Session, drive};
pub(crate) use linger::close_in_stages;
pub(crate) use listener::{ACCEPT_PAUSE, Listener, accept, accept_until};
pub(crate) use log::ConnectionLog;
pub(crate) use rest::Connections;
pub(crate) use transmit::{TransmitError, root_end};
pub(crate) use turn::{End, ReadTotals, Turn};
pub(crate) use waiting::{ReadOutcome, Waiting};
