//! System use entries (SUSP, IEEE P1281) and what Rock Ridge (RRIP, IEEE P1282) says with them. Pure.
//!
//! The entries of one directory record stand in its system use area and go on in continuation areas, which the caller
//! reads: [`RockRidge::absorb`] takes one area after the other.

use jiff::Timestamp;

use super::FormatError;
use super::index::MAX_NAME;
use super::iso9660::{BLOCK, LongDate, ShortDate};
use crate::codec::Reader;

/// Longest target of a symlink in bytes, as on Linux (`PATH_MAX` less the NUL).
pub const MAX_TARGET: usize = 4095;

/// Names under which Rock Ridge stands in an ER entry: RRIP 1.09, 1.10, 1.12.
const EXTENSIONS: [&[u8]; 3] = [b"RRIP_1991A", b"IEEE_P1282", b"IEEE_1282"];

/// Where a CD-ROM XA record leaves its system use area to SUSP (SUSP §5.3).
const XA_SKIP: usize = 14;

/// One system use entry: signature and what follows the version.
struct Entry<'a> {
    signature: [u8; 2],
    data: Reader<'a>,
}

/// The next entry of an area; `None` at its end (SUSP §4: fewer than four bytes cannot be an entry).
fn entry<'a>(area: &mut Reader<'a>) -> Result<Option<Entry<'a>>, FormatError> {
    let Ok([s0, s1, len, _version]) = { *area }.array() else { return Ok(None) };
    // Zeros fill an area after its last entry.
    if [s0, s1] == [0, 0] {
        return Ok(None);
    }
    let damaged = FormatError("a system use entry has an impossible length");
    let mut data = area.sub(len.into()).map_err(|_| damaged)?;
    data.skip(4).map_err(|_| damaged)?;
    Ok(Some(Entry { signature: [s0, s1], data }))
}

/// How an image shares its system use areas (SP, SUSP §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// Bytes to pass over in the system use area of the root's own record.
    pub begin: usize,
    /// Bytes to pass over in every other one.
    pub skip: usize,
}

/// Looks for SP in the system use area of the root's own record; without it there is no SUSP on the image.
pub fn sharing(root: &[u8]) -> Option<Sharing> {
    let announced = |begin: usize| {
        let mut area = Reader::new(root);
        area.skip(begin).ok()?;
        let Entry { signature: [b'S', b'P'], mut data } = entry(&mut area).ok()?? else { return None };
        let (check, skip) = (data.array().ok()?, data.u8().ok()?);
        (check == [0xbe, 0xef]).then_some(Sharing { begin, skip: skip.into() })
    };
    announced(0).or_else(|| announced(XA_SKIP))
}

/// Where the entries of a record go on (CE, SUSP §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation {
    /// Logical block.
    pub block: u32,
    /// First byte in it.
    pub offset: usize,
    /// Number of bytes. The area ends inside the block.
    pub len: usize,
}

/// POSIX attributes (PX, RRIP §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posix {
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What the system use entries of one directory record say.
#[derive(Debug, Default)]
pub struct RockRidge {
    /// NM: the name.
    pub name: Option<Vec<u8>>,
    /// PX: POSIX attributes.
    pub posix: Option<Posix>,
    /// SL: where a symlink points to.
    pub target: Option<Vec<u8>>,
    /// TF: time of modification.
    pub modified: Option<Timestamp>,
    /// CL: this record stands for a directory that was moved to this logical block.
    pub child: Option<u32>,
    /// RE: this directory was moved here; it belongs where the CL stands.
    pub relocated: bool,
    /// ZF: the content is compressed (zisofs), which only Linux's own driver undoes.
    pub compressed: bool,
    /// ER names Rock Ridge, or a Rock Ridge entry was there: the image speaks it.
    pub spoken: bool,
    /// The last component of `target` is complete: the next one needs a `/` before it.
    separate: bool,
}

impl RockRidge {
    /// Takes in the entries of one area and returns where they go on.
    ///
    /// # Errors
    /// [`FormatError`] when an entry makes no sense. What was said before stays.
    pub fn absorb(&mut self, area: &[u8]) -> Result<Option<Continuation>, FormatError> {
        let mut area = Reader::new(area);
        let mut next = None;
        while let Some(Entry { signature, mut data }) = entry(&mut area)? {
            match &signature {
                b"CE" => next = Some(continuation(&mut data)?),
                b"ST" => break,
                b"ER" => self.spoken |= names_rock_ridge(&mut data)?,
                b"RR" => self.spoken = true,
                b"PX" => self.px(&mut data)?,
                b"NM" => self.nm(&mut data)?,
                b"SL" => self.sl(&mut data)?,
                b"TF" => self.tf(&mut data)?,
                b"CL" => self.child = Some(data.u32_le()?),
                b"RE" => self.relocated = true,
                b"ZF" => self.compressed = true,
                // PL, the way back from a relocated directory, says nothing new to who came down the tree. PD and SP
                // are done; the rest (AA, AL, PN, SF, ...) is not for us.
                _ => {}
            }
        }
        Ok(next)
    }

