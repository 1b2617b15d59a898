//! Composing: the layout of the file, its headers, and what is signed of it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::pe::{CERTIFICATES, Headers, NX_COMPAT, SECTION_HEADER, Section};
use super::sign::{Signer, UnsignableStubError, check_signable};
use super::stub::{self, Stub};
use super::{COMMAND_LINE_MAX, CommandLine, EfiKernel, SECTIONS};
use crate::export::{Export, ImageRange, MixedImagesError, Piece};

/// Alignment of each initramfs image after the first (Linux, init/initramfs.c).
const INITRD_ALIGNMENT: u64 = 4;

/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`
const DATA: u32 = 0x4000_0040;
/// `IMAGE_SCN_CNT_CODE | IMAGE_SCN_MEM_READ`: the stub copies the kernel to where it runs.
pub(super) const CODE: u32 = 0x4000_0020;

/// Offset of `CheckSum` in the optional header.
const CHECKSUM_AT: usize = 64;
/// Offset of the data directory of the certificate table in the optional header of PE32+.
pub(super) const CERTIFICATES_AT: usize = 112 + CERTIFICATES * 8;

/// Bytes that are read of the image at a time, to hash them.
const BLOCK: u64 = 1 << 20;

/// The part of a boot program that is the same for all machines: all of it but the command line and
/// the signature.
#[derive(Debug, Clone)]
pub struct ProgramBase {
    /// Headers, stub, initramfs and kernel.
    export: Export,
    /// Bytes of `.cmdline` in the file.
    command_line_len: usize,
    fingerprint: [u8; 32],
    signing: Option<Signing>,
}

/// What a signature of each machine's program begins with.
#[derive(Debug, Clone)]
struct Signing {
    signer: Arc<Signer>,
    /// State of the hash after everything that is the same for all machines.
    hash: Sha256,
}

/// Reason why parts cannot be composed to a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    #[error(transparent)]
    Unsignable(#[from] UnsignableStubError),
    #[error("the image cannot be read to sign it: {0}")]
    Unread(io::ErrorKind),
}

impl ProgramBase {
    /// Composes the program that boots `kernel` with the images of `initrd`, in their order. With a
    /// signer it is signed for Secure Boot: all of it is read once, which takes a second for a
    /// gigabyte.
    ///
    /// # Errors
    /// See [`ComposeError`].
    pub fn new(
        stub: &Stub,
        initrd: &[Export],
        kernel: &EfiKernel,
        signer: Option<&Arc<Signer>>,
    ) -> Result<Self, ComposeError> {
        if initrd.iter().all(Export::is_empty) {
            return Err(ComposeError::Empty("initramfs"));
        }
        if kernel.file.is_empty() {
            return Err(ComposeError::Empty("kernel"));
        }
        if signer.is_some() {
            check_signable(stub)?;
        }
        let (mut layout, mut sections) = (Layout::behind(stub)?, Vec::new());
        let mut parts = Vec::from(stub.rest());
        for (name, characteristics, content) in
            [(*b".initrd\0", DATA, joined(initrd)?), (*b".linux\0\0", CODE, kernel.file.clone())]
        {
            let section = layout.place(name, characteristics, content.len())?;
            parts.extend([content, Export::of_zeros((section.raw_size - section.virtual_size) as usize)]);
            sections.push(section);
        }
        // A NUL ends the line wherever a stub looks for its end.
        let line = layout.place(*b".cmdline", DATA, COMMAND_LINE_MAX as u64 + 1)?;
        sections.push(line);
        let table = signer.map_or(0, |signer| signer.table_len());
        layout.file.checked_add(table).ok_or(ComposeError::TooLarge)?;
        let headers = Patch { stub, kernel, layout: &layout, table }.headers(&sections);
        let rest = Export::concat(parts)?;
        Ok(Self {
            fingerprint: fingerprint(&headers, stub, signer),
            signing: signer.map(|signer| Signing::new(signer, stub, &headers, &rest)).transpose()?,
            export: Export::concat([Export::of_memory(headers), rest])?,
            command_line_len: line.raw_size as usize,
        })
    }

    /// Returns the program with this command line: the same bytes each time. `None` if it was to be
    /// signed and could not be, because the system has no random numbers.
    pub fn program(&self, command_line: &CommandLine) -> Option<Export> {
        let mut line = command_line.as_bytes().to_vec();
        line.resize(self.command_line_len, 0);
        let table = match &self.signing {
            Some(signing) => signing.table(&line)?,
            None => Bytes::new(),
        };
        let own = [Export::of_memory(line), Export::of_memory(table)];
        Export::concat([self.export.clone()].into_iter().chain(own)).ok()
    }

    /// Returns a number that only programs with the same headers, stub and signer have.
    pub(crate) const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }
}

fn fingerprint(headers: &[u8], stub: &Stub, signer: Option<&Arc<Signer>>) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(headers);
    hash.update(&stub.bytes);
    if let Some(signer) = signer {
        hash.update(signer.pair().certificate().fingerprint());
    }
    hash.finalize().into()
}

impl Signing {
    /// Hashes `headers`, and `rest`, which follows them.
    fn new(signer: &Arc<Signer>, stub: &Stub, headers: &[u8], rest: &Export) -> Result<Self, ComposeError> {
        let mut hash = Sha256::new();
        update_with_headers(&mut hash, headers, stub.headers.optional_at);
        for piece in rest.range(0, rest.len()).into_iter().flatten() {
            match piece {
                Piece::Memory(bytes) => hash.update(&bytes),
                Piece::Image(range) => {
                    update_with_image(&mut hash, range)
                        .map_err(|error| ComposeError::Unread(error.kind()))?;
                }
            }
        }
        Ok(Self { signer: Arc::clone(signer), hash })
    }

    /// Returns the certificate table of the program with this section.
    fn table(&self, command_line: &[u8]) -> Option<Bytes> {
        self.signer.table(self.hash.clone().chain_update(command_line).finalize().into())
    }
}

/// Hashes all but `CheckSum` and the directory entry of the certificate table: a signature changes
/// these two (Authenticode, "Calculating the PE Image Hash", steps 3 to 8).
pub(super) fn update_with_headers(hash: &mut Sha256, headers: &[u8], optional_at: usize) {
    let (checksum, certificates) = (optional_at + CHECKSUM_AT, optional_at + CERTIFICATES_AT);
    for part in
        [headers.get(..checksum), headers.get(checksum + 4..certificates), headers.get(certificates + 8..)]
    {
        hash.update(part.unwrap_or_default());
    }
}

fn update_with_image(hash: &mut Sha256, range: ImageRange<'_>) -> io::Result<()> {
    let mut block = vec![0; range.len().min(BLOCK) as usize];
    let (mut at, end) = (range.offset(), range.extent().end());
    while at < end {
        let len = (end - at).min(BLOCK);
        block.truncate(len as usize);
        range.image().source.read_exact_at(&mut block, at)?;
        hash.update(&block);
        at += len;
    }
    Ok(())
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
    /// Returns the part of the stub after its headers, with padding. It is the same in every
    /// program, so it is not copied.
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

    /// Places a section of `len` bytes. The padding after it is a part of the file: EDK2 reads the
    /// last byte of each section's raw size and rejects a shorter file.
    fn place(&mut self, name: [u8; 8], characteristics: u32, len: u64) -> Result<Section, ComposeError> {
        self.try_place(name, characteristics, len).ok_or(ComposeError::TooLarge)
    }

    fn try_place(&mut self, name: [u8; 8], characteristics: u32, len: u64) -> Option<Section> {
        let virtual_size = u32::try_from(len).ok()?;
        let raw_size = virtual_size.checked_next_multiple_of(self.file_alignment)?;
        let (raw_offset, virtual_address) = (self.file, self.memory);
        self.file = raw_offset.checked_add(raw_size)?;
        let memory_end = virtual_address.checked_add(virtual_size)?;
        self.memory = memory_end.checked_next_multiple_of(self.memory_alignment)?;
        Some(Section { name, virtual_size, virtual_address, raw_size, raw_offset, characteristics })
    }
}

/// The changes that make the headers of the stub those of the program.
struct Patch<'a> {
    stub: &'a Stub,
    kernel: &'a EfiKernel,
    /// Behind the last section.
    layout: &'a Layout,
    /// Bytes of the certificate table; 0 for a program that is not signed.
    table: u32,
}

impl Patch<'_> {
    fn headers(&self, added: &[Section]) -> Bytes {
        let Self { stub, kernel, layout, table } = self;
        let Headers { signature_at: coff, optional_at: optional, .. } = stub.headers;
        let old = usize::from(stub.headers.sections);
        let sections = stub.headers.sections.saturating_add(SECTIONS as u16);
        let data = added.iter().map(|section| section.virtual_size);
        let data = data.fold(stub.headers.initialized_data, u32::wrapping_add);
        let mut headers = stub.bytes.slice(..stub.headers_end).to_vec();
        // NumberOfSections.
        put(&mut headers, coff + 6, &sections.to_le_bytes());
        // PointerToSymbolTable and NumberOfSymbols: old stubs have symbols after their sections,
        // which are cut off.
        put(&mut headers, coff + 12, &[0; 8]);
        // SizeOfInitializedData.
        put(&mut headers, optional + 8, &data.to_le_bytes());
        // SizeOfImage.
        put(&mut headers, optional + 56, &layout.memory.to_le_bytes());
        // CheckSum: 0 is none, and firmware does not read it.
        put(&mut headers, optional + CHECKSUM_AT, &[0; 4]);
        // DllCharacteristics: firmware that enforces NX protects the pages of a program that claims
        // NX_COMPAT, also those of the kernel in it.
        if !kernel.nx_compat {
            let characteristics = stub.headers.dll_characteristics & !NX_COMPAT;
            put(&mut headers, optional + 70, &characteristics.to_le_bytes());
        }
        if *table > 0 {
            put(
                &mut headers,
                optional + CERTIFICATES_AT,
                &[layout.file, *table].map(u32::to_le_bytes).concat(),
            );
        }
        for (section, position) in added.iter().zip(old..) {
            put(&mut headers, stub.headers.table_at + position * SECTION_HEADER, &section.header());
        }
        headers.into()
    }
}

/// Writes a field. In the headers of a stub, `Stub::parse` and `check_signable` have read every one that
/// is written.
pub(super) fn put(headers: &mut [u8], at: usize, value: &[u8]) {
    headers.iter_mut().skip(at).zip(value).for_each(|(to, byte)| *to = *byte);
}
