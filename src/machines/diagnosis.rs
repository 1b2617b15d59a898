//! Reasons why a machine does not get on, from what the services saw of it. Pure; time is an
//! argument.

mod text;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::boot::{MachineBoot, ROOT_LIMIT};
use super::refused::RefusedBy;
use super::requests::{MissingFile, RequestedFile};
use super::site::Site;
use super::table::MachineRecord;
use super::{Loss, Protocol, Stage, Step};
use crate::bootable::FileKind;
use crate::image::{FaultKind, ImageFault};

/// Offers that a machine may leave unanswered: firmware asks up to four times for each try.
const OFFERS: u32 = 4;

/// Longest time from an offer or a lease to the first file. Old firmware takes ten seconds.
const FIRST_FILE: Duration = Duration::from_secs(30);

/// Longest silence within a file: TFTP clients give up after a minute, and people call for help
/// before.
const SILENCE: Duration = Duration::from_secs(20);

/// Silence after a file that is not there. Loaders look at several places, and quickly.
const AFTER_MISS: Duration = Duration::from_secs(10);

/// Requests of a missing file in a row, after which no silence is waited for.
const MISSES: u32 = 3;

/// Requests of one file within a short time. OVMF asks for each file twice, PXELINUX reads its menu
/// again each time that it shows it.
const REQUESTS: u32 = 5;

/// The same of a menu, through which a person may go back and forth.
const MENU_REQUESTS: u32 = 12;

/// Bytes per second below which a boot takes an hour. The slowest firmware has five times as much.
const SLOW: u64 = 64 << 10;

/// Part of the usual rate below which a machine is slow.
const SLOW_PART: u64 = 10;

/// Bytes of a file that takes long enough for its rate to matter.
const LONG_FILE: u64 = 1 << 20;

/// Endings of pictures: a menu does without them.
const PICTURES: [&str; 4] = [".png", ".jpg", ".lss", ".bmp"];

/// Reason why a machine does not get on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Diagnosis {
    /// Its last request was refused.
    Refused { by: RefusedBy, why: String },
    /// It was offered a boot file again and again, and took none.
    OfferIgnored {
        offers: u32,
        /// Address and boot file that another DHCP server has to name.
        enter: Option<(String, String)>,
    },
    /// It has an address, and asked for no file.
    NoFileAskedFor {
        /// `UDP` or `TCP`.
        transport: String,
        /// Port at which its request was waited for.
        port: u16,
        /// Another DHCP server gives the addresses.
        has_other_dhcp: bool,
    },
    /// It asked for a file that is not there, and for nothing after it.
    FileNotFound { path: String, protocol: Protocol },
    /// It asks for the same file again and again.
    AskedAgain { path: String, times: u32 },
    /// A file stopped in the middle: this many seconds ago.
    TransferStalled { loading: Step, path: Option<String>, percent: Option<u8>, seconds: u64 },
    /// It gets far less than others.
    Slow {
        /// Bytes per second.
        rate: u64,
        /// The same of most machines that load; `null` if there are too few.
        usual: Option<u64>,
    },
    /// A whole composed boot program was sent, and the firmware began again.
    ProgramRefused,
    /// A whole composed boot program was sent, and nothing followed.
    NothingAfterProgram,
    /// Kernel and initramfs were sent, and no root file system was asked for.
    NoRootAskedFor {
        /// Parts that the initramfs lacks.
        lacks: Option<String>,
        /// The initramfs was looked at.
        is_known: bool,
        /// Network cards that it has drivers for.
        #[serde(default)]
        drivers: Option<String>,
        /// The kernel asked for an address.
        runs: bool,
    },
    /// It waits for its image, which cannot be read.
    ImageFault { fault: String },
    /// The connection to the root file system broke.
    RootLost { protocol: Protocol, by: Loss },
    /// A reason of a newer server.
    #[serde(other)]
    Other,
}

/// What a diagnosis compares a machine with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub site: &'a Site,
    /// Bytes per second of most machines that load at present; `None` if there are too few.
    pub usual_rate: Option<u64>,
    /// Images that cannot be read at present.
    pub faulty: &'a [FaultyImage],
}

/// An image that cannot be read, in part or at all.
#[derive(Debug, Clone)]
pub(super) struct FaultyImage {
    /// Name in the records of its machines. Another image may have an equal one.
    pub name: Arc<str>,
    pub fault: ImageFault,
}

