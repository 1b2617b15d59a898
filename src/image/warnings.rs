//! What was odd about an image, a bounded number of lines of it.

/// Lines kept; one more counts the rest.
const MAX_LINES: usize = 32;

/// Collects warnings. A hostile image can earn millions: what is not kept costs nothing but a count.
#[derive(Debug, Default)]
pub struct Warnings {
    lines: Vec<String>,
    more: u64,
}

impl Warnings {
    /// Notes one warning, made only when there is room for it.
    pub fn add(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < MAX_LINES {
            self.lines.push(line());
        } else {
            self.more += 1;
        }
    }

    /// The lines, the last one of which may say how many are not there.
    pub fn into_lines(mut self) -> Vec<String> {
        if self.more > 0 {
            self.lines.push(format!("and {} more of these", self.more));
        }
        self.lines
    }
}

/// Bytes of the image as text for a person's line: nothing in it can steer a terminal or break the line.
pub fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_counted() {
        let mut warnings = Warnings::default();
        for n in 0..40 {
            warnings.add(|| n.to_string());
        }
        let lines = warnings.into_lines();
        assert_eq!((lines.len(), lines[31].as_str(), lines[32].as_str()), (33, "31", "and 8 more of these"));
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(shown("a\n\u{1b}[2Jž".as_bytes()), "a\\n\\u{1b}[2Jž");
    }
}
