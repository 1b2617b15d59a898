//! A boot program for UEFI, composed of systemd's EFI stub, a kernel command line, initramfs images and
//! a kernel: a unified kernel image (UAPI.5). It is never copied together: it consists of a header in
//! memory and ranges of the image.
//!
//! ```text
//! stub: headers (patched), sections | .cmdline + padding | .initrd + padding | .linux + padding
//! ```
//!
//! `.linux` is last, because the stub of systemd before 252 runs the kernel in place, where it
//! overwrites the sections after it. `.osrel` is left out: with it, the stub of systemd 257 and later
//! copies the initramfs once more in memory.

pub(crate) mod pe;
pub(crate) mod stub;
#[cfg(test)]
pub(crate) mod tests;

use bytes::Bytes;

use self::pe::{EFI_APPLICATION, Headers, NX_COMPAT, PeError, SECTION_HEADER, Section, X86_64};
use crate::export::{Export, MixedImagesError};
use crate::text::Word;

pub use stub::{Stub, StubError, UnusableStubError};

/// Number of sections that are added to a stub.
const SECTIONS: usize = 3;

/// Longest command line that x86 takes, in bytes (`COMMAND_LINE_SIZE` without its NUL).
const COMMAND_LINE_MAX: usize = 2047;

/// Bytes at the start of a kernel that hold its PE headers.
pub const KERNEL_HEAD: usize = 4096;

/// Alignment of each initramfs image after the first (Linux, init/initramfs.c).
const INITRD_ALIGNMENT: u64 = 4;

