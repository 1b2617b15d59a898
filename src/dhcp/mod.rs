//! DHCP for machines that boot from the network (RFC 2131, RFC 2132, RFC 4578, PXE 2.1).
//!
//! Two roles. A **proxy** works beside another DHCP server: it answers PXE and HTTP boot clients
//! only, with a boot file and without an address. A **server** is the only DHCP server of its
//! network: it leases addresses to all clients and names the boot file in the same replies.

pub mod lease;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
