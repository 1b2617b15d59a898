//! Requests that were refused, and by which part of the server.

use serde::{Deserialize, Serialize};

/// A request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub by: RefusedBy,
    /// In the words of the service.
    pub why: String,
}

/// The part of the server that refused a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RefusedBy {
    Architecture,
    /// A `[[machine]]` rule.
    Rule,
    /// `allow`
    Allow,
    /// The DHCP range has no free address.
    Pool,
    /// Other hosts use the addresses of the range.
    AddressesInUse,
    /// Another DHCP server is on the network.
    OtherDhcp,
    /// Its network has no DHCP range.
    Network,
    /// There is no boot file for its firmware.
    BootFile,
    /// NBD has no export of that name.
    Export,
    /// NFS has no directory at that path.
    NfsPath,
    /// Connections are at their limit.
    Places,
    /// It is to boot from its local disk, and does.
    LocalDisk,
}

#[cfg(test)]
impl RefusedBy {
    pub(crate) const ALL: [RefusedBy; 11] = [
        Self::Architecture,
        Self::Rule,
        Self::Allow,
        Self::Pool,
        Self::AddressesInUse,
        Self::OtherDhcp,
        Self::Network,
        Self::BootFile,
        Self::Export,
        Self::NfsPath,
        Self::Places,
    ];
}
