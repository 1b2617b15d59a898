//! ONC RPC version 2 (RFC 5531): records on a stream, calls and replies.
//!
//! A program is a function from a [`Call`] to its results. [`RpcMessage::answer`] does the rest,
//! over any transport:
//!
//! ```
//! use isowire::nfs::rpc::{RpcMessage, CallError};
//!
//! let ping = [&b"xid!"[..], &[0; 7], &[2], &[0; 3], &[99], &[0; 3], &[1], &[0; 4 + 16]].concat();
//! let mut reply = Vec::new();
//! let message = RpcMessage::parse(&ping).expect("a call");
//! message.answer(&mut reply, |call, _results| match (call.program, call.version, call.procedure) {
//!     (99, 1, 0) => Ok(()),
//!     (99, 1, _) => Err(CallError::ProcUnavail),
//!     (99, _, _) => Err(CallError::ProgMismatch { low: 1, high: 1 }),
//!     _ => Err(CallError::ProgUnavail),
//! });
//! assert!(reply.starts_with(b"xid!\0\0\0\x01"));
//! ```
//!
//! Over UDP a datagram is a message. Over TCP messages come in records: [`next_record`] finds them,
//! [`begin_record`] and [`end_record`] mark the replies.

use std::borrow::Cow;

use super::xdr::{self, Emitter, XdrParseError};
use crate::codec::{Reader, Truncated};

/// Longest record that is accepted, in bytes: a WRITE of [`PAYLOAD_MAX`] bytes with the longest
/// credentials and handle. A client that tries to write gets an error, not a closed connection.
pub(crate) const RECORD_MAX: usize = PAYLOAD_MAX + 1024;

/// Longest payload of a call, in bytes.
// FSINFO returns it as wtmax, and libnfs does not mount where that is below 8 KiB.
pub(crate) const PAYLOAD_MAX: usize = 8 << 10;

/// Most fragments of one record. Clients send one.
pub(crate) const FRAGMENTS_MAX: usize = 16;

/// Longest body of credentials and of a verifier (RFC 5531 §8.2).
const AUTH_BODY_MAX: usize = 400;

/// Limits of AUTH_SYS (RFC 5531, appendix A).
const MACHINE_NAME_MAX: usize = 255;
const GIDS_MAX: usize = 16;

/// Flavors of authentication (RFC 5531 §8.2).
pub(crate) const AUTH_NONE: u32 = 0;
pub const AUTH_SYS: u32 = 1;

/// Version of the protocol, `msg_type`, `reply_stat` and `reject_stat` (RFC 5531 §9).
const RPC_VERSION: u32 = 2;
const CALL: u32 = 0;
const REPLY: u32 = 1;
const MSG_ACCEPTED: u32 = 0;
const MSG_DENIED: u32 = 1;
const RPC_MISMATCH: u32 = 0;
const AUTH_ERROR: u32 = 1;

/// `accept_stat` (RFC 5531 §9).
const SUCCESS: u32 = 0;
const PROG_UNAVAIL: u32 = 1;
const PROG_MISMATCH: u32 = 2;
const PROC_UNAVAIL: u32 = 3;
const GARBAGE_ARGS: u32 = 4;

/// Bit of a record mark for the last fragment (RFC 5531 §11).
const LAST_FRAGMENT: u32 = 1 << 31;

/// Bytes of the mark before each fragment.
const MARK: usize = 4;

/// A complete record at the front of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcRecord<'a> {
    /// The message. Borrowed from the input, unless it came in several fragments.
    pub message: Cow<'a, [u8]>,
    /// Bytes of input that it takes, marks included.
    pub len: usize,
}

/// Error of a stream that is malformed or asks for too much memory; the rest cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record of at least {0} bytes exceeds the limit of {RECORD_MAX}")]
    TooLong(usize),
    #[error("a record has more than {FRAGMENTS_MAX} fragments")]
    TooManyFragments,
    #[error(transparent)]
    NotACall(#[from] NotACallError),
}

