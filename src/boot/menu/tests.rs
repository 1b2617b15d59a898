//! What each machine is shown, by PXELINUX and by iPXE.

use std::net::Ipv4Addr;

use super::*;
use crate::boot::Ports;
use crate::mac::Mac;

fn word(text: &str) -> Word {
    Word::new(text).unwrap()
}

fn path(text: &str) -> PlainPath {
    PlainPath::new(text).unwrap()
}

fn boot_entry(root: Option<Root>, title: &str) -> BootEntry {
    BootEntry {
        title: Some(Line::new(title)),
        architecture: word("x86_64"),
        kernel: path("arch/boot/x86_64/vmlinuz-linux"),
        initrd: vec![path("arch/boot/ucode.img"), path("arch/boot/x86_64/initramfs-linux.img")],
        root,
        signed: true,
        left_out: Vec::new(),
        parameters: vec![word("console=ttyS0,115200")],
    }
}

fn image(name: &str) -> Bootable {
    Bootable {
        name: word(name),
        versioned_name: word(&format!("{name}~1")),
        base_dir: word("arch"),
        uuid: Some(word("2026-01-02-03-04-05-00")),
        boot_entries: vec![
            boot_entry(Some(Root::Nbd), "Medium (x86_64, NBD)"),
            boot_entry(Some(Root::Nfs), "NFS"),
        ],
        look: Look {
            serial: Some(Line::new("0 115200")),
            ui: Some(path("vesamenu.c32")),
            lines: vec![Line::new("MENU BACKGROUND splash.png")],
        },
        stock: Some(path("boot/syslinux/archiso_pxe.cfg")),
    }
}

fn settings(roots: &[Root]) -> MenuSettings {
    MenuSettings {
        roots: roots.to_vec(),
        copytoram: CopyToRam::Auto,
        timeout: 10,
        cms: Cms::Verify,
        parameters: vec![word("quiet")],
    }
}

const SERVER: FileServer =
    FileServer { address: Ipv4Addr::new(192, 168, 1, 10), ports: Ports { tftp: 69, http: Some(80) } };

/// What a machine is shown of these images.
fn menu<'a>(images: &'a [Bootable], settings: &MenuSettings, server: &FileServer) -> Menu<'a> {
    static NO_LOOK: Look = Look { serial: None, ui: None, lines: Vec::new() };
    let shown = |image| MenuImage { image, settings: settings.clone() };
    Menu {
        server: *server,
        start: Start::Menu,
        timeout: settings.timeout,
        images: images.iter().map(shown).collect(),
        look: images.first().map_or(&NO_LOOK, |image| &image.look),
        stock: images.first().and_then(|image| image.stock.as_ref()),
    }
}

fn generate(images: &[Bootable], settings: &MenuSettings, server: &FileServer) -> String {
    pxelinux::write(&menu(images, settings, server))
}

/// The lines of a menu that start with this word, without it.
fn lines<'a>(menu: &'a str, word: &str) -> Vec<&'a str> {
    menu.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
}

