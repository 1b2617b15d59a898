use std::net::Ipv4Addr;

use super::*;
use crate::boot::BootTargets;
use crate::boot::files::{Entry, FileError};
use crate::boot::menu::MenuSettings;
use crate::boot::tests::{archiso_files, image, settings};
use crate::boot::{BootConfig, Files, Ports};
use crate::export::Piece;
use crate::images::ImageSet;
use crate::images::ServedImage;
use crate::uki::tests::stub_file;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const KERNEL: &str = "arch/boot/x86_64/vmlinuz-linux";
const MACHINE: &str = "52-54-00-12-34-56";
const ENTRIES: &str = include_str!("../../../tests/iso/syslinux/archiso_pxe-linux.cfg");

/// An archiso image with this kernel.
fn archiso(kernel: &[u8]) -> Arc<Image> {
    let entries = ENTRIES.replace("%INSTALL_DIR%", "arch").replace("%ARCH%", "x86_64");
    let mut files: Vec<_> =
        archiso_files(&entries).into_iter().map(|(path, text)| (path, text.into_bytes())).collect();
    files.iter_mut().filter(|(path, _)| *path == KERNEL).for_each(|(_, content)| *content = kernel.to_vec());
    Arc::new(image(&files))
}

/// What is served of it, with its stub.
fn files(roots: &[Root]) -> Files {
    let default = ServedImage::new("one", archiso(&stub_file()));
    let settings = MenuSettings { roots: roots.to_vec(), ..settings() };
    let terms = BootConfig { stub: Stub::parse(stub_file()).ok(), ..BootConfig::new(settings, PORTS) };
    Files::new(Arc::new(ImageSet::new(default, Vec::new())), terms).unwrap()
}

const PORTS: Ports = Ports { tftp: 69, http: Some(8080) };

fn lease(router: Option<Ipv4Addr>) -> Lease {
    Lease { address: Ipv4Addr::new(10, 0, 0, 60), netmask: Ipv4Addr::new(255, 255, 0, 0), router }
}

/// The command line in the program at `path`.
#[track_caller]
fn command_line(files: &Files, path: &str) -> String {
    let file = files.open(path.as_bytes(), HERE).unwrap();
    let pieces = file.export.range(0, file.export.len()).unwrap();
    let mut lines = pieces.filter_map(|piece| match piece {
        Piece::Memory(bytes) if bytes.starts_with(b"archisobasedir=") => {
            let line = String::from_utf8(bytes.to_vec()).ok()?;
            Some(line.trim_end_matches('\0').to_owned())
        }
        _ => None,
    });
    lines.next().expect("a part of its own")
}

#[test]
fn root_decides_command_line() {
    let files = files(&Root::ALL);
    let common = "console=ttyS0,115200 no_timer_check panic=1 ip=dhcp BOOTIF=01-52-54-00-12-34-56";
    let line = |root: &str| command_line(&files, &format!("/isowire/{MACHINE}/{root}.efi"));
    let versioned_name = files.images().default_image().versioned_name();
    assert_eq!(
        line("nbd"),
        format!(
            "archisobasedir=arch archisosearchuuid=2026-01-02-03-04-05-00 archiso_nbd_srv=10.0.0.1 \
             archiso_nbd_name={versioned_name} copytoram=auto cms_verify=y {common}"
        )
    );
    assert_eq!(
        line("nfs"),
        format!(
            "archisobasedir=arch archiso_nfs_srv=10.0.0.1:/{versioned_name} copytoram=auto cms_verify=y {common}"
        )
    );
    assert_eq!(
        line("http"),
        format!(
            "archisobasedir=arch archiso_http_srv=http://10.0.0.1:8080/{versioned_name}/ copytoram=auto cms_verify=y {common}"
        )
    );
    let any = command_line(&files, "isowire/nbd.efi");
    assert!(any.ends_with(" panic=1 ip=dhcp"), "{any}");
}

