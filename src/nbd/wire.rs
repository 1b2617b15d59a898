//! Byte layouts of NBD, in the order and with the names of the specification.
//!
//! Nothing here panics on input or allocates while parsing. Unknown numbers survive parsing: a peer
//! may be newer.

use std::fmt;

use bytes::BufMut;
use serde::{Deserialize, Serialize};

use crate::codec::{Reader, Truncated};

/// Start of every option of the client: `IHAVEOPT`.
pub(crate) const OPTS_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of every reply to an option.
pub(crate) const REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Start of every request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Start of a simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Start of a chunk of a structured reply.
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Longest string, in bytes: names, descriptions, error texts ("Conventions").
pub(crate) const STRING_MAX: usize = 4096;

/// Bits that handshake flags (server) and client flags share.
pub(crate) const FLAG_FIXED_NEWSTYLE: u32 = 1 << 0;
pub(crate) const FLAG_NO_ZEROES: u32 = 1 << 1;

/// Transmission flags.
pub(crate) const FLAG_HAS_FLAGS: u16 = 1 << 0;
pub(crate) const FLAG_READ_ONLY: u16 = 1 << 1;
pub(crate) const FLAG_SEND_DF: u16 = 1 << 7;
pub(crate) const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
pub(crate) const FLAG_SEND_CACHE: u16 = 1 << 10;

/// Command flags.
pub(crate) const CMD_FLAG_DF: u16 = 1 << 2;
pub(crate) const CMD_FLAG_REQ_ONE: u16 = 1 << 3;

/// Flag of the last chunk of a structured reply; there is no other flag.
const REPLY_FLAG_DONE: u16 = 1 << 0;

/// Metadata context that tells data from holes.
pub(crate) const BASE_ALLOCATION: &str = "base:allocation";

/// Declares a number with names. Known numbers print as the specification writes them, others as a
/// number.
macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident: $int:ty { $($constant:ident = $value:expr, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(pub $int);

        impl $name {
            $(pub const $constant: Self = Self($value);)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$constant => f.write_str($text),)*
                    Self(other) => write!(f, concat!(stringify!($name), " {}"), other),
                }
            }
        }
    };
}

numbers! {
    /// Option of the handshake.
    Opt: u32 {
        EXPORT_NAME = 1, "NBD_OPT_EXPORT_NAME";
        ABORT = 2, "NBD_OPT_ABORT";
        LIST = 3, "NBD_OPT_LIST";
        STARTTLS = 5, "NBD_OPT_STARTTLS";
        INFO = 6, "NBD_OPT_INFO";
        GO = 7, "NBD_OPT_GO";
        STRUCTURED_REPLY = 8, "NBD_OPT_STRUCTURED_REPLY";
        LIST_META_CONTEXT = 9, "NBD_OPT_LIST_META_CONTEXT";
        SET_META_CONTEXT = 10, "NBD_OPT_SET_META_CONTEXT";
        EXTENDED_HEADERS = 11, "NBD_OPT_EXTENDED_HEADERS";
    }
}

numbers! {
    /// Kind of reply to an option.
    Rep: u32 {
        ACK = 1, "NBD_REP_ACK";
        SERVER = 2, "NBD_REP_SERVER";
        INFO = 3, "NBD_REP_INFO";
        META_CONTEXT = 4, "NBD_REP_META_CONTEXT";
        ERR_UNSUP = 0x8000_0001, "NBD_REP_ERR_UNSUP";
        ERR_POLICY = 0x8000_0002, "NBD_REP_ERR_POLICY";
        ERR_INVALID = 0x8000_0003, "NBD_REP_ERR_INVALID";
        ERR_UNKNOWN = 0x8000_0006, "NBD_REP_ERR_UNKNOWN";
        ERR_TOO_BIG = 0x8000_0009, "NBD_REP_ERR_TOO_BIG";
    }
}

