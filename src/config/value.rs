//! Parsers of single settings. Each returns the value of a text, or says why it is invalid and what
//! to write instead.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ipnet::{Ipv4Net, ipv4_mask_to_prefix};

use super::LogFormat;
use crate::boot::menu::CopyToRam;
use crate::boot::{Architecture, MacPrefix, Quirk, UefiBy, UnknownQuirkError};
use crate::dhcp::lease::{Pool, PoolError};
use crate::images::name::{NAME_MAX, is_image_name};
use crate::text::Word;
use crate::uki::Stub;
use crate::uki::pe::{EFI_APPLICATION, Headers, X86_64};
use crate::uki::stub::{STUB_MAX, STUB_PATH};

/// Longest wait of the menu in seconds; PXELINUX counts tenths up to 35996 (doc/menu.txt).
const MENU_TIMEOUT_MAX: u16 = 3599;
/// Shortest and longest lease. Shorter ones would be renewed all the time. Longer ones would keep
/// the addresses of machines that booted once.
const LEASE_SECONDS: RangeInclusive<u32> = 120..=30 * 86_400;

/// Shortest and longest wait for a disk. For ever would hide that it does not come back.
const STALL_SECONDS: RangeInclusive<u32> = 1..=30 * 86_400;

/// Prefix lengths of netmasks. A longer one leaves no address for a server and a machine.
const PREFIX_LENGTHS: RangeInclusive<u8> = 8..=30;

pub(super) fn image_name(text: &str) -> Result<Word, String> {
    // It becomes a part of NBD export names, paths and URLs.
    Word::new(text).filter(|_| is_image_name(text)).ok_or_else(|| {
        format!(
            "invalid image name; expected up to {NAME_MAX} letters, digits, `.`, `_`, `-`, and not `isowire`"
        )
    })
}

pub(super) fn interface(text: &str) -> Result<String, String> {
    // Linux: IFNAMSIZ is 16 with the NUL, and dev_valid_name refuses `/` and spaces.
    let fits = (1..16).contains(&text.len()) && !text.contains(['/', ' ']);
    if fits { Ok(text.to_owned()) } else { Err("invalid interface name; see `ip link`".into()) }
}

pub(super) fn address(text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| "invalid IPv4 address; expected one like 192.168.1.10".into())
}

/// Parses the address of a host.
pub(super) fn host_address(text: &str) -> Result<Ipv4Addr, String> {
    let address = address(text).ok().filter(|&address| is_host(address));
    address.ok_or_else(|| "invalid IPv4 address of a host; expected one like 192.168.1.10".into())
}

/// Parses the address of this host for machines, or its base URL, `http://ADDRESS[:PORT][/]`, which
/// also names the port of HTTP.
pub(super) fn advertised(text: &str) -> Result<(Ipv4Addr, Option<u16>), String> {
    let Some(url) = text.strip_prefix("http://") else {
        return host_address(text).map(|address| (address, None)).map_err(|_| BAD_ADVERTISED.into());
    };
    let host = url.strip_suffix('/').unwrap_or(url);
    let socket = host.parse().or_else(|_| host.parse().map(|address| SocketAddrV4::new(address, URL_PORT)));
    let socket = socket.ok().filter(|socket| is_host(*socket.ip()) && socket.port() > 0);
    socket.map(|socket| (*socket.ip(), Some(socket.port()))).ok_or_else(|| BAD_ADVERTISED.into())
}

/// Port of an `http` URL without one (RFC 9110 §4.2.1).
const URL_PORT: u16 = 80;

/// Names are not taken: DHCP and the kernel's command line need an address.
const BAD_ADVERTISED: &str = "invalid address; expected an IPv4 address like 192.168.1.10, or a URL with it like http://192.168.1.10:8080/";

/// Returns false for addresses that do not mean a single host.
fn is_host(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast()
}

