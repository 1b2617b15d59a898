//! Ways to boot one image: that of the operator's settings, and those that differ from it in one
//! thing.

use super::{Cms, CopyToRam, Kernel, MenuImage};
use crate::boot::file_server::FileServer;
use crate::bootable::{BootEntry, Root, TITLE_MAX};
use crate::text::{Line, Word};

/// The first serial port, with the speed of archiso's own menu.
const SERIAL: &str = "ttyS0,115200";

/// Columns that iPXE shows of a line of help.
const HELP_MAX: usize = 70;

/// One way to boot an image.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    boot_entry: &'a BootEntry,
    root: Root,
    copy: CopyToRam,
    cms: Cms,
    /// The kernel's console is the serial port.
    is_serial: bool,
}

impl<'a> Way<'a> {
    /// Returns the way of the operator's settings with this root; `None` for an image without
    /// entries.
    pub(super) fn chosen(shown: &MenuImage<'a>, root: Root) -> Option<Self> {
        let MenuImage { image, settings, .. } = shown;
        let boot_entry = image.boot_entry(root)?;
        Some(Self { boot_entry, root, copy: settings.copytoram, cms: settings.cms, is_serial: false })
    }

    fn is_copied(&self) -> bool {
        // mkinitcpio-archiso, hooks/archiso_pxe_http: it always copies.
        self.root == Root::Http || self.copy != CopyToRam::No
    }

    /// Describes what is special about the way: the title of a row among those of the same image.
    fn difference(&self) -> String {
        format!("{}, {}", self.root, if self.is_copied() { "copied to memory" } else { "left on the server" })
    }

    /// Describes what the machine does.
    fn help(&self, name: &Word) -> Vec<Line> {
        let root = self.root;
        let first = if self.is_copied() {
            format!("Copies its root file system to memory ({root}). Then the server may go.")
        } else {
            format!("Keeps its root file system on the server ({root}), which must stay up.")
        };
        let signature = match (self.boot_entry.signed, self.cms) {
            (true, Cms::Verify) => ", signature verified.",
            (true, Cms::Skip) => ", signature not verified.",
            (false, _) => ", without a signature.",
        };
        let second = Line::within(&format!("Image {name}"), HELP_MAX - signature.len());
        let second = format!("{second}{signature}");
        let console = self.is_serial.then(|| format!("Its console is the serial port {SERIAL}."));
        [first, second].into_iter().chain(console).map(|line| Line::new(&line)).collect()
    }
}

/// A row of the menu that boots a kernel.
pub(super) struct WayRow<'a> {
    pub title: Line,
    pub help: Vec<Line>,
    pub kernel: Kernel<'a>,
}

/// Builds the rows of one image.
pub(super) struct WayBuilder<'a, 's> {
    pub shown: &'s MenuImage<'a>,
    pub server: &'s FileServer,
}

