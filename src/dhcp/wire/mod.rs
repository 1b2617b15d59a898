//! The layout of DHCP messages (RFC 2131 §2, RFC 2132): what a peer sends, parsed; what we send, emitted.
//!
//! `dhcproto` reads the header and joins split options (RFC 3396), through its borrowed view and behind
//! `check_framing`: its owned decoder asserts the lengths of seven options in debug builds and misreads what
//! follows them in release builds. Options that nothing here needs are passed over whatever they hold.

mod hardware;
mod reply;

use std::net::Ipv4Addr;

use bytes::BufMut;
use dhcproto::v4::{MAGIC, OptionCode, borrowed};

use crate::codec::{Reader, Truncated};

pub use dhcproto::v4::{Flags, MessageType, Opcode};
pub use hardware::{BadHardwareAddress, HardwareAddress};
pub(crate) use reply::{BootClass, Reply, ReplyOption};

/// Servers and relay agents listen here.
pub(crate) const SERVER_PORT: u16 = 67;
/// Clients listen here.
pub(crate) const CLIENT_PORT: u16 = 68;

/// Bytes before the magic cookie.
const HEADER_LEN: usize = 236;
/// Where `chaddr` begins.
const CHADDR_OFFSET: usize = 28;
/// Where `file` begins.
const FILE_OFFSET: usize = 108;
/// Shortest message we send.
const MIN_LEN: usize = 300;
/// Longest value of an option that is kept: what one option holds without being split.
const MAX_OPTION_LEN: usize = 255;

/// Option 175: iPXE's encapsulated options (iPXE, include/ipxe/dhcp.h).
const IPXE_OPTIONS: u8 = 175;
/// Option 209: PXELINUX configuration file (RFC 5071 §4).
const CONFIG_FILE: u8 = 209;
/// In option 43 of PXE: the boot item a client chose (PXE 2.1 §2.3, tag 71).
const PXE_BOOT_ITEM: u8 = 71;
/// In option 43 of PXE: discovery control (tag 6).
const PXE_DISCOVERY_CONTROL: u8 = 6;
/// Ends the options, and those inside option 43.
const END: u8 = 255;

/// Message type 0 stands for none: it is reserved.
const NO_TYPE: MessageType = MessageType::Unknown(0);

/// Why a datagram is no DHCP message that can be answered: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("message {0}")]
    Truncated(#[from] Truncated),
    #[error("no DHCP magic cookie: BOOTP or another protocol")]
    NoCookie,
    #[error("hardware address of {0} bytes, 16 fit")]
    HardwareLength(u8),
    #[error("option {code} of {len} bytes")]
    OptionLength { code: u8, len: usize },
    #[error("no message type (option 53): BOOTP")]
    NoMessageType,
}

/// The fixed part of a message (RFC 2131 §2) without `sname` and `file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub opcode: Opcode,
    pub hardware_type: u8,
    /// Bytes of `chaddr` that count, at most 16.
    pub hardware_len: u8,
    pub hops: u8,
    /// Transaction id.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    pub flags: Flags,
    /// The address a client has already.
    pub ciaddr: Ipv4Addr,
    /// The address a server gives.
    pub yiaddr: Ipv4Addr,
    /// The server to load the boot file from.
    pub siaddr: Ipv4Addr,
    /// The relay agent that passed the message on.
    pub giaddr: Ipv4Addr,
    /// All 16 bytes: klibc's ipconfig compares them all with those of a reply.
    pub chaddr: [u8; 16],
}

impl Header {
    /// Reads the header of a datagram whose framing was checked.
    fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let raw = borrowed::Message::new(datagram).map_err(|_| Truncated)?;
        if raw.hlen() > 16 {
            return Err(Malformed::HardwareLength(raw.hlen()));
        }
        // dhcproto's chaddr() gives only the bytes that count.
        let mut reader = Reader::new(datagram);
        reader.skip(CHADDR_OFFSET)?;
        Ok(Self {
            opcode: raw.opcode(),
            hardware_type: raw.htype().into(),
            hardware_len: raw.hlen(),
            hops: raw.hops(),
            xid: raw.xid(),
            secs: raw.secs(),
            flags: raw.flags(),
            ciaddr: raw.ciaddr(),
            yiaddr: raw.yiaddr(),
            siaddr: raw.siaddr(),
            giaddr: raw.giaddr(),
            chaddr: reader.array()?,
        })
    }

    /// The machine's hardware address.
    pub(crate) fn hardware(&self) -> HardwareAddress {
        HardwareAddress::new(self.hardware_type, self.hardware_len, self.chaddr)
    }

    /// Writes header and cookie; `file` is cut to its 128 bytes.
    fn emit(&self, file: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(MIN_LEN * 2);
        out.put_slice(&[self.opcode.into(), self.hardware_type, self.hardware_len, self.hops]);
        out.put_u32(self.xid);
        out.put_u16(self.secs);
        out.put_u16(self.flags.into());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.put_slice(&address.octets());
        }
        out.put_slice(&self.chaddr);
        out.resize(FILE_OFFSET, 0);
        out.extend(file.iter().take(HEADER_LEN - FILE_OFFSET));
        out.resize(HEADER_LEN, 0);
        out.put_slice(&MAGIC);
        out
    }
}