/// Parses a network in CIDR notation (RFC 4632 §3.1), or a single address.
pub(super) fn network(text: &str) -> Result<Ipv4Net, String> {
    let Some(network) = any_network(text) else {
        let several = text.split([',', ' ']).filter(|part| !part.is_empty());
        return Err(match several.clone().count() > 1 && several.clone().all(|part| any_network(part).is_some()) {
            true => "several networks in one value; separate them by commas on the command line, and give them as a \
                     list in the file"
                .to_owned(),
            false => "invalid network; expected one like 192.168.1.0/24, or a single address".to_owned(),
        });
    };
    let trunc = network.trunc();
    // Most likely the address or the prefix length was mistyped.
    match network == trunc {
        true => Ok(network),
        false => Err(format!("host bits set; expected {trunc} or a single address")),
    }
}

/// Parses a network whose host bits may be set, or a single address.
fn any_network(text: &str) -> Option<Ipv4Net> {
    text.parse::<Ipv4Addr>().map(Ipv4Net::from).or_else(|_| text.parse()).ok()
}

/// Tells whether an argument in the place of an ISO is a network: `--allow` takes one argument.
pub(super) fn is_network(argument: &Path) -> bool {
    argument.to_str().and_then(any_network).is_some() && !argument.exists()
}

pub(super) fn netmask(text: &str) -> Result<Ipv4Addr, String> {
    let mask = address(text).ok().filter(|&mask| {
        // It fails for a mask with a hole, as 255.0.255.0.
        ipv4_mask_to_prefix(mask).is_ok_and(|prefix| PREFIX_LENGTHS.contains(&prefix))
    });
    mask.ok_or_else(|| "invalid netmask; expected one from 255.0.0.0 to 255.255.255.252".into())
}

/// Reads and checks an EFI stub.
pub(super) fn stub(path: &Path) -> Result<Stub, String> {
    // Each machine's boot program begins with it, so it stays in memory.
    let bytes = read(path, STUB_MAX).map_err(|why| {
        format!("{why}; give {STUB_PATH} of systemd, or leave it out for the one in the image")
    })?;
    Stub::parse(bytes).map_err(|why| format!("unusable EFI stub: {why}; expected {STUB_PATH} of systemd"))
}

pub(super) fn uefi(text: &str) -> Result<UefiBy, String> {
    match text {
        "composed" => Ok(UefiBy::Composed),
        "ipxe" => Ok(UefiBy::Ipxe),
        _ => Err("invalid program; expected `composed` or `ipxe`".into()),
    }
}

/// Paths of iPXE for UEFI in Arch, Fedora and Debian. snponly.efi comes first: it uses the driver
/// of the firmware, which has just loaded it.
const IPXE_PLACES: [&str; 6] = [
    "/usr/share/ipxe/x86_64/snponly.efi",
    "/usr/share/ipxe/snponly.efi",
    "/usr/lib/ipxe/snponly.efi",
    "/usr/share/ipxe/x86_64/ipxe.efi",
    "/usr/share/ipxe/ipxe.efi",
    "/usr/lib/ipxe/ipxe.efi",
];

/// Largest iPXE that is read; those of distributions have up to 300 KiB.
const IPXE_MAX: u64 = 8 << 20;

/// Reads the iPXE that this host has installed.
pub(super) fn ipxe_of_host() -> Result<Bytes, String> {
    let place = IPXE_PLACES.iter().map(Path::new).find(|place| place.is_file());
    place
        .map_or_else(|| Err("no iPXE found on this host; install it or give its path as `ipxe`".into()), ipxe)
}

/// Paths of iPXE for BIOS in Arch, Fedora and Debian. It uses the driver of the ROM that loaded it.
const BIOS_IPXE_PLACES: [&str; 3] =
    ["/usr/share/ipxe/undionly.kpxe", "/usr/share/ipxe/x86/undionly.kpxe", "/usr/lib/ipxe/undionly.kpxe"];

/// First byte of a program for BIOS: a far jump into iPXE (src/arch/x86/prefix/pxeprefix.S).
const FAR_JUMP: u8 = 0xea;

/// Largest program that a BIOS loads: it lies below 640 KiB, as does the ROM's own memory.
const BIOS_PROGRAM_MAX: u64 = 512 << 10;

/// Returns the iPXE for UEFI that this host has installed, if it is usable.
pub(crate) fn uefi_ipxe_of_host() -> Option<Bytes> {
    ipxe_of_host().ok()
}

