//! The files that machines load: those we make, and below them the trees of the images.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::menu::{self, Bootable, Place, Server, Settings};
use super::text::PlainPath;
use super::{MENU_PATH, Site, bootable};
use crate::export::path::{self, PathError};
use crate::export::{Catalog, Export};
use crate::image::{Image, NodeId};

/// What a machine may load by a path, whatever protocol it asks by.
#[derive(Debug)]
pub struct Files {
    catalog: Arc<Catalog>,
    bootables: Vec<Bootable>,
    /// PXELINUX of the default image.
    loader: Option<PlainPath>,
    settings: Settings,
    ports: Ports,
}

/// Where the menu tells machines to load from.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub tftp: u16,
    pub http: u16,
}

/// A file that a machine may have.
#[derive(Debug, Clone)]
pub struct File {
    pub export: Export,
    /// The image that the export's ranges are ranges of; `None` for a file made by us.
    pub image: Option<Arc<Image>>,
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
    /// The files of these images and the menu for them.
    ///
    /// # Errors
    /// [`NameTaken`]: the operator has to choose another name.
    pub fn new(catalog: Arc<Catalog>, settings: Settings, ports: Ports) -> Result<Self, NameTaken> {
        let default = catalog.default_image();
        let taken = |name: &&str| path::resolve(&default.image.index, name.as_bytes()).is_ok();
        if let Some(name) = catalog.images().skip(1).map(|served| served.name.as_str()).find(taken) {
            return Err(NameTaken { name: name.to_owned(), default: default.name.clone() });
        }
        let loader = bootable::bios_loader(&default.image);
        let bootables = catalog.images().enumerate().filter_map(|(position, served)| {
            let place = if position == 0 { Place::Default } else { Place::Named };
            bootable::survey(&served.name, place, &served.image)
        });
        Ok(Self { bootables: bootables.collect(), loader, settings, ports, catalog })
    }

    /// What [`plan`](super::plan) has to know.
    pub fn site(&self) -> Site {
        Site::new(self.loader.as_ref().map(PlainPath::as_str))
    }

    /// The file at `path`, for a machine that reached us at `local`.
    ///
    /// # Errors
    /// [`NoFile`] for the machine's screen.
    pub fn open(&self, path: &[u8], local: Ipv4Addr) -> Result<File, NoFile> {
        if self.is_menu(path) {
            let menu = self.menu(local);
            return Ok(File { export: Export::of_memory(menu), image: None });
        }
        let (image, node) = self.find(path)?;
        let export = image.export(node).ok_or(NoFile::NotAFile)?;
        Ok(File { export, image: Some(Arc::clone(image)) })
    }

    /// The menu for machines that reach us at `local`.
    pub fn menu(&self, local: Ipv4Addr) -> String {
        let Ports { tftp: tftp_port, http: http_port } = self.ports;
        let server = Server { address: local, tftp_port, http_port };
        menu::generate(&self.bootables, &self.settings, &server)
    }

    /// The menu has a name of ours, and the one that PXELINUX asks for last where nobody sends option 209.
    fn is_menu(&self, path: &[u8]) -> bool {
        let directory = self.loader.as_ref().map_or("", PlainPath::directory);
        let fallback = format!("{directory}pxelinux.cfg/default");
        names(path).eq(names(MENU_PATH.as_bytes())) || names(path).eq(names(fallback.as_bytes()))
    }

    /// The tree of the default image comes first; no other image's name is in its root.
    fn find(&self, path: &[u8]) -> Result<(&Arc<Image>, NodeId), NoFile> {
        let default = &self.catalog.default_image().image;
        match path::resolve(&default.index, path) {
            Ok(node) => Ok((default, node)),
            Err(PathError::NotFound) => self.find_named(path),
            Err(error) => Err(error.into()),
        }
    }

    fn find_named(&self, path: &[u8]) -> Result<(&Arc<Image>, NodeId), NoFile> {
        let mut names = names(path);
        let name = names.next().ok_or(PathError::NotFound)?;
        let served = self.catalog.images().find(|served| served.name.as_bytes() == name);
        let image = &served.ok_or(PathError::NotFound)?.image;
        let rest = names.collect::<Vec<_>>().join(&b'/');
        Ok((image, path::resolve(&image.index, &rest)?))
    }
}

/// The names in a path, however its slashes are written.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/' || byte == b'\\').filter(|name| !name.is_empty() && *name != b".")
}
