//! Partition tables of an isohybrid image: MBR and GPT (UEFI specification §5).
//!
//! The three CRC-32 checksums of a GPT are the only checksums in the image outside its files.

use std::fmt;

use super::FormatError;
use crate::codec::Reader;
use crate::guid::Guid;

/// Bytes of a sector in both tables, also on media with larger blocks.
pub(crate) const SECTOR: u64 = 512;

/// Most bytes of a partition array that are read. xorriso writes 248 entries of 128 bytes: 31 KiB.
const MAX_ARRAY: u64 = 1 << 20;

/// Most partitions of a table that are kept. The checksum covers all entries of the array.
const MAX_PARTITIONS: usize = 256;

/// Type of the EFI system partition in an MBR (UEFI specification 2.10 §5.2.2).
const MBR_EFI: u8 = 0xef;

/// Type of the EFI system partition in a GPT (UEFI specification §5.3.3).
const GPT_EFI: Guid =
    Guid([0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);

/// Master boot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mbr {
    pub disk_id: u32,
    pub partitions: Vec<MbrPartition>,
}

/// Primary partition of an MBR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MbrPartition {
    /// Number from 1 to 4.
    pub number: u8,
    /// Boot indicator: `true` for 0x80, the partition that a BIOS boots.
    pub active: bool,
    pub kind: u8,
    /// First sector of 512 bytes.
    pub first: u32,
    pub sectors: u32,
}

impl MbrPartition {
    pub(crate) const fn is_efi(&self) -> bool {
        self.kind == MBR_EFI
    }
}

impl Mbr {
    /// Parses the first sector (UEFI specification §5.2.1); `None` without the signature.
    pub(crate) fn parse(sector: &[u8]) -> Option<Self> {
        let mut r = Reader::new(sector);
        r.skip(440).ok()?; // boot code
        let disk_id = r.u32_le().ok()?;
        r.skip(2).ok()?; // unknown
        let slots: Vec<_> = (1..=4).map(|number| Self::partition(&mut r, number)).collect();
        let partitions = slots.into_iter().flatten().collect();
        (r.array() == Ok([0x55, 0xaa])).then_some(Self { disk_id, partitions })
    }

    fn partition(r: &mut Reader<'_>, number: u8) -> Option<MbrPartition> {
        let mut r = r.sub(16).ok()?;
        let active = r.u8().ok()? == 0x80;
        r.skip(3).ok()?; // first sector as cylinder, head, sector
        let kind = r.u8().ok()?;
        r.skip(3).ok()?; // last sector as cylinder, head, sector
        let (first, sectors) = (r.u32_le().ok()?, r.u32_le().ok()?);
        // The first partition of mkarchiso has the type 0, so only a size of 0 means an empty slot.
        (sectors > 0).then_some(MbrPartition { number, active, kind, first, sectors })
    }
}

/// Result of a checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The checksum matches the bytes.
    Good,
    /// The checksum does not match the bytes.
    Bad,
    /// The structure is missing: cut off, or never written.
    Missing,
}

impl Verdict {
    fn of(matches: bool) -> Self {
        if matches { Verdict::Good } else { Verdict::Bad }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Good => "good",
            Verdict::Bad => "bad",
            Verdict::Missing => "missing",
        })
    }
}

/// GUID partition table with the results of its three checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    pub disk: Guid,
    pub header: Verdict,
    pub array: Verdict,
    pub backup: Verdict,
    pub partitions: Vec<GptPartition>,
}

/// Used entry of a GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptPartition {
    /// Position in the array, counted from 1.
    pub number: u32,
    pub kind: Guid,
    /// First sector of 512 bytes.
    pub first: u64,
    /// Last sector of 512 bytes.
    pub last: u64,
    pub name: String,
}

impl GptPartition {
    pub(crate) fn is_efi(&self) -> bool {
        self.kind == GPT_EFI
    }
}

/// GPT header (UEFI specification §5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GptHeader {
    pub checksum: Verdict,
    /// Sector of the other header: the backup, as seen from the primary one.
    pub alternate: u64,
    pub disk: Guid,
    /// First sector of the partition array.
    pub array: u64,
    entries: u32,
    entry_size: u32,
    array_crc: u32,
}

