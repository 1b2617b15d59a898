//! Layout of DHCP messages (RFC 2131 §2, RFC 2132): parses messages of peers, emits ours.
//!
//! `dhcproto` reads the header and joins split options (RFC 3396 §7), through its borrowed view and
//! behind `check_framing`. Its owned decoder asserts the lengths of seven options in debug builds
//! and misreads the bytes after them in release builds. Options that are not needed here are
//! skipped without a check.

mod hardware;
mod reply;

use std::net::Ipv4Addr;

use bytes::BufMut;
use dhcproto::v4::{MAGIC, OptionCode, borrowed};

use crate::codec::{Reader, Truncated};
use crate::guid::Guid;

pub use dhcproto::v4::{Flags, MessageType, Opcode};
pub use hardware::HardwareAddress;
pub(crate) use reply::{BootClass, Reply, ReplyOption};

/// Port of servers and relay agents (RFC 2131 §4.1).
pub(crate) const SERVER_PORT: u16 = 67;
/// Port of clients (RFC 2131 §4.1).
pub(crate) const CLIENT_PORT: u16 = 68;
/// Port of PXE boot servers (PXE 2.1 §2.2.1, step 5).
pub(crate) const PXE_PORT: u16 = 4011;

/// Bytes before the magic cookie.
const HEADER_LEN: usize = 236;
/// Offset of `chaddr`.
const CHADDR_OFFSET: usize = 28;
/// Offset of `file`.
const FILE_OFFSET: usize = 108;
/// Length of the shortest message (RFC 1542 §2.1).
const MIN_LEN: usize = 300;
/// Longest value of an option that is kept: the longest that is not split.
const MAX_OPTION_LEN: usize = 255;

/// Option 175: encapsulated options of iPXE (src/include/ipxe/dhcp.h).
const IPXE_OPTIONS: u8 = 175;
/// Option 209: PXELINUX configuration file (RFC 5071 §4).
const CONFIG_FILE: u8 = 209;
/// Tag in option 43: the boot item that a client chose (PXE 2.1 §2.3, table 2-1).
const PXE_BOOT_ITEM: u8 = 71;
/// Tag in option 43: discovery control (PXE 2.1 §2.3, table 2-1).
const PXE_DISCOVERY_CONTROL: u8 = 6;
/// Pads the options (RFC 2132 §3.1).
const PAD: u8 = 0;
/// Ends the options (RFC 2132 §3.2), and those inside option 43.
const END: u8 = 255;

/// Value for a message without a type. RFC 2132 §9.6 assigns types from 1 on.
const NO_TYPE: MessageType = MessageType::Unknown(0);

/// Error of a datagram that is not a DHCP message: the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DhcpParseError {
    #[error("message {0}")]
    Truncated(#[from] Truncated),
    #[error("no DHCP magic cookie: BOOTP or another protocol")]
    NoCookie,
    #[error("hardware address of {0} bytes, 16 fit")]
    HardwareLength(u8),
    #[error("no message type (option 53) of one byte: BOOTP")]
    NoMessageType,
}

/// Fixed part of a message (RFC 2131 §2), without `sname` and `file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub opcode: Opcode,
    pub hardware_type: u8,
    /// Number of significant bytes of `chaddr`, at most 16.
    pub hardware_len: u8,
    pub hops: u8,
    /// Transaction ID.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    pub flags: Flags,
    /// Address that the client has.
    pub ciaddr: Ipv4Addr,
    /// Address that the server gives.
    pub yiaddr: Ipv4Addr,
    /// Server of the boot file.
    pub siaddr: Ipv4Addr,
    /// Relay agent that forwarded the message.
    pub giaddr: Ipv4Addr,
    /// All 16 bytes: klibc's ipconfig compares all of them with those of a reply.
    pub chaddr: [u8; 16],
}

