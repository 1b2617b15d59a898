//! Boot programs for UEFI, composed of what is in an ISO, against the rules and a PE parser that shares no code with us;
//! and the way to the stub, through root file systems that mksquashfs made.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use object::LittleEndian as LE;
use object::read::pe::{ImageNtHeaders, ImageOptionalHeader, PeFile64};

use isowire::export::{Export, Piece};
use isowire::image::initramfs::{Completeness, Contents, Requirement};
use isowire::image::rootfs::{RootfsError, Squashfs, erofs};
use isowire::image::{Image, Source};
use isowire::text::Word;
use isowire::uki::{CommandLine, EfiKernel, KERNEL_HEAD, ProgramBase, Stub};

use common::iso;
use common::needs::{needs, only_with_all, tool};
use common::running::output_of;

const DEBIAN_STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const LINE: &str =
    "archisobasedir=arch archiso_nbd_srv=10.0.0.1 ip=10.0.0.60:10.0.0.1:10.0.0.1:255.255.255.0";

/// Rules of composing, written down a second time: everything in memory, with the offsets of the PE format.
fn by_the_rules(stub: &[u8], parts: &[(&str, Vec<u8>)], kernel_has_nx: bool) -> Vec<u8> {
    let u16_at = |file: &[u8], at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap());
    let u32_at = |file: &[u8], at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let e = u32_at(stub, 0x3c);
    let (n, opt) = (usize::from(u16_at(stub, e + 6)), e + 24);
    let table = opt + usize::from(u16_at(stub, e + 20));
    let (section_alignment, file_alignment) = (u32_at(stub, opt + 32).max(4096), u32_at(stub, opt + 36));
    let sections = (0..n).map(|i| table + 40 * i);
    let raw_end = sections.clone().map(|at| u32_at(stub, at + 16) + u32_at(stub, at + 20)).max().unwrap();
    let memory_end = sections.map(|at| u32_at(stub, at + 8) + u32_at(stub, at + 12)).max().unwrap();

    let mut file = stub[..raw_end].to_vec();
    file.resize(raw_end.next_multiple_of(file_alignment), 0);
    let mut address = memory_end.next_multiple_of(section_alignment);
    let mut initialized = u32_at(stub, opt + 8);
    for (i, (name, content)) in parts.iter().enumerate() {
        let raw = content.len().next_multiple_of(file_alignment);
        let at = table + 40 * (n + i);
        file[at..at + name.len()].copy_from_slice(name.as_bytes());
        for (field, value) in [(8, content.len()), (12, address), (16, raw), (20, file.len())] {
            file[at + field..at + field + 4].copy_from_slice(&(value as u32).to_le_bytes());
        }
        let characteristics: u32 = if *name == ".linux" { 0x4000_0020 } else { 0x4000_0040 };
        file[at + 36..at + 40].copy_from_slice(&characteristics.to_le_bytes());
        file.extend(content);
        file.resize(file.len().next_multiple_of(file_alignment), 0);
        address = (address + content.len()).next_multiple_of(section_alignment);
        initialized += content.len();
    }
    file[e + 6..e + 8].copy_from_slice(&((n + parts.len()) as u16).to_le_bytes());
    file[e + 12..e + 20].fill(0);
    for (at, value) in [(8, initialized), (56, address), (64, 0)] {
        file[opt + at..opt + at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
    if !kernel_has_nx {
        let characteristics = u16_at(&file, opt + 70) & !0x100;
        file[opt + 70..opt + 72].copy_from_slice(&characteristics.to_le_bytes());
    }
    file
}

/// A program of the test ISO's kernel, microcode and initramfs, with what went into it.
struct Composed {
    program: Vec<u8>,
    command_line: Vec<u8>,
    initrd: Vec<u8>,
    kernel: Vec<u8>,
}

fn compose(image: &Arc<Image>, stub: &Stub) -> Composed {
    let files = &image.archiso.as_ref().unwrap().kernels[0];
    let nodes: Vec<_> = files.microcode.iter().copied().chain(files.initramfs).collect();
    assert!(nodes.len() > 1, "the ISO has microcode beside its initramfs");
    let exports: Vec<_> = nodes.iter().map(|&node| Export::of_file(image, node).unwrap()).collect();
    let kernel = bytes(&Export::of_file(image, files.kernel).unwrap(), image);
    let words: Vec<_> = LINE.split(' ').map(|word| Word::new(word).unwrap()).collect();
    let line = CommandLine::new(&words).unwrap();
    let parsed =
        EfiKernel::new(Export::of_file(image, files.kernel).unwrap(), &kernel[..KERNEL_HEAD]).unwrap();
    let base = ProgramBase::new(stub, &exports, &parsed, None).unwrap();
    let program = base.program(&line).unwrap();
    let in_memory: u64 = program
        .range(0, program.len())
        .unwrap()
        .map(|piece| match piece {
            Piece::Memory(bytes) => bytes.len() as u64,
            Piece::Image(_) => 0,
        })
        .sum();
    assert!(in_memory < 200 << 10, "all but the stub stays in the image: {in_memory} bytes do not");
    let mut initrd = Vec::new();
    for export in &exports {
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(bytes(export, image));
    }
    let mut command_line = Vec::from(LINE);
    command_line.resize(2048, 0);
    Composed { program: bytes(&program, image), command_line, initrd, kernel }
}

/// What a door sends of an export, read in pieces of odd sizes.
fn bytes(export: &Export, image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    for from in (0..export.len()).step_by(1_000_003) {
        for piece in export.range(from, (export.len() - from).min(1_000_003)).unwrap() {
            match piece {
                Piece::Memory(memory) => bytes.extend(memory),
                Piece::Image(range) => {
                    let at = bytes.len();
                    bytes.resize(at + range.len() as usize, 0);
                    image.source.read_exact_at(&mut bytes[at..], range.offset()).unwrap();
                }
            }
        }
    }
    bytes
}

/// Composes with a stub and holds the result against the rules and against the other parser.
fn check(image: &Arc<Image>, stub_file: &[u8]) {
    let stub = Stub::parse(stub_file.to_vec()).unwrap();
    let Composed { program, command_line, initrd, kernel } = compose(image, &stub);
    let parts = [(".initrd", initrd), (".linux", kernel), (".cmdline", command_line)];
    let kernel_pe = PeFile64::parse(&*parts[1].1).unwrap();
    let kernel_has_nx = kernel_pe.nt_headers().optional_header().dll_characteristics.get(LE).0 & 0x100 != 0;
    assert!(program == by_the_rules(stub_file, &parts, kernel_has_nx), "{stub}: it differs from the rules");

    let pe = PeFile64::parse(&*program).unwrap();
    let (before, after) = (PeFile64::parse(stub_file).unwrap(), pe.nt_headers().optional_header());
    let old = before.section_table().len();
    let sections: Vec<_> = pe.section_table().iter().collect();
    assert_eq!(sections.len(), old + 3);
    for ((name, content), section) in parts.iter().zip(&sections[old..]) {
        assert_eq!(section.raw_name(), name.as_bytes());
        let (at, len) = section.pe_file_range();
        assert_eq!(len as usize, content.len(), "{name}: the length that the kernel is told");
        assert!(&program[at as usize..][..len as usize] == content, "{name}");
    }
    for (ours, theirs) in before.section_table().iter().zip(&sections) {
        let content = |section: &object::pe::ImageSectionHeader, file: &[u8]| {
            let (at, len) = section.pe_file_range();
            file[at as usize..][..len as usize].to_vec()
        };
        assert!(content(ours, stub_file) == content(theirs, &program), "a section of the stub changed");
    }
    check_memory(&sections, after.size_of_image());
    let last = sections.last().unwrap();
    let end = last.pointer_to_raw_data.get(LE) + last.size_of_raw_data.get(LE);
    assert_eq!(program.len(), end as usize, "the padding of the last section is part of the file");
    let symbols = pe.nt_headers().file_header().pointer_to_symbol_table.get(LE);
    assert_eq!((symbols, after.check_sum()), (0, 0));
}

/// Sections do not overlap, and the last one ends where the program does.
fn check_memory(sections: &[&object::pe::ImageSectionHeader], size_of_image: u32) {
    let places = sections.iter().map(|section| section.pe_address_range());
    let mut places: Vec<_> = places.map(|(address, len)| (address, address + len)).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:x?}");
    assert_eq!(places.last().unwrap().1.next_multiple_of(4096), size_of_image);
}

