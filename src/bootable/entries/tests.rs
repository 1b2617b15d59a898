//! Images as other distributions lay them out.

use super::*;
use crate::boot::tests::image;
use crate::bootable::{entries, initramfs, survey};
use crate::image::initramfs::cpio::tests::archive;

/// The files of an image: each of these with its path for its content, and those with a text.
fn files<'a>(empty: &[&'a str], texts: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
    let empty = empty.iter().map(|path| (*path, (*path).to_owned()));
    empty.chain(texts.iter().map(|(path, text)| (*path, (*text).to_owned()))).collect()
}

/// Where the entries come from, and of each its title, its files, and what its kernel is told.
fn told(files: &[(&str, String)]) -> (Origin, Vec<String>) {
    let Entries { origin, boot_entries } = entries(&image(files)).unwrap();
    let boot_entry = |boot_entry: &BootEntry| {
        let title = boot_entry.title.as_ref().map_or("-", |title| title.as_str());
        let initrd: Vec<_> = boot_entry.initrd.iter().map(|path| path.as_str()).collect();
        let parameters: Vec<_> = boot_entry.parameters.iter().map(|word| word.as_str()).collect();
        format!("{title}: {} {} {}", boot_entry.kernel, initrd.join(","), parameters.join(" "))
    };
    (origin, boot_entries.iter().map(boot_entry).collect())
}

const KERNELS: [&str; 6] = [
    "some/x86_64/airootfs.sfs",
    "some/boot/intel-ucode.img",
    "some/boot/x86_64/vmlinuz-linux",
    "some/boot/x86_64/initramfs-linux.img",
    "some/boot/x86_64/vmlinuz-linux-lts",
    "some/boot/x86_64/initramfs-linux-lts.img",
];

const LOADER: [(&str, &str); 4] = [
    (
        "loader/entries/a-nv.conf",
        "title Some Linux, NVIDIA\nlinux /some/boot/x86_64/vmlinuz-linux\ninitrd /some/boot/intel-ucode.img\n\
         initrd /some/boot/x86_64/initramfs-linux.img\n\
         options archisobasedir=some archisolabel=SOME_1 cow_spacesize=10G nvidia-drm.modeset=1\n",
    ),
    (
        "loader/entries/a.conf",
        "title Some Linux\nlinux /some/boot/x86_64/vmlinuz-linux\ninitrd /some/boot/x86_64/initramfs-linux.img\n\
         options archisobasedir=some archisosearchuuid=U accessibility=on\n",
    ),
    (
        "loader/entries/lts.conf",
        "title Some Linux, LTS\nlinux /some/boot/x86_64/vmlinuz-linux-lts\n\
         initrd /some/boot/x86_64/initramfs-linux-lts.img\noptions archisobasedir=some copytoram=y\n",
    ),
    ("loader/entries/memtest.conf", "title Memtest\nefi /boot/memtest.efi\n"),
];

const GRUB: &str = "menuentry \"Some Linux (x86_64, ${platform})\" {\n\
     linux ($root)/some/boot/x86_64/vmlinuz-linux archisobasedir=some img_dev=UUID=${uuid} quiet\n\
     initrd /some/boot/x86_64/initramfs-linux.img\n}\n\
     menuentry 'Memtest' {\nlinux /some/boot/memtest\n}\n";

#[test]
fn systemd_boot_default_entry_comes_first() {
    let mut files = files(&KERNELS, &LOADER);
    files.push(("loader/loader.conf", "timeout 5\ndefault lts*\n".into()));
    files.push(("boot/grub/grub.cfg", GRUB.into()));
    let (origin, boot_entries) = told(&files);
    assert_eq!(origin, Origin::SystemdBoot);
    assert_eq!(
        boot_entries,
        [
            "Some Linux, LTS: some/boot/x86_64/vmlinuz-linux-lts some/boot/x86_64/initramfs-linux-lts.img ",
            "Some Linux, NVIDIA: some/boot/x86_64/vmlinuz-linux \
             some/boot/intel-ucode.img,some/boot/x86_64/initramfs-linux.img cow_spacesize=10G nvidia-drm.modeset=1",
            "Some Linux: some/boot/x86_64/vmlinuz-linux some/boot/x86_64/initramfs-linux.img accessibility=on",
        ]
    );
    let bootable = survey("some", "one~1", &image(&files)).unwrap();
    assert_eq!((bootable.base_dir.as_str(), bootable.boot_entries.len()), ("some", 3));
    assert_eq!(bootable.stock, None);
}

