//! What is told of the machines, as JSON: the answer of a running server, and what `isowire status --json` prints.
//!
//! The names and meanings of fields are kept from version to version; new ones may come. What is not known is `null`.
//! Times are seconds since 1970-01-01 UTC, by the clock of the server; sizes are bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{MachineBoot, MachineRecord};
use super::{Mac, Protocol, Stage, Step};

/// All machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the server.
    pub isowire: String,
    /// When this was told.
    pub time: i64,
    /// Machines that were forgotten because there were too many (4096).
    pub forgotten: u64,
    /// The one whose boot began last comes first.
    pub machines: Vec<MachineStatus>,
}

/// One machine and its last boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// `52:54:00:12:34:56`
    pub mac: Option<Mac>,
    /// The last one first; at most four.
    pub addresses: Vec<IpAddr>,
    /// What asked for a boot file, in words: `x64 UEFI, iPXE`.
    pub firmware: Option<String>,
    /// Client system architecture as in DHCP option 93 (RFC 4578 §2.1).
    pub architecture: Option<u16>,
    /// Why it got no boot file when it last asked for one.
    pub refusal: Option<String>,
    /// `seen`, `offered`, `leased`, `loader`, `menu`, `kernel`, `initramfs`, and from then on one of `attached`, `copied`,
    /// `released`, `lost`. See [`Stage`].
    pub stage: Stage,
    /// Name of the image.
    pub image: Option<String>,
    /// What the root file system came by: `nbd`, `nfs` or `http`.
    pub root: Option<Protocol>,
    /// Connections to the root file system there are now.
    pub root_connections: u32,
    pub airootfs: Option<RootProgress>,
    /// Bytes of images that were sent, by protocol; what was sent twice counts twice. Menus and headers do not count.
    pub sent: SentBytes,
    /// Boots that were seen to begin since the server was started.
    pub boots: u32,
    /// When the boot began.
    pub since: i64,
    /// When something was last heard of the machine or sent to it.
    pub last_seen: i64,
    /// Seconds from the beginning of the boot to each step that was taken: `seen` to `initramfs` as in `stage`, and `root`.
    pub reached: BTreeMap<Step, f64>,
}

/// How much of its root file system a machine was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootProgress {
    pub size: u64,
    /// Different bytes of it, at most: exact where the machine read straight on, else what it touched in chunks of 256
    /// KiB (more for more than 4 GiB), and never more than it was sent.
    pub read: u64,
}

/// See [`MachineStatus::sent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SentBytes {
    pub tftp: u64,
    pub http: u64,
    pub nbd: u64,
    pub nfs: u64,
}

impl SentBytes {
    pub fn total(&self) -> u64 {
        [self.tftp, self.http, self.nbd, self.nfs].into_iter().fold(0, u64::saturating_add)
    }
}

impl MachineStatus {
    pub(super) fn new(record: &MachineRecord, now: Instant, time: Timestamp) -> Self {
        let MachineRecord { mac, addresses, machine, refusal, boots, boot, .. } = record;
        let unix = |then: Instant| {
            // A server does not run for centuries.
            time.as_second() - now.saturating_duration_since(then).as_secs() as i64
        };
        Self {
            mac: *mac,
            addresses: addresses.clone(),
            firmware: machine.map(|machine| machine.to_string()),
            architecture: machine.map(|machine| machine.architecture.0),
            refusal: refusal.clone(),
            stage: boot.stage(),
            image: boot.image.as_deref().map(str::to_owned),
            root: boot.root.map(|root| root.door),
            root_connections: boot.root.map_or(0, |root| root.connections),
            airootfs: airootfs(boot),
            sent: sent(boot),
            boots: *boots,
            since: unix(boot.began),
            last_seen: unix(record.last_seen()),
            reached: reached(boot),
        }
    }

    /// By which a machine is found again in another status.
    pub(super) fn key(&self) -> (Option<Mac>, Option<IpAddr>) {
        (self.mac, self.addresses.first().copied())
    }
}

/// Where a machine has several counters, those of the one that read most.
fn airootfs(boot: &MachineBoot) -> Option<RootProgress> {
    let roots = boot.traffic.iter().filter_map(|traffic| traffic.root());
    roots
        .map(|root| RootProgress { size: root.size(), read: root.covered() })
        .max_by_key(|airootfs| airootfs.read)
}

fn sent(boot: &MachineBoot) -> SentBytes {
    let bytes = |door| boot.traffic.iter().map(|traffic| traffic.bytes(door)).fold(0, u64::saturating_add);
    let [tftp, http, nbd, nfs] = [Protocol::Tftp, Protocol::Http, Protocol::Nbd, Protocol::Nfs].map(bytes);
    SentBytes { tftp, http, nbd, nfs }
}

fn reached(boot: &MachineBoot) -> BTreeMap<Step, f64> {
    let reached = Step::ALL.into_iter().zip(boot.reached);
    let seconds = |after: Duration| after.as_millis() as f64 / 1000.0;
    let after = |then: Instant| seconds(then.saturating_duration_since(boot.began));
    reached.filter_map(|(step, then)| Some((step, after(then?)))).collect()
}
