//! The generated files: menus, scripts and boot programs, each made when a machine asks for it.

use std::sync::Arc;

use super::config::BootConfig;
use super::file::ServedFile;
use super::file_server::FileServer;
use super::generated::{GeneratedKind, GeneratedPath, Recipient, names};
use super::image_boot::{ImageBoot, Pxelinux};
use super::leased::Leased;
use super::menu::{Menu, MenuImage, MenuMachine, Start, ipxe, pxelinux};
use super::next::NextBoot;
use super::operator_path::FILES;
use super::requester::Requester;
use super::rules::Rule;
use super::seed::{self, Seed, SeedFile, SeedSources};
use super::targets::{BootTargets, IpxePrograms};
use super::uefi::{Programs, UefiError};
use crate::bootable::{FileKind, Look, Root};
use crate::images::ImageSet;
use crate::mac::Mac;
use crate::text::Word;
use crate::uki::next_device;

/// Directory beside PXELINUX in which it looks for menus (syslinux, doc/pxelinux.txt).
const MENU_DIRECTORY: &str = "pxelinux.cfg";

/// Generates the files of one set of images.
#[derive(Debug)]
pub(super) struct Generator {
    config: BootConfig,
    /// The bootable images, the default first.
    images: Vec<ImageBoot>,
    /// PXELINUX of the first image that has it.
    pxelinux: Option<Pxelinux>,
}

impl Generator {
    /// Reads the boot menus of the images and the EFI stub of each.
    pub(super) fn new(images: &ImageSet, config: BootConfig) -> Self {
        let image_boots: Vec<_> = images.iter().filter_map(|served| ImageBoot::of(served, &config)).collect();
        let pxelinux = Pxelinux::find(images, &image_boots);
        Self { config, images: image_boots, pxelinux }
    }

    /// Returns the part of all this that DHCP needs.
    pub(super) fn targets(&self) -> BootTargets {
        let loader = self.pxelinux.as_ref().map(|pxelinux| pxelinux.path.as_str());
        let targets = BootTargets::new(loader, self.config.ports)
            .with_uefi_by(self.config.uefi_by)
            .with_ipxe(IpxePrograms {
                bios: self.config.bios_ipxe.is_some(),
                uefi: self.config.ipxe.is_some(),
            })
            .with_rules(Arc::clone(&self.config.rules));
        self.images.iter().fold(targets, |targets, ImageBoot { bootable, programs, .. }| {
            let roots = programs.as_ref().map(Programs::roots).map_err(UefiError::clone);
            targets.with_image(bootable.name.clone(), roots)
        })
    }

    pub(super) fn programs(&self) -> impl Iterator<Item = (&str, Result<&Programs, &UefiError>)> {
        self.images.iter().map(|image| (image.bootable.name.as_str(), image.programs.as_ref()))
    }

    pub(super) fn has_boot_entry(&self) -> bool {
        let mut boot_entries = self.images.iter().flat_map(|image| &image.bootable.boot_entries);
        boot_entries.any(|boot_entry| !boot_entry.initrd.is_empty())
    }

    pub(super) fn unknown_images(&self) -> impl Iterator<Item = &Word> {
        let names = self.config.rules.iter().filter_map(|rule| rule.image.as_ref());
        names.filter(|name| self.image(Some(name)).is_none())
    }

    /// Returns whether a machine has a seed, whatever image it boots: its system then says that it
    /// is up.
    pub(super) fn has_seed(&self, machine: Mac) -> bool {
        let recipient = Recipient { machine: Some(machine), ..Recipient::default() };
        let rule = self.config.rules.for_recipient(recipient);
        self.config.ports.http.is_some()
            && (!self.config.image_user_data.is_empty() || self.seed_of(rule, recipient).is_some())
    }

    pub(super) fn has_image(&self, name: &Word) -> bool {
        self.image(Some(name)).is_some()
    }

    pub(super) const fn leased(&self) -> &Arc<Leased> {
        &self.config.leased
    }

