//! The tree that machines load from, by any protocol: from a path to a file or a directory.
//!
//! ```text
//! /            the tree of the default image
//! /NAME/       the tree of each image, also by its versioned name
//! /NAME.iso    each image as a whole
//! /isowire/    the generated files
//! ```

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::config::BootConfig;
use super::file::{ServedFile, Version};
use super::generated::{DIRECTORY, GeneratedKind, names};
use super::generator::Generator;
use super::leased::Leased;
use super::requester::Requester;
use super::targets::BootTargets;
use super::uefi::{Programs, UefiError};
use crate::bootable::{FileKind, FileKinds};
use crate::export::Export;
use crate::export::path::{self, PathError};
use crate::image::{FileChangedError, Identity, Image, NodeId, NodeKind};
use crate::images::{HiddenNameError, ImageSet, ServedImage};
use crate::mac::Mac;
use crate::text::Word;

/// Ending of the name that a whole image has beside its tree.
const ISO: &[u8] = b".iso";

/// The files that machines may load: everything that the operator's choices and the images of one
/// moment come to.
#[derive(Debug)]
pub struct Files {
    images: Arc<ImageSet>,
    generator: Generator,
    targets: Arc<BootTargets>,
    /// Of current and retained images: a boot may go on with a replaced image.
    kinds: HashMap<Identity, FileKinds>,
}

/// The thing that a path names.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    File(ServedFile),
    Directory(Directory<'a>),
}

/// A directory that a client may list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Directory<'a> {
    /// `/`: the tree of the default image and everything beside it.
    Root,
    /// A directory of an image.
    Tree(&'a ServedImage, NodeId),
    /// `/isowire/`: the generated files.
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
    /// A file that is generated for each machine that asks.
    Generated,
    /// A device, or a symlink to nowhere, which cannot be loaded.
    Special,
}

/// Reason why a path names no file that can be loaded: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("this is not a file")]
    NotAFile,
    /// The operator's fault.
    #[error(transparent)]
    Changed(#[from] FileChangedError),
}

impl Files {
    /// Derives the files of these images. Reads their boot menus and the EFI stub of each.
    ///
    /// # Errors
    /// [`HiddenNameError`] if the tree of the default image hides another image; the operator has
    /// to choose another name.
    pub fn new(images: Arc<ImageSet>, config: BootConfig) -> Result<Self, HiddenNameError> {
        let default = images.default_image();
        images.iter().skip(1).try_for_each(|served| default.reachable(&served.name))?;
        let known = images.known().map(|served| &served.image);
        let kinds = known.map(|image| (image.identity, FileKinds::of(image))).collect();
        let generator = Generator::new(&images, config);
        let targets = Arc::new(generator.targets());
        Ok(Self { images, generator, targets, kinds })
    }

    /// Returns the boot targets that [`plan`](super::plan) needs.
    pub(crate) fn targets(&self) -> &Arc<BootTargets> {
        &self.targets
    }

    /// Iterates over the boot programs for UEFI of each bootable image by its name, the default
    /// first.
    pub(crate) fn programs(&self) -> impl Iterator<Item = (&str, Result<&Programs, &UefiError>)> {
        self.generator.programs()
    }

    /// Returns true if an image has a kernel with an initramfs.
    pub(crate) fn has_boot_entry(&self) -> bool {
        self.generator.has_boot_entry()
    }

    /// Iterates over the names in rules that no bootable image has. Their machines boot the default
    /// image.
    pub(crate) fn unknown_images(&self) -> impl Iterator<Item = &Word> {
        self.generator.unknown_images()
    }

    /// Returns whether a machine has a seed for cloud-init.
    pub(crate) fn has_seed(&self, machine: Mac) -> bool {
        self.generator.has_seed(machine)
    }

    /// Returns whether there is a bootable image with this name.
    pub(crate) fn has_image(&self, name: &Word) -> bool {
        self.generator.has_image(name)
    }

    /// Returns the leases that boot programs are generated with; our DHCP server fills them.
    pub(crate) fn leased(&self) -> &Arc<Leased> {
        self.generator.leased()
    }

    #[cfg(test)]
    pub(crate) fn images(&self) -> &Arc<ImageSet> {
        &self.images
    }

    /// Returns the image whose tree is at `/`.
    pub(crate) fn default_image(&self) -> &Arc<Image> {
        &self.images.default_image().image
    }

    /// Opens the file at `path`, for this machine.
    ///
    /// # Errors
    /// [`FileError`] for the machine's screen.
    pub fn open(&self, path: &[u8], requester: impl Into<Requester>) -> Result<ServedFile, FileError> {
        match self.look_up(path, requester.into())? {
            Entry::File(file) => Ok(file),
            Entry::Directory(_) => Err(FileError::NotAFile),
        }
    }

