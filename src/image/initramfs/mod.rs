//! Contents of an initramfs: the hooks of archiso for a root from the network, their programs, and
//! drivers of network cards. Without them a machine stops at a shell.
//!
//! An initramfs is a sequence of cpio archives, plain (microcode) or compressed. They are read as a
//! stream, once, and only up to the last thing that is looked for.

pub(crate) mod cpio;
mod drivers;
mod packing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use super::content::Stream;
use super::{FormatError, Image, Media, NodeId};
use crate::locked::locked;
use cpio::CpioError;
pub use drivers::NetworkDrivers;
use packing::{MAGIC, Packing};

/// Most bytes of a file, and most unpacked bytes that are read; the initramfs of releng has a
/// quarter of them.
const UNPACKED_MAX: u64 = 1 << 30;

/// Most parts that are read, packed or not; mkinitcpio makes two.
const PARTS_MAX: usize = 1024;

/// Most bytes of a hook that are read for words in it; archiso's have 15 thousand.
const HOOK_MAX: u64 = 256 << 10;

/// Hook or program that a boot needs in its initramfs (mkinitcpio-archiso, `install/`).
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
    /// Program `gpg`, which `verify=y` needs.
    Gpg,
    /// A hook that verifies `airootfs.md5` for `checksum=y`.
    Md5Hook,
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

    /// What the self-tests of the root file system depend on.
    pub(crate) const SELF_TESTS: [Requirement; 2] = [Requirement::Gpg, Requirement::Md5Hook];

    /// Requirements of all roots.
    const ROOTS: [Requirement; 8] = [
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
            Requirement::Gpg => PartPath::Programs("gpg"),
            Requirement::Md5Hook => PartPath::HooksWith("airootfs.md5"),
        }
    }

    /// Returns true if the file at `path` meets the requirement. `has_word` tells of a word whether
    /// the file contains it.
    fn is_met_by(self, path: &[u8], has_word: impl FnOnce(&str) -> io::Result<bool>) -> io::Result<bool> {
        // Archivers store names as they are given them: `hooks/x`, `./hooks/x` or `/hooks/x`.
        let path = path.strip_prefix(b".").unwrap_or(path);
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else { return Ok(false) };
        let (directory, name) = path.split_at(slash);
        let name = name.strip_prefix(b"/").unwrap_or(name);
        match self.path() {
            // mkinitcpio copies hooks to `/hooks`; a program is where its hook's author put it.
            PartPath::Hooks(hook) => Ok(directory == b"hooks" && name == hook.as_bytes()),
            PartPath::Programs(program) => Ok(PROGRAMS.contains(&directory) && name == program.as_bytes()),
            PartPath::HooksWith(word) => Ok(directory == b"hooks" && has_word(word)?),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path() {
            PartPath::Hooks(name) => write!(f, "hook {name}"),
            PartPath::Programs(name) => write!(f, "program {name}"),
            PartPath::HooksWith(word) => write!(f, "hook with `{word}`"),
        }
    }
}

/// Path of a requirement.
enum PartPath {
    Hooks(&'static str),
    Programs(&'static str),
    /// Any hook that contains this word.
    HooksWith(&'static str),
}

/// Directories of programs.
const PROGRAMS: [&[u8]; 4] = [b"bin", b"sbin", b"usr/bin", b"usr/sbin"];

/// Requirements that an initramfs meets.
#[derive(Debug, Default)]
pub struct Contents {
    pub found: BTreeSet<Requirement>,
    /// Drivers of network cards; empty if they were not looked for.
    pub drivers: NetworkDrivers,
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
    /// Reads the initramfs in `media` up to the last requirement of the roots and the last driver
    /// of a common network card.
    ///
    /// This takes as long as decompressing the initramfs, so an asynchronous task may not call it.
    pub fn of(media: &(impl Media + ?Sized)) -> Self {
        Search::new(&Requirement::ROOTS).with_drivers().contents(media)
    }

    /// Reads the initramfs in `media` until the requirements `wanted` are found.
    pub(crate) fn search(media: &(impl Media + ?Sized), wanted: &[Requirement]) -> Self {
        Search::new(wanted).contents(media)
    }

    /// Returns the drivers of network cards; `None` if the initramfs was not read to its end, and
    /// may have more.
    pub(crate) fn known_drivers(&self) -> Option<&NetworkDrivers> {
        (self.unread.is_none() || self.drivers.has_all_common()).then_some(&self.drivers)
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
}

/// Results of [`Image::initramfs_self_tests`]: an entry of a menu is read several times.
#[derive(Default)]
pub(super) struct SelfTests(Mutex<BTreeMap<NodeId, Arc<Contents>>>);

impl Image {
    /// Looks for [`Requirement::SELF_TESTS`] in an initramfs; `None` for a node that is not a file.
    /// The first time takes as long as decompressing the initramfs.
    pub(crate) fn initramfs_self_tests(&self, node: NodeId) -> Option<Arc<Contents>> {
        let media = self.content(node)?;
        // A panic leaves complete results.
        let mut known = locked(&self.self_tests.0);
        let search = || Arc::new(Contents::search(&media, &Requirement::SELF_TESTS));
        Some(Arc::clone(known.entry(node).or_insert_with(search)))
    }
}

/// Search for requirements, and perhaps for drivers.
struct Search<'a> {
    wanted: &'a [Requirement],
    found: BTreeSet<Requirement>,
    /// `None` if they are not looked for.
    drivers: Option<NetworkDrivers>,
}

impl<'a> Search<'a> {
    fn new(wanted: &'a [Requirement]) -> Self {
        Self { wanted, found: BTreeSet::new(), drivers: None }
    }

    fn with_drivers(self) -> Self {
        Self { drivers: Some(NetworkDrivers::default()), ..self }
    }

    fn contents(mut self, media: &(impl Media + ?Sized)) -> Contents {
        let result = match media.size() {
            // Plain archives and the zeros between parts are not unpacked, and need no space in a
            // sparse image.
            size if size > UNPACKED_MAX => Err(InitramfsError::TooLarge),
            _ => self.parts(&mut Stream::new(media), Layer::File { left: UNPACKED_MAX }),
        };
        Contents { found: self.found, drivers: self.drivers.unwrap_or_default(), unread: result.err() }
    }

    fn is_complete(&self) -> bool {
        self.wanted.iter().all(|wanted| self.found.contains(wanted))
            && self.drivers.as_ref().is_none_or(NetworkDrivers::has_all_common)
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
        cpio::walk(&mut archive, |path, content| {
            self.see(path, content)?;
            Ok(if self.is_complete() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(())
    }

    /// Records the requirements that a file meets, and drivers.
    fn see(&mut self, path: &[u8], content: &mut dyn Read) -> io::Result<()> {
        if let Some(drivers) = &mut self.drivers {
            drivers.see(path, content)?;
        }
        for &wanted in self.wanted {
            if wanted.is_met_by(path, |word| contains(content, word))? {
                self.found.insert(wanted);
            }
        }
        Ok(())
    }
}

/// Returns true if the first [`HOOK_MAX`] bytes of `content` contain `word`.
fn contains(content: &mut dyn Read, word: &str) -> io::Result<bool> {
    let mut text = Vec::new();
    content.take(HOOK_MAX).read_to_end(&mut text)?;
    Ok(text.windows(word.len()).any(|part| part == word.as_bytes()))
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
