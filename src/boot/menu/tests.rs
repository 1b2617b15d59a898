//! What each machine is shown, by PXELINUX and by iPXE.

use std::net::Ipv4Addr;

use super::*;
use crate::boot::Ports;
use crate::bootable::MemoryTests;
use crate::mac::Mac;

pub(super) fn word(text: &str) -> Word {
    Word::new(text).unwrap()
}

pub(super) fn path(text: &str) -> PlainPath {
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

pub(super) fn image(name: &str) -> Bootable {
    Bootable {
        name: word(name),
        versioned_name: word(&format!("{name}~1")),
        title: Line::new("Arch Linux 2026.11.01"),
        base_dir: word("arch"),
        uuid: Some(word("2026-01-02-03-04-05-00")),
        boot_entries: vec![
            boot_entry(Some(Root::Nbd), "Medium (x86_64, NBD)"),
            boot_entry(Some(Root::Nfs), "NFS"),
        ],
        look: Look {
            serial: Some(Line::new("0 115200")),
            ui: Some(path("vesamenu.c32")),
            lines: ["MENU BACKGROUND splash.png", "MENU VSHIFT 10", "MENU ROWS 7"].map(Line::new).to_vec(),
            reboot: Some(path("reboot.c32")),
        },
        stock: Some(path("boot/syslinux/archiso_pxe.cfg")),
        memory_tests: MemoryTests::default(),
    }
}

pub(super) fn settings(roots: &[Root]) -> MenuSettings {
    MenuSettings {
        roots: roots.to_vec(),
        copytoram: CopyToRam::Auto,
        timeout: 10,
        cms: Cms::Verify,
        parameters: vec![word("quiet")],
    }
}

pub(super) const SERVER: FileServer =
    FileServer { address: Ipv4Addr::new(192, 168, 1, 10), ports: Ports { tftp: 69, http: Some(80) } };

/// What a machine is shown of these images.
pub(super) fn menu<'a>(images: &'a [Bootable], settings: &MenuSettings, server: &FileServer) -> Menu<'a> {
    static NO_LOOK: Look = Look { serial: None, ui: None, lines: Vec::new(), reboot: None };
    let shown = |image| MenuImage { image, settings: settings.clone(), seed: None, script: None };
    Menu {
        server: *server,
        machine: MenuMachine::default(),
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
    let kernel = "\
LINUX http://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux
INITRD http://192.168.1.10/arch~1/arch/boot/ucode.img,http://192.168.1.10/arch~1/arch/boot/x86_64/initramfs-linux.img
APPEND archisobasedir=arch archisosearchuuid=2026-01-02-03-04-05-00 archiso_nbd_srv=192.168.1.10 \
         archiso_nbd_name=arch~1";
    let expected = format!(
        "\
# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,
# `cms-verify`, `kernel-parameters` and [[machine]] in its configuration.
SERIAL 0 115200
UI vesamenu.c32
MENU TITLE Network boot
MENU BACKGROUND splash.png
MENU WIDTH 80
MENU MARGIN 4
MENU ROWS 6
MENU VSHIFT 10
MENU TABMSGROW 11
MENU CMDLINEROW 11
MENU TIMEOUTROW 12
MENU HELPMSGROW 13
MENU HELPMSGENDROW 25
MENU COLOR tabmsg 37;40 #e0ffffff #00000000 std
MENU TABMSG Server 192.168.1.10
DEFAULT 1
TIMEOUT 100

LABEL 1
MENU LABEL Arch Linux 2026.11.01
TEXT HELP
 Copies its root file system to memory (NBD). Then the server may go.
 Image arch, signature verified.
ENDTEXT
{kernel} copytoram=auto cms_verify=y console=ttyS0,115200 quiet
SYSAPPEND 3

MENU BEGIN
MENU LABEL More ways to boot
MENU TITLE More ways to boot
TIMEOUT 0

LABEL 2
MENU LABEL NBD, left on the server
TEXT HELP
 Keeps its root file system on the server (NBD), which must stay up.
 Image arch, signature verified.
ENDTEXT
{kernel} copytoram=n cms_verify=y console=ttyS0,115200 quiet
SYSAPPEND 3

LABEL 3
MENU LABEL Without verification of the signature
TEXT HELP
 Copies its root file system to memory (NBD). Then the server may go.
 Image arch, signature not verified.
ENDTEXT
{kernel} copytoram=auto console=ttyS0,115200 quiet
SYSAPPEND 3

LABEL 4
MENU LABEL The image's own menu
TEXT HELP
 It has no time limit and waits for a choice.
ENDTEXT
CONFIG ::/boot/syslinux/archiso_pxe.cfg ::/boot/syslinux/

LABEL 5
MENU LABEL Reboot
TEXT HELP
 Restarts the machine.
ENDTEXT
COM32 reboot.c32

LABEL 6
MENU LABEL Back
TEXT HELP
 Returns to the page before.
ENDTEXT
MENU EXIT

MENU END

LABEL 7
MENU LABEL Boot from the local disk
TEXT HELP
 Leaves the network and goes on with the next boot device.
ENDTEXT
LOCALBOOT 0
"
    );
    assert_eq!(menu, expected);
}

