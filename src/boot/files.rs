//! The files that machines load: those we make, and below them the trees of the images.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::generated::{DIRECTORY, GeneratedKind, GeneratedPath, Recipient};
use super::image_boot::{ImageBoot, Loader};
use super::leased::Leased;
pub use super::menu::Ports;
use super::menu::{Menu, MenuSettings, Overrides, Root, Server, ipxe, pxelinux};
use super::rules::Rules;
use super::uefi::{Programs, UefiError};
use super::{BootTargets, Mac, UefiBy};
use crate::bootable::Look;
use crate::export::Export;
use crate::export::path::{self, PathError};
use crate::image::{Identity, Image, NodeId, NodeKind};
use crate::images::{HiddenNameError, ImageSet, ServedImage};
use crate::text::Word;
use crate::uki::Stub;

/// Ending of the name that a whole image has beside its tree.
const ISO: &[u8] = b".iso";

/// What the operator chose about boots, whatever images there are.
#[derive(Debug, Clone)]
pub struct BootConfig {
    pub settings: MenuSettings,
    pub ports: Ports,
    /// What UEFI machines boot with instead of the stub in each image.
    pub stub: Option<Stub>,
    pub uefi_by: UefiBy,
    /// iPXE for UEFI, where there is one.
    pub ipxe: Option<Bytes>,
    pub rules: Arc<Rules>,
    /// What is otherwise for images of these names.
    pub overrides: HashMap<String, Overrides>,
    /// What machines are leased, for our DHCP server to note.
    pub leased: Arc<Leased>,
}

impl BootConfig {
    /// Nothing special for any image or machine.
    pub fn new(settings: MenuSettings, ports: Ports) -> Self {
        Self {
            settings,
            ports,
            stub: None,
            uefi_by: UefiBy::Composed,
            ipxe: None,
            rules: Arc::default(),
            overrides: HashMap::new(),
            leased: Arc::default(),
        }
    }
}

/// What a machine may load by a path, whatever protocol it asks by.
#[derive(Debug)]
pub struct Files {
    images: Arc<ImageSet>,
    /// What there is of each image to boot, the default first.
    image_boots: Vec<ImageBoot>,
    /// PXELINUX, of the first image that has one.
    loader: Option<Loader>,
    terms: BootConfig,
}

/// What a path names.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    File(File),
    Directory(Directory<'a>),
}

/// A file that a machine may have.
#[derive(Debug, Clone)]
pub struct File {
    pub export: Export,
    pub version: Version,
    /// Time of modification; `None` for a file made by us.
    pub modified: Option<Timestamp>,
}

impl File {
    /// True for a file made by us, of which nothing is in an image.
    pub(crate) const fn is_made(&self) -> bool {
        self.export.image().is_none()
    }
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
    pub(crate) fn of_content(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        Self(digest.iter().take(16).fold(0, |version, &byte| version << 8 | u128::from(byte)))
    }
}

/// A directory, for whoever looks around.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Directory<'a> {
    /// `/`: the tree of the default image and everything that lies beside it.
    Root,
    /// A directory of an image.
    Tree(&'a ServedImage, NodeId),
    /// `/isowire/`: what we make.
    Generated,
}

