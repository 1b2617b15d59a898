//! Which entries of an image machines boot, and what is kept of them.
//!
//! An image says in up to three places what it boots: for SYSLINUX, for systemd-boot and for GRUB. What is meant for PXE
//! is taken where there is such a thing. Else it is what boots the same system from a disc or a stick, and we add the
//! root from the network.

use std::fmt;

use super::menu_entry::MenuEntry;
use super::root::Root;
use super::syslinux::{self, Menu};
use super::tree::{Tree, path_of};
use super::{grub, systemd_boot};
use crate::image::NodeId;
use crate::image::arch::{Archiso, ArchisoKernel};
use crate::text::{Line, PlainPath, Word};

/// SYSLINUX menus that are looked at, archiso has eight; and as many of systemd-boot's entries.
const MENUS_MAX: usize = 64;
/// Parameters of one entry of the image that are kept, in bytes with the spaces, so that the kernel's command line
/// (2048 bytes on x86) has room for ours and the operator's.
const PARAMETERS_MAX: usize = 600;
/// Entries of the image that ours are made of; archiso has three.
const RECIPES_MAX: usize = 32;
/// initramfs images of one entry.
const INITRD_MAX: usize = 4;

/// Where GRUB's menus are: its own, the one for a GRUB that finds the ISO on a disk, and that beside its program for UEFI.
const GRUB_MENUS: [&str; 3] = ["boot/grub/grub.cfg", "boot/grub/loopback.cfg", "EFI/BOOT/grub.cfg"];
const LOADER_CONF: &str = "loader/loader.conf";

/// Parameters that are ours to say, or PXELINUX's (`initrd=`, `BOOT_IMAGE=`, SYSAPPEND).
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

/// Parameters that name a disk of the machine: its initramfs would wait for it, or take its root from there
/// (mkinitcpio-archiso, docs/README.bootparams).
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

/// Where the entries come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Entries with a root from the network.
    Pxelinux,
    Syslinux,
    SystemdBoot,
    Grub,
    /// It has no entries that we could read: each kernel in archiso's place makes one.
    Kernels,
}

/// The image's, as the end of a sentence.
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

/// A kernel and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootEntry {
    /// A title by the image's author. It tells the root protocol in their words where `root` says so.
    pub title: Option<Line>,
    pub architecture: Word,
    pub kernel: PlainPath,
    pub initrd: Vec<PlainPath>,
    /// The root protocol of the image's own entry; `None` fits all.
    pub root: Option<Root>,
    /// What the image's author added to the parameters that we set.
    pub parameters: Vec<Word>,
}

/// What is booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries {
    pub origin: Origin,
    pub recipes: Vec<BootEntry>,
}

/// A SYSLINUX menu with the place it was found at.
pub(super) struct StockMenu {
    pub path: PlainPath,
    pub menu: Menu,
}

/// What was chosen.
pub(super) struct Selection {
    pub entries: Entries,
    /// The image's menu for PXE.
    pub pxe: Option<StockMenu>,
    /// Another SYSLINUX menu that the entries come from.
    pub disk: Option<StockMenu>,
}

/// Chooses among the entries of one image.
pub(super) struct EntrySelector<'a> {
    pub tree: &'a Tree<'a>,
    pub archiso: &'a Archiso,
}

