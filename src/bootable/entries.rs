//! SelectedEntries among the boot entries of an image, and the part of each that is kept.
//!
//! An image has up to three kinds of menus: for SYSLINUX, systemd-boot and GRUB. Entries for PXE
//! are preferred. Without them, the entries that boot the same system from a disc are taken, and
//! menus add the root from the network.

use std::fmt;

use super::menu_entry::MenuEntry;
use super::root::Root;
use super::self_test::SelfTest;
use super::syslinux::{self, SyslinuxMenu};
use super::tree::{ImageTree, path_of};
use super::{grub, systemd_boot};
use crate::image::NodeId;
use crate::image::arch::{Airootfs, Archiso, ArchisoKernel};
use crate::text::{Line, PlainPath, Word};

/// Most SYSLINUX menus that are read, and most entries of systemd-boot. archiso has eight menus.
const MENUS_MAX: usize = 64;
/// Longest parameters of an entry, in bytes with the spaces. The kernel's command line (2048 bytes
/// on x86) also needs room for ours and the operator's.
const PARAMETERS_MAX: usize = 600;
/// Most entries of an image; archiso has three.
const ENTRIES_MAX: usize = 32;
/// Most initramfs images of an entry.
const INITRD_MAX: usize = 4;

/// Paths of GRUB's menus: its own, the one for a GRUB that found the ISO on a disk, and the one
/// beside its program for UEFI.
const GRUB_MENUS: [&str; 3] = ["boot/grub/grub.cfg", "boot/grub/loopback.cfg", "EFI/BOOT/grub.cfg"];
const LOADER_CONF: &str = "loader/loader.conf";

/// Parameters that menus here or PXELINUX set (`initrd=`, `BOOT_IMAGE=`, SYSAPPEND).
const OURS: [&str; 12] = [
    "archiso_http_srv",
    "archiso_nbd_name",
    "archiso_nbd_srv",
    "archiso_nfs_srv",
    "archisobasedir",
    "archisosearchuuid",
    "BOOT_IMAGE",
    "BOOTIF",
    "cms_verify",
    "copytoram",
    "initrd",
    "ip",
];

/// Parameters that name a disk of the machine: the initramfs would wait for the disk or take the
/// root from there (mkinitcpio-archiso, docs/README.bootparams).
const OF_DISKS: [&str; 10] = [
    "archisodevice",
    "archisolabel",
    "archisosearchfilename",
    "cow_device",
    "cow_directory",
    "cow_label",
    "cow_persistent",
    "img_dev",
    "img_label",
    "img_loop",
];

/// Source of the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A SYSLINUX menu whose entries have a root from the network.
    Pxelinux,
    Syslinux,
    SystemdBoot,
    Grub,
    /// No menu with usable entries: each kernel at archiso's place makes an entry.
    Kernels,
}

/// Writes the source as the end of a sentence about the image.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Pxelinux => "its PXELINUX menu",
            Origin::Syslinux => "its SYSLINUX menu",
            Origin::SystemdBoot => "its systemd-boot entries",
            Origin::Grub => "its GRUB menu",
            Origin::Kernels => "its kernels",
        })
    }
}

/// A kernel with its initramfs and parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootEntry {
    /// The author's title, which names the root protocol only if `root` is set.
    pub title: Option<Line>,
    pub architecture: Word,
    pub kernel: PlainPath,
    pub initrd: Vec<PlainPath>,
    /// The root protocol of the image's own entry; `None` for any.
    pub root: Option<Root>,
    /// True if `cms_verify=y` has the signature that it needs.
    pub signed: bool,
    /// The author's parameters, without those that menus here set.
    pub parameters: Vec<Word>,
    /// The author's parameters that would stop the boot, each with what it needs and the image
    /// lacks.
    pub left_out: Vec<String>,
}

impl BootEntry {
    /// Returns true if the entries differ at most in their titles and in dropped parameters.
    fn boots_the_same(&self, other: &Self) -> bool {
        let (title, left_out) = (other.title.clone(), other.left_out.clone());
        Self { title, left_out, ..self.clone() } == *other
    }
}

/// The entries of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries {
    pub origin: Origin,
    pub boot_entries: Vec<BootEntry>,
}

/// A SYSLINUX menu of the image and its path.
pub(super) struct StockMenu {
    pub path: PlainPath,
    pub menu: SyslinuxMenu,
}

