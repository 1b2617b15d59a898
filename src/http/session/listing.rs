//! Directories as pages for people.

use std::collections::HashMap;
use std::fmt::{self, Display, Write as _};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::backend::{Backend, NoBackend};
use crate::boot::files::{Directory, Item, ItemKind};
use crate::boot::{Files, Version};
use crate::http::wire::target::Segment;
use crate::locked::locked;

/// The files, the pages that list them, and what is behind calls, shared by all clients.
#[derive(Debug)]
pub struct Resources {
    files: Arc<Files>,
    /// Pages that were asked for. A page is made once and kept, so a client that asks for one again
    /// and again without reading costs no memory. All together are about as large as the trees.
    pages: Mutex<HashMap<Key, Page>>,
    backend: Arc<dyn Backend>,
}

/// Versioned name of the image, and number of the directory in it.
type Key = (String, u32);

/// A page and its version.
type Page = (Bytes, Version);

impl Resources {
    /// Creates the resources of a server that knows no machine.
    pub fn new(files: Arc<Files>) -> Self {
        Self::with_backend(files, Arc::new(NoBackend))
    }

    pub(crate) fn with_backend(files: Arc<Files>, backend: Arc<dyn Backend>) -> Self {
        Self { files, pages: Mutex::default(), backend }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    pub(crate) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// Returns the page that lists a directory.
    pub(crate) fn listing(&self, directory: Directory<'_>) -> Page {
        // A panic while the lock is held leaves complete pages.
        let mut pages = locked(&self.pages);
        pages.entry(key(directory)).or_insert_with(|| self.make(directory)).clone()
    }

    fn make(&self, directory: Directory<'_>) -> Page {
        let page = page(&title(directory), directory, self.files.items(directory));
        let version = Version::of_content(page.as_bytes());
        (Bytes::from(page), version)
    }
}

fn key(directory: Directory<'_>) -> Key {
    match directory {
        // An image never has an empty name.
        Directory::Root => (String::new(), 0),
        Directory::Generated => (String::new(), 1),
        Directory::Tree(served, node) => (served.versioned_name(), node.0),
    }
}

fn title(directory: Directory<'_>) -> String {
    match directory {
        Directory::Root => "isowire".to_owned(),
        Directory::Generated => "isowire: generated for each machine".to_owned(),
        Directory::Tree(served, node) => {
            format!("{}: {}", served.name, String::from_utf8_lossy(&served.image.index.path(node)))
        }
    }
}

const STYLE: &str = "body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem } \
                     table { border-collapse: collapse; width: 100% } \
                     td { padding: 0 .5rem; overflow-wrap: anywhere } \
                     td + td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }";

fn page(title: &str, directory: Directory<'_>, items: Vec<Item<'_>>) -> String {
    let title = Escaped(title);
    let parent = match directory {
        Directory::Root => "",
        Directory::Generated | Directory::Tree(..) => {
            "<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n"
        }
    };
    let rows: String = items.iter().map(|item| Row(item).to_string()).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<table>\n\
         {parent}{rows}</table>\n</body>\n</html>\n"
    )
}

/// One line of the table.
struct Row<'a>(&'a Item<'a>);

impl Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Item { name, kind, modified } = self.0;
        let (shown, href) = (String::from_utf8_lossy(name), Segment(name));
        let shown = Escaped(&shown);
        match kind {
            ItemKind::Directory => write!(f, "<tr><td><a href=\"{href}/\">{shown}/</a></td><td></td>")?,
            ItemKind::File(size) => {
                write!(f, "<tr><td><a href=\"{href}\">{shown}</a></td><td>{}</td>", Size(*size))?;
            }
            ItemKind::Generated => write!(f, "<tr><td><a href=\"{href}\">{shown}</a></td><td></td>")?,
            ItemKind::Special => write!(f, "<tr><td>{shown}</td><td></td>")?,
        }
        match modified {
            Some(modified) => writeln!(f, "<td>{}</td></tr>", modified.strftime("%Y-%m-%d %H:%M")),
            None => writeln!(f, "<td></td></tr>"),
        }
    }
}

/// A number of bytes, in the largest unit of which there is at least one, with a tenth.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(bits, _)| self.0 >> bits > 0) {
            Some((bits, unit)) => {
                let tenths = (u128::from(self.0) * 10) >> bits;
                write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
            }
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Text with every character that means something to HTML escaped.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // HTML does not allow control characters.
            char if char.is_control() => f.write_char(char::REPLACEMENT_CHARACTER),
            char => f.write_char(char),
        })
    }
}
