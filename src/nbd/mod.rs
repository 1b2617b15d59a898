//! NBD, the network block device: fixed newstyle handshake and transmission of read-only exports,
//! by `doc/proto.md` of the NetworkBlockDevice project. Quotes in comments are from it.
//!
//! [`wire`] knows the bytes, [`session`] decides, [`server`] runs clients. A machine whose root is
//! an export dies with its connection, since nbd-client does not reconnect. So after the handshake
//! only the client, a broken protocol or a vanished image ends a connection: there is no idle
//! time-out, and a refused request gets an error reply.

#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
