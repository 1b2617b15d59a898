//! The report of `inspect` as plain data, of which the page and the JSON are two forms. Paths are
//! absolute in the image; bytes of them that are not UTF-8 are replaced.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::network_boot::{self, DriverReport, FirmwareBoot, RootSupport};
use crate::bootable;
use crate::image::arch::{Airootfs, Archiso, ArchisoKernel};
use crate::image::partitions::{Gpt, GptPartition, Mbr, MbrPartition};
use crate::image::{BootRecords, Image, Index, NodeId, NodeKind, el_torito};
use crate::x509::Certificate;

// The JSON is an interface for programs: fields keep their names, and new ones are only added.

/// Report on one image.
#[derive(Debug, Serialize)]
pub(crate) struct InspectReport {
    pub file: String,
    /// Bytes of the image file.
    pub size: u64,
    pub volume: VolumeReport,
    pub tree: TreeReport,
    pub boot_records: RecordsReport,
    /// Null for an image that archiso did not make.
    pub archiso: Option<ArchisoReport>,
    /// Boot entries; null for an image that archiso did not make.
    pub entries: Option<EntriesReport>,
    /// Network boot by this server, for each kind of firmware.
    pub network_boot: Vec<FirmwareBoot>,
    /// Root protocols that each initramfs supports.
    pub roots: Vec<RootSupport>,
    /// Drivers of network cards in each initramfs.
    pub network_drivers: Vec<DriverReport>,
    pub warnings: Vec<String>,
}

