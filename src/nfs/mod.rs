//! NFS version 3 and its MOUNT protocol (RFC 1813) over ONC RPC (RFC 5531), read-only, on one port.
//!
//! [`xdr`] and [`rpc`] hold what all RPC programs share; [`wire`] knows the bytes of NFS,
//! [`session`] decides, [`server`] moves. [`portmap`] tells machines the port.
//!
//! Handles, file ids and cookies derive from the image ([`handle`]): to a machine whose root is on
//! NFS, a restart of the server looks like a slow server.

pub mod handle;
pub(crate) mod mount;
pub(crate) mod portmap;
pub mod rpc;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
pub mod xdr;
