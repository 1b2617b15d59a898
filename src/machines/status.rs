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

use super::boot::MachineBoot;
use super::diagnosis::{Diagnosis, FaultyImage, Surroundings, percent};
use super::server_status::{ImageStatus, ServiceStatus};
use super::story::StoryEvent;
use super::table::MachineRecord;
use super::up::SystemUp;
use super::{Mac, Protocol, Running, Stage, Step};
use crate::boot::next::UpcomingBoot;
use crate::image::FaultKind;
use crate::images::verify::{VerifyReport, VerifyState};

/// Version of the format. It grows when a field goes or changes its meaning; new fields and new
/// kinds of a diagnosis may come without that.
pub(crate) const FORMAT: u32 = 1;

/// Seconds of silence after which a machine is no longer in the middle of a boot.
const BOOTING_SECONDS: i64 = 120;

/// The time of day of events, from one comparison of two clocks: a time never moves between two
/// reports, even if the system's clock is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    instant: Instant,
    time: Timestamp,
}

impl Clock {
    /// `now` and `time` are the same moment.
    pub(super) const fn new(now: Instant, time: Timestamp) -> Self {
        Self { instant: now, time }
    }

    /// Returns the seconds since 1970-01-01 UTC of a moment, rounded down.
    pub(super) fn seconds(self, then: Instant) -> i64 {
        let nanos = self.time.as_nanosecond();
        // A server does not run for centuries, so neither leaves its type.
        let nanos = match then.checked_duration_since(self.instant) {
            Some(since) => nanos + since.as_nanos() as i128,
            None => nanos - self.instant.saturating_duration_since(then).as_nanos() as i128,
        };
        nanos.div_euclid(1_000_000_000) as i64
    }
}

/// The report on all machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Version of this format; 0 of servers that had none.
    #[serde(default)]
    pub format: u32,
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
    /// The services, as in the table at the start.
    #[serde(default)]
    pub services: Vec<ServiceStatus>,
    /// What to do about services that are off: lines as at the start.
    #[serde(default)]
    pub advice: Vec<String>,
    /// Images that new machines may get, the default first.
    #[serde(default)]
    pub images: Vec<ImageStatus>,
    /// `null` unless new machines go to other servers (`isowire drain`).
    #[serde(default)]
    pub draining: Option<DrainStatus>,
    /// Sorted by the start of the boot, latest first.
    pub machines: Vec<MachineStatus>,
}

/// A server whose new machines go to other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainStatus {
    /// Time of `isowire drain`.
    pub since: i64,
    /// Machines that need this server still: on their root, or in the middle of a boot.
    pub left: usize,
}

/// An image whose disk, network file system or object store fails or hangs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FaultStatus {
    /// Name of the image.
    pub image: String,
    /// Kind of the first fault, such as `changed` or `store-unreachable`; others may have followed.
    /// `unknown` of servers that had none.
    #[serde(default)]
    pub kind: FaultKind,
    /// Description of that fault.
    pub fault: String,
    /// Time of that.
    pub since: i64,
}

