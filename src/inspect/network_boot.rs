//! The part of the report on booting over the network, found by asking the same functions as the
//! server.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::Serialize;

use crate::boot::rules::Selection;
use crate::boot::uefi::Programs;
use crate::boot::{Architecture, BootTargets, Firmware, Platform, Ports, UefiError, plan};
use crate::bootable::{Bootable, Root, bios_loader, initramfs, shortfall, survey};
use crate::config::{HTTP_PORT, TFTP_PORT};
use crate::image::Image;
use crate::image::arch::{AirootfsFormat, Archiso};
use crate::image::initramfs::Contents;
use crate::text::Word;
use crate::uki::Stub;
use crate::uki::sign::check_signable;
use crate::x509::Certificate;

/// Name of the image in the plan: `inspect` has no configuration that names it.
const IMAGE: &str = "image";

/// Network boot by one kind of firmware.
#[derive(Debug, Serialize)]
pub(crate) struct FirmwareBoot {
    pub firmware: String,
    /// Program that the firmware loads; null when it cannot boot.
    pub boot_file: Option<String>,
    /// Reasons why it cannot boot.
    pub obstacles: Vec<String>,
    /// Notes for firmware that can boot.
    pub remarks: Vec<String>,
}

/// Support of an initramfs for one root protocol.
#[derive(Debug, Serialize)]
pub(crate) struct RootSupport {
    pub root: String,
    pub initramfs: String,
    /// Hooks and programs that it lacks for this root; null when it has all.
    pub shortfall: Option<String>,
}

/// Drivers of network cards in an initramfs, with those that its kernel has built in.
#[derive(Debug, Serialize)]
pub(crate) struct DriverReport {
    pub initramfs: String,
    /// Modules for common cards.
    pub common: Vec<String>,
    /// Modules for common cards that were not found.
    pub missing: Vec<String>,
    /// No driver of any card was found.
    pub none: bool,
    /// False if the initramfs was not read to its end, and may have more.
    pub complete: bool,
    #[serde(skip)]
    pub summary: String,
}

/// Returns the answer of this server to each kind of firmware, with the image's own EFI stub unless
/// there is another.
pub(crate) fn by_firmware(
    image: &Arc<Image>,
    archiso: &Archiso,
    certificate: Option<&Certificate>,
    stub: Option<Stub>,
) -> Vec<FirmwareBoot> {
    // The versioned name only appears in paths, so the plain name will do for it.
    let bootable = survey(IMAGE, IMAGE, image);
    let programs = programs(image, bootable.as_ref(), stub);
    let remarks = programs.iter().map(|programs| remark(programs.stub(), certificate)).collect();
    let targets = targets(image, programs.map(|programs| programs.roots()));
    let mut obstacles = unknown_formats(image, archiso);
    if bootable.is_none_or(|bootable| bootable.boot_entries.is_empty()) {
        obstacles.push("the image has no kernel that a menu could name".to_owned());
    }
    vec![
        firmware_boot("BIOS", Architecture::BIOS, &targets, &obstacles, Vec::new()),
        firmware_boot("UEFI", Architecture::UEFI, &targets, &obstacles, remarks),
    ]
}

fn programs(
    image: &Arc<Image>,
    bootable: Option<&Bootable>,
    stub: Option<Stub>,
) -> Result<Programs, UefiError> {
    let bootable = bootable.ok_or_else(UefiError::no_image)?;
    let stub = stub.map_or_else(|| Stub::of_image(image), Ok);
    Programs::new(image, bootable, &Root::ALL, stub, None)
}

/// Says whose boot program it is, and what Secure Boot makes of it.
fn remark(stub: &Stub, certificate: Option<&Certificate>) -> String {
    match (check_signable(stub), certificate) {
        (Err(why), _) => format!("composed with the {stub}; Secure Boot has to be off: {why}"),
        (Ok(()), None) => {
            format!(
                "composed with the {stub}; Secure Boot has to be off, or `--secure-boot-key` be given to `serve`"
            )
        }
        (Ok(()), Some(certificate)) => format!(
            "composed with the {stub}, signed for Secure Boot by `{}` (SHA-256 {})",
            certificate.name(),
            certificate.fingerprint_text()
        ),
    }
}

/// Returns the boot targets of a server with this image alone and default ports.
fn targets(image: &Image, roots: Result<Vec<Root>, UefiError>) -> BootTargets {
    let ports = Ports { tftp: TFTP_PORT, http: Some(HTTP_PORT) };
    let loader = bios_loader(image);
    let targets = BootTargets::new(loader.as_ref().map(|path| path.as_str()), ports);
    match Word::new(IMAGE) {
        Some(name) => targets.with_image(name, roots),
        None => targets,
    }
}

/// Plans the boot of a machine. `obstacles` are those that all kinds of firmware share.
fn firmware_boot(
    firmware: &str,
    architecture: Architecture,
    targets: &BootTargets,
    obstacles: &[String],
    remarks: Vec<String>,
) -> FirmwareBoot {
    let platform = Platform { firmware: Firmware::Pxe, architecture };
    // PXE firmware gets paths; only HTTP Boot and iPXE get URLs, which have the server's address.
    let (boot_file, refusal) = match plan(platform, &Selection::default(), Ipv4Addr::UNSPECIFIED, targets) {
        Ok(plan) => (Some(plan.boot_file.to_string()), None),
        Err(refusal) => (None, Some(refusal.to_string())),
    };
    FirmwareBoot {
        firmware: firmware.to_owned(),
        // Firmware could load the program, but what it loads next is missing.
        boot_file: boot_file.filter(|_| obstacles.is_empty()),
        obstacles: refusal.into_iter().chain(obstacles.iter().cloned()).collect(),
        remarks,
    }
}

/// Describes root images of an unknown format.
fn unknown_formats(image: &Image, archiso: &Archiso) -> Vec<String> {
    let unknown = archiso.airootfs.iter().filter(|root| root.format == AirootfsFormat::Unknown);
    unknown
        .map(|root| {
            let path = image.index.path(root.node);
            format!("{} is neither squashfs nor erofs", String::from_utf8_lossy(&path))
        })
        .collect()
}

/// Returns the support of each initramfs for each root protocol.
pub(crate) fn root_support(image: &Image) -> Vec<RootSupport> {
    initramfs_support(image).0
}

/// Returns the same, and the drivers of each initramfs. Each is unpacked once.
pub(super) fn initramfs_support(image: &Image) -> (Vec<RootSupport>, Vec<DriverReport>) {
    let (mut support, mut drivers) = (Vec::new(), Vec::new());
    // An image with several kernels has an initramfs for each, and one may lack a hook that others
    // have.
    for (path, contents) in initramfs(image) {
        support.extend(Root::ALL.map(|root| RootSupport {
            root: root.to_string(),
            initramfs: path.clone(),
            shortfall: shortfall(&contents, root),
        }));
        drivers.push(DriverReport::of(path, &contents));
    }
    (support, drivers)
}

impl DriverReport {
    fn of(initramfs: String, contents: &Contents) -> Self {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let drivers = &contents.drivers;
        Self {
            initramfs,
            common: owned(drivers.common()),
            missing: owned(drivers.missing()),
            none: drivers.is_empty(),
            complete: contents.known_drivers().is_some(),
            summary: drivers.to_string(),
        }
    }
}