#[test]
fn root_has_own_address_and_only_nbd_uuid() {
    let menu = generate(&[image("arch")], &settings(&[Root::Http, Root::Nfs, Root::Nbd]), &SERVER);
    let append = lines(&menu, "APPEND");
    let titles = lines(&menu, "MENU LABEL");
    let expected = [
        "Arch Linux 2026.11.01",
        "More ways to boot",
        "NFS, copied to memory",
        "NFS, left on the server",
        "NBD, copied to memory",
        "NBD, left on the server",
        "Without verification of the signature",
    ];
    assert_eq!(titles[..7], expected, "HTTP always copies, NFS and NBD have a choice");
    assert!(append[0].contains(" archiso_http_srv=http://192.168.1.10/arch~1/ "));
    assert!(append[1].contains(" archiso_nfs_srv=192.168.1.10:/arch~1 "));
    assert!(append[3].contains(" archiso_nbd_srv=192.168.1.10 "));
    let with_uuid: Vec<_> = append.iter().map(|line| line.contains("archisosearchuuid=")).collect();
    assert_eq!(with_uuid, [false, false, false, true, true, false]);
}

#[test]
fn menu_names_images_by_version() {
    let images = [image("one"), image("two")];
    let menu = generate(&images, &settings(&[Root::Nbd]), &SERVER);
    let append = lines(&menu, "APPEND");
    assert!(append[0].contains(" archiso_nbd_name=one~1 "));
    assert!(append[1].contains(" archiso_nbd_name=two~1 "));
    assert_eq!(lines(&menu, "LINUX")[1], "http://192.168.1.10/two~1/arch/boot/x86_64/vmlinuz-linux");
    let titles = lines(&menu, "MENU LABEL");
    let alike = ["one: Arch Linux 2026.11.01", "two: Arch Linux 2026.11.01"];
    assert_eq!(titles[..2], alike, "two images of one edition are told apart");
    assert_eq!(titles[3], alike[0], "the other ways of each are on a page of their own");
    assert_eq!(lines(&menu, "CONFIG").len(), 1, "the other's own menu would load this one's kernel");
}

#[test]
fn row_that_boots_by_itself_follows_operator_settings() {
    let chosen =
        MenuSettings { copytoram: CopyToRam::No, cms: Cms::Skip, ..settings(&[Root::Nfs, Root::Nbd]) };
    let (images, server) = ([image("arch")], SERVER);
    let menu = menu(&images, &chosen, &server);
    for text in [pxelinux::write(&menu), ipxe::write(&menu)] {
        let line = text.lines().find(|line| line.contains("archisobasedir=")).unwrap();
        assert!(line.contains(" archiso_nfs_srv=192.168.1.10:/arch~1 copytoram=n console="), "{line}");
        assert!(text.contains("With verification of the signature"), "{text}");
    }
}

#[test]
fn serial_console_is_offered_unless_it_is_there() {
    let mut plain = image("arch");
    plain.boot_entries.iter_mut().for_each(|entry| entry.parameters = vec![word("quiet")]);
    let appended = |images: &[Bootable]| {
        let menu = generate(images, &settings(&[Root::Nbd]), &SERVER);
        lines(&menu, "APPEND")
            .iter()
            .filter(|line| line.ends_with(" console=tty0 console=ttyS0,115200"))
            .count()
    };
    assert_eq!((appended(&[plain]), appended(&[image("arch")])), (1, 0));
}

