//! What single settings may be. Each function takes a text and gives the value, or says why it is none and what to
//! write instead, as the end of a sentence that starts with the text.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use bytes::Bytes;

use super::{Asked, Door, LogFormat, RootDoors};
use crate::boot::menu::{CopyToRam, Root};
use crate::boot::{Architecture, MacPrefix, Quirk, UefiBy, UnknownQuirkError};
use crate::dhcp::lease::{BadPool, Pool};
use crate::export::allowed::Subnet;
use crate::images::name::{NAME_MAX, is_image_name};
use crate::text::Word;
use crate::uki::Stub;
use crate::uki::pe::{EFI_APPLICATION, Headers, X86_64};
use crate::uki::stub::{STUB_MAX, STUB_PATH};

/// Longest time the menu may wait, in seconds: PXELINUX counts tenths up to 35996 (doc/menu.txt).
const MENU_TIMEOUT_MAX: u16 = 3599;
/// Leases shorter than this would be renewed all the time; longer ones than this are for ever to a boot server.
const LEASE_SECONDS: std::ops::RangeInclusive<u32> = 120..=30 * 86_400;

/// Why a text is not the value it should be, and what to write instead.
pub type Refusal = String;

pub fn image_name(text: &str) -> Result<Word, Refusal> {
    Word::new(text).filter(|_| is_image_name(text)).ok_or_else(|| {
        format!("is no name for an image: up to {NAME_MAX} letters, digits, `.`, `_`, `-`, and not `isowire`")
    })
}

pub fn interface(text: &str) -> Result<String, Refusal> {
    // IFNAMSIZ is 16 with the NUL.
    let fits = (1..16).contains(&text.len()) && !text.contains(['/', ' ']);
    if fits { Ok(text.to_owned()) } else { Err("is no name of an interface: see `ip link`".into()) }
}

pub fn address(text: &str) -> Result<Ipv4Addr, Refusal> {
    text.parse().map_err(|_| "is no IPv4 address: write one like 192.168.1.10".into())
}

/// An address that a machine can talk to.
pub fn host_address(text: &str) -> Result<Ipv4Addr, Refusal> {
    let address = address(text).ok().filter(|&address| is_host(address));
    address.ok_or_else(|| "is no IPv4 address of a host: write one like 192.168.1.10".into())
}

fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()
}

pub fn subnet(text: &str) -> Result<Subnet, Refusal> {
    text.parse().map_err(|bad| format!("is {bad}"))
}

pub fn netmask(text: &str) -> Result<Ipv4Addr, Refusal> {
    let mask = |a: &Ipv4Addr| a.to_bits().leading_ones() + a.to_bits().trailing_zeros() == 32;
    address(text)
        .ok()
        .filter(mask)
        .filter(|a| (8..=30).contains(&a.to_bits().leading_ones()))
        .ok_or_else(|| "is no netmask of a network to boot in: write one like 255.255.255.0".into())
}

pub fn door(text: &str) -> Result<Door, Refusal> {
    match text {
        "off" => Ok(Door::Off),
        text => port(text).map(|port| Door::On { port, asked: Asked::ByOperator }),
    }
}

fn port(text: &str) -> Result<u16, Refusal> {
    text.parse().map_err(|_| "is no port: write a number up to 65535, or `off`".into())
}

/// Reads and checks an EFI stub.
pub fn stub(path: &Path) -> Result<Stub, Refusal> {
    let bytes = read(path, STUB_MAX)?;
    if bytes.len() as u64 > STUB_MAX {
        return Err(format!("is larger than {STUB_MAX} bytes: name the {STUB_PATH} of a systemd"));
    }
    Stub::parse(bytes).map_err(|why| format!("cannot be used: {why}: name the {STUB_PATH} of a systemd"))
}

/// What UEFI machines load.
pub fn uefi(text: &str) -> Result<UefiBy, Refusal> {
    match text {
        "composed" => Ok(UefiBy::Composed),
        "ipxe" => Ok(UefiBy::Ipxe),
        _ => Err("is neither `composed` nor `ipxe`".into()),
    }
}

/// Where distributions put iPXE for UEFI: Arch and Fedora, Debian. The one without drivers of its own comes first: the
/// firmware's have just been seen to work.
const IPXE_PLACES: [&str; 6] = [
    "/usr/share/ipxe/x86_64/snponly.efi",
    "/usr/share/ipxe/snponly.efi",
    "/usr/lib/ipxe/snponly.efi",
    "/usr/share/ipxe/x86_64/ipxe.efi",
    "/usr/share/ipxe/ipxe.efi",
    "/usr/lib/ipxe/ipxe.efi",
];

/// Largest iPXE that is read, in bytes; those of distributions have one or two hundred thousand.
const IPXE_MAX: u64 = 8 << 20;

/// The iPXE of this host.
pub fn ipxe_of_host() -> Result<Bytes, Refusal> {
    let place = IPXE_PLACES.iter().map(Path::new).find(|place| place.is_file());
    place.map_or_else(|| Err("finds no iPXE on this host: install it, or name one by `ipxe`".into()), ipxe)
}

/// Reads iPXE, and makes sure that it is for UEFI.
pub fn ipxe(path: &Path) -> Result<Bytes, Refusal> {
    let bytes = read(path, IPXE_MAX)?;
    let headers = Headers::parse(&bytes).map_err(|why| format!("is no program for UEFI: {why}"))?;
    let fits = headers.machine == X86_64 && headers.subsystem == EFI_APPLICATION;
    fits.then(|| bytes.into())
        .ok_or_else(|| "is no program for UEFI on x86-64: name a snponly.efi or ipxe.efi".into())
}

