//! Files of archiso, found at the paths where mkarchiso puts them (archiso, `mkarchiso` and
//! `README.profile.rst`).
//!
//! Install directories, architectures and kernel names become part of kernel command lines and boot
//! menus. So a name with other characters than letters, digits, `.`, `_`, `+` and `-` is ignored.

use std::fmt;
use std::io;

use super::warnings::{Warnings, printable};
use super::{Extent, Index, Media, NodeId, NodeKind};

/// Architecture that comes first if there are several.
const FIRST_ARCH: &str = "x86_64";

/// Install directory unless the profile says otherwise.
const DEFAULT_INSTALL_DIR: &[u8] = b"arch";

/// Names of the root file system image, in the order in which archiso's hooks look for them.
const AIROOTFS: [&str; 2] = ["airootfs.sfs", "airootfs.erofs"];

/// Names of microcode images in the order of mkarchiso (`ucodes`), with those of older images.
const MICROCODE: [&[u8]; 8] = [
    b"intel-uc.img",
    b"intel-ucode.img",
    b"intel_ucode.img",
    b"amd-uc.img",
    b"amd-ucode.img",
    b"amd_ucode.img",
    b"early_ucode.cpio",
    b"microcode.cpio",
];

/// Directories of syslinux in the root: since archiso 63, and before it.
const SYSLINUX: [&str; 2] = ["boot/syslinux", "syslinux"];

/// Directory of syslinux in the install directory, in images of old profiles and of SystemRescue.
const OWN_SYSLINUX: &str = "boot/syslinux";

/// Start of a kernel's file name; the whole name in an image with a single kernel.
const KERNEL: &str = "vmlinuz";

/// Most kernels, and most root file systems, of an image; those of archiso have two or three. Each is
/// read as a whole sooner or later, and a small image can have thousands of names for one large file.
const KERNELS_MAX: usize = 32;

/// Files of an image made by mkarchiso.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiso {
    /// Name of the install directory in the root, `arch` by default (`archisobasedir=`).
    pub install_dir: String,
    /// Kernels of all architectures, those of x86_64 first.
    pub kernels: Vec<ArchisoKernel>,
    /// Root file system of each architecture, that of x86_64 first. There is at least one.
    pub airootfs: Vec<Airootfs>,
    /// File `/boot/<uuid>.uuid`, by which GRUB finds the image.
    pub uuid_file: Option<NodeId>,
    /// Directory of the syslinux files.
    pub syslinux_dir: Option<NodeId>,
    /// File `lpxelinux.0` of syslinux, which BIOS machines boot over the network.
    pub lpxelinux: Option<NodeId>,
    /// Files `*.cfg` of syslinux.
    pub syslinux_menus: Vec<NodeId>,
    /// Entries of systemd-boot, `/loader/entries/*.conf`.
    pub loader_entries: Vec<NodeId>,
}

/// Kernel with the files that are loaded with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchisoKernel {
    pub arch: String,
    /// Part of the file name after `vmlinuz-`, such as `linux-lts`; `vmlinuz` if there is none.
    pub name: String,
    pub kernel: NodeId,
    /// File `initramfs-NAME.img`, or the initramfs of a kernel without a name.
    pub initramfs: Option<NodeId>,
    /// Microcode images to load before the initramfs, in this order. Empty if the initramfs
    /// contains them.
    pub microcode: Vec<NodeId>,
}

/// Root file system of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Airootfs {
    pub arch: String,
    pub node: NodeId,
    pub format: AirootfsFormat,
    /// Bytes.
    pub size: u64,
    /// Checksum file `airootfs.sha512`, which `checksum=y` needs.
    pub sha512: Option<NodeId>,
    /// Checksum file `airootfs.md5` of images that archiso made before October 2017.
    pub md5: Option<NodeId>,
    /// Detached CMS signature `airootfs.sfs.cms.sig`, which `cms_verify=y` needs.
    pub cms_signature: Option<NodeId>,
    /// Detached GPG signature `airootfs.sfs.sig`, which `verify=y` needs.
    pub gpg_signature: Option<NodeId>,
}