/// Returns the first record of `input`, or `None` while it is incomplete. Allocates only for a
/// complete record of several fragments.
///
/// # Errors
/// [`RecordError`] as soon as the marks exceed the limits, even if the bytes are yet to come.
pub fn next_record(input: &[u8]) -> Result<Option<RpcRecord<'_>>, RecordError> {
    let mut size = 0;
    let mut reader = Reader::new(input);
    // Empty fragments are legal, so the size alone does not bound their number.
    for count in 1..=FRAGMENTS_MAX {
        let Ok(mark) = reader.u32_be() else { return Ok(None) };
        let fragment = (mark & !LAST_FRAGMENT) as usize;
        size += fragment;
        // Checked before the bytes arrive: four bytes can promise 2 GiB, which would be buffered.
        if size > RECORD_MAX {
            return Err(RecordError::TooLong(size));
        }
        if reader.skip(fragment).is_err() {
            return Ok(None);
        }
        if mark & LAST_FRAGMENT != 0 {
            let len = input.len() - reader.remaining();
            return Ok(Some(RpcRecord { message: join(Fragments(Reader::new(input)), count), len }));
        }
    }
    Err(RecordError::TooManyFragments)
}

/// Iterator over the fragments at the front of an input, without their marks.
struct Fragments<'a>(Reader<'a>);

impl<'a> Iterator for Fragments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let mark = self.0.u32_be().ok()?;
        self.0.take((mark & !LAST_FRAGMENT) as usize).ok()
    }
}

/// Joins the first `count` fragments to a message; a single one is not copied.
fn join(mut fragments: Fragments<'_>, count: usize) -> Cow<'_, [u8]> {
    if count == 1 {
        return Cow::Borrowed(fragments.next().unwrap_or_default());
    }
    Cow::Owned(fragments.take(count).flatten().copied().collect())
}

/// Reserves a record mark in `out` and returns its position, for [`end_record`].
pub fn begin_record(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    // The mark is part of the reply's buffer, so that both leave in one segment: klibc's nfsmount
    // takes the bytes of one read() for the whole reply.
    out.extend_from_slice(&[0; MARK]);
    start
}

/// Marks the bytes appended since [`begin_record`] as a record that continues with `payload` bytes
/// from elsewhere.
pub fn end_record(out: &mut [u8], start: usize, payload: u32) {
    let body = out.len().saturating_sub(start + MARK) as u32;
    if let Some(mark) = out.get_mut(start..).and_then(|record| record.first_chunk_mut::<MARK>()) {
        // One fragment only: klibc's nfsmount refuses a reply whose first one is not the last.
        *mark = (LAST_FRAGMENT | (body + payload)).to_be_bytes();
    }
}

/// Error of a message that is not a call and gets no reply. The server closes a stream and ignores
/// a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message is not an RPC call")]
pub struct NotACallError;

impl From<Truncated> for NotACallError {
    fn from(_: Truncated) -> Self {
        NotACallError
    }
}

/// A call whose fixed part is parsed.
#[derive(Debug, Clone, Copy)]
pub struct RpcMessage<'a> {
    /// Number by which the client finds the reply.
    pub xid: u32,
    rpc_version: u32,
    program: u32,
    version: u32,
    procedure: u32,
    rest: Reader<'a>,
}

/// A call of a procedure (`call_body`, RFC 5531 §9).
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub xid: u32,
    pub program: u32,
    pub version: u32,
    pub procedure: u32,
    pub credentials: Credentials<'a>,
    /// The arguments, not parsed yet.
    pub args: Reader<'a>,
}

/// Identity that the client claims. Nothing verifies it.
#[derive(Debug, Clone, Copy)]
pub enum Credentials<'a> {
    None,
    Sys(AuthSys<'a>),
}

/// Unix credentials (AUTH_SYS; RFC 5531, appendix A).
#[derive(Debug, Clone, Copy)]
pub struct AuthSys<'a> {
    pub uid: u32,
    pub gid: u32,
    /// At most 16 numbers.
    gids: Reader<'a>,
}

impl AuthSys<'_> {
    /// Returns `true` if `gid` is the user's group or a supplementary one.
    pub(crate) fn is_in_group(&self, gid: u32) -> bool {
        let mut gids = self.gids;
        self.gid == gid || std::iter::from_fn(|| gids.u32_be().ok()).any(|other| other == gid)
    }
}

