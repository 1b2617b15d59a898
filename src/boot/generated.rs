//! Paths of the generated files: for one machine, or for any.
//!
//! ```text
//! /isowire/52-54-00-12-34-56/nbd.efi           for this machine
//! /isowire/52-54-00-12-34-56/rule-2/nbd.efi    for this machine, by a rule that the DHCP server chose
//! /isowire/nbd.efi                             for any machine
//! /isowire/52-54-00-12-34-56/seed/user-data    of several files for one purpose
//! /isowire/52-54-00-12-34-56/image-1/seed/user-data    for this machine with an image that it chose
//! ```
//!
//! The path names the machine, since a TFTP or HTTP request does not: the kernel has to be told its
//! network card and its address, and rules differ by machine. So no state is kept for it.

use std::fmt;

use super::seed::{self, SeedFile};
use crate::bootable::Root;
use crate::mac::Mac;

/// Directory of the generated files.
pub(crate) const DIRECTORY: &str = "isowire";

/// Path of the menu for any machine.
pub(crate) const MENU_PATH: &str = "isowire/pxelinux.cfg";

/// Name of the script that iPXE for UEFI looks for beside itself before it asks DHCP.
const AUTOEXEC: &str = "autoexec.ipxe";
/// Start of the name of a rule's directory; the number of the rule follows.
const RULE: &str = "rule-";
/// Start of the name of an image's directory; the number of its `[[image]]` follows.
const IMAGE: &str = "image-";

/// Position of a rule in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RuleNumber(pub u16);

/// Position of an `[[image]]` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ImageNumber(pub u16);

/// A generated file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GeneratedPath {
    pub recipient: Recipient,
    pub kind: GeneratedKind,
}

/// The client that a file is generated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Recipient {
    /// `None` for any client.
    pub machine: Option<Mac>,
    /// The rule that applies, if the MAC address alone does not select it.
    pub rule: Option<RuleNumber>,
    /// The image that it boots, if the file depends on that.
    pub image: Option<ImageNumber>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GeneratedKind {
    /// PXELINUX's menu.
    Menu,
    /// iPXE's script.
    Script,
    /// The same for an iPXE without HTTP or menus.
    TftpScript,
    /// A boot program for UEFI with this root.
    Program(Root),
    /// iPXE itself, for UEFI.
    Ipxe,
    /// The certificate that firmware has to know before it starts a signed program, in DER.
    Certificate,
    /// iPXE itself, for BIOS.
    BiosIpxe,
    /// A program for UEFI that leads to the next boot device, the local disk.
    NextDevice,
    /// A file for cloud-init.
    Seed(SeedFile),
    /// No file: the path at which a machine tells that its system is up.
    Up,
}

impl GeneratedKind {
    /// Returns every kind, with a program for each root and all files of a seed.
    pub(crate) fn all() -> impl Iterator<Item = GeneratedKind> {
        let programs = Root::ALL.into_iter().map(GeneratedKind::Program);
        use GeneratedKind::{BiosIpxe, Certificate, Ipxe, Menu, NextDevice, Script, TftpScript, Up};
        let seeds = SeedFile::ALL.into_iter().map(GeneratedKind::Seed);
        [Menu, Script, TftpScript, Ipxe, BiosIpxe, NextDevice, Certificate, Up]
            .into_iter()
            .chain(programs)
            .chain(seeds)
    }

    /// Returns the name of the file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            GeneratedKind::Menu => "pxelinux.cfg",
            GeneratedKind::Script => "boot.ipxe",
            GeneratedKind::TftpScript => "tftp.ipxe",
            GeneratedKind::Program(Root::Nbd) => "nbd.efi",
            GeneratedKind::Program(Root::Nfs) => "nfs.efi",
            GeneratedKind::Program(Root::Http) => "http.efi",
            GeneratedKind::Ipxe => "ipxe.efi",
            GeneratedKind::Certificate => "secure-boot.cer",
            GeneratedKind::BiosIpxe => "undionly.kpxe",
            GeneratedKind::NextDevice => "local-disk.efi",
            GeneratedKind::Seed(file) => file.name(),
            GeneratedKind::Up => "up",
        }
    }

    fn of_seed(name: &str) -> Option<Self> {
        let is_named =
            |file: &SeedFile| file.name().strip_prefix(seed::DIRECTORY) == Some(&format!("/{name}"));
        SeedFile::ALL.into_iter().find(is_named).map(GeneratedKind::Seed)
    }

    fn of_name(name: &str) -> Option<Self> {
        let name = if name == AUTOEXEC { GeneratedKind::Script.name() } else { name };
        Self::all().find(|kind| kind.name() == name)
    }
}

impl GeneratedPath {
    /// Parses the names in a path; `None` for any other file.
    pub(crate) fn parse<'a>(names: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        // One more than the longest path has, so that a longer path fits no pattern.
        let names: Vec<_> = names.take(7).map(str::from_utf8).collect::<Result<_, _>>().ok()?;
        let (recipient, file) = match names[..] {
            [DIRECTORY, ref names @ ..] => Recipient::split(names)?,
            [AUTOEXEC] => (Recipient::default(), &names[..]),
            _ => return None,
        };
        let kind = match *file {
            [seed::DIRECTORY, file] => GeneratedKind::of_seed(file)?,
            [file] => GeneratedKind::of_name(file)?,
            _ => return None,
        };
        Some(Self { recipient, kind })
    }
}

