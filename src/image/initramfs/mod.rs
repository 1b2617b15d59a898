//! Contents of an initramfs: the hooks of archiso for a root from the network, and their programs.
//! Without them a machine stops at a shell.
//!
//! An initramfs is a sequence of cpio archives, plain (microcode) or compressed. They are read as a
//! stream, and only up to the last requirement that is found.

pub(crate) mod cpio;
mod packing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use super::content::Stream;
use super::{FormatError, Media};
use cpio::CpioError;
use packing::{MAGIC, Packing};

/// Most unpacked bytes that are read; the initramfs of releng has a quarter of them.
const UNPACKED_MAX: u64 = 1 << 30;

/// Most parts that are read, packed or not; mkinitcpio makes two.
const PARTS_MAX: usize = 1024;

/// Hook or program that a network boot needs in its initramfs (mkinitcpio-archiso,
/// `install/archiso_pxe_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// Hook `archiso_pxe_common`, which sets up the network.
    CommonHook,
    NbdHook,
    NfsHook,
    HttpHook,
    /// Program `ipconfig`, called by the common hook.
    Ipconfig,
    NbdClient,
    Nfsmount,
    Curl,
}

impl Requirement {
    /// Requirements of a root over NBD.
    pub const NBD: [Requirement; 4] =
        [Requirement::CommonHook, Requirement::Ipconfig, Requirement::NbdHook, Requirement::NbdClient];
    /// Requirements of a root over NFS.
    pub(crate) const NFS: [Requirement; 4] =
        [Requirement::CommonHook, Requirement::Ipconfig, Requirement::NfsHook, Requirement::Nfsmount];
    /// Requirements of a root over HTTP.
    pub(crate) const HTTP: [Requirement; 4] =
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

    /// Returns the path of the requirement.
    const fn path(self) -> PartPath {
        match self {
            Requirement::CommonHook => PartPath::Hooks("archiso_pxe_common"),
            Requirement::NbdHook => PartPath::Hooks("archiso_pxe_nbd"),
            Requirement::NfsHook => PartPath::Hooks("archiso_pxe_nfs"),
            Requirement::HttpHook => PartPath::Hooks("archiso_pxe_http"),
            Requirement::Ipconfig => PartPath::Programs("ipconfig"),
            Requirement::NbdClient => PartPath::Programs("nbd-client"),
            Requirement::Nfsmount => PartPath::Programs("nfsmount"),
            Requirement::Curl => PartPath::Programs("curl"),
        }
    }

    /// Returns the requirement that the file at `path` meets.
    fn at(path: &[u8]) -> Option<Self> {
        // Archivers store names as they are given them: `hooks/x`, `./hooks/x` or `/hooks/x`.
        let path = path.strip_prefix(b".").unwrap_or(path);
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let slash = path.iter().rposition(|&byte| byte == b'/')?;
        let (directory, name) = path.split_at(slash);
        let name = name.strip_prefix(b"/")?;
        Self::ALL.into_iter().find(|requirement| match requirement.path() {
            // mkinitcpio copies hooks to `/hooks`; a program is where its hook's author put it.
            PartPath::Hooks(hook) => directory == b"hooks" && name == hook.as_bytes(),
            PartPath::Programs(program) => PROGRAMS.contains(&directory) && name == program.as_bytes(),
        })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            PartPath::Hooks(name) => write!(f, "hook {name}"),
            PartPath::Programs(name) => write!(f, "program {name}"),
        }
    }
}

