//! The files that machines load: those we make, and below them the trees of the images.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::leased::Leased;
pub use super::menu::Ports;
use super::menu::{self, Bootable, Place, Server, Settings};
use super::text::PlainPath;
use super::uefi::{NoUefi, ProgramName, Programs};
use super::uki::{NoStub, Stub};
use super::{MENU_PATH, Site, Uefi, bootable};
use crate::export::path::{self, PathError};
use crate::export::{Catalog, Export, Served};
use crate::image::{Identity, Image, Kind, NodeId};

/// Ending of the name that a whole image has beside its tree.
const ISO: &[u8] = b".iso";

/// What a machine may load by a path, whatever protocol it asks by.
#[derive(Debug)]
pub struct Files {
    catalog: Arc<Catalog>,
    bootables: Vec<Bootable>,
    /// PXELINUX of the default image.
    loader: Option<PlainPath>,
    /// Where PXELINUX looks for a menu last, when nobody told it.
    fallback_menu: String,
    /// What UEFI machines boot: the default image.
    programs: Result<Programs, NoUefi>,
    leased: Arc<Leased>,
    settings: Settings,
    ports: Ports,
}

/// What a path names.
#[derive(Debug)]
pub enum Entry<'a> {
    File(File),
    Directory(Directory<'a>),
}

/// A file that a machine may have.
#[derive(Debug, Clone)]
pub struct File {
    pub export: Export,
    /// The image that the export's ranges are ranges of; `None` for a file made by us.
    pub image: Option<Arc<Image>>,
    pub version: Version,
    /// Time of modification; `None` for a file made by us.
    pub modified: Option<Timestamp>,
}

/// A number that only the same content has: after a restart, on another server, under any name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub u128);

impl Version {
    /// A node of an image; the image itself where there is none.
    fn of_image(Identity(image): Identity, node: Option<NodeId>) -> Self {
        let node = node.map_or(0, |NodeId(node)| u64::from(node) + 1);
        Self(u128::from(image) << 64 | u128::from(node))
    }

    /// Bytes made by us.
    pub fn of_content(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        Self(digest.iter().take(16).fold(0, |version, &byte| version << 8 | u128::from(byte)))
    }
}

/// A directory, for whoever looks around.
#[derive(Debug, Clone, Copy)]
pub enum Directory<'a> {
    /// `/`: the tree of the default image and everything that lies beside it.
    Root,
    /// A directory of an image.
    Tree(&'a Served, NodeId),
    /// `/isowire/`: what we make.
    Made,
}

/// An entry of a [`Directory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item<'a> {
    pub name: Cow<'a, [u8]>,
    pub kind: ItemKind,
    pub modified: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemKind {
    Directory,
    /// A file of this many bytes.
    File(u64),
    /// A file that is made for each machine that asks.
    Made,
    /// What cannot be had: a device, or a symlink to nowhere.
    Special,
}

/// Why a path is no file: the peer's fault, for its screen and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoFile {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("this is no file")]
    NotAFile,
}

/// An image cannot be reached by its name, because the default image has something of that name in its root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the image `{name}` would hide behind `/{name}` of the image `{default}`: give it another `name` in an [[image]] \
     of the configuration file"
)]
pub struct NameTaken {
    name: String,
    default: String,
}

impl Files {
    /// The files of these images and the menu for them. UEFI machines boot with this stub; `leased` is what machines
    /// are leased, by our DHCP server.
    ///
    /// # Errors
    /// [`NameTaken`]: the operator has to choose another name.
    pub fn new(
        catalog: Arc<Catalog>,
        settings: Settings,
        ports: Ports,
        stub: Result<Stub, NoStub>,
        leased: Arc<Leased>,
    ) -> Result<Self, NameTaken> {
        let default = catalog.default_image();
        catalog.images().skip(1).try_for_each(|served| reachable(&served.name, default))?;
        let loader = bootable::bios_loader(&default.image);
        let bootables = catalog.images().enumerate().filter_map(|(position, served)| {
            let place = if position == 0 { Place::Default } else { Place::Named };
            bootable::survey(&served.name, place, &served.image)
        });
        let bootables: Vec<_> = bootables.collect();
        let of_default = bootables.iter().find(|bootable| bootable.place == Place::Default);
        let programs = Programs::new(&default.image, of_default, &settings.roots, stub);
        let directory = loader.as_ref().map_or("", PlainPath::directory);
        let fallback_menu = format!("{directory}pxelinux.cfg/default");
        Ok(Self { bootables, loader, fallback_menu, programs, leased, settings, ports, catalog })
    }

