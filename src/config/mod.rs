//! The settings of `serve`: the command line over the configuration file over the defaults.
//!
//! A setting is declared once, as a field of [`ServeOptions`]: option of the command line, key of
//! the file and help in one. [`Config`] has its checked value, with nothing left to interpret. The
//! error about a wrong setting is one line: where, what, why, and what to do.

mod dhcp;
mod file;
mod files;
mod images;
mod interface;
mod machine;
mod menu;
mod options;
mod privileges;
mod raw;
#[expect(clippy::disallowed_methods, reason = "reads the key that the operator names")]
mod secure_boot;
mod seed;
mod servers;
mod services;
mod store;
mod subnets;
#[expect(clippy::disallowed_methods, reason = "the shell reads clocks and files")]
mod value;
mod verify;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{ArgMatches, FromArgMatches as _};

use crate::boot::menu::MenuSettings;
use crate::boot::seed::{SeedSettings, SshKey};
use crate::boot::{Rules, UefiBy};
use crate::bootable::Root;
use crate::export::Allowed;
use crate::image::STALL_TIMEOUT;
use crate::images::VerifyPolicy;
use crate::interfaces;
use crate::machines::{MACHINES_MAX, local};
use crate::placement::Servers;
use crate::tftp::server::MAX_TRANSFERS;
use crate::uki::{SigningPair, Stub};
pub(crate) use dhcp::{Dhcp, Solicitations};
use file::ConfigFile;
pub(crate) use files::FilesConfig;
pub(crate) use images::ImageConfig;
use menu::length;
pub use options::ServeOptions;
use options::{ImageOptions, MachineOptions, ServerOptions, SubnetOptions};
pub(crate) use privileges::{SandboxMode, User};
use raw::RawValue;
pub(crate) use secure_boot::certificate;
pub(crate) use services::{
    Asked, HTTP_PORT, NBD_PORT, PORTMAP_PORT, RootServices, ServicePort, StatusPage, StatusService,
    TFTP_PORT, TftpPorts,
};
pub(crate) use store::CacheConfig;
pub(crate) use value::{bios_ipxe_of_host, uefi_ipxe_of_host};

/// Name of the private socket for the process that takes over, beside that of the status.
const HANDOVER_SOCKET: &str = "handover.sock";

/// Checked settings of `serve`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Images and folders of images, at least one; the default image is in the first.
    pub images: Vec<ImageConfig>,
    /// Network interface on which DHCP is answered; `None` means all.
    pub interface: Option<String>,
    /// Start without the interface, or without its address on the network of the DHCP range.
    pub wait_interface: bool,
    /// Address to listen on; 0.0.0.0 means all.
    pub bind: Ipv4Addr,
    /// Clients that the services admit.
    pub allowed: Allowed,
    /// Address of this host in menus and replies; `None` means the one that a request reached.
    pub advertise: Option<Ipv4Addr>,
    /// Port of HTTP at that address, for menus and replies; `None` means the one that is served.
    pub advertised_http: Option<u16>,
    pub root_services: RootServices,
    pub tftp: ServicePort,
    pub tftp_ports: TftpPorts,
    pub dhcp: Dhcp,
    /// Servers that share the machines of the network, this one among them.
    pub servers: Option<Servers>,
    /// With `Answered`, DHCP is on and counts as asked for by the operator.
    pub solicitations: Solicitations,
    /// Root protocol that the operator named; `None` means the first of the menu that can be
    /// served.
    pub root: Option<Root>,
    /// Settings of the menu; its roots are those that may be served, in order.
    pub menu: MenuSettings,
    /// Seeds of all machines; rules add to them.
    pub seed: SeedSettings,
    /// The operator's own files.
    pub(crate) files: Option<FilesConfig>,
    /// Rules for machines.
    pub rules: Rules,
    /// Directory of what is kept over a restart.
    pub state_directory: PathBuf,
    pub uefi: UefiBy,
    /// iPXE for UEFI machines, if they all load it.
    pub ipxe: Option<Bytes>,
    /// EFI stub for UEFI machines, instead of the one in each image.
    pub stub: Option<Stub>,
    /// Key and certificate that boot programs for UEFI are signed with.
    pub signing_pair: Option<Arc<SigningPair>>,
    /// What images are verified by before they are offered; `None` offers them at once.
    pub(crate) verify: Option<VerifyPolicy>,
    /// Cache of images in object stores; `None` without such images.
    pub(crate) cache: Option<CacheConfig>,
    /// Time for which clients wait for a disk that fails or hangs.
    pub stall_timeout: Duration,
    pub status: StatusService,
    pub sandbox: SandboxMode,
    /// User to become after the start; `None` means `nobody`, if isowire was started as root.
    pub user: Option<User>,
    pub log_format: LogFormat,
    /// Lines of one kind about one peer that are logged before they are counted; `None` means all.
    pub log_repeats: Option<NonZeroU32>,
    pub limits: Limits,
    /// Take over from the process that listens at `handover_socket`.
    pub takeover: bool,
    /// Private socket for the process that takes over.
    pub handover_socket: PathBuf,
}

