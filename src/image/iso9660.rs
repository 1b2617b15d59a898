//! ISO 9660 (ECMA-119, 2nd edition): volume descriptors, directory records, names and dates.
//!
//! Numbers in both byte orders (§7.2.3, §7.3.3) are read from their little-endian half, as Linux
//! does: some writers leave the other half empty.

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::Offset;

use super::FormatError;
use crate::codec::{Reader, Truncated};
use crate::extent::Extent;

/// Bytes of a logical block. §6.2.2 allows smaller blocks, but no writer uses them.
pub(crate) const BLOCK: u64 = 2048;

/// Returns the extent of `len` bytes from the start of a logical block.
pub(crate) const fn extent_at(block: u32, len: u64) -> Extent {
    Extent { offset: block as u64 * BLOCK, len }
}

/// Logical block of the first volume descriptor (§6.2.1, §6.3).
///
/// mkarchiso's `-partition_offset 16` makes xorriso write a second set at block 32, whose
/// addresses count from the first partition. That set is not read.
pub(crate) const FIRST_DESCRIPTOR: u64 = 16;

// Flags of a directory record (§9.1.6).
const DIRECTORY: u8 = 0x02;
const ASSOCIATED: u8 = 0x04;
const MULTI_EXTENT: u8 = 0x80;

/// Escape sequences of Joliet's three UCS-2 levels (Joliet specification, "SVD Escape Sequences").
const JOLIET: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];

/// Volume descriptor (§8.1).
#[derive(Debug)]
pub(crate) enum Descriptor<'a> {
    /// Boot record (§8.2), with the fields after the version.
    Boot(Reader<'a>),
    /// Primary volume descriptor (§8.4).
    Primary(VolumeDescriptor<'a>),
    /// Supplementary volume descriptor (§8.5) with an escape sequence of Joliet.
    Joliet(VolumeDescriptor<'a>),
    /// Partition, enhanced volume or unknown type.
    Other,
    /// Set terminator (§8.3).
    Terminator,
}

/// Fields of a primary or supplementary volume descriptor. Texts are as stored, without padding.
#[derive(Debug)]
pub(crate) struct VolumeDescriptor<'a> {
    pub system: &'a [u8],
    pub volume: &'a [u8],
    /// Logical blocks of the volume.
    pub blocks: u32,
    /// Bytes of a logical block.
    pub block_size: u16,
    pub root: DirectoryRecord<'a>,
    pub publisher: &'a [u8],
    pub preparer: &'a [u8],
    pub application: &'a [u8],
    pub created: LongDate,
    pub modified: LongDate,
}

impl<'a> Descriptor<'a> {
    /// Parses the block of a volume descriptor; `None` without the standard identifier.
    ///
    /// # Errors
    /// [`FormatError`] if the descriptor is cut off or its root directory record is malformed.
    pub(crate) fn parse(block: &'a [u8]) -> Result<Option<Self>, FormatError> {
        let mut r = Reader::new(block);
        let kind = r.u8()?;
        if r.array()? != *b"CD001" {
            return Ok(None);
        }
        let _version = r.u8()?;
        // §8.1.1: the volume descriptor types.
        Ok(Some(match kind {
            0 => Descriptor::Boot(r),
            1 => Descriptor::Primary(VolumeDescriptor::parse(r)?.0),
            // §8.5.6: the escape sequences tell the character set of a supplementary volume.
            2 => match VolumeDescriptor::parse(r)? {
                (volume, escape) if JOLIET.iter().any(|level| escape.starts_with(level)) => {
                    Descriptor::Joliet(volume)
                }
                _ => Descriptor::Other,
            },
            255 => Descriptor::Terminator,
            _ => Descriptor::Other,
        }))
    }
}

impl<'a> VolumeDescriptor<'a> {
    /// Parses the fields from byte 7 on (§8.4, §8.5), and returns them with the escape sequences.
    fn parse(mut r: Reader<'a>) -> Result<(Self, &'a [u8]), FormatError> {
        r.skip(1)?; // volume flags (§8.5.3)
        let system = trim(r.take(32)?);
        let volume = trim(r.take(32)?);
        r.skip(8)?; // unused
        let blocks = both_u32(&mut r)?;
        let escape = r.take(32)?;
        r.skip(4 + 4)?; // volume set size, volume sequence number
        let block_size = r.u16_le()?;
        r.skip(2 + 8 + 4 * 4)?; // its other half, path table size, four path tables
        let root = DirectoryRecord::parse(&mut r.sub(34)?)?;
        r.skip(128)?; // volume set identifier
        let publisher = trim(r.take(128)?);
        let preparer = trim(r.take(128)?);
        let application = trim(r.take(128)?);
        r.skip(37 * 3)?; // copyright, abstract and bibliographic files
        let created = LongDate(r.array()?);
        let modified = LongDate(r.array()?);
        let descriptor = Self {
            system,
            volume,
            blocks,
            block_size,
            root,
            publisher,
            preparer,
            application,
            created,
            modified,
        };
        Ok((descriptor, escape))
    }
}

/// Reads a number in both byte orders (§7.3.3).
pub(super) fn both_u32(r: &mut Reader<'_>) -> Result<u32, Truncated> {
    let number = r.u32_le()?;
    r.skip(4)?;
    Ok(number)
}

/// Removes the filler at the end of a field.
fn trim(field: &[u8]) -> &[u8] {
    // The standard fills with spaces; some writers fill with zeros.
    let len = field.iter().rposition(|&byte| byte != b' ' && byte != 0).map_or(0, |last| last + 1);
    field.get(..len).unwrap_or_default()
}

/// Directory record (§9.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirectoryRecord<'a> {
    /// Logical block of the data, after the extended attribute record.
    pub block: u32,
    /// Bytes of data.
    pub len: u32,
    pub date: ShortDate,
    flags: u8,
    /// File unit size; 0 unless the file is interleaved (§6.4.3).
    pub unit: u8,
    /// File identifier; that of a file contains its version.
    pub id: &'a [u8],
    /// System use area, which holds the SUSP entries.
    pub system_use: &'a [u8],
}

