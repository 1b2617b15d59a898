//! NFS version 3 and its MOUNT protocol (RFC 1813) over ONC RPC (RFC 5531), read-only, on one TCP port.
//!
//! [`xdr`] and [`rpc`] are what every RPC program is made of; [`wire`] knows the bytes of NFS, [`session`] decides,
//! [`server`] moves. Whatever a client keeps of an image, its handles, file ids and cookies, comes from the image
//! ([`handle`]): a machine that lives on its root sees no difference between a restart and a slow server.
//! [`portmap`] tells machines at which port all this is.

pub mod handle;
pub(crate) mod mount;
pub(crate) mod portmap;
pub mod rpc;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
pub mod xdr;