    /// What [`plan`](super::plan) has to know.
    pub fn site(&self) -> Site {
        let uefi = self.programs().map(|programs| Uefi { root: programs.default_root(), ports: self.ports });
        Site::new(self.loader.as_ref().map(PlainPath::as_str), uefi.map_err(NoUefi::clone))
    }

    /// What UEFI machines boot.
    ///
    /// # Errors
    /// [`NoUefi`] says why there is nothing.
    pub fn programs(&self) -> Result<&Programs, &NoUefi> {
        self.programs.as_ref()
    }

    /// What machines are leased, for our DHCP server to note.
    pub fn leased(&self) -> &Arc<Leased> {
        &self.leased
    }

    /// The images whose files these are.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The image whose tree is at `/`.
    pub fn default_image(&self) -> &Arc<Image> {
        &self.catalog.default_image().image
    }

    /// The file at `path`, for a machine that reached us at `local`.
    ///
    /// # Errors
    /// [`NoFile`] for the machine's screen.
    pub fn open(&self, path: &[u8], local: Ipv4Addr) -> Result<File, NoFile> {
        match self.look_up(path, local)? {
            Entry::File(file) => Ok(file),
            Entry::Directory(_) => Err(NoFile::NotAFile),
        }
    }

    /// What is at `path`, for a machine that reached us at `local`.
    ///
    /// # Errors
    /// [`NoFile`] for the machine's screen.
    pub fn look_up(&self, path: &[u8], local: Ipv4Addr) -> Result<Entry<'_>, NoFile> {
        if self.is_menu(path) {
            return Ok(Entry::File(made(self.menu(local))));
        }
        if let Some(program) = self.program(path, local) {
            return Ok(Entry::File(program));
        }
        match self.find(path)? {
            Found::Root => Ok(Entry::Directory(Directory::Root)),
            Found::Node(served, node) => entry(served, node),
            Found::Whole(Served { image, .. }) => Ok(Entry::File(File {
                export: image.whole(),
                version: Version::of_image(image.identity, None),
                modified: image.volume.modified.or(image.volume.created),
                image: Some(Arc::clone(image)),
            })),
            Found::Made => Ok(Entry::Directory(Directory::Made)),
        }
    }

    /// What is in a directory, the directories first, each kind by name.
    pub fn items<'a>(&'a self, directory: Directory<'a>) -> Vec<Item<'a>> {
        let mut items = match directory {
            Directory::Root => self.root_items(),
            Directory::Tree(served, node) => tree_items(&served.image, node),
            Directory::Made => vec![made_item(MENU_PATH)],
        };
        let is_file = |item: &Item<'_>| item.kind != ItemKind::Directory;
        items.sort_by(|a, b| (is_file(a), &a.name).cmp(&(is_file(b), &b.name)));
        items
    }

    /// The menu for machines that reach us at `local`.
    pub fn menu(&self, local: Ipv4Addr) -> String {
        menu::generate(&self.bootables, &self.settings, &self.server(local))
    }

    fn server(&self, local: Ipv4Addr) -> Server {
        Server { address: local, ports: self.ports }
    }

    /// The boot program at `path`, for a machine that reached us at `local`.
    fn program(&self, path: &[u8], local: Ipv4Addr) -> Option<File> {
        let name = ProgramName::parse(names(path))?;
        let lease = name.machine.and_then(|machine| self.leased.of(machine));
        self.programs().ok()?.program(name, lease, &self.settings, &self.server(local))
    }

    /// The menu has a name of ours, and the one that PXELINUX asks for last where nobody sends option 209.
    fn is_menu(&self, path: &[u8]) -> bool {
        [MENU_PATH, &self.fallback_menu].iter().any(|menu| names(path).eq(names(menu.as_bytes())))
    }

    /// The tree of the default image comes first: what is beside it never hides a file.
    fn find(&self, path: &[u8]) -> Result<Found<'_>, NoFile> {
        let default = self.catalog.default_image();
        match path::resolve(&default.image.index, path) {
            Ok(NodeId::ROOT) => Ok(Found::Root),
            Ok(node) => Ok(Found::Node(default, node)),
            Err(PathError::NotFound) => self.find_beside(path),
            Err(error) => Err(error.into()),
        }
    }

    fn find_beside(&self, path: &[u8]) -> Result<Found<'_>, NoFile> {
        let name = names(path).next().ok_or(PathError::NotFound)?;
        let rest = behind(name, path);
        if let Some(served) = self.catalog.named(name) {
            return Ok(Found::Node(served, path::resolve(&served.image.index, rest)?));
        }
        let whole = name.strip_suffix(ISO).and_then(|name| self.catalog.named(name)).map(Found::Whole);
        let made = (name == made_directory()).then_some(Found::Made);
        Ok(whole.or(made).filter(|_| names(rest).next().is_none()).ok_or(PathError::NotFound)?)
    }

    fn root_items(&self) -> Vec<Item<'_>> {
        let default = self.default_image();
        let mut items = tree_items(default, NodeId::ROOT);
        let directory =
            |name: &'static [u8]| Item { name: name.into(), kind: ItemKind::Directory, modified: None };
        let mut beside = vec![directory(made_directory())];
        for (position, Served { name, image }) in self.catalog.images().enumerate() {
            let modified = image.volume.modified.or(image.volume.created);
            if position > 0 {
                let name = Cow::Borrowed(name.as_bytes());
                beside.push(Item { name, kind: ItemKind::Directory, modified });
            }
            let name = Cow::Owned([name.as_bytes(), ISO].concat());
            beside.push(Item { name, kind: ItemKind::File(image.source.len()), modified });
        }
        // As in `find`: whatever the tree has of that name is what is served.
        items.extend(beside.into_iter().filter(|item| path::resolve(&default.index, &item.name).is_err()));
        items
    }
}