impl<'a> DirectoryRecord<'a> {
    /// Parses the record at the front of `r`.
    ///
    /// # Errors
    /// [`FormatError`] if the record is shorter than its fields.
    pub(crate) fn parse(r: &mut Reader<'a>) -> Result<Self, FormatError> {
        let len = r.u8()?;
        // §9.1.1: the length counts its own byte.
        let mut r = r.sub(usize::from(len).checked_sub(1).ok_or(Truncated)?)?;
        // §9.1.2: the extended attribute record comes before the data, in the same extent.
        let attribute_blocks = r.u8()?;
        let block = both_u32(&mut r)?.checked_add(attribute_blocks.into());
        let block = block.ok_or(FormatError("the block number of a directory record is too large"))?;
        let len = both_u32(&mut r)?;
        let date = ShortDate(r.array()?);
        let flags = r.u8()?;
        let unit = r.u8()?;
        r.skip(1 + 4)?; // interleave gap, volume sequence number
        let id_len = usize::from(r.u8()?);
        let id = r.take(id_len)?;
        // §9.1.12: a padding byte makes the length of the fields even.
        if id_len.is_multiple_of(2) && !r.is_empty() {
            r.skip(1)?;
        }
        Ok(Self { block, len, date, flags, unit, id, system_use: r.rest() })
    }

    /// Returns `true` for the record of the directory itself.
    pub(crate) fn is_self(&self) -> bool {
        self.id == [0] // §6.8.2.2
    }

    /// Returns `true` for the record of the parent directory.
    pub(crate) fn is_parent(&self) -> bool {
        self.id == [1] // §6.8.2.2
    }

    pub(crate) const fn is_directory(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// Returns `true` for an associated file (§6.5.4), such as a resource fork.
    pub(crate) const fn is_associated(&self) -> bool {
        self.flags & ASSOCIATED != 0
    }

    /// Returns `true` if the next record describes the next section of the same file.
    pub(crate) const fn is_multi_extent(&self) -> bool {
        self.flags & MULTI_EXTENT != 0
    }
}

/// Iterator over the records of a directory. After a malformed record it continues in the next
/// block.
#[derive(Debug)]
pub(crate) struct DirectoryRecords<'a> {
    block: Reader<'a>,
    blocks: Reader<'a>,
}

