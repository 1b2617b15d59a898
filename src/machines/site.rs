//! The site: what the server knows beside its machines, for diagnoses and names.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::Mac;
use super::server_status::{ImageStatus, ServiceStatus};
use crate::boot::{Architecture, Platform, Rules};

/// Facts about this server and its network.
#[derive(Debug, Clone, Default)]
pub(crate) struct Site {
    pub tftp_port: u16,
    /// `None` if HTTP is off.
    pub http_port: Option<u16>,
    /// Another DHCP server gives the addresses.
    pub has_other_dhcp: bool,
    /// `None` if there is nothing to load, or no address is known.
    pub dhcp_settings: Option<DhcpSettings>,
    /// Names of machines from the configuration.
    pub names: HashMap<Mac, String>,
    /// The services, as in the table at the start.
    pub services: Vec<ServiceStatus>,
    /// What to do about those that are off: lines of text.
    pub advice: Vec<String>,
    /// Images that new machines may get, the default first.
    pub images: Vec<ImageStatus>,
    /// What is known of the initramfs images of an image, by the name of the image.
    pub initramfs: HashMap<String, InitramfsKnowledge>,
    /// Rules for machines, and what machines boot next.
    pub rules: Rules,
}

/// What is known of the initramfs images of an image that were looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct InitramfsKnowledge {
    /// Parts that they lack; `None` if they have all.
    pub lacks: Option<String>,
    /// Network cards that they have drivers for.
    pub drivers: Option<String>,
}

/// Settings with which another DHCP server sends machines here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DhcpSettings {
    pub address: Ipv4Addr,
    /// For BIOS machines.
    pub bios_file: String,
    /// For UEFI machines, if they can boot.
    pub uefi_file: Option<String>,
    /// All of it, as `serve` prints it.
    pub lines: Vec<String>,
}

impl DhcpSettings {
    /// Returns the boot file of a machine.
    pub(super) fn file(&self, platform: Option<Platform>) -> &str {
        let is_bios = platform.is_none_or(|platform| platform.architecture == Architecture::BIOS);
        self.uefi_file.as_deref().filter(|_| !is_bios).unwrap_or(&self.bios_file)
    }
}

impl Site {
    /// Returns the images with what their initramfs lacks.
    pub(super) fn image_reports(&self) -> Vec<ImageStatus> {
        let mut images = self.images.clone();
        for image in &mut images {
            let known = self.initramfs.get(&image.name);
            image.warnings.extend(known.and_then(|known| known.lacks.clone()));
        }
        images
    }
}