#[test]
fn syslinux_disc_entries_come_first() {
    let mut files = files(&KERNELS, &LOADER);
    let entry = |name: &str, title: &str, more: &str| {
        format!(
            "LABEL {name}\nMENU LABEL {title}\nLINUX /some/boot/x86_64/vmlinuz-linux\n\
             INITRD /some/boot/x86_64/initramfs-linux.img\nAPPEND archisobasedir=some archisolabel=X {more}\n"
        )
    };
    let entries = [
        entry("a", "Some Linux (BIOS)", "quiet"),
        entry("b", "Some Linux in RAM", "copytoram=y quiet"),
        entry("c", "Some Linux, nomodeset", "nomodeset"),
        entry("d", "Persistent", "cow_label=DATA quiet"),
        entry("e", "Of another system", "archisobasedir=other"),
        "LABEL f\nLINUX /some/boot/memtest\nLABEL g\nCOM32 reboot.c32\n".to_owned(),
    ];
    files.push(("some/boot/memtest", "memtest".into()));
    files.push(("boot/syslinux/sys-linux.cfg", entries.concat()));
    files.push(("boot/syslinux/sys.cfg", "SERIAL 0\nUI menu.c32\nINCLUDE sys-linux.cfg\n".into()));
    let (origin, boot_entries) = told(&files);
    assert_eq!(origin, Origin::Syslinux);
    let of = "some/boot/x86_64/vmlinuz-linux some/boot/x86_64/initramfs-linux.img";
    assert_eq!(
        boot_entries,
        [format!("Some Linux (BIOS): {of} quiet"), format!("Some Linux, nomodeset: {of} nomodeset"),]
    );
    let bootable = survey("some", "one~1", &image(&files)).unwrap();
    assert_eq!(bootable.look.serial.unwrap().as_str(), "0", "the menu that is whole gives the look");
    assert_eq!(bootable.stock, None, "a menu for a disc is nothing to offer");
}

#[test]
fn grub_entries_are_read_from_each_place() {
    for path in GRUB_MENUS {
        let (origin, boot_entries) = told(&files(&KERNELS, &[(path, GRUB)]));
        assert_eq!(origin, Origin::Grub);
        assert_eq!(
            boot_entries,
            [
                "Some Linux (x86_64): some/boot/x86_64/vmlinuz-linux some/boot/x86_64/initramfs-linux.img quiet"
            ]
        );
    }
    let sources =
        [("boot/grub/grub.cfg", "source /boot/grub/kernels.cfg\n"), ("boot/grub/kernels.cfg", GRUB)];
    assert_eq!(told(&files(&KERNELS, &sources)).1.len(), 1);
}

#[test]
fn kernels_may_have_any_path() {
    let empty = [
        "garden/x86_64/airootfs.sfs",
        "boot/vmlinuz-x86_64",
        "boot/initramfs-x86_64-linux.img",
        "garden/boot/x86_64/vmlinuz",
        "garden/boot/x86_64/archiso.img",
    ];
    let menu = "menuentry 'Zen' {\nlinux /boot/vmlinuz-x86_64 archisobasedir=/garden/ archisodevice=/dev/sda1\n\
                initrd /boot/initramfs-x86_64-linux.img\n}\n\
                menuentry 'Old' {\nlinux /garden/boot/x86_64/vmlinuz\ninitrd /garden/boot/x86_64/archiso.img\n}\n\
                menuentry 'Not in the install directory' {\nlinux /boot/vmlinuz-x86_64\n\
                initrd /boot/initramfs-x86_64-linux.img\n}\n";
    let files = files(&empty, &[("boot/grub/grub.cfg", menu)]);
    let expected = [
        "Zen: boot/vmlinuz-x86_64 boot/initramfs-x86_64-linux.img ",
        "Old: garden/boot/x86_64/vmlinuz garden/boot/x86_64/archiso.img ",
    ];
    assert_eq!(told(&files).1, expected);
    let image = image(&files);
    let boot_entries = entries(&image).unwrap().boot_entries;
    assert!(boot_entries.iter().all(|boot_entry| boot_entry.architecture.as_str() == "x86_64"));
    let looked_at: Vec<_> = initramfs(&image).map(|(path, _)| path).collect();
    assert_eq!(looked_at, ["/boot/initramfs-x86_64-linux.img", "/garden/boot/x86_64/archiso.img"]);
}

