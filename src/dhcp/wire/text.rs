//! Text that may stand in a reply.

use std::fmt;

/// Text that means nothing to a shell: letters, digits and `. _ / : -`, at most 254 of them.
///
/// The initramfs sources what klibc's `ipconfig` wrote of a reply with its shell, and older versions write it
/// unquoted. So this type is the only text a [`super::Reply`] takes.
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
    pub const MAX_LEN: usize = 254;

    /// # Errors
    /// [`UnsafeTextError`] says which character, or how long.
    pub fn new(text: &str) -> Result<Self, UnsafeTextError> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(UnsafeTextError::Length(text.len()));
        }
        match text.chars().find(|&c| !is_plain(c)) {
            Some(c) => Err(UnsafeTextError::Character(c)),
            None => Ok(Self(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/' | ':' | '-')
}

impl fmt::Display for SafeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
