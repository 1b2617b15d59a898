//! Hardware addresses.

use std::fmt;
use std::str::FromStr;

/// Hardware address: type and significant bytes. It is the key of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HardwareAddress {
    pub(super) kind: u8,
    pub(super) len: u8,
    pub(super) bytes: [u8; 16],
}

impl HardwareAddress {
    /// Hardware type of Ethernet (RFC 1700, "hrd").
    pub(crate) const ETHERNET: u8 = 1;

    /// Creates an address of the first `len` of `bytes`.
    pub(crate) fn new(kind: u8, len: u8, mut bytes: [u8; 16]) -> Self {
        // The other bytes are zeroed: a peer that fills them is still the same machine.
        let len = len.min(16);
        bytes.iter_mut().skip(usize::from(len)).for_each(|byte| *byte = 0);
        Self { kind, len, bytes }
    }

    /// Creates a MAC address.
    pub fn ethernet(mac: [u8; 6]) -> Self {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        Self::new(Self::ETHERNET, 6, bytes)
    }

    /// Returns the hardware type (`htype`).
    pub(crate) const fn kind(&self) -> u8 {
        self.kind
    }

    /// Returns the significant bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Returns whether the link has no hardware address (`hlen` 0, as on InfiniBand: RFC 4390
    /// §2.1).
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Writes `52:54:00:12:34:56`; for other links than Ethernet with the type in front,
/// `20-80:00:...`.
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

/// Error of a text that is not a hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid hardware address; expected one like 52:54:00:12:34:56")]
pub struct HardwareAddressError;

/// Reads the text that [`fmt::Display`] writes.
impl FromStr for HardwareAddress {
    type Err = HardwareAddressError;

    fn from_str(text: &str) -> Result<Self, HardwareAddressError> {
        let (kind, text) = match text.split_once('-') {
            Some((kind, text)) => (hex(kind)?, text),
            None => (Self::ETHERNET, text),
        };
        let (mut bytes, mut len) = ([0; 16], 0);
        for digits in text.split(':') {
            *bytes.get_mut(usize::from(len)).ok_or(HardwareAddressError)? = hex(digits)?;
            len += 1;
        }
        Ok(Self::new(kind, len, bytes))
    }
}

/// Reads exactly two hexadecimal digits.
fn hex(digits: &str) -> Result<u8, HardwareAddressError> {
    // from_str_radix() alone takes a sign and any number of digits.
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(HardwareAddressError);
    }
    u8::from_str_radix(digits, 16).map_err(|_| HardwareAddressError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_address_is_read_as_written() {
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
    fn insignificant_bytes_are_ignored() {
        let mut bytes = [7; 16];
        let machine = HardwareAddress::new(1, 6, bytes);
        bytes.iter_mut().skip(6).for_each(|byte| *byte = 9);
        assert_eq!(machine, HardwareAddress::new(1, 6, bytes));
        assert_eq!(machine, HardwareAddress::ethernet([7; 6]));
        assert_eq!(HardwareAddress::new(1, 200, bytes).bytes().len(), 16);
    }
}