/// Reason why a program did not run a procedure (`accept_stat`, RFC 5531 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallError {
    /// The program is not served.
    ProgUnavail,
    /// The program is served in other versions.
    ProgMismatch {
        low: u32,
        high: u32,
    },
    ProcUnavail,
    GarbageArgs,
}

impl From<XdrParseError> for CallError {
    fn from(_: XdrParseError) -> Self {
        CallError::GarbageArgs
    }
}

impl From<Truncated> for CallError {
    fn from(_: Truncated) -> Self {
        CallError::GarbageArgs
    }
}

/// Reason why credentials are rejected (`auth_stat`, RFC 5531 §9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthStat {
    BadCred = 1,
    BadVerf = 3,
    TooWeak = 5,
}

/// Reason why a call reached no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RejectError {
    /// The call is of another version of RPC.
    RpcMismatch,
    Auth(AuthStat),
    /// The credentials or the verifier are truncated.
    Garbage,
}

impl<'a> RpcMessage<'a> {
    /// Parses the message in a record or datagram.
    ///
    /// # Errors
    /// [`NotACallError`]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotACallError> {
        let mut reader = Reader::new(bytes);
        let xid = reader.u32_be()?;
        if reader.u32_be()? != CALL {
            return Err(NotACallError);
        }
        Ok(Self {
            xid,
            rpc_version: reader.u32_be()?,
            program: reader.u32_be()?,
            version: reader.u32_be()?,
            procedure: reader.u32_be()?,
            rest: reader,
        })
    }

    /// Appends the reply to `out`: the results that `program` emits, or an error. Returns the value
    /// of `program`, or `None` if it failed or was not called.
    pub fn answer<T>(
        &self,
        out: &mut Vec<u8>,
        program: impl FnOnce(&Call<'_>, &mut Emitter<'_>) -> Result<T, CallError>,
    ) -> Option<T> {
        let mut reply = Emitter::new(out);
        reply.u32(self.xid);
        reply.u32(REPLY);
        let start = reply.len();
        let call = match self.call() {
            Ok(call) => call,
            Err(rejected) => {
                emit_rejected(&mut reply, rejected);
                return None;
            }
        };
        emit_accepted(&mut reply, SUCCESS);
        match program(&call, &mut reply) {
            Ok(value) => Some(value),
            Err(refused) => {
                // The program may have emitted results before it failed.
                reply.rewind(start);
                emit_refused(&mut reply, refused);
                None
            }
        }
    }

    /// Parses the credentials and the verifier.
    fn call(&self) -> Result<Call<'a>, RejectError> {
        let Self { xid, rpc_version, program, version, procedure, mut rest } = *self;
        // RFC 5531 §9: the version decides what follows, so it comes first.
        if rpc_version != RPC_VERSION {
            return Err(RejectError::RpcMismatch);
        }
        let credentials = credentials(&mut rest)?;
        // RFC 5531 §8.2: the flavor defines the verifier; AUTH_NONE and AUTH_SYS define none.
        opaque_auth(&mut rest, AuthStat::BadVerf)?;
        Ok(Call { xid, program, version, procedure, credentials, args: rest })
    }
}

/// Parses the credentials of a call.
fn credentials<'a>(reader: &mut Reader<'a>) -> Result<Credentials<'a>, RejectError> {
    let (flavor, body) = opaque_auth(reader, AuthStat::BadCred)?;
    match flavor {
        // RFC 5531 §10.1 recommends an empty body; any other is harmless, so it is ignored.
        AUTH_NONE => Ok(Credentials::None),
        AUTH_SYS => auth_sys(body).map(Credentials::Sys),
        // AUTH_SHORT, AUTH_DH and RPCSEC_GSS are not supported.
        _ => Err(RejectError::Auth(AuthStat::TooWeak)),
    }
}

