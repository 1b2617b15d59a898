//! READDIR and READDIRPLUS (RFC 1813 §3.3.16 and §3.3.17).
//!
//! The cookie of an entry is its position in the directory, counted from 1, with `.` and `..`
//! first. An index never changes, so a listing can continue after any entry, after a restart too.
//! File ids would not do: two hard links in one directory may share one.

use super::DIRECTORY_MAX;
use super::object::Object;
use super::procedure_error::ProcedureError;
use crate::nfs::handle;
use crate::nfs::wire::reply::{self, EntriesEnd, NfsEntry};
use crate::nfs::wire::{NfsStatus, ReadDir};
use crate::nfs::xdr::{self, Emitter};

/// Number of the entries that the index does not have: `.` and `..`.
const DOTS: usize = 2;

/// Form of the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// `entry3`
    Name,
    /// `entryplus3`, with attributes and handle
    Plus,
}

/// Emits the results of READDIR after the status.
///
/// # Errors
/// [`ProcedureError`]
pub(super) fn list(
    directory: Object<'_>,
    asked: &ReadDir,
    results: &mut Emitter<'_>,
) -> Result<(), ProcedureError> {
    page(directory, asked, Detail::Name, results)
}

/// Emits the results of READDIRPLUS after the status.
///
/// # Errors
/// [`ProcedureError`]
pub(super) fn list_plus(
    directory: Object<'_>,
    asked: &ReadDir,
    results: &mut Emitter<'_>,
) -> Result<(), ProcedureError> {
    page(directory, asked, Detail::Plus, results)
}

fn page(
    directory: Object<'_>,
    asked: &ReadDir,
    detail: Detail,
    results: &mut Emitter<'_>,
) -> Result<(), ProcedureError> {
    let directory = directory.directory()?;
    let first = first(directory, asked)?;
    // RFC 1813 §3.3.17: dircount leaves out attributes and handles.
    let mut names_left = asked.dircount as usize;
    // RFC 1813 §3.3.16: count and maxcount include all XDR overhead after the status.
    let limit = results.len() + asked.maxcount.min(DIRECTORY_MAX) as usize;
    let verifier = handle::cookie_verifier(directory.image.identity);
    reply::entries_start(&directory.attributes(), &verifier, results);

    let mut position = first;
    while let Some((name, object)) = entry(directory, position) {
        let before = results.len();
        emit(name, object, position, detail, results);
        let names = names_len(name);
        if names > names_left || results.len() + EntriesEnd::LEN > limit {
            results.rewind(before);
            break;
        }
        names_left -= names;
        position += 1;
    }
    let eof = entry(directory, position).is_none();
    // An empty page that is not the last would make the client ask for it for ever: it gets
    // NFS3ERR_TOOSMALL (RFC 1813 §3.3.16).
    if position == first && !eof || results.len() + EntriesEnd::LEN > limit {
        return Err(NfsStatus::TooSmall.into());
    }
    EntriesEnd { eof }.emit(results);
    Ok(())
}

/// Returns the position of the first entry of the page.
fn first(directory: Object<'_>, asked: &ReadDir) -> Result<usize, NfsStatus> {
    let entries = directory.image.index.children(directory.id).len() + DOTS;
    let is_ours = asked.verifier == handle::cookie_verifier(directory.image.identity);
    match usize::try_from(asked.cookie) {
        // RFC 1813 §3.3.16: a listing begins with cookie 0, for which there is no verifier yet.
        Ok(0) => Ok(0),
        // The cookie of the last entry is valid: its page is empty and the last.
        Ok(cookie) if is_ours && cookie <= entries => Ok(cookie),
        _ => Err(NfsStatus::BadCookie),
    }
}

/// Returns the entry at a position, or `None` after the last one.
fn entry<'a>(directory: Object<'a>, position: usize) -> Option<(&'a [u8], Object<'a>)> {
    match position.checked_sub(DOTS) {
        None if position == 0 => Some((b".", directory)),
        None => Some((b"..", directory.sibling(directory.node().parent))),
        Some(child) => {
            let child = directory.sibling(*directory.image.index.children(directory.id).get(child)?);
            Some((&child.node().name, child))
        }
    }
}

fn emit(name: &[u8], object: Object<'_>, position: usize, detail: Detail, results: &mut Emitter<'_>) {
    NfsEntry { fileid: object.fileid(), name, cookie: position as u64 + 1 }.emit(results);
    if detail == Detail::Plus {
        reply::post_op_attr(Some(&object.attributes()), results);
        // post_op_fh3: spares the client a LOOKUP of each entry.
        results.boolean(true);
        results.opaque(&object.handle());
    }
}

/// Returns the bytes of an entry that count towards `dircount`: file id, name and cookie.
const fn names_len(name: &[u8]) -> usize {
    8 + 4 + name.len() + xdr::padding(name.len()) + 8
}
