//! Properties of the boot room.

use std::net::Ipv4Addr;

use crate::boot::bootable::Tree;
use crate::boot::menu::{self, Bootable, Cms, CopyToRam, Place, Ports, Root, Server, Settings};
use crate::boot::syslinux;
use crate::boot::text::Word;
use crate::boot::uki::pe::{Headers, Section};
use crate::boot::uki::{self, CommandLine, EfiKernel, Stub};
use crate::boot::{grub, loader};
use crate::config;
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

/// Longest kernel command line that x86 takes, without what SYSAPPEND adds (`ip=` with four addresses, `BOOTIF=`).
const COMMAND_LINE_MAX: usize = 2047 - 128;

/// The files of an image's menu are separated by NUL. Whatever they hold, the menu made from them is plain text, has
/// the entries that it was made to have and no other, and loads only what is in the image.
pub fn syslinux_menu(data: &[u8]) {
    menu_of(&MENUS, data);
}

/// The same for systemd-boot's entries: two of them, and what says which comes first. An entry's parts are no more than
/// its text is.
pub fn loader_entry(data: &[u8]) {
    let entry = loader::parse("a.conf", data).entry;
    let parts = entry.title.iter().chain(&entry.kernel).chain(&entry.initrd).chain(&entry.parameters);
    assert!(parts.map(String::len).sum::<usize>() <= data.len());
    menu_of(&["loader/entries/a.conf", "loader/entries/b.conf", "loader/loader.conf"], data);
}

/// The same for a menu of GRUB, and a file that it may source.
pub fn grub_menu(data: &[u8]) {
    let entries = grub::parse(data, "/boot/grub", &mut |_| None);
    assert!(entries.iter().all(|entry| entry.kernel.as_ref().is_some_and(|kernel| !kernel.contains('\0'))));
    menu_of(&["boot/grub/grub.cfg", "boot/grub/a.cfg", "boot/grub/loopback.cfg"], data);
}

/// The image has these files; the first part of the input is the first.
fn menu_of(paths: &[&str], data: &[u8]) {
    let texts: Vec<&[u8]> = data.splitn(paths.len(), |&byte| byte == 0).collect();
    let (index, archiso) = image(paths);
    let nodes: Vec<_> = paths.iter().map(|path| index.resolve(NodeId::ROOT, path.as_bytes())).collect();
    let read = |node: NodeId| {
        let position = nodes.iter().position(|&menu| menu == Some(node))?;
        texts.get(position).map(|text| text.to_vec())
    };
    let tree = Tree { index: &index, read: &read };
    let bootable =
        tree.bootable("i", Place::Default, &archiso, Some("UUID")).expect("it is an archiso image");
    let parameters = Word::new("quiet").into_iter().collect();
    check(&index, &bootable, parameters);
}

/// Whatever the configuration file holds, it is settings or one line that says what is wrong; and no setting leaves its
/// line of the menu.
pub fn config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let config = match config::of_text(text) {
        Ok(config) => config,
        Err(wrong) => {
            let line = wrong.to_string();
            assert!(!line.is_empty() && !line.contains(char::is_control), "{line:?}");
            return;
        }
    };
    assert!(!config.images.is_empty());
    assert!(config.root.is_none_or(|root| config.menu.roots.first() == Some(&root)));
    let (index, archiso) = image(&MENUS);
    let tree = Tree { index: &index, read: &|_| None };
    let [first, ..] = &config.images[..] else { return };
    let bootable =
        tree.bootable(first.name.as_str(), Place::Named, &archiso, None).expect("its name is a word");
    check(&index, &bootable, config.menu.parameters);
}

fn check(index: &Index, bootable: &Bootable, parameters: Vec<Word>) {
    let roots = vec![Root::Nbd, Root::Nfs, Root::Http];
    let settings = Settings { roots, copytoram: CopyToRam::Auto, timeout: 10, cms: Cms::Verify, parameters };
    // The longest prefix there is.
    let server = Server { address: Ipv4Addr::BROADCAST, ports: Ports { tftp: 69, http: Some(u16::MAX) } };
    let text = menu::generate(std::slice::from_ref(bootable), &settings, &server);
    assert!(text.bytes().all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()), "{text}");
    for line in text.lines() {
        assert!(WORDS.contains(&line.split(' ').next().unwrap_or_default()), "{line}");
    }
    let read = syslinux::parse(text.as_bytes(), &mut |name| panic!("nothing of ours includes {name}"));
    assert_eq!(read.entries.len(), text.matches("\nLABEL ").count());
    for (entry, number) in read.entries.iter().zip(1..) {
        assert_eq!(entry.label, number.to_string());
        for name in entry.kernel.iter().chain(&entry.initrd) {
            let path = name.strip_prefix("http://255.255.255.255:65535/").expect("our prefix");
            let path = match bootable.place {
                Place::Default => path,
                Place::Named => path.split_once('/').expect("the image's name").1,
            };
            assert!(crate::export::path::resolve(index, path.as_bytes()).is_ok(), "{name}");
        }
        let initrd: usize = entry.initrd.iter().map(|name| name.len() + 1).sum();
        let bytes: usize = entry.parameters.iter().map(|word| word.len() + 1).sum();
        assert!(initrd + bytes + entry.kernel.as_ref().map_or(0, String::len) <= COMMAND_LINE_MAX, "{text}");
        assert!(entry.parameters.iter().all(|word| !word.contains("initrd=")));
    }
}

/// The menus of an image, by the names in archiso's.
const MENUS: [&str; 4] = [
    "syslinux/archiso_pxe.cfg",
    "syslinux/archiso_head.cfg",
    "syslinux/archiso_pxe-linux.cfg",
    "syslinux/archiso_tail.cfg",
];

/// An archiso image with these files besides.
fn image(paths: &[&str]) -> (Index, Archiso) {
    let attributes = Attributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let mut add = |path: &str| {
        let (directory, name) = path.rsplit_once('/').expect("in a directory");
        let parent = directory.split('/').fold(NodeId::ROOT, |parent, name| {
            index.child(parent, name.as_bytes()).unwrap_or_else(|| {
                let kind = Kind::Directory { entries: Vec::new() };
                index.add(parent, name.as_bytes(), kind, attributes).expect("a good name")
            })
        });
        let kind = Kind::File { extents: vec![Extent { offset: 0, len: 1 }] };
        index.add(parent, name.as_bytes(), kind, attributes).expect("a good name")
    };
    let [kernel, initramfs, airootfs, lpxelinux] =
        ["arch/vmlinuz-linux", "arch/initramfs-linux.img", "arch/airootfs.sfs", "syslinux/lpxelinux.0"]
            .map(&mut add);
    add("syslinux/menu.c32");
    let nodes: Vec<_> = paths.iter().map(|path| (*path, add(path))).collect();
    let within = |directory: &str| {
        nodes.iter().filter(|(path, _)| path.starts_with(directory)).map(|(_, node)| *node).collect()
    };
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
        syslinux_dir: index.child(NodeId::ROOT, b"syslinux"),
        lpxelinux: Some(lpxelinux),
        syslinux_menus: within("syslinux/"),
        loader_entries: within("loader/entries/"),
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