/// A DHCP message, as far as it matters to us. `sname`, `file` and options in them (option overload) are not read: no
/// network boot client puts a question there. An empty list of bytes is an option that was not sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub header: Header,
    /// Option 53.
    pub kind: MessageType,
    /// Option 50: requested address.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: server identifier.
    pub server: Option<Ipv4Addr>,
    /// Option 57: the longest message the client takes.
    pub max_size: Option<u16>,
    /// Option 60: vendor class.
    pub vendor_class: Vec<u8>,
    /// Option 61: client identifier.
    pub client_id: Vec<u8>,
    /// Option 77: user class, raw as iPXE sends it or as RFC 3004 has it.
    pub user_class: Vec<u8>,
    /// Option 82: relay agent information.
    pub relay_info: Vec<u8>,
    /// Option 93: client system architectures.
    pub architectures: Vec<u16>,
    /// Option 97: machine identifier (UUID).
    pub machine_id: Vec<u8>,
    /// Option 43, tag 71: the boot item chosen from a PXE menu.
    pub boot_item: Option<[u8; 4]>,
    /// Option 175: iPXE's own options.
    pub ipxe_options: Vec<u8>,
}

impl Message {
    /// A DISCOVER as a client on Ethernet sends it, asking for broadcast replies.
    pub fn discover(xid: u32, mac: [u8; 6]) -> Self {
        let hardware = HardwareAddress::ethernet(mac);
        let header = Header {
            opcode: Opcode::BootRequest,
            hardware_type: hardware.kind,
            hardware_len: hardware.len,
            hops: 0,
            xid,
            secs: 0,
            flags: Flags::default().set_broadcast(),
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: hardware.bytes,
        };
        Self::new(header, MessageType::Discover)
    }

    fn new(header: Header, kind: MessageType) -> Self {
        Self {
            header,
            kind,
            requested: None,
            server: None,
            max_size: None,
            vendor_class: Vec::new(),
            client_id: Vec::new(),
            user_class: Vec::new(),
            relay_info: Vec::new(),
            architectures: Vec::new(),
            machine_id: Vec::new(),
            boot_item: None,
            ipxe_options: Vec::new(),
        }
    }

    /// Reads one datagram.
    ///
    /// # Errors
    /// [`Malformed`] when the header or the framing of the options is broken, or one of the options above has a
    /// length it cannot have.
    pub fn parse(datagram: &[u8]) -> Result<Self, Malformed> {
        let options = check_framing(datagram)?;
        let mut message = Self::new(Header::parse(datagram)?, NO_TYPE);
        for option in borrowed::DhcpOptionIterator::new(options.rest()) {
            message.read_option(option.code(), option.data())?;
        }
        if message.kind == NO_TYPE { Err(Malformed::NoMessageType) } else { Ok(message) }
    }

    fn read_option(&mut self, code: OptionCode, value: &[u8]) -> Result<(), Malformed> {
        match code {
            OptionCode::MessageType => self.kind = u8::from_be_bytes(fixed(code, value)?).into(),
            OptionCode::RequestedIpAddress => self.requested = Some(fixed(code, value)?.into()),
            OptionCode::ServerIdentifier => self.server = Some(fixed(code, value)?.into()),
            OptionCode::MaxMessageSize => self.max_size = Some(u16::from_be_bytes(fixed(code, value)?)),
            OptionCode::ClassIdentifier => self.vendor_class = opaque(code, value)?,
            OptionCode::ClientIdentifier => self.client_id = opaque(code, value)?,
            OptionCode::UserClass => self.user_class = opaque(code, value)?,
            OptionCode::RelayAgentInformation => self.relay_info = opaque(code, value)?,
            OptionCode::ClientSystemArchitecture => self.architectures = architectures(code, value)?,
            OptionCode::ClientMachineIdentifier => self.machine_id = opaque(code, value)?,
            OptionCode::VendorExtensions => self.boot_item = boot_item(value),
            OptionCode::Unknown(IPXE_OPTIONS) => self.ipxe_options = opaque(code, value)?,
            _ => {}
        }
        Ok(())
    }

    /// True when `class` is the user class, raw (iPXE) or among several with a length before each (RFC 3004 §4).
    pub(crate) fn has_user_class(&self, class: &[u8]) -> bool {
        let mut reader = Reader::new(&self.user_class);
        let mut items = std::iter::from_fn(|| {
            let len = reader.u8().ok()?;
            reader.take(usize::from(len)).ok()
        });
        self.user_class == class || items.any(|item| item == class)
    }

    /// The value of a sub-option of the relay agent's option 82.
    pub(crate) fn relay_sub_option(&self, code: u8) -> Option<&[u8]> {
        tagged(&self.relay_info, code)
    }

