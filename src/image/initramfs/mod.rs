//! What an initramfs can do: are archiso's hooks for a root from the network in it, and the programs that they call?
//! Without them a machine stops at a shell.
//!
//! An initramfs is cpio archives one behind the other, plain (microcode) or packed. They are read as a stream and no
//! further than to the last thing that is looked for.

pub mod cpio;
mod packing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use super::content::Stream;
use super::{FormatError, Media};
use packing::{MAGIC, Packing};

/// Bytes that are looked at, unpacked: releng's initramfs has a quarter of it.
const UNPACKED_MAX: u64 = 1 << 30;

/// Parts that are looked at, packed or not; mkinitcpio makes two.
const PARTS_MAX: usize = 1024;

/// A thing that a boot from the network needs in its initramfs (mkinitcpio-archiso, `install/archiso_pxe_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// Hook `archiso_pxe_common`: sets up the network.
    CommonHook,
    NbdHook,
    NfsHook,
    HttpHook,
    /// `ipconfig`, called by the common hook.
    Ipconfig,
    NbdClient,
    Nfsmount,
    Curl,
}

impl Requirement {
    /// What a root over NBD needs.
    pub const NBD: [Requirement; 4] =
        [Requirement::CommonHook, Requirement::Ipconfig, Requirement::NbdHook, Requirement::NbdClient];
    /// What a root over NFS needs.
    pub const NFS: [Requirement; 4] =
        [Requirement::CommonHook, Requirement::Ipconfig, Requirement::NfsHook, Requirement::Nfsmount];
    /// What a root over HTTP needs.
    pub const HTTP: [Requirement; 4] =
        [Requirement::CommonHook, Requirement::Ipconfig, Requirement::HttpHook, Requirement::Curl];

    const ALL: [Requirement; 8] = [
        Requirement::CommonHook,
        Requirement::NbdHook,
        Requirement::NfsHook,
        Requirement::HttpHook,
        Requirement::Ipconfig,
        Requirement::NbdClient,
        Requirement::Nfsmount,
        Requirement::Curl,
    ];

    /// mkinitcpio copies hooks to `/hooks`; programs are wherever the hook's author put them.
    const fn place(self) -> Place {
        match self {
            Requirement::CommonHook => Place::Hooks("archiso_pxe_common"),
            Requirement::NbdHook => Place::Hooks("archiso_pxe_nbd"),
            Requirement::NfsHook => Place::Hooks("archiso_pxe_nfs"),
            Requirement::HttpHook => Place::Hooks("archiso_pxe_http"),
            Requirement::Ipconfig => Place::Programs("ipconfig"),
            Requirement::NbdClient => Place::Programs("nbd-client"),
            Requirement::Nfsmount => Place::Programs("nfsmount"),
            Requirement::Curl => Place::Programs("curl"),
        }
    }

    /// The part that is at `path`.
    fn at(path: &[u8]) -> Option<Self> {
        let path = path.strip_prefix(b".").unwrap_or(path);
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let slash = path.iter().rposition(|&byte| byte == b'/')?;
        let (directory, name) = path.split_at(slash);
        let name = name.strip_prefix(b"/")?;
        let is_here = |part: &Requirement| match part.place() {
            Place::Hooks(hook) => directory == b"hooks" && name == hook.as_bytes(),
            Place::Programs(program) => PROGRAMS.contains(&directory) && name == program.as_bytes(),
        };
        Self::ALL.into_iter().find(is_here)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Place::Hooks(name) => write!(f, "hook {name}"),
            Place::Programs(name) => write!(f, "program {name}"),
        }
    }
}

