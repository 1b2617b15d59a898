//! The boot entries of an image, and the look of its own menu.

mod edition;
mod entries;
mod file_kind;
pub(crate) mod grub;
pub(crate) mod menu_entry;
mod root;
mod root_names;
mod self_test;
pub(crate) mod syslinux;
pub(crate) mod systemd_boot;
mod tree;

use self::entries::{EntrySelector, StockMenu};
use self::syslinux::SyslinuxMenu;
use self::tree::path_of;
use crate::export::path;
use crate::image::initramfs::{Completeness, Contents, Requirement};
use crate::image::{Archiso, Image, NodeId, Volume};
use crate::text::{Line, PlainPath, Word};

pub(crate) use self::edition::TITLE_MAX;
pub(crate) use self::entries::{BootEntry, Entries};
pub use self::file_kind::FileKind;
pub(crate) use self::file_kind::FileKinds;
pub use self::root::Root;
pub(crate) use self::root_names::RootNames;
pub(crate) use self::tree::{ImageTree, TreeContent};

/// An image as menus need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootable {
    pub name: Word,
    /// Name of this very image. Menus name files by it, so that a boot goes on with the image that
    /// it began with after that was replaced.
    pub versioned_name: Word,
    /// Edition as people say it.
    pub title: Line,
    /// `archisobasedir=`.
    pub base_dir: Word,
    /// `archisosearchuuid=`.
    pub uuid: Option<Word>,
    /// The entries, the first of them first in the menu.
    pub boot_entries: Vec<BootEntry>,
    pub look: Look,
    /// The image's own PXE menu.
    pub stock: Option<PlainPath>,
    pub memory_tests: MemoryTests,
}

/// Programs of an image that test the memory of a machine, at the paths where mkarchiso puts them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MemoryTests {
    pub bios: Option<PlainPath>,
    pub uefi: Option<PlainPath>,
}

/// The look of an image's own menu.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// Arguments of SERIAL.
    pub serial: Option<Line>,
    /// The menu program, such as `vesamenu.c32`.
    pub ui: Option<PlainPath>,
    /// MENU lines.
    pub lines: Vec<Line>,
    /// The module `reboot.c32` beside PXELINUX.
    pub reboot: Option<PlainPath>,
}

impl Bootable {
    /// Returns the first entry for this root.
    pub(crate) fn boot_entry(&self, root: Root) -> Option<&BootEntry> {
        self.boot_entries_for(root).into_iter().next()
    }

    /// Returns the entries that fit this root, else the first of all.
    pub(crate) fn boot_entries_for(&self, root: Root) -> Vec<&BootEntry> {
        let fits = |boot_entry: &&BootEntry| boot_entry.root.is_none_or(|own| own == root);
        let own: Vec<_> = self.boot_entries.iter().filter(fits).collect();
        if own.is_empty() { self.boot_entries.iter().take(1).collect() } else { own }
    }
}

/// Reads the boot entries of `image` and the look of its menu; `None` for an image that is not
/// archiso's.
pub(crate) fn survey(name: &str, versioned_name: &str, image: &Image) -> Option<Bootable> {
    ImageTree::of(image).bootable(name, versioned_name, image.archiso.as_ref()?, &image.volume)
}

/// Reads the boot entries of `image`; `None` for an image that is not archiso's.
pub(crate) fn entries(image: &Image) -> Option<Entries> {
    Some(EntrySelector { tree: &ImageTree::of(image), archiso: image.archiso.as_ref()? }.choose().entries)
}

/// Returns the names under which menus of `image` ask for its root; none for an image that is not
/// archiso's.
pub(crate) fn root_names(image: &Image) -> RootNames {
    let Some(archiso) = &image.archiso else { return RootNames::default() };
    EntrySelector { tree: &ImageTree::of(image), archiso }.root_names()
}

/// Returns the path of the image's PXELINUX, the boot file of BIOS machines.
pub(crate) fn bios_loader(image: &Image) -> Option<PlainPath> {
    path_of(&image.index, image.archiso.as_ref()?.lpxelinux?)
}

