//! Boot plans, and the way from an image to the files a machine loads, on images made of a list of
//! files.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::files::{Directory, Entry, FileError};
use super::menu::{Cms, CopyToRam, MenuSettings, Overrides, Start};
use super::rules::ClientFilter;
use super::*;
use crate::bootable::{FileKind, survey};
use crate::export::Piece;
use crate::export::path::PathError;
use crate::image::arch::{Airootfs, AirootfsFormat, Archiso, ArchisoKernel};
use crate::image::index::NodeAttributes;
use crate::image::{Extent, Image, Index, NodeId, NodeKind, Source};
use crate::images::ImageSet;
use crate::images::ServedImage;
use crate::text::Word;

const HEAD: &str = include_str!("../../tests/iso/syslinux/archiso_head.cfg");
const PXE: &str = include_str!("../../tests/iso/syslinux/archiso_pxe.cfg");
const PXE_ENTRIES: &str = include_str!("../../tests/iso/syslinux/archiso_pxe-linux.cfg");
const TAIL: &str = include_str!("../../tests/iso/syslinux/archiso_tail.cfg");

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const PORTS: Ports = Ports { tftp: 69, http: Some(80) };

fn site() -> BootTargets {
    site_with(Ok(vec![Root::Nfs, Root::Nbd]), PORTS)
}

fn site_with(roots: Result<Vec<Root>, UefiError>, ports: Ports) -> BootTargets {
    BootTargets::new(Some("boot/syslinux/lpxelinux.0"), ports).with_image(Word::new("one").unwrap(), roots)
}

/// What a client of these tests boots.
fn plan(client: &Client<'_>, server: Ipv4Addr, targets: &BootTargets) -> Result<BootPlan, Refusal> {
    super::plan(client.platform().unwrap(), &targets.rules().select(client), server, targets)
}

fn machine(firmware: Firmware, architecture: u16) -> Client<'static> {
    let (mac, architecture) =
        (Mac::new(&[0x52, 0x54, 0, 0x12, 0x34, 0xfe]), Some(Architecture(architecture)));
    Client { mac, architecture, firmware: Some(firmware), vendor_class: b"PXEClient" }
}

#[test]
fn bios_machines_load_pxelinux_of_image() {
    let plan = plan(&machine(Firmware::Pxe, 0), HERE, &site()).unwrap();
    assert_eq!(plan.boot_file.to_string(), "/boot/syslinux/lpxelinux.0");
    assert_eq!(
        plan.config_file.as_ref().map(SafeText::as_str),
        Some("::/isowire/52-54-00-12-34-fe/pxelinux.cfg")
    );
}

#[test]
fn ipxe_gets_a_script_on_any_firmware() {
    for architecture in [0, 7, 9] {
        let machine = machine(Firmware::Ipxe, architecture);
        let file = |site: &BootTargets| plan(&machine, HERE, site).unwrap();
        assert_eq!(
            file(&site()).boot_file.to_string(),
            "http://10.0.0.1/isowire/52-54-00-12-34-fe/boot.ipxe"
        );
        assert_eq!(file(&site()).config_file, None);
        let without_http = site_with(Ok(vec![Root::Nbd]), Ports { http: None, ..PORTS });
        assert_eq!(file(&without_http).boot_file.to_string(), "/isowire/52-54-00-12-34-fe/boot.ipxe");
        // Never again what it was loaded as.
        assert_eq!(file(&site().with_uefi_by(UefiBy::Ipxe)), file(&site()));
    }
}

