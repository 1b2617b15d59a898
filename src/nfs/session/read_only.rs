//! The procedures that would change something. Each is refused in the layout of its own results.

use super::object::Object;
use crate::images::ImageSet;
use crate::nfs::rpc::{Call, CallError};
use crate::nfs::wire::reply::FileAttributes;
use crate::nfs::wire::{self, NfsStatus, procedure, reply};
use crate::nfs::xdr::Emitter;

/// Returns `true` for a procedure that changes something, or makes a change durable.
pub(super) const fn modifies(number: u32) -> bool {
    matches!(number, procedure::SETATTR | procedure::WRITE..=procedure::LINK | procedure::COMMIT)
}

/// Emits the results of a procedure that [`modifies`]: NFS3ERR_ROFS and the attributes of its
/// objects.
///
/// # Errors
/// [`CallError`]
pub(super) fn refuse(images: &ImageSet, call: &Call<'_>, results: &mut Emitter<'_>) -> Result<(), CallError> {
    let mut args = call.args;
    let first = attributes(images, wire::handle(&mut args)?);
    let second = match call.procedure {
        // RENAME3args (RFC 1813 §3.3.14): from (directory and name), to (directory and name).
        procedure::RENAME => {
            wire::name(&mut args)?;
            Some(attributes(images, wire::handle(&mut args)?))
        }
        // LINK3args (RFC 1813 §3.3.15): file, link (directory and name).
        procedure::LINK => Some(attributes(images, wire::handle(&mut args)?)),
        _ => None,
    };
    let failure = [Some(first), second].into_iter().flatten().find_map(Result::err);
    results.u32(failure.unwrap_or(NfsStatus::Rofs) as u32);
    // LINK3res has post_op_attr of the file; all others begin with wcc_data.
    if call.procedure == procedure::LINK {
        reply::post_op_attr(first.as_ref().ok(), results);
    } else {
        reply::wcc_data(first.as_ref().ok(), results);
    }
    if let Some(second) = second {
        reply::wcc_data(second.as_ref().ok(), results);
    }
    Ok(())
}

/// Returns the attributes of the object of a handle.
fn attributes(images: &ImageSet, handle: &[u8]) -> Result<FileAttributes, NfsStatus> {
    Object::find(images, handle).map(|object| object.attributes())
}
