//! A boot program for UEFI, composed of systemd's EFI stub, a kernel command line, initramfs images and a kernel: a
//! unified kernel image (UAPI.5). It is never assembled: a small header in memory, and ranges of the image behind it.
//!
//! ```text
//! stub: headers (patched), sections | .cmdline + padding | .initrd + padding | .linux + padding
//! ```
//!
//! `.linux` is last because systemd before 252 runs the kernel in place, where it overwrites what follows. There is no
//! `.osrel`: with it, systemd 257 and later copy the initramfs once more in memory.

pub(crate) mod pe;
pub(crate) mod stub;
#[cfg(test)]
pub(crate) mod tests;

use bytes::Bytes;

use self::pe::{EFI_APPLICATION, Headers, NX_COMPAT, PeError, SECTION_HEADER, Section, X86_64};
use crate::export::{Export, MixedImagesError};
use crate::text::Word;

pub use stub::{Stub, StubError, UnusableStubError};

/// Sections that are added to a stub.
const SECTIONS: usize = 3;

/// Longest command line that x86 takes, in bytes (`COMMAND_LINE_SIZE` without its NUL).
const COMMAND_LINE_MAX: usize = 2047;

/// Bytes from the start of a kernel that hold its PE headers.
pub const KERNEL_HEAD: usize = 4096;

/// The kernel wants each initramfs image but the first to begin at a multiple of it (`init/initramfs.c`).
const INITRD_ALIGNMENT: u64 = 4;

/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`
const DATA: u32 = 0x4000_0040;
/// `IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_READ`: the stub copies the kernel to where it runs.
const CODE: u32 = 0x4000_0020;

/// The kernel's command line: words with a space between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// The command line of these words.
    ///
    /// # Errors
    /// [`ComposeError::CommandLine`] when there is no word, or more than 2047 bytes.
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

/// A kernel with an EFI stub of its own, which systemd's stub starts.
#[derive(Debug, Clone)]
pub struct EfiKernel {
    file: Export,
    /// It keeps pages that are written to apart from those that are executed.
    nx_compat: bool,
}

impl EfiKernel {
    /// The kernel in `file`, of which `head` are the first bytes, [`KERNEL_HEAD`] of them if it has so many.
    ///
    /// # Errors
    /// [`KernelError`] for anything that systemd's stub could not start.
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

/// Why UEFI cannot start a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("the kernel has no EFI stub (CONFIG_EFI_STUB): {0}")]
    Pe(#[from] PeError),
    #[error("the kernel is for machines of type {0:#06x}, and not for x86-64")]
    Machine(u16),
    #[error("the kernel is no EFI application: its subsystem is {0}")]
    Subsystem(u16),
}

/// Why these parts make no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    #[error("a command line has 1 to {COMMAND_LINE_MAX} bytes, and this one {0}")]
    CommandLine(usize),
    #[error("the {0} is empty")]
    Empty(&'static str),
    #[error("the boot program would have 4 GiB or more, which UEFI cannot load")]
    TooLarge,
    /// The initramfs is of another image than the kernel, or than another part of it.
    #[error(transparent)]
    Mixed(#[from] MixedImagesError),
}

/// Composes the program that boots `kernel` with `command_line` and the images of `initrd`, in their order.
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

/// The images, each but the last padded to where the next one may begin.
fn joined(initrd: &[Export]) -> Result<Export, MixedImagesError> {
    let mut parts = Vec::new();
    for image in initrd.iter().filter(|image| !image.is_empty()) {
        let padding: u64 = parts.iter().map(Export::len).sum::<u64>().wrapping_neg() % INITRD_ALIGNMENT;
        parts.extend([Export::of_zeros(padding as usize), image.clone()]);
    }
    Export::concat(parts)
}

impl Stub {
    /// What follows the headers, with the padding behind it: the same in every program, so it is not copied.
    fn rest(&self) -> [Export; 2] {
        let padding =
            self.bytes.len().next_multiple_of(self.headers.file_alignment as usize) - self.bytes.len();
        [Export::of_memory(self.bytes.slice(self.headers_end..)), Export::of_zeros(padding)]
    }
}

/// Where the next section goes. All of it is 32 bits wide, as the fields of the headers are.
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

    /// The section's place; `None` when it does not fit. Its last bytes in the file are padding, without which EDK2
    /// takes the program for damaged.
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

/// The headers of the stub, changed to those of the program.
fn patched(stub: &Stub, added: &[Section], image_len: u32, kernel: &EfiKernel) -> Bytes {
    let Headers { signature_at: coff, optional_at: optional, .. } = stub.headers;
    let old = usize::from(stub.headers.sections);
    let sections = stub.headers.sections.saturating_add(SECTIONS as u16);
    let data = added.iter().map(|section| section.virtual_size);
    let data = data.fold(stub.headers.initialized_data, u32::wrapping_add);
    let mut headers = stub.bytes.slice(..stub.headers_end).to_vec();
    let mut put = |at: usize, value: &[u8]| {
        // `Stub::parse` has read every field that is written here.
        headers.iter_mut().skip(at).zip(value).for_each(|(to, byte)| *to = *byte);
    };
    put(coff + 6, &sections.to_le_bytes());
    // The symbols of old stubs stood behind the sections: they are gone, and so is the pointer to them.
    put(coff + 12, &[0; 8]);
    put(optional + 8, &data.to_le_bytes());
    put(optional + 56, &image_len.to_le_bytes());
    // A checksum of 0 is none.
    put(optional + 64, &[0; 4]);
    if !kernel.nx_compat {
        put(optional + 70, &(stub.headers.dll_characteristics & !NX_COMPAT).to_le_bytes());
    }
    for (section, position) in added.iter().zip(old..) {
        put(stub.headers.table_at + position * SECTION_HEADER, &section.header());
    }
    headers.into()
}