/// The selected entries and the menus that they and the look come from.
pub(super) struct SelectedEntries {
    pub entries: Entries,
    /// The image's own menu for PXE.
    pub pxe: Option<StockMenu>,
    /// The SYSLINUX menu for a disc that the entries come from.
    pub disk: Option<StockMenu>,
}

/// Selects the entries of one image.
pub(super) struct EntrySelector<'a> {
    pub tree: &'a ImageTree<'a>,
    pub archiso: &'a Archiso,
}

impl EntrySelector<'_> {
    pub(super) fn choose(&self) -> SelectedEntries {
        let menus = self.archiso.syslinux_menus.iter().take(MENUS_MAX);
        let mut menus: Vec<_> = menus.filter_map(|&node| self.menu(node)).collect();
        let pxe = best(&mut menus, |stock| {
            stock.menu.entries.iter().filter(|&entry| root_of(entry).is_some()).count()
        });
        let boot_entries = pxe.as_ref().map(|pxe| self.by_network(pxe)).unwrap_or_default();
        if !boot_entries.is_empty() {
            return SelectedEntries {
                entries: Entries { origin: Origin::Pxelinux, boot_entries },
                pxe,
                disk: None,
            };
        }
        let disk = best(&mut menus, |stock| self.by_disk(&stock.menu.entries, stock.path.directory()).len());
        let boot_entries = disk.as_ref().map(|disk| self.by_disk(&disk.menu.entries, disk.path.directory()));
        let entries = match boot_entries {
            Some(boot_entries) => Entries { origin: Origin::Syslinux, boot_entries },
            None => self.without_syslinux(),
        };
        SelectedEntries { entries, pxe, disk }
    }

    fn without_syslinux(&self) -> Entries {
        let sources: [(Origin, &dyn Fn() -> Vec<BootEntry>); 2] =
            [(Origin::SystemdBoot, &|| self.loader_entries()), (Origin::Grub, &|| self.grub_entries())];
        let read = sources.into_iter().map(|(origin, read)| Entries { origin, boot_entries: read() });
        let first = read.into_iter().find(|entries| !entries.boot_entries.is_empty());
        first.unwrap_or_else(|| Entries { origin: Origin::Kernels, boot_entries: self.kernels() })
    }

    fn menu(&self, node: NodeId) -> Option<StockMenu> {
        let path = path_of(self.tree.index, node)?;
        let text = self.tree.read(node)?;
        let menu = syslinux::parse(&text, &mut |name| self.tree.read(self.find(name, path.directory())?));
        Some(StockMenu { path, menu })
    }

    /// Finds a file that a menu names. Some images start their menu in the install directory, so a
    /// name may begin there too.
    fn find(&self, name: &str, directory: &str) -> Option<NodeId> {
        let install_dir = format!("{}/", self.archiso.install_dir);
        self.tree.find(name, directory).or_else(|| self.tree.find(name, &install_dir))
    }

    /// Returns the entries with a root from the network.
    fn by_network(&self, stock: &StockMenu) -> Vec<BootEntry> {
        let entries = stock.menu.entries.iter();
        entries
            .filter_map(|entry| self.network_entry(entry, stock.path.directory()))
            .take(ENTRIES_MAX)
            .collect()
    }

    fn network_entry(&self, entry: &MenuEntry, directory: &str) -> Option<BootEntry> {
        let root = Some(root_of(entry)?);
        Some(BootEntry { root, ..self.boot_entry(entry, directory)? })
    }

    /// Returns the entries that boot archiso from a disc, those for the architecture of the first
    /// root file system first. Of entries that differ only in dropped parameters, the first is
    /// taken.
    fn by_disk<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e MenuEntry>,
        directory: &str,
    ) -> Vec<BootEntry> {
        let mut boot_entries: Vec<BootEntry> = Vec::new();
        let candidates = entries.into_iter().filter_map(|entry| self.archiso_entry(entry, directory));
        for boot_entry in candidates {
            let is_known = boot_entries.iter().any(|other| other.boots_the_same(&boot_entry));
            if boot_entries.len() < ENTRIES_MAX && !is_known {
                boot_entries.push(boot_entry);
            }
        }
        let first = self.first_architecture();
        boot_entries.sort_by_key(|boot_entry| boot_entry.architecture != first);
        boot_entries
    }

    /// Returns `None` for an entry that boots another system, such as a memory test. An entry of
    /// archiso names the install directory; an entry that names none has its kernel there and an
    /// initramfs.
    fn archiso_entry(&self, entry: &MenuEntry, directory: &str) -> Option<BootEntry> {
        let boot_entry = self.boot_entry(entry, directory)?;
        let is_ours = match value_of(entry, "archisobasedir") {
            Some(dir) => dir.trim_matches('/') == self.archiso.install_dir,
            // Manjaro's hooks (`misobasedir=`) do not know archiso's parameters.
            None => {
                value_of(entry, "misobasedir").is_none()
                    && boot_entry.kernel.is_below(&self.archiso.install_dir)
            }
        };
        (is_ours && !boot_entry.initrd.is_empty()).then_some(boot_entry)
    }

    /// Returns `None` for an entry with a file that does not exist, or with too many parameters.
    fn boot_entry(&self, entry: &MenuEntry, directory: &str) -> Option<BootEntry> {
        let kernel = self.find(entry.kernel.as_ref()?, directory)?;
        if entry.initrd.len() > INITRD_MAX {
            return None;
        }
        let architecture = self.architecture(kernel);
        let initrd: Vec<NodeId> =
            entry.initrd.iter().map(|name| self.find(name, directory)).collect::<Option<_>>()?;
        let self_test = SelfTest {
            tree: self.tree,
            root: self.root(&architecture),
            // Images in front of the last are microcode.
            initramfs: initrd.last().copied(),
        };
        let (parameters, left_out) = self_test.split(&entry.parameters);
        Some(BootEntry {
            title: entry.title.as_deref().map(Line::new).filter(|title| !title.as_str().is_empty()),
            signed: self.is_signed(&architecture),
            architecture,
            kernel: path_of(self.tree.index, kernel)?,
            initrd: initrd.into_iter().map(|node| path_of(self.tree.index, node)).collect::<Option<_>>()?,
            root: None,
            parameters: kept(parameters)?,
            left_out,
        })
    }

    fn is_signed(&self, architecture: &Word) -> bool {
        self.root(architecture).is_some_and(|root| root.cms_signature.is_some())
    }

    /// Returns the root file system of an architecture.
    fn root(&self, architecture: &Word) -> Option<&Airootfs> {
        self.archiso.airootfs.iter().find(|root| root.arch == architecture.as_str())
    }

    /// Returns the parameters of all entries in all menus of the image.
    pub(super) fn parameters(&self) -> impl Iterator<Item = String> {
        let syslinux = self.archiso.syslinux_menus.iter().take(MENUS_MAX);
        let syslinux = syslinux.filter_map(|&node| self.menu(node)).flat_map(|stock| stock.menu.entries);
        let systemd_boot = self.read_loader_entries().into_iter().map(|loaded| loaded.entry);
        let grub = GRUB_MENUS.into_iter().filter_map(|path| self.grub_menu(path)).flatten();
        syslinux.chain(systemd_boot).chain(grub).flat_map(|entry| entry.parameters)
    }

    fn read_loader_entries(&self) -> Vec<systemd_boot::LoaderEntry> {
        let read = |&node: &NodeId| {
            let name = str::from_utf8(&self.tree.index.node(node).name).ok()?;
            Some(systemd_boot::parse(name, &self.tree.read(node)?))
        };
        self.archiso.loader_entries.iter().take(MENUS_MAX).filter_map(read).collect()
    }

    /// Returns systemd-boot's entries in the order of its menu, its default first.
    fn loader_entries(&self) -> Vec<BootEntry> {
        let mut loaded = self.read_loader_entries();
        loaded.retain(systemd_boot::LoaderEntry::is_for_x86_64);
        loaded.sort_by(systemd_boot::LoaderEntry::in_menu);
        let conf = self.tree.find(LOADER_CONF, "").and_then(|node| self.tree.read(node));
        if let Some(pattern) = conf.and_then(|text| systemd_boot::default_entry(&text)) {
            loaded.sort_by_key(|loaded| !systemd_boot::means(&pattern, &loaded.entry.label));
        }
        self.by_disk(loaded.iter().map(|loaded| &loaded.entry), "")
    }

    /// Returns the entries of the first GRUB menu that has any.
    fn grub_entries(&self) -> Vec<BootEntry> {
        let menus = GRUB_MENUS.into_iter().filter_map(|path| self.grub_menu(path));
        let mut menus = menus.map(|entries| self.by_disk(&entries, ""));
        menus.find(|boot_entries| !boot_entries.is_empty()).unwrap_or_default()
    }

    /// Reads the GRUB menu at a path.
    fn grub_menu(&self, path: &str) -> Option<Vec<MenuEntry>> {
        let (directory, _) = path.rsplit_once('/').unwrap_or_default();
        let read = |name: &str| self.tree.read(self.tree.find(name, &format!("{directory}/"))?);
        let text = read(&format!("/{path}"))?;
        Some(grub::parse(&text, &format!("/{directory}"), &mut |name| read(name)))
    }

    /// Makes an entry for each kernel. Several kernels get their names as titles.
    fn kernels(&self) -> Vec<BootEntry> {
        let several = self.archiso.kernels.len() > 1;
        let kernels = self.archiso.kernels.iter();
        kernels.filter_map(|kernel| self.kernel_entry(kernel, several)).take(ENTRIES_MAX).collect()
    }

    fn kernel_entry(&self, kernel: &ArchisoKernel, has_title: bool) -> Option<BootEntry> {
        let initrd = kernel.microcode.iter().chain(&kernel.initramfs);
        let architecture = Word::new(&kernel.arch).unwrap_or_default();
        Some(BootEntry {
            title: has_title.then(|| Line::new(&format!("{} for {}", kernel.name, kernel.arch))),
            signed: self.is_signed(&architecture),
            architecture,
            kernel: path_of(self.tree.index, kernel.kernel)?,
            initrd: initrd.map(|&node| path_of(self.tree.index, node)).collect::<Option<_>>()?,
            root: None,
            parameters: Vec::new(),
            left_out: Vec::new(),
        })
    }

    /// Returns the architecture of a kernel by its directory, `boot/ARCHITECTURE/`; elsewhere that
    /// of the first root file system.
    fn architecture(&self, kernel: NodeId) -> Word {
        let directory = self.tree.index.node(self.tree.index.node(kernel).parent);
        let own = self.archiso.airootfs.iter().find(|root| root.arch.as_bytes() == &directory.name[..]);
        own.and_then(|root| Word::new(&root.arch)).unwrap_or_else(|| self.first_architecture())
    }

    fn first_architecture(&self) -> Word {
        self.archiso.airootfs.first().and_then(|root| Word::new(&root.arch)).unwrap_or_default()
    }
}