#[test]
fn command_line_has_the_lease() {
    let files = files(&[Root::Nfs]);
    let machine = MACHINE.parse().unwrap();
    let path = format!("isowire/{MACHINE}/nfs.efi");
    for (router, gateway) in [(None, "10.0.0.1"), (Some(Ipv4Addr::new(10, 0, 0, 254)), "10.0.0.254")] {
        files.leased().grant(machine, lease(router));
        let line = command_line(&files, &path);
        let ip = format!(" ip=10.0.0.60:10.0.0.1:{gateway}:255.255.0.0 BOOTIF=01-{MACHINE}");
        assert!(line.ends_with(&ip), "{line}");
    }
    let other = command_line(&files, "isowire/52-54-00-12-34-57/nfs.efi");
    assert!(other.ends_with(" ip=dhcp BOOTIF=01-52-54-00-12-34-57"), "{other}");
    files.leased().free(lease(None).address);
    assert!(command_line(&files, &path).contains(" ip=dhcp "));
}

#[test]
fn program_is_of_image_and_versioned() {
    let files = files(&[Root::Nbd]);
    let open = |machine: &str| files.open(format!("isowire/{machine}/nbd.efi").as_bytes(), HERE).unwrap();
    let [first, again, other] = [MACHINE, MACHINE, "52-54-00-12-34-57"].map(open);
    assert!(Arc::ptr_eq(first.export.image().unwrap(), files.default_image()));
    assert_eq!((&first.export, first.version), (&again.export, again.version));
    assert_ne!(first.version, other.version);
    let elsewhere = files.open(format!("isowire/{MACHINE}/nbd.efi").as_bytes(), Ipv4Addr::LOCALHOST).unwrap();
    assert_ne!(first.version, elsewhere.version);
    assert_eq!(first.export.len() % 512, 0);
    assert_eq!(first.kind, FileKind::Program);
}

#[test]
fn only_served_roots_have_programs() {
    let files = files(&[Root::Http]);
    let (name, programs) = files.programs().next().unwrap();
    assert_eq!((name, programs.unwrap().roots()), ("one", vec![Root::Http]));
    assert!(files.open(b"isowire/http.efi", HERE).is_ok());
    assert!(matches!(files.open(b"isowire/nbd.efi", HERE), Err(FileError::Path(PathError::NotFound))));
    assert_eq!(
        **files.targets(),
        BootTargets::new(Some("boot/syslinux/lpxelinux.0"), PORTS)
            .with_image(Word::new("one").unwrap(), Ok(vec![Root::Http]))
    );
    assert!(matches!(files.look_up(b"isowire", HERE.into()), Ok(Entry::Directory(_))));
}

#[test]
fn program_errors_name_the_cause() {
    let stub = || Ok(Stub::parse(stub_file()).unwrap());
    let why = |kernel: &[u8], roots: &[Root], stub| {
        let image = archiso(kernel);
        let bootable = crate::bootable::survey("one", "one~1", &image).unwrap();
        Programs::new(&image, &bootable, roots, stub, None).unwrap_err().to_string()
    };
    let kernel = stub_file();
    assert_eq!(why(&kernel, &[], stub()), "no root file system is served");
    let none = why(&kernel, &[Root::Nbd], Err(StubError::NoRoot));
    assert!(none.ends_with("give an EFI stub with --stub FILE"), "{none}");
    let old = why(b"a kernel for BIOS only", &[Root::Nbd], stub());
    assert!(old.starts_with("/arch/boot/x86_64/vmlinuz-linux: the kernel has no EFI stub"), "{old}");
    let image = archiso(&kernel);
    let bootable = crate::bootable::survey("one", "one~1", &image).unwrap();
    let bare = Bootable { boot_entries: Vec::new(), ..bootable };
    let other = Programs::new(&image, &bare, &[Root::Nbd], stub(), None).unwrap_err().to_string();
    assert_eq!(other, "the image has no bootable kernel");
}
