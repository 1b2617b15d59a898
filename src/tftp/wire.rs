//! Layout of TFTP packets: RFC 1350 (the protocol), 2347 (options), 2348 (`blksize`), 2349
//! (`timeout`, `tsize`) and 7440 (`windowsize`).
//!
//! [`Packet::parse`] never panics. It borrows from the datagram and allocates only the list of
//! options, which has at most [`MAX_OPTIONS`] entries. Unknown options, modes and error codes
//! survive parsing.

use std::fmt;

use bytes::{BufMut, BytesMut};

use crate::codec::{Reader, Truncated};

/// Largest number of options in one packet. The RFCs define fewer than ten, and the largest request
/// of firmware that was seen has three.
pub(crate) const MAX_OPTIONS: usize = 32;

/// Block size without the option (RFC 1350 §2).
pub(crate) const DEFAULT_BLKSIZE: u16 = 512;

/// Smallest and largest `blksize` (RFC 2348).
pub(crate) const MIN_BLKSIZE: u16 = 8;
pub(crate) const MAX_BLKSIZE: u16 = 65464;

/// Length of opcode and block number before the data of a block (RFC 1350 §5).
pub(crate) const DATA_HEADER_LEN: usize = 4;

const OP_RRQ: u16 = 1;
const OP_WRQ: u16 = 2;
const OP_DATA: u16 = 3;
const OP_ACK: u16 = 4;
const OP_ERROR: u16 = 5;
const OP_OACK: u16 = 6;

/// TFTP packet: one datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    Rrq(TftpRequest<'a>),
    Wrq(TftpRequest<'a>),
    Data {
        block: u16,
        data: &'a [u8],
    },
    Ack {
        block: u16,
    },
    /// Error, with a message for a person: netascii by RFC 1350 §5, any bytes in practice.
    Error {
        code: ErrorCode,
        message: &'a [u8],
    },
    Oack(Vec<TransferOption<'a>>),
}

/// Body of a read or write request (RFC 1350 §5, RFC 2347).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TftpRequest<'a> {
    pub filename: &'a [u8],
    pub mode: TransferMode<'a>,
    pub options: Vec<TransferOption<'a>>,
}

/// Mode of a transfer (RFC 1350 §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferMode<'a> {
    Netascii,
    Octet,
    Mail,
    Unknown(&'a [u8]),
}

/// Option of a request or of its acknowledgement (RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferOption<'a> {
    /// Bytes in a block, 8 to 65464 (RFC 2348).
    Blksize(u16),
    /// Seconds before a retransmission, 1 to 255 (RFC 2349).
    Timeout(u8),
    /// Bytes in the file; 0 in a read request (RFC 2349).
    Tsize(u64),
    /// Blocks sent in a row, 1 to 65535 (RFC 7440).
    Windowsize(u16),
    /// Any other name, or a value outside the option's range.
    Unknown { name: &'a [u8], value: &'a [u8] },
}

/// Reason given in an ERROR packet (RFC 1350 appendix, RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    NotDefined,
    FileNotFound,
    AccessViolation,
    DiskFull,
    IllegalOperation,
    UnknownTransferId,
    FileAlreadyExists,
    NoSuchUser,
    OptionNegotiation,
    Unknown(u16),
}

/// Error of a datagram that is not a TFTP packet: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TftpParseError {
    #[error("packet ends in the middle of a field")]
    Truncated,
    #[error("unknown opcode {0}")]
    Opcode(u16),
    #[error("more than {MAX_OPTIONS} options")]
    TooManyOptions,
}

impl From<Truncated> for TftpParseError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// Returns the bytes before the data of a block. The data itself goes from the mapping to the
/// kernel.
pub const fn data_header(block: u16) -> [u8; DATA_HEADER_LEN] {
    let [op_high, op_low] = OP_DATA.to_be_bytes();
    let [block_high, block_low] = block.to_be_bytes();
    [op_high, op_low, block_high, block_low]
}

impl<'a> Packet<'a> {
    /// Reads one datagram. Bytes after a complete ACK or ERROR are ignored.
    ///
    /// # Errors
    /// [`TftpParseError`] if it is not a TFTP packet.
    pub fn parse(r: &mut Reader<'a>) -> Result<Self, TftpParseError> {
        match r.u16_be()? {
            OP_RRQ => TftpRequest::parse(r).map(Self::Rrq),
            OP_WRQ => TftpRequest::parse(r).map(Self::Wrq),
            OP_DATA => Ok(Self::Data { block: r.u16_be()?, data: r.take(r.remaining())? }),
            OP_ACK => Ok(Self::Ack { block: r.u16_be()? }),
            OP_ERROR => Ok(Self::Error { code: ErrorCode::from(r.u16_be()?), message: error_message(r) }),
            OP_OACK => parse_options(r).map(Self::Oack),
            unknown => Err(TftpParseError::Opcode(unknown)),
        }
    }