#[test]
fn limited_ipxe_gets_ipxe_of_host_once() {
    let file = |architecture, is_retry, ipxe| {
        let machine = machine(Firmware::LimitedIpxe { is_retry }, architecture);
        plan(&machine, HERE, &site().with_ipxe(ipxe)).unwrap().boot_file.to_string()
    };
    let (none, all) = (IpxePrograms::default(), IpxePrograms { bios: true, uefi: true });
    let own = |name| format!("/isowire/52-54-00-12-34-fe/{name}");
    assert_eq!(file(0, false, all), own("undionly.kpxe"));
    for architecture in [7, 9] {
        assert_eq!(file(architecture, false, all), own("ipxe.efi"));
        // Never a URL of HTTP, which it cannot load.
        assert_eq!(file(architecture, true, all), own("tftp.ipxe"));
        assert_eq!(file(architecture, false, none), own("tftp.ipxe"));
    }
    for (is_retry, ipxe) in [(true, all), (false, none), (false, IpxePrograms { bios: false, uefi: true })] {
        assert_eq!(file(0, is_retry, ipxe), "/boot/syslinux/lpxelinux.0");
    }
    let old = Rule { quirks: [Quirk::NoScript].into_iter().collect(), ..Rule::default() };
    let by_quirk = site().with_ipxe(all).with_rules(Rules::new(vec![rule("52:54", old)]).into());
    let bios = machine(Firmware::LimitedIpxe { is_retry: false }, 0);
    assert_eq!(plan(&bios, HERE, &by_quirk).unwrap().boot_file.to_string(), "/boot/syslinux/lpxelinux.0");
}

#[test]
fn uefi_may_load_ipxe_first() {
    let site = site().with_uefi_by(UefiBy::Ipxe);
    let boot_file = |machine: Client<'_>| plan(&machine, HERE, &site).unwrap().boot_file.to_string();
    assert_eq!(boot_file(machine(Firmware::Pxe, 7)), "/isowire/52-54-00-12-34-fe/ipxe.efi");
    let url = "http://10.0.0.1/isowire/52-54-00-12-34-fe/ipxe.efi";
    assert_eq!(boot_file(machine(Firmware::HttpBoot, 16)), url);
    assert_eq!(boot_file(machine(Firmware::Pxe, 0)), "/boot/syslinux/lpxelinux.0");
    assert_eq!(site.uefi_boot_file().as_deref(), Some("/isowire/ipxe.efi"));
}

fn rule(mac: &str, rule: Rule) -> Rule {
    Rule { who: ClientFilter { macs: vec![mac.parse().unwrap()], ..ClientFilter::default() }, ..rule }
}

#[test]
fn rule_selects_image_root_and_loader() {
    let two = Word::new("two").unwrap();
    let prefers = |root| Overrides { root: Some(root), ..Overrides::default() };
    let site =
        |rule| site().with_image(two.clone(), Ok(vec![Root::Http])).with_rules(Rules::new(vec![rule]).into());
    let file = |machine: Client<'_>, site: &BootTargets| {
        plan(&machine, HERE, site).map(|plan| plan.boot_file.to_string())
    };
    let (bios, uefi) = (machine(Firmware::Ipxe, 0), machine(Firmware::Pxe, 7));
    let by_root = site(rule("52:54", Rule { overrides: prefers(Root::Nbd), ..Rule::default() }));
    assert_eq!(file(uefi, &by_root).unwrap(), "/isowire/52-54-00-12-34-fe/nbd.efi");
    let by_image = site(rule("52:54", Rule { image: Some(two.clone()), ..Rule::default() }));
    assert_eq!(file(uefi, &by_image).unwrap(), "/isowire/52-54-00-12-34-fe/http.efi");
    let old = [Quirk::NoScript].into_iter().collect();
    let by_quirk = site(rule("52:54", Rule { quirks: old, ..Rule::default() }));
    assert_eq!(file(bios, &by_quirk).unwrap(), "/boot/syslinux/lpxelinux.0");
    assert_eq!(file(machine(Firmware::Ipxe, 7), &by_quirk), Err(Refusal::NoScript));
    // What a path cannot tell by itself, it says.
    let who = ClientFilter { architectures: vec![Architecture::UEFI], ..ClientFilter::default() };
    let by_architecture = site(Rule { who, overrides: prefers(Root::Nbd), ..Rule::default() });
    assert_eq!(file(uefi, &by_architecture).unwrap(), "/isowire/52-54-00-12-34-fe/rule-0/nbd.efi");
}