/// Unpacks the initramfs images of `image`, each with its path: those at archiso's places and those
/// that entries name. Each takes some seconds.
pub(crate) fn initramfs(image: &Image) -> impl Iterator<Item = (String, Contents)> {
    let by_place =
        image.archiso.iter().flat_map(|archiso| &archiso.kernels).filter_map(|kernel| kernel.initramfs);
    let boot_entries = entries(image).map(|entries| entries.boot_entries).unwrap_or_default();
    // Images in front of the last are microcode.
    let named = boot_entries.iter().filter_map(|boot_entry| node_of(image, boot_entry.initrd.last()?));
    let mut nodes: Vec<NodeId> = Vec::new();
    for node in by_place.chain(named) {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes.into_iter().filter_map(|node| {
        let path = String::from_utf8_lossy(&image.index.path(node)).escape_debug().to_string();
        Some((path, Contents::of(&image.content(node)?)))
    })
}

/// Returns the file of an entry by its path.
pub(crate) fn node_of(image: &Image, path: &PlainPath) -> Option<NodeId> {
    path::resolve(&image.index, path.as_str().as_bytes()).ok()
}

/// Describes the parts that an initramfs lacks for this root, as the end of a sentence; `None` if
/// it lacks nothing.
pub(crate) fn shortfall(initramfs: &Contents, root: Root) -> Option<String> {
    let needed = match root {
        Root::Nbd => &Requirement::NBD,
        Root::Nfs => &Requirement::NFS,
        Root::Http => &Requirement::HTTP,
    };
    match initramfs.answer(needed) {
        Completeness::Complete => None,
        Completeness::Missing(parts) => Some(format!("lacks {}", listed(&parts))),
        Completeness::Unknown(parts, why) => Some(format!("may lack {}: {why}", listed(&parts))),
    }
}

fn listed(parts: &[Requirement]) -> String {
    parts.iter().map(Requirement::to_string).collect::<Vec<_>>().join(", ")
}

impl ImageTree<'_> {
    pub(crate) fn bootable(
        &self,
        name: &str,
        versioned_name: &str,
        archiso: &Archiso,
        volume: &Volume,
    ) -> Option<Bootable> {
        let choice = EntrySelector { tree: self, archiso }.choose();
        let menu = choice.pxe.as_ref().or(choice.disk.as_ref()).map(|stock| &stock.menu);
        Some(Bootable {
            name: Word::new(name)?,
            versioned_name: Word::new(versioned_name)?,
            title: edition::title(self, archiso, volume, &choice.entries.boot_entries, name),
            base_dir: Word::new(&archiso.install_dir)?,
            uuid: volume.uuid.as_deref().and_then(Word::new),
            look: self.look(menu, archiso.lpxelinux),
            boot_entries: choice.entries.boot_entries,
            stock: choice.pxe.filter(|stock| self.stands_alone(stock)).map(|stock| stock.path),
            memory_tests: self.memory_tests(),
        })
    }

    fn memory_tests(&self) -> MemoryTests {
        let path = |path| path_of(self.index, self.find(path, "")?);
        // PXELINUX takes a kernel by its content, and its name must not end in `.bin` (syslinux,
        // doc/syslinux.txt).
        let bios = ["boot/memtest86+/memtest", "boot/memtest"].into_iter().find_map(path);
        MemoryTests { bios, uefi: path("boot/memtest86+/memtest.efi") }
    }

    /// Returns false for a menu whose names begin in another directory than its own: PXELINUX loads
    /// it with its own directory.
    fn stands_alone(&self, stock: &StockMenu) -> bool {
        let mut kernels = stock.menu.entries.iter().filter_map(|entry| entry.kernel.as_ref());
        kernels.any(|kernel| self.find(kernel, stock.path.directory()).is_some())
    }

    fn look(&self, menu: Option<&SyslinuxMenu>, loader: Option<NodeId>) -> Look {
        let directory = loader.and_then(|node| path_of(self.index, node));
        let directory = directory.as_ref().map_or("", PlainPath::directory);
        let there = |name: &&str| self.find(name, directory).is_some();
        let own = menu.and_then(|menu| menu.ui.as_deref()?.split_ascii_whitespace().next());
        let ui = own.into_iter().chain(["vesamenu.c32", "menu.c32"]).find(there);
        Look {
            serial: menu.and_then(|menu| menu.serial.as_deref()).map(Line::new),
            ui: ui.and_then(PlainPath::new),
            lines: menu
                .map(|menu| menu.look.iter().map(|line| Line::new(line)).collect())
                .unwrap_or_default(),
            reboot: Some("reboot.c32").filter(there).and_then(PlainPath::new),
        }
    }
}
