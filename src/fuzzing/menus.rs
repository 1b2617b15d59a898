//! Properties of the menus that are made of what images and the operator say.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::boot::menu::{Cms, CopyToRam, Menu, MenuImage, MenuMachine, MenuSettings, Start, ipxe, pxelinux};
use crate::boot::{FileServer, Ports};
use crate::bootable::{Bootable, ImageTree, Root, TITLE_MAX, TreeContent, grub, syslinux, systemd_boot};
use crate::config;
use crate::image::arch::{Airootfs, AirootfsFormat, Archiso, ArchisoKernel};
use crate::image::index::NodeAttributes;
use crate::image::initramfs::Contents;
use crate::image::{Extent, Index, NodeId, NodeKind, Volume};
use crate::images::name::name_of;
use crate::text::Word;

/// The directives that a menu of ours has. A line of a help text begins with a space.
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
    "COM32",
    "SAY",
    "PROMPT",
];

/// The commands that a script of ours has.
const COMMANDS: &[&str] = &[
    "#!ipxe", "#", "imgfree", "isset", "iseq", "set", "menu", "item", "choose", "goto", "kernel", "initrd",
    "boot", "exit", "reboot", "echo", "shell", "prompt",
];

/// Longest kernel command line that x86 takes, without what SYSAPPEND adds (`ip=` with four
/// addresses, `BOOTIF=`).
const COMMAND_LINE_MAX: usize = 2047 - 128;

/// The longest prefix there is.
const SERVER: FileServer =
    FileServer { address: Ipv4Addr::BROADCAST, ports: Ports { tftp: 69, http: Some(u16::MAX) } };
const PREFIX: &str = "http://255.255.255.255:65535/";
/// The longest path of a seed.
const SEED: &str = "isowire/52-54-00-12-34-56/rule-4095/seed/";

/// The files of an image's menu are separated by NUL. Whatever they hold, the menus made from them
/// are plain text, have the entries that they were made to have and no other, and load only what is
/// in the image.
pub fn syslinux_menu(data: &[u8]) {
    menu_of(&MENUS, data);
}

/// The same for systemd-boot's entries: two of them, and what says which comes first. An entry's
/// parts are no more than its text is.
pub fn loader_entry(data: &[u8]) {
    let entry = systemd_boot::parse("a.conf", data).entry;
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
    let volume = Volume {
        uuid: Some("UUID".to_owned()),
        application: String::from_utf8_lossy(texts.last().copied().unwrap_or_default()).into_owned(),
        ..Volume::default()
    };
    let tree = ImageTree { index: &index, content: &Texts { nodes, texts } };
    let bootable = tree.bootable("i", "i~1", &archiso, &volume).expect("it is an archiso image");
    let parameters = Word::new("quiet").into_iter().collect();
    check(&index, &bootable, parameters);
}

/// The texts of menus, by their nodes.
#[derive(Default)]
struct Texts<'a> {
    nodes: Vec<Option<NodeId>>,
    texts: Vec<&'a [u8]>,
}

impl TreeContent for Texts<'_> {
    fn menu(&self, node: NodeId) -> Option<Vec<u8>> {
        let position = self.nodes.iter().position(|&menu| menu == Some(node))?;
        self.texts.get(position).map(|text| text.to_vec())
    }

    fn self_tests(&self, _initramfs: NodeId) -> Option<Arc<Contents>> {
        None
    }
}

/// Reads a configuration file: settings, or one line that says what is wrong. No setting leaves its
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
    let tree = ImageTree { index: &index, content: &Texts::default() };
    let [first, ..] = &config.images[..] else { return };
    let name = first.name.as_ref().map_or_else(|| name_of(&first.path), ToString::to_string);
    let versioned_name = format!("{name}~1");
    let bootable =
        tree.bootable(&name, &versioned_name, &archiso, &Volume::default()).expect("its name is a word");
    check(&index, &bootable, config.menu.parameters);
}

