//! ISO 9660 (ECMA-119): volume descriptors, directory records, names and dates. Pure.
//!
//! Numbers stored in both byte orders are read from their little-endian half, as Linux does: some writers left the
//! other half empty.

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::Offset;

use super::FormatError;
use crate::codec::{Reader, Truncated};

/// Bytes of a logical block, the only size that writers use (§6.2.2 allows smaller ones).
pub const BLOCK: u64 = 2048;

/// Logical block of the first volume descriptor (§6.2.1, §6.3). mkarchiso's `-partition_offset 16` makes xorriso
/// write a second set at block 32, whose addresses count from the first partition: it is not for us.
pub const FIRST_DESCRIPTOR: u64 = 16;

/// Directory record flags (§9.1.6).
const DIRECTORY: u8 = 0x02;
const ASSOCIATED: u8 = 0x04;
const MULTI_EXTENT: u8 = 0x80;

/// Escape sequences of Joliet's three UCS-2 levels (Joliet specification, "SVD Escape Sequences").
const JOLIET: [&[u8]; 3] = [b"%/@", b"%/C", b"%/E"];

/// A volume descriptor (§8.1).
#[derive(Debug)]
pub enum Descriptor<'a> {
    /// §8.2: the fields behind the standard identifier.
    Boot(Reader<'a>),
    /// §8.4.
    Primary(VolumeDescriptor<'a>),
    /// §8.5, with the escape sequence of Joliet.
    Joliet(VolumeDescriptor<'a>),
    /// A partition, an enhanced volume or a type unknown to us.
    Other(u8),
    /// §8.3: the end of the set.
    Terminator,
}

/// What a primary and a supplementary volume descriptor share. Texts are as stored, without the padding.
#[derive(Debug)]
pub struct VolumeDescriptor<'a> {
    pub system: &'a [u8],
    pub volume: &'a [u8],
    /// Logical blocks of the volume.
    pub blocks: u32,
    /// Bytes of a logical block.
    pub block_size: u16,
    pub root: Record<'a>,
    pub publisher: &'a [u8],
    pub preparer: &'a [u8],
    pub application: &'a [u8],
    pub created: LongDate,
    pub modified: LongDate,
}

impl<'a> Descriptor<'a> {
    /// Parses the block of a volume descriptor; `None` when it is none.
    ///
    /// # Errors
    /// [`FormatError`] when it is one and its root directory makes no sense.
    pub fn parse(block: &'a [u8]) -> Result<Option<Self>, FormatError> {
        let mut r = Reader::new(block);
        let kind = r.u8()?;
        if r.array()? != *b"CD001" {
            return Ok(None);
        }
        let _version = r.u8()?;
        Ok(Some(match kind {
            0 => Descriptor::Boot(r),
            1 => Descriptor::Primary(VolumeDescriptor::parse(r)?.0),
            2 => match VolumeDescriptor::parse(r)? {
                (volume, escape) if JOLIET.iter().any(|level| escape.starts_with(level)) => {
                    Descriptor::Joliet(volume)
                }
                _ => Descriptor::Other(2),
            },
            255 => Descriptor::Terminator,
            other => Descriptor::Other(other),
        }))
    }
}

impl<'a> VolumeDescriptor<'a> {
    /// The fields from byte 7 on (§8.4, §8.5), and the escape sequences.
    fn parse(mut r: Reader<'a>) -> Result<(Self, &'a [u8]), FormatError> {
        r.skip(1)?; // volume flags
        let system = trimmed(r.take(32)?);
        let volume = trimmed(r.take(32)?);
        r.skip(8)?;
        let blocks = both_u32(&mut r)?;
        let escape = r.take(32)?;
        r.skip(4 + 4)?; // volume set size, volume sequence number
        let block_size = r.u16_le()?;
        r.skip(2 + 8 + 4 * 4)?; // its other half, path table size, four path tables
        let root = Record::parse(&mut r.sub(34)?)?;
        r.skip(128)?; // volume set
        let publisher = trimmed(r.take(128)?);
        let preparer = trimmed(r.take(128)?);
        let application = trimmed(r.take(128)?);
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

/// A number in both byte orders (§7.3.3).
fn both_u32(r: &mut Reader<'_>) -> Result<u32, Truncated> {
    let number = r.u32_le()?;
    r.skip(4)?;
    Ok(number)
}

/// A field without the spaces (and, with some writers, zeros) that fill it.
fn trimmed(field: &[u8]) -> &[u8] {
    let fill = |b: &u8| *b == b' ' || *b == 0;
    let len = field.iter().rposition(|b| !fill(b)).map_or(0, |last| last + 1);
    field.get(..len).unwrap_or_default()
}

/// A directory record (§9.1).
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Logical block where the data begins, behind the extended attribute record.
    pub block: u32,
    /// Bytes of data.
    pub len: u32,
    pub date: ShortDate,
    flags: u8,
    /// File unit size: not 0 for an interleaved file (§6.4.3).
    pub unit: u8,
    /// The file identifier, with the version of a file.
    pub id: &'a [u8],
    /// The system use area, where SUSP lives.
    pub system_use: &'a [u8],
}

impl<'a> Record<'a> {
    /// Parses the record at the front.
    ///
    /// # Errors
    /// [`FormatError`] when it is shorter than its fields.
    pub fn parse(r: &mut Reader<'a>) -> Result<Self, FormatError> {
        let len = r.u8()?;
        // The length counts its own byte.
        let mut r = r.sub(usize::from(len).checked_sub(1).ok_or(Truncated)?)?;
        let attribute_blocks = r.u8()?;
        let block = both_u32(&mut r)?.checked_add(attribute_blocks.into());
        let block =
            block.ok_or(FormatError("a directory record's data lies behind the last block there can be"))?;
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

    /// The directory itself (§6.8.2.2: the identifier is one zero byte).
    pub fn is_self(&self) -> bool {
        self.id == [0]
    }

    /// The parent directory.
    pub fn is_parent(&self) -> bool {
        self.id == [1]
    }

    pub const fn is_directory(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// An associated file (a resource fork): another stream of the file of the same name, hidden by Linux too.
    pub const fn is_associated(&self) -> bool {
        self.flags & ASSOCIATED != 0
    }

    /// The next record holds the next section of this file.
    pub const fn goes_on(&self) -> bool {
        self.flags & MULTI_EXTENT != 0
    }
}

/// The records of a directory, front to back. After a malformed one it goes on in the next block.
#[derive(Debug)]
pub struct Records<'a> {
    block: Reader<'a>,
    blocks: Reader<'a>,
}

impl<'a> Records<'a> {
    /// Reads the whole extent of a directory.
    pub const fn new(directory: &'a [u8]) -> Self {
        Self { block: Reader::new(&[]), blocks: Reader::new(directory) }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        // §6.8.1.1: a record ends in the block where it began; zeros fill the rest of the block.
        while matches!(self.block.rest().first(), None | Some(0)) {
            let len = self.blocks.remaining().min(BLOCK as usize);
            self.block = self.blocks.sub(len).ok().filter(|block| !block.is_empty())?;
        }
        let record = Record::parse(&mut self.block);
        if record.is_err() {
            self.block = Reader::new(&[]);
        }
        Some(record)
    }
}

/// A file identifier as Linux shows it when there is neither Rock Ridge nor Joliet: in lower case, without the
/// version 1 and the dot before it.
pub fn plain_name(id: &[u8]) -> Vec<u8> {
    let name = id.strip_suffix(b";1").map_or(id, |name| name.strip_suffix(b".").unwrap_or(name));
    let shown = |b: &u8| match b {
        b';' | b'/' => b'.',
        b => b.to_ascii_lowercase(),
    };
    name.iter().map(shown).collect()
}

/// A Joliet identifier (big-endian UCS-2, by many writers UTF-16) as UTF-8, without the version.
pub fn joliet_name(id: &[u8]) -> Vec<u8> {
    let mut r = Reader::new(id);
    let units = std::iter::from_fn(|| r.u16_be().ok());
    let name: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    let name = name.strip_suffix(";1").unwrap_or(&name);
    name.replace(';', ".").into_bytes()
}

/// Date and time of a directory record (§9.1.5) and of Rock Ridge's TF.
#[derive(Debug, Clone, Copy)]
pub struct ShortDate(pub [u8; 7]);

impl ShortDate {
    /// The instant, if the date is set and one of the calendar.
    pub fn instant(self) -> Option<Timestamp> {
        let [year, month, day, hour, minute, second, zone] = self.0;
        let number = |byte: u8| i8::try_from(byte).ok();
        let date = civil::DateTime::new(
            1900 + i16::from(year),
            number(month)?,
            number(day)?,
            number(hour)?,
            number(minute)?,
            number(second)?,
            0,
        );
        instant(date.ok()?, zone)
    }
}

/// Date and time of a volume descriptor (§8.4.26.1) and of Rock Ridge's long TF: sixteen digits and the zone.
#[derive(Debug, Clone, Copy)]
pub struct LongDate(pub [u8; 17]);

impl LongDate {
    /// `YYYYMMDDHHMMSScc`; `None` when the date is not set (all zeros, §8.4.26.1) or holds anything but digits.
    pub fn digits(&self) -> Option<&str> {
        let (digits, zone) = self.0.split_first_chunk::<16>()?;
        let set = zone != [0] || digits.iter().any(|&b| b != b'0');
        let digits = std::str::from_utf8(digits).ok()?;
        (set && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
    }

    /// The instant, if the date is set and one of the calendar.
    pub fn instant(&self) -> Option<Timestamp> {
        let mut r = Reader::new(self.digits()?.as_bytes());
        let year: i16 = number(r.take(4).ok()?)?;
        let mut two = || number::<i8>(r.take(2).ok()?);
        let date = civil::DateTime::new(year, two()?, two()?, two()?, two()?, two()?, 0).ok()?;
        instant(date, self.0[16])
    }
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A local time in a zone given in quarters of an hour from Greenwich, of which -48 to 52 exist (§9.1.5).
fn instant(date: civil::DateTime, zone: u8) -> Option<Timestamp> {
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
    fn a_record_is_parsed_whole() {
        let bytes = record(DIRECTORY, b"BOOT", b"PX");
        let record = Record::parse(&mut Reader::new(&bytes)).unwrap();
        assert_eq!((record.block, record.len), (20, 2048));
        assert_eq!((record.id, record.system_use), (&b"BOOT"[..], &b"PX"[..]));
        assert!(record.is_directory() && !record.goes_on() && !record.is_self());
        assert_eq!(record.date.instant().unwrap().to_string(), "2026-11-22T08:38:25Z");
        for len in 0..33 {
            let mut short = bytes.clone();
            short[0] = len;
            assert!(Record::parse(&mut Reader::new(&short)).is_err(), "{len} bytes hold no record");
        }
    }

    #[test]
    fn records_fill_blocks_and_survive_a_bad_one() {
        let mut directory = record(0, b"A", b"");
        directory.resize(2048, 0);
        directory.extend(record(0, b"B", b""));
        directory.push(200); // a record of 200 bytes of which 1 is there
        directory.resize(4096, 0);
        directory[2048 + 34] = 10; // a record too short for its fields
        directory.extend(record(0, b"C", b""));
        let ids: Vec<_> = Records::new(&directory).map(|record| record.map(|r| r.id).ok()).collect();
        assert_eq!(ids, [Some(&b"A"[..]), Some(b"B"), None, Some(b"C")]);
    }

    #[test]
    fn names_are_shown_as_linux_does() {
        assert_eq!(plain_name(b"README.TXT;1"), b"readme.txt");
        assert_eq!(plain_name(b"VMLINUZ.;1"), b"vmlinuz");
        assert_eq!(plain_name(b"A;2"), b"a.2");
        assert_eq!(plain_name(b"DIR"), b"dir");
        let ucs2 = |s: &str| s.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>();
        assert_eq!(joliet_name(&ucs2("Čeština 😀;1")), "Čeština 😀".as_bytes());
        assert_eq!(joliet_name(&[0xd8, 0, 0, b'x', 7]), "\u{fffd}x".as_bytes(), "lone surrogate, odd byte");
    }

    #[test]
    fn dates_need_a_calendar() {
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
    fn a_block_without_the_identifier_is_no_descriptor() {
        assert!(Descriptor::parse(&[0; 2048]).unwrap().is_none());
        assert!(Descriptor::parse(b"\x01CD001\x01").is_err(), "cut off");
    }
}