#[test]
fn memory_test_fits_the_firmware() {
    let tests = |bios: Option<&str>, uefi: Option<&str>| {
        let memory_tests = MemoryTests { bios: bios.map(path), uefi: uefi.map(path) };
        [Bootable { memory_tests, ..image("arch") }]
    };
    let pxelinux = |images: &[Bootable]| generate(images, &settings(&[Root::Nbd]), &SERVER);
    let both = tests(Some("boot/memtest86+/memtest"), Some("boot/memtest86+/memtest.efi"));
    let of_uefi = tests(None, Some("boot/memtest86+/memtest.efi"));
    let path = "http://192.168.1.10/arch~1/boot/memtest86+/memtest";
    assert_eq!(lines(&pxelinux(&both), "LINUX").last(), Some(&path));
    assert!(!pxelinux(&of_uefi).contains("memtest"));
    let script = |images: &[Bootable]| ipxe::write(&menu(images, &settings(&[Root::Nbd]), &SERVER));
    let text = script(&both);
    for platform in [format!("pcbios && set test {path} ||"), format!("efi && set test {path}.efi ||")] {
        assert!(text.contains(&format!("\niseq ${{platform}} {platform}\n")), "{text}");
    }
    assert!(lines(&script(&of_uefi), "iseq")[0].starts_with("${platform} efi && item "), "no row under BIOS");
}

#[test]
fn machine_is_named_at_the_foot() {
    let (images, name) = ([image("arch")], word("workstation-in-the-long-corridor"));
    let machine = MenuMachine {
        mac: "52:54:00:12:34:56".parse().ok(),
        address: Some(Ipv4Addr::new(192, 168, 100, 200)),
        name: Some(&name),
    };
    let menu = Menu { machine, ..menu(&images, &settings(&[Root::Nbd]), &SERVER) };
    let foot = "Server 192.168.1.10 - workstati...corridor, 52:54:00:12:34:56, 192.168.100.200";
    assert!(foot.len() < 80);
    assert_eq!(lines(&pxelinux::write(&menu), "MENU TABMSG"), [foot]);
    assert_eq!(lines(&ipxe::write(&menu), "item --gap Server")[0], &foot["Server ".len()..]);
    let unknown = Menu { machine: MenuMachine::default(), ..menu };
    assert_eq!(
        lines(&ipxe::write(&unknown), "item --gap Server")[0],
        "192.168.1.10 - ${netX/mac}, ${netX/ip}"
    );
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
    assert_eq!(lines(&menu, "MENU LABEL")[2], "NBD, copied to memory");
    assert_eq!(lines(&menu, "TIMEOUT"), ["0"], "that of the second page");
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
    assert!(lines(&menu, "UI").is_empty() && !menu.contains("MENU BEGIN") && !menu.contains("MENU EXIT"));
    assert_eq!(lines(&menu, "PROMPT"), ["1"]);
    let said = [
        "Server 192.168.1.10",
        "Network boot. Type a number and press Enter:",
        "   1  Arch Linux 2026.11.01",
        "      More ways to boot:",
        "   2  NBD, left on the server",
    ];
    assert_eq!(lines(&menu, "SAY")[..5], said);
    assert_eq!(lines(&menu, "SAY").last(), Some(&"   5  Boot from the local disk"));
    assert_eq!(lines(&menu, "LABEL").last(), Some(&"5"));
}

#[test]
fn menu_exists_without_a_root() {
    let menu = generate(&[image("arch")], &settings(&[]), &SERVER);
    let titles = ["Boot from the local disk", "More ways to boot", "The image's own menu", "Reboot", "Back"];
    assert_eq!(lines(&menu, "MENU LABEL"), titles);
    assert_eq!(lines(&generate(&[], &settings(&[Root::Nbd]), &SERVER), "LABEL"), ["1"]);
}

#[test]
fn start_without_menu_boots_at_once() {
    let images = [image("arch")];
    let menu = Menu { start: Start::Straight, ..menu(&images, &settings(&[Root::Nbd]), &SERVER) };
    let text = pxelinux::write(&menu);
    assert!(lines(&text, "UI").is_empty());
    assert_eq!((lines(&text, "PROMPT"), lines(&text, "DEFAULT")), (vec!["0"], vec!["1"]));
    let script = ipxe::write(&menu);
    assert!(script.contains("\n:start\ngoto 1\n") && lines(&script, "choose").is_empty());
}

