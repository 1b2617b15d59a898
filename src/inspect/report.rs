//! What `inspect` tells, as plain data: the page and the JSON are two forms of it. Paths are absolute in the image;
//! what is not UTF-8 in them is replaced.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::boot::menu::{Ports, Root};
use crate::boot::rules::Selection;
use crate::boot::uefi::Programs;
use crate::boot::{Architecture, BootTargets, Firmware, Platform, UefiError, plan};
use crate::bootable::BootEntry;
use crate::bootable::{self, bios_loader, initramfs, shortfall, survey};
use crate::config::{HTTP_PORT, TFTP_PORT};
use crate::image::arch::{Airootfs, AirootfsFormat, Archiso, ArchisoKernel};
use crate::image::initramfs::Contents;
use crate::image::{BootRecords, Image, Index, NodeId, NodeKind, partitions};
use crate::text::{PlainPath, Word};
use crate::uki::Stub;

/// The report on one image.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub file: String,
    /// Bytes of the image file.
    pub size: u64,
    pub volume: Volume,
    pub tree: Tree,
    pub boot_records: Records,
    /// Null for any other image.
    pub archiso: Option<Arch>,
    /// What they boot then; null for any other image.
    pub entries: Option<Entries>,
    /// How machines can boot it over the network with this server.
    pub network_boot: Vec<Way>,
    /// How they can get their root file system then.
    pub roots: Vec<RootWay>,
    pub warnings: Vec<String>,
}

/// See [`crate::image::Volume`].
#[derive(Debug, Serialize)]
pub(crate) struct Volume {
    pub label: String,
    pub uuid: Option<String>,
    pub system: String,
    pub publisher: String,
    pub preparer: String,
    pub application: String,
    /// RFC 3339, UTC.
    pub created: Option<String>,
    pub modified: Option<String>,
    /// Bytes of the file system.
    pub size: u64,
}

/// How much there is.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tree {
    /// `Rock Ridge`, `Joliet` or `ISO 9660`.
    pub names: String,
    pub directories: usize,
    pub files: usize,
    pub symlinks: usize,
    pub special: usize,
}

/// What firmware finds on a disc or a stick.
#[derive(Debug, Serialize)]
pub(crate) struct Records {
    pub el_torito: Vec<BootImage>,
    pub efi_image: Option<Range>,
    pub mbr: Option<Mbr>,
    pub gpt: Option<Gpt>,
}

