//! Status as a table for people: on paper as it is, on a terminal as far as it fits.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use indicatif::HumanBytes;

use super::columns::{Layout, percent};
use super::text::{age, printable, wrap};
use crate::machines::StatusReport;
use crate::machines::diagnosis::Diagnosis;
use crate::machines::status::{DrainStatus, FaultStatus, MachineStatus, VerificationStatus};

/// Most lines of a reason on a terminal.
const REASON_LINES: usize = 2;

/// Indentation of a reason below its machine.
const INDENT: &str = "    ";

/// Lines and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub width: usize,
    pub height: usize,
}

impl Size {
    /// Of a file or a pipe.
    pub(super) const UNLIMITED: Self = Self { width: usize::MAX, height: usize::MAX };
}

/// Prints a status report as a table.
pub(super) struct StatusTable {
    pub report: StatusReport,
    pub size: Size,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub text: String,
    pub kind: LineKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    Heading,
    /// The row of the machine with this number.
    Row(usize),
    Reason,
}

impl Display for StatusTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { report, size } = self;
        for notice in notices(report) {
            writeln!(f, "{notice}\n")?;
        }
        if report.machines.is_empty() {
            return f.write_str("no machine seen yet\n");
        }
        let machines = stuck_first(&report.machines);
        let lines = lines(&machines, report.time, size.width);
        // Two lines for the counts, one for the prompt.
        let room = size.height.saturating_sub(3 + 2 * notices(report).count()).max(2);
        let shown = if lines.len() > room { room - 1 } else { lines.len() };
        for line in lines.iter().take(shown) {
            writeln!(f, "{}", line.text)?;
        }
        let hidden = lines.iter().skip(shown).filter(|line| matches!(line.kind, LineKind::Row(_))).count();
        if hidden > 0 {
            writeln!(f, "... and {hidden} more: `isowire status --watch`, or `isowire status | less`")?;
        }
        writeln!(f)?;
        for line in wrap(&summary(&report.machines), size.width) {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Returns the heading, and a row for each machine with the reason below it if it is stuck.
pub(super) fn lines(machines: &[&MachineStatus], now: i64, width: usize) -> Vec<Line> {
    let layout = Layout::new(machines, now, width);
    let mut lines = vec![Line { text: layout.heading(), kind: LineKind::Heading }];
    for (number, machine) in machines.iter().enumerate() {
        lines.push(Line { text: layout.row(machine, now), kind: LineKind::Row(number) });
        let reason = reason(machine).into_iter().flat_map(|reason| reason_lines(&reason, width));
        lines.extend(reason.map(|text| Line { text, kind: LineKind::Reason }));
    }
    lines
}

/// Breaks a reason into at most two lines of a terminal; one line in a file.
fn reason_lines(reason: &str, width: usize) -> Vec<String> {
    let mut lines = wrap(&printable(reason), width.saturating_sub(INDENT.len()));
    if lines.len() > REASON_LINES {
        lines.truncate(REASON_LINES);
        if let Some(last) = lines.last_mut() {
            last.push_str(" ...");
        }
    }
    let line = |line: String| format!("{INDENT}{line}").chars().take(width).collect();
    lines.into_iter().map(line).collect()
}

/// Returns all machines, those that need somebody first.
pub(super) fn stuck_first(machines: &[MachineStatus]) -> Vec<&MachineStatus> {
    let (stuck, others): (Vec<_>, Vec<_>) = machines.iter().partition(|machine| machine.diagnosis.is_some());
    stuck.into_iter().chain(others).collect()
}

/// Returns why a machine does not get on, in the words of its server.
pub(super) fn reason(machine: &MachineStatus) -> Option<String> {
    let words = || machine.diagnosis.as_ref().map(Diagnosis::to_string);
    machine.reason.clone().or_else(words)
}

/// Returns a line for each thing above all machines, such as an image that cannot be read.
pub(super) fn notices(report: &StatusReport) -> impl Iterator<Item = String> {
    let StatusReport { faults, panics, draining, time, .. } = report;
    let draining = draining.iter().map(move |DrainStatus { since, left }| {
        let age = age(time - since);
        format!("new machines go to other servers since {age}; machines that need this one still: {left}")
    });
    let panics =
        (*panics > 0).then(|| format!("{panics} faults of isowire since its start; its log has each"));
    let faults = faults.iter().map(move |FaultStatus { image, fault, since, .. }| {
        let (image, fault, age) = (printable(image), printable(fault), age(time - since));
        format!("{image}: cannot be read since {age}: {fault}")
    });
    panics.into_iter().chain(draining).chain(faults).chain(verification_notices(report))
}

/// Returns a line for each image that is not verified, and one for all that are.
fn verification_notices(StatusReport { images, verifications, .. }: &StatusReport) -> Vec<String> {
    let mut notices = Vec::new();
    for VerificationStatus { image, state, size, read, error, .. } in verifications {
        // What is served may be of an older file.
        let is_served = images.iter().any(|served| served.name == *image);
        let image = format!("{}{}", printable(image), if is_served { ": the file there now" } else { "" });
        match (state.as_str(), error) {
            (_, Some(why)) => notices.push(format!("{image}: not offered: {}", printable(why))),
            ("verified", _) => {}
            ("verifying", _) => {
                let percent = percent(*read, *size);
                notices.push(format!("{image}: being verified, {percent} % of {}", HumanBytes(*size)));
            }
            (state, _) => notices.push(format!("{image}: verification: {}", printable(state))),
        }
    }
    match verifications.iter().filter(|verification| verification.state == "verified").count() {
        0 => {}
        1 => notices.push("1 image verified".to_owned()),
        count => notices.push(format!("{count} images verified")),
    }
    notices
}

/// Returns the line of counts.
pub(super) fn summary(machines: &[MachineStatus]) -> String {
    // Before a stop or a restart the operator wants to know how many machines depend on the server.
    let living = machines.iter().filter(|machine| machine.root_connections > 0).count();
    let stuck = machines.iter().filter(|machine| machine.diagnosis.is_some()).count();
    let count = match machines.len() {
        1 => "1 machine".to_owned(),
        count => format!("{count} machines"),
    };
    let mut stages = BTreeMap::new();
    for machine in machines {
        *stages.entry(machine.stage).or_insert(0) += 1;
    }
    let stages: Vec<_> =
        stages.into_iter().map(|(stage, count): (_, usize)| format!("{count} {stage}")).collect();
    format!(
        "{count} ({}), {stuck} stuck, {living} with a connection to a root file system",
        stages.join(", ")
    )
}

#[cfg(test)]
pub(super) mod tests;
