//! The operator's choices about boots, which hold for every set of images.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::file_server::Ports;
use super::generated::ImageNumber;
use super::leased::Leased;
use super::menu::{MenuSettings, Overrides};
use super::rules::Rules;
use super::seed::{SeedSettings, UserData};
use crate::uki::{Signer, Stub};

/// The operator's choices about boots.
#[derive(Debug, Clone)]
pub struct BootConfig {
    pub settings: MenuSettings,
    pub ports: Ports,
    /// EFI stub for the boot programs of all images, instead of the one in each image.
    pub stub: Option<Stub>,
    /// Signs the boot programs for Secure Boot.
    pub signer: Option<Arc<Signer>>,
    pub uefi_by: UefiBy,
    /// iPXE for UEFI machines: all of them, or those whose own iPXE lacks features.
    pub ipxe: Option<Bytes>,
    /// iPXE for BIOS machines whose own iPXE lacks features.
    pub bios_ipxe: Option<Bytes>,
    pub rules: Arc<Rules>,
    /// Seeds of all machines; rules add to them.
    pub seed: SeedSettings,
    /// User data for the machines that boot an image, by its name.
    pub image_user_data: HashMap<String, ImageUserData>,
    /// Overrides by the name of the image.
    pub overrides: HashMap<String, Overrides>,
    /// Leases of our DHCP server.
    pub leased: Arc<Leased>,
}

/// User data for the machines that boot an image.
#[derive(Debug, Clone)]
pub struct ImageUserData {
    /// By which the paths of seeds name the image.
    pub(crate) number: ImageNumber,
    pub(crate) user_data: UserData,
}

/// The first program that UEFI machines load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UefiBy {
    /// A boot program composed of kernel and initramfs.
    #[default]
    Composed,
    /// iPXE, which then asks for its script.
    Ipxe,
}

impl BootConfig {
    /// Creates a configuration without overrides, rules, a stub, a signer and iPXE.
    pub fn new(settings: MenuSettings, ports: Ports) -> Self {
        Self {
            settings,
            ports,
            stub: None,
            signer: None,
            uefi_by: UefiBy::Composed,
            ipxe: None,
            bios_ipxe: None,
            rules: Arc::default(),
            seed: SeedSettings::default(),
            image_user_data: HashMap::new(),
            overrides: HashMap::new(),
            leased: Arc::default(),
        }
    }
}
