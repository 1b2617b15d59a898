//! A boot program for UEFI, composed of systemd's EFI stub, a kernel command line, initramfs images
//! and a kernel: a unified kernel image (UAPI.5). It is never copied together: it consists of a
//! header in memory and ranges of the image.
//!
//! ```text
//! stub: headers (patched), sections | .initrd + padding | .linux + padding | .cmdline + padding [| signature]
//! ```
//!
//! `.linux` follows `.initrd`, because the stub of systemd before 252 runs the kernel in place,
//! where it overwrites the sections after it that are not small. `.cmdline` is last and of fixed
//! size, so that everything before it is the same for all machines. `.osrel` is left out: with it,
//! the stub of systemd 257 and later copies the initramfs once more in memory.

mod compose;
pub(crate) mod next_device;
pub(crate) mod pe;
pub(crate) mod sign;
pub(crate) mod stub;
#[cfg(test)]
pub(crate) mod tests;

use self::pe::{EFI_APPLICATION, Headers, NX_COMPAT, PeError, X86_64};
use crate::export::Export;
use crate::text::Word;

pub use compose::{ComposeError, ProgramBase};
pub use sign::{Signer, SigningPair};
pub use stub::{Stub, StubError, UnusableStubError};

/// Number of sections that are added to a stub.
const SECTIONS: usize = 3;

/// Longest command line that x86 takes, in bytes (`COMMAND_LINE_SIZE` without its NUL).
pub(crate) const COMMAND_LINE_MAX: usize = 2047;

/// Bytes at the start of a kernel that hold its PE headers.
pub const KERNEL_HEAD: usize = 4096;

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
