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
    /// The file of the image was changed in place.
    Image,
}

impl RefusedBy {
    pub(crate) const ALL: [RefusedBy; 13] = [
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
        Self::LocalDisk,
        Self::Image,
    ];

    /// Returns the name, as in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Architecture => "architecture",
            Self::Rule => "rule",
            Self::Allow => "allow",
            Self::Pool => "pool",
            Self::AddressesInUse => "addresses-in-use",
            Self::OtherDhcp => "other-dhcp",
            Self::Network => "network",
            Self::BootFile => "boot-file",
            Self::Export => "export",
            Self::NfsPath => "nfs-path",
            Self::Places => "places",
            Self::LocalDisk => "local-disk",
            Self::Image => "image",
        }
    }
}