impl Diagnosis {
    /// All kinds, as in JSON.
    pub(crate) const KINDS: [&str; 12] = [
        "refused",
        "offer-ignored",
        "no-file-asked-for",
        "file-not-found",
        "asked-again",
        "transfer-stalled",
        "slow",
        "program-refused",
        "nothing-after-program",
        "no-root-asked-for",
        "image-fault",
        "root-lost",
    ];

    /// Returns the kind, as in JSON.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::OfferIgnored { .. } => "offer-ignored",
            Self::NoFileAskedFor { .. } => "no-file-asked-for",
            Self::FileNotFound { .. } => "file-not-found",
            Self::AskedAgain { .. } => "asked-again",
            Self::TransferStalled { .. } => "transfer-stalled",
            Self::Slow { .. } => "slow",
            Self::ProgramRefused => "program-refused",
            Self::NothingAfterProgram => "nothing-after-program",
            Self::NoRootAskedFor { .. } => "no-root-asked-for",
            Self::ImageFault { .. } => "image-fault",
            Self::RootLost { .. } => "root-lost",
            Self::Other => "other",
        }
    }

    /// Returns why the machine does not get on; `None` if it does, as far as can be seen.
    pub(super) fn of(record: &MachineRecord, around: Surroundings<'_>, now: Instant) -> Option<Self> {
        let boot = &record.boot;
        if boot.says_it_is_up() {
            return None;
        }
        match boot.stage() {
            Stage::Lost => Self::of_lost(boot),
            Stage::Attached => of_missing_root(record, now)
                .or_else(|| of_image(record, around.faulty, now))
                .or_else(|| of_rate(boot, around, now)),
            Stage::Copied | Stage::Released => of_missing_root(record, now),
            _ => Self::of_loading(record, around, now),
        }
    }

    fn of_loading(record: &MachineRecord, around: Surroundings<'_>, now: Instant) -> Option<Self> {
        let boot = &record.boot;
        let silence = now.saturating_duration_since(record.last_seen());
        let first = of_refusal(record)
            .or_else(|| of_missing(record, now))
            .or_else(|| of_repeated(boot, now))
            .or_else(|| of_image(record, around.faulty, now));
        if first.is_some() {
            return first;
        }
        match boot.stage() {
            _ if record.had_no_root() => Some(Self::ProgramRefused),
            Stage::Offered => of_offered(record, around.site, now),
            Stage::Leased => (silence > FIRST_FILE).then(|| of_leased(boot, around.site)),
            _ if boot.is_silent_after_program(now) && boot.is_up.is_none() => Some(Self::NothingAfterProgram),
            // At the menu, somebody may still have to choose.
            Stage::Seen | Stage::Menu => None,
            Stage::Initramfs if boot.is_loaded() => {
                (silence > ROOT_LIMIT).then(|| of_kernel(boot, around.site))
            }
            _ if silence > SILENCE => Some(of_silence(boot, silence)),
            _ => of_rate(boot, around, now),
        }
    }

    fn of_lost(boot: &MachineBoot) -> Option<Self> {
        let root = boot.root?;
        Some(Self::RootLost { protocol: root.protocol, by: root.loss.unwrap_or(Loss::Closed) })
    }
}

fn of_refusal(record: &MachineRecord) -> Option<Diagnosis> {
    let refused = record.refusal.as_ref().filter(|refused| refused.by != RefusedBy::LocalDisk)?;
    Some(Diagnosis::Refused { by: refused.by, why: refused.why.clone() })
}

fn of_missing(record: &MachineRecord, now: Instant) -> Option<Diagnosis> {
    let missing = record.boot.requests.missing()?;
    let silence = now.saturating_duration_since(record.last_seen());
    // PXELINUX shows its menu without a picture, and then waits for somebody.
    let is_picture = PICTURES.iter().any(|ending| missing.path.ends_with(ending));
    let is_over = silence > AFTER_MISS || missing.times >= MISSES;
    (is_over && !is_picture).then(|| Diagnosis::from(missing))
}

/// archiso's HTTP hook stops when a part of the root file system is not there. A booted system may
/// ask for any file.
fn of_missing_root(record: &MachineRecord, now: Instant) -> Option<Diagnosis> {
    of_missing(record, now).filter(
        |missing| matches!(missing, Diagnosis::FileNotFound { path, .. } if path.contains("airootfs")),
    )
}

impl From<&MissingFile> for Diagnosis {
    fn from(missing: &MissingFile) -> Self {
        Self::FileNotFound { path: missing.path.to_string(), protocol: missing.protocol }
    }
}

