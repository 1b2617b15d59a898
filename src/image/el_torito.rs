//! Boot catalog of El Torito 1.0, with platform 0xEF of the UEFI specification.

use std::fmt;

use super::FormatError;
use crate::codec::Reader;

/// Bytes of a virtual sector, the unit of a boot image's size (El Torito figure 3).
pub(crate) const SECTOR: u64 = 512;

/// Most entries that are read. A catalog of one block has room for 64 (El Torito §2.0).
const MAX_ENTRIES: usize = 64;

/// Bytes of an entry of the catalog.
const ENTRY: usize = 32;

/// BootPlatform of a boot image (El Torito figure 2; for 0xEF, UEFI specification 2.10 §13.3.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootPlatform {
    Bios,
    PowerPc,
    Mac,
    Efi,
    Unknown(u8),
}

impl From<u8> for BootPlatform {
    fn from(id: u8) -> Self {
        match id {
            0x00 => BootPlatform::Bios,
            0x01 => BootPlatform::PowerPc,
            0x02 => BootPlatform::Mac,
            0xef => BootPlatform::Efi,
            other => BootPlatform::Unknown(other),
        }
    }
}

impl fmt::Display for BootPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootPlatform::Bios => f.write_str("BIOS"),
            BootPlatform::PowerPc => f.write_str("PowerPC"),
            BootPlatform::Mac => f.write_str("Mac"),
            BootPlatform::Efi => f.write_str("UEFI"),
            BootPlatform::Unknown(id) => write!(f, "platform {id:#04x}"),
        }
    }
}

/// Entry of the catalog that describes a boot image (El Torito figures 3 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogEntry {
    pub platform: BootPlatform,
    /// Boot indicator: `true` for 0x88.
    pub bootable: bool,
    /// Logical block of the boot image.
    pub block: u32,
    /// Virtual sectors of 512 bytes to load. For UEFI this is the size of the image; 0 and 1 mean
    /// up to the end of the volume (UEFI specification 2.10 §13.3.2.1).
    pub sectors: u16,
}

/// Returns the logical block of the catalog from a boot record volume descriptor (El Torito figure
/// 7); `None` if the descriptor is not one of El Torito.
///
/// `boot_record` is after the standard identifier and version, as in
/// [`Descriptor::Boot`](super::iso9660::Descriptor::Boot).
pub(crate) fn catalog_block(mut boot_record: Reader<'_>) -> Option<u32> {
    let system = boot_record.take(32).ok()?;
    boot_record.skip(32).ok()?; // unused
    system.starts_with(b"EL TORITO SPECIFICATION").then(|| boot_record.u32_le().ok())?
}

/// Parses the entries of a boot catalog, up to the first malformed one.
///
/// # Errors
/// [`FormatError`] if the validation entry is not valid.
pub(crate) fn catalog(bytes: &[u8]) -> Result<Vec<CatalogEntry>, FormatError> {
    let mut r = Reader::new(bytes);
    let default = validate(r.take(ENTRY)?)?;
    let mut entries: Vec<_> = boot_entry(&mut r, default).into_iter().collect();
    while let Some((section, count, last)) = section_header(&mut r) {
        for _ in 0..count {
            if entries.len() == MAX_ENTRIES {
                return Ok(entries);
            }
            // The entries so far are usable; a damaged rest is not a reason to lose them.
            let Some(entry) = boot_entry(&mut r, section) else { return Ok(entries) };
            entries.push(entry);
        }
        if last {
            break;
        }
    }
    Ok(entries)
}

/// Checks the validation entry, and returns the platform of the default entry.
fn validate(entry: &[u8]) -> Result<BootPlatform, FormatError> {
    // El Torito figure 2: header 1, key bytes 0x55 0xAA, and a sum of zero over all words.
    let mut words = Reader::new(entry);
    let sum = std::iter::from_fn(|| words.u16_le().ok()).fold(0_u16, u16::wrapping_add);
    let mut r = Reader::new(entry);
    let (header, platform) = (r.u8()?, r.u8()?);
    if header != 1 || !entry.ends_with(&[0x55, 0xaa]) || sum != 0 {
        return Err(FormatError("the boot catalog has no valid validation entry"));
    }
    Ok(platform.into())
}