/// An entry of a [`Directory`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    pub name: Cow<'a, [u8]>,
    pub kind: ItemKind,
    pub modified: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ItemKind {
    Directory,
    /// A file of this many bytes.
    File(u64),
    /// A file that is made for each machine that asks.
    Generated,
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

impl Files {
    /// The files of these images and the menus for them. It reads their own menus, and the EFI stub of each.
    ///
    /// # Errors
    /// [`HiddenNameError`]: the operator has to choose another name.
    pub fn new(images: Arc<ImageSet>, terms: BootConfig) -> Result<Self, HiddenNameError> {
        let default = images.default_image();
        images.iter().skip(1).try_for_each(|served| default.reachable(&served.name))?;
        let image_boots: Vec<_> = images.iter().filter_map(|served| ImageBoot::of(served, &terms)).collect();
        let loader = Loader::find(&images, &image_boots);
        Ok(Self { images, image_boots, loader, terms })
    }

    /// What [`plan`](super::plan) has to know.
    pub(crate) fn site(&self) -> BootTargets {
        let loader = self.loader.as_ref().map(|loader| loader.path.as_str());
        let site = BootTargets::new(loader, self.terms.ports)
            .with_uefi_by(self.terms.uefi_by)
            .with_rules(Arc::clone(&self.terms.rules));
        self.image_boots.iter().fold(site, |site, ImageBoot { bootable, programs, .. }| {
            let roots = programs.as_ref().map(Programs::roots).map_err(UefiError::clone);
            site.with_image(bootable.name.clone(), roots)
        })
    }

    /// What UEFI machines boot, for each image that machines boot at all, by its name; the default first.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (&str, Result<&Programs, &UefiError>)> {
        self.image_boots.iter().map(|offer| (offer.bootable.name.as_str(), offer.programs.as_ref()))
    }

    /// Names in rules that no image has: their machines get the default image.
    pub(crate) fn unknown_images(&self) -> impl Iterator<Item = &Word> {
        let is_there = |name: &&Word| self.image_boots.iter().any(|offer| offer.bootable.name == **name);
        self.terms.rules.iter().filter_map(|rule| rule.image.as_ref()).filter(move |name| !is_there(name))
    }

    /// What machines are leased, for our DHCP server to note.
    pub(crate) fn leased(&self) -> &Arc<Leased> {
        &self.terms.leased
    }

    #[cfg(test)]
    pub(crate) fn images(&self) -> &Arc<ImageSet> {
        &self.images
    }

    /// The image whose tree is at `/`.
    pub(crate) fn default_image(&self) -> &Arc<Image> {
        &self.images.default_image().image
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
    pub(crate) fn look_up(&self, path: &[u8], local: Ipv4Addr) -> Result<Entry<'_>, NoFile> {
        if let Some(file) = self.made(path, local) {
            return Ok(Entry::File(file));
        }
        match self.find(path)? {
            Found::Root => Ok(Entry::Directory(Directory::Root)),
            Found::Node(served, node) => entry(served, node),
            Found::Whole(ServedImage { image, .. }) => Ok(Entry::File(File {
                export: Export::whole(image),
                version: Version::of_image(image.identity, None),
                modified: image.volume.modified.or(image.volume.created),
            })),
            Found::Generated => Ok(Entry::Directory(Directory::Generated)),
        }
    }

    /// What is in a directory, the directories first, each kind by name.
    pub(crate) fn items<'a>(&'a self, directory: Directory<'a>) -> Vec<Item<'a>> {
        let mut items = match directory {
            Directory::Root => self.root_items(),
            Directory::Tree(served, node) => tree_items(&served.image, node),
            Directory::Generated => [GeneratedKind::Menu, GeneratedKind::Script].map(made_item).into(),
        };
        let is_file = |item: &Item<'_>| item.kind != ItemKind::Directory;
        items.sort_by(|a, b| (is_file(a), &a.name).cmp(&(is_file(b), &b.name)));
        items
    }

    /// The file at `path` that we make for a machine that reached us at `local`.
    fn made(&self, path: &[u8], local: Ipv4Addr) -> Option<File> {
        let GeneratedPath { recipient, kind } =
            GeneratedPath::parse(names(path)).or_else(|| self.menu_of_others(path))?;
        let server = Server { address: local, ports: self.terms.ports };
        match kind {
            GeneratedKind::Menu => Some(made(pxelinux::write(&self.menu(recipient, server)))),
            GeneratedKind::Script if recipient == Recipient::default() => {
                Some(made(ipxe::write_referral(&server)))
            }
            GeneratedKind::Script => {
                Some(made(ipxe::write(&self.menu(recipient, server), recipient.machine)))
            }
            GeneratedKind::Program(root) => self.program(root, recipient, &server),
            GeneratedKind::Ipxe => self.terms.ipxe.clone().map(made),
        }
    }

    /// Where nobody told PXELINUX of a menu, it looks beside itself for one of its network card, and at last for any.
    fn menu_of_others(&self, path: &[u8]) -> Option<GeneratedPath> {
        let directory = format!("{}pxelinux.cfg", self.loader.as_ref()?.path.directory());
        let directory: Vec<_> = names(directory.as_bytes()).collect();
        let path: Vec<_> = names(path).take(directory.len() + 2).collect();
        let machine = match path.strip_prefix(&directory[..])? {
            [b"default"] => None,
            [name] => Some(Mac::of_bootif(str::from_utf8(name).ok()?)?),
            _ => return None,
        };
        Some(GeneratedPath { recipient: Recipient { machine, rule: None }, kind: GeneratedKind::Menu })
    }

    /// What somebody is shown: the image of their rule comes first.
    fn menu(&self, recipient: Recipient, server: Server) -> Menu<'_> {
        static NO_LOOK: Look = Look { serial: None, ui: None, lines: Vec::new() };
        let rule = self.terms.rules.for_recipient(recipient);
        let mut images: Vec<_> = self.image_boots.iter().map(|offer| offer.shown(rule)).collect();
        images.sort_by_key(|shown| Some(&shown.image.name) != rule.and_then(|rule| rule.image.as_ref()));
        Menu {
            server,
            start: rule.map(|rule| rule.start).unwrap_or_default(),
            timeout: self.terms.settings.timeout,
            images,
            look: self.loader.as_ref().map_or(&NO_LOOK, |loader| &loader.look),
            stock: self.loader.as_ref().and_then(|loader| loader.stock.as_ref()),
        }
    }

    /// The boot program of the image that is meant for somebody.
    fn program(&self, root: Root, recipient: Recipient, server: &Server) -> Option<File> {
        let rule = self.terms.rules.for_recipient(recipient);
        let name = rule.and_then(|rule| rule.image.as_ref());
        let named = self.image_boots.iter().find(|offer| Some(&offer.bootable.name) == name);
        let offer = named.or(self.image_boots.first())?;
        let lease = recipient.machine.and_then(|machine| self.terms.leased.of(machine));
        let settings = offer.shown(rule).settings;
        offer.programs.as_ref().ok()?.program(root, recipient.machine, lease, settings, server)
    }

    /// The tree of the default image comes first: what is beside it never hides a file.
    fn find(&self, path: &[u8]) -> Result<Found<'_>, NoFile> {
        let default = self.images.default_image();
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
        if let Some(served) = self.images.named(name) {
            return Ok(Found::Node(served, path::resolve(&served.image.index, rest)?));
        }
        let whole = name.strip_suffix(ISO).and_then(|name| self.images.named(name)).map(Found::Whole);
        let made = (name == DIRECTORY.as_bytes()).then_some(Found::Generated);
        Ok(whole.or(made).filter(|_| names(rest).next().is_none()).ok_or(PathError::NotFound)?)
    }

    fn root_items(&self) -> Vec<Item<'_>> {
        let default = self.default_image();
        let mut items = tree_items(default, NodeId::ROOT);
        let directory =
            |name: &'static [u8]| Item { name: name.into(), kind: ItemKind::Directory, modified: None };
        let mut beside = vec![directory(DIRECTORY.as_bytes())];
        for (position, served) in self.images.iter().enumerate() {
            let ServedImage { name, image, .. } = &**served;
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

/// What a path leads to, besides the menu.
enum Found<'a> {
    Root,
    Node(&'a ServedImage, NodeId),
    /// The image itself, at `/NAME.iso`.
    Whole(&'a ServedImage),
    /// The directory of what we make.
    Generated,
}

fn entry(served: &ServedImage, node: NodeId) -> Result<Entry<'_>, NoFile> {
    let image = &served.image;
    if let NodeKind::Directory { .. } = image.index.node(node).kind {
        return Ok(Entry::Directory(Directory::Tree(served, node)));
    }
    Ok(Entry::File(File {
        export: Export::of_file(image, node).ok_or(NoFile::NotAFile)?,
        version: Version::of_image(image.identity, Some(node)),
        modified: modified(image, node),
    }))
}

fn made(content: impl Into<Bytes>) -> File {
    let content = content.into();
    let version = Version::of_content(&content);
    File { export: Export::of_memory(content), version, modified: None }
}

fn made_item(kind: GeneratedKind) -> Item<'static> {
    Item { name: kind.name().as_bytes().into(), kind: ItemKind::Generated, modified: None }
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

fn item_kind(kind: &NodeKind) -> ItemKind {
    match kind {
        NodeKind::Directory { .. } => ItemKind::Directory,
        NodeKind::File { extents } => ItemKind::File(extents.iter().map(|extent| extent.len).sum()),
        NodeKind::Symlink { .. } | NodeKind::Special => ItemKind::Special,
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