/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`
const DATA: u32 = 0x4000_0040;
/// `IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_READ`: the stub copies the kernel to where it runs.
const CODE: u32 = 0x4000_0020;

/// The kernel's command line: words with a space between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// Joins words to a command line.
    ///
    /// # Errors
    /// [`ComposeError::CommandLine`] without a word, or for more than 2047 bytes.
    pub fn new<'a>(words: impl IntoIterator<Item = &'a Word>) -> Result<Self, ComposeError> {
        let line = words.into_iter().map(Word::as_str).collect::<Vec<_>>().join(" ");
        if (1..=COMMAND_LINE_MAX).contains(&line.len()) {
            Ok(Self(line))
        } else {
            Err(ComposeError::CommandLine(line.len()))
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A kernel with its own EFI stub, which systemd's stub starts.
#[derive(Debug, Clone)]
pub struct EfiKernel {
    file: Export,
    /// The kernel never executes a writable page.
    nx_compat: bool,
}

impl EfiKernel {
    /// Checks the kernel in `file`. `head` is its start, up to [`KERNEL_HEAD`] bytes.
    ///
    /// # Errors
    /// [`KernelError`] if systemd's stub could not start it.
    pub fn new(file: Export, head: &[u8]) -> Result<Self, KernelError> {
        let headers = Headers::parse(head)?;
        if headers.machine != X86_64 {
            return Err(KernelError::Machine(headers.machine));
        }
        if headers.subsystem != EFI_APPLICATION {
            return Err(KernelError::Subsystem(headers.subsystem));
        }
        Ok(Self { file, nx_compat: headers.dll_characteristics & NX_COMPAT != 0 })
    }
}

/// Reason why UEFI cannot start a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("the kernel has no EFI stub (CONFIG_EFI_STUB): {0}")]
    Pe(#[from] PeError),
    #[error("the kernel is for machine type {0:#06x}, not for x86-64")]
    Machine(u16),
    #[error("the kernel is not an EFI application: its subsystem is {0}")]
    Subsystem(u16),
}

/// Reason why parts cannot be composed to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    #[error("the command line has {0} bytes; 1 to {COMMAND_LINE_MAX} fit")]
    CommandLine(usize),
    #[error("the {0} is empty")]
    Empty(&'static str),
    #[error("the boot program would have 4 GiB or more, which UEFI cannot load")]
    TooLarge,
    /// The parts are of several images.
    #[error(transparent)]
    Mixed(#[from] MixedImagesError),
}

/// Composes the program that boots `kernel` with `command_line` and the images of `initrd` in this
/// order.
///
/// # Errors
/// See [`ComposeError`].
pub fn compose(
    stub: &Stub,
    command_line: &CommandLine,
    initrd: &[Export],
    kernel: &EfiKernel,
) -> Result<Export, ComposeError> {
    if initrd.iter().all(Export::is_empty) {
        return Err(ComposeError::Empty("initramfs"));
    }
    if kernel.file.is_empty() {
        return Err(ComposeError::Empty("kernel"));
    }
    let parts = [
        (*b".cmdline", DATA, Export::of_memory(command_line.0.clone())),
        (*b".initrd\0", DATA, joined(initrd)?),
        (*b".linux\0\0", CODE, kernel.file.clone()),
    ];
    let mut layout = Layout::behind(stub)?;
    let mut sections = Vec::new();
    let mut bodies = Vec::new();
    for (name, characteristics, content) in parts {
        let section = layout.place(name, characteristics, content.len()).ok_or(ComposeError::TooLarge)?;
        sections.push(section);
        bodies.extend([content, Export::of_zeros((section.raw_size - section.virtual_size) as usize)]);
    }
    let headers = Export::of_memory(patched(stub, &sections, layout.memory, kernel));
    Ok(Export::concat([headers].into_iter().chain(stub.rest()).chain(bodies))?)
}

/// Joins initramfs images, each but the last padded to [`INITRD_ALIGNMENT`].
fn joined(initrd: &[Export]) -> Result<Export, MixedImagesError> {
    let mut parts = Vec::new();
    for image in initrd.iter().filter(|image| !image.is_empty()) {
        let padding: u64 = parts.iter().map(Export::len).sum::<u64>().wrapping_neg() % INITRD_ALIGNMENT;
        parts.extend([Export::of_zeros(padding as usize), image.clone()]);
    }
    Export::concat(parts)
}

impl Stub {
    /// Returns the part of the stub after its headers, with padding. It is the same in every program, so
    /// it is not copied.
    fn rest(&self) -> [Export; 2] {
        let padding =
            self.bytes.len().next_multiple_of(self.headers.file_alignment as usize) - self.bytes.len();
        [Export::of_memory(self.bytes.slice(self.headers_end..)), Export::of_zeros(padding)]
    }
}

/// Place of the next section, in 32 bits as in the headers.
struct Layout {
    file: u32,
    memory: u32,
    file_alignment: u32,
    memory_alignment: u32,
}

impl Layout {
    fn behind(stub: &Stub) -> Result<Self, ComposeError> {
        let Headers { file_alignment, section_alignment, .. } = stub.headers;
        let file_end = u32::try_from(stub.bytes.len()).ok();
        let file = file_end.and_then(|end| end.checked_next_multiple_of(file_alignment));
        Ok(Self {
            file: file.ok_or(ComposeError::TooLarge)?,
            memory: stub.memory_end,
            file_alignment,
            memory_alignment: section_alignment.max(stub::PAGE),
        })
    }

    /// Places a section of `len` bytes; `None` if it does not fit. The padding after it is a part of the
    /// file: EDK2 reads the last byte of each section's raw size and rejects a shorter file.
    fn place(&mut self, name: [u8; 8], characteristics: u32, len: u64) -> Option<Section> {
        let virtual_size = u32::try_from(len).ok()?;
        let raw_size = virtual_size.checked_next_multiple_of(self.file_alignment)?;
        let (raw_offset, virtual_address) = (self.file, self.memory);
        self.file = raw_offset.checked_add(raw_size)?;
        let memory_end = virtual_address.checked_add(virtual_size)?;
        self.memory = memory_end.checked_next_multiple_of(self.memory_alignment)?;
        Some(Section { name, virtual_size, virtual_address, raw_size, raw_offset, characteristics })
    }
}

/// Returns the headers of the stub with the changes for the program (PE Format).
fn patched(stub: &Stub, added: &[Section], image_len: u32, kernel: &EfiKernel) -> Bytes {
    let Headers { signature_at: coff, optional_at: optional, .. } = stub.headers;
    let old = usize::from(stub.headers.sections);
    let sections = stub.headers.sections.saturating_add(SECTIONS as u16);
    let data = added.iter().map(|section| section.virtual_size);
    let data = data.fold(stub.headers.initialized_data, u32::wrapping_add);
    let mut headers = stub.bytes.slice(..stub.headers_end).to_vec();
    let mut put = |at: usize, value: &[u8]| {
        // `Stub::parse` has checked that these fields exist.
        headers.iter_mut().skip(at).zip(value).for_each(|(to, byte)| *to = *byte);
    };
    // NumberOfSections.
    put(coff + 6, &sections.to_le_bytes());
    // PointerToSymbolTable and NumberOfSymbols: old stubs have symbols after their sections, which
    // are cut off.
    put(coff + 12, &[0; 8]);
    // SizeOfInitializedData.
    put(optional + 8, &data.to_le_bytes());
    // SizeOfImage.
    put(optional + 56, &image_len.to_le_bytes());
    // CheckSum: 0 is none, and firmware does not read it.
    put(optional + 64, &[0; 4]);
    // DllCharacteristics: firmware that enforces NX protects the pages of a program that claims
    // NX_COMPAT, also those of the kernel in it.
    if !kernel.nx_compat {
        put(optional + 70, &(stub.headers.dll_characteristics & !NX_COMPAT).to_le_bytes());
    }
    for (section, position) in added.iter().zip(old..) {
        put(stub.headers.table_at + position * SECTION_HEADER, &section.header());
    }
    headers.into()
}
