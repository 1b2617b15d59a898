//! System use entries: SUSP (IEEE P1281) and Rock Ridge (RRIP, IEEE P1282).
//!
//! The entries of a directory record begin in its system use area and continue in continuation
//! areas. The caller reads these areas and passes them to [`RockRidge::absorb`] in their order.

use jiff::Timestamp;

use super::FormatError;
use super::index::MAX_NAME;
use super::iso9660::{BLOCK, LongDate, ShortDate, both_u32};
use crate::codec::Reader;

/// Longest target of a symlink in bytes, as on Linux (`PATH_MAX` without the NUL).
pub(crate) const MAX_TARGET: usize = 4095;

/// Identifiers of Rock Ridge in an ER entry. libisofs (`fs_image.c`) takes the first for RRIP 1.10,
/// and the others for RRIP 1.12.
const EXTENSIONS: [&[u8]; 3] = [b"RRIP_1991A", b"IEEE_P1282", b"IEEE_1282"];

/// Bytes of the CD-ROM XA fields that come before the SUSP entries (SUSP §5.3).
const XA_SKIP: usize = 14;

/// System use entry: its signature and the data after the version.
struct SystemUseEntry<'a> {
    signature: [u8; 2],
    data: Reader<'a>,
}

impl<'a> SystemUseEntry<'a> {
    /// Reads the next entry of an area; `None` at its end.
    fn next(area: &mut Reader<'a>) -> Result<Option<Self>, FormatError> {
        // SUSP §4: fewer than four bytes cannot be an entry; they are padding.
        let Ok([s0, s1, len, _version]) = { *area }.array() else { return Ok(None) };
        // Writers fill the rest of an area with zeros.
        if [s0, s1] == [0, 0] {
            return Ok(None);
        }
        let damaged = FormatError("the length of a system use entry is invalid");
        let mut data = area.sub(len.into()).map_err(|_| damaged)?;
        data.skip(4).map_err(|_| damaged)?;
        Ok(Some(Self { signature: [s0, s1], data }))
    }
}

/// Use of the system use areas of an image (SP entry, SUSP §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SharingProtocol {
    /// Bytes to skip in the system use area of the root's own record.
    pub(super) begin: usize,
    /// Bytes to skip in every other system use area.
    pub(super) skip: usize,
}

impl SharingProtocol {
    /// Finds the SP entry in the system use area of the root's own record; without it the image
    /// does not use SUSP.
    pub(super) fn find(root: &[u8]) -> Option<Self> {
        Self::find_at(root, 0).or_else(|| Self::find_at(root, XA_SKIP))
    }

    fn find_at(root: &[u8], begin: usize) -> Option<Self> {
        let mut area = Reader::new(root);
        area.skip(begin).ok()?;
        let SystemUseEntry { signature: [b'S', b'P'], mut data } = SystemUseEntry::next(&mut area).ok()??
        else {
            return None;
        };
        // SUSP §5.3: two check bytes, then the number of bytes to skip.
        let (check, skip) = (data.array().ok()?, data.u8().ok()?);
        (check == [0xbe, 0xef]).then_some(Self { begin, skip: skip.into() })
    }
}

/// Continuation area of a record's entries (CE, SUSP §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Continuation {
    /// Logical block of the area.
    pub block: u32,
    /// First byte of the area in the block.
    pub offset: usize,
    /// Number of bytes. The area ends inside the block.
    pub len: usize,
}

/// POSIX attributes (PX, RRIP §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Posix {
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Rock Ridge data from the system use entries of a directory record.
#[derive(Debug, Default)]
pub(crate) struct RockRidge {
    /// NM: name of the entry.
    pub name: Option<Vec<u8>>,
    /// PX: POSIX attributes.
    pub posix: Option<Posix>,
    /// SL: target of a symlink.
    pub target: Option<Vec<u8>>,
    /// TF: time of modification.
    pub modified: Option<Timestamp>,
    /// CL: logical block of the relocated directory that belongs here.
    pub child: Option<u32>,
    /// RE: this directory is relocated; it belongs where its CL entry is.
    pub relocated: bool,
    /// ZF: the content is compressed (zisofs), which only the driver of Linux decompresses.
    pub compressed: bool,
    /// The record has an ER entry for Rock Ridge, or a Rock Ridge entry.
    pub present: bool,
    /// The last component of `target` is complete: the next one needs a `/` before it.
    component_complete: bool,
}

