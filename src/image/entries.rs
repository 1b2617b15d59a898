//! Entries of a directory, assembled from their records: each section of a file has a record.

use std::iter::Peekable;

use super::iso9660::{self, DirectoryRecord, DirectoryRecords};
use super::{Extent, FormatError};

/// File or directory described by one or more directory records.
#[derive(Debug)]
pub(super) struct IsoEntry<'a> {
    /// First record, which has the name and the attributes.
    pub record: DirectoryRecord<'a>,
    /// Extents of the content, unchecked and without empty ones.
    pub extents: Vec<Extent>,
}

/// Error of an entry that cannot be assembled.
#[derive(Debug)]
pub(super) struct IsoEntryError<'a> {
    /// Identifier of the entry, or a description if its record is unreadable.
    pub id: &'a [u8],
    pub error: FormatError,
}

impl<'a> IsoEntry<'a> {
    fn new(record: DirectoryRecord<'a>) -> Self {
        let mut entry = Self { record, extents: Vec::new() };
        entry.append(&record);
        entry
    }

    /// Adds a section of the file (ECMA-119 §6.5.1).
    fn append(&mut self, section: &DirectoryRecord<'a>) {
        let extent = iso9660::extent_at(section.block, section.len.into());
        match self.extents.last_mut() {
            // ECMA-119 §6.4.5 allows an empty section, which has no place in the image.
            _ if extent.len == 0 => {}
            // libisofs splits a file over 4 GiB into adjacent sections.
            Some(last) if last.end() == extent.offset => last.len += extent.len,
            _ => self.extents.push(extent),
        }
    }
}

/// Iterator over the entries of a directory, including those of itself and of its parent.
pub(super) struct IsoEntries<'a> {
    records: Peekable<DirectoryRecords<'a>>,
}

impl<'a> IsoEntries<'a> {
    /// Iterates over the entries in the whole extent of a directory.
    pub(super) fn new(directory: &'a [u8]) -> Self {
        Self { records: DirectoryRecords::new(directory).peekable() }
    }
}

impl<'a> Iterator for IsoEntries<'a> {
    type Item = Result<IsoEntry<'a>, IsoEntryError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.records.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(IsoEntryError { id: b"(a record)", error })),
        };
        let mut entry = IsoEntry::new(first);
        let mut last = first;
        while last.is_multi_extent() {
            // ECMA-119 §9.3 keeps the records of a file's sections side by side and in order;
            // §6.5.1 makes them one file.
            let Some(Ok(next)) = self.records.next_if(|next| next.is_ok_and(|next| next.id == first.id))
            else {
                let error = FormatError("the last extent of this file is missing");
                return Some(Err(IsoEntryError { id: first.id, error }));
            };
            entry.append(&next);
            last = next;
        }
        Some(Ok(entry))
    }
}