impl<'a> WayBuilder<'a, '_> {
    /// Returns the row of the operator's settings; `None` if no root is served.
    pub(super) fn chosen(&self, title: &Line) -> Option<WayRow<'a>> {
        Some(self.row(title.as_str(), &self.chosen_way()?))
    }

    /// Returns the rows of all other ways.
    pub(super) fn others(&self) -> Vec<WayRow<'a>> {
        let Some(chosen) = self.chosen_way() else { return Vec::new() };
        let mut rows: Vec<_> =
            self.by_root(chosen).iter().map(|way| self.row(&way.difference(), way)).collect();
        rows.extend(self.by_entry(chosen));
        if chosen.boot_entry.signed {
            let (title, cms) = match chosen.cms {
                Cms::Verify => ("Without verification of the signature", Cms::Skip),
                Cms::Skip => ("With verification of the signature", Cms::Verify),
            };
            rows.push(self.row(title, &Way { cms, ..chosen }));
        }
        if !self.has_serial_console(chosen.boot_entry) {
            rows.push(self.row("On the serial console", &Way { is_serial: true, ..chosen }));
        }
        rows
    }

    fn chosen_way(&self) -> Option<Way<'a>> {
        Way::chosen(self.shown, *self.shown.settings.roots.first()?)
    }

    /// Returns the ways with another root, or with the other choice about the copy.
    fn by_root(&self, chosen: Way<'a>) -> Vec<Way<'a>> {
        let mut ways = Vec::new();
        for &root in &self.shown.settings.roots {
            let Some(way) = Way::chosen(self.shown, root) else { continue };
            if root != chosen.root {
                ways.push(way);
            }
            if root != Root::Http {
                ways.push(Way { copy: chosen.copy.opposite(), ..way });
            }
        }
        ways
    }

    /// Returns the author's other entries, such as those with another kernel.
    fn by_entry(&self, chosen: Way<'a>) -> impl Iterator<Item = WayRow<'a>> {
        let others = self.shown.image.boot_entries_for(chosen.root).into_iter().skip(1);
        others.map(move |boot_entry| {
            let title = boot_entry.title.as_ref().map_or(boot_entry.kernel.as_str(), Line::as_str);
            self.row(title, &Way { boot_entry, ..chosen })
        })
    }

    fn row(&self, title: &str, way: &Way<'a>) -> WayRow<'a> {
        let image = self.shown.image;
        let kernel = Kernel { image, boot_entry: way.boot_entry, command_line: self.command_line(way) };
        WayRow { title: Line::within(title, TITLE_MAX), help: way.help(&image.name), kernel }
    }

    fn has_serial_console(&self, boot_entry: &BootEntry) -> bool {
        let mut parameters = boot_entry.parameters.iter().chain(&self.shown.settings.parameters);
        parameters.any(|parameter| parameter.as_str().starts_with("console=ttyS"))
    }

    pub(super) fn command_line(&self, way: &Way<'_>) -> Vec<Word> {
        let MenuImage { image, settings, seed, script } = self.shown;
        let Way { boot_entry, root, .. } = *way;
        let mut words = vec![format!("archisobasedir={}", image.base_dir)];
        // With another root the hook would wait for a block device of this UUID, which never comes.
        if let (Root::Nbd, Some(uuid)) = (root, &image.uuid) {
            words.push(format!("archisosearchuuid={uuid}"));
        }
        words.push(format!("{}={}", root.parameter(), self.root_address(root)));
        if let Root::Nbd = root {
            words.push(format!("archiso_nbd_name={}", image.versioned_name));
        }
        words.push(format!("copytoram={}", way.copy.value()));
        if boot_entry.signed && way.cms == Cms::Verify {
            words.push("cms_verify=y".to_owned());
        }
        if let Some(url) = seed {
            // The data source NoCloud takes its files from a URL with a `/` at its end. `;` has no
            // meaning to PXELINUX, to iPXE within a word, and to the kernel.
            // Without `dsmode`, cloud-init 22.4 takes any seed of `ds=nocloud` for one of a local
            // disk, and makes nothing of it.
            words.push(format!("ds=nocloud;dsmode=net;s={url}"));
            // cloud-init would give the card that the root file system comes over another
            // configuration.
            words.push("network-config=disabled".to_owned());
        }
        if let Some(url) = script {
            // archiso's .automated_script.sh takes the first one, and fetches it with curl.
            words.push(format!("script={url}"));
        }
        // The last console is the one of user space (Linux, admin-guide/serial-console.rst).
        let consoles =
            if way.is_serial { vec!["console=tty0".to_owned(), format!("console={SERIAL}")] } else { vec![] };
        // Each of them is a word, since its parts are words and addresses.
        let ours = words.iter().filter_map(|word| Word::new(word));
        let theirs = boot_entry.parameters.iter().chain(&settings.parameters).cloned();
        ours.chain(theirs).chain(consoles.iter().filter_map(|word| Word::new(word))).collect()
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
