//! MAC addresses: what a machine is known by, whatever address it has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The hardware address of an Ethernet card.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The address in these bytes; `None` when there are not six, or they are nobody's: zeros, a group of machines.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = <[u8; 6]>::try_from(bytes).ok()?;
        let [first, ..] = bytes;
        // IEEE 802-2014 §8.2.2: the lowest bit of the first byte tells a group's address.
        (bytes != [0; 6] && first & 1 == 0).then_some(Self(bytes))
    }

    pub(crate) const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The address in a `BOOTIF=` or the name of a PXELINUX menu, `01-52-54-00-12-34-56`: 1 is Ethernet.
    pub(crate) fn of_bootif(text: &str) -> Option<Self> {
        text.strip_prefix("01-")?.parse().ok()
    }

    /// `52-54-00-12-34-56`, as it stands in paths and, behind `01-`, in `BOOTIF=`.
    pub(crate) fn dashed(self) -> String {
        self.to_string().replace(':', "-")
    }
}

/// `52:54:00:12:34:56`
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

/// The text is no MAC address of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no MAC address: write 52:54:00:12:34:56")]
pub struct MacError;

/// Reads six bytes in hexadecimal with `:` or `-` between them.
impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        Mac::new(&bytes(text)?).ok_or(MacError)
    }
}

/// How MAC addresses begin, or all of one: the first three bytes tell the maker of a card.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MacPrefix(Vec<u8>);

impl MacPrefix {
    /// Whether an address begins so.
    pub(crate) fn fits(&self, Mac(bytes): Mac) -> bool {
        bytes.starts_with(&self.0)
    }

    /// Whether every address that `other` fits begins so.
    pub(crate) fn covers(&self, other: &MacPrefix) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The one address, where this is all of it.
    pub(crate) fn whole(&self) -> Option<Mac> {
        Mac::new(&self.0)
    }
}

/// Reads one to six bytes in hexadecimal with `:` or `-` between them.
impl FromStr for MacPrefix {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bytes = bytes(text)?;
        let is_whole = bytes.len() < 6 || Mac::new(&bytes).is_some();
        if bytes.len() <= 6 && is_whole { Ok(Self(bytes)) } else { Err(MacError) }
    }
}

/// At least one byte, and no more than seven.
fn bytes(text: &str) -> Result<Vec<u8>, MacError> {
    text.split([':', '-']).take(7).map(byte).collect()
}

/// Exactly two hexadecimal digits.
fn byte(digits: &str) -> Result<u8, MacError> {
    let fits = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
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
    fn text_and_back() {
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
    fn a_prefix_is_any_part_from_the_start() {
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
    fn nobodys_address_is_none() {
        for bytes in [&[0; 6][..], &[0xff; 6], &[1, 0, 0x5e, 0, 0, 1], &[2; 5], &[2; 7], &[]] {
            assert_eq!(Mac::new(bytes), None, "{bytes:?}");
        }
    }
}
