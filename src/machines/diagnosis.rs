//! Reasons why a machine does not get on, from what the services saw of it. Pure; time is an
//! argument.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::table::{MachineBoot, MachineRecord, ROOT_LIMIT};
use super::{Protocol, Stage, Step};

/// Offers that a machine may leave unanswered: firmware asks up to four times for each try.
const OFFERS: u32 = 4;

/// Longest time from an offer or a lease to the first file. Old firmware takes ten seconds.
const FIRST_FILE: Duration = Duration::from_secs(30);

/// Longest silence within a file: TFTP clients give up after a minute, and people call for help
/// before.
const SILENCE: Duration = Duration::from_secs(20);

/// Reason why a machine does not get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum Diagnosis {
    /// Its last request for a boot file got none; `refusal` says why.
    Refused,
    /// It was offered a boot file again and again, and took none.
    OfferIgnored { offers: u32 },
    /// It has an address, and asked for no file.
    NoFileAskedFor,
    /// A file stopped in the middle: this many seconds ago.
    TransferStalled { loading: Step, seconds: u64 },
    /// A whole composed boot program was sent, and the firmware began again.
    ProgramRefused,
    /// A whole composed boot program was sent, and nothing followed.
    NothingAfterProgram,
    /// Kernel and initramfs were sent, and no root file system was asked for.
    NoRootAskedFor,
    /// The connection to the root file system broke.
    RootLost { protocol: Protocol },
}

impl Diagnosis {
    /// Returns why the machine does not get on; `None` if it does, as far as can be seen.
    pub(super) fn of(record: &MachineRecord, now: Instant) -> Option<Self> {
        let MachineRecord { boot, refusal, .. } = record;
        let silence = now.saturating_duration_since(record.last_seen());
        match boot.stage() {
            Stage::Lost => boot.root.map(|root| Self::RootLost { protocol: root.protocol }),
            Stage::Attached | Stage::Copied | Stage::Released => None,
            _ if refusal.is_some() => Some(Self::Refused),
            _ if record.had_no_root() => Some(Self::ProgramRefused),
            Stage::Offered => Self::of_offered(boot, now),
            Stage::Leased => (silence > FIRST_FILE).then_some(Self::NoFileAskedFor),
            _ if boot.is_silent_after_program(now) => Some(Self::NothingAfterProgram),
            // At the menu, somebody may still have to choose.
            Stage::Seen | Stage::Menu => None,
            Stage::Initramfs if boot.is_loaded() => (silence > ROOT_LIMIT).then_some(Self::NoRootAskedFor),
            Stage::Loader | Stage::Kernel | Stage::Initramfs => (silence > SILENCE)
                .then_some(Self::TransferStalled { loading: boot.step, seconds: silence.as_secs() }),
        }
    }

    fn of_offered(boot: &MachineBoot, now: Instant) -> Option<Self> {
        let is_late = now.saturating_duration_since(boot.began) > FIRST_FILE;
        (boot.offers >= OFFERS || is_late).then_some(Self::OfferIgnored { offers: boot.offers })
    }
}

/// Writes what probably happened, and what to do.
impl Display for Diagnosis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("no boot file"),
            Self::OfferIgnored { offers } => write!(
                f,
                "offered a boot file {offers} times, and it took none: another DHCP server's offer won, or its \
                 firmware ignores proxies. Enter at the other DHCP server what `isowire serve` prints at its start"
            ),
            Self::NoFileAskedFor => f.write_str(
                "has an address, and asks for no file: a firewall may stop UDP port 69, or TCP port 80 for HTTP \
                 Boot",
            ),
            Self::TransferStalled { loading, seconds } => {
                let file = match loading {
                    Step::Kernel => "its kernel",
                    Step::Initramfs => "its initramfs",
                    _ => "its boot program",
                };
                write!(f, "stopped loading {file} {seconds} s ago: it hangs, is off, or lost the network")
            }
            Self::ProgramRefused => f.write_str(
                "got its boot program, and began again: Secure Boot refused it, or the kernel died. Turn Secure \
                 Boot off, or sign with `secure-boot-key`",
            ),
            Self::NothingAfterProgram => f.write_str(
                "got its boot program, and nothing followed: Secure Boot? Or the kernel died. Turn Secure Boot \
                 off, or sign with `secure-boot-key`",
            ),
            Self::NoRootAskedFor => f.write_str(
                "loaded kernel and initramfs, and asked for no root file system: its initramfs lacks the driver \
                 of its network card or archiso's hooks (`isowire inspect`), or the kernel died",
            ),
            Self::RootLost { protocol } => {
                write!(f, "lost its root over {protocol}: it was switched off, or lost the network")
            }
        }
    }
}

#[cfg(test)]
mod tests;