impl Config {
    /// Returns the interface if this host does not have it at this moment.
    pub(crate) fn missing_interface(&self) -> Option<&str> {
        self.interface.as_deref().filter(|name| !interfaces::exists(name))
    }

    /// Returns whether the address that machines would be told is one that no machine can reach.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.bind.is_loopback() && self.advertise.is_none()
    }

    /// Returns whether DHCP is answered. A proxy that nobody asked for is of no use where no machine is.
    pub(crate) fn answers_dhcp(&self) -> bool {
        match self.dhcp {
            Dhcp::Off => false,
            Dhcp::Proxy(Asked::ByDefault) => !self.is_unreachable(),
            Dhcp::Proxy(Asked::ByOperator) | Dhcp::Server(_) => true,
        }
    }

    /// Returns the roots that the operator named, for all machines, an image or a rule.
    pub(crate) fn named_roots(&self) -> impl Iterator<Item = Root> {
        let images = self.images.iter().map(|image| &image.overrides);
        let overrides = images.chain(self.rules.iter().map(|rule| &rule.overrides));
        self.root.into_iter().chain(overrides.filter_map(|overrides| overrides.root))
    }
}

/// Limits that the operator chose; `None` means that they follow from the limit of open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections over TCP at a time, of all services.
    pub connections: Option<usize>,
    /// Connections of one address.
    pub connections_per_address: Option<usize>,
    /// Transfers over TFTP at a time.
    pub transfers: usize,
    /// Machines that are remembered.
    pub machines: usize,
}

/// Default of `log-repeats`: a machine that boots and boots writes fewer lines of a kind.
const LOG_REPEATS: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// An invalid setting, in one line for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }
}

/// Looks up an environment variable.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Reads the configuration file, if one is named, and checks everything.
///
/// `arguments` are those of `serve`. `variables` say where state and the cache are kept.
///
/// # Errors
/// [`ConfigError`] is the first wrong setting.
pub fn load(arguments: &ArgMatches, variables: Environment<'_>) -> Result<Config, ConfigError> {
    let (file, options) = with_file(arguments)?;
    let checker = Checker { file: file.as_ref(), options: &options, variables };
    let config = checker.checked()?;
    checker.require_interface(&config)?;
    checker.require_own_server(&config)?;
    Ok(config)
}

/// Does as [`load`], but neither the images nor the interface have to be there. Returns the error
/// about the interface too.
///
/// # Errors
/// [`ConfigError`] is the first other wrong setting.
pub(crate) fn load_to_examine(
    arguments: &ArgMatches,
    variables: Environment<'_>,
) -> Result<(Config, Option<ConfigError>), ConfigError> {
    let (file, options) = with_file(arguments)?;
    let checker = Checker { file: file.as_ref(), options: &options, variables };
    let config = checker.config()?;
    require_service(&config)?;
    let missing = checker.require_interface(&config).and_then(|()| checker.require_own_server(&config)).err();
    Ok((config, missing))
}