#[test]
fn names_may_begin_in_install_directory() {
    let empty = [
        "rescue/x86_64/airootfs.sfs",
        "rescue/boot/x86_64/vmlinuz",
        "rescue/boot/x86_64/rescue.img",
        "rescue/boot/amd_ucode.img",
        "rescue/boot/syslinux/lpxelinux.0",
    ];
    let pxe = "INCLUDE boot/syslinux/head.cfg\nLABEL http\nMENU LABEL Rescue (HTTP)\nLINUX boot/x86_64/vmlinuz\n\
               INITRD boot/amd_ucode.img,boot/x86_64/rescue.img\n\
               APPEND archisobasedir=rescue archiso_http_srv=http://${pxeserver}/\nSYSAPPEND 3\n";
    let head = "SERIAL 0 115200\n";
    let texts = [("rescue/boot/syslinux/pxe.cfg", pxe), ("rescue/boot/syslinux/head.cfg", head)];
    let files = files(&empty, &texts);
    let (origin, boot_entries) = told(&files);
    assert_eq!(origin, Origin::Pxelinux);
    assert_eq!(
        boot_entries,
        [
            "Rescue (HTTP): rescue/boot/x86_64/vmlinuz rescue/boot/amd_ucode.img,rescue/boot/x86_64/rescue.img "
        ]
    );
    let bootable = survey("rescue", "one~1", &image(&files)).unwrap();
    assert_eq!(bootable.boot_entries[0].root, Some(Root::Http));
    assert_eq!(bootable.look.serial.unwrap().as_str(), "0 115200");
    assert_eq!(bootable.stock, None, "its names would start in the menu's own directory");
}

#[test]
fn other_hooks_are_not_archiso() {
    let loader = LOADER.map(|(path, text)| (path, text.replace("archisobasedir=", "misobasedir=")));
    let loader: Vec<_> = loader.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let (origin, boot_entries) = told(&files(&KERNELS, &loader));
    assert_eq!(origin, Origin::Kernels);
    assert_eq!(
        boot_entries,
        [
            "linux for x86_64: some/boot/x86_64/vmlinuz-linux some/boot/x86_64/initramfs-linux.img ",
            "linux-lts for x86_64: some/boot/x86_64/vmlinuz-linux-lts some/boot/x86_64/initramfs-linux-lts.img ",
        ],
        "several kernels have names"
    );
}

#[test]
fn entries_have_a_limit() {
    let entry = |number: usize| {
        format!(
            "menuentry {number} {{\nlinux /some/boot/x86_64/vmlinuz-linux archisobasedir=some x={number}\n\
             initrd /some/boot/x86_64/initramfs-linux.img\n}}\n"
        )
    };
    let menu: String = (0..100).map(entry).collect();
    let (_, boot_entries) = told(&files(&KERNELS, &[("boot/grub/grub.cfg", &menu)]));
    assert_eq!(boot_entries.len(), ENTRIES_MAX);
}

