//! The partition tables of an isohybrid image: MBR, and GPT (UEFI specification §5) with its three CRC-32s. Pure.
//!
//! These checksums are the only integrity data in the container itself.

use std::fmt;

use super::FormatError;
use crate::codec::Reader;

/// Bytes of a sector in both tables, also on media of larger blocks.
pub const SECTOR: u64 = 512;

/// Most bytes of a partition array that are read. xorriso writes 248 entries of 128 bytes: 31 KiB.
pub const MAX_ARRAY: u64 = 1 << 20;

/// Most partitions kept of one table: more are on no boot medium, and the array's checksum covers all of them anyway.
const MAX_PARTITIONS: usize = 256;

/// Type of the EFI system partition in an MBR (UEFI specification §5.2.2).
const MBR_EFI: u8 = 0xef;

/// Type of the EFI system partition in a GPT (UEFI specification §5.3.3).
const GPT_EFI: Guid =
    Guid([0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);

/// A master boot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mbr {
    pub disk_id: u32,
    pub partitions: Vec<MbrPartition>,
}

/// One of its four primary partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MbrPartition {
    /// 1 to 4.
    pub number: u8,
    /// Status 0x80: what a BIOS boots.
    pub active: bool,
    pub kind: u8,
    /// First sector of 512 bytes.
    pub first: u32,
    pub sectors: u32,
}

impl MbrPartition {
    pub const fn is_efi(&self) -> bool {
        self.kind == MBR_EFI
    }
}

impl Mbr {
    /// Parses the first sector; `None` when it has no signature.
    pub fn parse(sector: &[u8]) -> Option<Self> {
        let mut r = Reader::new(sector);
        r.skip(440).ok()?;
        let disk_id = r.u32_le().ok()?;
        r.skip(2).ok()?;
        let slots: Vec<_> = (1..=4).map(|number| Self::partition(&mut r, number)).collect();
        let partitions = slots.into_iter().flatten().collect();
        (r.array() == Ok([0x55, 0xaa])).then_some(Self { disk_id, partitions })
    }

    fn partition(r: &mut Reader<'_>, number: u8) -> Option<MbrPartition> {
        let mut r = r.sub(16).ok()?;
        let active = r.u8().ok()? == 0x80;
        r.skip(3).ok()?; // first sector as cylinder, head, sector
        let kind = r.u8().ok()?;
        r.skip(3).ok()?;
        let (first, sectors) = (r.u32_le().ok()?, r.u32_le().ok()?);
        // mkarchiso gives its first partition the type 0, so that only the size tells an empty slot.
        (sectors > 0).then_some(MbrPartition { number, active, kind, first, sectors })
    }
}

/// A GUID in the byte order of the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl fmt::Display for Guid {
    /// UEFI specification, appendix A: the first three fields are little-endian.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// What a checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are as they were written.
    Good,
    /// They are not.
    Bad,
    /// There is nothing to check: cut off, or never written.
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

/// A GUID partition table with the verdicts of its three checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    pub disk: Guid,
    pub header: Verdict,
    pub array: Verdict,
    pub backup: Verdict,
    pub partitions: Vec<GptPartition>,
}

/// A used entry of a GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptPartition {
    /// From 1, by the place in the array.
    pub number: u32,
    pub kind: Guid,
    /// First and last sector of 512 bytes.
    pub first: u64,
    pub last: u64,
    pub name: String,
}

impl GptPartition {
    pub fn is_efi(&self) -> bool {
        self.kind == GPT_EFI
    }
}

/// A GPT header (UEFI specification §5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GptHeader {
    pub checksum: Verdict,
    /// Sector of the other header.
    pub alternate: u64,
    pub disk: Guid,
    /// First sector of the partition array.
    pub array: u64,
    entries: u32,
    entry_size: u32,
    array_crc: u32,
}

impl GptHeader {
    /// Parses the sector of a header; `None` when there is none.
    pub fn parse(sector: &[u8]) -> Option<Self> {
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

    /// Bytes of the partition array.
    ///
    /// # Errors
    /// [`FormatError`] when the entries are smaller than the specification says or the array is larger than 1 MiB.
    pub fn array_len(&self) -> Result<usize, FormatError> {
        let len = u64::from(self.entries) * u64::from(self.entry_size);
        if self.entry_size < 128 || len > MAX_ARRAY {
            return Err(FormatError("the GPT claims a partition array of an impossible size"));
        }
        Ok(len as usize) // at most 1 MiB
    }

    /// The table, from this header, the array it points to (`None` when it could not be read) and the other header. An
    /// array that is not as long as [`GptHeader::array_len`] says counts as none.
    pub fn table(&self, array: Option<&[u8]>, backup: Option<&GptHeader>) -> Gpt {
        let array = array.filter(|array| self.array_len() == Ok(array.len()));
        let matches = |array: &[u8]| Verdict::of(crc32fast::hash(array) == self.array_crc);
        Gpt {
            disk: self.disk,
            header: self.checksum,
            array: array.map_or(Verdict::Missing, matches),
            backup: backup.map_or(Verdict::Missing, |backup| backup.checksum),
            partitions: array.map(|array| self.partitions(array)).unwrap_or_default(),
        }
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

/// UEFI specification §5.3.2: the CRC covers the header with the CRC's own field as zeros.
fn header_crc(sector: &[u8], size: u32) -> Option<u32> {
    let mut header = Reader::new(sector).sub(size.max(92) as usize).ok()?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(header.take(16).ok()?);
    header.skip(4).ok()?;
    crc.update(&[0; 4]);
    crc.update(header.rest());
    Some(crc.finalize())
}

impl GptPartition {
    /// UEFI specification §5.3.3; `None` for an unused entry.
    fn parse(number: u32, mut entry: Reader<'_>) -> Option<Self> {
        let kind = Guid(entry.array().ok()?);
        entry.skip(16).ok()?; // the partition's own GUID
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
    fn mkarchisos_mbr() {
        let mbr = Mbr::parse(&mbr()).unwrap();
        assert_eq!(mbr.disk_id, 0x331f_7b61);
        let [first, second] = mbr.partitions[..] else { panic!("two partitions") };
        assert_eq!((first.number, first.active, first.is_efi(), first.first), (1, true, false, 64));
        assert_eq!((second.number, second.active, second.is_efi(), second.sectors), (2, false, true, 200));
    }

    #[test]
    fn no_signature_no_mbr() {
        let mut sector = mbr();
        sector[511] = 0;
        assert_eq!(Mbr::parse(&sector), None);
        assert_eq!(Mbr::parse(&sector[..511]), None);
    }

    /// A header whose array is `array`, sealed.
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
    fn three_checksums_each_tell() {
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
    fn absurd_sizes_are_refused() {
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

    #[test]
    fn a_guid_reads_as_everywhere_else() {
        assert_eq!(GPT_EFI.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }
}
