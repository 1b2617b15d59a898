//! Status as a table for people.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use indicatif::HumanBytes;

use crate::machines::StatusReport;
use crate::machines::diagnosis::Diagnosis;
use crate::machines::status::{FaultStatus, MachineStatus, RootProgress, VerificationStatus};

/// Prints a status report as a table.
pub(super) struct StatusTable(pub StatusReport);

const HEADINGS: [&str; COLUMNS] =
    ["MACHINE", "ADDRESS", "FIRMWARE", "STAGE", "IMAGE", "ROOT", "READ", "SENT", "BEGAN", "SEEN"];
const COLUMNS: usize = 10;

impl Display for StatusTable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(StatusReport { machines, faults, verifications, panics, time, .. }) = self;
        if *panics > 0 {
            writeln!(f, "{panics} faults of isowire since its start; its log has each\n")?;
        }
        // Above all else: machines of the image wait for it.
        for FaultStatus { image, fault, since } in faults {
            let (image, fault, age) = (printable(image), printable(fault), age(time - since));
            writeln!(f, "{image}: cannot be read since {age}: {fault}\n")?;
        }
        write_verifications(f, verifications)?;
        if machines.is_empty() {
            return f.write_str("no machine seen yet\n");
        }
        // Those that need somebody come first.
        let (stuck, others): (Vec<_>, Vec<_>) =
            machines.iter().partition(|machine| machine.diagnosis.is_some());
        let rows: Vec<_> = stuck.iter().chain(&others).map(|machine| cells(machine, *time)).collect();
        write_columns(f, &rows)?;
        // A reason is a sentence, too long for a column.
        for machine in stuck {
            if let Some(reason) = reason(machine) {
                writeln!(f, "\n{}: {}", name(machine), printable(&reason))?;
            }
        }
        writeln!(f, "\n{}", summary(machines))
    }
}

/// Writes a line for each image that is not verified, and one for all that are.
fn write_verifications(f: &mut Formatter<'_>, verifications: &[VerificationStatus]) -> fmt::Result {
    for VerificationStatus { image, state, size, read, error, .. } in verifications {
        let image = printable(image);
        match (state.as_str(), error) {
            (_, Some(why)) => writeln!(f, "{image}: not offered: {}\n", printable(why))?,
            ("verified", _) => {}
            ("verifying", _) => {
                let progress = self::read(RootProgress { size: *size, read: *read });
                writeln!(f, "{image}: being verified, {progress}\n")?;
            }
            (state, _) => writeln!(f, "{image}: verification: {}\n", printable(state))?,
        }
    }
    match verifications.iter().filter(|verification| verification.state == "verified").count() {
        0 => Ok(()),
        1 => writeln!(f, "1 image verified\n"),
        count => writeln!(f, "{count} images verified\n"),
    }
}

/// Returns the cells of a row. Times are ages by the server's clock.
fn cells(machine: &MachineStatus, now: i64) -> [String; COLUMNS] {
    [
        machine.mac.map_or_else(unknown, |mac| mac.to_string()),
        machine.addresses.first().map_or_else(unknown, IpAddr::to_string),
        machine.firmware.as_deref().map_or_else(unknown, printable),
        machine.stage.to_string(),
        machine.image.as_deref().map_or_else(unknown, printable),
        machine.root.map_or_else(unknown, |protocol| protocol.to_string()),
        machine.airootfs.map_or_else(unknown, read),
        HumanBytes(machine.sent.total()).to_string(),
        age(now - machine.since),
        age(now - machine.last_seen),
    ]
}

fn unknown() -> String {
    "-".to_owned()
}

/// Formats the progress on the root, rounded down: 100 % means all of it.
fn read(RootProgress { size, read }: RootProgress) -> String {
    // In 128 bits, as a hundred times a file's size may exceed 64.
    let percent = u128::from(read) * 100 / u128::from(size.max(1));
    format!("{percent} % of {}", HumanBytes(size))
}