/// Takes out the menu with the highest count, preferably one with a UI: archiso's `archiso_pxe.cfg`
/// includes `archiso_pxe-linux.cfg`, which has the same entries and no UI. `None` if all counts are
/// 0.
fn best(menus: &mut Vec<StockMenu>, count: impl Fn(&StockMenu) -> usize) -> Option<StockMenu> {
    let rated =
        menus.iter().enumerate().map(|(position, stock)| (count(stock), stock.menu.ui.is_some(), position));
    let (_, _, position) = rated.filter(|(count, ..)| *count > 0).max()?;
    Some(menus.swap_remove(position))
}

/// Returns the root protocol that an entry's parameters select.
fn root_of(entry: &MenuEntry) -> Option<Root> {
    let named = |root: &Root| entry.parameters.iter().any(|parameter| key(parameter) == root.parameter());
    Root::ALL.into_iter().find(named)
}

/// Returns the parameters that are kept; `None` if they are too long.
fn kept(parameters: Vec<&String>) -> Option<Vec<Word>> {
    let is_theirs = |parameter: &&String| {
        let key = key(parameter);
        // PXELINUX looks for `initrd=` anywhere in the line (com32/elflink/ldlinux/kernel.c).
        !OURS.contains(&key) && !OF_DISKS.contains(&key) && !parameter.contains("initrd=")
    };
    let kept: Vec<_> = parameters.into_iter().filter(is_theirs).filter_map(|text| Word::new(text)).collect();
    let bytes: usize = kept.iter().map(|word| word.as_str().len() + 1).sum();
    (bytes <= PARAMETERS_MAX).then_some(kept)
}

/// Returns the value of a parameter. The last one of a name counts, as mkinitcpio's `parse_cmdline`
/// assigns them in order.
fn value_of<'e>(entry: &'e MenuEntry, name: &str) -> Option<&'e str> {
    entry.parameters.iter().rev().find_map(|text| text.strip_prefix(name)?.strip_prefix('='))
}

fn key(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or(parameter)
}

#[cfg(test)]
mod tests;
