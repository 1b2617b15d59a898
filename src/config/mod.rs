//! The settings of `serve`: the command line over the configuration file over the defaults, checked once, with nothing
//! left to interpret. A setting that cannot be is one line: what, where, why, and what to do.

mod boot;
mod dhcp;
mod machine;
mod raw;
mod value;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::boot::menu::{MenuSettings, Overrides, Root};
use crate::boot::{Rules, UefiBy};
use crate::cli::Serve;
use crate::dhcp::server::ServerConfig;
use crate::export::Allowed;
use crate::export::allowed::Subnet;
use crate::machines::local;
use crate::text::Word;
use crate::uki::Stub;
use boot::length;
use raw::{File, List, RawConfig, RawImage, Value};
use value::Refusal;

/// The registered port of NBD, which archiso's hook always asks.
pub const NBD_PORT: u16 = 10809;
/// IANA's `nfs`. A portmapper tells clients any other one.
pub const NFS_PORT: u16 = 2049;
/// RFC 1833 §1; archiso's nfsmount always asks this one.
pub const PORTMAP_PORT: u16 = 111;
/// RFC 9110 §4.2.1: what a URL without a port means, as those in archiso's own menu are.
pub const HTTP_PORT: u16 = 80;
/// RFC 1350 §4; firmware always asks this one.
pub const TFTP_PORT: u16 = 69;
/// All `kernel-parameters` together, in bytes: the kernel's command line holds 2048 (x86's COMMAND_LINE_SIZE), of which
/// the image's own parameters and ours need their part.
const PARAMETERS_MAX: usize = 600;

/// A setting that cannot be: the operator's mistake, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(String);

impl Wrong {
    fn new(line: String) -> Self {
        Self(line)
    }
}

/// Everything `serve` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where images are, at least in one place; the first place has the default.
    pub images: Vec<Place>,
    /// The network interface that DHCP is answered on; all where there is none.
    pub interface: Option<String>,
    pub bind: Ipv4Addr,
    /// Who may come to any service.
    pub allowed: Allowed,
    /// The address machines are told; else the one that their request reached.
    pub advertise: Option<Ipv4Addr>,
    pub root_doors: RootDoors,
    pub tftp: Door,
    pub tftp_ports: TftpPorts,
    pub dhcp: Dhcp,
    /// Needs DHCP, which is then wanted by the operator too.
    pub solicitations: Solicitations,
    /// The root protocol that the operator named. Without one it is the first of the menu that can be served.
    pub root: Option<Root>,
    /// Its roots are those that may be served, in the order of the menu.
    pub menu: MenuSettings,
    /// What is otherwise for some machines.
    pub rules: Rules,
    pub uefi: UefiBy,
    /// iPXE for UEFI, where it is wanted.
    pub ipxe: Option<Bytes>,
    /// What UEFI machines boot with, instead of the stub in each image.
    pub stub: Option<Stub>,
    /// Where the status is told.
    pub status: Status,
    pub log_format: LogFormat,
}

impl Config {
    /// The roots that the operator named, for all machines or for some.
    pub fn named_roots(&self) -> impl Iterator<Item = Root> {
        let images = self.images.iter().map(|image| &image.overrides);
        let overrides = images.chain(self.rules.iter().map(|rule| &rule.overrides));
        self.root.into_iter().chain(overrides.filter_map(|overrides| overrides.root))
    }
}

/// An ISO, or a folder of ISOs, as the operator named it. Which of them it is may change while we run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// What an ISO is called, where that is not made of its file's name.
    pub name: Option<Word>,
    /// What is otherwise for its images.
    pub overrides: Overrides,
}

/// A service on one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Off,
    On {
        /// 0 takes any free port.
        port: u16,
        asked: Asked,
    },
}

impl Door {
    pub fn is_off(self) -> bool {
        self == Door::Off
    }
}

/// The services that a root file system comes by.
#[derive(Debug, Clone, Copy)]
pub struct RootDoors {
    pub nbd: Door,
    /// NFS and MOUNT.
    pub nfs: Door,
    /// Where clients ask for the port of NFS.
    pub portmap: Door,
    pub http: Door,
}

impl RootDoors {
    /// The roots that may be served, this one first.
    fn roots(&self, first: Option<Root>) -> Vec<Root> {
        let mut roots = vec![Root::Nbd, Root::Nfs, Root::Http];
        roots.retain(|&root| self.lacks(root).is_none());
        roots.sort_by_key(|&root| Some(root) != first);
        roots
    }

    /// The service that is off and without which there is no such root.
    fn lacks(&self, root: Root) -> Option<&'static str> {
        let needed = match root {
            Root::Nbd => vec![("nbd", self.nbd)],
            // archiso's nfsmount has no way to be told the port of MOUNT.
            Root::Nfs => vec![("nfs", self.nfs), ("portmap", self.portmap)],
            Root::Http => vec![("http", self.http)],
        };
        needed.into_iter().find_map(|(name, door)| door.is_off().then_some(name))
    }
}