impl Recipient {
    /// Splits the names below the directory of generated files into a recipient and the names of
    /// the file; `None` if a number in them is invalid.
    pub(super) fn split<'a, 'n>(mut names: &'n [&'a str]) -> Option<(Self, &'n [&'a str])> {
        let mut recipient = Self::default();
        // No MAC address begins with `rule-` or `image-`.
        if let [machine, rest @ ..] = names
            && let Ok(machine) = machine.parse()
        {
            (recipient.machine, names) = (Some(machine), rest);
        }
        if let Some((number, rest)) = numbered(names, RULE) {
            (recipient.rule, names) = (Some(RuleNumber(number?)), rest);
        }
        if let Some((number, rest)) = numbered(names, IMAGE) {
            (recipient.image, names) = (Some(ImageNumber(number?)), rest);
        }
        Some((recipient, names))
    }
}

/// Returns the number in the first name and the names after it, if that begins so. The number is
/// `None` if it is invalid.
fn numbered<'a, 'n>(names: &'n [&'a str], start: &str) -> Option<(Option<u16>, &'n [&'a str])> {
    let (first, rest) = names.split_first()?;
    Some((first.strip_prefix(start)?.parse().ok(), rest))
}

/// Writes the path without a leading `/`.
impl fmt::Display for GeneratedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.recipient, self.kind.name())
    }
}

/// Writes the directory of its files without a leading `/` and with one at the end.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{DIRECTORY}/")?;
        if let Some(machine) = self.machine {
            write!(f, "{}/", machine.dashed())?;
        }
        if let Some(RuleNumber(rule)) = self.rule {
            write!(f, "{RULE}{rule}/")?;
        }
        if let Some(ImageNumber(image)) = self.image {
            write!(f, "{IMAGE}{image}/")?;
        }
        Ok(())
    }
}

/// Returns the recipient in the path at which a machine tells that its system is up; `None` for any
/// other path.
pub(crate) fn up_recipient(path: &[u8]) -> Option<Recipient> {
    let GeneratedPath { recipient, kind } = GeneratedPath::parse(names(path))?;
    (kind == GeneratedKind::Up).then_some(recipient)
}

/// Splits a path into names, with either kind of slash.
pub(super) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/' || byte == b'\\').filter(|name| !name.is_empty() && *name != b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<GeneratedPath> {
        GeneratedPath::parse(path.split('/').map(str::as_bytes))
    }

    #[test]
    fn generated_paths_round_trip() {
        let machines = [None, "52:54:00:12:34:56".parse().ok()];
        let rules = [None, Some(RuleNumber(0)), Some(RuleNumber(12))];
        for kind in GeneratedKind::all() {
            for (machine, rule) in machines.into_iter().flat_map(|machine| rules.map(|rule| (machine, rule)))
            {
                for image in [None, Some(ImageNumber(3))] {
                    let made = GeneratedPath { recipient: Recipient { machine, rule, image }, kind };
                    assert_eq!(parse(&made.to_string()), Some(made));
                }
            }
        }
        let recipient = Recipient { machine: machines[1], rule: rules[2], image: None };
        let made = GeneratedPath { recipient, kind: GeneratedKind::Program(Root::Nbd) };
        assert_eq!(made.to_string(), "isowire/52-54-00-12-34-56/rule-12/nbd.efi");
    }

    #[test]
    fn ipxe_finds_its_script_beside_itself() {
        let script = |recipient| Some(GeneratedPath { recipient, kind: GeneratedKind::Script });
        assert_eq!(parse("autoexec.ipxe"), script(Recipient::default()));
        assert_eq!(parse("isowire/autoexec.ipxe"), script(Recipient::default()));
        let machine = "52:54:00:12:34:56".parse().ok();
        assert_eq!(
            parse("isowire/52-54-00-12-34-56/autoexec.ipxe"),
            script(Recipient { machine, ..Recipient::default() })
        );
    }

    #[test]
    fn other_paths_are_not_generated() {
        for other in [
            "",
            "isowire",
            "nbd.efi",
            "boot.ipxe",
            "isowire/nbd",
            "isowire/ftp.efi",
            "isowire/NBD.efi",
            "isowire/52-54-00-12-34/nbd.efi",
            "isowire/52-54-00-12-34-56",
            "isowire/52-54-00-12-34-56/2/nbd.efi",
            "isowire/52-54-00-12-34-56/rule-/nbd.efi",
            "isowire/52-54-00-12-34-56/rule-x/nbd.efi",
            "isowire/52-54-00-12-34-56/rule-99999999/nbd.efi",
            "isowire/52-54-00-12-34-56/nbd.efi/x",
            "isowire/52-54-00-12-34-56/rule-1/nbd.efi/x",
            "other/52-54-00-12-34-56/nbd.efi",
            "isowire/52-54-00-12-34-56/seed",
            "isowire/52-54-00-12-34-56/seed/nbd.efi",
            "isowire/52-54-00-12-34-56/user-data",
            "isowire/52-54-00-12-34-56/rule-1/seed/user-data/x",
            "isowire/52-54-00-12-34-56/image-x/seed/user-data",
            "isowire/52-54-00-12-34-56/image-1/rule-1/seed/user-data",
            "isowire/rule-1/52-54-00-12-34-56/seed/user-data",
            "isowire/52-54-00-12-34-56/rule-1/image-1/seed/user-data/x/y",
            "seed/user-data",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
