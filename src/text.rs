//! Texts that are safe in a menu of PXELINUX and in a script of iPXE: they cannot end their line or
//! their word, and are not commands.

use std::fmt;

/// Parameter of a kernel command line: printable ASCII without white space, not empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word(String);

impl Word {
    /// Creates a word; `None` for other text, and for text that has a meaning in a script of iPXE.
    pub fn new(text: &str) -> Option<Self> {
        let is_word = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        // iPXE (src/core/exec.c, src/image/script.c): separators of commands, a comment, the
        // continuation of a line, and the expansion of a setting.
        let is_ipxe = matches!(text, "||" | "&&" | ";")
            || text.starts_with('#')
            || text.ends_with('\\')
            || text.contains("${");
        (is_word && !is_ipxe).then(|| Self(text.to_owned()))
    }
}

impl Default for Word {
    fn default() -> Self {
        Self("?".to_owned())
    }
}

/// Title: printable ASCII in one line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line(String);

impl Line {
    /// Longest line in characters. A screen has 80 columns, so the rest would not be seen.
    const MAX: usize = 120;
    /// Mark of the place where characters are missing.
    const CUT: &str = "...";

    /// Creates a line: other characters become `?`, and the text is cut at 120 characters.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.trim().chars().take(Self::MAX).map(printable).collect())
    }

    /// Creates a line of at most `columns` characters. A longer text loses its middle, since texts
    /// that are alike differ at one of their ends.
    pub(crate) fn within(text: &str, columns: usize) -> Self {
        let text: Vec<char> = text.trim().chars().collect();
        let kept = columns.saturating_sub(Self::CUT.len());
        let (start, end) = (kept.div_ceil(2), text.len().saturating_sub(kept / 2));
        if text.len() <= columns {
            return Self::new(&String::from_iter(text));
        }
        let (head, tail) = (text.iter().take(start), text.iter().skip(end));
        Self::new(&head.copied().chain(Self::CUT.chars()).chain(tail.copied()).collect::<String>())
    }
}

/// Replaces a character that a menu cannot show by `?`.
const fn printable(c: char) -> char {
    if c == ' ' || c.is_ascii_graphic() { c } else { '?' }
}

/// Path of a file from the root of an image, without a leading `/`. It has only characters without
/// a meaning to PXELINUX, in its lists (`,`) and in its URLs (`: # % ;`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PlainPath(String);

impl PlainPath {
    /// Longest path in bytes: with a prefix it must fit into PXELINUX's names of 255 bytes
    /// (`FILENAME_MAX`).
    const MAX: usize = 128;

    /// Creates a path; `None` for a path with other characters, with empty, `.` or `..` parts, or
    /// of more than 128 bytes.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/+@~-".contains(&b));
        // Firmware and loaders resolve such parts each in its own way, or not at all.
        let has_odd_part = text.split('/').any(|part| matches!(part, "" | "." | ".."));
        (text.len() <= Self::MAX && is_plain && !has_odd_part).then(|| Self(text.to_owned()))
    }

    /// Returns the directory of the file with a `/` at its end; empty for the root.
    pub(crate) fn directory(&self) -> &str {
        self.0.rfind('/').map_or("", |slash| self.0.split_at(slash + 1).0)
    }

    /// Returns `true` if the file is in this directory of the root, or in one below it.
    pub(crate) fn is_below(&self, directory: &str) -> bool {
        self.0.split_once('/').is_some_and(|(first, _)| first == directory)
    }
}

/// Text without a meaning to a shell: letters, digits and `. _ / : -`, at most 254 of them.
///
/// The initramfs reads a file that klibc's `ipconfig` wrote of a DHCP reply as a shell script, and
/// older versions of it write values without quotes. So a DHCP reply takes no other text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeText(String);

/// Error of a text that is not safe in a DHCP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsafeTextError {
    #[error("{0:?} is not allowed in a DHCP reply: use letters, digits and . _ / : -")]
    Character(char),
    #[error("text of {0} bytes does not fit into a DHCP option of 1 to 254")]
    Length(usize),
}