    /// Looks up `path`, for this machine.
    ///
    /// # Errors
    /// [`FileError`] for the machine's screen.
    pub(crate) fn look_up(&self, path: &[u8], requester: Requester) -> Result<Entry<'_>, FileError> {
        let entry = self.look_up_any(path, requester)?;
        if let Entry::File(file) = &entry {
            file.export.admit()?;
        }
        Ok(entry)
    }

    fn look_up_any(&self, path: &[u8], requester: Requester) -> Result<Entry<'_>, FileError> {
        // First, since PXELINUX looks for generated menus in a directory of the default image.
        let generated = self.generator.path(path);
        if let Some(file) = generated.and_then(|path| self.generator.generate(path, requester)) {
            return Ok(Entry::File(file));
        }
        match self.find(path)? {
            Found::Root => Ok(Entry::Directory(Directory::Root)),
            Found::Node(served, node) => self.entry(served, node),
            Found::Whole(ServedImage { image, .. }) => Ok(Entry::File(ServedFile {
                export: Export::whole(image),
                version: Version::of_image(image, None),
                modified: image.volume.modified.or(image.volume.created),
                kind: FileKind::Other,
            })),
            Found::Generated => Ok(Entry::Directory(Directory::Generated)),
        }
    }

    /// Lists a directory: directories first, each kind by name.
    pub(crate) fn items<'a>(&'a self, directory: Directory<'a>) -> Vec<Item<'a>> {
        let mut items = match directory {
            Directory::Root => self.root_items(),
            Directory::Tree(served, node) => tree_items(&served.image, node),
            Directory::Generated => self.generator.listed().into_iter().map(generated_item).collect(),
        };
        items.sort_by(|a, b| (a.is_file(), &a.name).cmp(&(b.is_file(), &b.name)));
        items
    }

    fn entry<'a>(&self, served: &'a ServedImage, node: NodeId) -> Result<Entry<'a>, FileError> {
        let image = &served.image;
        if let NodeKind::Directory { .. } = image.index.node(node).kind {
            return Ok(Entry::Directory(Directory::Tree(served, node)));
        }
        let kinds = self.kinds.get(&image.identity);
        Ok(Entry::File(ServedFile {
            export: Export::of_file(image, node).ok_or(FileError::NotAFile)?,
            version: Version::of_image(image, Some(node)),
            modified: modified(image, node),
            kind: kinds.map_or(FileKind::Other, |kinds| kinds.get(node)),
        }))
    }

    /// The tree of the default image comes first: nothing beside it hides a file.
    fn find(&self, path: &[u8]) -> Result<Found<'_>, FileError> {
        let default = self.images.default_image();
        match path::resolve(&default.image.index, path) {
            Ok(NodeId::ROOT) => Ok(Found::Root),
            Ok(node) => Ok(Found::Node(default, node)),
            Err(PathError::NotFound) => self.find_beside(path),
            Err(error) => Err(error.into()),
        }
    }

    fn find_beside(&self, path: &[u8]) -> Result<Found<'_>, FileError> {
        let name = names(path).next().ok_or(PathError::NotFound)?;
        let rest = rest_after(name, path);
        if let Some(served) = self.images.named(name) {
            return Ok(Found::Node(served, path::resolve(&served.image.index, rest)?));
        }
        let whole = name.strip_suffix(ISO).and_then(|name| self.images.named(name)).map(Found::Whole);
        let generated = (name == DIRECTORY.as_bytes()).then_some(Found::Generated);
        Ok(whole.or(generated).filter(|_| names(rest).next().is_none()).ok_or(PathError::NotFound)?)
    }

    fn root_items(&self) -> Vec<Item<'_>> {
        let default = self.default_image();
        let mut items = tree_items(default, NodeId::ROOT);
        let mut beside = vec![Item::directory(DIRECTORY.as_bytes(), None)];
        for (position, served) in self.images.iter().enumerate() {
            let ServedImage { name, image, .. } = &**served;
            let modified = image.volume.modified.or(image.volume.created);
            if position > 0 {
                beside.push(Item::directory(name.as_bytes(), modified));
            }
            let name = Cow::Owned([name.as_bytes(), ISO].concat());
            beside.push(Item { name, kind: ItemKind::File(image.source.len()), modified });
        }
        // As in `find`, a name in the tree hides the same name beside it.
        items.extend(beside.into_iter().filter(|item| path::resolve(&default.index, &item.name).is_err()));
        items
    }
}

impl<'a> Item<'a> {
    const fn directory(name: &'a [u8], modified: Option<Timestamp>) -> Self {
        Self { name: Cow::Borrowed(name), kind: ItemKind::Directory, modified }
    }

    fn is_file(&self) -> bool {
        self.kind != ItemKind::Directory
    }
}

/// Target of a path that no generated file has.
enum Found<'a> {
    Root,
    Node(&'a ServedImage, NodeId),
    /// The image itself, at `/NAME.iso`.
    Whole(&'a ServedImage),
    /// The directory of generated files.
    Generated,
}

fn generated_item(kind: GeneratedKind) -> Item<'static> {
    Item { name: kind.name().as_bytes().into(), kind: ItemKind::Generated, modified: None }
}

fn tree_items(image: &Image, directory: NodeId) -> Vec<Item<'_>> {
    image.index.children(directory).iter().map(|&node| tree_item(image, node)).collect()
}

fn tree_item(image: &Image, node: NodeId) -> Item<'_> {
    // A symlink is listed as its target, which is what a client gets at this name.
    let target = path::follow(&image.index, node);
    Item {
        name: Cow::Borrowed(&image.index.node(node).name[..]),
        kind: target.map_or(ItemKind::Special, |target| item_kind(&image.index.node(target).kind)),
        modified: modified(image, target.unwrap_or(node)),
    }
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

/// Returns the part of `path` after its first name.
fn rest_after<'a>(name: &[u8], path: &'a [u8]) -> &'a [u8] {
    let start = path.windows(name.len()).position(|part| part == name).unwrap_or(0);
    path.get(start + name.len()..).unwrap_or_default()
}
