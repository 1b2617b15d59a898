//! DHCP for machines that boot from the network (RFC 2131, RFC 2132, RFC 4578 and Intel's PXE 2.1).
//!
//! Two roles. A **proxy** stands beside the DHCP server that is there already: it answers PXE and HTTP boot clients
//! and nobody else, with a boot file and no address. An **authority** is the only DHCP server of its network: it
//! leases addresses to everyone, and tells network boot clients their boot file in the same breath.

pub mod lease;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub mod server;
pub mod session;
pub mod wire;
