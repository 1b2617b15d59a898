//! Who asks for a boot file, and which options tell it.

use super::Question;
use crate::boot::rules::Client;
use crate::boot::{self, Architecture, BootPlan, Firmware, Mac, Machine, Quirk, Quirks, Refusal};
use crate::dhcp::wire::{BootClass, HardwareAddress, Message, ReplyOption, SafeText, UnsafeTextError};

/// The boot file for one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOffer {
    pub machine: Machine,
    pub class: BootClass,
    pub file: SafeText,
    pub config_file: Option<SafeText>,
    pub quirks: Quirks,
}

/// A boot client for which there is no boot file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootFileError {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("the name of its boot file: {0}")]
    Unsafe(#[from] UnsafeTextError),
}

/// Whether a rule has this machine left alone. One that says no architecture has none.
pub(super) fn is_ignored(question: &Question, site: &boot::BootTargets) -> bool {
    let message = &question.message;
    let (mac, vendor_class) = (mac(&message.header.hardware()), &message.vendor_class[..]);
    let architecture = message.architectures.first().map(|&code| Architecture(code));
    site.rules().find(&Client { mac, architecture, vendor_class }).is_some_and(|rule| rule.is_ignored)
}

/// What the sender may boot; `None` when it asks for no boot file.
pub(super) fn plan(
    question: &Question,
    site: &boot::BootTargets,
) -> Option<Result<BootOffer, BootFileError>> {
    let message = &question.message;
    let class = boot_class(message)?;
    let mut offers = machines(message, class).map(|machine| offer(machine, class, question, site));
    let first = offers.next()?;
    // RFC 4578 §2.1: a client that names several architectures runs any of them.
    Some(first.or_else(|refused| offers.find_map(Result::ok).ok_or(refused)))
}

/// Firmware and iPXE name themselves in option 60; `PXEClient:Arch:00000:UNDI:002001` goes on with numbers that
/// are better read from option 93.
fn boot_class(message: &Message) -> Option<BootClass> {
    let classes = [BootClass::HttpClient, BootClass::PxeClient];
    classes.into_iter().find(|class| message.vendor_class.starts_with(class.as_str().as_bytes()))
}

fn machines(message: &Message, class: BootClass) -> impl Iterator<Item = Machine> {
    let mac = mac(&message.header.hardware());
    // RFC 4578 demands the option; ROMs older than it are BIOS ROMs.
    let default = message.architectures.is_empty().then_some(Architecture::BIOS.0);
    let architectures = message.architectures.iter().copied().chain(default);
    architectures.map(Architecture).map(move |architecture| {
        let firmware = firmware(message, class, architecture);
        Machine { firmware, architecture, mac }
    })
}

/// The MAC address of a machine on Ethernet.
pub fn mac(hardware: &HardwareAddress) -> Option<Mac> {
    Mac::new(hardware.bytes()).filter(|_| hardware.kind() == HardwareAddress::ETHERNET)
}

/// HTTP and menus, by the numbers of iPXE's features (src/include/ipxe/features.h): our scripts need both.
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

fn offer(
    machine: Machine,
    class: BootClass,
    question: &Question,
    site: &boot::BootTargets,
) -> Result<BootOffer, BootFileError> {
    let plan = boot::plan(&machine, &question.message.vendor_class, question.server, site)?;
    let BootPlan { boot_file, config_file, quirks } = plan;
    let config_file = config_file.as_deref().map(SafeText::new).transpose()?;
    Ok(BootOffer { machine, class, file: SafeText::new(&boot_file)?, config_file, quirks })
}

impl BootOffer {
    /// The one shape that every firmware tried takes, with an address and without, but for machines with quirks. Sent
    /// unasked: iPXE leaves 209 out of its parameter list, but lpxelinux reads it from the reply that iPXE kept.
    pub(super) fn options(&self, question: &Question) -> impl Iterator<Item = ReplyOption> + use<> {
        let is_pxe = self.class == BootClass::PxeClient;
        let is_plain = is_pxe && self.quirks.has(Quirk::Plain);
        let of_pxe = if is_plain { [const { None }; 3] } else { self.class_options(question) };
        let options = [
            Some(ReplyOption::BootFile(self.file.clone())),
            self.config_file.clone().map(ReplyOption::ConfigFile),
            (is_pxe && !is_plain).then_some(ReplyOption::TftpServer(question.server)),
        ];
        of_pxe.into_iter().chain(options).flatten()
    }

    /// What a client knows a boot server by.
    fn class_options(&self, question: &Question) -> [Option<ReplyOption>; 3] {
        let Message { machine_id, boot_item, .. } = &question.message;
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
