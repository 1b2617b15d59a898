//! Properties of boot programs.

use crate::export::{Export, Piece};
use crate::text::Word;
use crate::uki::pe::{Headers, Section};
use crate::uki::sign::check_signable;
use crate::uki::{COMMAND_LINE_MAX, CommandLine, EfiKernel, ProgramBase, Stub};

/// A stub that is taken makes a program: all its sections are where they were and hold what they
/// held, and three follow that hold what they were given.
pub fn pe_stub(data: &[u8]) {
    let (Ok(stub), Ok(before)) = (Stub::parse(data.to_vec()), Headers::parse(data)) else { return };
    let words: Vec<_> = ["quiet", "ip=dhcp"].into_iter().filter_map(Word::new).collect();
    let line = CommandLine::new(&words).expect("a short line");
    // A stub is a program for EFI, so it can stand for a kernel.
    let kernel = EfiKernel::new(Export::of_memory("kernel"), data).expect("it was taken for a stub");
    let Ok(base) = ProgramBase::new(&stub, &[Export::of_memory("initramfs")], &kernel, None) else { return };
    let program = base.program(&line).expect("nothing is to be signed");
    // It takes any stub, and only says whether firmware would hash all of it.
    let _ = check_signable(&stub);
    assert!(stub.version().bytes().all(|byte| byte.is_ascii_graphic()));
    let program = memory(&program);
    let after = Headers::parse(&program).expect("a PE program");
    let sections = after.section_table(&program).expect("a whole table");
    let (old, new) = sections.split_at(before.sections.into());
    assert_eq!(old, before.section_table(data).expect("it was taken"));
    for section in old.iter().filter(|section| section.raw_size > 0) {
        assert_eq!(content(section, data, section.raw_size), content(section, &program, section.raw_size));
    }
    let mut line = line.as_bytes().to_vec();
    line.resize(COMMAND_LINE_MAX + 1, 0);
    let given: [(&[u8], &[u8]); 3] =
        [(b".initrd\0", b"initramfs"), (b".linux\0\0", b"kernel"), (b".cmdline", &line)];
    assert_eq!(new.len(), given.len());
    for (section, (name, bytes)) in new.iter().zip(given) {
        assert_eq!((&section.name[..], content(section, &program, section.virtual_size)), (name, bytes));
        assert_eq!((section.raw_offset % after.file_alignment, section.virtual_address % 4096), (0, 0));
    }
    let memory_end = old.iter().map(|section| section.virtual_address + section.virtual_size).max();
    assert!(new[0].virtual_address >= memory_end.unwrap_or(0));
    assert_eq!(program.len(), (new[2].raw_offset + new[2].raw_size) as usize);
}

fn content<'a>(section: &Section, file: &'a [u8], len: u32) -> &'a [u8] {
    &file[section.raw_offset as usize..][..len as usize]
}

/// The bytes of an export that has no ranges of an image.
fn memory(export: &Export) -> Vec<u8> {
    let pieces = export.range(0, export.len()).expect("all of it");
    let bytes = pieces.flat_map(|piece| match piece {
        Piece::Memory(bytes) => bytes,
        Piece::Image(range) => panic!("{range:?} of no image"),
    });
    bytes.collect()
}