/// Parses a section header: its platform, its number of entries, and `true` for the last section.
fn section_header(r: &mut Reader<'_>) -> Option<(BootPlatform, u16, bool)> {
    let mut header = r.sub(ENTRY).ok()?;
    // El Torito figure 4: the header indicator tells whether more headers follow.
    let last = match header.u8().ok()? {
        0x90 => false,
        0x91 => true,
        _ => return None,
    };
    let platform = header.u8().ok()?.into();
    Some((platform, header.u16_le().ok()?, last))
}

/// Parses the next default or section entry (El Torito §2.2, §2.4).
fn boot_entry(r: &mut Reader<'_>, platform: BootPlatform) -> Option<CatalogEntry> {
    loop {
        let mut entry = r.sub(ENTRY).ok()?;
        let bootable = match entry.u8().ok()? {
            0x88 => true,
            0x00 => false,
            0x44 => continue, // El Torito figure 6: section entry extension
            _ => return None,
        };
        entry.skip(5).ok()?; // media type, load segment, system type, unused
        let sectors = entry.u16_le().ok()?;
        let block = entry.u32_le().ok()?;
        // Zeros follow the default entry of a catalog without sections.
        return (bootable || block != 0).then_some(CatalogEntry { platform, bootable, block, sectors });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validation(platform: u8) -> [u8; 32] {
        let mut entry = [0; 32];
        entry[0] = 1;
        entry[1] = platform;
        entry[30..].copy_from_slice(&[0x55, 0xaa]);
        let sum = entry.chunks(2).fold(0_u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
        entry[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
        entry
    }

    fn boot(indicator: u8, sectors: u16, block: u32) -> [u8; 32] {
        let mut entry = [0; 32];
        entry[0] = indicator;
        entry[6..8].copy_from_slice(&sectors.to_le_bytes());
        entry[8..12].copy_from_slice(&block.to_le_bytes());
        entry
    }

    fn section(id: u8, platform: u8, count: u16) -> [u8; 32] {
        let mut entry = [0; 32];
        entry[..2].copy_from_slice(&[id, platform]);
        entry[2..4].copy_from_slice(&count.to_le_bytes());
        entry
    }

    #[test]
    fn entries_of_mkarchiso_are_read() {
        let bytes =
            [validation(0), boot(0x88, 4, 60), section(0x91, 0xef, 1), boot(0x88, 16384, 900)].concat();
        let entry = |platform, sectors, block| CatalogEntry { platform, bootable: true, block, sectors };
        assert_eq!(
            catalog(&bytes).unwrap(),
            [entry(BootPlatform::Bios, 4, 60), entry(BootPlatform::Efi, 16384, 900)]
        );
    }

    #[test]
    fn catalog_is_bounded() {
        let full = [validation(0), boot(0x88, 4, 60), section(0x90, 0xef, 65535), boot(0x88, 1, 9)].concat();
        assert_eq!(catalog(&full).unwrap().len(), 2);
        let endless = [&full[..], &boot(0x88, 1, 9).repeat(1000)].concat();
        assert_eq!(catalog(&endless).unwrap().len(), MAX_ENTRIES);
        let extensions = [&full[..], &boot(0x44, 1, 9).repeat(1000)].concat();
        assert_eq!(catalog(&extensions).unwrap().len(), 2);
    }

    #[test]
    fn validation_entry_is_checked() {
        let mut bytes = [validation(0), boot(0x88, 4, 60)].concat();
        bytes[5] ^= 1;
        assert!(catalog(&bytes).is_err());
        assert!(catalog(&[0; 2048]).is_err());
        assert!(catalog(&[]).is_err());
    }

    #[test]
    fn catalog_needs_el_torito() {
        let mut record = b"EL TORITO SPECIFICATION".to_vec();
        record.resize(64, 0);
        record.extend(77_u32.to_le_bytes());
        assert_eq!(catalog_block(Reader::new(&record)), Some(77));
        record[0] = b'X';
        assert_eq!(catalog_block(Reader::new(&record)), None);
    }
}
