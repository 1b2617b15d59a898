use sha2::{Digest as _, Sha256};

use super::pe::Section;
use super::sign::tests::signer;
use super::sign::{UnsignableStubError, check_signable};
use super::*;
use crate::export::{MixedImagesError, Piece};
use crate::image::{Extent, NodeId, samples};

/// A PE program, written down field by field.
#[derive(Clone)]
struct Program {
    machine: u16,
    magic: u16,
    section_alignment: u32,
    file_alignment: u32,
    headers_len: u32,
    subsystem: u16,
    dll_characteristics: u16,
    /// Number of data directories.
    directories: u32,
    certificates: u64,
    /// Bytes before the second section.
    gap: u32,
    sections: Vec<(&'static str, u32, Vec<u8>)>,
    /// What stands behind the sections: the symbols of old linkers.
    behind: &'static [u8],
}

const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####";

fn stub() -> Program {
    Program {
        machine: X86_64,
        magic: 0x20b,
        section_alignment: 4096,
        file_alignment: 512,
        headers_len: 1024,
        subsystem: EFI_APPLICATION,
        dll_characteristics: 0x160,
        directories: 16,
        certificates: 0,
        gap: 0,
        sections: vec![(".text", 0x1000, vec![0xcc; 700]), (".sdmagic", 0x2100, MAGIC.to_vec())],
        behind: b"symbols",
    }
}

/// A stub's file, which can stand for a kernel as well.
pub(crate) fn stub_file() -> Vec<u8> {
    stub().bytes()
}

impl Program {
    fn bytes(&self) -> Vec<u8> {
        let mut file = b"MZ".to_vec();
        file.resize(0x3c, 0);
        file.extend(64u32.to_le_bytes());
        file.extend(b"PE\0\0");
        file.extend(self.machine.to_le_bytes());
        file.extend((self.sections.len() as u16).to_le_bytes());
        file.extend([0, 0xdead, 7].map(u32::to_le_bytes).concat());
        file.extend([240u16, 0x22e].map(u16::to_le_bytes).concat());
        let optional = file.len();
        file.extend(self.magic.to_le_bytes());
        file.resize(optional + 8, 0);
        file.extend(100u32.to_le_bytes());
        file.resize(optional + 32, 0);
        file.extend([self.section_alignment, self.file_alignment].map(u32::to_le_bytes).concat());
        file.resize(optional + 60, 0);
        file.extend([self.headers_len, 0x1234].map(u32::to_le_bytes).concat());
        file.extend([self.subsystem, self.dll_characteristics].map(u16::to_le_bytes).concat());
        file.resize(optional + 108, 0);
        file.extend(self.directories.to_le_bytes());
        file.resize(optional + 144, 0);
        file.extend(self.certificates.to_le_bytes());
        file.resize(optional + 240, 0);
        let mut at = self.headers_len;
        for (name, address, content) in &self.sections {
            let raw = content.len().next_multiple_of(512) as u32;
            let mut header = name.as_bytes().to_vec();
            header.resize(8, 0);
            header.extend([content.len() as u32, *address, raw, at].map(u32::to_le_bytes).concat());
            header.resize(36, 0);
            header.extend(0x6000_0020_u32.to_le_bytes());
            file.extend(header);
            at += raw + self.gap;
        }
        file.resize(file.len().max(self.headers_len as usize), 0);
        for (_, _, content) in &self.sections {
            file.extend(content);
            file.resize(file.len().next_multiple_of(512) + self.gap as usize, 0);
        }
        file.extend(self.behind);
        file
    }

