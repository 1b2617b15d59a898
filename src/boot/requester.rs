//! The two ends of a request for a file.

use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;

/// Advice for a person at the screen of a machine that did not get its file.
pub(crate) const ADVICE: &str = "run `isowire status` there to see what each machine asked for";

/// A client that asks for a file, and the address at which it reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester {
    /// Our address that it chose. Generated files name it.
    pub server: Ipv4Addr,
    /// Its own address; `None` if it is unknown or of IPv6.
    pub address: Option<Ipv4Addr>,
    /// Time of the request.
    pub now: Timestamp,
}

impl Requester {
    /// Creates a requester of which we know its own address too.
    pub(crate) fn new(server: Ipv4Addr, address: IpAddr, now: Timestamp) -> Self {
        let address = match address {
            IpAddr::V4(address) => Some(address),
            // An inherited IPv6 socket shows IPv4 addresses as mapped ones (RFC 4291 §2.5.5.2).
            IpAddr::V6(address) => address.to_ipv4_mapped(),
        };
        Self { server, address, now }
    }

    /// Returns the name of this server for a person at the machine's screen.
    pub(crate) fn server_name(&self) -> String {
        format!("isowire at {}", self.server)
    }
}

/// Creates a requester of whom only our address is known, at the start of 1970.
impl From<Ipv4Addr> for Requester {
    fn from(server: Ipv4Addr) -> Self {
        Self { server, address: None, now: Timestamp::UNIX_EPOCH }
    }
}