#[test]
fn menu_of_one_image() {
    let menu = generate(&[image("arch")], &settings(&[Root::Nbd]), &SERVER);
    assert_eq!(
        menu,
        "\
# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,
# `cms-verify`, `kernel-parameters` and [[machine]] in its configuration.
SERIAL 0 115200
UI vesamenu.c32
MENU TITLE Network boot
MENU BACKGROUND splash.png
DEFAULT 1
TIMEOUT 100

LABEL 1
MENU LABEL Medium (x86_64, NBD)
TEXT HELP
The root file system is copied into memory first: the server may go then.
ENDTEXT
LINUX http://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux
INITRD http://192.168.1.10/arch~1/arch/boot/ucode.img,http://192.168.1.10/arch~1/arch/boot/x86_64/initramfs-linux.img
APPEND archisobasedir=arch archisosearchuuid=2026-01-02-03-04-05-00 archiso_nbd_srv=192.168.1.10 \
         archiso_nbd_name=arch~1 copytoram=auto cms_verify=y console=ttyS0,115200 quiet
SYSAPPEND 3

LABEL 2
MENU LABEL Medium (x86_64, NBD), not copied to RAM
TEXT HELP
The root file system stays on the server: the server must stay up.
ENDTEXT
LINUX http://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux
INITRD http://192.168.1.10/arch~1/arch/boot/ucode.img,http://192.168.1.10/arch~1/arch/boot/x86_64/initramfs-linux.img
APPEND archisobasedir=arch archisosearchuuid=2026-01-02-03-04-05-00 archiso_nbd_srv=192.168.1.10 \
         archiso_nbd_name=arch~1 copytoram=n cms_verify=y console=ttyS0,115200 quiet
SYSAPPEND 3

LABEL 3
MENU LABEL The image's own menu
TEXT HELP
It has no time limit and waits for a choice.
ENDTEXT
CONFIG ::/boot/syslinux/archiso_pxe.cfg ::/boot/syslinux/

LABEL 4
MENU LABEL Boot from the local disk
TEXT HELP
Leaves the network and goes on with the next boot device.
ENDTEXT
LOCALBOOT 0
"
    );
}

#[test]
fn root_has_own_address_and_only_nbd_uuid() {
    let menu = generate(&[image("arch")], &settings(&[Root::Http, Root::Nfs, Root::Nbd]), &SERVER);
    let append = lines(&menu, "APPEND");
    assert_eq!(append.len(), 5, "HTTP always copies, NFS and NBD have a choice");
    assert!(append[0].contains(" archiso_http_srv=http://192.168.1.10/arch~1/ "));
    assert!(append[1].contains(" archiso_nfs_srv=192.168.1.10:/arch~1 "));
    assert!(append[3].contains(" archiso_nbd_srv=192.168.1.10 "));
    let with_uuid: Vec<_> = append.iter().map(|line| line.contains("archisosearchuuid=")).collect();
    assert_eq!(with_uuid, [false, false, false, true, true]);
    let titles = lines(&menu, "MENU LABEL");
    assert_eq!(titles[0], "arch (x86_64, HTTP)", "no title of the author's speaks of HTTP");
    assert_eq!(titles[1], "NFS");
}

#[test]
fn menu_names_images_by_version() {
    let images = [image("one"), image("two")];
    let menu = generate(&images, &settings(&[Root::Nbd]), &SERVER);
    let append = lines(&menu, "APPEND");
    assert!(append[0].contains(" archiso_nbd_name=one~1 "));
    assert!(append[2].contains(" archiso_nbd_name=two~1 "));
    assert_eq!(lines(&menu, "LINUX")[2], "http://192.168.1.10/two~1/arch/boot/x86_64/vmlinuz-linux");
    assert_eq!(lines(&menu, "MENU LABEL")[2], "two: Medium (x86_64, NBD)");
    assert_eq!(lines(&menu, "CONFIG").len(), 1, "the other's own menu would load this one's kernel");
}

#[test]
fn menu_follows_operator_settings() {
    let chosen = MenuSettings {
        copytoram: CopyToRam::No,
        timeout: 0,
        cms: Cms::Skip,
        parameters: Vec::new(),
        ..settings(&[Root::Nbd])
    };
    let menu = generate(&[image("arch")], &chosen, &SERVER);
    assert!(lines(&menu, "APPEND")[0].ends_with(" copytoram=n console=ttyS0,115200"));
    assert!(lines(&menu, "APPEND")[1].contains(" copytoram=y "));
    assert_eq!(lines(&menu, "MENU LABEL")[1], "Medium (x86_64, NBD), copied to RAM");
    assert!(lines(&menu, "TIMEOUT").is_empty());
}

#[test]
fn unsigned_image_is_not_verified() {
    let mut unsigned = image("arch");
    unsigned.boot_entries.iter_mut().for_each(|boot_entry| boot_entry.signed = false);
    assert!(!generate(&[unsigned], &settings(&[Root::Nbd]), &SERVER).contains("cms_verify="));
}

