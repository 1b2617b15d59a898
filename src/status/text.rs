//! Small pieces of text for people.

/// Formats an age in its two largest units.
pub(super) fn age(seconds: i64) -> String {
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

/// Replaces control characters: text of clients must not reach a terminal as commands (ECMA-48).
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Breaks text into lines of at most `width` characters, at spaces where there are any.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word = word;
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        while word.chars().count() > width {
            let at = word.char_indices().nth(width).map_or(word.len(), |(at, _)| at);
            let (front, rest) = word.split_at(at);
            if let Some(line) = lines.last_mut() {
                line.push_str(front);
            }
            lines.push(String::new());
            word = rest;
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [-5, 0, 59, 60, 3599, 3600, 86_399, 86_400, 1_000_000].map(age);
        assert_eq!(
            ages,
            ["0s", "0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h", "11d 13h"].map(String::from)
        );
    }

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a 123456789 b", 4), ["a", "1234", "5678", "9 b"]);
        assert_eq!(wrap("", 4), [""]);
        assert!(wrap("größer größer", 6).iter().all(|line| line.chars().count() <= 6));
    }
}
