//! Clients that ask for a boot file, and the options that name the file.

use super::{Boot, NoReply, Request};
use crate::boot::rules::Selection;
use crate::boot::{
    self, Architecture, BootPlan, BootTargets, Client, Firmware, Mac, Platform, Quirk, Quirks, Refusal,
};
use crate::dhcp::wire::{BootClass, HardwareAddress, Message, ReplyOption};
use crate::text::SafeText;

/// Boot file for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOffer {
    pub platform: Platform,
    pub class: BootClass,
    pub file: SafeText,
    pub config_file: Option<SafeText>,
    pub quirks: Quirks,
}

/// Decides what the sender boots, by the one rule that is selected for it. `is_retry` is that of
/// [`Firmware::LimitedIpxe`].
///
/// # Errors
/// [`NoReply::Ignored`] if that rule says so.
pub(super) fn decide(request: &Request, targets: &BootTargets, is_retry: bool) -> Result<Boot, NoReply> {
    let message = &request.message;
    let mut clients = clients(message, is_retry);
    let first = clients.next().unwrap_or_default();
    let selection = targets.rules().select(&first);
    if selection.is_ignored() {
        return Err(NoReply::Ignored);
    }
    let Some(boot) = offer(&first, &selection, request, targets) else { return Ok(None) };
    // RFC 4578 §2.1: a client may list several architectures. The first that has a boot file
    // counts.
    let mut others = clients.filter_map(|client| {
        let selection = Some(targets.rules().select(&client)).filter(|selection| !selection.is_ignored())?;
        offer(&client, &selection, request, targets)?.ok()
    });
    Ok(Some(boot.or_else(|refused| others.next().ok_or(refused))))
}

/// Returns descriptions of the sender, one for each architecture that it names.
fn clients(message: &Message, is_retry: bool) -> impl Iterator<Item = Client<'_>> {
    let class = boot_class(message);
    // RFC 4578 §2.1: boot clients must send option 93. Some name the architecture in their class
    // only.
    let default = message.architectures.is_empty().then(|| {
        class.map(|class| architecture_of_class(message, class).unwrap_or(usual_architecture(class)))
    });
    let named = message.architectures.iter().map(|&code| Some(Architecture(code)));
    let mac = mac(&message.header.hardware());
    named.chain(default).map(move |architecture| Client {
        mac,
        architecture,
        firmware: class
            .zip(architecture)
            .map(|(class, architecture)| firmware(message, class, architecture, is_retry)),
        vendor_class: &message.vendor_class,
    })
}

/// Returns the class of a boot client; `None` for all other clients.
fn boot_class(message: &Message) -> Option<BootClass> {
    let classes = [BootClass::HttpClient, BootClass::PxeClient];
    classes.into_iter().find(|class| message.vendor_class.starts_with(class.as_str().as_bytes()))
}

/// Returns whether the sender asks for a boot file.
pub(crate) fn is_boot_client(message: &Message) -> bool {
    boot_class(message).is_some()
}

/// Returns the architecture in the class of a client: `PXEClient:Arch:xxxxx:UNDI:yyyzzz`, in
/// decimal (PXE 2.1 §2.2.1, step 1). Option 93 comes before it, since that has all architectures.
fn architecture_of_class(message: &Message, class: BootClass) -> Option<Architecture> {
    let rest = message.vendor_class.strip_prefix(class.as_str().as_bytes())?.strip_prefix(b":Arch:")?;
    let number = rest.split(|&byte| byte == b':').next()?;
    str::from_utf8(number).ok()?.parse().ok().map(Architecture)
}

/// Returns the architecture of a client that names none.
const fn usual_architecture(class: BootClass) -> Architecture {
    match class {
        // ROMs that name none are older than option 93, and for a BIOS.
        BootClass::PxeClient => Architecture::BIOS,
        // UEFI 2.10 §24.7.3.1: HTTP Boot is that of UEFI firmware.
        BootClass::HttpClient => Architecture::UEFI_HTTP,
    }
}

