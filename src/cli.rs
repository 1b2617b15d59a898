//! The command line: raw values, no behaviour. What they mean is decided in `config`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Network-boots machines straight from an Arch Linux ISO.
#[derive(Debug, Parser)]
#[command(name = "isowire", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Serve(Box<Serve>),
    Inspect(Inspect),
    Check(Check),
    Status(Status),
}

/// Serve ISOs to machines that boot from the network.
///
/// Each option is also a key of the configuration file; the command line wins. With several ISOs the first is the
/// default. Of a folder every *.iso is served, and what comes, goes or is replaced there shows without a restart.
#[derive(Debug, Args, Default)]
pub struct Serve {
    /// The images to serve, or folders of them
    #[arg(value_name = "ISO")]
    pub iso: Vec<PathBuf>,

    /// Read settings from this file
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Answer DHCP on this network interface only [default: all]
    #[arg(short, long, value_name = "IF")]
    pub interface: Option<String>,

    /// Listen on this IPv4 address only [default: 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<String>,

    /// Let in only who has an address in these networks, as 192.168.1.0/24 [default: everybody]
    #[arg(long, value_name = "NET", value_delimiter = ',')]
    pub allow: Vec<String>,

    /// Tell machines this IPv4 address [default: the one of ours that a request reached]
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,

    /// Serve NBD on this port, or not [default: 10809]
    #[arg(long, value_name = "PORT|off")]
    pub nbd: Option<String>,

    /// Serve NFS on this port, or not [default: 2049]
    #[arg(long, value_name = "PORT|off")]
    pub nfs: Option<String>,

    /// Answer as portmapper on this port, so that machines find NFS, or not [default: 111]
    #[arg(long, value_name = "PORT|off")]
    pub portmap: Option<String>,

    /// Serve HTTP on this port, or not [default: 80, else 8080]
    #[arg(long, value_name = "PORT|off")]
    pub http: Option<String>,

    /// Serve TFTP on this port, or not [default: 69]
    #[arg(long, value_name = "PORT|off")]
    pub tftp: Option<String>,

    /// Send files from the TFTP port itself, for firewalls that know no TFTP
    #[arg(long)]
    pub tftp_single_port: bool,

    /// off, proxy (beside the DHCP server there is) or server (the only one) [default: proxy]
    #[arg(long, value_name = "off|proxy|server")]
    pub dhcp: Option<String>,

    /// Be the DHCP server and lease these addresses
    #[arg(long, value_name = "FIRST-LAST")]
    pub dhcp_range: Option<String>,

    /// Tell machines that boot that there is no IPv6 router, so that iPXE does not wait for one
    #[arg(long)]
    pub router_advertisement: bool,

    /// What the root file system comes by, unless the menu is told otherwise [default: the first one served]
    #[arg(long, value_name = "nbd|nfs|http")]
    pub root: Option<String>,

    /// Have machines copy their root file system into memory [default: auto]
    #[arg(long, value_name = "yes|no|auto")]
    pub copytoram: Option<String>,

    /// Boot the first entry of the menu after this time; 0 waits for ever [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub menu_timeout: Option<String>,

    /// What UEFI machines load: a program composed of kernel and initramfs, or iPXE and its menu [default: composed]
    #[arg(long, value_name = "composed|ipxe")]
    pub uefi: Option<String>,

    /// The iPXE for UEFI machines, snponly.efi or ipxe.efi [default: the one on this host]
    #[arg(long, value_name = "FILE")]
    pub ipxe: Option<String>,

    /// Boot UEFI machines by this EFI stub of systemd [default: the one in the image]
    #[arg(long, value_name = "FILE")]
    pub stub: Option<String>,

    /// Tell what machines are doing on this address as well, or not at all [default: on a socket of this host]
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub status: Option<String>,

    /// The form of the log on standard error [default: text]
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<String>,
}

/// Tell what an ISO holds, how it can boot and what would not work.
#[derive(Debug, Args)]
pub struct Inspect {
    #[arg(value_name = "ISO")]
    pub iso: PathBuf,

    /// Print JSON for a program to read
    #[arg(long)]
    pub json: bool,
}

/// Play a client through every door on loopback and verify every byte.
///
/// What comes is compared with the image, and the root file system with its airootfs.sha512. Nobody else is served, and
/// no privilege is needed. DHCP is not played: it needs broadcasts and port 67.
#[derive(Debug, Args)]
pub struct Check {
    /// The image to serve [default: a small sample that isowire makes]
    #[arg(value_name = "ISO")]
    pub iso: Option<PathBuf>,
}

/// Tell what the machines are doing that boot from a running server.
#[derive(Debug, Args)]
pub struct Status {
    /// The server: http://ADDR:PORT/ as its --status says, or the path of its socket [default: the one on this host]
    #[arg(value_name = "URL")]
    pub url: Option<String>,

    /// Print JSON for a program to read
    #[arg(long)]
    pub json: bool,

    /// Look again every second until interrupted
    #[arg(long)]
    pub watch: bool,
}
