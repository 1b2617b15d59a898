//! Calls to a running rpcbind, in portmapper version 2, that register the ports of NFS and MOUNT.

use super::{GETPORT, PORTMAP, PORTMAPPER, SET, Transport, UNSET};
use crate::codec::{Reader, Truncated};
use crate::nfs::rpc;
use crate::nfs::xdr::{self, Emitter, XdrParseError};

/// A call about a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegistrationCall {
    /// Registers it at a port; the result is 1, or 0 if it is registered at another one.
    Set(u16),
    /// Removes it; the result is 1, or 0 if someone else registered it.
    Unset,
    /// Returns its port, or 0.
    Port,
}

/// Returns the record of a call about version 3 of `program` over TCP.
pub(crate) fn call(xid: u32, program: u32, request: RegistrationCall) -> Vec<u8> {
    let (procedure, port) = match request {
        RegistrationCall::Set(port) => (SET, port),
        // RFC 1833 §3.2: UNSET and GETPORT ignore the port.
        RegistrationCall::Unset => (UNSET, 0),
        RegistrationCall::Port => (GETPORT, 0),
    };
    let mut out = Vec::new();
    let start = rpc::begin_record(&mut out);
    let mut call = Emitter::new(&mut out);
    let rpc_version = 2;
    // A call without credentials and verifier (RFC 5531 §9): over a local socket rpcbind learns
    // from the kernel who the caller is.
    for value in [xid, 0, rpc_version, PORTMAP, PORTMAPPER, procedure, rpc::AUTH_NONE, 0, rpc::AUTH_NONE, 0] {
        call.u32(value);
    }
    // struct mapping (RFC 1833 §3.1)
    for value in [program, super::SERVED_VERSION, Transport::Tcp as u32, port.into()] {
        call.u32(value);
    }
    rpc::end_record(&mut out, start, 0);
    out
}

/// Reason why a call has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistrationCallError {
    #[error("the reply is malformed")]
    Malformed,
    #[error("the call is denied")]
    Denied,
}

impl From<Truncated> for RegistrationCallError {
    fn from(_: Truncated) -> Self {
        Self::Malformed
    }
}

impl From<XdrParseError> for RegistrationCallError {
    fn from(_: XdrParseError) -> Self {
        Self::Malformed
    }
}

/// Parses the result in the reply to the call `xid`.
///
/// # Errors
/// [`RegistrationCallError`]
pub(crate) fn result(reply: &[u8], xid: u32) -> Result<u32, RegistrationCallError> {
    let mut reader = Reader::new(reply);
    // RFC 5531 §9: xid, REPLY (1), then MSG_ACCEPTED (0) or MSG_DENIED.
    if (reader.u32_be()?, reader.u32_be()?) != (xid, 1) {
        return Err(RegistrationCallError::Malformed);
    }
    if reader.u32_be()? != 0 {
        return Err(RegistrationCallError::Denied);
    }
    // The verifier, whatever it holds.
    let _flavor = reader.u32_be()?;
    xdr::opaque(&mut reader, reply.len())?;
    // accept_stat, of which 0 is SUCCESS.
    match reader.u32_be()? {
        0 => Ok(reader.u32_be()?),
        _ => Err(RegistrationCallError::Denied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfs::portmap::{NFS, Portmapper};

    const LOCAL: std::net::SocketAddr =
        std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 111);

    /// The reply of our own portmapper, which grants no registration.
    fn answer(request: RegistrationCall) -> Vec<u8> {
        let mut out = Vec::new();
        Portmapper::new(2049).handle_stream(&call(7, NFS, request), LOCAL, &mut out).unwrap();
        out.split_off(4)
    }

    #[test]
    fn result_belongs_to_its_call() {
        assert_eq!(result(&answer(RegistrationCall::Port), 7), Ok(2049));
        assert_eq!(result(&answer(RegistrationCall::Set(1)), 7), Ok(0));
        assert_eq!(result(&answer(RegistrationCall::Unset), 7), Ok(0));
        assert_eq!(result(&answer(RegistrationCall::Port), 8), Err(RegistrationCallError::Malformed));
    }

    #[test]
    fn denied_or_cut_reply_has_no_result() {
        let reply = answer(RegistrationCall::Port);
        for len in 0..reply.len() {
            assert_eq!(result(&reply[..len], 7), Err(RegistrationCallError::Malformed), "{len}");
        }
        let weak = [0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5];
        assert_eq!(result(&weak, 7), Err(RegistrationCallError::Denied));
    }

    #[test]
    fn registration_is_in_rpcbind_form() {
        let record = call(1, NFS, RegistrationCall::Set(2049));
        let words: Vec<_> =
            record.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        let header = [0x8000_0038, 1, 0, 2, 100_000, 2, 1, 0, 0, 0, 0];
        assert_eq!(words, [&header[..], &[100_003, 3, 6, 2049]].concat());
    }
}