/// Returns the MAC address of a machine on Ethernet.
pub(crate) fn mac(hardware: &HardwareAddress) -> Option<Mac> {
    Mac::new(hardware.bytes()).filter(|_| hardware.kind() == HardwareAddress::ETHERNET)
}

/// Features of iPXE that our scripts need: HTTP and menus (src/include/ipxe/features.h).
const SCRIPT_FEATURES: [u8; 2] = [0x13, 0x27];
/// Feature of iPXE for BIOS that boots a Linux kernel. Builds for UEFI never list it.
const BZIMAGE: u8 = 0x18;

/// Returns whether the sender is an iPXE that may lack a feature which our scripts need.
pub(super) fn is_limited_ipxe(message: &Message) -> bool {
    clients(message, false).any(|client| matches!(client.firmware, Some(Firmware::LimitedIpxe { .. })))
}

fn firmware(message: &Message, class: BootClass, architecture: Architecture, is_retry: bool) -> Firmware {
    // Option 175 is that of iPXE, whatever the user class of a build.
    let is_ipxe = message.has_user_class(b"iPXE") || !message.ipxe_options.is_empty();
    match class {
        _ if is_ipxe && has_script_features(message, architecture) => Firmware::Ipxe,
        _ if is_ipxe => Firmware::LimitedIpxe { is_retry },
        BootClass::PxeClient => Firmware::Pxe,
        BootClass::HttpClient => Firmware::HttpBoot,
    }
}

fn has_script_features(message: &Message, architecture: Architecture) -> bool {
    let of_bios = (architecture == Architecture::BIOS).then_some(BZIMAGE);
    SCRIPT_FEATURES.into_iter().chain(of_bios).all(|feature| message.may_have_ipxe_feature(feature))
}

/// Returns `None` for a client that asks for no boot file.
fn offer(
    client: &Client<'_>,
    selection: &Selection<'_>,
    request: &Request,
    targets: &BootTargets,
) -> Option<Result<BootOffer, Refusal>> {
    let (platform, class) = (client.platform()?, boot_class(&request.message)?);
    let plan = boot::plan(platform, selection, request.server, targets);
    Some(plan.map(|BootPlan { boot_file, config_file, quirks }| BootOffer {
        platform,
        class,
        file: boot_file,
        config_file,
        quirks,
    }))
}

impl BootOffer {
    /// Returns the options that name the boot file. All firmware that was tried takes this set,
    /// with an address and without; quirks change it for single machines.
    pub(super) fn options(&self, request: &Request) -> impl Iterator<Item = ReplyOption> + use<> {
        let is_pxe = self.class == BootClass::PxeClient;
        // Ampere eMAG firmware ignores the boot file of a reply that says `PXEClient`.
        let is_plain = is_pxe && self.quirks.has(Quirk::Plain);
        let of_class = if is_plain { [const { None }; 3] } else { self.class_options(request) };
        let options = [
            Some(ReplyOption::BootFile(self.file.clone())),
            // Sent unasked (RFC 5071 §4.5): iPXE does not request option 209, but lpxelinux reads
            // it from the reply that iPXE caches.
            self.config_file.clone().map(ReplyOption::ConfigFile),
            (is_pxe && !is_plain).then_some(ReplyOption::TftpServer(request.server)),
        ];
        of_class.into_iter().chain(options).flatten()
    }

    /// Returns the options by which a client recognises a boot server.
    fn class_options(&self, request: &Request) -> [Option<ReplyOption>; 3] {
        let Message { machine_id, boot_item, .. } = &request.message;
        // EDK2 takes a file by HTTP from an offer without option 43. PXE 2.1 §2.4.5: a client that
        // chose a boot item gets it confirmed, whatever its quirks.
        let skips_discovery =
            self.class == BootClass::PxeClient && (!self.quirks.has(Quirk::No43) || boot_item.is_some());
        [
            Some(ReplyOption::BootClass(self.class)),
            (!machine_id.is_empty()).then(|| ReplyOption::MachineIdentifier(machine_id.clone())),
            skips_discovery.then_some(ReplyOption::SkipDiscovery { boot_item: *boot_item }),
        ]
    }
}