/// Parses `opaque_auth` (RFC 5531 §8.2): a flavor and its body.
fn opaque_auth<'a>(reader: &mut Reader<'a>, if_long: AuthStat) -> Result<(u32, Reader<'a>), RejectError> {
    let flavor = reader.u32_be().map_err(|_| RejectError::Garbage)?;
    match xdr::opaque(reader, AUTH_BODY_MAX) {
        Ok(body) => Ok((flavor, Reader::new(body))),
        Err(XdrParseError::TooLong { .. }) => Err(RejectError::Auth(if_long)),
        Err(_) => Err(RejectError::Garbage),
    }
}

/// Parses the body of AUTH_SYS credentials.
fn auth_sys(mut body: Reader<'_>) -> Result<AuthSys<'_>, RejectError> {
    parse_auth_sys(&mut body).map_err(|malformed| match malformed {
        XdrParseError::TooLong { .. } => RejectError::Auth(AuthStat::BadCred),
        _ => RejectError::Garbage,
    })
}

/// Parses `authsys_parms` (RFC 5531, appendix A): stamp, machine name, uid, gid, gids.
fn parse_auth_sys<'a>(body: &mut Reader<'a>) -> Result<AuthSys<'a>, XdrParseError> {
    // The stamp and the machine name are arbitrary.
    body.u32_be()?;
    xdr::opaque(body, MACHINE_NAME_MAX)?;
    let (uid, gid) = (body.u32_be()?, body.u32_be()?);
    let count = body.u32_be()? as usize;
    // The input is checked before the limit, as in `xdr::opaque`: a count without its numbers is
    // GARBAGE_ARGS, and too many numbers are AUTH_BADCRED.
    let gids = body.sub(count.saturating_mul(4))?;
    if count > GIDS_MAX {
        return Err(XdrParseError::TooLong { len: count, max: GIDS_MAX });
    }
    Ok(AuthSys { uid, gid, gids })
}

/// Emits the header of an accepted reply: an empty verifier and the state.
fn emit_accepted(reply: &mut Emitter<'_>, accept_stat: u32) {
    reply.u32(MSG_ACCEPTED);
    // The verifier must be empty: klibc's nfsmount reads the results at a fixed offset.
    reply.u32(AUTH_NONE);
    reply.opaque(b"");
    reply.u32(accept_stat);
}

fn emit_refused(reply: &mut Emitter<'_>, refused: CallError) {
    match refused {
        CallError::ProgUnavail => emit_accepted(reply, PROG_UNAVAIL),
        CallError::ProgMismatch { low, high } => {
            emit_accepted(reply, PROG_MISMATCH);
            reply.u32(low);
            reply.u32(high);
        }
        CallError::ProcUnavail => emit_accepted(reply, PROC_UNAVAIL),
        CallError::GarbageArgs => emit_accepted(reply, GARBAGE_ARGS),
    }
}