#[test]
fn kernels_come_by_tftp_without_http() {
    let server = FileServer { ports: Ports { http: None, ..SERVER.ports }, ..SERVER };
    let menu = generate(&[image("arch")], &settings(&[Root::Nbd]), &server);
    assert_eq!(lines(&menu, "LINUX")[0], "::/arch~1/arch/boot/x86_64/vmlinuz-linux");
    assert_eq!(
        lines(&menu, "INITRD")[0],
        "::/arch~1/arch/boot/ucode.img,::/arch~1/arch/boot/x86_64/initramfs-linux.img"
    );
}

#[test]
fn http_port_is_in_every_url() {
    let server = FileServer { ports: Ports { http: Some(8080), ..SERVER.ports }, ..SERVER };
    let menu = generate(&[image("arch")], &settings(&[Root::Http]), &server);
    assert_eq!(lines(&menu, "LINUX")[0], "http://192.168.1.10:8080/arch~1/arch/boot/x86_64/vmlinuz-linux");
    assert!(lines(&menu, "APPEND")[0].contains(" archiso_http_srv=http://192.168.1.10:8080/arch~1/ "));
}

#[test]
fn other_tftp_port_needs_urls() {
    let server = FileServer { ports: Ports { tftp: 6969, http: None }, ..SERVER };
    let menu = generate(&[image("arch")], &settings(&[Root::Nbd]), &server);
    assert_eq!(lines(&menu, "LINUX")[0], "tftp://192.168.1.10:6969/arch~1/arch/boot/x86_64/vmlinuz-linux");
    assert_eq!(
        lines(&menu, "CONFIG")[0],
        "tftp://192.168.1.10:6969/boot/syslinux/archiso_pxe.cfg tftp://192.168.1.10:6969/boot/syslinux/"
    );
}

#[test]
fn image_without_menu_program_gets_prompt() {
    let plain = Bootable { look: Look::default(), ..image("arch") };
    let menu = generate(&[plain], &settings(&[Root::Nbd]), &SERVER);
    assert!(lines(&menu, "UI").is_empty());
    assert_eq!(lines(&menu, "PROMPT"), ["1"]);
    assert_eq!(lines(&menu, "SAY")[1], "   1  Medium (x86_64, NBD)");
}

#[test]
fn menu_exists_without_a_root() {
    let menu = generate(&[image("arch")], &settings(&[]), &SERVER);
    assert_eq!(lines(&menu, "MENU LABEL"), ["The image's own menu", "Boot from the local disk"]);
    assert_eq!(lines(&generate(&[], &settings(&[Root::Nbd]), &SERVER), "LABEL"), ["1"]);
}

#[test]
fn start_without_menu_boots_at_once() {
    let images = [image("arch")];
    let menu = Menu { start: Start::Straight, ..menu(&images, &settings(&[Root::Nbd]), &SERVER) };
    let text = pxelinux::write(&menu);
    assert!(lines(&text, "UI").is_empty());
    assert_eq!((lines(&text, "PROMPT"), lines(&text, "DEFAULT")), (vec!["0"], vec!["1"]));
    let script = ipxe::write(&menu, None);
    assert!(script.contains("\n:start\ngoto 1\n") && lines(&script, "choose").is_empty());
}

