//! What we send: text of ours and nothing but plain characters, in a size every client takes.

use std::net::Ipv4Addr;

use dhcproto::v4::{MessageType, OptionCode};

use super::{
    CONFIG_FILE, END, FILE_OFFSET, HEADER_LEN, Header, IPXE_OPTIONS, PXE_BOOT_ITEM, PXE_DISCOVERY_CONTROL,
    finish, put_option,
};
use crate::text::SafeText;

/// Shortest maximum a client may name, and what holds where it names none (RFC 2131 §2, RFC 2132 §9.10).
const MIN_MAX_SIZE: u16 = 576;
/// IP and UDP headers, which count into option 57.
const IP_UDP_LEN: usize = 28;
/// Most DNS servers sent.
const MAX_DNS: usize = 8;

/// PXE's discovery control, bit 3: no discovery, no menu, load the boot file at once (PXE 2.1 §2.3, tag 6). Without
/// it EDK2 and iPXE go on to ask port 4011.
const SKIP_DISCOVERY: [u8; 3] = [PXE_DISCOVERY_CONTROL, 1, 0x08];
/// iPXE's `no-pxedhcp`: do not wait for a proxyDHCP offer.
const NO_PXE_DHCP: [u8; 3] = [0xb0, 1, 1];

/// The class a boot server shows: exactly these characters, whatever follows in the client's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootClass {
    PxeClient,
    HttpClient,
}

impl BootClass {
    /// The text of option 60.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            BootClass::PxeClient => "PXEClient",
            BootClass::HttpClient => "HTTPClient",
        }
    }
}

/// An option of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyOption {
    /// 54.
    ServerIdentifier(Ipv4Addr),
    /// 51, seconds.
    LeaseTime(u32),
    /// 58, seconds until the client renews.
    Renewal(u32),
    /// 59, seconds until it asks any server.
    Rebinding(u32),
    /// 1.
    Netmask(Ipv4Addr),
    /// 3. Exactly one: lpxelinux ignores the option at any other length.
    Router(Ipv4Addr),
    /// 6. The first eight are sent.
    Dns(Vec<Ipv4Addr>),
    /// 60.
    BootClass(BootClass),
    /// 61, as the client sent it (RFC 6842 §3).
    ClientIdentifier(Vec<u8>),
    /// 97, as the client sent it (RFC 4578 §2.3).
    MachineIdentifier(Vec<u8>),
    /// 43 for PXE: take the boot file, ask nobody; the boot item a client chose is confirmed.
    SkipDiscovery { boot_item: Option<[u8; 4]> },
    /// 66: the address as text, for clients that do not look into `siaddr`.
    TftpServer(Ipv4Addr),
    /// 67. With a NUL behind it: EDK2 writes one there, past the end if need be.
    BootFile(SafeText),
    /// 209.
    ConfigFile(SafeText),
    /// 175 with `no-pxedhcp`.
    NoPxeDhcp,
}

impl ReplyOption {
    fn code(&self) -> OptionCode {
        match self {
            Self::ServerIdentifier(_) => OptionCode::ServerIdentifier,
            Self::LeaseTime(_) => OptionCode::AddressLeaseTime,
            Self::Renewal(_) => OptionCode::Renewal,
            Self::Rebinding(_) => OptionCode::Rebinding,
            Self::Netmask(_) => OptionCode::SubnetMask,
            Self::Router(_) => OptionCode::Router,
            Self::Dns(_) => OptionCode::DomainNameServer,
            Self::BootClass(_) => OptionCode::ClassIdentifier,
            Self::ClientIdentifier(_) => OptionCode::ClientIdentifier,
            Self::MachineIdentifier(_) => OptionCode::ClientMachineIdentifier,
            Self::SkipDiscovery { .. } => OptionCode::VendorExtensions,
            Self::TftpServer(_) => OptionCode::TFTPServerName,
            Self::BootFile(_) => OptionCode::BootfileName,
            Self::ConfigFile(_) => OptionCode::Unknown(CONFIG_FILE),
            Self::NoPxeDhcp => OptionCode::Unknown(IPXE_OPTIONS),
        }
    }