numbers! {
    /// Piece of information about an export.
    Info: u16 {
        EXPORT = 0, "NBD_INFO_EXPORT";
        NAME = 1, "NBD_INFO_NAME";
        DESCRIPTION = 2, "NBD_INFO_DESCRIPTION";
        BLOCK_SIZE = 3, "NBD_INFO_BLOCK_SIZE";
    }
}

numbers! {
    /// Command of a request.
    Cmd: u16 {
        READ = 0, "NBD_CMD_READ";
        WRITE = 1, "NBD_CMD_WRITE";
        DISC = 2, "NBD_CMD_DISC";
        FLUSH = 3, "NBD_CMD_FLUSH";
        TRIM = 4, "NBD_CMD_TRIM";
        CACHE = 5, "NBD_CMD_CACHE";
        WRITE_ZEROES = 6, "NBD_CMD_WRITE_ZEROES";
        BLOCK_STATUS = 7, "NBD_CMD_BLOCK_STATUS";
    }
}

numbers! {
    /// Error of a reply.
    Errno: u32 {
        EPERM = 1, "NBD_EPERM";
        EIO = 5, "NBD_EIO";
        EINVAL = 22, "NBD_EINVAL";
    }
}

numbers! {
    /// Kind of a structured reply chunk.
    ChunkType: u16 {
        NONE = 0, "NBD_REPLY_TYPE_NONE";
        OFFSET_DATA = 1, "NBD_REPLY_TYPE_OFFSET_DATA";
        BLOCK_STATUS = 5, "NBD_REPLY_TYPE_BLOCK_STATUS";
        ERROR = 0x8001, "NBD_REPLY_TYPE_ERROR";
    }
}

/// Bytes that are not the message they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NbdParseError {
    /// On a stream: the rest has not arrived yet. Inside an option: its lengths contradict each
    /// other.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The peer does not speak NBD, or not any more: there is no way back into the stream.
    #[error("wrong magic {0:#x}")]
    BadMagic(u64),
    /// The option is longer than its data.
    #[error("{0} bytes too many")]
    Excess(usize),
}

/// The first message of the server: magic and handshake flags.
pub(crate) const GREETING: [u8; 18] = *b"NBDMAGICIHAVEOPT\x00\x03";

/// The first message of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientFlags(pub u32);

impl ClientFlags {
    pub(crate) const LEN: usize = 4;

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, NbdParseError> {
        Ok(Self(reader.u32_be()?))
    }

    pub(crate) const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    /// Returns true if the client set a flag that the server never offered.
    pub(crate) const fn has_unknown(self) -> bool {
        self.0 & !(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0
    }
}

/// Start of every option; `len` bytes of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OptionHeader {
    pub option: Opt,
    pub len: u32,
}

impl OptionHeader {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, NbdParseError> {
        let mut header = reader.sub(Self::LEN)?;
        match header.u64_be()? {
            OPTS_MAGIC => Ok(Self { option: Opt(header.u32_be()?), len: header.u32_be()? }),
            other => Err(NbdParseError::BadMagic(other)),
        }
    }
}

/// Data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InfoRequest<'a> {
    pub name: &'a [u8],
    pub wants_name: bool,
    pub wants_description: bool,
    pub wants_block_size: bool,
}

impl<'a> InfoRequest<'a> {
    /// Parses the whole data of the option.
    pub(crate) fn parse(mut data: Reader<'a>) -> Result<Self, NbdParseError> {
        let name = string(&mut data)?;
        let mut request = Self { name, wants_name: false, wants_description: false, wants_block_size: false };
        for _ in 0..data.u16_be()? {
            match Info(data.u16_be()?) {
                Info::NAME => request.wants_name = true,
                Info::DESCRIPTION => request.wants_description = true,
                Info::BLOCK_SIZE => request.wants_block_size = true,
                // "The server MUST ignore any information requests it does not understand."
                // NBD_INFO_EXPORT is always sent.
                _ => {}
            }
        }
        end(data)?;
        Ok(request)
    }
}