impl FaultStatus {
    pub(super) fn new(faulty: &FaultyImage, clock: Clock) -> Self {
        let FaultyImage { name, fault } = faulty;
        let since = clock.seconds(fault.since);
        Self { image: name.to_string(), kind: fault.kind, fault: fault.text.clone(), since }
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
    /// Name from the configuration, else the host name that it sent.
    #[serde(default)]
    pub name: Option<String>,
    /// Host name that it sent when its system was up, else by DHCP.
    #[serde(default)]
    pub host_name: Option<String>,
    /// UUID that it sent by DHCP, as dmidecode prints it.
    #[serde(default)]
    pub uuid: Option<String>,
    /// Time at which its system said that it is up (`phone_home` of cloud-init); `null` if it did
    /// not in this boot.
    #[serde(default)]
    pub up_since: Option<i64>,
    /// Public host keys of SSH that it sent then: kind and key, as in `known_hosts`.
    #[serde(default)]
    pub host_keys: Vec<String>,
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
    /// The same in words: what probably happened, and what to do.
    #[serde(default)]
    pub reason: Option<String>,
    /// Lines to enter somewhere, that go with the reason.
    #[serde(default)]
    pub advice: Vec<String>,
    /// A composed boot program was sent whole, and no root file system followed within a minute or
    /// before the machine began again: its firmware may have refused it because of Secure Boot.
    #[serde(default)]
    pub secure_boot_suspected: bool,
    /// `seen`, `offered`, `leased`, `loader`, `menu`, `kernel`, `initramfs`, and then one of
    /// `attached`, `copied`, `released`, `lost`. See [`Stage`].
    pub stage: Stage,
    /// Whether the booted system runs, as far as can be seen: `up`, `up-or-off` or `off`; `null`
    /// before it has its root.
    #[serde(default)]
    pub running: Option<Running>,
    /// Name of the image.
    pub image: Option<String>,
    /// Protocol of the root file system: `nbd`, `nfs` or `http`.
    pub root: Option<Protocol>,
    /// Open connections to the root file system.
    pub root_connections: u32,
    pub airootfs: Option<RootProgress>,
    /// What it boots next, if that is another than always.
    #[serde(default)]
    pub next: Option<UpcomingBoot>,
    /// The file that is being sent, or the root file system.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Bytes of images sent per second, over the last ten seconds.
    #[serde(default)]
    pub rate: u64,
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
    /// What happened in this boot, the first first; the last 32 events.
    #[serde(default)]
    pub story: Vec<StoryLine>,
}

/// An event of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoryLine {
    /// The first time of it.
    pub time: i64,
    pub text: String,
    /// Times that it happened without another event between.
    pub times: u32,
}

/// Progress of what a machine loads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Path of a file as the machine asked for it; `null` for the root file system.
    pub path: Option<String>,
    pub size: u64,
    /// Bytes sent, as in `airootfs` for a root.
    pub sent: u64,
    pub percent: u8,
    /// Time left at the present rate; `null` if it pauses.
    pub seconds_left: Option<u64>,
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
    pub(super) fn new(record: &MachineRecord, around: Surroundings<'_>, clock: Clock, now: Instant) -> Self {
        let MachineRecord { mac, addresses, platform, refusal, boots, boot, .. } = record;
        let diagnosis = Diagnosis::of(record, around, now);
        let rate = boot.rate.current(boot.all_bytes_sent(), now);
        Self {
            name: name(record, around),
            host_name: record.host_name.as_deref().map(str::to_owned),
            uuid: record.uuid.map(|uuid| uuid.to_string()),
            up_since: boot.system.as_ref().map(|system| clock.seconds(system.since)),
            host_keys: boot.system.iter().flat_map(host_keys).collect(),
            mac: *mac,
            addresses: addresses.clone(),
            firmware: platform.map(|platform| platform.to_string()),
            architecture: platform.map(|platform| platform.architecture.0),
            refusal: refusal.as_ref().map(|refused| refused.why.clone()),
            reason: diagnosis.as_ref().map(Diagnosis::to_string),
            advice: advice(diagnosis.as_ref(), around),
            secure_boot_suspected: matches!(
                diagnosis,
                Some(Diagnosis::ProgramRefused | Diagnosis::NothingAfterProgram)
            ),
            diagnosis,
            stage: boot.stage(),
            running: boot.running(),
            image: boot.image.as_deref().map(str::to_owned),
            root: boot.root.map(|root| root.protocol),
            root_connections: boot.root.map_or(0, |root| root.connections),
            airootfs: airootfs(boot),
            next: mac.and_then(|mac| around.site.rules.upcoming(mac)),
            progress: progress(boot, rate),
            rate,
            sent: sent(boot),
            boots: *boots,
            since: clock.seconds(boot.began),
            last_seen: clock.seconds(record.last_seen()),
            reached: reached(boot),
            story: story(boot, clock),
        }
    }

    /// Returns whether the machine would miss this server: it is on its root, or loads it.
    pub(super) fn needs_this_server(&self, now: i64) -> bool {
        let is_booting = (Stage::Offered..=Stage::Initramfs).contains(&self.stage)
            && now - self.last_seen < BOOTING_SECONDS;
        self.root_connections > 0 || is_booting
    }

    /// Returns a key that breaks ties when machines are sorted.
    pub(super) fn key(&self) -> (Option<Mac>, Option<IpAddr>) {
        (self.mac, self.addresses.first().copied())
    }
}

