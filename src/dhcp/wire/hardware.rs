//! Hardware addresses.

use std::fmt;
use std::str::FromStr;

/// A hardware address as the key of a machine: the type and the bytes that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HardwareAddress {
    pub(super) kind: u8,
    pub(super) len: u8,
    pub(super) bytes: [u8; 16],
}

impl HardwareAddress {
    /// Hardware type of Ethernet (RFC 1700, "hrd").
    pub(crate) const ETHERNET: u8 = 1;

    /// Keeps the first `len` of `bytes`; the rest is zero, whatever a peer wrote there.
    pub(crate) fn new(kind: u8, len: u8, mut bytes: [u8; 16]) -> Self {
        let len = len.min(16);
        bytes.iter_mut().skip(usize::from(len)).for_each(|byte| *byte = 0);
        Self { kind, len, bytes }
    }

    /// A MAC address.
    pub fn ethernet(mac: [u8; 6]) -> Self {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        Self::new(Self::ETHERNET, 6, bytes)
    }

    /// Hardware type (`htype`).
    pub(crate) const fn kind(&self) -> u8 {
        self.kind
    }

    /// The bytes that count.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// True where the link has none (`hlen` 0, as over InfiniBand, RFC 4390).
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// `52:54:00:12:34:56`; other than Ethernet with its type in front, as `20-80:00:...`.
impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != Self::ETHERNET {
            write!(f, "{:02x}-", self.kind)?;
        }
        for (i, byte) in self.bytes().iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The text is no hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no hardware address: write 52:54:00:12:34:56")]
pub struct BadHardwareAddress;

/// Reads what [`fmt::Display`] writes.
impl FromStr for HardwareAddress {
    type Err = BadHardwareAddress;

    fn from_str(text: &str) -> Result<Self, BadHardwareAddress> {
        let (kind, text) = match text.split_once('-') {
            Some((kind, text)) => (hex(kind)?, text),
            None => (Self::ETHERNET, text),
        };
        let (mut bytes, mut len) = ([0; 16], 0);
        for digits in text.split(':') {
            *bytes.get_mut(usize::from(len)).ok_or(BadHardwareAddress)? = hex(digits)?;
            len += 1;
        }
        Ok(Self::new(kind, len, bytes))
    }
}

/// Exactly two hexadecimal digits.
fn hex(digits: &str) -> Result<u8, BadHardwareAddress> {
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(BadHardwareAddress);
    }
    u8::from_str_radix(digits, 16).map_err(|_| BadHardwareAddress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["52:54:00:12:34:56", "20-80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03", "06-01"] {
            assert_eq!(text.parse::<HardwareAddress>().unwrap().to_string(), text);
        }
        for text in ["", "52", "52:54:", "52:5:4", "+2:54", "1-52:54", "52:54:00-", "é:54"] {
            let parsed = text.parse::<HardwareAddress>();
            assert_eq!(parsed.is_ok(), text == "52", "{text:?}");
        }
        assert!(["00"; 17].join(":").parse::<HardwareAddress>().is_err());
    }

    #[test]
    fn bytes_that_do_not_count_make_no_other_machine() {
        let mut bytes = [7; 16];
        let machine = HardwareAddress::new(1, 6, bytes);
        bytes.iter_mut().skip(6).for_each(|byte| *byte = 9);
        assert_eq!(machine, HardwareAddress::new(1, 6, bytes));
        assert_eq!(machine, HardwareAddress::ethernet([7; 6]));
        assert_eq!(HardwareAddress::new(1, 200, bytes).bytes().len(), 16);
    }
}
