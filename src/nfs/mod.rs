//! NFS version 3 and its MOUNT protocol (RFC 1813) over ONC RPC (RFC 5531), read-only, on one TCP port.
//!
//! [`xdr`] and [`rpc`] are what every RPC program is made of.

pub mod rpc;
pub mod xdr;