    fn px(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        let mut number = || data.u32_le().and_then(|number| data.skip(4).map(|()| number));
        self.posix = Some(Posix { mode: number()?, nlink: number()?, uid: number()?, gid: number()? });
        self.spoken = true;
        Ok(())
    }

    /// RRIP §4.1.4: a name in one or more parts. The flags for `.` and `..` (0x02, 0x04) carry no name.
    fn nm(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        const SPECIAL: u8 = 0x02 | 0x04;
        if data.u8()? & SPECIAL != 0 {
            return Ok(());
        }
        let name = self.name.get_or_insert_default();
        if name.len() + data.remaining() > MAX_NAME {
            return Err(FormatError("a name is longer than 255 bytes"));
        }
        name.extend(data.rest());
        Ok(())
    }

    /// RRIP §4.1.3: components of a target, and parts of components.
    fn sl(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        const GOES_ON: u8 = 0x01;
        let _more_entries = data.u8()?;
        let target = self.target.get_or_insert_default();
        while !data.is_empty() {
            let flags = data.u8()?;
            let len = data.u8()?;
            let text = data.take(len.into())?;
            let text = match flags & !GOES_ON {
                0x00 => text,
                0x02 => b".",
                0x04 => b"..",
                0x08 => b"/",
                _ => return Err(FormatError("a symlink has a component of unknown kind")),
            };
            if std::mem::take(&mut self.separate) {
                target.push(b'/');
            }
            target.extend(text);
            self.separate = flags & GOES_ON == 0 && text != b"/";
            if target.len() > MAX_TARGET {
                return Err(FormatError("the target of a symlink is longer than 4095 bytes"));
            }
        }
        Ok(())
    }

    /// RRIP §4.1.6: time stamps in the order of their flags, each in seven bytes or, with 0x80, in seventeen.
    fn tf(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        const CREATION: u8 = 0x01;
        const MODIFY: u8 = 0x02;
        const LONG: u8 = 0x80;
        let flags = data.u8()?;
        if flags & MODIFY == 0 {
            return Ok(());
        }
        let (long, before) = (flags & LONG != 0, usize::from(flags & CREATION));
        data.skip(before * if long { 17 } else { 7 })?;
        self.modified =
            if long { LongDate(data.array()?).instant() } else { ShortDate(data.array()?).instant() };
        Ok(())
    }
}

/// SUSP §5.1. As on Linux an area has to end inside the block where it begins.
fn continuation(data: &mut Reader<'_>) -> Result<Continuation, FormatError> {
    let mut number = || data.u32_le().and_then(|number| data.skip(4).map(|()| number));
    let (block, offset, len) = (number()?, number()?, number()?);
    if u64::from(offset) + u64::from(len) > BLOCK {
        return Err(FormatError("a continuation area leaves its block"));
    }
    // Both were just bounded by the size of a block.
    Ok(Continuation { block, offset: offset as usize, len: len as usize })
}