/// Checks the menus that are made for an image.
fn check(index: &Index, bootable: &Bootable, parameters: Vec<Word>) {
    let roots = Root::ALL.to_vec();
    let settings =
        MenuSettings { roots, copytoram: CopyToRam::Auto, timeout: 10, cms: Cms::Verify, parameters };
    let menu = Menu {
        server: SERVER,
        machine: MenuMachine::default(),
        start: Start::Menu,
        timeout: 10,
        images: vec![MenuImage {
            image: bootable,
            settings,
            seed: Some(format!("{PREFIX}{SEED}")),
            script: None,
        }],
        look: &bootable.look,
        stock: bootable.stock.as_ref(),
    };
    let [text, script] = [pxelinux::write(&menu), ipxe::write(&menu)];
    for text in [&text, &script] {
        assert!(text.bytes().all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()), "{text}");
    }
    check_menu(index, bootable, &text);
    check_script(index, bootable, &script);
}

fn check_menu(index: &Index, bootable: &Bootable, text: &str) {
    for line in text.lines() {
        assert!(WORDS.contains(&line.split(' ').next().unwrap_or_default()), "{line}");
        let title = line.strip_prefix("MENU LABEL ").or(line.strip_prefix("MENU TITLE "));
        assert!(title.is_none_or(|title| (1..=TITLE_MAX).contains(&title.len())), "{line}");
        assert!(!line.starts_with(' ') || line.len() <= 71, "{line}");
    }
    let read = syslinux::parse(text.as_bytes(), &mut |name| panic!("nothing of ours includes {name}"));
    assert_eq!(read.entries.len(), text.matches("\nLABEL ").count());
    for (entry, number) in read.entries.iter().zip(1..) {
        assert_eq!(entry.label, number.to_string());
        entry.kernel.iter().chain(&entry.initrd).for_each(|name| check_file(index, bootable, name));
        let initrd: usize = entry.initrd.iter().map(|name| name.len() + 1).sum();
        let bytes: usize = entry.parameters.iter().map(|word| word.len() + 1).sum();
        assert!(initrd + bytes + entry.kernel.as_ref().map_or(0, String::len) <= COMMAND_LINE_MAX, "{text}");
        assert!(entry.parameters.iter().all(|word| !word.contains("initrd=")));
    }
}

/// iPXE reads a script line by line and splits lines at their spaces (src/image/script.c,
/// src/core/exec.c).
fn check_script(index: &Index, bootable: &Bootable, text: &str) {
    let (mut labels, mut items) = (Vec::new(), Vec::new());
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
        check_line(line, first, rest);
        let file = match (*first, rest) {
            ("kernel", ["${test}", ..]) => None,
            ("kernel", [path, ..]) | ("initrd", [_, _, path, ..]) => Some(path),
            ("iseq", [_, _, "&&", "set", "test", path, ..]) => Some(path),
            _ => None,
        };
        file.into_iter().for_each(|name| check_file(index, bootable, name));
        if let ("item", [number, ..]) | ("iseq", [_, _, "&&", "item", number, ..]) = (*first, rest)
            && *number != "--gap"
        {
            items.push(*number);
        }
    }
    assert_eq!((labels.first(), labels.last()), (Some(&"start"), Some(&"failed")));
    // Each row has its place, and each place but the first and the last its row.
    let mut numbers: Vec<_> = labels.iter().copied().skip(1).take(labels.len() - 2).collect();
    numbers.sort_unstable();
    items.sort_unstable();
    assert_eq!(numbers, items, "{text}");
}