/// Path of a requirement.
enum PartPath {
    Hooks(&'static str),
    Programs(&'static str),
}

/// Directories of programs.
const PROGRAMS: [&[u8]; 4] = [b"bin", b"sbin", b"usr/bin", b"usr/sbin"];

/// Requirements that an initramfs meets.
#[derive(Debug, Default)]
pub struct Contents {
    pub found: BTreeSet<Requirement>,
    /// Error that ended the reading early.
    pub unread: Option<InitramfsError>,
}

/// Completeness of an initramfs for a root protocol.
#[derive(Debug)]
pub enum Completeness<'a> {
    Complete,
    /// Requirements that are missing in an initramfs that was read to its end.
    Missing(Vec<Requirement>),
    /// Requirements that were not found in an initramfs that was not read to its end.
    Unknown(Vec<Requirement>, &'a InitramfsError),
}

/// Error of an initramfs that was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    #[error("it is compressed with {0}, which isowire does not read")]
    Packing(&'static str),
    #[error("a part of it is neither a cpio archive nor of a known compression format")]
    Format,
    #[error("it holds more than 1 GiB")]
    TooLarge,
    #[error("it has more than {PARTS_MAX} parts")]
    Parts,
    #[error("it is damaged: {0}")]
    Damaged(#[from] FormatError),
    #[error("it cannot be read or decompressed: {0}")]
    Read(#[source] io::Error),
}

impl From<io::Error> for InitramfsError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::FileTooLarge { Self::TooLarge } else { Self::Read(error) }
    }
}

impl From<CpioError> for InitramfsError {
    fn from(error: CpioError) -> Self {
        match error {
            CpioError::Damaged(malformed) => malformed.into(),
            CpioError::Read(error) => error.into(),
        }
    }
}

impl Contents {
    /// Reads the initramfs in `media`.
    ///
    /// This takes as long as decompressing the initramfs, so an asynchronous task may not call it.
    pub fn of(media: &(impl Media + ?Sized)) -> Self {
        let mut contents = Self::default();
        let result = contents.parts(&mut Stream::new(media), Layer::File { left: UNPACKED_MAX });
        contents.unread = result.err();
        contents
    }

    /// Tells which of the requirements `needed` are missing.
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

    /// Reads the parts of `input`.
    fn parts(&mut self, input: &mut dyn BufRead, mut layer: Layer) -> Result<(), InitramfsError> {
        for _ in 0..PARTS_MAX {
            let Some(magic) = next_magic(input)? else { return Ok(()) };
            // The magic number was read already; the decoders need it again.
            let part = magic.as_slice().chain(&mut *input);
            match (Packing::of(&magic), &mut layer) {
                // buffer-format.rst: plain and compressed archives, in any order.
                (Packing::Cpio, _) => self.archive(part)?,
                (Packing::Other(name), Layer::File { .. }) => return Err(InitramfsError::Packing(name)),
                (packing, Layer::File { left }) => {
                    let unpacked = packing.unpack(part)?.ok_or(InitramfsError::Format)?;
                    self.parts(&mut BufReader::new(Limited { input: unpacked, left }), Layer::Unpacked)?;
                }
                // Linux does not decompress a part twice either (`flush_buffer`).
                (_, Layer::Unpacked) => return Err(InitramfsError::Format),
            }
            if self.is_complete() {
                return Ok(());
            }
        }
        Err(InitramfsError::Parts)
    }

    /// Reads one cpio archive, until all requirements are found.
    fn archive(&mut self, mut archive: impl Read) -> Result<(), InitramfsError> {
        cpio::walk(&mut archive, |path| {
            self.found.extend(Requirement::at(path));
            if self.is_complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(())
    }
}

/// Layer in which parts are read.
enum Layer {
    /// The file itself. Its parts may have `left` more bytes when they are unpacked.
    File { left: u64 },
    /// An unpacked part of the file.
    Unpacked,
}

/// Reads the first bytes of the next part, after the zeros that pad the part before; `None` at the
/// end.
fn next_magic(input: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    loop {
        let buffer = input.fill_buf()?;
        // buffer-format.rst: any number of zero bytes may stand between archives.
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

/// Reader that fails after `left` bytes.
struct Limited<'a, R> {
    input: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buf)?;
        // Becomes `InitramfsError::TooLarge`.
        *self.left = self.left.checked_sub(n as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}