    /// Returns the kinds of files that clients who list the directory are shown: those that are the
    /// same for everyone.
    pub(super) fn listed(&self) -> Vec<GeneratedKind> {
        let certificate = self.config.signer.as_ref().map(|_| GeneratedKind::Certificate);
        [GeneratedKind::Menu, GeneratedKind::Script].into_iter().chain(certificate).collect()
    }

    /// Parses the path of a generated file; `None` for any other path.
    pub(super) fn path(&self, path: &[u8]) -> Option<GeneratedPath> {
        GeneratedPath::parse(names(path)).or_else(|| self.default_menu(path))
    }

    /// Parses a path at which PXELINUX looks for a menu if DHCP named none: beside itself by the
    /// MAC address of its network card, and at last `default`.
    fn default_menu(&self, path: &[u8]) -> Option<GeneratedPath> {
        let directory = format!("{}{MENU_DIRECTORY}", self.pxelinux.as_ref()?.path.directory());
        let directory: Vec<_> = names(directory.as_bytes()).collect();
        // One name more than fits, so that a longer path does not.
        let path: Vec<_> = names(path).take(directory.len() + 2).collect();
        let machine = match path.strip_prefix(&directory[..])? {
            [b"default"] => None,
            [name] => Some(Mac::of_bootif(str::from_utf8(name).ok()?)?),
            _ => return None,
        };
        let recipient = Recipient { machine, ..Recipient::default() };
        Some(GeneratedPath { recipient, kind: GeneratedKind::Menu })
    }

    /// Generates a file for the machine that asks; `None` if there is no such file.
    pub(super) fn generate(&self, path: GeneratedPath, requester: Requester) -> Option<ServedFile> {
        let GeneratedPath { recipient, kind } = path;
        let server = FileServer { address: requester.server, ports: self.config.ports };
        let menu = || self.menu(recipient, requester);
        Some(match kind {
            GeneratedKind::Menu => text(pxelinux::write(&menu())),
            // iPXE that was not told of a path of its own knows its MAC address itself.
            GeneratedKind::Script if recipient == Recipient::default() => text(ipxe::write_referral(&server)),
            GeneratedKind::Script => text(ipxe::write(&menu())),
            GeneratedKind::TftpScript => text(ipxe::write_by_tftp(&menu())),
            GeneratedKind::Program(root) => self.program(root, recipient, &server)?,
            GeneratedKind::Ipxe => ServedFile::generated(self.config.ipxe.clone()?, FileKind::Loader),
            GeneratedKind::Certificate => {
                let signer = self.config.signer.as_ref()?;
                ServedFile::generated(signer.pair().certificate().der().clone(), FileKind::Other)
            }
            GeneratedKind::BiosIpxe => {
                ServedFile::generated(self.config.bios_ipxe.clone()?, FileKind::Loader)
            }
            // Like a menu that is nothing but the local disk.
            GeneratedKind::NextDevice => {
                let program = next_device::program(self.config.signer.as_deref())?;
                ServedFile::generated(program, FileKind::Menu)
            }
            GeneratedKind::Seed(file) => self.seed(file, recipient, requester)?,
            GeneratedKind::Up => return None,
        })
    }