    fn parse(&self) -> Result<Stub, UnusableStubError> {
        Stub::parse(self.bytes())
    }
}

/// An image that holds microcode, initramfs and kernel, and where they are.
struct Parts {
    image: Vec<u8>,
    microcode: Export,
    initramfs: Export,
    kernel: EfiKernel,
}

fn parts(kernel: &Program) -> Parts {
    let head = kernel.bytes();
    let (mut image, mut files) = (vec![0xee; 2048], Vec::new());
    for content in [&b"microcode!"[..], &[0x11; 1025], &head] {
        files.push(vec![Extent { offset: image.len() as u64, len: content.len() as u64 }]);
        image.extend(content);
        image.resize(image.len().next_multiple_of(2048), 0xee);
    }
    let opened = samples::image(0, files);
    let [microcode, initramfs, file] = [1, 2, 3].map(|n| Export::of_file(&opened, NodeId(n)).unwrap());
    Parts { image, microcode, initramfs, kernel: EfiKernel::new(file, &head).unwrap() }
}

fn command_line(words: &[&str]) -> CommandLine {
    let words: Vec<_> = words.iter().map(|word| Word::new(word).unwrap()).collect();
    CommandLine::new(&words).unwrap()
}

/// The file that a machine gets.
fn bytes(export: &Export, image: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in export.range(0, export.len()).unwrap() {
        match piece {
            Piece::Memory(memory) => bytes.extend(memory),
            Piece::Image(range) => {
                bytes.extend(&image[range.offset() as usize..][..range.len() as usize]);
            }
        }
    }
    bytes
}

const LINE: [&str; 2] = ["ip=dhcp", "BOOTIF=01-52-54-00-4c-41-42"];

fn composed(stub: &Program, kernel: &Program) -> Vec<u8> {
    let Parts { image, microcode, initramfs, kernel } = parts(kernel);
    let base = ProgramBase::new(&stub.parse().unwrap(), &[microcode, initramfs], &kernel, None).unwrap();
    bytes(&base.program(&command_line(&LINE)).unwrap(), &image)
}

/// A signed program with these words, in an image file that has the bytes that are hashed.
fn signed(words: &[&str]) -> Vec<u8> {
    let Parts { image, microcode, initramfs, kernel } = parts(&stub());
    let (image, [microcode, initramfs, file]) = in_file(image, [&microcode, &initramfs, &kernel.file]);
    let kernel = EfiKernel { file, ..kernel };
    let signer = Some(signer());
    let base = ProgramBase::new(&stub().parse().unwrap(), &[microcode, initramfs], &kernel, signer.as_ref());
    bytes(&base.unwrap().program(&command_line(words)).unwrap(), &image)
}

/// The same files of an image that can be read.
fn in_file<const N: usize>(image: Vec<u8>, files: [&Export; N]) -> (Vec<u8>, [Export; N]) {
    let extents = files.map(|file| match file.range(0, file.len()).unwrap().next() {
        Some(Piece::Image(range)) => vec![range.extent()],
        piece => panic!("{piece:?}"),
    });
    let opened = samples::image_of(&image, extents);
    (image, std::array::from_fn(|n| Export::of_file(&opened, NodeId(n as u32 + 1)).unwrap()))
}

#[test]
fn sections_follow_stub_in_order() {
    let kernel = stub();
    let program = composed(&stub(), &kernel);
    let headers = Headers::parse(&program).unwrap();
    let sections = headers.section_table(&program).unwrap();
    let seen: Vec<_> = sections
        .iter()
        .map(|section| {
            let name = String::from_utf8_lossy(&section.name).trim_end_matches('\0').to_owned();
            let Section { virtual_size, virtual_address, raw_size, raw_offset, characteristics, .. } =
                section;
            (name, *virtual_size, *virtual_address, *raw_size, *raw_offset, *characteristics)
        })
        .collect();
    let kernel_len = kernel.bytes().len() as u32;
    assert_eq!(kernel_len, 2567);
    let expected = [
        (".text", 700, 0x1000, 1024, 1024, 0x6000_0020),
        (".sdmagic", 51, 0x2100, 512, 2048, 0x6000_0020),
        (".initrd", 12 + 1025, 0x3000, 1536, 2560, 0x4000_0040),
        (".linux", kernel_len, 0x4000, 3072, 4096, 0x4000_0020),
        (".cmdline", 2048, 0x5000, 2048, 7168, 0x4000_0040),
    ];
    assert_eq!(seen, expected.map(|(name, a, b, c, d, e)| (name.to_owned(), a, b, c, d, e)));
    assert_eq!(program.len(), 7168 + 2048, "the padding of the last section is part of the file");
    assert_eq!(&program[2560..2573], b"microcode!\0\0\x11", "padded to four bytes, the initramfs behind it");
    assert_eq!(&program[4096..4096 + 2567], kernel.bytes());
    assert_eq!(&program[7168..7203], b"ip=dhcp BOOTIF=01-52-54-00-4c-41-42");
    for (from, to) in [(2560 + 1037, 4096), (4096 + 2567, 7168), (7203, program.len())] {
        assert!(program[from..to].iter().all(|&byte| byte == 0), "padding from {from} to {to}");
    }
}

#[test]
fn programs_differ_in_their_last_section_only() {
    let Parts { image, microcode, initramfs, kernel } = parts(&stub());
    let base = ProgramBase::new(&stub().parse().unwrap(), &[microcode, initramfs], &kernel, None).unwrap();
    let [one, other] = [["quiet", "a"], ["b", "c"]]
        .map(|words| bytes(&base.program(&command_line(&words)).unwrap(), &image));
    assert_eq!(one[..7168], other[..7168]);
    assert_ne!(one[7168..], other[7168..]);
}

/// The digest of a program as firmware computes it, written down a second time: field by field, and
/// section by section.
fn digest(program: &[u8]) -> [u8; 32] {
    let headers = Headers::parse(program).unwrap();
    let mut sections = headers.section_table(program).unwrap();
    sections.sort_by_key(|section| section.raw_offset);
    let mut hash = Sha256::new();
    let (checksum, directory) = (headers.optional_at + 64, headers.optional_at + 112 + 4 * 8);
    hash.update(&program[..checksum]);
    hash.update(&program[checksum + 4..directory]);
    hash.update(&program[directory + 8..headers.headers_len as usize]);
    for Section { raw_offset, raw_size, .. } in sections {
        hash.update(&program[raw_offset as usize..][..raw_size as usize]);
    }
    hash.finalize().into()
}

#[test]
fn signature_is_over_the_digest_that_firmware_computes() {
    let program = signed(&LINE);
    let plain = composed(&stub(), &stub());
    let directory = 64 + 24 + 112 + 4 * 8;
    let field = |at: usize| u32::from_le_bytes(program[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((field(directory), field(directory + 4)), (plain.len(), program.len() - plain.len()));
    assert_eq!(program[plain.len()..], signer().table(digest(&program)).unwrap());
    let mut unsigned = program[..plain.len()].to_vec();
    unsigned[directory..directory + 8].fill(0);
    assert_eq!(unsigned, plain, "nothing else changes");
    assert_eq!(signed(&LINE), program, "the same each time");
    let other = signed(&["quiet"]);
    assert_eq!(other.len(), program.len());
    assert_eq!(other[plain.len()..], signer().table(digest(&other)).unwrap());
}

#[test]
fn stub_that_cannot_be_signed_is_refused() {
    let check = |program: &Program| check_signable(&program.parse().unwrap());
    let version =
        |magic: &'static [u8]| Program { sections: vec![(".sdmagic", 0x1000, magic.to_vec())], ..stub() };
    assert_eq!(check(&stub()), Ok(()));
    assert_eq!(check(&version(b"#### LoaderInfo: systemd-stub 252.39-1 ####")), Ok(()));
    assert_eq!(
        check(&version(b"#### LoaderInfo: systemd-stub 251~rc1 ####")),
        Err(UnsignableStubError::Old("251~rc1".into()))
    );
    assert_eq!(
        check(&version(b"#### LoaderInfo: systemd-stub v247 ####")),
        Err(UnsignableStubError::Old("v247".into()))
    );
    let gap = Program { headers_len: 1024, gap: 512, ..stub() };
    assert_eq!(check(&gap), Err(UnsignableStubError::Gaps));
    let few = Program { directories: 4, ..stub() };
    assert_eq!(check(&few), Err(UnsignableStubError::NoDirectory));
}

#[test]
fn headers_change_only_where_needed() {
    let (before, after) = (stub().bytes(), composed(&stub(), &stub()));
    let changed: Vec<_> = (0..before.len() - 7).filter(|&at| before[at] != after[at]).collect();
    let (coff, optional, table) = (64, 64 + 24, 64 + 24 + 240 + 80);
    let initialized = 100 + 2048 + 1037 + 2567u32;
    let field = |at: usize| u32::from_le_bytes(after[at..at + 4].try_into().unwrap());
    assert_eq!(after[coff + 6..coff + 8], [5, 0], "NumberOfSections");
    assert_eq!((field(coff + 12), field(coff + 16)), (0, 0), "the symbol table is gone");
    assert_eq!(field(optional + 8), initialized, "SizeOfInitializedData");
    assert_eq!(field(optional + 56), 0x6000, "SizeOfImage");
    assert_eq!(field(optional + 64), 0, "CheckSum");
    let allowed = |at: &usize| {
        [coff + 6..coff + 8, coff + 12..coff + 20, optional + 8..optional + 12, optional + 56..optional + 60]
            .iter()
            .chain(&[optional + 64..optional + 68, table..table + 120])
            .any(|range| range.contains(at))
    };
    assert!(changed.iter().all(allowed), "{changed:?}");
}

#[test]
fn nx_compat_needs_a_compatible_kernel() {
    let nx = |stub: &Program, kernel: &Program| {
        Headers::parse(&composed(stub, kernel)).unwrap().dll_characteristics
    };
    let old = Program { dll_characteristics: 0, ..stub() };
    assert_eq!(nx(&stub(), &stub()), 0x160);
    assert_eq!(nx(&stub(), &old), 0x060);
    assert_eq!(nx(&old, &stub()), 0);
}

#[test]
fn small_section_alignment_is_raised_to_pages() {
    let program = composed(&Program { section_alignment: 512, ..stub() }, &stub());
    let sections = Headers::parse(&program).unwrap().section_table(&program).unwrap();
    assert!(sections[2..].iter().all(|section| section.virtual_address % 4096 == 0));
}

#[test]
fn stub_version_is_read() {
    let stub = stub().parse().unwrap();
    assert_eq!(stub.version(), "257.13-1~deb13u1");
    assert_eq!(stub.to_string(), "EFI stub of systemd 257.13-1~deb13u1");
}

#[test]
fn unusable_stub_is_refused_with_reason() {
    let text = |program: Program| program.parse().unwrap_err().to_string();
    let section = |name| (name, 0x3000, b"x".to_vec());
    let with = |name| Program { sections: [stub().sections, vec![section(name)]].concat(), ..stub() };
    let magic = |magic: &[u8]| Program { sections: vec![(".sdmagic", 0x1000, magic.to_vec())], ..stub() };
    let cases = [
        (Program { machine: 0xaa64, ..stub() }, "it is a program for machine type 0xaa64, not for x86-64"),
        (Program { magic: 0x10b, ..stub() }, "it is not a 64-bit program"),
        (Program { subsystem: 11, ..stub() }, "it is not an EFI application: its subsystem is 11"),
        (Program { certificates: 1, ..stub() }, "it is signed: "),
        (Program { file_alignment: 0, ..stub() }, "its file alignment of 0 bytes is not supported"),
        (Program { file_alignment: 256, ..stub() }, "its file alignment of 256 bytes"),
        (Program { section_alignment: 4095, ..stub() }, "its section alignment of 4095 bytes"),
        (with(".linux"), "it is a unified kernel image already"),
        (magic(b"#### LoaderInfo: systemd-boot 257 ####"), "it is not systemd's EFI stub"),
        (magic(b"#### LoaderInfo: systemd-stub 257"), "it is not systemd's EFI stub"),
        (Program { headers_len: 512, ..stub() }, "its header has room for 2 more sections, and 3 are needed"),
        (Program { sections: Vec::new(), behind: MAGIC, ..stub() }, "its sections are not in the file"),
    ];
    for (program, reason) in cases {
        let text = text(program);
        assert!(text.starts_with(reason), "{text}, and not: {reason}");
    }
    let error = |bytes: &[u8]| Stub::parse(bytes.to_vec()).unwrap_err().to_string();
    assert_eq!(error(b""), "it is not a PE program");
    assert_eq!(error(b"\x7fELF"), "it is not a PE program");
    assert_eq!(error(b"MZ"), "its headers are truncated");
}

#[test]
fn header_room_must_be_zero() {
    let mut bytes = stub().bytes();
    let table_end = 64 + 24 + 240 + 80;
    bytes[table_end + 119] = 1;
    assert_eq!(Stub::parse(bytes).unwrap_err(), UnusableStubError::NoRoom { free: 2, needed: 3 });
}

#[test]
fn truncated_stub_is_refused() {
    let whole = stub().bytes();
    for len in 0..whole.len() - 7 {
        Stub::parse(whole[..len].to_vec()).unwrap_err();
    }
    assert_eq!(Stub::parse(whole).unwrap().bytes.len(), 2560, "symbols are cut off");
}

#[test]
fn kernel_without_efi_is_refused() {
    let error = |head: &[u8]| EfiKernel::new(Export::of_zeros(1), head).unwrap_err().to_string();
    assert_eq!(error(&[0; 4096]), "the kernel has no EFI stub (CONFIG_EFI_STUB): it is not a PE program");
    let other = Program { machine: 0x14c, ..stub() }.bytes();
    assert_eq!(error(&other), "the kernel is for machine type 0x014c, not for x86-64");
}

#[test]
fn unfit_parts_are_refused() {
    let Parts { initramfs, kernel, .. } = parts(&stub());
    let stub = stub().parse().unwrap();
    let other = Export::of_file(&samples::image(0, [vec![Extent { offset: 0, len: 1 }]]), NodeId(1));
    let error = |initrd: &[Export], kernel| ProgramBase::new(&stub, initrd, kernel, None).unwrap_err();
    assert_eq!(error(&[other.unwrap()], &kernel), MixedImagesError.into());
    let kernel = EfiKernel { file: Export::of_memory("kernel"), nx_compat: true };
    let initrd = |len| {
        let image = samples::image(0, [vec![Extent { offset: 0, len }]]);
        Export::of_file(&image, NodeId(1)).unwrap()
    };
    assert_eq!(error(&[], &kernel), ComposeError::Empty("initramfs"));
    let none = EfiKernel { file: Export::of_zeros(0), nx_compat: true };
    assert_eq!(error(&[initramfs], &none), ComposeError::Empty("kernel"));
    let gib = 1 << 30;
    for len in [4 * gib - 6000, 4 * gib - 1, 4 * gib, 1 << 40, u64::MAX / 2] {
        assert_eq!(error(&[initrd(len)], &kernel), ComposeError::TooLarge, "{len}");
    }
    let base = ProgramBase::new(&stub, &[initrd(4 * gib - 65536)], &kernel, None).unwrap();
    assert_eq!(base.program(&command_line(&["quiet"])).unwrap().len() >> 30, 3);
}

#[test]
fn command_line_has_a_limit() {
    let word = Word::new(&"x".repeat(1023)).unwrap();
    assert!(CommandLine::new([&word, &word]).is_ok());
    let more = Word::new("y").unwrap();
    assert_eq!(CommandLine::new([&word, &word, &more]), Err(ComposeError::CommandLine(2049)));
    assert_eq!(CommandLine::new([]), Err(ComposeError::CommandLine(0)));
}