/// Data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetaContextRequest<'a> {
    pub name: &'a [u8],
    /// Number of queries.
    pub queries: u32,
    /// One of them names `base:allocation`.
    pub asks_allocation: bool,
    /// One of them names the whole namespace `base:` (a wildcard when listing).
    pub asks_base: bool,
}

impl<'a> MetaContextRequest<'a> {
    /// Parses the whole data of the option.
    pub(crate) fn parse(mut data: Reader<'a>) -> Result<Self, NbdParseError> {
        let name = string(&mut data)?;
        let queries = data.u32_be()?;
        let mut request = Self { name, queries, asks_allocation: false, asks_base: false };
        // The count is the peer's. Each query takes four bytes at least, so the data bounds the
        // loop.
        for _ in 0..queries {
            let query = string(&mut data)?;
            // "The server MUST ignore query strings belonging to an unknown namespace."
            request.asks_allocation |= query == BASE_ALLOCATION.as_bytes();
            request.asks_base |= query == b"base:";
        }
        end(data)?;
        Ok(request)
    }
}

/// Reads a string behind its 32-bit length.
fn string<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], NbdParseError> {
    // A length that does not fit in an address is longer than any data.
    let len = usize::try_from(reader.u32_be()?).unwrap_or(usize::MAX);
    Ok(reader.take(len)?)
}

fn end(reader: Reader<'_>) -> Result<(), NbdParseError> {
    if reader.is_empty() { Ok(()) } else { Err(NbdParseError::Excess(reader.remaining())) }
}

/// A request in transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NbdRequest {
    pub flags: u16,
    pub command: Cmd,
    /// Number chosen by the client, echoed untouched. The kernel finds its request by it.
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl NbdRequest {
    pub(crate) const LEN: usize = 28;

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Self, NbdParseError> {
        let mut request = reader.sub(Self::LEN)?;
        match request.u32_be()? {
            REQUEST_MAGIC => {}
            other => return Err(NbdParseError::BadMagic(other.into())),
        }
        Ok(Self {
            flags: request.u16_be()?,
            command: Cmd(request.u16_be()?),
            cookie: request.u64_be()?,
            offset: request.u64_be()?,
            len: request.u32_be()?,
        })
    }
}

/// Description of an export in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExportInfo {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
}

/// Choice about the 124 zeroes of the old handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zeroes {
    Send,
    Omit,
}

/// A reply to an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OptionReply<'a> {
    Ack,
    /// One export of a list.
    Server {
        name: &'a str,
    },
    /// `NBD_INFO_EXPORT`.
    Export(ExportInfo),
    /// `NBD_INFO_NAME`: the server's name of the export.
    Name(&'a [u8]),
    /// `NBD_INFO_DESCRIPTION`.
    Description(&'a str),
    /// `NBD_INFO_BLOCK_SIZE`, in bytes.
    BlockSize {
        min: u32,
        preferred: u32,
        max: u32,
    },
    /// A metadata context, and its number from now on.
    MetaContext {
        id: u32,
        name: &'a str,
    },
    /// An error, with a text that the client shows to a person.
    Error {
        reply: Rep,
        text: &'a str,
    },
}

impl OptionReply<'_> {
    /// Appends the reply to `option`.
    pub(crate) fn emit(&self, option: Opt, out: &mut Vec<u8>) {
        out.put_u64(REP_MAGIC);
        out.put_u32(option.0);
        out.put_u32(self.kind().0);
        let len_at = out.len();
        out.put_u32(0);
        self.emit_data(out);
        // Strings are cut at STRING_MAX, so the data is far shorter than 4 GiB.
        let len = (out.len() - len_at - 4) as u32;
        if let Some(field) = out.get_mut(len_at..len_at + 4) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }

    const fn kind(&self) -> Rep {
        match self {
            Self::Ack => Rep::ACK,
            Self::Server { .. } => Rep::SERVER,
            Self::Export(_) | Self::Name(_) | Self::Description(_) | Self::BlockSize { .. } => Rep::INFO,
            Self::MetaContext { .. } => Rep::META_CONTEXT,
            Self::Error { reply, .. } => *reply,
        }
    }

    fn emit_data(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Ack => {}
            Self::Server { name } => {
                let name = truncated(name);
                out.put_u32(name.len() as u32);
                out.put_slice(name.as_bytes());
            }
            Self::Export(ExportInfo { size, flags }) => {
                out.put_u16(Info::EXPORT.0);
                out.put_u64(size);
                out.put_u16(flags);
            }
            Self::Name(name) => {
                out.put_u16(Info::NAME.0);
                out.put_slice(name);
            }
            Self::Description(text) => {
                out.put_u16(Info::DESCRIPTION.0);
                out.put_slice(truncated(text).as_bytes());
            }
            Self::BlockSize { min, preferred, max } => {
                out.put_u16(Info::BLOCK_SIZE.0);
                [min, preferred, max].into_iter().for_each(|size| out.put_u32(size));
            }
            Self::MetaContext { id, name } => {
                out.put_u32(id);
                out.put_slice(name.as_bytes());
            }
            Self::Error { text, .. } => out.put_slice(truncated(text).as_bytes()),
        }
    }
}

