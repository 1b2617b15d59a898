//! Properties of the boot room.

use std::net::Ipv4Addr;

use crate::boot::bootable::Tree;
use crate::boot::menu::{
    Bootable, Cms, CopyToRam, Menu, Ports, Root, Server, Settings, Shown, Start, ipxe, pxelinux,
};
use crate::boot::syslinux;
use crate::boot::text::Word;
use crate::boot::uki::pe::{Headers, Section};
use crate::boot::uki::{self, CommandLine, EfiKernel, Stub};
use crate::export::{Export, Piece};
use crate::image::arch::{Airootfs, Archiso, Format, Kernel};
use crate::image::index::Attributes;
use crate::image::{Extent, Index, Kind, NodeId};

/// The directives that a menu of ours has, and the first words of its help texts.
const WORDS: &[&str] = &[
    "",
    "#",
    "SERIAL",
    "UI",
    "MENU",
    "DEFAULT",
    "TIMEOUT",
    "LABEL",
    "TEXT",
    "ENDTEXT",
    "LINUX",
    "INITRD",
    "APPEND",
    "SYSAPPEND",
    "CONFIG",
    "LOCALBOOT",
    "SAY",
    "PROMPT",
    "The",
    "It",
    "Leaves",
];

/// The commands that a script of ours has.
const COMMANDS: &[&str] = &[
    "#!ipxe", "#", "imgfree", "isset", "menu", "item", "choose", "goto", "kernel", "initrd", "boot", "exit",
    "prompt",
];

/// Longest kernel command line that x86 takes, without what SYSAPPEND adds (`ip=` with four addresses, `BOOTIF=`).
const COMMAND_LINE_MAX: usize = 2047 - 128;

/// The longest prefix there is.
const SERVER: Server =
    Server { address: Ipv4Addr::BROADCAST, ports: Ports { tftp: 69, http: Some(u16::MAX) } };
const PREFIX: &str = "http://255.255.255.255:65535/i~1/";

/// The files of an image's menu are separated by NUL. Whatever they hold, the menus made from them are plain text, have
/// the entries that they were made to have and no other, and load only what is in the image.
pub fn syslinux_menu(data: &[u8]) {
    let files: Vec<&[u8]> = data.splitn(MENUS.len(), |&byte| byte == 0).collect();
    let (index, archiso) = image();
    let read = |node: NodeId| {
        let position = archiso.syslinux_menus.iter().position(|&menu| menu == node)?;
        files.get(position).map(|text| text.to_vec())
    };
    let tree = Tree { index: &index, read: &read };
    let bootable = tree.bootable("i", "i~1", &archiso, Some("UUID")).expect("it is an archiso image");
    check(&index, &bootable);
}

/// Checks the menus that are made for an image.
fn check(index: &Index, bootable: &Bootable) {
    let roots = Root::ALL.to_vec();
    let parameters = Word::new("quiet").into_iter().collect();
    let settings = Settings { roots, copytoram: CopyToRam::Auto, timeout: 10, cms: Cms::Verify, parameters };
    let menu = Menu {
        server: SERVER,
        start: Start::Menu,
        timeout: 10,
        images: vec![Shown { image: bootable, settings }],
        look: &bootable.look,
        stock: bootable.stock.as_ref(),
    };
    let [text, script] = [pxelinux::write(&menu), ipxe::write(&menu, None)];
    for text in [&text, &script] {
        assert!(text.bytes().all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()), "{text}");
    }
    check_menu(index, &text);
    let stock = usize::from(bootable.stock.is_some());
    check_script(index, &script, text.matches("\nLABEL ").count() - stock);
}

fn check_menu(index: &Index, text: &str) {
    for line in text.lines() {
        assert!(WORDS.contains(&line.split(' ').next().unwrap_or_default()), "{line}");
    }
    let read = syslinux::parse(text.as_bytes(), &mut |name| panic!("nothing of ours includes {name}"));
    assert_eq!(read.entries.len(), text.matches("\nLABEL ").count());
    for (entry, number) in read.entries.iter().zip(1..) {
        assert_eq!(entry.label, number.to_string());
        entry.kernel.iter().chain(&entry.initrd).for_each(|name| check_file(index, name));
        let initrd: usize = entry.initrd.iter().map(|name| name.len() + 1).sum();
        let bytes: usize = entry.parameters.iter().map(|word| word.len() + 1).sum();
        assert!(initrd + bytes + entry.kernel.as_ref().map_or(0, String::len) <= COMMAND_LINE_MAX, "{text}");
        assert!(entry.parameters.iter().all(|word| !word.contains("initrd=")));
    }
}

