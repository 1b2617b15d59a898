//! systemd's EFI stub, checked to be one that a program can be composed with.

use std::fmt;

use bytes::Bytes;

use super::pe::{EFI_APPLICATION, Headers, PeError, SECTION_HEADER, Section, X86_64};
use crate::image::Image;
use crate::image::rootfs::{self, RootfsError};

/// Where systemd installs the stub of x86-64.
pub(crate) const STUB_PATH: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Largest stub that is read, in bytes; systemd 262's has 151,040.
pub(crate) const STUB_MAX: u64 = 1 << 20;

/// What the stub says of itself (`src/boot/efi/stub.c`); systemd-boot has its own name at the same place.
const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub ";
const MAGIC_END: &[u8] = b" ####";
/// Longest version that is shown, in bytes.
const VERSION_MAX: usize = 64;

/// Alignment of pages, which the firmware sets permissions for.
pub(super) const PAGE: u32 = 4096;
/// Largest alignments that are taken, in bytes: the largest file alignment of the PE format, and a huge page.
const FILE_ALIGNMENT_MAX: u32 = 64 << 10;
const SECTION_ALIGNMENT_MAX: u32 = 2 << 20;

/// Sections that say that the file is composed already.
const COMPOSED: [&[u8; 8]; 3] = [b".linux\0\0", b".initrd\0", b".cmdline"];

/// A stub that can be used, without what old linkers put behind its sections (COFF symbols).
#[derive(Clone)]
pub struct Stub {
    /// From the start of the file to the end of its last section.
    pub(super) bytes: Bytes,
    pub(super) headers: Headers,
    /// Where the first section begins in the file: all before are headers, and this many bytes are there.
    pub(super) headers_end: usize,
    /// First free address behind the sections in memory.
    pub(super) memory_end: u32,
    version: String,
}

/// Without its bytes, of which there are a hundred thousand.
impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stub").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why a program cannot be composed with this file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableStubError {
    #[error(transparent)]
    Pe(#[from] PeError),
    #[error("it is a program for machines of type {0:#06x}, and not for x86-64")]
    Machine(u16),
    #[error("it is no EFI application: its subsystem is {0}")]
    Subsystem(u16),
    #[error("it is signed: a program composed with it would not have a good signature")]
    Signed,
    #[error("it has sections of a unified kernel image already: the bare stub is needed")]
    Composed,
    #[error("it is not systemd's EFI stub, `linuxx64.efi.stub`")]
    Stranger,
    #[error("its {what} alignment of {bytes} bytes is none that can be used")]
    Alignment { what: &'static str, bytes: u32 },
    #[error("its sections are not in the file")]
    Sections,
    #[error("its header has room for {free} more sections, and {needed} are needed")]
    NoRoom { free: usize, needed: usize },
}

impl Stub {
    /// Checks the stub in `file` and finds the places where it is extended.
    ///
    /// # Errors
    /// [`UnusableStubError`] says in a line what is wrong with it.
    pub fn parse(file: impl Into<Bytes>) -> Result<Self, UnusableStubError> {
        let mut bytes = file.into();
        let headers = Headers::parse(&bytes)?;
        let version = version(&bytes).ok_or(UnusableStubError::Stranger)?;
        let sections = headers.section_table(&bytes).map_err(PeError::from)?;
        check(&headers, &sections)?;
        let extents = Extents::of(&headers, &sections)?;
        if bytes.len() < extents.file_end {
            return Err(UnusableStubError::Sections);
        }
        bytes.truncate(extents.file_end);
        check_room(&bytes, &headers, extents.headers_end)?;
        let Extents { headers_end, memory_end, .. } = extents;
        Ok(Self { bytes, headers, headers_end, memory_end, version })
    }

    /// The stub in an image's own root file system.
    ///
    /// # Errors
    /// [`StubError`] says why there is none, and what to do.
    pub fn of_image(image: &Image) -> Result<Self, StubError> {
        let archiso = image.archiso.as_ref().ok_or(StubError::NotArchiso)?;
        let root = archiso.airootfs.iter().find(|root| root.arch == "x86_64").ok_or(StubError::NoRoot)?;
        let bytes = rootfs::read_file(image, root, STUB_PATH, STUB_MAX)?;
        Ok(Self::parse(bytes)?)
    }

    /// The file, up to the end of its last section.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// systemd's version, as the stub tells it: `252.39-1~deb12u2`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EFI stub of systemd {}", self.version)
    }
}

