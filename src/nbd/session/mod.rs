//! The replies to one NBD client. Pure: bytes in, bytes and ranges out; no I/O, no clock.
//!
//! The phases are types. A [`Handshake`] answers options until the client attaches to an export or
//! leaves. Then a [`Transmission`] answers requests: for days, so it is plain data that another
//! process could go on with, and the export is an argument.

pub(crate) mod handshake;
pub(crate) mod resting;
#[cfg(test)]
mod tests;
mod transmission;

pub(crate) use handshake::{Attached, Handshake, HandshakeEnd};
pub(crate) use transmission::RestingTransmission;
pub use transmission::{Replies, Transmission, TransmissionEnd};

/// Longest read, in bytes: the least that a server without advertised size constraints should take
/// ("Size constraints": 2^25). QEMU asks for no more.
pub(crate) const READ_MAX: u32 = 32 << 20;

/// Number of the context `base:allocation` once a client has set it.
const ALLOCATION_ID: u32 = 1;