#[test]
fn script_of_one_image() {
    let images = [image("arch")];
    let mac: Option<Mac> = "52:54:00:12:34:56".parse().ok();
    let machine = MenuMachine { mac, ..MenuMachine::default() };
    let script = ipxe::write(&Menu { machine, ..menu(&images, &settings(&[Root::Nfs]), &SERVER) });
    let kernel = |parameters: &str| {
        format!(
            "imgfree\n\
             kernel http://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux archisobasedir=arch \
             archiso_nfs_srv=192.168.1.10:/arch~1 {parameters} console=ttyS0,115200 quiet \
             ip=${{netX/ip}}:192.168.1.10:${{netX/gateway}}:${{netX/netmask}} BOOTIF=01-52-54-00-12-34-56 \
             initrd=initrd1.img initrd=initrd2.img || goto failed\n\
             initrd --name initrd1.img http://192.168.1.10/arch~1/arch/boot/ucode.img || goto failed\n\
             initrd --name initrd2.img http://192.168.1.10/arch~1/arch/boot/x86_64/initramfs-linux.img || \
             goto failed\n\
             boot || goto failed\n"
        )
    };
    let (copied, attached, unverified) =
        (kernel("copytoram=auto cms_verify=y"), kernel("copytoram=n cms_verify=y"), kernel("copytoram=auto"));
    let expected = format!(
        "\
#!ipxe
# Made by isowire for each machine that asks; see `copytoram`, `menu-timeout`,
# `cms-verify`, `kernel-parameters` and [[machine]] in its configuration.
imgfree autoexec.ipxe ||
isset ${{netX/ip}} || dhcp ||

:start
set pad:hex 20:20:20 ||
set pad ${{pad:string}} ||
menu Network boot || goto 1
item 1 Arch Linux 2026.11.01
item --gap ${{pad}} Copies its root file system to memory (NFS). Then the server may go.
item 2 More ways to boot
item --gap ${{pad}} Other protocols for the root file system, verification, and tools.
item 3 Boot from the local disk
item --gap ${{pad}} Leaves the network and goes on with the next boot device.
item --gap ${{pad}}
item --gap Server 192.168.1.10 - 52:54:00:12:34:56, ${{netX/ip}}
choose --default 1 --timeout 10000 entry || exit 1
goto ${{entry}}

:1
{copied}
:2
set pad:hex 20:20:20 ||
set pad ${{pad:string}} ||
menu More ways to boot
item 4 NFS, left on the server
item 5 Without verification of the signature
item 6 Reboot
item 7 iPXE shell
item 8 Back
item --gap ${{pad}}
item --gap Server 192.168.1.10 - 52:54:00:12:34:56, ${{netX/ip}}
choose entry || goto start
goto ${{entry}}

:4
{attached}
:5
{unverified}
:6
reboot

:7
echo Type exit for the menu.
shell ||
goto 2

:8
goto start

:3
exit 1

:failed
prompt --timeout 10000 isowire at 192.168.1.10: this did not boot, the lines above say why. Run isowire \
         status there. Press a key for the menu... ||
goto start
"
    );
    assert_eq!(script, expected);
}

#[test]
fn script_loads_by_tftp_without_http() {
    let images = [image("arch")];
    let server = FileServer { ports: Ports { tftp: 69, http: None }, ..SERVER };
    let script = ipxe::write(&menu(&images, &settings(&[Root::Nbd]), &server));
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
    let script = ipxe::write_by_tftp(&menu);
    let kernel = lines(&script, "kernel")[0];
    assert!(kernel.starts_with("tftp://192.168.1.10/arch~1/arch/boot/x86_64/vmlinuz-linux "), "{kernel}");
    assert!(kernel.contains(" archiso_http_srv=http://192.168.1.10/"), "the kernel has HTTP: {kernel}");
    assert!(lines(&script, "initrd").iter().all(|line| line.contains(" tftp://")), "{script}");
}

#[test]
fn title_is_never_a_command() {
    let images = [Bootable { title: Line::new("A || goto x && ; # ${b} \\"), ..image("arch") }];
    let script = ipxe::write(&menu(&images, &settings(&[Root::Nbd]), &SERVER));
    assert_eq!(lines(&script, "item")[0], "1 A __ goto x __ _ _ _{b} _");
}

#[test]
fn other_entries_of_an_image_keep_their_titles() {
    let long = format!("Some Linux, {}LTS", "with a long name ".repeat(5));
    let boot_entries = vec![boot_entry(None, "Some Linux"), boot_entry(None, &long)];
    let images = [Bootable { boot_entries, ..image("arch") }];
    let menu = generate(&images, &settings(&[Root::Http, Root::Nbd]), &SERVER);
    let titles = lines(&menu, "MENU LABEL");
    assert_eq!(titles[2..4], ["NBD, copied to memory", "NBD, left on the server"]);
    assert_eq!(titles[4], "Some Linux, with a long name ...ng name with a long name LTS");
}

#[test]
fn name_gives_way_in_a_line_of_help() {
    let name = "a".repeat(80);
    let menu = generate(&[image(&name)], &settings(&[Root::Nbd]), &SERVER);
    let lines: Vec<_> = menu.lines().filter(|line| line.starts_with(" Image ")).collect();
    assert!(lines.iter().all(|line| line.len() == 71), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with("a, signature not verified.")), "{lines:?}");
}