/// Why an image cannot boot UEFI machines by itself, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    #[error("the image is not archiso's: no EFI stub is looked for in it; give one with --stub FILE")]
    NotArchiso,
    #[error("the image has no root file system for x86_64; give an EFI stub with --stub FILE")]
    NoRoot,
    #[error("no EFI stub in the image's root file system: {0}; give one with --stub FILE")]
    Rootfs(#[from] RootfsError),
    #[error("the EFI stub in the image, {STUB_PATH}, cannot be used: {0}; give another with --stub FILE")]
    Unusable(#[from] UnusableStubError),
}

fn check(headers: &Headers, sections: &[Section]) -> Result<(), UnusableStubError> {
    if headers.machine != X86_64 {
        return Err(UnusableStubError::Machine(headers.machine));
    }
    if headers.subsystem != EFI_APPLICATION {
        return Err(UnusableStubError::Subsystem(headers.subsystem));
    }
    if sections.iter().any(|section| COMPOSED.contains(&&section.name)) {
        return Err(UnusableStubError::Composed);
    }
    if headers.signed {
        return Err(UnusableStubError::Signed);
    }
    check_alignment("file", headers.file_alignment, 512..=FILE_ALIGNMENT_MAX)?;
    check_alignment("section", headers.section_alignment, 512..=SECTION_ALIGNMENT_MAX)
}

fn check_alignment(
    what: &'static str,
    bytes: u32,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<(), UnusableStubError> {
    let is_fit = bytes.is_power_of_two() && allowed.contains(&bytes);
    if is_fit { Ok(()) } else { Err(UnusableStubError::Alignment { what, bytes }) }
}

/// Section headers are zero where there is room for more.
fn check_room(bytes: &[u8], headers: &Headers, headers_end: usize) -> Result<(), UnusableStubError> {
    let table_end = headers.table_at + usize::from(headers.sections) * SECTION_HEADER;
    let slack = bytes.get(table_end..headers_end).unwrap_or_default();
    let zeros = slack.iter().take_while(|&&byte| byte == 0).count();
    let (free, needed) = (zeros / SECTION_HEADER, super::SECTIONS);
    if free >= needed { Ok(()) } else { Err(UnusableStubError::NoRoom { free, needed }) }
}

/// How far the parts of a program reach.
struct Extents {
    headers_end: usize,
    file_end: usize,
    memory_end: u32,
}

impl Extents {
    fn of(headers: &Headers, sections: &[Section]) -> Result<Self, UnusableStubError> {
        let mut extents =
            Self { headers_end: headers.headers_len as usize, file_end: 0, memory_end: headers.headers_len };
        for section in sections {
            let size = if section.virtual_size > 0 { section.virtual_size } else { section.raw_size };
            let end = section.virtual_address.checked_add(size);
            extents.memory_end = extents.memory_end.max(end.ok_or(UnusableStubError::Sections)?);
            // A section without bytes in the file, such as `.bss`, may name any offset.
            if section.raw_size > 0 {
                let end =
                    section.raw_offset.checked_add(section.raw_size).ok_or(UnusableStubError::Sections)?;
                extents.file_end = extents.file_end.max(end as usize);
                extents.headers_end = extents.headers_end.min(section.raw_offset as usize);
            }
        }
        if extents.file_end == 0 {
            return Err(UnusableStubError::Sections);
        }
        let alignment = headers.section_alignment.max(PAGE);
        let end = extents.memory_end.checked_next_multiple_of(alignment);
        Ok(Self { memory_end: end.ok_or(UnusableStubError::Sections)?, ..extents })
    }
}

fn version(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let rest = bytes.get(at + MAGIC.len()..)?;
    let rest = rest.get(..rest.len().min(VERSION_MAX))?;
    let len = rest.windows(MAGIC_END.len()).position(|window| window == MAGIC_END)?;
    let version = rest.get(..len).filter(|version| version.iter().all(u8::is_ascii_graphic))?;
    Some(String::from_utf8_lossy(version).into_owned())
}
