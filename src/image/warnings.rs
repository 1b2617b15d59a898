//! Warnings about an image: a bounded list of lines.

/// Lines that are kept; one more line counts the rest.
const MAX_LINES: usize = 32;

/// Collector of warnings. A hostile image can cause millions; those beyond the limit are only
/// counted.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    lines: Vec<String>,
    more: u64,
}

impl Warnings {
    /// Adds one warning; `line` is called only if there is room for the warning.
    pub(super) fn add(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < MAX_LINES {
            self.lines.push(line());
        } else {
            // Not even formatted: a hostile image could cost time by its warnings.
            self.more += 1;
        }
    }

    /// Returns the lines; if some were dropped, the last line tells how many.
    pub(super) fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more of these", self.more));
        }
        self.lines
    }
}

/// Formats bytes of the image for an operator: the text cannot control a terminal or break a line.
pub(super) fn printable(bytes: &[u8]) -> String {
    // Escapes control characters, and keeps printable ones of any language.
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_beyond_the_limit_are_counted() {
        let mut warnings = Warnings::default();
        for n in 0..40 {
            warnings.add(|| n.to_string());
        }
        let lines = warnings.into_lines();
        assert_eq!((lines.len(), lines[31].as_str(), lines[32].as_str()), (33, "31", "and 8 more of these"));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\n\u{1b}[2Jž".as_bytes()), "a\\n\\u{1b}[2Jž");
    }
}
