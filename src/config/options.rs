//! The options of `serve`, as they are written: option of the command line, key of the configuration
//! file and help in one.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use serde::Deserialize;

use super::raw::{RawValue, networks, one_or_more};

/// Serve ISOs to machines that boot from the network.
///
/// Answers DHCP, beside another DHCP server or as the only one. Sends boot loader, menu, kernel and
/// initramfs out of the image by TFTP and HTTP. Serves the image as the root file system by NBD,
/// its tree by NFS, and its files by HTTP. Nothing is mounted or unpacked. When all services are
/// up, it prints a table of them and the line `ready`.
///
/// With several ISOs the first is the default. Of a folder every *.iso is served, the newest
/// version first. Images that are added, replaced or removed are noticed without a restart;
/// machines keep the image that they booted.
///
/// Images may also be in object stores: s3://BUCKET/FOLDER/, s3://BUCKET/FILE.iso, or
/// https://HOST/FILE.iso. AWS_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say where buckets
/// are and who asks. What is read of them is kept in --cache-dir.
///
/// Root is not needed. Ports below 1024 need the capability CAP_NET_BIND_SERVICE, sockets from
/// systemd, or `sysctl net.ipv4.ip_unprivileged_port_start=67`.
///
/// Each option is also a key of the configuration file, without the dashes; the command line wins.
#[derive(Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServeOptions {
    /// Images to serve, or folders of them, also in object stores: s3://BUCKET/FOLDER/
    // The file has them as [[image]], each with its own settings.
    #[arg(value_name = "ISO", value_hint = ValueHint::AnyPath)]
    #[serde(skip)]
    pub iso: Vec<PathBuf>,

    /// Read settings from this file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Take over from the isowire that runs, without a dropped client
    ///
    /// Gets its NBD connections, images and machines over a private socket of this user. If that
    /// fails, the other one goes on.
    #[arg(long)]
    #[serde(skip)]
    pub(super) takeover: bool,

    /// Answer DHCP on this network interface only [default: all]
    #[arg(short, long, value_name = "IF", value_hint = ValueHint::Other)]
    pub(super) interface: Option<RawValue>,

    /// Start without that interface and wait for it
    ///
    /// A service of systemd waits by itself. With --dhcp-range, an interface that has no address on
    /// the network of the range yet is waited for too.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(super) wait_interface: Option<RawValue>,

    /// Listen on this IPv4 address only [default: 0.0.0.0]
    ///
    /// DHCP answers the machines that reach it: those on the network of this address, and those
    /// behind relay agents.
    #[arg(long, value_name = "ADDR", value_hint = ValueHint::Other)]
    pub(super) bind: Option<RawValue>,

    /// Admit only clients of these networks, each like 192.168.1.0/24 or 192.168.1.10 [default:
    /// all]
    #[arg(long, value_name = "NET", value_delimiter = ',', value_hint = ValueHint::Other)]
    #[serde(deserialize_with = "networks")]
    pub(super) allow: Option<Vec<RawValue>>,

    /// Address or base URL of this host to tell machines [default: the address that a request
    /// reached]
    ///
    /// A URL like http://192.168.1.10:8080/ also names the port of HTTP that machines reach.
    #[arg(long, value_name = "ADDR|URL", value_hint = ValueHint::Other)]
    pub(super) advertise: Option<RawValue>,

    /// Port of NBD [default: 10809]
    ///
    /// archiso's initramfs always connects to port 10809.
    #[arg(long, value_name = "PORT|off", value_hint = ValueHint::Other)]
    pub(super) nbd: Option<RawValue>,

    /// Port of NFS (version 3) and MOUNT [default: 2049]
    #[arg(long, value_name = "PORT|off", value_hint = ValueHint::Other)]
    pub(super) nfs: Option<RawValue>,

    /// Port of the portmapper, by which machines find NFS [default: 111]
    ///
    /// archiso's initramfs always asks port 111. If rpcbind has that port, isowire registers with
    /// it.
    #[arg(long, value_name = "PORT|off", value_hint = ValueHint::Other)]
    pub(super) portmap: Option<RawValue>,

    /// Port of HTTP [default: 80, else 8080]
    #[arg(long, value_name = "PORT|off", value_hint = ValueHint::Other)]
    pub(super) http: Option<RawValue>,

    /// Port of TFTP [default: 69]
    ///
    /// Firmware always asks port 69.
    #[arg(long, value_name = "PORT|off", value_hint = ValueHint::Other)]
    pub(super) tftp: Option<RawValue>,

    /// Send files from the TFTP port itself, for firewalls that do not track TFTP
    // A flag on the command line, `true` or `false` in the file.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(super) tftp_single_port: Option<RawValue>,

    /// Role in DHCP [default: proxy]
    ///
    /// `off` answers nobody. `proxy` answers only machines that boot from the network; another
    /// server gives them addresses. `server` gives addresses itself and needs --dhcp-range.
    #[arg(long, value_name = "off|proxy|server", value_hint = ValueHint::Other)]
    pub(super) dhcp: Option<RawValue>,

    /// Addresses to lease; implies --dhcp server
    #[arg(long, value_name = "FIRST-LAST", value_hint = ValueHint::Other)]
    pub(super) dhcp_range: Option<RawValue>,

    // Settings of a DHCP server belong to a network and stay the same, so they are keys of the file
    // only.
    #[arg(skip)]
    pub(super) netmask: Option<RawValue>,

    #[arg(skip)]
    pub(super) router: Option<RawValue>,

    #[arg(skip)]
    #[serde(deserialize_with = "one_or_more")]
    pub(super) dns: Option<Vec<RawValue>>,

    #[arg(skip)]
    pub(super) lease_time: Option<RawValue>,

    #[arg(skip)]
    pub(super) lease_file: Option<RawValue>,

    /// Servers that share the machines of the network, this one among them: addresses, each like
    /// 10.0.0.2, or 10.0.0.2=3 for three times as many machines
    ///
    /// Each server needs the same list. A machine that its server does not answer is answered by the
    /// next one, a second later.
    #[arg(long, value_name = "ADDR[=WEIGHT]", value_delimiter = ',', value_hint = ValueHint::Other)]
    #[serde(deserialize_with = "one_or_more")]
    pub(super) peers: Option<Vec<RawValue>>,

    /// Tell booting machines that there is no IPv6 router, so that iPXE does not wait for one
    ///
    /// Only machines that were offered a boot file within the last minute are told. Needs DHCP and
    /// the capability CAP_NET_RAW.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(super) router_advertisement: Option<RawValue>,

    /// Root protocol of the first menu entry [default: the first that is served]
    #[arg(long, value_name = "nbd|nfs|http", value_hint = ValueHint::Other)]
    pub(super) root: Option<RawValue>,

    /// Copy root file systems into the memory of machines [default: auto]
    #[arg(long, value_name = "yes|no|auto", value_hint = ValueHint::Other)]
    pub(super) copytoram: Option<RawValue>,

    /// Time until the first menu entry boots by itself; 0 waits for ever [default: 10]
    #[arg(long, value_name = "SECONDS", value_hint = ValueHint::Other)]
    pub(super) menu_timeout: Option<RawValue>,

    #[arg(skip)]
    pub(super) cms_verify: Option<RawValue>,

    #[arg(skip)]
    #[serde(deserialize_with = "one_or_more")]
    pub(super) kernel_parameters: Option<Vec<RawValue>>,

    #[arg(skip)]
    #[serde(deserialize_with = "one_or_more")]
    pub(super) ssh_keys: Option<Vec<RawValue>>,

    #[arg(skip)]
    pub(super) user_data: Option<RawValue>,

    #[arg(skip)]
    pub(super) files: Option<RawValue>,

    /// Program for UEFI machines: composed of kernel and initramfs, or iPXE [default: composed]
    #[arg(long, value_name = "composed|ipxe", value_hint = ValueHint::Other)]
    pub(super) uefi: Option<RawValue>,

    /// iPXE for UEFI machines, a snponly.efi or ipxe.efi [default: the one on this host]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) ipxe: Option<RawValue>,

    /// EFI stub of systemd to boot UEFI machines with [default: the one in the image]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) stub: Option<RawValue>,

    /// Key to sign boot programs for UEFI with, so that they boot with Secure Boot
    ///
    /// An RSA key, which only its owner may read. Needs its certificate, which the machines'
    /// firmware has to know; `isowire secure-boot new` makes both.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) secure_boot_key: Option<RawValue>,

    /// Certificate of that key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) secure_boot_certificate: Option<RawValue>,

    /// Verify images before they are offered, by the checksum of their root file system
    ///
    /// An image that fails is not offered, and the others go on. The start waits for the first
    /// image; `isowire status` shows the progress.
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub(super) verify: Option<RawValue>,

    /// Certificate that root file systems have to be signed by; implies --verify
    ///
    /// In PEM, also several, or DER: that of the signer (the first file of `mkarchiso -c`), or that
    /// of an authority if the signatures hold the signer's certificate.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) verify_certificate: Option<RawValue>,

    /// Directory of what was fetched from object stores [default: the user's cache directory]
    ///
    /// Only one isowire can use it. It survives a restart.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) cache_dir: Option<RawValue>,

    /// Bytes that this directory may take, such as 20G [default: 20G]
    #[arg(long, value_name = "SIZE", value_hint = ValueHint::Other)]
    pub(super) cache_size: Option<RawValue>,

    /// Time for which clients wait for a disk that fails or hangs [default: 10m]
    ///
    /// An NBD client then gets an error, from which its machine seldom recovers, and a download ends.
    #[arg(long, value_name = "TIME", value_hint = ValueHint::Other)]
    pub(super) stall_timeout: Option<RawValue>,

    /// Serve the status by HTTP on this address, on its local socket only, or not at all
    /// [default: 127.0.0.1:8081 if free]
    #[arg(long, value_name = "ADDR:PORT|socket|off", value_hint = ValueHint::Other)]
    pub(super) status: Option<RawValue>,

    /// Confine the server after its start to the files and system calls that it needs [default:
    /// auto]
    ///
    /// `auto` uses Landlock and seccomp where the kernel has them, `required` does not start without
    /// them.
    #[arg(long, value_name = "auto|off|required", value_hint = ValueHint::Other)]
    pub(super) sandbox: Option<RawValue>,

    /// User to become after the start, if isowire is started as root [default: nobody]
    #[arg(long, value_name = "NAME|UID", value_hint = ValueHint::Username)]
    pub(super) user: Option<RawValue>,

    /// Format of the log on standard error [default: text]
    #[arg(long, value_name = "text|json", value_hint = ValueHint::Other)]
    pub(super) log_format: Option<RawValue>,

    #[arg(skip)]
    pub(super) log_repeats: Option<RawValue>,

    // Limits: the defaults fit every network that was measured.
    #[arg(skip)]
    pub(super) max_connections: Option<RawValue>,

    #[arg(skip)]
    pub(super) max_connections_per_address: Option<RawValue>,

    #[arg(skip)]
    pub(super) max_transfers: Option<RawValue>,

    #[arg(skip)]
    pub(super) max_machines: Option<RawValue>,

    #[arg(skip)]
    pub(super) subnet: Vec<SubnetOptions>,

    #[arg(skip)]
    pub(super) server: Vec<ServerOptions>,

    #[arg(skip)]
    pub(super) image: Vec<ImageOptions>,

    #[arg(skip)]
    pub(super) machine: Vec<MachineOptions>,
}