/// Returns the iPXE for BIOS that this host has installed, if it is usable.
pub(crate) fn bios_ipxe_of_host() -> Option<Bytes> {
    let bytes = BIOS_IPXE_PLACES.iter().find_map(|place| read(Path::new(place), BIOS_PROGRAM_MAX).ok())?;
    let fits = bytes.first() == Some(&FAR_JUMP) && bytes.len() as u64 <= BIOS_PROGRAM_MAX;
    fits.then(|| bytes.into())
}

/// Reads iPXE and checks that it is for UEFI on x86-64.
pub(super) fn ipxe(path: &Path) -> Result<Bytes, String> {
    let bytes = read(path, IPXE_MAX).map_err(|why| {
        format!(
            "{why}; give snponly.efi or ipxe.efi, or leave it out: `uefi = ipxe` finds the one of this host"
        )
    })?;
    let headers = Headers::parse(&bytes)
        .map_err(|why| format!("not a UEFI program: {why}; expected snponly.efi or ipxe.efi"))?;
    // An iPXE for BIOS or another processor would be refused by the firmware.
    let fits = headers.machine == X86_64 && headers.subsystem == EFI_APPLICATION;
    fits.then(|| bytes.into())
        .ok_or_else(|| "not a UEFI program for x86-64; expected snponly.efi or ipxe.efi".into())
}

/// Reads a file of at most `max` bytes.
pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    // A device such as /dev/zero has no end.
    let read = File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > max => Err(format!("larger than {max} bytes")),
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Err("no such file".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

pub(super) fn mac_prefix(text: &str) -> Result<MacPrefix, String> {
    text.parse().map_err(|_| {
        "invalid MAC address; expected one like 52:54:00:12:34:56 or its start, like 52:54:00".into()
    })
}

/// Returns the client system architectures (RFC 4578 §2.1) that a word stands for.
pub(super) fn architectures(text: &str) -> Result<Vec<Architecture>, String> {
    match text {
        "bios" => Ok(vec![Architecture::BIOS]),
        // x64 firmware sends 7 or 9: RFC 4578 §2.1 and IANA's registry exchange the two.
        "uefi" => Ok(vec![Architecture::UEFI, Architecture::EBC, Architecture::UEFI_HTTP]),
        "uefi-pxe" => Ok(vec![Architecture::UEFI, Architecture::EBC]),
        "uefi-http" => Ok(vec![Architecture::UEFI_HTTP]),
        number => number.parse().map(|number| vec![Architecture(number)]).map_err(|_| {
            "invalid architecture; expected `bios`, `uefi`, `uefi-pxe`, `uefi-http` or a number of DHCP option 93".into()
        }),
    }
}

/// Parses the name of a machine: a host name of one label (RFC 1123 §2.1).
pub(super) fn host_name(text: &str) -> Result<Word, String> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    Word::new(text)
        .filter(|_| fits)
        .ok_or_else(|| "invalid host name; expected up to 63 letters, digits and `-`".into())
}

/// Parses the start of a vendor class.
pub(super) fn vendor(text: &str) -> Result<String, String> {
    // RFC 2132 §9.13: any bytes, but all known ones are printable, and an option holds 255.
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    fits.then(|| text.to_owned()).ok_or_else(|| {
        "invalid vendor class (DHCP option 60); expected the start of one like PXEClient:Arch:00007".into()
    })
}

pub(super) fn quirk(text: &str) -> Result<Quirk, String> {
    text.parse().map_err(|_: UnknownQuirkError| {
        format!("invalid quirk; expected {}", one_of(&Quirk::ALL.map(Quirk::as_str)))
    })
}

pub(super) fn truth(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected `true` or `false`".into())
}

/// Value of `dhcp`.
pub(super) enum DhcpMode {
    Off,
    Proxy,
    Server,
}

pub(super) fn dhcp_mode(text: &str) -> Result<DhcpMode, String> {
    match text {
        "off" => Ok(DhcpMode::Off),
        "proxy" => Ok(DhcpMode::Proxy),
        "server" => Ok(DhcpMode::Server),
        _ => Err("invalid DHCP mode; expected `off`, `proxy` or `server`".into()),
    }
}

