use std::io::Write;
use std::process::{Command, Stdio};

use super::cpio::tests::archive;
use super::*;
use crate::image::{Extent, samples};

const EARLY: [(&str, &[u8]); 2] = [("kernel", b""), ("kernel/x86/microcode/GenuineIntel.bin", b"microcode")];

/// Files of the initramfs of releng, without the large ones.
const RELENG: [(&str, &[u8]); 9] = [
    ("hooks/archiso_pxe_common", b"run_hook() {"),
    ("hooks/archiso_pxe_http", b""),
    ("hooks/archiso_pxe_nbd", b"ash"),
    ("hooks/archiso_pxe_nfs", b""),
    ("init", b"#!/usr/bin/ash"),
    ("usr/bin/curl", b"\x7fELF"),
    ("usr/bin/ipconfig", b"\x7fELF"),
    ("usr/bin/nbd-client", b"\x7fELF"),
    ("usr/bin/nfsmount", b"\x7fELF"),
];

fn contents(file: &[u8]) -> Contents {
    Contents::of(file)
}

/// Packs `bytes` with a program of the test machine; `None` if the program is missing.
fn packed(program: &str, arguments: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    let mut child = match command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(_) if std::env::var("CI").as_deref() != Ok("true") => return None,
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    Some(output.stdout)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Packs `bytes` in the legacy lz4 format, with one block that is a run of literals.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let mut left = bytes.len() - 15;
    while left >= 255 {
        block.push(255);
        left -= 255;
    }
    block.push(left as u8);
    block.extend(bytes);
    [&0x184c_2102_u32.to_le_bytes()[..], &(block.len() as u32).to_le_bytes(), &block].concat()
}

#[test]
fn requirements_are_found_in_any_packing() {
    let rest = archive(&RELENG);
    let packings = [
        Some(rest.clone()),
        Some(gzip(&rest)),
        Some(lz4(&rest)),
        packed("zstd", &["-q", "-19", "-T0"], &rest),
        packed("xz", &["-9e", "--check=crc32"], &rest),
        packed("gzip", &["-c"], &rest),
        packed("lz4", &["-l", "-9", "-q"], &rest),
    ];
    for packed in packings.into_iter().flatten() {
        let mut file = archive(&EARLY);
        file.resize(file.len().next_multiple_of(512), 0);
        file.extend(packed);
        let contents = contents(&file);
        assert_eq!(contents.found.len(), 8, "{contents:?}");
        assert!(contents.unread.is_none(), "{contents:?}");
        for needed in [Requirement::NBD, Requirement::NFS, Requirement::HTTP] {
            assert!(matches!(contents.answer(&needed), Completeness::Complete));
        }
    }
}

#[test]
fn missing_requirements_are_named() {
    let file = gzip(&archive(&[RELENG[0], RELENG[2], RELENG[4], RELENG[7]]));
    let contents = contents(&file);
    assert!(contents.unread.is_none(), "{contents:?}");
    let Completeness::Missing(missing) = contents.answer(&Requirement::NFS) else { panic!("{contents:?}") };
    let missing: Vec<_> = missing.iter().map(Requirement::to_string).collect();
    assert_eq!(missing, ["program ipconfig", "hook archiso_pxe_nfs", "program nfsmount"]);
}

#[test]
fn path_may_have_a_prefix() {
    let is_at = |requirement: Requirement, path: &str| {
        requirement.is_met_by(path.as_bytes(), |_| panic!("read to find {requirement}")).unwrap()
    };
    for path in ["hooks/archiso_pxe_nbd", "./hooks/archiso_pxe_nbd", "/hooks/archiso_pxe_nbd"] {
        assert!(is_at(Requirement::NbdHook, path), "{path}");
    }
    for path in ["bin/curl", "./usr/bin/curl", "sbin/curl"] {
        assert!(is_at(Requirement::Curl, path), "{path}");
    }
    for path in
        ["curl", "hooks", "hooks/", "usr/hooks/archiso_pxe_nbd", "bin/archiso_pxe_nbd", "hooks/curl", "."]
    {
        assert!(!Requirement::ROOTS.iter().any(|requirement| is_at(*requirement, path)), "{path}");
    }
}