impl RockRidge {
    /// Adds the entries of one area, and returns their continuation area.
    ///
    /// # Errors
    /// [`FormatError`] if an entry is malformed. The data of the entries before it is kept.
    pub(crate) fn absorb(&mut self, area: &[u8]) -> Result<Option<Continuation>, FormatError> {
        let mut area = Reader::new(area);
        let mut next = None;
        while let Some(SystemUseEntry { signature, mut data }) = SystemUseEntry::next(&mut area)? {
            match &signature {
                b"CE" => next = Some(Continuation::parse(&mut data)?),
                // SUSP §5.4: ends the entries of this area.
                b"ST" => break,
                b"ER" => self.present |= is_rock_ridge_er(&mut data)?,
                // Only RRIP 1.09 has RR; genisoimage still writes it.
                b"RR" => self.present = true,
                b"PX" => self.px(&mut data)?,
                b"NM" => self.nm(&mut data)?,
                b"SL" => self.sl(&mut data)?,
                b"TF" => self.tf(&mut data)?,
                b"CL" => self.child = Some(data.u32_le()?),
                b"RE" => self.relocated = true,
                b"ZF" => self.compressed = true,
                // PL (RRIP §4.1.5.2) names the original parent, which a walk from the root knows.
                // PD and SP carry no data here. AA, AL, PN, SF and unknown entries are not used.
                _ => {}
            }
        }
        Ok(next)
    }

    /// Parses POSIX attributes (RRIP §4.1.1). The serial number, which RRIP 1.12 added, is ignored.
    fn px(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        let (mode, nlink) = (both_u32(data)?, both_u32(data)?);
        let (uid, gid) = (both_u32(data)?, both_u32(data)?);
        self.posix = Some(Posix { mode, nlink, uid, gid });
        self.present = true;
        Ok(())
    }

    /// Appends a part of the name (RRIP §4.1.4).
    fn nm(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        const CURRENT: u8 = 0x02;
        const PARENT: u8 = 0x04;
        // These flags mean `.` and `..`; the entry has no name then.
        if data.u8()? & (CURRENT | PARENT) != 0 {
            return Ok(());
        }
        // A long name is in several NM entries; the flag for that is not needed.
        let name = self.name.get_or_insert_default();
        if name.len() + data.remaining() > MAX_NAME {
            return Err(FormatError("a name is longer than 255 bytes"));
        }
        name.extend(data.rest());
        Ok(())
    }

    /// Appends components of a symlink's target, or parts of components (RRIP §4.1.3).
    fn sl(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        const CONTINUE: u8 = 0x01;
        // Another SL entry follows, which `absorb` finds anyway.
        let _more_entries = data.u8()?;
        let target = self.target.get_or_insert_default();
        while !data.is_empty() {
            let flags = data.u8()?;
            let len = data.u8()?;
            let text = data.take(len.into())?;
            // RRIP §4.1.3.1: the component flags.
            let text = match flags & !CONTINUE {
                0x00 => text,
                0x02 => b".",
                0x04 => b"..",
                0x08 => b"/",
                _ => return Err(FormatError("a symlink has a component of unknown kind")),
            };
            if std::mem::take(&mut self.component_complete) {
                target.push(b'/');
            }
            target.extend(text);
            self.component_complete = flags & CONTINUE == 0 && text != b"/";
            if target.len() > MAX_TARGET {
                return Err(FormatError("the target of a symlink is longer than 4095 bytes"));
            }
        }
        Ok(())
    }

    /// Parses the time of modification (RRIP §4.1.6).
    fn tf(&mut self, data: &mut Reader<'_>) -> Result<(), FormatError> {
        const CREATION: u8 = 0x01;
        const MODIFY: u8 = 0x02;
        const LONG: u8 = 0x80;
        let flags = data.u8()?;
        if flags & MODIFY == 0 {
            return Ok(());
        }
        // RRIP §4.1.6: the time stamps are in the order of their flags. Only the creation comes
        // before.
        let (long, before) = (flags & LONG != 0, usize::from(flags & CREATION));
        data.skip(before * if long { 17 } else { 7 })?;
        self.modified =
            if long { LongDate(data.array()?).instant() } else { ShortDate(data.array()?).instant() };
        Ok(())
    }
}

