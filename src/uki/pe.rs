//! The headers of a PE program (Microsoft, "PE Format"; UEFI Specification 2.10 §2.1.1) that
//! composing needs.

use crate::codec::{Reader, Truncated};

/// Machine type of x86-64.
pub(crate) const X86_64: u16 = 0x8664;
/// Subsystem of an EFI application.
pub(crate) const EFI_APPLICATION: u16 = 10;
/// Bytes of a section header.
pub(crate) const SECTION_HEADER: usize = 40;
/// `IMAGE_DLLCHARACTERISTICS_NX_COMPAT`: no page is both written to and executed.
pub(crate) const NX_COMPAT: u16 = 0x100;

/// Magic number of an optional header with 64-bit addresses.
pub(super) const PE32_PLUS: u16 = 0x20b;
/// Position of the certificate table among the data directories.
pub(super) const CERTIFICATES: usize = 4;

/// The header fields that composing needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Offset of the signature `PE\0\0`, which the COFF file header follows.
    pub signature_at: usize,
    /// Offset of the optional header.
    pub optional_at: usize,
    /// Offset of the section table.
    pub table_at: usize,
    pub machine: u16,
    pub sections: u16,
    /// Bytes of initialized data in all sections.
    pub initialized_data: u32,
    /// Sections begin at a multiple of it in memory.
    pub section_alignment: u32,
    /// Sections begin at a multiple of it in the file.
    pub file_alignment: u32,
    /// Bytes of all headers in the file, with the section table.
    pub headers_len: u32,
    pub subsystem: u16,
    pub dll_characteristics: u16,
    /// The program has a certificate table, so it is signed.
    pub signed: bool,
}

/// Error of bytes that are not a PE program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeError {
    #[error("it is not a PE program")]
    Magic,
    #[error("it is not a 64-bit program")]
    Not64Bit,
    #[error("its headers are truncated")]
    Truncated,
}

impl From<Truncated> for PeError {
    fn from(_: Truncated) -> Self {
        PeError::Truncated
    }
}

impl Headers {
    /// Parses the headers at the start of a program; the sections may be missing.
    ///
    /// # Errors
    /// [`PeError`]. Values are not checked.
    pub(crate) fn parse(program: &[u8]) -> Result<Self, PeError> {
        let signature_at = signature_at(program)?;
        let mut coff = Reader::new(program);
        coff.skip(signature_at)?;
        if coff.array()? != *b"PE\0\0" {
            return Err(PeError::Magic);
        }
        let machine = coff.u16_le()?;
        let sections = coff.u16_le()?;
        // TimeDateStamp, PointerToSymbolTable, NumberOfSymbols.
        coff.skip(12)?;
        let optional_len = usize::from(coff.u16_le()?);
        // Characteristics.
        coff.skip(2)?;
        let optional_at = program.len() - coff.remaining();
        let mut optional = coff.sub(optional_len)?;
        if optional.u16_le()? != PE32_PLUS {
            return Err(PeError::Not64Bit);
        }
        // Linker versions, SizeOfCode.
        optional.skip(6)?;
        let initialized_data = optional.u32_le()?;
        // SizeOfUninitializedData, AddressOfEntryPoint, BaseOfCode, ImageBase (8 bytes in PE32+).
        optional.skip(20)?;
        let section_alignment = optional.u32_le()?;
        let file_alignment = optional.u32_le()?;
        // Versions of the operating system, the image and the subsystem, Win32VersionValue,
        // SizeOfImage.
        optional.skip(20)?;
        let headers_len = optional.u32_le()?;
        // CheckSum.
        optional.skip(4)?;
        let subsystem = optional.u16_le()?;
        let dll_characteristics = optional.u16_le()?;
        // Sizes of stack and heap (8 bytes each in PE32+), LoaderFlags.
        optional.skip(36)?;
        let signed = has_certificates(optional)?;
        let table_at = optional_at + optional_len;
        Ok(Self {
            signature_at,
            optional_at,
            table_at,
            machine,
            sections,
            initialized_data,
            section_alignment,
            file_alignment,
            headers_len,
            subsystem,
            dll_characteristics,
            signed,
        })
    }

    /// Parses the section headers, in their order.
    ///
    /// # Errors
    /// `Truncated` if the program ends before the table.
    pub(crate) fn section_table(&self, program: &[u8]) -> Result<Vec<Section>, Truncated> {
        let mut table = Reader::new(program);
        table.skip(self.table_at)?;
        (0..self.sections).map(|_| Section::parse(&mut table)).collect()
    }
}

/// Returns the offset of the signature, which the DOS header holds at 0x3c.
fn signature_at(program: &[u8]) -> Result<usize, PeError> {
    if !program.starts_with(b"MZ") {
        return Err(PeError::Magic);
    }
    let mut dos = Reader::new(program);
    dos.skip(0x3c)?;
    usize::try_from(dos.u32_le()?).map_err(|_| PeError::Truncated)
}

/// Returns true for a certificate table. `directories` begins at NumberOfRvaAndSizes.
fn has_certificates(mut directories: Reader<'_>) -> Result<bool, Truncated> {
    let count = directories.u32_le()?;
    if count as usize <= CERTIFICATES {
        return Ok(false);
    }
    directories.skip(CERTIFICATES * 8)?;
    Ok(directories.u64_le()? != 0)
}

/// A section header: the place of a section in the file and in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    /// Padded with zeros.
    pub name: [u8; 8],
    pub virtual_size: u32,
    /// From the start of the program in memory.
    pub virtual_address: u32,
    pub raw_size: u32,
    /// From the start of the file.
    pub raw_offset: u32,
    pub characteristics: u32,
}

impl Section {
    fn parse(table: &mut Reader<'_>) -> Result<Self, Truncated> {
        let name = table.array()?;
        let virtual_size = table.u32_le()?;
        let virtual_address = table.u32_le()?;
        let raw_size = table.u32_le()?;
        let raw_offset = table.u32_le()?;
        // PointerToRelocations, PointerToLinenumbers, NumberOfRelocations, NumberOfLinenumbers:
        // only object files have these.
        table.skip(12)?;
        let characteristics = table.u32_le()?;
        Ok(Self { name, virtual_size, virtual_address, raw_size, raw_offset, characteristics })
    }

    /// Emits the section header, without relocations and line numbers, which only object files
    /// have.
    pub(crate) fn header(&self) -> [u8; SECTION_HEADER] {
        let mut header = [0; SECTION_HEADER];
        let fields = [self.virtual_size, self.virtual_address, self.raw_size, self.raw_offset];
        let bytes = self.name.into_iter().chain(fields.into_iter().flat_map(u32::to_le_bytes));
        let bytes = bytes.chain([0; 12]).chain(self.characteristics.to_le_bytes());
        header.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        header
    }
}