/// iPXE reads a script line by line and splits lines at their spaces (src/image/script.c, src/core/exec.c).
fn check_script(index: &Index, text: &str, entries: usize) {
    let mut labels = Vec::new();
    for line in text.lines() {
        assert!(!line.ends_with('\\'), "{line}");
        let words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
        let Some((first, rest)) = words.split_first() else { continue };
        if let Some(label) = first.strip_prefix(':') {
            labels.push(label);
            assert!(rest.is_empty(), "{line}");
            continue;
        }
        assert!(COMMANDS.contains(first), "{line}");
        let separators = rest.iter().filter(|word| matches!(**word, "||" | "&&" | ";")).count();
        let goes_on = matches!(*first, "kernel" | "initrd" | "choose" | "boot" | "prompt");
        match *first {
            "isset" => assert_eq!(line, "isset ${netX/ip} || dhcp ||"),
            "imgfree" => assert!(["imgfree", "imgfree autoexec.ipxe ||"].contains(&line), "{line}"),
            _ => assert_eq!(separators, usize::from(goes_on), "{line}"),
        }
        let comments = rest.iter().filter(|word| word.starts_with('#')).count();
        assert!(*first == "#" || comments == 0, "{line}");
        let own = ["${netX/ip}", "${netX/gateway}", "${netX/netmask}", "${netX/mac:hexhyp}", "${entry}"];
        let settings = own.iter().map(|name| line.matches(name).count()).sum::<usize>();
        assert_eq!(line.matches("${").count(), settings, "{line}");
        let file = match *first {
            "kernel" => rest.first(),
            "initrd" => rest.get(2),
            _ => None,
        };
        file.into_iter().for_each(|name| check_file(index, name));
    }
    let numbers: Vec<_> = (1..=entries).map(|number| number.to_string()).collect();
    assert_eq!(labels.first(), Some(&"start"));
    assert_eq!(labels.last(), Some(&"failed"));
    assert!(labels.iter().skip(1).take(entries).eq(&numbers), "{labels:?}");
    assert_eq!(labels.len(), entries + 2);
}

fn check_file(index: &Index, name: &str) {
    let path = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{name} is not ours"));
    assert!(crate::export::path::resolve(index, path.as_bytes()).is_ok(), "{name}");
}

/// The menus of the image, by the names in archiso's; the first part of the input is the first.
const MENUS: [&str; 4] = ["archiso_pxe.cfg", "archiso_head.cfg", "archiso_pxe-linux.cfg", "archiso_tail.cfg"];

fn image() -> (Index, Archiso) {
    let attributes = Attributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let mut add =
        |parent, name: &str, kind| index.add(parent, name.as_bytes(), kind, attributes).expect("a good name");
    let directory = || Kind::Directory { entries: Vec::new() };
    let file = || Kind::File { extents: vec![Extent { offset: 0, len: 1 }] };
    let arch = add(NodeId::ROOT, "arch", directory());
    let kernel = add(arch, "vmlinuz-linux", file());
    let initramfs = add(arch, "initramfs-linux.img", file());
    let airootfs = add(arch, "airootfs.sfs", file());
    let syslinux = add(NodeId::ROOT, "syslinux", directory());
    let lpxelinux = add(syslinux, "lpxelinux.0", file());
    add(syslinux, "menu.c32", file());
    let archiso = Archiso {
        install_dir: "arch".into(),
        kernels: vec![Kernel {
            arch: "x86_64".into(),
            name: "linux".into(),
            kernel,
            initramfs: Some(initramfs),
            microcode: Vec::new(),
        }],
        airootfs: vec![Airootfs {
            arch: "x86_64".into(),
            node: airootfs,
            format: Format::Squashfs,
            size: 1,
            sha512: None,
            cms_signature: Some(airootfs),
        }],
        uuid_file: None,
        syslinux_dir: Some(syslinux),
        lpxelinux: Some(lpxelinux),
        syslinux_menus: MENUS.into_iter().map(|name| add(syslinux, name, file())).collect(),
        loader_entries: Vec::new(),
    };
    (index, archiso)
}

/// A stub that is taken makes a program: all its sections are where they were and hold what they held, and three follow
/// that hold what they were given.
pub fn pe_stub(data: &[u8]) {
    let (Ok(stub), Ok(before)) = (Stub::parse(data.to_vec()), Headers::parse(data)) else { return };
    let words: Vec<_> = ["quiet", "ip=dhcp"].into_iter().filter_map(Word::new).collect();
    let line = CommandLine::new(&words).expect("a short line");
    // A stub is a program for EFI, so it can stand for a kernel.
    let kernel = EfiKernel::new(Export::of_memory("kernel"), data).expect("it was taken for a stub");
    let Ok(program) = uki::compose(&stub, &line, &[Export::of_memory("initramfs")], &kernel) else { return };
    assert!(stub.version().bytes().all(|byte| byte.is_ascii_graphic()));
    let program = memory(&program);
    let after = Headers::parse(&program).expect("a PE program");
    let sections = after.section_table(&program).expect("a whole table");
    let (old, new) = sections.split_at(before.sections.into());
    assert_eq!(old, before.section_table(data).expect("it was taken"));
    for section in old.iter().filter(|section| section.raw_size > 0) {
        assert_eq!(content(section, data, section.raw_size), content(section, &program, section.raw_size));
    }
    let given: [(&[u8], &[u8]); 3] =
        [(b".cmdline", b"quiet ip=dhcp"), (b".initrd\0", b"initramfs"), (b".linux\0\0", b"kernel")];
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