impl GptHeader {
    /// Parses the sector of a header; `None` without the signature.
    pub(crate) fn parse(sector: &[u8]) -> Option<Self> {
        let mut r = Reader::new(sector);
        if r.array().ok()? != *b"EFI PART" {
            return None;
        }
        r.skip(4).ok()?; // revision
        let size = r.u32_le().ok()?;
        let crc = r.u32_le().ok()?;
        r.skip(4 + 8).ok()?; // reserved, own sector
        let alternate = r.u64_le().ok()?;
        r.skip(8 + 8).ok()?; // first and last usable sector
        let disk = Guid(r.array().ok()?);
        let array = r.u64_le().ok()?;
        let (entries, entry_size) = (r.u32_le().ok()?, r.u32_le().ok()?);
        let array_crc = r.u32_le().ok()?;
        let checksum = Verdict::of(header_crc(sector, size) == Some(crc));
        Some(Self { checksum, alternate, disk, array, entries, entry_size, array_crc })
    }

    /// Returns the bytes of the partition array.
    ///
    /// # Errors
    /// [`FormatError`] if the entries are smaller than 128 bytes or the array is larger than 1 MiB.
    pub(crate) fn array_len(&self) -> Result<usize, FormatError> {
        let len = u64::from(self.entries) * u64::from(self.entry_size);
        // UEFI specification §5.3.2: the size of an entry is 128 × 2ⁿ.
        if self.entry_size < 128 || len > MAX_ARRAY {
            return Err(FormatError("the size of the partition array is invalid"));
        }
        Ok(len as usize) // at most 1 MiB
    }

    /// Assembles the table from this header, its partition array and the backup header.
    ///
    /// An array whose length is not [`GptHeader::array_len`] counts as missing.
    pub(crate) fn table(&self, array: Option<&[u8]>, backup: Option<&GptHeader>) -> Gpt {
        let mut gpt = Gpt {
            disk: self.disk,
            header: self.checksum,
            array: Verdict::Missing,
            backup: backup.map_or(Verdict::Missing, |backup| backup.checksum),
            partitions: Vec::new(),
        };
        if let Some(array) = array.filter(|array| self.array_len() == Ok(array.len())) {
            gpt.array = Verdict::of(crc32fast::hash(array) == self.array_crc);
            gpt.partitions = self.partitions(array);
        }
        gpt
    }

    fn partitions(&self, array: &[u8]) -> Vec<GptPartition> {
        let mut r = Reader::new(array);
        let entries = (1..).map_while(|number| Some((number, r.sub(self.entry_size as usize).ok()?)));
        entries
            .filter_map(|(number, entry)| GptPartition::parse(number, entry))
            .take(MAX_PARTITIONS)
            .collect()
    }
}

/// Computes the checksum of a header of `size` bytes.
fn header_crc(sector: &[u8], size: u32) -> Option<u32> {
    // UEFI specification §5.3.2: a header has at least 92 bytes, and the field of the checksum
    // counts as zeros.
    let mut header = Reader::new(sector).sub(size.max(92) as usize).ok()?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(header.take(16).ok()?);
    header.skip(4).ok()?;
    crc.update(&[0; 4]);
    crc.update(header.rest());
    Some(crc.finalize())
}