#[test]
fn the_program_of_an_iso_is_composed_by_the_rules() {
    needs!(iso::NEEDS, [DEBIAN_STUB]);
    let image = Arc::new(Image::open(&iso::small().path).unwrap());
    let stub = fs::read(DEBIAN_STUB).unwrap();
    check(&image, &stub);
    let own = Stub::of_image(&image).unwrap();
    assert_eq!(own.version(), Stub::parse(stub).unwrap().version());
}

#[test]
fn newer_stubs_are_extended_by_the_same_rules() {
    only_with_all!();
    needs!(iso::NEEDS, ["apt-get"]);
    let image = Arc::new(Image::open(&iso::small().path).unwrap());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stubs");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/newer");
    output_of(Command::new(script).arg("stubs").arg(&dir));
    let mut versions = Vec::new();
    for file in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let stub = fs::read(&file).unwrap();
        check(&image, &stub);
        versions.push(Stub::parse(stub).unwrap().version().to_owned());
    }
    let newer = |version: &String| !version.starts_with("252");
    assert!(versions.iter().any(newer), "{versions:?}");
}

#[test]
fn the_initramfs_of_an_iso_is_read() {
    needs!(iso::NEEDS);
    let image = Arc::new(Image::open(&iso::small().path).unwrap());
    let initramfs = image.archiso.as_ref().unwrap().kernels[0].initramfs.unwrap();
    let contents = Contents::of(&image.content(initramfs).unwrap());
    // The test bed's init does by itself what archiso's hooks do.
    let Completeness::Missing(missing) = contents.answer(&Requirement::NBD) else { panic!("{contents:?}") };
    assert_eq!(missing, [Requirement::CommonHook, Requirement::NbdHook]);
    assert!(contents.found.contains(&Requirement::Nfsmount));
}

