//! The procedures of NFS version 3 that change nothing.

use super::object::Object;
use super::procedure_error::ProcedureError;
use super::{DIRECTORY_MAX, READ_MAX, directory, read_only};
use crate::export::{Content, ImageRange};
use crate::image::index::MAX_NAME;
use crate::image::{NodeId, NodeKind};
use crate::images::ImageSet;
use crate::nfs::rpc::{self, Call, CallError};
use crate::nfs::wire::reply::{self, FsInfo, FsStat, PathConf, ReadHead};
use crate::nfs::wire::{self, NfsStatus, Read, ReadDir, procedure};
use crate::nfs::xdr::{self, Emitter};

/// Most links of one object; Rock Ridge has 32 bits for them (PX).
const LINK_MAX: u32 = i32::MAX as u32;

/// Payload of READ, which is sent behind its results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload<'a> {
    content: Content<'a>,
    offset: u64,
    /// Number of bytes; all lie inside the file.
    pub len: u32,
}

impl<'a> Payload<'a> {
    pub(super) fn ranges(&self) -> impl Iterator<Item = ImageRange<'a>> + use<'a> {
        self.content.range(self.offset, self.len.into())
    }

    /// Returns the number of bytes with the padding of XDR.
    pub(super) const fn padded_len(&self) -> u32 {
        self.len + xdr::padding(self.len as usize) as u32
    }
}

/// Answers a call of the NFS program.
///
/// # Errors
/// [`CallError`] for a call that RPC refuses.
pub(super) fn answer<'a>(
    images: &'a ImageSet,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<Option<Payload<'a>>, CallError> {
    if call.version != wire::VERSION {
        return Err(CallError::ProgMismatch { low: wire::VERSION, high: wire::VERSION });
    }
    match call.procedure {
        procedure::NULL => Ok(None),
        // The image cannot be changed, so each of these fails with NFS3ERR_ROFS.
        number if read_only::modifies(number) => {
            read_only::refuse(images, call, results)?;
            Ok(None)
        }
        procedure::GETATTR..=procedure::PATHCONF => on_object(images, call, results),
        _ => Err(CallError::ProcUnavail),
    }
}

