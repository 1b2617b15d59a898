//! The table of machines as plain data, for the process that follows this one.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::refused::Refused;
use super::story::CarriedEvent;
use super::{Loss, Mac, Protocol, Stage, Step};
use crate::boot::{Firmware, Platform};
use crate::guid::Guid;
use crate::image::{Identity, NodeId};

/// A machine and its last boot. Times are ages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CarriedMachine {
    pub(super) mac: Option<Mac>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) platform: Option<Platform>,
    pub(super) offered: Option<Duration>,
    pub(super) refusal: Option<Refused>,
    pub(super) host_name: Option<String>,
    pub(super) uuid: Option<Guid>,
    pub(super) boots: u32,
    pub(super) had_no_root: bool,
    pub(super) boot: CarriedBoot,
}

/// A boot. Its connections are counted anew, as each of them goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CarriedBoot {
    pub began: Duration,
    pub began_as: Option<Firmware>,
    pub step: Step,
    pub reached: [Option<Duration>; Step::ALL.len()],
    pub image: Option<String>,
    pub root: Option<(Protocol, Stage, Option<Loss>)>,
    pub offers: u32,
    pub offered_file: Option<String>,
    pub loaded: Option<Duration>,
    pub program_sent: Option<Duration>,
    pub is_up: Option<bool>,
    /// Age of the report that it is up, and host keys.
    pub system: Option<(Duration, Vec<String>)>,
    pub secret_taken: bool,
    pub last_event: Duration,
    pub story: Vec<CarriedEvent>,
    pub stats: CarriedStats,
}

/// Bytes sent in a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CarriedStats {
    /// By protocol.
    pub bytes: [u64; Protocol::ALL.len()],
    pub last_seen: Option<Duration>,
    pub root: Option<CarriedCoverage>,
}

/// The part of a root file system that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CarriedCoverage {
    pub image: Identity,
    pub node: NodeId,
    pub size: u64,
    pub sent: u64,
    pub chunks: Vec<u64>,
}
