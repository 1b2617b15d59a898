//! The menus that isowire makes: which entries there are, in which order, and what each boots. Pure facts; [`pxelinux`]
//! and [`ipxe`] write them down.
//!
//! They stand beside the image's own menu, which has no timeout, asks `${pxeserver}` for everything and cannot say
//! `copytoram=n`. What the image's author put into their entries is kept: kernel, initramfs, further parameters,
//! titles, colours and the serial port.

pub(crate) mod ipxe;
pub(crate) mod pxelinux;
mod settings;
#[cfg(test)]
mod tests;

use super::file_server::FileServer;
use crate::bootable::{BootEntry, Bootable, Look, Root};
use crate::text::{Line, PlainPath, Word};

pub use settings::{Cms, CopyToRam, MenuSettings, Overrides};

/// What one machine is shown.
#[derive(Debug)]
pub(crate) struct Menu<'a> {
    pub server: FileServer,
    pub start: Start,
    /// Seconds until the first entry boots by itself; 0 waits for ever.
    pub timeout: u16,
    /// The images to boot, the machine's own first.
    pub images: Vec<MenuImage<'a>>,
    /// The look of the image whose PXELINUX is loaded.
    pub look: &'a Look,
    /// The image's own menu, at its place in the tree that PXELINUX loads from.
    pub stock: Option<&'a PlainPath>,
}

/// An image, and what was chosen for it.
#[derive(Debug)]
pub(crate) struct MenuImage<'a> {
    pub image: &'a Bootable,
    pub settings: MenuSettings,
}

/// Whether somebody at the machine may choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Start {
    #[default]
    Menu,
    /// The first entry boots at once.
    Straight,
}

/// One line of the menu.
struct MenuItem<'a> {
    title: Line,
    help: &'static str,
    boots: Boots<'a>,
}

enum Boots<'a> {
    Kernel(Kernel<'a>),
    StockMenu(&'a PlainPath),
    LocalDisk,
}

/// What an entry loads, by paths from the root of the tree that machines load from.
struct Kernel<'a> {
    image: &'a Bootable,
    recipe: &'a BootEntry,
    /// Without what tells the machine its address and its network card.
    command_line: Vec<Word>,
}

impl Kernel<'_> {
    fn path(&self) -> String {
        format!("{}/{}", self.image.versioned_name, self.recipe.kernel)
    }

    fn initrd(&self) -> impl Iterator<Item = String> {
        self.recipe.initrd.iter().map(|path| format!("{}/{path}", self.image.versioned_name))
    }
}

impl<'a> Menu<'a> {
    fn entries(&self) -> Vec<MenuItem<'a>> {
        let mut entries = Vec::new();
        for shown in &self.images {
            let builder = EntryBuilder { shown, server: &self.server, several: self.images.len() > 1 };
            entries.extend(shown.settings.roots.iter().flat_map(|&root| builder.entries(root)));
        }
        entries.extend(self.stock.map(|path| MenuItem {
            title: Line::new("The image's own menu"),
            help: "It has no time limit and waits for a choice.",
            boots: Boots::StockMenu(path),
        }));
        entries.push(MenuItem {
            title: Line::new("Boot from the local disk"),
            help: "Leaves the network and goes on with the next boot device.",
            boots: Boots::LocalDisk,
        });
        entries
    }
}

impl MenuImage<'_> {
    /// The command line of the image's first entry for this root: without a menu, that is what a machine boots. `None`
    /// for an image that has nothing to boot.
    pub(crate) fn command_line(&self, root: Root, server: &FileServer) -> Option<Vec<Word>> {
        let builder = EntryBuilder { shown: self, server, several: false };
        Some(builder.command_line(self.image.recipe(root)?, root, self.settings.copytoram))
    }
}

/// Writes the entries of one image.
struct EntryBuilder<'a, 's> {
    shown: &'s MenuImage<'a>,
    server: &'s FileServer,
    several: bool,
}

impl<'a> EntryBuilder<'a, '_> {
    fn entries(&self, root: Root) -> Vec<MenuItem<'a>> {
        let mut entries = Vec::new();
        for recipe in self.shown.image.recipes_for(root) {
            for copy in copies(root, self.shown.settings.copytoram) {
                entries.push(self.entry(recipe, root, copy));
            }
        }
        entries
    }

    fn entry(&self, recipe: &'a BootEntry, root: Root, copy: CopyToRam) -> MenuItem<'a> {
        let command_line = self.command_line(recipe, root, copy);
        let kernel = Kernel { image: self.shown.image, recipe, command_line };
        MenuItem { title: self.title(recipe, root, copy), help: copy.help(), boots: Boots::Kernel(kernel) }
    }

    fn title(&self, recipe: &BootEntry, root: Root, copy: CopyToRam) -> Line {
        let name = &self.shown.image.name;
        let own = recipe.title.as_ref().and_then(|title| match recipe.root {
            Some(own) => (own == root).then(|| title.to_string()),
            // The author's words are of the kernel and its parameters, and nothing of the network.
            None => Some(format!("{title} ({root})")),
        });
        let mut title = match own {
            Some(own) if self.several => format!("{name}: {own}"),
            Some(own) => own,
            None => format!("{name} ({}, {root})", recipe.architecture),
        };
        if copy != self.shown.settings.copytoram {
            title += if copy == CopyToRam::No { ", not copied to RAM" } else { ", copied to RAM" };
        }
        Line::new(&title)
    }

    fn command_line(&self, recipe: &BootEntry, root: Root, copy: CopyToRam) -> Vec<Word> {
        let MenuImage { image, settings } = self.shown;
        let mut words = vec![format!("archisobasedir={}", image.base_dir)];
        // With another root the hook would wait for a block device of this UUID, which never comes.
        if let (Root::Nbd, Some(uuid)) = (root, &image.uuid) {
            words.push(format!("archisosearchuuid={uuid}"));
        }
        words.push(format!("{}={}", root.parameter(), self.root_address(root)));
        if let Root::Nbd = root {
            words.push(format!("archiso_nbd_name={}", image.versioned_name));
        }
        words.push(format!("copytoram={}", copy.value()));
        if image.signed && settings.cms == Cms::Verify {
            words.push("cms_verify=y".to_owned());
        }
        // Made of words and addresses, each of them is a word.
        let ours = words.iter().filter_map(|word| Word::new(word));
        ours.chain(recipe.parameters.iter().chain(&settings.parameters).cloned()).collect()
    }

    /// Always the literal address: `${pxeserver}` is the router where another server gives the addresses.
    fn root_address(&self, root: Root) -> String {
        let (address, versioned_name) = (self.server.address, &self.shown.image.versioned_name);
        match root {
            Root::Nbd => address.to_string(),
            Root::Nfs => format!("{address}:/{versioned_name}"),
            // Without HTTP there is no such entry.
            Root::Http => format!("{}{versioned_name}/", self.server.http_url().unwrap_or_default()),
        }
    }
}

/// The choices to offer, the operator's first. With an HTTP root archiso always copies.
fn copies(root: Root, chosen: CopyToRam) -> Vec<CopyToRam> {
    match root {
        Root::Http => vec![chosen],
        Root::Nbd | Root::Nfs => vec![chosen, chosen.opposite()],
    }
}
