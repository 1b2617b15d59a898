//! What mkarchiso put on the image, by the places it puts things to (archiso `mkarchiso`, `README.profile.rst`).
//!
//! Install directory, architectures and kernel names end up in kernel command lines and boot menus: whatever has other
//! characters than letters, digits, `.`, `_`, `+` and `-` in such a name is not taken for archiso's.

use std::fmt;
use std::io;

use super::survey::Volume;
use super::warnings::{Warnings, printable};
use super::{Extent, Index, Media, NodeId, NodeKind};

/// The architecture that comes first where there are several.
const FIRST_ARCH: &str = "x86_64";

/// Install directory unless the profile says otherwise.
const DEFAULT_INSTALL_DIR: &[u8] = b"arch";

/// Names of the root image, in the order in which archiso's hooks look for them.
const AIROOTFS: [&str; 2] = ["airootfs.sfs", "airootfs.erofs"];

/// Microcode images, in mkarchiso's order (`ucodes`), with the names that older ones have.
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

/// Where the syslinux files are: since archiso 63, and before it.
const SYSLINUX: [&str; 2] = ["boot/syslinux", "syslinux"];

/// Where they are in the install directory, in images of old profiles and of SystemRescue.
const OWN_SYSLINUX: &str = "boot/syslinux";

/// What the name of a kernel begins with; all of it where an image has but one.
const KERNEL: &str = "vmlinuz";

/// An image made by mkarchiso.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiso {
    /// Name of the directory in the root, `arch` unless the profile says otherwise (`archisobasedir=`).
    pub install_dir: String,
    /// The kernels of all architectures, those of x86_64 first.
    pub kernels: Vec<ArchisoKernel>,
    /// The root image of each architecture, that of x86_64 first. There is one at least.
    pub airootfs: Vec<Airootfs>,
    /// `/boot/<uuid>.uuid`, by which GRUB finds the image.
    pub uuid_file: Option<NodeId>,
    /// Directory of the syslinux files.
    pub syslinux_dir: Option<NodeId>,
    /// `lpxelinux.0` in it: what BIOS machines boot over the network.
    pub lpxelinux: Option<NodeId>,
    /// The `*.cfg` in it.
    pub syslinux_menus: Vec<NodeId>,
    /// systemd-boot's entries, `/loader/entries/*.conf`.
    pub loader_entries: Vec<NodeId>,
}

/// A kernel with what it is loaded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchisoKernel {
    pub arch: String,
    /// What follows `vmlinuz-`: `linux`, `linux-lts`; `vmlinuz` where nothing does.
    pub name: String,
    pub kernel: NodeId,
    /// `initramfs-NAME.img`, or what stands for it beside a kernel without a name.
    pub initramfs: Option<NodeId>,
    /// To be loaded before the initramfs, in this order. None where the initramfs has them in it.
    pub microcode: Vec<NodeId>,
}

/// The root file system of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Airootfs {
    pub arch: String,
    pub node: NodeId,
    pub format: AirootfsFormat,
    /// Bytes.
    pub size: u64,
    /// Its checksum file, `airootfs.sha512`.
    pub sha512: Option<NodeId>,
    /// Its detached CMS signature, `airootfs.sfs.cms.sig`: without it `cms_verify=y` cannot work.
    pub cms_signature: Option<NodeId>,
}

/// Format of a root image, by its magic number.
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
    /// Finds archiso's files; `None` when there is no `/INSTALL_DIR/ARCH/airootfs.sfs` or `.erofs`.
    ///
    /// # Errors
    /// Only those of reading the magic numbers.
    pub(super) fn find(
        media: &(impl Media + ?Sized),
        index: &Index,
        volume: &Volume,
        warnings: &mut Warnings,
    ) -> io::Result<Option<Self>> {
        let places = Places { index };
        let Some((install_dir, dir)) = places.install_dir() else { return Ok(None) };
        let mut airootfs = Vec::new();
        for (arch, node) in places.root_images(dir) {
            airootfs.push(Airootfs::of(media, &places, arch, node)?);
        }
        let syslinux_dir = SYSLINUX.iter().find_map(|path| places.directory(NodeId::ROOT, path));
        let syslinux_dir = syslinux_dir.or_else(|| places.directory(dir, OWN_SYSLINUX));
        let archiso = Self {
            kernels: places.kernels(
                dir,
                &install_dir,
                airootfs.first().map_or(FIRST_ARCH, |root| &root.arch),
            ),
            airootfs,
            uuid_file: places.uuid_file(volume.uuid.as_deref(), warnings),
            syslinux_dir,
            lpxelinux: syslinux_dir.and_then(|dir| places.file(dir, "lpxelinux.0")),
            syslinux_menus: places.files_ending(syslinux_dir, b".cfg"),
            loader_entries: places.files_ending(places.directory(NodeId::ROOT, "loader/entries"), b".conf"),
            install_dir,
        };
        Ok(Some(archiso))
    }
}