#[test]
fn machine_that_boots_its_local_disk_is_led_there() {
    let rules = Rules::default();
    let site =
        site().with_image(Word::new("two").unwrap(), Ok(vec![Root::Http])).with_rules(rules.clone().into());
    let mac = "52:54:00:12:34:fe".parse().unwrap();
    let file = |machine: Client<'_>| plan(&machine, HERE, &site).map(|plan| plan.boot_file.to_string());
    let before = file(machine(Firmware::Pxe, 0)).unwrap();
    rules.tell(mac, NextBoot::Local, 1).unwrap();
    let path = "/isowire/52-54-00-12-34-fe/local-disk.efi";
    let url = format!("http://10.0.0.1{path}");
    for (firmware, number, program) in
        [(Firmware::Pxe, 7, path), (Firmware::Pxe, 9, path), (Firmware::HttpBoot, 16, &url)]
    {
        assert_eq!(file(machine(firmware, number)).as_deref(), Ok(program));
    }
    let by_ipxe = plan(&machine(Firmware::Pxe, 7), HERE, &site.clone().with_uefi_by(UefiBy::Ipxe)).unwrap();
    assert_eq!(by_ipxe.boot_file.as_str(), "/isowire/52-54-00-12-34-fe/ipxe.efi", "its script leads there");
    let without_http =
        BootTargets::new(None, Ports { tftp: 69, http: None }).with_rules(rules.clone().into());
    // ARM, and HTTP Boot without HTTP.
    for (firmware, number) in [(Firmware::Pxe, 11), (Firmware::HttpBoot, 16)] {
        let refused = plan(&machine(firmware, number), HERE, &without_http).unwrap_err();
        assert_eq!(refused, Refusal::LocalDisk, "it goes on by itself");
    }
    assert_eq!(file(machine(Firmware::Pxe, 0)).unwrap(), before, "PXELINUX, whose menu leads there");
    assert_eq!(
        file(machine(Firmware::Ipxe, 7)).unwrap(),
        "http://10.0.0.1/isowire/52-54-00-12-34-fe/boot.ipxe"
    );
    rules.tell(mac, NextBoot::Image(Word::new("two").unwrap()), 2).unwrap();
    assert_eq!(file(machine(Firmware::Pxe, 7)).unwrap(), "/isowire/52-54-00-12-34-fe/http.efi");
}

#[test]
fn other_architectures_are_refused_by_name() {
    let refusal = |firmware, number| plan(&machine(firmware, number), HERE, &site()).unwrap_err().to_string();
    assert!(refusal(Firmware::Pxe, 6).starts_with("x86 UEFI machines are not served"));
    assert!(refusal(Firmware::Ipxe, 11).starts_with("ARM 64-bit UEFI machines"));
    assert!(refusal(Firmware::HttpBoot, 20).starts_with("x86 BIOS boot from HTTP machines"));
    assert!(refusal(Firmware::Pxe, 4711).starts_with("architecture 4711 machines"));
}

#[test]
fn uefi_machines_load_own_programs() {
    let boot_file = |machine: Client<'_>| plan(&machine, HERE, &site()).unwrap().boot_file.to_string();
    for architecture in [7, 9] {
        let file = boot_file(machine(Firmware::Pxe, architecture));
        assert_eq!(file, "/isowire/52-54-00-12-34-fe/nfs.efi");
    }
    let file = boot_file(machine(Firmware::HttpBoot, 16));
    assert_eq!(file, "http://10.0.0.1/isowire/52-54-00-12-34-fe/nfs.efi");
    let nameless = Client { mac: None, ..machine(Firmware::Pxe, 7) };
    assert_eq!(boot_file(nameless), "/isowire/nfs.efi");
    let site = site_with(Ok(vec![Root::Http]), Ports { tftp: 69, http: Some(u16::MAX) });
    let plan = plan(&machine(Firmware::HttpBoot, 16), Ipv4Addr::BROADCAST, &site).unwrap();
    assert!(plan.boot_file.fits_file_field() && plan.config_file.is_none());
}

#[test]
fn image_without_loader_is_refused() {
    let bios = machine(Firmware::Pxe, 0);
    let plan = |loader: Option<&str>| plan(&bios, HERE, &BootTargets::new(loader, PORTS));
    assert_eq!(plan(None), Err(Refusal::NoLoader));
    for unfit in ["boot/$(reboot)/lpxelinux.0", "a b", "x'y", &"a".repeat(127)] {
        assert_eq!(plan(Some(unfit)), Err(Refusal::NoLoader), "{unfit}");
    }
    assert!(plan(Some(&"a".repeat(126))).is_ok());
}