impl EntrySelector<'_> {
    pub(super) fn choose(&self) -> Selection {
        let menus = self.archiso.syslinux_menus.iter().take(MENUS_MAX);
        let mut menus: Vec<_> = menus.filter_map(|&node| self.menu(node)).collect();
        let pxe = best(&mut menus, |stock| {
            stock.menu.entries.iter().filter(|&entry| root_of(entry).is_some()).count()
        });
        let recipes = pxe.as_ref().map(|pxe| self.by_network(pxe)).unwrap_or_default();
        if !recipes.is_empty() {
            return Selection { entries: Entries { origin: Origin::Pxelinux, recipes }, pxe, disk: None };
        }
        let disk = best(&mut menus, |stock| self.by_disk(&stock.menu.entries, stock.path.directory()).len());
        let recipes = disk.as_ref().map(|disk| self.by_disk(&disk.menu.entries, disk.path.directory()));
        let entries = match recipes {
            Some(recipes) => Entries { origin: Origin::Syslinux, recipes },
            None => self.without_syslinux(),
        };
        Selection { entries, pxe, disk }
    }

    fn without_syslinux(&self) -> Entries {
        let sources: [(Origin, &dyn Fn() -> Vec<BootEntry>); 2] =
            [(Origin::SystemdBoot, &|| self.loader_entries()), (Origin::Grub, &|| self.grub_entries())];
        let read = sources.into_iter().map(|(origin, read)| Entries { origin, recipes: read() });
        let first = read.into_iter().find(|entries| !entries.recipes.is_empty());
        first.unwrap_or_else(|| Entries { origin: Origin::Kernels, recipes: self.kernels() })
    }

    fn menu(&self, node: NodeId) -> Option<StockMenu> {
        let path = path_of(self.tree.index, node)?;
        let text = (self.tree.read)(node)?;
        let menu = syslinux::parse(&text, &mut |name| (self.tree.read)(self.find(name, path.directory())?));
        Some(StockMenu { path, menu })
    }

    /// Some images load their menu with the install directory for its working directory, so a name may start there too.
    fn find(&self, name: &str, directory: &str) -> Option<NodeId> {
        let install_dir = format!("{}/", self.archiso.install_dir);
        self.tree.find(name, directory).or_else(|| self.tree.find(name, &install_dir))
    }

    /// The entries of a menu for PXE.
    fn by_network(&self, stock: &StockMenu) -> Vec<BootEntry> {
        let recipe = |entry: &MenuEntry| {
            let root = Some(root_of(entry)?);
            Some(BootEntry { root, ..self.recipe(entry, stock.path.directory())? })
        };
        stock.menu.entries.iter().filter_map(recipe).take(RECIPES_MAX).collect()
    }

    /// The entries that boot archiso from a disc, those for the architecture of the first root image first. Where they
    /// differed only in what is not kept of them, the first of them stands for all.
    fn by_disk<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e MenuEntry>,
        directory: &str,
    ) -> Vec<BootEntry> {
        let mut recipes: Vec<BootEntry> = Vec::new();
        let candidates = entries.into_iter().filter_map(|entry| self.archiso_recipe(entry, directory));
        for recipe in candidates {
            let does_the_same =
                |other: &BootEntry| BootEntry { title: recipe.title.clone(), ..other.clone() } == recipe;
            if recipes.len() < RECIPES_MAX && !recipes.iter().any(does_the_same) {
                recipes.push(recipe);
            }
        }
        let first = self.first_architecture();
        recipes.sort_by_key(|recipe| recipe.architecture != first);
        recipes
    }

    /// `None` for an entry that boots something else, as a test of memory: then it either names no install directory, or
    /// not this one. Where it names none, its kernel has to lie there, and have an initramfs.
    fn archiso_recipe(&self, entry: &MenuEntry, directory: &str) -> Option<BootEntry> {
        let recipe = self.recipe(entry, directory)?;
        let value = |name: &str| {
            entry.parameters.iter().rev().find_map(|text| text.strip_prefix(name)?.strip_prefix('='))
        };
        let is_ours = match value("archisobasedir") {
            Some(dir) => dir.trim_matches('/') == self.archiso.install_dir,
            // Manjaro's hooks are not archiso's, and have parameters of their own.
            None => value("misobasedir").is_none() && recipe.kernel.is_below(&self.archiso.install_dir),
        };
        (is_ours && !recipe.initrd.is_empty()).then_some(recipe)
    }

    /// `None` for an entry that names what is not there, or says more than fits.
    fn recipe(&self, entry: &MenuEntry, directory: &str) -> Option<BootEntry> {
        let file = |name: &String| path_of(self.tree.index, self.find(name, directory)?);
        let kernel = self.find(entry.kernel.as_ref()?, directory)?;
        if entry.initrd.len() > INITRD_MAX {
            return None;
        }
        Some(BootEntry {
            title: entry.title.as_deref().map(Line::new).filter(|title| !title.as_str().is_empty()),
            architecture: self.architecture(kernel),
            kernel: path_of(self.tree.index, kernel)?,
            initrd: entry.initrd.iter().map(file).collect::<Option<_>>()?,
            root: None,
            parameters: kept(&entry.parameters)?,
        })
    }

    /// systemd-boot's entries in the order of its menu, the one that it boots by itself first.
    fn loader_entries(&self) -> Vec<BootEntry> {
        let read = |&node: &NodeId| {
            let name = str::from_utf8(&self.tree.index.node(node).name).ok()?;
            Some(systemd_boot::parse(name, &(self.tree.read)(node)?))
        };
        let mut loaded: Vec<_> =
            self.archiso.loader_entries.iter().take(MENUS_MAX).filter_map(read).collect();
        loaded.retain(systemd_boot::LoaderEntry::is_for_x86_64);
        loaded.sort_by(systemd_boot::LoaderEntry::in_menu);
        let conf = self.tree.find(LOADER_CONF, "").and_then(|node| (self.tree.read)(node));
        if let Some(pattern) = conf.and_then(|text| systemd_boot::default_entry(&text)) {
            loaded.sort_by_key(|loaded| !systemd_boot::means(&pattern, &loaded.entry.label));
        }
        self.by_disk(loaded.iter().map(|loaded| &loaded.entry), "")
    }

    /// The entries of the first menu of GRUB that has any.
    fn grub_entries(&self) -> Vec<BootEntry> {
        let menus = GRUB_MENUS.into_iter().map(|path| {
            let (directory, _) = path.rsplit_once('/').unwrap_or_default();
            let read = |name: &str| (self.tree.read)(self.tree.find(name, &format!("{directory}/"))?);
            let entries = read(&format!("/{path}"))
                .map(|text| grub::parse(&text, &format!("/{directory}"), &mut |name| read(name)));
            self.by_disk(&entries.unwrap_or_default(), "")
        });
        menus.into_iter().find(|recipes| !recipes.is_empty()).unwrap_or_default()
    }

    /// One recipe for each kernel. Several of them are told apart by their names.
    fn kernels(&self) -> Vec<BootEntry> {
        let several = self.archiso.kernels.len() > 1;
        let recipe = |kernel: &ArchisoKernel| {
            let initrd = kernel.microcode.iter().chain(&kernel.initramfs);
            Some(BootEntry {
                title: several.then(|| Line::new(&format!("{} for {}", kernel.name, kernel.arch))),
                architecture: Word::new(&kernel.arch).unwrap_or_default(),
                kernel: path_of(self.tree.index, kernel.kernel)?,
                initrd: initrd.map(|&node| path_of(self.tree.index, node)).collect::<Option<_>>()?,
                root: None,
                parameters: Vec::new(),
            })
        };
        self.archiso.kernels.iter().filter_map(recipe).take(RECIPES_MAX).collect()
    }

    /// archiso keeps kernels in `boot/ARCHITECTURE/`; one that is elsewhere is for the first root image there is.
    fn architecture(&self, kernel: NodeId) -> Word {
        let directory = self.tree.index.node(self.tree.index.node(kernel).parent);
        let own = self.archiso.airootfs.iter().find(|root| root.arch.as_bytes() == &directory.name[..]);
        own.and_then(|root| Word::new(&root.arch)).unwrap_or_else(|| self.first_architecture())
    }

    fn first_architecture(&self) -> Word {
        self.archiso.airootfs.first().and_then(|root| Word::new(&root.arch)).unwrap_or_default()
    }
}

