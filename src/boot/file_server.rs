//! The address by which menus and boot plans name this server.

use std::net::Ipv4Addr;

/// Port of a `tftp://` URL without one (RFC 3617 §3).
pub(super) const TFTP: u16 = 69;
/// Port of an `http://` URL without one (RFC 9110 §4.2.1).
const HTTP: u16 = 80;

/// This server as one machine reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileServer {
    pub address: Ipv4Addr,
    pub ports: Ports,
}

/// The ports that machines load files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub tftp: u16,
    /// `None` if HTTP is off: then kernels come by TFTP too.
    pub http: Option<u16>,
}

impl FileServer {
    /// Returns the URL of the tree over TFTP.
    pub(crate) fn tftp_url(&self) -> String {
        match self.ports.tftp {
            TFTP => format!("tftp://{}/", self.address),
            port => format!("tftp://{}:{port}/", self.address),
        }
    }

    /// Returns the URL of the tree over HTTP; `None` if HTTP is off.
    pub(crate) fn http_url(&self) -> Option<String> {
        Some(match self.ports.http? {
            HTTP => format!("http://{}/", self.address),
            port => format!("http://{}:{port}/", self.address),
        })
    }
}
