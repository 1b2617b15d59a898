//! What an image has to boot with.

mod entries;
mod file_kind;
pub(crate) mod grub;
pub(crate) mod menu_entry;
mod root;
pub(crate) mod syslinux;
pub(crate) mod systemd_boot;
mod tree;

use self::entries::{EntrySelector, StockMenu};
use self::syslinux::Menu;
use self::tree::path_of;
use crate::export::path;
use crate::image::initramfs::{Completeness, Contents, Requirement};
use crate::image::{Archiso, Image, NodeId};
use crate::text::{Line, PlainPath, Word};

pub(crate) use self::entries::{BootEntry, Entries};
pub use self::file_kind::FileKind;
pub(crate) use self::file_kind::FileKinds;
pub use self::root::Root;
pub(crate) use self::tree::Tree;

/// Largest menu that is read, in bytes; archiso's have one or two thousand.
const MENU_MAX: u64 = 64 << 10;

/// An image as the menu sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bootable {
    pub name: Word,
    /// A name that only this very image has. Whatever a boot loads later is named by it: a boot that began before the
    /// image was replaced goes on with the one it began with.
    pub versioned_name: Word,
    /// `archisobasedir=`.
    pub base_dir: Word,
    /// `archisosearchuuid=`.
    pub uuid: Option<Word>,
    pub signed: bool,
    /// What the image boots: its own PXE entries, or one made from its kernel.
    pub recipes: Vec<BootEntry>,
    pub look: Look,
    /// The image's own PXE menu.
    pub stock: Option<PlainPath>,
}

/// How the image's own menu looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Look {
    /// Arguments of SERIAL.
    pub serial: Option<Line>,
    /// The menu program, if the image has one: `vesamenu.c32` or `menu.c32`.
    pub ui: Option<PlainPath>,
    /// MENU lines.
    pub lines: Vec<Line>,
}

impl Bootable {
    /// What is booted with this root by the first entry of the menu.
    pub(crate) fn recipe(&self, root: Root) -> Option<&BootEntry> {
        self.recipes_for(root).into_iter().next()
    }

    /// The image's own entries for this protocol; else the first there is.
    pub(crate) fn recipes_for(&self, root: Root) -> Vec<&BootEntry> {
        let fits = |recipe: &&BootEntry| recipe.root.is_none_or(|own| own == root);
        let own: Vec<_> = self.recipes.iter().filter(fits).collect();
        if own.is_empty() { self.recipes.iter().take(1).collect() } else { own }
    }
}

/// Finds out what `image` boots, which has this name and this one for itself alone; `None` for one that is not archiso's.
pub(crate) fn survey(name: &str, versioned_name: &str, image: &Image) -> Option<Bootable> {
    let read = |node| image.read(node, MENU_MAX).ok();
    let tree = Tree { index: &image.index, read: &read };
    tree.bootable(name, versioned_name, image.archiso.as_ref()?, image.volume.uuid.as_deref())
}

/// The entries of `image` that machines boot, and where they come from; `None` for one that is not archiso's.
pub(crate) fn entries(image: &Image) -> Option<Entries> {
    let read = |node| image.read(node, MENU_MAX).ok();
    let tree = Tree { index: &image.index, read: &read };
    Some(EntrySelector { tree: &tree, archiso: image.archiso.as_ref()? }.choose().entries)
}

/// Path of the image's PXELINUX, for the boot plan of BIOS machines.
pub(crate) fn bios_loader(image: &Image) -> Option<PlainPath> {
    path_of(&image.index, image.archiso.as_ref()?.lpxelinux?)
}

/// What is in the initramfs images of `image`, each with its path: of those that its entries name, and of those that lie
/// where archiso has them. They are unpacked for it, which takes up to a second for each.
pub(crate) fn initramfs(image: &Image) -> impl Iterator<Item = (String, Contents)> {
    let by_place =
        image.archiso.iter().flat_map(|archiso| &archiso.kernels).filter_map(|kernel| kernel.initramfs);
    let recipes = entries(image).map(|entries| entries.recipes).unwrap_or_default();
    // What is loaded in front of the last is microcode.
    let named = recipes.iter().filter_map(|recipe| node_of(image, recipe.initrd.last()?));
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

/// The file that a recipe names.
pub(crate) fn node_of(image: &Image, path: &PlainPath) -> Option<NodeId> {
    path::resolve(&image.index, path.as_str().as_bytes()).ok()
}

/// What an initramfs lacks to get its root by this protocol, as the end of a sentence about it; `None` when all is there.
pub(crate) fn shortfall(initramfs: &Contents, root: Root) -> Option<String> {
    let needed = match root {
        Root::Nbd => &Requirement::NBD,
        Root::Nfs => &Requirement::NFS,
        Root::Http => &Requirement::HTTP,
    };
    let list =
        |parts: Vec<Requirement>| parts.iter().map(Requirement::to_string).collect::<Vec<_>>().join(", ");
    match initramfs.answer(needed) {
        Completeness::Complete => None,
        Completeness::Missing(parts) => Some(format!("lacks {}", list(parts))),
        Completeness::Unknown(parts, why) => Some(format!("may lack {}: {why}", list(parts))),
    }
}

impl Tree<'_> {
    pub(crate) fn bootable(
        &self,
        name: &str,
        versioned_name: &str,
        archiso: &Archiso,
        uuid: Option<&str>,
    ) -> Option<Bootable> {
        let choice = EntrySelector { tree: self, archiso }.choose();
        let menu = choice.pxe.as_ref().or(choice.disk.as_ref()).map(|stock| &stock.menu);
        Some(Bootable {
            name: Word::new(name)?,
            versioned_name: Word::new(versioned_name)?,
            base_dir: Word::new(&archiso.install_dir)?,
            uuid: uuid.and_then(Word::new),
            signed: archiso.airootfs.iter().any(|airootfs| airootfs.cms_signature.is_some()),
            look: self.look(menu, archiso.lpxelinux),
            recipes: choice.entries.recipes,
            stock: choice.pxe.filter(|stock| self.stands_alone(stock)).map(|stock| stock.path),
        })
    }

    /// False for a menu whose names start in another directory than its own, which we could not load as it stands.
    fn stands_alone(&self, stock: &StockMenu) -> bool {
        let mut kernels = stock.menu.entries.iter().filter_map(|entry| entry.kernel.as_ref());
        kernels.any(|kernel| self.find(kernel, stock.path.directory()).is_some())
    }

    fn look(&self, menu: Option<&Menu>, loader: Option<NodeId>) -> Look {
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
        }
    }
}
