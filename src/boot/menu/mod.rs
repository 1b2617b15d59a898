//! The generated menus: their pages, the order of the rows, and the kernel of each. [`pxelinux`] and
//! [`ipxe`] write them as text.
//!
//! They replace the image's own menu, which has no timeout, names `${pxeserver}` in every address
//! and has no entry with `copytoram=n`. The author's part of each entry is kept: kernel, initramfs,
//! further parameters, colours and the serial port.

pub(crate) mod ipxe;
mod pages;
pub(crate) mod pxelinux;
#[cfg(test)]
mod screens;
mod settings;
#[cfg(test)]
mod tests;
mod ways;

use std::net::Ipv4Addr;

use super::file_server::FileServer;
use crate::bootable::{BootEntry, Bootable, Look, Root};
use crate::mac::Mac;
use crate::text::{Line, PlainPath, Word};

use ways::{Way, WayBuilder};

pub use settings::{Cms, CopyToRam, MenuSettings, Overrides};

/// Longest name of a machine on its screen: the line has room for it, for two addresses of IPv4 and
/// for a MAC address.
const NAME_MAX: usize = 20;

/// The menu of one machine.
#[derive(Debug)]
pub(crate) struct Menu<'a> {
    pub server: FileServer,
    pub machine: MenuMachine<'a>,
    pub start: Start,
    /// Seconds until the first entry boots; 0 waits for ever.
    pub timeout: u16,
    /// The images to boot, that of the machine's rule first.
    pub images: Vec<MenuImage<'a>>,
    /// The look of the image whose PXELINUX is loaded.
    pub look: &'a Look,
    /// The image's own menu, by its path in the tree that PXELINUX loads from.
    pub stock: Option<&'a PlainPath>,
}

/// The machine that shows the menu, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct MenuMachine<'a> {
    pub mac: Option<Mac>,
    pub address: Option<Ipv4Addr>,
    pub name: Option<&'a Word>,
}

/// An image and the settings for it.
#[derive(Debug)]
pub(crate) struct MenuImage<'a> {
    pub image: &'a Bootable,
    pub settings: MenuSettings,
    /// URL of the seed for cloud-init; `None` for a machine without one.
    pub seed: Option<String>,
    /// URL of the script that archiso fetches and runs.
    pub script: Option<String>,
}

/// The start of a machine: with the menu or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Start {
    #[default]
    Menu,
    /// The first entry boots at once, without a menu.
    Straight,
    /// The local disk boots at once.
    Local,
}

/// The kernel of an entry with its initramfs, by paths from the root of the tree.
struct Kernel<'a> {
    image: &'a Bootable,
    boot_entry: &'a BootEntry,
    /// Without the parameters for the machine's address and network card.
    command_line: Vec<Word>,
}

impl Kernel<'_> {
    fn path(&self) -> String {
        self.image.path_of(&self.boot_entry.kernel)
    }

    fn initrd(&self) -> impl Iterator<Item = String> {
        self.boot_entry.initrd.iter().map(|path| self.image.path_of(path))
    }
}

impl Bootable {
    /// Returns the path of a file of the image from the root of the tree.
    fn path_of(&self, path: &PlainPath) -> String {
        format!("{}/{path}", self.versioned_name)
    }
}

impl Menu<'_> {
    /// Returns the line that says who serves whom. `mac` and `address` describe the machine if the
    /// server does not know them.
    fn identity(&self, mac: &str, address: &str) -> String {
        let MenuMachine { mac: own, address: own_address, name } = self.machine;
        let name = name.map(|name| Line::within(name.as_str(), NAME_MAX).to_string());
        let mac = own.map_or_else(|| mac.to_owned(), |mac| mac.to_string());
        let address = own_address.map_or_else(|| address.to_owned(), |address| address.to_string());
        let parts = [name.unwrap_or_default(), mac, address];
        let machine = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        let server = format!("Server {}", self.server.address);
        if machine.is_empty() { server } else { format!("{server} - {machine}") }
    }
}

impl MenuImage<'_> {
    /// Returns the command line of the image's first entry for this root, which a boot program
    /// without a menu has. `None` for an image without entries.
    pub(crate) fn command_line(&self, root: Root, server: &FileServer) -> Option<Vec<Word>> {
        let builder = WayBuilder { shown: self, server };
        Some(builder.command_line(&Way::chosen(self, root)?))
    }
}