enum Place {
    Hooks(&'static str),
    Programs(&'static str),
}

/// Directories of programs.
const PROGRAMS: [&[u8]; 4] = [b"bin", b"sbin", b"usr/bin", b"usr/sbin"];

/// What was found in an initramfs.
#[derive(Debug, Default)]
pub struct Contents {
    pub found: BTreeSet<Requirement>,
    /// Why the rest of it was not read.
    pub unread: Option<InitramfsError>,
}

/// Whether an initramfs has what is needed.
#[derive(Debug)]
pub enum Completeness<'a> {
    Complete,
    /// It was read to its end, and these are not there.
    Missing(Vec<Requirement>),
    /// These were not found, but it was not read to its end.
    Unknown(Vec<Requirement>, &'a InitramfsError),
}

/// Why an initramfs was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    #[error("it is packed with {0}, which isowire does not read")]
    Packing(&'static str),
    #[error("a part of it is neither a cpio archive nor packed in a way that is known")]
    Format,
    #[error("it holds more than 1 GiB")]
    TooLarge,
    #[error("it has more than {PARTS_MAX} parts")]
    Parts,
    #[error("it is damaged: {0}")]
    Damaged(#[from] FormatError),
    #[error("it cannot be read or unpacked: {0}")]
    Read(#[source] io::Error),
}

impl From<io::Error> for InitramfsError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::FileTooLarge { Self::TooLarge } else { Self::Read(error) }
    }
}

impl From<cpio::Error> for InitramfsError {
    fn from(error: cpio::Error) -> Self {
        match error {
            cpio::Error::Damaged(malformed) => malformed.into(),
            cpio::Error::Read(error) => error.into(),
        }
    }
}

impl Contents {
    /// Looks through the initramfs that is all of `media`.
    ///
    /// It takes as long as unpacking does, so it is nothing for an asynchronous task.
    pub fn of(media: &(impl Media + ?Sized)) -> Self {
        let mut contents = Self::default();
        let result = contents.parts(&mut Stream::new(media), Layer::File { left: UNPACKED_MAX });
        contents.unread = result.err();
        contents
    }

    /// Whether all of `needed` is there.
    pub fn answer(&self, needed: &[Requirement]) -> Completeness<'_> {
        let missing: Vec<_> = needed.iter().copied().filter(|part| !self.found.contains(part)).collect();
        match &self.unread {
            _ if missing.is_empty() => Completeness::Complete,
            Some(unread) => Completeness::Unknown(missing, unread),
            None => Completeness::Missing(missing),
        }
    }

    fn is_complete(&self) -> bool {
        self.found.len() == Requirement::ALL.len()
    }

    /// Goes through the parts of `input`, packed ones among them only in the file itself.
    fn parts(&mut self, input: &mut dyn BufRead, mut layer: Layer) -> Result<(), InitramfsError> {
        for _ in 0..PARTS_MAX {
            let Some(magic) = next_magic(input)? else { return Ok(()) };
            let part = magic.as_slice().chain(&mut *input);
            match (Packing::of(&magic), &mut layer) {
                (Packing::Cpio, _) => self.archive(part)?,
                (Packing::Other(name), Layer::File { .. }) => return Err(InitramfsError::Packing(name)),
                (packing, Layer::File { left }) => {
                    let unpacked = packing.unpack(part)?.ok_or(InitramfsError::Format)?;
                    self.parts(&mut BufReader::new(Limited { input: unpacked, left }), Layer::Unpacked)?;
                }
                (_, Layer::Unpacked) => return Err(InitramfsError::Format),
            }
            if self.is_complete() {
                return Ok(());
            }
        }
        Err(InitramfsError::Parts)
    }

    fn archive(&mut self, mut archive: impl Read) -> Result<(), InitramfsError> {
        let see = |path: &[u8]| {
            self.found.extend(Requirement::at(path));
            if self.is_complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        Ok(cpio::walk(&mut archive, see)?)
    }
}

/// What parts are looked for in.
enum Layer {
    /// The file. Unpacked, its parts may have this many bytes more.
    File { left: u64 },
    /// A part of it, unpacked.
    Unpacked,
}

/// The first bytes of the next part, behind zeros that pad the one before; `None` when there is none.
fn next_magic(input: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    loop {
        let buffer = input.fill_buf()?;
        let zeros = buffer.iter().take_while(|&&byte| byte == 0).count();
        let is_end = zeros == 0;
        if is_end && buffer.is_empty() {
            return Ok(None);
        }
        input.consume(zeros);
        if is_end {
            break;
        }
    }
    let mut magic = Vec::new();
    input.take(MAGIC as u64).read_to_end(&mut magic)?;
    Ok(Some(magic))
}

/// Ends with an error when more is read than may be.
struct Limited<'a, R> {
    input: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        *self.left = self.left.checked_sub(n as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}