    /// Writes the datagram.
    pub(crate) fn emit(&self, out: &mut BytesMut) {
        match self {
            Self::Rrq(request) => request.emit(OP_RRQ, out),
            Self::Wrq(request) => request.emit(OP_WRQ, out),
            Self::Data { block, data } => {
                out.put_slice(&data_header(*block));
                out.put_slice(data);
            }
            Self::Ack { block } => {
                out.put_u16(OP_ACK);
                out.put_u16(*block);
            }
            Self::Error { code, message } => {
                out.put_u16(OP_ERROR);
                out.put_u16(u16::from(*code));
                put_text(message, out);
            }
            Self::Oack(options) => {
                out.put_u16(OP_OACK);
                options.iter().for_each(|option| option.emit(out));
            }
        }
    }
}

fn error_message<'a>(r: &mut Reader<'a>) -> &'a [u8] {
    // RFC 1350 §5 demands a zero byte at the end. Some clients leave it out.
    r.until_nul().unwrap_or_else(|Truncated| r.rest())
}

impl<'a> TftpRequest<'a> {
    fn parse(r: &mut Reader<'a>) -> Result<Self, TftpParseError> {
        Ok(Self {
            filename: r.until_nul()?,
            mode: TransferMode::of(r.until_nul()?),
            options: parse_options(r)?,
        })
    }

    fn emit(&self, opcode: u16, out: &mut BytesMut) {
        out.put_u16(opcode);
        put_text(self.filename, out);
        put_text(self.mode.name(), out);
        self.options.iter().for_each(|option| option.emit(out));
    }
}

impl<'a> TransferMode<'a> {
    fn of(name: &'a [u8]) -> Self {
        // RFC 1350 §5: in any combination of upper and lower case.
        match name {
            _ if name.eq_ignore_ascii_case(b"netascii") => Self::Netascii,
            _ if name.eq_ignore_ascii_case(b"octet") => Self::Octet,
            _ if name.eq_ignore_ascii_case(b"mail") => Self::Mail,
            _ => Self::Unknown(name),
        }
    }

    const fn name(&self) -> &'a [u8] {
        match self {
            Self::Netascii => b"netascii",
            Self::Octet => b"octet",
            Self::Mail => b"mail",
            Self::Unknown(name) => name,
        }
    }
}

/// Reads options to the end of the packet.
fn parse_options<'a>(r: &mut Reader<'a>) -> Result<Vec<TransferOption<'a>>, TftpParseError> {
    let mut options = Vec::new();
    while !r.is_empty() {
        let name = r.until_nul()?;
        // Some clients pad the packet with zero bytes. No option has an empty name.
        if name.is_empty() {
            break;
        }
        // Each option is allocated, so a peer must not choose their number.
        if options.len() == MAX_OPTIONS {
            return Err(TftpParseError::TooManyOptions);
        }
        options.push(TransferOption::of(name, r.until_nul()?));
    }
    Ok(options)
}

impl<'a> TransferOption<'a> {
    fn of(name: &'a [u8], value: &'a [u8]) -> Self {
        Self::known(name, value).unwrap_or(Self::Unknown { name, value })
    }

    /// Reads an option with a known name and a valid value.
    fn known(name: &[u8], value: &[u8]) -> Option<Self> {
        let number = decimal(value)?;
        // RFC 2347: names are case-insensitive.
        match name {
            // RFC 2348: 8 to 65464 bytes.
            _ if name.eq_ignore_ascii_case(b"blksize") => {
                let size = u16::try_from(number).ok()?;
                (MIN_BLKSIZE..=MAX_BLKSIZE).contains(&size).then_some(Self::Blksize(size))
            }
            // RFC 2349: 1 to 255 seconds.
            _ if name.eq_ignore_ascii_case(b"timeout") => {
                u8::try_from(number).ok().filter(|&seconds| seconds > 0).map(Self::Timeout)
            }
            _ if name.eq_ignore_ascii_case(b"tsize") => Some(Self::Tsize(number)),
            // RFC 7440 §3: 1 to 65535 blocks.
            _ if name.eq_ignore_ascii_case(b"windowsize") => {
                u16::try_from(number).ok().filter(|&blocks| blocks > 0).map(Self::Windowsize)
            }
            _ => None,
        }
    }