/// Keys of one `[[subnet]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SubnetOptions {
    pub(super) dhcp_range: RawValue,
    pub(super) netmask: Option<RawValue>,
    pub(super) router: Option<RawValue>,
    #[serde(default, deserialize_with = "one_or_more")]
    pub(super) dns: Option<Vec<RawValue>>,
    pub(super) lease_time: Option<RawValue>,
}

/// Keys of one `[[server]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ServerOptions {
    #[serde(deserialize_with = "one_or_more")]
    pub(super) address: Option<Vec<RawValue>>,
    pub(super) weight: Option<RawValue>,
    pub(super) drain: Option<RawValue>,
}

/// Keys of one `[[image]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ImageOptions {
    pub(super) path: RawValue,
    pub(super) name: Option<RawValue>,
    pub(super) default: Option<RawValue>,
    pub(super) root: Option<RawValue>,
    pub(super) copytoram: Option<RawValue>,
    #[serde(default, deserialize_with = "one_or_more")]
    pub(super) kernel_parameters: Option<Vec<RawValue>>,
    pub(super) user_data: Option<RawValue>,
}

/// Keys of one `[[machine]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct MachineOptions {
    #[serde(deserialize_with = "one_or_more")]
    pub(super) mac: Option<Vec<RawValue>>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) architecture: Option<Vec<RawValue>>,
    pub(super) vendor: Option<RawValue>,
    pub(super) name: Option<RawValue>,
    pub(super) ignore: Option<RawValue>,
    pub(super) image: Option<RawValue>,
    pub(super) root: Option<RawValue>,
    pub(super) copytoram: Option<RawValue>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) kernel_parameters: Option<Vec<RawValue>>,
    pub(super) menu: Option<RawValue>,
    pub(super) address: Option<RawValue>,
    pub(super) hostname: Option<RawValue>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) ssh_keys: Option<Vec<RawValue>>,
    pub(super) user_data: Option<RawValue>,
    pub(super) script: Option<RawValue>,
    pub(super) secret: Option<RawValue>,
    pub(super) once: Option<RawValue>,
    #[serde(deserialize_with = "one_or_more")]
    pub(super) quirks: Option<Vec<RawValue>>,
}