    /// Returns the menu for a recipient: the image that its rule names comes first.
    fn menu(&self, recipient: Recipient, requester: Requester) -> Menu<'_> {
        static NO_LOOK: Look = Look { serial: None, ui: None, lines: Vec::new(), reboot: None };
        let rule = self.config.rules.for_recipient(recipient);
        let server = FileServer { address: requester.server, ports: self.config.ports };
        let mut images: Vec<_> =
            self.images.iter().map(|image| self.shown(image, rule, recipient, &server)).collect();
        // The sort is stable: the other images keep their order.
        let next = self.config.rules.next().of(recipient.machine);
        let first = first_image(next.as_ref(), rule);
        images.sort_by_key(|shown| Some(&shown.image.name) != first);
        Menu {
            server,
            machine: MenuMachine {
                mac: recipient.machine,
                address: requester.address,
                name: rule.and_then(|rule| rule.name.as_ref()),
            },
            start: match next {
                Some(NextBoot::Local) => Start::Local,
                Some(NextBoot::Image(_)) => Start::Straight,
                _ => rule.map(|rule| rule.start).unwrap_or_default(),
            },
            timeout: self.config.settings.timeout,
            images,
            look: self.pxelinux.as_ref().map_or(&NO_LOOK, |pxelinux| &pxelinux.look),
            stock: self.pxelinux.as_ref().and_then(|pxelinux| pxelinux.stock.as_ref()),
        }
    }

    /// Composes the boot program of the image that the recipient's rule names, else of the default.
    fn program(&self, root: Root, recipient: Recipient, server: &FileServer) -> Option<ServedFile> {
        let rule = self.config.rules.for_recipient(recipient);
        let next = self.config.rules.next().of(recipient.machine);
        let name = first_image(next.as_ref(), rule);
        let image = self.image(name).or(self.images.first())?;
        let lease = recipient.machine.and_then(|machine| self.config.leased.of(machine));
        let shown = self.shown(image, rule, recipient, server);
        image.programs.as_ref().ok()?.program(root, recipient.machine, lease, &shown, server)
    }

    fn shown<'a>(
        &self,
        image: &'a ImageBoot,
        rule: Option<&Rule>,
        recipient: Recipient,
        server: &FileServer,
    ) -> MenuImage<'a> {
        let seed = self.seed_url(rule, recipient, image, server);
        image.for_rule(rule, seed, script_url(rule, recipient, server))
    }

    /// Returns the URL of the recipient's seed with an image; `None` if it has none. cloud-init
    /// takes seeds by HTTP only.
    fn seed_url(
        &self,
        rule: Option<&Rule>,
        recipient: Recipient,
        image: &ImageBoot,
        server: &FileServer,
    ) -> Option<String> {
        // The machine may choose another image in its menu, so the path names it.
        let user_data = self.config.image_user_data.get(image.bootable.name.as_str());
        let recipient = Recipient { image: user_data.map(|of_image| of_image.number), ..recipient };
        self.seed_of(rule, recipient)?;
        Some(format!("{}{recipient}{}/", server.http_url()?, seed::DIRECTORY))
    }

    fn seed(&self, file: SeedFile, recipient: Recipient, requester: Requester) -> Option<ServedFile> {
        let rule = self.config.rules.for_recipient(recipient);
        let seed = self.seed_of(rule, recipient)?;
        let server = FileServer { address: requester.server, ports: self.config.ports };
        let up = Recipient { image: None, ..recipient };
        let up = GeneratedPath { recipient: up, kind: GeneratedKind::Up };
        let up_url = format!("{}{up}", server.http_url()?);
        Some(ServedFile::generated(seed.write(file, &up_url, requester.now), FileKind::Other))
    }

    fn seed_of<'a>(&'a self, rule: Option<&'a Rule>, recipient: Recipient) -> Option<Seed<'a>> {
        let mut of_images = self.config.image_user_data.values();
        let of_image = of_images.find(|of_image| Some(of_image.number) == recipient.image);
        let sources = SeedSources {
            site: &self.config.seed,
            image: of_image.map(|of_image| &of_image.user_data),
            rule: rule.map(|rule| &rule.seed),
            hostname: rule.and_then(|rule| rule.hostname.as_ref().or(rule.name.as_ref())),
            machine: recipient.machine,
        };
        sources.seed()
    }

    fn image(&self, name: Option<&Word>) -> Option<&ImageBoot> {
        self.images.iter().find(|image| Some(&image.bootable.name) == name)
    }
}

/// Returns the image that a machine boots, if it is not the default one.
fn first_image<'a>(next: Option<&'a NextBoot>, rule: Option<&'a Rule>) -> Option<&'a Word> {
    next.and_then(NextBoot::image).or_else(|| rule.and_then(|rule| rule.image.as_ref()))
}

/// Returns the URL of the recipient's script. archiso would take it by TFTP too, which has no rules
/// about who gets what.
fn script_url(rule: Option<&Rule>, recipient: Recipient, server: &FileServer) -> Option<String> {
    let script = rule?.script.as_ref()?;
    Some(format!("{}{recipient}{FILES}/{script}", server.http_url()?))
}

fn text(text: String) -> ServedFile {
    ServedFile::generated(text, FileKind::Menu)
}