/// Format of a root file system image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AirootfsFormat {
    Squashfs,
    Erofs,
    Unknown,
}

impl fmt::Display for AirootfsFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AirootfsFormat::Squashfs => "squashfs",
            AirootfsFormat::Erofs => "erofs",
            AirootfsFormat::Unknown => "unknown",
        })
    }
}

impl Archiso {
    /// Finds the files of archiso; `None` without `/INSTALL_DIR/ARCH/airootfs.sfs` or `.erofs`.
    ///
    /// # Errors
    /// The error of reading a magic number.
    pub(super) fn find(
        media: &(impl Media + ?Sized),
        index: &Index,
        uuid: Option<&str>,
        warnings: &mut Warnings,
    ) -> io::Result<Option<Self>> {
        let finder = Finder { index };
        let Some((install_dir, dir)) = finder.install_dir() else { return Ok(None) };
        let mut airootfs = Vec::new();
        for (arch, node) in finder.root_images(dir) {
            airootfs.push(Airootfs::of(media, &finder, arch, node)?);
        }
        let arch = airootfs.first().map_or(FIRST_ARCH, |root| &root.arch);
        let syslinux_dir = finder.syslinux_dir(dir);
        Ok(Some(Self {
            kernels: finder.kernels(dir, &install_dir, arch),
            airootfs,
            uuid_file: finder.uuid_file(uuid, warnings),
            syslinux_dir,
            lpxelinux: syslinux_dir.and_then(|dir| finder.file(dir, "lpxelinux.0")),
            syslinux_menus: finder.files_ending(syslinux_dir, b".cfg"),
            loader_entries: finder.files_ending(finder.directory(NodeId::ROOT, "loader/entries"), b".conf"),
            install_dir,
        }))
    }
}

impl Airootfs {
    fn of(
        media: &(impl Media + ?Sized),
        finder: &Finder<'_>,
        arch: String,
        node: NodeId,
    ) -> io::Result<Self> {
        let file = finder.index.node(node);
        // mkarchiso signs `airootfs.sfs` as `airootfs.sfs.cms.sig` and `airootfs.sfs.sig`.
        let name = String::from_utf8_lossy(&file.name);
        let extents = if let NodeKind::File { extents } = &file.kind { &extents[..] } else { &[] };
        Ok(Self {
            arch,
            node,
            format: AirootfsFormat::of(media, extents)?,
            size: file.size(),
            sha512: finder.file(file.parent, "airootfs.sha512"),
            md5: finder.file(file.parent, "airootfs.md5"),
            cms_signature: finder.file(file.parent, &format!("{name}.cms.sig")),
            gpg_signature: finder.file(file.parent, &format!("{name}.sig")),
        })
    }
}

impl AirootfsFormat {
    /// Detects the format by its magic number.
    fn of(media: &(impl Media + ?Sized), extents: &[Extent]) -> io::Result<Self> {
        let Some(start) = extents.first() else { return Ok(AirootfsFormat::Unknown) };
        // squashfs 4.0 begins with its magic number (Linux, `fs/squashfs/squashfs_fs.h`).
        if has_magic(media, start, 0, *b"hsqs")? {
            return Ok(AirootfsFormat::Squashfs);
        }
        // The superblock of erofs begins after 1024 bytes (Linux, `fs/erofs/erofs_fs.h`).
        let is_erofs = has_magic(media, start, 1024, 0xe0f5_e1e2_u32.to_le_bytes())?;
        Ok(if is_erofs { AirootfsFormat::Erofs } else { AirootfsFormat::Unknown })
    }
}

