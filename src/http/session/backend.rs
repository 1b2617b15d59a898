//! What answers need beside the files of images: the shell knows the machines.

use std::fmt::Debug;

use crate::boot::{Mac, Requester};
use crate::machines::UpReport;
use crate::provision::{FileCall, OperatorFileError};

/// The part of the server that answers call.
pub(crate) trait Backend: Debug + Send + Sync {
    /// Records that the system of a machine is up. `machine` is the one in the path, if it has one.
    ///
    /// # Errors
    /// [`NotItsAddressError`] if the machine has another address than the requester.
    fn machine_up(
        &self,
        machine: Option<Mac>,
        requester: Requester,
        report: UpReport,
    ) -> Result<(), NotItsAddressError>;

    /// Returns a file of the operator's.
    ///
    /// # Errors
    /// [`OperatorFileError`] if this client does not get it.
    fn operator_file(&self, call: &FileCall<'_>) -> Result<Vec<u8>, OperatorFileError>;
}

/// Error of a request that is for one machine and comes from elsewhere: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is for the machine itself, and this address is not known as that of it")]
pub(crate) struct NotItsAddressError;

/// A backend that knows no machine.
#[derive(Debug)]
pub(super) struct NoBackend;

impl Backend for NoBackend {
    fn machine_up(&self, _: Option<Mac>, _: Requester, _: UpReport) -> Result<(), NotItsAddressError> {
        Err(NotItsAddressError)
    }

    fn operator_file(&self, _: &FileCall<'_>) -> Result<Vec<u8>, OperatorFileError> {
        Err(OperatorFileError::NotFound)
    }
}