/// The first bytes of a file, one more than `max` where it has more.
fn read(path: &Path, max: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}"))?;
    Ok(bytes)
}

pub fn mac_prefix(text: &str) -> Result<MacPrefix, Refusal> {
    text.parse()
        .map_err(|_| "is no MAC address, nor the start of one: write 52:54:00:12:34:56 or 52:54:00".into())
}

/// The client system architectures that a word stands for.
pub fn architectures(text: &str) -> Result<Vec<Architecture>, Refusal> {
    match text {
        "bios" => Ok(vec![Architecture::BIOS]),
        "uefi" => Ok(vec![Architecture::UEFI, Architecture::EBC, Architecture::UEFI_HTTP]),
        "uefi-pxe" => Ok(vec![Architecture::UEFI, Architecture::EBC]),
        "uefi-http" => Ok(vec![Architecture::UEFI_HTTP]),
        number => number.parse().map(|number| vec![Architecture(number)]).map_err(|_| {
            "is none of `bios`, `uefi`, `uefi-pxe`, `uefi-http`, and no number of DHCP option 93".into()
        }),
    }
}

/// How a vendor class begins.
pub fn vendor(text: &str) -> Result<String, Refusal> {
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    fits.then(|| text.to_owned())
        .ok_or_else(|| "is no start of a vendor class (DHCP option 60), as PXEClient:Arch:00007".into())
}

pub fn quirk(text: &str) -> Result<Quirk, Refusal> {
    text.parse().map_err(|unknown: UnknownQuirkError| unknown.to_string())
}

pub fn truth(text: &str) -> Result<bool, Refusal> {
    text.parse().map_err(|_| "is neither `true` nor `false`".into())
}

/// The words of `dhcp`.
pub enum Mode {
    Off,
    Proxy,
    Server,
}

pub fn dhcp_mode(text: &str) -> Result<Mode, Refusal> {
    match text {
        "off" => Ok(Mode::Off),
        "proxy" => Ok(Mode::Proxy),
        "server" => Ok(Mode::Server),
        _ => Err("is none of `off`, `proxy`, `server`".into()),
    }
}

pub fn range(text: &str) -> Result<Pool, Refusal> {
    let pool: Pool = text.parse().map_err(|bad| match bad {
        BadPool::Form(_) => "is no range: write one like 192.168.1.100-192.168.1.199".to_owned(),
        BadPool::Reversed { .. } => "ends before it starts: swap the two addresses".to_owned(),
        BadPool::TooLarge { .. } => format!("has more than {} addresses: take fewer", Pool::MAX_LEN),
    })?;
    let ends = [pool.first(), pool.last()];
    if ends.into_iter().all(is_host) { Ok(pool) } else { Err("has addresses that no host can have".into()) }
}

/// Seconds, as a number with or without a unit.
pub fn lease_time(text: &str) -> Result<u32, Refusal> {
    let unit = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let (number, seconds) = match text.char_indices().last() {
        Some((end, last)) if unit(last).is_some() => (text.split_at(end).0, unit(last).unwrap_or(1)),
        _ => (text, 1),
    };
    let time = number.parse::<u32>().ok().and_then(|number| number.checked_mul(seconds));
    time.filter(|time| LEASE_SECONDS.contains(time))
        .ok_or_else(|| "is no lease time: write one from `2m` to `30d`, like `1d`".into())
}

pub fn root(text: &str, doors: &RootDoors) -> Result<Root, Refusal> {
    let root = match text {
        "nbd" => Root::Nbd,
        "nfs" => Root::Nfs,
        "http" => Root::Http,
        _ => return Err("is none of `nbd`, `nfs`, `http`".into()),
    };
    match doors.lacks(root) {
        Some(service) if service == text => Err("is off: turn it on, or choose another root".into()),
        Some(service) => Err(format!("needs `{service}`, which is off: turn it on, or choose another root")),
        None => Ok(root),
    }
}

pub fn copytoram(text: &str) -> Result<CopyToRam, Refusal> {
    match text {
        "yes" => Ok(CopyToRam::Yes),
        "no" => Ok(CopyToRam::No),
        "auto" => Ok(CopyToRam::Auto),
        _ => Err("is none of `yes`, `no`, `auto`".into()),
    }
}

pub fn menu_timeout(text: &str) -> Result<u16, Refusal> {
    let seconds = text.parse().ok().filter(|seconds| *seconds <= MENU_TIMEOUT_MAX);
    seconds.ok_or_else(|| format!("is no time in seconds up to {MENU_TIMEOUT_MAX}; 0 waits for ever"))
}

pub fn parameter(text: &str) -> Result<Word, Refusal> {
    // PXELINUX takes the first `initrd=` it sees for the list of initramfs images.
    let free = !text.contains("initrd=");
    Word::new(text).filter(|_| free).ok_or_else(|| {
        "is not one kernel parameter: write each as a text of its own, without spaces, `initrd=` and `${`"
            .into()
    })
}

/// `None` for `off`.
pub fn status(text: &str) -> Result<Option<SocketAddrV4>, Refusal> {
    match text {
        "off" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| "is no IPv4 address with a port: write one like 127.0.0.1:8081, or `off`".into()),
    }
}

pub fn log_format(text: &str) -> Result<LogFormat, Refusal> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither `text` nor `json`".into()),
    }
}