/// Appends the reply to `NBD_OPT_EXPORT_NAME`, which has no header.
pub(crate) fn emit_export_name_reply(export: ExportInfo, zeroes: Zeroes, out: &mut Vec<u8>) {
    out.put_u64(export.size);
    out.put_u16(export.flags);
    if zeroes == Zeroes::Send {
        out.put_bytes(0, 124);
    }
}

/// Cuts `text` to the longest string.
fn truncated(text: &str) -> &str {
    text.get(..text.floor_char_boundary(STRING_MAX)).unwrap_or(text)
}

/// Returns the header of a simple reply; the data of a successful read follows.
pub(crate) fn simple_reply(error: u32, cookie: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    fill(&mut bytes, &[&SIMPLE_REPLY_MAGIC.to_be_bytes(), &error.to_be_bytes(), &cookie.to_be_bytes()]);
    bytes
}

/// Returns the header of the only, and so the last, chunk of a structured reply; `len` bytes of
/// payload follow.
pub(crate) fn only_chunk(kind: ChunkType, cookie: u64, len: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    let flags = REPLY_FLAG_DONE.to_be_bytes();
    let [kind, len] = [&kind.0.to_be_bytes()[..], &len.to_be_bytes()[..]];
    fill(&mut bytes, &[&STRUCTURED_REPLY_MAGIC.to_be_bytes(), &flags, kind, &cookie.to_be_bytes(), len]);
    bytes
}

/// Returns the start of the payload of [`ChunkType::OFFSET_DATA`]; the data follows.
pub(crate) const fn data_offset(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

/// Returns the payload of [`ChunkType::BLOCK_STATUS`] with one descriptor: `len` bytes of allocated
/// data.
pub(crate) fn all_allocated(context: u32, len: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    // "A server MAY always safely report a status of 0 for any block": neither a hole nor known to
    // read as zeroes.
    fill(&mut bytes, &[&context.to_be_bytes(), &len.to_be_bytes(), &0u32.to_be_bytes()]);
    bytes
}

/// Returns the start of the payload of [`ChunkType::ERROR`]; the text follows.
pub(crate) fn error_payload(error: Errno, text_len: u16) -> [u8; 6] {
    let mut bytes = [0; 6];
    fill(&mut bytes, &[&error.0.to_be_bytes(), &text_len.to_be_bytes()]);
    bytes
}

/// Writes `parts` one behind the other. Together they are as long as `bytes`.
fn fill(bytes: &mut [u8], parts: &[&[u8]]) {
    let mut rest = bytes;
    for part in parts {
        let (head, tail) = rest.split_at_mut(part.len());
        head.copy_from_slice(part);
        rest = tail;
    }
}
