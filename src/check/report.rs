//! Report of a check, printed as a table.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use indicatif::HumanBytes;

use super::original::{CheckTally, VerifyError};

/// Result for one protocol.
#[derive(Debug)]
pub struct CheckRow {
    pub protocol: &'static str,
    /// Content that matched before the first fault.
    pub tally: CheckTally,
    pub time: Duration,
    pub verdict: Result<(), VerifyError>,
}

/// Results for all protocols, and notes on them.
#[derive(Debug)]
pub struct CheckReport {
    pub rows: Vec<CheckRow>,
    pub remarks: Vec<String>,
}

impl CheckReport {
    /// Returns the number of protocols with a fault.
    pub(crate) fn failed(&self) -> usize {
        self.rows.iter().filter(|row| row.verdict.is_err()).count()
    }
}

impl Display for CheckReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        line(f, ["PROTOCOL", "FILES", "BYTES", "TIME", "VERDICT"])?;
        for CheckRow { protocol, tally, time, verdict } in &self.rows {
            let verdict = match verdict {
                // NBD, NFS and HTTP read whole root images; TFTP never does.
                Ok(()) if tally.checksums > 0 => "ok, airootfs.sha512 verified".to_owned(),
                Ok(()) => "ok".to_owned(),
                Err(fault) => fault.to_string(),
            };
            let time = format!("{:.2} s", time.as_secs_f64());
            let (files, bytes) = (tally.files.to_string(), HumanBytes(tally.bytes).to_string());
            line(f, [protocol, &files, &bytes, &time, &verdict])?;
        }
        // A reply would reach every machine on the network, so there is no private server to check.
        line(f, ["DHCP", "-", "-", "-", "not checked: it needs broadcasts and port 67"])?;
        self.remarks.iter().try_for_each(|remark| write!(f, "\n{remark}\n"))
    }
}

fn line(f: &mut Formatter<'_>, [protocol, files, bytes, time, verdict]: [&str; 5]) -> fmt::Result {
    writeln!(f, "{protocol:<8} {files:>6}  {bytes:>11}  {time:>9}  {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_each_verdict() {
        let tally = |files, bytes, checksums| CheckTally { files, bytes, checksums };
        let row = |protocol, tally, verdict| CheckRow {
            protocol,
            tally,
            time: Duration::from_millis(1234),
            verdict,
        };
        let fault = VerifyError::Differs { path: "/arch/x86_64/airootfs.sfs".into(), at: 4097 };
        let report = CheckReport {
            rows: vec![
                row("NBD", tally(2, 5 << 20, 1), Ok(())),
                row("NFS", tally(0, 0, 0), Err(fault)),
                row("TFTP", tally(12, 1000, 0), Ok(())),
            ],
            remarks: vec!["A remark.".into()],
        };
        assert_eq!(report.failed(), 1);
        assert_eq!(
            report.to_string(),
            "PROTOCOL  FILES        BYTES       TIME  VERDICT\n\
             NBD           2     5.00 MiB     1.23 s  ok, airootfs.sha512 verified\n\
             NFS           0          0 B     1.23 s  differs at byte 4097 of /arch/x86_64/airootfs.sfs\n\
             TFTP         12       1000 B     1.23 s  ok\n\
             DHCP          -            -          -  not checked: it needs broadcasts and port 67\n\
             \nA remark.\n"
        );
    }
}
