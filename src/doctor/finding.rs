//! Findings of `isowire doctor`, and their two forms: a line each, and JSON.

use std::fmt;

use serde::Serialize;

/// Judgement on a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// Some machines may not boot, or something could not be looked at.
    Warning,
    /// `serve` does not start, or no machine boots.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    pub(super) subject: &'static str,
    pub(super) text: String,
    /// What to do; null for what is right, or if the text says it.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self::told(Verdict::Ok, subject, text)
    }

    pub(super) fn warning(subject: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::told(Verdict::Warning, subject, text) }
    }

    pub(super) fn fault(subject: &'static str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::told(Verdict::Fault, subject, text) }
    }

    /// Makes a finding whose text says what to do.
    pub(super) fn told(verdict: Verdict, subject: &'static str, text: impl Into<String>) -> Self {
        Self { verdict, subject, text: text.into(), fix: None }
    }
}

/// All findings. The JSON is an interface for programs: fields keep their names.
#[derive(Debug, Serialize)]
pub(super) struct DoctorReport {
    /// Version of this program.
    pub(super) isowire: &'static str,
    pub(super) findings: Vec<Finding>,
}

impl DoctorReport {
    pub(super) fn faults(&self) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Fault).count()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, subject, text, fix } = self;
        write!(f, "{verdict:<8} {subject:<11} {text}")?;
        fix.as_ref().map_or(Ok(()), |fix| write!(f, "; {fix}"))
    }
}

impl fmt::Display for DoctorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_is_one_line_with_its_fix() {
        let fault = Finding::fault("TFTP", "port 69 is taken", "stop what has it");
        assert_eq!(fault.to_string(), "fault    TFTP        port 69 is taken; stop what has it");
        let ok = Finding::ok("clock", "kept");
        let report = DoctorReport { isowire: "1", findings: vec![ok, fault] };
        assert_eq!(report.to_string().lines().next(), Some("ok       clock       kept"));
        assert_eq!(report.faults(), 1);
    }
}