fn emit_rejected(reply: &mut Emitter<'_>, rejected: RejectError) {
    match rejected {
        RejectError::RpcMismatch => {
            reply.u32(MSG_DENIED);
            reply.u32(RPC_MISMATCH);
            // The lowest and the highest version.
            reply.u32(RPC_VERSION);
            reply.u32(RPC_VERSION);
        }
        RejectError::Auth(stat) => {
            reply.u32(MSG_DENIED);
            reply.u32(AUTH_ERROR);
            reply.u32(stat as u32);
        }
        // As for truncated arguments: in both cases the call ends too early.
        RejectError::Garbage => emit_refused(reply, CallError::GarbageArgs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GETPORT of NFS by klibc's nfsmount (`nfs-mount.pcap`).
    const GETPORT: &[u8] =
        b"\x80\0\0\x38\x65\xad\x41\x42\0\0\0\0\0\0\0\x02\0\x01\x86\xa0\0\0\0\x02\0\0\0\x03\
        \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x86\xa3\0\0\0\x03\0\0\0\x06\0\0\0\0";

    /// First FSINFO of the Linux kernel, without the handle (`nfs-mount.pcap`).
    const FSINFO: &[u8] = b"\x41\x4f\xd5\x59\0\0\0\0\0\0\0\x02\0\x01\x86\xa3\0\0\0\x03\0\0\0\x13\0\0\0\x01\
        \0\0\0\x1c\0\0\0\0\0\0\0\x06(none)\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

    fn record(fragments: &[(&[u8], bool)]) -> Vec<u8> {
        let mark = |len: usize, last: bool| (len as u32 | if last { LAST_FRAGMENT } else { 0 }).to_be_bytes();
        fragments.iter().flat_map(|(bytes, last)| [&mark(bytes.len(), *last), *bytes].concat()).collect()
    }

    /// A call with these words after the xid.
    fn call(words: &[u32]) -> Vec<u8> {
        [&[0xabcd][..], words].concat().iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// The words of the reply after the xid, from a program 7 with version 3 and procedure 0.
    fn reply(message: &[u8]) -> Vec<u32> {
        let mut out = Vec::new();
        RpcMessage::parse(message).unwrap().answer(&mut out, |call, results| {
            results.u32(0xbad);
            match (call.program, call.version, call.procedure) {
                (7, 3, 0) => {
                    results.rewind(results.len() - 4);
                    results.u32(0x600d);
                    Ok(())
                }
                (7, 3, 1) => Err(XdrParseError::Truncated.into()),
                (7, 3, _) => Err(CallError::ProcUnavail),
                (7, _, _) => Err(CallError::ProgMismatch { low: 3, high: 3 }),
                _ => Err(CallError::ProgUnavail),
            }
        });
        let words: Vec<_> = out.chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words[0], 0xabcd);
        words[1..].to_vec()
    }

    #[test]
    fn nfsmount_call_is_parsed() {
        let RpcRecord { message, len } = next_record(GETPORT).unwrap().unwrap();
        assert!(matches!(message, Cow::Borrowed(_)), "one fragment is not copied");
        assert_eq!(len, GETPORT.len());
        let mut out = Vec::new();
        let answered = RpcMessage::parse(&message).unwrap().answer(&mut out, |call, results| {
            assert_eq!((call.program, call.version, call.procedure), (100_000, 2, 3));
            assert!(matches!(call.credentials, Credentials::None));
            results.u32(2049);
            Ok(call.args.rest().len())
        });
        assert_eq!(answered, Some(16));
        assert_eq!(out, b"\x65\xad\x41\x42\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08\x01");
    }

    #[test]
    fn kernel_credentials_are_parsed() {
        let call = RpcMessage::parse(FSINFO).unwrap().call().unwrap();
        let Credentials::Sys(user) = call.credentials else { panic!("{call:?}") };
        assert_eq!((user.uid, user.gid), (0, 0));
        assert!(user.is_in_group(0) && !user.is_in_group(1));
        assert!(call.args.is_empty());
    }

    #[test]
    fn supplementary_groups_count() {
        let words = [0, 2, 7, 3, 0, AUTH_SYS, 28, 0, 0, 1000, 1000, 2, 5, 998, 0, 0];
        let message = call(&words);
        let Credentials::Sys(user) = RpcMessage::parse(&message).unwrap().call().unwrap().credentials else {
            panic!("no AUTH_SYS");
        };
        assert!([1000, 5, 998].into_iter().all(|gid| user.is_in_group(gid)));
        assert!(!user.is_in_group(0));
    }

    #[test]
    fn record_may_come_in_fragments() {
        let bytes = record(&[(b"ab", false), (b"", false), (b"cde", true)]);
        for end in 0..bytes.len() {
            assert_eq!(next_record(&bytes[..end]), Ok(None), "{end}");
        }
        let input = [&bytes[..], b"next"].concat();
        let joined = RpcRecord { message: Cow::Owned(b"abcde".to_vec()), len: bytes.len() };
        assert_eq!(next_record(&input), Ok(Some(joined)));
    }

    #[test]
    fn oversized_record_is_refused_early() {
        assert_eq!(next_record(b"\xff\xff\xff\xff"), Err(RecordError::TooLong(0x7fff_ffff)));
        assert_eq!(next_record(b"\x7f\xff\xff\xff"), Err(RecordError::TooLong(0x7fff_ffff)));
        let most = (LAST_FRAGMENT | RECORD_MAX as u32).to_be_bytes();
        assert_eq!(next_record(&most), Ok(None));
        let long = vec![0; RECORD_MAX];
        let sum = record(&[(&long, false), (b"!", true)]);
        assert_eq!(next_record(&sum[..MARK + RECORD_MAX + MARK]), Err(RecordError::TooLong(RECORD_MAX + 1)));
        assert_eq!(next_record(&record(&[(&b""[..], false); 16])), Err(RecordError::TooManyFragments));
        let mut enough = vec![(&b""[..], false); 15];
        enough.push((b"x", true));
        assert_eq!(next_record(&record(&enough)).unwrap().unwrap().message, &b"x"[..]);
    }

    #[test]
    fn non_call_gets_no_reply() {
        let whole = call(&[CALL, 2, 7, 3, 0]);
        assert!(RpcMessage::parse(&whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(RpcMessage::parse(&whole[..end]).unwrap_err(), NotACallError, "{end}");
        }
        assert_eq!(RpcMessage::parse(&call(&[REPLY, 2, 7, 3, 0])).unwrap_err(), NotACallError);
    }

    #[test]
    fn call_gets_the_standard_reply() {
        let none = [AUTH_NONE, 0, AUTH_NONE, 0];
        let ask = |head: [u32; 4], auth: &[u32]| reply(&call(&[&[CALL][..], &head, auth].concat()));
        assert_eq!(ask([2, 7, 3, 0], &none), [1, 0, 0, 0, 0, 0x600d], "success");
        assert_eq!(ask([2, 8, 3, 0], &none), [1, 0, 0, 0, 1], "PROG_UNAVAIL");
        assert_eq!(ask([2, 7, 4, 0], &none), [1, 0, 0, 0, 2, 3, 3], "PROG_MISMATCH");
        assert_eq!(ask([2, 7, 3, 99], &none), [1, 0, 0, 0, 3], "PROC_UNAVAIL");
        assert_eq!(ask([2, 7, 3, 1], &none), [1, 0, 0, 0, 4], "GARBAGE_ARGS");
        assert_eq!(ask([3, 7, 3, 0], &none), [1, 1, 0, 2, 2], "RPC_MISMATCH");
    }

    #[test]
    fn bad_credentials_are_refused() {
        let ask = |auth: &[u32]| reply(&call(&[&[CALL, 2, 7, 3, 0][..], auth].concat()));
        let garbage = [1, 0, 0, 0, 4];
        for flavor in [2, 3, 6, 999] {
            assert_eq!(ask(&[flavor, 0, AUTH_NONE, 0]), [1, 1, 1, 5], "AUTH_TOOWEAK");
        }
        let long = |len: u32| [&[AUTH_NONE, len][..], &vec![0; len as usize / 4], &[AUTH_NONE, 0]].concat();
        assert_eq!(ask(&long(400))[4..], [0, 0x600d]);
        assert_eq!(ask(&long(404)), [1, 1, 1, 1], "AUTH_BADCRED");
        assert_eq!(ask(&[&[AUTH_NONE, 0][..], &long(404)].concat()), [1, 1, 1, 3], "AUTH_BADVERF");
        assert_eq!(ask(&[AUTH_NONE, u32::MAX, AUTH_NONE, 0]), garbage);
        assert_eq!(ask(&[AUTH_NONE, 0]), garbage, "no verifier");

        let sys = |count: u32, gids: u32| {
            let body = [&[0, 0, 0, 0, count][..], &vec![0; gids as usize]].concat();
            ask(&[&[AUTH_SYS, body.len() as u32 * 4][..], &body, &[AUTH_NONE, 0]].concat())
        };
        assert_eq!(sys(16, 16)[4..], [0, 0x600d]);
        assert_eq!(sys(17, 17), [1, 1, 1, 1], "AUTH_BADCRED");
        assert_eq!(sys(17, 16), garbage);
        assert_eq!(sys(1 << 30, 16), garbage);
    }

    #[test]
    fn record_mark_counts_outside_payload() {
        let mut out = b"before".to_vec();
        let start = begin_record(&mut out);
        out.extend_from_slice(b"head");
        end_record(&mut out, start, 1000);
        assert_eq!(out, b"before\x80\0\x03\xechead");
    }
}
