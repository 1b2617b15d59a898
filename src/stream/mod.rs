//! Connections of NBD, NFS and HTTP: accepting clients, reading requests, sending replies.
//!
//! A protocol implements [`Session`]; [`drive`] runs it on a socket.

mod driver;
mod listener;
mod receive;
mod transmit;

pub(crate) use driver::{End, Session, Turn, drive};
pub(crate) use listener::{Listener, accept};
pub(crate) use transmit::TransmitError;