/// Returns `true` if `magic` is in `extent` after `skip` bytes.
fn has_magic(media: &(impl Media + ?Sized), extent: &Extent, skip: u64, magic: [u8; 4]) -> io::Result<bool> {
    if extent.len < skip + 4 {
        return Ok(false);
    }
    let bytes = media.read(Extent { offset: extent.offset + skip, len: 4 })?;
    Ok(bytes.as_deref() == Some(&magic))
}

/// Finder of archiso's files in the tree.
struct Finder<'a> {
    index: &'a Index,
}

impl Finder<'_> {
    /// Finds the file at a path; symlinks are followed.
    fn file(&self, dir: NodeId, path: &str) -> Option<NodeId> {
        let node = self.index.resolve(dir, path.as_bytes())?;
        matches!(self.index.node(node).kind, NodeKind::File { .. }).then_some(node)
    }

    /// Finds the directory at a path; symlinks are followed.
    fn directory(&self, dir: NodeId, path: &str) -> Option<NodeId> {
        let node = self.index.resolve(dir, path.as_bytes())?;
        matches!(self.index.node(node).kind, NodeKind::Directory { .. }).then_some(node)
    }

    /// Returns the files in `dir` whose names end with `ending`.
    fn files_ending(&self, dir: Option<NodeId>, ending: &[u8]) -> Vec<NodeId> {
        let entries = dir.map(|dir| self.index.children(dir)).unwrap_or_default().iter().copied();
        let files = entries.filter(|&id| {
            let node = self.index.node(id);
            node.name.ends_with(ending) && matches!(node.kind, NodeKind::File { .. })
        });
        files.collect()
    }

    /// Iterates over the directories in `dir` that have safe names.
    fn directories(&self, dir: NodeId) -> impl Iterator<Item = (String, NodeId)> {
        let entries = self.index.children(dir).iter().map(|&id| (id, self.index.node(id)));
        let directories = entries.filter(|(_, node)| matches!(node.kind, NodeKind::Directory { .. }));
        directories.filter_map(|(id, node)| Some((safe_name(&node.name)?, id)))
    }

    /// Finds the directory in the root that has root images, preferring the default name.
    fn install_dir(&self) -> Option<(String, NodeId)> {
        let mut dirs: Vec<_> = self.directories(NodeId::ROOT).collect();
        // A stable sort: after the default name, the order of the image counts.
        dirs.sort_by_key(|(name, _)| name.as_bytes() != DEFAULT_INSTALL_DIR);
        dirs.into_iter().find(|(_, dir)| !self.root_images(*dir).is_empty())
    }

    /// Returns architecture and node of each root image in the install directory.
    fn root_images(&self, install_dir: NodeId) -> Vec<(String, NodeId)> {
        let images = self.directories(install_dir).filter_map(|(arch, dir)| {
            let image = AIROOTFS.iter().find_map(|name| self.file(dir, name))?;
            Some((arch, image))
        });
        let mut images: Vec<_> = images.collect();
        images.sort_by_key(|(arch, _)| arch != FIRST_ARCH);
        images.truncate(KERNELS_MAX);
        images
    }

    /// Finds the directory of the syslinux files; `dir` is the install directory.
    fn syslinux_dir(&self, dir: NodeId) -> Option<NodeId> {
        let in_root = SYSLINUX.iter().find_map(|path| self.directory(NodeId::ROOT, path));
        in_root.or_else(|| self.directory(dir, OWN_SYSLINUX))
    }

    /// Finds the kernels `/INSTALL_DIR/boot/ARCH/vmlinuz-NAME`.
    ///
    /// Without any, the kernels in `/INSTALL_DIR/boot` and `/boot`, for the architecture `arch`.
    fn kernels(&self, dir: NodeId, install_dir: &str, arch: &str) -> Vec<ArchisoKernel> {
        let boot = self.directory(dir, "boot");
        let by_arch = boot.map(|boot| self.directories(boot).collect::<Vec<_>>()).unwrap_or_default();
        // mkarchiso installs one set of microcode images for all architectures.
        let microcode = boot.map(|boot| self.microcode(boot)).unwrap_or_default();
        let kernels = by_arch.into_iter().flat_map(|(arch, dir)| self.kernels_in(dir, &arch, install_dir));
        let mut kernels: Vec<_> =
            kernels.map(|kernel| ArchisoKernel { microcode: microcode.clone(), ..kernel }).collect();
        kernels.sort_by_key(|kernel| kernel.arch != FIRST_ARCH);
        // For images whose profile does not use mkarchiso's directories.
        let elsewhere = [boot, self.directory(NodeId::ROOT, "boot")].into_iter().flatten();
        if kernels.is_empty() {
            kernels = elsewhere.flat_map(|dir| self.kernels_in(dir, arch, install_dir)).collect();
        }
        kernels.truncate(KERNELS_MAX);
        kernels
    }

    /// Finds the kernels in a directory, each with its initramfs and the microcode there.
    fn kernels_in(&self, dir: NodeId, arch: &str, install_dir: &str) -> Vec<ArchisoKernel> {
        // Every name ends with nothing: all files of the directory.
        let kernels = self.files_ending(Some(dir), b"").into_iter().filter_map(|kernel| {
            let name = self.kernel_name(kernel)?;
            let initramfs = self.initramfs(dir, &name, install_dir);
            let microcode = self.microcode(dir);
            Some(ArchisoKernel { arch: arch.to_owned(), name, kernel, initramfs, microcode })
        });
        kernels.collect()
    }

    /// Finds the initramfs of the kernel called `name`.
    fn initramfs(&self, dir: NodeId, name: &str, install_dir: &str) -> Option<NodeId> {
        if name != KERNEL {
            return self.file(dir, &format!("initramfs-{name}.img"));
        }
        // Names for a kernel without a name: `archiso.img` until 2020; SystemRescue uses its
        // install directory.
        let stems = ["archiso", install_dir, "initramfs"];
        stems.iter().find_map(|stem| self.file(dir, &format!("{stem}.img")))
    }

    /// Returns the name after `vmlinuz-`, or `vmlinuz` itself; `None` for other files.
    fn kernel_name(&self, kernel: NodeId) -> Option<String> {
        let name = safe_name(&self.index.node(kernel).name)?;
        let rest = name.strip_prefix(KERNEL)?;
        let name =
            if rest.is_empty() { KERNEL } else { rest.strip_prefix('-').filter(|name| !name.is_empty())? };
        // mkarchiso puts signatures for iPXE beside the kernels: `vmlinuz-linux.ipxe.sig`.
        (!name.ends_with(".sig")).then(|| name.to_owned())
    }

    /// Returns the microcode images in a directory.
    fn microcode(&self, boot: NodeId) -> Vec<NodeId> {
        MICROCODE.iter().filter_map(|name| self.index.child(boot, name)).collect()
    }

    /// Finds the file whose name is the UUID of this image, or any such file if there is none of
    /// this name.
    fn uuid_file(&self, uuid: Option<&str>, warnings: &mut Warnings) -> Option<NodeId> {
        let boot = self.directory(NodeId::ROOT, "boot");
        let files = self.files_ending(boot, b".uuid");
        let own = format!("{}.uuid", uuid.unwrap_or_default());
        let matching = files.iter().find(|id| *self.index.node(**id).name == *own.as_bytes());
        // archiso's GRUB finds its medium by `search --file /boot/UUID.uuid`.
        if let (None, Some(&other)) = (matching, files.first()) {
            let name = printable(&self.index.node(other).name);
            warnings
                .add(|| format!("/boot/{name} is not the UUID of this image: GRUB cannot find the image"));
        }
        matching.or(files.first()).copied()
    }
}

