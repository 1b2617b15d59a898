//! Residency by the page table of this process, for files of which the kernel does not tell it.
//!
//! cachestat(2) answers only who may write the file, and a read that does not wait copies all that it
//! asks about. But a page of the mapping that is in the page table is in the page cache, with its
//! content, and the kernel takes it out of both together (proc_pid_pagemap(5)).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use rustix::process::geteuid;

use crate::extent::Extent;
use crate::sys::Mapping;

/// Bytes of an entry for a page.
const ENTRY: usize = size_of::<u64>();

/// Bit of an entry: the page is present.
const PRESENT: u64 = 1 << 63;

/// Pages that are asked about with one read.
const PAGES: usize = 16;

/// The entries for all pages of this process. `None` if it may not read them: those of a process with
/// file capabilities are root's.
static ENTRIES: OnceLock<Option<File>> = OnceLock::new();

/// Returns the page table of this process. The sandbox does not permit to open it, so the first image
/// has to be opened before.
fn entries() -> Option<&'static File> {
    // What root opens also tells the addresses of pages in memory, for whoever reads it later
    // (Rowhammer); and root may call cachestat(2).
    ENTRIES.get_or_init(|| if geteuid().is_root() { None } else { opened() }).as_ref()
}

fn opened() -> Option<File> {
    File::open("/proc/self/pagemap").ok()
}

/// The part of the page table for the mapping of a file.
#[derive(Debug)]
pub(super) struct PageTable {
    entries: Option<&'static File>,
    map: Option<Arc<Mapping>>,
}

impl PageTable {
    pub(super) fn of(map: Option<Arc<Mapping>>) -> Self {
        Self { entries: entries(), map }
    }

    /// Returns `true` if all pages of `extent` are in the page table, and so in the page cache.
    pub(super) fn holds(&self, extent: Extent) -> bool {
        let (Some(entries), Some(map)) = (self.entries, &self.map) else { return false };
        let Some(mut pages) = map.pages(extent) else { return false };
        let mut buf = [0; PAGES * ENTRY];
        while !pages.is_empty() {
            let count = (pages.end - pages.start).min(PAGES as u64);
            let (buf, _) = buf.split_at_mut(count as usize * ENTRY);
            let is_read = entries.read_exact_at(buf, pages.start * ENTRY as u64).is_ok();
            if !is_read || !buf.chunks_exact(ENTRY).all(is_present) {
                return false;
            }
            pages.start += count;
        }
        true
    }

    /// Enters the pages of `extent`, which are in the page cache, so that [`PageTable::holds`] finds
    /// them.
    pub(super) fn enter(&self, extent: Extent) {
        if let (Some(_), Some(map)) = (self.entries, &self.map) {
            map.populate(extent);
        }
    }
}

fn is_present(entry: &[u8]) -> bool {
    entry.try_into().is_ok_and(|entry| u64::from_ne_bytes(entry) & PRESENT != 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn page_is_held_from_its_entry_to_its_eviction() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let map = Arc::new(Mapping::of(&file, 1 << 20).unwrap());
        static ENTRIES: OnceLock<File> = OnceLock::new();
        let entries = Some(ENTRIES.get_or_init(|| opened().unwrap()));
        let table = PageTable { entries, map: Some(Arc::clone(&map)) };
        let (extent, next) = (Extent { offset: 100, len: 200_000 }, Extent { offset: 400_000, len: 1 });
        assert!(!table.holds(extent), "nothing was touched");
        table.enter(extent);
        assert!(table.holds(extent) && !table.holds(Extent { offset: 100, len: 900_000 }));
        assert!(!table.holds(next), "the kernel enters only what is around");
        assert!(!table.holds(Extent { offset: 1 << 20, len: 1 }), "outside the file");

        file.set_len(0).unwrap();
        assert!(!table.holds(extent), "the pages are gone");
        table.enter(extent);
        assert!(!table.holds(extent));
    }
}
