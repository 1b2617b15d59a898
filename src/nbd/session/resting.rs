//! A connection at rest, between two system calls: all of it but its socket, as plain data.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Handshake, RestingTransmission};
use crate::export::resting::UnsentPart;
use crate::image::Extent;
use crate::image::identity::Identity;

/// A connection without its socket, for the process that goes on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RestingConnection {
    pub peer: SocketAddr,
    /// Time since the client connected.
    pub age: Duration,
    /// Bytes of a request that has not arrived in full, or that was not answered yet.
    pub input: Vec<u8>,
    /// Replies that have not left yet.
    pub unsent: Vec<UnsentPart>,
    pub phase: RestingPhase,
}

/// The phase of a connection at rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum RestingPhase {
    Handshake(Handshake),
    Attached(RestingRoot),
}

/// A client that chose its export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RestingRoot {
    /// The image of the export, which always has one.
    pub image: Option<Identity>,
    /// The export: ranges of the image.
    pub extents: Vec<Extent>,
    /// Name that the client asked for, fit for a log.
    pub name: String,
    pub transmission: RestingTransmission,
}
