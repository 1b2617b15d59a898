//! GUIDs as firmware writes them: in partition tables, in SMBIOS, and in DHCP.

use std::fmt;

use serde::{Deserialize, Serialize};

/// GUID in the byte order of firmware.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guid(pub [u8; 16]);

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // UEFI specification, appendix A: the first three fields are little-endian.
        let [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, node @ ..] = self.0;
        write!(f, "{a3:02x}{a2:02x}{a1:02x}{a0:02x}-{b1:02x}{b0:02x}-{c1:02x}{c0:02x}-{d0:02x}{d1:02x}-")?;
        node.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guid_is_formatted_as_usual() {
        let efi = [40, 115, 42, 193, 31, 248, 210, 17, 186, 75, 0, 160, 201, 62, 201, 59];
        assert_eq!(Guid(efi).to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }
}
