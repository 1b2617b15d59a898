//! Layout of our replies. Their text has plain characters only, and all clients accept their size.

use std::net::Ipv4Addr;

use dhcproto::v4::{MessageType, OptionCode};

use super::{
    CONFIG_FILE, END, FILE_OFFSET, HEADER_LEN, Header, IPXE_OPTIONS, PXE_BOOT_ITEM, PXE_DISCOVERY_CONTROL,
    finish, put_option,
};
use crate::text::SafeText;

/// Smallest maximum that a client may name (RFC 2132 §9.10), and the one of a client that names
/// none (RFC 2131 §2).
const MIN_MAX_SIZE: u16 = 576;
/// IP and UDP headers, which option 57 includes.
const IP_UDP_LEN: usize = 28;
/// Largest number of DNS servers sent, so that they leave room for the boot options.
const MAX_DNS: usize = 8;

/// Discovery control with bit 3 (PXE 2.1 §2.3, table 2-1): no discovery and no menu, load the boot
/// file at once. Without it EDK2 asks port 4011 first.
const SKIP_DISCOVERY: [u8; 3] = [PXE_DISCOVERY_CONTROL, 1, 0x08];
/// `no-pxedhcp` of iPXE: do not wait for a proxyDHCP offer (src/include/ipxe/dhcp.h).
const NO_PXE_DHCP: [u8; 3] = [0xb0, 1, 1];

/// Class of a boot server: exactly these characters. That of a client goes on after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootClass {
    PxeClient,
    HttpClient,
}

impl BootClass {
    /// Returns the text of option 60.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            BootClass::PxeClient => "PXEClient",
            BootClass::HttpClient => "HTTPClient",
        }
    }
}

/// Option of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyOption {
    /// 54.
    ServerIdentifier(Ipv4Addr),
    /// 51: seconds.
    LeaseTime(u32),
    /// 58: seconds until the client renews its lease.
    Renewal(u32),
    /// 59: seconds until the client asks any server.
    Rebinding(u32),
    /// 1.
    Netmask(Ipv4Addr),
    /// 3: one router, since lpxelinux ignores an option of any other length.
    Router(Ipv4Addr),
    /// 6: the first eight are sent.
    Dns(Vec<Ipv4Addr>),
    /// 60.
    BootClass(BootClass),
    /// 61, as the client sent it (RFC 6842 §3).
    ClientIdentifier(Vec<u8>),
    /// 97, as the client sent it (RFC 4578 §2.3).
    MachineIdentifier(Vec<u8>),
    /// 43 for PXE: load the boot file at once; confirms the boot item that a client chose.
    SkipDiscovery { boot_item: Option<[u8; 4]> },
    /// 66: the address as text, for clients that do not read `siaddr`.
    TftpServer(Ipv4Addr),
    /// 67.
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
            // EDK2 writes a NUL after the name, past the end of the option if there is no room.
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

/// Writes tag 71 and the end of the tags of PXE.
pub(super) fn boot_item([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    vec![PXE_BOOT_ITEM, 4, a, b, c, d, END]
}

/// Message to a client. The initramfs reads some of its text as shell code, so all is [`SafeText`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub header: Header,
    /// Option 53, always the first.
    pub kind: MessageType,
    /// Other options, the most important first: those that do not fit are left out from the end.
    pub options: Vec<ReplyOption>,
    /// Option 82 as the relay agent sent it.
    pub relay_info: Vec<u8>,
    /// Longest message that the client accepts (option 57).
    pub max_size: Option<u16>,
}

impl Reply {
    /// Returns the boot file, if one is offered.
    pub(crate) fn boot_file(&self) -> Option<&SafeText> {
        self.options.iter().find_map(|option| match option {
            ReplyOption::BootFile(file) => Some(file),
            _ => None,
        })
    }

    /// Writes the message: at least 300 bytes, and at most as many as the client accepts.
    pub fn emit(&self) -> Vec<u8> {
        // Some clients read `file`, some option 67. A name in `file` needs a NUL at its end. `file`
        // and `sname` never hold options (RFC 2132 §9.3): klibc and old ROMs misread them there.
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
        // RFC 3046 §2.2: echoed as the last option.
        if !self.relay_info.is_empty() {
            put_option(&mut out, OptionCode::RelayAgentInformation, &self.relay_info);
        }
        finish(&mut out);
        out
    }

    /// Returns the largest length of the message.
    fn max_len(&self) -> usize {
        usize::from(self.max_size.unwrap_or(0).max(MIN_MAX_SIZE)) - IP_UDP_LEN
    }

    /// Returns the length of option 82 and the end option.
    fn tail_len(&self) -> usize {
        // At most 258 bytes: even a client that accepts 576 learns its address.
        let relay_info = if self.relay_info.is_empty() { 0 } else { 2 + self.relay_info.len() };
        relay_info + 1
    }
}
