//! Clients that ask for a boot file, and the options that name it.

use super::{Boot, NoReply, Request};
use crate::boot::rules::Selection;
use crate::boot::{
    self, Architecture, BootPlan, BootTargets, Client, Firmware, Mac, Platform, Quirk, Quirks, Refusal,
};
use crate::dhcp::wire::{BootClass, HardwareAddress, Message, ReplyOption};
use crate::text::SafeText;

/// The boot file for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOffer {
    pub platform: Platform,
    pub class: BootClass,
    pub file: SafeText,
    pub config_file: Option<SafeText>,
    pub quirks: Quirks,
}

/// Decides what the sender boots, by the one rule that is selected for it.
///
/// # Errors
/// [`NoReply::Ignored`] by that rule.
pub(super) fn decide(request: &Request, targets: &BootTargets) -> Result<Boot, NoReply> {
    let message = &request.message;
    let mut clients = clients(message);
    let first = clients.next().unwrap_or_default();
    let selection = targets.rules().select(&first);
    if selection.is_ignored() {
        return Err(NoReply::Ignored);
    }
    let Some(boot) = offer(&first, &selection, request, targets) else { return Ok(None) };
    // RFC 4578 §2.1: a client that names several architectures runs any of them.
    let mut others = clients.filter_map(|client| {
        let selection = Some(targets.rules().select(&client)).filter(|selection| !selection.is_ignored())?;
        offer(&client, &selection, request, targets)?.ok()
    });
    Ok(Some(boot.or_else(|refused| others.next().ok_or(refused))))
}

/// Returns the sender's description, one for each architecture that it names.
fn clients(message: &Message) -> impl Iterator<Item = Client<'_>> {
    let class = boot_class(message);
    // RFC 4578 §2.1 demands option 93 of boot clients; ROMs older than it are BIOS ROMs.
    let default = message.architectures.is_empty().then(|| class.map(|_| Architecture::BIOS));
    let named = message.architectures.iter().map(|&code| Some(Architecture(code)));
    let mac = mac(&message.header.hardware());
    named.chain(default).map(move |architecture| Client {
        mac,
        architecture,
        firmware: class.zip(architecture).map(|(class, architecture)| firmware(message, class, architecture)),
        vendor_class: &message.vendor_class,
    })
}

/// Firmware and iPXE name themselves in option 60; `PXEClient:Arch:00000:UNDI:002001` goes on with numbers that
/// are better read from option 93.
fn boot_class(message: &Message) -> Option<BootClass> {
    let classes = [BootClass::HttpClient, BootClass::PxeClient];
    classes.into_iter().find(|class| message.vendor_class.starts_with(class.as_str().as_bytes()))
}

/// The MAC address of a machine on Ethernet.
pub(crate) fn mac(hardware: &HardwareAddress) -> Option<Mac> {
    Mac::new(hardware.bytes()).filter(|_| hardware.kind() == HardwareAddress::ETHERNET)
}

/// Features of iPXE that a script of ours needs, HTTP and menus, by their numbers (src/include/ipxe/features.h).
const SCRIPT_FEATURES: [u8; 2] = [0x13, 0x27];

fn firmware(message: &Message, class: BootClass, architecture: Architecture) -> Firmware {
    let is_ipxe = message.has_user_class(b"iPXE") || !message.ipxe_options.is_empty();
    let runs_scripts = SCRIPT_FEATURES.iter().all(|&feature| message.may_have_ipxe_feature(feature));
    match class {
        // In a BIOS a lesser iPXE is as good as any PXE ROM. Under UEFI there is nothing else for it.
        BootClass::PxeClient if is_ipxe && architecture == Architecture::BIOS && !runs_scripts => {
            Firmware::Pxe
        }
        _ if is_ipxe => Firmware::Ipxe,
        BootClass::PxeClient => Firmware::Pxe,
        BootClass::HttpClient => Firmware::HttpBoot,
    }
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
    /// The one shape that every firmware tried takes, with an address and without, but for machines with quirks. Sent
    /// unasked: iPXE leaves 209 out of its parameter list, but lpxelinux reads it from the reply that iPXE kept.
    pub(super) fn options(&self, request: &Request) -> impl Iterator<Item = ReplyOption> + use<> {
        let is_pxe = self.class == BootClass::PxeClient;
        let is_plain = is_pxe && self.quirks.has(Quirk::Plain);
        let of_pxe = if is_plain { [const { None }; 3] } else { self.class_options(request) };
        let options = [
            Some(ReplyOption::BootFile(self.file.clone())),
            self.config_file.clone().map(ReplyOption::ConfigFile),
            (is_pxe && !is_plain).then_some(ReplyOption::TftpServer(request.server)),
        ];
        of_pxe.into_iter().chain(options).flatten()
    }

    /// What a client knows a boot server by.
    fn class_options(&self, request: &Request) -> [Option<ReplyOption>; 3] {
        let Message { machine_id, boot_item, .. } = &request.message;
        // HTTP Boot must not get option 43. Who chose a boot item waits for its confirmation, quirk or not.
        let skips_discovery =
            self.class == BootClass::PxeClient && (!self.quirks.has(Quirk::No43) || boot_item.is_some());
        [
            Some(ReplyOption::BootClass(self.class)),
            (!machine_id.is_empty()).then(|| ReplyOption::MachineIdentifier(machine_id.clone())),
            skips_discovery.then_some(ReplyOption::SkipDiscovery { boot_item: *boot_item }),
        ]
    }
}