/// BlackArch's menus say `checksum verify`, and its images are not signed.
#[test]
fn self_test_is_kept_if_its_file_is_there() {
    let menus = [
        (
            "boot/syslinux/pxe.cfg",
            "LABEL a\nLINUX /some/boot/x86_64/vmlinuz-linux\n\
          INITRD /some/boot/x86_64/initramfs-linux.img\nAPPEND archiso_nbd_srv=x ",
        ),
        (
            "loader/entries/a.conf",
            "linux /some/boot/x86_64/vmlinuz-linux\n\
          initrd /some/boot/x86_64/initramfs-linux.img\noptions archisobasedir=some ",
        ),
        (
            "boot/grub/grub.cfg",
            "menuentry a {\ninitrd /some/boot/x86_64/initramfs-linux.img\n\
          linux /some/boot/x86_64/vmlinuz-linux archisobasedir=some ",
        ),
    ];
    for (path, menu) in menus {
        let end = if path.ends_with("grub.cfg") { "\n}\n" } else { "\n" };
        let menu = format!("{menu}checksum verify=y cms_verify verify=n quiet{end}");
        let entry = |also: &[&str]| {
            let image = image(&files(&[&KERNELS[..], also].concat(), &[(path, &menu)]));
            let Entries { mut boot_entries, .. } = entries(&image).unwrap();
            let BootEntry { parameters, left_out, signed, .. } = boot_entries.remove(0);
            let parameters: Vec<_> = parameters.iter().map(|word| word.as_str().to_owned()).collect();
            (parameters.join(" "), left_out, signed)
        };
        let (parameters, left_out, signed) = entry(&[]);
        assert_eq!((&*parameters, signed), ("verify=n quiet", false), "{path}");
        assert_eq!(
            left_out,
            [
                "checksum, which needs /some/x86_64/airootfs.sha512",
                "verify=y, which needs /some/x86_64/airootfs.sfs.sig",
                "cms_verify, which needs /some/x86_64/airootfs.sfs.cms.sig",
            ]
        );
        let (parameters, left_out, _) = entry(&["some/x86_64/airootfs.sha512"]);
        assert_eq!((&*parameters, left_out.len()), ("checksum verify=n quiet", 2), "{path}");
        let all = [
            "some/x86_64/airootfs.sha512",
            "some/x86_64/airootfs.sfs.sig",
            "some/x86_64/airootfs.sfs.cms.sig",
        ];
        let (parameters, left_out, signed) = entry(&all);
        assert_eq!(
            (&*parameters, signed),
            ("checksum verify=y verify=n quiet", true),
            "{path}: we say cms_verify"
        );
        assert_eq!(left_out, [""; 0]);
    }
}

/// gpg is in an initramfs that was built with a key, and the hook of 2017 verifies another file.
#[test]
fn self_test_is_kept_if_its_initramfs_can() {
    let menu = "LABEL a\nLINUX /some/boot/x86_64/vmlinuz-linux\n\
         INITRD /some/boot/x86_64/initramfs-linux.img\nAPPEND archiso_nbd_srv=x checksum=y verify=y\n";
    let entry = |initramfs: &[(&str, &[u8])], sum: &str| {
        let initramfs = String::from_utf8(archive(initramfs)).unwrap();
        let empty = [KERNELS[0], KERNELS[2], sum, "some/x86_64/airootfs.sfs.sig"];
        let texts = [(KERNELS[3], &*initramfs), ("boot/syslinux/pxe.cfg", menu)];
        let Entries { mut boot_entries, .. } = entries(&image(&files(&empty, &texts))).unwrap();
        let BootEntry { parameters, left_out, .. } = boot_entries.remove(0);
        (parameters.iter().map(|word| word.as_str().to_owned()).collect::<Vec<_>>(), left_out)
    };
    let old: (&str, &[u8]) = ("hooks/archiso", b"md5sum -c airootfs.md5");
    let new: (&str, &[u8]) = ("hooks/archiso", b"sha512sum -c airootfs.sha512");
    let gpg: (&str, &[u8]) = ("usr/bin/gpg", b"");
    let [md5, sha512] = ["some/x86_64/airootfs.md5", "some/x86_64/airootfs.sha512"];
    let no_sum = "checksum=y, which needs /some/x86_64/airootfs.sha512";
    let no_gpg = "verify=y, which needs the program gpg in /some/boot/x86_64/initramfs-linux.img";
    for (initramfs, sum, kept, left_out) in [
        (&[old, gpg][..], md5, &["checksum=y", "verify=y"][..], &[][..]),
        (&[new, gpg], sha512, &["checksum=y", "verify=y"], &[]),
        (&[new, gpg], md5, &["verify=y"], &[no_sum]),
        (&[new], sha512, &["checksum=y"], &[no_gpg]),
        (&[old], md5, &["checksum=y"], &[no_gpg]),
    ] {
        let (parameters, missing) = entry(initramfs, sum);
        assert_eq!(
            (&parameters[..], &missing[..]),
            (
                &kept.iter().map(|p| p.to_string()).collect::<Vec<_>>()[..],
                &left_out.iter().map(|p| p.to_string()).collect::<Vec<_>>()[..]
            )
        );
    }
}