impl Airootfs {
    fn of(
        media: &(impl Media + ?Sized),
        places: &Places<'_>,
        arch: String,
        node: NodeId,
    ) -> io::Result<Self> {
        let place = places.index.node(node);
        let signature = format!("{}.cms.sig", String::from_utf8_lossy(&place.name));
        let extents = if let NodeKind::File { extents } = &place.kind { &extents[..] } else { &[] };
        Ok(Self {
            arch,
            node,
            format: AirootfsFormat::of(media, extents)?,
            size: place.size(),
            sha512: places.file(place.parent, "airootfs.sha512"),
            cms_signature: places.file(place.parent, &signature),
        })
    }
}

impl AirootfsFormat {
    /// squashfs begins with its magic number (`squashfs_fs.h`), erofs has it 1024 bytes later (`erofs_fs.h`).
    fn of(media: &(impl Media + ?Sized), extents: &[Extent]) -> io::Result<Self> {
        let Some(start) = extents.first() else { return Ok(AirootfsFormat::Unknown) };
        let starts_with = |skip: u64, magic: [u8; 4]| {
            let extent = Extent { offset: start.offset + skip, len: 4 };
            let fits = start.len >= skip + 4;
            Ok::<_, io::Error>(fits && media.read(extent)?.as_deref() == Some(&magic))
        };
        if starts_with(0, *b"hsqs")? {
            return Ok(AirootfsFormat::Squashfs);
        }
        Ok(if starts_with(1024, 0xe0f5_e1e2_u32.to_le_bytes())? {
            AirootfsFormat::Erofs
        } else {
            AirootfsFormat::Unknown
        })
    }
}

/// Looks things up in the tree.
struct Places<'a> {
    index: &'a Index,
}

impl Places<'_> {
    /// The file at a path, symlinks followed.
    fn file(&self, dir: NodeId, path: &str) -> Option<NodeId> {
        let node = self.index.resolve(dir, path.as_bytes())?;
        matches!(self.index.node(node).kind, NodeKind::File { .. }).then_some(node)
    }

    fn directory(&self, dir: NodeId, path: &str) -> Option<NodeId> {
        let node = self.index.resolve(dir, path.as_bytes())?;
        matches!(self.index.node(node).kind, NodeKind::Directory { .. }).then_some(node)
    }

    fn files_ending(&self, dir: Option<NodeId>, ending: &[u8]) -> Vec<NodeId> {
        let entries = dir.map(|dir| self.index.children(dir)).unwrap_or_default().iter().copied();
        let wanted = |id: &NodeId| {
            let node = self.index.node(*id);
            node.name.ends_with(ending) && matches!(node.kind, NodeKind::File { .. })
        };
        entries.filter(wanted).collect()
    }

    /// Directories in `dir` with fit names.
    fn directories(&self, dir: NodeId) -> impl Iterator<Item = (String, NodeId)> {
        let entries = self.index.children(dir).iter().map(|&id| (id, self.index.node(id)));
        let directories = entries.filter(|(_, node)| matches!(node.kind, NodeKind::Directory { .. }));
        directories.filter_map(|(id, node)| Some((word(&node.name)?, id)))
    }

    /// The directory in the root that has root images in it; the usual name is tried first.
    fn install_dir(&self) -> Option<(String, NodeId)> {
        let mut dirs: Vec<_> = self.directories(NodeId::ROOT).collect();
        dirs.sort_by_key(|(name, _)| name.as_bytes() != DEFAULT_INSTALL_DIR);
        dirs.into_iter().find(|(_, dir)| !self.root_images(*dir).is_empty())
    }

    /// Architecture and node of each root image in the install directory.
    fn root_images(&self, install_dir: NodeId) -> Vec<(String, NodeId)> {
        let image = |dir| AIROOTFS.iter().find_map(|name| self.file(dir, name));
        let mut images: Vec<_> =
            self.directories(install_dir).filter_map(|(arch, dir)| Some((arch, image(dir)?))).collect();
        images.sort_by_key(|(arch, _)| arch != FIRST_ARCH);
        images
    }

    /// `/INSTALL_DIR/boot/ARCH/vmlinuz-NAME` and what belongs to it. Where there is none, those of `/INSTALL_DIR/boot`
    /// and `/boot`, which are for the architecture `arch`.
    fn kernels(&self, dir: NodeId, install_dir: &str, arch: &str) -> Vec<ArchisoKernel> {
        let boot = self.directory(dir, "boot");
        let by_arch = boot.map(|boot| self.directories(boot).collect::<Vec<_>>()).unwrap_or_default();
        let microcode = boot.map(|boot| self.microcode(boot)).unwrap_or_default();
        let kernels = by_arch.into_iter().flat_map(|(arch, dir)| self.kernels_in(dir, &arch, install_dir));
        let mut kernels: Vec<_> =
            kernels.map(|kernel| ArchisoKernel { microcode: microcode.clone(), ..kernel }).collect();
        kernels.sort_by_key(|kernel| kernel.arch != FIRST_ARCH);
        let elsewhere = [boot, self.directory(NodeId::ROOT, "boot")].into_iter().flatten();
        if kernels.is_empty() {
            kernels = elsewhere.flat_map(|dir| self.kernels_in(dir, arch, install_dir)).collect();
        }
        kernels
    }

    /// The kernels in a directory, each with the initramfs and the microcode there.
    fn kernels_in(&self, dir: NodeId, arch: &str, install_dir: &str) -> Vec<ArchisoKernel> {
        let kernel = |&kernel: &NodeId| {
            let name = self.kernel_name(kernel)?;
            let initramfs = match name.as_str() {
                // archiso called it so until 2020; SystemRescue calls it by its install directory.
                KERNEL => ["archiso", install_dir, "initramfs"].map(|stem| format!("{stem}.img")).to_vec(),
                name => vec![format!("initramfs-{name}.img")],
            };
            let initramfs = initramfs.iter().find_map(|name| self.file(dir, name));
            Some(ArchisoKernel {
                arch: arch.to_owned(),
                name,
                kernel,
                initramfs,
                microcode: self.microcode(dir),
            })
        };
        self.files_ending(Some(dir), b"").iter().filter_map(kernel).collect()
    }

    /// What follows `vmlinuz-`, or `vmlinuz` itself; `None` for any other file, for a signature
    /// (`vmlinuz-linux.ipxe.sig`) and for odd characters.
    fn kernel_name(&self, kernel: NodeId) -> Option<String> {
        let name = word(&self.index.node(kernel).name)?;
        let rest = name.strip_prefix(KERNEL)?;
        let name =
            if rest.is_empty() { KERNEL } else { rest.strip_prefix('-').filter(|name| !name.is_empty())? };
        (!name.ends_with(".sig")).then(|| name.to_owned())
    }

    fn microcode(&self, boot: NodeId) -> Vec<NodeId> {
        MICROCODE.iter().filter_map(|name| self.index.child(boot, name)).collect()
    }

    /// The file that names this very image, or the one that is there instead.
    fn uuid_file(&self, uuid: Option<&str>, warnings: &mut Warnings) -> Option<NodeId> {
        let boot = self.directory(NodeId::ROOT, "boot");
        let files = self.files_ending(boot, b".uuid");
        let own = format!("{}.uuid", uuid.unwrap_or_default());
        let matching = files.iter().find(|id| *self.index.node(**id).name == *own.as_bytes());
        if let (None, Some(&other)) = (matching, files.first()) {
            let name = printable(&self.index.node(other).name);
            warnings.add(|| format!("/boot/{name} does not name this image: GRUB will not find it"));
        }
        matching.or(files.first()).copied()
    }
}

