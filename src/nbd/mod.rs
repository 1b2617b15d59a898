//! NBD, the network block device: fixed newstyle handshake and transmission of read-only exports, as
//! `doc/proto.md` of the NetworkBlockDevice project says ("the specification" in this room).
//!
//! [`wire`] knows the bytes, [`session`] decides, [`server`] moves. A client that lives on its root for days dies
//! with its connection, so after the handshake nothing but the client, a broken protocol or a vanished image ends
//! one: there is no idle time-out, and a refused request is an error reply.

#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