fn host_keys(system: &SystemUp) -> impl Iterator<Item = String> {
    system.host_keys.iter().map(|key| key.as_str().to_owned())
}

fn name(record: &MachineRecord, around: Surroundings<'_>) -> Option<String> {
    let configured = record.mac.and_then(|mac| around.site.names.get(&mac).cloned());
    configured.or_else(|| record.host_name.as_deref().map(str::to_owned))
}

/// Returns the settings of another DHCP server where those are what is missing.
fn advice(diagnosis: Option<&Diagnosis>, around: Surroundings<'_>) -> Vec<String> {
    let is_about_dhcp = matches!(
        diagnosis,
        Some(
            Diagnosis::OfferIgnored { .. }
                | Diagnosis::FileNotFound { .. }
                | Diagnosis::NoFileAskedFor { has_other_dhcp: true, .. }
        )
    );
    let settings = around.site.dhcp_settings.as_ref().filter(|_| is_about_dhcp);
    settings.map(|settings| settings.lines.clone()).unwrap_or_default()
}

fn airootfs(boot: &MachineBoot) -> Option<RootProgress> {
    boot.coverage().map(|root| RootProgress { size: root.size(), read: root.covered() })
}

/// Returns the progress on the root once the machine has one, else on the file that it loads.
fn progress(boot: &MachineBoot, rate: u64) -> Option<Progress> {
    if boot.step == Step::Root {
        return boot.coverage().map(|root| Progress::new(None, root.size(), root.covered(), rate));
    }
    let file = boot.requests.current().filter(|file| !file.is_whole)?;
    let sent = file.sent(boot.bytes_sent(file.protocol));
    Some(Progress::new(Some(file.path.to_string()), file.size, sent, rate))
}

impl Progress {
    fn new(path: Option<String>, size: u64, sent: u64, rate: u64) -> Self {
        let left = size.saturating_sub(sent);
        let seconds_left = left.checked_div(rate).filter(|_| left > 0);
        Self { path, size, sent, percent: percent(sent, size), seconds_left }
    }
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

fn story(boot: &MachineBoot, clock: Clock) -> Vec<StoryLine> {
    let line = |event: &StoryEvent| StoryLine {
        time: clock.seconds(event.at),
        text: event.text.to_string(),
        times: event.times,
    };
    boot.story.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_of_an_event_never_moves() {
        let (start, time) = (Instant::now(), Timestamp::new(1000, 999_999_999).unwrap());
        let clock = Clock::new(start, time);
        let event = start + Duration::from_millis(500);
        assert_eq!(
            [event, start, start + Duration::from_nanos(1)].map(|then| clock.seconds(then)),
            [1001, 1000, 1001]
        );
        if let Some(before) = start.checked_sub(Duration::from_secs(1)) {
            assert_eq!(clock.seconds(before), 999);
        }
    }

    #[test]
    fn time_left_follows_from_the_rate() {
        let of = |size, sent, rate| Progress::new(None, size, sent, rate);
        assert_eq!(of(100, 40, 20).seconds_left, Some(3));
        assert_eq!([of(100, 40, 0), of(100, 100, 20)].map(|progress| progress.seconds_left), [None, None]);
        assert_eq!(
            [of(100, 99, 1), of(0, 0, 1), of(u64::MAX, u64::MAX, 1)].map(|progress| progress.percent),
            [99, 0, 100]
        );
    }
}
