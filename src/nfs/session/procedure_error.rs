//! Failures of a procedure.

use crate::codec::Truncated;
use crate::nfs::wire::NfsStatus;
use crate::nfs::xdr::XdrParseError;

/// A procedure that did not succeed: the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcedureError {
    /// The results say why.
    Status(NfsStatus),
    /// The arguments cannot be parsed.
    Malformed(XdrParseError),
}

impl From<NfsStatus> for ProcedureError {
    fn from(status: NfsStatus) -> Self {
        ProcedureError::Status(status)
    }
}

impl From<XdrParseError> for ProcedureError {
    fn from(malformed: XdrParseError) -> Self {
        ProcedureError::Malformed(malformed)
    }
}

impl From<Truncated> for ProcedureError {
    fn from(truncated: Truncated) -> Self {
        ProcedureError::Malformed(truncated.into())
    }
}
