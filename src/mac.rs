//! MAC addresses, which identify machines independently of their IP addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Hardware address of an Ethernet card.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// Creates an address; `None` unless these are six bytes, not all zero, that address one
    /// machine.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = <[u8; 6]>::try_from(bytes).ok()?;
        let [first, ..] = bytes;
        // IEEE 802: the lowest bit of the first byte (I/G) marks the address of a group.
        (bytes != [0; 6] && first & 1 == 0).then_some(Self(bytes))
    }

    pub(crate) const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Parses the address in `BOOTIF=` or in the name of a PXELINUX menu, `01-52-54-00-12-34-56`.
    pub(crate) fn of_bootif(text: &str) -> Option<Self> {
        // PXELINUX puts the hardware type of DHCP (`htype`) in front; 1 is Ethernet.
        text.strip_prefix("01-")?.parse().ok()
    }

    /// Formats the address as `52-54-00-12-34-56`, the form in paths and, after `01-`, in
    /// `BOOTIF=`.
    pub(crate) fn dashed(self) -> String {
        self.to_string().replace(':', "-")
    }
}

/// Formats the address as `52:54:00:12:34:56`.
impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Error of a text that is not the MAC address of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no MAC address: write 52:54:00:12:34:56")]
pub struct MacError;

/// Parses six bytes in hexadecimal with `:` or `-` between them.
impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        Mac::new(&bytes(text)?).ok_or(MacError)
    }
}

/// Beginning of MAC addresses, or a whole one. The first three bytes identify the maker of a card.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MacPrefix(Vec<u8>);

impl MacPrefix {
    /// Returns `true` if the address begins with this prefix.
    pub(crate) fn fits(&self, Mac(bytes): Mac) -> bool {
        bytes.starts_with(&self.0)
    }

    /// Returns `true` if every address that `other` fits also fits this prefix.
    pub(crate) fn covers(&self, other: &MacPrefix) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Returns the address if the prefix is a whole one.
    pub(crate) fn whole(&self) -> Option<Mac> {
        Mac::new(&self.0)
    }
}

/// Parses one to six bytes in hexadecimal with `:` or `-` between them.
impl FromStr for MacPrefix {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bytes = bytes(text)?;
        let is_whole = bytes.len() < 6 || Mac::new(&bytes).is_some();
        if bytes.len() <= 6 && is_whole { Ok(Self(bytes)) } else { Err(MacError) }
    }
}

/// Parses bytes in hexadecimal: at least one, and at most the first seven of the text.
fn bytes(text: &str) -> Result<Vec<u8>, MacError> {
    // Seven are enough to tell that there are too many.
    text.split([':', '-']).take(7).map(byte).collect()
}

/// Parses a byte of exactly two hexadecimal digits.
fn byte(digits: &str) -> Result<u8, MacError> {
    let fits = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    // `from_str_radix` alone would take a `+` for a digit.
    u8::from_str_radix(digits, 16).ok().filter(|_| fits).ok_or(MacError)
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_round_trips_as_text() {
        let mac = Mac::new(&[0x52, 0x54, 0, 0x12, 0x34, 0xfe]).unwrap();
        assert_eq!(mac.to_string(), "52:54:00:12:34:fe");
        assert_eq!(mac.dashed(), "52-54-00-12-34-fe");
        for text in ["52:54:00:12:34:fe", "52-54-00-12-34-FE"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        for text in ["", "52:54:00:12:34", "52:54:00:12:34:fe:00", "52:54:00:12:34:+e", "5é:54:00:12:34:fe"]
        {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }

    #[test]
    fn prefix_is_the_start_of_an_address() {
        let mac: Mac = "52:54:00:12:34:fe".parse().unwrap();
        for text in ["52", "52:54:00", "52-54-00-12-34", "52:54:00:12:34:fe"] {
            let prefix: MacPrefix = text.parse().unwrap();
            assert!(prefix.fits(mac) && "52".parse::<MacPrefix>().unwrap().covers(&prefix), "{text}");
            assert_eq!(prefix.whole().is_some(), text.len() == 17, "{text}");
        }
        assert!(!"54".parse::<MacPrefix>().unwrap().fits(mac));
        for text in ["", "5", "52:", "52:54:00:12:34:fe:00", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert_eq!(text.parse::<MacPrefix>(), Err(MacError), "{text}");
        }
    }

    #[test]
    fn address_of_no_machine_is_refused() {
        for bytes in [&[0; 6][..], &[0xff; 6], &[1, 0, 0x5e, 0, 0, 1], &[2; 5], &[2; 7], &[]] {
            assert_eq!(Mac::new(bytes), None, "{bytes:?}");
        }
    }
}
