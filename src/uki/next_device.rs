//! A program that ends at once with an error: so firmware goes on with its next boot device (UEFI
//! Specification 2.10 §3.1). OVMF that is offered no program asks for one for three minutes.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::compose::{CERTIFICATES_AT, CODE, put, update_with_headers};
use super::pe::{EFI_APPLICATION, NX_COMPAT, PE32_PLUS, Section, X86_64};
use super::sign::Signer;

/// `mov rax, EFI_NOT_FOUND; ret`
const INSTRUCTIONS: [u8; 11] = [0x48, 0xb8, 0x0e, 0, 0, 0, 0, 0, 0, 0x80, 0xc3];

/// Bytes of the headers, and of the section, in the file.
const FILE_ALIGNMENT: u32 = 512;
const PAGE: u32 = 4096;
/// Offset of the signature `PE\0\0`: there is no program for DOS before it.
const SIGNATURE_AT: u32 = 64;
/// Offset of the optional header, and its bytes with all 16 data directories.
const OPTIONAL_AT: usize = SIGNATURE_AT as usize + 24;
const OPTIONAL_LEN: u16 = 240;
/// `IMAGE_FILE_EXECUTABLE_IMAGE | IMAGE_FILE_LARGE_ADDRESS_AWARE`
const CHARACTERISTICS: u16 = 0x22;

/// Returns the program: the same bytes each time. `None` if it was to be signed and could not be,
/// because the system has no random numbers.
pub(crate) fn program(signer: Option<&Signer>) -> Option<Bytes> {
    let mut headers = headers();
    let mut section = INSTRUCTIONS.to_vec();
    section.resize(FILE_ALIGNMENT as usize, 0);
    let Some(signer) = signer else { return Some([headers, section].concat().into()) };
    let place = [2 * FILE_ALIGNMENT, signer.table_len()];
    put(&mut headers, OPTIONAL_AT + CERTIFICATES_AT, &place.map(u32::to_le_bytes).concat());
    let mut hash = Sha256::new();
    update_with_headers(&mut hash, &headers, OPTIONAL_AT);
    let table = signer.table(hash.chain_update(&section).finalize().into())?;
    Some([&headers[..], &section, &table].concat().into())
}

/// Returns the headers of a program without a certificate table.
fn headers() -> Vec<u8> {
    let section = Section {
        name: *b".text\0\0\0",
        virtual_size: INSTRUCTIONS.len() as u32,
        virtual_address: PAGE,
        raw_size: FILE_ALIGNMENT,
        raw_offset: FILE_ALIGNMENT,
        // `IMAGE_SCN_MEM_EXECUTE`
        characteristics: CODE | 0x2000_0000,
    };
    let mut headers = vec![0; FILE_ALIGNMENT as usize];
    let optional = |at| OPTIONAL_AT + at;
    for (at, value) in [
        (0, &b"MZ"[..]),
        (0x3c, &SIGNATURE_AT.to_le_bytes()),
        (SIGNATURE_AT as usize, b"PE\0\0"),
        // Machine and NumberOfSections.
        (SIGNATURE_AT as usize + 4, &[X86_64, 1].map(u16::to_le_bytes).concat()),
        // SizeOfOptionalHeader and Characteristics.
        (SIGNATURE_AT as usize + 20, &[OPTIONAL_LEN, CHARACTERISTICS].map(u16::to_le_bytes).concat()),
        (optional(0), &PE32_PLUS.to_le_bytes()),
        // SizeOfCode.
        (optional(4), &FILE_ALIGNMENT.to_le_bytes()),
        // AddressOfEntryPoint and BaseOfCode.
        (optional(16), &[PAGE, PAGE].map(u32::to_le_bytes).concat()),
        // SectionAlignment and FileAlignment.
        (optional(32), &[PAGE, FILE_ALIGNMENT].map(u32::to_le_bytes).concat()),
        // SizeOfImage and SizeOfHeaders.
        (optional(56), &[2 * PAGE, FILE_ALIGNMENT].map(u32::to_le_bytes).concat()),
        // Subsystem and DllCharacteristics.
        (optional(68), &[EFI_APPLICATION, NX_COMPAT].map(u16::to_le_bytes).concat()),
        // NumberOfRvaAndSizes.
        (optional(108), &16_u32.to_le_bytes()),
        (optional(OPTIONAL_LEN.into()), &section.header()),
    ] {
        put(&mut headers, at, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::super::pe::Headers;
    use super::super::sign::tests::signer;
    use super::*;

    #[test]
    fn program_is_one_that_firmware_takes() {
        let program = program(None).unwrap();
        let headers = Headers::parse(&program).unwrap();
        let text = headers.section_table(&program).unwrap().remove(0);
        assert_eq!((headers.machine, headers.subsystem, headers.sections), (X86_64, EFI_APPLICATION, 1));
        assert_eq!(headers.headers_len, text.raw_offset);
        assert_eq!(program[text.raw_offset as usize..][..INSTRUCTIONS.len()], INSTRUCTIONS);
        // EDK2 reads the last byte of each section's raw size and rejects a shorter file.
        assert_eq!(program.len() as u32, text.raw_offset + text.raw_size);
        assert!(!headers.signed);
    }

    #[test]
    fn signature_comes_behind_the_program() {
        let (plain, signed) = (program(None).unwrap(), program(Some(&signer())).unwrap());
        assert!(Headers::parse(&signed).unwrap().signed);
        assert_eq!(signed.len(), plain.len() + signer().table_len() as usize);
        assert_eq!(program(Some(&signer())).unwrap(), signed, "the same each time");
    }
}
