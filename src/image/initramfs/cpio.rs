//! cpio archives as an initramfs has them: the "newc" format (`Documentation/driver-api/early-userspace/
//! buffer-format.rst` of Linux).

use std::io::{self, Read};
use std::ops::ControlFlow;

use crate::image::FormatError;

/// What an archive begins with; the second form carries checksums, which Linux does not check either.
pub const MAGICS: [&[u8; 6]; 2] = [b"070701", b"070702"];

/// Bytes of a header.
const HEADER: usize = 110;
/// Names and contents are padded to a multiple of it, from the start of the archive.
const ALIGNMENT: u64 = 4;
/// Longest name with its NUL, in bytes (PATH_MAX of Linux).
const NAME_MAX: u32 = 4096;
/// The name of the last entry.
const TRAILER: &[u8] = b"TRAILER!!!";

/// An archive cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Damaged(#[from] FormatError),
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The fields of a header that are needed to pass over an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    name_len: u32,
    file_len: u32,
}

impl Header {
    /// A magic number of six characters, and thirteen numbers of eight hexadecimal digits.
    fn parse(bytes: &[u8; HEADER]) -> Result<Self, FormatError> {
        let (magic, numbers) = bytes.split_at(6);
        if !MAGICS.iter().any(|known| *known == magic) {
            return Err(FormatError("an entry of the cpio archive has no header"));
        }
        let field = |position: usize| numbers.chunks(8).nth(position).and_then(number);
        let (Some(file_len), Some(name_len)) = (field(6), field(11)) else {
            return Err(FormatError("a header of the cpio archive has bad digits"));
        };
        if !(1..=NAME_MAX).contains(&name_len) {
            return Err(FormatError("a name of the cpio archive is empty or longer than 4095 bytes"));
        }
        Ok(Self { name_len, file_len })
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    let add = |number: u32, digit: &u8| Some(number << 4 | char::from(*digit).to_digit(16)?);
    digits.iter().try_fold(0, add)
}

/// Shows the names in the archive that `input` begins with to `see`, until that one breaks off or the archive ends.
/// Behind it stands what follows the trailer's name.
///
/// # Errors
/// [`Error::Damaged`] for what is no archive, [`Error::Read`] when `input` ends in it.
pub fn walk(
    input: &mut (impl Read + ?Sized),
    mut see: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut name = Vec::new();
    loop {
        let mut header = [0; HEADER];
        input.read_exact(&mut header)?;
        let Header { name_len, file_len } = Header::parse(&header)?;
        name.resize(name_len as usize, 0);
        input.read_exact(&mut name)?;
        skip(input, padding(HEADER as u64 + u64::from(name_len)))?;
        let text = name.split(|&byte| byte == 0).next().unwrap_or_default();
        if text == TRAILER || see(text).is_break() {
            return Ok(());
        }
        skip(input, u64::from(file_len) + padding(file_len.into()))?;
    }
}

/// Bytes from `len` to the next multiple of four.
const fn padding(len: u64) -> u64 {
    len.wrapping_neg() % ALIGNMENT
}

fn skip(input: &mut (impl Read + ?Sized), len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(len), &mut io::sink())?;
    if skipped == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An archive of these files, as mkinitcpio's cpio writes it.
    pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
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

    fn names(mut input: &[u8]) -> (Vec<String>, Result<usize, Error>) {
        let mut names = Vec::new();
        let result = walk(&mut input, |name| {
            names.push(String::from_utf8_lossy(name).into_owned());
            ControlFlow::Continue(())
        });
        (names, result.map(|()| input.len()))
    }

    #[test]
    fn names_are_shown_in_their_order() {
        let mut bytes = archive(&[("hooks", b""), ("hooks/a", b"12345"), ("init", b"1234")]);
        bytes.extend(b"next");
        let (names, rest) = names(&bytes);
        assert_eq!(names, ["hooks", "hooks/a", "init"]);
        assert_eq!(rest.unwrap(), 4, "what follows the archive is left");
    }

    #[test]
    fn a_walk_can_be_broken_off() {
        let bytes = archive(&[("a", b""), ("b", b"")]);
        let mut seen = 0;
        let stop = |_: &[u8]| {
            seen += 1;
            ControlFlow::Break(())
        };
        walk(&mut &bytes[..], stop).unwrap();
        assert_eq!(seen, 1);
    }

    #[test]
    fn any_cut_is_an_error() {
        let bytes = archive(&[("hooks/a", b"12345"), ("init", b"1234")]);
        for len in 0..bytes.len() {
            let result = names(&bytes[..len]).1;
            assert!(matches!(result, Err(Error::Read(_))), "{len}: {result:?}");
        }
    }

    #[test]
    fn damage_is_said() {
        for (at, byte) in [(0, b'1'), (54, b'g'), (94, b'1')] {
            let mut bytes = archive(&[("init", b"1234")]);
            bytes[at] = byte;
            assert!(matches!(names(&bytes).1, Err(Error::Damaged(_))), "byte {at}");
        }
        let mut nameless = archive(&[("", b"")]);
        nameless[101] = b'0';
        assert!(matches!(names(&nameless).1, Err(Error::Damaged(_))));
    }
}
