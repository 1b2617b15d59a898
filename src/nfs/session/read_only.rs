//! The procedures that would change something: each is refused in its own layout.

use super::object::Object;
use crate::images::ImageSet;
use crate::nfs::rpc::{Call, CallError};
use crate::nfs::wire::{self, NfsStatus, procedure, reply};
use crate::nfs::xdr::Emitter;

/// True for a procedure that changes something, or makes sure that a change lasts.
pub(super) const fn modifies(number: u32) -> bool {
    matches!(number, procedure::SETATTR | procedure::WRITE..=procedure::LINK | procedure::COMMIT)
}

/// The reply to a procedure that [`modifies`]: NFS3ERR_ROFS, and what the object or objects are like.
///
/// # Errors
/// [`CallError`]
pub(super) fn refuse(images: &ImageSet, call: &Call<'_>, results: &mut Emitter<'_>) -> Result<(), CallError> {
    let mut args = call.args;
    let object = |handle| Object::find(images, handle).map(|object| object.attributes());
    let first = object(wire::handle(&mut args)?);
    let second = match call.procedure {
        // RENAME3args: from (directory and name), to (directory and name).
        procedure::RENAME => {
            wire::name(&mut args)?;
            Some(object(wire::handle(&mut args)?))
        }
        // LINK3args: file, link (directory and name).
        procedure::LINK => Some(object(wire::handle(&mut args)?)),
        _ => None,
    };
    let failure = [Some(first), second].into_iter().flatten().find_map(Result::err);
    results.u32(failure.unwrap_or(NfsStatus::Rofs) as u32);
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