/// Whether somebody wants a service enough to start nothing without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    ByOperator,
    ByDefault,
}

/// The ports that TFTP sends files from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TftpPorts {
    /// A new one for each transfer, as RFC 1350 §4 wants it.
    Many,
    /// The one that requests come to.
    Single,
}

/// What to do about DHCP.
#[derive(Debug, Clone)]
pub enum Dhcp {
    Off,
    /// Answer machines that boot from the network, beside the DHCP server there is.
    Proxy(Asked),
    /// Be the DHCP server.
    Server(ServerConfig),
}

/// What to do when a machine that boots asks for IPv6 routers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Solicitations {
    Ignored,
    /// It is told that there is none.
    Answered,
}

/// Where it is told what the machines are doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Off,
    On {
        /// On this host.
        socket: PathBuf,
        /// For others, where the operator wants it.
        address: Option<SocketAddrV4>,
    },
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Reads the configuration file, if one is named, and checks everything.
///
/// `variable` gives environment variables: they say where state is kept.
///
/// # Errors
/// [`Wrong`] is the first setting that cannot be.
pub fn load(serve: &Serve, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, Wrong> {
    let (file, from_file) = match &serve.config {
        Some(path) => File::read(path).map(|(file, raw)| (Some(file), raw))?,
        None => (None, RawConfig::default()),
    };
    let raw = RawConfig::from(serve).or(from_file);
    Checker { file: file.as_ref(), raw: &raw }.checked(&serve.iso, variable)
}

/// What [`load`] makes of a configuration file with this text and no command line. It reads no other file, so UEFI
/// gets what it gets by default.
///
/// # Errors
/// As those of [`load`].
pub(crate) fn of_text(text: &str) -> Result<Config, Wrong> {
    let (file, mut raw) = File::parse(Path::new("isowire.toml"), text.to_owned())?;
    (raw.stub, raw.uefi, raw.ipxe) = (None, None, None);
    Checker { file: Some(&file), raw: &raw }.checked(&[], &|_| None)
}

struct Checker<'a> {
    file: Option<&'a File>,
    raw: &'a RawConfig,
}