/// What mkarchiso makes of its templates.
fn filled(template: &str) -> String {
    template.replace("%INSTALL_DIR%", "arch").replace("%ARCH%", "x86_64").replace("%ARCHISO_UUID%", "UUID")
}

/// The files of an archiso image, with this as its PXE entries.
pub(super) fn archiso_files(entries: &str) -> Vec<(&'static str, String)> {
    vec![
        ("arch/boot/x86_64/vmlinuz-linux", "kernel".into()),
        ("arch/boot/x86_64/initramfs-linux.img", "initramfs".into()),
        ("arch/boot/amd-ucode.img", "microcode".into()),
        ("arch/x86_64/airootfs.sfs", "root".into()),
        ("arch/x86_64/airootfs.sfs.cms.sig", "signature".into()),
        ("boot/syslinux/lpxelinux.0", "loader".into()),
        ("boot/syslinux/vesamenu.c32", "menu program".into()),
        ("boot/syslinux/archiso_head.cfg", HEAD.into()),
        ("boot/syslinux/archiso_pxe.cfg", PXE.into()),
        ("boot/syslinux/archiso_pxe-linux.cfg", filled(entries)),
        ("boot/syslinux/archiso_tail.cfg", TAIL.into()),
    ]
}

/// An image that holds these files, one behind the other.
pub(crate) fn image(files: &[(&str, impl AsRef<[u8]>)]) -> Image {
    let mut media = tempfile::NamedTempFile::new().unwrap();
    let mut index = Index::new(attributes(0o040_555));
    let mut offset = 0;
    for (path, content) in files {
        let content = content.as_ref();
        media.write_all(content).unwrap();
        let (directory, name) = path.rsplit_once('/').unwrap();
        let parent = directory.split('/').fold(NodeId::ROOT, |parent, name| {
            let known = index.child(parent, name.as_bytes());
            known.unwrap_or_else(|| {
                let kind = NodeKind::Directory { entries: Vec::new() };
                index.add(parent, name.as_bytes(), kind, attributes(0o040_555)).unwrap()
            })
        });
        let extents = vec![Extent { offset, len: content.len() as u64 }];
        index.add(parent, name.as_bytes(), NodeKind::File { extents }, attributes(0o100_444)).unwrap();
        offset += content.len() as u64;
    }
    let mut image = Image::new(Source::open(media.path()).unwrap(), index).unwrap();
    image.volume.uuid = Some("2026-01-02-03-04-05-00".into());
    image.archiso = Some(archiso(&image.index));
    image
}

fn attributes(mode: u32) -> NodeAttributes {
    NodeAttributes { mode, uid: 0, gid: 0, nlink: 1, mtime: 0 }
}

fn node(index: &Index, path: &str) -> Option<NodeId> {
    path.split('/').try_fold(NodeId::ROOT, |node, name| index.child(node, name.as_bytes()))
}

fn archiso(index: &Index) -> Archiso {
    let is_install_dir = |&id: &NodeId| index.resolve(id, b"x86_64/airootfs.sfs").is_some();
    let dir = index.children(NodeId::ROOT).iter().copied().find(is_install_dir).unwrap();
    let install_dir = String::from_utf8(index.node(dir).name.to_vec()).unwrap();
    let below = |path: &str| node(index, &format!("{install_dir}/{path}"));
    let ending = |dir: Option<NodeId>, ending: &str| {
        let entries = dir.map(|dir| index.children(dir)).unwrap_or_default().iter().copied();
        entries.filter(|&id| index.node(id).name.ends_with(ending.as_bytes())).collect()
    };
    let kernel = |name: &str| ArchisoKernel {
        arch: "x86_64".into(),
        name: name.into(),
        kernel: below(&format!("boot/x86_64/vmlinuz-{name}")).unwrap(),
        initramfs: below(&format!("boot/x86_64/initramfs-{name}.img")),
        microcode: below("boot/amd-ucode.img").into_iter().collect(),
    };
    let is_there = |name: &&str| below(&format!("boot/x86_64/vmlinuz-{name}")).is_some();
    let syslinux_dir = node(index, "boot/syslinux").or_else(|| below("boot/syslinux"));
    Archiso {
        kernels: ["linux", "linux-lts"].into_iter().filter(is_there).map(kernel).collect(),
        airootfs: vec![Airootfs {
            arch: "x86_64".into(),
            node: below("x86_64/airootfs.sfs").unwrap(),
            format: AirootfsFormat::Squashfs,
            size: 4,
            sha512: below("x86_64/airootfs.sha512"),
            md5: below("x86_64/airootfs.md5"),
            cms_signature: below("x86_64/airootfs.sfs.cms.sig"),
            gpg_signature: below("x86_64/airootfs.sfs.sig"),
        }],
        uuid_file: None,
        syslinux_dir,
        lpxelinux: syslinux_dir.and_then(|dir| index.child(dir, b"lpxelinux.0")),
        syslinux_menus: ending(syslinux_dir, ".cfg"),
        loader_entries: ending(node(index, "loader/entries"), ".conf"),
        install_dir,
    }
}

