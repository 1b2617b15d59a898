//! Part of IPv6 neighbour discovery (RFC 4861): tells iPXE that there is no IPv6 router.
//!
//! iPXE configures IPv6 beside IPv4 and boots when both are done. Without a router it sends
//! solicitations for 13 to 16 seconds although it has an IPv4 lease. An empty advertisement ends
//! that at once. Only a machine that asked us for a boot file a moment ago is answered.

#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
pub(crate) mod server;
pub(crate) mod session;
pub mod wire;