/// A name that is safe in a command line and in a menu.
fn word(name: &[u8]) -> Option<String> {
    let safe = |b: &u8| b.is_ascii_alphanumeric() || b"._+-".contains(b);
    (!name.is_empty() && name.iter().all(safe)).then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::index::NodeAttributes;

    /// The kernels of an image with these files whose install directory is `some`: architecture, name, initramfs and
    /// microcode.
    fn kernels(paths: &[&str]) -> Vec<String> {
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
        let places = Places { index: &index };
        let dir = index.child(NodeId::ROOT, b"some").unwrap();
        let path = |&id: &NodeId| String::from_utf8(index.path(id)).unwrap();
        let kernel = |ArchisoKernel { arch, name, initramfs, microcode, .. }: &ArchisoKernel| {
            let files: Vec<_> = initramfs.iter().chain(microcode).map(path).collect();
            format!("{arch} {name}: {}", files.join(" "))
        };
        places.kernels(dir, "some", "x86_64").iter().map(kernel).collect()
    }

    #[test]
    fn kernels_are_where_archiso_puts_them() {
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
    fn kernels_of_older_images_have_no_names() {
        for initramfs in ["archiso.img", "some.img", "initramfs.img"] {
            let path = format!("some/boot/x86_64/{initramfs}");
            let found = kernels(&["some/boot/x86_64/vmlinuz", &path, "some/boot/amd_ucode.img"]);
            assert_eq!(found, [format!("x86_64 vmlinuz: /{path} /some/boot/amd_ucode.img")]);
        }
    }

    #[test]
    fn kernels_elsewhere_are_taken_where_archiso_has_none() {
        let found =
            kernels(&["some/boot/vmlinuz-a", "boot/vmlinuz-b", "boot/initramfs-b.img", "boot/amd-ucode.img"]);
        assert_eq!(found, ["x86_64 a: ", "x86_64 b: /boot/initramfs-b.img /boot/amd-ucode.img"]);
    }
}