/// Formats an age in its two largest units.
fn age(seconds: i64) -> String {
    // The server's clock may have been set back.
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Writes the columns, each as wide as its widest cell.
fn write_columns(f: &mut Formatter<'_>, rows: &[[String; COLUMNS]]) -> fmt::Result {
    let headings = [HEADINGS.map(str::to_owned)];
    let mut widths = [0; COLUMNS];
    for line in headings.iter().chain(rows) {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for line in headings.iter().chain(rows) {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// Returns why a machine does not get on, in the words of its server.
fn reason(machine: &MachineStatus) -> Option<String> {
    let words = || machine.diagnosis.as_ref().map(Diagnosis::to_string);
    machine.reason.clone().or_else(words)
}

/// Returns the name of a machine, else its MAC address, else its first IP address.
fn name(machine: &MachineStatus) -> String {
    let address = machine.addresses.first();
    let known = machine.mac.map(|mac| mac.to_string()).or(address.map(IpAddr::to_string));
    machine.name.as_deref().map(printable).or(known).unwrap_or_else(unknown)
}

/// Returns the last line.
fn summary(machines: &[MachineStatus]) -> String {
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

/// Replaces control characters: text of clients must not reach a terminal as commands (ECMA-48).
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::status::SentBytes;
    use crate::machines::{Protocol, RefusedBy, Stage};

    fn machine() -> MachineStatus {
        MachineStatus {
            name: None,
            mac: None,
            addresses: vec![[192, 168, 77, 90].into()],
            firmware: None,
            architecture: None,
            refusal: None,
            diagnosis: None,
            reason: None,
            advice: Vec::new(),
            secure_boot_suspected: false,
            stage: Stage::Menu,
            running: None,
            image: None,
            root: None,
            root_connections: 0,
            airootfs: None,
            progress: None,
            rate: 0,
            sent: SentBytes::default(),
            boots: 1,
            since: 990,
            last_seen: 1000,
            reached: BTreeMap::new(),
            story: Vec::new(),
        }
    }

    fn table(machines: Vec<MachineStatus>) -> String {
        table_with(Vec::new(), machines)
    }

    fn table_with(faults: Vec<FaultStatus>, machines: Vec<MachineStatus>) -> String {
        StatusTable(StatusReport {
            format: 1,
            isowire: "1".into(),
            time: 1000,
            forgotten: 0,
            panics: 0,
            faults,
            verifications: Vec::new(),
            machines,
        })
        .to_string()
    }

    #[test]
    fn fault_of_an_image_stands_first() {
        let (image, fault) = ("arch\x1b".to_owned(), "Input/output error, at byte 7".to_owned());
        let table = table_with(vec![FaultStatus { image, fault, since: 925 }], Vec::new());
        let expected =
            "arch?: cannot be read since 1m 15s: Input/output error, at byte 7\n\nno machine seen yet\n";
        assert_eq!(table, expected);
    }

    #[test]
    fn table_has_a_row_per_machine() {
        let on_root = MachineStatus {
            mac: "52:54:00:fe:00:b0".parse().ok(),
            addresses: vec![[192, 168, 77, 9].into(), [10, 0, 0, 1].into()],
            firmware: Some("x86 BIOS, iPXE".into()),
            stage: Stage::Attached,
            image: Some("archlinux".into()),
            root: Some(Protocol::Nbd),
            root_connections: 1,
            airootfs: Some(RootProgress { size: 1 << 30, read: (1 << 30) - 1 }),
            sent: SentBytes { tftp: 1 << 20, nbd: 3 << 20, ..SentBytes::default() },
            since: 927,
            ..machine()
        };
        assert_eq!(
            table(vec![machine(), on_root]),
            "MACHINE            ADDRESS        FIRMWARE        STAGE          IMAGE      ROOT  READ              SENT      BEGAN   SEEN\n\
             -                  192.168.77.90  -               menu           -          -     -                 0 B       10s     0s\n\
             52:54:00:fe:00:b0  192.168.77.9   x86 BIOS, iPXE  root attached  archlinux  NBD   99 % of 1.00 GiB  4.00 MiB  1m 13s  0s\n\
             \n\
             2 machines (1 menu, 1 root attached), 0 stuck, 1 with a connection to a root file system\n"
        );
        assert_eq!(table(Vec::new()), "no machine seen yet\n");
    }

    #[test]
    fn refusal_is_printed_without_control_characters() {
        let refused = MachineStatus {
            refusal: Some("\x1b[2Jno\u{9b}7m loader\n".into()),
            diagnosis: Some(Diagnosis::Refused {
                by: RefusedBy::BootFile,
                why: "\x1b[2Jno\u{9b}7m loader\n".into(),
            }),
            ..machine()
        };
        let text = table(vec![refused]);
        assert!(text.contains("\n192.168.77.90: no boot file: ?[2Jno?7m loader?\n"), "{text}");
        assert!(
            text.ends_with("\n1 machine (1 menu), 1 stuck, 0 with a connection to a root file system\n"),
            "{text}"
        );
    }

    #[test]
    fn ages_are_short() {
        let ages = [-5, 0, 59, 60, 3599, 3600, 86_399, 86_400, 1_000_000].map(age);
        assert_eq!(
            ages,
            ["0s", "0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "11d 13h"].map(String::from)
        );
    }
}
