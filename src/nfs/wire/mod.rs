//! Byte layouts of NFS version 3 (RFC 1813 §2 and §3): numbers, the arguments of calls, and in
//! [`reply`] the parts of replies. Nothing here panics on input or allocates.

pub(crate) mod reply;

use super::rpc;
use super::xdr::{self, XdrParseError};
use crate::codec::Reader;

/// Number and version of the program (RFC 1813 §2.2).
pub(crate) const PROGRAM: u32 = 100_003;
pub(crate) const VERSION: u32 = 3;

/// Longest file handle of any server, in bytes (NFS3_FHSIZE, RFC 1813 §2.4).
pub(crate) const HANDLE_MAX: usize = 64;

/// Bytes of a cookie verifier (NFS3_COOKIEVERFSIZE, RFC 1813 §2.4).
pub(crate) const COOKIE_VERIFIER: usize = 8;

/// Procedures (RFC 1813 §3.3).
pub mod procedure {
    pub(crate) const NULL: u32 = 0;
    pub const GETATTR: u32 = 1;
    pub(crate) const SETATTR: u32 = 2;
    pub const LOOKUP: u32 = 3;
    pub(crate) const ACCESS: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub const READ: u32 = 6;
    pub(crate) const WRITE: u32 = 7;
    pub(crate) const RENAME: u32 = 14;
    pub(crate) const LINK: u32 = 15;
    pub(crate) const READDIR: u32 = 16;
    pub const READDIRPLUS: u32 = 17;
    pub(crate) const FSSTAT: u32 = 18;
    pub(crate) const FSINFO: u32 = 19;
    pub(crate) const PATHCONF: u32 = 20;
    pub(crate) const COMMIT: u32 = 21;
}

/// Status of a procedure (`nfsstat3`, RFC 1813 §2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NfsStatus {
    Ok = 0,
    NoEnt = 2,
    NotDir = 20,
    IsDir = 21,
    Inval = 22,
    Rofs = 30,
    NameTooLong = 63,
    Stale = 70,
    BadHandle = 10_001,
    BadCookie = 10_003,
    TooSmall = 10_005,
    Jukebox = 10_008,
}

/// Rights that ACCESS grants (RFC 1813 §3.3.4). MODIFY, EXTEND and DELETE are never granted.
pub(crate) mod access {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const LOOKUP: u32 = 0x02;
    pub(crate) const EXECUTE: u32 = 0x20;
}

/// Parses `nfs_fh3`, the handle of any server.
///
/// # Errors
/// [`XdrParseError`]
pub(crate) fn handle<'a>(args: &mut Reader<'a>) -> Result<&'a [u8], XdrParseError> {
    xdr::opaque(args, HANDLE_MAX)
}

/// Parses `filename3`.
///
/// # Errors
/// [`XdrParseError`]
pub(crate) fn name<'a>(args: &mut Reader<'a>) -> Result<&'a [u8], XdrParseError> {
    // RFC 1813 sets no limit; the record has one. LOOKUP answers NFS3ERR_NAMETOOLONG by itself.
    xdr::opaque(args, rpc::RECORD_MAX)
}

/// Arguments of READ after the handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    pub offset: u64,
    pub count: u32,
}

impl Read {
    /// Parses the rest of `READ3args` (RFC 1813 §3.3.6).
    ///
    /// # Errors
    /// [`XdrParseError`]
    pub(crate) fn parse(args: &mut Reader<'_>) -> Result<Self, XdrParseError> {
        Ok(Self { offset: args.u64_be()?, count: args.u32_be()? })
    }
}

/// Arguments of READDIR and READDIRPLUS after the handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadDir {
    /// Cookie of the entry to continue after; 0 to begin.
    pub cookie: u64,
    /// Verifier that came with the cookie.
    pub verifier: [u8; COOKIE_VERIFIER],
    /// Most bytes of names, file ids and cookies.
    pub dircount: u32,
    /// Most bytes of the results after the status.
    pub maxcount: u32,
}

impl ReadDir {
    /// Parses the rest of `READDIR3args` (RFC 1813 §3.3.16).
    ///
    /// # Errors
    /// [`XdrParseError`]
    pub(crate) fn parse(args: &mut Reader<'_>) -> Result<Self, XdrParseError> {
        let (cookie, verifier, maxcount) = (args.u64_be()?, args.array()?, args.u32_be()?);
        // READDIR has one count, for all of the results.
        Ok(Self { cookie, verifier, dircount: u32::MAX, maxcount })
    }

    /// Parses the rest of `READDIRPLUS3args` (RFC 1813 §3.3.17).
    ///
    /// # Errors
    /// [`XdrParseError`]
    pub(crate) fn parse_plus(args: &mut Reader<'_>) -> Result<Self, XdrParseError> {
        let (cookie, verifier) = (args.u64_be()?, args.array()?);
        Ok(Self { cookie, verifier, dircount: args.u32_be()?, maxcount: args.u32_be()? })
    }
}