/// Returns a name that is safe in a command line and in a menu; `None` for other names.
fn safe_name(name: &[u8]) -> Option<String> {
    let is_safe = !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(b));
    is_safe.then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::index::NodeAttributes;

    /// Makes the index of an image that has these files.
    fn index(paths: &[&str]) -> Index {
        let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let mut index = Index::new(attributes);
        for path in paths {
            path.split_inclusive('/').fold(NodeId::ROOT, |parent, name| {
                let kind = match name.ends_with('/') {
                    true => NodeKind::Directory { entries: Vec::new() },
                    false => NodeKind::File { extents: Vec::new() },
                };
                let name = name.trim_end_matches('/').as_bytes();
                let known = index.child(parent, name);
                known.unwrap_or_else(|| index.add(parent, name, kind, attributes).unwrap())
            });
        }
        index
    }

    /// Lists the kernels of an image that has these files and the install directory `some`.
    fn kernels(paths: &[&str]) -> Vec<String> {
        let index = index(paths);
        let finder = Finder { index: &index };
        let dir = index.child(NodeId::ROOT, b"some").unwrap();
        let path = |&id: &NodeId| String::from_utf8(index.path(id)).unwrap();
        let kernel = |ArchisoKernel { arch, name, initramfs, microcode, .. }: &ArchisoKernel| {
            let files: Vec<_> = initramfs.iter().chain(microcode).map(path).collect();
            format!("{arch} {name}: {}", files.join(" "))
        };
        finder.kernels(dir, "some", "x86_64").iter().map(kernel).collect()
    }

    #[test]
    fn kernels_of_archiso_are_found() {
        let found = kernels(&[
            "some/boot/intel-ucode.img",
            "some/boot/i686/vmlinuz-linux",
            "some/boot/x86_64/vmlinuz-linux",
            "some/boot/x86_64/vmlinuz-linux.ipxe.sig",
            "some/boot/x86_64/vmlinuz-",
            "some/boot/x86_64/vmlinuzlinux",
            "some/boot/x86_64/initramfs-linux.img",
            "boot/vmlinuz-other",
        ]);
        let expected = [
            "x86_64 linux: /some/boot/x86_64/initramfs-linux.img /some/boot/intel-ucode.img",
            "i686 linux: /some/boot/intel-ucode.img",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn kernels_and_roots_are_bounded() {
        let kernel = |n: usize| format!("some/boot/x86_64/vmlinuz-{n}");
        let many: Vec<_> = (0..2 * KERNELS_MAX).map(kernel).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(kernels(&many).len(), KERNELS_MAX);
        let root = |n: usize| format!("some/arch{n}/airootfs.sfs");
        let many: Vec<_> = (0..2 * KERNELS_MAX).map(root).collect();
        let mut many: Vec<_> = many.iter().map(String::as_str).collect();
        many.push("some/x86_64/airootfs.sfs");
        let index = index(&many);
        let dir = index.child(NodeId::ROOT, b"some").unwrap();
        let roots = Finder { index: &index }.root_images(dir);
        assert_eq!((roots.len(), roots[0].0.as_str()), (KERNELS_MAX, FIRST_ARCH));
    }

    #[test]
    fn kernel_without_a_name_is_found() {
        for initramfs in ["archiso.img", "some.img", "initramfs.img"] {
            let path = format!("some/boot/x86_64/{initramfs}");
            let found = kernels(&["some/boot/x86_64/vmlinuz", &path, "some/boot/amd_ucode.img"]);
            assert_eq!(found, [format!("x86_64 vmlinuz: /{path} /some/boot/amd_ucode.img")]);
        }
    }

    #[test]
    fn kernels_elsewhere_are_a_fallback() {
        let found =
            kernels(&["some/boot/vmlinuz-a", "boot/vmlinuz-b", "boot/initramfs-b.img", "boot/amd-ucode.img"]);
        assert_eq!(found, ["x86_64 a: ", "x86_64 b: /boot/initramfs-b.img /boot/amd-ucode.img"]);
    }
}