/// Emits the results of a READ whose client should try again later.
pub(super) fn postpone(
    images: &ImageSet,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<(), CallError> {
    let object = Object::find(images, wire::handle(&mut { call.args })?);
    // RFC 1813 §2.6: the server "initiated the request, but was not able to complete it in a timely
    // fashion. The client should wait and then try the request with a new RPC transaction ID."
    results.u32(NfsStatus::Jukebox as u32);
    let attributes = object.map(|object| object.attributes());
    reply::post_op_attr(attributes.as_ref().ok(), results);
    Ok(())
}

/// Runs a procedure on the object whose handle comes first in the arguments.
fn on_object<'a>(
    images: &'a ImageSet,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<Option<Payload<'a>>, CallError> {
    let mut args = call.args;
    let found = Object::find(images, wire::handle(&mut args)?);
    let start = results.len();
    let call = Call { args, ..*call };
    match found.map_err(ProcedureError::from).and_then(|object| run(object, &call, results)) {
        Ok(payload) => Ok(payload),
        Err(ProcedureError::Malformed(malformed)) => Err(malformed.into()),
        Err(ProcedureError::Status(status)) => {
            results.rewind(start);
            results.u32(status as u32);
            // RFC 1813 §3.3.1: the failure of GETATTR has no data. All others have the attributes
            // of the object, if there is one.
            if call.procedure != procedure::GETATTR {
                let attributes = found.map(|object| object.attributes());
                reply::post_op_attr(attributes.as_ref().ok(), results);
            }
            Ok(None)
        }
    }
}

/// Emits the results of a procedure on `object`, the status first. The caller takes them back on
/// failure.
fn run<'a>(
    object: Object<'a>,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<Option<Payload<'a>>, ProcedureError> {
    results.u32(NfsStatus::Ok as u32);
    match call.procedure {
        procedure::GETATTR => object.attributes().emit(results),
        procedure::LOOKUP => lookup(object, call, results)?,
        procedure::ACCESS => access(object, call, results)?,
        procedure::READLINK => readlink(object, results)?,
        procedure::READ => return read(object, call, results),
        procedure::READDIR => directory::list(object, &ReadDir::parse(&mut { call.args })?, results)?,
        procedure::READDIRPLUS => {
            directory::list_plus(object, &ReadDir::parse_plus(&mut { call.args })?, results)?;
        }
        procedure::FSSTAT => fsstat(object, results),
        procedure::FSINFO => fsinfo(object, results),
        _ => pathconf(object, results),
    }
    Ok(None)
}

fn lookup(object: Object<'_>, call: &Call<'_>, results: &mut Emitter<'_>) -> Result<(), ProcedureError> {
    let name = wire::name(&mut { call.args })?;
    let found = object.sibling(child(object.directory()?, name)?);
    results.opaque(&found.handle());
    reply::post_op_attr(Some(&found.attributes()), results);
    reply::post_op_attr(Some(&object.attributes()), results);
    Ok(())
}

/// Returns the entry of exactly this name. A client walks a path name by name, so a name with a `/`
/// names nothing.
fn child(directory: Object<'_>, name: &[u8]) -> Result<NodeId, NfsStatus> {
    match name {
        b"." => Ok(directory.id),
        // The root is its own parent.
        b".." => Ok(directory.node().parent),
        _ if name.len() > MAX_NAME => Err(NfsStatus::NameTooLong),
        _ => directory.image.index.child(directory.id, name).ok_or(NfsStatus::NoEnt),
    }
}

fn access(object: Object<'_>, call: &Call<'_>, results: &mut Emitter<'_>) -> Result<(), ProcedureError> {
    let wanted = { call.args }.u32_be()?;
    reply::post_op_attr(Some(&object.attributes()), results);
    results.u32(wanted & object.access(&call.credentials));
    Ok(())
}

fn readlink(object: Object<'_>, results: &mut Emitter<'_>) -> Result<(), ProcedureError> {
    // RFC 1813 §3.3.5: NFS3ERR_INVAL for anything but a symlink.
    let NodeKind::Symlink { target } = &object.node().kind else { return Err(NfsStatus::Inval.into()) };
    reply::post_op_attr(Some(&object.attributes()), results);
    results.opaque(target);
    Ok(())
}

fn read<'a>(
    object: Object<'a>,
    call: &Call<'_>,
    results: &mut Emitter<'_>,
) -> Result<Option<Payload<'a>>, ProcedureError> {
    let Read { offset, count } = Read::parse(&mut { call.args })?;
    let Some(content) = Content::of_file(object.image, object.id) else {
        // RFC 1813 §3.3.6: NFS3ERR_INVAL for anything but a file.
        return Err(if object.is_directory() { NfsStatus::IsDir } else { NfsStatus::Inval }.into());
    };
    // Modes are checked by ACCESS, which clients call before they read. Reads are not refused:
    // other protocols serve the whole image anyway.
    let attributes = object.attributes();
    // RFC 1813 §3.3.6: a READ at or behind the end succeeds, with no bytes.
    let left = attributes.size.saturating_sub(offset);
    // At most READ_MAX, so the cast keeps the value.
    let len = left.min(count.min(READ_MAX).into()) as u32;
    reply::post_op_attr(Some(&attributes), results);
    ReadHead { count: len, eof: u64::from(len) == left }.emit(results);
    Ok(Some(Payload { content, offset, len }))
}

fn fsstat(object: Object<'_>, results: &mut Emitter<'_>) {
    reply::post_op_attr(Some(&object.attributes()), results);
    let image = object.image;
    FsStat { bytes: image.source.len(), files: image.index.len() as u64 }.emit(results);
}

fn fsinfo(object: Object<'_>, results: &mut Emitter<'_>) {
    reply::post_op_attr(Some(&object.attributes()), results);
    let info = FsInfo {
        read_max: READ_MAX,
        // Writes are refused, but those of this size arrive. libnfs does not mount with
        // a wtmax of 4096 or less.
        write_max: rpc::PAYLOAD_MAX as u32,
        directory: DIRECTORY_MAX,
        file_size_max: i64::MAX as u64,
    };
    info.emit(results);
}

fn pathconf(object: Object<'_>, results: &mut Emitter<'_>) {
    reply::post_op_attr(Some(&object.attributes()), results);
    PathConf { link_max: LINK_MAX, name_max: MAX_NAME as u32 }.emit(results);
}