    fn emit(&self, out: &mut BytesMut) {
        match *self {
            Self::Blksize(size) => put_number(b"blksize", size.into(), out),
            Self::Timeout(seconds) => put_number(b"timeout", seconds.into(), out),
            Self::Tsize(size) => put_number(b"tsize", size, out),
            Self::Windowsize(blocks) => put_number(b"windowsize", blocks.into(), out),
            Self::Unknown { name, value } => {
                put_text(name, out);
                put_text(value, out);
            }
        }
    }
}

/// Reads a number in decimal digits, the form of the values of all options.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, &digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

fn put_number(name: &[u8], number: u64, out: &mut BytesMut) {
    put_text(name, out);
    put_text(number.to_string().as_bytes(), out);
}

fn put_text(text: &[u8], out: &mut BytesMut) {
    out.put_slice(text);
    out.put_u8(0);
}

impl From<u16> for ErrorCode {
    fn from(code: u16) -> Self {
        match code {
            0 => Self::NotDefined,
            1 => Self::FileNotFound,
            2 => Self::AccessViolation,
            3 => Self::DiskFull,
            4 => Self::IllegalOperation,
            5 => Self::UnknownTransferId,
            6 => Self::FileAlreadyExists,
            7 => Self::NoSuchUser,
            8 => Self::OptionNegotiation,
            unknown => Self::Unknown(unknown),
        }
    }
}

impl From<ErrorCode> for u16 {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NotDefined => 0,
            ErrorCode::FileNotFound => 1,
            ErrorCode::AccessViolation => 2,
            ErrorCode::DiskFull => 3,
            ErrorCode::IllegalOperation => 4,
            ErrorCode::UnknownTransferId => 5,
            ErrorCode::FileAlreadyExists => 6,
            ErrorCode::NoSuchUser => 7,
            ErrorCode::OptionNegotiation => 8,
            ErrorCode::Unknown(code) => code,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDefined => "not defined",
            Self::FileNotFound => "file not found",
            Self::AccessViolation => "access violation",
            Self::DiskFull => "disk full or allocation exceeded",
            Self::IllegalOperation => "illegal TFTP operation",
            Self::UnknownTransferId => "unknown transfer ID",
            Self::FileAlreadyExists => "file already exists",
            Self::NoSuchUser => "no such user",
            Self::OptionNegotiation => "option negotiation",
            Self::Unknown(code) => return write!(f, "error code {code}"),
        })
    }
}

impl fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rrq(request) => write!(f, "RRQ {request}"),
            Self::Wrq(request) => write!(f, "WRQ {request}"),
            Self::Data { block, data } => write!(f, "DATA block {block}, {} bytes", data.len()),
            Self::Ack { block } => write!(f, "ACK block {block}"),
            Self::Error { code, message } => write!(f, "ERROR {code}: {}", message.escape_ascii()),
            Self::Oack(options) => {
                f.write_str("OACK")?;
                options.iter().try_for_each(|option| write!(f, " {option}"))
            }
        }
    }
}

impl fmt::Display for TftpRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.filename.escape_ascii(), self.mode)?;
        self.options.iter().try_for_each(|option| write!(f, " {option}"))
    }
}

impl fmt::Display for TransferMode<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().escape_ascii().fmt(f)
    }
}

