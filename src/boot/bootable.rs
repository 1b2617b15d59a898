//! What an image has to boot with: its own PXE entries where it has some, else its kernels.

use super::menu::{Bootable, Look, Recipe, Root};
use super::syslinux::{self, Entry, Menu};
use super::text::{Line, PlainPath, Word};
use crate::export::path;
use crate::image::initramfs::{Answer, Contents, Part};
use crate::image::{Archiso, Image, Index, Kind, NodeId};

/// Largest menu that is read, in bytes; archiso's have one or two thousand.
const MENU_MAX: u64 = 64 << 10;
/// Menus that are looked at; archiso has eight.
const MENUS_MAX: usize = 64;
/// Parameters of one entry of the image that are kept, in bytes with the spaces, so that the kernel's command line
/// (2048 bytes on x86) has room for ours and the operator's.
const PARAMETERS_MAX: usize = 600;
/// Entries of the image that ours are made of; archiso has three.
const RECIPES_MAX: usize = 32;
/// initramfs images of one entry.
const INITRD_MAX: usize = 4;

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

/// Finds out what `image` boots, which has this name and this one for itself alone; `None` for one that is not archiso's.
pub fn survey(name: &str, edition: &str, image: &Image) -> Option<Bootable> {
    let read = |node| image.read(node, MENU_MAX).ok();
    let tree = Tree { index: &image.index, read: &read };
    tree.bootable(name, edition, image.archiso.as_ref()?, image.volume.uuid.as_deref())
}

/// Path of the image's PXELINUX, for [`Site::new`](super::Site::new).
pub fn bios_loader(image: &Image) -> Option<PlainPath> {
    path_of(&image.index, image.archiso.as_ref()?.lpxelinux?)
}

/// What is in the initramfs images of `image`, each with its path. They are unpacked for it, which takes up to a second
/// for each.
pub fn initramfs(image: &Image) -> impl Iterator<Item = (String, Contents)> {
    let mut nodes: Vec<_> = image.archiso.iter().flat_map(|archiso| &archiso.kernels).collect();
    nodes.dedup_by_key(|kernel| kernel.initramfs);
    nodes.into_iter().filter_map(|kernel| {
        let node = kernel.initramfs?;
        let path = String::from_utf8_lossy(&image.index.path(node)).escape_debug().to_string();
        Some((path, Contents::of(&image.content(node)?)))
    })
}

/// What an initramfs lacks to get its root by this protocol, as the end of a sentence about it; `None` when all is there.
pub fn shortfall(initramfs: &Contents, root: Root) -> Option<String> {
    let needed = match root {
        Root::Nbd => &Part::NBD,
        Root::Nfs => &Part::NFS,
        Root::Http => &Part::HTTP,
    };
    let list = |parts: Vec<Part>| parts.iter().map(Part::to_string).collect::<Vec<_>>().join(", ");
    match initramfs.answer(needed) {
        Answer::Complete => None,
        Answer::Missing(parts) => Some(format!("lacks {}", list(parts))),
        Answer::Unknown(parts, why) => Some(format!("may lack {}: {why}", list(parts))),
    }
}

/// The tree of an image and a way to read its small files.
pub(crate) struct Tree<'a> {
    pub(crate) index: &'a Index,
    pub(crate) read: &'a dyn Fn(NodeId) -> Option<Vec<u8>>,
}

/// The image's own PXE menu.
struct Stock {
    path: PlainPath,
    menu: Menu,
}