impl Header {
    /// Reads the header of a datagram whose framing was checked.
    fn parse(datagram: &[u8]) -> Result<Self, DhcpParseError> {
        let raw = borrowed::Message::new(datagram).map_err(|_| Truncated)?;
        if raw.hlen() > 16 {
            return Err(DhcpParseError::HardwareLength(raw.hlen()));
        }
        // chaddr() of dhcproto returns the significant bytes only.
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

    /// Returns the hardware address in a datagram that may be malformed behind its header; `None`
    /// if the header is too short.
    pub(crate) fn hardware_of(datagram: &[u8]) -> Option<HardwareAddress> {
        Some(Self::parse(datagram).ok()?.hardware())
    }

    /// Returns the hardware address of the client.
    pub(crate) fn hardware(&self) -> HardwareAddress {
        HardwareAddress::new(self.hardware_type, self.hardware_len, self.chaddr)
    }

    /// Writes the header and the cookie; `file` is cut to its 128 bytes.
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

/// DHCP message, with the options that are used here. An empty list of bytes is an option that was
/// not sent. An option of a wrong length counts as not sent.
///
/// `sname`, `file` and options in them (option overload, RFC 2132 §9.3) are not read: boot clients
/// do not use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub header: Header,
    /// Option 53.
    pub kind: MessageType,
    /// Option 12: host name.
    pub host_name: Vec<u8>,
    /// Option 50: requested address.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: server identifier.
    pub server: Option<Ipv4Addr>,
    /// Option 57: longest message that the client accepts.
    pub max_size: Option<u16>,
    /// Option 60: vendor class.
    pub vendor_class: Vec<u8>,
    /// Option 61: client identifier.
    pub client_id: Vec<u8>,
    /// Option 77: user class, in the layout of iPXE or of RFC 3004.
    pub user_class: Vec<u8>,
    /// Option 82: relay agent information.
    pub relay_info: Vec<u8>,
    /// Option 93: client system architectures.
    pub architectures: Vec<u16>,
    /// Option 97: machine identifier (UUID).
    pub machine_id: Vec<u8>,
    /// Option 43, tag 71: boot item chosen from a PXE menu.
    pub boot_item: Option<[u8; 4]>,
    /// Option 175: options of iPXE.
    pub ipxe_options: Vec<u8>,
}

impl Message {
    /// Creates a DISCOVER of a client on Ethernet that asks for broadcast replies.
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
            host_name: Vec::new(),
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
    /// [`DhcpParseError`] if the header or the framing of the options is broken, or there is no
    /// message type.
    pub fn parse(datagram: &[u8]) -> Result<Self, DhcpParseError> {
        let options = check_framing(datagram)?;
        let mut message = Self::new(Header::parse(datagram)?, NO_TYPE);
        for option in borrowed::DhcpOptionIterator::new(options.rest()) {
            message.read_option(option.code(), option.data());
        }
        if message.kind == NO_TYPE { Err(DhcpParseError::NoMessageType) } else { Ok(message) }
    }

    fn read_option(&mut self, code: OptionCode, value: &[u8]) {
        match code {
            OptionCode::MessageType => self.kind = fixed(value).map_or(NO_TYPE, |[kind]| kind.into()),
            OptionCode::Hostname => self.host_name = opaque(value),
            OptionCode::RequestedIpAddress => self.requested = fixed::<4>(value).map(Ipv4Addr::from),
            OptionCode::ServerIdentifier => self.server = fixed::<4>(value).map(Ipv4Addr::from),
            OptionCode::MaxMessageSize => self.max_size = fixed(value).map(u16::from_be_bytes),
            OptionCode::ClassIdentifier => self.vendor_class = opaque(value),
            OptionCode::ClientIdentifier => self.client_id = opaque(value),
            OptionCode::UserClass => self.user_class = opaque(value),
            OptionCode::RelayAgentInformation => self.relay_info = opaque(value),
            OptionCode::ClientSystemArchitecture => self.architectures = architectures(value),
            OptionCode::ClientMachineIdentifier => self.machine_id = opaque(value),
            OptionCode::VendorExtensions => self.boot_item = boot_item(value),
            OptionCode::Unknown(IPXE_OPTIONS) => self.ipxe_options = opaque(value),
            _ => {}
        }
    }

    /// Returns whether `class` is a user class of the client.
    pub(crate) fn has_user_class(&self, class: &[u8]) -> bool {
        // RFC 3004 §4: several classes with a length before each. iPXE sends its only one without a
        // length.
        let mut reader = Reader::new(&self.user_class);
        let mut items = std::iter::from_fn(|| {
            let len = reader.u8().ok()?;
            reader.take(usize::from(len)).ok()
        });
        self.user_class == class || items.any(|item| item == class)
    }

