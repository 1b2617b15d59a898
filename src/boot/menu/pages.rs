//! Pages of a menu: the first has one row for each image, the second all other ways to boot.

use super::ways::{WayBuilder, WayRow};
use super::{Kernel, Menu, MenuImage, Start};
use crate::bootable::{Bootable, TITLE_MAX};
use crate::text::{Line, PlainPath};

/// The program that shows a menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loader {
    Pxelinux,
    Ipxe,
}

/// A page of a menu.
pub(super) struct Page<'a> {
    pub title: Line,
    pub rows: Vec<Row<'a>>,
}

/// A row of a page.
pub(super) struct Row<'a> {
    pub title: Line,
    /// Description of what it does, in lines of at most 70 columns: iPXE shows no more.
    pub help: Vec<Line>,
    pub action: Action<'a>,
}

pub(super) enum Action<'a> {
    Boot(Kernel<'a>),
    Open(Page<'a>),
    /// The image's own menu.
    StockMenu(&'a PlainPath),
    MemoryTest(&'a Bootable),
    LocalDisk,
    Reboot,
    Shell,
    /// Returns to the page before.
    Back,
}

impl<'a> Menu<'a> {
    /// Returns the first page. Its first row boots by itself.
    pub(super) fn front(&self, loader: Loader) -> Page<'a> {
        let disk = Row::new(
            "Boot from the local disk",
            "Leaves the network and goes on with the next boot device.",
            Action::LocalDisk,
        );
        if self.start == Start::Local {
            return Page { title: Line::new("Network boot"), rows: vec![disk] };
        }
        let mut rows: Vec<_> = self.images.iter().filter_map(|shown| self.chosen(shown)).collect();
        let more = Row {
            title: Line::new("More ways to boot"),
            help: vec![Line::new("Other protocols for the root file system, verification, and tools.")],
            action: Action::Open(self.more(loader)),
        };
        // A page cannot boot by itself.
        rows.extend(if rows.is_empty() { [disk, more] } else { [more, disk] });
        Page { title: Line::new("Network boot"), rows }
    }

    fn chosen(&self, shown: &MenuImage<'a>) -> Option<Row<'a>> {
        let row = WayBuilder { shown, server: &self.server }.chosen(&self.title(shown.image))?;
        Some(row.into())
    }

    /// Returns the title of an image among the others: with its name if they have the same edition.
    fn title(&self, image: &Bootable) -> Line {
        let alike = self.images.iter().filter(|shown| shown.image.title == image.title).count();
        match alike {
            0 | 1 => image.title.clone(),
            _ => Line::within(&format!("{}: {}", image.name, image.title), TITLE_MAX),
        }
    }

    fn more(&self, loader: Loader) -> Page<'a> {
        let mut rows = Vec::new();
        for shown in &self.images {
            let ways = WayBuilder { shown, server: &self.server }.others();
            let mut ways: Vec<Row<'_>> = ways.into_iter().map(Row::from).collect();
            match self.images.len() {
                1 => rows.append(&mut ways),
                _ if ways.is_empty() => {}
                _ => rows.push(Row::opening(Page { title: self.title(shown.image), rows: ways })),
            }
        }
        rows.extend(self.tools(loader));
        Page { title: Line::new("More ways to boot"), rows }.with_back()
    }

    fn tools(&self, loader: Loader) -> Vec<Row<'a>> {
        let is_pxelinux = loader == Loader::Pxelinux;
        let own_menu = self.stock.filter(|_| is_pxelinux).map(|path| {
            let help = "It has no time limit and waits for a choice.";
            Row::new("The image's own menu", help, Action::StockMenu(path))
        });
        let has_test = |image: &&Bootable| {
            image.memory_tests.bios.is_some() || (!is_pxelinux && image.memory_tests.uefi.is_some())
        };
        let tested = self.images.iter().map(|shown| shown.image).find(has_test);
        let memory_test = tested.map(|image| {
            let help = "It runs until the machine is restarted.";
            Row::new("Test the memory (Memtest86+)", help, Action::MemoryTest(image))
        });
        let reboot = (!is_pxelinux || self.look.reboot.is_some())
            .then(|| Row::new("Reboot", "Restarts the machine.", Action::Reboot));
        let shell =
            (!is_pxelinux).then(|| Row::new("iPXE shell", "Type `exit` there for the menu.", Action::Shell));
        [own_menu, memory_test, reboot, shell].into_iter().flatten().collect()
    }
}

impl<'a> Row<'a> {
    fn new(title: &str, help: &str, action: Action<'a>) -> Self {
        Self { title: Line::new(title), help: vec![Line::new(help)], action }
    }

    fn opening(page: Page<'a>) -> Self {
        Self { title: page.title.clone(), help: Vec::new(), action: Action::Open(page.with_back()) }
    }
}

impl<'a> From<WayRow<'a>> for Row<'a> {
    fn from(WayRow { title, help, kernel }: WayRow<'a>) -> Self {
        Self { title, help, action: Action::Boot(kernel) }
    }
}

impl Page<'_> {
    fn with_back(mut self) -> Self {
        self.rows.push(Row::new("Back", "Returns to the page before.", Action::Back));
        self
    }
}