/// archiso's hook verified `airootfs.md5` until 2017; gpg is in few initramfs images.
#[test]
fn self_tests_are_found_by_hook_and_program() {
    let found = |files: &[(&str, &[u8])]| {
        let contents = Contents::search(&gzip(&archive(files))[..], &Requirement::SELF_TESTS);
        assert!(contents.unread.is_none(), "{contents:?}");
        contents.found.into_iter().collect::<Vec<_>>()
    };
    let old: &[u8] = b"run_hook() {\n    md5sum -c airootfs.md5 > /tmp/checksum.log 2>&1\n";
    let new: &[u8] = b"run_hook() {\n    sha512sum -c airootfs.sha512\n";
    assert_eq!(found(&RELENG), []);
    assert_eq!(found(&[("hooks/archiso", new), ("usr/bin/gpg", b"")]), [Requirement::Gpg]);
    assert_eq!(found(&[("bin/gpg", b""), ("hooks/archiso", old)]), Requirement::SELF_TESTS);
    assert_eq!(found(&[("etc/archiso", old), ("usr/share/gpg", b"")]), []);
    let behind = [&vec![b'#'; HOOK_MAX as usize][..], old].concat();
    assert_eq!(found(&[("hooks/archiso", &behind)]), [], "not all of a file is read");
}

#[test]
fn reading_ends_with_the_last_thing_that_is_looked_for() {
    const DIRECTORY: &str = "usr/lib/modules/6.12/kernel/drivers/net";
    let missing = NetworkDrivers::default().missing();
    let modules: Vec<_> = missing.iter().map(|name| format!("{DIRECTORY}/{name}.ko.zst")).collect();
    let files: Vec<_> = modules.iter().map(|path| (path.as_str(), &b"module"[..])).collect();
    let read = |files: &[(&str, &[u8])]| {
        let mut file = gzip(&archive(files));
        file.extend(b"this is no part of an initramfs");
        contents(&file)
    };
    let all = read(&[&RELENG[..], &files].concat());
    assert_eq!((all.found.len(), all.unread.is_none()), (8, true));
    assert!(all.known_drivers().is_some_and(|drivers| drivers.missing().is_empty()));
    let some = read(&[&RELENG[..], &files[1..]].concat());
    assert_eq!((some.found.len(), some.unread.is_some()), (8, true), "another driver may follow");
    assert!(matches!(some.answer(&Requirement::NBD), Completeness::Complete));
    assert!(some.known_drivers().is_none() && some.drivers.missing() == ["bnx2x"]);
    let none = contents(&archive(&RELENG));
    assert!(none.known_drivers().is_some_and(NetworkDrivers::is_empty));
}

#[test]
fn unreadable_initramfs_is_explained() {
    let cut = &gzip(&archive(&RELENG[..8]))[..60];
    let cases: [(&[u8], &str); 6] = [
        (b"BZh91AY&SY", "it is compressed with bzip2, which isowire does not read"),
        (b"what is this", "a part of it is neither a cpio archive nor of a known compression format"),
        (b"07", "a part of it is neither a cpio archive nor of a known compression format"),
        (b"070701zz", "it cannot be read or decompressed: "),
        (cut, "it cannot be read or decompressed: "),
        (&gzip(&gzip(&archive(&RELENG))), "a part of it is neither a cpio archive nor"),
    ];
    for (file, why) in cases {
        let contents = contents(file);
        let Completeness::Unknown(missing, unread) = contents.answer(&Requirement::NBD) else {
            panic!("{contents:?}")
        };
        assert!(unread.to_string().starts_with(why), "{unread}");
        assert!(missing.contains(&Requirement::NbdClient));
    }
    let nothing = contents(&[0; 5000]);
    assert!(
        matches!(nothing.answer(&Requirement::NBD), Completeness::Missing(missing) if missing.len() == 4)
    );
}

#[test]
fn file_of_a_sparse_image_is_bounded() {
    let size = UNPACKED_MAX + 1;
    let image = samples::image(size, [vec![Extent { offset: 0, len: size }]]);
    let contents = Contents::of(&image.content(NodeId(1)).unwrap());
    assert!(matches!(contents.unread, Some(InitramfsError::TooLarge)), "{contents:?}");
}

#[test]
fn decompression_bomb_is_bounded() {
    let mut search = Search::new(&Requirement::ROOTS);
    let bomb = gzip(&vec![0; 1 << 20]);
    let result = search.parts(&mut Stream::new(&bomb[..]), Layer::File { left: 64 << 10 });
    assert!(matches!(result, Err(InitramfsError::TooLarge)), "{result:?}");
    let many = gzip(&archive(&[])).repeat(PARTS_MAX + 1);
    assert!(matches!(Contents::of(&many[..]).unread, Some(InitramfsError::Parts)));
}