/// Whether an image called `name` can be reached beside the tree of the default image.
///
/// # Errors
/// [`NameTaken`]
pub fn reachable(name: &str, default: &Served) -> Result<(), NameTaken> {
    match path::resolve(&default.image.index, name.as_bytes()) {
        Ok(_) => Err(NameTaken { name: name.to_owned(), default: default.name.clone() }),
        Err(_) => Ok(()),
    }
}

/// What a path leads to, besides the menu.
enum Found<'a> {
    Root,
    Node(&'a Served, NodeId),
    /// The image itself, at `/NAME.iso`.
    Whole(&'a Served),
    /// The directory of what we make.
    Made,
}

fn entry(served: &Served, node: NodeId) -> Result<Entry<'_>, NoFile> {
    let image = &served.image;
    if let Kind::Directory { .. } = image.index.node(node).kind {
        return Ok(Entry::Directory(Directory::Tree(served, node)));
    }
    Ok(Entry::File(File {
        export: image.export(node).ok_or(NoFile::NotAFile)?,
        image: Some(Arc::clone(image)),
        version: Version::of_image(image.identity, Some(node)),
        modified: modified(image, node),
    }))
}

fn made(content: String) -> File {
    let version = Version::of_content(content.as_bytes());
    File { export: Export::of_memory(content), image: None, version, modified: None }
}

fn made_directory() -> &'static [u8] {
    names(MENU_PATH.as_bytes()).next().unwrap_or_default()
}

fn made_item(path: &'static str) -> Item<'static> {
    let name = names(path.as_bytes()).last().unwrap_or_default();
    Item { name: name.into(), kind: ItemKind::Made, modified: None }
}

fn tree_items(image: &Image, directory: NodeId) -> Vec<Item<'_>> {
    let item = |&node: &NodeId| {
        let name = &image.index.node(node).name;
        let target = path::follow(&image.index, node);
        Item {
            name: Cow::Borrowed(&name[..]),
            kind: target.map_or(ItemKind::Special, |target| item_kind(&image.index.node(target).kind)),
            modified: modified(image, target.unwrap_or(node)),
        }
    };
    image.index.children(directory).iter().map(item).collect()
}

fn item_kind(kind: &Kind) -> ItemKind {
    match kind {
        Kind::Directory { .. } => ItemKind::Directory,
        Kind::File { extents } => ItemKind::File(extents.iter().map(|extent| extent.len).sum()),
        Kind::Symlink { .. } | Kind::Special => ItemKind::Special,
    }
}

fn modified(image: &Image, node: NodeId) -> Option<Timestamp> {
    Timestamp::from_second(image.index.node(node).attributes.mtime).ok()
}

/// What follows the first name of a path.
fn behind<'a>(name: &[u8], path: &'a [u8]) -> &'a [u8] {
    let start = path.windows(name.len()).position(|part| part == name).unwrap_or(0);
    path.get(start + name.len()..).unwrap_or_default()
}

/// The names in a path, however its slashes are written.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/' || byte == b'\\').filter(|name| !name.is_empty() && *name != b".")
}