impl SafeText {
    /// Longest text in bytes: an option of 255 bytes with a NUL after the text.
    pub(crate) const MAX_LEN: usize = 254;

    /// Creates a text.
    ///
    /// # Errors
    /// [`UnsafeTextError`] for a text with other characters, an empty one and one that is too long.
    pub(crate) fn new(text: &str) -> Result<Self, UnsafeTextError> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(UnsafeTextError::Length(text.len()));
        }
        match text.chars().find(|&c| !is_plain(c)) {
            Some(c) => Err(UnsafeTextError::Character(c)),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// Returns `true` if the text fits into the `file` field with its NUL (RFC 2131 §2: 128 bytes).
    pub(crate) fn fits_file_field(&self) -> bool {
        self.0.len() < 128
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | ':' | '-')
}

macro_rules! reads_as_text {
    ($($name:ident)*) => {$(
        impl $name {
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

reads_as_text!(Word Line PlainPath SafeText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_has_no_white_space() {
        assert_eq!(Word::new("console=ttyS0,115200").unwrap().as_str(), "console=ttyS0,115200");
        for bad in ["", "a b", "a\tb", "a\n", "a\0", "ä", "\x1b"] {
            assert_eq!(Word::new(bad), None, "{bad:?}");
        }
        for ipxe in ["||", "&&", ";", "#", "#a", "a\\", "a=${net0/mac}"] {
            assert_eq!(Word::new(ipxe), None, "{ipxe}");
        }
        for fine in ["a||b", "a#b", "a;b", "a\\b", "$a", "{a}", "a=$(b)"] {
            assert!(Word::new(fine).is_some(), "{fine}");
        }
    }

    #[test]
    fn line_is_printable_and_short() {
        assert_eq!(Line::new(" a\nLABEL b\r\0 ").as_str(), "a?LABEL b??");
        assert_eq!(Line::new("Größe").as_str(), "Gr??e");
        assert_eq!(Line::new(&"x".repeat(500)).as_str().len(), Line::MAX);
        let within = |columns| Line::within(" archlinux-x86_64 ", columns);
        assert_eq!(
            [16, 15, 8].map(within).map(|line| line.0),
            ["archlinux-x86_64", "archli...x86_64", "arc...64"]
        );
    }

    #[test]
    fn path_is_plain() {
        let path = PlainPath::new("arch/boot/x86_64/vmlinuz-linux").unwrap();
        assert_eq!(path.directory(), "arch/boot/x86_64/");
        assert!(
            path.is_below("arch")
                && !path.is_below("arc")
                && !PlainPath::new("arch").unwrap().is_below("arch")
        );
        assert_eq!(PlainPath::new("vmlinuz").unwrap().directory(), "");
        for bad in
            ["", "/a", "a/", "a//b", "a/../b", "./a", "a b", "a,b", "a:b", "a#b", "a%b", "a;b", "initrd=a"]
        {
            assert_eq!(PlainPath::new(bad), None, "{bad:?}");
        }
        assert_eq!(PlainPath::new(&"a".repeat(129)), None);
    }

    #[test]
    fn shell_characters_are_refused() {
        assert!(SafeText::new("http://10.0.0.1:8080/a/B-c_d.efi").is_ok());
        for c in ['$', '`', ';', ' ', '\'', '"', '\\', '\n', '\0', '&', '|', '(', '=', '%', 'é'] {
            assert_eq!(SafeText::new(&format!("/boot{c}")), Err(UnsafeTextError::Character(c)));
        }
    }

    #[test]
    fn text_fits_into_an_option() {
        assert_eq!(SafeText::new(""), Err(UnsafeTextError::Length(0)));
        assert!(SafeText::new(&"a".repeat(254)).is_ok());
        assert_eq!(SafeText::new(&"a".repeat(255)), Err(UnsafeTextError::Length(255)));
    }
}