impl fmt::Display for TransferOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blksize(size) => write!(f, "blksize={size}"),
            Self::Timeout(seconds) => write!(f, "timeout={seconds}"),
            Self::Tsize(size) => write!(f, "tsize={size}"),
            Self::Windowsize(blocks) => write!(f, "windowsize={blocks}"),
            Self::Unknown { name, value } => write!(f, "{}={}", name.escape_ascii(), value.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Result<Packet<'_>, TftpParseError> {
        Packet::parse(&mut Reader::new(bytes))
    }

    fn emitted(packet: &Packet<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        packet.emit(&mut out);
        out
    }

    #[test]
    fn captured_requests_are_emitted_as_parsed() {
        let captured: [(&[u8], &str); 4] = [
            (
                include_bytes!("../../tests/data/tftp/ipxe-rom.rrq"),
                "RRQ /boot/syslinux/lpxelinux.0 octet blksize=1432 tsize=0",
            ),
            (
                include_bytes!("../../tests/data/tftp/lpxelinux.rrq"),
                "RRQ /arch/boot/x86_64/vmlinuz-linux octet tsize=0 blksize=1408",
            ),
            (
                include_bytes!("../../tests/data/tftp/ovmf-size.rrq"),
                "RRQ /snponly.efi octet tsize=0 blksize=1468 windowsize=4",
            ),
            (
                include_bytes!("../../tests/data/tftp/ovmf-read.rrq"),
                "RRQ /snponly.efi octet blksize=1468 windowsize=4",
            ),
        ];
        for (bytes, text) in captured {
            let packet = parsed(bytes).unwrap();
            assert_eq!(packet.to_string(), text);
            assert_eq!(emitted(&packet), bytes);
        }
    }

    #[test]
    fn ovmf_abort_is_parsed() {
        let packet = parsed(include_bytes!("../../tests/data/tftp/ovmf-abort.error")).unwrap();
        assert_eq!(packet.to_string(), "ERROR option negotiation: User aborted the transfer");
    }

    #[test]
    fn option_names_are_case_insensitive() {
        let packet = parsed(b"\0\x01f\0OcTeT\0BLKSIZE\x001024\0TSize\x000\0").unwrap();
        assert_eq!(packet.to_string(), "RRQ f octet blksize=1024 tsize=0");
    }

    #[test]
    fn unknown_values_survive() {
        let bytes =
            b"\0\x01f\0binary\0multicast\0\0blksize\x007\0windowsize\x000\0timeout\x00256\0tsize\0+1\0";
        let packet = parsed(bytes).unwrap();
        let Packet::Rrq(request) = &packet else { panic!("{packet}") };
        assert_eq!(request.mode, TransferMode::Unknown(b"binary"));
        assert!(request.options.iter().all(|option| matches!(option, TransferOption::Unknown { .. })));
        assert_eq!(emitted(&packet), &bytes[..]);
        assert_eq!(parsed(b"\0\x05\0\x63x\0").unwrap().to_string(), "ERROR error code 99: x");
    }

    #[test]
    fn number_has_64_bits() {
        let text = |value: &[u8]| decimal(value);
        assert_eq!(text(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(text(b"18446744073709551616"), None);
        assert_eq!(text(b""), None);
        assert_eq!(text(b" 1"), None);
        assert_eq!(text(b"007"), Some(7));
    }

    #[test]
    fn padding_and_missing_terminators_are_accepted() {
        assert_eq!(parsed(b"\0\x01f\0octet\0tsize\x000\0\0\0").unwrap().to_string(), "RRQ f octet tsize=0");
        assert_eq!(parsed(b"\0\x05\0\0gone").unwrap().to_string(), "ERROR not defined: gone");
        assert_eq!(parsed(b"\0\x05\0\0").unwrap().to_string(), "ERROR not defined: ");
        assert_eq!(parsed(b"\0\x04\0\x07tail").unwrap(), Packet::Ack { block: 7 });
    }

    #[test]
    fn malformed_packet_has_its_reason() {
        for cut in
            [&b""[..], b"\0", b"\0\x01", b"\0\x01f", b"\0\x01f\0octet", b"\0\x04\0", b"\0\x05\0", b"\0\x03"]
        {
            assert_eq!(parsed(cut), Err(TftpParseError::Truncated), "{}", cut.escape_ascii());
        }
        assert_eq!(parsed(b"\0\x01f\0octet\0tsize\0"), Err(TftpParseError::Truncated));
        assert_eq!(parsed(b"\0\x01f\0octet\0tsize\x000"), Err(TftpParseError::Truncated));
        assert_eq!(parsed(b"\0\x07\0\0"), Err(TftpParseError::Opcode(7)));
        let many = [&b"\0\x06"[..], &b"a\0b\0".repeat(MAX_OPTIONS + 1)].concat();
        assert_eq!(parsed(&many), Err(TftpParseError::TooManyOptions));
        let enough = [&b"\0\x06"[..], &b"a\0b\0".repeat(MAX_OPTIONS)].concat();
        assert!(parsed(&enough).is_ok());
    }

    #[test]
    fn data_header_starts_data_packet() {
        let packet = Packet::Data { block: 0xfffe, data: b"xyz" };
        let bytes = emitted(&packet);
        assert!(bytes.starts_with(&data_header(0xfffe)));
        assert_eq!(parsed(&bytes), Ok(packet));
    }
}