/// SUSP §5.5: three lengths, the version, the identifier, two texts.
fn names_rock_ridge(data: &mut Reader<'_>) -> Result<bool, FormatError> {
    let len = data.u8()?;
    data.skip(3)?;
    let id = data.take(len.into())?;
    Ok(EXTENSIONS.contains(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
        [&signature[..], &[data.len() as u8 + 4, 1], data].concat()
    }

    fn both(number: u32) -> Vec<u8> {
        [number.to_le_bytes(), number.to_be_bytes()].concat()
    }

    fn absorbed(areas: &[&[u8]]) -> Result<RockRidge, FormatError> {
        let mut rock = RockRidge::default();
        areas.iter().try_for_each(|area| rock.absorb(area).map(drop))?;
        Ok(rock)
    }

    #[test]
    fn a_name_goes_on_in_the_next_area() {
        let ce = entry_of(b"CE", &[both(7), both(100), both(9)].concat());
        let first = [entry_of(b"NM", b"\x01vmlinuz"), ce].concat();
        let mut rock = RockRidge::default();
        assert_eq!(rock.absorb(&first), Ok(Some(Continuation { block: 7, offset: 100, len: 9 })));
        assert_eq!(rock.absorb(&entry_of(b"NM", b"\x00-linux")), Ok(None));
        assert_eq!(rock.name.unwrap(), b"vmlinuz-linux");
    }

    #[test]
    fn a_name_has_a_limit() {
        let long = entry_of(b"NM", &[&b"\x01"[..], &[b'n'; 200]].concat());
        assert!(absorbed(&[&long]).is_ok());
        assert!(absorbed(&[&long, &long]).is_err());
    }

    #[test]
    fn a_continuation_stays_in_its_block() {
        let ce = |offset, len| absorbed(&[&entry_of(b"CE", &[both(7), both(offset), both(len)].concat())]);
        assert!(ce(2000, 48).is_ok());
        assert!(ce(2000, 49).is_err());
        assert!(ce(0, 4000).is_err());
        assert!(ce(u32::MAX, u32::MAX).is_err());
    }

    #[test]
    fn a_target_is_put_together_from_components() {
        let target = |areas: &[&[u8]]| absorbed(areas).map(|rock| rock.target.unwrap());
        assert_eq!(target(&[&entry_of(b"SL", b"\0\x08\0\0\x03etc\x00\x06passwd")]).unwrap(), b"/etc/passwd");
        assert_eq!(target(&[&entry_of(b"SL", b"\0\x04\0\x02\0\0\x01a")]).unwrap(), b".././a");
        // A component in two parts, and the rest in another entry.
        let parts = [entry_of(b"SL", b"\x01\x01\x02ab\x00\x02cd"), entry_of(b"SL", b"\0\0\x01e")];
        assert_eq!(target(&[&parts[0], &parts[1]]).unwrap(), b"abcd/e");
        assert!(target(&[&entry_of(b"SL", b"\0\x40\0")]).is_err());
        assert!(target(&[&entry_of(b"SL", b"\0\0\x09short")]).is_err());
        let long = entry_of(b"SL", &[&b"\0\0\xc8"[..], &[b'x'; 200]].concat());
        assert!(target(&[&long[..]; 20]).is_ok());
        assert!(target(&[&long[..]; 21]).is_err());
    }

    #[test]
    fn times_come_in_two_forms() {
        let short = [&[0x03][..], &[100, 1, 1, 0, 0, 0, 0], &[126, 11, 22, 10, 38, 25, 8]].concat();
        let long = [&b"\x822026112210382500"[..], &[8]].concat();
        for data in [short, long] {
            let modified = absorbed(&[&entry_of(b"TF", &data)]).unwrap().modified.unwrap();
            assert_eq!(modified.to_string(), "2026-11-22T08:38:25Z");
        }
        assert_eq!(absorbed(&[&entry_of(b"TF", &[0x01, 1, 2])]).unwrap().modified, None);
        assert!(absorbed(&[&entry_of(b"TF", &[0x02, 1, 2])]).is_err());
    }

    #[test]
    fn attributes_and_relocation() {
        let px = entry_of(b"PX", &[both(0o100444), both(2), both(1000), both(100)].concat());
        let rock = absorbed(&[&[px, entry_of(b"CL", &both(99)), entry_of(b"RE", b"")].concat()]).unwrap();
        assert_eq!(rock.posix, Some(Posix { mode: 0o100444, nlink: 2, uid: 1000, gid: 100 }));
        assert_eq!((rock.child, rock.relocated, rock.spoken), (Some(99), true, true));
    }

    #[test]
    fn sharing_protocol_is_found_with_and_without_xa() {
        assert_eq!(sharing(b"SP\x07\x01\xbe\xef\x02"), Some(Sharing { begin: 0, skip: 2 }));
        let xa = [&[0; 14][..], b"SP\x07\x01\xbe\xef\x0e"].concat();
        assert_eq!(sharing(&xa), Some(Sharing { begin: 14, skip: 14 }));
        assert_eq!(sharing(b"SP\x07\x01\xbe\xee\x00"), None);
        assert_eq!(sharing(b"PX"), None);
    }

    #[test]
    fn an_area_ends_at_fill_terminator_and_impossible_length() {
        let nm = entry_of(b"NM", b"\0a");
        let name = |rest: &[u8]| absorbed(&[&[&nm[..], rest].concat()]).map(|rock| rock.name.unwrap());
        assert_eq!(name(&[0; 7]).unwrap(), b"a");
        assert_eq!(name(b"NM\x05").unwrap(), b"a", "fewer than four bytes");
        assert_eq!(name(&[entry_of(b"ST", b""), nm.clone()].concat()).unwrap(), b"a");
        assert!(name(b"NM\x00\x01").is_err());
        assert!(name(b"NM\xff\x01").is_err());
    }

    #[test]
    fn rock_ridge_is_announced_by_er() {
        let er = |id: &[u8]| entry_of(b"ER", &[&[id.len() as u8, 0, 0, 1][..], id].concat());
        assert!(absorbed(&[&er(b"RRIP_1991A")]).unwrap().spoken);
        assert!(!absorbed(&[&er(b"APPLE COMPUTER")]).unwrap().spoken);
    }
}