    /// Returns the UUID of the machine, as dmidecode and iPXE print it; `None` if it has none.
    pub(crate) fn uuid(&self) -> Option<Guid> {
        // RFC 4578 §2.3: the type 0, then the UUID as it stands in SMBIOS.
        let uuid: [u8; 16] = self.machine_id.strip_prefix(&[0])?.try_into().ok()?;
        // SMBIOS 3.7 §7.2.1: machines without a UUID have all zeros or all ones.
        Some(Guid(uuid)).filter(|_| uuid != [0; 16] && uuid != [0xff; 16])
    }

    /// Returns a sub-option of option 82.
    pub(crate) fn relay_sub_option(&self, code: u8) -> Option<&[u8]> {
        tagged(&self.relay_info, code)
    }

    /// Returns whether iPXE may have a feature.
    pub(crate) fn may_have_ipxe_feature(&self, code: u8) -> bool {
        // An iPXE without option 175 does not list its features.
        self.ipxe_options.is_empty() || tagged(&self.ipxe_options, code).is_some()
    }

    /// Writes the message. The reverse of [`Message::parse`].
    pub fn emit(&self) -> Vec<u8> {
        let mut out = self.header.emit(&[]);
        put_option(&mut out, OptionCode::MessageType, &[self.kind.into()]);
        // RFC 3046 §2.1: option 82 is the last.
        let options = [
            (OptionCode::Hostname, &self.host_name),
            (OptionCode::RequestedIpAddress, &octets(self.requested)),
            (OptionCode::ServerIdentifier, &octets(self.server)),
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

fn octets(address: Option<Ipv4Addr>) -> Vec<u8> {
    address.map_or(Vec::new(), |address| address.octets().to_vec())
}

/// Checks that header and cookie are present and that each option ends inside the message, before
/// `dhcproto` reads it. Returns the options.
fn check_framing(datagram: &[u8]) -> Result<Reader<'_>, DhcpParseError> {
    let mut reader = Reader::new(datagram);
    reader.skip(HEADER_LEN)?;
    if reader.array()? != MAGIC {
        return Err(DhcpParseError::NoCookie);
    }
    let options = reader;
    while !reader.is_empty() {
        match reader.u8()? {
            // The only two options without a length.
            PAD => {}
            END => return Ok(options),
            _ => {
                let len = reader.u8()?;
                reader.skip(usize::from(len))?;
            }
        }
    }
    // RFC 2131 §4.1 demands an end option, but a message without one is complete too.
    Ok(options)
}

fn fixed<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

/// Copies a value without reading it.
fn opaque(value: &[u8]) -> Vec<u8> {
    // RFC 3396 splits longer values over several options. No such option needs one.
    if value.len() > MAX_OPTION_LEN { Vec::new() } else { value.to_vec() }
}

fn architectures(value: &[u8]) -> Vec<u16> {
    let (pairs, rest) = value.as_chunks::<2>();
    // RFC 4578 §2.1: an even number of bytes.
    if !rest.is_empty() || value.len() > MAX_OPTION_LEN {
        return Vec::new();
    }
    pairs.iter().map(|&pair| u16::from_be_bytes(pair)).collect()
}

fn boot_item(value: &[u8]) -> Option<[u8; 4]> {
    // RFC 2132 §8.4: the vendor defines option 43. One that does not hold tags of PXE is valid.
    tagged(value, PXE_BOOT_ITEM)?.try_into().ok()
}

/// Returns the value of `tag` in a list of tags, each with its length and value.
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

/// Writes an option.
fn put_option(out: &mut Vec<u8>, code: OptionCode, value: &[u8]) {
    // Ours are shorter than 256 bytes, and those of a peer are checked by `opaque`.
    if let Ok(len) = u8::try_from(value.len()) {
        out.put_slice(&[code.into(), len]);
        out.put_slice(value);
    }
}

/// Writes the end option and the padding.
fn finish(out: &mut Vec<u8>) {
    out.put_u8(END);
    // RFC 1542 §2.1: relay agents and old clients drop a message shorter than that of BOOTP.
    if out.len() < MIN_LEN {
        out.resize(MIN_LEN, 0);
    }
}

#[cfg(test)]
mod tests;