// ---- root file systems

const PATH: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// A tree with a large directory on the way, and files of many sizes beside the one that is looked for.
fn tree(dir: &Path, stub: &[u8]) -> PathBuf {
    let root = dir.join("root");
    let place = root.join("usr/lib/systemd/boot/efi");
    fs::create_dir_all(&place).unwrap();
    for i in 0..3000 {
        let name =
            format!("usr/lib/lib-with-a-rather-long-name-{:08x}.so.{i}", i32::wrapping_mul(i, 0x1e37_79b1));
        fs::write(root.join(name), i.to_string()).unwrap();
    }
    fs::write(place.join("addonx64.efi.stub"), &stub[..2048.min(stub.len())]).unwrap();
    fs::write(place.join("systemd-bootx64.efi"), stub.repeat(9)).unwrap();
    fs::write(root.join(PATH), stub).unwrap();
    root
}

fn read(image: &Path) -> Vec<u8> {
    let image = Source::open(image).unwrap();
    let squashfs = Squashfs::open(&image).unwrap();
    assert!(squashfs.read_file("usr/lib/systemd/boot/efi/nothing", 1).is_err());
    squashfs.read_file(PATH, 1 << 20).unwrap_or_else(|error| panic!("{error}; {} bytes", image.len()))
}

#[test]
fn a_stub_is_read_out_of_every_squashfs() {
    needs!(["mksquashfs", DEBIAN_STUB]);
    let dir = tempfile::tempdir().unwrap();
    let stub = fs::read(DEBIAN_STUB).unwrap();
    let root = tree(dir.path(), &stub);
    let image = dir.path().join("image.sfs");
    let releng = ["-comp", "xz", "-Xbcj", "x86", "-b", "1M", "-Xdict-size", "1M"];
    let ways: [&[&str]; 9] = [
        &releng,
        &["-comp", "xz", "-b", "4K"],
        &["-comp", "zstd", "-Xcompression-level", "15", "-b", "1M"],
        &["-comp", "zstd", "-b", "64K", "-no-fragments"],
        &["-comp", "gzip", "-b", "128K", "-always-use-fragments"],
        &["-comp", "lz4", "-Xhc", "-b", "256K"],
        &["-comp", "lz4", "-b", "4K", "-noI", "-noF"],
        &["-comp", "gzip", "-noI", "-noD", "-noF"],
        &["-comp", "xz", "-Xbcj", "x86,arm", "-b", "32K", "-no-exports", "-no-xattrs"],
    ];
    for way in ways {
        let _ = fs::remove_file(&image);
        let mut command = Command::new("mksquashfs");
        command.arg(&root).arg(&image).args(["-quiet", "-no-progress", "-all-root"]);
        output_of(command.args(way));
        assert!(read(&image) == stub, "{way:?}");
    }
}

#[test]
fn a_stub_is_read_out_of_every_erofs() {
    needs!(["mkfs.erofs", DEBIAN_STUB]);
    let dir = tempfile::tempdir().unwrap();
    let stub = fs::read(DEBIAN_STUB).unwrap();
    let root = tree(dir.path(), &stub);
    let image = dir.path().join("image.erofs");
    let mut ways: Vec<&[&str]> = vec![
        &[],
        &["-zlz4"],
        &["-zlz4hc,12", "-Eztailpacking"],
        &["-zlz4hc", "-C65536", "-Eztailpacking,force-inode-compact"],
        &["-zlz4", "-Elegacy-compress,force-inode-extended"],
    ];
    // Debian 12 has erofs-utils 1.5, which knows lz4 only.
    let help = tool("mkfs.erofs").arg("--help").output().expect("it is there");
    if [help.stdout, help.stderr].concat().windows(4).any(|word| word == b"lzma") {
        // As archiso's baseline profile has it, and what else there is.
        ways.push(&["-zlzma,109", "-Eztailpacking,fragments,dedupe,force-inode-extended"]);
        ways.push(&["-zlzma,6", "-C1048576", "-Eall-fragments"]);
        ways.push(&["-zzstd,12", "-C262144", "-Efragments,dedupe"]);
        ways.push(&["-zdeflate", "-Eztailpacking"]);
    }
    for way in ways {
        let _ = fs::remove_file(&image);
        output_of(tool("mkfs.erofs").args(["-d1", "-T0"]).args(way).arg(&image).arg(&root));
        let image = Source::open(&image).unwrap();
        let read = |path, limit| erofs::read_file(&image, path, limit);
        assert!(read(PATH, 1 << 20).unwrap() == stub, "{way:?}");
        assert!(matches!(read("usr/lib/nothing", 1), Err(RootfsError::Missing(_))), "{way:?}");
        assert!(matches!(read("usr/lib", 1), Err(RootfsError::NotAFile(_))), "{way:?}");
        assert!(matches!(read(PATH, 83_000), Err(RootfsError::TooLarge { .. })), "{way:?}");
    }
}