#[test]
fn archiso_image_boots_own_pxe_entries() {
    let bootable = survey("arch", "arch~1", &image(&archiso_files(PXE_ENTRIES))).unwrap();
    assert_eq!(bootable.stock.unwrap().as_str(), "boot/syslinux/archiso_pxe.cfg");
    assert_eq!(bootable.look.serial.unwrap().as_str(), "0 115200");
    assert_eq!(bootable.look.ui.unwrap().as_str(), "vesamenu.c32");
    assert!(bootable.boot_entries.iter().all(|boot_entry| boot_entry.signed));
    let roots: Vec<_> = bootable.boot_entries.iter().map(|boot_entry| boot_entry.root.unwrap()).collect();
    assert_eq!(roots, [Root::Nbd, Root::Nfs, Root::Http]);
    let nbd = &bootable.boot_entries[0];
    assert_eq!(nbd.title.as_ref().unwrap().as_str(), "Arch Linux install medium (x86_64, NBD)");
    assert_eq!(nbd.kernel.as_str(), "arch/boot/x86_64/vmlinuz-linux");
    assert_eq!(nbd.initrd[0].as_str(), "arch/boot/x86_64/initramfs-linux.img");
    let parameters: Vec<_> = nbd.parameters.iter().map(|word| word.as_str()).collect();
    let own = ["console=ttyS0,115200", "no_timer_check", "panic=1"];
    assert_eq!(parameters, own, "kind we say ourselves is dropped");
}

#[test]
fn kernels_are_booted_without_pxe_entries() {
    let mut files = archiso_files("LABEL x\nLINUX ::/arch/boot/x86_64/vmlinuz-linux\nAPPEND root=/dev/sda");
    files.retain(|(path, _)| !path.ends_with(".c32"));
    let bootable = survey("arch", "arch~1", &image(&files)).unwrap();
    assert_eq!(bootable.stock, None);
    assert_eq!(bootable.look.ui, None);
    let [boot_entry] = &bootable.boot_entries[..] else { panic!("{:?}", bootable.boot_entries) };
    assert_eq!(
        (&boot_entry.root, &boot_entry.title, boot_entry.architecture.as_str()),
        (&None, &None, "x86_64")
    );
    let initrd: Vec<_> = boot_entry.initrd.iter().map(|path| path.as_str()).collect();
    assert_eq!(initrd, ["arch/boot/amd-ucode.img", "arch/boot/x86_64/initramfs-linux.img"]);
}

#[test]
fn unbootable_entries_are_skipped() {
    let entry = |lines: &str| format!("LABEL x\n{lines}\n");
    let good = "LINUX ::/arch/boot/x86_64/vmlinuz-linux\n";
    let entries = [
        entry("LINUX ::/no/such\nAPPEND archiso_nbd_srv=x"),
        entry("LINUX ::/arch/boot/../boot/x86_64/vmlinuz-linux\nAPPEND archiso_nbd_srv=x"),
        entry("LINUX ::/arch\nAPPEND archiso_nbd_srv=x"),
        entry(&format!("{good}INITRD ::/no/such\nAPPEND archiso_nbd_srv=x")),
        entry(&format!("{good}APPEND archiso_nbd_srv=x {}", "y".repeat(601))),
        entry(&format!("{good}APPEND archiso_nbd_srv=x good=initrd=/x quiet splash")),
    ];
    let bootable = survey("arch", "arch~1", &image(&archiso_files(&entries.concat()))).unwrap();
    let [boot_entry] = &bootable.boot_entries[..] else { panic!("{:?}", bootable.boot_entries) };
    assert_eq!(
        boot_entry.parameters.iter().map(|word| word.as_str()).collect::<Vec<_>>(),
        ["quiet", "splash"]
    );
}

