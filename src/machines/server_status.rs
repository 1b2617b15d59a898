//! The part of the status report about the server itself: its services and its images.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::images::ServedImage;

/// A service of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceStatus {
    /// `NBD`, `DHCP`.
    pub service: String,
    /// `null` for one that is off.
    pub address: Option<SocketAddr>,
    /// State in words, with the reason of one that is off.
    pub state: String,
}

/// An image that is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageStatus {
    pub name: String,
    /// Name that always means this very image.
    pub versioned_name: String,
    /// Label of the volume, as the author of the image wrote it.
    pub label: String,
    pub size: u64,
    /// Bytes that are in the cache folder; `null` for an image that is not in an object store.
    #[serde(default)]
    pub cached: Option<u64>,
    /// Problems that do not keep the image from being served, as `isowire inspect` lists them.
    pub warnings: Vec<String>,
}

impl ImageStatus {
    pub(super) fn new(served: &ServedImage) -> Self {
        let ServedImage { name, image, .. } = served;
        Self {
            name: name.clone(),
            versioned_name: served.versioned_name(),
            label: image.volume.label.clone(),
            size: image.source.len(),
            cached: image.source.cached(),
            warnings: image.warnings.clone(),
        }
    }
}
