//! Columns of the table of machines, and how they fit a terminal.

use std::net::IpAddr;

use indicatif::HumanBytes;

use super::text::{age, printable};
use crate::machines::status::{MachineStatus, RootProgress};
use crate::machines::{Running, Stage};

/// Silence after which a root that is attached counts as idle, in seconds.
const IDLE: i64 = 60;

/// Space between two columns.
const GAP: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Machine,
    Address,
    Firmware,
    Stage,
    Image,
    Root,
    Progress,
    Rate,
    Left,
    Sent,
    Began,
    Seen,
    /// Only where a machine boots something else than always.
    Next,
}

const COLUMNS: [Column; 13] = [
    Column::Machine,
    Column::Address,
    Column::Firmware,
    Column::Stage,
    Column::Image,
    Column::Root,
    Column::Progress,
    Column::Rate,
    Column::Left,
    Column::Sent,
    Column::Began,
    Column::Seen,
    Column::Next,
];

/// Columns that a narrow terminal does without, the first first. A person who looks at a room asks
/// who is stuck, where, and for how much longer; so what is known beforehand goes first (firmware,
/// next boot, image, root), then what another column tells roughly, and last the rate. Before the
/// fourth one goes, the progress is shortened to its percentage.
const DROPPED: [Column; 10] = [
    Column::Sent,
    Column::Firmware,
    Column::Next,
    Column::Image,
    Column::Root,
    Column::Began,
    Column::Address,
    Column::Left,
    Column::Seen,
    Column::Rate,
];

/// Columns dropped before the progress is shortened.
const DROPPED_BEFORE_SHORT: usize = 3;

/// The columns that fit, each with its width.
#[derive(Debug)]
pub(super) struct Layout {
    columns: Vec<(Column, usize)>,
    is_short: bool,
    width: usize,
}

impl Layout {
    /// Chooses the columns for these machines on lines of this width.
    pub(super) fn new(machines: &[&MachineStatus], now: i64, width: usize) -> Self {
        let mut dropped = 0;
        loop {
            let is_short = dropped > DROPPED_BEFORE_SHORT;
            let layout = Self::without(DROPPED.get(..dropped).unwrap_or(&DROPPED), is_short, machines, now);
            if layout.total() <= width || dropped >= DROPPED.len() {
                return Self { width, ..layout };
            }
            dropped += 1;
        }
    }

    fn without(dropped: &[Column], is_short: bool, machines: &[&MachineStatus], now: i64) -> Self {
        let has_next = machines.iter().any(|machine| machine.next.is_some());
        let kept = COLUMNS.into_iter().filter(|column| match column {
            Column::Next if !has_next => false,
            column => !dropped.contains(column),
        });
        let columns = kept.map(|column| {
            let cells = machines.iter().map(|machine| column.cell(machine, now, is_short).chars().count());
            (column, cells.fold(column.heading().len(), usize::max))
        });
        Self { columns: columns.collect(), is_short, width: usize::MAX }
    }

    fn total(&self) -> usize {
        self.columns.iter().map(|(_, width)| width + GAP).sum::<usize>().saturating_sub(GAP)
    }

    pub(super) fn heading(&self) -> String {
        self.line(|column| column.heading().to_owned())
    }

    pub(super) fn row(&self, machine: &MachineStatus, now: i64) -> String {
        self.line(|column| column.cell(machine, now, self.is_short))
    }

    fn line(&self, cell: impl Fn(Column) -> String) -> String {
        let cells = self.columns.iter().map(|&(column, width)| format!("{:<width$}", cell(column)));
        let line = cells.collect::<Vec<_>>().join("  ");
        line.trim_end().chars().take(self.width).collect()
    }
}

impl Column {
    const fn heading(self) -> &'static str {
        match self {
            Column::Machine => "MACHINE",
            Column::Address => "ADDRESS",
            Column::Firmware => "FIRMWARE",
            Column::Stage => "STAGE",
            Column::Image => "IMAGE",
            Column::Root => "ROOT",
            Column::Progress => "DONE",
            Column::Rate => "RATE",
            Column::Left => "LEFT",
            Column::Sent => "SENT",
            Column::Began => "BEGAN",
            Column::Seen => "SEEN",
            Column::Next => "NEXT BOOT",
        }
    }

    /// Returns the text of a cell. Times are ages by the server's clock.
    fn cell(self, machine: &MachineStatus, now: i64, is_short: bool) -> String {
        match self {
            Column::Machine => name(machine),
            Column::Address => or_unknown(machine.addresses.first().map(IpAddr::to_string)),
            Column::Firmware => or_unknown(machine.firmware.as_deref().map(printable)),
            Column::Stage => stage(machine, now),
            Column::Image => or_unknown(machine.image.as_deref().map(printable)),
            Column::Root => or_unknown(machine.root.map(|protocol| protocol.to_string())),
            Column::Progress => or_unknown(progress(machine, is_short)),
            Column::Rate => match machine.rate {
                0 => unknown(),
                rate => format!("{}/s", HumanBytes(rate)),
            },
            // A month or more is no forecast.
            Column::Left => or_unknown(left(machine).map(age)),
            Column::Sent => HumanBytes(machine.sent.total()).to_string(),
            Column::Began => age(now - machine.since),
            Column::Seen => age(now - machine.last_seen),
            Column::Next => or_unknown(machine.next.as_ref().map(|next| printable(&next.to_string()))),
        }
    }
}

/// Returns the name of a machine, else its MAC address, else its first IP address.
pub(super) fn name(machine: &MachineStatus) -> String {
    let address = machine.addresses.first();
    let known = machine.mac.map(|mac| mac.to_string()).or(address.map(IpAddr::to_string));
    or_unknown(machine.name.as_deref().map(printable).or(known))
}

/// Returns the stage, and whether its system runs where it said so or has let its root go.
pub(super) fn stage(machine: &MachineStatus, now: i64) -> String {
    match (machine.stage, machine.running) {
        (stage, Some(running @ Running::Up)) if machine.up_since.is_some() => format!("{stage} ({running})"),
        (Stage::Attached, _) if now - machine.last_seen > IDLE => "root idle".to_owned(),
        (stage @ (Stage::Copied | Stage::Released), Some(running)) => format!("{stage} ({running})"),
        (stage, _) => stage.to_string(),
    }
}

fn progress(machine: &MachineStatus, is_short: bool) -> Option<String> {
    let of_file = machine.progress.as_ref().map(|progress| (progress.sent, progress.size));
    // Of servers that do not tell the progress on files.
    let of_root = machine.airootfs.map(|RootProgress { size, read }| (read, size));
    let (sent, size) = of_file.or(of_root)?;
    let percent = percent(sent, size);
    Some(if is_short { format!("{percent} %") } else { format!("{percent} % of {}", HumanBytes(size)) })
}

/// Returns a part in percent, rounded down: 100 % means all of it.
pub(super) fn percent(part: u64, size: u64) -> u128 {
    // In 128 bits, as a hundred times a file's size may exceed 64.
    u128::from(part) * 100 / u128::from(size.max(1))
}

fn left(machine: &MachineStatus) -> Option<i64> {
    const MONTH: u64 = 30 * 86_400;
    let seconds = machine.progress.as_ref()?.seconds_left.filter(|seconds| *seconds < MONTH)?;
    i64::try_from(seconds).ok()
}

fn or_unknown(text: Option<String>) -> String {
    text.unwrap_or_else(unknown)
}

fn unknown() -> String {
    "-".to_owned()
}
