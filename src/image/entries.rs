//! The entries of one directory, each put together from its records: a file of several extents has one for each.

use std::iter::Peekable;

use super::iso9660::{Record, Records};
use super::{Extent, FormatError};

/// A file or directory as its records tell it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The first record, which has the name and the attributes.
    pub record: Record<'a>,
    /// Where the content is, unchecked, without empty sections.
    pub extents: Vec<Extent>,
}

/// An entry that cannot be put together.
#[derive(Debug)]
pub struct Damaged<'a> {
    /// The identifier, as far as there is one.
    pub id: &'a [u8],
    pub flaw: FormatError,
}

impl<'a> Entry<'a> {
    fn new(record: Record<'a>) -> Self {
        let mut entry = Self { record, extents: Vec::new() };
        entry.append(&record);
        entry
    }

    /// Adds a section of the file (ECMA-119 §6.5.1). libisofs writes sections back to back: they become one extent.
    fn append(&mut self, section: &Record<'a>) {
        let extent = Extent::at_block(section.block, section.len.into());
        match self.extents.last_mut() {
            _ if extent.len == 0 => {}
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ => self.extents.push(extent),
        }
    }
}

/// The entries of a directory, front to back, those of itself and its parent too.
pub struct Entries<'a> {
    records: Peekable<Records<'a>>,
}

impl<'a> Entries<'a> {
    /// Reads the whole extent of a directory.
    pub fn new(directory: &'a [u8]) -> Self {
        Self { records: Records::new(directory).peekable() }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, Damaged<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.records.next()? {
            Ok(record) => record,
            Err(flaw) => return Some(Err(Damaged { id: b"(a record)", flaw })),
        };
        let mut entry = Entry::new(first);
        let mut last = first;
        while last.goes_on() {
            // ECMA-119 §9.1: the sections of a file have the same identifier, in records one behind the other.
            let Some(Ok(next)) = self.records.next_if(|next| next.is_ok_and(|next| next.id == first.id))
            else {
                let flaw = FormatError("the last extent of this file is missing");
                return Some(Err(Damaged { id: first.id, flaw }));
            };
            entry.append(&next);
            last = next;
        }
        Some(Ok(entry))
    }
}
