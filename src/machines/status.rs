//! The status report as JSON: a running server answers with it, and `isowire status --json` prints
//! it.
//!
//! Names and meanings of fields are stable; new fields may be added. An unknown value is `null`.
//! Times are seconds since 1970-01-01 UTC, by the clock of the server; sizes are bytes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::diagnosis::Diagnosis;
use super::table::{MachineBoot, MachineRecord};
use super::{Mac, Protocol, Stage, Step};
use crate::image::ImageFault;
use crate::images::verify::{VerifyReport, VerifyState};

/// The report on all machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Version of the server.
    pub isowire: String,
    /// Time of the report.
    pub time: i64,
    /// Machines dropped because the table was full (`max-machines`).
    pub forgotten: u64,
    /// Faults of isowire itself since its start; its log describes each.
    #[serde(default)]
    pub panics: u64,
    /// Images that cannot be read at present, in part or at all.
    #[serde(default)]
    pub faults: Vec<FaultStatus>,
    /// Verifications of images, in their order; empty without `verify`.
    #[serde(default)]
    pub verifications: Vec<VerificationStatus>,
    /// Sorted by the start of the boot, latest first.
    pub machines: Vec<MachineStatus>,
}

/// An image whose disk, or network file system, fails or hangs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FaultStatus {
    /// Name of the image.
    pub image: String,
    /// Description of the first fault; others may have followed.
    pub fault: String,
    /// Time of that.
    pub since: i64,
}

impl FaultStatus {
    pub(super) fn new(image: &str, fault: ImageFault, now: Instant, time: Timestamp) -> Self {
        let since = unix_time(time, now, fault.since);
        Self { image: image.to_owned(), fault: fault.text, since }
    }
}

/// The verification of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VerificationStatus {
    /// Name of the image.
    pub image: String,
    pub file: String,
    /// `waiting`, `verifying`, `verified` or `failed`.
    pub state: String,
    /// Bytes to read.
    pub size: u64,
    /// Bytes that were read.
    pub read: u64,
    /// Reason of the failure, for which the image is not offered.
    pub error: Option<String>,
}

impl From<VerifyReport> for VerificationStatus {
    fn from(VerifyReport { image, path, state, size, read }: VerifyReport) -> Self {
        let (state, error) = match state {
            VerifyState::Waiting => ("waiting", None),
            VerifyState::Verifying => ("verifying", None),
            VerifyState::Verified => ("verified", None),
            VerifyState::Failed(why) => ("failed", Some(why)),
        };
        // JSON holds Unicode only.
        let file = path.to_string_lossy().into_owned();
        Self { image, file, state: state.to_owned(), size, read, error }
    }
}

/// A machine and its last boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineStatus {
    /// `52:54:00:12:34:56`
    pub mac: Option<Mac>,
    /// Most recent first, at most four.
    pub addresses: Vec<IpAddr>,
    /// The firmware that asked for a boot file, in words: `x64 UEFI, iPXE`.
    pub firmware: Option<String>,
    /// Client system architecture as in DHCP option 93 (RFC 4578 §2.1).
    pub architecture: Option<u16>,
    /// Reason why the last request for a boot file got none.
    pub refusal: Option<String>,
    /// Reason why the machine does not get on; `null` if it does.
    #[serde(default)]
    pub diagnosis: Option<Diagnosis>,
    /// A composed boot program was sent whole, and no root file system followed within a minute or
    /// before the machine began again: its firmware may have refused it because of Secure Boot.
    #[serde(default)]
    pub secure_boot_suspected: bool,
    /// `seen`, `offered`, `leased`, `loader`, `menu`, `kernel`, `initramfs`, and then one of
    /// `attached`, `copied`, `released`, `lost`. See [`Stage`].
    pub stage: Stage,
    /// Name of the image.
    pub image: Option<String>,
    /// Protocol of the root file system: `nbd`, `nfs` or `http`.
    pub root: Option<Protocol>,
    /// Open connections to the root file system.
    pub root_connections: u32,
    pub airootfs: Option<RootProgress>,
    /// Bytes of images sent, by protocol. Bytes sent twice count twice; menus and headers do not
    /// count.
    pub sent: SentBytes,
    /// Boots seen since the server was started.
    pub boots: u32,
    /// Start of the boot.
    pub since: i64,
    /// Time of the last message from or to the machine.
    pub last_seen: i64,
    /// Seconds from the start of the boot to each step that was taken: `seen` to `initramfs` as in
    /// `stage`, and `root`.
    pub reached: BTreeMap<Step, f64>,
}

