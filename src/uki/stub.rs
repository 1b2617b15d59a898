//! systemd's EFI stub, checked for use in a composed program.

use std::fmt;

use bytes::Bytes;

use super::pe::{EFI_APPLICATION, Headers, PeError, SECTION_HEADER, Section, X86_64};
use crate::image::Image;
use crate::image::rootfs::{self, RootfsError};

/// Path of the stub for x86-64 in an installed systemd.
pub(crate) const STUB_PATH: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Largest stub that is read, in bytes; systemd 262's has 151,040.
pub(crate) const STUB_MAX: u64 = 1 << 20;

/// Start of the stub's name in its `.sdmagic` section, before the version (systemd, stub.c).
/// systemd-boot has its own name there.
const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub ";
const MAGIC_END: &[u8] = b" ####";
/// Longest version, in bytes.
const VERSION_MAX: usize = 64;

/// Size of a page, for which firmware sets permissions.
pub(super) const PAGE: u32 = 4096;
/// Largest alignments, in bytes: that of the PE format for files, and a huge page.
const FILE_ALIGNMENT_MAX: u32 = 64 << 10;
const SECTION_ALIGNMENT_MAX: u32 = 2 << 20;

/// Sections of a unified kernel image (UAPI.5), which a bare stub does not have.
const COMPOSED: [&[u8; 8]; 3] = [b".linux\0\0", b".initrd\0", b".cmdline"];

/// A usable stub, without the COFF symbols that old linkers put after its sections.
#[derive(Clone)]
pub struct Stub {
    /// From the start of the file to the end of its last section.
    pub(super) bytes: Bytes,
    pub(super) headers: Headers,
    /// Offset of the first section in the file; all before are headers.
    pub(super) headers_end: usize,
    /// First free address after the sections in memory.
    pub(super) memory_end: u32,
    version: String,
}

/// Leaves out the bytes of the stub, about a hundred thousand.
impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stub").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Reason why a file cannot be used as a stub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnusableStubError {
    #[error(transparent)]
    Pe(#[from] PeError),
    #[error("it is a program for machine type {0:#06x}, not for x86-64")]
    Machine(u16),
    #[error("it is not an EFI application: its subsystem is {0}")]
    Subsystem(u16),
    #[error("it is signed: a program composed with it would not have a valid signature")]
    Signed,
    #[error("it is a unified kernel image already: the bare stub is needed")]
    Composed,
    #[error("it is not systemd's EFI stub, `linuxx64.efi.stub`")]
    Stranger,
    #[error("its {what} alignment of {bytes} bytes is not supported")]
    Alignment { what: &'static str, bytes: u32 },
    #[error("its sections are not in the file")]
    Sections,
    #[error("its header has room for {free} more sections, and {needed} are needed")]
    NoRoom { free: usize, needed: usize },
}

impl Stub {
    /// Checks the stub in `file`.
    ///
    /// # Errors
    /// [`UnusableStubError`] describes the fault in a line.
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

    /// Reads the stub from an image's root file system.
    ///
    /// # Errors
    /// [`StubError`] names the reason and a remedy.
    pub fn of_image(image: &Image) -> Result<Self, StubError> {
        let archiso = image.archiso.as_ref().ok_or(StubError::NotArchiso)?;
        let root = archiso.airootfs.iter().find(|root| root.arch == "x86_64").ok_or(StubError::NoRoot)?;
        let bytes = rootfs::read_file(image, root, STUB_PATH, STUB_MAX)?;
        Ok(Self::parse(bytes)?)
    }

    /// Returns systemd's version, such as `252.39-1~deb12u2`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EFI stub of systemd {}", self.version)
    }
}

/// Reason why an image has no usable stub, and a remedy.
#[derive(Debug, thiserror::Error)]
pub enum StubError {
    #[error("the image is not archiso's, so it is not searched for an EFI stub; give one with --stub FILE")]
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
    // The signature covers all headers and sections, so any change breaks it (Windows
    // Authenticode Portable Executable Signature Format).
    if headers.signed {
        return Err(UnusableStubError::Signed);
    }
    // PE Format: FileAlignment is a power of two between 512 and 64 K.
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

/// Checks that there is room for more section headers: zeros after the table.
fn check_room(bytes: &[u8], headers: &Headers, headers_end: usize) -> Result<(), UnusableStubError> {
    let table_end = headers.table_at + usize::from(headers.sections) * SECTION_HEADER;
    let slack = bytes.get(table_end..headers_end).unwrap_or_default();
    let zeros = slack.iter().take_while(|&&byte| byte == 0).count();
    let (free, needed) = (zeros / SECTION_HEADER, super::SECTIONS);
    if free >= needed { Ok(()) } else { Err(UnusableStubError::NoRoom { free, needed }) }
}

/// Ends of the parts of a program.
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
            // EDK2 too takes the raw size if VirtualSize is 0 (BasePeCoff.c).
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