/// Takes the menu with the most of what is counted; of several, one that is whole. archiso's `archiso_pxe.cfg` includes
/// `archiso_pxe-linux.cfg`, which has the same entries, and no UI. `None` where nothing is counted.
fn best(menus: &mut Vec<StockMenu>, count: impl Fn(&StockMenu) -> usize) -> Option<StockMenu> {
    let rated =
        menus.iter().enumerate().map(|(position, stock)| (count(stock), stock.menu.ui.is_some(), position));
    let (_, _, position) = rated.filter(|(count, ..)| *count > 0).max()?;
    Some(menus.swap_remove(position))
}

/// The root protocol of an entry of the image.
fn root_of(entry: &MenuEntry) -> Option<Root> {
    let named = |root: &Root| entry.parameters.iter().any(|parameter| key(parameter) == root.parameter());
    Root::ALL.into_iter().find(named)
}

/// What the image's author added to the parameters that are ours to say; `None` when it is too much.
fn kept(parameters: &[String]) -> Option<Vec<Word>> {
    let is_theirs = |parameter: &&String| {
        let key = key(parameter);
        // PXELINUX looks for `initrd=` anywhere in the line (com32/elflink/ldlinux/kernel.c).
        !OURS.contains(&key) && !OF_DISKS.contains(&key) && !parameter.contains("initrd=")
    };
    let kept: Vec<_> = parameters.iter().filter(is_theirs).filter_map(|text| Word::new(text)).collect();
    let bytes: usize = kept.iter().map(|word| word.as_str().len() + 1).sum();
    (bytes <= PARAMETERS_MAX).then_some(kept)
}

fn key(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or(parameter)
}

#[cfg(test)]
mod tests;
