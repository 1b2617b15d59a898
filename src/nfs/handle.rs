//! File handles, and every other number by which a client knows an object.
//!
//! All of them derive from the image, so they are the same after a restart, for a copy of the
//! image, and on another server.

use crate::codec::{Reader, Truncated};
use crate::image::{Identity, NodeId};
use crate::nfs::wire::COOKIE_VERIFIER;

/// A file handle: an image, a node of it, and a checksum.
///
/// The checksum tells a damaged handle (NFS3ERR_BADHANDLE) from one of an image that is not served
/// (NFS3ERR_STALE).
///
/// ```text
/// 0         8        12       16
/// | identity | node   | check  |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHandle {
    pub identity: Identity,
    pub node: NodeId,
}

/// Error of bytes that no server of this kind ever sent as a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHandleError;

impl From<Truncated> for BadHandleError {
    fn from(_: Truncated) -> Self {
        BadHandleError
    }
}

impl FileHandle {
    /// Length of a handle in bytes.
    // RFC 1813 §2.4 allows 64 (NFS3_FHSIZE), and so does klibc's nfsmount.
    pub(crate) const LEN: usize = 16;

    /// Parses the handle of a call.
    ///
    /// # Errors
    /// [`BadHandleError`]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadHandleError> {
        let mut reader = Reader::new(bytes);
        let handle = Self { identity: Identity(reader.u64_be()?), node: NodeId(reader.u32_be()?) };
        // Comparing with the bytes that we would send checks the length and the checksum at once.
        if handle.bytes() == bytes { Ok(handle) } else { Err(BadHandleError) }
    }

    /// Returns the bytes of the handle for a reply.
    // Machines keep these bytes for as long as their root is mounted. Another layout would take the
    // root away from each of them when the server is upgraded.
    pub fn bytes(self) -> [u8; Self::LEN] {
        let content = u128::from(self.identity.0) << 64 | u128::from(self.node.0) << 32;
        (content | u128::from(self.check())).to_be_bytes()
    }

    /// Returns the checksum of the other fields.
    fn check(self) -> u32 {
        // A start value of its own separates this layout from any other with a CRC-32.
        const LAYOUT: u32 = u32::from_be_bytes(*b"nfs1");
        let mut hasher = crc32fast::Hasher::new_with_initial(LAYOUT);
        hasher.update(&self.identity.0.to_be_bytes());
        hasher.update(&self.node.0.to_be_bytes());
        hasher.finalize()
    }
}

/// Returns the number of an image's file system (`fsid` of `fattr3`).
pub(crate) const fn fsid(identity: Identity) -> u64 {
    identity.0
}

/// Returns the number of an object within its file system.
pub(crate) const fn fileid(node: NodeId) -> u64 {
    // RFC 1813 §3.3.16: UNIX clients give the file id 0 a special meaning, so it is never sent.
    node.0 as u64 + 1
}

/// Returns the verifier of the cookies of an image.
pub(crate) const fn cookie_verifier(identity: Identity) -> [u8; COOKIE_VERIFIER] {
    // RFC 1813 §3.3.16 allows zero where cookies are always valid, as here. The identity also
    // catches a client that mixes up the cookies of two images.
    identity.0.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: FileHandle = FileHandle { identity: Identity(0x0123_4567_89ab_cdef), node: NodeId(0xfeed) };

    #[test]
    fn handle_layout_never_changes() {
        let hex: String = HANDLE.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0123456789abcdef0000feed45253530");
        assert_eq!((fsid(HANDLE.identity), fileid(HANDLE.node)), (0x0123_4567_89ab_cdef, 0xfeee));
        assert_eq!(cookie_verifier(HANDLE.identity), *b"\x01\x23\x45\x67\x89\xab\xcd\xef");
    }

    #[test]
    fn handle_survives_a_round_trip() {
        assert_eq!(FileHandle::parse(&HANDLE.bytes()), Ok(HANDLE));
    }

    #[test]
    fn damaged_handle_is_refused() {
        let good = HANDLE.bytes();
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHandle::parse(&bad), Err(BadHandleError), "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(FileHandle::parse(&good[..len]), Err(BadHandleError), "{len} bytes");
        }
        assert_eq!(FileHandle::parse(&[&good[..], b"\0"].concat()), Err(BadHandleError));
        assert_eq!(FileHandle::parse(&[0; 16]), Err(BadHandleError));
    }
}