#[test]
fn other_images_boot_nothing() {
    let mut image = image(&archiso_files(PXE_ENTRIES));
    image.archiso = None;
    assert_eq!(survey("other", "other~1", &image), None);
}

pub(super) fn settings() -> MenuSettings {
    MenuSettings {
        roots: vec![Root::Nbd],
        copytoram: CopyToRam::Auto,
        timeout: 10,
        cms: Cms::Verify,
        parameters: Vec::new(),
    }
}

fn served(name: &str) -> ServedImage {
    ServedImage::new(name, image(&archiso_files(PXE_ENTRIES)))
}

fn files() -> Files {
    let images = ImageSet::new(served("one"), vec![served("two")]);
    Files::new(Arc::new(images), BootConfig::new(settings(), PORTS)).unwrap()
}

/// The content of a file made by us.
fn text(files: &Files, path: &str) -> String {
    let file = files.open(path.as_bytes(), HERE).unwrap();
    assert!(file.is_generated());
    let pieces = file.export.range(0, file.export.len()).unwrap();
    let bytes = pieces.flat_map(|piece| match piece {
        Piece::Memory(bytes) => bytes.to_vec(),
        Piece::Image(_) => panic!("the menu is no part of an image"),
    });
    String::from_utf8(bytes.collect()).unwrap()
}

#[test]
fn menu_is_found_by_both_names() {
    let files = files();
    let menu = text(&files, "/isowire/pxelinux.cfg");
    assert!(menu.contains("archiso_nbd_srv=10.0.0.1 "));
    assert!(menu.contains("\nCONFIG ::/boot/syslinux/archiso_pxe.cfg ::/boot/syslinux/\n"));
    for name in [
        "boot/syslinux/pxelinux.cfg/default",
        "//boot/syslinux//pxelinux.cfg/default",
        "isowire\\pxelinux.cfg",
    ] {
        assert_eq!(text(&files, name), menu, "{name}");
    }
    let elsewhere = files.open(b"isowire/pxelinux.cfg", Ipv4Addr::new(10, 9, 9, 9)).unwrap();
    assert_eq!(elsewhere.export.len(), menu.len() as u64, "another address, as long");
}

#[test]
fn machine_has_its_own_menu_and_script() {
    let two = Word::new("two").unwrap();
    let chosen = Rule {
        image: Some(two),
        start: Start::Straight,
        overrides: Overrides {
            root: Some(Root::Nfs),
            copytoram: Some(CopyToRam::No),
            parameters: Word::new("only=this").into_iter().collect(),
        },
        ..Rule::default()
    };
    let images = ImageSet::new(served("one"), vec![served("two")]);
    let settings = MenuSettings { roots: vec![Root::Nbd, Root::Nfs], ..settings() };
    let rules = Rules::new(vec![rule("52:54:00:12:34:56", chosen)]).into();
    let files =
        Files::new(Arc::new(images), BootConfig { rules, ..BootConfig::new(settings, PORTS) }).unwrap();
    let line = |path: &str, word: &str| {
        let text = text(&files, path);
        text.lines().find(|line| line.starts_with(word)).unwrap_or_default().to_owned()
    };
    for (path, word) in [
        ("isowire/52-54-00-12-34-56/pxelinux.cfg", "APPEND"),
        ("boot/syslinux/pxelinux.cfg/01-52-54-00-12-34-56", "APPEND"),
        ("isowire/52-54-00-12-34-56/boot.ipxe", "kernel"),
        ("isowire/52-54-00-12-34-56/autoexec.ipxe", "kernel"),
        ("isowire/rule-0/boot.ipxe", "kernel"),
    ] {
        let line = line(path, word);
        assert!(line.contains(" archiso_nfs_srv=10.0.0.1:/two~") && line.contains(" copytoram=n "), "{line}");
        assert!(line.contains(" only=this"), "{line}");
        assert!(!text(&files, path).contains("TITLE"), "nobody is asked");
    }
    for path in ["isowire/52-54-00-12-34-57/pxelinux.cfg", "boot/syslinux/pxelinux.cfg/default"] {
        let line = line(path, "APPEND");
        assert!(line.contains(" archiso_nbd_name=one~") && !line.contains(" only=this"), "{line}");
    }
    assert!(text(&files, "autoexec.ipxe").contains("/isowire/${netX/mac:hexhyp}/boot.ipxe\n"));
}

