//! Other DHCP servers that a process knew of, as plain data for the process after it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A DHCP server beside this one, on whose network nothing is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CarriedConflict {
    pub server: Ipv4Addr,
    /// An address of its network.
    pub on: Ipv4Addr,
    /// Seconds since it was seen.
    pub age: u32,
}
