//! Values that can stand in a menu of PXELINUX and in a script of iPXE: none of them can end its line or its word, or be
//! taken for a command.

use std::fmt;

/// Printable ASCII without white space, not empty: one parameter of a kernel command line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Word(String);

impl Word {
    /// `None` for text that is not one word, or that iPXE takes for its own (src/core/exec.c, src/image/script.c): its
    /// separators, a comment, a line that goes on, a setting to put in.
    pub fn new(text: &str) -> Option<Self> {
        let is_word = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
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

/// Printable ASCII in one line: a title.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line(String);

impl Line {
    /// Longest line that is kept, in characters: a screen is 80 wide.
    const MAX: usize = 120;

    /// The text with a `?` for each character that is not printable ASCII, cut at 120 characters.
    pub(crate) fn new(text: &str) -> Self {
        let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
        Self(text.trim().chars().take(Self::MAX).map(printable).collect())
    }
}

/// Path of a file from the root of an image, without a leading `/`, in characters that mean nothing to PXELINUX, to
/// its lists (`,`) and to its URLs (`: # % ;`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PlainPath(String);

impl PlainPath {
    /// Longest path: with a prefix it must fit PXELINUX's names of 255 bytes (`FILENAME_MAX`).
    const MAX: usize = 128;

    /// `None` for a path with other characters, with empty, `.` or `..` parts, or longer than 128 bytes.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/+@~-".contains(&b);
        let part = |part: &str| !matches!(part, "" | "." | "..");
        let fits = text.len() <= Self::MAX && text.bytes().all(plain) && text.split('/').all(part);
        fits.then(|| Self(text.to_owned()))
    }

    /// The directory the file is in, with a `/` at the end; empty for the root.
    pub(crate) fn directory(&self) -> &str {
        self.0.rfind('/').map_or("", |slash| self.0.split_at(slash + 1).0)
    }

    /// Whether the file is in this directory of the root, or in one below it.
    pub(crate) fn is_below(&self, directory: &str) -> bool {
        self.0.split_once('/').is_some_and(|(first, _)| first == directory)
    }
}

/// Text that means nothing to a shell: letters, digits and `. _ / : -`, at most 254 of them.
///
/// The initramfs sources what klibc's `ipconfig` wrote of a reply with its shell, and older versions write it
/// unquoted. So this type is the only text that a DHCP reply takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeText(String);

/// The text cannot stand in a DHCP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsafeTextError {
    #[error("{0:?} may not stand in a DHCP reply: letters, digits and . _ / : - may")]
    Character(char),
    #[error("text of {0} bytes does not fit into a DHCP option of 1 to 254")]
    Length(usize),
}

impl SafeText {
    /// Longest text: an option of 255 bytes with a NUL behind it.
    pub(crate) const MAX_LEN: usize = 254;

    /// # Errors
    /// [`UnsafeTextError`] says which character, or how long.
    pub(crate) fn new(text: &str) -> Result<Self, UnsafeTextError> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(UnsafeTextError::Length(text.len()));
        }
        match text.chars().find(|&c| !is_plain(c)) {
            Some(c) => Err(UnsafeTextError::Character(c)),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// True if the text fits the BOOTP `file` field with its NUL (RFC 2131 §2: 128 bytes).
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
    fn words_have_no_white_space() {
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
    fn lines_have_no_end() {
        assert_eq!(Line::new(" a\nLABEL b\r\0 ").as_str(), "a?LABEL b??");
        assert_eq!(Line::new("Größe").as_str(), "Gr??e");
        assert_eq!(Line::new(&"x".repeat(500)).as_str().len(), Line::MAX);
    }

    #[test]
    fn paths_are_plain() {
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
    fn what_a_shell_would_read_is_refused() {
        assert!(SafeText::new("http://10.0.0.1:8080/a/B-c_d.efi").is_ok());
        for c in ['$', '`', ';', ' ', '\'', '"', '\\', '\n', '\0', '&', '|', '(', '=', '%', 'é'] {
            assert_eq!(SafeText::new(&format!("/boot{c}")), Err(UnsafeTextError::Character(c)));
        }
    }

    #[test]
    fn what_fits_no_option_is_refused() {
        assert_eq!(SafeText::new(""), Err(UnsafeTextError::Length(0)));
        assert!(SafeText::new(&"a".repeat(254)).is_ok());
        assert_eq!(SafeText::new(&"a".repeat(255)), Err(UnsafeTextError::Length(255)));
    }
}
