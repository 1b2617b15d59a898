//! The generated menus: their entries, the order of these, and the kernel of each. [`pxelinux`] and
//! [`ipxe`] write them as text.
//!
//! They replace the image's own menu, which has no timeout, names `${pxeserver}` in every address
//! and has no entry with `copytoram=n`. The author's part of each entry is kept: kernel, initramfs,
//! further parameters, title, colours and the serial port.

pub(crate) mod ipxe;
pub(crate) mod pxelinux;
mod settings;
#[cfg(test)]
mod tests;

use super::file_server::FileServer;
use crate::bootable::{BootEntry, Bootable, Look, Root};
use crate::text::{Line, PlainPath, Word};

pub use settings::{Cms, CopyToRam, MenuSettings, Overrides};

/// The menu of one machine.
#[derive(Debug)]
pub(crate) struct Menu<'a> {
    pub server: FileServer,
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

/// An image and the settings for it.
#[derive(Debug)]
pub(crate) struct MenuImage<'a> {
    pub image: &'a Bootable,
    pub settings: MenuSettings,
}

/// The start of a machine: with the menu or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Start {
    #[default]
    Menu,
    /// The first entry boots at once, without a menu.
    Straight,
}

/// An entry of the menu.
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

/// The kernel of an entry with its initramfs, by paths from the root of the tree.
struct Kernel<'a> {
    image: &'a Bootable,
    boot_entry: &'a BootEntry,
    /// Without the parameters for the machine's address and network card.
    command_line: Vec<Word>,
}

impl Kernel<'_> {
    fn path(&self) -> String {
        format!("{}/{}", self.image.versioned_name, self.boot_entry.kernel)
    }

    fn initrd(&self) -> impl Iterator<Item = String> {
        self.boot_entry.initrd.iter().map(|path| format!("{}/{path}", self.image.versioned_name))
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
    /// Returns the command line of the image's first entry for this root, which a boot program
    /// without a menu has. `None` for an image without entries.
    pub(crate) fn command_line(&self, root: Root, server: &FileServer) -> Option<Vec<Word>> {
        let builder = EntryBuilder { shown: self, server, several: false };
        Some(builder.command_line(self.image.boot_entry(root)?, root, self.settings.copytoram))
    }
}

/// Builds the menu entries of one image.
struct EntryBuilder<'a, 's> {
    shown: &'s MenuImage<'a>,
    server: &'s FileServer,
    several: bool,
}

impl<'a> EntryBuilder<'a, '_> {
    fn entries(&self, root: Root) -> Vec<MenuItem<'a>> {
        let mut entries = Vec::new();
        for boot_entry in self.shown.image.boot_entries_for(root) {
            for copy in copies(root, self.shown.settings.copytoram) {
                entries.push(self.entry(boot_entry, root, copy));
            }
        }
        entries
    }

    fn entry(&self, boot_entry: &'a BootEntry, root: Root, copy: CopyToRam) -> MenuItem<'a> {
        let command_line = self.command_line(boot_entry, root, copy);
        let kernel = Kernel { image: self.shown.image, boot_entry, command_line };
        MenuItem {
            title: self.title(boot_entry, root, copy),
            help: copy.help(),
            boots: Boots::Kernel(kernel),
        }
    }

    fn title(&self, boot_entry: &BootEntry, root: Root, copy: CopyToRam) -> Line {
        let name = &self.shown.image.name;
        let own = boot_entry.title.as_ref().and_then(|title| match boot_entry.root {
            Some(own) => (own == root).then(|| title.to_string()),
            // An entry for a disc has a title without a root protocol.
            None => Some(format!("{title} ({root})")),
        });
        let mut title = match own {
            Some(own) if self.several => format!("{name}: {own}"),
            Some(own) => own,
            None => format!("{name} ({}, {root})", boot_entry.architecture),
        };
        if copy != self.shown.settings.copytoram {
            title += if copy == CopyToRam::No { ", not copied to RAM" } else { ", copied to RAM" };
        }
        Line::new(&title)
    }

    fn command_line(&self, boot_entry: &BootEntry, root: Root, copy: CopyToRam) -> Vec<Word> {
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
        if boot_entry.signed && settings.cms == Cms::Verify {
            words.push("cms_verify=y".to_owned());
        }
        // Each of them is a word, since its parts are words and addresses.
        let ours = words.iter().filter_map(|word| Word::new(word));
        ours.chain(boot_entry.parameters.iter().chain(&settings.parameters).cloned()).collect()
    }

    /// Returns the root's address, always in digits: `${pxeserver}` is the DHCP server, which is
    /// the router if another server gives the addresses.
    fn root_address(&self, root: Root) -> String {
        let (address, versioned_name) = (self.server.address, &self.shown.image.versioned_name);
        match root {
            Root::Nbd => address.to_string(),
            Root::Nfs => format!("{address}:/{versioned_name}"),
            // Without HTTP this root is not served and has no entry.
            Root::Http => format!("{}{versioned_name}/", self.server.http_url().unwrap_or_default()),
        }
    }
}

/// Returns the values of `copytoram` that get an entry, the operator's first.
fn copies(root: Root, chosen: CopyToRam) -> Vec<CopyToRam> {
    match root {
        // mkinitcpio-archiso, hooks/archiso_pxe_http: it always copies.
        Root::Http => vec![chosen],
        Root::Nbd | Root::Nfs => vec![chosen, chosen.opposite()],
    }
}