#[derive(Debug, Serialize)]
pub(crate) struct BootImage {
    pub platform: String,
    pub bootable: bool,
    /// Logical block of 2048 bytes.
    pub block: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct Range {
    pub offset: u64,
    pub size: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Mbr {
    pub disk_id: String,
    pub partitions: Vec<Partition>,
}

/// A partition of either table. Sectors have 512 bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Partition {
    pub number: u32,
    #[serde(rename = "type")]
    pub kind: String,
    pub first_sector: u64,
    pub sectors: u64,
}

/// Each checksum is `good`, `bad` or `missing`.
#[derive(Debug, Serialize)]
pub(crate) struct Gpt {
    pub disk: String,
    pub header_checksum: String,
    pub array_checksum: String,
    pub backup_checksum: String,
    pub partitions: Vec<Partition>,
}

/// See [`Archiso`].
#[derive(Debug, Serialize)]
pub(crate) struct Arch {
    pub install_dir: String,
    pub kernels: Vec<KernelFiles>,
    pub airootfs: Vec<RootImage>,
    pub uuid_file: Option<String>,
    pub syslinux_dir: Option<String>,
    pub lpxelinux: Option<String>,
    pub syslinux_menus: Vec<String>,
    pub loader_entries: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct KernelFiles {
    pub name: String,
    pub architecture: String,
    pub kernel: String,
    pub initramfs: Option<String>,
    pub microcode: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct RootImage {
    pub architecture: String,
    pub path: String,
    /// `squashfs`, `erofs` or `unknown`.
    pub format: String,
    pub size: u64,
    pub sha512: Option<String>,
    pub cms_signature: Option<String>,
}

/// See [`bootable::Entries`].
#[derive(Debug, Serialize)]
pub(crate) struct Entries {
    /// As the end of a sentence.
    pub origin: String,
    /// In the order of the menu.
    pub entries: Vec<MenuEntry>,
}

/// A kernel and what belongs to it.
#[derive(Debug, Serialize)]
pub(crate) struct MenuEntry {
    /// The author's; null where they gave none.
    pub title: Option<String>,
    pub architecture: String,
    pub kernel: String,
    pub initramfs: Vec<String>,
    /// What the image's author wants the kernel to be told.
    pub parameters: Vec<String>,
    /// The only root protocol it is for; null for one that is for all.
    pub root: Option<String>,
}

/// One kind of firmware.
#[derive(Debug, Serialize)]
pub(crate) struct Way {
    pub firmware: String,
    /// The program it loads; null when it cannot boot.
    pub boot_file: Option<String>,
    /// What stands in the way.
    pub obstacles: Vec<String>,
    /// What to know where nothing does.
    pub remarks: Vec<String>,
}

/// One root protocol with one initramfs.
#[derive(Debug, Serialize)]
pub(crate) struct RootWay {
    pub root: String,
    pub initramfs: String,
    /// What it lacks for this root; null when all is there.
    pub shortfall: Option<String>,
}

impl Report {
    /// Everything that is known of `image`, which was opened at `path`.
    pub(crate) fn of(path: &Path, image: &Arc<Image>) -> Self {
        let volume = &image.volume;
        Self {
            file: path.to_string_lossy().into_owned(),
            size: image.source.len(),
            volume: Volume {
                label: volume.label.clone(),
                uuid: volume.uuid.clone(),
                system: volume.system.clone(),
                publisher: volume.publisher.clone(),
                preparer: volume.preparer.clone(),
                application: volume.application.clone(),
                created: volume.created.as_ref().map(ToString::to_string),
                modified: volume.modified.as_ref().map(ToString::to_string),
                size: volume.size,
            },
            tree: Tree::of(image),
            boot_records: Records::of(&image.boot),
            archiso: image.archiso.as_ref().map(|archiso| Arch::of(archiso, &image.index)),
            entries: bootable::entries(image).map(|entries| Entries::of(&entries)),
            network_boot: image.archiso.as_ref().map(|archiso| ways(image, archiso)).unwrap_or_default(),
            roots: roots(image),
            warnings: image.warnings.clone(),
        }
    }
}

impl Tree {
    fn of(image: &Image) -> Self {
        let mut tree = Self { names: image.volume.names.to_string(), ..Self::default() };
        for id in image.index.walk() {
            *match image.index.node(id).kind {
                NodeKind::Directory { .. } => &mut tree.directories,
                NodeKind::File { .. } => &mut tree.files,
                NodeKind::Symlink { .. } => &mut tree.symlinks,
                NodeKind::Special => &mut tree.special,
            } += 1;
        }
        tree
    }
}

impl Records {
    fn of(boot: &BootRecords) -> Self {
        let image = |entry: &crate::image::el_torito::CatalogEntry| BootImage {
            platform: entry.platform.to_string(),
            bootable: entry.bootable,
            block: entry.block,
        };
        Self {
            el_torito: boot.el_torito.iter().map(image).collect(),
            efi_image: boot.efi_image.map(|extent| Range { offset: extent.offset, size: extent.len }),
            mbr: boot.mbr.as_ref().map(Mbr::of),
            gpt: boot.gpt.as_ref().map(Gpt::of),
        }
    }
}

impl Mbr {
    fn of(mbr: &partitions::Mbr) -> Self {
        let partition = |partition: &partitions::MbrPartition| Partition {
            number: partition.number.into(),
            kind: format!("{:#04x}", partition.kind),
            first_sector: partition.first.into(),
            sectors: partition.sectors.into(),
        };
        Self {
            disk_id: format!("{:08x}", mbr.disk_id),
            partitions: mbr.partitions.iter().map(partition).collect(),
        }
    }
}

impl Gpt {
    fn of(gpt: &partitions::Gpt) -> Self {
        let partition = |partition: &partitions::GptPartition| Partition {
            number: partition.number,
            kind: partition.kind.to_string(),
            first_sector: partition.first,
            sectors: partition.last.saturating_sub(partition.first).saturating_add(1),
        };
        Self {
            disk: gpt.disk.to_string(),
            header_checksum: gpt.header.to_string(),
            array_checksum: gpt.array.to_string(),
            backup_checksum: gpt.backup.to_string(),
            partitions: gpt.partitions.iter().map(partition).collect(),
        }
    }
}

impl Arch {
    fn of(archiso: &Archiso, index: &Index) -> Self {
        let path = |id: NodeId| String::from_utf8_lossy(&index.path(id)).into_owned();
        let paths = |ids: &[NodeId]| ids.iter().copied().map(path).collect();
        let kernel = |kernel: &ArchisoKernel| KernelFiles {
            name: kernel.name.clone(),
            architecture: kernel.arch.clone(),
            kernel: path(kernel.kernel),
            initramfs: kernel.initramfs.map(path),
            microcode: paths(&kernel.microcode),
        };
        let root = |airootfs: &Airootfs| RootImage {
            architecture: airootfs.arch.clone(),
            path: path(airootfs.node),
            format: airootfs.format.to_string(),
            size: airootfs.size,
            sha512: airootfs.sha512.map(path),
            cms_signature: airootfs.cms_signature.map(path),
        };
        Self {
            install_dir: archiso.install_dir.clone(),
            kernels: archiso.kernels.iter().map(kernel).collect(),
            airootfs: archiso.airootfs.iter().map(root).collect(),
            uuid_file: archiso.uuid_file.map(path),
            syslinux_dir: archiso.syslinux_dir.map(path),
            lpxelinux: archiso.lpxelinux.map(path),
            syslinux_menus: paths(&archiso.syslinux_menus),
            loader_entries: paths(&archiso.loader_entries),
        }
    }
}

impl Entries {
    fn of(entries: &bootable::Entries) -> Self {
        let path = |path: &PlainPath| format!("/{path}");
        let entry = |recipe: &BootEntry| MenuEntry {
            title: recipe.title.as_ref().map(ToString::to_string),
            architecture: recipe.architecture.to_string(),
            kernel: path(&recipe.kernel),
            initramfs: recipe.initrd.iter().map(path).collect(),
            parameters: recipe.parameters.iter().map(ToString::to_string).collect(),
            root: recipe.root.map(|root| root.to_string()),
        };
        Self { origin: entries.origin.to_string(), entries: entries.recipes.iter().map(entry).collect() }
    }
}

/// The name of an image that has none yet.
const IMAGE: &str = "image";

/// What this server would answer each kind of machine, and what the image lacks for it.
fn ways(image: &Arc<Image>, archiso: &Archiso) -> Vec<Way> {
    let bootable = survey(IMAGE, IMAGE, image);
    let programs = bootable.as_ref().ok_or_else(UefiError::no_image);
    let programs =
        programs.and_then(|bootable| Programs::new(image, bootable, &Root::ALL, Stub::of_image(image)));
    let remarks = programs
        .iter()
        .map(|programs| format!("composed with the {}; Secure Boot has to be off", programs.stub()));
    let remarks = remarks.collect();
    let ports = Ports { tftp: TFTP_PORT, http: Some(HTTP_PORT) };
    let roots = programs.map(|programs| programs.roots());
    let loader = bios_loader(image);
    let site = BootTargets::new(loader.as_ref().map(|path| path.as_str()), ports);
    let site = Word::new(IMAGE).into_iter().fold(site, |site, name| site.with_image(name, roots.clone()));
    let mut lacking = unknown_roots(image, archiso);
    if bootable.is_none_or(|bootable| bootable.recipes.is_empty()) {
        lacking.push("the image has no kernel that a menu could name".to_owned());
    }
    vec![
        way("BIOS", Architecture::BIOS, &site, &lacking, Vec::new()),
        way("UEFI", Architecture::UEFI, &site, &lacking, remarks),
    ]
}

/// `lacking`: what no machine can do without.
fn way(
    firmware: &str,
    architecture: Architecture,
    site: &BootTargets,
    lacking: &[String],
    remarks: Vec<String>,
) -> Way {
    let platform = Platform { firmware: Firmware::Pxe, architecture };
    let (boot_file, refusal) = match plan(platform, &Selection::default(), Ipv4Addr::UNSPECIFIED, site) {
        Ok(plan) => (Some(plan.boot_file.to_string()), None),
        Err(refusal) => (None, Some(refusal.to_string())),
    };
    let boot_file = boot_file.filter(|_| lacking.is_empty());
    let obstacles = refusal.into_iter().chain(lacking.iter().cloned()).collect();
    Way { firmware: firmware.to_owned(), boot_file, obstacles, remarks }
}

/// Root file systems of no format that is known.
fn unknown_roots(image: &Image, archiso: &Archiso) -> Vec<String> {
    let unknown = archiso.airootfs.iter().filter(|root| root.format == AirootfsFormat::Unknown);
    let line = |root: &Airootfs| {
        let path = image.index.path(root.node);
        format!("{} is neither squashfs nor erofs", String::from_utf8_lossy(&path))
    };
    unknown.map(line).collect()
}

/// What each initramfs can do.
fn roots(image: &Image) -> Vec<RootWay> {
    let ways = |(path, contents): (String, Contents)| {
        Root::ALL.map(|root| RootWay {
            root: root.to_string(),
            initramfs: path.clone(),
            shortfall: shortfall(&contents, root),
        })
    };
    initramfs(image).flat_map(ways).collect()
}
