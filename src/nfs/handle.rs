//! File handles, and every other number by which a client knows an object: all made of the image, so that they are the
//! same after a restart, for a copy of the image, and on another server.

use crate::codec::{Reader, Truncated};
use crate::image::{Identity, NodeId};
use crate::nfs::wire::COOKIE_VERIFIER;

/// The layout of a handle: which image, which node, and a checksum that tells a damaged handle from one of an image
/// that is not here.
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

/// The bytes are no handle of this server, nor of another of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHandleError;

impl From<Truncated> for BadHandleError {
    fn from(_: Truncated) -> Self {
        BadHandleError
    }
}

impl FileHandle {
    /// Bytes of a handle.
    pub(crate) const LEN: usize = 16;

    /// The handle in a call.
    ///
    /// # Errors
    /// [`BadHandleError`]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadHandleError> {
        let mut reader = Reader::new(bytes);
        let handle = Self { identity: Identity(reader.u64_be()?), node: NodeId(reader.u32_be()?) };
        if handle.bytes() == bytes { Ok(handle) } else { Err(BadHandleError) }
    }

    /// The handle in a reply.
    pub fn bytes(self) -> [u8; Self::LEN] {
        let content = u128::from(self.identity.0) << 64 | u128::from(self.node.0) << 32;
        (content | u128::from(self.check())).to_be_bytes()
    }

    /// Differs from a plain CRC, so that it also tells this layout from any other.
    fn check(self) -> u32 {
        const LAYOUT: u32 = u32::from_be_bytes(*b"nfs1");
        let mut hasher = crc32fast::Hasher::new_with_initial(LAYOUT);
        hasher.update(&self.identity.0.to_be_bytes());
        hasher.update(&self.node.0.to_be_bytes());
        hasher.finalize()
    }
}

/// Number of an image's file system.
pub(crate) const fn fsid(identity: Identity) -> u64 {
    identity.0
}

/// Number of an object in its file system; never 0, which means "none" to some programs.
pub(crate) const fn fileid(node: NodeId) -> u64 {
    node.0 as u64 + 1
}

/// Tells a client that the cookies it has are of this image.
pub(crate) const fn cookie_verifier(identity: Identity) -> [u8; COOKIE_VERIFIER] {
    identity.0.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: FileHandle = FileHandle { identity: Identity(0x0123_4567_89ab_cdef), node: NodeId(0xfeed) };

    /// Whoever changes the layout takes the root away from every machine that is up when the server is upgraded.
    #[test]
    fn the_layout_is_for_ever() {
        let hex: String = HANDLE.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0123456789abcdef0000feed45253530");
        assert_eq!((fsid(HANDLE.identity), fileid(HANDLE.node)), (0x0123_4567_89ab_cdef, 0xfeee));
        assert_eq!(cookie_verifier(HANDLE.identity), *b"\x01\x23\x45\x67\x89\xab\xcd\xef");
    }

    #[test]
    fn a_handle_comes_back_as_it_went() {
        assert_eq!(FileHandle::parse(&HANDLE.bytes()), Ok(HANDLE));
    }

    #[test]
    fn a_damaged_handle_is_no_handle() {
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