fn with_file(arguments: &ArgMatches) -> Result<(Option<ConfigFile>, ServeOptions), ConfigError> {
    // The derived `FromArgMatches` would start from nothing; here the file comes first.
    let (file, mut options) = match arguments.get_one::<PathBuf>("config") {
        Some(path) => ConfigFile::read(path).map(|(file, options)| (Some(file), options))?,
        None => (None, ServeOptions::default()),
    };
    // The command line wins: options that stand on it replace those of the file, all others stay.
    options.update_from_arg_matches(arguments).map_err(|error| ConfigError::new(error.to_string()))?;
    Ok((file, options))
}

/// Checks a configuration file with this text, as [`load`] does with an empty command line. It
/// reads no other file, so UEFI machines get the default.
///
/// # Errors
/// Those of [`load`].
pub(crate) fn of_text(text: &str) -> Result<Config, ConfigError> {
    let (file, mut options) = ConfigFile::parse(Path::new("isowire.toml"), text.to_owned())?;
    // These name files of this host, and a fuzzer would name any.
    (options.stub, options.uefi, options.ipxe) = (None, None, None);
    (options.secure_boot_key, options.secure_boot_certificate, options.user) = (None, None, None);
    options.verify_certificate = None;
    let lists = options.machine.iter_mut().map(|machine| {
        machine.user_data = None;
        (machine.script, machine.secret) = (None, None);
        &mut machine.ssh_keys
    });
    (options.user_data, options.files) = (None, None);
    options.image.iter_mut().for_each(|image| image.user_data = None);
    lists
        .chain([&mut options.ssh_keys])
        .flatten()
        .for_each(|keys| keys.retain(|key| SshKey::is_typed(&key.text)));
    Checker { file: Some(&file), options: &options, variables: &|_| None }.checked()
}

/// Refuses a configuration by which no machine boots.
fn require_service(config: &Config) -> Result<(), ConfigError> {
    // The portmapper and the status alone boot no machine.
    let is_tcp_off = Root::ALL.into_iter().all(|root| config.root_services.of(root).is_off());
    if !is_tcp_off || !config.tftp.is_off() || config.dhcp.is_on() {
        return Ok(());
    }
    let roots = Root::ALL.map(|root| format!("`{}`", root.word())).join(", ");
    Err(ConfigError::new(format!("nothing to serve: {roots}, `tftp` and `dhcp` are all off; turn one on")))
}

/// Checks options and makes a [`Config`] of them.
struct Checker<'a> {
    file: Option<&'a ConfigFile>,
    options: &'a ServeOptions,
    variables: Environment<'a>,
}