impl Checker<'_> {
    fn checked(&self, iso: &[PathBuf], variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, Wrong> {
        let config = self.config(iso, variable)?;
        let RootDoors { nbd, nfs, http, .. } = config.root_doors;
        if [nbd, nfs, http, config.tftp].into_iter().all(Door::is_off) && matches!(config.dhcp, Dhcp::Off) {
            return Err(Wrong::new(
                "nothing to serve: `nbd`, `nfs`, `http`, `tftp` and `dhcp` are all off: leave one of them on"
                    .into(),
            ));
        }
        Ok(config)
    }

    fn config(&self, iso: &[PathBuf], variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, Wrong> {
        let raw = self.raw;
        let doors = self.root_doors()?;
        let menu = self.menu(&doors)?;
        let images = self.images(iso, &doors, length(&menu.parameters))?;
        let longest = images.iter().map(|image| length(&image.overrides.parameters)).max().unwrap_or(0);
        let dhcp = self.dhcp(variable)?;
        let uefi = self.uefi()?;
        Ok(Config {
            rules: self.rules(&doors, &dhcp, length(&menu.parameters) + longest)?,
            ipxe: self.ipxe(uefi)?,
            uefi,
            images,
            interface: self.read("interface", &raw.interface, value::interface)?,
            bind: self.read("bind", &raw.bind, value::address)?.unwrap_or(Ipv4Addr::UNSPECIFIED),
            allowed: self.allowed()?,
            advertise: self.read("advertise", &raw.advertise, value::host_address)?,
            root: self.root(&doors)?,
            menu,
            stub: self.stub()?,
            root_doors: doors,
            tftp: self.door("tftp", &raw.tftp, TFTP_PORT)?,
            tftp_ports: self.tftp_ports()?,
            dhcp,
            solicitations: self.solicitations()?,
            status: self.status(variable)?,
            log_format: self
                .read("log-format", &raw.log_format, value::log_format)?
                .unwrap_or(LogFormat::Text),
        })
    }

    /// The value of a setting, if it was set.
    fn read<T>(
        &self,
        key: &str,
        value: &Option<Value>,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Option<T>, Wrong> {
        let Some(value) = value else { return Ok(None) };
        parse(&value.text).map(Some).map_err(|why| self.wrong(key, value, &why))
    }

    fn read_all<T>(
        &self,
        key: &str,
        list: &Option<List>,
        parse: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Result<Vec<T>, Wrong> {
        let values = list.iter().flat_map(|list| &list.0);
        values.map(|value| parse(&value.text).map_err(|why| self.wrong(key, value, &why))).collect()
    }

    fn wrong(&self, key: &str, value: &Value, why: &str) -> Wrong {
        Wrong::new(format!("{}: `{}` {why}", self.place(key, value), value.text.escape_debug()))
    }

    fn place(&self, key: &str, value: &Value) -> String {
        raw::place(key, value, self.file)
    }

    fn allowed(&self) -> Result<Allowed, Wrong> {
        let Some(list) = &self.raw.allow else { return Ok(Allowed::default()) };
        let mut subnets: Vec<Subnet> = Vec::new();
        for value in &list.0 {
            let subnet = value::subnet(&value.text).map_err(|why| self.wrong("allow", value, &why))?;
            let overlaps = |other: &&Subnet| other.covers(subnet) || subnet.covers(**other);
            if let Some(other) = subnets.iter().find(overlaps) {
                let why = format!("shares addresses with {other}: leave out the smaller of the two");
                return Err(self.wrong("allow", value, &why));
            }
            subnets.push(subnet);
        }
        Ok(Allowed::only(subnets))
    }

    fn door(&self, key: &str, value: &Option<Value>, default: u16) -> Result<Door, Wrong> {
        let default = Door::On { port: default, asked: Asked::ByDefault };
        Ok(self.read(key, value, value::door)?.unwrap_or(default))
    }

    fn status(&self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Status, Wrong> {
        let socket = local::server_path(variable);
        Ok(match self.read("status", &self.raw.status, value::status)? {
            Some(None) => Status::Off,
            Some(address) => Status::On { socket, address },
            None => Status::On { socket, address: None },
        })
    }

    fn root_doors(&self) -> Result<RootDoors, Wrong> {
        let raw = self.raw;
        let doors = RootDoors {
            nbd: self.door("nbd", &raw.nbd, NBD_PORT)?,
            nfs: self.door("nfs", &raw.nfs, NFS_PORT)?,
            portmap: self.door("portmap", &raw.portmap, PORTMAP_PORT)?,
            http: self.door("http", &raw.http, HTTP_PORT)?,
        };
        match (&raw.portmap, doors.portmap) {
            (Some(value), Door::On { .. }) if doors.nfs.is_off() => {
                Err(self.wrong("portmap", value, "is for NFS, which is off: leave out `nfs = off`, or this"))
            }
            _ => Ok(doors),
        }
    }

    fn tftp_ports(&self) -> Result<TftpPorts, Wrong> {
        let single =
            self.read("tftp-single-port", &self.raw.tftp_single_port, value::truth)?.unwrap_or(false);
        Ok(if single { TftpPorts::Single } else { TftpPorts::Many })
    }

    fn resolve(&self, path: &str) -> PathBuf {
        self.file.map_or_else(|| PathBuf::from(path), |file| file.resolve(path))
    }

    /// The images of the command line, else those of the file.
    fn images(&self, iso: &[PathBuf], doors: &RootDoors, parameters: usize) -> Result<Vec<Place>, Wrong> {
        if !iso.is_empty() {
            let place =
                |path: &PathBuf| Place { path: path.clone(), name: None, overrides: Overrides::default() };
            return Ok(iso.iter().map(place).collect());
        }
        let images = &self.raw.image;
        let image = |image| self.image(image, doors, parameters);
        let mut places = images.iter().map(image).collect::<Result<Vec<_>, _>>()?;
        if places.is_empty() {
            return Err(Wrong::new(
                "no image to serve: name an ISO, as in `isowire serve archlinux.iso`".into(),
            ));
        }
        if let Some(default) = self.default_image(images)? {
            places[..=default].rotate_right(1);
        }
        Ok(places)
    }

    fn image(&self, raw: &RawImage, doors: &RootDoors, parameters: usize) -> Result<Place, Wrong> {
        let (path, name) = (self.resolve(&raw.path.text), self.read("name", &raw.name, value::image_name)?);
        let choices = (&raw.root, &raw.copytoram, &raw.kernel_parameters);
        Ok(Place { path, name, overrides: self.overrides(choices, doors, parameters)? })
    }

    /// Position of the one that says so of itself.
    fn default_image(&self, images: &[RawImage]) -> Result<Option<usize>, Wrong> {
        let mut default = None;
        for (position, image) in images.iter().enumerate() {
            if self.read("default", &image.default, value::truth)? != Some(true) {
                continue;
            }
            if let (Some(_), Some(value)) = (default, &image.default) {
                return Err(self.wrong("default", value, "is said of two images: leave out one of the two"));
            }
            default = Some(position);
        }
        Ok(default)
    }
}

/// Where state is kept: systemd says so, else the XDG base directory specification does.
fn state_directory(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let directory = |name| variable(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    directory("STATE_DIRECTORY")
        .or_else(|| directory("XDG_STATE_HOME").map(|state| state.join("isowire")))
        .or_else(|| directory("HOME").map(|home| home.join(".local/state/isowire")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/isowire"))
}

#[cfg(test)]
mod tests;