impl Tree<'_> {
    pub(crate) fn bootable(
        &self,
        name: &str,
        edition: &str,
        archiso: &Archiso,
        uuid: Option<&str>,
    ) -> Option<Bootable> {
        let stock = self.stock_menu(&archiso.syslinux_menus);
        let mut recipes = stock.as_ref().map(|stock| self.recipes(stock)).unwrap_or_default();
        if recipes.is_empty() {
            recipes = self.kernels(archiso);
        }
        Some(Bootable {
            name: Word::new(name)?,
            edition: Word::new(edition)?,
            base_dir: Word::new(&archiso.install_dir)?,
            uuid: uuid.and_then(Word::new),
            signed: archiso.airootfs.iter().any(|airootfs| airootfs.cms_signature.is_some()),
            recipes,
            look: self.look(stock.as_ref().map(|stock| &stock.menu), archiso.lpxelinux),
            stock: stock.map(|stock| stock.path),
        })
    }

    /// The menu that an image means for PXE: it has entries with a root from the network, and is whole. archiso's
    /// `archiso_pxe.cfg` includes `archiso_pxe-linux.cfg`, which has these entries too, and no UI.
    fn stock_menu(&self, menus: &[NodeId]) -> Option<Stock> {
        let candidates = menus.iter().take(MENUS_MAX).filter_map(|&node| self.menu(node));
        candidates
            .filter(|stock| stock.menu.entries.iter().any(|entry| root_of(entry).is_some()))
            .max_by_key(|stock| (stock.menu.ui.is_some(), stock.menu.entries.len()))
    }

    fn menu(&self, node: NodeId) -> Option<Stock> {
        let path = path_of(self.index, node)?;
        let text = (self.read)(node)?;
        let menu = syslinux::parse(&text, &mut |name| (self.read)(self.find(name, path.directory())?));
        Some(Stock { path, menu })
    }

    /// The file that a menu in `directory` means by `name`: from the root behind `::` or `/`, else beside the menu.
    fn find(&self, name: &str, directory: &str) -> Option<NodeId> {
        let from_root = name.strip_prefix("::").or_else(|| name.strip_prefix('/'));
        let path = from_root.map_or_else(|| format!("{directory}{name}"), str::to_owned);
        let node = path::resolve(self.index, path.as_bytes()).ok()?;
        matches!(self.index.node(node).kind, Kind::File { .. }).then_some(node)
    }

    fn recipes(&self, stock: &Stock) -> Vec<Recipe> {
        let recipes =
            stock.menu.entries.iter().filter_map(|entry| self.recipe(entry, stock.path.directory()));
        recipes.take(RECIPES_MAX).collect()
    }

    /// `None` for an entry that boots no root from the network, or that names what is not there.
    fn recipe(&self, entry: &Entry, directory: &str) -> Option<Recipe> {
        let root = root_of(entry)?;
        let file = |name: &String| path_of(self.index, self.find(name, directory)?);
        let kernel = self.find(entry.kernel.as_ref()?, directory)?;
        if entry.initrd.len() > INITRD_MAX {
            return None;
        }
        Some(Recipe {
            title: entry.title.as_deref().map(Line::new),
            architecture: self.architecture(kernel),
            kernel: path_of(self.index, kernel)?,
            initrd: entry.initrd.iter().map(file).collect::<Option<_>>()?,
            root: Some(root),
            parameters: kept(&entry.parameters)?,
        })
    }

    /// archiso keeps kernels in `boot/ARCHITECTURE/`.
    fn architecture(&self, kernel: NodeId) -> Word {
        let directory = self.index.node(self.index.node(kernel).parent);
        std::str::from_utf8(&directory.name).ok().and_then(Word::new).unwrap_or_default()
    }

    /// One recipe for each kernel, where the image has no PXE entries of its own.
    fn kernels(&self, archiso: &Archiso) -> Vec<Recipe> {
        let recipe = |kernel: &crate::image::arch::Kernel| {
            let initrd = kernel.microcode.iter().chain(&kernel.initramfs);
            Some(Recipe {
                title: None,
                architecture: self.architecture(kernel.kernel),
                kernel: path_of(self.index, kernel.kernel)?,
                initrd: initrd.map(|&node| path_of(self.index, node)).collect::<Option<_>>()?,
                root: None,
                parameters: Vec::new(),
            })
        };
        archiso.kernels.iter().filter_map(recipe).take(RECIPES_MAX).collect()
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

/// The root protocol of an entry of the image.
fn root_of(entry: &Entry) -> Option<Root> {
    let named = |root: &Root| entry.parameters.iter().any(|parameter| key(parameter) == root.parameter());
    [Root::Nbd, Root::Nfs, Root::Http].into_iter().find(named)
}

/// What the image's author added to the parameters that are ours to say; `None` when it is too much.
fn kept(parameters: &[String]) -> Option<Vec<Word>> {
    // PXELINUX looks for `initrd=` anywhere in the line (com32/elflink/ldlinux/kernel.c).
    let theirs = |parameter: &&String| !OURS.contains(&key(parameter)) && !parameter.contains("initrd=");
    let kept: Vec<_> = parameters.iter().filter(theirs).filter_map(|text| Word::new(text)).collect();
    let bytes: usize = kept.iter().map(|word| word.as_str().len() + 1).sum();
    (bytes <= PARAMETERS_MAX).then_some(kept)
}

fn key(parameter: &str) -> &str {
    parameter.split('=').next().unwrap_or(parameter)
}

/// The path of a node from the root; `None` when PXELINUX could not ask for it.
fn path_of(index: &Index, mut id: NodeId) -> Option<PlainPath> {
    let mut names = Vec::new();
    while id != NodeId::ROOT {
        let node = index.node(id);
        names.push(std::str::from_utf8(&node.name).ok()?);
        id = node.parent;
    }
    names.reverse();
    PlainPath::new(&names.join("/"))
}
