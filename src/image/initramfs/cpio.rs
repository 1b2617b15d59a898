//! cpio archives in the "newc" format of an initramfs (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Read};
use std::ops::ControlFlow;

use crate::image::FormatError;

/// Magic numbers of an archive. The second format has checksums of the contents, which are skipped
/// here.
pub(super) const MAGICS: [&[u8; 6]; 2] = [b"070701", b"070702"];

/// Bytes of a header.
const HEADER: usize = 110;
/// Alignment of names and contents, from the start of the archive.
const ALIGNMENT: u64 = 4;
/// Most bytes of a name with its NUL (`PATH_MAX` of Linux).
const NAME_MAX: u32 = 4096;
/// Name of the last entry.
const TRAILER: &[u8] = b"TRAILER!!!";

/// Error of an archive that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CpioError {
    #[error(transparent)]
    Damaged(#[from] FormatError),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Fields of a header that are needed to skip an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpioHeader {
    name_len: u32,
    file_len: u32,
}

impl CpioHeader {
    /// Parses a header: a magic number and thirteen numbers of eight hexadecimal digits.
    fn parse(bytes: &[u8; HEADER]) -> Result<Self, FormatError> {
        let (magic, numbers) = bytes.split_at(6);
        if !MAGICS.iter().any(|known| *known == magic) {
            return Err(FormatError("an entry of the cpio archive has no header"));
        }
        // buffer-format.rst, structure of the cpio_header: c_filesize and c_namesize.
        let (Some(file_len), Some(name_len)) = (number(numbers, 6), number(numbers, 11)) else {
            return Err(FormatError("a header of the cpio archive has invalid digits"));
        };
        // Linux (`do_header`) skips an entry with such a name. No archiver writes one, so the
        // archive is damaged.
        if !(1..=NAME_MAX).contains(&name_len) {
            return Err(FormatError("a name of the cpio archive is empty or longer than 4095 bytes"));
        }
        Ok(Self { name_len, file_len })
    }
}

/// Parses the number at a position in the header.
fn number(numbers: &[u8], position: usize) -> Option<u32> {
    let digits = numbers.chunks(8).nth(position)?;
    digits.iter().try_fold(0, |number, &digit| Some(number << 4 | char::from(digit).to_digit(16)?))
}

/// Calls `see` with the name and the content of each file in the archive at the start of `input`,
/// until `see` breaks or the archive ends. Then `input` is after the name of the trailer.
///
/// # Errors
/// [`CpioError::Damaged`] for a malformed archive, [`CpioError::Read`] if `input` ends in it.
pub(crate) fn walk(
    input: &mut (impl Read + ?Sized),
    mut see: impl FnMut(&[u8], &mut dyn Read) -> io::Result<ControlFlow<()>>,
) -> Result<(), CpioError> {
    let mut name = Vec::new();
    loop {
        let mut header = [0; HEADER];
        input.read_exact(&mut header)?;
        let CpioHeader { name_len, file_len } = CpioHeader::parse(&header)?;
        // At most NAME_MAX bytes.
        name.resize(name_len as usize, 0);
        input.read_exact(&mut name)?;
        skip(input, padding(HEADER as u64 + u64::from(name_len)))?;
        // The length of a name counts its NUL.
        let text = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let mut content = Read::take(&mut *input, file_len.into());
        if text == TRAILER || see(text, &mut content)?.is_break() {
            return Ok(());
        }
        let unread = content.limit();
        skip(input, unread + padding(file_len.into()))?;
    }
}

/// Returns the bytes from `len` to the next multiple of four.
const fn padding(len: u64) -> u64 {
    len.wrapping_neg() % ALIGNMENT
}

/// Skips `len` bytes of `input`.
fn skip(input: &mut (impl Read + ?Sized), len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(len), &mut io::sink())?;
    if skipped == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An archive of these files, as mkinitcpio's cpio writes it.
    pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, content) in files.iter().chain(&[("TRAILER!!!", &[][..])]) {
            let fields = [1, 0o100_755, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
            archive.extend(b"070701");
            fields.iter().for_each(|field| archive.extend(format!("{field:08X}").bytes()));
            archive.extend(name.bytes().chain([0]));
            archive.resize(archive.len().next_multiple_of(4), 0);
            archive.extend(*content);
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
        archive
    }

    fn names(mut input: &[u8]) -> (Vec<String>, Result<usize, CpioError>) {
        let mut names = Vec::new();
        let result = walk(&mut input, |name, _| {
            names.push(String::from_utf8_lossy(name).into_owned());
            Ok(ControlFlow::Continue(()))
        });
        (names, result.map(|()| input.len()))
    }

    #[test]
    fn names_are_seen_in_order() {
        let mut bytes = archive(&[("hooks", b""), ("hooks/a", b"12345"), ("init", b"1234")]);
        bytes.extend(b"next");
        let (names, rest) = names(&bytes);
        assert_eq!(names, ["hooks", "hooks/a", "init"]);
        assert_eq!(rest.unwrap(), 4, "what follows the archive is left");
    }

    #[test]
    fn walk_ends_at_a_break() {
        let bytes = archive(&[("a", b""), ("b", b"")]);
        let mut seen = 0;
        let stop = |_: &[u8], _: &mut dyn Read| {
            seen += 1;
            Ok(ControlFlow::Break(()))
        };
        walk(&mut &bytes[..], stop).unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn content_may_be_read_in_part() {
        let bytes = archive(&[("a", b"12345"), ("b", b""), ("c", b"67")]);
        for len in [0, 2, 100] {
            let mut contents = Vec::new();
            let read = |name: &[u8], content: &mut dyn Read| {
                let mut text = name.to_vec();
                content.take(len).read_to_end(&mut text)?;
                contents.push(String::from_utf8(text).unwrap());
                Ok(ControlFlow::Continue(()))
            };
            walk(&mut &bytes[..], read).unwrap();
            let cut = |text: &str| text[..text.len().min(1 + len as usize)].to_owned();
            assert_eq!(contents, ["a12345", "b", "c67"].map(cut));
        }
    }

    #[test]
    fn truncated_archive_is_an_error() {
        let bytes = archive(&[("hooks/a", b"12345"), ("init", b"1234")]);
        for len in 0..bytes.len() {
            let result = names(&bytes[..len]).1;
            assert!(matches!(result, Err(CpioError::Read(_))), "{len}: {result:?}");
        }
    }

    #[test]
    fn damaged_archive_is_an_error() {
        for (at, byte) in [(0, b'1'), (54, b'g'), (94, b'1')] {
            let mut bytes = archive(&[("init", b"1234")]);
            bytes[at] = byte;
            assert!(matches!(names(&bytes).1, Err(CpioError::Damaged(_))), "byte {at}");
        }
        let mut nameless = archive(&[("", b"")]);
        nameless[101] = b'0';
        assert!(matches!(names(&nameless).1, Err(CpioError::Damaged(_))));
    }
}