impl GptPartition {
    /// Parses an entry of the array (UEFI specification §5.3.3); `None` for an unused entry.
    fn parse(number: u32, mut entry: Reader<'_>) -> Option<Self> {
        let kind = Guid(entry.array().ok()?);
        entry.skip(16).ok()?; // unique GUID of the partition
        let (first, last) = (entry.u64_le().ok()?, entry.u64_le().ok()?);
        entry.skip(8).ok()?; // attributes
        let mut name = entry.sub(72).ok()?;
        let units = std::iter::from_fn(|| name.u16_le().ok().filter(|&unit| unit != 0));
        let name = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        (kind != Guid([0; 16])).then_some(Self { number, kind, first, last, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbr() -> Vec<u8> {
        let mut sector = vec![0; 440];
        sector.extend(0x331f_7b61_u32.to_le_bytes());
        sector.extend([0, 0]);
        let slot = |status, kind, first: u32, sectors: u32| {
            let chs = [0, 0, 0];
            [&[status][..], &chs, &[kind], &chs, &first.to_le_bytes(), &sectors.to_le_bytes()].concat()
        };
        sector.extend(slot(0x80, 0, 64, 1000));
        sector.extend(slot(0, 0xef, 1064, 200));
        sector.extend([0; 32]);
        sector.extend([0x55, 0xaa]);
        sector
    }

    #[test]
    fn mbr_of_mkarchiso_is_read() {
        let mbr = Mbr::parse(&mbr()).unwrap();
        assert_eq!(mbr.disk_id, 0x331f_7b61);
        let [first, second] = mbr.partitions[..] else { panic!("two partitions") };
        assert_eq!((first.number, first.active, first.is_efi(), first.first), (1, true, false, 64));
        assert_eq!((second.number, second.active, second.is_efi(), second.sectors), (2, false, true, 200));
    }

    #[test]
    fn mbr_needs_its_signature() {
        let mut sector = mbr();
        sector[511] = 0;
        assert_eq!(Mbr::parse(&sector), None);
        assert_eq!(Mbr::parse(&sector[..511]), None);
    }

    /// Creates a header with valid checksums for `array`.
    fn header(array: &[u8], entries: u32, entry_size: u32) -> Vec<u8> {
        let mut sector = b"EFI PART\0\0\x01\0".to_vec();
        sector.extend(92_u32.to_le_bytes());
        sector.extend([0; 8]);
        sector.extend([1_u64, 999, 64, 900].map(u64::to_le_bytes).concat());
        sector.extend([7; 16]);
        sector.extend(2_u64.to_le_bytes());
        sector.extend([entries, entry_size, crc32fast::hash(array)].map(u32::to_le_bytes).concat());
        let crc = crc32fast::hash(&sector);
        sector[16..20].copy_from_slice(&crc.to_le_bytes());
        sector.resize(512, 0);
        sector
    }

    fn array() -> Vec<u8> {
        let mut entry = GPT_EFI.0.to_vec();
        entry.extend([1; 16]);
        entry.extend([64_u64, 900, 0].map(u64::to_le_bytes).concat());
        entry.extend("ESP".encode_utf16().flat_map(u16::to_le_bytes));
        entry.resize(256, 0);
        entry
    }

    #[test]
    fn checksums_are_verified() {
        let array = array();
        let sector = header(&array, 2, 128);
        let primary = GptHeader::parse(&sector).unwrap();
        assert_eq!((primary.alternate, primary.array, primary.array_len()), (999, 2, Ok(256)));
        let gpt = primary.table(Some(&array), Some(&primary));
        assert_eq!((gpt.header, gpt.array, gpt.backup), (Verdict::Good, Verdict::Good, Verdict::Good));
        let [esp] = &gpt.partitions[..] else { panic!("one partition is used") };
        assert_eq!((esp.is_efi(), esp.first, esp.last, esp.name.as_str()), (true, 64, 900, "ESP"));

        let mut changed = array.clone();
        changed[40] ^= 1;
        assert_eq!(primary.table(Some(&changed), None).array, Verdict::Bad);
        let mut broken = sector.clone();
        broken[30] ^= 1;
        let broken = GptHeader::parse(&broken).unwrap();
        let gpt = broken.table(None, Some(&broken));
        assert_eq!((gpt.header, gpt.array, gpt.backup), (Verdict::Bad, Verdict::Missing, Verdict::Bad));
    }

    #[test]
    fn invalid_sizes_are_refused() {
        let size = |entries, entry_size| {
            GptHeader::parse(&header(&[], entries, entry_size)).unwrap().array_len().is_ok()
        };
        assert!(size(248, 128));
        assert!(!size(4, 0));
        assert!(!size(u32::MAX, u32::MAX));
        assert!(!size(8193, 128));
        let entries_of_nothing = GptHeader::parse(&header(&[], 4, 0)).unwrap().table(Some(&[0; 512]), None);
        assert_eq!((entries_of_nothing.array, entries_of_nothing.partitions), (Verdict::Missing, vec![]));
        let mut sector = header(&[], 1, 128);
        sector[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(GptHeader::parse(&sector).unwrap().checksum, Verdict::Bad);
    }
}
