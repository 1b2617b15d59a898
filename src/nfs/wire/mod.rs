//! Byte layouts of NFS version 3 (RFC 1813, section 3): numbers, arguments of calls, and in [`reply`] what replies are
//! made of. Nothing here panics on input or allocates.

pub(crate) mod reply;

use super::rpc;
use super::xdr::{self, XdrParseError};
use crate::codec::Reader;

pub(crate) const PROGRAM: u32 = 100_003;
pub(crate) const VERSION: u32 = 3;

/// Longest file handle of any server, in bytes (NFS3_FHSIZE).
pub(crate) const HANDLE_MAX: usize = 64;

/// Bytes of a cookie verifier (NFS3_COOKIEVERFSIZE).
pub(crate) const COOKIE_VERIFIER: usize = 8;

/// Procedures.
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

/// Outcome of a procedure (`nfsstat3`).
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
}

/// What somebody may do with an object (ACCESS). Nobody may MODIFY, EXTEND or DELETE here.
pub(crate) mod access {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const LOOKUP: u32 = 0x02;
    pub(crate) const EXECUTE: u32 = 0x20;
}

/// `nfs_fh3`: a handle that may be any server's.
///
/// # Errors
/// [`XdrParseError`]
pub(crate) fn handle<'a>(args: &mut Reader<'a>) -> Result<&'a [u8], XdrParseError> {
    xdr::opaque(args, HANDLE_MAX)
}

/// `filename3`. The protocol sets no limit; a record has one.
///
/// # Errors
/// [`XdrParseError`]
pub(crate) fn name<'a>(args: &mut Reader<'a>) -> Result<&'a [u8], XdrParseError> {
    xdr::opaque(args, rpc::RECORD_MAX)
}

/// What READ asks for, behind the handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    pub offset: u64,
    pub count: u32,
}

impl Read {
    /// # Errors
    /// [`XdrParseError`]
    pub(crate) fn parse(args: &mut Reader<'_>) -> Result<Self, XdrParseError> {
        Ok(Self { offset: args.u64_be()?, count: args.u32_be()? })
    }
}

/// What READDIR and READDIRPLUS ask for, behind the handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadDir {
    /// The entry after which to go on; 0 to begin.
    pub cookie: u64,
    /// What came with that cookie.
    pub verifier: [u8; COOKIE_VERIFIER],
    /// Most bytes of names, file ids and cookies; without a limit in READDIR.
    pub dircount: u32,
    /// Most bytes of the results behind the status.
    pub maxcount: u32,
}

impl ReadDir {
    /// # Errors
    /// [`XdrParseError`]
    pub(crate) fn parse(args: &mut Reader<'_>) -> Result<Self, XdrParseError> {
        let (cookie, verifier, maxcount) = (args.u64_be()?, args.array()?, args.u32_be()?);
        Ok(Self { cookie, verifier, dircount: u32::MAX, maxcount })
    }

    /// # Errors
    /// [`XdrParseError`]
    pub(crate) fn parse_plus(args: &mut Reader<'_>) -> Result<Self, XdrParseError> {
        let (cookie, verifier) = (args.u64_be()?, args.array()?);
        Ok(Self { cookie, verifier, dircount: args.u32_be()?, maxcount: args.u32_be()? })
    }
}