/// The part of its root file system that a machine was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RootProgress {
    pub size: u64,
    /// Upper bound of the distinct bytes sent. It is exact for a sequential reader; else it counts
    /// touched chunks of 256 KiB (larger above 4 GiB), and never more than was sent.
    pub read: u64,
}

/// Bytes sent by each protocol, see [`MachineStatus::sent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct SentBytes {
    pub tftp: u64,
    pub http: u64,
    pub nbd: u64,
    pub nfs: u64,
}

impl SentBytes {
    pub(crate) fn total(&self) -> u64 {
        [self.tftp, self.http, self.nbd, self.nfs].into_iter().fold(0, u64::saturating_add)
    }
}

impl MachineStatus {
    pub(super) fn new(record: &MachineRecord, now: Instant, time: Timestamp) -> Self {
        let MachineRecord { mac, addresses, platform, refusal, boots, boot, .. } = record;
        let diagnosis = Diagnosis::of(record, now);
        Self {
            mac: *mac,
            addresses: addresses.clone(),
            firmware: platform.map(|platform| platform.to_string()),
            architecture: platform.map(|platform| platform.architecture.0),
            refusal: refusal.clone(),
            diagnosis,
            secure_boot_suspected: matches!(
                diagnosis,
                Some(Diagnosis::ProgramRefused | Diagnosis::NothingAfterProgram)
            ),
            stage: boot.stage(),
            image: boot.image.as_deref().map(str::to_owned),
            root: boot.root.map(|root| root.protocol),
            root_connections: boot.root.map_or(0, |root| root.connections),
            airootfs: airootfs(boot),
            sent: sent(boot),
            boots: *boots,
            since: unix_time(time, now, boot.began),
            last_seen: unix_time(time, now, record.last_seen()),
            reached: reached(boot),
        }
    }

    /// Returns a key that breaks ties when machines are sorted.
    pub(super) fn key(&self) -> (Option<Mac>, Option<IpAddr>) {
        (self.mac, self.addresses.first().copied())
    }
}

/// Returns the Unix time of `then`, where `time` is the time of `now`.
fn unix_time(time: Timestamp, now: Instant, then: Instant) -> i64 {
    // A server does not run for centuries.
    time.as_second() - now.saturating_duration_since(then).as_secs() as i64
}

/// Returns the progress on the root. Of several counters, the one that covers most counts.
fn airootfs(boot: &MachineBoot) -> Option<RootProgress> {
    let roots = boot.traffic.iter().filter_map(|traffic| traffic.root());
    roots
        .map(|root| RootProgress { size: root.size(), read: root.covered() })
        .max_by_key(|airootfs| airootfs.read)
}

fn sent(boot: &MachineBoot) -> SentBytes {
    let [tftp, http, nbd, nfs] = [Protocol::Tftp, Protocol::Http, Protocol::Nbd, Protocol::Nfs]
        .map(|protocol| boot.bytes_sent(protocol));
    SentBytes { tftp, http, nbd, nfs }
}

fn reached(boot: &MachineBoot) -> BTreeMap<Step, f64> {
    let reached = Step::ALL.into_iter().zip(boot.reached);
    reached.filter_map(|(step, then)| Some((step, boot.seconds_until(then?)))).collect()
}
