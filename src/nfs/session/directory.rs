//! READDIR and READDIRPLUS (RFC 1813, sections 3.3.16 and 3.3.17).
//!
//! The cookie of an entry is its place in the directory, counted from 1 with `.` and `..` first. An index never
//! changes, so a listing can go on at any entry, after a restart too.

use super::DIRECTORY_MAX;
use super::object::Object;
use super::procedures::Failed;
use crate::nfs::handle;
use crate::nfs::wire::reply::{self, DirectoryEntry, EntriesEnd};
use crate::nfs::wire::{NfsStatus, ReadDir};
use crate::nfs::xdr::{self, Emitter};

/// Entries that are in no index: `.` and `..`.
const DOTS: usize = 2;

/// Whether entries bring attributes and handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Name,
    Plus,
}

/// The results of READDIR behind the status.
///
/// # Errors
/// [`Failed`]
pub(super) fn list(directory: Object<'_>, asked: &ReadDir, results: &mut Emitter<'_>) -> Result<(), Failed> {
    page(directory, asked, Detail::Name, results)
}

/// The results of READDIRPLUS behind the status.
///
/// # Errors
/// [`Failed`]
pub(super) fn list_plus(
    directory: Object<'_>,
    asked: &ReadDir,
    results: &mut Emitter<'_>,
) -> Result<(), Failed> {
    page(directory, asked, Detail::Plus, results)
}

fn page(
    directory: Object<'_>,
    asked: &ReadDir,
    detail: Detail,
    results: &mut Emitter<'_>,
) -> Result<(), Failed> {
    let directory = directory.directory()?;
    let first = first(directory, asked)?;
    let mut names_left = asked.dircount as usize;
    // Where the results have to end, or before.
    let limit = results.len() + asked.maxcount.min(DIRECTORY_MAX) as usize;
    let verifier = handle::cookie_verifier(directory.image.identity);
    reply::entries_start(&directory.attributes(), &verifier, results);

    let mut place = first;
    while let Some((name, object)) = entry(directory, place) {
        let before = results.len();
        emit(name, object, place, detail, results);
        let names = names_len(name);
        if names > names_left || results.len() + EntriesEnd::LEN > limit {
            results.rewind(before);
            break;
        }
        names_left -= names;
        place += 1;
    }
    let eof = entry(directory, place).is_none();
    // RFC 1813 §3.3.16: a client that has no room for a single entry would ask for it for ever.
    if place == first && !eof || results.len() + EntriesEnd::LEN > limit {
        return Err(NfsStatus::TooSmall.into());
    }
    EntriesEnd { eof }.emit(results);
    Ok(())
}

/// The place of the first entry that is asked for.
fn first(directory: Object<'_>, asked: &ReadDir) -> Result<usize, NfsStatus> {
    let entries = directory.image.index.children(directory.id).len() + DOTS;
    let is_ours = asked.verifier == handle::cookie_verifier(directory.image.identity);
    match usize::try_from(asked.cookie) {
        Ok(0) => Ok(0),
        Ok(cookie) if is_ours && cookie <= entries => Ok(cookie),
        _ => Err(NfsStatus::BadCookie),
    }
}

/// The entry at a place; `None` behind the last one.
fn entry<'a>(directory: Object<'a>, place: usize) -> Option<(&'a [u8], Object<'a>)> {
    match place.checked_sub(DOTS) {
        None if place == 0 => Some((b".", directory)),
        None => Some((b"..", directory.sibling(directory.node().parent))),
        Some(position) => {
            let child = directory.sibling(*directory.image.index.children(directory.id).get(position)?);
            Some((&child.node().name, child))
        }
    }
}

fn emit(name: &[u8], object: Object<'_>, place: usize, detail: Detail, results: &mut Emitter<'_>) {
    DirectoryEntry { fileid: object.fileid(), name, cookie: place as u64 + 1 }.emit(results);
    if detail == Detail::Plus {
        reply::post_op_attr(Some(&object.attributes()), results);
        // post_op_fh3
        results.boolean(true);
        results.opaque(&object.handle());
    }
}

/// What an entry takes of `dircount`: file id, name and cookie.
const fn names_len(name: &[u8]) -> usize {
    8 + 4 + name.len() + xdr::padding(name.len()) + 8
}