#[test]
fn image_may_have_overrides() {
    let images = ImageSet::new(served("one"), vec![served("two")]);
    let settings = MenuSettings { roots: vec![Root::Nbd, Root::Nfs], ..settings() };
    let prefers = Overrides { root: Some(Root::Nfs), ..Overrides::default() };
    let overrides = [("two".to_owned(), prefers)].into();
    let terms = BootConfig { overrides, ..BootConfig::new(settings, PORTS) };
    let menu = text(&Files::new(Arc::new(images), terms).unwrap(), "isowire/pxelinux.cfg");
    let roots: Vec<_> = menu.lines().filter(|line| line.starts_with("APPEND")).collect();
    assert_eq!(roots.len(), 10);
    assert!(
        roots[0].contains("archiso_nbd_name=one~") && roots[1].contains("archiso_nfs_srv=10.0.0.1:/two~")
    );
}

#[test]
fn any_image_may_have_the_loader() {
    let mut files: Vec<_> = archiso_files(PXE_ENTRIES);
    files.retain(|(path, _)| !path.starts_with("boot/"));
    let bare = ServedImage::new("bare", image(&files));
    let files =
        Files::new(Arc::new(ImageSet::new(bare, vec![served("two")])), BootConfig::new(settings(), PORTS))
            .unwrap();
    assert_eq!(files.targets().boot_file(), Some("/two/boot/syslinux/lpxelinux.0"));
    let menu = text(&files, "two/boot/syslinux/pxelinux.cfg/default");
    assert!(menu.contains("\nUI vesamenu.c32\n") && menu.contains("archiso_nbd_name=bare~"));
    assert!(!menu.contains("CONFIG"), "its entries would load from the root of the tree");
}

#[test]
fn image_trees_are_served() {
    let files = files();
    let open = |path: &str| files.open(path.as_bytes(), HERE);
    assert_eq!(open("/boot/syslinux/lpxelinux.0").unwrap().export.len(), 6);
    assert_eq!(open("two/arch/boot/x86_64/vmlinuz-linux").unwrap().export.len(), 6);
    let (one, two) =
        (open("arch/x86_64/airootfs.sfs").unwrap(), open("/two//arch/x86_64/airootfs.sfs").unwrap());
    assert!(!Arc::ptr_eq(one.export.image().unwrap(), two.export.image().unwrap()));
    assert_eq!(open("boot/syslinux/pxelinux.cfg/C0A8").unwrap_err(), FileError::Path(PathError::NotFound));
    assert_eq!(open("three/arch").unwrap_err(), FileError::Path(PathError::NotFound));
    assert_eq!(open("").unwrap_err(), FileError::NotAFile);
    assert_eq!(open("two").unwrap_err(), FileError::NotAFile);
    assert_eq!(open("../etc/passwd").unwrap_err(), FileError::Path(PathError::Outside));
    assert_eq!(open("two/../../etc/passwd").unwrap_err(), FileError::Path(PathError::Outside));
}

#[test]
fn file_knows_its_kind() {
    let files = files();
    let kind = |path: &str| files.open(path.as_bytes(), HERE).unwrap().kind;
    for (path, expected) in [
        ("boot/syslinux/lpxelinux.0", FileKind::Loader),
        ("boot/syslinux/archiso_pxe.cfg", FileKind::Menu),
        ("boot/syslinux/pxelinux.cfg/default", FileKind::Menu),
        ("isowire/boot.ipxe", FileKind::Menu),
        ("two/arch/boot/x86_64/vmlinuz-linux", FileKind::Kernel),
        ("arch/boot/x86_64/initramfs-linux.img", FileKind::Initramfs),
        ("arch/boot/amd-ucode.img", FileKind::Initramfs),
        ("arch/x86_64/airootfs.sfs", FileKind::Other),
        ("two.iso", FileKind::Other),
    ] {
        assert_eq!(kind(path), expected, "{path}");
    }
}