fn check_line(line: &str, first: &str, rest: &[&str]) {
    let separators = rest.iter().filter(|word| matches!(**word, "||" | "&&" | ";")).count();
    match first {
        "isset" => assert_eq!(line, "isset ${netX/ip} || dhcp ||"),
        "imgfree" => assert!(["imgfree", "imgfree autoexec.ipxe ||"].contains(&line), "{line}"),
        "kernel" | "initrd" | "choose" | "boot" | "prompt" | "set" | "shell" => {
            assert_eq!(separators, 1, "{line}")
        }
        "menu" => assert!(separators <= 1, "{line}"),
        "iseq" => assert!(line.starts_with("iseq ${platform} ") && separators == 2, "{line}"),
        _ => assert_eq!(separators, 0, "{line}"),
    }
    let comments = rest.iter().filter(|word| word.starts_with('#')).count();
    assert!(first == "#" || comments == 0, "{line}");
    let own = [
        "${netX/ip}",
        "${netX/gateway}",
        "${netX/netmask}",
        "${netX/mac}",
        "${netX/mac:hexhyp}",
        "${entry}",
        "${pad}",
        "${pad:string}",
        "${platform}",
        "${test}",
    ];
    let settings = own.iter().map(|name| line.matches(name).count()).sum::<usize>();
    assert_eq!(line.matches("${").count(), settings, "{line}");
}

fn check_file(index: &Index, bootable: &Bootable, name: &str) {
    let path = name.strip_prefix(PREFIX).and_then(|path| path.strip_prefix(bootable.versioned_name.as_str()));
    let path = path.unwrap_or_else(|| panic!("{name} is not ours"));
    assert!(crate::export::path::resolve(index, path.as_bytes()).is_ok(), "{name}");
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
    let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let mut add = |path: &str| {
        let (directory, name) = path.rsplit_once('/').expect("in a directory");
        let parent = directory.split('/').fold(NodeId::ROOT, |parent, name| {
            index.child(parent, name.as_bytes()).unwrap_or_else(|| {
                let kind = NodeKind::Directory { entries: Vec::new() };
                index.add(parent, name.as_bytes(), kind, attributes).expect("a good name")
            })
        });
        let kind = NodeKind::File { extents: vec![Extent { offset: 0, len: 1 }] };
        index.add(parent, name.as_bytes(), kind, attributes).expect("a good name")
    };
    let [kernel, initramfs, airootfs, lpxelinux] =
        ["arch/vmlinuz-linux", "arch/initramfs-linux.img", "arch/airootfs.sfs", "syslinux/lpxelinux.0"]
            .map(&mut add);
    for path in ["syslinux/menu.c32", "syslinux/reboot.c32", "boot/memtest"] {
        add(path);
    }
    let nodes: Vec<_> = paths.iter().map(|path| (*path, add(path))).collect();
    let within = |directory: &str| {
        nodes.iter().filter(|(path, _)| path.starts_with(directory)).map(|(_, node)| *node).collect()
    };
    let mut archiso = Archiso {
        syslinux_dir: index.child(NodeId::ROOT, b"syslinux"),
        lpxelinux: Some(lpxelinux),
        syslinux_menus: within("syslinux/"),
        loader_entries: within("loader/entries/"),
        ..archiso(kernel, initramfs, airootfs, 1)
    };
    archiso.airootfs.iter_mut().for_each(|root| root.cms_signature = Some(airootfs));
    (index, archiso)
}

/// archiso with one kernel and one root file system of `size` bytes, without boot loaders.
pub(crate) fn archiso(kernel: NodeId, initramfs: NodeId, airootfs: NodeId, size: u64) -> Archiso {
    let arch = "x86_64".to_owned();
    let (format, sha512, cms_signature) = (AirootfsFormat::Squashfs, None, None);
    Archiso {
        install_dir: "arch".into(),
        kernels: vec![ArchisoKernel {
            arch: arch.clone(),
            name: "linux".into(),
            kernel,
            initramfs: Some(initramfs),
            microcode: Vec::new(),
        }],
        airootfs: vec![Airootfs {
            arch,
            node: airootfs,
            format,
            size,
            sha512,
            cms_signature,
            md5: None,
            gpg_signature: None,
        }],
        uuid_file: None,
        syslinux_dir: None,
        lpxelinux: None,
        syslinux_menus: Vec::new(),
        loader_entries: Vec::new(),
    }
}