fn of_repeated(boot: &MachineBoot, now: Instant) -> Option<Diagnosis> {
    let RequestedFile { path, kind, times, last, .. } = boot.requests.current()?;
    let most = if *kind == FileKind::Menu { MENU_REQUESTS } else { REQUESTS };
    let is_recent = now.saturating_duration_since(*last) < ROOT_LIMIT;
    (*times >= most && is_recent).then(|| Diagnosis::AskedAgain { path: path.to_string(), times: *times })
}

/// Of a file that was changed all reads wait. Of a disk that fails some do, so that silence has to
/// tell.
fn of_image(record: &MachineRecord, faulty: &[FaultyImage], now: Instant) -> Option<Diagnosis> {
    let boot = &record.boot;
    let name = boot.image.as_ref()?;
    let FaultyImage { fault, .. } = faulty.iter().find(|faulty| Arc::ptr_eq(&faulty.name, name))?;
    let is_silent = now.saturating_duration_since(record.last_seen()) > SILENCE;
    let waits = fault.kind == FaultKind::Changed || (is_silent && is_loading(boot));
    waits.then(|| Diagnosis::ImageFault { fault: fault.text.clone() })
}

fn of_offered(record: &MachineRecord, site: &Site, now: Instant) -> Option<Diagnosis> {
    let boot = &record.boot;
    let is_late = now.saturating_duration_since(boot.began) > FIRST_FILE;
    if boot.offers < OFFERS && !is_late {
        return None;
    }
    let settings = site.dhcp_settings.as_ref();
    let enter =
        settings.map(|settings| (settings.address.to_string(), settings.file(record.platform).to_owned()));
    Some(Diagnosis::OfferIgnored { offers: boot.offers, enter })
}

fn of_leased(boot: &MachineBoot, site: &Site) -> Diagnosis {
    let by_http = boot.offered_file.as_ref().is_some_and(|file| file.starts_with("http:"));
    let (transport, port) = match site.http_port.filter(|_| by_http) {
        Some(port) => ("TCP", port),
        None => ("UDP", site.tftp_port),
    };
    Diagnosis::NoFileAskedFor { transport: transport.to_owned(), port, has_other_dhcp: site.has_other_dhcp }
}

fn of_silence(boot: &MachineBoot, silence: Duration) -> Diagnosis {
    let file = boot.requests.current().filter(|file| !file.is_whole);
    Diagnosis::TransferStalled {
        loading: boot.step,
        path: file.map(|file| file.path.to_string()),
        percent: file.map(|file| percent(file.sent(boot.bytes_sent(file.protocol)), file.size)),
        seconds: silence.as_secs(),
    }
}

fn of_kernel(boot: &MachineBoot, site: &Site) -> Diagnosis {
    let known = boot.image.as_deref().and_then(|image| site.initramfs.get(image));
    Diagnosis::NoRootAskedFor {
        lacks: known.and_then(|known| known.lacks.clone()),
        is_known: known.is_some(),
        drivers: known.and_then(|known| known.drivers.clone()),
        runs: boot.is_up.is_some(),
    }
}

fn of_rate(boot: &MachineBoot, around: Surroundings<'_>, now: Instant) -> Option<Diagnosis> {
    let rate = loading_rate(boot, now).filter(|&rate| rate > 0)?;
    let usual = around.usual_rate.filter(|usual| rate < usual / SLOW_PART);
    (rate < SLOW || usual.is_some()).then_some(Diagnosis::Slow { rate, usual })
}

/// Returns the bytes per second of a machine that has been loading a long file, or its root from
/// one end to the other, for some time.
pub(super) fn loading_rate(boot: &MachineBoot, now: Instant) -> Option<u64> {
    boot.rate.lasting(boot.all_bytes_sent(), now).filter(|_| is_loading(boot))
}

/// Returns true in the middle of a long file, or of a root that is read from one end to the other.
fn is_loading(boot: &MachineBoot) -> bool {
    match boot.stage() {
        // A system that lives on its root reads what it needs, here and there.
        Stage::Attached => boot.coverage().is_some_and(|root| !root.is_whole() && root.is_sequential()),
        _ => boot.requests.current().is_some_and(|file| !file.is_whole && file.size >= LONG_FILE),
    }
}

/// Returns a part in percent, rounded down.
pub(crate) fn percent(part: u64, size: u64) -> u8 {
    // In 128 bits, as a hundred times a file's size may exceed 64.
    let percent = u128::from(part.min(size)) * 100 / u128::from(size.max(1));
    percent.min(100) as u8
}

#[cfg(test)]
mod tests;
