//! The words of a diagnosis: what probably happened, and what to do.

use std::fmt::{self, Display, Formatter};

use super::Diagnosis;
use crate::machines::{Loss, RefusedBy, Step};

impl Display for Diagnosis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { by, why } => write_refusal(f, *by, why),
            Self::OfferIgnored { offers, enter } => {
                match offers {
                    1 => f.write_str("did not take its offer")?,
                    offers => write!(f, "took none of {offers} offers")?,
                }
                f.write_str(": another DHCP server's won, or its firmware ignores proxies")?;
                match enter {
                    Some((server, file)) => {
                        write!(f, ". Enter at that server: next server {server}, boot file {file}")
                    }
                    None => Ok(()),
                }
            }
            Self::NoFileAskedFor { transport, port, has_other_dhcp } => {
                write!(
                    f,
                    "has an address, and asked for no file at {transport} port {port}: a firewall may stop it"
                )?;
                match has_other_dhcp {
                    true => f.write_str(", or the other DHCP server named another boot file"),
                    false => Ok(()),
                }
            }
            Self::FileNotFound { path, protocol } => write!(
                f,
                "asked over {protocol} for {path}, which is not there: correct the boot file at the other DHCP \
                 server, or the menu that names it"
            ),
            Self::AskedAgain { path, times } => write!(
                f,
                "asked for {path} {times} times: the program in it fails, or the machine restarts. Look at its screen"
            ),
            Self::TransferStalled { loading, path, percent, seconds } => {
                let file = path.as_deref().unwrap_or(match loading {
                    Step::Kernel => "its kernel",
                    Step::Initramfs => "its initramfs",
                    _ => "its boot program",
                });
                match percent {
                    Some(percent) => write!(f, "stopped loading {file} at {percent} %")?,
                    None => write!(f, "stopped loading {file}")?,
                }
                write!(f, ", {seconds} s ago: it hangs, is off, or lost the network")
            }
            Self::Slow { rate, usual } => {
                write!(f, "loads {} kB/s", rate / 1000)?;
                if let Some(usual) = usual {
                    write!(f, ", others {} kB/s", usual / 1000)?;
                }
                f.write_str(": check its cable, its switch port and their speed and duplex")
            }
            Self::ProgramRefused => f.write_str(
                "got its boot program, and began again: Secure Boot refused it, or the kernel died. Turn Secure \
                 Boot off, or sign with `secure-boot-key`",
            ),
            Self::NothingAfterProgram => f.write_str(
                "got its boot program, and nothing followed: Secure Boot? Or the kernel died. Turn Secure Boot \
                 off, or sign with `secure-boot-key`",
            ),
            Self::NoRootAskedFor { lacks, is_known, drivers, runs } => {
                f.write_str(match runs {
                    true => "its kernel runs, and asked for no root file system",
                    false => "loaded kernel and initramfs, and asked for no root file system",
                })?;
                write_cause(f, lacks.as_deref(), *is_known, *runs)?;
                match drivers {
                    Some(drivers) if !runs => write!(f, ". It has drivers for {drivers}"),
                    _ => Ok(()),
                }
            }
            Self::ImageFault { fault } => write!(f, "waits for its image, which cannot be read: {fault}"),
            Self::RootLost { protocol, by } => write!(f, "lost its root over {protocol}: {}", loss(*by)),
            Self::Other => f.write_str("does not get on"),
        }
    }
}

fn write_cause(f: &mut Formatter<'_>, lacks: Option<&str>, is_known: bool, runs: bool) -> fmt::Result {
    match (lacks, is_known, runs) {
        (Some(lacks), ..) => write!(f, ": {lacks}. Choose another root, or an image that has it"),
        (None, true, true) => f.write_str(
            ". Its initramfs has archiso's hooks, so a word of its command line is wrong: look at its screen",
        ),
        (None, true, false) => f.write_str(
            ". Its initramfs has archiso's hooks, so it lacks the driver of the network card, `ip=` is wrong, or \
             the kernel died",
        ),
        (None, false, _) => f.write_str(
            ": its initramfs lacks the driver of its network card or archiso's hooks (`isowire inspect`), or the \
             kernel died",
        ),
    }
}

fn write_refusal(f: &mut Formatter<'_>, by: RefusedBy, why: &str) -> fmt::Result {
    match by {
        RefusedBy::Architecture | RefusedBy::LocalDisk => f.write_str(why),
        RefusedBy::Rule => write!(f, "{why}. Change its [[machine]] if it is to boot"),
        RefusedBy::Allow => write!(f, "not answered: {why}. Add its network to `allow` if it is to boot"),
        RefusedBy::Pool => write!(f, "got no address: {why}. Widen `dhcp-range`, or shorten `lease-time`"),
        RefusedBy::AddressesInUse => {
            write!(f, "got no address: {why}. Give `dhcp-range` addresses that nobody has")
        }
        RefusedBy::OtherDhcp => write!(f, "got no address: {why}. Stop that one, or set `dhcp = \"proxy\"`"),
        RefusedBy::Network => write!(f, "got no address: {why}. Add a `dhcp-range` for its network"),
        RefusedBy::BootFile => write!(f, "no boot file: {why}"),
        RefusedBy::Export => write!(f, "got no root over NBD: {why}. Correct archiso_nbd_name= in its menu"),
        RefusedBy::NfsPath => write!(f, "got no root over NFS: {why}. Correct archiso_nfs_srv= in its menu"),
        RefusedBy::Places => write!(f, "got no connection: {why}"),
        RefusedBy::Image => write!(f, "got nothing of its image: {why}"),
    }
}

const fn loss(by: Loss) -> &'static str {
    match by {
        Loss::Reset => "the machine reset the connection. It was reset, or another host has its address",
        Loss::Silent => "it did not answer for ten minutes. It was switched off, or lost the network",
        Loss::Closed => "it closed the connection in the middle. Look at its screen",
        Loss::Image => "the image cannot be read here. Look at the log of isowire",
        Loss::Server => "isowire ended the connection. Look at its log",
    }
}