#[test]
fn script_of_one_image() {
    let images = [image("arch")];
    let machine: Option<Mac> = "52:54:00:12:34:56".parse().ok();
    let script = ipxe::write(&menu(&images, &settings(&[Root::Nfs]), &SERVER), machine);
    assert_eq!(
        script,
        "\
#!ipxe
# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,
# `cms-verify`, `kernel-parameters` and [[machine]] in its configuration.
imgfree autoexec.ipxe ||
isset ${netX/ip} || dhcp ||

:start
menu Network boot || goto 1
item 1 NFS
item 2 NFS, not copied to RAM
item 3 Boot from the local disk
choose --default 1 --timeout 10000 entry || exit 1
goto ${entry}

:1
imgfree
kernel http://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux archisobasedir=arch \
         archiso_nfs_srv=192.168.1.10:/arch~1 copytoram=auto cms_verify=y console=ttyS0,115200 quiet \
         ip=${netX/ip}:192.168.1.10:${netX/gateway}:${netX/netmask} BOOTIF=01-52-54-00-12-34-56 \
         initrd=initrd1.img initrd=initrd2.img || goto failed
initrd --name initrd1.img http://192.168.1.10/arch~1/arch/boot/ucode.img || goto failed
initrd --name initrd2.img http://192.168.1.10/arch~1/arch/boot/x86_64/initramfs-linux.img || goto failed
boot || goto failed

:2
imgfree
kernel http://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux archisobasedir=arch \
         archiso_nfs_srv=192.168.1.10:/arch~1 copytoram=n cms_verify=y console=ttyS0,115200 quiet \
         ip=${netX/ip}:192.168.1.10:${netX/gateway}:${netX/netmask} BOOTIF=01-52-54-00-12-34-56 \
         initrd=initrd1.img initrd=initrd2.img || goto failed
initrd --name initrd1.img http://192.168.1.10/arch~1/arch/boot/ucode.img || goto failed
initrd --name initrd2.img http://192.168.1.10/arch~1/arch/boot/x86_64/initramfs-linux.img || goto failed
boot || goto failed

:3
exit 1

:failed
prompt --timeout 10000 This did not boot: the lines above say why. Press a key for the menu... ||
goto start
"
    );
}

#[test]
fn script_loads_by_tftp_without_http() {
    let images = [image("arch")];
    let server = FileServer { ports: Ports { tftp: 69, http: None }, ..SERVER };
    let script = ipxe::write(&menu(&images, &settings(&[Root::Nbd]), &server), None);
    assert!(
        lines(&script, "kernel")[0].starts_with("tftp://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux ")
    );
    assert!(lines(&script, "kernel")[0].contains(" BOOTIF=01-${netX/mac:hexhyp} "));
    assert!(ipxe::write_referral(&server).ends_with(
        "\nchain --replace --autofree tftp://192.168.1.10/isowire/${netX/mac:hexhyp}/boot.ipxe\n"
    ));
}

#[test]
fn tftp_script_loads_by_tftp_beside_http() {
    let images = [image("arch")];
    let menu = menu(&images, &settings(&[Root::Http]), &SERVER);
    let script = ipxe::write_by_tftp(&menu, None);
    let kernel = lines(&script, "kernel")[0];
    assert!(kernel.starts_with("tftp://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux "), "{kernel}");
    assert!(kernel.contains(" archiso_http_srv=http://192.168.1.10/"), "the kernel has HTTP: {kernel}");
    assert!(lines(&script, "initrd").iter().all(|line| line.contains(" tftp://")), "{script}");
}

#[test]
fn title_is_never_a_command() {
    let odd = Bootable {
        boot_entries: vec![boot_entry(Some(Root::Nbd), "A || goto x && ; # ${b} \\")],
        ..image("arch")
    };
    let images = [odd];
    let script = ipxe::write(&menu(&images, &settings(&[Root::Nbd]), &SERVER), None);
    assert_eq!(lines(&script, "item")[0], "1 A __ goto x __ _ _ _{b} _");
}

#[test]
fn titles_of_any_root_name_the_root() {
    let boot_entries = vec![boot_entry(None, "Some Linux"), boot_entry(None, "Some Linux, LTS")];
    let menu =
        generate(&[Bootable { boot_entries, ..image("arch") }], &settings(&[Root::Http, Root::Nbd]), &SERVER);
    let expected = [
        "Some Linux (HTTP)",
        "Some Linux, LTS (HTTP)",
        "Some Linux (NBD)",
        "Some Linux (NBD), not copied to RAM",
        "Some Linux, LTS (NBD)",
        "Some Linux, LTS (NBD), not copied to RAM",
    ];
    assert_eq!(lines(&menu, "MENU LABEL")[..6], expected);
}
