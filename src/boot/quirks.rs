//! Deviations of the DHCP replies that some firmware needs.

use std::fmt;
use std::str::FromStr;

/// A deviation for one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quirk {
    /// The boot file is named as by a DHCP server without PXE, without options 43, 60 and 97. For
    /// firmware that ignores the file of a reply with the class `PXEClient` (Ampere eMAG). Most
    /// firmware ignores such a reply without an address, so this is for machines that get their
    /// address here too.
    Plain,
    /// No option 43, which tells PXE clients to take the boot file without boot server discovery:
    /// they ask port 4011 then. For UEFI firmware that the option confuses.
    No43,
    /// A proxy also answers the DHCPREQUEST on port 67, which is for the other server. For old
    /// Intel cards, which wait for the boot file there.
    AnswerRequest,
    /// The machine's iPXE has no HTTP or no menus: it loads the same as plain PXE.
    NoScript,
}

impl Quirk {
    pub(crate) const ALL: [Quirk; 4] = [Quirk::Plain, Quirk::No43, Quirk::AnswerRequest, Quirk::NoScript];

    /// Returns the word in the configuration.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Quirk::Plain => "plain",
            Quirk::No43 => "no-43",
            Quirk::AnswerRequest => "answer-request",
            Quirk::NoScript => "no-script",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Quirk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Error of a word that is not a quirk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown quirk; expected `plain`, `no-43`, `answer-request` or `no-script`")]
pub(crate) struct UnknownQuirkError;

impl FromStr for Quirk {
    type Err = UnknownQuirkError;

    fn from_str(text: &str) -> Result<Self, UnknownQuirkError> {
        Self::ALL.into_iter().find(|quirk| quirk.as_str() == text).ok_or(UnknownQuirkError)
    }
}

/// The quirks of one machine; by default it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Quirks(u8);

impl Quirks {
    pub(crate) const fn has(self, quirk: Quirk) -> bool {
        self.0 & quirk.bit() != 0
    }
}

impl FromIterator<Quirk> for Quirks {
    fn from_iter<I: IntoIterator<Item = Quirk>>(quirks: I) -> Self {
        Self(quirks.into_iter().fold(0, |bits, quirk| bits | quirk.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quirk_words_round_trip() {
        for quirk in Quirk::ALL {
            assert_eq!(quirk.to_string().parse(), Ok(quirk));
            assert!(UnknownQuirkError.to_string().contains(&format!("`{quirk}`")));
        }
        for text in ["", "Plain", "no43", "plain "] {
            assert_eq!(text.parse::<Quirk>(), Err(UnknownQuirkError), "{text:?}");
        }
    }

    #[test]
    fn quirks_are_a_set() {
        let has = |quirks: Quirks| Quirk::ALL.map(|quirk| quirks.has(quirk));
        assert_eq!(has(Quirks::default()), [false; 4]);
        assert_eq!(has(Quirks::from_iter([Quirk::Plain, Quirk::AnswerRequest])), [true, false, true, false]);
        assert_eq!(has(Quirks::from_iter([Quirk::No43, Quirk::No43])), [false, true, false, false]);
        assert_eq!(has(Quirk::ALL.into_iter().collect()), [true; 4]);
    }
}