impl Checker<'_> {
    fn checked(&self) -> Result<Config, ConfigError> {
        let config = self.config()?;
        if config.images.is_empty() {
            return Err(ConfigError::new(
                "no image to serve: name an ISO, as in `isowire serve archlinux.iso`",
            ));
        }
        require_service(&config)?;
        Ok(config)
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let options = self.options;
        let services = self.root_services()?;
        let menu = self.menu(&services)?;
        // A command line holds the parameters of all machines, of the image and of the rule
        // together. So a rule has to fit beside the image with the longest.
        let images = self.images(&services, length(&menu.parameters))?;
        let longest = images.iter().map(|image| length(&image.overrides.parameters)).max().unwrap_or(0);
        let dhcp = self.dhcp()?;
        let files = self.files(&services)?;
        // `ipxe` alone implies `uefi = ipxe`, so both are read before either is kept.
        let uefi = self.uefi()?;
        let stub = self.stub()?;
        let (advertise, advertised_http) = self.advertised(&services)?.unzip();
        let interface = self.read("interface", &options.interface, value::interface)?;
        Ok(Config {
            rules: self.rules(&services, &dhcp, files.as_ref(), length(&menu.parameters) + longest)?,
            files,
            state_directory: dhcp::state_directory(self.variables),
            ipxe: self.ipxe(uefi)?,
            uefi,
            cache: self.cache(&images)?,
            images,
            wait_interface: self.wait_interface(interface.as_deref(), &dhcp)?,
            interface,
            bind: self.bind(&dhcp, advertise)?,
            allowed: self.allowed()?,
            advertise,
            advertised_http: advertised_http.flatten(),
            root: self.root(&services)?,
            menu,
            seed: self.seed(&options.ssh_keys, &options.user_data, &services)?,
            signing_pair: self.signing_pair(uefi, stub.as_ref())?.map(Arc::new),
            stub,
            root_services: services,
            tftp: self.service_port("tftp", &options.tftp, TFTP_PORT)?,
            tftp_ports: self.tftp_ports()?,
            servers: self.servers(&dhcp)?,
            dhcp,
            solicitations: self.solicitations()?,
            verify: self.verify()?,
            stall_timeout: self
                .read("stall-timeout", &options.stall_timeout, value::stall_timeout)?
                .unwrap_or(STALL_TIMEOUT),
            status: self.status()?,
            sandbox: self
                .read("sandbox", &options.sandbox, privileges::sandbox)?
                .unwrap_or(SandboxMode::Auto),
            user: self.read("user", &options.user, privileges::user)?,
            takeover: options.takeover,
            handover_socket: local::server_path(self.variables).with_file_name(HANDOVER_SOCKET),
            log_format: self
                .read("log-format", &options.log_format, value::log_format)?
                .unwrap_or(LogFormat::Text),
            limits: self.limits()?,
            log_repeats: self
                .read("log-repeats", &options.log_repeats, value::log_repeats)?
                .unwrap_or(Some(LOG_REPEATS)),
        })
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let options = self.options;
        let read = |key, value| self.read(key, value, value::count);
        Ok(Limits {
            connections: read("max-connections", &options.max_connections)?,
            connections_per_address: read(
                "max-connections-per-address",
                &options.max_connections_per_address,
            )?,
            transfers: read("max-transfers", &options.max_transfers)?.unwrap_or(MAX_TRANSFERS),
            machines: read("max-machines", &options.max_machines)?.unwrap_or(MACHINES_MAX),
        })
    }

    /// Parses a setting, if it was set.
    fn read<T>(
        &self,
        key: &str,
        value: &Option<RawValue>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        value.as_ref().map(|value| self.parse(key, value, &parse)).transpose()
    }

    /// Parses the values of a list; there are none if it was not set.
    fn read_all<T>(
        &self,
        key: &str,
        list: &Option<Vec<RawValue>>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        list.iter().flatten().map(|value| self.parse(key, value, &parse)).collect()
    }

    /// Parses one value and names it in the error.
    fn parse<T>(
        &self,
        key: &str,
        value: &RawValue,
        parse: &impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        parse(&value.text).map_err(|why| self.wrong(key, value, &why))
    }

    /// Returns an error about a value.
    fn wrong(&self, key: &str, value: &RawValue, why: &str) -> ConfigError {
        // Escaped, so that a value with a line break or an escape sequence stays one harmless line.
        ConfigError::new(format!("{}: `{}`: {why}", self.place(key, value), value.text.escape_debug()))
    }

    fn place(&self, key: &str, value: &RawValue) -> String {
        file::place(key, value, self.file)
    }

    /// Resolves a path of the file, which is relative to the file's directory.
    fn resolve(&self, path: &str) -> PathBuf {
        self.file.map_or_else(|| PathBuf::from(path), |file| file.resolve(path))
    }
}

#[cfg(test)]
mod tests;