    /// False for an iPXE that lists its features (option 175) and does not have this one.
    pub(crate) fn may_have_ipxe_feature(&self, code: u8) -> bool {
        self.ipxe_options.is_empty() || tagged(&self.ipxe_options, code).is_some()
    }

    /// Writes the message, padded to what old relay agents pass on. The reverse of [`Message::parse`].
    pub fn emit(&self) -> Vec<u8> {
        let mut out = self.header.emit(&[]);
        put_option(&mut out, OptionCode::MessageType, &[self.kind.into()]);
        let address =
            |address: Option<Ipv4Addr>| address.map_or(Vec::new(), |address| address.octets().to_vec());
        let options = [
            (OptionCode::RequestedIpAddress, &address(self.requested)),
            (OptionCode::ServerIdentifier, &address(self.server)),
            (
                OptionCode::MaxMessageSize,
                &self.max_size.map_or(Vec::new(), |size| size.to_be_bytes().to_vec()),
            ),
            (OptionCode::ClassIdentifier, &self.vendor_class),
            (OptionCode::ClientIdentifier, &self.client_id),
            (OptionCode::UserClass, &self.user_class),
            (
                OptionCode::ClientSystemArchitecture,
                &self.architectures.iter().flat_map(|a| a.to_be_bytes()).collect(),
            ),
            (OptionCode::ClientMachineIdentifier, &self.machine_id),
            (OptionCode::VendorExtensions, &self.boot_item.map_or(Vec::new(), reply::boot_item)),
            (OptionCode::Unknown(IPXE_OPTIONS), &self.ipxe_options),
            (OptionCode::RelayAgentInformation, &self.relay_info),
        ];
        for (code, value) in options.into_iter().filter(|(_, value)| !value.is_empty()) {
            put_option(&mut out, code, value);
        }
        finish(&mut out);
        out
    }
}

/// Our own check before `dhcproto` sees a byte: header and cookie are there, and each option ends inside the message.
/// A missing end option is forgiven. Returns the options.
fn check_framing(datagram: &[u8]) -> Result<Reader<'_>, Malformed> {
    let mut reader = Reader::new(datagram);
    reader.skip(HEADER_LEN)?;
    if reader.array()? != MAGIC {
        return Err(Malformed::NoCookie);
    }
    let options = reader;
    while !reader.is_empty() {
        match reader.u8()? {
            0 => {}
            END => return Ok(options),
            _ => {
                let len = reader.u8()?;
                reader.skip(usize::from(len))?;
            }
        }
    }
    Ok(options)
}

fn fixed<const N: usize>(code: OptionCode, value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| wrong_length(code, value))
}

/// A value that is kept as it is. One that was split over several options and so is longer than
/// [`MAX_OPTION_LEN`] is not worth the memory.
fn opaque(code: OptionCode, value: &[u8]) -> Result<Vec<u8>, Malformed> {
    if value.len() > MAX_OPTION_LEN {
        return Err(wrong_length(code, value));
    }
    Ok(value.to_vec())
}

/// RFC 4578 §2.1: one or more numbers of 16 bits.
fn architectures(code: OptionCode, value: &[u8]) -> Result<Vec<u16>, Malformed> {
    let (pairs, rest) = value.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() || value.len() > MAX_OPTION_LEN {
        return Err(wrong_length(code, value));
    }
    Ok(pairs.iter().map(|&pair| u16::from_be_bytes(pair)).collect())
}

fn wrong_length(code: OptionCode, value: &[u8]) -> Malformed {
    Malformed::OptionLength { code: code.into(), len: value.len() }
}

/// Option 43 belongs to the vendor: where it does not hold PXE's tags, there is no boot item.
fn boot_item(value: &[u8]) -> Option<[u8; 4]> {
    tagged(value, PXE_BOOT_ITEM)?.try_into().ok()
}

/// The value behind `tag` in a list of tag, length and value.
fn tagged(list: &[u8], tag: u8) -> Option<&[u8]> {
    let mut reader = Reader::new(list);
    loop {
        let found = reader.u8().ok()?;
        let len = reader.u8().ok()?;
        let value = reader.take(usize::from(len)).ok()?;
        if found == tag {
            return Some(value);
        }
    }
}

/// Writes an option; a value that does not fit into one is the caller's mistake, and left out.
fn put_option(out: &mut Vec<u8>, code: OptionCode, value: &[u8]) {
    if let Ok(len) = u8::try_from(value.len()) {
        out.put_slice(&[code.into(), len]);
        out.put_slice(value);
    }
}

/// Writes the end option, and pads to what relay agents and old clients drop nothing of (RFC 1542 §2.1: a BOOTP
/// message has 300 bytes).
fn finish(out: &mut Vec<u8>) {
    out.put_u8(END);
    if out.len() < MIN_LEN {
        out.resize(MIN_LEN, 0);
    }
}

#[cfg(test)]
mod tests;