pub(super) fn range(text: &str) -> Result<Pool, String> {
    let pool: Pool = text.parse().map_err(|bad| match bad {
        PoolError::Form(_) => "invalid range; expected one like 192.168.1.100-192.168.1.199".to_owned(),
        PoolError::Reversed { .. } => "ends before it starts; swap the two addresses".to_owned(),
        PoolError::TooLarge { .. } => format!("more than {} addresses; take fewer", Pool::MAX_LEN),
    })?;
    // Such addresses are at the ends of the address space or in a block of 2^28, so a range of at
    // most 65536 addresses that contains one has one at an end.
    let ends = [pool.first(), pool.last()];
    if ends.into_iter().all(is_host) {
        Ok(pool)
    } else {
        Err("contains addresses that no host can have; change its ends".into())
    }
}

/// Parses a lease time.
pub(super) fn lease_time(text: &str) -> Result<u32, String> {
    time(text)
        .filter(|time| LEASE_SECONDS.contains(time))
        .ok_or_else(|| "invalid lease time; expected one from `2m` to `30d`, like `1d`".into())
}

/// Parses the time for which clients wait for a disk.
pub(super) fn stall_timeout(text: &str) -> Result<Duration, String> {
    let time = time(text).filter(|time| STALL_SECONDS.contains(time));
    time.map(|seconds| Duration::from_secs(seconds.into()))
        .ok_or_else(|| "invalid time; expected one from `1s` to `30d`, like `10m`".into())
}

/// Parses a time in seconds, or in the unit that follows the number.
fn time(text: &str) -> Option<u32> {
    let (number, unit) = match text.char_indices().last() {
        Some((end, unit)) if !unit.is_ascii_digit() => (text.split_at(end).0, unit),
        _ => (text, 's'),
    };
    number.parse::<u32>().ok()?.checked_mul(seconds(unit)?)
}

/// Returns the seconds of a unit of time.
const fn seconds(unit: char) -> Option<u32> {
    match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    }
}

/// Formats words to choose from as a list.
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

pub(super) fn copytoram(text: &str) -> Result<CopyToRam, String> {
    match text {
        // archiso's own values, and what people write for them.
        "yes" | "y" | "true" => Ok(CopyToRam::Yes),
        "no" | "n" | "false" => Ok(CopyToRam::No),
        "auto" => Ok(CopyToRam::Auto),
        _ => Err("expected `yes`, `no` or `auto`".into()),
    }
}

pub(super) fn menu_timeout(text: &str) -> Result<u16, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds <= MENU_TIMEOUT_MAX);
    seconds
        .ok_or_else(|| format!("invalid time; expected seconds up to {MENU_TIMEOUT_MAX}, 0 waits for ever"))
}

pub(super) fn parameter(text: &str) -> Result<Word, String> {
    // PXELINUX takes the first `initrd=` it sees for the list of initramfs images.
    let free = !text.contains("initrd=");
    Word::new(text).filter(|_| free).ok_or_else(|| {
        "invalid kernel parameter; give each as a string of its own, without spaces, `initrd=` and `${`"
            .into()
    })
}

/// Numbers that a limit may have. Each connection, transfer or machine takes some kilobytes.
const COUNTS: RangeInclusive<usize> = 16..=1 << 20;

/// Parses a limit.
pub(super) fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| COUNTS.contains(count));
    count.ok_or_else(|| format!("invalid number; expected one from {} to {}", COUNTS.start(), COUNTS.end()))
}

/// Smallest cache of images in object stores: what one machine reads to boot is in it once.
const CACHE_MIN: u64 = 256 << 20;

/// Parses the size of the cache: bytes, or a number with K, M, G or T (1024, its square, and so on).
pub(super) fn cache_size(text: &str) -> Result<u64, String> {
    let size = size(text).filter(|&size| size >= CACHE_MIN);
    size.ok_or_else(|| "invalid size; expected one from `256M` up, like `20G`".into())
}

fn size(text: &str) -> Option<u64> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (number, shift) = unit.unwrap_or((text, 0));
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Parses the number of lines that are logged before they are counted; `None` means all.
pub(super) fn log_repeats(text: &str) -> Result<Option<NonZeroU32>, String> {
    match text {
        "off" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| "invalid number; expected one from 1 up, or `off`".into()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("invalid log format; expected `text` or `json`".into()),
    }
}
