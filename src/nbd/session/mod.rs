//! One NBD client: what it gets next. Pure: bytes in, bytes and ranges out; no I/O, no clock.
//!
//! The phases are types. A [`Handshake`] consumes options until the client attaches to an export or leaves; then a
//! [`Transmission`] answers requests for as long as the client lives.

mod handshake;
#[cfg(test)]
mod tests;
mod transmission;

pub(crate) use handshake::{Attached, Handshake, Next, Rejected};
pub use transmission::{Replies, Tally, Transmission, Turn};

/// Longest read, in bytes: what qemu and the specification take for granted where nothing else was agreed.
pub(crate) const READ_MAX: u32 = 32 << 20;

/// Number by which `base:allocation` goes once a client has set it.
const ALLOCATION_ID: u32 = 1;