#[test]
fn whole_images_are_beside_the_tree() {
    let files = files();
    let image = files.open(b"/two.iso", HERE).unwrap();
    assert_eq!(image.export.len(), image.export.image().unwrap().source.len());
    assert_eq!(files.open(b"/two.iso/arch", HERE).unwrap_err(), FileError::Path(PathError::NotFound));
    let names = |path: &[u8]| {
        let Ok(Entry::Directory(directory)) = files.look_up(path, HERE.into()) else {
            panic!("no directory")
        };
        let items = files.items(directory);
        items.iter().map(|item| String::from_utf8_lossy(&item.name).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(b"/"), ["arch", "boot", "isowire", "two", "one.iso", "two.iso"]);
    assert_eq!(names(b"/one/"), ["arch", "boot"], "the tree and nothing else");
    assert_eq!(names(b"isowire"), ["boot.ipxe", "pxelinux.cfg"]);
}

#[test]
fn versioned_name_is_served_but_not_listed() {
    let files = files();
    for served in files.images().iter() {
        let versioned_name = served.versioned_name();
        let open = |path: String| files.open(path.as_bytes(), HERE);
        let kernel = open(format!("/{versioned_name}/arch/boot/x86_64/vmlinuz-linux")).unwrap();
        assert!(Arc::ptr_eq(kernel.export.image().unwrap(), &served.image));
        let whole = open(format!("{versioned_name}.iso")).unwrap();
        assert!(Arc::ptr_eq(whole.export.image().unwrap(), &served.image));
        assert_eq!(
            open(format!("{versioned_name}0/arch")).unwrap_err(),
            FileError::Path(PathError::NotFound)
        );
        let Entry::Directory(directory) = files.look_up(versioned_name.as_bytes(), HERE.into()).unwrap()
        else {
            panic!()
        };
        assert_eq!(files.items(directory).len(), 2);
    }
    assert!(files.items(Directory::Root).iter().all(|item| !item.name.contains(&b'~')));
}

#[test]
fn hidden_image_name_is_refused() {
    let images = ImageSet::new(served("one"), vec![served("ARCH")]);
    let files = |images| Files::new(Arc::new(images), BootConfig::new(settings(), PORTS));
    let error = files(images).unwrap_err();
    assert!(error.to_string().starts_with("the image `ARCH` would be hidden by `/ARCH` of the image `one`"));
    let default = ImageSet::new(served("arch"), Vec::new());
    assert!(files(default).is_ok());
}

#[test]
fn loader_is_in_boot_targets() {
    let files = files();
    assert_eq!(files.targets().boot_file(), Some("/boot/syslinux/lpxelinux.0"));
}

proptest::proptest! {
    /// What fuzzing asks of the menu, for text that looks like one.
    #[test]
    fn menu_values_stay_in_their_lines(lines in proptest::collection::vec(directive(), 0..40)) {
        crate::fuzzing::menus::syslinux_menu(lines.concat().as_bytes());
    }
}

/// A line of a menu, more often right than not.
fn directive() -> impl proptest::strategy::Strategy<Value = String> {
    proptest::string::string_regex(concat!(
        "(LABEL [a-c]|MENU LABEL [ -~\\x00-\\xff]{0,90}|LINUX (::/arch/vmlinuz-linux|menu\\.c32|[!-~]{0,9})",
        "|INITRD (/arch/initramfs-linux\\.img,?){0,6}|APPEND (-|archiso_(nbd|nfs|http)_srv=x( [!-~]{1,99}){0,9})",
        "|MENU COLOR [ -~]{0,40}|SERIAL [ -~]{0,9}|UI [ -~]{0,12}|INCLUDE archiso_(pxe|head|tail)\\.cfg|[ -~]*)",
        "[\r\n\\x00\u{85}\u{2028}]{0,2}\n",
    ))
    .unwrap()
}