impl<'a> DirectoryRecords<'a> {
    /// Iterates over the records in the whole extent of a directory.
    pub(crate) const fn new(directory: &'a [u8]) -> Self {
        Self { block: Reader::new(&[]), blocks: Reader::new(directory) }
    }
}

impl<'a> Iterator for DirectoryRecords<'a> {
    type Item = Result<DirectoryRecord<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        // §6.8.1.1: a record ends in the block in which it begins; zeros fill the rest.
        while matches!(self.block.rest().first(), None | Some(0)) {
            let len = self.blocks.remaining().min(BLOCK as usize);
            self.block = self.blocks.sub(len).ok().filter(|block| !block.is_empty())?;
        }
        let record = DirectoryRecord::parse(&mut self.block);
        if record.is_err() {
            // Only the next block is certain to begin with a record.
            self.block = Reader::new(&[]);
        }
        Some(record)
    }
}

/// Converts a file identifier to the name that Linux shows without Rock Ridge and Joliet.
pub(crate) fn plain_name(id: &[u8]) -> Vec<u8> {
    // Linux, `isofs_name_translate`: lower case, without version 1 and the dot of an empty
    // extension. Images written on Acorn machines have `/` in names.
    let name = id.strip_suffix(b";1").map_or(id, |name| name.strip_suffix(b".").unwrap_or(name));
    let bytes = name.iter().map(|byte| match byte {
        b';' | b'/' => b'.',
        byte => byte.to_ascii_lowercase(),
    });
    bytes.collect()
}

/// Converts a Joliet identifier (big-endian UCS-2, UTF-16 with many writers) to UTF-8.
pub(crate) fn joliet_name(id: &[u8]) -> Vec<u8> {
    let mut r = Reader::new(id);
    let units = std::iter::from_fn(|| r.u16_be().ok());
    let name: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    // Linux, `get_joliet_filename`: version 1 is removed, as from a plain name.
    let name = name.strip_suffix(";1").unwrap_or(&name);
    name.replace(';', ".").into_bytes()
}

/// Date and time of a directory record (§9.1.5) or of a short Rock Ridge TF entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortDate(pub [u8; 7]);

impl ShortDate {
    /// Returns the instant; `None` if the date is not set or not in the calendar.
    pub(crate) fn instant(self) -> Option<Timestamp> {
        let [year, rest @ .., zone] = self.0;
        // No valid number is above 59; jiff rejects those that become negative here.
        let [month, day, hour, minute, second] = rest.map(u8::cast_signed);
        let date = civil::DateTime::new(1900 + i16::from(year), month, day, hour, minute, second, 0);
        instant(date.ok()?, zone)
    }
}

/// Date and time of a volume descriptor (§8.4.26.1) or of a long Rock Ridge TF entry: sixteen
/// digits and the zone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LongDate(pub [u8; 17]);

impl LongDate {
    /// Returns `YYYYMMDDHHMMSScc`; `None` if the date is not set or contains other characters.
    pub(crate) fn digits(&self) -> Option<&str> {
        let (digits, zone) = self.0.split_first_chunk::<16>()?;
        // §8.4.26.1: sixteen digits zero and the zone 0 mean that the date is not specified.
        let set = zone != [0] || digits.iter().any(|&b| b != b'0');
        let digits = std::str::from_utf8(digits).ok()?;
        (set && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
    }

    /// Returns the instant; `None` if the date is not set or not in the calendar.
    pub(crate) fn instant(&self) -> Option<Timestamp> {
        let mut r = Reader::new(self.digits()?.as_bytes());
        let year = 100 * i16::from(two_digits(&mut r)?) + i16::from(two_digits(&mut r)?);
        let (month, day) = (two_digits(&mut r)?, two_digits(&mut r)?);
        let (hour, minute, second) = (two_digits(&mut r)?, two_digits(&mut r)?, two_digits(&mut r)?);
        let date = civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
        instant(date, self.0[16])
    }
}

/// Reads a number of two digits.
fn two_digits(r: &mut Reader<'_>) -> Option<i8> {
    std::str::from_utf8(r.take(2).ok()?).ok()?.parse().ok()
}

/// Converts a local time to an instant.
fn instant(date: civil::DateTime, zone: u8) -> Option<Timestamp> {
    // §9.1.5: the zone counts quarters of an hour from Greenwich, from -48 to 52. Linux
    // (`iso_date`) takes any other zone for 0 as well.
    let quarters = Some(zone.cast_signed()).filter(|zone| (-48..=52).contains(zone)).unwrap_or(0);
    let offset = Offset::from_seconds(i32::from(quarters) * 15 * 60).ok()?;
    offset.to_timestamp(date).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory record of 33 bytes and more.
    fn record(flags: u8, id: &[u8], system_use: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0];
        bytes.extend([20, 0, 0, 0, 0, 0, 0, 20]);
        bytes.extend([0, 8, 0, 0, 0, 0, 8, 0]);
        bytes.extend([126, 11, 22, 10, 38, 25, 8, flags, 0, 0, 1, 0, 0, 1]);
        bytes.push(id.len() as u8);
        bytes.extend(id);
        if id.len().is_multiple_of(2) {
            bytes.push(0);
        }
        bytes.extend(system_use);
        bytes[0] = bytes.len() as u8;
        bytes
    }

