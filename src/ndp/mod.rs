//! The little of IPv6's neighbour discovery (RFC 4861) that saves iPXE a wait: the word that there is no router.
//!
//! iPXE configures IPv6 beside IPv4, and boots when both are done. Where no router is, it asks for one again and
//! again for 13 to 16 seconds, with an IPv4 lease in its hand all the while. An advertisement that offers nothing ends that
//! at once. Nobody but a machine that asked us for a boot file a moment ago is answered.

pub mod server;
pub mod session;
pub mod wire;