    fn value(&self) -> Vec<u8> {
        match self {
            Self::ServerIdentifier(address) | Self::Netmask(address) | Self::Router(address) => {
                address.octets().to_vec()
            }
            Self::LeaseTime(seconds) | Self::Renewal(seconds) | Self::Rebinding(seconds) => {
                seconds.to_be_bytes().to_vec()
            }
            Self::Dns(addresses) => addresses.iter().take(MAX_DNS).flat_map(Ipv4Addr::octets).collect(),
            Self::BootClass(class) => class.as_str().into(),
            Self::ClientIdentifier(bytes) | Self::MachineIdentifier(bytes) => bytes.clone(),
            Self::SkipDiscovery { boot_item } => skip_discovery(*boot_item),
            Self::TftpServer(address) => address.to_string().into(),
            Self::BootFile(file) => [file.as_str().as_bytes(), &[0]].concat(),
            Self::ConfigFile(file) => file.as_str().into(),
            Self::NoPxeDhcp => NO_PXE_DHCP.to_vec(),
        }
    }
}

fn skip_discovery(boot_item: Option<[u8; 4]>) -> Vec<u8> {
    match boot_item {
        Some(item) => [&SKIP_DISCOVERY[..], &self::boot_item(item)].concat(),
        None => [&SKIP_DISCOVERY[..], &[END]].concat(),
    }
}

/// Tag 71 and the end of PXE's tags.
pub(super) fn boot_item([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    vec![PXE_BOOT_ITEM, 4, a, b, c, d, END]
}

/// A message of ours to a client. Its text is [`SafeText`] or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub header: Header,
    /// Option 53, always the first.
    pub kind: MessageType,
    /// The most important first: what does not fit is left out from the end.
    pub options: Vec<ReplyOption>,
    /// Option 82 as the relay agent sent it: echoed behind all others (RFC 3046 §2.2), unless empty.
    pub relay_info: Vec<u8>,
    /// The longest message the client takes (option 57).
    pub max_size: Option<u16>,
}

impl Reply {
    /// The boot file, if one is offered.
    pub(crate) fn boot_file(&self) -> Option<&SafeText> {
        self.options.iter().find_map(|option| match option {
            ReplyOption::BootFile(file) => Some(file),
            _ => None,
        })
    }

    /// Writes the message: at least 300 bytes, never more than the client takes, no option overload (old ROMs and
    /// klibc misread it). The boot file stands in `file` too, where it fits with a NUL behind it.
    pub fn emit(&self) -> Vec<u8> {
        let file = self.boot_file().map_or("", SafeText::as_str).as_bytes();
        let fits = file.len() < HEADER_LEN - FILE_OFFSET;
        let mut out = self.header.emit(if fits { file } else { &[] });
        put_option(&mut out, OptionCode::MessageType, &[self.kind.into()]);
        let room = self.max_len() - self.tail_len();
        for option in &self.options {
            let value = option.value();
            if out.len() + 2 + value.len() <= room {
                put_option(&mut out, option.code(), &value);
            }
        }
        if !self.relay_info.is_empty() {
            put_option(&mut out, OptionCode::RelayAgentInformation, &self.relay_info);
        }
        finish(&mut out);
        out
    }

    /// Most bytes of payload.
    fn max_len(&self) -> usize {
        usize::from(self.max_size.unwrap_or(0).max(MIN_MAX_SIZE)) - IP_UDP_LEN
    }

    /// Bytes kept free for option 82 and the end: with 255 of the former there is room for the address even in the
    /// shortest message.
    fn tail_len(&self) -> usize {
        let relay_info = if self.relay_info.is_empty() { 0 } else { 2 + self.relay_info.len() };
        relay_info + 1
    }
}