    #[test]
    fn record_is_parsed_whole() {
        let bytes = record(DIRECTORY, b"BOOT", b"PX");
        let record = DirectoryRecord::parse(&mut Reader::new(&bytes)).unwrap();
        assert_eq!((record.block, record.len), (20, 2048));
        assert_eq!((record.id, record.system_use), (&b"BOOT"[..], &b"PX"[..]));
        assert!(record.is_directory() && !record.is_multi_extent() && !record.is_self());
        assert_eq!(record.date.instant().unwrap().to_string(), "2026-11-22T08:38:25Z");
        for len in 0..33 {
            let mut short = bytes.clone();
            short[0] = len;
            assert!(DirectoryRecord::parse(&mut Reader::new(&short)).is_err(), "{len} bytes hold no record");
        }
    }

    #[test]
    fn records_continue_after_a_bad_one() {
        let mut directory = record(0, b"A", b"");
        directory.resize(2048, 0);
        directory.extend(record(0, b"B", b""));
        directory.push(200); // a record of 200 bytes of which 1 is there
        directory.resize(4096, 0);
        directory[2048 + 34] = 10; // a record too short for its fields
        directory.extend(record(0, b"C", b""));
        let ids: Vec<_> = DirectoryRecords::new(&directory).map(|record| record.map(|r| r.id).ok()).collect();
        assert_eq!(ids, [Some(&b"A"[..]), Some(b"B"), None, Some(b"C")]);
    }

    #[test]
    fn names_are_those_of_linux() {
        assert_eq!(plain_name(b"README.TXT;1"), b"readme.txt");
        assert_eq!(plain_name(b"VMLINUZ.;1"), b"vmlinuz");
        assert_eq!(plain_name(b"A;2"), b"a.2");
        assert_eq!(plain_name(b"DIR"), b"dir");
        let ucs2 = |s: &str| s.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        assert_eq!(joliet_name(&ucs2("Čeština 😀;1")), "Čeština 😀".as_bytes());
        assert_eq!(joliet_name(&[0xd8, 0, 0, b'x', 7]), "\u{fffd}x".as_bytes(), "lone surrogate, odd byte");
    }

    #[test]
    fn date_is_one_of_the_calendar() {
        let long = |digits: &[u8; 16], zone: i8| {
            let mut date = [zone.cast_unsigned(); 17];
            date[..16].copy_from_slice(digits);
            LongDate(date)
        };
        let date = long(b"2026112210382599", -4);
        assert_eq!(date.instant().unwrap().to_string(), "2026-11-22T11:38:25Z");
        assert_eq!(date.digits(), Some("2026112210382599"));
        assert_eq!(long(b"0000000000000000", 0).digits(), None, "not set");
        assert_eq!(long(b"2026113110382500", 0).instant(), None, "no such day");
        assert_eq!(long(b"2026112210$(id)0", 0).digits(), None);
        assert_eq!(ShortDate([0; 7]).instant(), None);
    }

    #[test]
    fn descriptor_needs_the_identifier() {
        assert!(Descriptor::parse(&[0; 2048]).unwrap().is_none());
        assert!(Descriptor::parse(b"\x01CD001\x01").is_err(), "cut off");
    }
}