/// Fields of [`crate::image::Volume`].
#[derive(Debug, Serialize)]
pub(crate) struct VolumeReport {
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

/// Number of nodes of each kind.
#[derive(Debug, Default, Serialize)]
pub(crate) struct TreeReport {
    /// `Rock Ridge`, `Joliet` or `ISO 9660`.
    pub names: String,
    pub directories: usize,
    pub files: usize,
    pub symlinks: usize,
    pub special: usize,
}

/// Boot records that firmware reads from a disc or a stick.
#[derive(Debug, Serialize)]
pub(crate) struct RecordsReport {
    pub el_torito: Vec<ElToritoReport>,
    pub efi_image: Option<RangeReport>,
    pub mbr: Option<MbrReport>,
    pub gpt: Option<GptReport>,
}

/// Entry of the El Torito boot catalog.
#[derive(Debug, Serialize)]
pub(crate) struct ElToritoReport {
    pub platform: String,
    pub bootable: bool,
    /// Logical block of 2048 bytes.
    pub block: u32,
}

/// Byte range of the image file.
#[derive(Debug, Serialize)]
pub(crate) struct RangeReport {
    pub offset: u64,
    pub size: u64,
}

/// Master boot record.
#[derive(Debug, Serialize)]
pub(crate) struct MbrReport {
    pub disk_id: String,
    pub partitions: Vec<PartitionReport>,
}

/// Partition of either table. Sectors have 512 bytes.
#[derive(Debug, Serialize)]
pub(crate) struct PartitionReport {
    pub number: u32,
    #[serde(rename = "type")]
    pub kind: String,
    pub first_sector: u64,
    pub sectors: u64,
}

/// GUID partition table. Each checksum is `good`, `bad` or `missing`.
#[derive(Debug, Serialize)]
pub(crate) struct GptReport {
    pub disk: String,
    pub header_checksum: String,
    pub array_checksum: String,
    pub backup_checksum: String,
    pub partitions: Vec<PartitionReport>,
}

/// Fields of [`Archiso`].
#[derive(Debug, Serialize)]
pub(crate) struct ArchisoReport {
    pub install_dir: String,
    pub kernels: Vec<KernelReport>,
    pub airootfs: Vec<AirootfsReport>,
    pub uuid_file: Option<String>,
    pub syslinux_dir: Option<String>,
    pub lpxelinux: Option<String>,
    pub syslinux_menus: Vec<String>,
    pub loader_entries: Vec<String>,
}

/// Kernel with the files that archiso put beside it.
#[derive(Debug, Serialize)]
pub(crate) struct KernelReport {
    pub name: String,
    pub architecture: String,
    pub kernel: String,
    pub initramfs: Option<String>,
    pub microcode: Vec<String>,
}

/// Root file system with the files that archiso put beside it.
#[derive(Debug, Serialize)]
pub(crate) struct AirootfsReport {
    pub architecture: String,
    pub path: String,
    /// `squashfs`, `erofs` or `unknown`.
    pub format: String,
    pub size: u64,
    pub sha512: Option<String>,
    pub md5: Option<String>,
    pub cms_signature: Option<String>,
    pub gpg_signature: Option<String>,
}

/// Fields of [`bootable::Entries`].
#[derive(Debug, Serialize)]
pub(crate) struct EntriesReport {
    /// Source of the entries, as the end of a sentence.
    pub origin: String,
    /// Entries in the order of the menu.
    pub entries: Vec<EntryReport>,
}

/// Boot entry: a kernel with its initramfs images and parameters.
#[derive(Debug, Serialize)]
pub(crate) struct EntryReport {
    /// Title in the image's own menu; null without one.
    pub title: Option<String>,
    pub architecture: String,
    pub kernel: String,
    pub initramfs: Vec<String>,
    /// Kernel parameters of the image's own menu, without those that isowire sets.
    pub parameters: Vec<String>,
    /// Kernel parameters of the image's own menu that would stop the boot, since a file is missing.
    pub left_out: Vec<String>,
    /// Root protocol that the entry is limited to; null for an entry that fits all.
    pub root: Option<String>,
}

impl InspectReport {
    /// Describes `image`, which was opened at `path`, for a server that signs with the key of
    /// `certificate`.
    pub(super) fn of(path: &Path, image: &Arc<Image>, certificate: Option<&Certificate>) -> Self {
        let archiso = image.archiso.as_ref();
        let (roots, network_drivers) = network_boot::initramfs_support(image);
        Self {
            file: path.to_string_lossy().into_owned(),
            size: image.source.len(),
            volume: VolumeReport::of(image),
            tree: TreeReport::of(image),
            boot_records: RecordsReport::of(&image.boot),
            archiso: archiso.map(|archiso| ArchisoReport::of(archiso, &image.index)),
            // Read from the image's own menus, as the server does it.
            entries: bootable::entries(image).map(|entries| EntriesReport::of(&entries)),
            network_boot: archiso
                .map(|archiso| network_boot::by_firmware(image, archiso, certificate, None))
                .unwrap_or_default(),
            roots,
            network_drivers,
            warnings: image.warnings.clone(),
        }
    }
}

impl VolumeReport {
    fn of(image: &Image) -> Self {
        let volume = &image.volume;
        Self {
            label: volume.label.clone(),
            uuid: volume.uuid.clone(),
            system: volume.system.clone(),
            publisher: volume.publisher.clone(),
            preparer: volume.preparer.clone(),
            application: volume.application.clone(),
            // ECMA-119 lets a volume have no date.
            created: volume.created.as_ref().map(ToString::to_string),
            modified: volume.modified.as_ref().map(ToString::to_string),
            size: volume.size,
        }
    }
}

impl TreeReport {
    fn of(image: &Image) -> Self {
        let mut tree = Self { names: image.volume.names.to_string(), ..Self::default() };
        for id in image.index.walk() {
            *match image.index.node(id).kind {
                NodeKind::Directory { .. } => &mut tree.directories,
                NodeKind::File { .. } => &mut tree.files,
                NodeKind::Symlink { .. } => &mut tree.symlinks,
                // Devices, pipes and sockets: Rock Ridge can hold them, but no protocol serves
                // them.
                NodeKind::Special => &mut tree.special,
            } += 1;
        }
        tree
    }
}

impl RecordsReport {
    fn of(boot: &BootRecords) -> Self {
        Self {
            el_torito: boot.el_torito.iter().map(ElToritoReport::from).collect(),
            efi_image: boot.efi_image.map(|extent| RangeReport { offset: extent.offset, size: extent.len }),
            mbr: boot.mbr.as_ref().map(MbrReport::from),
            gpt: boot.gpt.as_ref().map(GptReport::from),
        }
    }
}

impl From<&el_torito::CatalogEntry> for ElToritoReport {
    fn from(entry: &el_torito::CatalogEntry) -> Self {
        Self { platform: entry.platform.to_string(), bootable: entry.bootable, block: entry.block }
    }
}

impl From<&Mbr> for MbrReport {
    fn from(mbr: &Mbr) -> Self {
        Self {
            // As `blkid` prints it (PTUUID).
            disk_id: format!("{:08x}", mbr.disk_id),
            partitions: mbr.partitions.iter().map(PartitionReport::from).collect(),
        }
    }
}

impl From<&MbrPartition> for PartitionReport {
    fn from(partition: &MbrPartition) -> Self {
        Self {
            number: partition.number.into(),
            // An MBR has a byte for the type; a GPT has a GUID.
            kind: format!("{:#04x}", partition.kind),
            first_sector: partition.first.into(),
            sectors: partition.sectors.into(),
        }
    }
}

impl From<&Gpt> for GptReport {
    fn from(gpt: &Gpt) -> Self {
        Self {
            disk: gpt.disk.to_string(),
            header_checksum: gpt.header.to_string(),
            array_checksum: gpt.array.to_string(),
            backup_checksum: gpt.backup.to_string(),
            partitions: gpt.partitions.iter().map(PartitionReport::from).collect(),
        }
    }
}

impl From<&GptPartition> for PartitionReport {
    fn from(partition: &GptPartition) -> Self {
        Self {
            number: partition.number,
            kind: partition.kind.to_string(),
            first_sector: partition.first,
            // UEFI specification §5.3.3: a GPT names the last sector, an MBR the number of sectors.
            // The fields come from the image, so the last one may lie before the first.
            sectors: partition.last.saturating_sub(partition.first).saturating_add(1),
        }
    }
}

impl ArchisoReport {
    fn of(archiso: &Archiso, index: &Index) -> Self {
        Self {
            install_dir: archiso.install_dir.clone(),
            kernels: archiso.kernels.iter().map(|kernel| KernelReport::of(kernel, index)).collect(),
            airootfs: archiso.airootfs.iter().map(|root| AirootfsReport::of(root, index)).collect(),
            uuid_file: archiso.uuid_file.map(|file| path(index, file)),
            syslinux_dir: archiso.syslinux_dir.map(|directory| path(index, directory)),
            lpxelinux: archiso.lpxelinux.map(|loader| path(index, loader)),
            syslinux_menus: paths(index, &archiso.syslinux_menus),
            loader_entries: paths(index, &archiso.loader_entries),
        }
    }
}

impl KernelReport {
    fn of(kernel: &ArchisoKernel, index: &Index) -> Self {
        Self {
            name: kernel.name.clone(),
            architecture: kernel.arch.clone(),
            kernel: path(index, kernel.kernel),
            initramfs: kernel.initramfs.map(|file| path(index, file)),
            microcode: paths(index, &kernel.microcode),
        }
    }
}

impl AirootfsReport {
    fn of(root: &Airootfs, index: &Index) -> Self {
        Self {
            architecture: root.arch.clone(),
            path: path(index, root.node),
            // Found by its magic number, not by the ending of its name.
            format: root.format.to_string(),
            size: root.size,
            sha512: root.sha512.map(|file| path(index, file)),
            md5: root.md5.map(|file| path(index, file)),
            cms_signature: root.cms_signature.map(|file| path(index, file)),
            gpg_signature: root.gpg_signature.map(|file| path(index, file)),
        }
    }
}

/// Returns the path of a node.
fn path(index: &Index, node: NodeId) -> String {
    // Rock Ridge names are bytes, and JSON holds Unicode only.
    String::from_utf8_lossy(&index.path(node)).into_owned()
}

fn paths(index: &Index, nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(|&node| path(index, node)).collect()
}

impl EntriesReport {
    fn of(entries: &bootable::Entries) -> Self {
        Self {
            origin: entries.origin.to_string(),
            entries: entries.boot_entries.iter().map(EntryReport::from).collect(),
        }
    }
}

impl From<&bootable::BootEntry> for EntryReport {
    fn from(entry: &bootable::BootEntry) -> Self {
        Self {
            title: entry.title.as_ref().map(ToString::to_string),
            architecture: entry.architecture.to_string(),
            // Paths of entries are relative to the root of the image.
            kernel: format!("/{}", entry.kernel),
            initramfs: entry.initrd.iter().map(|path| format!("/{path}")).collect(),
            parameters: entry.parameters.iter().map(ToString::to_string).collect(),
            left_out: entry.left_out.clone(),
            root: entry.root.map(|root| root.to_string()),
        }
    }
}