impl Continuation {
    /// Parses the data of a CE entry.
    fn parse(data: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (block, offset, len) = (both_u32(data)?, both_u32(data)?, both_u32(data)?);
        // Linux refuses such an area too (`rock_continue`): it reads one block for it.
        if u64::from(offset) + u64::from(len) > BLOCK {
            return Err(FormatError("a continuation area does not end in its block"));
        }
        // Both casts keep the value, which is at most the size of a block.
        Ok(Self { block, offset: offset as usize, len: len as usize })
    }
}

/// Returns `true` if an ER entry (SUSP §5.5) announces Rock Ridge.
fn is_rock_ridge_er(data: &mut Reader<'_>) -> Result<bool, FormatError> {
    let len = data.u8()?;
    data.skip(3)?; // length of the descriptor, length of the source, version
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
    fn name_continues_in_the_next_area() {
        let ce = entry_of(b"CE", &[both(7), both(100), both(9)].concat());
        let first = [entry_of(b"NM", b"\x01vmlinuz"), ce].concat();
        let mut rock = RockRidge::default();
        assert_eq!(rock.absorb(&first), Ok(Some(Continuation { block: 7, offset: 100, len: 9 })));
        assert_eq!(rock.absorb(&entry_of(b"NM", b"\x00-linux")), Ok(None));
        assert_eq!(rock.name.unwrap(), b"vmlinuz-linux");
    }

    #[test]
    fn name_has_a_limit() {
        let long = entry_of(b"NM", &[&b"\x01"[..], &[b'n'; 200]].concat());
        assert!(absorbed(&[&long]).is_ok());
        assert!(absorbed(&[&long, &long]).is_err());
    }

    #[test]
    fn continuation_stays_in_its_block() {
        let ce = |offset, len| absorbed(&[&entry_of(b"CE", &[both(7), both(offset), both(len)].concat())]);
        assert!(ce(2000, 48).is_ok());
        assert!(ce(2000, 49).is_err());
        assert!(ce(0, 4000).is_err());
        assert!(ce(u32::MAX, u32::MAX).is_err());
    }

    #[test]
    fn target_is_joined_from_components() {
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
    fn time_has_two_forms() {
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
    fn attributes_and_relocation_are_read() {
        let px = entry_of(b"PX", &[both(0o100444), both(2), both(1000), both(100)].concat());
        let rock = absorbed(&[&[px, entry_of(b"CL", &both(99)), entry_of(b"RE", b"")].concat()]).unwrap();
        assert_eq!(rock.posix, Some(Posix { mode: 0o100444, nlink: 2, uid: 1000, gid: 100 }));
        assert_eq!((rock.child, rock.relocated, rock.present), (Some(99), true, true));
    }

    #[test]
    fn sharing_protocol_may_follow_xa() {
        assert_eq!(
            SharingProtocol::find(b"SP\x07\x01\xbe\xef\x02"),
            Some(SharingProtocol { begin: 0, skip: 2 })
        );
        let xa = [&[0; 14][..], b"SP\x07\x01\xbe\xef\x0e"].concat();
        assert_eq!(SharingProtocol::find(&xa), Some(SharingProtocol { begin: 14, skip: 14 }));
        assert_eq!(SharingProtocol::find(b"SP\x07\x01\xbe\xee\x00"), None);
        assert_eq!(SharingProtocol::find(b"PX"), None);
    }

    #[test]
    fn area_ends_at_padding_or_terminator() {
        let nm = entry_of(b"NM", b"\0a");
        let name = |rest: &[u8]| absorbed(&[&[&nm[..], rest].concat()]).map(|rock| rock.name.unwrap());
        assert_eq!(name(&[0; 7]).unwrap(), b"a");
        assert_eq!(name(b"NM\x05").unwrap(), b"a", "fewer than four bytes");
        assert_eq!(name(&[entry_of(b"ST", b""), nm.clone()].concat()).unwrap(), b"a");
        assert!(name(b"NM\x00\x01").is_err());
        assert!(name(b"NM\xff\x01").is_err());
    }

    #[test]
    fn rock_ridge_needs_its_er() {
        let er = |id: &[u8]| entry_of(b"ER", &[&[id.len() as u8, 0, 0, 1][..], id].concat());
        assert!(absorbed(&[&er(b"RRIP_1991A")]).unwrap().present);
        assert!(!absorbed(&[&er(b"APPLE COMPUTER")]).unwrap().present);
    }
}
